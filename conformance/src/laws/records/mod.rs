//! Laws of [`cas_core::Records`].

mod batch;
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
    ]
    batch(needs Atomic) [a_conflict_applies_nothing]
}
