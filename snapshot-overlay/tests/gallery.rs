//! Snapshotters that are broken on purpose, to test the laws. Each is the overlay snapshotter with
//! one fault. The law after the arrow must fail. The laws in brackets may fail, too, but no others.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use cas_core::snapshot::{Commit, Condition, Depth, Info, Mount, Usage};
use cas_core::{Labels, Result, Snapshotter};
use cas_records_sqlite::SqliteRecords;
use conformance::broken::{Exhibit, misjudged};
use conformance::laws::snapshots;
use snapshot_overlay::OverlaySnapshotter;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    LosesTheNewParent,
    CommitsNothing,
    LetsViewsBeWritten,
    WritesIntoTheParent,
    InheritsLabels,
    RemovesWhatWasUpdated,
    CountsTheParents,
    FindsNothing,
    ReplacesNothing,
}

struct Broken {
    store: OverlaySnapshotter,
    fault: Fault,
}

impl Broken {
    fn open(root: &Path, fault: Fault) -> Result<Arc<dyn Snapshotter>> {
        let records = Arc::new(SqliteRecords::open(&root.join("records.db"))?);
        let store = OverlaySnapshotter::open(root, records)?;
        Ok(Arc::new(Broken { store, fault }))
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn shown(&self, mut mounts: Vec<Mount>) -> Vec<Mount> {
        for mount in &mut mounts {
            match mount {
                Mount::Bind { read_only, .. } if self.is(Fault::LetsViewsBeWritten) => {
                    *read_only = false;
                }
                Mount::Overlay { lower, upper, .. }
                    if self.is(Fault::WritesIntoTheParent) && upper.is_some() =>
                {
                    *mount = Mount::Bind {
                        source: lower[0].clone(),
                        read_only: false,
                    };
                }
                _ => {}
            }
        }
        mounts
    }
}

/// Empties the writable directory.
fn empty(mounts: &[Mount]) -> Result<()> {
    let tree = match mounts {
        [
            Mount::Overlay {
                upper: Some(dir), ..
            },
        ]
        | [Mount::Bind { source: dir, .. }] => dir,
        _ => return Ok(()),
    };
    fs::remove_dir_all(tree)?;
    Ok(fs::create_dir(tree)?)
}

#[async_trait]
impl Snapshotter for Broken {
    fn name(&self) -> &'static str {
        self.store.name()
    }

    fn rebases(&self) -> bool {
        true
    }

    async fn prepare(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>> {
        let made = self.store.prepare(key, parent, labels).await;
        made.map(|mounts| self.shown(mounts))
    }

    async fn view(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>> {
        let made = self.store.view(key, parent, labels).await;
        made.map(|mounts| self.shown(mounts))
    }

    async fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        let mounts = self.store.mounts(key).await;
        mounts.map(|mounts| self.shown(mounts))
    }

    async fn commit(&self, name: &str, key: &str, mut options: Commit) -> Result<()> {
        let before = self.store.stat(key).await?;
        let has_parent = before.as_ref().is_some_and(|info| info.parent.is_some());
        if self.is(Fault::LosesTheNewParent) && !has_parent {
            options.parent = None;
        }
        if self.is(Fault::InheritsLabels) {
            let active = before.map(|info| info.labels).unwrap_or_default();
            options.labels.extend(active);
        }
        if self.is(Fault::CommitsNothing)
            && let Ok(mounts) = self.store.mounts(key).await
        {
            empty(&mounts)?;
        }
        self.store.commit(name, key, options).await
    }

    async fn remove(&self, key: &str) -> Result<()> {
        self.store.remove(key).await
    }

    async fn remove_seen(&self, seen: &Info) -> Result<bool> {
        match self.store.stat(&seen.key).await? {
            Some(now) if self.is(Fault::RemovesWhatWasUpdated) => {
                self.store.remove_seen(&now).await
            }
            _ => self.store.remove_seen(seen).await,
        }
    }

    async fn stat(&self, key: &str) -> Result<Option<Info>> {
        self.store.stat(key).await
    }

    async fn update(&self, key: &str, labels: Labels, fieldpaths: &[&str]) -> Result<Info> {
        self.store.update(key, labels, fieldpaths).await
    }

    async fn usage(&self, key: &str) -> Result<Usage> {
        let mut usage = self.store.usage(key).await?;
        let mut above = self.store.stat(key).await?;
        while let Some(parent) = above.and_then(|info| info.parent)
            && self.is(Fault::CountsTheParents)
        {
            usage += self.store.usage(&parent).await?;
            above = self.store.stat(&parent).await?;
        }
        Ok(usage)
    }

    async fn measure(&self, key: &str) -> Result<Usage> {
        self.store.measure(key).await
    }

    async fn walk(&self, after: Option<&str>, limit: usize) -> Result<Vec<Info>> {
        self.store.walk(after, limit).await
    }

    async fn check(&self, key: &str, depth: Depth) -> Result<Condition> {
        match self.store.check(key, depth).await {
            Ok(_) if self.is(Fault::FindsNothing) => Ok(Condition::Sound),
            found => found,
        }
    }

    async fn replace(&self, key: &str, by: &str) -> Result<()> {
        if self.is(Fault::ReplacesNothing) {
            return self.store.remove(by).await;
        }
        self.store.replace(key, by).await
    }

    async fn damaged_records(&self, remove: bool) -> Result<Vec<String>> {
        self.store.damaged_records(remove).await
    }

    async fn leftovers(&self) -> Result<Vec<Usage>> {
        self.store.leftovers().await
    }
    async fn cleanup(&self) -> Result<Usage> {
        self.store.cleanup().await
    }

    async fn close(&self) -> Result<()> {
        self.store.close().await
    }
}

/// Makes one test for each broken snapshotter, so that the tests run in parallel.
macro_rules! convicted {
    ($($test:ident: $fault:ident => $law:ident [$($also:ident),* $(,)?])*) => {
        $(#[test]
        fn $test() {
            if !rustix::process::geteuid().is_root() {
                eprintln!("SKIPPED: overlays are mounted by root only");
                return;
            }
            let wrong = misjudged(snapshots::all(), &Exhibit {
                name: stringify!($fault),
                open: |dir| Box::pin(async move { Broken::open(&dir, Fault::$fault) }),
                law: stringify!($law),
                also: &[$(stringify!($also)),*],
            });
            assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        })*
    };
}

convicted! {
    one_that_loses_the_new_parent: LosesTheNewParent =>
        a_commit_sets_a_parent_or_is_refused [a_layer_given_a_parent_shows_it]
    one_that_commits_nothing: CommitsNothing => a_chain_shows_all_its_layers [
        a_child_leaves_its_parent_alone,
        a_view_shows_its_parent_and_is_read_only,
        a_child_has_the_attributes_of_its_parent,
        a_chain_may_be_long,
        a_recreated_directory_is_empty,
        owners_and_modes_go_through_layers,
        names_move_out_of_their_layer,
        a_layer_given_a_parent_shows_it,
        usage_is_fixed_by_the_commit,
        what_nobody_changed_is_sound,
        changed_files_are_found,
        a_replaced_snapshot_has_the_new_files,
    ]
    one_that_lets_views_be_written: LetsViewsBeWritten =>
        a_view_shows_its_parent_and_is_read_only [a_view_of_nothing_is_empty]
    one_that_writes_into_the_parent: WritesIntoTheParent => a_child_leaves_its_parent_alone [
        a_reopened_snapshotter_has_its_snapshots,
        a_chain_shows_all_its_layers,
        siblings_do_not_see_each_other,
        a_view_shows_its_parent_and_is_read_only,
        a_chain_may_be_long,
        a_recreated_directory_is_empty,
        owners_and_modes_go_through_layers,
        names_move_out_of_their_layer,
        a_layer_given_a_parent_shows_it,
        usage_is_fixed_by_the_commit,
        a_removal_frees_its_space,
        cleanup_frees_leftovers_and_nothing_else,
        what_nobody_changed_is_sound,
        changed_files_are_found,
        a_replaced_snapshot_has_the_new_files,
    ]
    one_that_inherits_labels: InheritsLabels => a_commit_replaces_labels_and_time []
    one_that_removes_what_was_updated: RemovesWhatWasUpdated =>
        a_snapshot_updated_since_the_scan_stays []
    one_that_finds_no_damage: FindsNothing => changed_files_are_found []
    one_that_replaces_nothing: ReplacesNothing => a_replaced_snapshot_has_the_new_files [
        only_a_fitting_snapshot_replaces_another,
    ]
    one_that_counts_the_parents: CountsTheParents => a_view_does_not_count_its_parent []
}
