//! Writing the changes of an overlay as a layer.

mod members;
mod overlays;

use std::fs::{self, File};
use std::path::Path;

use cas_layer::changes::{self, Written};
use cas_layer::tar::{Entry, EntryKind};

use crate::common::{Members, read_all};

/// Writes the changes in `upper`, and reads the members back.
fn written(upper: &Path) -> cas_core::Result<(Members, Written)> {
    let mut layer = Vec::new();
    let written = changes::write(File::open(upper)?, &mut layer)?;
    let (members, warnings) = read_all(&layer)?;
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(written.entries, members.len() as u64);
    Ok((members, written))
}

/// Returns whether the tests run as the superuser. Prints the reason for a skipped test if not.
fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("SKIPPED: only the superuser can make whiteouts and mount overlays");
    }
    is_root
}

/// Returns an empty directory.
fn place() -> (tempfile::TempDir, std::path::PathBuf) {
    let temp = tempfile::tempdir_in("/dev/shm").unwrap();
    let upper = temp.path().join("upper");
    fs::create_dir(&upper).unwrap();
    (temp, upper)
}

fn path(entry: &Entry) -> String {
    String::from_utf8_lossy(&entry.path).into_owned()
}

fn is_whiteout(entry: &Entry) -> bool {
    entry.kind == EntryKind::File && path(entry).contains(".wh.")
}
