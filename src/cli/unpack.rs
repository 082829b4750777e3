//! `cas unpack`: an image's file system as plain files.

use std::path::PathBuf;

use cas::{ImageRef, Platform, Result, UnpackOptions};
use clap::Args;
use serde_json::json;

use super::Context;
use super::output::check_path;

/// Write an image's root file system into a directory
#[derive(Args)]
#[command(after_help = "Example:
  cas unpack app:1 /tmp/rootfs
  cas unpack app:1 ./rootfs --rootless

By default, the directory and all files in it have the owners and modes that the image gives them.
So other users may be able to use device nodes and set-id programs of the image. With --private,
they cannot.

With --rootless, no privileges are needed, and all files are yours. Their owners in the image are
kept in the attribute user.rootlesscontainers, which umoci also uses. Devices, and attributes that
only the superuser may set, are left out with a warning.")]
pub(crate) struct Unpack {
    /// Name or digest of the image
    image: String,
    /// Directory to create; it may exist if it is empty
    directory: PathBuf,
    /// Close the directory to all other users
    #[arg(long)]
    private: bool,
    /// Unpack without privileges: store the owners of files in an attribute, and leave out devices
    #[arg(long)]
    rootless: bool,
    /// Platform, as in linux/arm64 [default: this machine's, or the image's own if the image is not
    /// an index]
    #[arg(long)]
    platform: Option<Platform>,
}

impl Unpack {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        check_path(&self.directory)?;
        let cas = context.cas().await?;
        let options = UnpackOptions::default()
            .with_platforms(self.platform)
            .with_private(self.private)
            .with_rootless(self.rootless)
            .with_progress(context.progress.clone());
        let image = ImageRef::typed(&self.image);
        cas.unpack_with(image, &self.directory, options).await?;
        let directory = self.directory.display().to_string();
        let made = json!({"image": self.image, "directory": directory});
        context
            .out
            .item(&made, || format!("{} -> {directory}", self.image))
    }
}
