//! Fuzzing with libFuzzer and the stable compiler.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::stage::{cargo, step};

/// Makes the compiler add code that counts executed branches and records comparisons, as libFuzzer
/// expects. With the last option, the compiled code compares even short texts with `memcmp`, and
/// libFuzzer records these calls.
const COUNTERS: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Cllvm-args=-max-loads-per-memcmp=0";

/// The directory for the build, for findings, and for the corpus that the runs extend.
const WORK: &str = "target/fuzz";
/// The log of the runs. A run continues where the log ends.
const LOG: &str = "target/fuzz.log";

/// Checks that libFuzzer finds faults that were planted for this check. Then runs each target until
/// its runs, including those in the log, have used `minutes` of CPU time. A finding ends the run of
/// its target.
///
/// # Errors
/// Errors of the build; an error if a planted fault is not found, or if this run or the log has
/// findings.
pub(crate) fn run(minutes: f64) -> Result<()> {
    let host = host()?;
    // With an explicit target, programs that run during the build have no counters.
    let build = [
        "build",
        "--package",
        "oci-cas-fuzz",
        "--features",
        "libfuzzer",
        "--bin",
        "libfuzzer",
        "--profile",
        "fuzz",
        "--target",
        &host,
        "--target-dir",
        WORK,
    ];
    step(cargo(&build).env("RUSTFLAGS", COUNTERS))?;
    fs::create_dir_all(WORK)?;
    let program = format!("{WORK}/{host}/fuzz/libfuzzer");
    let minutes = minutes.to_string();
    let run = ["run", "--package", "oci-cas-fuzz", "--bin", "fuzz", "--"];
    let all = ["all", "--minutes", &minutes, "--program", &program];
    let files = ["--work", WORK, "--log", LOG];
    step(&mut cargo(&[&run[..], &all, &files].concat()))
}

/// Returns the target triple of this machine, such as `x86_64-unknown-linux-gnu`.
fn host() -> Result<String> {
    let about = Command::new("rustc").arg("-vV").output();
    let about = String::from_utf8(about.context("cannot start rustc")?.stdout)?;
    match about.lines().find_map(|line| line.strip_prefix("host: ")) {
        Some(host) => Ok(host.to_owned()),
        None => bail!("rustc -vV does not name the host"),
    }
}
