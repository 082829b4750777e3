//! Pulls that unpack in parallel: what they store, and how they continue after a failure or a kill.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

use cas::Descriptor;
use testkit::archive::{Header, Tar};

use super::fake::{Answer, Fake, Request};
use super::sample::Sample;
use crate::common::tree::differences;
use crate::common::unkept::lose_labels;
use crate::common::{fails, ok};

/// A directory for roots that use overlay. They use no other directory of this machine.
struct Place {
    scratch: tempfile::TempDir,
}

impl Place {
    /// Pulls an image in the ordinary way into the root `off`. Returns a directory with its tree.
    fn plain(&self, image: &str) -> PathBuf {
        let plain = self.at("plain");
        ok(self.cas("off").args(["pull", image]));
        ok(self.cas("off").args(["unpack", image]).arg(&plain));
        plain
    }

    /// Prints the reason and returns `None` if overlay cannot be used here.
    fn open() -> Option<Self> {
        let place = Place {
            scratch: tempfile::tempdir().unwrap(),
        };
        let probe = place
            .cas("probe")
            .args(["--snapshotter", "overlay", "init"])
            .output();
        if probe.unwrap().status.success() {
            return Some(place);
        }
        eprintln!("SKIPPED: the snapshotter overlay does not work here");
        None
    }

    fn at(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Returns a command on a root.
    fn cas(&self, root: &str) -> Command {
        super::cas(&self.at(root), self.scratch.path())
    }

    /// Makes a root with overlay. Returns a command that pulls into it and unpacks.
    fn pull(&self, root: &str, image: &str, flags: &[&str]) -> Command {
        ok(self.cas(root).args(["--snapshotter", "overlay", "init"]));
        let mut pull = self.cas(root);
        pull.args(["-q", "pull", "--unpack", image]).args(flags);
        pull
    }

    /// Compares the mounted image of a root with a plain directory.
    fn differences(&self, root: &str, image: &str, plain: &Path) -> Vec<String> {
        let target = self.at("mnt");
        fs::create_dir_all(&target).unwrap();
        ok(self.cas(root).args(["-q", "mount", image]).arg(&target));
        let found = differences(plain, &target);
        ok(self.cas(root).arg("umount").arg(&target));
        found
    }

    /// Returns the directories of unpack jobs.
    fn jobs(&self, root: &str) -> Vec<PathBuf> {
        let jobs = self.at(root).join("snapshots/overlay/jobs");
        let Ok(entries) = fs::read_dir(jobs) else {
            return Vec::new();
        };
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    fn has(&self, root: &str, blob: &Descriptor) -> bool {
        let blobs = self.at(root).join("store/blobs/sha256");
        blobs.join(blob.digest.hex()).exists()
    }
}

fn dir(name: &str, mode: u64) -> Header {
    Header::new(b'5', name).mode(mode)
}

/// Returns archives whose trees depend on each other: the second implies directories of the first,
/// and hides a file there. The third has a hard link to the first, so it needs its parents. The
/// fourth is also the fifth.
fn archives() -> Vec<Vec<u8>> {
    let lowest = Tar::new()
        .member(dir("./", 0o755), "")
        .member(dir("tmp/", 0o1777).owner(3, 4), "")
        .member(dir("etc/", 0o750), "")
        .file("etc/one", "1")
        .file("etc/two", vec![b'2'; 300_000]);
    let second = Tar::new().file("tmp/new", "n").file("etc/.wh.one", "");
    let third = Tar::new().hardlink("etc/linked", "etc/two");
    let twice = Tar::new().file("etc/four", "4").end();
    vec![
        lowest.end(),
        second.end(),
        third.end(),
        twice.clone(),
        twice,
    ]
}

fn serves(sample: &Sample) -> Fake {
    let good = sample.clone();
    Fake::start(move |request| good.answer(request))
}

fn is_for(request: &Request, blob: &Descriptor) -> bool {
    request.path.ends_with(&blob.digest.to_string())
}

fn fetches(registry: &Fake, blob: &Descriptor) -> usize {
    registry.count("GET", &blob.digest.to_string())
}

#[test]
fn every_mode_gives_the_same_tree_and_leaves_no_job() {
    let Some(place) = Place::open() else {
        return;
    };
    let sample = Sample::of_archives(archives());
    let registry = serves(&sample);
    let image = registry.image();
    let plain = place.plain(&image);
    let modes = place.at("soci.toml");
    fs::write(
        &modes,
        "root = \"/var/lib/soci\"\n[pull_modes.parallel_pull_unpack]\nenable = true\n\
         max_concurrent_downloads_per_image = 12\nconcurrent_download_chunk_size = \"64kb\"\n\
         max_concurrent_unpacks_per_image = 2\n",
    )
    .unwrap();
    let modes = modes.to_str().unwrap();
    for (root, flags) in [
        ("parallel", &["--parallel"][..]),
        ("soci", &["--pull-modes", modes]),
        ("discard", &["--parallel", "--discard-unpacked-layers"]),
        (
            "both",
            &["--pull-modes", modes, "--discard-unpacked-layers"],
        ),
    ] {
        ok(&mut place.pull(root, &image, flags));
        let found = place.differences(root, &image, &plain);
        assert_eq!(found, Vec::<String>::new(), "{root}");
        assert!(place.jobs(root).is_empty(), "{root}");
    }
    // The layer of 300,000 bytes came in five chunks.
    let seen = registry.seen();
    let ranges = seen.iter().filter(|one| is_for(one, &sample.layers[0]));
    let ranges: Vec<_> = ranges.filter_map(Request::range).collect();
    assert!(ranges.contains(&(65_536, 131_071)), "{ranges:?}");
}

/// A layer that is applied on top of its parents, and one that is applied twice, are stored.
#[test]
fn discarded_layers_are_noted_as_absent() {
    let Some(place) = Place::open() else {
        return;
    };
    let sample = Sample::of_archives(archives());
    let registry = serves(&sample);
    let image = registry.image();
    let flags = ["--parallel", "--discard-unpacked-layers"];
    ok(&mut place.pull("root", &image, &flags));
    let stored: Vec<bool> = sample
        .layers
        .iter()
        .map(|one| place.has("root", one))
        .collect();
    assert_eq!(stored, [false, false, true, true, true]);
    ok(place.cas("root").arg("gc"));
    ok(place.cas("root").arg("fsck"));
    let tree = ok(place.cas("root").args(["tree", &image]));
    assert_eq!(tree.matches("MISSING").count(), 2, "{tree}");
    let out = place.at("out.tar");
    let said = fails(
        place.cas("root").args(["export", &image, "-o"]).arg(&out),
        3,
    );
    assert!(
        said.contains("without discarding its unpacked layers") && !out.exists(),
        "{said}"
    );
    let other = format!("{}#{image}", place.at("other").display());
    let said = fails(place.cas("root").args(["copy", &image, &other]), 3);
    assert!(
        said.contains("without discarding its unpacked layers"),
        "{said}"
    );
    // If the registry does not have the layers, the error of a push says what to do.
    let empty = Fake::start(|_| Answer::error(404, "BLOB_UNKNOWN", "unknown here"));
    let said = fails(place.cas("root").args(["push", &image, &empty.image()]), 3);
    assert!(said.contains("pull or import the whole image"), "{said}");

    // The next pull fetches no layer. A pull that stores layers fetches the absent layers.
    let before = sample.layers.iter().map(|one| fetches(&registry, one));
    let before: Vec<usize> = before.collect();
    ok(&mut place.pull("root", &image, &flags));
    let after = |at: usize| fetches(&registry, &sample.layers[at]) - before[at];
    assert!((0..5).all(|at| after(at) == 0));
    ok(place.cas("root").args(["pull", &image]));
    assert_eq!([after(0), after(1), after(2)], [1, 1, 0]);
}

/// The registry may have lost the layers, so it is not asked for them.
#[test]
fn discarded_layers_stay_if_the_records_of_the_store_are_lost() {
    let Some(place) = Place::open() else {
        return;
    };
    let sample = Sample::of_archives(archives());
    let registry = serves(&sample);
    let image = registry.image();
    let plain = place.plain(&image);
    for repairs in [false, true] {
        let root = format!("root-{repairs}");
        let flags = ["--parallel", "--discard-unpacked-layers"];
        ok(&mut place.pull(&root, &image, &flags));
        let asked = || {
            sample
                .layers
                .iter()
                .map(|one| fetches(&registry, one))
                .sum::<usize>()
        };
        let before = asked();
        for name in ["records.db", "records.db-wal", "records.db-shm"] {
            let removed = fs::remove_file(place.at(&root).join("store/.cas").join(name));
            assert!(removed.is_ok() || name != "records.db", "{removed:?}");
        }
        if repairs {
            ok(place.cas(&root).args(["fsck", "--repair"]));
        }
        ok(place.cas(&root).arg("gc"));
        let found = place.differences(&root, &image, &plain);
        assert!(found.is_empty(), "{root}: {found:?}");
        if repairs {
            ok(place.cas(&root).arg("fsck"));
        }
        assert_eq!(asked(), before, "{root}");
        // The layers go with the image, after a repair not before the new records are old.
        ok(place.cas(&root).args(["rmi", &image]));
        let later = SystemTime::now() + Duration::from_secs(40 * 24 * 3600);
        let open = cas::blocking::Cas::open(place.at(&root)).unwrap();
        open.gc_with(cas::GcOptions::default().with_now(later))
            .unwrap();
        open.close().unwrap();
        let left = ok(place.cas(&root).args(["snapshot", "ls", "--json"]));
        assert_eq!(left, "", "{root}");
    }
}

/// In a root of an earlier release, only a label in this record keeps the layers.
#[test]
fn discarded_layers_stay_if_the_record_of_the_configuration_was_lost_and_repaired() {
    let Some(place) = Place::open() else {
        return;
    };
    let sample = Sample::of_archives(archives());
    let registry = serves(&sample);
    let image = registry.image();
    let plain = place.plain(&image);
    let flags = ["--parallel", "--discard-unpacked-layers"];
    ok(&mut place.pull("root", &image, &flags));
    lose_labels(&place.at("root"), &image, None);
    let seen = registry.seen().len();
    ok(place.cas("root").args(["fsck", "--repair"]));
    ok(place.cas("root").arg("gc"));
    let found = place.differences("root", &image, &plain);
    assert!(found.is_empty(), "{found:?}");
    ok(place.cas("root").arg("fsck"));
    assert_eq!(registry.seen().len(), seen);
}

/// The store has the layers, and the registry is not asked for them.
#[test]
fn layers_that_are_stored_are_unpacked_and_stay() {
    let Some(place) = Place::open() else {
        return;
    };
    let sample = Sample::of_archives(archives());
    let registry = serves(&sample);
    let image = registry.image();
    ok(place.cas("root").args(["--snapshotter", "overlay", "init"]));
    ok(place.cas("root").args(["pull", &image]));
    ok(&mut place.pull("root", &image, &["--parallel", "--discard-unpacked-layers"]));
    for layer in &sample.layers[..3] {
        assert_eq!(fetches(&registry, layer), 1);
        assert!(place.has("root", layer));
    }
}

/// One layer has bytes with another digest, one has another diff ID.
#[test]
fn both_digests_are_verified_although_nothing_is_kept() {
    let Some(place) = Place::open() else {
        return;
    };
    let good = Sample::of_archives(archives());
    let layers = archives();
    let mut diff_ids: Vec<_> = layers.iter().map(|tar| cas::Digest::sha256(tar)).collect();
    diff_ids[1] = cas::Digest::sha256(b"other");
    let packed: Vec<Vec<u8>> = layers.iter().map(|tar| gzip(tar)).collect();
    let other_diff_id = Sample::of(packed, &diff_ids, |_| {});
    let flipped = good.clone();
    for (root, sample, flips) in [("bytes", flipped, true), ("diff-id", other_diff_id, false)] {
        let (served, layer) = (sample.clone(), sample.layers[1].clone());
        let registry = Fake::start(move |request| match is_for(request, &layer) && flips {
            true => {
                let mut bytes = served.data(&layer).to_vec();
                // In the content of a file: the archive can be read.
                bytes[512] ^= 1;
                Answer::new(200).body(&bytes)
            }
            false => served.answer(request),
        });
        let flags = ["--parallel", "--discard-unpacked-layers"];
        let said = fails(&mut place.pull(root, &registry.image(), &flags), 4);
        assert!(said.contains("sha256:"), "{said}");
        assert!(ok(place.cas(root).arg("images")).lines().count() <= 1);
    }
}

/// The second image has the diff IDs of the first, but another layer, whose bytes must be fetched
/// and verified.
#[test]
fn a_layer_is_passed_over_only_if_it_was_verified_before() {
    let Some(place) = Place::open() else {
        return;
    };
    let [layer, other] = ["one", "two"].map(|name| Tar::new().file(name, name).end());
    let diff_ids = [cas::Digest::sha256(&layer)];
    let sample = |layer: &[u8]| Sample::of(vec![gzip(layer)], &diff_ids, |_| {});
    let (good, bad) = (sample(&layer), sample(&other));
    let flags = ["--parallel", "--discard-unpacked-layers"];
    let registry = serves(&good);
    for _ in 0..2 {
        ok(&mut place.pull("root", &registry.image(), &flags));
        assert_eq!(fetches(&registry, &good.layers[0]), 1);
        assert!(!place.has("root", &good.layers[0]));
    }
    let registry = serves(&bad);
    let said = fails(&mut place.pull("root", &registry.image(), &flags), 4);
    assert!(said.contains("diff ID"), "{said}");
    // Another compression of the same layer is verified, and then known.
    let again = Sample::of(vec![layer], &diff_ids, |_| {});
    let registry = serves(&again);
    ok(&mut place.pull("root", &registry.image(), &flags));
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Two layers, of which the second is the last to be served.
fn two_layers() -> Sample {
    let lower = Tar::new()
        .member(dir("./", 0o755), "")
        .file("etc/one", vec![b'1'; 100_000])
        .end();
    let upper = Tar::new().file("etc/two", "2").end();
    Sample::of_archives(vec![lower, upper])
}

/// Returns whether a job of the root has a layer that is done.
fn has_done(jobs: &[PathBuf]) -> bool {
    let is_done = |job: &PathBuf| {
        fs::read_to_string(job.join("job.json")).is_ok_and(|text| text.contains("\"done\""))
    };
    jobs.iter().any(is_done)
}

#[test]
fn a_pull_that_failed_continues_with_the_layers_that_it_had_unpacked() {
    let Some(place) = Place::open() else {
        return;
    };
    let place = Arc::new(place);
    let sample = two_layers();
    let (served, fails_now) = (sample.clone(), Arc::new(AtomicBool::new(true)));
    let (waits, failing) = (Arc::clone(&place), Arc::clone(&fails_now));
    let registry = Fake::start(move |request| {
        if !is_for(request, &served.layers[1]) || !failing.load(Ordering::Relaxed) {
            return served.answer(request);
        }
        let begun = || {
            ["root", "short"]
                .into_iter()
                .filter(|root| waits.at(root).exists())
        };
        while !begun().all(|root| has_done(&waits.jobs(root))) {
            thread::sleep(Duration::from_millis(2));
        }
        Answer::error(404, "BLOB_UNKNOWN", "gone")
    });
    let (image, flags) = (
        registry.image(),
        ["--parallel", "--discard-unpacked-layers"],
    );
    fails(&mut place.pull("root", &image, &flags), 3);
    // A collection removes a job only after its lifetime.
    let modes = place.at("modes.toml");
    let keys = "enable = true\nunpack_job_lifetime_sec = 0\n";
    let table = format!("[pull_modes.parallel_pull_unpack]\n{keys}");
    fs::write(&modes, table).unwrap();
    let short = ["--discard-unpacked-layers", "--pull-modes"];
    fails(place.pull("short", &image, &short).arg(modes), 3);
    for (root, left) in [("root", 1), ("short", 0)] {
        assert_eq!(place.jobs(root).len(), 1, "{root}");
        ok(place.cas(root).arg("gc"));
        assert_eq!(place.jobs(root).len(), left, "{root}");
    }
    fails_now.store(false, Ordering::Relaxed);
    ok(&mut place.pull("root", &image, &flags));
    assert_eq!(fetches(&registry, &sample.layers[0]), 2);
    assert!(place.jobs("root").is_empty());
    ok(place.cas("plain").args(["pull", &image]));
    let plain = place.at("tree");
    ok(place.cas("plain").args(["unpack", &image]).arg(&plain));
    assert_eq!(
        place.differences("root", &image, &plain),
        Vec::<String>::new()
    );
}

#[test]
fn a_killed_pull_is_continued_and_what_nobody_continues_is_collected() {
    let Some(place) = Place::open() else {
        return;
    };
    let place = Arc::new(place);
    let sample = two_layers();
    let killed: Arc<Mutex<Option<(&str, Child)>>> = Arc::default();
    let (served, waits, kills) = (sample.clone(), Arc::clone(&place), Arc::clone(&killed));
    let registry = Fake::start(move |request| {
        if !is_for(request, &served.layers[1]) {
            return served.answer(request);
        }
        loop {
            let mut child = kills.lock().unwrap();
            match &mut *child {
                None => return served.answer(request),
                Some((root, one)) if has_done(&waits.jobs(root)) => {
                    one.kill().unwrap();
                    return Answer::nothing();
                }
                Some(_) => {}
            }
            drop(child);
            thread::sleep(Duration::from_millis(2));
        }
    });
    let (image, flags) = (
        registry.image(),
        ["--parallel", "--discard-unpacked-layers"],
    );
    for root in ["continued", "left"] {
        let mut pull = place.pull(root, &image, &flags);
        let mut slot = killed.lock().unwrap();
        *slot = Some((root, pull.spawn().unwrap()));
        drop(slot);
        // The registry kills the pull.
        loop {
            let mut slot = killed.lock().unwrap();
            let (_, child) = slot.as_mut().unwrap();
            if child.try_wait().unwrap().is_some() {
                *slot = None;
                break;
            }
            drop(slot);
            thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(place.jobs(root).len(), 1);
    }
    let before = fetches(&registry, &sample.layers[0]);
    ok(&mut place.pull("continued", &image, &flags));
    assert_eq!(fetches(&registry, &sample.layers[0]), before);
    assert!(place.jobs("continued").is_empty());

    ok(place.cas("left").arg("gc"));
    let job = place.jobs("left").remove(0).join("job.json");
    let text = fs::read_to_string(&job).unwrap();
    let mut record: serde_json::Value = serde_json::from_str(&text).unwrap();
    record["expires"] = 1.into();
    fs::write(&job, record.to_string()).unwrap();
    ok(place.cas("left").args(["gc", "--dry-run"]));
    assert_eq!(place.jobs("left").len(), 1);
    ok(place.cas("left").arg("gc"));
    assert!(place.jobs("left").is_empty());
}

#[test]
fn modes_are_read_from_cas_toml_and_mistakes_are_said() {
    let Some(place) = Place::open() else {
        return;
    };
    let sample = two_layers();
    let registry = serves(&sample);
    let image = registry.image();
    let said = fails(
        &mut place.pull("root", &image, &["--discard-unpacked-layers"]),
        2,
    );
    assert!(said.contains("add --parallel"), "{said}");
    let file = place.at("root/cas.toml");
    let text = fs::read_to_string(&file).unwrap();
    let write = |keys: &str| {
        let table = "[pull_modes.parallel_pull_unpack]";
        fs::write(&file, format!("{text}\n{table}\n{keys}\n")).unwrap();
    };
    write("max_concurrent_unpacks = 1\nmax_concurrent_unpacks_per_image = 2");
    let said = fails(place.cas("root").args(["pull", &image]), 2);
    assert!(
        said.contains("cas.toml") && said.contains("unpacks"),
        "{said}"
    );
    write("enable = true\ndiscard_unpacked_layers = true\nspeed = 9");
    let mut pull = place.cas("root");
    let done = pull.args(["pull", "--unpack", &image]).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success() && said.contains("speed"), "{said}");
    assert!(!place.has("root", &sample.layers[0]));
}

/// A snapshotter that cannot rebase unpacks from the store, and so keeps the layers.
#[test]
fn without_overlay_layers_are_kept_with_a_warning() {
    let scratch = tempfile::tempdir().unwrap();
    let sample = two_layers();
    let registry = serves(&sample);
    let root = scratch.path().join("root");
    let cas = || super::cas(&root, scratch.path());
    ok(cas().args(["--snapshotter", "native", "init"]));
    let mut pull = cas();
    pull.args(["pull", "--unpack", &registry.image()]);
    pull.args(["--parallel", "--discard-unpacked-layers"]);
    let done = pull.output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(
        done.status.success() && said.contains("so all layers are stored"),
        "{said}"
    );
    let stored = root
        .join("store/blobs/sha256")
        .join(sample.layers[0].digest.hex());
    assert!(stored.exists());
}
