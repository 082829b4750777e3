//! Ready layers: layers that a directory beside the root has, and that are not fetched.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use cas::blocking::Cas;
use cas::{Digest, GcOptions};
use flate2::{Compression, write::GzEncoder};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;
use testkit::archive::{Header, Tar};

use super::fake::Fake;
use super::sample::Sample;
use crate::common::tree::{Tree, differences, scan};
use crate::common::unkept::{lose_labels, lose_record};
use crate::common::{can, fails, killed_at, mounting_snapshotters, ok, text};

/// What `cas` says about a ready layer that it passes over.
const PASSED_OVER: &str = "a ready layer cannot be used";

/// An image in a registry, a directory with its ready layers, and its plain tree.
struct Scene {
    scratch: tempfile::TempDir,
    sample: Sample,
    registry: Fake,
    diff_ids: Vec<Digest>,
}

impl Scene {
    /// Returns `None` if this machine cannot mount images of EROFS.
    fn new() -> Option<Self> {
        if !mounting_snapshotters().contains(&"erofs") {
            return None;
        }
        let tars = tars();
        let diff_ids: Vec<Digest> = tars.iter().map(|tar| Digest::sha256(tar)).collect();
        let sample = Sample::of(
            tars.iter().map(|tar| gzip(tar)).collect(),
            &diff_ids,
            |_| {},
        );
        let served = sample.clone();
        let scene = Scene {
            scratch: tempfile::tempdir().unwrap(),
            registry: Fake::start(move |request| served.answer(request)),
            sample,
            diff_ids,
        };
        let image = scene.registry.image();
        ok(scene
            .cas("builder")
            .args(["--snapshotter", "native", "init"]));
        ok(scene.cas("builder").args(["-q", "pull", &image]));
        ok(scene
            .cas("builder")
            .args(["-q", "unpack", &image])
            .arg(scene.at("plain")));
        ok(&mut scene.build());
        Some(scene)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn cas(&self, root: &str) -> Command {
        super::cas(&self.at(root), self.scratch.path())
    }

    /// Returns a command that writes the ready layers.
    fn build(&self) -> Command {
        let mut disk = self.cas("builder");
        let image = self.registry.image();
        disk.args(["-q", "disk", &image, "--format", "layers", "-o"]);
        disk.arg(self.at("ready"));
        disk
    }

    /// Makes a root that uses the ready layers.
    fn init(&self, root: &str, flags: &[&str]) {
        let chosen = format!("erofs://?layers={}", self.at("ready").display());
        ok(self
            .cas(root)
            .args(["--snapshotter", &chosen, "init"])
            .args(flags));
    }

    /// Returns a command that pulls and unpacks the image.
    fn pull(&self, root: &str, flags: &[&str]) -> Command {
        let mut pull = self.cas(root);
        pull.args(["pull", "--unpack", &self.registry.image()]);
        pull.args(flags);
        pull
    }

    /// Returns what a pull says that must succeed.
    fn said(&self, root: &str, flags: &[&str]) -> String {
        let out = self.pull(root, flags).output().unwrap();
        assert!(out.status.success(), "{}", text(&out.stderr));
        text(&out.stderr)
    }

    /// Returns how often each layer was fetched.
    fn fetched(&self) -> Vec<usize> {
        let layers = self.sample.layers.iter();
        layers
            .map(|layer| self.registry.count("GET", &layer.digest.to_string()))
            .collect()
    }

    /// Returns how often each layer was fetched during `work`.
    fn fetched_by<T>(&self, work: impl FnOnce() -> T) -> Vec<usize> {
        let before = self.fetched();
        work();
        let after = self.fetched().into_iter().zip(before);
        after.map(|(after, before)| after - before).collect()
    }

    /// Checks that the mounted image is the plain tree.
    fn is_whole(&self, root: &str) {
        let target = self.at("mnt");
        let _ = fs::create_dir(&target);
        let image = self.registry.image();
        ok(self.cas(root).args(["-q", "mount", &image]).arg(&target));
        let found = differences(&self.at("plain"), &target);
        ok(self.cas(root).arg("umount").arg(&target));
        assert_eq!(found, Vec::<String>::new(), "{root}");
    }

    /// Checks that a collection in a far future keeps the snapshots, and that the image can be
    /// unpacked after it.
    fn stays(&self, root: &str) {
        assert_eq!(self.collect_later(root), self.diff_ids.len(), "{root}");
        let tree = self.at(&format!("{root}-tree"));
        let image = self.registry.image();
        ok(self.cas(root).args(["-q", "unpack", &image]).arg(&tree));
        let found = differences(&self.at("plain"), &tree);
        assert_eq!(found, Vec::<String>::new(), "{root}");
    }

    /// Runs a collection in a far future. Returns the number of snapshots that are left.
    fn collect_later(&self, root: &str) -> usize {
        let later = SystemTime::now() + Duration::from_secs(40 * 24 * 3600);
        let open = Cas::open(self.at(root)).unwrap();
        open.gc_with(GcOptions::default().with_now(later)).unwrap();
        open.close().unwrap();
        let left = ok(self.cas(root).args(["--json", "snapshot", "ls"]));
        left.lines().count()
    }

    /// Returns the number of files with this name among the snapshots of a root.
    fn files(&self, root: &str, name: &str) -> usize {
        let snapshots = self.at(root).join("snapshots");
        let found = ok(Command::new("find").arg(snapshots).args(["-name", name]));
        found.lines().count()
    }

    fn place(&self, layer: usize) -> PathBuf {
        self.at("ready/blobs/sha256")
            .join(self.diff_ids[layer].hex())
    }

    fn ready(&self) -> Tree {
        scan(&self.at("ready"))
    }
}

fn tars() -> [Vec<u8>; 2] {
    let lower = Tar::new()
        .member(Header::new(b'5', "./"), "")
        .dir("etc/")
        .file("etc/one", vec![b'1'; 200_000])
        .file("etc/gone", "gone")
        .hardlink("etc/same", "etc/one");
    let upper = Tar::new().file("etc/two", "2").file("etc/.wh.gone", "");
    [lower.end(), upper.end()]
}

fn gzip(tar: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
    encoder.write_all(tar).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn ready_layers_are_not_fetched_and_not_copied() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let before = scene.ready();
    let discard = &["--parallel", "--discard-unpacked-layers"][..];
    for (root, init, flags, expected) in [
        ("tars", &["--keep-tars"][..], &[][..], [0, 0]),
        ("discard", &[], discard, [0, 0]),
        // This root keeps the blobs.
        ("blobs", &[], &[], [1, 1]),
    ] {
        scene.init(root, init);
        let fetched = scene.fetched_by(|| scene.said(root, flags));
        assert_eq!(fetched, expected, "{root}");
        scene.is_whole(root);
        assert_eq!(scene.files(root, "layer.tar"), 0, "{root}");
        assert_eq!(scene.files(root, "layer.tar.ready"), 2, "{root}");
        // The metadata was copied.
        let metadata = scene.files(root, "image.erofs");
        assert_eq!(metadata, 1, "{root}");
        let again = scene.fetched_by(|| scene.said(root, flags));
        assert_eq!(again, [0, 0], "{root}");
        ok(scene.cas(root).args(["fsck", "--read-data"]));
        ok(scene.cas(root).arg("gc"));
        scene.is_whole(root);
        // The bytes of the ready layers do not count.
        let snapshots = ok(scene.cas(root).args(["--json", "snapshot", "ls"]));
        for line in snapshots.lines() {
            let one: Value = serde_json::from_str(line).unwrap();
            assert!(one["usage"]["bytes"].as_u64().unwrap() < 50_000, "{one}");
        }
        assert_eq!(snapshots.lines().count(), 2);
        ok(scene.cas(root).args(["rmi", &scene.registry.image()]));
        ok(scene.cas(root).arg("gc"));
    }
    assert_eq!(scene.ready(), before, "nothing wrote to the directory");
}

#[test]
fn snapshots_of_ready_layers_stay_if_a_record_is_lost_and_go_with_the_image() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let image = scene.registry.image();
    let root_document = &scene.sample.root;
    let manifest: Value = serde_json::from_slice(scene.sample.data(root_document)).unwrap();
    let config: Digest = manifest["config"]["digest"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let discard = &["--parallel", "--discard-unpacked-layers"][..];
    for (kind, init, flags) in [
        ("tars", &["--keep-tars"][..], &[][..]),
        ("discard", &[], discard),
    ] {
        for (lost, blob) in [("config", &config), ("manifest", &root_document.digest)] {
            let root = format!("{kind}-{lost}");
            scene.init(&root, init);
            scene.said(&root, flags);
            lose_record(&scene.at(&root), blob);
            assert_eq!(scene.collect_later(&root), 2, "{root}");
            let repair = || ok(scene.cas(&root).args(["fsck", "--repair"]));
            assert_eq!(scene.fetched_by(repair), [0, 0], "{root}");
            scene.stays(&root);
            ok(scene.cas(&root).args(["fsck", "--read-data"]));
            ok(scene.cas(&root).args(["rmi", &image]));
            assert_eq!(scene.collect_later(&root), 0, "{root}");
        }
        // In a root of an earlier release, only a label in the lost record keeps the snapshots.
        for (lost, record) in [("damaged", Some("{")), ("unkept", None)] {
            let root = format!("{kind}-{lost}");
            scene.init(&root, init);
            scene.said(&root, flags);
            lose_labels(&scene.at(&root), &image, record);
            let repair = || ok(scene.cas(&root).args(["fsck", "--repair"]));
            assert_eq!(scene.fetched_by(repair), [0, 0], "{root}");
            scene.stays(&root);
            ok(scene.cas(&root).args(["fsck", "--read-data"]));
        }
    }
}

/// An export needs the bytes of the layers, and reads them where they are.
#[test]
fn an_image_of_ready_layers_is_exported() {
    let Some(scene) = Scene::new() else {
        return;
    };
    scene.init("root", &["--keep-tars"]);
    scene.said("root", &[]);
    let image = scene.registry.image();
    let (archive, tree) = (scene.at("app.tar"), scene.at("tree"));
    ok(scene
        .cas("root")
        .args(["-q", "export", &image, "-o"])
        .arg(&archive));
    ok(scene
        .cas("root")
        .args(["-q", "unpack", &image])
        .arg(scene.at("own")));
    ok(scene.cas("other").args(["--snapshotter", "native", "init"]));
    ok(scene
        .cas("other")
        .args(["-q", "import", "--name", "app"])
        .arg(&archive));
    ok(scene.cas("other").args(["-q", "unpack", "app"]).arg(&tree));
    for tree in [tree, scene.at("own")] {
        assert_eq!(differences(&scene.at("plain"), &tree), Vec::<String>::new());
    }
}

#[test]
fn what_is_not_the_layer_is_passed_over() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let place = scene.place(0);
    let right = fs::read(&place).unwrap();
    let elsewhere = scene.at("elsewhere");
    fs::write(&elsewhere, &right).unwrap();
    let cases: [(&str, bool, &dyn Fn()); 5] = [
        ("absent", false, &|| {}),
        ("damaged", true, &|| {
            fs::write(&place, &right).unwrap();
            let file = File::options().write(true).open(&place).unwrap();
            file.write_all_at(b"x", 3000).unwrap();
        }),
        ("short", true, &|| {
            fs::write(&place, &right[..right.len() - 1]).unwrap();
        }),
        ("pipe", true, &|| {
            mknodat(CWD, &place, FileType::Fifo, Mode::RWXU, 0).unwrap();
        }),
        ("link", true, &|| symlink(&elsewhere, &place).unwrap()),
    ];
    for (root, is_said, make) in cases {
        fs::remove_file(&place).unwrap_or_default();
        make();
        let discarding = format!("{root}-discarding");
        let discard = &["--parallel", "--discard-unpacked-layers"][..];
        for (root, init, flags) in [
            (root, &["--keep-tars"][..], &[][..]),
            (&discarding, &[], discard),
        ] {
            scene.init(root, init);
            let mut said = String::new();
            let fetched = scene.fetched_by(|| said = scene.said(root, flags));
            assert_eq!(fetched, [1, 0], "{root}");
            assert_eq!(said.contains(PASSED_OVER), is_said, "{root}: {said}");
            assert_eq!(scene.files(root, "layer.tar"), 1, "{root}");
            scene.is_whole(root);
        }
    }
}

#[test]
fn a_ready_layer_that_is_lost_later_is_reported_and_made_again() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let image = scene.registry.image();
    for root in ["tars", "pulled"] {
        scene.init(root, &["--keep-tars"]);
        scene.said(root, &[]);
    }
    scene.init("blobs", &[]);
    scene.said("blobs", &[]);
    fs::create_dir_all(scene.at("mnt")).unwrap();
    let refused = |root: &str, layer: usize, expected: &str| {
        let mut mount = scene.cas(root);
        let said = fails(mount.args(["mount", &image]).arg(scene.at("mnt")), 4);
        for text in [scene.place(layer).to_str().unwrap(), expected, "cas fsck"] {
            assert!(said.contains(text), "{text}: {said}");
        }
    };
    // Other attributes, but the right bytes: a repair fetches nothing.
    fs::set_permissions(scene.place(0), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(scene.place(0), fs::Permissions::from_mode(0o644)).unwrap();
    refused("tars", 0, "was changed");
    fails(scene.cas("tars").arg("fsck"), 4);
    let repair = || ok(scene.cas("tars").args(["fsck", "--repair"]));
    assert_eq!(scene.fetched_by(repair), [0, 0]);
    scene.is_whole("tars");
    assert_eq!(scene.files("tars", "layer.tar"), 0);

    fs::rename(scene.at("ready"), scene.at("away")).unwrap();
    refused("tars", 1, "is missing");
    let out = scene.at("out");
    let out_text = out.to_str().unwrap();
    for arguments in [
        &["export", &image, "-o", "/dev/null"][..],
        &["unpack", &image, out_text],
        &["bundle", &image, out_text],
    ] {
        let said = fails(scene.cas("tars").args(arguments), 4);
        let lost = format!("{} is missing; run `cas fsck", scene.place(0).display());
        assert!(said.contains(&lost), "{said}");
        assert!(said.contains("pull or import the image again"), "{said}");
        assert!(!out.exists(), "{arguments:?}");
    }
    fails(scene.cas("tars").arg("fsck"), 4);
    assert_eq!(scene.fetched_by(repair), [1, 1]);
    scene.is_whole("tars");
    assert_eq!(scene.files("tars", "layer.tar"), 2);
    // A pull does the same.
    refused("pulled", 1, "is missing");
    assert_eq!(scene.fetched_by(|| scene.said("pulled", &[])), [1, 1]);
    scene.is_whole("pulled");
    // The store of this root has the layers.
    refused("blobs", 1, "is missing");
    let repair = || ok(scene.cas("blobs").args(["fsck", "--repair"]));
    assert_eq!(scene.fetched_by(repair), [0, 0]);
    scene.is_whole("blobs");
    assert_eq!(scene.files("blobs", "layer.tar"), 2);
}

/// A ready layer is found by its diff ID. The blob that an image lists may have another diff ID.
#[test]
fn a_stored_blob_is_still_compared_with_the_diff_id() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let other = Tar::new().file("other", "other").end();
    let lie = Sample::of(vec![gzip(&other)], &scene.diff_ids[..1], |_| {});
    let served = lie.clone();
    let registry = Fake::start(move |request| served.answer(request));
    scene.init("root", &[]);
    let mut pull = scene.cas("root");
    pull.args(["pull", "--unpack", &registry.image()]);
    let said = fails(&mut pull, 4);
    assert!(said.contains("diff ID"), "{said}");
}

#[test]
fn a_killed_pull_or_build_leaves_nothing_wrong() {
    let Some(scene) = Scene::new().filter(|_| can(&["strace"])) else {
        return;
    };
    let before = scene.ready();
    let mut kills = 0;
    for (number, (call, when)) in [
        ("openat", 60),
        ("write", 20),
        ("syncfs", 1),
        ("fsync,fdatasync", 3),
        ("renameat", 1),
    ]
    .into_iter()
    .enumerate()
    {
        let root = format!("root-{number}");
        scene.init(&root, &["--keep-tars"]);
        let mut killed = killed_at(&scene.pull(&root, &[]), call, when);
        killed.stdout(Stdio::null()).stderr(Stdio::null());
        let status = killed.status().unwrap();
        kills += usize::from(status.signal().is_some());
        let fetched = scene.fetched_by(|| scene.said(&root, &[]));
        assert_eq!(fetched, [0, 0], "{call}");
        scene.is_whole(&root);
        ok(scene.cas(&root).args(["fsck", "--read-data"]));
    }
    assert_eq!(scene.ready(), before);
    for (call, when) in [("renameat", 1), ("renameat", 2), ("fsync", 2)] {
        fs::remove_dir_all(scene.at("ready")).unwrap();
        let status = killed_at(&scene.build(), call, when).status().unwrap();
        kills += usize::from(status.signal().is_some());
        ok(&mut scene.build());
        let names = |tree: &Tree| tree.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&scene.ready()), names(&before), "{call} {when}");
        scene.init(&format!("built-{call}-{when}"), &["--keep-tars"]);
        let root = format!("built-{call}-{when}");
        assert_eq!(scene.fetched_by(|| scene.said(&root, &[])), [0, 0]);
    }
    // strace counts calls for each thread, so some kills may not happen.
    assert!(kills >= 4, "{kills}");
}
