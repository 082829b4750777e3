//! Runs a program with a bounded time and a bounded output.

use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use cas_core::limit;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, sink};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How a program ended.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    /// The beginning of its standard output, at most [`limit::REASON`] bytes.
    pub(super) said: Vec<u8>,
}

/// Runs a program with `input` on its standard input. If it does not end in time, or the future is
/// dropped, it is killed with every process that it has started in its group.
///
/// # Errors
/// Why the program was of no use, as a clause that does not name the program.
pub(super) async fn run(
    program: &Path,
    arguments: &[&str],
    input: &[u8],
    time: Duration,
) -> Result<Ended, String> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot be started: {error}"))?;
    let mut group = Group::of(&child);
    let ended = timeout(time, work(&mut child, input)).await;
    let ended = ended.map_err(|_| format!("did not end within {} s", time.as_secs_f32()))?;
    let ended = ended.map_err(|error| format!("cannot be waited for: {error}"))?;
    group.0 = None;
    Ok(ended)
}

async fn work(child: &mut Child, input: &[u8]) -> io::Result<Ended> {
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // The program need not read its input.
            let _ = stdin.write_all(input).await;
        }
    };
    let read = async {
        let mut said = Vec::new();
        if let Some(mut stdout) = stdout {
            let mut beginning = (&mut stdout).take(limit::REASON);
            beginning.read_to_end(&mut said).await?;
            // A program whose output is not read would wait or fail.
            copy(&mut stdout, &mut sink()).await?;
        }
        io::Result::Ok(said)
    };
    let ((), said) = tokio::join!(write, read);
    let said = said?;
    let status = child.wait().await?;
    Ok(Ended { status, said })
}

/// The processes of a program that has not ended. They are killed when this is dropped.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Group(id.and_then(Pid::from_raw))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // They may all have ended.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}
