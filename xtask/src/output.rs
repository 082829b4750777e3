//! Runs a program and collects its output, even if processes that it left behind hold the output.

use std::fs::{self, DirEntry};
use std::io::{self, PipeWriter, Read as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{self, Command, ExitStatus};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// What a program wrote, and how it ended.
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// The ids and command lines of the processes that still hold standard output or standard
    /// error. Empty if both have ended.
    pub(crate) held_by: Vec<String>,
}

/// Runs a program. After the program has ended, waits at most `patience` until no other process
/// holds its standard output or standard error. Returns what was written until then.
///
/// # Errors
/// Errors of creating pipes and of starting the program.
pub(crate) fn run(mut command: Command, patience: Duration) -> io::Result<Output> {
    let (stdout, stdout_writer) = Pipe::open()?;
    let (stderr, stderr_writer) = Pipe::open()?;
    command.stdout(stdout_writer).stderr(stderr_writer);
    let mut program = command.spawn()?;
    // A pipe does not end while the command holds its writer.
    drop(command);
    let status = program.wait()?;
    let until = Instant::now() + patience;
    let (stdout, open_stdout) = stdout.collect(until);
    let (stderr, open_stderr) = stderr.collect(until);
    let open: Vec<PathBuf> = open_stdout.into_iter().chain(open_stderr).collect();
    Ok(Output {
        status,
        stdout,
        stderr,
        held_by: match open[..] {
            [] => Vec::new(),
            _ => holders(&open),
        },
    })
}

/// A pipe that a thread reads until the pipe ends.
struct Pipe {
    /// What the links in `/proc/ID/fd` to the ends of this pipe contain, such as `pipe:[4026]`.
    link: PathBuf,
    chunks: Receiver<Vec<u8>>,
}

impl Pipe {
    fn open() -> io::Result<(Self, PipeWriter)> {
        let (mut reader, writer) = io::pipe()?;
        let link = fs::read_link(format!("/proc/self/fd/{}", reader.as_raw_fd()))?;
        let (sender, chunks) = mpsc::channel();
        thread::spawn(move || {
            let mut chunk = [0; 8192];
            while let Ok(length @ 1..) = reader.read(&mut chunk) {
                if sender.send(chunk[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Ok((Pipe { link, chunks }, writer))
    }

    /// Waits for the end of the pipe, at most until `until`. Returns what was written, and the link
    /// if the pipe has not ended.
    fn collect(self, until: Instant) -> (String, Option<PathBuf>) {
        let mut written = Vec::new();
        let link = loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.chunks.recv_timeout(left) {
                Ok(chunk) => written.extend(chunk),
                Err(RecvTimeoutError::Disconnected) => break None,
                Err(RecvTimeoutError::Timeout) => break Some(self.link),
            }
        };
        (String::from_utf8_lossy(&written).into_owned(), link)
    }
}

/// Returns the ids and command lines of the other processes that hold an end of one of the pipes.
fn holders(links: &[PathBuf]) -> Vec<String> {
    let is_held = |file: DirEntry| fs::read_link(file.path()).is_ok_and(|at| links.contains(&at));
    let name = |process: DirEntry| {
        // Other entries of `/proc` are not processes.
        let id: u32 = process.file_name().to_str()?.parse().ok()?;
        let is_holder = entries(&process.path().join("fd")).any(is_held);
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        (is_holder && id != process::id()).then(|| format!("{id} {}", line.trim_end()))
    };
    let mut found: Vec<String> = entries(Path::new("/proc")).filter_map(name).collect();
    if found.is_empty() {
        found.push("a process of another user, or one that has ended now".to_owned());
    }
    found
}

/// Returns the entries of a directory. There are none if it cannot be read.
fn entries(directory: &Path) -> impl Iterator<Item = DirEntry> {
    fs::read_dir(directory).into_iter().flatten().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]);
        shell
    }

    #[test]
    fn a_process_that_holds_the_output_is_named_and_not_awaited() {
        for free in [1, 2] {
            let script = format!("echo err >&2; sleep 600 {free}> /dev/null & echo $!; exit 3");
            let output = run(shell(&script), Duration::from_millis(300)).unwrap();
            let id = output.stdout.trim_end();
            let killed = shell(&format!("kill {id}")).status().unwrap();
            assert!(killed.success(), "{free}: {id}");
            assert_eq!(output.status.code(), Some(3), "{free}");
            assert_eq!(output.stderr, "err\n", "{free}");
            let [holder] = &output.held_by[..] else {
                panic!("{free}: {:?}", output.held_by);
            };
            let named = holder.starts_with(&format!("{id} ")) && holder.contains("sleep 600");
            assert!(named, "{free}: {holder}");
        }
    }

    #[test]
    fn a_process_that_ends_soon_is_awaited() {
        let script = "echo err >&2; echo out; { sleep 0.3; echo late; } &";
        let output = run(shell(script), Duration::from_secs(60)).unwrap();
        assert!(output.status.success());
        assert_eq!(output.stdout, "out\nlate\n");
        assert_eq!(output.stderr, "err\n");
        assert_eq!(output.held_by, [""; 0]);
    }
}
