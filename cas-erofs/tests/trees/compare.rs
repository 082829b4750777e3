//! Makes an image of layers, mounts it, and compares it with a directory that the same layers are
//! applied to.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cas_core::{Error, Result};
use cas_erofs::{Disk, Layers};
use cas_layer::apply;
use cas_layer::tar::Reader;
use tempfile::TempDir;
use testkit::tree::scan;

/// Returns whether images can be mounted here. Prints the reason if they cannot.
pub(crate) fn can_mount() -> bool {
    let root = rustix::process::geteuid().is_root();
    let known = fs::read_to_string("/proc/filesystems").is_ok_and(|all| all.contains("erofs"));
    if !(root && known) {
        eprintln!("SKIPPED: mounting an image needs the superuser, and a kernel with EROFS");
    }
    root && known
}

/// An image that is mounted on a loop device until it is dropped.
pub(crate) struct Mounted(TempDir);

impl Mounted {
    pub(crate) fn new(layers: &[Vec<u8>]) -> Result<Self> {
        let temp = tempfile::tempdir()?;
        let file = temp.path().join("image");
        make(layers, &file)?;
        fs::create_dir(temp.path().join("mount"))?;
        let mounted = Mounted(temp);
        let mount = Command::new("mount")
            .args(["-t", "erofs", "-o", "ro,loop"])
            .args([&file, &mounted.path()])
            .output()?;
        let why = String::from_utf8_lossy(&mount.stderr);
        assert!(mount.status.success(), "{why}");
        Ok(mounted)
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.path().join("mount")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

/// Makes the image of layers.
pub(crate) fn make(layers: &[Vec<u8>], file: &Path) -> Result<Disk> {
    let mut reader = Layers::new(file.parent().unwrap());
    for layer in layers {
        reader.add(&mut &layer[..])?;
    }
    let (tree, data) = reader.finish();
    Disk::write(&tree, &data, &std::fs::File::create(file)?)
}

/// Applies layers to a new directory.
pub(crate) fn apply(layers: &[Vec<u8>]) -> Result<TempDir> {
    let temp = tempfile::tempdir()?;
    let tree = apply::Tree::open(temp.path())?;
    for layer in layers {
        tree.apply(&mut Reader::new(&layer[..]))?;
    }
    Ok(temp)
}

/// Compares the image and the directory of layers. If the layers cannot be applied, both must fail.
/// Returns whether both were made.
pub(crate) fn compare(layers: &[Vec<u8>]) -> bool {
    let (image, directory) = match (Mounted::new(layers), apply(layers)) {
        (Ok(image), Ok(directory)) => (image, directory),
        (Err(_), Err(_)) => return false,
        (image, directory) => {
            let errors: [Option<Error>; 2] = [image.err(), directory.err()];
            panic!("only one of image and directory can be made: {errors:?}");
        }
    };
    let (found, expected) = (scan(&image.path()), scan(directory.path()));
    for (path, expected) in &expected {
        assert_eq!(found.get(path), Some(expected), "{}", path.display());
    }
    assert_eq!(found.len(), expected.len());
    true
}
