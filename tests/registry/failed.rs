//! Pulls that fail, or that a signal ends. Everything that was there before still works, and later
//! pulls succeed.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use cas::{Descriptor, MediaType};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use testkit::archive::Tar;

use super::cas;
use super::fake::{Answer, Fake, Request};
use super::receiver::Receiver;
use super::resume::leases;
use super::sample::Sample;
use crate::common::{ENGINES, append, fails, ok, text};

/// What the registry does with a request for a blob or a manifest of the other platform.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Status(u16),
    Damaged,
    Longer,
    CutThenGone,
    Stalled,
}

use Fault::{CutThenGone, Damaged, Longer, Stalled, Status};

/// The other platform of the image.
const OTHER: &str = "linux/s390x";

/// An image for this machine and for another.
struct Index {
    root: Descriptor,
    blobs: BTreeMap<String, (Descriptor, Vec<u8>)>,
    /// The manifest, the configuration and the layer of the other platform.
    other: [String; 3],
    /// The parts for this machine.
    own: Sample,
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
        let platforms: [cas::Platform; 2] = [OTHER.parse().unwrap(), cas::Platform::host()];
        let [other, own] = platforms.map(|platform| {
            let file = format!("{platform} ").repeat(10_000);
            let layer = put(MediaType::OCI_LAYER, Tar::new().file("file", file).end());
            let config = json!({"os": platform.os, "architecture": platform.architecture,
                "rootfs": {"type": "layers", "diff_ids": [layer.digest]}});
            let config = put(MediaType::OCI_CONFIG, config.to_string().into_bytes());
            let manifest = json!({"schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST,
                "config": config, "layers": [layer]});
            let manifest = put(MediaType::OCI_MANIFEST, manifest.to_string().into_bytes());
            let mut entry = serde_json::to_value(&manifest).unwrap();
            entry["platform"] = serde_json::to_value(&platform).unwrap();
            entries.push(entry);
            [manifest, config, layer]
        });
        let index = json!({"schemaVersion": 2, "mediaType": MediaType::OCI_INDEX,
            "manifests": entries});
        let root = put(MediaType::OCI_INDEX, index.to_string().into_bytes());
        let part = |part: &Descriptor| {
            let digest = part.digest.to_string();
            let data = blobs[&digest].1.clone();
            (digest, data)
        };
        let content = own.iter().map(part).collect();
        let [manifest, _, layer] = own;
        Index {
            root,
            other: other.map(|part| part.digest.to_string()),
            own: Sample {
                root: manifest,
                layers: vec![layer],
                content,
            },
            blobs,
        }
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
            Stalled => whole(data).cut(data.len() / 2).stall(),
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
    own: Sample,
}

impl Shop {
    fn open() -> Self {
        let index = Index::new();
        let (other, own) = (index.other.clone(), index.own.clone());
        let faulty = Arc::new(Mutex::new(None));
        let known = Arc::clone(&faulty);
        let fake = Fake::start(move |request| index.answer(request, &mut known.lock().unwrap()));
        Shop {
            fake,
            faulty,
            other,
            own,
        }
    }

    /// Delivers everything but this part of the other platform.
    fn fails(&self, part: usize, fault: Fault) {
        self.fails_for(&self.other[part], fault);
    }

    /// Delivers everything but this blob or manifest.
    fn fails_for(&self, digest: &str, fault: Fault) {
        *self.faulty.lock().unwrap() = Some(Faulty {
            digest: digest.to_owned(),
            fault,
            was_asked_for: false,
        });
    }

    fn works(&self) {
        *self.faulty.lock().unwrap() = None;
    }
}

/// Checks that the image of this machine can be used, under all of these names.
fn is_usable(shop: &Shop, root: &Path, scratch: &Path, names: &[&str], what: &str) {
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
    // A registry without content gets every part from the store.
    let receiver = Receiver::new();
    let there = receiver.start().image();
    done(cas(root, scratch).args(["push", names[0], &there]));
    receiver.has_all(&shop.own);
    // What has arrived is kept for the next pull, and is not damage.
    let checked = cas(root, scratch)
        .args(["--json", "fsck", "--read-data"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&checked.stdout);
    assert_eq!((checked.status.code(), &*said), (Some(0), ""), "{what}");
}

/// Returns the options of a pull of all platforms, or of the other platform, in turn.
fn more_platforms(number: usize) -> &'static [&'static str] {
    match number % 2 {
        0 => &["--all-platforms"],
        _ => &["--platform", OTHER],
    }
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
        let more = more_platforms(number);
        ok(tool().args(["--store", engine, "init"]));
        // The first of all pulls fails; another then makes a whole image.
        shop.fails(*part, *fault);
        fails(tool().args(["pull", &image]).args(more), *code);
        ok(tool().args(["pull", &image]));
        is_usable(&shop, &root, scratch.path(), &[&image], &what);
        // The image is there, under two names, when a pull of more fails.
        ok(tool().args(["tag", &image, "second:1"]));
        shop.fails(*part, *fault);
        fails(tool().args(["pull", &image]).args(more), *code);
        assert!(leases(&root).is_empty(), "{what}");
        is_usable(&shop, &root, scratch.path(), &["second:1", &image], &what);
        shop.works();
        ok(tool().args(["pull", &image, "--all-platforms"]));
        let tree = ok(tool().args(["tree", "second:1"]));
        assert!(!tree.contains("MISSING"), "{what}: {tree}");
    }
}

/// No collection runs meanwhile, which would remove the incomplete platform.
#[test]
fn commands_that_name_an_incomplete_platform_change_nothing_for_the_image() {
    let shop = Shop::open();
    let image = shop.fake.image();
    for (number, engine) in ENGINES.iter().enumerate() {
        // The configuration or the layer is missing.
        let part = 1 + number % 2;
        let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
        let root = scratch.path().join("root");
        let tool = || cas(&root, scratch.path());
        let file = scratch.path().join("whole.tar");
        let copied = format!("{}#copy:1", scratch.path().join("copied").display());
        let receiver = Receiver::new();
        let registry = receiver.start();
        let there = registry.image();
        ok(tool().args(["--store", engine, "init"]));
        ok(tool().args(["pull", &image]));
        shop.fails(part, Status(404));
        fails(tool().args(["pull", &image, "--all-platforms"]), 3);
        let manifest = &*shop.other[0];
        for command in [
            &["export", &image, "--platform", OTHER][..],
            &["export", &image, "--platform", OTHER, "--format", "docker"],
            &["export", manifest],
        ] {
            fails(tool().args(command).arg("-o").arg(&file), 3);
        }
        fails(tool().args(["copy", manifest, &copied]), 3);
        fails(tool().args(["push", manifest, &there]), 3);
        fails(tool().args(["tag", manifest, "part:1"]), 3);
        fails(tool().args(["inspect", "part:1"]), 3);
        ok(tool().args(["export", &image, "-o"]).arg(&file));
        ok(tool().args(["copy", &image, &copied]));
        ok(tool().args(["push", &image, &there]));
        receiver.has_all(&shop.own);
        is_usable(&shop, &root, scratch.path(), &[&image], engine);
    }
}

#[test]
fn an_index_is_shown_if_a_pull_of_the_platform_of_this_machine_failed() {
    let shop = Shop::open();
    let image = shop.fake.image();
    let own = &shop.own;
    let layer = own.layers[0].digest.to_string();
    let manifest = own.root.digest.to_string();
    let mut parts = own.content.keys();
    let config = parts.find(|part| **part != layer && **part != manifest);
    for more in [&[][..], &["--all-platforms"]] {
        let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
        let root = scratch.path().join("root");
        let tool = || cas(&root, scratch.path());
        shop.works();
        ok(tool().arg("init"));
        ok(tool().args(["pull", &image, "--platform", OTHER]));
        let shown = ok(tool().args(["--json", "inspect", &image]));
        assert!(shown.contains("\"index\""), "{shown}");
        shop.fails_for(config.unwrap(), Status(404));
        fails(tool().args(["pull", &image]).args(more), 3);
        assert_eq!(ok(tool().args(["--json", "inspect", &image])), shown);
        let here = cas::Platform::host().to_string();
        fails(tool().args(["inspect", &image, "--platform", &here]), 3);
    }
}

/// Ends pulls of more platforms with this signal while the layer of the other platform arrives.
/// They end with this code and leave this number of leases.
fn ended_pulls_change_nothing(signal: Signal, code: Option<i32>, left: usize) {
    let shop = Shop::open();
    let image = shop.fake.image();
    let asked = || shop.fake.count("GET", &shop.other[2]);
    for (number, engine) in ENGINES.iter().enumerate() {
        let more = more_platforms(number);
        let what = format!("{engine} {more:?} {signal:?}");
        let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
        let root = scratch.path().join("root");
        let tool = || cas(&root, scratch.path());
        ok(tool().args(["--store", engine, "init"]));
        ok(tool().args(["pull", &image]));
        shop.fails(2, Stalled);
        let before = asked();
        // A test that runs in the background may ignore signals, and so would its children.
        let mut pull = Command::new("env");
        pull.arg("--default-signal=TERM");
        append(&mut pull, tool().args(["pull", &image]).args(more));
        let mut pull = pull.stderr(Stdio::piped()).spawn().unwrap();
        while asked() == before {
            assert_eq!(pull.try_wait().unwrap(), None, "{what}");
            thread::sleep(Duration::from_millis(5));
        }
        // Wait until half of the layer has arrived. The rest never arrives.
        thread::sleep(Duration::from_millis(100));
        kill_process(Pid::from_child(&pull), signal).unwrap();
        let ended = pull.wait_with_output().unwrap();
        let said = text(&ended.stderr);
        assert_eq!(ended.status.code(), code, "{what}: {said}");
        let leases = leases(&root);
        assert_eq!(leases.len(), left, "{what}: {leases:?}");
        is_usable(&shop, &root, scratch.path(), &[&image], &what);
        // Without the lease, a collection removes what the pull has fetched, but nothing else.
        for lease in &leases {
            ok(tool().args(["lease", "rm", "--force", lease]));
        }
        ok(tool().arg("gc"));
        let tree = scratch.path().join("tree");
        ok(tool().args(["unpack", &image]).arg(&tree));
        assert!(tree.join("file").exists(), "{what}");
        shop.works();
        ok(tool().args(["pull", &image, "--all-platforms"]));
        let tree = ok(tool().args(["tree", &image]));
        assert!(!tree.contains("MISSING"), "{what}: {tree}");
    }
}

#[test]
fn after_a_killed_pull_everything_works_as_before() {
    ended_pulls_change_nothing(Signal::KILL, None, 1);
}

#[test]
fn after_a_stopped_pull_everything_works_as_before() {
    ended_pulls_change_nothing(Signal::TERM, Some(143), 0);
}
