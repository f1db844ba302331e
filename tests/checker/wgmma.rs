//! Mbarriers and wgmma on the host device: each finding is shown by a kernel that is wrong in one way
//! (tests/kernels/broken_wgmma.cu), and right kernels (tests/kernels/wgmma.cu) are found right, with the same bits, under
//! every order of threads and whenever their operations happen.

use super::findings::{findings, line_of};
use super::right_kernels::{devices, matrix};
use super::{SEEDS, checked, nothing, ramp};
use half::{bf16, f16};
use warpconv::testing::{Operand, launch};
use warpconv::{Device, Element, HostOptions, MemoryFormat, Shape, Tensor};

/// Two matrices, the alignment before them and two mbarriers.
const SHARED: u32 = 896 + 2 * 4096 + 16;

fn run_broken(device: &Device, name: &str) -> Vec<String> {
    let (x, y) = (ramp(device, 2048), nothing(device, 256));
    let operands = [Operand::read("x", &x), Operand::write("y", &y)];
    // SAFETY: the checked device ends a lane before it does harm
    findings(unsafe { launch(device, name, [1, 1, 1], SHARED, &operands, &[3]) }, name)
}

/// (kernel and mark of its line, kind, the text of seed 0 between the kind and the place)
const BROKEN: &[(&str, &str, &str)] = &[
    (
        "no_proxy_fence",
        "missing proxy fence",
        "block (0, 0, 0) thread 0 reads byte 896 of shared memory as part of A, which thread 0 wrote with no fence_proxy_async between",
    ),
    (
        "fence_before_stores",
        "missing proxy fence",
        "block (0, 0, 0) thread 0 reads byte 896 of shared memory as part of A, which thread 0 wrote with no fence_proxy_async between",
    ),
    (
        "no_barrier_before_wgmma",
        "race in shared memory",
        "block (0, 0, 0) thread 0 reads byte 896 of shared memory as part of A, which thread 0 wrote with no barrier between",
    ),
    (
        "no_wgmma_fence",
        "missing wgmma fence",
        "block (0, 0, 0) thread 0 begins a wgmma, although thread 0 has touched its sums since its last wgmma_fence",
    ),
    (
        "no_second_wgmma_fence",
        "missing wgmma fence",
        "block (0, 0, 0) thread 0 begins a wgmma, although thread 77 has touched its sums since its last wgmma_fence",
    ),
    ("reads_sums_too_early", "sums touched in use", "reads sums before it has waited for the wgmma that adds to them"),
    ("waits_for_older_group", "sums touched in use", "reads sums before it has waited for the wgmma that adds to them"),
    (
        "overwrites_operand",
        "operand overwritten in use",
        "block (0, 0, 0) thread 3 writes 4 bytes at byte 900 of shared memory, which a wgmma of threads 0 to 127 may still read, as far as the thread knows (byte 900)",
    ),
    (
        "tells_before_wait",
        "operand overwritten in use",
        "block (0, 0, 0) thread 200 writes 4 bytes at byte 4996 of shared memory, which a wgmma of threads 0 to 127 may still read, as far as the thread knows (byte 4996)",
    ),
    (
        "reads_unwritten_matrix",
        "uninitialised shared memory",
        "block (0, 0, 0) thread 0 reads byte 4992 of shared memory as part of B, which was written by no thread",
    ),
    (
        "reads_matrix_under_way",
        "shared memory still being copied",
        "block (0, 0, 0) thread 0 reads byte 4992 of shared memory as part of B, where an async copy of thread 0 is still under way",
    ),
    ("begins_within_pattern", "malformed matrix", "it begins at byte 64 of a pattern of 512 bytes, not in its first row of 64"),
    ("counts_on_alignment", "malformed matrix", "it begins at byte 128 of a pattern of 512 bytes, not in its first row of 64"),
    ("leaves_shared_memory", "malformed matrix", "byte 9104 is not one of the 9104 of shared memory"),
    ("wgmma_in_branch", "mixed collectives", "block (0, 0, 0) thread 96 is at another step of wgmma than threads of its warpgroup"),
    ("two_wgmmas", "mixed collectives", "block (0, 0, 0) thread 32 multiplies other matrices than threads of its warpgroup"),
    (
        "arrives_at_nothing",
        "misused mbarrier",
        "block (0, 0, 0) thread 0 arrives at the mbarrier at byte 9088 of shared memory, which no thread has made",
    ),
    (
        "makes_barrier_twice",
        "misused mbarrier",
        "block (0, 0, 0) thread 9 makes the mbarrier at byte 9088 of shared memory, which is there already",
    ),
    (
        "misaligned_barrier",
        "misused mbarrier",
        "block (0, 0, 0) thread 9 makes the mbarrier at byte 9092 of shared memory, which is not 8 bytes of shared memory from a multiple of 8 on",
    ),
    (
        "arrives_too_often",
        "misused mbarrier",
        "block (0, 0, 0) thread 1 arrives 2 times at the mbarrier at byte 9088 of shared memory, whose phase 0 lacks 1 arrivals",
    ),
    (
        "loses_an_arrival",
        "deadlock",
        "block (0, 0, 0) cannot go on: threads 1 to 255 wait for the end of phase 0 of the mbarrier at byte 9088 of shared memory, which lacks 1 of 256 arrivals; 1 have finished",
    ),
    (
        "waits_in_a_circle",
        "deadlock",
        "block (0, 0, 0) cannot go on: threads 0 to 127 wait for the end of phase 0 of the mbarrier at byte 9088 of shared memory, which lacks 128 of 128 arrivals; threads 128 to 255 wait for the end of phase 0 of the mbarrier at byte 9096 of shared memory, which lacks 128 of 128 arrivals; 0 have finished",
    ),
    (
        "misses_a_phase",
        "misused mbarrier",
        "block (0, 0, 0) thread 0 waits for the end of phase 0 of the mbarrier at byte 9088 of shared memory, where phase 1 has ended as well",
    ),
    ("reads_before_wait", "race in shared memory", "with no barrier between"),
    ("stores_after_arrival", "race in shared memory", "with no barrier between"),
    ("arrives_before_copies", "shared memory still being copied", "is still under way"),
    ("tells_of_copies_alone", "race in shared memory", "with no barrier between"),
    (
        "overwrites_barrier",
        "misused mbarrier",
        "block (0, 0, 0) thread 70 writes 4 bytes at byte 9088 of shared memory, where an mbarrier is",
    ),
];

/// Whether a finding names this line, be it as the other one of two.
fn names(finding: &str, place: &str) -> bool {
    finding.match_indices(place).any(|(at, _)| !finding[at + place.len()..].starts_with(|c: char| c.is_ascii_digit()))
}

#[test]
fn each_finding_names_its_thread_and_line() {
    let device = checked(0);
    let mut wrong = vec![];
    for &(name, kind, text) in BROKEN {
        let found = run_broken(&device, name);
        let place = line_of("broken_wgmma.cu", name);
        let told = |f: &String| f.starts_with(&format!("{kind}: ")) && f.contains(text) && names(f, &place);
        if !found.iter().any(told) {
            wrong.push(format!("{name}: wanted\n  {kind}: {text}, at {place}\nfound\n  {}", found.join("\n  ")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_finding_is_found_in_every_order() {
    for seed in SEEDS {
        let device = checked(seed);
        for &(name, kind, _) in BROKEN {
            let found = run_broken(&device, name);
            let place = line_of("broken_wgmma.cu", name);
            // what races shows at the second of two accesses, whichever that is
            let told = |f: &String| f.starts_with(kind) && (kind.starts_with("race") || names(f, &place));
            assert!(found.iter().any(told), "{name}, seed {seed}: wanted {kind} at {place}, found\n  {}", found.join("\n  "));
        }
    }
}

#[test]
fn an_operation_that_nobody_waits_for() {
    for seed in [0, 1, 2] {
        let found = run_broken(&checked(seed), "never_waits");
        assert!(found.len() == 1 && found[0].starts_with("operation not waited for: block (0, 0, 0) thread "), "seed {seed}: {found:#?}");
    }
}

/// A wgmma that part of a warpgroup does not come to, while the rest has ended or waits elsewhere.
#[test]
fn unchecked_devices_find_what_would_hang() {
    for seed in [0, 7] {
        let device = Device::host_with(HostOptions { seed, threads: 1, ..Default::default() }).unwrap();
        for (name, kind) in [
            ("loses_an_arrival", "deadlock: "),
            ("waits_in_a_circle", "deadlock: "),
            ("misses_a_phase", "misused mbarrier: "),
            ("begins_within_pattern", "malformed matrix: "),
            ("leaves_shared_memory", "malformed matrix: "),
        ] {
            let found = run_broken(&device, name);
            assert!(found[0].starts_with(kind), "{name}, seed {seed}: {found:#?}");
        }
    }
}

#[test]
fn mbarriers_pass_values_on() {
    for (name, device) in devices() {
        let (x, y) = (ramp(&device, 64 * 9), nothing(&device, 64 * 9));
        // SAFETY: the kernel is right
        let result =
            unsafe { launch(&device, "mbarrier_exchange", [1, 1, 1], 1024, &[Operand::read("x", &x), Operand::write("y", &y)], &[9]) };
        result.unwrap_or_else(|e| panic!("{name}: {e}"));
        let wanted: Vec<f32> = x.to_vec().unwrap().chunks(64).flat_map(|round| round.iter().rev().copied()).collect();
        assert_eq!(y.to_vec().unwrap(), wanted, "{name}");
    }
}

fn gemm<T: Element>(device: &Device, swizzle: u32, a: &Tensor<T>, b: &Tensor<T>) -> Tensor<T> {
    let ([_, _, m, k], [_, _, n, _]): (Shape, Shape) = (a.shape(), b.shape());
    let c = matrix::<T>(device, m, n, |_| 0.0);
    let columns = if swizzle == 128 { 64 } else { 128 };
    let shared = 896 + 3 * (64 + columns) * swizzle + 48;
    let grid = [(n as u32).div_ceil(columns), m.div_ceil(64) as u32, 1];
    let operands = [Operand::read("a", a), Operand::read("b", b), Operand::write("c", &c)];
    let name = format!("wgmma_gemm_{}_swizzle{swizzle}", T::DTYPE);
    // SAFETY: the kernel is right
    unsafe { launch(device, &name, grid, shared, &operands, &[m as i32, n as i32, k as i32]).unwrap_or_else(|e| panic!("{e}")) };
    c
}

/// Odd sizes, values k/64 (all sums exact in f32) against f64; full-mantissa values the same on all devices.
fn gemm_is_right<T: Element>() {
    for (swizzle, m, n, k) in [(128, 1, 8, 8), (64, 1, 8, 8), (128, 100, 72, 328), (64, 65, 136, 200)] {
        let mut first = None;
        for (name, device) in devices() {
            let a = matrix::<T>(&device, m, k, |i| ((i * 37 % 61) as f32 - 30.0) / 64.0);
            let b = matrix::<T>(&device, n, k, |i| ((i * 53 % 59) as f32 - 29.0) / 64.0);
            let [av, bv] = [&a, &b].map(|t| t.to_vec().unwrap().iter().map(|v| f64::from(v.to_f32())).collect::<Vec<f64>>());
            let exact = |i: usize| (0..k).map(|x| av[i / n * k + x] * bv[i % n * k + x]).sum::<f64>();
            let c = gemm(&device, swizzle, &a, &b).to_vec().unwrap();
            for (i, got) in c.iter().enumerate() {
                assert_eq!(got.to_f32(), T::from_f32(exact(i) as f32).to_f32(), "{name}: {m}x{n}x{k}, element {i}");
            }
            let random = gemm(
                &device,
                swizzle,
                &Tensor::<T>::randn(&device, [1, 1, m, k], MemoryFormat::Contiguous, 1).unwrap(),
                &Tensor::<T>::randn(&device, [1, 1, n, k], MemoryFormat::Contiguous, 2).unwrap(),
            );
            let bits: Vec<u32> = random.to_vec().unwrap().iter().map(|v| v.to_f32().to_bits()).collect();
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
