//! Prints the bits of results, for scripts/compare-bits: `bits write COUNT SEED` prints problems, one a line in JSON; `bits run FILE`
//! runs each of them in every dtype and format through every kernel that applies, and prints what was run with a digest of y.

use std::fs;
use std::io::{self, BufWriter, Write};
use warpconv::cases::Problem;
use warpconv::check::every_run;
use warpconv::{Device, HostOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut out = BufWriter::new(io::stdout().lock());
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["write", count, seed] => {
            for index in 0..count.parse()? {
                writeln!(out, "{}", serde_json::to_string(&Problem::random(seed.parse()?, index))?)?;
            }
        }
        ["run", file] => {
            let device = Device::host_with(HostOptions::default())?;
            for (index, line) in fs::read_to_string(file)?.lines().enumerate() {
                for run in every_run(&serde_json::from_str(line)?, &device)? {
                    let digest = run.digest.map_or("none".to_string(), |digest| format!("{digest:016x}"));
                    writeln!(out, "{index}/{}/{}/{}/{} {digest}", run.dtype, run.x_format, run.y_format, run.kernel)?;
                }
            }
        }
        _ => return Err("usage: bits write COUNT SEED | bits run FILE".into()),
    }
    Ok(out.flush()?)
}
