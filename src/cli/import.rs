//! `cas import`: stores the images of an archive or a layout.

use std::path::PathBuf;

use cas::image::Reference;
use cas::layer::import::Source;
use cas::{ImportOptions, Platform, Platforms, Result};
use clap::Args;
use serde_json::json;

use super::Context;

/// Import images from a Docker archive, an OCI archive or an OCI layout
#[derive(Args)]
#[command(
    after_help = "Example:\n  skopeo copy docker://debian oci-archive:d.tar\n  \
    cas import d.tar --name debian:12 --unpack"
)]
pub(crate) struct Import {
    /// Archive (plain, gzip or zstd), layout directory, or - for standard input
    source: PathBuf,
    /// Name for the image; if the source has several tags, each image is named REF:TAG
    #[arg(long, value_name = "REF")]
    name: Option<String>,
    /// Import only this platform, as in linux/arm64
    #[arg(long, conflicts_with = "all_platforms")]
    platform: Option<Platform>,
    /// Import all platforms (default)
    #[arg(long)]
    all_platforms: bool,
    /// Unpack the images into snapshots, too
    #[arg(long)]
    unpack: bool,
}

impl Import {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let cas = context.cas().await?;
        let source = match self.source.to_str() {
            Some("-") => Source::Stream(Box::new(std::io::stdin())),
            _ => Source::Path(self.source),
        };
        let name = self
            .name
            .map(|name| name.parse::<Reference>())
            .transpose()?;
        let options = ImportOptions::default()
            .with_name(name)
            .with_platforms(self.platform.map_or(Platforms::All, Platforms::One))
            .with_unpack(self.unpack)
            .with_progress(context.progress.clone());
        for stored in cas.import_with(source, options).await? {
            let (image, snapshot) = (stored.image, stored.snapshot);
            let name = image.name.as_str();
            let made = json!({"name": name, "target": image.target, "snapshot": snapshot});
            context.out.item(&made, || match snapshot {
                Some(snapshot) => format!("{name} snapshot {}", snapshot.short()),
                None => name.to_owned(),
            })?;
        }
        Ok(())
    }
}
