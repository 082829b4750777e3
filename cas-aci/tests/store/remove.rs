//! Removing, and sweeping.

use std::error;
use std::time::{Duration, SystemTime};

use cas_aci::{AciInfo, Remote, StoreRemovalError, WriteOptions};
use cas_core::pool::wait;
use cas_core::records::{Batch, Expect, Lease, Resource, Table, UNLEASED_TTL};
use cas_core::testing::fault::{Fault, Plan, Side, faulty_content};
use cas_core::{Digest, ErrorKind};

use super::common::*;

#[test]
fn a_removed_aci_leaves_nothing() {
    on_every_store(|store| {
        let acis = open(&store);
        let key = write(&acis, &aci(&manifest("a", "")));
        let kept = write(&acis, &aci(&manifest("b", "")));
        for (url, key) in [("https://host/a", key), ("https://host/b", kept)] {
            let mut remote = Remote::new(url, "");
            remote.key = Some(key);
            wait(acis.write_remote(&remote)).unwrap();
        }
        wait(acis.remove_aci(&key.half())).unwrap();
        assert!(!wait(acis.has_full_key(&key.half())).unwrap());
        assert!(wait(acis.resolve_name("a")).unwrap().is_empty());
        let remotes = wait(acis.get_all_remotes()).unwrap();
        assert_eq!(remotes.len(), 1);
        assert_eq!(remotes[0].key, Some(kept));
        assert_eq!(blobs(&store), 2);
        assert_eq!(wait(store.leases().list()).unwrap().len(), 1);
        let error = wait(acis.remove_aci(&key.half())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        wait(acis.remove_aci(&kept.half())).unwrap();
        assert_eq!(blobs(&store), 0);
        let notes = wait(store.records.scan(Table::Notes, "", None, 10)).unwrap();
        assert_eq!(notes.len(), 1, "only the number of the format");
    });
}

#[test]
fn a_manifest_that_two_acis_share_stays_for_the_other() {
    let store = memory();
    let acis = open(&store);
    let text = manifest("a", "");
    let one = write(&acis, &aci(&text));
    let tar = testkit::archive::Tar::new()
        .file("manifest", &text)
        .dir("rootfs");
    let other = write(&acis, &tar.end());
    assert_eq!(blobs(&store), 3);
    wait(acis.remove_aci(&one.half())).unwrap();
    assert_eq!(blobs(&store), 2);
    assert_eq!(
        wait(acis.get_image_manifest_json(&other.half())).unwrap(),
        text
    );
}

#[test]
fn what_a_removal_leaves_is_reported_and_collected() {
    let (store, plan) = (memory(), Plan::new());
    let mut failing = store.clone();
    failing.content = faulty_content(store.content.clone(), &plan);
    let acis = open(&failing);
    let key = write(&acis, &aci(&manifest("a", "")));
    let info = wait(acis.get_aci_info(&key.half())).unwrap();
    let (kind, side) = (ErrorKind::Unavailable, Side::Before);
    plan.fail_some(1, 1, Fault { kind, side });
    let error = wait(acis.remove_aci(&key.half())).unwrap_err();
    assert!(!plan.end().is_empty());
    assert_eq!(error.kind(), kind);
    let left = error::Error::source(&error)
        .unwrap()
        .downcast_ref::<StoreRemovalError>()
        .unwrap();
    let digests: Vec<&Digest> = left.left.iter().map(|(digest, _)| digest).collect();
    assert_eq!(digests, [&info.blob.digest, &info.manifest.digest]);
    assert!(left.to_string().contains(&info.blob.digest.to_string()));
    assert!(!wait(acis.has_full_key(&key.half())).unwrap());
    assert_eq!(collect_later(&store).blobs.len(), 2);
    assert_eq!(blobs(&store), 0);
}

#[test]
fn what_was_not_read_for_long_is_removed_and_the_rest_stays() {
    on_every_store(|store| {
        let acis = open(&store);
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let keys = [3, 1, 2].map(|seconds| {
            let options = WriteOptions::default().with_import_time(at(seconds));
            write_with(&acis, &aci(&manifest(&format!("a{seconds}"), "")), options)
        });
        let names = |infos: Vec<AciInfo>| -> Vec<String> {
            infos.into_iter().map(|info| info.name).collect()
        };
        assert_eq!(names(wait(acis.unused(at(3))).unwrap()), ["a1", "a2"]);
        // A read whose time this handle still has only in memory counts, too.
        read(&acis, &keys[2].half());
        assert_eq!(names(wait(acis.remove_unused(at(3))).unwrap()), ["a1"]);
        assert!(wait(acis.remove_unused(at(3))).unwrap().is_empty());
        assert_eq!(wait(acis.get_all_aci_infos(&[], true)).unwrap().len(), 2);
        assert_eq!(wait(store.leases().list()).unwrap().len(), 2);
        assert_eq!(collect_later(&store).blobs.len(), 2);
        assert_eq!(blobs(&store), 4);
    });
}

#[test]
fn a_sweep_removes_what_kills_left_and_completes_what_is_there() {
    let store = memory();
    let acis = open(&store);
    let key = write(&acis, &aci(&manifest("a", "")));
    let other = key_of(b"other");
    // One import was killed after it wrote its lease, and another after the entry of a name.
    let mut lease = Lease::new("aci", None);
    lease
        .resources
        .insert(Resource::Content(Digest::sha256(b"x")));
    wait(store.leases().create("aci-orphan", &lease)).unwrap();
    wait(store.leases().create("foreign", &Lease::new("other", None))).unwrap();
    let entry = |name: &str, key: &cas_aci::Key| format!("aci/name/{name}:{}", key.hex());
    let mut batch = Batch::new();
    batch.put(Table::Notes, entry("b", &other), Expect::Absent, "".into());
    // A third import was killed before it wrote the entry of its name.
    batch.delete(Table::Notes, entry("a", &key), Expect::Any);
    wait(store.records.commit(&batch)).unwrap();
    assert!(wait(acis.resolve_name("b")).unwrap().is_empty());
    let now = SystemTime::now();
    let swept = wait(acis.sweep(now)).unwrap();
    assert_eq!(swept.names, [("b".to_owned(), other)]);
    assert!(swept.leases.is_empty(), "its writer may be at work");
    assert_eq!(wait(acis.resolve_name("a")).unwrap(), [key]);
    let swept = wait(acis.sweep(now + 2 * UNLEASED_TTL)).unwrap();
    assert_eq!(swept.leases, ["aci-orphan"]);
    let left = wait(store.leases().list()).unwrap();
    assert_eq!(left.len(), 2);
    assert!(wait(acis.sweep(now)).unwrap().names.is_empty());
    assert!(collect_later(&store).blobs.is_empty());
}
