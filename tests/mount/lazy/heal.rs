//! Damage to the snapshots of layers that are read on demand, and its repair.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::scene::{Scene, arrived};
use crate::common::tree::differences;
use crate::common::{cas, chunked, fails, ok, text};

/// Words with which a check describes a damage, and a function that does the damage to the directory
/// of a snapshot.
type Damage = (&'static str, fn(&Path));

const DAMAGES: [Damage; 12] = [
    ("its directory is missing", |snapshot| {
        cas_host::remove_all(snapshot, true).unwrap();
    }),
    ("lazy.toc", |snapshot| {
        fs::write(snapshot.join("fs/lazy.toc"), "").unwrap();
    }),
    ("lazy.toc is damaged", |snapshot| {
        change(&snapshot.join("fs/lazy.toc"));
    }),
    ("lazy.json", |snapshot| {
        fs::remove_file(snapshot.join("fs/lazy.json")).unwrap();
    }),
    ("lazy.json or", |snapshot| {
        change(&snapshot.join("fs/lazy.json"));
    }),
    ("lazy.data", |snapshot| change(&snapshot.join("lazy.data"))),
    ("lazy.data", |snapshot| {
        fs::remove_file(snapshot.join("lazy.data")).unwrap();
    }),
    ("lazy.pieces", |snapshot| {
        change(&snapshot.join("lazy.pieces"));
    }),
    ("lazy.data is not a regular file", |snapshot| {
        replace(&snapshot.join("lazy.data"), |path| {
            symlink(path.with_file_name("outside"), path).unwrap();
        });
    }),
    ("lazy.data is not a regular file", |snapshot| {
        replace(&snapshot.join("lazy.data"), |path| {
            mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap();
        });
    }),
    ("lazy.pieces is not a regular file", |snapshot| {
        replace(&snapshot.join("lazy.pieces"), |path| {
            fs::create_dir(path).unwrap();
        });
    }),
    (".erofs", |snapshot| {
        let image = files(snapshot).into_iter();
        let image = image.filter(|file| file.extension().is_some_and(|end| end == "erofs"));
        image.for_each(|image| change(&image));
    }),
];

fn files(directory: &Path) -> Vec<PathBuf> {
    let found = fs::read_dir(directory).unwrap();
    let mut found: Vec<_> = found.map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

/// Puts something else in the place of a file.
fn replace(path: &Path, make: fn(&Path)) {
    fs::remove_file(path).unwrap();
    make(path);
}

/// Changes the bytes of a file, but neither its length nor its time.
fn change(path: &Path) {
    let before = fs::metadata(path).unwrap().modified().unwrap();
    let bytes = fs::read(path).unwrap().into_iter().map(|byte| byte ^ 1);
    fs::write(path, bytes.collect::<Vec<_>>()).unwrap();
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(before).unwrap();
}

impl Scene {
    /// Returns the directories of all snapshots.
    fn snapshots(&self) -> Vec<PathBuf> {
        files(&self.root.join("snapshots/erofs/snapshots"))
    }

    /// Returns the directory of the lower layer, or of the upper one, which has the image. The image
    /// was mounted before.
    fn snapshot(&self, is_upper: bool) -> PathBuf {
        let has_image = |one: &PathBuf| one.join("image.json").exists();
        let found = self.snapshots();
        assert_eq!(found.len(), 2, "{found:?}");
        found
            .into_iter()
            .find(|one| has_image(one) == is_upper)
            .unwrap()
    }

    /// Mounts the image, reads all of it, and waits until what arrived is recorded.
    fn mount_and_read(&self, plain: &Path) {
        self.mount();
        self.assert_shows(plain);
        let begun = Instant::now();
        let is_recorded = |one: PathBuf| fs::metadata(one.join("lazy.pieces")).unwrap().len() > 0;
        while !self.snapshots().into_iter().all(is_recorded) {
            assert!(begun.elapsed() < Duration::from_secs(60), "not recorded");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn fsck(&self, more: &[&str]) -> Command {
        let mut fsck = cas(&self.root);
        fsck.args(["fsck", "--read-data"]).args(more);
        fsck
    }

    /// Checks the root, which must have damage. Returns what the check prints.
    fn finds(&self, more: &[&str]) -> String {
        let out = self.fsck(more).output().unwrap();
        let said = format!("{}{}", text(&out.stdout), text(&out.stderr));
        assert_eq!(out.status.code(), Some(4), "{said}");
        said
    }

    fn registry_files(&self) -> PathBuf {
        let blob = self.registry.blob("sha256:00");
        blob.ancestors().nth(4).unwrap().to_owned()
    }
}

#[test]
fn each_damage_is_found_named_and_repaired() {
    let scenes = [
        || Scene::handmade(false),
        || Scene::in_format(false, chunked::estargz),
    ];
    for scene in scenes {
        let Some(scene) = scene() else {
            return;
        };
        let plain = scene.plain();
        for (words, damage) in DAMAGES {
            scene.mount_and_read(&plain);
            damage(&scene.snapshot(words == ".erofs"));
            let said = scene.finds(&[]);
            assert!(
                said.contains("found: snapshot") && said.contains(words),
                "{words}: {said}"
            );
            let said = ok(&mut scene.fsck(&["--repair"]));
            assert!(said.contains("repaired: snapshot"), "{words}: {said}");
            ok(&mut scene.fsck(&[]));
            scene.unmount();
            ok(cas(&scene.root).arg("gc"));
        }
        scene.mount_and_read(&plain);
        let tars = ok(Command::new("find")
            .arg(&scene.root)
            .args(["-name", "layer.tar"]));
        assert_eq!(tars, "", "the layers are still read on demand");
        scene.unmount();
    }
}

/// A repair gives the layer another directory. The mounted image has the old one, and the bytes that
/// were not read before still arrive in it.
#[test]
fn what_is_mounted_stays_right_while_its_snapshot_is_repaired() {
    let Some(scene) = Scene::handmade(false) else {
        return;
    };
    let plain = scene.plain();
    scene.mount();
    fs::read(scene.mnt.join("empty")).unwrap();
    change(&scene.snapshot(false).join("fs/lazy.toc"));
    ok(&mut scene.fsck(&["--repair"]));
    assert_eq!(
        scene.snapshots().len(),
        3,
        "the mount uses the old directory"
    );
    ok(cas(&scene.root).arg("gc"));
    scene.assert_shows(&plain);
    let other = scene.scratch.path().join("other");
    fs::create_dir(&other).unwrap();
    ok(cas(&scene.root)
        .args(["-q", "mount", &scene.reference])
        .arg(&other));
    let found = differences(&plain, &other);
    ok(cas(&scene.root).arg("umount").arg(&other));
    assert!(found.is_empty(), "{found:#?}");
    scene.assert_shows(&plain);
    scene.unmount();
    ok(cas(&scene.root).arg("gc"));
    assert_eq!(scene.snapshots().len(), 2);
}

#[test]
fn without_the_registry_the_damage_stays_and_is_reported() {
    let Some(scene) = Scene::handmade(false) else {
        return;
    };
    let plain = scene.plain();
    scene.mount_and_read(&plain);
    scene.unmount();
    change(&scene.snapshot(false).join("fs/lazy.toc"));
    let (files, gone) = (scene.registry_files(), scene.scratch.path().join("gone"));
    fs::rename(&files, &gone).unwrap();
    let said = scene.finds(&["--repair"]);
    assert!(said.contains("found: snapshot damaged"), "{said}");
    assert!(
        said.contains("could not be repaired") && said.contains("sha256:"),
        "{said}"
    );
    assert!(arrived(&scene.root) > 0, "what has arrived stays");
    fs::rename(&gone, &files).unwrap();
    // A root that has the whole image is a source, too.
    let whole = scene.whole.to_str().unwrap();
    ok(&mut scene.fsck(&["--repair", "--from", whole]));
    scene.mount_and_read(&plain);
    scene.unmount();
}

#[test]
fn a_lost_snapshot_is_made_again_by_the_command_that_needs_it() {
    let Some(scene) = Scene::handmade(false) else {
        return;
    };
    let plain = scene.plain();
    let lose: [fn(&Scene); 2] = [
        |scene| {
            for snapshot in scene.snapshots() {
                cas_host::remove_all(&snapshot, true).unwrap();
            }
        },
        |scene| {
            // A snapshot with children cannot be removed.
            for _ in keys(scene) {
                for key in keys(scene) {
                    cas(&scene.root)
                        .args(["snapshot", "rm", &key])
                        .output()
                        .unwrap();
                }
            }
            assert_eq!(keys(scene).len(), 0);
        },
    ];
    for lose in lose {
        scene.mount();
        scene.unmount();
        lose(&scene);
        scene.mount();
        scene.assert_shows(&plain);
        scene.unmount();
        lose(&scene);
        // The image has no programs.
        let mut run = cas(&scene.root);
        run.args([
            "run",
            "--runtime",
            "chroot",
            &scene.reference,
            "--",
            "/dir/large",
        ]);
        fails(&mut run, 126);
        ok(&mut scene.fsck(&[]));
        lose(&scene);
        ok(cas(&scene.root).args(["-q", "pull", "--lazy", &scene.reference]));
        ok(&mut scene.fsck(&[]));
        scene.mount();
        scene.assert_shows(&plain);
        scene.unmount();
    }
    let (files, gone) = (scene.registry_files(), scene.scratch.path().join("gone"));
    fs::rename(&files, &gone).unwrap();
    scene
        .snapshots()
        .iter()
        .for_each(|one| cas_host::remove_all(one, true).unwrap());
    let mut mount = cas(&scene.root);
    let said = fails(mount.args(["mount", &scene.reference]).arg(&scene.mnt), 3);
    assert!(said.contains("table of contents"), "{said}");
    fs::rename(&gone, &files).unwrap();
}

/// Returns the keys of all snapshots.
fn keys(scene: &Scene) -> Vec<String> {
    let listed = ok(cas(&scene.root).args(["snapshot", "ls", "--json"]));
    let key = |line: &str| {
        let item: serde_json::Value = serde_json::from_str(line).unwrap();
        item["info"]["key"].as_str().unwrap().to_owned()
    };
    listed.lines().map(key).collect()
}
