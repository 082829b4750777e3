//! `cas import`: stores the images of an archive or a layout.

use std::path::PathBuf;

use cas::image::{FullName, Reference, familiar};
use cas::layer::Naming;
use cas::layer::import::Source;
use cas::{Context as _, Error, ImportOptions, Platform, Platforms, Result};
use clap::Args;
use serde_json::json;

use super::patient::Patient;
use super::{Context, names};

/// Import images from a Docker archive, an OCI archive, an OCI layout or a skopeo directory
#[derive(Args)]
#[command(
    after_help = "Example:\n  skopeo copy docker://debian oci-archive:d.tar\n  \
    cas import d.tar --name debian:12 --unpack"
)]
pub(crate) struct Import {
    /// Archive (plain, gzip, zstd, xz or bzip2), directory, or - for standard input
    source: PathBuf,
    /// Name for the image. If the source contains several names, REF must not have a tag: the image
    /// of each name is then named REF:TAG, where TAG is the tag in that name. Without this option,
    /// images have the names that the source gives them; an image without a name gets its digest as
    /// its name
    #[arg(long, value_name = "REF")]
    name: Option<String>,
    /// Import only this platform, as in linux/arm64
    #[arg(long, conflicts_with = "all_platforms")]
    platform: Option<Platform>,
    /// Import all platforms (default)
    #[arg(long)]
    all_platforms: bool,
    /// Unpack the images into snapshots, too; without --platform, only for this machine's platform
    #[arg(long)]
    unpack: bool,
}

impl Import {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let cas = context.cas().await?;
        let source = match self.source.to_str() {
            Some("-") => Source::Stream(Box::new(Patient(std::io::stdin()))),
            Some(text) if !self.source.exists() => {
                refuse_transport(text).during("import", text)?;
                Source::Path(self.source)
            }
            _ => Source::Path(self.source),
        };
        let options = ImportOptions::default()
            .with_name(self.name.as_deref().map(checked).transpose()?)
            .with_naming(Naming::Docker)
            .with_platforms(self.platform.map_or(Platforms::All, Platforms::One))
            .with_unpack(self.unpack)
            .with_progress(context.progress.clone());
        for stored in cas.import_with(source, options).await? {
            let (image, snapshot) = (stored.image, stored.snapshot);
            let mut made = json!({"target": image.target, "snapshot": snapshot});
            names::add(&mut made, &image.name);
            let name = familiar(&image.name);
            context.out.item(&made, || match snapshot {
                Some(snapshot) => format!("{name} snapshot {}", snapshot.short()),
                None => name,
            })?;
        }
        Ok(())
    }
}

/// Refuses a source with one of the transports that skopeo and podman write before a path or a name.
///
/// # Errors
/// `InvalidArgument` for such a source.
fn refuse_transport(source: &str) -> Result<()> {
    if source.starts_with("docker://") {
        return Err(Error::invalid(
            "expected an archive or a directory; use `cas pull` for an image in a registry",
        ));
    }
    let transports = ["oci:", "oci-archive:", "docker-archive:", "dir:"];
    match transports.iter().find(|one| source.starts_with(**one)) {
        Some(transport) => Err(Error::invalid(format!(
            "expected only the path of the archive or directory, without {transport} and without \
             the name of an image"
        ))),
        None => Ok(()),
    }
}

/// Returns `name` as a reference, to which the import may append a tag.
///
/// # Errors
/// `InvalidArgument` if docker does not accept the name.
fn checked(name: &str) -> Result<Reference> {
    name.parse::<FullName>()?;
    name.parse()
}
