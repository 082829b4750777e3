//! Laws of the files and directories that must be synced before a commit is acknowledged.

use std::fs;

use cas_core::snapshot::Mount;

use super::Subject;
use super::scene::{commit, prepare};

/// Text that occurs only in the files that this law writes.
const MARKER: &str = "conformance-layer";

/// The files of a layer and their names must be synced before the commit of the layer is
/// acknowledged.
pub(super) async fn a_committed_snapshot_was_synced(subject: Subject) {
    if !subject.is_victim() {
        let store = subject.open().await;
        let mounts = prepare(&*store, "probe", None).await;
        if !matches!(
            mounts.expect("prepare must succeed")[..],
            [Mount::Bind { .. }]
        ) {
            return crate::skip(
                "strace can show the syncs of a layer's files only if `prepare` returns exactly one \
                 bind mount",
            );
        }
        return subject.syncs_before_it_acknowledges(MARKER);
    }
    subject.perform(async {
        let store = subject.try_open().await?;
        for name in ["one", "two"] {
            let key = format!("making {name}");
            if let [Mount::Bind { source, .. }] = &prepare(&*store, &key, None).await?[..] {
                fs::create_dir(source.join("bin"))?;
                fs::write(source.join("bin/file"), MARKER.repeat(100))?;
            }
            commit(&*store, name, &key).await?;
            subject.acknowledge(name);
        }
        Ok(())
    });
}
