//! What the modules of the suite share: devices under the checker, problems of a kind, the run of a problem through every kernel
//! against the oracle, values whose sums are exact, the bits of a tensor, and arrays of the corpus.

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::collections::BTreeSet;
use warpconv::cases::{Kind, Problem, kinds};
use warpconv::check::{Wanted, runs_where};
use warpconv::reference::Array;
use warpconv::{Device, Element, HostOptions, Parameter, Tensor};

/// A host device that checks every access, and runs the threads in an order of its own for each seed.
pub fn checked(seed: u64) -> Device {
    Device::host_with(HostOptions { checked: true, seed, ..Default::default() }).unwrap()
}

/// The kinds of problems that there are of an op.
pub fn kinds_of(op: &str) -> Vec<Kind> {
    kinds().filter(|kind| kind.op == op).collect()
}

/// Random problems of some ops.
pub fn problems_of(ops: &[&str], seed: u64, count: u64) -> impl Iterator<Item = Problem> {
    let own: Vec<Kind> = kinds().filter(|kind| ops.contains(&kind.op)).collect();
    (0..count).map(move |index| Problem::of_kinds(&own, seed, index))
}

/// Runs a problem in every dtype, pair of formats and kernel against the oracle. Panics with what failed, and gives the names of the
/// kernels that ran.
pub fn check(problem: &Problem, device: &Device) -> BTreeSet<&'static str> {
    check_where(problem, device, &|_, _| true)
}

/// Does what `check` does for the dtypes, pairs of formats and kernels that are wanted. Nothing else is run, which saves time.
pub fn check_where(problem: &Problem, device: &Device, wanted: &Wanted<'_>) -> BTreeSet<&'static str> {
    let ran = runs_where(problem, device, wanted).unwrap().into_iter().map(|run| {
        assert!(run.outcome.is_ok(), "{run}: {}", serde_json::to_string(problem).unwrap());
        run.kernel
    });
    ran.collect()
}

/// Values k/64 with |k| <= 64: sums of up to 2^12 of their products are exact in f32, so that every order of adding gives the same
/// bits.
pub fn grid(count: usize, seed: u64) -> Vec<f32> {
    fractions(count, 64, seed)
}

/// Values k/divisor with |k| <= divisor.
pub fn fractions(count: usize, divisor: u64, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % (2 * divisor + 1)) as f32 / divisor as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// A parameter whose values are those of `grid`.
pub fn parameter(shape: &[usize], seed: u64) -> Parameter {
    Parameter::new(shape, &grid(shape.iter().product(), seed)).unwrap()
}

/// The bits of a tensor's elements, each as f32: unlike the elements, they compare equal for NaN and differ for zeros of either sign.
pub fn bits<T: Element>(tensor: &Tensor<T>) -> Vec<u32> {
    tensor.to_vec().unwrap().into_iter().map(|value| value.to_f32().to_bits()).collect()
}

/// A tensor of the corpus: `key` is a string of its cases.json that names one of tensors.safetensors.
pub fn array(tensors: &SafeTensors<'_>, key: &Value) -> Array {
    let tensor = tensors.tensor(key.as_str().unwrap()).unwrap();
    let data = match tensor.dtype() {
        Dtype::F32 => tensor.data().chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect(),
        Dtype::F64 => tensor.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
        other => panic!("the corpus has no {other:?}"),
    };
    Array::new(tensor.shape(), data).unwrap()
}
