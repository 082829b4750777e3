//! Garbage collections that run back to back while workers make all kinds of changes.

use std::process::Stdio;

use anyhow::{Context as _, Result};

use crate::outcome::Outcome;
use crate::site::Site;
use crate::stack::Stack;
use crate::work::{self, Work};

/// Runs workers that do `work`. Together they make at least `changes` changes while they also run
/// collections. Then compares the root with everything that the workers were promised.
pub(crate) fn storm(stack: &Stack, work: Work, changes: u64, seed: u64) -> Result<Outcome> {
    let mut site = Site::new(stack, seed)?;
    let mut workers = Vec::new();
    for process in 0..site.processes {
        let mut worker = site.worker(work, seed, process);
        let share = changes.div_ceil(site.processes);
        worker.args(["--changes", &share.to_string()]);
        let piped = worker.stdout(Stdio::piped()).stderr(Stdio::piped());
        workers.push(piped.spawn().context("cannot start a worker")?);
    }
    let (mut collections, mut lost) = (0, 0);
    for worker in workers {
        let output = worker.wait_with_output()?;
        let counted = work::printed(&output)?;
        let counted = counted.trim_end().split_once(' ');
        let counted = counted.context("expected a worker to print two numbers")?;
        collections += counted.0.parse::<u64>()?;
        lost += counted.1.parse::<u64>()?;
    }
    site.read_marks()?;
    Ok(Outcome {
        tried: changes,
        what: match lost {
            0 => format!("changes beside {collections} collections"),
            _ => format!("changes, of which {lost} lost a lease, beside {collections} collections"),
        },
        violations: site.compare_all()?,
    })
}
