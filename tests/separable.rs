//! Depthwise separable and spatially separable convolution on the host device: every form against the oracle and against each
//! other, what is refused, and which form real layers get.

use proptest::prelude::*;
use rstest::rstest;
use std::sync::LazyLock;
use warpconv::cases::Problem;
use warpconv::{
    AnyLayer, Device, Element, Inputs, Layer, LayerSpec, MemoryFormat, Parameter, PlanRequest, Stream, Tensor, WorkspaceMemory,
};

use crate::common::{check, checked, kinds_of};

mod dense;
mod depthwise;
mod factorised;
mod spatial;

static DEVICE: LazyLock<Device> = LazyLock::new(|| Device::host().unwrap());

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn every_form_agrees_with_the_oracle(seed: u64, index in 0u64..10_000, spatially: bool) {
        let op = if spatially { "spatially_separable" } else { "depthwise_separable" };
        check(&Problem::of_kinds(&kinds_of(op), seed, index), &DEVICE);
    }
}

#[rstest]
fn the_checker_finds_nothing(#[values("depthwise_separable", "spatially_separable")] op: &str, #[values(1, 2)] seed: u64) {
    let device = checked(seed);
    let kinds = kinds_of(op);
    for index in 0..kinds.len() as u64 {
        check(&Problem::of_kinds(&kinds, seed, index), &device);
    }
}

/// Small whole numbers, drawn from `values` in an order that looks random.
fn whole(count: usize, values: &[f32], seed: usize) -> Vec<f32> {
    (0..count).map(|index| values[((index + seed).wrapping_mul(0x9e37_79b9) >> 7) % values.len()]).collect()
}

/// A parameter of such numbers.
fn drawn(shape: &[usize], values: &[f32], seed: usize) -> Parameter {
    Parameter::new(shape, &whole(shape.iter().product(), values, seed)).unwrap()
}

fn run<T: Element>(layer: &impl Layer, x: &Tensor<T>, kernel: &str, y_format: MemoryFormat) -> Vec<f32> {
    let request = PlanRequest::new(x.shape()).format(x.format()).output_format(y_format).kernel(kernel);
    let plan = layer.plan::<T>(&DEVICE, &request).unwrap();
    assert_eq!(plan.explain().kernel, kernel);
    assert_eq!(plan.workspace_bytes() > 0, kernel == "pair", "one launch needs no workspace");
    let mut y = Tensor::zeros(&DEVICE, plan.output_shape(), y_format).unwrap();
    let mut memory = WorkspaceMemory::new(&DEVICE, plan.workspace_bytes()).unwrap();
    plan.run(&Inputs::new(x), &mut y, memory.workspace(), &Stream::default_of(&DEVICE)).unwrap();
    y.to_vec().unwrap().into_iter().map(Element::to_f32).collect()
}

fn applicable<T: Element>(layer: &impl Layer, x: &Tensor<T>) -> Vec<&'static str> {
    let plan = layer.plan::<T>(&DEVICE, &PlanRequest::new(x.shape()).format(x.format())).unwrap();
    let choices = plan.explain().choices.iter().filter(|choice| choice.verdict.is_ok());
    choices.map(|choice| choice.kernel).collect()
}

#[test]
fn layers_are_their_own_json_and_parameters() {
    for op in ["depthwise_separable", "spatially_separable"] {
        for index in 0..30 {
            let problem = Problem::of_kinds(&kinds_of(op), 4, index);
            let json = serde_json::to_string(&problem.layer).unwrap();
            assert_eq!(LayerSpec::from_json(&json).unwrap(), problem.layer, "{json}");
            let names = problem.layer.signature().parameters;
            let parameters = problem.shapes.iter().filter(|(name, _)| names.contains(&name.as_str()));
            let parameters =
                parameters.map(|(name, shape)| (name.clone(), Parameter::new(shape, &vec![0f32; shape.iter().product()]).unwrap()));
            let parameters: std::collections::BTreeMap<_, _> = parameters.collect();
            let layer = AnyLayer::new(problem.layer, parameters.clone()).unwrap();
            let own: std::collections::BTreeMap<_, _> =
                layer.parameters().into_iter().map(|(name, p)| (name.to_string(), p.clone())).collect();
            assert_eq!(own, parameters);
        }
    }
}

/// The corpus, through the program: 19 valid cases and 5 that must be refused.
#[cfg(feature = "cli")]
#[rstest]
#[case::every_kernel(&["--all-kernels"])]
#[case::checked(&["--checked", "--seed", "1"])]
fn the_corpus_passes(#[case] options: &[&str]) {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/torch_dev");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_warpconv"));
    command.args(["conformance", corpus, "--filter", "^(depthwise|spatially)_separable/", "--deny-skips", "--device", "host"]);
    let output = command.args(["--dtype", "all", "--format", "all"]).args(options).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stdout.ends_with("24 passed, 0 failed, 0 skipped\n"), "{stdout}\n{stderr}");
}
