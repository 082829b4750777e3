//! The mount namespace of this program.

use std::env;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result};

/// The environment variable that is set if this program has a namespace of its own.
const OWN: &str = "CRASH_NAMESPACE";

/// Arguments of `unshare` for a new mount namespace. What is unmounted outside of this namespace is
/// unmounted inside, too. Otherwise, this program would keep the mounts of other tests busy.
pub(crate) const NEW: [&str; 3] = ["--mount", "--propagation", "slave"];

/// Makes sure that this program has a mount namespace of its own. Otherwise, a namespace that
/// another program makes meanwhile would keep the disks of this program busy.
///
/// If this program has only the namespace of its parent process, runs this program again in a new
/// namespace, and returns only if this fails.
///
/// # Errors
/// Errors of starting the program again.
pub(crate) fn enter() -> Result<()> {
    if env::var_os(OWN).is_some() {
        return Ok(());
    }
    let mut again = Command::new("unshare");
    again.args(NEW).arg(env::current_exe()?);
    let error = again.args(env::args_os().skip(1)).env(OWN, "1").exec();
    Err(error).context("cannot run unshare")
}
