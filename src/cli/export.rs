//! `cas export`: writes images into an archive.

use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::PathBuf;

use cas::image::familiar;
use cas::layer::Naming;
use cas::layer::export::{Format, Target};
use cas::{Context as _, Error, ExportOptions, ImageRef, Platform, Platforms, Result};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::patient::Patient;
use super::{Context, names};

/// Export images as an OCI archive or a Docker archive
#[derive(Args)]
#[command(after_help = "Example:\n  cas export app:1 app:2 -o app.tar\n  \
    cas export app:1 --format docker -o - | docker load")]
pub(crate) struct Export {
    /// Names or digests of the images; shared blobs are written once
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// File to write, or - for standard output; the file appears once it is complete
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Format of the archive; a Docker archive has one platform per image
    #[arg(long, value_enum, default_value_t = Kind::Oci)]
    format: Kind,
    /// Export only this platform, as in linux/arm64 [default: all for oci, this machine's for
    /// docker]
    #[arg(long, conflicts_with = "all_platforms")]
    platform: Option<Platform>,
    /// Export all platforms that the store has (default for oci)
    #[arg(long)]
    all_platforms: bool,
    /// Also export everything in the store that refers to the images, such as signatures; skopeo
    /// and podman then need the name of an image to read the archive
    #[arg(long)]
    referrers: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// For skopeo, podman, ctr and other tools that read OCI archives
    Oci,
    /// For `docker load`; also readable as an OCI archive
    Docker,
}

impl Export {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        if self.all_platforms && self.format == Kind::Docker {
            return Err(Error::invalid(
                "--all-platforms is not for Docker archives, which have one platform per image; \
                 choose a platform with --platform, or use --format oci",
            ));
        }
        let piped = self.output.to_str() == Some("-");
        let target = if piped {
            standard_output()?
        } else {
            Target::Path(self.output.clone())
        };
        let format = match self.format {
            Kind::Oci => Format::Oci,
            Kind::Docker => Format::Docker,
        };
        let options = ExportOptions::default()
            .with_format(format)
            .with_naming(Naming::Docker)
            .with_platforms(self.platform.map_or(Platforms::All, Platforms::One))
            .with_referrers(self.referrers)
            .with_progress(context.progress.clone());
        let cas = context.cas().await?;
        let images = self.images.iter().map(ImageRef::typed);
        let exported = cas.export_with(images, target, options);
        for image in exported.await? {
            // Standard output carries the archive and nothing else.
            if piped {
                break;
            }
            let (name, file) = (familiar(&image.name), self.output.display().to_string());
            let mut made = json!({"target": image.target, "output": file});
            names::add(&mut made, &image.name);
            context.out.item(&made, || format!("{name} -> {file}"))?;
        }
        Ok(())
    }
}

/// Returns standard output without the line buffer of the standard library.
fn standard_output() -> Result<Target> {
    let out = std::io::stdout();
    if out.is_terminal() {
        return Err(Error::invalid(
            "standard output is a terminal; name a file with -o FILE, or use a pipe",
        ));
    }
    let out = out.as_fd().try_clone_to_owned();
    let out = out.during("open", "standard output")?;
    Ok(Target::Stream(Box::new(Patient(File::from(out)))))
}
