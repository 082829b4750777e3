//! Tars and metadata with other bytes, but with the length and the time of the right ones.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use cas_core::snapshot::{Commit, Condition, Depth, LAYER_TAR, Mount, chain_ids};
use cas_core::{Digest, ErrorKind, Labels, Snapshotter};
use snapshot_erofs::ErofsSnapshotter;
use testkit::archive::Tar;

use crate::{READ, layer, open};

/// Changes a file, and gives it the time that it had.
fn change(path: &Path, change: impl FnOnce(&File)) {
    let file = File::options().write(true).open(path).unwrap();
    let times = FileTimes::new().set_modified(file.metadata().unwrap().modified().unwrap());
    change(&file);
    file.set_times(times).unwrap();
}

/// Removes what the checks without digests use.
fn forget_manifests(root: &Path) {
    fs::remove_dir_all(root.join("manifests")).unwrap();
}

/// Returns the path of the only tar with these bytes.
fn tar_with(root: &Path, bytes: &[u8]) -> PathBuf {
    let snapshots = fs::read_dir(root.join("snapshots")).unwrap();
    let tars = snapshots.map(|one| one.unwrap().path().join("fs").join(LAYER_TAR));
    let mut same = tars.filter(|tar| fs::read(tar).is_ok_and(|found| found == bytes));
    let found = same.next().unwrap();
    assert!(same.next().is_none());
    found
}

async fn is_damaged(store: &ErofsSnapshotter, key: &str) -> bool {
    match store.check(key, READ).await.unwrap() {
        Condition::Sound => false,
        Condition::Damaged(what) => what.contains(LAYER_TAR),
        Condition::Missing => panic!("{key} is missing"),
    }
}

#[tokio::test]
async fn tars_of_layers_are_compared_with_their_diff_ids() {
    let tars = ["one", "two"].map(|text| Tar::new().file("file", text).end());
    let chain = chain_ids(&tars.each_ref().map(|tar| Digest::sha256(tar)));
    let [base, top] = [chain[0].to_string(), chain[1].to_string()];
    for damage in ["overwritten", "swapped", "truncated"] {
        let temp = tempfile::tempdir().unwrap();
        let store = open(temp.path());
        layer(&store, &base, None, &tars[0]).await;
        layer(&store, &top, Some(&base), &tars[1]).await;
        assert!(!is_damaged(&store, &base).await && !is_damaged(&store, &top).await);
        forget_manifests(temp.path());
        assert!(!is_damaged(&store, &base).await && !is_damaged(&store, &top).await);
        let paths = tars.each_ref().map(|tar| tar_with(temp.path(), tar));
        match damage {
            "overwritten" => change(&paths[1], |tar| tar.write_all_at(b"T", 512).unwrap()),
            "truncated" => change(&paths[1], |tar| tar.set_len(1024).unwrap()),
            _ => {
                assert_eq!(tars[0].len(), tars[1].len());
                change(&paths[0], |tar| tar.write_all_at(&tars[1], 0).unwrap());
                change(&paths[1], |tar| tar.write_all_at(&tars[0], 0).unwrap());
            }
        }
        assert!(is_damaged(&store, &top).await, "{damage}");
        assert_eq!(is_damaged(&store, &base).await, damage == "swapped");
        let quick = store.check(&top, Depth::Files).await.unwrap();
        assert_eq!(quick, Condition::Sound, "nothing was read");
    }
}

#[tokio::test]
async fn a_packed_tar_is_compared_with_its_recorded_digest() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let mounts = store.prepare("active", None, Labels::new()).await.unwrap();
    let [Mount::Bind { source, .. }] = &mounts[..] else {
        panic!("{mounts:?}");
    };
    fs::write(source.join("file"), vec![0; 100_000]).unwrap();
    store
        .commit("packed", "active", Commit::default())
        .await
        .unwrap();
    forget_manifests(temp.path());
    assert!(!is_damaged(&store, "packed").await);
    let [snapshot] = fs::read_dir(temp.path().join("snapshots"))
        .unwrap()
        .map(|one| one.unwrap().path())
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    change(&snapshot.join("fs").join(LAYER_TAR), |tar| {
        tar.write_all_at(b"1", 50_000).unwrap();
    });
    assert!(is_damaged(&store, "packed").await);
}

/// The record of an image has the lengths of its tars, because a loss of power can undo a manifest.
#[tokio::test]
async fn a_truncated_tar_is_refused_without_its_manifest() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let tar = Tar::new().file("file", "text").end();
    layer(&store, "layer", None, &tar).await;
    let view = |key| store.view(key, Some("layer"), Labels::new());
    view("view").await.unwrap();
    forget_manifests(temp.path());
    store.mounts("view").await.unwrap();
    let path = tar_with(temp.path(), &tar);
    change(&path, |tar| tar.set_len(1024).unwrap());
    for refused in [store.mounts("view").await, view("other").await] {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains("fsck"), "{error}");
    }
    change(&path, |file| file.write_all_at(&tar, 0).unwrap());
    store.mounts("view").await.unwrap();
}
