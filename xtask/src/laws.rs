//! Runs the conformance tests of every store and snapshotter, and writes the results into
//! docs/BACKENDS.md.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::stage::step;
use crate::{everything, peers};

/// The page with the results, which are between the marks [`BEGIN`] and [`END`].
const PAGE: &str = "docs/BACKENDS.md";
const BEGIN: &str = "<!-- laws -->";
const END: &str = "<!-- /laws -->";

/// The test targets with conformance tests, in any package.
const SUITES: &[&str] = &["laws", "composed", "s3"];

/// Tests all stores, compositions and snapshotters, and writes the page. Leaves out RocksDB if it
/// cannot be built.
///
/// # Errors
/// An error after the page was written, if a test failed, such as a test of a broken law; errors of
/// the set-up, the files and the commands.
pub(crate) fn report() -> Result<()> {
    peers::set_up()?;
    let verdicts = env::current_dir()?.join("target/laws");
    if verdicts.exists() {
        fs::remove_dir_all(&verdicts)?;
    }
    let suites = SUITES.iter().flat_map(|suite| ["--test", suite]);
    let judged = step(
        Command::new("cargo")
            .args(["test", "--no-fail-fast"])
            .args(everything())
            .args(suites)
            .env("CONFORMANCE_REPORT", &verdicts),
    );
    let told = Command::new("cargo")
        .args(["run", "--quiet", "--package", "oci-cas-conformance"])
        .args(["--bin", "law-report", "--"])
        .arg(&verdicts)
        .output()
        .context("cannot start law-report")?;
    if told.stdout.is_empty() {
        bail!(
            "law-report printed no results: {}",
            String::from_utf8_lossy(&told.stderr)
        );
    }
    write_between(Path::new(PAGE), &String::from_utf8(told.stdout)?)?;
    judged
}

/// Replaces the text between the two marks of the page.
fn write_between(page: &Path, text: &str) -> Result<()> {
    let old =
        fs::read_to_string(page).with_context(|| format!("cannot read {}", page.display()))?;
    let (Some((before, rest)), true) = (old.split_once(BEGIN), old.contains(END)) else {
        bail!(
            "expected the marks {BEGIN} and {END} in {}; add them",
            page.display()
        );
    };
    let after = rest.split_once(END).map_or("", |(_, after)| after);
    fs::write(page, format!("{before}{BEGIN}\n{text}{END}{after}"))?;
    Ok(())
}
