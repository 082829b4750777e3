//! `cas mount` and `cas umount`: an image's file system at a directory.

use std::path::PathBuf;

use cas::bundle::IdRange;
use cas::{Cas, Error, ImageRef, MountOptions, Platform, Result};
use cas_host::mount::has_no_right;
use clap::Args;
use serde_json::json;

use super::Context;
use super::idmap;
#[cfg(feature = "on-demand")]
use super::lazy;

/// Mount an image's root file system at a directory
#[derive(Args)]
#[command(after_help = "Example:
  cas mount app:1 /mnt && ls /mnt && cas umount /mnt
  cas mount app:1 /mnt --map-ids 0:100000:65536
  cas unshare -- sh -c 'cas mount app:1 mnt && ls mnt && cas umount mnt'

Users other than the superuser can mount only in `cas unshare`. Unmount the image before you leave
`cas unshare`. Otherwise, the snapshot for the mount and the files written to it stay until you run
`cas umount` in another `cas unshare`.")]
pub(crate) struct Mount {
    /// Name or digest of the image
    image: String,
    /// Existing directory to mount at; it must be outside of the root
    directory: PathBuf,
    /// Mount writable; changes are lost at `cas umount`
    #[arg(long)]
    rw: bool,
    /// Allow set-user-id and set-group-id programs of the image to run as their owner or group
    #[arg(long)]
    suid: bool,
    /// Allow opening device nodes of the image
    #[arg(long)]
    dev: bool,
    /// Map COUNT user and group ids: INSIDE is the first id in the image, and OUTSIDE the first id
    /// in the mount; may be repeated
    #[arg(long, value_name = "INSIDE:OUTSIDE:COUNT", value_parser = idmap::range)]
    map_ids: Vec<IdRange>,
    /// Platform, as in linux/arm64 [default: this machine's, or the image's own if the image is not
    /// an index]
    #[arg(long)]
    platform: Option<Platform>,
    /// If the image is not in the store, pull it first, as `cas pull --lazy` does
    #[cfg(feature = "on-demand")]
    #[arg(long)]
    lazy: bool,
}

/// Unmount an image that `cas mount` or `cas bundle --mount` has mounted
#[derive(Args)]
#[command(after_help = "Example:\n  cas umount /mnt")]
pub(crate) struct Umount {
    /// Directory at which the image is mounted
    directory: PathBuf,
}

impl Mount {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        #[cfg(feature = "on-demand")]
        if self.lazy {
            cas_host::mount::check_right().map_err(advise)?;
            lazy::pull_missing(context, &self.image, self.platform.clone()).await?;
        }
        let cas = context.cas_to_mount().await?;
        check_right(&cas)?;
        let idmap = if self.map_ids.is_empty() {
            None
        } else {
            Some(idmap::namespace(&self.map_ids)?)
        };
        let options = MountOptions::default()
            .with_writable(self.rw)
            .with_suid(self.suid)
            .with_devices(self.dev)
            .with_idmap(idmap)
            .with_platforms(self.platform)
            .with_progress(context.progress.clone());
        let image = ImageRef::typed(&self.image);
        cas.mount_with(image, &self.directory, options).await?;
        let directory = self.directory.display().to_string();
        let made = json!({"image": self.image, "directory": directory, "writable": self.rw});
        context
            .out
            .item(&made, || format!("{} -> {directory}", self.image))
    }
}

impl Umount {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let cas = context.cas().await?;
        cas.unmount(&self.directory).await.map_err(advise)?;
        let directory = self.directory.display().to_string();
        let done = json!({"unmounted": directory});
        context.out.item(&done, || format!("unmounted {directory}"))
    }
}

/// Checks that the root is not read-only, and that this user may mount. Commands that mount an
/// image call this function before they unpack the image.
pub(super) fn check_right(cas: &Cas) -> Result<()> {
    cas.check_writable()?;
    cas_host::mount::check_right().map_err(advise)
}

/// Returns the error. If its cause is that this user has no right to mount, and the user is not the
/// superuser, adds to the message what the user can do.
pub(super) fn advise(error: Error) -> Error {
    if !has_no_right(&error) || rustix::process::geteuid().is_root() {
        return error;
    }
    let why = format!("{error}; run the command in `cas unshare`");
    Error::new(error.kind(), why).source(error)
}
