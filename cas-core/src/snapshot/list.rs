//! Lists the snapshots of a snapshotter.

use super::{Info, Snapshotter};
use crate::error::{Error, ErrorKind, Result};

/// Maximum number of snapshots in one page.
const PAGE: usize = 256;

/// Reads all snapshots, page by page, and returns them in the order of their keys.
///
/// # Errors
/// Errors of [`Snapshotter::walk`].
pub async fn all(snapshotter: &dyn Snapshotter) -> Result<Vec<Info>> {
    let mut found: Vec<Info> = Vec::new();
    loop {
        let after = found.last().map(|info| info.key.as_str());
        let page = snapshotter.walk(after, PAGE).await?;
        let is_last = page.len() < PAGE;
        found.extend(page);
        if is_last {
            return Ok(found);
        }
    }
}

/// The snapshots of a snapshotter whose records can be read.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct SnapshotList {
    /// The snapshots, in the order of their keys.
    pub snapshots: Vec<Info>,
    /// For each record that cannot be read, the error `Corrupt` of reading it.
    pub problems: Vec<Error>,
}

/// Returns the same snapshots as [`all`], but without those whose records cannot be read.
///
/// # Errors
/// Errors of [`Snapshotter::walk`], except for a damaged record; errors of
/// [`Snapshotter::damaged_records`].
pub async fn all_sound(snapshotter: &dyn Snapshotter) -> Result<SnapshotList> {
    let mut found = SnapshotList::default();
    match all(snapshotter).await {
        Err(error) if error.kind() == ErrorKind::Corrupt => {}
        snapshots => {
            found.snapshots = snapshots?;
            return Ok(found);
        }
    }
    let mut damaged = snapshotter.damaged_records(false).await?;
    // The empty key stands for the counter of ids.
    damaged.retain(|key| !key.is_empty());
    let mut after: Option<String> = None;
    loop {
        // With one snapshot per page, the record that cannot be read is that of the next damaged
        // key.
        match snapshotter.walk(after.as_deref(), 1).await {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                let later = damaged.iter().filter(|key| Some(*key) > after.as_ref());
                let Some(next) = later.min() else {
                    return Err(error);
                };
                after = Some(next.clone());
                found.problems.push(error);
            }
            page => match page?.pop() {
                None => return Ok(found),
                Some(info) => {
                    after = Some(info.key.clone());
                    found.snapshots.push(info);
                }
            },
        }
    }
}
