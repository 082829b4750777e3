//! Laws of collection, for a whole [`cas_core::Store`]: what is held stays, what is not goes,
//! whoever else is at work.

mod crowd;
mod fault;
mod holds;
mod labels;
mod races;
mod repeat;

use std::time::{Duration, SystemTime};

use cas_core::collect::{Collected, Options, collect};
use cas_core::content::Stat;
use cas_core::{Digest, Store};

laws! { $
    /// Holds a store to the laws of collection: one test each, in a module of the given name.
    ///
    /// The opener is an async closure from a directory to `Result<Arc<Store>>` that captures
    /// nothing; the gaps, [`Gaps`](crate::Gaps), may be left out.
    store!, __store_tests!, collect: cas_core::Store;
    holds() [
        what_a_name_reaches_is_kept,
        a_dry_run_removes_nothing,
        a_lease_keeps_what_it_lists_and_all_below,
        a_flat_lease_keeps_the_thing_alone,
        an_expired_lease_keeps_nothing,
        only_the_owner_ends_a_lease,
        a_blob_without_a_lease_lives_a_day,
        an_ingest_lives_a_day,
        what_an_import_did_not_name_goes,
        a_path_from_each_holder_is_told,
    ]
    labels() [
        a_root_label_keeps_a_blob,
        a_reference_has_the_exact_suffix,
        a_back_reference_keeps_the_child,
        an_image_that_expired_goes,
        a_condition_needs_its_snapshot,
    ]
    races() [
        a_condemned_blob_can_be_held_again,
        what_is_stored_over_a_tombstone_is_live,
        a_collection_finishes_what_another_began,
        a_lease_that_expired_in_the_middle_is_noticed,
        what_was_touched_since_it_was_noted_stays,
    ]
    repeat() [
        a_job_can_be_repeated_after_any_failed_call,
        a_job_can_be_repeated_after_any_lost_answer,
    ]
    crowd(racy) [collections_beside_everything_lose_nothing]
    fault(needs Durable, racy) [
        a_kill_at_any_call_keeps_the_store,
        a_failed_call_keeps_the_store,
        a_full_disk_keeps_the_store,
        an_acknowledged_name_was_synced,
    ]
    crowd(needs Shared, racy) [
        two_openings_collect_and_import_at_once,
        killed_importers_lose_no_name,
    ]
}

/// Collects by a clock that is `ahead` of the real one.
async fn collect_in(store: &Store, ahead: Duration) -> Collected {
    let options = Options {
        now: SystemTime::now() + ahead,
        ..Options::default()
    };
    collect(store, &[], &options)
        .await
        .expect("it is collected")
}

async fn collect_now(store: &Store) -> Collected {
    collect_in(store, Duration::ZERO).await
}

/// A day and a bit: what is kept for a day is kept no more.
const DAY: Duration = Duration::from_secs(25 * 3600);

/// Every blob that is there.
async fn there(store: &Store) -> Vec<Digest> {
    let page = store.content.list(None, 10_000).await;
    let stats: Vec<Stat> = page.expect("the list answers");
    stats.into_iter().map(|stat| stat.digest).collect()
}

fn sorted(mut digests: Vec<Digest>) -> Vec<Digest> {
    digests.sort();
    digests.dedup();
    digests
}
