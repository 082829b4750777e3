//! Laws of collection, for a whole [`cas_core::Store`]: what is held stays, what is not goes,
//! whoever else is at work.

mod crowd;
mod fault;
mod holds;
mod labels;
mod model;
mod races;
mod repeat;

use std::time::{Duration, SystemTime};

use cas_core::content::Stat;
use cas_core::gc::{GcOptions, Removed, collect};
use cas_core::{Digest, Store};

/// What a law of this group is given.
type Subject = crate::Subject<cas_core::Store>;

laws! { $
    /// Holds a store to the laws of collection: one test each, in a module of the given name.
    ///
    /// The opener is an async closure from a directory to `Result<Arc<Store>>` that captures
    /// nothing; the gaps, [`Gaps`](crate::Gaps), may be left out.
    store!, __store_tests!, gc: cas_core::Store;
    holds() [
        what_a_name_reaches_is_kept:
            "Removing one image would break another that shares its layers"
            ["docs/DURABILITY.md, Leases and collection"],
        a_dry_run_removes_nothing:
            "Who asks what would go would lose it by asking"
            ["cas_core::gc::GcOptions"],
        a_lease_keeps_what_it_lists_and_all_below:
            "A pull would lose its first layers while it fetches the last"
            ["containerd leases.Manager; lf-edge/eve#1248"],
        a_flat_lease_keeps_the_thing_alone:
            "A job that wants a manifest only would hold gigabytes"
            ["containerd docs/garbage-collection.md, gc.flat"],
        an_expired_lease_keeps_nothing:
            "What killed jobs have held would never come back as space"
            ["containerd docs/garbage-collection.md, gc.expire"],
        only_the_owner_ends_a_lease:
            "Cleaning up would end the lease of a pull that runs, and its layers go"
            ["moby#53321"],
        a_blob_without_a_lease_lives_a_day:
            "A blob would go between its upload and the manifest that names it"
            ["docs/DURABILITY.md, Leases and collection; quay/quay#6318"],
        an_ingest_lives_a_day:
            "A download would be taken away under its writer, or its leftovers stay for ever"
            ["containerd metadata, ingest expireat of 24 h"],
        what_an_import_did_not_name_goes:
            "Every failed import would leave its layers on the disk"
            ["docs/DURABILITY.md, Leases and collection"],
        a_path_from_each_holder_is_told:
            "Nobody could say why something is kept, and so nobody dares to remove it"
            ["containerd#10548"],
    ]
    labels() [
        a_root_label_keeps_a_blob:
            "Tools written for containerd pin content by this label, and it would go"
            ["containerd docs/garbage-collection.md, gc.root"],
        a_reference_has_the_exact_suffix:
            "A label that only looks like a reference would keep content for ever"
            ["containerd docs/garbage-collection.md, gc.ref"],
        a_back_reference_keeps_the_child:
            "A signature or an index beside an image would go while the image stays"
            ["containerd docs/garbage-collection.md, gc.bref"],
        an_image_that_expired_goes:
            "What was meant for an hour would stay"
            ["containerd docs/garbage-collection.md, gc.expire"],
        a_condition_needs_its_snapshot:
            "A condition that cannot come true would hold content for ever"
            ["containerd docs/garbage-collection.md, gc.cond"],
    ]
    races() [
        a_condemned_blob_can_be_held_again:
            "A pull that finds a layer present would lose it a moment later"
            ["distribution/distribution#3544"],
        what_is_stored_over_a_tombstone_is_live:
            "A layer that was pulled again would be removed by the tombstone of its predecessor"
            ["docs/DURABILITY.md, Leases and collection"],
        a_collection_finishes_what_another_began:
            "A killed collection would leave tombstones that keep their space"
            ["docs/DURABILITY.md, Leases and collection"],
        a_lease_that_expired_in_the_middle_is_noticed:
            "A laptop that slept would name an image whose layers are gone"
            ["docs/DURABILITY.md, Leases and collection"],
        what_was_touched_since_it_was_noted_stays:
            "A collection would remove what a job took hold of while it marked"
            ["containerd#1674; distribution/distribution#3544"],
    ]
    repeat() [
        a_job_can_be_repeated_after_any_failed_call:
            "An import that failed once would fail for ever, or leave what nobody collects"
            ["docs/DURABILITY.md, Bytes: to repeat a call is always safe"],
        a_job_can_be_repeated_after_any_lost_answer:
            "A call that was done, and of which nobody heard, would be done wrong the second time"
            ["docs/DURABILITY.md, Bytes: to repeat a call is always safe"],
    ]
    model(racy) [
        any_sequence_agrees_with_plain_maps:
            "What one operation keeps another would lose, in an order that nobody has tried"
            ["RocksDB db_stress: an oracle of the expected state, faults among the operations"],
    ]
    fault(needs Durable, racy) [
        a_kill_at_any_call_keeps_the_store:
            "A name would stand for content that a crash took, or an import leave what nothing finds"
            ["docs/DURABILITY.md, Leases and collection"],
        a_failed_call_keeps_the_store:
            "An error in the middle of a collection would take what a name reaches"
            ["docs/DURABILITY.md, Leases and collection"],
        a_full_disk_keeps_the_store:
            "A full disk could not be collected, which is what it needs most"
            ["docs/DURABILITY.md; facebook/rocksdb#7784"],
        an_acknowledged_name_was_synced:
            "A loss of power would take the name of an image that was pulled"
            ["docs/DURABILITY.md, Names"],
    ]
    crowd(racy) [
        collections_beside_everything_lose_nothing:
            "A collection could only run while nothing else does"
            ["docs/DURABILITY.md, Leases and collection; containerd#2695"],
    ]
    crowd(needs Shared, racy) [
        two_openings_collect_and_import_at_once:
            "Of two machines that share a store one would collect what the other pulls"
            ["docs/DURABILITY.md, Leases and collection"],
        killed_importers_lose_no_name:
            "A killed import would take an image with it that another has named"
            ["docs/DURABILITY.md, Names"],
    ]
}

/// Collects by a clock that is `ahead` of the real one.
async fn collect_in(store: &Store, ahead: Duration) -> Removed {
    let options = GcOptions {
        now: SystemTime::now() + ahead,
        ..GcOptions::default()
    };
    collect(store, &[], &options)
        .await
        .expect("it is collected")
}

async fn collect_now(store: &Store) -> Removed {
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
