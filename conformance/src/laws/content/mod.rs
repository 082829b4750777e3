//! Laws of [`cas_core::ContentStore`].

mod commit;
mod crash;
mod durable;
mod fault;
mod files;
mod ingest;
mod list;
mod many;
mod model;
mod read;
mod shared;

/// What a law of this group is given.
type Subject = crate::Subject<dyn cas_core::ContentStore>;

laws! { $
    /// Holds a content store to its laws: one test each, in a module of the given name.
    ///
    /// The opener is an async closure from a directory to `Result<Arc<dyn ContentStore>>` that
    /// captures nothing; the gaps, [`Gaps`](crate::Gaps), may be left out.
    content_store!, __content_tests!, content: dyn cas_core::ContentStore;
    read() [
        an_empty_blob_is_a_blob:
            "Images list the empty blob like any other, and without it none of them is ever whole"
            ["OCI image-spec, empty descriptor"],
        sizes_around_pieces_come_back:
            "Engines cut blobs into pages, rows or parts; a byte lost at a cut is a broken layer"
            ["cas_core::ContentStore"],
        an_absent_blob_is_none:
            "Who cannot tell absent from broken fetches what is there, or trusts what is not"
            ["EVE CheckBlobExists, which answers both alike"],
        reads_stop_at_the_end:
            "A lazy reader asks beyond the end, and an error or stale bytes there stop a container"
            ["containerd content.ReaderAt"],
        sha512_names_content_too:
            "An image that names its content by SHA-512 could not be stored"
            ["OCI image-spec, registered algorithms"],
        a_reader_never_reads_other_bytes:
            "A container that reads while its image is removed would get the bytes of another"
            ["cas_core::ContentStore::open"],
        bytes_of_many_parts_come_back:
            "Layers are longer than any part, and one lost or moved is damage found weeks later"
            ["cas_core::ContentStore"],
    ]
    read(needs Files) [
        a_file_has_the_bytes:
            "The kernel copies the file as it is; one that holds more or less is a wrong layer"
            ["cas_core::BlobReader::file"],
    ]
    files() [
        a_file_becomes_its_bytes:
            "A file that is shared with the store and changes later would be a blob that lies"
            ["cas_core::Ingest::adopt"],
        a_compaction_keeps_what_is_there:
            "Disk that comes back at the cost of one living layer is no gain"
            ["cas_core::ContentStore::compact"],
    ]
    ingest() [
        a_dropped_writer_is_resumed:
            "A pull that broke at 99 % would begin again from nothing"
            ["containerd content.Writer; containerd#12314"],
        a_second_writer_is_busy:
            "Two writers of one file give a blob that is neither's, and every pull of it fails"
            ["containerd content.Ingester; containerd#1545"],
        keys_are_independent:
            "The layers of one image come side by side, and one would get the bytes of another"
            ["containerd content.Ingester"],
        a_wrong_digest_stays_invisible:
            "A mirror that lies would put its bytes under a name that others trust"
            ["docs/DURABILITY.md, Bytes (1)"],
        a_wrong_size_stays_invisible:
            "A download that was cut short would count as the layer"
            ["docs/DURABILITY.md, Bytes (1)"],
        a_failed_commit_can_be_made_right:
            "A wrong expectation would cost the whole download"
            ["containerd content.Writer.Commit"],
        rewind_forgets_what_was_written:
            "A download that starts over would keep stale bytes behind the new ones"
            ["containerd content.Writer.Truncate"],
        discard_forgets_the_ingest:
            "Downloads that were given up would fill the disk"
            ["containerd content.IngestManager.Abort"],
        a_published_ingest_is_gone:
            "Every blob would take its space twice, once as an ingest that nobody ends"
            ["containerd content.Writer.Commit"],
        bad_keys_are_refused:
            "A key that becomes a path or a URL reaches what it should not"
            ["cas_core::content::check_key"],
        storing_twice_keeps_one_copy:
            "Layers that many images share would be stored once for each"
            ["containerd content.Writer.Commit, AlreadyExists"],
    ]
    ingest(racy) [
        sixteen_writers_of_one_digest_agree:
            "Pulls of images that share a layer would fail each other at the same moment"
            ["containerd#8790"],
    ]
    list() [
        a_list_is_in_digest_order:
            "Lists could not be merged, split or gone on with"
            ["cas_core::ContentStore::list"],
        pages_make_up_the_list:
            "A blob between two pages is neither shown nor ever collected"
            ["cas_core::ContentStore::list"],
        a_removed_blob_is_gone:
            "What was removed would be found again by one way of asking, and be counted on"
            ["containerd content.Manager.Delete"],
        ingests_are_listed_by_key:
            "Nobody would know what is on its way in, nor what an interrupted pull has left"
            ["containerd content.IngestManager.ListStatuses"],
    ]
    commit() [
        a_foreign_proof_is_refused:
            "Unchecked bytes would become a blob by the proof of others"
            ["cas_core::content::Verified"],
        every_durability_publishes:
            "A manifest is asked for as soon as its publish returned, and would not be there"
            ["docs/DURABILITY.md, Bytes"],
        a_removed_blob_can_be_stored_again:
            "An image that was removed could not be pulled again"
            ["docs/DURABILITY.md, Bytes"],
        a_late_removal_spares_what_came_after:
            "A slow collector would remove what was pulled after it had looked"
            ["containerd#2695; docs/DURABILITY.md, Leases and collection"],
        a_removal_of_many_takes_those_alone:
            "A collection that removes neighbours together would take what lies between them"
            ["cas_core::ContentStore::remove_versions"],
        blobs_are_copied_between_stores:
            "Migration and mirror are this copy, and would begin anew when interrupted"
            ["containerd content.Copy"],
    ]
    commit(racy) [
        a_cancelled_publish_is_whole_or_absent:
            "Whoever presses Ctrl-C would leave half a blob, or a key that stays locked"
            ["containerd#12211"],
        waiting_ends_with_the_other_writer:
            "The second of two pulls of a layer would fail, or wait for ever"
            ["containerd content.OpenWriter; containerd#4985"],
    ]
    commit(needs Joint) [
        bytes_and_batch_are_one_step:
            "A crash between bytes and record leaves a blob that nothing knows or removes"
            ["cas_core::Capability::Joint"],
        a_removal_and_its_batch_are_one_step:
            "A collection that lost its race would have removed the bytes all the same"
            ["cas_core::ContentStore::remove_versions"],
    ]
    many(racy) [
        forty_writers_of_different_blobs_all_win:
            "Side by side some layers would be lost, and the image never whole"
            ["cas_core::ContentStore"],
        readers_share_a_blob:
            "Unpacking and serving one layer at once would mix up their places in it"
            ["containerd content.ReaderAt"],
        a_list_shows_what_stays:
            "A collection would miss, or take twice, what was there all the time"
            ["cas_core::ContentStore::list"],
    ]
    model(racy) [
        any_sequence_agrees_with_a_map:
            "What one operation keeps another would lose, in an order that nobody has tried"
            ["RocksDB db_stress: an oracle of the expected state"],
    ]
    durable(needs Durable) [
        a_reopened_store_has_its_blobs:
            "Every restart would pull every image again"
            ["docs/DURABILITY.md, Bytes (2)"],
        a_reopened_store_has_the_same_versions:
            "A collection that goes on after a restart would remove what came after it"
            ["cas_core::content::Version"],
        a_flush_makes_relaxed_durable:
            "An import that flushes once at its end would have flushed nothing"
            ["docs/DURABILITY.md, Bytes (Relaxed)"],
        a_second_opening_is_shared_or_busy:
            "Two owners that do not know of each other overwrite each other's pages"
            ["docs/DURABILITY.md, Order in the store of one file"],
    ]
    durable(needs Resume) [
        an_ingest_outlives_its_store:
            "Every restart would begin the download of a large layer again"
            ["containerd content.Writer; cas_core::Capability::Resume"],
    ]
    crash(needs Durable, racy) [
        a_killed_process_keeps_its_blobs:
            "An image reported as stored would be broken after a crash, and no pull repairs it"
            ["docs/DURABILITY.md, Bytes (2) and (3); containerd#10457"],
    ]
    crash(needs Resume, racy) [
        a_killed_writer_leaves_a_prefix:
            "A resumed download would go on behind bytes that never came, and fail at its end"
            ["docs/DURABILITY.md, Order in the store of files"],
    ]
    fault(needs Durable, racy) [
        a_kill_at_any_call_keeps_the_blobs:
            "A blob that was acknowledged would be gone, or half there, after a crash at a bad time"
            ["docs/DURABILITY.md, Bytes (2)"],
        a_failed_call_keeps_the_blobs:
            "An error of the device would be swallowed, and the layer is missed when it is needed"
            ["docs/DURABILITY.md, Bytes; PostgreSQL's fsync errors of 2018"],
        a_full_disk_keeps_the_blobs:
            "A disk that fills up would cost what was stored before"
            ["docs/DURABILITY.md, Bytes; facebook/rocksdb#7784"],
        an_acknowledged_publish_was_synced:
            "A loss of power would take a layer that a registry was told is stored"
            ["docs/DURABILITY.md, Bytes (2); facebook/rocksdb#10573"],
    ]
    shared(needs Shared) [
        openings_see_the_same_blobs:
            "Two processes of one machine would pull each layer twice"
            ["cas_core::Capability::Shared"],
        openings_share_the_key:
            "Two processes would write one ingest, and neither's blob is right"
            ["containerd content.Ingester"],
    ]
    shared(needs Shared, racy) [
        openings_agree_on_one_digest:
            "Two processes that pull one image would fail each other"
            ["containerd#8790"],
    ]
}
