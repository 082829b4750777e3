//! Repairs of a store while other jobs use it.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use backend_fs::{FsOpener, FsStore};
use cas_core::check::Finding;
use cas_core::image::Image;
use cas_core::{Descriptor, ErrorKind, ImageStore, MediaType, Opener, pool::wait};
use cas_host::{Dir, Lock};

const DAMAGED: [Option<&str>; 8] = [
    None,
    Some(""),
    Some("{"),
    Some("[]"),
    Some("\0\0\0\0"),
    Some(r#"{"manifests":{}}"#),
    Some(r#"{"schemaVersion":2,"lanifests":[]}"#),
    Some("{}"),
];

fn examine(path: &Path, repair: bool) -> Vec<Finding> {
    let location = format!("fs://{}", path.display()).parse().unwrap();
    wait(FsOpener.examine(&location, repair)).unwrap()
}

fn repair(path: &Path) -> Vec<Finding> {
    examine(path, true)
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

/// Returns everything in a directory: paths, and what the files contain. A symbolic link that leads
/// nowhere is a path.
fn everything(path: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap().path();
        if entry.is_dir() {
            found.extend(everything(&entry));
        }
        let content = entry.is_file().then(|| fs::read(&entry).unwrap());
        found.insert(entry, content);
    }
    found
}

/// Makes a store with an image. Returns the file of its format.
fn filled(path: &Path) -> PathBuf {
    let store = FsStore::open(path).unwrap();
    wait(store.images().create(image("a"))).unwrap();
    path.join(".cas/format.json")
}

/// Sets the format in the database of records.
fn set_recorded_format(path: &Path, format: u32) {
    let database = rusqlite::Connection::open(path.join(".cas/records.db")).unwrap();
    database
        .pragma_update(None, "user_version", format)
        .unwrap();
}

/// Puts something else in the place of the file.
type Harm = fn(&Path);

const HARMS: [Harm; 8] = [
    |file| fs::write(file, "").unwrap(),
    |file| fs::write(file, "\0\0\0\0").unwrap(),
    |file| fs::write(file, r#"{"kind":"fs"}"#).unwrap(),
    |file| fs::write(file, r#"{"kind":"fs","version":"2"}"#).unwrap(),
    |file| fs::write(file, r#"{"kind":"fs","version":2"#).unwrap(),
    |file| fs::write(file, vec![b' '; 1 << 20]).unwrap(),
    |file| {
        fs::remove_file(file).unwrap();
        fs::create_dir_all(file.join("theirs")).unwrap();
    },
    |file| {
        fs::remove_file(file).unwrap();
        symlink("/nowhere", file).unwrap();
    },
];

#[test]
fn a_damaged_format_file_is_written_again_with_the_recorded_format() {
    for (number, harm) in HARMS.into_iter().enumerate() {
        for recorded in [1, 2] {
            let temp = tempfile::tempdir().unwrap();
            let format = filled(temp.path());
            set_recorded_format(temp.path(), recorded);
            harm(&format);
            let error = FsStore::open(temp.path()).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{number}: {error}");
            let said = error.to_string();
            assert!(said.contains("format.json"), "{number}: {said}");
            assert!(said.contains("fsck --repair"), "{number}: {said}");
            let found = repair(temp.path());
            assert_eq!(found.len(), 1, "{number}: {found:?}");
            assert!(found[0].repaired && found[0].subject == ".cas/format.json");
            let written = fs::read_to_string(&format).unwrap();
            assert_eq!(written, format!(r#"{{"kind":"fs","version":{recorded}}}"#));
            let store = FsStore::open(temp.path()).unwrap();
            assert_eq!(names(&*store.images()), ["a"], "{number}");
            assert_eq!(repair(temp.path()), [], "{number}");
        }
    }
}

/// A finding states by itself what the repair did, or what a repair does.
#[test]
fn a_finding_does_not_repeat_the_advice_of_the_error() {
    // Two of these texts are not damage in every file.
    let all = HARMS;
    let harms = all[..2].iter().chain(&all[4..]);
    for name in [".cas/format.json", "oci-layout", "index.json"] {
        for harm in harms.clone() {
            let temp = tempfile::tempdir().unwrap();
            filled(temp.path());
            harm(&temp.path().join(name));
            for repairs in [false, true] {
                let found = examine(temp.path(), repairs);
                assert_eq!(found.len(), 1, "{name}: {found:?}");
                let detail = &found[0].detail;
                let advises = detail.contains("fsck") || detail.contains("restore the file");
                assert!(!advises, "{name}: {detail}");
            }
        }
    }
}

/// Nothing newer is taken for this format, and nothing of an unknown format is changed.
#[test]
fn a_damaged_format_file_of_an_unknown_format_stays() {
    let unknown: [Harm; 4] = [
        |path| set_recorded_format(path, 3),
        |path| set_recorded_format(path, 0),
        |path| fs::remove_file(path.join(".cas/records.db")).unwrap(),
        |path| {
            fs::write(path.join(".cas/records.db"), [7; 8192]).unwrap();
            fs::remove_file(path.join(".cas/records.db-wal")).unwrap();
        },
    ];
    for (case, make_unknown) in unknown.into_iter().enumerate() {
        for (number, harm) in HARMS.into_iter().enumerate() {
            let temp = tempfile::tempdir().unwrap();
            let format = filled(temp.path());
            make_unknown(temp.path());
            harm(&format);
            // Something that a repair of a known format sets aside.
            fs::create_dir(temp.path().join(".cas/index.new")).unwrap();
            let before = everything_but_locks(temp.path());
            let found = repair(temp.path());
            assert_eq!(found.len(), 1, "{case} {number}: {found:?}");
            assert!(!found[0].repaired && found[0].subject == ".cas/format.json");
            assert!(found[0].detail.contains("newest release"), "{found:?}");
            assert!(FsStore::open(temp.path()).is_err(), "{case} {number}");
            assert_eq!(everything_but_locks(temp.path()), before, "{case} {number}");
        }
    }
}

/// As [`everything`], without what reading the database changes.
fn everything_but_locks(path: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = everything(path);
    found.retain(|path, _| !path.ends_with("records.db-shm"));
    found
}

#[test]
fn a_newer_store_is_refused_and_not_changed_also_without_its_format_file() {
    for with_file in [true, false] {
        let temp = tempfile::tempdir().unwrap();
        let format = filled(temp.path());
        set_recorded_format(temp.path(), 3);
        match with_file {
            true => fs::write(&format, r#"{"kind":"fs","version":3}"#).unwrap(),
            false => fs::remove_file(&format).unwrap(),
        }
        fs::create_dir(temp.path().join(".cas/index.new")).unwrap();
        let before = everything_but_locks(temp.path());
        let error = FsStore::open(temp.path()).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
        assert!(error.to_string().contains("found 3"), "{error}");
        let location = format!("fs://{}", temp.path().display()).parse().unwrap();
        let error = wait(FsOpener.examine(&location, true)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
        assert_eq!(everything_but_locks(temp.path()), before);
    }
}

/// Another program has written it, in a version that this one does not know.
#[test]
fn a_newer_version_of_the_image_layout_is_not_replaced() {
    let temp = tempfile::tempdir().unwrap();
    filled(temp.path());
    let file = temp.path().join("oci-layout");
    let newer = r#"{"imageLayoutVersion":"2.0.0"}"#;
    fs::write(&file, newer).unwrap();
    let location = format!("fs://{}", temp.path().display()).parse().unwrap();
    let error = wait(FsOpener.examine(&location, true)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
    assert!(error.to_string().contains("2.0.0"), "{error}");
    assert!(error.to_string().contains("delete oci-layout"), "{error}");
    assert_eq!(fs::read_to_string(file).unwrap(), newer);
}

/// A store of `cas` always has version 1, so anything that is not a newer version is damage.
#[test]
fn a_changed_byte_in_the_version_of_the_image_layout_is_damage() {
    let temp = tempfile::tempdir().unwrap();
    filled(temp.path());
    let file = temp.path().join("oci-layout");
    let written = fs::read_to_string(&file).unwrap();
    for (from, to) in [
        ("1.0.0", "1*0.0"),
        ("1.0.0", "0.0.0"),
        ("1.0.0", "q.0.0"),
        ("1.0.0", ""),
        ("Version", "versioN"),
    ] {
        let changed = written.replace(from, to);
        fs::write(&file, &changed).unwrap();
        let error = FsStore::open(temp.path()).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{changed}: {error}");
        for repairs in [false, true] {
            let found = examine(temp.path(), repairs);
            assert_eq!(found.len(), 1, "{changed}: {found:?}");
            assert_eq!(found[0].subject, "oci-layout", "{found:?}");
            assert_eq!(found[0].repaired, repairs, "{found:?}");
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), written, "{changed}");
        drop(FsStore::open(temp.path()).unwrap());
    }
    let aside = fs::read_to_string(temp.path().join("oci-layout.damaged-1")).unwrap();
    assert!(aside.contains("1*0.0"), "{aside}");
}

#[test]
fn an_unknown_option_is_refused_before_anything_is_repaired() {
    let temp = tempfile::tempdir().unwrap();
    drop(FsStore::open(temp.path()).unwrap());
    let file = temp.path().join("index.json");
    fs::remove_file(&file).unwrap();
    let location = format!("fs://{}?colour=red", temp.path().display());
    let error = wait(FsOpener.examine(&location.parse().unwrap(), true)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    assert!(!file.exists());
}

#[test]
fn a_store_is_not_damaged_while_it_is_created() {
    let temp = tempfile::tempdir().unwrap();
    for number in 0..100 {
        let path = temp.path().join(number.to_string());
        let location = format!("fs://{}", path.display()).parse().unwrap();
        thread::scope(|scope| {
            let creation = scope.spawn(|| drop(FsStore::open(&path).unwrap()));
            while !creation.is_finished() {
                assert_eq!(wait(FsOpener.examine(&location, false)).unwrap(), []);
            }
        });
    }
}

/// SQLite finds nothing wrong with such a database.
#[test]
fn a_database_of_records_without_its_table_is_made_again_with_all_names() {
    let temp = tempfile::tempdir().unwrap();
    let images = FsStore::open(temp.path()).unwrap().images();
    wait(images.create(image("a"))).unwrap();
    drop(images);
    let path = temp.path().join(".cas/records.db");
    let database = rusqlite::Connection::open(&path).unwrap();
    database.execute_batch("DROP TABLE records").unwrap();
    drop(database);
    for repaired in [false, true] {
        let found = examine(temp.path(), repaired);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].repaired, repaired, "{found:?}");
        assert!(found[0].subject.ends_with("records.db"), "{found:?}");
    }
    assert_eq!(repair(temp.path()), []);
    let images = FsStore::open(temp.path()).unwrap().images();
    assert_eq!(names(&*images).len(), 1);
}
