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

/// Tests all stores, compositions of stores, and snapshotters, and writes the results to [`PAGE`].
/// Leaves out RocksDB if it cannot be built.
///
/// # Errors
/// An error if a test failed, for example because a store breaks a law; the page is written before
/// this error is returned. Errors of the set-up, of the commands, and of reading and writing files.
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
    let parts = old.split_once(BEGIN);
    let parts = parts.and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let Some((before, after)) = parts else {
        bail!(
            "expected the mark {BEGIN} and, after it, the mark {END} in {}; add the marks",
            page.display()
        );
    };
    fs::write(page, format!("{before}{BEGIN}\n{text}{END}{after}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_keeps_all_that_is_outside_of_its_marks() {
        let page = std::env::temp_dir().join(format!("cas-laws-{}", std::process::id()));
        let write = |text: &str| {
            fs::write(&page, text)?;
            write_between(&page, "new\n")
        };
        let read = || fs::read_to_string(&page).unwrap();
        write(&format!("a\n{BEGIN}\nold\n{END}\nb")).unwrap();
        assert_eq!(read(), format!("a\n{BEGIN}\nnew\n{END}\nb"));
        for without in [format!("a {END} b {BEGIN} c"), BEGIN.into(), END.into()] {
            write(&without).unwrap_err();
            assert_eq!(read(), without);
        }
        fs::remove_file(page).unwrap();
    }
}
