//! How fast the host device is, on one core: `cargo bench --manifest-path benches/criterion/Cargo.toml --bench host_device`. It is a
//! device for tests, not a fast CPU library; these figures say how long a test may take.
//!
//! - `gemm`: the tensor-core tile of tests/kernels/gemm.cu (cp.async, ldmatrix, mma.m16n8k16) in f16, in each build.
//! - `conv_direct`: a dense 3x3, plain and under the checker.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use half::f16;
use std::time::Duration;
use warpconv::testing::{Operand, launch};
use warpconv::{Conv2d, Conv2dSpec, Device, HostOptions, Inputs, Layer, MemoryFormat, Padding, Parameter, Tensor};

/// The builds of the kernels that there are, with the options `simd` and `checked` that choose them.
fn builds() -> impl Iterator<Item = (&'static str, bool, bool)> {
    let all = [("avx2", true, false), ("portable", false, false), ("checked", false, true)];
    all.into_iter().filter(|(name, ..)| warpconv::build_info().host_variants.contains(name))
}

fn one_core(simd: bool, checked: bool) -> Device {
    Device::host_with(HostOptions { threads: 1, simd, checked, ..Default::default() }).expect("the host device is always there")
}

fn gemm(criterion: &mut Criterion) {
    // the kernel's tile and its two stages of A and B
    const TILE: [usize; 3] = [128, 64, 32];
    const SHARED_BYTES: u32 = (2 * (TILE[0] * TILE[2] + TILE[2] * TILE[1]) * size_of::<f16>()) as u32;
    let mut group = criterion.benchmark_group("gemm");
    for (name, simd, checked) in builds() {
        let device = one_core(simd, checked);
        let [m, n, k] = if checked { [128, 128, 256] } else { [512, 512, 512] };
        let matrix = |rows, columns, seed| {
            Tensor::<f16>::randn(&device, [1, 1, rows, columns], MemoryFormat::Contiguous, seed).expect("a small tensor")
        };
        let (a, b, c) = (matrix(m, k, 1), matrix(k, n, 2), matrix(m, n, 3));
        let operands = [Operand::read("a", &a), Operand::read("b", &b), Operand::write("c", &c)];
        let grid = [n.div_ceil(TILE[1]) as u32, m.div_ceil(TILE[0]) as u32, 1];
        group.throughput(Throughput::Elements((m * n * k) as u64)); // multiply-adds
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                // SAFETY: the kernel is not a broken one, and the tensors are used by nobody else
                unsafe { launch(&device, "gemm_f16", grid, SHARED_BYTES, &operands, &[m as i32, n as i32, k as i32]) }
                    .expect("the kernel runs")
            });
        });
    }
}

fn conv_direct(criterion: &mut Criterion) {
    let spec = Conv2dSpec { padding: Padding::Same, ..Default::default() };
    let weight = Parameter::new(&[32, 32, 3, 3], &vec![0.5f32; 32 * 32 * 9]).expect("the lengths agree");
    let layer = Conv2d::new(spec, weight).expect("a valid layer");
    let mut group = criterion.benchmark_group("conv_direct");
    group.throughput(Throughput::Elements(32 * 32 * 32 * 32 * 9));
    for (name, simd, checked) in builds() {
        let device = one_core(simd, checked);
        let x = Tensor::<f32>::randn(&device, [1, 32, 32, 32], MemoryFormat::ChannelsLast, 1).expect("a small tensor");
        let plan = layer
            .plan::<f32>(&device, &warpconv::PlanRequest::new(x.shape()).format(x.format()).kernel("conv_direct_f32_channels_last"))
            .expect("conv_direct applies always");
        let mut y = Tensor::zeros(&device, plan.output_shape(), plan.output_format()).expect("a small tensor");
        let stream = warpconv::Stream::default_of(&device);
        group.bench_function(name, |bencher| {
            bencher.iter(|| plan.run(&Inputs::new(&x), &mut y, warpconv::Workspace::none(), &stream).expect("the plan fits"));
        });
    }
}

criterion_group! {
    name = host_device;
    config = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_millis(500));
    targets = gemm, conv_direct
}
criterion_main!(host_device);
