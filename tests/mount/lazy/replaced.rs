//! Sessions whose root, records or layers are removed.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use cas_host::MountedDirs;
use testkit::archive::Tar;

use super::scene::{Scene, import_tars, is_usable};
use crate::common::{cas, chunked, ok};

/// How long a test waits. A session without layers lasts for a minute.
const PATIENCE: Duration = Duration::from_secs(180);

/// Returns bytes that depend on `seed`.
fn content(seed: usize) -> Vec<u8> {
    let noise = |at: usize| ((at * at * seed) >> 7) as u8;
    (0..300_000).map(noise).collect()
}

/// Imports an image of one eStargz layer. Images of different seeds differ only in the bytes of one
/// file.
fn import(root: &Path, name: &str, seed: usize) {
    let tar = Tar::new().dir("dir/").file("dir/large", content(seed));
    import_tars(root, name, &[tar.end()], chunked::estargz);
}

/// Returns a scene with the image of the seed 1, and the name of the image of the seed 3 in its
/// registry.
fn scene() -> Option<(Scene, String)> {
    let scene =
        is_usable().then(|| Scene::with(false, |whole, reference| import(whole, reference, 1)))?;
    let (other, root) = (scene.registry.at("other:1"), scene.scratch.path().join("3"));
    ok(cas(&root).args(["--snapshotter", "erofs", "init"]));
    import(&root, &other, 3);
    ok(cas(&root).args(["-q", "push", &other]));
    Some((scene, other))
}

/// Pulls and mounts an image, and asserts that it has the bytes of `seed`.
#[track_caller]
fn assert_has(scene: &Scene, image: &str, seed: usize) {
    ok(cas(&scene.root).args(["-q", "pull", "--lazy", image]));
    ok(cas(&scene.root)
        .args(["-q", "mount", image])
        .arg(&scene.mnt));
    assert!(fs::read(scene.mnt.join("dir/large")).unwrap() == content(seed));
    scene.unmount();
}

/// Waits until `is_done` returns true.
#[track_caller]
fn wait_until(is_done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_done() {
        assert!(begun.elapsed() < PATIENCE, "still not done");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The numbers of snapshots begin again if the records are lost, but the session goes on.
#[test]
fn a_session_whose_records_are_lost_serves_no_bytes_of_removed_layers() {
    let Some((scene, other)) = scene() else {
        return;
    };
    assert_has(&scene, &scene.reference, 1);
    let local = scene.root.join("local");
    for file in fs::read_dir(&local).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        match name {
            "records.db" => fs::write(&path, "garbage").unwrap(),
            name if name.starts_with("records.db-") => fs::remove_file(&path).unwrap(),
            _ => {}
        }
    }
    ok(cas(&scene.root).args(["fsck", "--repair"]));
    assert_has(&scene, &other, 3);
}

/// The directory at which the session is mounted cannot be removed, so it stays.
#[test]
fn a_new_root_at_the_same_path_has_a_session_of_its_own() {
    let Some((scene, other)) = scene() else {
        return;
    };
    assert_has(&scene, &scene.reference, 1);
    let before = scene.servers();
    assert_eq!(before.len(), 2, "a holder and a server");
    let removed = Command::new("rm").arg("-rf").arg(&scene.root).output();
    assert!(!removed.unwrap().status.success(), "a mount is busy");
    ok(cas(&scene.root).args(["--snapshotter", "erofs", "init"]));
    let settings = File::options()
        .append(true)
        .open(scene.root.join("cas.toml"));
    writeln!(settings.unwrap(), "[lazy]\ncomplete = false").unwrap();
    assert_has(&scene, &other, 3);
    wait_until(|| {
        let now = scene.servers();
        now.len() == 2 && now.iter().all(|process| !before.contains(process))
    });
    scene.end_session();
}

#[test]
fn a_session_ends_if_its_root_is_removed() {
    let Some((scene, _)) = scene() else {
        return;
    };
    assert_has(&scene, &scene.reference, 1);
    let _ = Command::new("rm").arg("-rf").arg(&scene.root).output();
    wait_until(|| scene.servers().is_empty());
    ok(Command::new("rm").arg("-rf").arg(&scene.root));
    assert!(!scene.root.exists());
}

#[test]
fn a_session_begins_and_ends_with_the_layers_that_are_read_on_demand() {
    let Some((scene, _)) = scene() else {
        return;
    };
    let is_mounted = || MountedDirs::read_own().has(&scene.served());
    scene.mount();
    assert!(is_mounted());
    scene.unmount();
    ok(cas(&scene.root).args(["rmi", &scene.reference]));
    ok(cas(&scene.root).arg("gc"));
    wait_until(|| !is_mounted() && scene.servers().is_empty());
    assert_has(&scene, &scene.reference, 1);
    assert!(is_mounted());
}

/// The image has no table of contents.
#[test]
fn no_session_begins_for_an_image_that_was_fetched_as_a_whole() {
    if !is_usable() {
        return;
    }
    let scene = Scene::with(false, |whole, reference| {
        super::scene::import(whole, reference, chunked::plain);
    });
    scene.mount();
    scene.assert_shows(&scene.plain());
    assert!(!scene.served().exists());
    assert!(scene.servers().is_empty());
    scene.unmount();
}
