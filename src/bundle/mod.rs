//! OCI runtime bundles: what `crun run` or `runc run` starts.
//!
//! ```text
//! DIR/                 0700 where it is made: nobody reaches set-user-id programs of an image
//!   rootfs/            the image's root file system, a plain tree or a mounted snapshot
//!   config.json        0600, written last: without it the bundle is not finished
//! ```
//! The document is what the image-spec's conversion page makes of a configuration. What that
//! leaves open:
//! - Capabilities are those that podman gives, without `MKNOD`, and no process gains more.
//! - Namespaces are pid, network, ipc, uts and mount; so the network is a loopback alone.
//! - `HOME` and a `PATH` are added where the image sets none.
//! - Labels that runtimes obey (`run.oci.…` and others) are left out: an image has no say there.
//! - Paths that the image calls volumes lie in `rootfs` like all others.

mod image;
mod rootfs;
mod spec;
mod user;

use std::path::Path;

use cas_core::{Context, Error, Platform, Result, limit};
use cas_host::Dir;
use serde::{Deserialize, Serialize};

pub(crate) use self::image::Config;
pub use self::rootfs::{Program, Rootfs};

/// The document of a bundle.
const DOCUMENT: &str = "config.json";
/// Where its root file system is.
pub(crate) const ROOTFS: &str = "rootfs";

/// How a bundle is made.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The platform; without one this machine's, where the image leaves a choice.
    pub platform: Option<Platform>,
    /// Instead of the image's entrypoint and command.
    pub entrypoint: Option<String>,
    /// Instead of the image's command, after its entrypoint.
    pub command: Vec<String>,
    /// Whether the process has a terminal.
    pub terminal: bool,
    /// Its root file system is a writable snapshot, mounted, instead of a plain tree; to be ended
    /// with [`crate::Cas::unmount`] of `DIR/rootfs`.
    pub mounted: bool,
}

/// What a bundle starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// Whether it has a terminal.
    pub terminal: bool,
    /// As whom it runs.
    pub user: User,
    /// The program and its arguments; never empty.
    pub args: Vec<String>,
    /// Its environment, `NAME=value` each.
    pub env: Vec<String>,
    /// Its working directory, absolute; made where it is absent.
    pub cwd: String,
    capabilities: Capabilities,
    no_new_privileges: bool,
}

/// A user in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// All its groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub additional_gids: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Capabilities {
    bounding: Vec<String>,
    effective: Vec<String>,
    permitted: Vec<String>,
}

/// Writes the document of the bundle in `directory`, whose root file system is there; what was
/// left out.
///
/// # Errors
/// `NotFound` for a user or group that the image has not; `Corrupt` for what no process can be
/// started with; those of the file system.
pub(crate) fn finish(directory: &Path, config: &Config, options: &Options) -> Result<Vec<String>> {
    let rootfs = Rootfs::open(&directory.join(ROOTFS))?;
    let account = user::find(&rootfs, &config.user)?;
    let (document, warnings) = spec::document(config, options, &account)?;
    let text = serde_json::to_vec_pretty(&document)
        .map_err(|error| Error::internal("the document does not serialise").source(error))?;
    let place = || directory.join(DOCUMENT);
    let dir = Dir::open(directory).during("write", place().display())?;
    dir.replace(DOCUMENT, &text, 0o600, (&dir, ".config.json"))
        .during("write", place().display())?;
    Ok(warnings)
}

/// What the bundle in `directory` starts.
///
/// # Errors
/// `NotFound` when it is no bundle, or is not finished; `Corrupt` when its document is no such.
pub fn process(directory: &Path) -> Result<Process> {
    #[derive(Deserialize)]
    struct Document {
        process: Process,
    }
    let read = || -> Result<Process> {
        let text = Dir::open(directory)?.read(DOCUMENT, limit::DOCUMENT_READ)?;
        let text = text.ok_or_else(|| Error::not_found("is no bundle: it has no config.json"))?;
        let document: Document = serde_json::from_slice(&text).map_err(|error| {
            Error::corrupt(format!("config.json does not parse: {error}")).source(error)
        })?;
        Ok(document.process)
    };
    read().during("read bundle", directory.display())
}
