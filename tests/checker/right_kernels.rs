//! Right kernels: their results are right, the checker finds nothing, and every build and every order of threads gives the
//! same bits.

use half::{bf16, f16};
use warpconv::testing::{Operand, launch};
use warpconv::{Device, Element, HostOptions, MemoryFormat, Shape, Tensor};

use crate::common::bits;

use super::{SEEDS, checked, nothing, ramp};

/// Plain and checked devices of every kind.
pub(super) fn devices() -> Vec<(String, Device)> {
    let host = |name: String, options: HostOptions| (name, Device::host_with(options).unwrap());
    let mut all = vec![
        host("plain".into(), HostOptions::default()),
        host("plain, one thread".into(), HostOptions { threads: 1, ..Default::default() }),
        host("plain, seed 5".into(), HostOptions { seed: 5, ..Default::default() }),
        host("checked".into(), HostOptions { checked: true, ..Default::default() }),
    ];
    if warpconv::build_info().host_variants.contains(&"portable") {
        all.push(host("plain, portable".into(), HostOptions { simd: false, ..Default::default() }));
    }
    all.extend(SEEDS.map(|seed| host(format!("checked, seed {seed}"), HostOptions { checked: true, seed, ..Default::default() })));
    all
}

#[test]
fn meetings_give_what_they_say() {
    const GRID: [u32; 3] = [3, 2, 2];
    let count = 96 * 12;
    for (name, device) in devices() {
        let x = ramp(&device, count);
        let values = x.to_vec().unwrap();
        let run = |kernel: &str| {
            let y = nothing(&device, count);
            // SAFETY: the kernel is right
            let result = unsafe { launch(&device, kernel, GRID, 1024, &[Operand::read("x", &x), Operand::write("y", &y)], &[]) };
            result.unwrap_or_else(|e| panic!("{name}: {e}"));
            y.to_vec().unwrap()
        };
        let by_warp = |f: &dyn Fn(&[f32], usize) -> f32| -> Vec<f32> {
            values.chunks(32).flat_map(|warp| (0..32).map(|l| f(warp, l)).collect::<Vec<_>>()).collect()
        };
        assert_eq!(run("warp_sum"), by_warp(&|warp, _| warp.iter().sum()), "{name}");
        let votes = |warp: &[f32], lane: usize| {
            let positive = |lanes: &[f32]| lanes.iter().filter(|&&v| v > 0.0).count() as f32;
            match positive(warp) {
                0.0 => -1.0,
                all => positive(&warp[..lane]) + if all == 32.0 { 100.0 } else { 0.0 },
            }
        };
        assert_eq!(run("votes"), by_warp(&votes), "{name}");
        assert_eq!(run("warp_exchange"), by_warp(&|warp, lane| warp[31 - lane]), "{name}");
        let reversed: Vec<f32> = values.chunks(96).flat_map(|block| block.iter().rev().copied()).collect();
        assert_eq!(run("block_reverse"), reversed, "{name}");
        assert_eq!(run("late_copies"), reversed.iter().map(|v| v + 1.0).collect::<Vec<_>>(), "{name}");
        let coordinates = |i: usize| {
            let block = i / 96;
            (block % 3 + 10 * (block / 3 % 2) + 100 * (block / 6)) as f32 + 0.5 * (i % 2) as f32
        };
        let places: Vec<f32> = values.iter().enumerate().map(|(i, v)| coordinates(i) + v).collect();
        assert_eq!(run("grid_coordinates"), places, "{name}");
    }
}

const GEMM_SHARED: u32 = 2 * (128 * 32 + 32 * 64) * 2;

pub(super) fn matrix<T: Element>(device: &Device, rows: usize, columns: usize, mut value: impl FnMut(usize) -> f32) -> Tensor<T> {
    let values: Vec<T> = (0..rows * columns).map(|i| T::from_f32(value(i))).collect();
    Tensor::from_slice(device, [1, 1, rows, columns], &values).unwrap()
}

fn gemm<T: Element>(device: &Device, a: &Tensor<T>, b: &Tensor<T>) -> Tensor<T> {
    let ([_, _, m, k], [_, _, _, n]): (Shape, Shape) = (a.shape(), b.shape());
    let c = matrix::<T>(device, m, n, |_| 0.0);
    let grid = [n.div_ceil(64) as u32, m.div_ceil(128) as u32, 1];
    let operands = [Operand::read("a", a), Operand::read("b", b), Operand::write("c", &c)];
    let name = format!("gemm_{}", T::DTYPE);
    // SAFETY: the kernel is right
    unsafe { launch(device, &name, grid, GEMM_SHARED, &operands, &[m as i32, n as i32, k as i32]).unwrap_or_else(|e| panic!("{e}")) };
    c
}

/// Odd sizes, values k/64 as in the corpus (all sums exact in f32) against f64; full-mantissa values the same on all devices.
fn gemm_is_right<T: Element>() {
    for (m, n, k) in [(1, 8, 8), (100, 72, 40), (129, 136, 104)] {
        let mut first = None;
        for (name, device) in devices() {
            let a = matrix::<T>(&device, m, k, |i| ((i * 37 % 61) as f32 - 30.0) / 64.0);
            let b = matrix::<T>(&device, k, n, |i| ((i * 53 % 59) as f32 - 29.0) / 64.0);
            let (av, bv): (Vec<f64>, Vec<f64>) = (
                a.to_vec().unwrap().iter().map(|v| f64::from(v.to_f32())).collect(),
                b.to_vec().unwrap().iter().map(|v| f64::from(v.to_f32())).collect(),
            );
            let exact = |i: usize| (0..k).map(|x| av[i / n * k + x] * bv[x * n + i % n]).sum::<f64>();
            let c = gemm(&device, &a, &b).to_vec().unwrap();
            for (i, got) in c.iter().enumerate() {
                assert_eq!(got.to_f32(), T::from_f32(exact(i) as f32).to_f32(), "{name}: {m}x{n}x{k}, element {i}");
            }
            let random = gemm(
                &device,
                &Tensor::<T>::randn(&device, [1, 1, m, k], MemoryFormat::Contiguous, 1).unwrap(),
                &Tensor::<T>::randn(&device, [1, 1, k, n], MemoryFormat::Contiguous, 2).unwrap(),
            );
            let bits = bits(&random);
            assert!(*first.get_or_insert_with(|| bits.clone()) == bits, "{name}: {m}x{n}x{k} differs in some bit");
        }
    }
}

#[test]
fn gemm_f16() {
    gemm_is_right::<f16>();
}

#[test]
fn gemm_bf16() {
    gemm_is_right::<bf16>();
}

#[test]
fn gemm_meets_no_bank_conflict() {
    let device = checked(0);
    let (m, n, k) = (128, 64, 64);
    let a = matrix::<f16>(&device, m, k, |_| 1.0);
    let b = matrix::<f16>(&device, k, n, |_| 1.0);
    gemm(&device, &a, &b);
    let c = device.last_launch_counters().unwrap();
    assert_eq!(c.bank_conflicts, 0);
    assert_eq!(c.shared_bytes_written, 2 * (m * k + k * n) as u64);
    assert_eq!((c.global_bytes_read(), c.global_bytes_written()), (2 * (m * k + k * n) as u64, 2 * (m * n) as u64));
    assert_eq!(c.unique_bytes(), 2 * (m * k + k * n + m * n) as u64);
    // two steps of two barriers; four warps, each two k16 slices a step of two ldmatrix and one product
    assert_eq!((c.barriers, c.collectives), (4, 4 * 2 * 2 * 3));
}
