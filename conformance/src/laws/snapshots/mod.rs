//! Laws of [`cas_core::Snapshotter`]: containerd's states, and what is seen through the mounts.

mod changes;
mod collected;
mod content;
mod info;
mod races;
mod scene;
mod space;
mod states;

laws! { $
    /// Holds a snapshotter to its laws: one test each, in a module of the given name.
    ///
    /// The opener is an async closure from a directory to `Result<Arc<dyn Snapshotter>>` that
    /// captures nothing, and its records live in that directory too; the gaps,
    /// [`Gaps`](crate::Gaps), may be left out.
    snapshotter!, __snapshotter_tests!, snapshots: dyn cas_core::Snapshotter;
    states() [
        a_key_is_taken_once,
        a_parent_must_exist,
        a_parent_must_be_committed,
        only_an_active_snapshot_is_committed,
        a_name_is_committed_once,
        a_commit_needs_another_name,
        a_commit_frees_the_key,
        a_commit_cannot_move_to_another_parent,
        a_commit_gives_a_parent_or_says_that_it_cannot,
        a_committed_snapshot_has_no_mounts,
        mounts_stay_the_same,
        a_parent_is_not_removed,
        what_is_unknown_is_not_found,
        keys_and_labels_have_bounds,
        odd_keys_name_snapshots,
        a_closed_snapshotter_refuses,
        closing_twice_is_no_error,
    ]
    info() [
        stat_tells_what_it_is,
        a_commit_replaces_labels_and_time,
        an_update_replaces_all_labels,
        an_update_changes_what_its_paths_name,
        walk_is_in_key_order_and_in_pages,
        everything_is_there_after_reopening,
    ]
    content() [
        a_chain_shows_all_its_layers,
        a_child_leaves_its_parent_alone,
        siblings_do_not_see_each_other,
        a_view_shows_its_parent_and_is_read_only,
        a_view_of_nothing_is_empty,
        a_new_root_is_open_to_all,
        a_child_has_the_attributes_of_its_parent,
        a_key_used_again_starts_anew,
        a_chain_may_be_long,
    ]
    changes() [
        a_directory_made_anew_is_empty,
        owners_and_modes_go_through_layers,
        names_move_out_of_their_layer,
        a_layer_given_a_parent_shows_it,
    ]
    space() [
        hard_links_count_once,
        usage_is_fixed_by_the_commit,
        a_view_takes_nothing_of_its_parent,
        a_removal_gives_back_what_it_took,
        a_removal_spares_what_is_mounted_in_it,
        cleanup_frees_leftovers_and_nothing_else,
    ]
    collected() [
        what_was_updated_since_it_was_seen_stays,
        a_collection_takes_chains_leaves_first,
        what_refers_to_a_snapshot_keeps_its_chain,
        a_snapshot_without_a_lease_lives_a_day,
    ]
    races(racy) [
        one_of_many_prepares_wins,
        one_of_many_commits_wins,
        a_parent_removed_under_a_prepare_leaves_no_orphan,
        a_removal_and_a_commit_exclude_each_other,
        cleanup_spares_what_is_being_made,
    ]
}
