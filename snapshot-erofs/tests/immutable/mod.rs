//! Tars that nobody can change until their snapshots are removed.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cas_core::snapshot::{Commit, Condition, LAYER_TAR, Mount};
use cas_core::{Labels, Snapshotter};
use cas_host::set_immutable;
use cas_host::snapshotter::SnapshotLayout;
use cas_records_sqlite::SqliteRecords;
use snapshot_erofs::{Erofs, ErofsSnapshotter};
use tempfile::TempDir;
use testkit::archive::Tar;

use crate::{READ, layer};

/// A root whose tars become mutable when it is removed.
struct Root(TempDir);

impl Root {
    /// Returns a root, or `None` if files cannot be immutable here.
    fn new() -> Option<Self> {
        let root = tempfile::tempdir().unwrap();
        let file = File::create(root.path().join("file")).unwrap();
        match set_immutable(&file, true).and_then(|()| set_immutable(&file, false)) {
            Ok(()) => Some(Root(root)),
            Err(error) => {
                eprintln!("SKIPPED: {error}");
                None
            }
        }
    }

    fn open(&self, immutable: bool) -> ErofsSnapshotter {
        let root = self.0.path();
        let records = Arc::new(SqliteRecords::open(&root.join("records.db")).unwrap());
        let layout = Erofs::open().unwrap().with_immutable(immutable);
        ErofsSnapshotter::with_layout(layout, root, records).unwrap()
    }

    fn tars(&self) -> Vec<PathBuf> {
        let snapshots = fs::read_dir(self.0.path().join("snapshots"));
        let tar = |one: fs::DirEntry| one.path().join("fs").join(LAYER_TAR);
        let tars = snapshots.unwrap().map(|one| tar(one.unwrap()));
        tars.filter(|tar| tar.exists()).collect()
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        for tar in self.tars() {
            let _ = File::open(tar).map(|tar| set_immutable(tar, false));
        }
    }
}

fn is_protected(tar: &Path) -> bool {
    let opened = File::options().write(true).open(tar).map(|_| ());
    let renamed = fs::rename(tar, tar.with_extension("old"));
    let removed = fs::remove_file(tar);
    [opened, renamed, removed].iter().all(|done| {
        done.as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
    })
}

#[tokio::test]
async fn committed_tars_are_immutable_until_they_are_removed() {
    let Some(root) = Root::new() else {
        return;
    };
    let store = root.open(true);
    layer(&store, "layer", None, &Tar::new().file("a", "a").end()).await;
    let mounts = store.prepare("active", None, Labels::new()).await.unwrap();
    let [Mount::Bind { source, .. }] = &mounts[..] else {
        panic!("{mounts:?}");
    };
    fs::write(source.join("file"), "written").unwrap();
    store
        .commit("packed", "active", Commit::default())
        .await
        .unwrap();
    let tars = root.tars();
    assert_eq!(tars.len(), 2);
    for tar in &tars {
        assert!(is_protected(tar), "{}", tar.display());
    }
    for key in ["layer", "packed"] {
        assert_eq!(store.check(key, READ).await.unwrap(), Condition::Sound);
    }
    store.remove("layer").await.unwrap();
    assert_eq!(root.tars().len(), 1);
    // The option was left out since.
    let other = root.open(false);
    other.remove("packed").await.unwrap();
    assert_eq!(root.tars().len(), 0);
    layer(&other, "layer", None, &Tar::new().file("a", "a").end()).await;
    assert!(!is_protected(&root.tars()[0]));
}

/// A killed commit has made the tar immutable, but has not changed the record.
#[tokio::test]
async fn an_immutable_leftover_is_removed_by_a_cleanup() {
    let Some(root) = Root::new() else {
        return;
    };
    let store = root.open(true);
    let left = root.0.path().join("snapshots/4000000000/fs");
    fs::create_dir_all(&left).unwrap();
    let tar = File::create(left.join(LAYER_TAR)).unwrap();
    set_immutable(&tar, true).unwrap();
    drop(tar);
    assert!(store.cleanup().await.unwrap().inodes > 0);
    assert_eq!(root.tars().len(), 0);
    assert!(!left.exists());
}
