//! Snapshots: their directories and their files.

use std::collections::HashMap;

use super::{Checker, Problem};
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::{self, Condition, Depth, Info, SnapshotKind, Snapshotter};

impl Checker<'_> {
    /// Checks all snapshots. A repair unpacks the layers of damaged ones again.
    pub(super) async fn check_snapshots(&mut self, snapshotter: &dyn Snapshotter) -> Result<()> {
        let repairs = self.options.repair.is_some();
        for key in snapshotter.damaged_records(repairs).await? {
            let detail = "the record does not parse, its parent has no record, or it is one of \
                          its own ancestors; a repair removes the record, and a layer is unpacked \
                          again when it is needed";
            self.add(
                Problem::RecordDamaged,
                name(snapshotter, &key),
                detail,
                repairs,
            );
        }
        for info in parents_first(snapshotter).await? {
            self.check_snapshot(snapshotter, &info).await?;
        }
        self.check_leftovers(snapshotter).await
    }

    async fn check_snapshot(&mut self, snapshotter: &dyn Snapshotter, info: &Info) -> Result<()> {
        let Some(condition) = condition(snapshotter, &info.key).await? else {
            return Ok(());
        };
        self.report.snapshots += 1;
        let (problem, why) = match condition {
            Condition::Sound => return Ok(()),
            Condition::Missing => (
                Problem::SnapshotMissing,
                "its directory is missing".to_owned(),
            ),
            Condition::Damaged(why) => (Problem::SnapshotDamaged, why),
        };
        let repaired = self.repair_snapshot(snapshotter, info).await?;
        let detail = match &repaired {
            Some(Ok(())) if info.kind == SnapshotKind::Committed => {
                format!("{why}; its layer was unpacked again")
            }
            Some(Ok(())) => format!("{why}; its record was removed"),
            Some(Err(error)) => format!("{why}; it cannot be made again: {error}"),
            None => why,
        };
        let done = matches!(repaired, Some(Ok(())));
        self.add(problem, name(snapshotter, &info.key), detail, done);
        Ok(())
    }

    /// Repairs a snapshot. Returns `None` if the check does not repair.
    async fn repair_snapshot(
        &self,
        snapshotter: &dyn Snapshotter,
        info: &Info,
    ) -> Result<Option<Result<()>>> {
        let Some(repair) = &self.options.repair else {
            return Ok(None);
        };
        if info.kind != SnapshotKind::Committed {
            // Its directory is missing, so its changes are lost already.
            return Ok(Some(snapshotter.remove_seen(info).await.map(|_| ())));
        }
        Ok(Some(match repair.rebuilder {
            Some(rebuilder) => rebuilder.rebuild(snapshotter, &info.key).await,
            None => Err(Error::unsupported(
                "unpacking a layer needs a rebuilder; set one in `Repair`",
            )),
        }))
    }

    async fn check_leftovers(&mut self, snapshotter: &dyn Snapshotter) -> Result<()> {
        let left = snapshotter.leftovers().await?;
        if left.is_empty() {
            return Ok(());
        }
        let repairs = self.options.repair.is_some();
        if repairs {
            snapshotter.cleanup().await?;
        }
        let bytes: u64 = left.iter().map(|usage| usage.bytes).sum();
        let detail = format!(
            "no record names {} directories with {bytes} bytes in all; a collection removes them",
            left.len()
        );
        self.add(Problem::SnapshotLeft, snapshotter.name(), detail, repairs);
        Ok(())
    }
}

/// Returns the condition of a listed snapshot. Returns `None` if it was removed or committed since.
async fn condition(snapshotter: &dyn Snapshotter, key: &str) -> Result<Option<Condition>> {
    let found = match snapshotter.check(key, Depth::Files).await {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        found => found?,
    };
    // The snapshot may have been removed while its files were read.
    let is_gone = found != Condition::Sound && snapshotter.stat(key).await?.is_none();
    Ok(Some(found).filter(|_| !is_gone))
}

/// Returns all snapshots, each after its parent, because a layer is unpacked on its parent.
async fn parents_first(snapshotter: &dyn Snapshotter) -> Result<Vec<Info>> {
    let mut found = snapshot::all(snapshotter).await?;
    let parent = |info: &Info| (info.key.clone(), info.parent.clone());
    let parents: HashMap<String, Option<String>> = found.iter().map(parent).collect();
    let depth = |info: &Info| {
        let mut above = info.parent.as_ref();
        let mut depth = 0;
        while let Some(parent) = above.filter(|_| depth <= parents.len()) {
            depth += 1;
            above = parents.get(parent).and_then(Option::as_ref);
        }
        depth
    };
    found.sort_by_cached_key(depth);
    Ok(found)
}

fn name(snapshotter: &dyn Snapshotter, key: &str) -> String {
    format!("snapshots/{}/{key}", snapshotter.name())
}
