//! Collection of 100,000 blobs of about 100 bytes: all of them live, half of them, none; and how
//! long one who publishes 4 KiB at a time waits while a collection runs.
//!
//! `cargo bench --bench collect -- [time] [writer] [redb] [fs] [memory]`; all without any.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench may stop anywhere"
)]

#[path = "collect/fill.rs"]
mod fill;
#[path = "../src/bin/peers/place.rs"]
mod place;
#[path = "collect/writer.rs"]
mod writer;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use cas::collect::{Collected, Options, collect};
use cas::memory::MemoryStore;
use cas::{Location, Store};
use fill::{BLOBS, fill};
use tokio::runtime::{Builder, Runtime};

const ROUNDS: usize = 3;
/// Set in the process that collects: the scheme and the place of the store.
const CHILD: &str = "CAS_BENCH_COLLECT";
/// How many of the names stay, and what that is called.
const SHAPES: [(&str, u32); 3] = [("all live", 2), ("half dead", 1), ("all dead", 0)];

fn main() -> Result<()> {
    let runtime = Builder::new_current_thread().enable_time().build()?;
    if let Ok(place) = std::env::var(CHILD) {
        return child(&runtime, &place);
    }
    let named: Vec<String> = std::env::args().skip(1).collect();
    let named: Vec<&String> = named.iter().filter(|name| *name != "--bench").collect();
    let of = |kinds: &[&str]| named.iter().any(|name| kinds.contains(&name.as_str()));
    let (parts, schemes) = (["time", "writer"], ["redb", "fs", "memory"]);
    let wanted = |name: &str, kind: &[&str]| !of(kind) || of(&[name]);
    let journaled = place::Place::new(None)?;
    let memory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
    if wanted("time", &parts) {
        for scheme in schemes.iter().filter(|scheme| wanted(scheme, &schemes)) {
            if *scheme == "memory" {
                in_memory(&runtime)?;
                continue;
            }
            on(&runtime, scheme, memory.path(), "tmpfs")?;
            on(&runtime, scheme, journaled.path(), journaled.kind())?;
        }
    }
    if wanted("writer", &parts) {
        writer::run(memory.path())?;
    }
    Ok(())
}

/// Opens the store in `directory`, as a program would.
fn open(runtime: &Runtime, scheme: &str, directory: &Path) -> Result<Store> {
    let location = Location::of_path(scheme, directory);
    Ok(runtime.block_on(cas::registry().open(&location))?)
}

/// Two days from now, when nothing is young any more.
fn later() -> Options {
    Options {
        now: SystemTime::now() + Duration::from_secs(2 * 24 * 60 * 60),
        ..Options::default()
    }
}

/// What is printed of the runs of one shape.
fn report(what: &str, times: &mut [Duration], peak: Option<u64>) {
    times.sort();
    let (least, most) = (times[0], times[times.len() - 1]);
    let median = times[times.len() / 2];
    let peak = peak.map_or(String::new(), |peak| format!(", {peak} MiB at most"));
    println!("{what}: {median:.2?} ({least:.2?} to {most:.2?}){peak}");
}

fn expected(shape: u32, collected: &Collected) -> Result<()> {
    let (found, wanted) = (collected.blobs.len(), (2 - shape) * BLOBS / 2);
    ensure!(found == wanted as usize, "{found} of {wanted} removed");
    Ok(())
}

fn in_memory(runtime: &Runtime) -> Result<()> {
    for (name, shape) in SHAPES {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let store = MemoryStore::new().with_images();
            runtime.block_on(fill(&store, shape))?;
            let begun = Instant::now();
            let collected = runtime.block_on(collect(&store, &[], &later()))?;
            times.push(begun.elapsed());
            expected(shape, &collected)?;
        }
        report(&format!("memory, {name}"), &mut times, None);
    }
    Ok(())
}

/// Each run is a process of its own, whose memory is that of the store and the collection alone.
fn on(runtime: &Runtime, scheme: &str, place: &Path, kind: &str) -> Result<()> {
    for (name, shape) in SHAPES {
        let (mut times, mut most) = (Vec::new(), 0);
        let (filled, used) = (place.join("filled"), place.join("used"));
        runtime.block_on(fill(&open(runtime, scheme, &filled)?, shape))?;
        for _ in 0..ROUNDS {
            run(Command::new("cp").arg("-a").arg(&filled).arg(&used))?;
            run(&mut Command::new("sync"))?;
            let said = run(Command::new(std::env::current_exe()?)
                .env(CHILD, format!("{scheme} {shape} {}", used.display())))?;
            let (time, peak) = said.trim().split_once(' ').context(said.clone())?;
            times.push(Duration::from_nanos(time.parse()?));
            most = most.max(peak.parse()?);
            std::fs::remove_dir_all(&used)?;
        }
        std::fs::remove_dir_all(&filled)?;
        report(
            &format!("{scheme} on {kind}, {name}"),
            &mut times,
            Some(most),
        );
    }
    Ok(())
}

/// Collects; prints nanoseconds, and the MiB at the peak beyond those of the open store.
fn child(runtime: &Runtime, place: &str) -> Result<()> {
    let (scheme, place) = place.split_once(' ').context("no scheme")?;
    let (shape, place) = place.split_once(' ').context("no shape")?;
    let store = open(runtime, scheme, Path::new(place))?;
    let before = peak()?;
    let begun = Instant::now();
    let collected = runtime.block_on(collect(&store, &[], &later()))?;
    println!("{} {}", begun.elapsed().as_nanos(), peak()? - before);
    expected(shape.parse()?, &collected)
}

/// The peak of this process's memory, in MiB.
fn peak() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kib.unwrap_or_default().trim().parse::<u64>()? >> 10)
}

/// Runs a command that must succeed; what it says.
fn run(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    ensure!(output.status.success(), "{command:?}: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// As [`run`], for the place.
fn finish(command: &mut Command) -> Result<()> {
    run(command).map(|_| ())
}
