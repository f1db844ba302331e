//! The rows of the suite, as in benches/suite.json.

use crate::cases::Problem;
use crate::error::{Error, Result};
use crate::geometry::elements;
use crate::layers::{LayerSpec, PlanRequest};
use crate::text::parse_json;
use crate::{DType, MemoryFormat, Shape};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::ops::Deref;

/// Layers of real networks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// The version of the file's format: 1.
    pub format: u32,
    /// The layers.
    pub rows: Vec<Row>,
}

/// A layer of a real network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// `network/layer`, unique.
    pub name: String,
    /// The network, with the size of its input if that matters.
    pub network: String,
    /// The group of rows over which geometric means are taken.
    pub family: String,
    /// Whether the short run includes the row.
    pub set: Set,
    /// Why the row is in the suite.
    pub why: String,
    /// The op. This build may not know it.
    pub op: String,
    /// The attributes as in a layer's JSON, without the tail.
    #[serde(default)]
    pub attrs: Map<String, Value>,
    /// The shapes of x, of the parameters and of the other inputs, without the tail.
    pub tensors: BTreeMap<String, Vec<Size>>,
    /// The format of x if it differs from the output's, as in a conversion of format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x_format: Option<MemoryFormat>,
    /// The batch sizes at which the row runs.
    #[serde(default = "batches")]
    pub batches: Vec<usize>,
    /// Whether the row also runs in f16 contiguous, bf16 and f32, at its main batch.
    #[serde(default)]
    pub all_dtypes: bool,
    /// What follows the layer in the network. The row also runs with it, at the main batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<Tail>,
    /// The series to which the row belongs: rows that differ in one size, for a plot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub series: Option<Series>,
}

/// Which benchmark runs include a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Set {
    /// Every run.
    Core,
    /// Full runs only.
    Extended,
}

/// A size of a shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub enum Size {
    /// The batch: "N" in JSON.
    Batch,
    /// A number.
    Is(usize),
}

impl TryFrom<Value> for Size {
    type Error = String;
    fn try_from(value: Value) -> Result<Self, String> {
        match (value.as_str(), value.as_u64()) {
            (Some("N"), _) => Ok(Size::Batch),
            (_, Some(size)) => usize::try_from(size).map(Size::Is).map_err(|e| e.to_string()),
            _ => Err(format!("a size is a number or \"N\", not {value}")),
        }
    }
}

impl From<Size> for Value {
    fn from(size: Size) -> Value {
        match size {
            Size::Batch => "N".into(),
            Size::Is(size) => size.into(),
        }
    }
}

/// The part of a network behind a layer that a kernel can compute in its store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tail {
    /// Additional attributes: the activation.
    pub attrs: Map<String, Value>,
    /// Additional tensors: bias and residual.
    pub tensors: BTreeMap<String, Vec<Size>>,
}

/// The place of a row in a series of rows that differ in one size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Series {
    /// The name of the series.
    pub name: String,
    /// The size in which the rows differ.
    pub axis: String,
    /// That size in this row.
    pub value: f64,
}

fn batches() -> Vec<usize> {
    vec![1, 8, 32]
}

/// The batch at which tails and other dtypes are measured, if the row has it.
const MAIN_BATCH: usize = 8;

impl Suite {
    /// The suite in this version of the crate, benches/suite.json.
    ///
    /// # Errors
    /// None in a released version.
    pub fn built_in() -> Result<Self> {
        Self::parse("benches/suite.json", include_str!("../../benches/suite.json"))
    }

    /// Reads a suite from JSON. `source` is its name in errors.
    ///
    /// # Errors
    /// [`Error::Parse`] for malformed JSON, unknown keys, another format, a name that occurs twice.
    pub fn parse(source: &str, text: &str) -> Result<Self> {
        let fail = |message: String| Error::Parse { source_name: source.into(), message };
        let suite: Suite = parse_json(source, text)?;
        if suite.format != 1 {
            return Err(fail(format!("format {} is none that this version knows", suite.format)));
        }
        let mut names: Vec<&str> = suite.rows.iter().map(|row| row.name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(fail(format!("two rows have the name {:?}", twice[0])));
        }
        if let Some(row) = suite.rows.iter().find(|row| row.batches.is_empty() || row.batches.contains(&0)) {
            return Err(fail(format!("{:?} has no batch, or an empty one", row.name)));
        }
        Ok(suite)
    }

    /// Every configuration of every row. The most informative come first, so that a run that is cut
    /// short has those: f16 channels_last without a tail at the main batch, then at the other
    /// batches, then with the tail, then the other dtypes and formats.
    pub fn configurations(&self) -> Vec<Configuration<'_>> {
        let mut all: Vec<Configuration<'_>> = self.rows.iter().flat_map(Row::configurations).collect();
        all.sort_by_key(Configuration::phase); // stable: within a phase, the order of the file
        all
    }
}

impl Row {
    /// The batch at which the tail and other dtypes run.
    pub fn main_batch(&self) -> usize {
        let last = self.batches.last().copied().unwrap_or(1);
        if self.batches.contains(&MAIN_BATCH) { MAIN_BATCH } else { last }
    }

    /// Whether this build knows the op.
    pub fn is_known(&self) -> bool {
        LayerSpec::OPS.contains(&self.op.as_str())
    }

    fn configurations(&self) -> Vec<Configuration<'_>> {
        let plain = |batch| Configuration { row: self, batch, dtype: DType::F16, format: MemoryFormat::ChannelsLast, tail: false };
        let main = plain(self.main_batch());
        let mut all: Vec<_> = self.batches.iter().map(|&batch| plain(batch)).collect();
        if self.tail.is_some() {
            all.push(Configuration { tail: true, ..main });
        }
        if self.all_dtypes {
            all.push(Configuration { format: MemoryFormat::Contiguous, ..main });
            all.push(Configuration { dtype: DType::Bf16, ..main });
            all.push(Configuration { dtype: DType::F32, ..main });
        }
        all
    }
}

/// A row at one batch size in one dtype and format, with or without its tail.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Configuration<'a> {
    /// The row.
    pub row: &'a Row,
    /// The number of images.
    pub batch: usize,
    /// The dtype.
    pub dtype: DType,
    /// The format of the output, and of all inputs except x if the row has an `x_format`.
    pub format: MemoryFormat,
    /// Whether the tail is included.
    pub tail: bool,
}

impl Configuration<'_> {
    /// The key by which results are compared: `row bN dtype format`, followed by `tail` if it is
    /// included.
    pub fn id(&self) -> String {
        let tail = if self.tail { " tail" } else { "" };
        format!("{} b{} {} {}{tail}", self.row.name, self.batch, self.dtype, self.format)
    }

    /// The format of x, and that of all other tensors.
    pub fn formats(&self) -> [MemoryFormat; 2] {
        [self.row.x_format.unwrap_or(self.format), self.format]
    }

    /// The request for a plan for `problem`, which is this configuration's problem or a smaller
    /// one.
    pub(super) fn request(&self, problem: &Problem) -> Result<PlanRequest> {
        let [x, y] = self.formats();
        Ok(problem.request()?.format(x).output_format(y))
    }

    fn phase(&self) -> u8 {
        match (self.tail, self.dtype, self.format) {
            (true, ..) => 2,
            (false, DType::F16, MemoryFormat::ChannelsLast) => u8::from(self.batch != self.row.main_batch()),
            _ => 3,
        }
    }

    /// The layer and the shapes of its tensors.
    ///
    /// # Errors
    /// [`Error::Parse`] when this build does not know the op or an attribute; what [`Problem::check`] refuses; [`Error::Shape`]
    /// for a tensor without elements, with which there would be nothing to measure.
    pub fn problem(&self) -> Result<Problem> {
        Ok(self.workload()?.0)
    }

    /// The same problem, checked. Errors as in [`Configuration::problem`].
    pub(super) fn workload(&self) -> Result<Workload> {
        let tail = self.row.tail.as_ref().filter(|_| self.tail);
        let mut attrs = self.row.attrs.clone();
        attrs.extend(tail.iter().flat_map(|tail| tail.attrs.clone()));
        let layer = json!({ "op": self.row.op, "attrs": attrs });
        let layer: LayerSpec =
            LayerSpec::deserialize(layer).map_err(|e| Error::Parse { source_name: self.row.name.clone(), message: e.to_string() })?;
        let tensors = self.row.tensors.iter().chain(tail.iter().flat_map(|tail| &tail.tensors));
        let size = |size: &Size| if let Size::Is(size) = size { *size } else { self.batch };
        let shapes = tensors.map(|(name, shape)| (name.clone(), shape.iter().map(size).collect()));
        Workload::new(Problem { kind: "suite".into(), shapes: shapes.collect(), ..Problem::new(layer, &[]) })
    }
}

/// A problem that can be scaled, checked and measured: its tensors fit its layer, and none is
/// empty. Code that takes a `Workload` may rely on the dimensions that the layer's documentation
/// states, and on at least one element.
#[derive(Debug, Clone)]
pub(super) struct Workload(Problem);

impl Workload {
    /// # Errors
    /// Checks a problem. Errors as in [`Configuration::problem`].
    pub fn new(problem: Problem) -> Result<Self> {
        let output = problem.check()?;
        let y = ("y".to_string(), output.to_vec());
        for (name, shape) in problem.shapes.iter().chain([(&y.0, &y.1)]) {
            if shape.contains(&0) {
                let expected = format!("at least one element, as {name} of a row that is measured has");
                return Err(Error::Shape { name: "a tensor", shape: shape.clone(), expected });
            }
        }
        Ok(Self(problem))
    }
}

impl Deref for Workload {
    type Target = Problem;
    fn deref(&self) -> &Problem {
        &self.0
    }
}

/// The approximate work of the oracle for a problem, in products.
pub(super) fn effort(problem: &Problem) -> Result<u64> {
    let report = problem.cost(DType::F32)?;
    let moved = (elements(&report.input)? + elements(&report.output)?) as u64;
    Ok(report.operations.macs.saturating_add(report.operations.sampling_flops / 2).saturating_add(moved.saturating_mul(8)))
}

/// Inputs that have as many rows and columns as the output.
const OF_OUTPUT: [&str; 3] = ["residual", "offset", "mask"];

/// The same layer on images of another number and size.
///
/// # Errors
/// When the layer cannot be applied to them.
pub(super) fn resized(problem: &Workload, batch: usize, [h, w]: [usize; 2]) -> Result<Workload> {
    let [_, c, old_h, old_w] = problem.x()?;
    let mut layer =
        serde_json::to_value(problem.layer).map_err(|e| Error::Parse { source_name: "layer".into(), message: e.to_string() })?;
    let pools = problem.shapes.contains_key("rois");
    // An upsampling keeps its ratio.
    if let Some(Value::Array(size)) = layer.pointer_mut("/attrs/output_size").filter(|_| !pools) {
        for (size, [new, old]) in size.iter_mut().zip([[h, old_h], [w, old_w]]) {
            let scaled = u128::from(size.as_u64().unwrap_or(1)) * new as u128 / old as u128;
            *size = u64::try_from(scaled).unwrap_or(u64::MAX).max(1).into();
        }
    }
    let layer: LayerSpec =
        serde_json::from_value(layer).map_err(|e| Error::Parse { source_name: "layer".into(), message: e.to_string() })?;
    let mut resized = Problem { layer, ..problem.0.clone() }.with("x", Some(&[batch, c, h, w]));
    if !pools {
        let [_, _, y_h, y_w] = resized.output_shape()?;
        for name in OF_OUTPUT {
            if let Some(shape) = problem.shapes.get(name) {
                resized = resized.with(name, Some(&[batch, shape[1], y_h, y_w]));
            }
        }
    }
    Workload::new(resized)
}

/// The same layer on at most `batch` smaller images (and on few RoIs if it pools some), chosen so
/// that the oracle computes at most `budget` products if possible.
///
/// # Errors
/// When the layer cannot be applied to any smaller image.
pub(super) fn scaled_down(problem: &Workload, batch: usize, budget: u64) -> Result<Workload> {
    const SMALLEST: usize = 4;
    const ROIS: usize = 8;
    let [n, _, h, w] = problem.x()?;
    let mut problem = problem.0.clone();
    if problem.shapes.contains_key("rois") {
        for name in ["rois", "offset", "mask"] {
            if let Some(shape) = problem.shapes.get_mut(name) {
                shape[0] = shape[0].min(ROIS);
            }
        }
    }
    let problem = &Workload::new(problem)?;
    let mut size = [h, w];
    let mut best = None;
    loop {
        // Sizes that the layer refuses, such as odd ones, are skipped.
        if let Ok(smaller) = resized(problem, n.min(batch), size) {
            let fits = effort(&smaller)? <= budget;
            best = Some(smaller);
            if fits {
                break;
            }
        }
        let axis = usize::from(size[1] > size[0]);
        let step = if size[axis].is_multiple_of(2) { 2 } else { 1 };
        let next = size[axis] * 3 / 4 / step * step;
        if next < SMALLEST.min(h.min(w)) || next == 0 || next == size[axis] {
            break;
        }
        size[axis] = next;
    }
    best.map_or_else(|| resized(problem, n.min(batch), [h, w]), Ok)
}

/// The number of images of a problem, and of RoIs if it pools some.
pub(super) fn counts(problem: &Workload) -> Result<(Shape, Option<usize>)> {
    Ok((problem.x()?, problem.shapes.get("rois").map(|shape| shape[0])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_parses_and_its_shapes_fit() {
        let suite = Suite::built_in().unwrap();
        assert!(suite.rows.len() >= 100);
        let mut known = 0;
        for configuration in suite.configurations().into_iter().filter(|c| c.row.is_known()) {
            let problem = configuration.problem().unwrap_or_else(|e| panic!("{}: {e}", configuration.id()));
            let report = problem.cost(configuration.dtype).unwrap_or_else(|e| panic!("{}: {e}", configuration.id()));
            if let Some(residual) = problem.shapes.get("residual") {
                assert_eq!(*residual, report.output, "{}", configuration.id());
            }
            if configuration.batch == 1 {
                assert_eq!(problem.output_shape().unwrap(), report.output, "{}", configuration.id());
            }
            known += 1;
        }
        assert!(known > 300, "{known}");
    }

    #[test]
    fn every_row_can_be_scaled_down() {
        let suite = Suite::built_in().unwrap();
        for row in suite.rows.iter().filter(|row| row.is_known()) {
            let configuration =
                Configuration { row, batch: 32, dtype: DType::F16, format: MemoryFormat::ChannelsLast, tail: row.tail.is_some() };
            let (problem, mut images) = (configuration.workload().unwrap(), 0);
            for batch in [1, 2] {
                let small = scaled_down(&problem, batch, 3_000_000).unwrap_or_else(|e| panic!("{}: {e}", row.name));
                assert_eq!(small.x().unwrap()[..2], [batch, problem.x().unwrap()[1]]);
                assert!(effort(&small).unwrap() < 400_000_000, "{}: {:?}", row.name, small.shapes);
                assert_eq!(small.shape("weight"), problem.shape("weight"));
                images += small.x().unwrap()[0];
            }
            assert_eq!(images, 3);
        }
    }

    /// Each was an index out of range, an empty range or an overflow somewhere in what is made of a
    /// row.
    #[test]
    fn rows_whose_tensors_do_not_fit_are_refused_by_name() {
        let row = |op: &str, attrs: &str, tensors: &str| {
            let text = format!(
                r#"{{"format": 1, "rows": [{{"name": "a/b", "network": "a", "family": "f", "set": "core", "why": "", "op": "{op}",
                    "attrs": {attrs}, "tensors": {tensors}, "batches": [2]}}]}}"#
            );
            let suite = Suite::parse("s.json", &text).unwrap();
            suite.configurations()[0].problem().unwrap_err().to_string()
        };
        for (op, attrs, tensors, message) in [
            ("conv2d", "{}", r#"{"x": ["N", 2, 4, 4], "weight": [2, 2, 1, 1], "biass": [8]}"#, "conv2d has no biass"),
            ("conv2d", "{}", r#"{"x": ["N", 2, 4, 4], "weight": [2, 2, 1, 1], "residual": []}"#, "residual has shape []"),
            ("conv2d", "{}", r#"{"x": ["N", 2, 4, 4], "weight": [2, 2, 1, 1], "bias": []}"#, "bias has shape [] (rank 0)"),
            ("conv2d", "{}", r#"{"x": [0, 2, 4, 4], "weight": [2, 2, 1, 1]}"#, "a tensor has shape [0, 2, 4, 4]"),
            ("conv2d", "{}", r#"{"x": [], "weight": [2, 2, 1, 1]}"#, "x has shape [] (rank 0)"),
            ("conv2d", "{}", r#"{"weight": [2, 2, 1, 1]}"#, "conv2d needs x, which was not given (there are: weight)"),
            ("conv2d", "{}", r#"{"x": ["N", 2, 4, 4], "weight": []}"#, "weight has shape [] (rank 0)"),
            ("pixel_shuffle", r#"{"r": 2}"#, r#"{"x": ["N", 0, 4, 4]}"#, "a tensor has shape [2, 0, 4, 4]"),
            ("deform_conv2d", "{}", r#"{"x": ["N", 2, 4, 4], "weight": [2, 2, 1, 1], "offset": []}"#, "offset has shape []"),
            (
                "deform_conv2d",
                "{}",
                r#"{"x": ["N", 2, 4, 4], "weight": [2, 2, 1, 1], "offset": [0, 2, 4, 4]}"#,
                "offset has shape [0, 2, 4, 4]",
            ),
            ("roi_align", r#"{"output_size": 2}"#, r#"{"x": ["N", 2, 4, 4], "rois": []}"#, "rois has shape [] (rank 0)"),
            ("roi_align", r#"{"output_size": 2}"#, r#"{"x": ["N", 2, 4, 4], "rois": [0, 5]}"#, "a tensor has shape [0, 5]"),
            ("roi_align", r#"{"output_size": 2}"#, r#"{"x": ["N", 0, 4, 4], "rois": [1, 5]}"#, "a tensor has shape [1, 5]"),
            ("roi_align", r#"{"output_size": 2}"#, r#"{"x": ["N", 2, 4, 4]}"#, "roi_align needs rois"),
        ] {
            let got = row(op, attrs, tensors);
            // which empty tensor comes first is not of interest
            let alike = got.starts_with(message) || message.starts_with("a tensor") && got.contains("at least one element");
            assert!(alike, "{tensors}: {got}");
        }
    }

    #[test]
    fn the_most_telling_come_first() {
        let suite = Suite::built_in().unwrap();
        let all = suite.configurations();
        let ids: Vec<String> = all.iter().map(Configuration::id).collect();
        assert_eq!(ids[0], "mobilenet_v2/dw3_32x112 b8 f16 channels_last");
        assert!(all.windows(2).all(|pair| pair[0].phase() <= pair[1].phase()));
        let mut unique = ids.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), ids.len());
    }

    #[test]
    fn bad_suites_are_refused() {
        let refused = |text: &str| Suite::parse("s.json", text).unwrap_err().to_string();
        let row = r#"{"name": "a/b", "network": "a", "family": "dense", "set": "core", "why": "", "op": "conv2d", "tensors": {"x": ["N", 1, 4, 4], "weight": [1, 1, 3, 3]}}"#;
        Suite::parse("s.json", &format!(r#"{{"format": 1, "rows": [{row}]}}"#)).unwrap();
        assert!(refused(&format!(r#"{{"format": 1, "rows": [{row}, {row}]}}"#)).contains("two rows have the name \"a/b\""));
        assert!(refused(&format!(r#"{{"format": 2, "rows": [{row}]}}"#)).contains("format 2"));
        assert!(refused(&format!(r#"{{"format": 1, "rows": [{}]}}"#, row.replace("\"N\"", "\"M\""))).contains("not \"M\""));
        assert!(refused(&format!(r#"{{"format": 1, "rows": [{}]}}"#, row.replace("why", "reason"))).contains("reason"));
    }
}
