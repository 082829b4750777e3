//! `cas bundle`: an OCI runtime bundle.

use std::path::PathBuf;

use cas::{Platform, Result, bundle};
use clap::Args;
use serde_json::json;

use super::Session;

/// Make an OCI runtime bundle of an image: config.json and rootfs
#[derive(Args)]
#[command(after_help = "Example:
  cas bundle app:1 /tmp/app && runc run --bundle /tmp/app app

rootfs is a plain tree, which needs nothing of the root any more. With --mount it is a snapshot:
there at once, kept from `cas gc`, and ended by `cas umount DIR/rootfs`.")]
pub(crate) struct Bundle {
    /// Name of the image
    image: String,
    /// The directory; absent or empty
    directory: PathBuf,
    #[command(flatten)]
    process: Process,
    /// Mount a writable snapshot as rootfs instead of unpacking
    #[arg(long)]
    mount: bool,
}

/// What is started, beside what the image says.
#[derive(Args)]
pub(crate) struct Process {
    /// The platform [default: this machine's, where the image leaves a choice]
    #[arg(long)]
    platform: Option<Platform>,
    /// A program instead of the image's entrypoint and command
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// Arguments instead of the image's command, after its entrypoint
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

impl Process {
    pub(crate) fn options(self, terminal: bool, mounted: bool) -> bundle::Options {
        bundle::Options {
            platform: self.platform,
            entrypoint: self.entrypoint,
            command: self.command,
            terminal,
            mounted,
        }
    }
}

impl Bundle {
    pub(crate) async fn run(self, session: &mut Session) -> Result<()> {
        let cas = session.cas().await?;
        let options = self.process.options(false, self.mount);
        cas.bundle(&self.image, &self.directory, &options, &session.progress)
            .await?;
        let directory = self.directory.display().to_string();
        let made = json!({"image": self.image, "bundle": directory, "mounted": self.mount});
        session
            .out
            .item(&made, || format!("{} -> {directory}", self.image))
    }
}
