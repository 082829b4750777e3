//! Snapshots: their directories and their files.

use std::collections::HashMap;
use std::iter;

use super::reader::Reading;
use super::{Checker, Problem, ReadData};
use crate::content::{Stat, Version};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::labels::is_of_job;
use crate::snapshot::{self, Condition, Depth, Info, SnapshotKind, Snapshotter};

impl Checker<'_> {
    /// Checks all snapshots, and the leftovers of the snapshotter. A repair unpacks the layers of
    /// damaged committed snapshots again, and removes the leftovers and the records of other
    /// damaged snapshots.
    pub(super) async fn check_snapshots(&mut self, snapshotter: &dyn Snapshotter) -> Result<()> {
        let damaged = self.check_snapshot_records(snapshotter).await?;
        let all = parents_first(snapshot::all_sound(snapshotter).await?.snapshots);
        let mut chains = Chains::new(snapshotter, &all);
        let mut sound = Vec::new();
        for info in &all {
            let condition = condition(snapshotter, &info.key, Depth::Files).await?;
            self.report.snapshots += u64::from(condition.is_some());
            match condition {
                Some(Condition::Sound) if info.kind == SnapshotKind::Committed => {
                    self.report.unlisted += u64::from(is_unlisted(snapshotter, &info.key).await?);
                    sound.push(info);
                }
                Some(condition) => self.heal_snapshot(&mut chains, info, condition).await?,
                None => {}
            }
        }
        if self.options.read_data != ReadData::Nothing {
            self.read_snapshots(&mut chains, &sound).await?;
        }
        // As long as a record cannot be read, it is not known which directory it names.
        match self.check_leftovers(snapshotter).await {
            Err(error) if error.kind() == ErrorKind::Corrupt && !damaged.is_empty() => Ok(()),
            checked => checked,
        }
    }

    /// Checks that the records parse, and that the parents of each snapshot have records. A repair
    /// removes the damaged records. It keeps a snapshot that does not belong to a job and only
    /// whose parents lack records, and makes the parents again. Before this, it makes snapshots
    /// again from tars that lost their records. Returns the keys of the damaged records that were
    /// not removed.
    async fn check_snapshot_records(
        &mut self,
        snapshotter: &dyn Snapshotter,
    ) -> Result<Vec<String>> {
        let repairs = self.options.repair.is_some();
        let mut damaged = snapshotter.damaged_records(repairs).await?;
        let mut orphans = Vec::new();
        for key in &damaged {
            if key.is_empty() {
                let detail = match repairs {
                    true => "the counter of ids was damaged; it was corrected",
                    false => "the counter of ids is damaged; a repair corrects it",
                };
                let subject = format!("snapshots/{}", snapshotter.name());
                self.add(Problem::RecordDamaged, subject, detail, repairs);
                continue;
            }
            if let Some(info) = orphan(snapshotter, key).await? {
                orphans.push(info);
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
            let subject = name(snapshotter, key);
            self.add(Problem::RecordDamaged, subject, detail, repairs);
        }
        self.check_stray_tars(snapshotter).await?;
        for info in &orphans {
            self.heal_orphan(snapshotter, info).await?;
        }
        if repairs {
            damaged.clear();
            if !orphans.is_empty() {
                // The parents that were made again do not count their children yet.
                snapshotter.damaged_records(true).await?;
            }
        }
        Ok(damaged)
    }

    /// Reports a snapshot that may have the only copy of files and whose parent has no record. A
    /// repair makes the parent again.
    async fn heal_orphan(&mut self, snapshotter: &dyn Snapshotter, info: &Info) -> Result<()> {
        let parent = info.parent.as_deref().unwrap_or_default();
        let there = snapshotter.stat(parent).await;
        let rebuilt = match &self.options.repair {
            None => None,
            // The parent was made again for another snapshot.
            Some(_) if matches!(there, Ok(Some(_))) => Some(Ok(())),
            Some(repair) => Some(match repair.rebuilder {
                Some(rebuilder) => rebuilder.rebuild(snapshotter, parent).await,
                None => Err(no_rebuilder()),
            }),
        };
        let what = "the parent of the snapshot, or an ancestor of the parent, has no record";
        let detail = match &rebuilt {
            Some(Ok(())) => format!("{what}; the parent was made again from its layer"),
            Some(Err(error)) => format!(
                "{what}; the parent could not be made again: {error}; the snapshot stays, because \
                 it may have the only copy of files; `cas snapshot rm` removes it"
            ),
            None => format!("{what}; a repair makes the parent again from its layer"),
        };
        let done = matches!(rebuilt, Some(Ok(())));
        let subject = name(snapshotter, &info.key);
        self.add(Problem::RecordDamaged, subject, detail, done);
        Ok(())
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
            Some(Ok(how)) => format!("{why}; {how}"),
            Some(Err(error)) => format!("{why}; the snapshot could not be repaired: {error}"),
            None => format!(
                "{why}; a repair makes a committed snapshot again from its layer, and removes the \
                 record of any other snapshot"
            ),
        };
        let done = matches!(repaired, Some(Ok(_)));
        chains.judged.insert(info.key.clone(), done);
        self.add(problem, name(snapshotter, &info.key), detail, done);
        Ok(())
    }

    /// Repairs a snapshot. Returns what was done, or `None` if the check does not repair.
    async fn repair_snapshot(
        &self,
        snapshotter: &dyn Snapshotter,
        info: &Info,
    ) -> Result<Option<Result<&'static str>>> {
        let Some(repair) = &self.options.repair else {
            return Ok(None);
        };
        if info.kind != SnapshotKind::Committed {
            // Its directory is missing, so its changes are lost already.
            let removed = match snapshotter.remove_seen(info).await {
                Ok(false) => Err(Error::conflict(
                    "the snapshot was changed meanwhile; run the check again",
                )),
                removed => removed.map(|_| "the record of the snapshot was removed"),
            };
            return Ok(Some(removed));
        }
        let per_second = self.options.bytes_per_second;
        if snapshotter.repair(&info.key, per_second).await? {
            return Ok(Some(Ok(
                "the layer is sound, and the damaged files are made again when they are needed",
            )));
        }
        let rebuilt = match repair.rebuilder {
            Some(rebuilder) => rebuilder.rebuild(snapshotter, &info.key).await,
            None => Err(no_rebuilder()),
        };
        Ok(Some(
            rebuilt.map(|()| "the snapshot was made again from its layer"),
        ))
    }

    async fn check_leftovers(&mut self, snapshotter: &dyn Snapshotter) -> Result<()> {
        for path in snapshotter.lost().await? {
            let detail = "the record of the snapshot in this directory was lost, and the directory \
                          may have the only copy of files; copy what is needed, and then remove \
                          the directory";
            self.add(Problem::SnapshotLeft, path.display(), detail, false);
        }
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

/// Returns whether the files of a snapshot cannot be compared. Returns false if the snapshot was
/// removed since it was listed.
async fn is_unlisted(snapshotter: &dyn Snapshotter, key: &str) -> Result<bool> {
    match snapshotter.is_unlisted(key).await {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        found => found,
    }
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

/// Returns a snapshot of a damaged record, if the record can be read and the snapshot does not
/// belong to a job. Such a record is damaged only because the parent of the snapshot has no record.
async fn orphan(snapshotter: &dyn Snapshotter, key: &str) -> Result<Option<Info>> {
    match snapshotter.stat(key).await {
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(None),
        found => Ok(found?.filter(|info| !is_of_job(&info.labels))),
    }
}

/// Sorts snapshots so that each one follows its parent, because a repair unpacks a layer on the
/// parent of its snapshot.
fn parents_first(mut found: Vec<Info>) -> Vec<Info> {
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
    found
}

pub(super) fn no_rebuilder() -> Error {
    Error::unsupported("unpacking a layer needs a rebuilder; set one in `Repair`")
}

fn name(snapshotter: &dyn Snapshotter, key: &str) -> String {
    format!("snapshots/{}/{key}", snapshotter.name())
}
