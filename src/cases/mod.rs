//! Random problems that are hard on kernels. Each has a label that says what makes it hard.
//! `warpconv verify` and the crate's tests draw from the same table, and so can users who test
//! backends of their own.

mod conv2d;
mod conv_transpose2d;
mod deform_conv2d;
mod frame;
mod pixel;
mod pool;
mod roi;
mod separable;
mod smaller;

pub use frame::Frame;
pub(crate) use frame::Part;
use smaller::SMALLER;

use crate::analysis::{LayerReport, Operands, analyse};
use crate::geometry::{DeformGeometry, elements, rank4};
use crate::layers::{Conv2dSpec, ConvTranspose2dSpec, LayerSpec, PlanRequest, unexpected};
use crate::reference::Array;
use crate::text::listed;
use crate::{DType, Error, Result, RoIs, Shape};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What values the tensors of a [`Problem`] hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Values {
    /// Multiples k/64 with |k| <= 64. Sums are exact in f32, so linear layers can be compared bit
    /// for bit.
    Exact,
    /// Uniform in [-1, 1), with every bit of the mantissa in use.
    FullMantissa,
    /// Mostly as `FullMantissa`, with NaN, infinities, signed zeros and subnormals of every dtype
    /// scattered over the inputs. The layer's own parameters stay finite, so that every kernel
    /// applies.
    Special,
    /// As `FullMantissa`, with the same special values scattered over the weights.
    SpecialWeights,
}

/// One layer on one input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Problem {
    /// The label: the name of a [`Kind`].
    pub kind: String,
    /// The layer's op and attributes.
    pub layer: LayerSpec,
    /// The shape of x, of each parameter and of each other input, by the names of
    /// [`LayerSpec::signature`].
    pub shapes: BTreeMap<String, Vec<usize>>,
    /// What the tensors hold.
    pub values: Values,
    /// Channels before and behind the input, in the wider tensor of which the input is a slice.
    pub x_margin: [usize; 2],
    /// Channels before and behind the output, in the wider tensor of which the output is a slice.
    pub y_margin: [usize; 2],
    /// Images, rows and columns before and behind the input in the tensor that it is a part of.
    #[serde(default)]
    pub x_frame: [[usize; 2]; 3],
    /// Images, rows and columns before and behind the output in the tensor that it is a part of.
    #[serde(default)]
    pub y_frame: [[usize; 2]; 3],
    /// The seed of the values.
    pub seed: u64,
}

/// A kind of problem of one op.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// The op that is tested.
    pub op: &'static str,
    /// The label.
    pub name: &'static str,
    /// What the problem is hard on.
    pub why: &'static str,
    make: Make,
}

/// How a random problem of a kind is made. There is a variant for each op; the rest is in the op's
/// module.
#[derive(Debug, Clone, Copy)]
enum Make {
    Conv2d(conv2d::Change),
    ConvTranspose2d(conv_transpose2d::Change),
    Pixel(pixel::MakeProblem),
    DepthwiseSeparable(conv2d::Change),
    SpatiallySeparable(conv2d::Change),
    DeformConv2d(deform_conv2d::Change),
    Roi(roi::Op, roi::Change),
}

/// Every kind from which random problems are drawn, op by op.
pub fn kinds() -> impl Iterator<Item = Kind> {
    let conv = conv2d::kinds().chain(conv_transpose2d::kinds()).chain(deform_conv2d::kinds());
    conv.chain(separable::kinds()).chain(pixel::kinds()).chain(pool::kinds()).chain(roi::kinds())
}

/// The index at place `index` of an order that visits each of `count` indices once in a round, with
/// neighbours far apart. The step is about the golden section of `count`.
fn interleaved(count: usize, index: u64) -> usize {
    let coprime =
        |step: usize| std::iter::successors(Some((count, step)), |&(a, b)| (b > 0).then(|| (b, a % b))).last().is_some_and(|(a, _)| a == 1);
    let step = (count * 618 / 1000..count).find(|&step| coprime(step)).unwrap_or(1);
    (index % count as u64 * step as u64 % count as u64) as usize
}

fn pick(rng: &mut StdRng, from: &[usize]) -> usize {
    *from.choose(rng).expect("a table is not empty")
}

impl Problem {
    /// Problem `index` of the sequence that `seed` gives. The kinds take turns, in an order in
    /// which the first few problems are of different ops.
    pub fn random(seed: u64, index: u64) -> Self {
        let kinds: Vec<Kind> = kinds().collect();
        Self::of_kinds(&kinds, seed, index)
    }

    /// Problem `index` of a sequence that draws from these kinds only.
    ///
    /// # Panics
    /// If `kinds` is empty.
    pub fn of_kinds(kinds: &[Kind], seed: u64, index: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ index);
        let kind = &kinds[interleaved(kinds.len(), index)];
        let problem = match kind.make {
            Make::Conv2d(change) => conv2d::problem(kind.name, change, &mut rng),
            Make::ConvTranspose2d(change) => conv_transpose2d::problem(kind.name, change, &mut rng),
            Make::Pixel(make) => Problem { kind: kind.name.into(), ..make(&mut rng) },
            Make::DepthwiseSeparable(change) => separable::depthwise(conv2d::problem(kind.name, change, &mut rng), &mut rng),
            Make::SpatiallySeparable(change) => separable::spatially(conv2d::problem(kind.name, change, &mut rng), &mut rng),
            Make::DeformConv2d(change) => deform_conv2d::problem(kind.name, change, &mut rng),
            Make::Roi(op, change) => roi::problem(op, kind.name, change, &mut rng),
        };
        // some of the slices are crops of larger pictures, too
        if problem.is_packed() || rng.random_bool(0.4) { problem } else { problem.framed(&mut rng) }
    }

    /// With pictures and images around input and output: at any distance of rows, or at multiples
    /// of 16 bytes.
    fn framed(self, rng: &mut StdRng) -> Self {
        let aligned = rng.random_bool(0.5);
        let mut frame = |shape: Result<Shape>| {
            let width = shape.map_or(0, |[.., width]| width);
            let columns = if aligned {
                let before = pick(rng, &[0, 8, 16]);
                [before, (before + width).next_multiple_of(8) - before - width + pick(rng, &[0, 8])]
            } else {
                [rng.random_range(0..6), rng.random_range(0..6)]
            };
            [[rng.random_range(0..3), rng.random_range(0..3)], [rng.random_range(0..4), rng.random_range(0..4)], columns]
        };
        let (x_frame, y_frame) = (frame(self.x()), frame(self.output_shape()));
        Self { x_frame, y_frame, ..self }
    }

    /// Whether input and output are whole tensors.
    pub fn is_packed(&self) -> bool {
        (self.x_margin, self.y_margin, self.x_frame, self.y_frame) == ([0; 2], [0; 2], [[0; 2]; 3], [[0; 2]; 3])
    }

    /// What lies around input and output in the tensors that they are parts of.
    pub fn frames(&self) -> [Frame; 2] {
        let frame = |channels, [images, rows, columns]: [[usize; 2]; 3]| Frame { images, channels, rows, columns };
        [frame(self.x_margin, self.x_frame), frame(self.y_margin, self.y_frame)]
    }

    /// A problem of exact values, without margins. `shapes` are those of x and of the parameters;
    /// [`Problem::with_residual`] adds a tensor whose shape depends on the output.
    pub fn new(layer: LayerSpec, shapes: &[(&str, &[usize])]) -> Self {
        let shapes = shapes.iter().map(|(name, shape)| (name.to_string(), shape.to_vec())).collect();
        Self {
            kind: "plain".into(),
            layer,
            shapes,
            values: Values::Exact,
            x_margin: [0; 2],
            y_margin: [0; 2],
            x_frame: [[0; 2]; 3],
            y_frame: [[0; 2]; 3],
            seed: 5,
        }
    }

    /// A problem of a convolution. Otherwise as [`Problem::new`].
    pub fn conv2d(spec: Conv2dSpec, x: Shape, weight: Shape) -> Self {
        Self::convolution(LayerSpec::Conv2d(spec), x, weight, spec.activation, weight[0])
    }

    /// A problem of a transposed convolution. Otherwise as [`Problem::new`].
    pub fn conv_transpose2d(spec: ConvTranspose2dSpec, x: Shape, weight: Shape) -> Self {
        Self::convolution(LayerSpec::ConvTranspose2d(spec), x, weight, spec.activation, weight[1] * spec.groups)
    }

    fn convolution(layer: LayerSpec, x: Shape, weight: Shape, activation: crate::Activation, c_out: usize) -> Self {
        let slope = [c_out];
        let mut shapes: Vec<(&str, &[usize])> = vec![("x", &x), ("weight", &weight)];
        if activation == crate::Activation::Prelu {
            shapes.push(("slope", &slope));
        }
        Self::new(layer, &shapes)
    }

    /// The problem with a tensor of this name and shape, or without that tensor.
    pub fn with(mut self, name: &str, shape: Option<&[usize]>) -> Self {
        match shape {
            Some(shape) => self.shapes.insert(name.into(), shape.to_vec()),
            None => self.shapes.remove(name),
        };
        self
    }

    /// The problem with a residual, if that is wished and there is an output.
    pub fn with_residual(self, residual: bool) -> Self {
        let output = self.output_shape().ok().filter(|_| residual);
        self.with("residual", output.as_ref().map(|shape| &shape[..]))
    }

    /// The problem of a convolution made deformable: with offsets, and with a mask if that is
    /// wished.
    pub fn deformable(self, offset_groups: usize, mask: bool) -> Self {
        deform_conv2d::deformable(self, offset_groups, mask)
    }

    /// The shape of a tensor. Empty if there is no such tensor.
    pub fn shape(&self, name: &str) -> &[usize] {
        self.shapes.get(name).map_or(&[], Vec::as_slice)
    }

    /// The shape of x.
    ///
    /// # Errors
    /// [`Error::Rank`].
    pub fn x(&self) -> Result<Shape> {
        rank4("x", self.shape("x"))
    }

    /// The request for a plan for this problem.
    pub(crate) fn request(&self) -> Result<PlanRequest> {
        let request = PlanRequest::new(self.x()?);
        Ok(match self.shapes.get("rois") {
            Some(shape) => request.rois(shape.first().copied().unwrap_or_default()),
            None => request,
        })
    }

    /// The shape of the output.
    ///
    /// # Errors
    /// When the parts of the problem do not fit one another.
    pub fn output_shape(&self) -> Result<Shape> {
        let rois = self.shapes.get("rois").is_some_and(|shape| shape.first().is_some_and(|&rois| rois > 0));
        if rois && self.x()?[0] == 0 {
            return Err(Error::Shape {
                name: "rois",
                shape: self.shape("rois").to_vec(),
                expected: "no RoIs, as there are no images".into(),
            });
        }
        let parameters = self.layer.signature().parameters;
        let named = self.shapes.iter().filter(|(name, _)| parameters.contains(&name.as_str()));
        self.layer.outline(named.map(|(name, shape)| (name.as_str(), shape.clone())))?.output_shape(&self.request()?)
    }

    /// The cost of the layer in a dtype. Its bytes include those around x and y in the tensors that
    /// they are parts of, since a check fills them and reads them back.
    ///
    /// # Errors
    /// As [`analyse`].
    pub fn cost(&self, dtype: DType) -> Result<LayerReport> {
        let parameters = self.layer.signature().parameters;
        let named = parameters.iter().filter_map(|&name| Some((name, self.shapes.get(name)?.clone())));
        let has = |name| self.shapes.contains_key(name);
        let operands = Operands::new(dtype).residual(has("residual")).mask(has("mask"));
        let mut report = analyse(&self.layer, &named.collect::<Vec<_>>(), &self.request()?, operands)?;
        let [x_frame, y_frame] = self.frames();
        let around = |what, shape: Shape, frame: Frame| {
            let more = elements(&frame.around(what, shape)?)?.saturating_sub(elements(&shape)?);
            Ok::<_, Error>((more as u64).saturating_mul(dtype.bytes() as u64))
        };
        let read = around("x with its margins", self.x()?, x_frame)?;
        let written = around("y with its margins", self.output_shape()?, y_frame)?;
        report.bytes.read = report.bytes.read.saturating_add(read);
        report.bytes.written = report.bytes.written.saturating_add(written);
        Ok(report)
    }

    /// Checks that the tensors are those of the layer and fit one another, and that the wider
    /// tensors around input and output can exist. Returns the shape of the output. The shapes of a
    /// problem that passes have the dimensions that the layer's documentation states.
    ///
    /// # Errors
    /// [`Error::UnexpectedTensor`] or [`Error::MissingTensor`] for names that are not those of [`LayerSpec::signature`];
    /// [`Error::Rank`], [`Error::Shape`] and what the layer refuses; [`Error::Overflow`] for margins beyond 2^63 elements.
    pub fn check(&self) -> Result<Shape> {
        let (op, signature) = (self.layer.op(), self.layer.signature());
        let known = || signature.parameters.iter().chain(signature.inputs).copied();
        if let Some(name) = self.shapes.keys().find(|name| !known().any(|known| known == name.as_str())) {
            return Err(unexpected(op, name, &known().collect::<Vec<_>>()));
        }
        let given = |name: &str| self.shapes.contains_key(name);
        // offsets move the taps of a deformable convolution, which is none without them; a
        // deformable pooling may have none
        let needs_offset = matches!(self.layer, LayerSpec::DeformConv2d(_));
        let needed = signature.inputs.iter().filter(|name| ["x", "rois"].contains(name) || **name == "offset" && needs_offset);
        if let Some(name) = needed.copied().find(|name| !given(name)) {
            let available = format!(" (there are: {})", listed(self.shapes.keys().map(String::as_str)));
            return Err(Error::MissingTensor { op, name: name.into(), available });
        }
        for (name, shape) in &self.shapes {
            elements(shape)?;
            if name == "rois" {
                RoIs::check_shape(shape)?;
            }
        }
        let x = self.x()?;
        let output = self.output_shape()?;
        for (name, expected) in self.input_shapes(output)? {
            if self.shapes.get(name).is_some_and(|shape| shape[..] != expected) {
                return Err(Error::Shape { name, shape: self.shape(name).to_vec(), expected: format!("shape {expected:?}") });
            }
        }
        let [x_frame, y_frame] = self.frames();
        for (what, shape, frame) in [("x with its margins", x, x_frame), ("y with its margins", output, y_frame)] {
            elements(&frame.around(what, shape)?)?;
        }
        Ok(output)
    }

    /// The shapes of the inputs that depend on the output's shape.
    fn input_shapes(&self, output: Shape) -> Result<Vec<(&'static str, Shape)>> {
        let regions = |pooling: crate::layers::Pooling| {
            let geometry = pooling.geometry(&self.request()?)?;
            Ok(vec![("offset", geometry.offset_shape()), ("mask", geometry.mask_shape())])
        };
        match self.layer {
            LayerSpec::DeformConv2d(spec) => {
                let geometry = DeformGeometry::new(&spec, self.x()?, rank4("weight", self.shape("weight"))?)?;
                Ok(vec![("residual", output), ("offset", geometry.offset), ("mask", geometry.mask)])
            }
            LayerSpec::DeformRoiPool(spec) => regions(spec.pooling()),
            LayerSpec::Conv2d(_)
            | LayerSpec::ConvTranspose2d(_)
            | LayerSpec::SubPixelConv2d(_)
            | LayerSpec::Focus(_)
            | LayerSpec::DepthwiseSeparableConv2d(_)
            | LayerSpec::SpatiallySeparableConv2d(_)
            | LayerSpec::DeformConv2dBlock(_) => Ok(vec![("residual", output)]),
            LayerSpec::PixelShuffle(_)
            | LayerSpec::PixelUnshuffle(_)
            | LayerSpec::UpsampleBilinear(_)
            | LayerSpec::MaxPool2d(_)
            | LayerSpec::AvgPool2d(_)
            | LayerSpec::AdaptiveAvgPool2d(_)
            | LayerSpec::RoiAlign(_)
            | LayerSpec::RoiPool(_)
            | LayerSpec::PsRoiPool(_)
            | LayerSpec::DeformRoiPoolPack(_) => Ok(vec![]),
        }
    }

    /// The tensors by name, rounded to what kernels of a dtype read. Vectors (biases and slopes)
    /// and RoIs are f32 in every dtype.
    ///
    /// # Errors
    /// When the parts of the problem do not fit one another.
    pub fn tensors(&self, dtype: DType) -> Result<BTreeMap<String, Array>> {
        let known = self.layer.signature();
        let array = |(name, shape): (&String, &Vec<usize>)| {
            if !known.parameters.contains(&name.as_str()) && !known.inputs.contains(&name.as_str()) {
                let known: Vec<&str> = known.parameters.iter().chain(known.inputs).copied().collect();
                return Err(Error::UnexpectedTensor { op: self.layer.op(), name: name.clone(), known: known.join(", ") });
            }
            if name == "rois" {
                RoIs::check_shape(shape)?;
            }
            let dtype = if shape.len() == 4 { dtype } else { DType::F32 };
            Ok((name.clone(), Array::from_slice(shape.clone(), &self.values(name, elements(shape)?, dtype)?)?))
        };
        self.shapes.iter().map(array).collect()
    }

    /// `count` values for the tensor of this name, as f32 that `dtype` represents exactly.
    fn values(&self, tensor: &str, count: usize, dtype: DType) -> Result<Vec<f32>> {
        let stream = tensor.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        let mut rng = StdRng::seed_from_u64(self.seed ^ stream);
        if tensor == "rois" {
            return roi::rois(self, &mut rng, count / 5);
        }
        let subnormal = dtype.smallest_subnormal() as f32;
        let special = [0.0, -0.0, subnormal, -subnormal, 3.0 * subnormal, f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
        let (finite, is_input) = (&special[..5], self.layer.signature().inputs.contains(&tensor));
        let special = match self.values {
            Values::Special => Some(if is_input { &special[..] } else { finite }),
            Values::SpecialWeights if tensor.ends_with("weight") => Some(&special[..]),
            _ => None,
        };
        let value = |rng: &mut StdRng| match special {
            _ if self.values == Values::Exact => rng.random_range(-64i32..=64) as f32 / 64.0,
            Some(special) if rng.random_bool(0.03) => *special.choose(rng).expect("not empty"),
            _ => rng.random_range(-1.0f32..1.0),
        };
        // Offsets are up to several pixels.
        let reach = if tensor == "offset" { 4.0 } else { 1.0 };
        crate::memory::collect((0..count).map(|_| dtype.round(f64::from(value(&mut rng)) * reach) as f32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_valid_and_small_and_its_own_json() {
        for index in 0..2000 {
            let problem = Problem::random(3, index);
            let parameters = problem.layer.signature().parameters;
            let named = parameters.iter().filter_map(|&name| Some((name, problem.shapes.get(name)?.clone())));
            let named: Vec<_> = named.collect();
            let report = analyse(&problem.layer, &named, &problem.request().unwrap(), Operands::new(DType::F32));
            let report = report.unwrap_or_else(|e| panic!("{problem:?}: {e}"));
            assert!(report.operations.macs < 40_000_000, "{problem:?}");
            assert_eq!(problem, Problem::random(3, index));
            let json = serde_json::to_string(&problem).unwrap();
            assert_eq!(serde_json::from_str::<Problem>(&json).unwrap(), problem, "{json}");
        }
    }

    #[test]
    fn problems_whose_tensors_do_not_fit_are_refused() {
        let text = r#"{"kind": "k", "layer": {"op": "conv2d", "attrs": {}}, "shapes": {"x": [1, 2, 3, 3], "weight": [4, 2, 1, 1]},
            "values": "exact", "x_margin": [0, 0], "y_margin": [0, 0], "seed": 0}"#;
        let problem: Problem = serde_json::from_str(text).unwrap();
        assert_eq!(problem.check().unwrap(), [1, 4, 3, 3]);
        let refused = |problem: &Problem| problem.check().unwrap_err().to_string();
        let without = |name: &str| refused(&problem.clone().with(name, None));
        let with = |name: &str, shape: &[usize]| refused(&problem.clone().with(name, Some(shape)));
        assert_eq!(with("biass", &[4]), "conv2d has no biass; it takes weight, bias, slope, x, residual; did you mean `bias`?");
        assert_eq!(without("x"), "conv2d needs x, which was not given (there are: weight)");
        assert_eq!(with("residual", &[]), "residual has shape [], but must have shape [1, 4, 3, 3]");
        assert_eq!(with("residual", &[1, 4, 3, 2]), "residual has shape [1, 4, 3, 2], but must have shape [1, 4, 3, 3]");
        for (x_margin, y_margin) in [([usize::MAX, 0], [0; 2]), ([0; 2], [1, usize::MAX - 2]), ([0, 1 << 60], [0; 2])] {
            let error = Problem { x_margin, y_margin, ..problem.clone() }.check().unwrap_err();
            assert!(matches!(error, Error::Overflow { .. }), "{error}");
        }
        // What lies around x and y is work, too: 3 channels of x; 7 channels and 2 images of y.
        let wide = Problem { x_margin: [3, 0], y_margin: [0, 7], y_frame: [[2, 0], [0, 0], [0, 0]], ..problem.clone() };
        let [bytes, more] = [&problem, &wide].map(|problem| problem.cost(DType::F16).unwrap().bytes);
        let shape = problem.shape("x");
        assert_eq!(more.read - bytes.read, 2 * (3 * shape[0] * shape[2] * shape[3]) as u64);
        assert_eq!(more.written - bytes.written, 2 * (3 * 11 - 4) * 9);
        let layer = LayerSpec::from_json(r#"{"op": "roi_align", "attrs": {"output_size": 2}}"#).unwrap();
        let pooled = Problem::new(layer, &[("x", &[1, 2, 4, 4]), ("rois", &[3, 5])]);
        assert_eq!(pooled.check().unwrap(), [3, 2, 2, 2]);
        assert!(refused(&pooled.clone().with("rois", Some(&[]))).starts_with("rois has shape [] (rank 0), but must have rank 2"));
        assert!(refused(&pooled.clone().with("rois", Some(&[3, 4]))).contains("shape [K, 5]"));
        assert_eq!(refused(&pooled.with("rois", None)), "roi_align needs rois, which was not given (there are: x)");
        let layer = LayerSpec::from_json(r#"{"op": "deform_conv2d"}"#).unwrap();
        let deformed = Problem::new(layer, &[("x", &[1, 2, 4, 4]), ("weight", &[4, 2, 1, 1]), ("offset", &[])]);
        assert_eq!(refused(&deformed), "offset has shape [], but must have shape [1, 2, 4, 4]");
        for index in 0..200 {
            Problem::random(9, index).check().unwrap();
        }
    }

    #[test]
    fn shrinking_ends() {
        let convolutions: Vec<Kind> = kinds().filter(|kind| kind.op == "conv2d").collect();
        let mut problem = Problem::of_kinds(&convolutions, 1, 13);
        let mut steps = 0;
        while let Some(next) = problem.simpler().into_iter().next() {
            problem = next;
            steps += 1;
            assert!(steps < 1000, "{problem:?}");
        }
        assert_eq!((problem.shape("x"), problem.shape("weight")), (&[0, 1, 1, 1][..], &[1, 1, 1, 1][..]));
    }

    #[test]
    fn special_values_are_there_in_every_dtype() {
        let mut problem = Problem::random(1, 0);
        problem.values = Values::Special;
        for dtype in DType::ALL {
            let values = problem.values("x", 4000, dtype).unwrap();
            assert!(values.iter().any(|v| v.is_nan()) && values.iter().any(|v| v.is_infinite()));
            assert!(values.iter().any(|&v| f64::from(v) == dtype.smallest_subnormal()));
            assert!(problem.values("weight", 4000, dtype).unwrap().iter().all(|v| v.is_finite()));
            assert!(values.iter().all(|&v| v.is_nan() || dtype.round(v.into()) == f64::from(v)));
        }
        problem.values = Values::SpecialWeights;
        let values = |tensor| problem.values(tensor, 4000, DType::F16).unwrap();
        assert!(values("weight").iter().any(|v| v.is_nan()) && values("weight").contains(&f32::INFINITY));
        assert!(["x", "bias"].into_iter().flat_map(values).all(|v| v.is_finite() && v != 0.0));
    }
}
