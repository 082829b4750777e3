//! `cas soci`: SOCI indexes, which allow reading layers on demand.

use std::fs::File;
use std::io::{Read, stdin};
use std::path::{Path, PathBuf};

use cas::image::{FullName, familiar};
use cas::lazy::PrefetchFile;
use cas::{Context as _, Error, ImageRef, Platform, Result, SociIndex, SociOptions, limit};
use cas_host::calls::is_dir;
use clap::{Args, Subcommand};
use serde::Serialize;
#[cfg(feature = "on-demand")]
use serde_json::json;

use super::output::{count, size};
use super::patient::Patient;
#[cfg(feature = "registry")]
use super::remote::Upload;
use super::{Context, exit};

/// Make, list and push SOCI indexes, which allow reading layers on demand
#[derive(Subcommand)]
#[command(after_help = "Examples:
  cas soci create app:1
  cas soci push app:1 registry.example/team/app:1")]
pub(crate) enum Soci {
    Create(Create),
    Convert(Convert),
    Ls(Ls),
    #[cfg(feature = "registry")]
    Push(Push),
    #[cfg(feature = "on-demand")]
    PrefetchList(PrefetchList),
}

/// Make a zTOC of each large layer of an image, and an index that lists the zTOCs
#[derive(Args)]
#[command(after_help = "Examples:
  cas soci create app:1
  cas soci create app:1 --min-layer-size 0 --span-size 1MiB

A zTOC has the table of contents of a layer, and a list of places at which decompression can begin.
These places divide the layer into spans. Layers that are not compressed with gzip are left out with
a warning.
The index is a referrer of the image: `cas soci push` pushes the index with the image, and `cas gc`
keeps the index for as long as the image. `cas pull --lazy` uses the index only if
[pull_modes.soci_v1] in cas.toml has `enable = true`. An index that `cas soci convert` makes needs
no setting.")]
pub(crate) struct Create {
    /// Name or digest of the image
    image: String,
    #[command(flatten)]
    how: How,
}

/// Make an image that includes a SOCI index
#[derive(Args)]
#[command(after_help = "Example:
  cas soci convert app:1 registry.example/team/app:1-soci
  cas push registry.example/team/app:1-soci

The new image has the same configuration and layers as the old image. The digest of the new image
also covers the index, so signatures of the old image do not apply to the new image.")]
pub(crate) struct Convert {
    /// Name or digest of the image
    image: String,
    /// Name of the new image
    name: FullName,
    #[command(flatten)]
    how: How,
}

/// How zTOCs are made.
#[derive(Args)]
struct How {
    /// Platform, as in linux/arm64 [default: this machine's, or the image's own if the image is not
    /// an index]
    #[arg(long)]
    platform: Option<Platform>,
    /// Begin a new span at the next DEFLATE block after this many decompressed bytes [default:
    /// 4MiB]
    #[arg(long, value_name = "SIZE", value_parser = cas::parse_size)]
    span_size: Option<u64>,
    /// Leave out layers with a smaller compressed size [default: 10MiB]
    #[arg(long, value_name = "SIZE", value_parser = cas::parse_size)]
    min_layer_size: Option<u64>,
    /// List this file of the image in the index, so that the file is fetched before others; may be
    /// repeated
    #[arg(long, value_name = "PATH")]
    prefetch_file: Vec<PathBuf>,
    /// Like --prefetch-file, for each file that this list names, one on each line, as `cas soci
    /// prefetch-list` prints them; parts of a file may follow its path; - is standard input
    #[arg(long, value_name = "FILE")]
    prefetch_list: Option<PathBuf>,
}

impl How {
    fn options(self, context: &Context) -> Result<SociOptions> {
        let mut prefetch: Vec<PrefetchFile> = Vec::new();
        prefetch.extend(self.prefetch_file.iter().map(PrefetchFile::new));
        if let Some(list) = &self.prefetch_list {
            prefetch.extend(listed(list)?);
        }
        let mut options = SociOptions::default()
            .with_platforms(self.platform)
            .with_prefetch(prefetch)
            .with_progress(context.progress.clone());
        options.span_size = self.span_size.unwrap_or(options.span_size);
        options.min_layer_size = self.min_layer_size.unwrap_or(options.min_layer_size);
        Ok(options)
    }
}

/// Returns the files in a list, which has one file on each line. Empty lines are skipped.
///
/// # Errors
/// `InvalidArgument` if `list` is a directory, or if the parts of a file are not ranges;
/// `OutOfRange` for a list of more than [`limit::PREFETCH`] bytes; errors of the file system.
fn listed(list: &Path) -> Result<Vec<PrefetchFile>> {
    // Names of files need not be UTF-8.
    let mut text = Vec::new();
    let opened = open(list).during("open", list.display())?;
    let read = opened.take(limit::PREFETCH + 1).read_to_end(&mut text);
    let read = read.during("read", list.display())?;
    if read as u64 > limit::PREFETCH {
        return Err(Error::out_of_range(format!(
            "the list of files has more than the {} bytes allowed; list only the files that \
             containers read when they start",
            limit::PREFETCH
        ))
        .subject(list.display()));
    }
    let lines = text.split(|byte| *byte == b'\n');
    let lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let numbered = lines.enumerate().filter(|(_, line)| !line.is_empty());
    let parsed = numbered.map(|(index, line)| {
        let place = format!("line {} of {}", index + 1, list.display());
        PrefetchFile::parse(line).map_err(|error| error.within(place))
    });
    parsed.collect()
}

/// Opens a file, or standard input if `file` is `-`.
///
/// # Errors
/// `InvalidArgument` for a directory; errors of the file system.
fn open(file: &Path) -> Result<Box<dyn Read>> {
    match file.to_str() {
        Some("-") => Ok(Box::new(Patient(stdin()))),
        _ if is_dir(file) => Err(Error::invalid("the path is a directory; name a file")),
        _ => Ok(Box::new(File::open(file)?)),
    }
}

/// List the SOCI indexes that are referrers of an image, or of all images, with the number of
/// layers that each index describes
#[derive(Args)]
#[command(after_help = "Example:
  cas soci ls app:1

An index that `cas soci convert` made is not a referrer, so the index is not listed.")]
pub(crate) struct Ls {
    /// Name or digest of an image [default: all images]
    image: Option<String>,
}

/// Push an image with everything in the store that refers to it, such as its SOCI indexes; the same
/// as `cas push --referrers`
#[cfg(feature = "registry")]
#[derive(Args)]
#[command(after_help = "Example:
  cas soci create registry.example/team/app:1
  cas soci push registry.example/team/app:1")]
pub(crate) struct Push {
    #[command(flatten)]
    upload: Upload,
}

/// List the files that containers have read from an image, and which parts of large files
#[cfg(feature = "on-demand")]
#[derive(Args)]
#[command(after_help = "Example:
  cas run --lazy registry.example/team/app:1-soci -- app --version
  cas soci prefetch-list registry.example/team/app:1-soci > files
  cas soci convert app:1 registry.example/team/app:2-soci --prefetch-list files

Only files in layers that are read on demand with a zTOC are listed. Files that were first read
within the last second may be missing.")]
pub(crate) struct PrefetchList {
    /// Name or digest of the image
    image: String,
}

/// One line of `cas soci ls`: an index, and the image to which it belongs.
#[derive(Serialize)]
struct Row {
    image: String,
    #[serde(flatten)]
    index: SociIndex,
}

impl Soci {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        match self {
            Soci::Create(command) => command.run(context).await,
            Soci::Convert(command) => command.run(context).await,
            Soci::Ls(command) => command.run(context).await,
            #[cfg(feature = "registry")]
            Soci::Push(command) => command.upload.run(true, context).await,
            #[cfg(feature = "on-demand")]
            Soci::PrefetchList(command) => command.run(context).await,
        }
    }
}

impl Create {
    async fn run(self, context: &Context) -> Result<()> {
        let cas = context.cas().await?;
        let options = self.how.options(context)?;
        let image = ImageRef::typed(&self.image);
        let index = cas.create_soci_with(image, options).await?;
        let layers = count(index.layers.len() as u64, "layer");
        let digest = index.digest;
        context.out.item(&index, || format!("{digest} ({layers})"))
    }
}

impl Convert {
    async fn run(self, context: &Context) -> Result<()> {
        let cas = context.cas().await?;
        let options = self.how.options(context)?;
        let image = ImageRef::typed(&self.image);
        let made = cas.convert_soci_with(image, self.name, options).await?;
        context.out.item(&made, || {
            format!("{} -> {}", familiar(&made.name), made.target.digest.short())
        })
    }
}

#[cfg(feature = "on-demand")]
impl PrefetchList {
    async fn run(self, context: &Context) -> Result<()> {
        let cas = context.cas().await?;
        let found = cas.manifest(ImageRef::typed(&self.image)).await?;
        let on_demand = cas::OnDemand::open(context.root()?)?;
        for file in on_demand.files_read(&found.manifest.layers)? {
            let parts: Vec<_> = file
                .parts()
                .iter()
                .map(|part| [part.start, part.end])
                .collect();
            let path = file.path().display().to_string();
            let line = || file.to_string();
            context
                .out
                .item(&json!({"path": path, "parts": parts}), line)?;
        }
        Ok(())
    }
}

impl Ls {
    async fn run(self, context: &Context) -> Result<()> {
        let cas = context.cas().await?;
        let (images, problems) = match self.image {
            Some(image) => (vec![(image.clone(), ImageRef::typed(&image))], Vec::new()),
            None => {
                let found = cas.listing(&[]).await?;
                let images = found.images.into_iter();
                let images = images.map(|one| (one.shown, one.image.into()));
                (images.collect(), found.problems)
            }
        };
        let mut rows = Vec::new();
        for (shown, image) in images {
            let indexes = cas.soci_indexes(image).await?.into_iter();
            rows.extend(indexes.map(|index| Row {
                image: shown.clone(),
                index,
            }));
        }
        let columns = ["IMAGE", "INDEX", "MANIFEST", "LAYERS", "SIZE"];
        context.out.list(&columns, &rows, |row| {
            let index = &row.index;
            let ztocs: u64 = index.layers.iter().map(|layer| layer.size).sum();
            vec![
                row.image.clone(),
                index.digest.short(),
                index.subject.short(),
                index.layers.len().to_string(),
                size(index.size + ztocs),
            ]
        })?;
        exit::damaged(problems)
    }
}
