//! Laws of [`cas_core::ContentStore`].

mod commit;
mod crash;
mod durable;
mod fault;
mod ingest;
mod list;
mod many;
mod model;
mod read;
mod shared;

laws! { $
    /// Holds a content store to its laws: one test each, in a module of the given name.
    ///
    /// The opener is an async closure from a directory to `Result<Arc<dyn ContentStore>>` that
    /// captures nothing; the gaps, [`Gaps`](crate::Gaps), may be left out.
    content_store!, __content_tests!, content: dyn cas_core::ContentStore;
    read() [
        an_empty_blob_is_a_blob,
        sizes_around_pieces_come_back,
        an_absent_blob_is_none,
        reads_stop_at_the_end,
        sha512_names_content_too,
        a_reader_never_reads_other_bytes,
        bytes_of_many_parts_come_back,
    ]
    read(needs Files) [a_file_has_the_bytes]
    ingest() [
        a_dropped_writer_is_resumed,
        a_second_writer_is_busy,
        keys_are_independent,
        a_wrong_digest_stays_invisible,
        a_wrong_size_stays_invisible,
        a_failed_commit_can_be_made_right,
        rewind_forgets_what_was_written,
        discard_forgets_the_ingest,
        a_published_ingest_is_gone,
        bad_keys_are_refused,
        storing_twice_keeps_one_copy,
    ]
    ingest(racy) [sixteen_writers_of_one_digest_agree]
    list() [
        a_list_is_in_digest_order,
        pages_make_up_the_list,
        a_removed_blob_is_gone,
        ingests_are_listed_by_key,
    ]
    commit() [
        a_foreign_proof_is_refused,
        every_durability_publishes,
        a_removed_blob_can_be_stored_again,
        a_late_removal_spares_what_came_after,
        blobs_are_copied_between_stores,
    ]
    commit(racy) [a_cancelled_publish_is_whole_or_absent, waiting_ends_with_the_other_writer]
    commit(needs Joint) [bytes_and_batch_are_one_step, a_removal_and_its_batch_are_one_step]
    many(racy) [
        forty_writers_of_different_blobs_all_win,
        readers_share_a_blob,
        a_list_shows_what_stays,
    ]
    model(racy) [any_sequence_agrees_with_a_map]
    durable(needs Durable) [
        a_reopened_store_has_its_blobs,
        a_reopened_store_has_the_same_versions,
        a_flush_makes_relaxed_durable,
        a_second_opening_is_shared_or_busy,
    ]
    durable(needs Resume) [an_ingest_outlives_its_store]
    crash(needs Durable, racy) [a_killed_process_keeps_its_blobs]
    crash(needs Resume, racy) [a_killed_writer_leaves_a_prefix]
    fault(needs Durable, racy) [
        a_kill_at_any_call_keeps_the_blobs,
        a_failed_call_keeps_the_blobs,
        a_full_disk_keeps_the_blobs,
        an_acknowledged_publish_was_synced,
    ]
    shared(needs Shared) [openings_see_the_same_blobs, openings_share_the_key]
    shared(needs Shared, racy) [openings_agree_on_one_digest]
}
