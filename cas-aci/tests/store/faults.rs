//! Kills, faults and dropped futures at every step.

use std::future::Future;
use std::io::{Cursor, Read};
use std::pin::pin;
use std::sync::mpsc::{Receiver, channel};
use std::task::{Context, Waker};
use std::time::SystemTime;

use cas_core::pool::wait;
use cas_core::records::UNLEASED_TTL;
use cas_core::testing::fault::{Fault, Plan, Side, faulty};
use cas_core::{ErrorKind, Store};

use super::common::*;

/// Runs `job` again and again: each time, the next of its changes fails. Ends when every change
/// has failed once.
fn with_every_fault(store: impl Fn() -> Store, job: impl Fn(&Store, &Store) -> bool) {
    for side in [Side::Before, Side::After] {
        for nth in 1.. {
            let (store, plan) = (store(), Plan::new());
            let kind = ErrorKind::Unavailable;
            plan.fail_nth(nth, Fault { kind, side });
            let done = job(&store, &faulty(&store, &plan));
            if plan.end().is_empty() && done {
                break;
            }
            assert!(nth < 100);
        }
    }
}

/// Checks that each ACI that is listed can be read, and that nothing else is left after a sweep
/// and a collection.
fn assert_whole(store: &Store) {
    let acis = open(store);
    wait(acis.sweep(SystemTime::now() + 2 * UNLEASED_TTL)).unwrap();
    collect_later(store);
    let infos = wait(acis.get_all_aci_infos(&[], true)).unwrap();
    for info in &infos {
        read(&acis, &info.key.half());
        wait(acis.get_image_manifest(&info.key.half())).unwrap();
        assert_eq!(wait(acis.resolve_name(&info.name)).unwrap(), [info.key]);
    }
    assert_eq!(blobs(store), 2 * infos.len());
    assert_eq!(wait(store.leases().list()).unwrap().len(), infos.len());
    assert!(wait(store.content.ingests()).unwrap().is_empty());
}

#[test]
fn a_failure_at_any_change_of_an_import_leaves_a_whole_store() {
    for new in [memory, strict] {
        with_every_fault(new, |store, failing| {
            let acis = open(store);
            write(&acis, &aci(&manifest("a", "")));
            let acis = open(failing);
            // An ACI that is new, and an ACI that is imported again.
            let archives = [manifest("b", ""), manifest("a", "")].map(|text| aci(&text));
            let mut done = true;
            for archive in archives {
                done &= wait(acis.write_aci(Cursor::new(archive))).is_ok();
            }
            assert_whole(store);
            assert_eq!(wait(open(store).resolve_name("a")).unwrap().len(), 1);
            done
        });
    }
}

#[test]
fn a_failure_at_any_change_of_a_removal_leaves_a_whole_store() {
    for new in [memory, strict] {
        with_every_fault(new, |store, failing| {
            let key = write(&open(store), &aci(&manifest("a", "")));
            write(&open(store), &aci(&manifest("b", "")));
            let removed = wait(open(failing).remove_aci(&key.half()));
            assert_whole(store);
            assert_eq!(wait(open(store).resolve_name("b")).unwrap().len(), 1);
            removed.is_ok()
        });
    }
}

/// A source that reports each read, and waits before it returns a byte until the test lets it go
/// on.
struct Gate(Receiver<()>, std::sync::mpsc::Sender<()>, Cursor<Vec<u8>>);

impl Read for Gate {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let _ = self.1.send(());
        let _ = self.0.recv();
        let amount = out.len().min(1);
        self.2.read(&mut out[..amount])
    }
}

#[test]
fn a_dropped_import_leaves_nothing() {
    let store = memory();
    let acis = open(&store);
    let ((open_gate, gate), (reached, is_read)) = (channel(), channel());
    let source = Gate(gate, reached, Cursor::new(aci(&manifest("a", ""))));
    {
        let mut import = pin!(acis.write_aci(source));
        let mut context = Context::from_waker(Waker::noop());
        assert!(import.as_mut().poll(&mut context).is_pending());
        is_read.recv().unwrap();
    }
    drop(open_gate);
    wait_until_jobs_end(&store);
    assert!(wait(store.leases().list()).unwrap().is_empty());
    assert!(wait(acis.get_all_aci_infos(&[], true)).unwrap().is_empty());
    assert_eq!(blobs(&store), 0);
}

#[test]
fn eight_imports_of_one_aci_make_one() {
    for store in [memory(), strict()] {
        let archive = aci(&manifest("a", ""));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| write(&open(&store), &archive));
            }
        });
        assert_eq!(wait(open(&store).resolve_name("a")).unwrap().len(), 1);
        assert_whole(&store);
    }
}
