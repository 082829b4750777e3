//! `cas unpack`: a plain root file system.

use std::path::PathBuf;

use cas::{Platform, Result};
use clap::Args;
use serde_json::json;

use super::Session;

/// Write an image's root file system into a directory
#[derive(Args)]
#[command(after_help = "Example:\n  cas unpack app:1 /tmp/rootfs")]
pub(crate) struct Unpack {
    /// Name of the image
    image: String,
    /// The directory; absent or empty
    directory: PathBuf,
    /// The platform [default: this machine's, where the image leaves a choice]
    #[arg(long)]
    platform: Option<Platform>,
}

impl Unpack {
    pub(crate) async fn run(self, session: &mut Session) -> Result<()> {
        let cas = session.cas().await?;
        let platform = self.platform.as_ref();
        cas.unpack(&self.image, &self.directory, platform, &session.progress)
            .await?;
        let directory = self.directory.display().to_string();
        let made = json!({"image": self.image, "directory": directory});
        session
            .out
            .item(&made, || format!("{} -> {directory}", self.image))
    }
}
