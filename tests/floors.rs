//! The floors of the library: a module imports only modules of its own floor and of those below.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// From the bottom. Modules of one floor may import each other.
const FLOORS: &[&[&str]] = &[
    &["error", "dtype", "shape", "text", "memory", "files"],
    &["spec"],
    &["geometry", "numerics"],
    &["device", "build_info"],
    &["tensor"],
    &["dlpack"],
    &["plan"],
    &["tuning"],
    &["kernels"],
    &["layers"],
    &["analysis", "bench", "candle", "cases", "check", "cli", "factorise", "io", "reference", "testing"],
];

fn sources(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The code of a file: without comments, and without the tests at its end.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let text = text.split("#[cfg(all(test, feature = \"host\"))]\nmod tests {").next().unwrap();
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// What follows every `crate::` of a file: names of modules, or of what lib.rs exports.
fn imported(code: &str) -> BTreeSet<String> {
    let name = |text: &str| text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut names = BTreeSet::new();
    for part in code.split("crate::").skip(1) {
        match part.strip_prefix('{') {
            None => drop(names.insert(name(part))),
            Some(group) => {
                let mut depth = 0;
                let inside = |c: &char| {
                    depth += i32::from(*c == '{') - i32::from(*c == '}');
                    depth >= 0
                };
                let group: String = group.chars().take_while(inside).collect();
                let mut depth = 0;
                let split = |c: char| {
                    depth += i32::from(c == '{') - i32::from(c == '}');
                    c == ',' && depth == 0
                };
                names.extend(group.split(split).map(name));
            }
        }
    }
    names
}

/// The module from which lib.rs exports each name.
fn exported(lib: &str) -> BTreeMap<String, String> {
    let mut modules = BTreeMap::new();
    for statement in lib.split(';').filter_map(|statement| statement.split("pub use ").nth(1)) {
        if let Some((module, names)) = statement.split_once("::") {
            let names = names.trim_matches(['{', '}']).split(',').map(|name| name.trim().to_string());
            modules.extend(names.map(|name| (name, module.trim().to_string())));
        }
    }
    modules
}

#[test]
fn no_arrow_climbs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let floor = |module: &str| FLOORS.iter().position(|floor| floor.contains(&module));
    let exported = exported(&code(&root.join("lib.rs")));
    let (mut files, mut arrows, mut climbing) = (vec![], 0, BTreeSet::new());
    sources(&root, &mut files);
    for path in files {
        let own = path.strip_prefix(&root).unwrap().components().next().unwrap().as_os_str().to_str().unwrap().to_string();
        let own = own.trim_end_matches(".rs");
        // unit tests, in a file tests.rs or its modules, may use every floor
        let is_test = path.ends_with("tests.rs") || path.strip_prefix(&root).unwrap().iter().any(|part| part == "tests");
        if ["lib", "main"].contains(&own) || is_test {
            continue;
        }
        let from = floor(own).unwrap_or_else(|| panic!("{own} stands on no floor"));
        for name in imported(&code(&path)) {
            let module = exported.get(&name).unwrap_or(&name);
            let Some(to) = floor(module) else { continue };
            arrows += 1;
            if to > from {
                climbing.insert((own.to_string(), module.clone(), path.strip_prefix(&root).unwrap().display().to_string()));
            }
        }
    }
    assert!(climbing.is_empty(), "{climbing:#?}");
    assert!(arrows > 300, "{arrows} imports were read");
}
