//! Changes the owners of files that `cas run` has unpacked. The new owners are ids that
//! `/etc/subuid` and `/etc/subgid` assign to this user. Also removes files that belong to such ids.
//! A short-lived child process does this work in a new user namespace, in which all ids of this
//! user are mapped. The parent process does not enter the namespace, because a process with several
//! threads cannot enter a user namespace, and because a process cannot return from a user
//! namespace.

use std::path::{Path, PathBuf};

use cas::{Error, ErrorKind, Result};
use clap::Args;

use super::{Context, subids, unshare};

/// Name of the hidden command that gives files to their owners.
const GIVE: &str = "give-owners";

/// Name of the hidden command that removes a tree.
const REMOVE: &str = "remove-tree";

/// Give each unpacked file to the owner that its extended attribute names (started by `cas run`)
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

/// Gives each file in `directory` to the owner that the file has in its image. The image was
/// unpacked there without privileges. A file stays as it is if this owner is not mapped in the user
/// namespace.
pub(super) async fn give_owners(directory: &Path) -> Result<()> {
    let why = "the files did not get the owners that the image names, for the reason above";
    call(GIVE, directory, why).await
}

/// Removes a directory in which files may belong to any id of this user.
pub(super) async fn remove_tree(directory: &Path) -> Result<()> {
    let why = "files that belong to other ids than your own could not be removed, for the reason \
               above; remove them in `cas unshare`";
    call(REMOVE, directory, why).await
}

/// Runs a hidden command, which prints the reason if it fails.
///
/// # Errors
/// `Denied`, with `failed` as its message, if the command fails; errors of starting the command.
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
