//! A program that uses a store, made of this test binary itself: to be killed, or to hold it.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test binary uses a part of it, and a broken helper is a failed test"
)]

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Output};

use backend_redb::RedbStore;
use cas_core::content::Durability;
use cas_core::image::Image;
use cas_core::{ContentExt, Descriptor, MediaType, Result, pool::wait};

const TASK: &str = "CAS_REDB_TASK";

/// The blobs and names that the task `all` makes; the second is of many rows, the third goes.
pub(crate) const STEPS: [&str; 3] = ["one", "two", "gone"];

/// What the step `step` stores.
pub(crate) fn target(step: &str) -> Descriptor {
    Descriptor::of(MediaType::OCI_LAYER, &data(step))
}

fn data(step: &str) -> Vec<u8> {
    let length = if step == "one" { 20_000 } else { 1_400_000 };
    step.bytes().cycle().take(length).collect()
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
    let (task, path) = task.split_once(' ').unwrap();
    let done = match task {
        "hold" => hold(Path::new(path)),
        _ => work(Path::new(path)),
    };
    if let Err(error) = done {
        say(&format!("failed: {error:?}"));
        std::process::exit(1);
    }
}

/// Holds the store until the standard input ends.
fn hold(path: &Path) -> Result<()> {
    let _store = RedbStore::open(path)?;
    say("acknowledged open");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn work(path: &Path) -> Result<()> {
    let store = RedbStore::open(path)?.store();
    say("acknowledged open");
    for step in STEPS {
        wait(async {
            let target = target(step);
            store
                .put(&target, data(step).into(), Durability::Full)
                .await?;
            if store.images.get(&name(step)).await?.is_none() {
                let image = Image::new(name(step), target);
                store.images.create(image).await?;
            }
            Ok::<_, cas_core::Error>(())
        })?;
        say(&format!("acknowledged {step}"));
    }
    wait(async {
        let gone = target("gone");
        store.images.delete(&name("gone"), Some(&gone)).await?;
        store.blobs().remove(&gone.digest).await?;
        store.content.remove(&gone.digest).await?;
        store.content.flush().await
    })?;
    say("acknowledged removal");
    Ok(())
}

/// One write, past the capture of the test harness, so that a trace shows it.
fn say(text: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "\n{text}").unwrap();
    out.flush().unwrap();
}

/// The command that runs `task` on the store at `path`, under `before` where that is not empty.
pub(crate) fn command(before: &[&str], task: &str, path: &Path) -> Command {
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
        .env(TASK, format!("{task} {}", path.display()));
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
