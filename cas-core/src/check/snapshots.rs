//! Snapshots: their directories and their files.

use std::collections::HashMap;
use std::iter;

use super::reader::Reading;
use super::{Checker, Problem, ReadData};
use crate::content::{Stat, Version};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::{self, Condition, Depth, Info, SnapshotKind, Snapshotter};

impl Checker<'_> {
    /// Checks all snapshots, and the leftovers of the snapshotter. A repair unpacks the layers of
    /// damaged committed snapshots again, and removes the leftovers and the records of other
    /// damaged snapshots.
    pub(super) async fn check_snapshots(&mut self, snapshotter: &dyn Snapshotter) -> Result<()> {
        let repairs = self.options.repair.is_some();
        for key in snapshotter.damaged_records(repairs).await? {
            if key.is_empty() {
                let detail = match repairs {
                    true => "the counter of ids was damaged; it was corrected",
                    false => "the counter of ids is damaged; a repair corrects it",
                };
                let subject = format!("snapshots/{}", snapshotter.name());
                self.add(Problem::RecordDamaged, subject, detail, repairs);
                continue;
            }
            let outcome = match repairs {
                true => "the record was removed",
                false => "a repair removes the record",
            };
            let detail = format!(
                "the record is damaged, the parent of the snapshot has no record, or the snapshot \
                 is one of its own ancestors; {outcome}; a layer is unpacked again when it is needed"
            );
            self.add(
                Problem::RecordDamaged,
                name(snapshotter, &key),
                detail,
                repairs,
            );
        }
        let all = parents_first(snapshotter).await?;
        let mut chains = Chains::new(snapshotter, &all);
        let mut sound = Vec::new();
        for info in &all {
            let condition = condition(snapshotter, &info.key, Depth::Files).await?;
            self.report.snapshots += u64::from(condition.is_some());
            match condition {
                Some(Condition::Sound) if info.kind == SnapshotKind::Committed => sound.push(info),
                Some(condition) => self.heal_snapshot(&mut chains, info, condition).await?,
                None => {}
            }
        }
        if self.options.read_data != ReadData::Nothing {
            self.read_snapshots(&mut chains, &sound).await?;
        }
        self.check_leftovers(snapshotter).await
    }

    /// Reads the files of the selected snapshots.
    async fn read_snapshots(&mut self, chains: &mut Chains<'_>, all: &[&Info]) -> Result<()> {
        let (options, snapshotter) = (self.options, chains.snapshotter);
        let mut stats = Vec::new();
        for info in all {
            stats.extend(stat(snapshotter, info).await?.map(|stat| (stat, info)));
        }
        stats.sort_unstable_by_key(|(stat, _)| stat.digest);
        let (stats, infos): (Vec<Stat>, Vec<&Info>) = stats.into_iter().unzip();
        let reading = Reading::begin_snapshots(snapshotter.name(), self.store, options).await?;
        let selected = reading.select(&stats);
        for (number, stat) in selected.iter().enumerate() {
            let at = stats.partition_point(|other| other.digest < stat.digest);
            let item = name(snapshotter, &infos[at].key);
            options.progress.begin(&item, Some(stat.size));
            if let Some(condition) = self.read_snapshot(chains, infos[at]).await? {
                self.heal_snapshot(chains, infos[at], condition).await?;
            }
            options.progress.end(&item);
            reading.note(number, stat).await;
        }
        reading.end(selected.last()).await;
        Ok(())
    }

    /// Reads the files of a snapshot. Returns `None` if this check has judged them already, or if
    /// the snapshot was removed meanwhile.
    async fn read_snapshot(
        &self,
        chains: &mut Chains<'_>,
        info: &Info,
    ) -> Result<Option<Condition>> {
        if chains.judged.contains_key(&info.key) {
            return Ok(None);
        }
        let depth = Depth::Bytes {
            per_second: self.options.bytes_per_second,
        };
        let condition = condition(chains.snapshotter, &info.key, depth).await?;
        if condition == Some(Condition::Sound) {
            chains.judged.insert(info.key.clone(), true);
        }
        Ok(condition)
    }

    /// Reports what is wrong with a snapshot, and repairs it if the check repairs. A snapshotter
    /// may copy the files of the parent. So the ancestors are read and repaired first, even if this
    /// check does not read files otherwise.
    async fn heal_snapshot(
        &mut self,
        chains: &mut Chains<'_>,
        info: &Info,
        condition: Condition,
    ) -> Result<()> {
        let mut is_on_sound = true;
        let is_damaged = condition != Condition::Sound;
        if is_damaged && self.options.repair.is_some() && info.kind == SnapshotKind::Committed {
            for ancestor in chains.ancestors(info) {
                if let Some(found) = self.read_snapshot(chains, ancestor).await? {
                    self.heal_alone(chains, ancestor, found, is_on_sound)
                        .await?;
                }
                is_on_sound = chains.judged.get(&ancestor.key) == Some(&true);
            }
        }
        self.heal_alone(chains, info, condition, is_on_sound).await
    }

    /// As [`Self::heal_snapshot`], after the ancestors. `is_on_sound` states whether they are
    /// sound.
    async fn heal_alone(
        &mut self,
        chains: &mut Chains<'_>,
        info: &Info,
        condition: Condition,
        is_on_sound: bool,
    ) -> Result<()> {
        let snapshotter = chains.snapshotter;
        let (problem, why) = match condition {
            Condition::Sound => return Ok(()),
            Condition::Missing => (
                Problem::SnapshotMissing,
                "its directory is missing".to_owned(),
            ),
            Condition::Damaged(why) => (Problem::SnapshotDamaged, why),
        };
        let repaired = match is_on_sound {
            true => self.repair_snapshot(snapshotter, info).await?,
            false => Some(Err(Error::precondition("its parent is damaged"))),
        };
        let detail = match &repaired {
            Some(Ok(())) if info.kind == SnapshotKind::Committed => {
                format!("{why}; the snapshot was made again from its layer")
            }
            Some(Ok(())) => format!("{why}; the record of the snapshot was removed"),
            Some(Err(error)) => format!("{why}; the snapshot could not be repaired: {error}"),
            None => format!(
                "{why}; a repair makes a committed snapshot again from its layer, and removes the \
                 record of any other snapshot"
            ),
        };
        let done = matches!(repaired, Some(Ok(())));
        chains.judged.insert(info.key.clone(), done);
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
            let removed = match snapshotter.remove_seen(info).await {
                Ok(false) => Err(Error::conflict(
                    "the snapshot was changed meanwhile; run the check again",
                )),
                removed => removed.map(drop),
            };
            return Ok(Some(removed));
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
            "directories and files that no record names: {}, with {bytes} bytes in all; {}",
            left.len(),
            match repairs {
                true => "those that are not in use were removed",
                false => "a collection removes them",
            }
        );
        self.add(Problem::SnapshotLeft, snapshotter.name(), detail, repairs);
        Ok(())
    }
}

/// The snapshots of a snapshotter, and what this check has found out about their files.
struct Chains<'a> {
    snapshotter: &'a dyn Snapshotter,
    all: HashMap<&'a str, &'a Info>,
    /// The keys of the snapshots that were read or found damaged. True if the files are right, or
    /// were made again.
    judged: HashMap<String, bool>,
}

impl<'a> Chains<'a> {
    fn new(snapshotter: &'a dyn Snapshotter, all: &'a [Info]) -> Self {
        Chains {
            snapshotter,
            all: all.iter().map(|info| (info.key.as_str(), info)).collect(),
            judged: HashMap::new(),
        }
    }

    /// Returns the ancestors of a snapshot, each after its parent.
    fn ancestors(&self, info: &Info) -> Vec<&'a Info> {
        let parent = |info: &Info| self.all.get(info.parent.as_deref()?).copied();
        let chain = iter::successors(parent(info), |info| parent(info));
        // Records can form a circle.
        let mut chain: Vec<&Info> = chain.take(self.all.len()).collect();
        chain.reverse();
        chain
    }
}

/// Returns the condition of a snapshot. Returns `None` if the snapshot was removed or committed
/// since it was listed.
async fn condition(
    snapshotter: &dyn Snapshotter,
    key: &str,
    depth: Depth,
) -> Result<Option<Condition>> {
    let found = match snapshotter.check(key, depth).await {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        found => found?,
    };
    // The snapshot may have been removed while its files were read.
    let is_gone = found != Condition::Sound && snapshotter.stat(key).await?.is_none();
    Ok(Some(found).filter(|_| !is_gone))
}

/// Returns a snapshot in the form of a blob, as [`Reading`] selects it: with the digest of its key
/// and the size of its files. Returns `None` if the snapshot was removed since it was listed.
async fn stat(snapshotter: &dyn Snapshotter, info: &Info) -> Result<Option<Stat>> {
    let usage = match snapshotter.usage(&info.key).await {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        usage => usage?,
    };
    Ok(Some(Stat {
        digest: Digest::sha256(info.key.as_bytes()),
        size: usage.bytes,
        version: Version(0),
    }))
}

/// Returns all snapshots, each after its parent, because a repair unpacks a layer on the parent of
/// its snapshot.
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
