//! Laws of [`cas_core::Snapshotter`]: the states, the content and the space of snapshots. Snapshots
//! have the same states as in containerd.

mod changes;
mod collected;
mod content;
mod damage;
mod durable;
mod info;
mod races;
mod scene;
mod space;
mod states;

/// The argument of a law of this group.
type Subject = crate::Subject<dyn cas_core::Snapshotter>;

laws! { $
    /// Makes a module with a test for each law of snapshotters. The first argument is the name of
    /// the module.
    ///
    /// The second argument is the opener, an async closure that captures nothing. It receives a
    /// directory, opens the snapshotter there, and creates the snapshotter if there is none. It
    /// returns a `Result<Arc<dyn Snapshotter>>`. The records of the snapshotter are in that
    /// directory, too. The optional third argument, [`Gaps`](crate::Gaps), lists the laws that the
    /// snapshotter cannot keep.
    snapshotter!, __snapshotter_tests!, snapshots: dyn cas_core::Snapshotter;
    states() [
        a_key_is_taken_once:
            "Two containers would write into one root file system"
            ["containerd snapshots.Snapshotter.Prepare"],
        a_parent_must_exist:
            "A container would start without its image and fail later"
            ["containerd snapshots.Snapshotter.Prepare"],
        a_parent_must_be_committed:
            "A layer would change under the containers on top of it"
            ["containerd snapshots.Snapshotter.Prepare"],
        only_an_active_snapshot_is_committed:
            "A read-only view would become a layer"
            ["containerd snapshots.Snapshotter.Commit"],
        a_name_is_committed_once:
            "A layer would be replaced under the containers on top of it"
            ["containerd snapshots.Snapshotter.Commit"],
        a_commit_needs_another_name:
            "A committed layer and an unfinished layer would have the same key"
            ["containerd snapshots.Snapshotter.Commit"],
        a_commit_frees_the_key:
            "The key of a finished unpack would stay taken, and the next unpack would fail"
            ["containerd snapshots.Snapshotter.Commit"],
        a_commit_cannot_move_to_another_parent:
            "A layer's changes would be applied to a tree that they were not made for"
            ["containerd snapshots.WithParent"],
        a_commit_sets_a_parent_or_is_refused:
            "Layers unpacked in parallel would have no parent, and the image would miss files"
            ["containerd snapshots.WithParent, capability rebase"],
        a_committed_snapshot_has_no_mounts:
            "A committed layer could be mounted for writing, and changed"
            ["containerd snapshots.Snapshotter.Mounts"],
        mounts_stay_the_same:
            "A restarted container would find another root file system"
            ["containerd snapshots.Snapshotter.Mounts"],
        a_parent_is_not_removed:
            "Removing a layer would break every container on top of it"
            ["containerd snapshots.Snapshotter.Remove"],
        an_unknown_key_is_not_found:
            "A caller could not tell an absent snapshot from an error"
            ["containerd snapshots.Snapshotter.Stat"],
        keys_and_labels_have_bounds:
            "An unbounded key or label would make every record and every list large"
            ["cas_core::limit::KEY; containerd labels.Validate"],
        odd_keys_name_snapshots:
            "A key with slashes or dots would reach a directory outside the snapshots"
            ["containerd snapshot keys; CVE-2014-9358"],
        a_closed_snapshotter_refuses:
            "Calls after the close would run without the records of the snapshots"
            ["containerd snapshots.Snapshotter.Close"],
        closing_twice_is_allowed:
            "If two code paths close the snapshotter, the second close would fail"
            ["containerd snapshots.Snapshotter.Close"],
    ]
    info() [
        stat_describes_the_snapshot:
            "A caller could not tell a layer from a container, or find the parent of a snapshot"
            ["containerd snapshots.Info"],
        a_commit_replaces_labels_and_time:
            "A layer would inherit labels of its active snapshot, such as gc.root, and stay forever"
            ["containerd snapshots.Snapshotter.Commit"],
        an_update_replaces_all_labels:
            "A removed label would still protect the snapshot from garbage collection"
            ["containerd snapshots.Snapshotter.Update"],
        an_update_changes_what_its_paths_name:
            "Setting one label would remove other labels"
            ["containerd snapshots.Snapshotter.Update"],
        walk_is_in_key_order_and_in_pages:
            "A snapshot between two pages of a walk would never be shown or garbage-collected"
            ["cas_core::Snapshotter::walk"],
        a_reopened_snapshotter_has_its_snapshots:
            "Every restart would unpack every image again"
            ["docs/DURABILITY.md, Snapshots"],
    ]
    content() [
        a_chain_shows_all_its_layers:
            "A container would miss the files of a layer"
            ["containerd snapshots.Snapshotter.Prepare"],
        a_child_leaves_its_parent_alone:
            "Files that one container writes would appear in all containers of the image"
            ["containerd snapshots.Snapshotter.Prepare"],
        siblings_do_not_see_each_other:
            "Two containers of one image would see each other's files"
            ["containerd snapshots.Snapshotter.Prepare"],
        a_view_shows_its_parent_and_is_read_only:
            "A user who inspects an image could change it"
            ["containerd snapshots.Snapshotter.View"],
        a_view_of_nothing_is_empty:
            "Files of an earlier snapshot would appear in an empty snapshot"
            ["containerd snapshots.Snapshotter.View"],
        a_new_root_is_open_to_all:
            "A container's non-root user could not reach its own files"
            ["containerd snapshots/testsuite, root permissions"],
        a_child_has_the_attributes_of_its_parent:
            "The root directory of a container would have another owner or mode than in its image"
            ["containerd snapshots/overlay, owner of upperdir"],
        a_reused_key_starts_empty:
            "A new container would find the files of a removed container"
            ["containerd snapshots.Snapshotter.Remove"],
        a_chain_may_be_long:
            "Images of many layers could not be mounted"
            ["containerd#2497; moby/buildkit#4810"],
    ]
    changes() [
        a_recreated_directory_is_empty:
            "Files of a removed directory would reappear after a layer creates the directory again"
            ["containerd snapshots/testsuite"],
        owners_and_modes_go_through_layers:
            "A file would stay accessible to its old owner, or inaccessible to its new owner"
            ["containerd snapshots/testsuite"],
        names_move_out_of_their_layer:
            "A rename by a package manager would lose a file or a directory, or show it twice"
            ["containerd snapshots/testsuite"],
        a_layer_given_a_parent_shows_it:
            "An image unpacked in parallel would differ from the same image unpacked in order"
            ["containerd#13030"],
    ]
    space() [
        hard_links_count_once:
            "The reported usage would be larger than the space that the files take"
            ["containerd snapshots.Snapshotter.Usage"],
        usage_is_fixed_by_the_commit:
            "Each query of an image's usage would walk all its files"
            ["containerd snapshots.Snapshotter.Usage"],
        a_view_does_not_count_its_parent:
            "The size of an image would be counted again for each view of it"
            ["containerd snapshots.Snapshotter.Usage"],
        a_removal_frees_its_space:
            "The disk would fill with the files of removed snapshots"
            ["containerd snapshots.Snapshotter.Remove; rkt/rkt#2890"],
        a_removal_spares_what_is_mounted_in_it:
            "Removing a container would delete data that is mounted in the container"
            ["EVE RemoveContainerRootDir, which deletes files in other mounts below the root"],
        cleanup_frees_leftovers_and_nothing_else:
            "Leftovers of a crash would stay forever, or a cleanup would remove a live layer"
            ["containerd snapshots.Cleaner"],
    ]
    damage() [
        what_nobody_changed_is_sound:
            "Sound layers would be reported as damaged and unpacked again"
            ["cas_core::Snapshotter::check"],
        changed_files_are_found:
            "A container would start with empty files after a crash, and nobody would know why"
            ["containerd#5854; moby#46649"],
        a_replaced_snapshot_has_the_new_files:
            "A repair would break the containers that run on the snapshot"
            ["cas_core::Snapshotter::replace"],
        only_a_fitting_snapshot_replaces_another:
            "A repair would give a layer the files of another layer"
            ["cas_core::Snapshotter::replace"],
    ]
    collected() [
        a_snapshot_updated_since_the_scan_stays:
            "A collection would remove a snapshot that a job pinned during the scan"
            ["containerd#3787"],
        a_collection_takes_chains_leaves_first:
            "A collection that stops halfway would leave layers without their parents"
            ["containerd docs/garbage-collection.md"],
        what_refers_to_a_snapshot_keeps_its_chain:
            "An unpacked image would have to be unpacked again after each collection"
            ["containerd docs/garbage-collection.md, gc.ref.snapshot"],
        a_snapshot_without_a_lease_lives_a_day:
            "A snapshot made by hand would be removed before its user can protect it with a label"
            ["docs/DURABILITY.md, Leases and collection"],
    ]
    races(racy) [
        one_of_many_prepares_wins:
            "Two processes would start containers in one root file system"
            ["containerd snapshots.Snapshotter.Prepare"],
        one_of_many_commits_wins:
            "Two unpacks of one layer would both fail, or one would replace the layer of the other"
            ["containerd snapshots.Snapshotter.Commit"],
        a_parent_removed_under_a_prepare_leaves_no_orphan:
            "A snapshot would have a parent that is gone, and no tool could repair the snapshot"
            ["containerd#3787; containerd#10835"],
        a_removal_and_a_commit_exclude_each_other:
            "A layer would be reported as committed although it is gone"
            ["containerd snapshots.Snapshotter.Remove"],
        cleanup_spares_what_is_being_made:
            "A cleanup would remove the directory of a layer that another process unpacks"
            ["containerd snapshots.Cleaner"],
    ]
    durable(racy) [
        a_committed_snapshot_was_synced:
            "After a power loss, a layer would exist with empty files in it"
            ["docs/DURABILITY.md, Snapshots; containerd#9929"],
    ]
}
