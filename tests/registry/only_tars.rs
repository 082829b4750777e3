//! Pulls and pushes of a root that keeps layers only as tars.

use std::fs;
use std::io::Write;

use cas::Digest;
use flate2::{Compression, GzBuilder};
use testkit::archive::{Header, Tar};

use super::fake::Fake;
use super::receiver::Receiver;
use super::sample::Sample;
use crate::common::disk::Disk;
use crate::common::platforms::{DAMAGED, SOUND, half_damaged};
use crate::common::tree::differences;
use crate::common::{can, fails, mounting_snapshotters, ok};

/// Returns an image whose second layer this program cannot compress again, if `foreign` is set.
fn sample(foreign: bool) -> Sample {
    let lower = Tar::new()
        .member(Header::new(b'5', "./"), "")
        .file("etc/one", vec![b'1'; 200_000]);
    let upper = Tar::new().file("etc/two", "2");
    let tars = [lower.end(), upper.end()];
    let diff_ids: Vec<Digest> = tars.iter().map(|tar| Digest::sha256(tar)).collect();
    let packed = tars.iter().enumerate().map(|(number, tar)| {
        let builder = match number == 1 && foreign {
            true => GzBuilder::new().mtime(1_700_000_000),
            false => GzBuilder::new(),
        };
        let mut encoder = builder.write(Vec::new(), Compression::new(6));
        encoder.write_all(tar).unwrap();
        encoder.finish().unwrap()
    });
    Sample::of(packed.collect(), &diff_ids, |_| {})
}

/// Each registry is served by [`Receiver`], so that it also takes pushes.
fn registry(sample: &Sample) -> Fake {
    let sample = sample.clone();
    let receiver = Receiver::new();
    Fake::start(move |request| {
        let is_read = request.method == "GET" || request.method == "HEAD";
        let is_upload = request.path.contains("/uploads/");
        match is_read && !is_upload {
            true => sample.answer(request),
            false => receiver.reply(request),
        }
    })
}

#[test]
fn a_layer_is_fetched_once_and_a_push_is_whole() {
    if !mounting_snapshotters().contains(&"erofs") {
        return;
    }
    for foreign in [false, true] {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        let tool = |root: &str| super::cas(&at(root), scratch.path());
        let made = ["--snapshotter", "erofs", "init", "--keep-tars"];
        ok(tool("root").args(made));
        let sample = sample(foreign);
        let served = registry(&sample);
        let image = served.image();
        for flags in [&[][..], &[], &["--parallel"], &["--policy", "missing"]] {
            ok(tool("root").args(["-q", "pull", &image]).args(flags));
            for layer in &sample.layers {
                let digest = layer.digest.to_string();
                assert_eq!(served.count("GET", &digest), 1, "{flags:?}");
            }
            let blobs = fs::read_dir(at("root").join("store/blobs/sha256")).unwrap();
            assert_eq!(blobs.count(), 2, "{flags:?}");
        }
        // No bytes are needed where the registry has them.
        ok(tool("root").args(["-q", "push", &image, &image]));
        assert_eq!(served.count("POST", "/uploads/"), 0);

        let receiver = Receiver::new();
        let empty = receiver.start();
        let push = tool("root").args(["push", &image, &empty.image()]).output();
        let said = crate::common::text(&push.unwrap().stderr);
        assert_eq!(said.contains("compressed again"), foreign, "{said}");
        if !foreign {
            receiver.has_all(&sample);
        }
        // The fake registry knows documents by digest only.
        let mut documents = empty
            .seen()
            .into_iter()
            .filter(|one| one.is("PUT", "/manifests/"));
        let pushed = documents.next_back().unwrap();
        let digest = Digest::sha256(&pushed.body);
        let name = empty.image().rsplit_once(':').unwrap().0.to_owned();
        for (root, image) in [
            ("whole", image.clone()),
            ("pushed", format!("{name}@{digest}")),
        ] {
            ok(tool(root).args(["-q", "pull", &image]));
            ok(tool(root)
                .args(["-q", "unpack", &image])
                .arg(at(&format!("{root}.tree"))));
        }
        let found = differences(&at("whole.tree"), &at("pushed.tree"));
        assert_eq!(found, Vec::<String>::new());
        assert_eq!(digest == sample.root.digest, !foreign);
    }
}

/// The blob of a layer cannot be made from its tar without writing to the store.
#[test]
fn a_read_only_root_pushes_layers_that_it_has_as_blobs() {
    if !can(&["mount", "umount"]) || !mounting_snapshotters().contains(&"erofs") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let disk = Disk::mount(scratch.path().join("disk"), "size=100m");
    let tool = |root: &str| super::cas(&disk.0.join(root), scratch.path());
    let made = ["--snapshotter", "erofs", "init"];
    ok(tool("blobs").args(made));
    ok(tool("tars").args(made).arg("--keep-tars"));
    let sample = sample(false);
    let image = registry(&sample).image();
    for root in ["blobs", "tars"] {
        ok(tool(root).args(["-q", "pull", &image]));
    }
    disk.remount("ro");
    let receiver = Receiver::new();
    let there = receiver.start().image();
    let said = fails(tool("tars").args(["push", &image, &there]), 3);
    assert!(said.contains("make the root writable"), "{said}");
    ok(tool("blobs").args(["push", &image, &there]));
    receiver.has_all(&sample);
}

#[test]
fn a_push_of_one_platform_makes_no_layers_of_another() {
    if !mounting_snapshotters().contains(&"erofs") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let root = half_damaged(scratch.path());
    let receiver = Receiver::new();
    let registry = receiver.start();
    let push = |flags: &[&str]| {
        let mut push = super::cas(&root, scratch.path());
        push.args(["-q", "push", "app", &registry.image()])
            .args(flags);
        push
    };
    for flags in [&[][..], &["--all-platforms"], &["--platform", DAMAGED]] {
        fails(&mut push(flags), 4);
    }
    assert_eq!(registry.count("PUT", "/manifests/"), 0);
    ok(&mut push(&["--platform", SOUND]));
    assert_eq!(registry.count("PUT", "/manifests/"), 1);
    let blobs = fs::read_dir(root.join("store/blobs/sha256")).unwrap();
    assert_eq!(blobs.count(), 5, "an index and two images");
}

/// Nothing leads to the tars any more.
#[test]
fn a_push_after_a_loss_of_records_names_the_repair() {
    if !mounting_snapshotters().contains(&"erofs") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    let tool = || super::cas(&root, scratch.path());
    ok(tool().args(["--snapshotter", "erofs", "init", "--keep-tars"]));
    let sample = sample(false);
    let served = registry(&sample);
    let image = served.image();
    ok(tool().args(["-q", "pull", &image]));
    for entry in fs::read_dir(root.join("local")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.starts_with("records.db") {
            fs::remove_file(&path).unwrap();
        }
    }
    let receiver = Receiver::new();
    let empty = receiver.start();
    let copy = empty.image();
    let push = ["push", &image, &copy];
    let said = fails(tool().args(push), 3);
    assert!(said.contains("run `cas fsck --repair`"), "{said}");
    // Directories of the lost snapshots may stay for a while.
    tool().args(["fsck", "--repair"]).output().unwrap();
    ok(tool().args(push));
    receiver.has_all(&sample);
}

/// An artifact has no file system that could be kept as tars.
#[test]
fn an_artifact_is_pulled_and_pushed_as_in_other_roots() {
    if !mounting_snapshotters().contains(&"erofs") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    let tool = || super::cas(&root, scratch.path());
    let made = ["--snapshotter", "erofs", "init", "--keep-tars"];
    ok(tool().args(made));
    let sample = Sample::with(&[1000], |manifest| {
        manifest["layers"][0]["mediaType"] = "application/vnd.example.chart".into();
    });
    let image = registry(&sample).image();
    for flags in [&[][..], &["--all-platforms"]] {
        ok(tool().args(["-q", "pull", &image]).args(flags));
        let blobs = fs::read_dir(root.join("store/blobs/sha256")).unwrap();
        assert_eq!(blobs.count(), 3, "{flags:?}");
    }
    let receiver = Receiver::new();
    ok(tool().args(["push", &image, &receiver.start().image()]));
    receiver.has_all(&sample);
}
