//! OCI runtime bundles, as `crun run` and `runc run` start them.
//!
//! ```text
//! DIR/                 0700, so that other users cannot reach set-user-id programs of the image
//!   rootfs/            the image's root file system, plain files or a mounted snapshot
//!   config.json        0600, written last: without it the bundle is not finished
//! ```
//! `config.json` follows the conversion rules of the image-spec. Where the rules leave a choice:
//! - The superuser has the default capabilities of podman, which do not include `MKNOD`. Other
//!   users have none, and no process can gain more.
//! - Namespaces are pid, network, ipc, uts and mount, so the network is a loopback device only. A
//!   bundle [without privileges](BundleOptions::rootless) has a user namespace, too.
//! - If neither the image nor the caller names a program, the program is `sh`.
//! - `HOME` and `PATH`, and `TERM` for a terminal, are added if the image does not set them.
//! - Only labels of the image that begin with `org.opencontainers.image.`, `org.label-schema.` or
//!   `maintainer` become annotations, because runtimes act on some other annotations
//!   (`run.oci.…`), and an image could control the host with them.
//! - Volumes of the image are not mounted. Their directories in `rootfs` are used.

mod ids;
mod image;
mod new;
mod options;
mod rootfs;
mod rootless;
mod spec;
mod user;

use std::path::Path;

use cas_core::error::malformed;
use cas_core::{Context, Error, Result, limit};
use cas_host::Dir;
use serde::{Deserialize, Serialize};

pub use self::ids::{IdRange, Ids, UserIds};
pub(crate) use self::image::Config;
pub(crate) use self::new::NewBundle;
pub use self::options::BundleOptions;
pub use self::rootfs::{Program, Rootfs};
#[cfg(feature = "fuzzing")]
pub(crate) use self::user::find as find_account;

/// Name of the configuration in a bundle.
const DOCUMENT: &str = "config.json";
/// Name of the configuration while it is written.
const TEMPORARY: &str = ".config.json";
/// Name of the root file system in a bundle.
const ROOTFS: &str = "rootfs";

/// The process that a bundle starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// Whether the process has a terminal.
    pub terminal: bool,
    /// The user that the process runs as.
    pub user: User,
    /// The program and its arguments.
    pub args: Vec<String>,
    /// Environment variables, `NAME=value` each.
    pub env: Vec<String>,
    /// Absolute path of the working directory. The runtime creates it if it is absent.
    pub cwd: String,
    capabilities: Capabilities,
    no_new_privileges: bool,
}

/// A user and groups, as numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// Id of the user.
    pub uid: u32,
    /// Id of the primary group.
    pub gid: u32,
    /// Ids of all groups of the process, including the primary one. The list is empty in a rootless
    /// bundle. It is also empty if the bundle was made in a user namespace where processes may not
    /// set their groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub additional_gids: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Capabilities {
    bounding: Vec<String>,
    effective: Vec<String>,
    permitted: Vec<String>,
}

/// Writes `config.json` of the bundle in `directory`. The root file system must already be there.
/// Returns warnings: one for each label that is left out because a runtime would act on it, and one
/// if a rootless bundle cannot have the user of the image.
///
/// # Errors
/// `NotFound` for a user or group that the image does not have; `Corrupt` if no process can be
/// started with the configuration, or if the image's list of users or groups is not a regular file;
/// `InvalidArgument` if the options contain a zero byte; `OutOfRange` if these lists are too long or
/// put the user into too many groups; errors of the file system.
pub(crate) fn finish(
    directory: &Path,
    config: &Config,
    options: &BundleOptions,
) -> Result<Vec<String>> {
    let rootfs = Rootfs::open(&directory.join(ROOTFS))?;
    let account = user::find(&rootfs, &config.user)?;
    let (document, warnings) = spec::document(config, options, &account)?;
    let text = serde_json::to_vec_pretty(&document).map_err(|error| {
        Error::internal("config.json cannot be serialized; please report it").source(error)
    })?;
    let file = directory.join(DOCUMENT);
    let dir = Dir::open(directory).during("write", file.display())?;
    dir.replace(DOCUMENT, &text, 0o600, (&dir, TEMPORARY))
        .during("write", file.display())?;
    Ok(warnings)
}

/// Returns the process that the bundle in `directory` starts.
///
/// # Errors
/// `NotFound` if `directory` does not have a finished bundle; `Corrupt` if the bundle's
/// `config.json` is not valid; `OutOfRange` if `config.json` has more than
/// [`limit::DOCUMENT_READ`] bytes; errors of the file system.
pub fn process(directory: &Path) -> Result<Process> {
    #[derive(Deserialize)]
    struct Document {
        process: Process,
    }
    let read = || -> Result<Process> {
        let text = Dir::open(directory)?.read(DOCUMENT, limit::DOCUMENT_READ)?;
        let text = text.ok_or_else(|| {
            Error::not_found(
                "not a finished bundle: config.json is missing; make the bundle with `cas bundle`",
            )
        })?;
        let document: Document = serde_json::from_slice(&text)
            .map_err(|error| malformed("config.json does not parse", &error))?;
        Ok(document.process)
    };
    read().during("read bundle", directory.display())
}
