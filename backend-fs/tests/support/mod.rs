//! A program that uses a store, made of this test binary itself: to be killed, or run by dozens.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test binary uses a part of it, and a broken helper is a failed test"
)]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};

use backend_fs::FsStore;
use cas_core::content::Durability;
use cas_core::image::Image;
use cas_core::{Descriptor, MediaType, Result, Store, pool::wait};

const TASK: &str = "CAS_FS_TASK";

/// The blobs and names that the task `work` makes.
pub(crate) const STEPS: [&str; 2] = ["one", "two"];

/// What the step `step` stores.
pub(crate) fn target(step: &str) -> Descriptor {
    Descriptor::of(MediaType::OCI_LAYER, &data(step))
}

fn data(step: &str) -> Vec<u8> {
    step.as_bytes().repeat(20_000)
}

/// The name that the step `step` makes.
pub(crate) fn name(step: &str) -> cas_core::image::Reference {
    format!("x.io/{step}:1").parse().unwrap()
}

/// Runs the task that this process was started for, if it was; every binary calls it in a test
/// of the name `task`.
pub(crate) fn run_task() {
    let Ok(task) = std::env::var(TASK) else {
        return;
    };
    let (step, path) = task.split_once(' ').unwrap();
    let steps: Vec<&str> = match step {
        "all" => STEPS.to_vec(),
        one => vec![one],
    };
    if let Err(error) = work(&steps, Path::new(path)) {
        say(&format!("failed: {error:?}"));
        std::process::exit(1);
    }
}

fn work(steps: &[&str], path: &Path) -> Result<()> {
    let store = FsStore::open(path)?.store();
    say("acknowledged open");
    for step in steps {
        wait(make(&store, step))?;
        say(&format!("acknowledged {step}"));
    }
    Ok(())
}

async fn make(store: &Store, step: &str) -> Result<()> {
    let (target, data) = (target(step), data(step).into());
    store.put(&target, data, Durability::Full).await?;
    if store.images.get(&name(step)).await?.is_none() {
        let image = Image::new(name(step), target);
        store.images.create(image).await?;
    }
    Ok(())
}

/// One write, past the capture of the test harness, so that a trace shows it.
fn say(text: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "\n{text}").unwrap();
    out.flush().unwrap();
}

/// The command that runs `step` on the store at `path`, under `before` where that is not empty.
pub(crate) fn command(before: &[&str], step: &str, path: &Path) -> Command {
    let binary = std::env::current_exe().unwrap();
    let mut command = match before.split_first() {
        None => Command::new(&binary),
        Some((program, arguments)) => {
            let mut command = Command::new(program);
            command.args(arguments).arg(&binary);
            command
        }
    };
    command
        .args(["--exact", "task", "--nocapture", "--test-threads=1"])
        .env(TASK, format!("{step} {}", path.display()));
    command
}

/// The steps that a task acknowledged.
pub(crate) fn acknowledged(output: &Output) -> Vec<String> {
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.strip_prefix("acknowledged "))
        .map(str::to_owned)
        .collect()
}

/// Whether a program is there; says so where it is not.
pub(crate) fn installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        eprintln!("SKIPPED: {program} is not installed");
    }
    found
}
