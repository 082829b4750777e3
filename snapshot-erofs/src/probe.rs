//! Probing whether images can be mounted from files, by mounting one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use cas_core::snapshot::{Backing, LAYER_TAR};
use cas_core::{Context, Error, ErrorKind, Result, unique};
use cas_erofs::Layers;
use cas_host::calls::undisturbed;
use cas_host::erofs::{ImageFiles, mount_image};
use cas_host::make_scratch;
use cas_host::mount::has_no_right;
use cas_layer::tar::{Entry, EntryKind, Writer};

/// The names of the files in the image. The data of the second file is cut off.
const WHOLE: &str = "whole";
const CUT: &str = "cut";
/// Length of each file in bytes, at least the size of a page.
const LENGTH: usize = 64 << 10;

/// The beginning of the name of the directory in which the image is.
const SCRATCH: &str = "probe";

/// Probes whether EROFS images can be mounted from files in `directory`. Creates the directory if
/// it is absent. Mounts an image, reads it, cuts off a part of its data, and checks that the kernel
/// reports an error when that part is read. Removes the files that a killed probe has left in the
/// directory.
///
/// # Errors
/// `Full` if the disk is full; `Unsupported`, with the reason, if the probe fails for another
/// reason, for example because the image cannot be mounted, or because the kernel reads wrong bytes
/// from the image; errors of removing the files of the probe.
pub fn probe(directory: &Path) -> Result<()> {
    probe_with(directory, Backing::File)
}

/// Does the same as [`probe`], but the kernel reads the files of the image through `backing`.
///
/// # Errors
/// As [`probe`].
pub fn probe_with(directory: &Path, backing: Backing) -> Result<()> {
    let scratch = directory.join(unique::key(SCRATCH));
    let tried = mount_and_read(&scratch, backing)
        .map_err(|error| unusable(error).subject(directory.display()));
    let cleaned = fs::remove_dir_all(&scratch).during("remove", scratch.display());
    tried.and(cleaned)
}

/// Returns the error of the probe for an error of mounting or reading.
fn unusable(error: Error) -> Error {
    if error.kind() == ErrorKind::Full {
        return error;
    }
    let why = match has_no_right(&error) {
        true => {
            "only the superuser of the machine can mount images, and only outside of `cas unshare`"
        }
        false => "EROFS images are not usable here",
    };
    Error::unsupported(format!(
        "{why} ({error}); use the overlay or the native snapshotter"
    ))
    .source(error)
}

fn mount_and_read(scratch: &Path, backing: Backing) -> Result<()> {
    let _lock = make_scratch(scratch, &format!("{SCRATCH}-"))?;
    let (image, tar) = (scratch.join("image.erofs"), scratch.join(LAYER_TAR));
    write_image(&image, &tar).during("write", scratch.display())?;
    let mounted = mount_image(ImageFiles {
        metadata: &image,
        devices: std::slice::from_ref(&tar),
        backing,
    })?;
    let shown = PathBuf::from(format!("/proc/self/fd/{}", mounted.as_raw_fd()));
    if undisturbed(|| fs::read(shown.join(WHOLE))).during("read", WHOLE)? != [b'x'; LENGTH] {
        return Err(Error::corrupt(
            "the kernel reads wrong bytes from a mounted image",
        ));
    }
    let length = undisturbed(|| fs::metadata(&tar))?.len();
    // This cuts off the end blocks and nearly all of the second file.
    let cut = File::options().write(true).open(&tar)?;
    cut.set_len(length - LENGTH as u64)?;
    judge(fs::read(shown.join(CUT)))
}

/// Checks that the kernel returned an error for a file whose data is cut off. Some kernels return
/// zeros instead, and would hide damage of a layer.
fn judge(answer: io::Result<Vec<u8>>) -> Result<()> {
    match answer {
        Err(_) => Ok(()),
        Ok(_) => Err(Error::unsupported(
            "this kernel reports no error for an image whose data is cut off; use a newer kernel",
        )),
    }
}

/// Writes a tar with the two files, and an image over the tar.
fn write_image(image: &Path, tar: &Path) -> Result<()> {
    let mut writer = Writer::new(Vec::new());
    for name in [WHOLE, CUT] {
        let entry = Entry::plain(name, EntryKind::File, 0o600, LENGTH as u64);
        writer.append(&entry, &[b'x'; LENGTH][..])?;
    }
    fs::write(tar, writer.finish()?)?;
    let mut layers = Layers::new(Path::new("/"));
    layers.add_file(File::open(tar)?)?;
    let (tree, data) = layers.finish();
    let made = cas_erofs::Image::new(&tree, &data)?;
    Ok(File::create(image)?.write_all(made.metadata())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_reads_zeros_past_the_end_is_refused() {
        assert!(judge(Err(io::Error::from_raw_os_error(5))).is_ok());
        for answer in [vec![0; LENGTH], vec![b'x'; LENGTH], Vec::new()] {
            let error = judge(Ok(answer)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
        }
    }
    /// The first error is like that of `mount_image` on a kernel that cannot mount files.
    #[test]
    fn an_image_that_cannot_be_mounted_is_told_with_the_reason() {
        let old = unusable(Error::unsupported("that needs Linux 6.12"));
        assert_eq!(old.kind(), ErrorKind::Unsupported);
        for text in ["not usable here", "Linux 6.12", "the native snapshotter"] {
            assert!(old.to_string().contains(text), "{old}");
        }
        let full = unusable(Error::new(ErrorKind::Full, "the disk is full"));
        assert_eq!(full.kind(), ErrorKind::Full);
    }
}
