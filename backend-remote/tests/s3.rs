//! Runs the conformance suite on the store in a bucket of S3.
#![cfg(feature = "s3")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use backend_remote::{RemoteStore, S3Opener};
use cas_core::lease::UNLEASED_TTL;
use cas_core::pool::wait;
use cas_core::{ContentExt, Digest, ErrorKind, Opener, Result};

/// Opens the store of a law in a bucket that is named after the directory `dir`. Each law has a
/// bucket of its own, because moto reads all keys of a bucket to list some of them. Without a
/// service, skips the law and returns a store in memory.
async fn bucket(dir: &Path) -> Result<RemoteStore> {
    let Some(host) = testkit::s3::service() else {
        conformance::skip("no moto in target/moto; `cargo xtask setup` installs it");
        return RemoteStore::memory().await;
    };
    let name = Digest::sha256(dir.as_os_str().as_encoded_bytes()).hex();
    // The names of buckets have at most 63 characters.
    let bucket = &name[..40];
    testkit::s3::make_bucket(host, bucket);
    let location = format!("s3://{bucket}/law?endpoint=http://{host}");
    RemoteStore::open_s3(&location.parse()?).await
}

conformance::content_store!(
    s3_content,
    |dir: PathBuf| async move { bucket(&dir).await.map(|store| store.content()) },
    backend_remote::GAPS
);
conformance::records!(
    s3_records,
    |dir: PathBuf| async move { bucket(&dir).await.map(|store| store.records()) },
    backend_remote::GAPS
);
conformance::image_store!(
    s3_images,
    |dir: PathBuf| async move { bucket(&dir).await.map(|store| store.images()) },
    backend_remote::GAPS
);
conformance::store!(
    s3_collection,
    |dir: PathBuf| async move { bucket(&dir).await.map(|store| Arc::new(store.store())) },
    backend_remote::GAPS
);

/// The service reports the time of a write in whole seconds, so only the ETag reveals the change.
#[test]
fn a_part_that_is_written_again_within_a_second_is_noticed() {
    let Some(host) = testkit::s3::service() else {
        eprintln!("SKIPPED: no moto in target/moto; `cargo xtask setup` installs it");
        return;
    };
    testkit::s3::make_bucket(host, "etags");
    let location = format!("s3://etags/store?endpoint=http://{host}");
    let store = wait(RemoteStore::open_s3(&location.parse().unwrap())).unwrap();
    let content = store.content();
    let digest = wait(content.put("bytes".into())).unwrap();
    let stat = wait(content.stat(&digest)).unwrap().unwrap();
    let part = format!("/etags/store/uploads/{:020}.00000000", stat.version.0);
    for (bytes, unchanged) in [("BYTES", false), ("bytes", true), ("byte", false)] {
        let response = testkit::s3::send(host, "PUT", &part, bytes);
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
        let found = wait(content.is_unchanged(&stat)).unwrap();
        assert_eq!(found, unchanged, "{bytes}");
    }
}

/// A kill between the two requests of a deletion leaves the object of the deleted cell.
#[test]
fn objects_of_deleted_cells_are_removed_unless_they_are_new_or_replaced() {
    let Some(host) = testkit::s3::service() else {
        eprintln!("SKIPPED: no moto in target/moto; `cargo xtask setup` installs it");
        return;
    };
    testkit::s3::make_bucket(host, "deleted");
    let location = format!("s3://deleted/store?endpoint=http://{host}");
    let store = wait(RemoteStore::open_s3(&location.parse().unwrap())).unwrap();
    let ask = |method: &str, object: &str| {
        testkit::s3::ask(host, method, &format!("/deleted/store/{object}"))
    };
    let format = ask("GET", "format");
    if !format.contains("\"conditional_deletion\": true") {
        eprintln!("SKIPPED: the service has no conditional deletes");
        return;
    }
    let content = store.content();
    let kept = wait(content.put("kept".into())).unwrap();
    let nonce = "0123456789abcdef".repeat(2);
    let deleted = format!("{nonce} -\n\n{nonce}");
    // A cell with a value of this length is not a deleted one.
    let short = format!("{nonce} +\n\n{nonce}");
    let blob = format!("blobs/sha256/{}", Digest::sha256(b"gone").hex());
    for (object, body) in [
        (&*blob, &deleted),
        ("records/images/gone", &deleted),
        ("records/notes/short", &short),
    ] {
        let path = format!("/deleted/store/{object}");
        let response = testkit::s3::send(host, "PUT", &path, body);
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    }
    let now = SystemTime::now();
    let (before, after) = (now - UNLEASED_TTL, now + UNLEASED_TTL);
    assert_eq!(wait(content.leftovers(before, true)).unwrap(), [0; 0]);
    for remove in [false, true] {
        assert_eq!(wait(content.leftovers(after, remove)).unwrap(), [68, 68]);
    }
    assert_eq!(wait(content.leftovers(after, true)).unwrap(), [0; 0]);
    for (object, status) in [
        (&*blob, "404"),
        ("records/images/gone", "404"),
        ("records/notes/short", "200"),
    ] {
        let response = ask("GET", object);
        assert!(
            response.starts_with(&format!("HTTP/1.1 {status}")),
            "{response}"
        );
    }
    assert_eq!(wait(content.hash(&kept)).unwrap(), Some(kept));
}

#[test]
fn an_examination_creates_no_store() {
    let Some(host) = testkit::s3::service() else {
        eprintln!("SKIPPED: no moto in target/moto; `cargo xtask setup` installs it");
        return;
    };
    testkit::s3::make_bucket(host, "examined");
    let location = format!("s3://examined/store?endpoint=http://{host}")
        .parse()
        .unwrap();
    let format = || testkit::s3::ask(host, "GET", "/examined/store/format");
    for repair in [false, true] {
        assert_eq!(wait(S3Opener.examine(&location, repair)).unwrap(), []);
        assert!(format().starts_with("HTTP/1.1 404"), "{repair}");
    }
    wait(S3Opener.open(&location)).unwrap();
    assert!(format().starts_with("HTTP/1.1 200"));
    assert_eq!(wait(S3Opener.examine(&location, true)).unwrap(), []);
}

/// A repair must not make a store of the objects of another program, because a check would then
/// remove these objects as damaged.
#[test]
fn only_cells_are_taken_for_a_store_that_has_lost_its_format() {
    let Some(host) = testkit::s3::service() else {
        eprintln!("SKIPPED: no moto in target/moto; `cargo xtask setup` installs it");
        return;
    };
    testkit::s3::make_bucket(host, "lost");
    let location = format!("s3://lost/store?endpoint=http://{host}");
    let location = location.parse().unwrap();
    let ask = |method: &str, object: &str| {
        let path = format!("/lost/store/{object}");
        testkit::s3::ask(host, method, &path)
    };
    let put = |object: &str, body: &str| {
        let response = testkit::s3::send(host, "PUT", &format!("/lost/store/{object}"), body);
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    };
    let blob = format!("blobs/sha256/{}", Digest::sha256(b"layer").hex());
    for format in [None, Some("of another program")] {
        put(&blob, "layer");
        if let Some(format) = format {
            put("format", format);
        }
        for repair in [false, true] {
            let refused = wait(S3Opener.examine(&location, repair)).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::FailedPrecondition, "{refused}");
        }
        let refused = wait(S3Opener.open(&location)).err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::FailedPrecondition, "{refused}");
        assert!(ask("GET", &blob).ends_with("layer"));
        let found = ask("GET", "format");
        match format {
            Some(format) => assert!(found.ends_with(format), "{found}"),
            None => assert!(found.starts_with("HTTP/1.1 404"), "{found}"),
        }
        for object in ["format", &blob] {
            ask("DELETE", object);
        }
    }
    let content = wait(S3Opener.open(&location)).unwrap().content;
    let digest = wait(content.put("bytes".into())).unwrap();
    drop(content);
    ask("DELETE", "format");
    let damaged = wait(S3Opener.open(&location)).err().unwrap();
    assert_eq!(damaged.kind(), ErrorKind::Corrupt, "{damaged}");
    assert!(damaged.to_string().contains("fsck --repair"), "{damaged}");
    let found = wait(S3Opener.examine(&location, true)).unwrap();
    let repaired: Vec<bool> = found.iter().map(|finding| finding.repaired).collect();
    assert_eq!(repaired, [true], "{found:?}");
    let content = wait(S3Opener.open(&location)).unwrap().content;
    assert_eq!(wait(content.hash(&digest)).unwrap(), Some(digest));
}
