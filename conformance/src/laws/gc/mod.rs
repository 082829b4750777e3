//! Laws of garbage collection, for a whole [`cas_core::Store`]. Reachable content must stay, and
//! all other content must be removed, even while other jobs run.

mod crowd;
mod fault;
mod holds;
mod labels;
mod model;
mod owners;
mod platforms;
mod races;
mod repeat;

use std::time::{Duration, SystemTime};

use cas_core::content::Stat;
use cas_core::gc::{GcOptions, Removed, collect};
use cas_core::{Digest, Store};

/// The argument of a law of this group.
type Subject = crate::Subject<cas_core::Store>;

laws! { $
    /// Makes a module with a test of a whole store for each law of gc. The first argument is the
    /// name of the module.
    ///
    /// The second argument is the opener, an async closure that captures nothing. It receives a
    /// directory, opens the store there, and creates the store if there is none. It returns a
    /// `Result<Arc<Store>>`. The optional third argument, [`Gaps`](crate::Gaps), lists the laws
    /// that the store cannot keep.
    store!, __store_tests!, gc: cas_core::Store;
    holds() [
        what_a_name_reaches_is_kept:
            "Removing one image would break another image that shares its layers"
            ["docs/DURABILITY.md, Leases and collection"],
        a_dry_run_removes_nothing:
            "A dry run would remove content that it must only list"
            ["cas_core::gc::GcOptions"],
        a_lease_keeps_what_it_lists_and_all_below:
            "A pull would lose its first layers while it fetches its last layers"
            ["containerd leases.Manager; lf-edge/eve#1248"],
        a_flat_lease_keeps_only_what_it_lists:
            "A job that needs only a manifest would keep gigabytes of layers"
            ["containerd docs/garbage-collection.md, gc.flat"],
        an_expired_lease_keeps_nothing:
            "The space of killed jobs would never be freed"
            ["containerd docs/garbage-collection.md, gc.expire"],
        only_the_owner_ends_a_lease:
            "Another job could end the lease of a running pull, and the pull would lose its layers"
            ["moby#53321"],
        a_blob_without_a_lease_lives_a_day:
            "A blob would be removed after its upload and before the upload of its manifest"
            ["docs/DURABILITY.md, Leases and collection; quay/quay#6318"],
        an_ingest_lives_a_day:
            "A running download would be removed, or an abandoned one would stay forever"
            ["containerd metadata, ingest expireat of 24 h"],
        a_failed_import_is_collected:
            "Every failed import would leave its layers on the disk"
            ["docs/DURABILITY.md, Leases and collection"],
        each_root_that_keeps_a_blob_is_explained:
            "Nobody could find out why a blob is kept, or whether it can be removed"
            ["containerd#10548"],
    ]
    labels() [
        a_root_label_keeps_a_blob:
            "Content that tools for containerd protect with the label gc.root would be removed"
            ["containerd docs/garbage-collection.md, gc.root"],
        a_reference_has_the_exact_suffix:
            "A label that only looks like a reference would keep content forever"
            ["containerd docs/garbage-collection.md, gc.ref"],
        a_back_reference_keeps_the_child:
            "A signature of an image would be removed although the image stays"
            ["containerd docs/garbage-collection.md, gc.bref"],
        a_referrer_lives_as_long_as_its_subject:
            "A collection would remove a signature that was pulled with its image"
            ["distribution-spec 1.1, listing referrers"],
        an_expired_image_is_removed:
            "An image that should expire after an hour would stay forever"
            ["containerd docs/garbage-collection.md, gc.expire"],
        a_condition_needs_its_snapshot:
            "A label with a condition that can never be met would keep content forever"
            ["containerd docs/garbage-collection.md, gc.cond"],
    ]
    races() [
        a_tombstoned_blob_can_be_pinned_again:
            "A pull that finds a layer in the store would lose the layer a moment later"
            ["distribution/distribution#3544"],
        a_blob_stored_over_a_tombstone_is_live:
            "A layer that is pulled again would be removed by the tombstone of the old copy"
            ["docs/DURABILITY.md, Leases and collection"],
        a_collection_finishes_what_another_began:
            "A killed collection would leave tombstoned blobs whose space is never freed"
            ["docs/DURABILITY.md, Leases and collection"],
        a_lease_that_expires_during_a_job_is_noticed:
            "A pull that was suspended for too long would name an image whose layers are gone"
            ["docs/DURABILITY.md, Leases and collection"],
        a_blob_pinned_since_the_scan_stays:
            "A collection would remove a blob that a job pinned during the scan"
            ["containerd#1674; distribution/distribution#3544"],
    ]
    repeat() [
        a_job_can_be_repeated_after_any_failed_call:
            "An import that failed once would always fail, or leave blobs that are never collected"
            ["docs/DURABILITY.md, Bytes: repeating a call is always safe"],
        a_job_can_be_repeated_after_any_lost_response:
            "A call whose response was lost would fail when it is repeated"
            ["docs/DURABILITY.md, Bytes: repeating a call is always safe"],
    ]
    platforms() [
        a_failed_pull_leaves_stored_platforms_complete:
            "A failed pull of another platform would break the stored platform"
            ["docs/DURABILITY.md, Leases and collection; containerd#2590"],
    ]
    model(racy) [
        any_sequence_agrees_with_plain_maps:
            "Some order of operations that no other test has tried would lose data"
            ["RocksDB db_stress, which compares a database with its expected state after faults"],
    ]
    owners() [
        an_owner_sees_only_their_names:
            "A tenant would list the images of other tenants, and might remove them by mistake"
            ["docs/decisions/0016-owners.md; EVE, label eve-downloaded"],
        a_name_of_another_owner_is_denied:
            "A tenant would replace the image that another tenant runs"
            ["docs/decisions/0016-owners.md"],
        an_owner_collects_only_their_content:
            "The collection of one tenant would remove the content of another"
            ["docs/decisions/0016-owners.md; EVE on a node that is shared with k3s"],
        bytes_stay_while_a_root_is_left:
            "A tenant that removes an image would remove layers that images of other tenants need"
            ["docs/decisions/0016-owners.md"],
        a_name_claims_what_it_reaches:
            "A tenant would lose content that another tenant happened to store first"
            ["docs/decisions/0016-owners.md"],
        a_revived_blob_keeps_no_old_claim:
            "A blob would be kept for an owner that no longer uses the blob"
            ["docs/decisions/0016-owners.md"],
        a_lease_keeps_a_claim:
            "A tenant's collection would remove blobs that the tenant's own pull is storing"
            ["docs/decisions/0016-owners.md"],
    ]
    owners(racy) [
        owners_collect_at_once:
            "Two tenants that collect at the same time would lose a blob, or keep it forever"
            ["docs/decisions/0016-owners.md"],
    ]
    fault(needs Durable, racy) [
        a_kill_at_any_call_keeps_the_store:
            "A name would point to lost content, or leftover blobs would never be collected"
            ["docs/DURABILITY.md, Leases and collection"],
        a_failed_call_keeps_the_store:
            "After an error of the device, an acknowledged name or its content would be lost"
            ["docs/DURABILITY.md, Leases and collection"],
        a_full_disk_keeps_the_store:
            "After a disk was full, an acknowledged name or its content would be lost"
            ["docs/DURABILITY.md; facebook/rocksdb#7784"],
        an_acknowledged_name_was_synced:
            "A power loss would remove the name of a pulled image"
            ["docs/DURABILITY.md, Names"],
    ]
    crowd(racy) [
        collections_during_other_jobs_lose_nothing:
            "A collection could run only while no other job runs"
            ["docs/DURABILITY.md, Leases and collection; containerd#2695"],
    ]
    crowd(needs Shared, racy) [
        two_openings_collect_and_import_at_once:
            "One machine would collect blobs that another machine pulls into the shared store"
            ["docs/DURABILITY.md, Leases and collection"],
        killed_importers_lose_no_name:
            "A killed import would remove names that finished imports created"
            ["docs/DURABILITY.md, Names"],
    ]
}

/// Collects with a clock that is ahead of the real clock by `ahead`. Returns what was removed.
async fn collect_in(store: &Store, ahead: Duration) -> Removed {
    let options = GcOptions::default().with_now(SystemTime::now() + ahead);
    collect(store, &[], &options)
        .await
        .expect("the collection must succeed")
}

async fn collect_now(store: &Store) -> Removed {
    collect_in(store, Duration::ZERO).await
}

/// A time that is longer than the day for which new blobs and ingests are kept.
const DAY: Duration = Duration::from_secs(25 * 3600);

/// Returns the digests of all blobs.
async fn there(store: &Store) -> Vec<Digest> {
    let page = store.content.list(None, 10_000).await;
    let stats: Vec<Stat> = page.expect("list must succeed");
    stats.into_iter().map(|stat| stat.digest).collect()
}

fn sorted(mut digests: Vec<Digest>) -> Vec<Digest> {
    digests.sort();
    digests.dedup();
    digests
}
