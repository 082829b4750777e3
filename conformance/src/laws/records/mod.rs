//! Laws of [`cas_core::Records`].

mod batch;
mod durable;
mod fault;
mod race;
mod scan;
mod swap;

/// What a law of this group is given.
type Subject = crate::Subject<dyn cas_core::Records>;

laws! { $
    /// Holds a home of records to its laws: one test each, in a module of the given name.
    ///
    /// The opener is an async closure from a directory to `Result<Arc<dyn Records>>` that
    /// captures nothing; the gaps, [`Gaps`](crate::Gaps), may be left out.
    records!, __records_tests!, records: dyn cas_core::Records;
    swap() [
        absent_is_expected_once:
            "Two creators would both believe that the name is theirs"
            ["cas_core::records::Expect"],
        a_revision_is_good_for_one_change:
            "Of two updates one would be lost without a word: a label, an edge, a lease"
            ["cas_core::records::Expect"],
        any_overwrites_and_deletes:
            "What cleans up could not repeat itself after a crash"
            ["cas_core::records::Expect"],
        values_of_any_length_come_back:
            "The labels of a large index, or none at all, would not survive"
            ["cas_core::Records"],
        a_revision_never_comes_back:
            "A collector would take a record made anew for the one that it condemned"
            ["docs/DURABILITY.md, Leases and collection"],
    ]
    scan() [
        a_scan_is_in_key_order:
            "Pages could not be gone on with, and a lease would be passed over"
            ["cas_core::Records::scan"],
        a_prefix_is_taken_literally:
            "A key with a wildcard in it would show the records of others"
            ["cas_core::Records::scan"],
        tables_are_separate:
            "An image and a lease of one name would be one record"
            ["cas_core::records::Table"],
        odd_keys_are_keys:
            "Names are text, and two of them would be one where the engine folds or escapes them"
            ["containerd metadata keys; cas_core::limit::KEY"],
    ]
    batch() [
        a_batch_is_applied_in_order:
            "A name would stand before what it stands for"
            ["cas_core::records::Batch"],
        a_batch_sees_its_own_changes:
            "A batch that creates and then counts on it would fail, or overwrite"
            ["cas_core::records::Batch"],
        a_conflict_leaves_a_prefix_at_most:
            "After a lost race a name would be there without its blobs"
            ["cas_core::Records::commit"],
    ]
    batch(needs Atomic) [
        a_conflict_applies_nothing:
            "A lost race would leave half a change, which the next attempt trips over"
            ["cas_core::Capability::Atomic"],
        a_batch_of_many_keys_is_one_step:
            "A collection would remove records that it did not mean, or overwrite those of a job"
            ["cas_core::Capability::Atomic"],
    ]
    race(needs Atomic, racy) [
        one_creator_of_many_keys_wins:
            "Two jobs would each own a half of what belongs together"
            ["cas_core::Capability::Atomic"],
    ]
    race(racy) [
        eight_incrementers_lose_nothing:
            "A compare-and-swap that two win loses an update: a label, an edge, a lease"
            ["cas_core::Records; opencontainers/umoci#146"],
        one_creator_of_a_key_wins:
            "Two jobs would own one lease, and the first to end takes it from the other"
            ["cas_core::records::Expect"],
        a_scan_shows_what_stays:
            "A collection would pass over a lease that was there all the time"
            ["cas_core::Records::scan"],
    ]
    durable(needs Durable) [
        a_reopened_home_has_its_records:
            "After a restart nothing would hold the blobs, and the next collection takes all"
            ["docs/DURABILITY.md, Bytes (2)"],
    ]
    durable(needs Durable, racy) [
        a_killed_process_keeps_its_records:
            "A lease that was granted would be gone after a crash, and what it held with it"
            ["docs/DURABILITY.md, Bytes (3); containerd#9929"],
    ]
    fault(needs Durable, racy) [
        a_kill_at_any_call_keeps_the_records:
            "A lease that was granted would be gone after a crash, and what it held with it"
            ["docs/DURABILITY.md, Bytes (3)"],
        a_failed_call_keeps_the_records:
            "A change would be acknowledged that the device never took"
            ["docs/DURABILITY.md, Bytes; PostgreSQL's fsync errors of 2018"],
        a_full_disk_keeps_the_records:
            "A disk that fills up would cost the records of what is on it"
            ["docs/DURABILITY.md, Bytes; facebook/rocksdb#7784"],
        an_acknowledged_record_was_synced:
            "A loss of power would take the lease of a job that goes on"
            ["docs/DURABILITY.md, Bytes (2)"],
    ]
    race(needs Shared, racy) [
        incrementers_of_two_openings_lose_nothing:
            "A pull and a collection of two processes would undo each other's changes"
            ["cas_core::Capability::Shared"],
    ]
    durable(needs Shared) [
        openings_see_the_same_records:
            "A collection would not see the lease of a pull in another process"
            ["cas_core::Capability::Shared; lf-edge/eve#1248"],
    ]
}
