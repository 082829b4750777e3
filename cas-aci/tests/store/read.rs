//! Reading, and when an ACI was used last.

use std::io::Read;
use std::time::SystemTime;

use cas_aci::{SortField, WriteOptions};
use cas_core::pool::wait;
use cas_core::records::{Batch, Table};
use cas_core::testing::fault::{Fault, Plan, Side, faulty};
use cas_core::{ContentExt, ErrorKind};

use super::common::*;

const OLD: SystemTime = SystemTime::UNIX_EPOCH;

fn old() -> WriteOptions {
    WriteOptions::default().with_import_time(OLD)
}

#[test]
fn a_read_is_noted_in_memory_and_written_later() {
    on_every_store(|store| {
        let acis = open(&store);
        let key = write_with(&acis, &aci(&manifest("a", "")), old());
        let blob = wait(acis.get_aci_info(&key.half())).unwrap().blob.digest;
        let records = |table| wait(store.records.scan(table, "", None, 100)).unwrap();
        let before = (records(Table::Notes), records(Table::Blobs));
        let now = SystemTime::now();
        read(&acis, &key.half());
        // No record has changed, so only this handle has the time of the read.
        assert_eq!((records(Table::Notes), records(Table::Blobs)), before);
        let used = || wait(acis.get_aci_info(&key.half())).unwrap().last_used;
        assert!(used() >= now);
        let newest = wait(acis.get_all_aci_infos(&[SortField::LastUsed], false)).unwrap();
        assert!(newest[0].last_used >= now);
        let other = open(&store);
        assert_eq!(
            wait(other.get_aci_info(&key.half())).unwrap().last_used,
            OLD
        );
        wait(acis.flush()).unwrap();
        assert_eq!(
            wait(other.get_aci_info(&key.half())).unwrap().last_used,
            used()
        );
        assert_eq!(records(Table::Blobs), before.1);
        assert!(store_has(&store, &blob));
    });
}

fn store_has(store: &cas_core::Store, blob: &cas_core::Digest) -> bool {
    wait(store.content.stat(blob)).unwrap().is_some()
}

#[test]
fn closing_and_changes_write_what_is_noted() {
    let store = memory();
    let acis = open(&store);
    let key = write_with(&acis, &aci(&manifest("a", "")), old());
    read(&acis, &key.half());
    write_with(&acis, &aci(&manifest("b", "")), old());
    let seen = |name: &str| {
        let other = open(&store);
        wait(other.catalogue().get_aci_infos_with_name(name)).unwrap()[0].last_used
    };
    assert!(seen("a") > OLD);
    let other = wait(acis.get_aci("b", &[])).unwrap();
    read(&acis, &other.half());
    assert_eq!(seen("b"), OLD);
    wait(acis.close()).unwrap();
    assert!(seen("b") > OLD);
}

#[test]
fn many_reads_are_few_writes() {
    let (store, plan) = (memory(), Plan::new());
    let key = write_with(&open(&store), &aci(&manifest("a", "")), old());
    let acis = open(&faulty(&store, &plan));
    // Every call that changes something would fail.
    plan.fail_some(1, 1, fault(ErrorKind::Unavailable));
    for _ in 0..100 {
        read(&acis, &key.half());
    }
    assert!(plan.end().is_empty());
    wait(acis.flush()).unwrap();
}

#[test]
fn a_read_only_or_full_store_is_read_and_nothing_is_lost() {
    for kind in [ErrorKind::Denied, ErrorKind::Full] {
        let (store, plan) = (memory(), Plan::new());
        let archive = aci(&manifest("a", ""));
        let key = write_with(&open(&store), &archive, old());
        plan.fail_some(1, 1, fault(kind));
        let acis = open(&faulty(&store, &plan));
        assert_eq!(read(&acis, &key.half()), archive);
        wait(acis.flush()).unwrap();
        let error = wait(acis.write_aci(std::io::empty())).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        plan.end();
        // Once the store can be written again, the time of the read is written.
        wait(acis.close()).unwrap();
        assert!(
            wait(open(&store).get_aci_info(&key.half()))
                .unwrap()
                .last_used
                > OLD
        );
    }
}

#[test]
fn an_empty_read_only_store_has_no_acis() {
    let plan = Plan::new();
    plan.fail_some(1, 1, fault(ErrorKind::Denied));
    let acis = open(&faulty(&memory(), &plan));
    assert!(wait(acis.get_all_aci_infos(&[], true)).unwrap().is_empty());
}

fn fault(kind: ErrorKind) -> Fault {
    let side = Side::Before;
    Fault { kind, side }
}

#[test]
fn damaged_bytes_are_not_passed_off_as_the_aci() {
    let store = memory();
    let acis = open(&store);
    let archive = aci(&manifest("a", ""));
    let key = write(&acis, &archive);
    let other = write(&acis, &aci(&manifest("b", "")));
    let mut info = wait(acis.get_aci_info(&key.half())).unwrap();
    let foreign = wait(acis.get_aci_info(&other.half())).unwrap();
    info.blob = foreign.blob;
    let mut batch = Batch::new();
    acis.catalogue().write_aci_info(&mut batch, &info).unwrap();
    wait(acis.catalogue().commit(&batch)).unwrap();
    let mut reader = wait(acis.read_stream(&key.half())).unwrap();
    let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
    let error = cas_core::Error::from(error);
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("import it again"), "{error}");
    let again = reader.read(&mut [0]).unwrap_err();
    assert_eq!(cas_core::Error::from(again).kind(), ErrorKind::Corrupt);
}

#[test]
fn an_aci_whose_blob_is_gone_says_so_and_may_be_imported_again() {
    let store = memory();
    let acis = open(&store);
    let archive = aci(&manifest("a", ""));
    let key = write(&acis, &archive);
    let info = wait(acis.get_aci_info(&key.half())).unwrap();
    wait(store.content.remove(&info.blob.digest)).unwrap();
    let error = wait(acis.read_stream(&key.half())).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        error.to_string().contains("import the ACI again"),
        "{error}"
    );
    write(&acis, &archive);
    assert_eq!(read(&acis, &key.half()), archive);
}
