//! `cas disk`: an image as one read-only file system.

use std::path::PathBuf;

use cas::{DiskFormat, DiskOptions, ImageRef, Platform, Result};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::Context;

/// Write an image as one read-only file system, for a virtual machine or a mount
#[derive(Args)]
#[command(after_help = "Example:
  cas disk app:1 -o app.erofs
  mount -o ro,loop app.erofs /mnt
  cas disk app:1 -o vm --format vmdk
  qemu-system-x86_64 -drive file=vm/disk.vmdk,snapshot=on ...

The file is an EROFS image: metadata, and then the tar of each layer. Linux 6.4 and later mount it.
A virtual machine can use it as a disk with sectors of 512 bytes. The same image always gives the
same bytes. No privileges are needed. While the file is written, its directory needs free space for
twice the size of the file. If the image is unpacked into snapshots of the snapshotter `erofs`, the
tars of these snapshots are copied, and no layer is decompressed. With `--format vmdk`, FILE is a
directory, which must be empty or absent.")]
pub(crate) struct Disk {
    /// Name or digest of the image
    image: String,
    /// File to write; it appears once it is complete
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Form of the disk
    #[arg(long, value_enum, default_value_t = Format::Erofs)]
    format: Format,
    /// Platform, as in linux/arm64 [default: this machine's; of an image without an index, its only
    /// platform]
    #[arg(long)]
    platform: Option<Platform>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// One file, which is a raw disk (also: raw)
    #[value(alias = "raw")]
    Erofs,
    /// A directory with the metadata, the tars, and disk.vmdk, which joins them to one disk
    Vmdk,
}

impl From<Format> for DiskFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Erofs => DiskFormat::Erofs,
            Format::Vmdk => DiskFormat::Vmdk,
        }
    }
}

impl Disk {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let cas = context.cas().await?;
        let options = DiskOptions::default()
            .with_platforms(self.platform)
            .with_format(self.format.into())
            .with_progress(context.progress.clone());
        let image = ImageRef::typed(&self.image);
        let disk = cas.disk_with(image, &self.output, options).await?;
        let file = self.output.display().to_string();
        let made = json!({
            "image": self.image,
            "output": file,
            "size": disk.length,
            "metadata": disk.metadata,
        });
        context
            .out
            .item(&made, || format!("{} -> {file}", self.image))
    }
}
