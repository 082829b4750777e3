//! Runs tasks in a child process, to measure its memory, count its syncs, or kill it.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use cas_core::{Context, Error, ErrorKind, Result};

use crate::column::{Column, Contender, not_applicable};
use crate::data;
use crate::memory::Peak;

/// The system calls that count as a sync.
const SYNCS: &str = "trace=fsync,fdatasync,sync,syncfs,sync_file_range,msync";
/// Time after which the writer ends by itself if it was not killed.
const TIMEOUT: Duration = Duration::from_secs(60);
const READY: &str = "ready";
/// The output of a task if the column does not have the operation that the task needs.
const NOT_APPLICABLE: &str = "not applicable";
/// Minimum number of blobs that are stored before the kill.
pub(crate) const STORED: usize = 1000;
/// The seed of the blobs that a task stores first.
pub(crate) const SEED: u64 = 77;

/// The command line that starts this program again for a task. Three arguments are appended: the
/// name of a column of the benchmark table, the task, and the directory of the column. The program
/// must call [`run_task`] with these arguments.
pub struct SelfCommand {
    /// The program.
    pub program: PathBuf,
    /// The arguments of the program before the three appended arguments.
    pub arguments: Vec<OsString>,
}

/// A column in a directory, for tasks in a child process.
pub(crate) struct Task<'a> {
    pub(crate) self_command: &'a SelfCommand,
    pub(crate) column: &'a str,
    pub(crate) directory: &'a Path,
}

impl Task<'_> {
    fn arguments(&self, command: &mut Command, task: &str) {
        command.args(&self.self_command.arguments);
        command.args([self.column, task]).arg(self.directory);
    }

    /// Runs a task to its end. Returns the three numbers that the task prints: a count, the seconds
    /// that the work took, and its peak memory in MiB.
    pub(crate) fn run(&self, task: &str) -> Result<[f64; 3]> {
        let mut command = Command::new(&self.self_command.program);
        self.arguments(&mut command, task);
        let printed = printed(command.output().during("run", task)?)?;
        numbers(&printed).ok_or_else(|| {
            Error::internal(format!(
                "expected 3 numbers from the child process, found {printed:?}; the program must \
                 call `run_task`"
            ))
        })
    }

    /// Starts a writer, and kills it while it writes.
    ///
    /// # Errors
    /// `Unsupported` if the column cannot store blobs; `Internal` if the writer ends by itself.
    pub(crate) fn kill_writer(&self) -> Result<()> {
        let mut command = Command::new(&self.self_command.program);
        self.arguments(&mut command, "write");
        command.stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = KillOnDrop(command.spawn().during("run", "write")?);
        let mut line = String::new();
        if let Some(out) = child.0.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        match line.trim() {
            READY => {
                std::thread::sleep(Duration::from_millis(50));
                Ok(())
            }
            NOT_APPLICABLE => Err(not_applicable()),
            _ => Err(Error::internal(
                "the writer ended before it was killed; read its error output",
            )),
        }
    }

    /// Returns the number of syncs that a task makes for each of `count` items. The syncs of the
    /// task without items are subtracted.
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
        command.arg(&self.self_command.program);
        self.arguments(&mut command, task);
        let output = command.output().map_err(|_| {
            Error::unsupported("cannot start strace, which counts the syncs; install strace")
        })?;
        printed(output)?;
        Ok(calls(&std::fs::read_to_string(report.path())?))
    }
}

/// Returns what a task printed.
///
/// # Errors
/// `Unsupported` if the column does not have the operation that the task needs; `Internal` with the
/// first line of the error output if the task failed.
fn printed(output: Output) -> Result<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let (printed, complaint) = (text(&output.stdout), text(&output.stderr));
    match (output.status.success(), printed.as_str()) {
        (true, NOT_APPLICABLE) => Err(not_applicable()),
        (true, _) => Ok(printed),
        (false, _) => {
            let complaint = complaint.lines().next().unwrap_or("no error message");
            Err(Error::internal(format!(
                "the child process of a task failed with {}: {complaint}",
                output.status
            )))
        }
    }
}

/// Returns the three numbers in a text, or `None` if it has anything else.
fn numbers(text: &str) -> Option<[f64; 3]> {
    let numbers = text.split_whitespace().map(|word| word.parse().ok());
    numbers.collect::<Option<Vec<f64>>>()?.try_into().ok()
}

/// Returns the number of calls in a summary of strace. This is the sum of the fourth fields of all
/// lines that end with the name of a call.
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

/// A process that is killed when its handle is dropped.
struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        // If one of these fails, nothing is left to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Opens the column named `column` in `directory`, and runs a task on this column. The program that
/// [`SelfCommand`] starts must call this function. If the task has a result, prints the result for
/// the parent process. If the column does not have the operation that the task needs, prints
/// `not applicable` and succeeds. A task is written as `NAME` or `NAME:NUMBER`.
///
/// # Errors
/// `InvalidArgument` if the column or the task is unknown, or if the text after the colon is not a
/// number; errors of the column.
pub async fn run_task(
    contenders: &[Contender],
    column: &str,
    task: &str,
    directory: &Path,
) -> Result<()> {
    let contender = contenders.iter().find(|contender| contender.name == column);
    let contender = contender.ok_or_else(|| {
        Error::invalid("unknown column; give the name of a column of the table").subject(column)
    })?;
    let column = (contender.open)(directory.to_owned()).await?;
    let column = &*column;
    let (name, number) = task.split_once(':').unwrap_or((task, "0"));
    let number: u64 = number
        .parse()
        .map_err(|_| Error::invalid("expected a number after the colon").subject(task))?;
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
        _ => Err(
            Error::invalid("unknown task; the tasks are: write, put, batch, stream, collect")
                .subject(task),
        ),
    };
    match done {
        Err(error) if error.kind() == ErrorKind::Unsupported => print(NOT_APPLICABLE),
        done => done,
    }
}

/// Prints the number that `work` returns, the seconds that `work` took and its peak memory in MiB.
async fn measured(work: impl AsyncFnOnce() -> Result<usize>) -> Result<()> {
    // The pool of bytes is made first, so that its memory does not count.
    data::pieces(0, 1).count();
    let peak = Peak::begin()?;
    let begun = Instant::now();
    let count = work().await?;
    let seconds = begun.elapsed().as_secs_f64();
    print(&format!("{count} {seconds} {}", peak.end()?))
}

async fn write(column: &dyn Column) -> Result<()> {
    column.put(&data::small(SEED, STORED)).await?;
    print(READY)?;
    let begun = Instant::now();
    for seed in SEED + 1.. {
        column.put(&data::small(seed, 100)).await?;
        if begun.elapsed() > TIMEOUT {
            break;
        }
    }
    Ok(())
}

fn print(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_prints_three_numbers() {
        assert_eq!(numbers("100 0.25 17\n"), Some([100.0, 0.25, 17.0]));
        for other in ["", "100 0.25", "100 0.25 17 1", "100 about 17"] {
            assert_eq!(numbers(other), None, "{other}");
        }
    }

    #[test]
    fn a_writer_that_ends_is_not_killed() {
        for (script, kind) in [
            ("echo not applicable", ErrorKind::Unsupported),
            ("exit 0", ErrorKind::Internal),
        ] {
            let task = Task {
                self_command: &SelfCommand {
                    program: "sh".into(),
                    arguments: ["-c", script].map(OsString::from).into(),
                },
                column: "column",
                directory: Path::new("/"),
            };
            let error = task.kill_writer().unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
        }
    }

    #[test]
    fn a_summary_of_strace_is_summed() {
        let summary = "% time     seconds  usecs/call     calls    errors syscall\n\
            ------ ----------- ----------- --------- --------- ----------------\n \
            99.00    0.000990          99        10         2 fdatasync\n  \
            1.00    0.000010           5         2           fsync\n\
            ------ ----------- ----------- --------- --------- ----------------\n\
            100.00    0.001000          83        12         2 total\n";
        assert_eq!(calls(summary), 12.0);
        assert_eq!(calls(""), 0.0);
    }
}
