//! How the store handles services that fail, ignore conditions or lose a bucket.
#![cfg(feature = "s3")]
#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

use backend_remote::{RemoteStore, S3Opener, SERVICE};
use bytes::Bytes;
use cas_core::content::{Durability, Expected, Writer};
use cas_core::pool::wait;
use cas_core::records::{Batch, Expect, Record, Table};
use cas_core::{ContentExt, ContentStore, ErrorKind, Opener, Records, Result};
use testkit::s3::proxy::{self, Fault};
use testkit::s3::{BUCKET, ask, send, service};

fn open(host: &str, path: &str, options: &str) -> Result<RemoteStore> {
    let location = format!("s3://{path}?endpoint=http://{host}{options}");
    wait(RemoteStore::open_s3(&location.parse()?))
}

fn put(records: &dyn Records, key: &str, expect: Expect, value: &'static str) -> Result<()> {
    let mut batch = Batch::new();
    batch.put(Table::Images, key, expect, value.into());
    wait(records.commit(&batch))
}

fn load(records: &dyn Records, key: &str) -> Record {
    wait(records.load(Table::Images, key)).unwrap().unwrap()
}

/// Returns the names of the objects below a prefix of a bucket.
fn keys(host: &str, bucket: &str, prefix: &str) -> Vec<String> {
    let listed = ask(
        host,
        "GET",
        &format!("/{bucket}?list-type=2&prefix={prefix}"),
    );
    let names = listed.split("<Key>").skip(1);
    names
        .map(|rest| rest.split('<').next().unwrap().to_owned())
        .collect()
}

/// Tests a store that one process uses, and a store that several processes share.
#[test]
fn an_older_format_is_upgraded_and_a_newer_one_refused() {
    let Some(host) = service() else { return };
    for (path, options) in [
        ("laws/upgraded", ""),
        ("laws/upgraded-alone", "&single=true"),
    ] {
        drop(open(host, path, options).unwrap());
        let object = format!("/{path}/format");
        let format = || {
            let response = ask(host, "GET", &object);
            response.split_once("\r\n\r\n").unwrap().1.to_owned()
        };
        let made = format();
        let write = |version: &str| {
            assert!(made.contains(r#""version": 2"#), "{made}");
            let body = made.replace(r#""version": 2"#, version);
            let response = send(host, "PUT", &object, &body);
            assert!(response.starts_with("HTTP/1.1 200"), "{response}");
        };
        write(r#""version": 1"#);
        drop(open(host, path, options).unwrap());
        assert_eq!(format(), made);
        write(r#""version": 3"#);
        let refused = open(host, path, options).err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::FailedPrecondition, "{refused}");
        assert!(refused.to_string().contains("newer version"), "{refused}");
    }
}

/// A service without atomic conditions is refused. The error describes what was observed.
#[test]
fn a_service_without_atomic_conditions_is_refused() {
    let Some(host) = service() else { return };
    for (fault, path, observed) in [
        (
            Fault::IgnoresConditions,
            "laws/ignored",
            "If-None-Match is ignored",
        ),
        (
            Fault::ChecksThenWrites,
            "laws/racy",
            "not evaluated atomically",
        ),
    ] {
        let bad = proxy::start(fault, host);
        let refused = open(&bad, path, "").err().unwrap();
        let shown = refused.to_string();
        assert_eq!(refused.kind(), ErrorKind::FailedPrecondition, "{shown}");
        assert!(
            shown.contains(observed) && shown.contains("single=true"),
            "{shown}"
        );
        let left = keys(host, BUCKET, path.trim_start_matches("laws/"));
        assert_eq!(left, [""; 0], "objects left by the probe");
    }
}

/// With `single=true`, locks in the process make a swap atomic, so the service need not.
#[test]
fn a_single_owner_needs_no_conditions() {
    let Some(host) = service() else { return };
    let bad = proxy::start(Fault::IgnoresConditions, host);
    let store = open(&bad, "laws/single", "&single=true").unwrap();
    assert!(!ContentStore::capabilities(&store).has(cas_core::Capability::Shared));
    put(&store, "k", Expect::Absent, "one").unwrap();
    let late = put(&store, "k", Expect::Absent, "two").unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Conflict);
    let digest = wait(store.put(Bytes::from_static(b"blob"))).unwrap();
    drop(store);
    let again = open(&bad, "laws/single", "&single=true").unwrap();
    assert!(wait(again.stat(&digest)).unwrap().is_some());
    // A store created without a probe is probed before it is shared.
    let shared = open(&bad, "laws/single", "").err().unwrap();
    assert_eq!(shared.kind(), ErrorKind::FailedPrecondition);
    // On a good service, a store created by a single owner can be shared later.
    let shared = open(host, "laws/single", "").unwrap();
    assert_eq!(load(&shared, "k").value, "one");
}

/// Without conditional deletes the object of a deleted cell stays, and counts as absent.
#[test]
fn a_tombstone_counts_as_absent() {
    let Some(host) = service() else { return };
    let bad = proxy::start(Fault::IgnoresDeleteConditions, host);
    let store = open(&bad, "laws/tombstones", "").unwrap();
    let data = Bytes::from_static(b"blob");
    let digest = wait(store.put(data.clone())).unwrap();
    let seen = wait(store.stat(&digest)).unwrap().unwrap();
    put(&store, "k", Expect::Absent, "one").unwrap();
    let old = load(&store, "k").revision;
    for _ in 0..2 {
        let mut batch = Batch::new();
        batch.delete(Table::Images, "k", Expect::Any);
        wait(store.commit(&batch)).unwrap();
        wait(store.remove(&digest)).unwrap();
    }
    let tombstones = [
        "tombstones/records/images/k",
        &format!("tombstones/blobs/sha256/{}", digest.hex()),
    ];
    for path in tombstones {
        assert_eq!(keys(host, BUCKET, path), [path]);
    }
    assert_eq!(keys(host, BUCKET, "tombstones/uploads/"), [""; 0]);
    assert_eq!(wait(store.scan(Table::Images, "", None, 9)).unwrap(), []);
    assert_eq!(wait(store.list(None, 9)).unwrap(), []);
    put(&store, "k", Expect::Absent, "two").unwrap();
    let late = put(&store, "k", Expect::Revision(old), "three").unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Conflict);
    wait(store.put(data)).unwrap();
    let late = wait(store.remove_version(&digest, seen.version));
    assert!(!late.unwrap(), "removed a newer version");
    assert!(wait(store.stat(&digest)).unwrap().is_some());
}

/// The reply to a write is lost and the client retries. The retry must not count as a lost race.
#[test]
fn a_lost_reply_is_not_a_conflict() {
    let Some(host) = service() else { return };
    let bad = proxy::start(Fault::LosesFirstReply, host);
    let store = open(&bad, "laws/lost-reply", "").unwrap();
    put(&store, "k", Expect::Absent, "one").unwrap();
    let seen = load(&store, "k");
    put(&store, "k", Expect::Revision(seen.revision.clone()), "two").unwrap();
    let late = put(&store, "k", Expect::Revision(seen.revision), "three").unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Conflict);
    assert_eq!(load(&store, "k").value, "two");
}

/// A failed publish may still have taken effect. Its parts must stay, so that the blob is whole.
#[test]
fn a_publish_without_a_reply_leaves_a_whole_blob() {
    let Some(host) = service() else { return };
    let bad = proxy::start(Fault::NeverRepliesToPublish, host);
    let store = open(&bad, "laws/no-reply", "").unwrap();
    let data = Bytes::from_static(b"blob");
    let failed = wait(store.put(data.clone())).unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Unavailable, "{failed:?}");
    assert_eq!(wait(store.ingests()).unwrap(), []);
    let listed = wait(store.list(None, 9)).unwrap();
    let reader = wait(store.open(&listed[0].digest)).unwrap().unwrap();
    assert_eq!(wait(reader.read_at(0, 9)).unwrap(), data);
}

/// Every call reports the missing bucket, and not a missing blob.
#[test]
fn a_deleted_bucket_is_reported() {
    let Some(host) = service() else { return };
    testkit::s3::make_bucket(host, "brief");
    let store = open(host, "brief", "").unwrap();
    let digest = wait(store.put(Bytes::from_static(b"blob"))).unwrap();
    for key in keys(host, "brief", "") {
        ask(host, "DELETE", &format!("/brief/{key}"));
    }
    assert!(ask(host, "DELETE", "/brief").starts_with("HTTP/1.1 204"));
    let errors = [
        wait(store.stat(&digest)).err(),
        wait(store.list(None, 10)).err(),
        wait(store.put(Bytes::from_static(b"other"))).err(),
        put(&store, "k", Expect::Any, "v").err(),
    ];
    for error in errors.map(Option::unwrap) {
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error:?}");
        assert!(
            error.to_string().contains("bucket does not exist"),
            "{error}"
        );
    }
    let location = format!("s3://brief?endpoint=http://{host}");
    for error in [
        open(host, "brief", "").err().unwrap(),
        wait(S3Opener.examine(&location.parse().unwrap(), true)).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
        let said = error.to_string();
        assert!(said.contains("bucket does not exist"), "{said}");
        assert!(said.contains("s3://brief"), "{said}");
    }
}

/// A prefix that contains other objects does not become a store.
#[test]
fn a_foreign_prefix_is_refused() {
    let Some(host) = service() else { return };
    ask(host, "PUT", "/laws/foreign/photo.jpg");
    let refused = open(host, "laws/foreign", "").err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::FailedPrecondition);
    assert!(refused.to_string().contains("photo.jpg"), "{refused}");
}

/// After a lost race, a discard or a removal, the parts are deleted.
#[test]
fn no_parts_are_left_behind() {
    let Some(host) = service() else { return };
    let stores = [0, 1].map(|_| open(host, "laws/parts", "").unwrap());
    let data = Bytes::from(vec![7; 17 << 20]);
    let write = |store: &RemoteStore| {
        let (store, data) = (store.clone(), data.clone());
        std::thread::spawn(move || {
            let mut writer = wait(Writer::begin(&store, "layer", Expected::ANY))?;
            wait(writer.write(data))?;
            wait(writer.commit(&Batch::new(), Durability::Full))
        })
    };
    let racers = stores.each_ref().map(write);
    let digests = racers.map(|racer| racer.join().unwrap().unwrap().digest);
    assert_eq!(digests[0], digests[1]);
    let uploads = || keys(host, BUCKET, "parts/uploads/").len();
    assert_eq!(uploads(), 3, "one upload of 17 MiB");
    let store = &stores[0];
    let mut ingest = wait(store.begin("other")).unwrap();
    wait(ingest.append(data.clone())).unwrap();
    drop(ingest);
    assert!(wait(store.discard("other")).unwrap());
    assert_eq!(uploads(), 3, "after a discarded ingest");
    assert!(wait(store.remove(&digests[0])).unwrap());
    assert_eq!(uploads(), 0, "after the removal");
}

/// If another program deleted the parts of a blob, storing the blob again uploads them again.
#[test]
fn a_blob_without_its_parts_is_stored_again() {
    let Some(host) = service() else { return };
    let store = open(host, "laws/damaged", "").unwrap();
    let data = Bytes::from_static(b"blob");
    let digest = wait(store.put(data.clone())).unwrap();
    for key in keys(host, BUCKET, "damaged/uploads/") {
        ask(host, "DELETE", &format!("/laws/{key}"));
    }
    let reader = wait(store.open(&digest)).unwrap().unwrap();
    let missing = wait(reader.read_at(0, 4)).unwrap_err();
    assert!(missing.to_string().contains(&digest.hex()), "{missing}");
    let mut writer = wait(Writer::begin(&store, "again", Expected::ANY)).unwrap();
    wait(writer.write(data.clone())).unwrap();
    wait(writer.commit(&Batch::new(), Durability::Full)).unwrap();
    let reader = wait(store.open(&digest)).unwrap().unwrap();
    assert_eq!(wait(reader.read_at(0, 9)).unwrap(), data);
}

/// A list that takes several pages is complete.
#[test]
fn a_list_has_all_pages() {
    let Some(host) = service() else { return };
    let paged = proxy::start(Fault::ListsSmallPages, host);
    let store = open(&paged, "laws/pages", "&single=true").unwrap();
    let keys = ["a", "b", "c", "d", "e"];
    for key in keys {
        put(&store, key, Expect::Absent, "v").unwrap();
        wait(store.put(key.into())).unwrap();
    }
    let found = wait(store.scan(Table::Images, "", None, 9)).unwrap();
    let found: Vec<&str> = found.iter().map(|record| record.key.as_str()).collect();
    assert_eq!(found, keys);
    let listed = wait(store.list(None, 9)).unwrap();
    assert_eq!(listed.len(), keys.len());
    assert!(listed.is_sorted_by_key(|stat| stat.digest));
}

#[test]
fn a_list_that_does_not_end_is_given_up() {
    let Some(host) = service() else { return };
    drop(open(host, "laws/endless", "&single=true").unwrap());
    for (fault, observed) in [
        (
            Fault::ListsForever,
            "lists \"blobs/0\" after \"blobs/0\", expected names in byte order",
        ),
        (
            Fault::ListsElsewhere,
            "outside of the location of the store",
        ),
        (Fault::ListsEmptyPages, "1000 pages in a row have no object"),
    ] {
        let endless = proxy::start(fault, host);
        let store = open(&endless, "laws/endless", "&single=true").unwrap();
        let error = wait(store.list(None, 9)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains(observed), "{error}");
    }
}

/// The messages are short, although the answers are long.
#[test]
fn a_refusal_is_told_in_plain_words() {
    let Some(host) = service() else { return };
    for (status, kind, backend, observed) in [
        (
            403,
            ErrorKind::Denied,
            Some(SERVICE),
            "mmm (Refused); check credentials",
        ),
        (404, ErrorKind::NotFound, None, "bucket does not exist"),
        (
            400,
            ErrorKind::Unavailable,
            None,
            "mmm (Refused); try again later",
        ),
        (301, ErrorKind::InvalidArgument, None, "redirects"),
    ] {
        let refusing = proxy::start(Fault::Refuses(status), host);
        let error = open(&refusing, "laws/refused", "").err().unwrap();
        let shown = error.to_string();
        assert_eq!(error.kind(), kind, "{shown}");
        assert_eq!(error.answered_by(), backend, "{shown}");
        assert!(shown.contains(observed), "{shown}");
        assert!(shown.len() < 400, "{shown}");
    }
}
