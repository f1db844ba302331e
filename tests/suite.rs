//! The tests, as one program: the library and its kernels are linked once.
//!
//! Of their own are only the tests without the usual harness: with_gpu (tests/cuda.rs) and fuzz, and what a feature is needed for: candle.

use std::path::Path;

mod bench;
mod checker;
mod cli;
mod common;
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
mod pool;
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

/// Cargo is told not to look for tests by itself: a file that is left out here, or in the module whose folder it is in, would never
/// run.
#[test]
fn every_file_of_tests_is_a_module() {
    /// How many files of `folder` are modules of the file `parent`, and modules of these.
    fn modules(folder: &Path, parent: &Path) -> usize {
        const PROGRAMS: [&str; 3] = ["candle", "cuda", "suite"];
        let listed = std::fs::read_to_string(parent).unwrap();
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut count = 0;
        for file in files.filter(|file| file.extension().is_some_and(|extension| extension == "rs")) {
            let name = file.file_stem().unwrap().to_str().unwrap();
            if parent.ends_with("tests/suite.rs") && PROGRAMS.contains(&name) {
                continue;
            }
            assert!(listed.lines().any(|line| line == format!("mod {name};")), "{} does not run", file.display());
            let own = file.with_extension("");
            count += 1 + if own.is_dir() { modules(&own, &file) } else { 0 };
        }
        count
    }
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let count = modules(&tests, &tests.join("suite.rs"));
    assert!(count > 20, "{count} files");
}
