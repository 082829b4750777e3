//! Repairs of a store while other jobs use it.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::thread;
use std::time::Duration;

use backend_fs::{FsOpener, FsStore};
use cas_core::check::Finding;
use cas_core::image::Image;
use cas_core::{Descriptor, ImageStore, MediaType, Opener, pool::wait};
use cas_host::{Dir, Lock};

const DAMAGED: [Option<&str>; 6] = [
    None,
    Some(""),
    Some("{"),
    Some("[]"),
    Some("\0\0\0\0"),
    Some(r#"{"manifests":{}}"#),
];

fn repair(path: &std::path::Path) -> Vec<Finding> {
    let location = format!("fs://{}", path.display()).parse().unwrap();
    wait(FsOpener.examine(&location, true)).unwrap()
}

fn image(name: &str) -> Image {
    let target = Descriptor::of(MediaType::OCI_MANIFEST, name.as_bytes());
    Image::new(name.parse().unwrap(), target)
}

fn names(images: &dyn ImageStore) -> Vec<String> {
    let listed = wait(images.list(&[])).unwrap();
    listed.iter().map(|image| image.name.to_string()).collect()
}

#[test]
fn a_lost_or_damaged_index_is_made_again() {
    let temp = tempfile::tempdir().unwrap();
    let images = FsStore::open(temp.path()).unwrap().images();
    wait(images.create(image("a"))).unwrap();
    for (number, damage) in DAMAGED.into_iter().enumerate() {
        let file = temp.path().join("index.json");
        fs::remove_file(&file).unwrap();
        if let Some(text) = damage {
            fs::write(&file, text).unwrap();
        }
        let found = repair(temp.path());
        assert_eq!(found.len(), 1, "{damage:?}: {found:?}");
        assert!(found[0].repaired && found[0].subject == "index.json");
        assert_eq!(names(&*images).len(), number + 1, "{damage:?}");
        // The store is in use before and after.
        wait(images.create(image(&format!("b{number}")))).unwrap();
        assert_eq!(repair(temp.path()), [], "{damage:?}");
    }
}

#[test]
fn a_repair_waits_for_other_writers_and_reads_the_index_that_they_leave() {
    let temp = tempfile::tempdir().unwrap();
    let images = FsStore::open(temp.path()).unwrap().images();
    wait(images.create(image("a"))).unwrap();
    let file = temp.path().join("index.json");
    let good = fs::read(&file).unwrap();
    let cas_dir = Dir::open(temp.path().join(".cas")).unwrap();
    for damage in DAMAGED {
        let lock = Lock::exclusive(&cas_dir, "index.lock").unwrap();
        fs::remove_file(&file).unwrap();
        if let Some(text) = damage {
            fs::write(&file, text).unwrap();
        }
        let path = temp.path().to_owned();
        let repairing = thread::spawn(move || repair(&path));
        thread::sleep(Duration::from_millis(50));
        assert!(!repairing.is_finished(), "it did not wait: {damage:?}");
        fs::write(&file, &good).unwrap();
        drop(lock);
        assert_eq!(repairing.join().unwrap(), [], "{damage:?}");
        assert_eq!(fs::read(&file).unwrap(), good, "{damage:?}");
        assert_eq!(names(&*images), ["a"]);
    }
    let aside = |entry: std::io::Result<fs::DirEntry>| {
        let name = entry.unwrap().file_name();
        name.to_string_lossy().contains("damaged")
    };
    assert!(!fs::read_dir(temp.path()).unwrap().any(aside));
}
