//! The mount namespace of a task.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

/// Makes this program run in a mount namespace with shared mounts, as on a machine with systemd. A
/// test that creates a mount namespace gets a copy of the mounts of all other tests. If mounts were
/// private, an unmount by another test would not remove the copy. The copy would keep the mount
/// busy until the test that created the namespace ends.
///
/// If mounts are already shared, does nothing. Otherwise, runs the program again in a new mount
/// namespace that `unshare` creates, and does not return. If `unshare` cannot create a mount
/// namespace, returns without an error, and mounts stay private.
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
    // A user who may not create a mount namespace may not mount anything in this one either. So
    // no test does, and shared mounts are not needed.
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
