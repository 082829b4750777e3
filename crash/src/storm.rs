//! Collections back to back beside all kinds of changes.

use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use crate::outcome::Outcome;
use crate::site::Site;
use crate::stack::Stack;
use crate::work::Work;

/// Makes `changes` changes beside collections, and compares everything with what was promised.
pub(crate) fn storm(stack: &Stack, changes: u64, seed: u64) -> Result<Outcome> {
    let mut site = Site::new(stack, seed)?;
    let mut workers = Vec::new();
    for process in 0..site.processes {
        let mut worker = site.worker(Work::Storm, seed, process);
        let share = changes.div_ceil(site.processes);
        worker.args(["--changes", &share.to_string()]);
        let piped = worker.stdout(Stdio::piped()).stderr(Stdio::piped());
        workers.push(piped.spawn().context("start a worker")?);
    }
    let mut collections = 0;
    for worker in workers {
        let output = worker.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            bail!("a worker failed ({}): {}", output.status, said.trim_end());
        }
        let counted = String::from_utf8_lossy(&output.stdout);
        collections += counted.trim_end().parse::<u64>()?;
    }
    site.read_marks()?;
    Ok(Outcome {
        tried: changes,
        what: format!("changes beside {collections} collections"),
        violations: site.compare_all()?,
    })
}
