//! The mount namespace of a task.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

/// Makes this program run where mounts are shared, as on a machine with systemd, if it may. If
/// mounts were private, a test that creates a namespace would keep the mounts of all other tests
/// busy until the test ends.
///
/// If mounts are private and `unshare` can create a mount namespace, this call runs the program
/// again in a new one, and does not return. If `unshare` cannot, mounts stay private.
///
/// # Errors
/// Errors of reading the mount table and of starting the program again.
pub(crate) fn share() -> Result<()> {
    if are_shared()? {
        return Ok(());
    }
    let unshare = ["--mount", "--propagation", "shared"];
    let mut probe = Command::new("unshare");
    let probed = probe.args(unshare).arg("true").stderr(Stdio::null());
    // Without the right to create a mount namespace, no test mounts anything in this one.
    if !probed.status().is_ok_and(|status| status.success()) {
        return Ok(());
    }
    let mut again = Command::new("unshare");
    again.args(unshare).arg(std::env::current_exe()?);
    let error = again.args(std::env::args_os().skip(1)).exec();
    Err(error).context("cannot start unshare")
}

/// Returns whether the mount of the root directory is shared.
fn are_shared() -> Result<bool> {
    let table =
        fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    let root = table
        .lines()
        .rfind(|line| line.split(' ').nth(4) == Some("/"));
    Ok(root.is_some_and(|line| line.contains(" shared:")))
}
