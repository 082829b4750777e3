//! Which directories can be opened, and foreign files in a store.

#![allow(clippy::expect_used, reason = "helpers of tests")]

use std::fs;
use std::path::Path;

use backend_fs::FsStore;
use cas_core::content::Entry;
use cas_core::image::Image;
use cas_core::records::Table;
use cas_core::{ContentExt, Descriptor, Digest, ErrorKind, MediaType, limit, pool::wait};

fn refused(path: &Path, kind: ErrorKind, word: &str) {
    let error = FsStore::open(path).err().expect(word);
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(word), "{error}");
}

#[test]
fn a_directory_with_other_files_is_refused_and_not_changed() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("notes"), "x").unwrap();
    refused(temp.path(), ErrorKind::FailedPrecondition, "notes");
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
}

#[test]
fn a_layout_that_is_refused_is_not_changed() {
    let temp = tempfile::tempdir().unwrap();
    for (layout, kind) in [
        ("", ErrorKind::Corrupt),
        ("{", ErrorKind::Corrupt),
        ("{}", ErrorKind::FailedPrecondition),
        (r#"{"imageLayoutVersion":1}"#, ErrorKind::Corrupt),
        (
            r#"{"imageLayoutVersion":"2.0.0"}"#,
            ErrorKind::FailedPrecondition,
        ),
        (
            r#"{"imageLayoutVersion":""}"#,
            ErrorKind::FailedPrecondition,
        ),
        (&" ".repeat(70_000), ErrorKind::Corrupt),
    ] {
        fs::write(temp.path().join("oci-layout"), layout).unwrap();
        refused(temp.path(), kind, "layout");
        assert_eq!(
            fs::read_dir(temp.path()).unwrap().count(),
            1,
            "{layout:.50}"
        );
    }
}

#[test]
fn another_kind_and_a_newer_format_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    drop(FsStore::open(temp.path()).unwrap());
    let format = temp.path().join(".cas/format.json");
    fs::write(&format, r#"{"kind":"redb","version":1}"#).unwrap();
    refused(temp.path(), ErrorKind::FailedPrecondition, "redb");
    fs::write(&format, r#"{"kind":"fs","version":3}"#).unwrap();
    refused(temp.path(), ErrorKind::FailedPrecondition, "found 3");
    refused(temp.path(), ErrorKind::FailedPrecondition, "newer version");
    fs::write(&format, "{").unwrap();
    refused(temp.path(), ErrorKind::Corrupt, "format.json");
}

#[test]
fn a_file_of_the_layout_may_be_as_large_as_is_allowed_and_no_larger() {
    let temp = tempfile::tempdir().unwrap();
    drop(FsStore::open(temp.path()).unwrap());
    for name in ["oci-layout", ".cas/format.json"] {
        let file = temp.path().join(name);
        let text = fs::read(&file).unwrap();
        let pad = |size: u64| {
            let mut padded = text.clone();
            padded.resize(size as usize, b' ');
            fs::write(&file, padded).unwrap();
        };
        pad(limit::LAYOUT_FILE);
        drop(FsStore::open(temp.path()).unwrap());
        pad(limit::LAYOUT_FILE + 1);
        refused(temp.path(), ErrorKind::Corrupt, "at most 65536 bytes");
        fs::write(&file, text).unwrap();
    }
}

#[test]
fn foreign_files_among_the_blobs_are_not_listed() {
    let temp = tempfile::tempdir().unwrap();
    let content = FsStore::open(temp.path()).unwrap().content();
    let blobs = temp.path().join("blobs/sha256");
    let digest = wait(content.put("good".into())).unwrap();
    let hex = |text: &str| Digest::sha256(text.as_bytes()).hex();
    fs::write(blobs.join("README"), "x").unwrap();
    fs::write(blobs.join(hex("up").to_uppercase()), "x").unwrap();
    fs::write(blobs.join(&hex("short")[1..]), "x").unwrap();
    fs::create_dir(blobs.join(hex("directory"))).unwrap();
    std::os::unix::fs::symlink("README", blobs.join(hex("link"))).unwrap();
    fs::create_dir(temp.path().join("blobs/md5")).unwrap();
    let listed = wait(content.list(None, 10)).unwrap();
    assert_eq!(
        listed.iter().map(|stat| stat.digest).collect::<Vec<_>>(),
        [digest]
    );
    let entries = wait(content.entries(None, 10)).unwrap();
    assert_eq!(
        entries.iter().map(Entry::digest).collect::<Vec<_>>(),
        [&digest]
    );
    for foreign in ["directory", "link"] {
        let digest = Digest::sha256(foreign.as_bytes());
        assert!(wait(content.stat(&digest)).unwrap().is_none(), "{foreign}");
        assert!(wait(content.open(&digest)).unwrap().is_none(), "{foreign}");
    }
}

#[test]
fn bytes_from_before_a_reboot_are_verified() {
    let temp = tempfile::tempdir().unwrap();
    let data = b"bytes that a power loss tears";
    let digest = Digest::sha256(data);
    {
        let content = FsStore::open(temp.path()).unwrap().content();
        wait(content.put(data[..].into())).unwrap();
        wait(content.begin("left")).unwrap();
    }
    // A power loss left a marker of unsynced blobs and a damaged blob.
    let blob = |digest: &Digest| temp.path().join("blobs/sha256").join(digest.hex());
    let torn = Digest::sha256(b"torn");
    fs::write(blob(&torn), "tor\0").unwrap();
    fs::write(temp.path().join(".cas/boot"), "another boot").unwrap();
    fs::create_dir_all(temp.path().join(".cas/unsynced")).unwrap();
    fs::write(temp.path().join(".cas/unsynced/note"), "").unwrap();
    let content = FsStore::open(temp.path()).unwrap().content();
    assert!(wait(content.stat(&torn)).unwrap().is_none());
    assert!(wait(content.stat(&digest)).unwrap().is_some());
    // The ingest's key file names this boot, so a writer may still use it.
    assert_eq!(wait(content.ingests()).unwrap().len(), 1);
    drop(content);
    // Without a marker, a blob is hashed before a publish keeps it.
    std::thread::sleep(std::time::Duration::from_millis(20));
    fs::remove_file(blob(&digest)).unwrap();
    fs::write(blob(&digest), "BYTES that a power loss tears").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    fs::write(temp.path().join(".cas/boot"), "another boot").unwrap();
    let content = FsStore::open(temp.path()).unwrap().content();
    let mut writer = wait(cas_core::content::Writer::begin(
        &*content,
        "again",
        cas_core::content::Expected::ANY,
    ))
    .unwrap();
    wait(writer.write(data[..].into())).unwrap();
    let batch = cas_core::records::Batch::new();
    wait(writer.commit(&batch, cas_core::content::Durability::Full)).unwrap();
    assert_eq!(fs::read(blob(&digest)).unwrap(), data);
}

#[test]
fn a_read_only_store_can_be_read_and_refuses_writes() {
    let temp = tempfile::tempdir().unwrap();
    let (source, mount) = (temp.path().join("source"), temp.path().join("mount"));
    let target = Descriptor::of(MediaType::OCI_LAYER, b"x");
    let writer = {
        let store = FsStore::open(&source).unwrap().store();
        wait(store.put(&target, "x".into(), Default::default())).unwrap();
        let image = Image::new("name".parse().unwrap(), target.clone());
        wait(store.images.create(image)).unwrap();
        store
    };
    // An older format, which a read-only mount cannot upgrade.
    let format = source.join(".cas/format.json");
    let older = r#"{"kind":"fs","version":1}"#;
    fs::write(&format, older).unwrap();
    fs::create_dir(&mount).unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let status = std::process::Command::new(program).args(arguments).status();
        status.is_ok_and(|status| status.success())
    };
    let (source, mount) = (source.to_str().unwrap(), mount.to_str().unwrap());
    if !run("mount", &["-o", "bind,ro", source, mount]) {
        eprintln!("SKIPPED: a bind mount needs the superuser");
        return;
    }
    let denied = |error: cas_core::Error| assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    // Reads first while another handle has a log that is not yet in the database, then without that
    // handle.
    for writer in [Some(writer), None] {
        let store = FsStore::open(mount).unwrap().store();
        assert!(wait(store.content.fetch(&target)).is_ok());
        assert!(wait(store.blobs().load(&target.digest)).unwrap().is_some());
        let image = wait(store.images.get(&"name".parse().unwrap()))
            .unwrap()
            .unwrap();
        let notes = store.records.scan(Table::Notes, "", None, 1);
        assert_eq!(wait(notes).unwrap(), []);
        denied(wait(store.content.begin("key")).err().unwrap());
        denied(wait(store.content.remove(&target.digest)).unwrap_err());
        denied(wait(store.blobs().remove(&target.digest)).unwrap_err());
        denied(wait(store.images.delete(&image.name, None)).unwrap_err());
        drop((store, writer));
    }
    assert!(run("umount", &[mount]));
    assert_eq!(fs::read_to_string(&format).unwrap(), older);
}

/// Bytes from before a reboot may be incomplete. An ingest that is locked is from this boot.
#[test]
fn a_reboot_removes_ingests_that_are_named_by_their_digest_unless_they_are_locked() {
    let temp = tempfile::tempdir().unwrap();
    let content = FsStore::open(temp.path()).unwrap().content();
    let begin = |key: &Digest| {
        let mut ingest = wait(content.begin(&key.to_string())).unwrap();
        wait(ingest.append("torn?".into())).unwrap();
        ingest
    };
    let [left, held] = [b"left", b"held"].map(|data| Digest::sha256(data));
    drop(begin(&left));
    let writer = begin(&held);
    assert_eq!(wait(content.ingests()).unwrap().len(), 2);
    fs::write(temp.path().join(".cas/boot"), "another boot").unwrap();
    let content = FsStore::open(temp.path()).unwrap().content();
    let [ingest] = &wait(content.ingests()).unwrap()[..] else {
        panic!("expected one ingest");
    };
    assert_eq!((&ingest.key, ingest.offset), (&held.to_string(), 5));
    drop(writer);
    assert!(wait(content.discard(&held.to_string())).unwrap());
    assert_eq!(wait(content.ingests()).unwrap(), []);
}
