//! `cas export`: images of the store go into an archive.

use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::PathBuf;

use cas::layer::export::{ExportOptions, Format, Target};
use cas::{Context, Error, Platform, Result};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::Session;

/// Export images as an OCI archive or a docker archive
#[derive(Args)]
#[command(after_help = "Example:\n  cas export app:1 app:2 -o app.tar\n  \
    cas export app:1 --format docker -o - | docker load")]
pub(crate) struct Export {
    /// Names of the images; blobs that they share are written once
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// The file, which appears when it is whole, or - for standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// What the archive is made for; docker's has one platform an image
    #[arg(long, value_enum, default_value_t = Kind::Oci)]
    format: Kind,
    /// Export the manifest for this platform only [docker: this machine's, where there is a choice]
    #[arg(long, conflicts_with = "all_platforms")]
    platform: Option<Platform>,
    /// Export all platforms that the store has; the default of oci, said aloud
    #[arg(long)]
    all_platforms: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// For skopeo, podman, ctr and other readers of OCI archives
    Oci,
    /// For `docker load` and readers of its archives as well
    Docker,
}

impl Export {
    pub(crate) async fn run(self, session: &mut Session) -> Result<()> {
        if self.all_platforms && self.format == Kind::Docker {
            return Err(Error::invalid(
                "a docker archive has one platform an image; name it with --platform",
            ));
        }
        let piped = self.output.to_str() == Some("-");
        let target = match piped {
            true => standard_output()?,
            false => Target::Path(self.output.clone()),
        };
        let format = match self.format {
            Kind::Oci => Format::Oci,
            Kind::Docker => Format::Docker,
        };
        let options = ExportOptions::default()
            .with_format(format)
            .with_platform(self.platform);
        let cas = session.cas().await?;
        let exported = cas.export(&self.images, target, &options, &session.progress);
        for image in exported.await? {
            // Standard output has the archive, and nothing but it.
            if piped {
                break;
            }
            let (name, file) = (image.name.as_str(), self.output.display().to_string());
            let made = json!({"name": name, "target": image.target, "output": file});
            session.out.item(&made, || format!("{name} -> {file}"))?;
        }
        Ok(())
    }
}

/// Standard output without the buffer for lines that the library would put before it.
fn standard_output() -> Result<Target> {
    let out = std::io::stdout();
    if out.is_terminal() {
        return Err(Error::invalid(
            "an archive is nothing for a terminal; name a file, or pipe it on",
        ));
    }
    let out = out.as_fd().try_clone_to_owned();
    let out = out.during("open", "standard output")?;
    Ok(Target::Stream(Box::new(File::from(out))))
}
