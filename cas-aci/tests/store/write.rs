//! Importing.

use std::fs;
use std::io::{Cursor, Read, Write};
use std::time::{Duration, SystemTime};

use cas_aci::{AciStore, WriteOptions};
use cas_core::pool::wait;
use cas_core::{ErrorKind, limit};
use tempfile::TempDir;
use testkit::archive::{Header, Tar};
use testkit::compress::{bzip2, xz};

use super::common::*;

#[test]
fn an_aci_is_written_found_and_read_back_on_every_store() {
    on_every_store(|store| {
        let text = manifest("example.com/app", "");
        let archive = aci(&text);
        let key = {
            let store = open(&store);
            let key = write(&store, &archive);
            wait(store.close()).unwrap();
            key
        };
        assert_eq!(key, key_of(&archive));
        let acis = open(&store);
        let names = wait(acis.resolve_name("example.com/app")).unwrap();
        assert_eq!(names, [key]);
        assert_eq!(read(&acis, &key.half()), archive);
        let json = wait(acis.get_image_manifest_json(&key.half())).unwrap();
        assert_eq!(json, text);
        let parsed = wait(acis.get_image_manifest(&key.half())).unwrap();
        assert_eq!(parsed.name, "example.com/app");
        assert!(collect_later(&store).blobs.is_empty());
        assert_eq!(read(&acis, &key.to_string()), archive);
    });
}

#[test]
fn every_compression_gives_the_same_key_and_is_kept_as_it_was() {
    let archive = aci(&manifest("a", ""));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&archive).unwrap();
    for packed in [gzip.finish().unwrap(), bzip2(&archive), xz(&archive)] {
        let store = memory();
        let acis = open(&store);
        let key = write(&acis, &packed);
        assert_eq!(key, key_of(&archive));
        let info = wait(acis.get_aci_info(&key.half())).unwrap();
        assert_eq!(info.size, archive.len() as u64);
        assert_eq!(info.packed_size(), packed.len() as u64);
        assert_eq!(info.blob.digest, cas_core::Digest::sha256(&packed));
        assert_eq!(read(&acis, &key.half()), archive);
    }
}

#[test]
fn an_aci_that_is_imported_again_has_the_new_times_and_keeps_its_tree_size() {
    on_every_store(|store| {
        let acis = open(&store);
        let archive = aci(&manifest("a", ""));
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let options = WriteOptions::default()
            .with_import_time(at(100))
            .with_latest(true);
        let key = write_with(&acis, &archive, options);
        wait(acis.update_tree_store_size(&key.half(), 4096)).unwrap();
        let first = wait(acis.get_aci_info(&key.half())).unwrap();
        assert_eq!((first.import_time, first.last_used), (at(100), at(100)));
        assert!(first.latest);
        write_with(
            &acis,
            &xz(&archive),
            WriteOptions::default().with_import_time(at(200)),
        );
        let second = wait(acis.get_aci_info(&key.half())).unwrap();
        assert_eq!(
            (second.import_time, second.tree_store_size),
            (at(200), 4096)
        );
        assert!(!second.latest);
        // The first copy and its lease are gone.
        let removed = collect_later(&store);
        let digests: Vec<_> = removed.blobs.iter().map(|(digest, _)| *digest).collect();
        assert_eq!(digests, [first.blob.digest]);
        assert_eq!(wait(store.leases().list()).unwrap().len(), 1);
        assert_eq!(read(&acis, &key.half()), archive);
    });
}

#[test]
fn what_is_not_an_aci_is_refused_and_leaves_nothing() {
    let text = manifest("example.com/app", "");
    let good = || Tar::new().file("manifest", &text).dir("rootfs");
    let ends = |archive: Vec<u8>| archive[..archive.len() - 1600].to_vec();
    let big = Header::new(b'0', "manifest").size(1 << 30);
    for (archive, reason) in [
        (Tar::new().dir("rootfs").end(), "no member \"manifest\""),
        (
            Tar::new().file("manifest", &text).end(),
            "no member \"rootfs\"",
        ),
        (good().file("manifest", &text).end(), "two manifests"),
        (good().file("etc/passwd", "").end(), "etc/passwd"),
        (good().file("rootfs/../a", "").end(), "relative path"),
        (good().file("/rootfs/a", "").end(), "relative path"),
        (good().hardlink("rootfs/a", "manifest").end(), "outside"),
        (good().hardlink("rootfs/a", "../a").end(), "relative path"),
        (
            Tar::new()
                .symlink("manifest", "rootfs/a")
                .dir("rootfs")
                .end(),
            "not a regular file",
        ),
        (Tar::new().member(big, "").end(), "at most 1048576"),
        (
            xz(&Tar::new()
                .file("manifest", vec![b' '; limit::ACI_MANIFEST as usize + 1])
                .end()),
            "at most 1048576",
        ),
        (aci("{"), "does not parse"),
        (aci(&manifest("Example", "")), "invalid name"),
        (
            aci(&manifest("a", r#","dependencies":[{"imageName":"a"}]"#)),
            "depends on itself",
        ),
        (ends(good().file("rootfs/a", "x".repeat(600)).end()), "ends"),
    ] {
        is_refused(archive, ErrorKind::Corrupt, reason);
    }
    for archive in [
        b"hello".repeat(200),
        Vec::new(),
        Tar::new().end(),
        xz(&good().end())[..100].to_vec(),
    ] {
        let reason = "expected the archive of an ACI";
        is_refused(archive, ErrorKind::InvalidArgument, reason);
    }
}

#[track_caller]
fn is_refused(archive: Vec<u8>, kind: ErrorKind, reason: &str) {
    let store = memory();
    let acis = open(&store);
    let error = wait(acis.write_aci(Cursor::new(archive))).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(
        error.to_string().contains(reason),
        "{error} does not contain {reason}"
    );
    assert_nothing_is_left(&store, &acis);
}

#[test]
fn an_aci_with_a_manifest_of_the_largest_size_is_written() {
    let acis = open(&memory());
    let text = manifest("a", "");
    let rest = " ".repeat(limit::ACI_MANIFEST as usize - text.len());
    let key = write(&acis, &aci(&(text + &rest)));
    let json = wait(acis.get_image_manifest_json(&key.half())).unwrap();
    assert_eq!(json.len() as u64, limit::ACI_MANIFEST);
}

#[test]
fn a_bomb_is_stopped_by_its_ratio_and_leaves_nothing() {
    let store = memory();
    let acis = open(&store);
    // 43 kB become 1.25 GiB.
    let zstd = |data: &[u8]| zstd::encode_all(data, 3).unwrap();
    let mut bomb = zstd(&aci(&manifest("a", "")));
    let zeros = zstd(&vec![0; 64 << 20]);
    for _ in 0..20 {
        bomb.extend_from_slice(&zeros);
    }
    let error = wait(acis.write_aci(Cursor::new(bomb))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
    assert_nothing_is_left(&store, &acis);
}

#[test]
fn an_aci_that_lies_about_its_name_or_key_is_refused() {
    let store = memory();
    let acis = open(&store);
    let archive = aci(&manifest("example.com/app", ""));
    let whole = key_of(&archive).to_string();
    let last = if whole.ends_with('0') { "1" } else { "0" };
    let wrong = format!("{}{last}", &whole[..134]).parse().unwrap();
    for (options, reason) in [
        (
            WriteOptions::default().with_name("example.com/other".to_owned()),
            "found one called",
        ),
        (
            WriteOptions::default().with_key(Some(wrong)),
            "expected an ACI whose key begins with",
        ),
    ] {
        let error = wait(acis.write_aci_with(Cursor::new(archive.clone()), options)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(reason), "{error}");
        assert_nothing_is_left(&store, &acis);
    }
    let key = Some(key_of(&archive).half().parse().unwrap());
    let options = WriteOptions::default().with_name("example.com/app".to_owned());
    write_with(&acis, &archive, options.with_key(key));
}

fn assert_nothing_is_left(store: &cas_core::Store, acis: &AciStore) {
    assert!(wait(acis.get_all_aci_infos(&[], true)).unwrap().is_empty());
    wait_until_jobs_end(store);
    assert_eq!(blobs(store), 0);
    assert!(wait(store.leases().list()).unwrap().is_empty());
}

/// Uses redb, which does not detect wrong bytes when it reads them.
#[test]
fn an_archive_that_was_damaged_is_replaced_by_the_next_import() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("redb");
    let store = || open_engine("redb", &path);
    let archive = aci(&manifest("example.com/damaged", ""));
    let key = write(&open(&store()), &archive).half();
    let needle = b"example.com/damaged\"}";
    let mut flipped = 0;
    for entry in fs::read_dir(&path).unwrap() {
        let path = entry.unwrap().path();
        let mut file = fs::read(&path).unwrap();
        for at in 0..file.len().saturating_sub(needle.len()) {
            if file[at..].starts_with(needle) {
                file[at] ^= 1;
                flipped += 1;
            }
        }
        fs::write(&path, file).unwrap();
    }
    assert!(flipped > 0, "the archive was not found");
    let acis = open(&store());
    let damaged =
        wait(acis.read_stream(&key)).map(|mut reader| reader.read_to_end(&mut Vec::new()));
    assert!(!matches!(damaged, Ok(Ok(_))), "it is damaged");
    write(&acis, &archive);
    assert_eq!(read(&acis, &key), archive);
    assert!(wait(acis.get_image_manifest(&key)).is_ok());
}
