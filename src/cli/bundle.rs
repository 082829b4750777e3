//! `cas bundle`: an OCI runtime bundle.

use std::path::PathBuf;

use cas::{BundleOptions, ImageRef, Platform, Result};
use clap::Args;
use serde_json::json;

use super::output::check_path;
use super::{Context, mount, subids};

/// Create an OCI runtime bundle from an image: config.json and rootfs
#[derive(Args)]
#[command(after_help = "Example:
  cas bundle app:1 /tmp/app && runc run --bundle /tmp/app app
  cas bundle --rootless app:1 ./app && crun run --bundle ./app app

By default, rootfs is a plain copy, independent of the store. With --mount, rootfs is a writable
snapshot, mounted without a copy; unmount it with `cas umount DIR/rootfs`.

DIR is closed to other users (mode 0700), because rootfs has the device nodes and set-id programs of
the image. If the container gets a user namespace, its users need access to DIR: `chmod 711 DIR`.

With --rootless, no privileges are needed. rootfs has the same files as after
`cas unpack --rootless`. The program runs in a user namespace, whose superuser owns all files.")]
pub(crate) struct Bundle {
    /// Name or digest of the image
    image: String,
    /// Directory to create; it may exist if it is empty
    directory: PathBuf,
    #[command(flatten)]
    process: Process,
    /// Mount a writable snapshot as rootfs instead of unpacking
    #[arg(long, conflicts_with = "rootless")]
    mount: bool,
    /// Make the bundle without privileges; the bundle can then be started without privileges, too
    #[arg(long)]
    rootless: bool,
}

/// Options that choose the platform and replace parts of the image's configuration.
#[derive(Args)]
pub(crate) struct Process {
    /// Platform, as in linux/arm64 [default: this machine's, or the image's own if the image is not
    /// an index]
    #[arg(long)]
    platform: Option<Platform>,
    /// Program to run instead of the image's entrypoint and command; if it is empty, only CMD runs
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// Arguments that replace the image's command; they follow the entrypoint, or PROGRAM
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

impl Process {
    pub(crate) fn options(self) -> BundleOptions {
        BundleOptions::default()
            .with_platforms(self.platform)
            .with_entrypoint(self.entrypoint)
            .with_command(self.command)
    }
}

impl Bundle {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        check_path(&self.directory)?;
        let cas = match self.mount {
            true => context.cas_to_mount().await?,
            false => context.cas().await?,
        };
        if self.mount {
            mount::check_right(&cas)?;
        }
        let options = self.process.options();
        let options = options
            .with_mounted(self.mount)
            .with_rootless(self.rootless.then(subids::of_this_user))
            .with_progress(context.progress.clone());
        let image = ImageRef::typed(&self.image);
        cas.bundle_with(image, &self.directory, options).await?;
        let directory = self.directory.display().to_string();
        let made = json!({"image": self.image, "bundle": directory, "mounted": self.mount});
        context
            .out
            .item(&made, || format!("{} -> {directory}", self.image))
    }
}
