//! `cas mount` and `cas umount`: an image as a directory.

use std::path::PathBuf;

use cas::{MountOptions, Platform, Result};
use clap::Args;
use serde_json::json;

use super::Session;
use super::owners::{self, Range};

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
    /// Show users and groups from INSIDE on as those from OUTSIDE on; may be given several times
    #[arg(long, value_name = "INSIDE:OUTSIDE:COUNT")]
    map_ids: Vec<Range>,
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
        let owners = match self.map_ids.is_empty() {
            true => None,
            false => Some(owners::namespace(&self.map_ids)?),
        };
        let options = MountOptions {
            writable: self.rw,
            owners,
        };
        let mounted = cas.mount(
            &self.image,
            &self.directory,
            platform,
            options,
            &session.progress,
        );
        mounted.await?;
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
