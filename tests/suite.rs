//! The tests, as one program: the library and its kernels are linked once.
//!
//! Of their own are only the tests without the usual harness: with_gpu (tests/cuda.rs) and fuzz, and what a feature is needed for: candle.

mod bench;
mod checker;
mod cli;
mod conformance;
mod contiguous;
mod deformable;
mod depthwise;
mod dlpack;
mod extremes;
mod few_tiles;
mod floors;
mod gallery;
mod graphs;
mod grouped;
mod heap;
mod host_device;
mod invariance;
mod many_tiles;
mod messages;
mod plans;
mod properties;
mod reference;
mod roi;
mod selection;
mod separable;
mod shuffle;
mod strided;
mod tensors;
mod transposed;
mod tune;
mod upsample;
mod weights;

/// Cargo is told not to look for tests by itself: a file that is left out here would never run.
#[test]
fn every_file_of_tests_is_a_module() {
    const OTHERS: [&str; 3] = ["candle", "cuda", "suite"];
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let listed = include_str!("suite.rs");
    let mut files = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.file_stem().unwrap().to_str().unwrap();
            assert!(OTHERS.contains(&name) || listed.lines().any(|line| line == format!("mod {name};")), "tests/{name}.rs does not run");
            files += 1;
        }
    }
    assert!(files > 20, "{files} files");
}
