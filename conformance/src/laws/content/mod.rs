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

/// The argument of a law of this group.
type Subject = crate::Subject<dyn cas_core::ContentStore>;

laws! { $
    /// Makes a module with a test for each law of content stores. The first argument is the name of
    /// the module.
    ///
    /// The second argument is the opener, an async closure that captures nothing. It receives a
    /// directory, opens the store there, and creates the store if there is none. It returns a
    /// `Result<Arc<dyn ContentStore>>`. The optional third argument, [`Gaps`](crate::Gaps), lists
    /// the laws that the store cannot keep.
    content_store!, __content_tests!, content: dyn cas_core::ContentStore;
    read() [
        an_empty_blob_is_a_blob:
            "An image with an empty layer or an empty artifact would never be complete"
            ["cas_core::ContentStore"],
        sizes_around_pieces_come_back:
            "A store that loses a byte where it cuts a blob into pieces would break a layer"
            ["cas_core::ContentStore"],
        an_absent_blob_is_none:
            "A caller could not tell an absent blob from an error, and would fetch the blob again"
            ["EVE CheckBlobExists, which returns false for an absent blob and for an error"],
        reads_stop_at_the_end:
            "A lazy reader that reads past the end of a blob would get an error or stale bytes"
            ["containerd content.ReaderAt"],
        sha512_names_content_too:
            "An image that names its content by SHA-512 could not be stored"
            ["OCI image-spec, registered algorithms"],
        a_reader_never_reads_other_bytes:
            "A container that reads while its image is removed would get bytes of another blob"
            ["cas_core::ContentStore::open"],
        bytes_of_many_parts_come_back:
            "A part of a large layer would be lost or misplaced, and nobody would notice for weeks"
            ["cas_core::ContentStore"],
    ]
    read(needs Files) [
        a_file_has_the_bytes:
            "A copy that the kernel makes from the file of a blob would differ from the blob"
            ["cas_core::BlobReader::file"],
    ]
    files() [
        a_file_becomes_its_bytes:
            "A blob that was stored from a file would be damaged when a program changes the file"
            ["cas_core::Ingest::adopt"],
        changed_bytes_are_noticed:
            "An import of the right bytes would leave a damaged copy in place"
            ["cas_core::ContentStore::is_unchanged"],
        a_damaged_copy_is_replaced:
            "A damaged blob would stay forever, because no import would replace it"
            ["containerd#5854, moby#46649"],
        a_compaction_keeps_what_is_there:
            "A compaction that frees disk space would lose a live layer"
            ["cas_core::ContentStore::compact"],
    ]
    ingest() [
        a_dropped_writer_is_resumed:
            "A pull that broke off at 99 % would start again from zero"
            ["containerd content.Writer; containerd#12314"],
        a_second_writer_is_busy:
            "Two writers of one ingest would mix their bytes, and every pull of the blob would fail"
            ["containerd content.Ingester; containerd#1545"],
        keys_are_independent:
            "Layers that arrive in parallel would get each other's bytes"
            ["containerd content.Ingester"],
        a_wrong_digest_stays_invisible:
            "A mirror could store wrong bytes under a digest that others trust"
            ["docs/DURABILITY.md, Bytes (1)"],
        a_wrong_size_stays_invisible:
            "A truncated download would count as the layer"
            ["docs/DURABILITY.md, Bytes (1)"],
        a_failed_commit_can_be_retried:
            "A commit with a wrong expected digest would discard a complete download"
            ["containerd content.Writer.Commit"],
        rewind_forgets_what_was_written:
            "A download that starts over would keep stale bytes after the new ones"
            ["containerd content.Writer.Truncate"],
        discard_forgets_the_ingest:
            "Abandoned downloads would fill the disk"
            ["containerd content.IngestManager.Abort"],
        a_published_ingest_is_gone:
            "Every blob would take its space twice, once as an ingest that nobody finishes"
            ["containerd content.Writer.Commit"],
        bad_keys_are_refused:
            "A key that becomes a path or a URL could reach other files or objects"
            ["cas_core::content::check_key"],
        a_reader_is_stored_whole_or_not_at_all:
            "A failed read of a source would leave half a layer in the store"
            ["cas_core::content::put_reader; an OCI layout engine's PutBlob"],
        storing_twice_keeps_one_copy:
            "A layer that many images share would be stored once for each image"
            ["containerd content.Writer.Commit, AlreadyExists"],
    ]
    ingest(racy) [
        sixteen_writers_of_one_digest_agree:
            "Simultaneous pulls of images that share a layer would make each other fail"
            ["containerd#8790"],
    ]
    list() [
        a_list_is_in_digest_order:
            "Lists could not be merged, split or continued"
            ["cas_core::ContentStore::list"],
        pages_make_up_the_list:
            "A blob between two pages of a list would never be shown or garbage-collected"
            ["cas_core::ContentStore::list"],
        a_removed_blob_is_gone:
            "A caller would find a removed blob and depend on it"
            ["containerd content.Manager.Delete"],
        ingests_are_listed_by_key:
            "Nobody could see which downloads are running, or what an interrupted pull left"
            ["containerd content.IngestManager.ListStatuses"],
    ]
    commit() [
        a_foreign_proof_is_refused:
            "The proof for one verified ingest would publish the unverified bytes of another ingest"
            ["cas_core::content::Verified"],
        every_durability_publishes:
            "A publish would return before its blob can be read"
            ["docs/DURABILITY.md, Bytes"],
        a_removed_blob_can_be_stored_again:
            "A removed image could not be pulled again"
            ["docs/DURABILITY.md, Bytes"],
        a_late_removal_spares_what_came_after:
            "A slow collector would remove a blob that was pulled after the collector's scan"
            ["containerd#2695; docs/DURABILITY.md, Leases and collection"],
        a_removal_of_many_removes_only_those:
            "A call that removes many blobs would also remove blobs that it does not list"
            ["cas_core::ContentStore::remove_versions"],
        blobs_are_copied_between_stores:
            "An interrupted copy of a blob to another store could not continue"
            ["containerd content.Copy"],
    ]
    commit(racy) [
        a_cancelled_publish_is_whole_or_absent:
            "Pressing Ctrl-C would leave half a blob, or would leave the key of the ingest locked"
            ["containerd#12211"],
        waiting_ends_with_the_other_writer:
            "The second of two pulls of a layer would fail, or wait forever"
            ["containerd content.OpenWriter; containerd#4985"],
    ]
    commit(needs Joint) [
        bytes_and_batch_are_one_step:
            "A crash could leave bytes without a record, and nothing would find or remove them"
            ["cas_core::Capability::Joint"],
        a_removal_and_its_batch_are_one_step:
            "A removal whose record changes are refused would still remove the bytes of the blobs"
            ["cas_core::ContentStore::remove_versions"],
    ]
    many(racy) [
        forty_writers_of_different_blobs_all_win:
            "Layers stored in parallel would be lost, and the image would never be complete"
            ["cas_core::ContentStore"],
        readers_share_a_blob:
            "Two readers of a layer, such as an unpack and a push, would mix up their offsets"
            ["containerd content.ReaderAt"],
        a_list_shows_what_stays:
            "A collection would miss blobs that existed during the whole scan, or find them twice"
            ["cas_core::ContentStore::list"],
    ]
    model(racy) [
        any_sequence_agrees_with_a_map:
            "Some order of operations that no other test has tried would lose data"
            ["RocksDB db_stress, which compares a database with its expected state"],
    ]
    durable(needs Durable) [
        a_reopened_store_has_its_blobs:
            "Every restart would pull every image again"
            ["docs/DURABILITY.md, Bytes (2)"],
        a_reopened_store_has_the_same_versions:
            "A late collection would remove a new blob that got the version of a removed blob"
            ["cas_core::content::Version"],
        a_flush_makes_relaxed_durable:
            "An import that flushes only at its end would not be durable"
            ["docs/DURABILITY.md, Bytes (Relaxed)"],
        a_second_opening_is_shared_or_busy:
            "Two processes that open the store independently would overwrite each other's pages"
            ["docs/DURABILITY.md, Order in redb"],
    ]
    durable(needs Resume) [
        an_ingest_outlives_its_store:
            "Every restart would start the download of a large layer again"
            ["containerd content.Writer; cas_core::Capability::Resume"],
    ]
    crash(needs Durable, racy) [
        a_killed_process_keeps_its_blobs:
            "A blob reported as stored would be missing or damaged after a crash"
            ["docs/DURABILITY.md, Bytes (2) and (3); containerd#10457"],
    ]
    crash(needs Resume, racy) [
        a_killed_writer_leaves_a_prefix:
            "A resumed download would continue after bytes that are missing, and fail at its end"
            ["docs/DURABILITY.md, Order in the fs store"],
    ]
    fault(needs Durable, racy) [
        a_kill_at_any_call_keeps_the_blobs:
            "A kill while the store changes the disk would lose or damage an acknowledged blob"
            ["docs/DURABILITY.md, Bytes (2)"],
        a_failed_call_keeps_the_blobs:
            "An error of the device would be ignored, and a layer would be missing later"
            ["docs/DURABILITY.md, Bytes; PostgreSQL's fsync errors of 2018"],
        a_full_disk_keeps_the_blobs:
            "On a full disk, blobs that were stored before would be lost"
            ["docs/DURABILITY.md, Bytes; facebook/rocksdb#7784"],
        an_acknowledged_publish_was_synced:
            "A power loss would remove a layer that was reported as stored"
            ["docs/DURABILITY.md, Bytes (2); facebook/rocksdb#10573"],
    ]
    shared(needs Shared) [
        openings_see_the_same_blobs:
            "Two processes on a machine would each pull every layer"
            ["cas_core::Capability::Shared"],
        openings_share_the_key:
            "Two processes would mix their bytes in one ingest, and a pull of the blob would fail"
            ["containerd content.Ingester"],
    ]
    shared(needs Shared, racy) [
        openings_agree_on_one_digest:
            "Two processes that pull one image would make each other fail"
            ["containerd#8790"],
    ]
}
