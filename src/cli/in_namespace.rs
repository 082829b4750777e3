//! Works on files of `cas run` that belong to other ids than the user's own. A short-lived child
//! process enters a new user namespace, which has all ids of this user. The process that starts it
//! does not enter the namespace, because a process with several threads cannot enter one, and
//! because no process can leave one again.

use std::path::{Path, PathBuf};

use cas::{Error, ErrorKind, Result};
use clap::Args;

use super::{Context, subids, unshare};

/// Name of the hidden command that gives files to their owners.
const GIVE: &str = "give-owners";

/// Name of the hidden command that removes a tree.
const REMOVE: &str = "remove-tree";

/// Give unpacked files to the owners in their extended attributes (started by `cas run`)
#[derive(Args)]
pub(crate) struct GiveOwners {
    directory: PathBuf,
}

/// Remove a directory and what is in it, but nothing that is mounted there (started by `cas run`
/// and `cas gc`)
#[derive(Args)]
pub(crate) struct RemoveTree {
    directory: PathBuf,
}

impl GiveOwners {
    pub(crate) fn run(self, context: &Context) -> Result<()> {
        unshare::enter(&subids::of_this_user(), &*context.progress)?;
        cas::layer::apply::give_to_owners(&self.directory)
    }
}

impl RemoveTree {
    pub(crate) fn run(self, context: &Context) -> Result<()> {
        unshare::enter(&subids::of_this_user(), &*context.progress)?;
        Ok(cas_host::remove_all(&self.directory, true)?)
    }
}

/// Gives the files in `directory` to the owners that they have in the image that was unpacked there
/// without privileges. A file stays as it is if the user namespace does not have its owner.
pub(super) async fn give_owners(directory: &Path) -> Result<()> {
    let why = "files could not be given to their owners, for the reason above";
    call(GIVE, directory, why).await
}

/// Removes a directory in which other users of the user namespace own files.
pub(super) async fn remove_tree(directory: &Path) -> Result<()> {
    let why = "files of other users are left, for the reason above; remove them in `cas unshare`";
    call(REMOVE, directory, why).await
}

/// Runs a hidden command, which prints the reason if it fails.
///
/// # Errors
/// `Denied` if the command fails; its message is the parameter `failed`. Errors of starting the
/// command.
async fn call(command: &str, directory: &Path, failed: &'static str) -> Result<()> {
    let mut child = tokio::process::Command::new("/proc/self/exe");
    child
        .arg(command)
        .arg("--")
        .arg(directory)
        .kill_on_drop(true);
    if child.status().await?.success() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Denied, failed))
}
