//! A store in a directory: it has one owner, refuses foreign files and cleans up after a kill.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::SystemTime;

use backend_remote::{DirOpener, RemoteStore};
use bytes::Bytes;
use cas_core::content::{Durability, Expected, Writer};
use cas_core::lease::UNLEASED_TTL;
use cas_core::pool::wait;
use cas_core::records::{Batch, Expect, Table};
use cas_core::{ContentExt, ContentStore, Digest, ErrorKind, Opener, limit};

#[test]
fn a_second_opening_is_told_which_process_has_the_store() {
    let home = tempfile::tempdir().unwrap();
    let store = wait(RemoteStore::open_dir(home.path())).unwrap();
    let second = wait(RemoteStore::open_dir(home.path())).err().unwrap();
    assert_eq!(second.kind(), ErrorKind::Busy);
    let process = format!("process {} ", std::process::id());
    assert!(second.to_string().contains(&process), "{second}");
    drop(store);
    wait(RemoteStore::open_dir(home.path())).unwrap();
}

#[test]
fn a_foreign_directory_is_refused_and_left_unchanged() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("photo.jpg"), "x").unwrap();
    let refused = wait(RemoteStore::open_dir(home.path())).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::FailedPrecondition);
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    fs::write(home.path().join("format"), "{}").unwrap();
    let refused = wait(RemoteStore::open_dir(home.path())).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::FailedPrecondition);
}

#[test]
fn an_older_format_is_upgraded_and_a_newer_one_refused() {
    let home = tempfile::tempdir().unwrap();
    let format = home.path().join("format");
    let written = |version: u32| {
        format!(
            r#"{{"kind": "oci-cas remote", "version": {version}, "endpoint": null,
                "conditional_deletion": false}}"#
        )
    };
    fs::write(&format, written(1)).unwrap();
    drop(wait(RemoteStore::open_dir(home.path())).unwrap());
    let upgraded = fs::read_to_string(&format).unwrap();
    assert!(upgraded.contains(r#""version": 2"#), "{upgraded}");
    fs::write(&format, written(3)).unwrap();
    let refused = wait(RemoteStore::open_dir(home.path())).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::FailedPrecondition);
    let refused = refused.to_string();
    assert!(refused.contains("found 3: written by a newer"), "{refused}");
}

#[test]
fn a_format_of_as_many_bytes_as_are_allowed_is_read_and_no_larger_one() {
    let home = tempfile::tempdir().unwrap();
    let open = || wait(RemoteStore::open_dir(home.path()));
    wait(open().unwrap().put(Bytes::from_static(b"blob"))).unwrap();
    let format = home.path().join("format");
    let mut text = fs::read(&format).unwrap();
    for (length, is_read) in [(limit::LAYOUT_FILE, true), (limit::LAYOUT_FILE + 1, false)] {
        text.resize(length as usize, b' ');
        fs::write(&format, &text).unwrap();
        assert_eq!(open().is_ok(), is_read, "{length}");
    }
    let error = open().err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    let location = format!("dir://{}", home.path().display());
    let found = wait(DirOpener.examine(&location.parse().unwrap(), true)).unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].repaired && found[0].subject == "format");
    open().unwrap();
}

/// Their folder stays, because a full disk may have no space for a new one.
#[test]
fn half_written_files_are_removed() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("beside");
    let store = wait(RemoteStore::open_dir(home.path())).unwrap();
    let digest = wait(store.put(Bytes::from_static(b"blob"))).unwrap();
    drop(store);
    let before = fs::metadata(&folder).unwrap().ino();
    fs::write(folder.join("half"), "x").unwrap();
    let store = wait(RemoteStore::open_dir(home.path())).unwrap();
    assert!(!folder.join("half").exists());
    assert_eq!(fs::metadata(&folder).unwrap().ino(), before);
    assert!(wait(store.stat(&digest)).unwrap().is_some());
}

/// A job must not fail because parts that it no longer needs cannot be deleted.
#[test]
fn redundant_parts_that_cannot_be_deleted_do_not_fail_a_publish_or_a_rewind() {
    let home = tempfile::tempdir().unwrap();
    let store = wait(RemoteStore::open_dir(home.path())).unwrap();
    let uploads = home.path().join("uploads");
    let files = || {
        let mut left = vec![uploads.clone()];
        let mut files = BTreeSet::new();
        while let Some(dir) = left.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => left.push(path),
                    false => drop(files.insert(path)),
                }
            }
        }
        files
    };
    for (number, length) in [9 << 20, 8 << 20, 17 << 20].into_iter().enumerate() {
        let data = Bytes::from(vec![number as u8; length]);
        let digest = wait(store.put(data.clone())).unwrap();
        for rewinds in [false, true] {
            let before = files();
            let expected = Expected::exactly(digest, length as u64);
            let mut writer = wait(Writer::begin(&store, "again", expected)).unwrap();
            wait(writer.write(data.clone())).unwrap();
            let parts = || files().difference(&before).cloned().collect::<Vec<_>>();
            // The last part may still be under way.
            while parts().len() < length / (8 << 20) {
                std::thread::yield_now();
            }
            for part in parts() {
                fs::remove_file(&part).unwrap();
                fs::create_dir_all(part.join("full")).unwrap();
            }
            if rewinds {
                wait(writer.rewind()).unwrap();
                wait(writer.write(data.clone())).unwrap();
            }
            let batch = Batch::new();
            let committed = wait(writer.commit(&batch, Durability::Full)).unwrap();
            assert_eq!(committed.size, length as u64);
            assert!(wait(store.is_intact(&digest)).unwrap());
        }
    }
}

/// A key may be longer than a file name, and `dir` has no options.
#[test]
fn long_keys_are_accepted_and_options_refused() {
    let home = tempfile::tempdir().unwrap();
    let location = format!("dir://{}", home.path().display());
    let store = wait(DirOpener.open(&location.parse().unwrap())).unwrap();
    let key = "ä/".repeat(300);
    let mut batch = Batch::new();
    batch.put(
        Table::Images,
        &key,
        Expect::Absent,
        Bytes::from_static(b"v"),
    );
    wait(store.records.commit(&batch)).unwrap();
    let page = wait(store.records.scan(Table::Images, "ä/ä", None, 9)).unwrap();
    assert_eq!(page[0].key, key);
    drop(store);
    let odd = format!("{location}?single=true").parse().unwrap();
    let refused = [
        wait(DirOpener.open(&odd)).map(drop),
        wait(DirOpener.examine(&odd, true)).map(drop),
    ];
    for refused in refused {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}

/// Programs can set times of modification.
#[test]
fn a_changed_part_is_noticed_although_its_time_of_modification_is_set_back() {
    const PART: usize = 8 << 20;
    let home = tempfile::tempdir().unwrap();
    let uploads = home.path().join("uploads");
    let store = wait(RemoteStore::open_dir(home.path())).unwrap();
    for is_swapped in [false, true] {
        let bytes = [vec![u8::from(is_swapped); PART], vec![2; PART]].concat();
        let digest = wait(store.put(Bytes::from(bytes))).unwrap();
        let stat = wait(store.stat(&digest)).unwrap().unwrap();
        let is_unchanged = || wait(store.is_unchanged(&stat)).unwrap();
        assert!(is_unchanged());
        let part = |number| uploads.join(format!("{:020}.{number:08}", stat.version.0));
        if is_swapped {
            fs::rename(part(0), uploads.join("aside")).unwrap();
            fs::rename(part(1), part(0)).unwrap();
            fs::rename(uploads.join("aside"), part(1)).unwrap();
        } else {
            let modified = part(0).metadata().unwrap().modified().unwrap();
            let file = fs::File::options().write(true).open(part(0)).unwrap();
            file.write_all_at(b"!", 0).unwrap();
            file.set_modified(modified).unwrap();
        }
        assert!(!is_unchanged(), "{is_swapped}");
    }
}

/// Removes a member whose value is text from the value of a cell. Older releases did not write it.
#[allow(clippy::unwrap_used)]
fn remove_member(cell: &Path, member: &str) {
    let whole = fs::read_to_string(cell).unwrap();
    let (start, rest) = whole.split_once(&format!(",\"{member}\":\"")).unwrap();
    let (_, end) = rest.split_once('"').unwrap();
    fs::write(cell, format!("{start}{end}")).unwrap();
}

/// Older releases compared only times of modification, which programs can set.
#[test]
fn a_blob_of_an_older_release_does_not_count_as_unchanged() {
    let home = tempfile::tempdir().unwrap();
    let store = wait(RemoteStore::open_dir(home.path())).unwrap();
    let digest = wait(store.put(Bytes::from_static(b"blob"))).unwrap();
    let stat = wait(store.stat(&digest)).unwrap().unwrap();
    assert!(wait(store.is_unchanged(&stat)).unwrap());
    drop(store);
    remove_member(
        &home.path().join("blobs/sha256").join(digest.hex()),
        "etags",
    );
    let store = wait(RemoteStore::open_dir(home.path())).unwrap();
    assert_eq!(wait(store.stat(&digest)).unwrap(), Some(stat));
    assert!(!wait(store.is_unchanged(&stat)).unwrap());
    assert_eq!(wait(store.hash(&digest)).unwrap(), Some(digest));
}

/// Parts that a killed process sent are found and removed. Parts of blobs, and of the ingests of
/// running processes, stay.
#[test]
fn parts_without_a_blob_are_removed() {
    const PART: usize = 8 << 20;
    let home = tempfile::tempdir().unwrap();
    let names = || fs::read_dir(home.path().join("uploads")).unwrap().count();
    let open = || wait(RemoteStore::open_dir(home.path())).unwrap();
    let now = SystemTime::now();
    let (yesterday, later) = (now - UNLEASED_TTL, now + UNLEASED_TTL);
    let store = open();
    let kept = wait(store.put(Bytes::from_static(b"kept"))).unwrap();
    // A closed store forgets its ingests, as a killed process does.
    for parts in 1..4 {
        let mut ingest = wait(store.begin(&format!("killed {parts}"))).unwrap();
        wait(ingest.append(Bytes::from(vec![7; parts * PART + 1]))).unwrap();
        wait(ingest.read_back(0, 1)).unwrap();
    }
    assert_eq!(names(), 7);
    assert_eq!(
        wait(store.leftovers(later, true)).unwrap(),
        [0; 0],
        "its own ingests"
    );
    drop(store);
    let store = open();
    let mut ingest = wait(store.begin("running")).unwrap();
    wait(ingest.append(Bytes::from(vec![8; PART]))).unwrap();
    wait(ingest.read_back(0, 1)).unwrap();
    // A cell without its object, and objects with other names.
    let removed = wait(store.put(Bytes::from_static(b"removed"))).unwrap();
    fs::remove_file(home.path().join("blobs/sha256").join(removed.hex())).unwrap();
    for name in ["x", "1", "y.00000000"] {
        fs::write(home.path().join("uploads").join(name), "").unwrap();
    }
    for remove in [false, true] {
        // No other process can send parts, so their age does not matter.
        let mut found = wait(store.leftovers(yesterday, remove)).unwrap();
        found.sort_unstable();
        assert_eq!(found, [&[7][..], &[PART as u64; 6]].concat());
    }
    assert_eq!(wait(store.leftovers(later, true)).unwrap(), [0; 0]);
    assert_eq!(names(), 5, "the blob, the ingest and the other files");
    assert_eq!(wait(store.hash(&kept)).unwrap(), Some(kept));
    assert_eq!(wait(ingest.read_back(0, 1)).unwrap(), [8][..]);
    // If a cell is damaged, its version is unknown.
    fs::write(home.path().join("blobs/sha256").join(kept.hex()), "?").unwrap();
    drop((ingest, store));
    let store = open();
    assert_eq!(wait(store.leftovers(later, true)).unwrap(), [0; 0]);
}

/// The cell of a blob may be replaced by a copy of the cell of another blob. The parts that the copy
/// points to are those of the other blob, which is intact.
#[test]
fn a_copied_cell_does_not_cost_the_blob_that_it_was_copied_from() {
    let lost = Bytes::from_static(b"lost");
    for is_old in [false, true] {
        for is_removed in [false, true] {
            let home = tempfile::tempdir().unwrap();
            let open = || wait(RemoteStore::open_dir(home.path())).unwrap();
            let cell = |digest: &Digest| home.path().join("blobs/sha256").join(digest.hex());
            let store = open();
            let kept = wait(store.put(Bytes::from_static(b"kept bytes"))).unwrap();
            let copied = wait(store.put(lost.clone())).unwrap();
            drop(store);
            if is_old {
                remove_member(&cell(&kept), "blob");
            }
            fs::copy(cell(&kept), cell(&copied)).unwrap();
            let store = open();
            let case = format!("old: {is_old}, removed: {is_removed}");
            assert!(!wait(store.is_intact(&copied)).unwrap(), "{case}");
            if is_removed {
                assert!(wait(store.remove(&copied)).unwrap(), "{case}");
            } else {
                assert_eq!(wait(store.put(lost.clone())).unwrap(), copied, "{case}");
            }
            let now = SystemTime::now();
            // The parts of the lost blob.
            assert_eq!(wait(store.leftovers(now, true)).unwrap(), [4], "{case}");
            assert!(wait(store.is_intact(&kept)).unwrap(), "{case}");
            let is_intact = wait(store.is_intact(&copied)).unwrap();
            assert_eq!(is_intact, !is_removed, "{case}");
        }
    }
}

/// The cell of an older release does not state its blob, so a collection removes the parts.
#[test]
fn the_parts_of_a_blob_of_an_older_release_are_removed_by_a_collection() {
    let home = tempfile::tempdir().unwrap();
    let parts = || fs::read_dir(home.path().join("uploads")).unwrap().count();
    let store = wait(RemoteStore::open_dir(home.path())).unwrap();
    let new = wait(store.put(Bytes::from_static(b"new"))).unwrap();
    let old = wait(store.put(Bytes::from_static(b"older"))).unwrap();
    assert!(wait(store.remove(&new)).unwrap());
    assert_eq!(parts(), 1);
    remove_member(&home.path().join("blobs/sha256").join(old.hex()), "blob");
    assert!(wait(store.remove(&old)).unwrap());
    let now = SystemTime::now();
    assert_eq!(wait(store.leftovers(now, true)).unwrap(), [5]);
    assert_eq!(parts(), 0);
}
