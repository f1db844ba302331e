//! How long a plan takes for a layer that has been planned before, which a service does for each new shape:
//! `cargo bench --manifest-path benches/criterion/Cargo.toml --bench plans`. It is the choice among kernels and their tilings that
//! is timed; the weights are packed already.

use criterion::{Criterion, criterion_group, criterion_main};
use half::f16;
use std::time::Duration;
use warpconv::{AnyLayer, Device, Layer, LayerSpec, MemoryFormat, Parameter, PlanRequest, Shape};

/// Name, layer, input, filters where they are not 3x3 on as many channels.
const LAYERS: [(&str, &str, Shape, Option<Shape>); 13] = [
    ("dense", r#"{"op":"conv2d","attrs":{"padding":1}}"#, [8, 256, 14, 14], None),
    ("pointwise", r#"{"op":"conv2d","attrs":{}}"#, [8, 256, 56, 56], Some([64, 256, 1, 1])),
    ("grouped", r#"{"op":"conv2d","attrs":{"padding":1,"groups":32}}"#, [8, 256, 28, 28], Some([256, 8, 3, 3])),
    ("depthwise", r#"{"op":"conv2d","attrs":{"padding":1,"groups":256}}"#, [8, 256, 28, 28], Some([256, 1, 3, 3])),
    ("depthwise_7x7", r#"{"op":"conv2d","attrs":{"padding":3,"groups":96}}"#, [8, 96, 56, 56], Some([96, 1, 7, 7])),
    ("separable", r#"{"op":"depthwise_separable","attrs":{"padding":1}}"#, [8, 64, 28, 28], None),
    ("spatially_separable", r#"{"op":"spatially_separable","attrs":{"padding":1}}"#, [8, 64, 28, 28], None),
    ("transposed", r#"{"op":"conv_transpose2d","attrs":{"stride":2,"padding":1}}"#, [8, 64, 28, 28], Some([64, 64, 4, 4])),
    ("sub_pixel", r#"{"op":"sub_pixel_conv","attrs":{"padding":1,"r":2}}"#, [1, 64, 64, 64], Some([256, 64, 3, 3])),
    ("pixel_shuffle", r#"{"op":"pixel_shuffle","attrs":{"r":2}}"#, [1, 64, 64, 64], None),
    ("upsample", r#"{"op":"upsample_bilinear","attrs":{"scale":[2,2]}}"#, [1, 64, 64, 64], None),
    ("deformable", r#"{"op":"deform_conv2d","attrs":{"padding":1}}"#, [2, 64, 32, 32], None),
    ("roi_align", r#"{"op":"roi_align","attrs":{"output_size":[7,7]}}"#, [1, 256, 50, 50], None),
];

fn plans(criterion: &mut Criterion) {
    let device = Device::host().expect("the host device is always there");
    let mut group = criterion.benchmark_group("plan");
    for (name, json, x, weight) in LAYERS {
        let spec = LayerSpec::from_json(json).unwrap_or_else(|e| panic!("{name}: {e}"));
        let shapes = spec.typical_parameters(x, weight);
        let parameters = shapes.into_iter().map(|(name, shape)| {
            let values = vec![0.5f32; shape.iter().product()];
            (name.to_string(), Parameter::new(&shape, &values).expect("the lengths agree"))
        });
        let layer = AnyLayer::new(spec, parameters.collect()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let request = PlanRequest::new(x).format(MemoryFormat::ChannelsLast).rois(64);
        group.bench_function(name, |bencher| bencher.iter(|| layer.plan::<f16>(&device, &request).expect("a valid layer")));
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(1)).warm_up_time(Duration::from_millis(200));
    targets = plans
}
criterion_main!(benches);
