//! Counters of a launch, for kernels whose figures are known (tests/kernels/counters.cu).

use warpconv::testing::{Operand, launch};
use warpconv::{Device, LaunchCounters, Tensor};

use super::{checked, nothing, ramp};

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
