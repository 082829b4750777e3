//! What is measured in a process of its own: its peak of memory, its syncs, and its death.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use cas_core::{Context, Error, ErrorKind, Result};

use crate::column::{Column, Contender, gap};
use crate::data;
use crate::memory::Peak;

/// What counts as a sync.
const SYNCS: &str = "trace=fsync,fdatasync,sync,syncfs,sync_file_range,msync";
/// A process that waits to be killed ends by itself some day.
const PATIENCE: Duration = Duration::from_secs(60);
const READY: &str = "ready";
/// What is said of a task that the column cannot do.
const GAP: &str = "gap";
/// Blobs that are there before the kill, and what they are made of.
pub(crate) const STORED: usize = 1000;
pub(crate) const SEED: u64 = 77;

/// How this program starts itself again, to call [`task`] with the column, the task and the
/// directory that follow these arguments.
pub struct Again {
    /// The program.
    pub program: PathBuf,
    /// Arguments before those three.
    pub arguments: Vec<OsString>,
}

/// A task in a directory.
pub(crate) struct Task<'a> {
    pub(crate) again: &'a Again,
    pub(crate) column: &'a str,
    pub(crate) directory: &'a Path,
}

impl Task<'_> {
    fn arguments(&self, command: &mut Command, task: &str) {
        command.args(&self.again.arguments);
        command.args([self.column, task]).arg(self.directory);
    }

    /// Runs it to its end; the numbers it prints.
    pub(crate) fn run(&self, task: &str) -> Result<Vec<f64>> {
        let mut command = Command::new(&self.again.program);
        self.arguments(&mut command, task);
        let said = said(command.output().during("run", task)?)?;
        Ok(said
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect())
    }

    /// Lets it write, and kills it.
    pub(crate) fn kill(&self) -> Result<()> {
        let mut command = Command::new(&self.again.program);
        self.arguments(&mut command, "write");
        command.stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = Mortal(command.spawn().during("run", "write")?);
        let mut said = String::new();
        if let Some(out) = child.0.stdout.take() {
            BufReader::new(out).read_line(&mut said)?;
        }
        if said.trim() != READY {
            return Err(Error::internal(
                "the process that is to be killed ended before",
            ));
        }
        std::thread::sleep(Duration::from_millis(50));
        Ok(())
    }

    /// How many syncs the task makes beyond those of a task of none, for each of `count` items.
    pub(crate) fn syncs(&self, task: &str, count: usize) -> Result<f64> {
        let some = self.traced(&format!("{task}:{count}"))?;
        let none = self.traced(&format!("{task}:0"))?;
        Ok((some - none) / count as f64)
    }

    fn traced(&self, task: &str) -> Result<f64> {
        let report = tempfile::NamedTempFile::new()?;
        let mut command = Command::new("strace");
        command
            .args(["-f", "-c", "-e", SYNCS, "-o"])
            .arg(report.path());
        command.arg(&self.again.program);
        self.arguments(&mut command, task);
        let output = command
            .output()
            .map_err(|_| Error::unsupported("strace, which counts them, is not installed"))?;
        said(output)?;
        Ok(calls(&std::fs::read_to_string(report.path())?))
    }
}

/// What a task said; the first line of its complaint where it failed.
fn said(output: Output) -> Result<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let (said, complaint) = (text(&output.stdout), text(&output.stderr));
    match (output.status.success(), said.as_str()) {
        (true, GAP) => Err(gap()),
        (true, _) => Ok(said),
        (false, _) => {
            let complaint = complaint.lines().next().unwrap_or("it said nothing");
            Err(Error::internal(format!("{}: {complaint}", output.status)))
        }
    }
}

/// The calls of a summary of strace: the fourth field of each line that ends with a name.
fn calls(summary: &str) -> f64 {
    let count = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        match fields.last() {
            Some(&"total") | None => None,
            Some(_) => fields.get(3)?.parse::<f64>().ok(),
        }
    };
    summary.lines().filter_map(count).sum()
}

/// A process that does not outlive its handle.
struct Mortal(Child);

impl Drop for Mortal {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// In the process that was started again: does the task, and prints what it measured.
///
/// # Errors
/// `InvalidArgument` for an unknown column or task; those of the column.
pub async fn task(
    contenders: &[Contender],
    column: &str,
    task: &str,
    directory: &Path,
) -> Result<()> {
    let contender = contenders.iter().find(|contender| contender.name == column);
    let contender = contender.ok_or_else(|| Error::invalid("no such column").subject(column))?;
    let column = (contender.open)(directory.to_owned()).await?;
    let column = &*column;
    let (name, number) = task.split_once(':').unwrap_or((task, "0"));
    let number: u64 = number
        .parse()
        .map_err(|_| Error::invalid("no number").subject(task))?;
    let done = match name {
        "write" => write(column).await,
        "put" => column.put(&data::small(SEED, number as usize)).await,
        "batch" => {
            column
                .put_batched(&data::small(SEED, number as usize))
                .await
        }
        "stream" => measured(async || column.put_large(SEED, number).await.map(|()| 1)).await,
        "collect" => measured(async || column.collect().await).await,
        _ => Err(Error::invalid("no such task").subject(task)),
    };
    match done {
        Err(error) if error.kind() == ErrorKind::Unsupported => say(GAP),
        done => done,
    }
}

/// Prints what `work` counted, its seconds and the peak of its memory in MiB.
async fn measured(work: impl AsyncFnOnce() -> Result<usize>) -> Result<()> {
    // The bytes that large blobs are cut of are made before.
    data::pieces(0, 1).count();
    let peak = Peak::begin()?;
    let begun = Instant::now();
    let count = work().await?;
    let seconds = begun.elapsed().as_secs_f64();
    say(&format!("{count} {seconds} {}", peak.end()?))
}

async fn write(column: &dyn Column) -> Result<()> {
    column.put(&data::small(SEED, STORED)).await?;
    say(READY)?;
    let begun = Instant::now();
    for seed in SEED + 1.. {
        column.put(&data::small(seed, 100)).await?;
        if begun.elapsed() > PATIENCE {
            break;
        }
    }
    Ok(())
}

fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_summary_of_strace_is_summed() {
        let summary = "% time     seconds  usecs/call     calls    errors syscall\n\
            ------ ----------- ----------- --------- --------- ----------------\n \
            99.00    0.000990          99        10         2 fdatasync\n  \
            1.00    0.000010           5         2           fsync\n\
            ------ ----------- ----------- --------- --------- ----------------\n\
            100.00    0.001000          83        12         2 total\n";
        assert_eq!(super::calls(summary), 12.0);
        assert_eq!(super::calls(""), 0.0);
    }
}
