//! `cas disk`: an image as one read-only file system.

use std::io::IsTerminal;
use std::path::PathBuf;

use cas::{DiskFormat, DiskOptions, Error, ImageRef, Platform, Result};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::Context;
use super::output::check_path;

/// Write an image as one read-only file system, for a virtual machine or a mount
#[derive(Args)]
#[command(after_help = "Example:
  cas disk app:1 -o app.erofs
  mount -o ro,loop app.erofs /mnt
  cas disk app:1 -o vm --format vmdk
  qemu-system-x86_64 -drive file=vm/disk.vmdk,snapshot=on ...
  cas disk app:1 -o app.erofs --writable app.ext4 --writable-size 10GiB

The file is an EROFS image: metadata, and then the tar of each layer. Linux 6.4 and later can mount
the file. A virtual machine can use the file as a disk with sectors of 512 bytes. The same image
always gives the same bytes, unless one of its layers is served on demand and is still incomplete.
No privileges are needed. While the file is written, its directory may need free space for twice the
size of the file. If the image is unpacked into snapshots of the snapshotter `erofs`, and the root
is not read-only, `--format erofs` copies the tars of these snapshots, and decompresses no layer.
If FILE is a pipe or a device, it is not replaced, but written from start to end.
With `--format vmdk`, FILE is a directory, which must be empty or absent.

With `--format layers`, FILE is a directory to which the layers of several images can be added. A
root that was made with `cas init --snapshotter 'erofs://?layers=FILE'` uses the layers in this
directory without copying them. A pull into such a root does not fetch the layers in this directory
if the root was made with `cas init --keep-tars`, or if the pull has the option
--discard-unpacked-layers.

With `--writable`, the program mke2fs makes an empty ext4 file system in a second, sparse file. The
virtual machine can write to this file system.")]
pub(crate) struct Disk {
    /// Name or digest of the image
    image: String,
    /// File to write, which appears once it is complete, or - for standard output; with
    /// `--format vmdk` or `--format layers`, directory to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Form of the disk
    #[arg(long, value_enum, default_value_t = Format::Erofs)]
    format: Format,
    /// Second file to write: an empty, writable ext4 file system
    #[arg(long, value_name = "FILE", requires = "writable_size")]
    writable: Option<PathBuf>,
    /// Size of the writable file system, as in 10GiB; at least 16MiB, and a multiple of 4KiB
    #[arg(long, value_name = "SIZE", value_parser = cas::parse_size, requires = "writable")]
    writable_size: Option<u64>,
    /// Platform, as in linux/arm64 [default: this machine's, or the image's own if the image is not
    /// an index]
    #[arg(long)]
    platform: Option<Platform>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One file, which is a raw disk; `raw` is another name of this format
    #[value(alias = "raw")]
    Erofs,
    /// A directory with the metadata, the tars, and disk.vmdk, which joins them to one disk
    Vmdk,
    /// A directory of ready layers, for the option `layers` of the snapshotter erofs of other roots
    Layers,
}

impl From<Format> for DiskFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Erofs => DiskFormat::Erofs,
            Format::Vmdk => DiskFormat::Vmdk,
            Format::Layers => DiskFormat::Layers,
        }
    }
}

impl Disk {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let piped = self.output.to_str() == Some("-");
        let output = if piped {
            standard_output(self.format)?
        } else {
            self.output.clone()
        };
        if let Some(file) = &self.writable {
            check_path(file)?;
        }
        let cas = context.cas().await?;
        let mut options = DiskOptions::default()
            .with_platforms(self.platform)
            .with_format(self.format.into())
            .with_progress(context.progress.clone());
        if let (Some(file), Some(size)) = (&self.writable, self.writable_size) {
            options = options.with_writable(file, size);
        }
        let image = ImageRef::typed(&self.image);
        let disk = cas.disk_with(image, output, options).await?;
        // Standard output carries the disk and nothing else.
        if piped {
            return Ok(());
        }
        let file = self.output.display().to_string();
        let mut made = json!({
            "image": self.image,
            "output": file,
            "size": disk.length,
            "metadata": disk.metadata,
        });
        if let Some(writable) = self.writable {
            made["writable"] = json!(writable.display().to_string());
        }
        context
            .out
            .item(&made, || format!("{} -> {file}", self.image))
    }
}

/// Returns the path of standard output.
fn standard_output(format: Format) -> Result<PathBuf> {
    if format != Format::Erofs {
        return Err(Error::invalid(
            "standard output can only receive a disk of one file; name a directory with -o FILE, \
             or use `--format erofs`",
        ));
    }
    if std::io::stdout().is_terminal() {
        return Err(Error::invalid(
            "standard output is a terminal; name a file with -o FILE, or use a pipe",
        ));
    }
    Ok("/dev/stdout".into())
}
