//! Killed at every system call that changes the disk, and failed at every sync: what was
//! acknowledged is there, what was not is absent or right, and the store opens.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::path::Path;
use std::process::Output;

use backend_fs::FsStore;
use cas_core::content::Durability;
use cas_core::{ContentExt, Descriptor, Digest, Kind, MediaType, pool::wait};
use support::{acknowledged, command, installed, name, run_task, target};

#[test]
fn task() {
    run_task();
}

/// Runs the whole task with `fault` injected by strace; its output and the trace.
fn injected(call: &str, fault: &str, path: &Path) -> (Output, String) {
    let trace = path.with_extension("trace");
    let before = [
        "strace",
        "-f",
        "-qq",
        "-o",
        trace.to_str().unwrap(),
        "-e",
        &format!("trace={call},write"),
        "-e",
        &format!("inject={call}:{fault}"),
    ];
    let output = command(&before, "all", path).output().unwrap();
    (output, std::fs::read_to_string(&trace).unwrap())
}

/// Opens the store and checks all of it against what was acknowledged.
fn check(path: &Path, acknowledged: &[String], context: &str) {
    let store = FsStore::open(path).expect(context).store();
    wait(async {
        for stat in store.content.list(None, 100).await.unwrap() {
            let descriptor = Descriptor::new(MediaType::OCI_LAYER, stat.digest, stat.size);
            let data = store.content.fetch(&descriptor).await.expect(context);
            assert_eq!(Digest::sha256(&data), stat.digest, "{context}");
        }
        for image in store.images.list(&[]).await.expect(context) {
            let there = store.content.stat(&image.target.digest).await.unwrap();
            assert!(there.is_some(), "{context}: a name of nothing");
        }
        for step in acknowledged.iter().filter(|step| *step != "open") {
            let target = target(step);
            assert!(
                store.present(&target).await.unwrap(),
                "{context}: {step} is gone"
            );
            let record = store.blobs().load(&target.digest).await.unwrap();
            assert!(record.is_some(), "{context}: the record of {step} is gone");
            let image = store.images.get(&name(step)).await.unwrap();
            assert_eq!(image.expect(context).target, target, "{context}");
        }
    });
}

/// A process that is killed loses nothing that the kernel has, and faults are injected before it
/// is asked, so that no disk need be waited for.
fn in_memory() -> tempfile::TempDir {
    let memory = tempfile::tempdir_in("/dev/shm");
    memory.or_else(|_| tempfile::tempdir()).unwrap()
}

#[test]
fn a_kill_at_any_call_loses_nothing_that_was_acknowledged() {
    if !installed("strace") {
        return;
    }
    let temp = in_memory();
    for call in [
        "fsync",
        "fdatasync",
        "renameat",
        "renameat2",
        "mkdirat",
        "fchmod",
    ] {
        let mut kills = 0;
        loop {
            let path = temp.path().join(format!("{call}-{kills}"));
            let fault = format!("signal=SIGKILL:when={}", kills + 1);
            let (output, _) = injected(call, &fault, &path);
            let context = format!("killed at {call} {}", kills + 1);
            check(&path, &acknowledged(&output), &context);
            // Whatever was left, the same work then succeeds.
            let again = command(&[], "all", &path).output().unwrap();
            assert!(again.status.success(), "{context}: {again:?}");
            check(&path, &acknowledged(&again), &context);
            if output.status.success() {
                break;
            }
            kills += 1;
        }
        assert!(
            kills >= 2,
            "{call} was made {kills} times: nothing was tested"
        );
    }
}

#[test]
fn a_failed_sync_is_never_acknowledged() {
    if !installed("strace") {
        return;
    }
    let temp = in_memory();
    for call in ["fsync", "fdatasync"] {
        let mut failures = 0;
        for number in 1.. {
            let path = temp.path().join(format!("{call}-{number}"));
            let (output, trace) = injected(call, &format!("error=EIO:when={number}"), &path);
            let Some((_, after)) = trace.split_once("(INJECTED)") else {
                break;
            };
            let context = format!("{call} {number} failed");
            // The next that is said is not that the step succeeded.
            let said = after.lines().find(|line| line.contains("write(1, \"\\n"));
            let acknowledging = said.is_some_and(|line| line.contains("acknowledged"));
            assert!(!acknowledging, "{context}, but: {said:?}");
            check(&path, &acknowledged(&output), &context);
            failures += usize::from(said.is_some());
        }
        assert!(
            failures >= 2,
            "{call}: only {failures} failures were reported"
        );
    }
}

/// A small tmpfs, unmounted in the end.
struct Small(tempfile::TempDir);

impl Small {
    fn mount() -> Option<Self> {
        let temp = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=3m", "none"])
            .arg(temp.path())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Small(temp));
        }
        eprintln!("SKIPPED: mounting a tmpfs needs root");
        None
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount")
            .arg(self.0.path())
            .status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

#[test]
fn a_full_disk_is_told_and_the_store_opens_and_frees() {
    let Some(small) = Small::mount() else { return };
    let path = small.0.path().join("store");
    let store = FsStore::open(&path).unwrap().store();
    let blob = |number: u32| number.to_le_bytes().repeat(32 << 10);
    let describe = |number| Descriptor::of(MediaType::OCI_LAYER, &blob(number));
    let mut stored = 0;
    let error = loop {
        let put = async |number| {
            let data = blob(number).into();
            store.put(&describe(number), data, Durability::Full).await
        };
        match wait(put(stored)) {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), Kind::Full, "{error:?}");
    assert!(stored > 3);
    drop(store);
    // Not a byte is left for anyone.
    let filler = small.0.path().join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while std::io::Write::write(&mut file, &[0; 4096]).is_ok_and(|written| written > 0) {}
    let store = FsStore::open(&path).expect("a full disk").store();
    wait(async {
        for number in 0..stored {
            assert!(store.present(&describe(number)).await.unwrap());
        }
        assert!(store.content.remove(&describe(0).digest).await.unwrap());
        assert!(store.content.remove(&describe(1).digest).await.unwrap());
        store.blobs().remove(&describe(0).digest).await.unwrap();
        let data = blob(stored).into();
        let put = store.put(&describe(stored), data, Durability::Full).await;
        put.expect("space was freed");
    });
}
