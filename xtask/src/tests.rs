//! Runs several binaries of tests at the same time. `cargo test` runs one binary after the other,
//! although many binaries wait for timers, processes and disks.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::output::{self, Output};
use crate::stage::{cargo, step};

/// Number of binaries that run at the same time. Each runs one test per core, and more than half of
/// the tests wait for something other than a core.
const SIDE_BY_SIDE: usize = 4;

/// If a binary ended before it printed its summary, the error repeats this number of lines from the
/// end of its output.
const LAST_LINES: usize = 20;

/// The time in which the processes that a binary started must end after the binary.
const PATIENCE: Duration = Duration::from_secs(60);

/// A binary of tests. Like `cargo test`, [`Binary::run`] passes the name and the directory of its
/// package to the tests in environment variables.
struct Binary {
    program: PathBuf,
    name: String,
    package: String,
    directory: PathBuf,
}

/// Builds and runs the tests of the packages that `selection` names, and then the tests in their
/// documentation. If the tests build, all of them are run, even if some fail.
///
/// # Errors
/// An error if the tests do not build. Otherwise, an error that names each binary that failed, with
/// the output of its failed tests. If the tests in the documentation failed, the error names the
/// command that ran them.
pub(crate) fn run(selection: &[&str]) -> Result<()> {
    let mut waiting = binaries(selection)?;
    waiting.reverse();
    let (waiting, failed) = (Mutex::new(waiting), Mutex::new(Vec::new()));
    let next = || waiting.lock().ok()?.pop();
    thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                while let Some(binary) = next() {
                    if let Err(error) = binary.run()
                        && let Ok(mut failed) = failed.lock()
                    {
                        failed.push(format!("{error:#}"));
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().unwrap_or_default();
    let documentation = [&["test", "--no-fail-fast", "--doc"], selection].concat();
    if let Err(error) = step(&mut cargo(&documentation)) {
        failed.push(format!("{error:#}"));
    }
    if failed.is_empty() {
        return Ok(());
    }
    bail!("{}", failed.join("\n"))
}

/// Builds and returns the binaries of tests.
fn binaries(selection: &[&str]) -> Result<Vec<Binary>> {
    let build = [
        &[
            "test",
            "--no-run",
            "--message-format=json-render-diagnostics",
        ],
        selection,
    ]
    .concat();
    let built = cargo(&build).stderr(Stdio::inherit()).output()?;
    if !built.status.success() {
        bail!("the tests do not build; see the errors of the compiler above");
    }
    let mut found = Vec::new();
    for message in String::from_utf8(built.stdout)?.lines() {
        let message = serde_json::from_str(message).context("cargo's message is not JSON")?;
        found.extend(Binary::of(&message));
    }
    Ok(found)
}

impl Binary {
    /// Returns the binary that one of cargo's messages names, or `None` if it names none.
    fn of(message: &Value) -> Option<Self> {
        let program = message["executable"].as_str()?;
        if message["profile"]["test"] != true {
            return None;
        }
        let manifest = Path::new(message["manifest_path"].as_str()?);
        let directory = manifest.parent()?;
        // `path+file:///work/cas-core#oci-cas-core@0.1.0`, or `path+file:///work/xtask#0.1.0` if
        // the directory has the name of the package.
        let (_, package) = message["package_id"].as_str()?.rsplit_once('#')?;
        let package = package.split_once('@').map(|(name, _)| name);
        Some(Binary {
            program: program.into(),
            name: message["target"]["name"].as_str()?.to_owned(),
            package: package.or(directory.file_name()?.to_str())?.to_owned(),
            directory: directory.to_owned(),
        })
    }

    /// Runs the tests, and prints their output when they have ended.
    fn run(&self) -> Result<()> {
        let begun = Instant::now();
        let mut command = Command::new(&self.program);
        command
            .current_dir(&self.directory)
            .env("CARGO_MANIFEST_DIR", &self.directory)
            .env("CARGO_PKG_NAME", &self.package)
            .stdin(Stdio::null());
        let ran = output::run(command, PATIENCE)
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let title = format!("{} of {}", self.name, self.package);
        eprintln!(
            "==> {title}\n{}{}<== {:.1} s",
            ran.stdout,
            ran.stderr,
            begun.elapsed().as_secs_f64()
        );
        check(&title, &ran)
    }
}

/// Returns an error if a binary of tests failed, or left processes behind that hold its output.
fn check(title: &str, ran: &Output) -> Result<()> {
    let mut wrong = Vec::new();
    if !ran.status.success() {
        let failures = failures(&ran.stdout);
        wrong.push(format!("{title} ended with {}\n{failures}", ran.status));
    }
    if !ran.held_by.is_empty() {
        wrong.push(format!(
            "{title} left processes that held its output for {} s after its end; make its tests \
             end these processes: {}",
            PATIENCE.as_secs(),
            ran.held_by.join(", ")
        ));
    }
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("{}", wrong.join("\n"))
}

/// Returns what a binary of tests printed about the tests that failed. If the binary ended before
/// it could print that, returns the last [`LAST_LINES`] lines that it printed.
fn failures(printed: &str) -> &str {
    let last = || printed.rmatch_indices('\n').nth(LAST_LINES);
    let begins = printed.find("\nfailures:\n");
    let begins = begins.or_else(|| last().map(|(begins, _)| begins));
    &printed[begins.unwrap_or(0)..]
}

#[cfg(test)]
mod errors {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;

    use super::*;

    #[test]
    fn a_failed_test_and_a_process_that_is_left_behind_are_errors() {
        let ran = |code: i32, held_by: &[&str]| Output {
            status: ExitStatus::from_raw(code << 8),
            stdout: "running\n\nfailures:\none\n".to_owned(),
            stderr: String::new(),
            held_by: held_by.iter().map(|&holder| holder.to_owned()).collect(),
        };
        let wrong = |ran: Output| check("a of b", &ran).unwrap_err().to_string();
        check("a of b", &ran(0, &[])).unwrap();
        let failed = "a of b ended with exit status: 101\n\nfailures:\none\n";
        assert_eq!(wrong(ran(101, &[])), failed);
        let left = "a of b left processes that held its output for 60 s after its end; make its \
                    tests end these processes: 7 sleep 9, 8 cat";
        assert_eq!(wrong(ran(0, &["7 sleep 9", "8 cat"])), left);
        let both = wrong(ran(101, &["7 sleep 9", "8 cat"]));
        assert_eq!(both, format!("{failed}\n{left}"));
    }
}
