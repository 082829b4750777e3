//! Laws of [`cas_core::Records`].

mod batch;
mod durable;
mod fault;
mod race;
mod scan;
mod swap;

/// The argument of a law of this group.
type Subject = crate::Subject<dyn cas_core::Records>;

laws! { $
    /// Makes a module with a test for each law of records stores. The first argument is the name of
    /// the module.
    ///
    /// The second argument is the opener, an async closure that captures nothing. It receives a
    /// directory, opens the store there, and creates the store if there is none. It returns a
    /// `Result<Arc<dyn Records>>`. The optional third argument, [`Gaps`](crate::Gaps), lists the
    /// laws that the store cannot keep.
    records!, __records_tests!, records: dyn cas_core::Records;
    swap() [
        absent_is_expected_once:
            "Two callers that create the same record would both report success"
            ["cas_core::records::Expect"],
        a_revision_is_good_for_one_change:
            "One of two updates, for example of a label or a lease, would be lost silently"
            ["cas_core::records::Expect"],
        any_overwrites_and_deletes:
            "A cleanup could not be repeated after a crash"
            ["cas_core::records::Expect"],
        values_of_any_length_come_back:
            "The labels of a large index, or an empty value, would be lost"
            ["cas_core::Records"],
        a_revision_never_comes_back:
            "A collector would mistake a recreated record for the record that it tombstoned"
            ["docs/DURABILITY.md, Leases and collection"],
    ]
    scan() [
        a_scan_is_in_key_order:
            "A scan would skip a lease when it continues with the next page"
            ["cas_core::Records::scan"],
        a_prefix_is_taken_literally:
            "A scan for a prefix that contains a wildcard would find other records"
            ["cas_core::Records::scan"],
        tables_are_separate:
            "An image and a lease with the same name would share one record"
            ["cas_core::records::Table"],
        tables_are_alike:
            "An update would be lost in one table, but not in the other tables"
            ["cas_core::records::Table"],
        odd_keys_are_keys:
            "Two keys would become one record in an engine that ignores case or escapes keys badly"
            ["containerd metadata keys; cas_core::limit::KEY"],
    ]
    batch() [
        a_batch_is_applied_in_order:
            "A name would exist before the blob it points to"
            ["cas_core::records::Batch"],
        a_batch_sees_its_own_changes:
            "A batch that changes a record twice would fail, or would create the record twice"
            ["cas_core::records::Batch"],
        a_conflict_leaves_a_prefix_at_most:
            "After a lost race, a name would exist without its blobs"
            ["cas_core::Records::commit"],
    ]
    batch(needs Atomic) [
        a_conflict_applies_nothing:
            "A lost race would leave a part of a batch, and the next attempt would fail"
            ["cas_core::Capability::Atomic"],
        a_batch_of_many_keys_is_one_step:
            "A large batch would be applied in part, or would delete records that it does not list"
            ["cas_core::Capability::Atomic"],
    ]
    race(needs Atomic, racy) [
        one_creator_of_many_keys_wins:
            "Two jobs would each own half of the records that belong together"
            ["cas_core::Capability::Atomic"],
    ]
    race(racy) [
        eight_incrementers_lose_nothing:
            "If two callers won the same compare-and-swap, one of their updates would be lost"
            ["cas_core::Records; opencontainers/umoci#146"],
        one_creator_of_a_key_wins:
            "Two jobs would own one lease, and the first job to end would delete it"
            ["cas_core::records::Expect"],
        a_scan_shows_what_stays:
            "A collection would miss a lease that existed during the whole scan"
            ["cas_core::Records::scan"],
    ]
    durable(needs Durable) [
        a_reopened_store_has_its_records:
            "After a restart, nothing would keep the blobs, and a collection would remove them"
            ["docs/DURABILITY.md, Bytes (2)"],
    ]
    durable(needs Durable, racy) [
        a_killed_process_keeps_its_records:
            "A granted lease would be lost in a crash, and the blobs that it keeps would be removed"
            ["docs/DURABILITY.md, Bytes (3); containerd#9929"],
    ]
    fault(needs Durable, racy) [
        a_kill_at_any_call_keeps_the_records:
            "A granted lease would be lost in a crash, and the blobs that it keeps would be removed"
            ["docs/DURABILITY.md, Bytes (3)"],
        a_failed_call_keeps_the_records:
            "A change that the device never stored would be acknowledged"
            ["docs/DURABILITY.md, Bytes; PostgreSQL's fsync errors of 2018"],
        a_full_disk_keeps_the_records:
            "On a full disk, the records of stored content would be lost"
            ["docs/DURABILITY.md, Bytes; facebook/rocksdb#7784"],
        an_acknowledged_record_was_synced:
            "A power loss would remove the lease of a job that resumes afterwards"
            ["docs/DURABILITY.md, Bytes (2)"],
    ]
    race(needs Shared, racy) [
        incrementers_of_two_openings_lose_nothing:
            "A pull and a collection in two processes would undo each other's changes"
            ["cas_core::Capability::Shared"],
    ]
    durable(needs Shared) [
        openings_see_the_same_records:
            "A collection would not find the lease of a pull in another process"
            ["cas_core::Capability::Shared; lf-edge/eve#1248"],
    ]
}
