//! The checker: each finding is shown by a kernel that is wrong in one way (tests/kernels/broken.cu), each counter by a
//! kernel whose figures are known (tests/kernels/counters.cu), and right kernels are found right under every order of threads.

use half::{bf16, f16};
use warpconv::cases::{Problem, Values, kinds};
use warpconv::check::{Case, Kernels};
use warpconv::testing::{Operand, launch};
use warpconv::{
    Activation, Conv2d, Conv2dSpec, DType, Device, Element, Error, HostOptions, Inputs, LaunchCounters, Layer, LayerSpec, MemoryFormat,
    Padding, Parameter, PlanRequest, Shape, Stream, Tensor, Workspace, reference,
};

const SEEDS: [u64; 3] = [1, 2, 3];

/// On one thread, so that blocks run one after the other: which of two is the first to touch an element shows in a finding.
fn checked(seed: u64) -> Device {
    Device::host_with(HostOptions { checked: true, seed, max_steps: 2_000_000, threads: 1, ..Default::default() }).unwrap()
}

/// The number of the line in a file of tests/kernels/ whose comment starts with `marker`.
fn line_of(file: &str, marker: &str) -> String {
    let path = format!("{}/tests/kernels/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let is_marked = |line: &str| line.split_once("// ").is_some_and(|(code, comment)| !code.is_empty() && comment.starts_with(marker));
    let line = text.lines().position(is_marked).unwrap_or_else(|| panic!("{file} marks no line {marker}"));
    format!("{file}:{}", line + 1)
}

fn ramp(device: &Device, count: usize) -> Tensor<f32> {
    Tensor::from_slice(device, [1, 1, 1, count], &(0..count).map(|i| i as f32 - 20.0).collect::<Vec<_>>()).unwrap()
}

fn nothing(device: &Device, count: usize) -> Tensor<f32> {
    Tensor::from_slice(device, [1, 1, 1, count], &vec![0.0; count]).unwrap()
}

fn findings(result: warpconv::Result<()>, name: &str) -> Vec<String> {
    match result {
        Err(Error::Kernel { kernel, findings }) => {
            assert_eq!(kernel, name);
            findings
        }
        other => panic!("{name} was not found out: {other:?}"),
    }
}

/// Runs a kernel of broken.cu on x and y of 64 floats.
fn run_broken(device: &Device, name: &str) -> Vec<String> {
    let (x, y) = (ramp(device, 64), nothing(device, 64));
    let wide = Tensor::<f32>::rand(device, [1, 8, 4, 4], MemoryFormat::ChannelsLast, 1).unwrap();
    let slice = wide.channels(0..4).unwrap();
    let (x, y) = match name {
        "leaves_view" => (Operand::read("x", slice), Operand::write("y", &y)),
        "global_read_write" => (Operand::read("x", &x), Operand::update("y", &y)),
        _ => (Operand::read("x", &x), Operand::write("y", &y)),
    };
    let shared = if name == "writes_past_shared" { 256 } else { 4096 };
    let value = if name == "leaves_view" { 8 } else { 1 };
    let blocks = if name == "global_across_blocks" { 2 } else { 1 };
    // SAFETY: the checked device ends a lane before it does harm
    findings(unsafe { launch(device, name, [blocks, 1, 1], shared, &[x, y], &[value]) }, name)
}

/// (kernel and mark of its line, kind, the text of seed 0 between the kind and the place)
const BROKEN: &[(&str, &str, &str)] = &[
    (
        "reads_past_end",
        "out of bounds",
        "block (0, 0, 0) thread 61 reads 4 bytes outside every tensor of the launch, just past the end of x",
    ),
    (
        "writes_past_end",
        "out of bounds",
        "block (0, 0, 0) thread 5 writes 4 bytes outside every tensor of the launch, 4 bytes past the end of y",
    ),
    (
        "writes_past_shared",
        "out of bounds",
        "block (0, 0, 0) thread 63 writes 4 bytes outside every tensor of the launch, just past the end of shared memory",
    ),
    (
        "leaves_view",
        "out of bounds",
        "block (0, 0, 0) thread 9 reads 4 bytes outside every tensor of the launch, between the elements of the view x (byte 80 from its first element)",
    ),
    (
        "writes_input",
        "operand used against its declaration",
        "block (0, 0, 0) thread 7 writes 4 bytes to element [0, 0, 0, 11] of x, which this launch may only read",
    ),
    (
        "reads_output",
        "operand used against its declaration",
        "block (0, 0, 0) thread 0 reads 4 bytes from element [0, 0, 0, 0] of y, an output that this launch may only write",
    ),
    (
        "race_write_read",
        "race in shared memory",
        "block (0, 0, 0) thread 32 reads 4 bytes at byte 0 of shared memory, which thread 0 wrote with no barrier between (byte 0)",
    ),
    (
        "race_read_write",
        "race in shared memory",
        "block (0, 0, 0) thread 0 writes 4 bytes at byte 0 of shared memory, which thread 32 read with no barrier between (byte 0)",
    ),
    (
        "race_write_write",
        "race in shared memory",
        "block (0, 0, 0) thread 35 writes 4 bytes at byte 0 of shared memory, which thread 3 wrote with no barrier between (byte 0)",
    ),
    (
        "race_in_warp",
        "race in shared memory",
        "block (0, 0, 0) thread 31 reads 4 bytes at byte 120 of shared memory, which thread 30 wrote with no barrier between (byte 120)",
    ),
    (
        "race_after_sync_warp",
        "race in shared memory",
        "block (0, 0, 0) thread 63 reads 4 bytes at byte 124 of shared memory, which thread 31 wrote with no barrier between (byte 124)",
    ),
    (
        "race_of_halves",
        "race in shared memory",
        "block (0, 0, 0) thread 41 writes 2 bytes at byte 80 of shared memory, which thread 40 wrote with no barrier between (byte 80)",
    ),
    (
        "global_write_write",
        "race in global memory",
        "block (0, 0, 0) thread 1 writes element [0, 0, 0, 0] of y, which thread 0 of block (0, 0, 0) wrote",
    ),
    (
        "global_read_write",
        "race in global memory",
        "block (0, 0, 0) thread 63 writes element [0, 0, 0, 63] of y, which thread 62 of block (0, 0, 0) read",
    ),
    (
        "global_across_blocks",
        "race in global memory",
        "block (1, 0, 0) thread 0 writes element [0, 0, 0, 1] of y, which thread 1 of block (0, 0, 0) wrote",
    ),
    ("writes_twice", "element written twice", "block (0, 0, 0) thread 63 writes element [0, 0, 0, 63] of y a second time"),
    (
        "reads_uninitialised",
        "uninitialised shared memory",
        "block (0, 0, 0) thread 43 reads 4 bytes at byte 80 of shared memory, where byte 80 was written by no thread",
    ),
    (
        "reads_copy_under_way",
        "shared memory still being copied",
        "block (0, 0, 0) thread 63 reads 4 bytes at byte 252 of shared memory, where an async copy of thread 63 is still under way (byte 252)",
    ),
    (
        "writes_copy_under_way",
        "shared memory still being copied",
        "block (0, 0, 0) thread 0 writes 4 bytes at byte 0 of shared memory, where an async copy of thread 0 is still under way (byte 0)",
    ),
    (
        "reads_copy_of_newer_group",
        "shared memory still being copied",
        "block (0, 0, 0) thread 63 reads 4 bytes at byte 508 of shared memory, where an async copy of thread 63 is still under way (byte 508)",
    ),
    (
        "reads_copy_without_barrier",
        "race in shared memory",
        "block (0, 0, 0) thread 63 reads 4 bytes at byte 124 of shared memory, which thread 31 wrote with no barrier between (byte 124)",
    ),
    (
        "barrier_in_branch",
        "divergent barrier",
        "block (0, 0, 0) cannot go on: of 64 threads 40 wait at a barrier, 0 in a warp collective, 24 have finished",
    ),
    (
        "exits_before_barrier",
        "divergent barrier",
        "block (0, 0, 0) cannot go on: of 64 threads 63 wait at a barrier, 0 in a warp collective, 1 have finished",
    ),
    (
        "misaligned_load",
        "misaligned access",
        "block (0, 0, 0) thread 0 reads 16 bytes at an address that is not a multiple of 16: byte 4 of x",
    ),
    (
        "misaligned_copy",
        "misaligned access",
        "block (0, 0, 0) thread 0 copies 8 bytes with an address that is not a multiple of 8: byte 4 of shared memory",
    ),
    (
        "misaligned_ldmatrix",
        "misaligned access",
        "block (0, 0, 0) thread 63 reads 16 bytes at an address that is not a multiple of 16: byte 500 of shared memory",
    ),
];

#[test]
fn each_finding_names_its_thread_and_line() {
    for &(name, kind, text) in BROKEN {
        let found = run_broken(&checked(0), name);
        let place = line_of("broken.cu", name);
        let wanted = format!("{kind}: {text}, at {place}");
        assert!(
            found.iter().any(|f| f.strip_prefix(&wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with(" (in "))),
            "{name}: wanted\n  {wanted}\nfound\n  {}",
            found.join("\n  ")
        );
    }
}

#[test]
fn each_finding_is_found_in_every_order() {
    for seed in SEEDS {
        let device = checked(seed);
        for &(name, kind, _) in BROKEN {
            let found = run_broken(&device, name);
            let place = line_of("broken.cu", name);
            let told = |f: &String| f.starts_with(kind) && (f.ends_with(&place) || f.contains(&format!("{place} (in")));
            // which of two racing accesses comes second depends on the order; seed 0 has shown the marked one
            assert!(
                found.iter().any(|f| told(f) || kind.starts_with("race") && f.starts_with(kind)),
                "{name}, seed {seed}: wanted {kind} at {place}, found\n  {}",
                found.join("\n  ")
            );
        }
    }
}

#[test]
fn an_output_element_that_nobody_wrote() {
    let found = run_broken(&checked(0), "leaves_gap");
    assert_eq!(found, ["output not written: 2 of 64 elements of y were written by no thread, element [0, 0, 0, 13] of y first"]);
}

#[test]
fn calls_that_must_be_one() {
    for (name, kind) in
        [("two_barriers", "divergent barrier"), ("mixes_collectives", "mixed collectives"), ("mixes_calls", "mixed collectives")]
    {
        for seed in [0, 1, 2] {
            let found = run_broken(&checked(seed), name);
            let (one, other) = (line_of("broken.cu", &format!("{name}: one")), line_of("broken.cu", &format!("{name}: the other")));
            assert!(found.iter().all(|f| f.starts_with(kind) && f.contains(&one) && f.contains(&other)), "{name}, seed {seed}: {found:#?}");
        }
    }
}

#[test]
fn endless_kernels_end() {
    let found = run_broken(&checked(0), "spins");
    assert!(found.len() == 1 && found[0].starts_with("endless kernel: block (0, 0, 0) thread 0"), "{found:#?}");
    assert!(found[0].contains("broken.cu:"), "{found:#?}");
    let found = run_broken(&checked(0), "waits_forever");
    assert!(found.len() == 1 && found[0].starts_with("endless kernel: "), "{found:#?}");
}

/// A sum of 49,280 products, in which a block of the GEMM enters more basic blocks than an endless loop of a second would.
#[test]
fn a_kernel_that_does_much_is_not_endless() {
    let layer = LayerSpec::from_json(r#"{"op": "conv2d", "attrs": {"padding": "same", "dilation": [1, 2], "groups": 2}}"#).unwrap();
    let mut problem = Problem::new(layer, &[("x", &[1, 2, 3, 1]), ("weight", &[6, 1, 7040, 7])]);
    problem.values = Values::Exact;
    let tensors = problem.tensors(DType::F32).unwrap();
    let (output, scale) = reference::layer(&problem.layer, &tensors).unwrap();
    let case = Case::new(problem.layer, &tensors, output, scale.into_data()).unwrap();
    let device = Device::host_with(HostOptions { checked: true, threads: 1, ..Default::default() }).unwrap();
    let contiguous = MemoryFormat::Contiguous;
    let runs = case.check(DType::F32, contiguous, contiguous, Kernels::Named("conv_gemm_f32_pixels_64x64"), &device);
    assert_eq!(runs.len(), 1);
    assert!(runs[0].outcome.is_ok(), "{}", runs[0]);
}

#[test]
fn several_findings_of_one_launch() {
    let found = run_broken(&checked(0), "fails_often");
    for (kind, place) in [
        ("race in shared memory", Some(line_of("broken.cu", "fails_often: a race"))),
        ("uninitialised shared memory", Some(line_of("broken.cu", "fails_often: uninitialised"))),
        ("output not written: 1 of 64 elements of y", None),
    ] {
        let told = |f: &String| f.starts_with(kind) && place.as_ref().is_none_or(|p| f.ends_with(p));
        assert!(found.iter().any(told), "{kind} at {place:?}: {found:#?}");
    }
    assert!(found.len() <= 8, "each kind once for each line: {found:#?}");
}

/// docs/proof.md shows this kernel and what is said of it: both must be true.
#[test]
fn the_documents_example() {
    let device = checked(0);
    let (x, y) = (ramp(&device, 128), nothing(&device, 128));
    // SAFETY: checked
    let found = findings(
        unsafe { launch(&device, "smooths", [2, 1, 1], 66 * 4, &[Operand::read("x", &x), Operand::write("y", &y)], &[]) },
        "smooths",
    );
    let read = |path: &str| std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let (document, source) = (read("docs/proof.md"), read("tests/kernels/broken.cu"));
    let kernel = &source[source.find("// y[i] = (x[i - 1]").unwrap()..];
    assert!(document.contains(kernel.trim_end()), "docs/proof.md shows another kernel than\n{kernel}");
    assert!(document.contains(&found.join("\n")), "docs/proof.md shows other findings than\n{}", found.join("\n"));
}

#[test]
fn kernels_whose_threads_never_meet_are_checked_too() {
    let device = checked(0);
    // Two blocks reach 112 bytes past the end of x. Tensors begin at multiples of 128 bytes, so that
    // y cannot lie there.
    let (x, y) = (ramp(&device, 100), nothing(&device, 100));
    let operands = [Operand::read("x", &x), Operand::write("y", &y)];
    // SAFETY: checked
    let found = findings(unsafe { launch(&device, "lonely_past_end", [2, 1, 1], 0, &operands, &[]) }, "lonely_past_end");
    let place = line_of("lonely.cu", "lonely_past_end");
    assert_eq!(
        found,
        [format!(
            "out of bounds: block (1, 0, 0) thread 36 reads 4 bytes outside every tensor of the launch, just past the end of x, at {place}"
        )]
    );
    // SAFETY: checked
    let found = findings(unsafe { launch(&device, "lonely_spins", [1, 1, 1], 0, &operands, &[]) }, "lonely_spins");
    assert!(found.len() == 1 && found[0].starts_with("endless kernel: block (0, 0, 0) thread 0"), "{found:#?}");
    // SAFETY: checked
    let found = findings(unsafe { launch(&device, "undeclared_barrier", [1, 1, 1], 0, &operands, &[]) }, "undeclared_barrier");
    let place = line_of("lonely.cu", "undeclared_barrier");
    assert!(
        found.len() == 1 && found[0].starts_with("undeclared meeting: block (0, 0, 0) thread 0") && found[0].ends_with(&place),
        "{found:#?}"
    );
    // the device goes on
    let (x, y) = (ramp(&device, 128), nothing(&device, 128));
    // SAFETY: checked
    unsafe { launch(&device, "copies_once", [2, 1, 1], 0, &[Operand::read("x", &x), Operand::write("y", &y)], &[]).unwrap() };
    assert_eq!(x.to_vec().unwrap(), y.to_vec().unwrap());
}

#[test]
fn outputs_are_poisoned_but_not_their_neighbours() {
    let device = checked(0);
    let x = ramp(&device, 64);
    let wide = Tensor::<f32>::zeros(&device, [1, 3, 8, 8], MemoryFormat::ChannelsLast).unwrap();
    let y = wide.channels(1..2).unwrap();
    // SAFETY: checked; a kernel that writes nothing of its view
    let result = unsafe { launch(&device, "copies_once", [0, 1, 1], 0, &[Operand::read("x", &x), Operand::write("y", y)], &[]) };
    let found = findings(result, "copies_once");
    assert_eq!(found, ["output not written: 64 of 64 elements of y were written by no thread, element [0, 0, 0, 0] of y first"]);
    let values = wide.to_vec_in_memory_order().unwrap();
    assert!(values.chunks(3).all(|c| c[0] == 0.0 && c[1].is_nan() && c[2] == 0.0), "{values:?}");
}

#[test]
fn shared_memory_is_poisoned() {
    let device = checked(0);
    let (x, y) = (ramp(&device, 64), nothing(&device, 64));
    // SAFETY: checked; thread 43 reads what nobody wrote
    let result =
        unsafe { launch(&device, "reads_uninitialised", [1, 1, 1], 4096, &[Operand::read("x", &x), Operand::write("y", &y)], &[1]) };
    assert_eq!(findings(result, "reads_uninitialised").len(), 1);
    let values = y.to_vec().unwrap();
    assert!(values.iter().enumerate().all(|(i, v)| if i == 43 { v.is_nan() } else { *v == 1.0 }), "{values:?}");
}

// ---- counters

fn counters(name: &str, grid: [u32; 3], operands: impl FnOnce(&Device) -> Vec<Tensor<f32>>, values: &[i32]) -> LaunchCounters {
    let device = checked(0);
    let tensors = operands(&device);
    let last = tensors.len() - 1;
    let operands: Vec<Operand> =
        tensors.iter().enumerate().map(|(i, t)| if i == last { Operand::write("y", t) } else { Operand::read("x", t) }).collect();
    // SAFETY: checked
    unsafe { launch(&device, name, grid, 64 * 1024, &operands, values).unwrap() };
    device.last_launch_counters().unwrap()
}

fn conflicts(name: &str, stride: i32) -> (u64, u64) {
    let c = counters(name, [1, 1, 1], |d| vec![nothing(d, 64)], &[stride]);
    (c.shared_wavefronts, c.bank_conflicts)
}

#[test]
fn bank_conflicts_are_counted() {
    // one write and one read of a warp each: (wavefronts, conflicts)
    for (stride, one) in [(1, (1, 0)), (2, (2, 1)), (3, (1, 0)), (4, (4, 3)), (32, (32, 31)), (33, (1, 0))] {
        assert_eq!(conflicts("strided_words", stride), (2 * one.0, 2 * one.1), "4 bytes, stride {stride}");
    }
    // two halves of a word are one wavefront; the write alone
    for (stride, one) in [(1, (1, 0)), (2, (1, 0)), (4, (2, 1)), (64, (32, 31)), (66, (1, 0))] {
        assert_eq!(conflicts("strided_halves", stride), one, "2 bytes, stride {stride}");
    }
    // 8 bytes: two half-warps
    for (stride, one) in [(1, (2, 0)), (2, (4, 2)), (16, (32, 30))] {
        assert_eq!(conflicts("strided_pairs", stride), (2 * one.0, 2 * one.1), "8 bytes, stride {stride}");
    }
    // 16 bytes: four quarter-warps
    for (stride, one) in [(1, (4, 0)), (2, (8, 4)), (3, (4, 0)), (8, (32, 28))] {
        assert_eq!(conflicts("strided_quads", stride), (2 * one.0, 2 * one.1), "16 bytes, stride {stride}");
    }
    // ldmatrix: rows of 128 bytes all start in bank 0, rows of 144 bytes do not
    assert_eq!(conflicts("rows_of_ldmatrix", 128), (64, 56));
    assert_eq!(conflicts("rows_of_ldmatrix", 144), (8, 0));
    // half of the lanes make the first access, all make the second
    assert_eq!(conflicts("uneven_lanes", 0), (1 + 2, 1));
}

#[test]
fn meetings_and_bytes_are_counted() {
    let c = counters("barriers", [3, 2, 2], |d| vec![nothing(d, 64 * 12)], &[5]);
    assert_eq!((c.kernel, c.blocks, c.threads, c.barriers, c.collectives), ("barriers", 12, 64, 5 * 12, 2 * 12));

    let c = counters("overlapping_reads", [10, 1, 1], |d| vec![ramp(d, 80), nothing(d, 640)], &[]);
    let x = c.operand("x").unwrap();
    assert_eq!((x.bytes, x.bytes_read, x.bytes_written, x.unique_bytes), (320, 10 * 64 * 16, 0, 256));
    // each block meets the 8 sectors of x, whose start is aligned, once, however often its threads read them
    assert_eq!(x.block_sectors, 10 * 8);
    let y = c.operand("y").unwrap();
    assert_eq!((y.bytes, y.bytes_read, y.bytes_written, y.unique_bytes), (2560, 0, 2560, 2560));
    assert_eq!(y.block_sectors, 10 * 8);
    assert_eq!((c.global_bytes_read(), c.global_bytes_written(), c.unique_bytes()), (10240, 2560, 2816));
    assert_eq!((c.shared_bytes_read, c.shared_bytes_written), (0, 0));

    let c = counters("strided_words", [1, 1, 1], |d| vec![nothing(d, 64)], &[1]);
    assert_eq!((c.shared_bytes_read, c.shared_bytes_written), (128, 128));
    assert_eq!(Device::host_with(warpconv::HostOptions::default()).unwrap().last_launch_counters(), None);
}

// ---- right kernels: right, clean, and bitwise the same in every build and order

/// Plain and checked devices of every kind.
fn devices() -> Vec<(String, Device)> {
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

fn matrix<T: Element>(device: &Device, rows: usize, columns: usize, mut value: impl FnMut(usize) -> f32) -> Tensor<T> {
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

// ---- the crate's own kernels

const FORMATS: [MemoryFormat; 2] = [MemoryFormat::Contiguous, MemoryFormat::ChannelsLast];

fn bits<T: Element>(tensor: &Tensor<T>) -> Vec<u32> {
    tensor.to_vec().unwrap().iter().map(|v| v.to_f32().to_bits()).collect()
}

/// What is read and written in place: x and y are slices of wider tensors, the residual a third one or y itself.
fn run_conv2d<T: Element>(device: &Device, layer: &Conv2d, x: Shape, formats: [MemoryFormat; 2]) -> Vec<Vec<u32>> {
    let random = |[n, c, h, w]: Shape, more: usize, format, seed| Tensor::<T>::randn(device, [n, c + more, h, w], format, seed).unwrap();
    let request = PlanRequest::new(x).format(formats[0]).output_format(formats[1]);
    let candidates = layer.plan::<T>(device, &request).unwrap().explain().choices.clone();
    let mut results = Vec::new();
    for kernel in candidates.into_iter().filter(|c| c.verdict.is_ok()).map(|c| c.kernel) {
        let plan = layer.plan::<T>(device, &request.clone().kernel(kernel)).unwrap();
        let c_out = plan.output_shape()[1];
        let wide_x = random(x, 5, formats[0], 1);
        let view = wide_x.channels(2..2 + x[1]).unwrap();
        let residual = random(plan.output_shape(), 0, formats[0], 2);
        let stream = Stream::default_of(device);
        for inputs in [Inputs::new(view), Inputs::new(view).residual(&residual), Inputs::new(view).accumulate()] {
            let mut y = random(plan.output_shape(), 4, formats[1], 3);
            let slice = y.channels_mut(3..3 + c_out).unwrap();
            plan.run(&inputs, slice, Workspace::none(), &stream).unwrap_or_else(|e| panic!("{kernel} on {x:?}: {e}"));
            results.push(bits(&y));
        }
    }
    results
}

fn conv2d_is_clean<T: Element>() {
    let square = |stride: usize, dilation: usize, groups| Conv2dSpec {
        stride: [stride, stride],
        dilation: [dilation, dilation],
        groups,
        padding: Padding::all(1),
        activation: Activation::Prelu,
    };
    let uneven = Conv2dSpec {
        stride: [2, 1],
        dilation: [1, 3],
        padding: Padding::Explicit([0, 3, 2, 1]),
        activation: Activation::Silu,
        ..Default::default()
    };
    let wide = Conv2dSpec { padding: Padding::all(4), dilation: [4, 4], ..Default::default() };
    // (why it is awkward, spec, input, weight)
    let cases: [(&str, Conv2dSpec, Shape, Shape); 6] = [
        ("one element", Conv2dSpec::default(), [1, 1, 1, 1], [1, 1, 1, 1]),
        ("odd channels, 1x1", Conv2dSpec::default(), [2, 7, 5, 3], [9, 7, 1, 1]),
        ("every axis differs", uneven, [2, 3, 9, 8], [5, 3, 3, 2]),
        ("most taps in the padding", wide, [1, 4, 3, 3], [8, 4, 3, 3]),
        ("groups of 2 and 3 channels", square(1, 1, 3), [1, 6, 7, 6], [9, 2, 3, 3]),
        ("depthwise with multiplier 2, stride 2", square(2, 1, 8), [3, 8, 9, 9], [16, 1, 3, 3]),
    ];
    let plain = Device::host_with(warpconv::HostOptions::default()).unwrap();
    let checked = SEEDS.map(checked);
    for (why, spec, x, weight) in cases {
        let values = |count: usize| (0..count).map(|i| (i * 29 % 31) as f32 / 16.0 - 0.9).collect::<Vec<_>>();
        let mut layer = Conv2d::new(spec, Parameter::new(&weight, &values(weight.iter().product())).unwrap()).unwrap();
        layer = layer.with_bias(Parameter::vector(&values(weight[0]))).unwrap();
        if spec.activation == Activation::Prelu {
            layer = layer.with_slope(Parameter::vector(&values(weight[0]))).unwrap();
        }
        for formats in FORMATS.into_iter().flat_map(|a| FORMATS.map(|b| [a, b])) {
            let expected = run_conv2d::<T>(&plain, &layer, x, formats);
            for device in &checked {
                assert!(run_conv2d::<T>(device, &layer, x, formats) == expected, "{why}, {formats:?}: differs in some bit");
            }
        }
    }
}

#[test]
fn conv2d_f32_is_clean_and_the_same_in_every_order() {
    conv2d_is_clean::<f32>();
}

#[test]
fn conv2d_f16_is_clean_and_the_same_in_every_order() {
    conv2d_is_clean::<f16>();
}

#[test]
fn conv2d_bf16_is_clean_and_the_same_in_every_order() {
    conv2d_is_clean::<bf16>();
}

/// A problem of every kind through every kernel that applies: findings are failures, and the bits do not depend on the order of threads.
#[test]
fn every_kernel_gives_the_same_bits_in_every_order() {
    let checked = |seed| Device::host_with(HostOptions { checked: true, seed, ..Default::default() }).unwrap();
    let devices = [Device::host_with(warpconv::HostOptions::default()).unwrap(), checked(4), checked(5)];
    let mut compared = 0;
    for problem in (0..kinds().count() as u64).map(|index| Problem::random(6, index)) {
        for (dtype, format) in [(DType::F32, MemoryFormat::Contiguous), (DType::F16, MemoryFormat::ChannelsLast)] {
            let tensors = problem.tensors(dtype).unwrap();
            let (output, scale) = reference::layer(&problem.layer, &tensors).unwrap();
            let case = Case::new(problem.layer, &tensors, output, scale.into_data()).unwrap();
            let runs = devices.each_ref().map(|device| case.check(dtype, format, format, Kernels::All, device));
            for ((plain, one), other) in runs[0].iter().zip(&runs[1]).zip(&runs[2]) {
                assert!(
                    plain.outcome.is_ok() && one.outcome.is_ok() && other.outcome.is_ok(),
                    "{plain:?}, {one:?}, {other:?} of {problem:?}"
                );
                assert_eq!((plain.digest, plain.digest), (one.digest, other.digest), "{}: {problem:?}", plain.kernel);
                compared += usize::from(plain.digest.is_some());
            }
        }
    }
    assert!(compared > 500, "{compared}");
}

fn copies_are_clean<T: Element, U: Element>(device: &Device) {
    for shape in [[1, 1, 1, 1], [2, 33, 5, 7], [1, 70, 6, 11], [3, 2, 32, 33]] {
        for format in FORMATS {
            let [n, c, h, w] = shape;
            let wide = Tensor::<T>::randn(device, [n, c + 3, h, w], format, 7).unwrap();
            let slice = wide.channels(1..1 + c).unwrap();
            let values: Vec<f32> = slice.to_vec().unwrap().iter().map(|v| v.to_f32()).collect();
            for to in FORMATS {
                let copy: Vec<f32> = slice.to_format(to).unwrap().to_vec().unwrap().iter().map(|v| v.to_f32()).collect();
                assert_eq!(copy, values, "{shape:?}");
            }
            let rounded: Vec<f32> = values.iter().map(|&v| U::from_f32(v).to_f32()).collect();
            let cast: Vec<f32> = slice.cast::<U>().unwrap().to_vec().unwrap().iter().map(|v| v.to_f32()).collect();
            assert_eq!(cast, rounded, "{shape:?}");
            let whole: Vec<f32> = wide.to_vec().unwrap().iter().map(|v| U::from_f32(v.to_f32()).to_f32()).collect();
            let cast: Vec<f32> = wide.cast::<U>().unwrap().to_vec().unwrap().iter().map(|v| v.to_f32()).collect();
            assert_eq!(cast, whole, "{shape:?}");
        }
    }
}

#[test]
fn copies_between_formats_and_dtypes_are_clean() {
    for seed in SEEDS {
        let device = checked(seed);
        copies_are_clean::<f32, f16>(&device);
        copies_are_clean::<f32, f32>(&device);
        copies_are_clean::<f16, bf16>(&device);
        copies_are_clean::<bf16, f32>(&device);
    }
}

#[test]
fn transpose_moves_every_byte_once_and_meets_no_bank_conflict() {
    fn counters<T: Element>(shape: Shape) -> LaunchCounters {
        let device = checked(0);
        let x = Tensor::<T>::zeros(&device, shape, MemoryFormat::Contiguous).unwrap();
        x.to_format(MemoryFormat::ChannelsLast).unwrap();
        device.last_launch_counters().unwrap()
    }
    for shape in [[1, 64, 8, 8], [2, 33, 5, 7]] {
        let elements: u64 = shape.iter().product::<usize>() as u64;
        for (c, bytes) in [(counters::<f32>(shape), 4 * elements), (counters::<f16>(shape), 2 * elements)] {
            assert_eq!(c.bank_conflicts, 0, "{c:#?}");
            assert_eq!((c.global_bytes_read(), c.global_bytes_written(), c.unique_bytes()), (bytes, bytes, 2 * bytes), "{c:#?}");
        }
    }
}

/// The corpus of the repository, through the program.
#[test]
#[cfg(feature = "cli")]
fn the_corpus_is_clean_in_every_order() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/torch_dev");
    for seed in SEEDS {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_warpconv"));
        command.args(["conformance", corpus, "--filter", "^conv2d/", "--deny-skips", "--device", "host", "--checked"]);
        // every kernel in one order, the chosen ones in all
        command.args((seed == SEEDS[0]).then_some("--all-kernels"));
        let output = command.args(["--seed", &seed.to_string()]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.ends_with("89 passed, 0 failed, 0 skipped\n"), "seed {seed}:\n{text}");
    }
}
