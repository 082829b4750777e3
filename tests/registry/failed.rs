//! Pulls that fail. Everything that was there before still works, and later pulls succeed.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use cas::{Descriptor, MediaType};
use serde_json::json;
use testkit::archive::Tar;

use super::cas;
use super::fake::{Answer, Fake, Request};
use super::resume::leases;
use crate::common::{ENGINES, fails, ok};

/// What the registry does with a request for a blob or a manifest of the other platform.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Status(u16),
    Damaged,
    Longer,
    CutThenGone,
}

use Fault::{CutThenGone, Damaged, Longer, Status};

/// The other platform of the image.
const OTHER: &str = "linux/s390x";

/// An image for this machine and for another.
struct Index {
    root: Descriptor,
    blobs: BTreeMap<String, (Descriptor, Vec<u8>)>,
    /// The manifest, the configuration and the layer of the other platform.
    other: [String; 3],
}

impl Index {
    fn new() -> Self {
        let mut blobs = BTreeMap::new();
        let mut put = |media_type: MediaType, data: Vec<u8>| {
            let descriptor = Descriptor::of(media_type, &data);
            blobs.insert(descriptor.digest.to_string(), (descriptor.clone(), data));
            descriptor
        };
        let mut entries = Vec::new();
        let mut other = [const { String::new() }; 3];
        for platform in [OTHER.parse().unwrap(), cas::Platform::host()] {
            let file = format!("{platform} ").repeat(10_000);
            let layer = put(MediaType::OCI_LAYER, Tar::new().file("file", file).end());
            let config = json!({"os": platform.os, "architecture": platform.architecture,
                "rootfs": {"type": "layers", "diff_ids": [layer.digest]}});
            let config = put(MediaType::OCI_CONFIG, config.to_string().into_bytes());
            let manifest = json!({"schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST,
                "config": config, "layers": [layer]});
            let manifest = put(MediaType::OCI_MANIFEST, manifest.to_string().into_bytes());
            if entries.is_empty() {
                other = [&manifest, &config, &layer].map(|part| part.digest.to_string());
            }
            let mut entry = serde_json::to_value(&manifest).unwrap();
            entry["platform"] = serde_json::to_value(&platform).unwrap();
            entries.push(entry);
        }
        let index = json!({"schemaVersion": 2, "mediaType": MediaType::OCI_INDEX,
            "manifests": entries});
        let root = put(MediaType::OCI_INDEX, index.to_string().into_bytes());
        Index { root, blobs, other }
    }

    /// Returns the answer to a request, with the fault of the wanted blob or manifest.
    fn answer(&self, request: &Request, faulty: &mut Option<Faulty>) -> Answer {
        let last = request.path.rsplit('/').next().unwrap_or_default();
        let root = self.root.digest.to_string();
        let digest = if last.contains(':') { last } else { &root };
        let Some((descriptor, data)) = self.blobs.get(digest) else {
            return Answer::error(404, "MANIFEST_UNKNOWN", "unknown here");
        };
        let whole = |data: &[u8]| {
            Answer::new(200)
                .with("Content-Type", descriptor.media_type.as_str())
                .with("Docker-Content-Digest", digest)
                .body(data)
        };
        let Some(faulty) = faulty.as_mut().filter(|faulty| faulty.digest == digest) else {
            return whole(data);
        };
        let is_first = !std::mem::replace(&mut faulty.was_asked_for, true);
        match faulty.fault {
            Status(status) => Answer::error(status, "UNKNOWN", "not today"),
            Damaged => whole(&[&data[..data.len() - 1], b"!"].concat()),
            Longer => whole(&[&data[..], b" "].concat()),
            CutThenGone if is_first => whole(data).cut(data.len() / 2),
            CutThenGone => Answer::error(404, "UNKNOWN", "gone meanwhile"),
        }
    }
}

/// What the registry does not deliver.
struct Faulty {
    digest: String,
    fault: Fault,
    was_asked_for: bool,
}

/// A registry with the image.
struct Shop {
    fake: Fake,
    faulty: Arc<Mutex<Option<Faulty>>>,
    other: [String; 3],
}

impl Shop {
    fn open() -> Self {
        let index = Index::new();
        let other = index.other.clone();
        let faulty = Arc::new(Mutex::new(None));
        let known = Arc::clone(&faulty);
        let fake = Fake::start(move |request| index.answer(request, &mut known.lock().unwrap()));
        Shop {
            fake,
            faulty,
            other,
        }
    }

    /// Delivers everything but this part of the other platform.
    fn fails(&self, part: usize, fault: Fault) {
        *self.faulty.lock().unwrap() = Some(Faulty {
            digest: self.other[part].clone(),
            fault,
            was_asked_for: false,
        });
    }

    fn works(&self) {
        *self.faulty.lock().unwrap() = None;
    }
}

/// Checks that the image of this machine can be used, under all of these names.
fn is_usable(root: &Path, scratch: &Path, names: &[&str], what: &str) {
    let done = |command: &mut Command| {
        let out = command.output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{what}: {command:?}: {said}");
    };
    let (tree, file, copy) = (
        scratch.join("tree"),
        scratch.join("file.tar"),
        scratch.join("copy"),
    );
    for name in names {
        done(cas(root, scratch).args(["tag", name, "another:1"]));
        done(cas(root, scratch).arg("gc"));
        done(cas(root, scratch).args(["inspect", name]));
        done(cas(root, scratch).args(["unpack", name]).arg(&tree));
        assert!(tree.join("file").exists(), "{what}");
        std::fs::remove_dir_all(&tree).unwrap();
        done(
            cas(root, scratch)
                .args(["export", "another:1", "-o"])
                .arg(&file),
        );
        done(
            cas(&copy, scratch)
                .args(["import", "--name", "copy:1"])
                .arg(&file),
        );
        std::fs::remove_file(&file).unwrap();
        std::fs::remove_dir_all(&copy).unwrap();
    }
    // What has arrived is kept for the next pull, and is not damage.
    let checked = cas(root, scratch)
        .args(["--json", "fsck", "--read-data"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&checked.stdout);
    assert_eq!((checked.status.code(), &*said), (Some(0), ""), "{what}");
}

/// The faults, with the part of the other platform that they hit: its manifest, its configuration
/// or its layer. The last item is the exit code of the pull.
const FAULTS: &[(usize, Fault, i32)] = &[
    (0, Status(404), 3),
    (0, Damaged, 4),
    (1, Status(404), 3),
    (1, Longer, 4),
    (2, Status(404), 3),
    (2, Status(403), 7),
    (2, Damaged, 4),
    (2, CutThenGone, 3),
];

#[test]
fn after_a_failed_pull_everything_works_as_before() {
    let shop = Shop::open();
    let image = shop.fake.image();
    for (number, (part, fault, code)) in FAULTS.iter().enumerate() {
        let engine = ENGINES[number / 2 % ENGINES.len()];
        let what = format!("{engine} {part} {fault:?}");
        let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
        let root = scratch.path().join("root");
        let tool = || cas(&root, scratch.path());
        let more: &[&str] = match number % 2 {
            0 => &["--all-platforms"],
            _ => &["--platform", OTHER],
        };
        ok(tool().args(["--store", engine, "init"]));
        // The first of all pulls fails; another then makes a whole image.
        shop.fails(*part, *fault);
        fails(tool().args(["pull", &image]).args(more), *code);
        ok(tool().args(["pull", &image]));
        is_usable(&root, scratch.path(), &[&image], &what);
        // The image is there, under two names, when a pull of more fails.
        ok(tool().args(["tag", &image, "second:1"]));
        shop.fails(*part, *fault);
        fails(tool().args(["pull", &image]).args(more), *code);
        assert!(leases(&root).is_empty(), "{what}");
        is_usable(&root, scratch.path(), &["second:1", &image], &what);
        shop.works();
        ok(tool().args(["pull", &image, "--all-platforms"]));
        let tree = ok(tool().args(["tree", "second:1"]));
        assert!(!tree.contains("MISSING"), "{what}: {tree}");
    }
}
