//! Laws of [`cas_core::Records`].

mod batch;
mod durable;
mod fault;
mod race;
mod scan;
mod swap;

laws! { $
    /// Holds a home of records to its laws: one test each, in a module of the given name.
    ///
    /// The opener is an async closure from a directory to `Result<Arc<dyn Records>>` that
    /// captures nothing; the gaps, [`Gaps`](crate::Gaps), may be left out.
    records!, __records_tests!, records: dyn cas_core::Records;
    swap() [
        absent_is_expected_once,
        a_revision_is_good_for_one_change,
        any_overwrites_and_deletes,
        values_of_any_length_come_back,
        a_revision_never_comes_back,
    ]
    scan() [
        a_scan_is_in_key_order,
        a_prefix_is_taken_literally,
        tables_are_separate,
        odd_keys_are_keys,
    ]
    batch() [
        a_batch_is_applied_in_order,
        a_batch_sees_its_own_changes,
        a_conflict_leaves_a_prefix_at_most,
    ]
    batch(needs Atomic) [a_conflict_applies_nothing]
    race(racy) [
        eight_incrementers_lose_nothing,
        one_creator_of_a_key_wins,
        a_scan_shows_what_stays,
    ]
    durable(needs Durable) [a_reopened_home_has_its_records]
    durable(needs Durable, racy) [a_killed_process_keeps_its_records]
    fault(needs Durable, racy) [
        a_kill_at_any_call_keeps_the_records,
        a_failed_call_keeps_the_records,
        a_full_disk_keeps_the_records,
        an_acknowledged_record_was_synced,
    ]
    race(needs Shared, racy) [incrementers_of_two_openings_lose_nothing]
    durable(needs Shared) [openings_see_the_same_records]
}
