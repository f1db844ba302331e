//! Layers of any numbers at all: each is planned or refused, and what is planned runs.

use half::{bf16, f16};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rstest::rstest;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use warpconv::geometry::elements;
use warpconv::{
    AnyLayer, Device, Element, Inputs, Layer, LayerSpec, MemoryFormat, Parameter, PlanRequest, RoIs, Shape, Stream, Tensor, WorkspaceMemory,
};

use crate::common::checked;

use super::MAX_COUNT;

/// What a size may be.
const SIZES: [usize; 22] = [
    0,
    1,
    2,
    3,
    5,
    8,
    64,
    65_535,
    65_536,
    (1 << 23) + 1,
    1 << 24,
    (1 << 30) - 1,
    1 << 30,
    MAX_COUNT,
    MAX_COUNT + 1,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    1 << 62,
    usize::MAX - 1,
    usize::MAX,
];

/// Every op, the plain convolution more often than others.
const OPS: [&str; 21] = [
    "conv2d",
    "conv2d",
    "conv2d",
    "conv_transpose2d",
    "sub_pixel_conv",
    "focus",
    "depthwise_separable",
    "spatially_separable",
    "deform_conv2d",
    "deform_conv2d_block",
    "pixel_shuffle",
    "pixel_unshuffle",
    "upsample_bilinear",
    "max_pool2d",
    "avg_pool2d",
    "adaptive_avg_pool2d",
    "roi_align",
    "roi_pool",
    "ps_roi_pool",
    "deform_roi_pool",
    "deform_roi_pool_pack",
];

/// What a test plans.
#[derive(Debug)]
struct Drawn {
    op: &'static str,
    attrs: Value,
    shapes: Vec<(&'static str, Vec<usize>)>,
    x: Shape,
    x_format: MemoryFormat,
    request: PlanRequest,
}

/// Draws small sizes mostly, and now and then any of the others.
struct Draw(StdRng);

impl Draw {
    fn any(&mut self, small: &[usize]) -> usize {
        let from = if self.0.random_bool(0.15) { &SIZES[..] } else { small };
        *from.choose(&mut self.0).unwrap()
    }

    fn size(&mut self) -> usize {
        self.any(&[1, 2, 3, 4, 7, 8, 9, 16])
    }

    fn channels(&mut self) -> usize {
        *[1, 2, 3, 4, 8, 16, 32].choose(&mut self.0).unwrap()
    }

    fn step(&mut self) -> usize {
        self.any(&[1, 1, 1, 2, 3])
    }

    fn padding(&mut self) -> usize {
        self.any(&[0, 0, 1, 1, 2])
    }

    /// A layer with its parameters' shapes, and a request.
    fn layer(&mut self) -> Drawn {
        let (c, o) = (self.channels(), self.channels());
        let kernel = [0, 0].map(|_| *[1, 1, 2, 3, 3, 7].choose(&mut self.0).unwrap());
        let attrs = json!({
            "stride": [self.step(), self.step()],
            "padding": [self.padding(), self.padding(), self.padding(), self.padding()],
            "dilation": [self.step(), self.step()],
        });
        let x = [self.any(&[1, 1, 2, 3]), c, self.size(), self.size()];
        let groups = *[1, 1, 2, c].choose(&mut self.0).unwrap();
        let (size, mode) = ([self.size(), self.size()], *["crd", "dcr"].choose(&mut self.0).unwrap());
        let op = *OPS.choose(&mut self.0).unwrap();
        let mut drawn = Drawn { op, attrs, shapes: vec![], x, x_format: MemoryFormat::Contiguous, request: PlanRequest::new(x) };
        match op {
            "conv2d" | "conv_transpose2d" | "focus" | "deform_conv2d" | "deform_conv2d_block" | "sub_pixel_conv" => {
                self.convolution(&mut drawn, [c, o], groups, kernel);
            }
            "depthwise_separable" | "spatially_separable" => drawn.separable([c, o], groups, kernel),
            "pixel_shuffle" | "pixel_unshuffle" => {
                drawn.attrs = json!({"r": self.step(), "mode": mode});
                drawn.x[1] = self.any(&[4, 9, 12, 36]);
            }
            "max_pool2d" | "avg_pool2d" => self.windows(&mut drawn, kernel),
            "adaptive_avg_pool2d" => drawn.attrs = json!({"output_size": size}),
            "upsample_bilinear" => self.interpolation(&mut drawn, size),
            _ => self.pooling(&mut drawn, size),
        }
        let formats = [0, 0].map(|_| *MemoryFormat::ALL.choose(&mut self.0).unwrap());
        let request = PlanRequest::new(drawn.x).format(formats[0]).output_format(formats[1]).rois(self.any(&[1, 2, 5]));
        let request = request.workspace_limit(self.any(&[0, 0, 1 << 20]));
        let request = if self.0.random_bool(0.2) { request.batch_invariant() } else { request };
        Drawn { x_format: formats[0], request, ..drawn }
    }

    fn convolution(&mut self, drawn: &mut Drawn, [c, o]: [usize; 2], groups: usize, [kh, kw]: [usize; 2]) {
        let Drawn { op, attrs, shapes, x, .. } = drawn;
        attrs["groups"] = json!(if self.0.random_bool(0.05) { self.size() } else { groups });
        let outputs = (o * groups).min(64);
        let weight = match *op {
            "conv_transpose2d" => {
                attrs["output_padding"] = json!([self.padding(), self.padding()]);
                [c, o, kh, kw]
            }
            "focus" => [outputs, 4 * c / groups, kh, kw],
            _ => [outputs, (c / groups).max(1), kh, kw],
        };
        shapes.push(("weight", weight.to_vec()));
        match *op {
            "sub_pixel_conv" => attrs["r"] = json!(self.step()),
            "deform_conv2d" => attrs["offset_groups"] = json!(self.step()),
            "deform_conv2d_block" => {
                *attrs = json!({"modulated": false, "deform": attrs});
                shapes.push(("offset_weight", vec![2 * kh * kw, c, kh, kw]));
            }
            "focus" => (x[2], x[3]) = (x[2].saturating_mul(2), x[3].saturating_mul(2)),
            _ => {}
        }
    }

    fn windows(&mut self, drawn: &mut Drawn, [kh, kw]: [usize; 2]) {
        drawn.attrs = json!({
            "kernel_size": [kh, kw],
            "stride": [self.step(), self.step()],
            "padding": [self.padding().min(kh / 2), self.padding().min(kw / 2)],
            "ceil_mode": self.0.random_bool(0.5),
        });
        match drawn.op {
            // A dilated window may be beside the image, and then is no zero.
            "max_pool2d" if self.0.random_bool(0.5) => {
                drawn.attrs["padding"] = json!(0);
                drawn.attrs["dilation"] = json!([self.step(), self.step()]);
            }
            "max_pool2d" => {}
            _ => drawn.attrs["divisor_override"] = json!(self.0.random_bool(0.2).then(|| self.size())),
        }
    }

    fn interpolation(&mut self, drawn: &mut Drawn, output_size: [usize; 2]) {
        let corners = self.0.random_bool(0.5);
        let scale = *[0.3, 1.0, 2.0, 2.5, 1e-300, 1e9, 1e300, -1.0].choose(&mut self.0).unwrap();
        drawn.attrs = if self.0.random_bool(0.5) {
            json!({"output_size": output_size, "align_corners": corners})
        } else {
            json!({"scale": [scale, 2.0], "align_corners": corners})
        };
    }

    fn pooling(&mut self, drawn: &mut Drawn, output_size: [usize; 2]) {
        let Drawn { op, attrs, shapes, x, .. } = drawn;
        *attrs = json!({"output_size": output_size, "spatial_scale": *[1.0, 0.0625, 1e-38, 1e38].choose(&mut self.0).unwrap()});
        if *op == "roi_align" || op.starts_with("deform") {
            attrs["sampling_ratio"] = json!(*[-1, 0, 2, 4096, 4097, i32::MAX].choose(&mut self.0).unwrap());
        }
        if op.starts_with("deform") {
            attrs["offset_groups"] = json!(self.step());
        }
        x[1] = self.any(&[1, 4, 8, 36]);
        if *op == "deform_roi_pool_pack" {
            let bins = output_size[0].saturating_mul(output_size[1]).min(64);
            shapes.push(("offset_fc1_weight", vec![2 * bins, bins.saturating_mul(x[1].min(64))]));
        }
    }
}

impl Drawn {
    /// A separable layer, which draws nothing more.
    fn separable(&mut self, [c, o]: [usize; 2], groups: usize, [kh, kw]: [usize; 2]) {
        match self.op {
            "depthwise_separable" => self.shapes.extend([("dw_weight", vec![c, 1, kh, kw]), ("pw_weight", vec![o, c, 1, 1])]),
            _ if groups == c => {
                self.attrs["groups"] = json!(c);
                self.shapes.extend([("col_weight", vec![c, 1, kh, 1]), ("row_weight", vec![c, 1, 1, kw])]);
            }
            _ => self.shapes.extend([("col_weight", vec![o, c, kh, 1]), ("row_weight", vec![o, o, 1, kw])]),
        }
    }

    /// Plans with the chosen kernel and with each that applies, and runs those of small tensors under the checker: how many.
    fn attempt<T: Element>(&self, device: &Device) -> usize {
        let Ok(spec) = LayerSpec::from_json(&json!({"op": self.op, "attrs": self.attrs}).to_string()) else { return 0 };
        let mut parameters = BTreeMap::new();
        for (name, shape) in &self.shapes {
            let count = elements(shape).unwrap();
            parameters.insert(name.to_string(), Parameter::new(shape, &vec![0.25f32; count]).unwrap());
        }
        let Ok(layer) = AnyLayer::new(spec, parameters) else { return 0 };
        let output = layer.output_shape(&self.request);
        let Ok(plan) = layer.plan::<T>(device, &self.request) else { return 0 };
        assert_eq!(output.unwrap(), plan.output_shape());
        let mut ran = usize::from(self.run(&spec, &plan, device));
        for choice in plan.explain().choices.iter().filter(|choice| choice.verdict.is_ok()) {
            if let Ok(plan) = layer.plan::<T>(device, &self.request.clone().kernel(choice.kernel)) {
                ran += usize::from(self.run(&spec, &plan, device));
            }
        }
        ran
    }

    /// Whether a plan's tensors are small enough; it then ran.
    fn run<T: Element>(&self, spec: &LayerSpec, plan: &warpconv::Plan<T>, device: &Device) -> bool {
        let (x, y) = (self.x, plan.output_shape());
        let small = |shape: Shape| elements(&shape.map(|size| size.max(1))).is_ok_and(|count| count <= 2048);
        let inputs = spec.signature().inputs;
        // millions of samples a bin are right, and take their time
        if self.attrs["sampling_ratio"].as_i64().is_some_and(|ratio| ratio > 64) {
            return false;
        }
        if !small(x) || !small(y) || inputs.contains(&"offset") && self.op == "deform_conv2d" || plan.workspace_bytes() > 1 << 20 {
            return false;
        }
        let input = Tensor::<T>::zeros(device, x, self.x_format).unwrap();
        let mut output = Tensor::<T>::zeros(device, y, plan.output_format()).unwrap();
        let rois = RoIs::from_slice(device, x[0], &vec![[0.0, 0.0, 0.0, 2.0, 2.0]; if x[0] > 0 { y[0] } else { 0 }]).unwrap();
        let inputs = if inputs.contains(&"rois") { Inputs::new(&input).rois(&rois) } else { Inputs::new(&input) };
        if x[0] == 0 && y[0] > 0 {
            return false;
        }
        let mut memory = WorkspaceMemory::new(device, plan.workspace_bytes()).unwrap();
        plan.run(&inputs, &mut output, memory.workspace(), &Stream::default_of(device)).unwrap();
        assert!(output.to_vec().unwrap().iter().all(|v| v.to_f32() == 0.0));
        true
    }
}

/// Specs of any numbers at all: each is planned or refused, and what is planned runs. This is a build with overflow checks.
#[rstest]
fn any_spec_is_planned_or_refused(#[values(1, 2, 3)] seed: u64) {
    let device = checked(1);
    let mut draw = Draw(StdRng::seed_from_u64(seed));
    let mut ran = 0;
    for _ in 0..240 {
        let (drawn, dtype) = (draw.layer(), draw.0.random_range(0..3));
        let outcome = catch_unwind(AssertUnwindSafe(|| match dtype {
            0 => drawn.attempt::<f32>(&device),
            1 => drawn.attempt::<f16>(&device),
            _ => drawn.attempt::<bf16>(&device),
        }));
        ran += outcome.unwrap_or_else(|_| panic!("{drawn:?}"));
    }
    assert!(ran > 100, "{ran}");
}
