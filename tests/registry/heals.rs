//! Pulls that find damaged blobs, and repairs that fetch from the registry of an image's name.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use testkit::archive::{Header, Tar};

use super::cas;
use super::fake::{Answer, Fake};
use super::relay::Relay;
use super::sample::Sample;
use crate::common::tree::differences;
use crate::common::{ENGINES, ok};

/// What happened to the file with the bytes of a blob.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Flipped,
    Truncated,
    Emptied,
    Missing,
}

use Damage::{Emptied, Flipped, Missing, Truncated};

impl Damage {
    fn hit(self, file: &Path) {
        let mut bytes = fs::read(file).unwrap();
        let middle = bytes.len() / 2;
        match self {
            Flipped => bytes[middle] ^= 1,
            Truncated => bytes.truncate(middle),
            Emptied => bytes.clear(),
            Missing => return fs::remove_file(file).unwrap(),
        }
        fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(file, bytes).unwrap();
    }
}

/// Flips a bit of a blob in the `fs` store.
pub(super) fn flip(root: &Path, digest: &cas::Digest) {
    Flipped.hit(&root.join("store/blobs/sha256").join(digest.hex()));
}

/// Returns the only file of a directory with these bytes.
fn file_with(directory: &Path, bytes: &[u8]) -> PathBuf {
    let files = fs::read_dir(directory).unwrap();
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.retain(|file| fs::read(file).unwrap() == bytes);
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}

fn is_intact(root: &Path, digest: &cas::Digest) -> bool {
    let file = root.join("store/blobs/sha256").join(digest.hex());
    cas::Digest::sha256(&fs::read(file).unwrap()) == *digest
}

#[test]
fn a_pull_replaces_damaged_blobs_of_every_kind_and_fetches_no_others() {
    let sample = Sample::new(&[1000, 200_000]);
    let good = sample.clone();
    let registry = Fake::start(move |request| good.answer(request));
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let manifest: cas::Manifest = serde_json::from_slice(sample.data(&sample.root)).unwrap();
    // The store `dir` keeps the bytes of its blobs in files with other names.
    for (engine, directory, damages) in [
        (
            "fs",
            "store/blobs/sha256",
            &[Flipped, Truncated, Emptied, Missing][..],
        ),
        ("dir", "store/uploads", &[Flipped]),
    ] {
        if !ENGINES.contains(&engine) {
            continue;
        }
        let root = scratch.path().join(engine);
        let pull = || ok(cas(&root, scratch.path()).args(["pull", &registry.image()]));
        ok(cas(&root, scratch.path()).args(["--store", engine, "init"]));
        pull();
        let directory = root.join(directory);
        for part in [&sample.layers[1], &manifest.config, &sample.root] {
            for damage in damages {
                let before = registry.count("GET", "/v2/");
                damage.hit(&file_with(&directory, sample.data(part)));
                pull();
                // The bytes are right again.
                file_with(&directory, sample.data(part));
                let fetched = registry.count("GET", "/v2/") - before;
                assert_eq!(fetched, 1, "{engine}, {damage:?}: {part:?}");
            }
        }
    }
}

/// The damaged copy stays until the right bytes are there.
#[test]
fn a_pull_that_fails_leaves_the_damaged_copy() {
    let sample = Sample::new(&[200_000]);
    let layer = sample.layers[0].digest;
    let (good, broken) = (sample.clone(), Arc::new(AtomicBool::new(false)));
    let (breaks, part) = (Arc::clone(&broken), format!("/blobs/{layer}"));
    let registry = Fake::start(move |request| {
        if breaks.load(Ordering::Relaxed) && request.path.ends_with(&part) {
            return Answer::error(404, "BLOB_UNKNOWN", "gone");
        }
        good.answer(request)
    });
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    let pull = || {
        let mut pull = cas(&root, scratch.path());
        pull.args(["pull", &registry.image()]);
        pull
    };
    ok(&mut pull());
    flip(&root, &layer);
    broken.store(true, Ordering::Relaxed);
    assert!(!pull().output().unwrap().status.success());
    let file = root.join("store/blobs/sha256").join(layer.hex());
    assert_eq!(fs::metadata(&file).unwrap().len(), 200_000);
    broken.store(false, Ordering::Relaxed);
    ok(&mut pull());
    assert!(is_intact(&root, &layer));
}

#[test]
fn a_repair_fetches_from_the_registry_of_the_name_without_being_told() {
    let sample = Sample::new(&[1000, 200_000]);
    let good = sample.clone();
    let registry = Fake::start(move |request| good.answer(request));
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    ok(cas(&root, scratch.path()).args(["pull", &registry.image()]));
    flip(&root, &sample.layers[1].digest);
    let lost = root
        .join("store/blobs/sha256")
        .join(sample.root.digest.hex());
    fs::remove_file(lost).unwrap();
    let said = ok(cas(&root, scratch.path()).args(["fsck", "--read-data", "--repair"]));
    assert!(said.contains("0 problems left, 2 repaired"), "{said}");
    assert!(is_intact(&root, &sample.layers[1].digest));
    ok(cas(&root, scratch.path()).args(["fsck", "--read-data"]));
    let from = [
        "fsck",
        "--read-data",
        "--repair",
        "--from",
        &registry.image(),
    ];
    flip(&root, &sample.layers[0].digest);
    let said = ok(cas(&root, scratch.path()).args(from));
    assert!(said.contains("0 problems left, 1 repaired"), "{said}");
}

/// Plain names lead to Docker Hub, but many of their images were never there. An image that the
/// user names as the source should be there.
#[test]
fn a_failed_request_to_docker_hub_is_repeated_only_if_the_user_names_it_as_the_source() {
    let sample = Sample::new(&[200_000]);
    let layer = sample.layers[0].digest;
    let (good, failures) = (sample.clone(), Arc::new(AtomicUsize::new(0)));
    let (left, part) = (Arc::clone(&failures), format!("/blobs/{layer}"));
    let registry = Fake::start(move |request| {
        let fails = || {
            let next = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            });
            next.is_ok()
        };
        if request.path.ends_with(&part) && fails() {
            return Answer::error(503, "UNAVAILABLE", "busy");
        }
        good.answer(request)
    });
    let proxy = Relay::start(&[("registry-1.docker.io:80", &registry.host)], None);
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    let run = |arguments: &[&str]| {
        let mut command = cas(&root, scratch.path());
        command.args(arguments).arg("--plain-http");
        command.env("HTTP_PROXY", format!("http://{}", proxy.host));
        for name in ["http_proxy", "NO_PROXY", "no_proxy"] {
            command.env_remove(name);
        }
        command.output().unwrap()
    };
    let image = "docker.io/team/app:1";
    let pulled = run(&["pull", image]);
    assert!(pulled.status.success(), "{pulled:?}");
    let file = root.join("store/blobs/sha256").join(layer.hex());
    fs::remove_file(&file).unwrap();
    failures.store(usize::MAX, Ordering::Relaxed);
    let before = registry.count("GET", &layer.to_string());
    assert!(!run(&["fsck", "--repair"]).status.success());
    assert_eq!(registry.count("GET", &layer.to_string()), before + 1);
    failures.store(1, Ordering::Relaxed);
    let repaired = run(&["fsck", "--repair", "--from", image]);
    assert!(repaired.status.success(), "{repaired:?}");
    assert!(is_intact(&root, &layer));
}

/// Returns the keys of all snapshots, parents before children.
fn chain(root: &Path, home: &Path) -> Vec<String> {
    let listed = ok(cas(root, home).args(["--json", "snapshot", "tree"]));
    let line = |line: &str| {
        let item: serde_json::Value = serde_json::from_str(line).unwrap();
        item["info"]["key"].as_str().unwrap().to_owned()
    };
    listed.lines().map(line).collect()
}

/// The layer whose snapshot has no directory arrives during the pull. The layers above may need
/// the files of the snapshot.
#[test]
fn a_pull_unpacks_the_layers_again_whose_snapshots_have_no_directory() {
    // The directories are members, so that their times are those of the layers.
    let begun = || {
        let dir = |name| Header::new(b'5', name).mode(0o755);
        Tar::new().member(dir("./"), "").member(dir("etc/"), "")
    };
    let layers = [
        begun().file("etc/one", "1").file("etc/two", "2"),
        begun().file("etc/.wh.one", "").file("etc/new", "n"),
        begun().hardlink("etc/linked", "etc/two"),
    ];
    let sample = Sample::of_archives(layers.map(Tar::end).into());
    let good = sample.clone();
    let registry = Fake::start(move |request| good.answer(request));
    let image = registry.image();
    let scratch = tempfile::tempdir().unwrap();
    let (plain, mounted) = (scratch.path().join("plain"), scratch.path().join("mnt"));
    fs::create_dir(&mounted).unwrap();
    for snapshotter in ["native", "overlay"] {
        for (lost, removed) in [
            (0, 0),
            (0, 1),
            (0, 2),
            (1, 0),
            (1, 1),
            (2, 0),
            (3, 0),
            (3, 1),
        ] {
            let case = format!("{snapshotter}-{lost}-{removed}");
            let root = scratch.path().join(&case);
            let run = |arguments: &[&str]| ok(cas(&root, scratch.path()).args(arguments));
            run(&["--snapshotter", snapshotter, "init"]);
            run(&["pull", "--unpack", &image]);
            if !plain.exists() {
                run(&["unpack", &image, plain.to_str().unwrap()]);
            }
            for key in chain(&root, scratch.path()).iter().rev().take(removed) {
                run(&["snapshot", "rm", key]);
            }
            let directory = root.join("snapshots").join(snapshotter).join("snapshots");
            let mut numbers: Vec<u64> = fs::read_dir(&directory)
                .unwrap()
                .map(|entry| {
                    entry
                        .unwrap()
                        .file_name()
                        .to_str()
                        .unwrap()
                        .parse()
                        .unwrap()
                })
                .collect();
            numbers.sort_unstable();
            // 3 stands for all.
            let lost = if lost == 3 {
                0..numbers.len()
            } else {
                lost..lost + 1
            };
            for number in &numbers[lost] {
                fs::remove_dir_all(directory.join(number.to_string())).unwrap();
            }
            for layer in &sample.layers {
                let blobs = root.join("store/blobs/sha256");
                fs::remove_file(blobs.join(layer.digest.hex())).unwrap();
            }
            run(&["pull", "--unpack", &image]);
            run(&["fsck"]);
            run(&["-q", "mount", &image, mounted.to_str().unwrap()]);
            let differences = differences(&plain, &mounted);
            run(&["umount", mounted.to_str().unwrap()]);
            assert!(differences.is_empty(), "{case}: {differences:#?}");
        }
    }
}
