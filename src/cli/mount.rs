//! `cas mount` and `cas umount`: an image as a directory.

use std::path::PathBuf;

use cas::{Platform, Result};
use clap::Args;
use serde_json::json;

use super::Session;

/// Show an image's root file system at a directory
#[derive(Args)]
#[command(after_help = "Example:\n  cas mount app:1 /mnt && ls /mnt && cas umount /mnt")]
pub(crate) struct Mount {
    /// Name of the image
    image: String,
    /// An existing directory
    directory: PathBuf,
    /// Let it be written to; what is written is gone after `cas umount`
    #[arg(long)]
    rw: bool,
    /// The platform [default: this machine's, where the image leaves a choice]
    #[arg(long)]
    platform: Option<Platform>,
}

/// Take away what `cas mount` has mounted
#[derive(Args)]
#[command(after_help = "Example:\n  cas umount /mnt")]
pub(crate) struct Umount {
    /// The directory
    directory: PathBuf,
}

impl Mount {
    pub(crate) async fn run(self, session: &mut Session) -> Result<()> {
        let cas = session.cas().await?;
        let platform = self.platform.as_ref();
        cas.mount(
            &self.image,
            &self.directory,
            platform,
            self.rw,
            &session.progress,
        )
        .await?;
        let directory = self.directory.display().to_string();
        let made = json!({"image": self.image, "directory": directory, "writable": self.rw});
        session
            .out
            .item(&made, || format!("{} -> {directory}", self.image))
    }
}

impl Umount {
    pub(crate) async fn run(self, session: &mut Session) -> Result<()> {
        let cas = session.cas().await?;
        cas.unmount(&self.directory).await?;
        let directory = self.directory.display().to_string();
        let done = json!({"unmounted": directory});
        session.out.item(&done, || format!("unmounted {directory}"))
    }
}
