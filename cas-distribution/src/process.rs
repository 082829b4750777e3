//! Runs a program with a bounded time and a bounded output.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, sink};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// A program that is run, and its bounds.
pub(crate) struct Program<'a> {
    /// The path of the program, or its name, which is looked up in the directories of `$PATH`.
    pub(crate) path: &'a OsStr,
    pub(crate) arguments: &'a [&'a str],
    /// The bytes that it may read from its standard input.
    pub(crate) input: &'a [u8],
    /// The destination of its standard error.
    pub(crate) errors: Stdio,
    /// Maximum time that it may take.
    pub(crate) time: Duration,
    pub(crate) output: Output,
    pub(crate) group: Group,
}

/// The process group of a program.
#[derive(Clone, Copy)]
pub(crate) enum Group {
    /// A new group, so that the program is killed with its children. The program cannot read from
    /// the terminal: the kernel stops a program of another group that tries.
    Own,
    /// The group of this process, so that the program can ask the user. The children of the program
    /// are not killed.
    Shared,
}

impl Group {
    /// Returns `Shared` if this process has a terminal, and `Own` otherwise.
    pub(crate) fn for_questions() -> Self {
        match File::open("/dev/tty") {
            Ok(_) => Group::Shared,
            Err(_) => Group::Own,
        }
    }
}

/// How much of the standard output of a program is kept.
#[derive(Clone, Copy)]
pub(crate) enum Output {
    /// All of the output. A program that writes more than this number of bytes is killed.
    AtMost(u64),
    /// The first bytes of the output, up to this number. The rest is read and dropped.
    Beginning(u64),
}

/// How a program ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// The standard output of the program, or the beginning of the output.
    pub(crate) said: Vec<u8>,
}

impl Program<'_> {
    /// Runs the program. If it does not end in time or writes too much, or if the future is
    /// dropped, the program is killed. If the program has its own group, the other processes of the
    /// group are killed, too.
    ///
    /// # Errors
    /// The reason for the failure, as a clause that does not name the program.
    pub(crate) async fn run(self) -> Result<Ended, String> {
        let mut command = Command::new(self.path);
        command
            .args(self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(self.errors)
            .kill_on_drop(true);
        if let Group::Own = self.group {
            command.process_group(0);
        }
        let mut child = command
            .spawn()
            .map_err(|error| format!("cannot be started: {error}"))?;
        let mut running = match self.group {
            Group::Own => Running::of(&child),
            Group::Shared => Running(None),
        };
        let ended = timeout(self.time, work(&mut child, self.input, self.output)).await;
        let late = |_| format!("did not end within {} s", self.time.as_secs_f32());
        let ended = ended.map_err(late)??;
        running.0 = None;
        Ok(ended)
    }
}

async fn work(child: &mut Child, input: &[u8], output: Output) -> Result<Ended, String> {
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // The program need not read its input.
            let _ = stdin.write_all(input).await;
        }
        Ok(())
    };
    let read = async {
        match stdout {
            Some(stdout) => read(stdout, output).await,
            None => Ok(Vec::new()),
        }
    };
    let ((), said) = tokio::try_join!(write, read)?;
    let status = child.wait().await.map_err(lost)?;
    Ok(Ended { status, said })
}

async fn read(mut stdout: ChildStdout, output: Output) -> Result<Vec<u8>, String> {
    let mut said = Vec::new();
    let (Output::AtMost(most) | Output::Beginning(most)) = output;
    let mut beginning = (&mut stdout).take(most);
    beginning.read_to_end(&mut said).await.map_err(lost)?;
    if let Output::AtMost(_) = output {
        let more = stdout.read(&mut [0]).await.map_err(lost)?;
        return match more {
            0 => Ok(said),
            _ => Err(format!("wrote more than {most} bytes")),
        };
    }
    // A program whose output is not read would wait or fail.
    copy(&mut stdout, &mut sink()).await.map_err(lost)?;
    Ok(said)
}

fn lost(error: io::Error) -> String {
    format!("cannot be read from or waited for: {error}")
}

/// The group of a program that has not ended. The processes of the group are killed when this is
/// dropped.
struct Running(Option<Pid>);

impl Running {
    fn of(child: &Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Running(id.and_then(Pid::from_raw))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // The processes may all have ended.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    /// Returns whether a process group has a process that has not ended.
    pub(crate) fn has_processes(group: u32) -> bool {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let mut stats =
            processes.filter_map(|one| std::fs::read_to_string(one.path().join("stat")).ok());
        stats.any(|stat| {
            let (_, rest) = stat.rsplit_once(')').unwrap();
            let fields: Vec<_> = rest.split_whitespace().collect();
            fields[0] != "Z" && fields[2] == group.to_string()
        })
    }
}
