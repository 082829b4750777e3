//! The laws that make system calls fail find the fault of each broken store on files, and find
//! nothing in a store without a fault.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::path::PathBuf;

use conformance::broken::files::{FileFault, FileStore};
use conformance::laws::content;
use conformance::{Opening, Verdict, judge};

/// Returns what a law finds in the store that `open` opens, or `None` if the store keeps the law.
/// `test` is the test that runs the law.
fn seen(
    law: &str,
    open: fn(PathBuf) -> Opening<dyn cas_core::ContentStore>,
    test: &'static str,
) -> Option<String> {
    let law = content::all().iter().find(|known| known.name == law);
    match judge(law.unwrap(), open, &[], Some(test)) {
        Verdict::Kept => None,
        Verdict::Broken(seen) => Some(seen),
        other => panic!("{other:?}"),
    }
}

/// Makes a test for each pair of a fault and a law, with a part of the message that the law must
/// give.
macro_rules! convictions {
    ($($test:ident: $fault:ident, $law:ident => $words:expr;)*) => {$(
        #[test]
        fn $test() {
            let open = |dir| -> Opening<dyn cas_core::ContentStore> {
                Box::pin(async move { FileStore::open(dir, FileFault::$fault) })
            };
            let name = concat!(module_path!(), "::", stringify!($test));
            let seen = seen(stringify!($law), open, name);
            let (words, skipped): (Option<&str>, _) = ($words, !installed());
            let right = match (&seen, words) {
                (Some(seen), Some(words)) => seen.contains(words),
                (seen, words) => seen.is_none() && (words.is_none() || skipped),
            };
            assert!(right, "{:?}: {seen:?}", FileFault::$fault);
        }
    )*};
}

fn installed() -> bool {
    std::process::Command::new("strace")
        .arg("-V")
        .output()
        .is_ok()
}

convictions! {
    a_sound_store_is_killed: None, a_kill_at_any_call_keeps_the_blobs => None;
    a_sound_store_fails: None, a_failed_call_keeps_the_blobs => None;
    a_sound_store_is_full: None, a_full_disk_keeps_the_blobs => None;
    a_sound_store_syncs: None, an_acknowledged_publish_was_synced => None;
    a_missing_sync_is_seen: AcknowledgesBeforeSyncing, an_acknowledged_publish_was_synced
        => Some("a file that is not synced gets the name");
    a_missing_sync_of_the_directory_is_seen: ForgetsTheDirectorySync,
        an_acknowledged_publish_was_synced => Some("but the directory that contains");
    an_early_rename_is_seen: RenamesBeforeItHasWritten,
        a_kill_at_any_call_keeps_the_blobs => Some("under a digest");
    an_ignored_sync_is_seen: IgnoresFailedSyncs, an_acknowledged_publish_was_synced
        => Some("a file that is not synced gets the name");
    a_repeated_sync_is_seen: RetriesFailedSyncs, an_acknowledged_publish_was_synced
        => Some("a later sync that succeeds proves nothing");
    lost_bytes_are_seen: IgnoresAFullDisk, a_full_disk_keeps_the_blobs => Some("stat of");
}
