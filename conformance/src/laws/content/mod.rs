//! Laws of [`cas_core::ContentStore`].

mod ingest;
mod list;
mod read;

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
    ]
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
    ]
}
