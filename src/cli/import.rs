//! `cas import`: an archive or a layout goes into the store.

use std::path::PathBuf;

use cas::image::Reference;
use cas::layer::import::{ImportOptions, Source};
use cas::{Platform, Result};
use clap::Args;
use serde_json::json;

use super::Session;

/// Import a docker archive, an OCI archive or an OCI layout
#[derive(Args)]
#[command(
    after_help = "Example:\n  skopeo copy docker://debian oci-archive:d.tar\n  \
    cas import d.tar --name debian:12 --unpack"
)]
pub(crate) struct Import {
    /// A file, plain or compressed, a directory, or - for standard input
    source: PathBuf,
    /// Name of the image; where the source holds several tags, NAME:tag each
    #[arg(long, value_name = "REF")]
    name: Option<String>,
    /// Import the content of this platform only
    #[arg(long, conflicts_with = "all_platforms")]
    platform: Option<Platform>,
    /// Import the content of all platforms; the default, said aloud
    #[arg(long)]
    all_platforms: bool,
    /// Unpack the image into snapshots as well
    #[arg(long)]
    unpack: bool,
}

impl Import {
    pub(crate) async fn run(self, session: &mut Session) -> Result<()> {
        let cas = session.cas().await?;
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
            .with_platform(self.platform.clone());
        let progress = &session.progress;
        let images = match self.unpack {
            true => cas.import_unpacked(source, &options, progress).await?,
            false => {
                let images = cas.import(source, &options, progress).await?;
                images.into_iter().map(|image| (image, None)).collect()
            }
        };
        for (image, snapshot) in images {
            let name = image.name.as_str();
            let made = json!({"name": name, "target": image.target, "snapshot": snapshot});
            session.out.item(&made, || match snapshot {
                Some(snapshot) => format!("{name} snapshot {}", snapshot.short()),
                None => name.to_owned(),
            })?;
        }
        Ok(())
    }
}
