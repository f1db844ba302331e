//! The checker: each finding is shown by a kernel that is wrong in one way (tests/kernels/broken.cu), each counter by a
//! kernel whose figures are known (tests/kernels/counters.cu), and right kernels are found right under every order of threads.
//!
//! This file has what the modules share: checked devices and tensors for the kernels of tests/kernels/.

use warpconv::{Device, HostOptions, Tensor};

mod counters;
mod findings;
mod layers;
mod right_kernels;
mod wgmma;

const SEEDS: [u64; 3] = [1, 2, 3];

/// On one thread, so that blocks run one after the other: which of two is the first to touch an element shows in a finding.
fn checked(seed: u64) -> Device {
    Device::host_with(HostOptions { checked: true, seed, max_steps: 2_000_000, threads: 1, ..Default::default() }).unwrap()
}

fn ramp(device: &Device, count: usize) -> Tensor<f32> {
    Tensor::from_slice(device, [1, 1, 1, count], &(0..count).map(|i| i as f32 - 20.0).collect::<Vec<_>>()).unwrap()
}

fn nothing(device: &Device, count: usize) -> Tensor<f32> {
    Tensor::from_slice(device, [1, 1, 1, count], &vec![0.0; count]).unwrap()
}
