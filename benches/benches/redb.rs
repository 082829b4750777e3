//! The store in one file beside what it stands on: redb called directly, and plain files that
//! keep the same promise. Ratios of runs that take turns, on a journaled ext4.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench may stop anywhere"
)]

#[path = "redb/large.rs"]
mod large;
#[path = "../src/bin/peers/place.rs"]
mod place;
#[path = "redb/small.rs"]
mod small;
#[path = "redb/stat.rs"]
mod stat;
#[path = "../src/bin/peers/warm.rs"]
mod warm;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cas::{Location, Store};
use tokio::runtime::{Builder, Runtime};

const ROUNDS: usize = 3;

fn main() -> Result<()> {
    let runtime = Builder::new_current_thread().enable_time().build()?;
    // Names of parts, as `cargo bench --bench redb -- large`, all without any; and a directory to
    // work in, as `-- small /mnt`.
    let named: Vec<String> = std::env::args().skip(1).collect();
    let (given, parts): (Vec<&str>, Vec<&str>) = named
        .iter()
        .map(String::as_str)
        .filter(|name| *name != "--bench")
        .partition(|name| name.starts_with('/'));
    let place = place::Place::new(given.first().map(Path::new))?;
    println!("on {}; median of {ROUNDS} rounds", place.kind());
    let wanted = |part| parts.is_empty() || parts.contains(&part);
    if wanted("stat") {
        stat::run(&runtime)?;
    }
    warm::touch_memory(place.path())?;
    if wanted("small") {
        small::run(&runtime, place.path())?;
    }
    if wanted("large") {
        large::run(&runtime, place.path())?;
    }
    Ok(())
}

/// Opens the store in `directory`, as a program would.
fn open(runtime: &Runtime, directory: &Path) -> Result<Store> {
    let location = Location::of_path("redb", directory);
    Ok(runtime.block_on(cas::registry().open(&location))?)
}

/// How long `work` takes.
fn time(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed())
}

/// Runs the contenders in turn; the median time of each.
fn turns<const N: usize>(
    mut run: impl FnMut(usize, usize) -> Result<Duration>,
) -> Result<[Duration; N]> {
    let mut times = [[Duration::ZERO; ROUNDS]; N];
    for round in 0..ROUNDS {
        for (contender, times) in times.iter_mut().enumerate() {
            times[round] = run(contender, round)?;
        }
    }
    Ok(times.map(|mut times| {
        times.sort();
        times[ROUNDS / 2]
    }))
}

/// One line of the result.
fn report(what: &str, goal: f64, ours: f64, other: f64, unit: &str) {
    let ratio = ours / other;
    let verdict = if ratio >= goal { "met" } else { "MISSED" };
    println!("{what}: {ours:.0} {unit}, other {other:.0}: {ratio:.2} of it, goal {goal} {verdict}");
}

/// Forgets the peak of this process's memory.
fn reset_peak() -> Result<()> {
    Ok(std::fs::write("/proc/self/clear_refs", "5")?)
}

/// The peak since then, in MiB.
fn peak() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kib.unwrap_or_default().trim().parse::<u64>()? >> 10)
}

/// Runs a command that must succeed.
fn finish(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    ensure!(output.status.success(), "{command:?}: {output:?}");
    Ok(())
}
