//! Whether images can be mounted here.

use std::sync::OnceLock;

use cas_core::snapshot::Backing;

/// Returns whether this process can mount images from files. If not, prints that a test is skipped.
pub(crate) fn is_usable() -> bool {
    static PROBED: OnceLock<bool> = OnceLock::new();
    *PROBED.get_or_init(|| {
        let probed = tempfile::tempdir().map(|temp| snapshot_erofs::probe(temp.path()));
        let usable = matches!(probed, Ok(Ok(())));
        if !usable {
            eprintln!("SKIPPED: {probed:?}");
        }
        usable
    })
}

/// Returns whether this process can mount images from loop devices. If not, prints that a test is
/// skipped.
#[allow(dead_code, reason = "not all tests use loop devices")]
pub(crate) fn can_use_loops() -> bool {
    let probed =
        tempfile::tempdir().map(|temp| snapshot_erofs::probe_with(temp.path(), Backing::Loop));
    let usable = matches!(probed, Ok(Ok(())));
    if !usable {
        eprintln!("SKIPPED: {probed:?}");
    }
    usable
}
