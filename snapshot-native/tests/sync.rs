//! A failed sync is final, because a second sync may succeed although bytes were lost.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use cas_core::pool::wait;
use cas_core::snapshot::Commit;
use cas_core::{ErrorKind, Labels, Snapshotter};
use cas_records_sqlite::SqliteRecords;
use snapshot_native::NativeSnapshotter;

/// The environment variable with the directory of the snapshotter that [`task`] opens.
const ROOT: &str = "CAS_TEST_SYNC_ROOT";

/// Runs only in the child process of [`a_failed_sync_is_final`], in which the first `syncfs` fails.
#[test]
fn task() {
    let Some(root) = std::env::var_os(ROOT) else {
        return;
    };
    let root = Path::new(&root);
    let records = Arc::new(SqliteRecords::open(&root.join("records.db")).unwrap());
    let store = NativeSnapshotter::open(root, records).unwrap();
    wait(async {
        store.prepare("key", None, Labels::new()).await.unwrap();
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let outcome = store.commit("name", "key", Commit::default()).await;
            kinds.push(outcome.unwrap_err().kind());
        }
        assert_eq!(
            kinds,
            [ErrorKind::Unavailable, ErrorKind::FailedPrecondition]
        );
        assert!(store.stat("name").await.unwrap().is_none());
    });
}

#[test]
fn a_failed_sync_is_final() {
    let temp = tempfile::tempdir().unwrap();
    let outcome = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=syncfs"])
        .args(["-e", "inject=syncfs:error=EIO:when=1"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "task", "--nocapture"])
        .env(ROOT, temp.path())
        .output();
    match outcome {
        Err(_) => eprintln!("SKIPPED: strace is not installed"),
        Ok(output) => assert!(output.status.success(), "{output:?}"),
    }
}
