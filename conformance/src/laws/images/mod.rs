//! Laws of [`cas_core::ImageStore`].

mod change;
mod find;
mod name;

/// What a law of this group is given.
type Subject = crate::Subject<dyn cas_core::ImageStore>;

laws! { $
    /// Holds an image store to its laws: one test each, in a module of the given name.
    ///
    /// The opener is an async closure from a directory to `Result<Arc<dyn ImageStore>>` that
    /// captures nothing; the gaps, [`Gaps`](crate::Gaps), may be left out.
    image_store!, __image_tests!, images: dyn cas_core::ImageStore;
    name() [
        a_name_is_created_once:
            "A second import would silently take the name from the first"
            ["containerd images.Store.Create; EVE CreateImage"],
        the_store_sets_the_times:
            "A wrong clock of a caller would decide what is old enough to go"
            ["containerd images.Store.Create"],
        names_of_every_form_are_kept:
            "Two images would be one where a store folds or cuts their names"
            ["containerd images.Store; umoci reference grammar"],
        an_image_needs_a_target:
            "A name for nothing cannot be pulled, unpacked or removed with sense"
            ["containerd images.Store.Create"],
        labels_have_bounds:
            "One label without end makes every listing slow and every record large"
            ["containerd labels.Validate"],
        a_deleted_name_is_not_found:
            "What was removed would still be run"
            ["containerd images.Store.Delete"],
        deletion_asks_for_the_target:
            "Who removes what he saw would remove what another has put there since"
            ["containerd images.DeleteTarget"],
    ]
    name(racy) [
        forty_creators_lose_none:
            "Imports side by side would lose names, and their images the next collection"
            ["opencontainers/umoci#146"],
        one_creator_of_a_name_wins:
            "Two builds of one tag would both report success, and one has lost"
            ["containerd images.Store.Create"],
    ]
    change() [
        an_update_replaces_all_but_name_and_birth:
            "What an update left out would linger: a label that expires it, an old target"
            ["containerd images.Store.Update"],
        field_paths_change_what_they_name:
            "Setting one label would wipe those of others"
            ["containerd images.Store.Update"],
        unknown_field_paths_are_refused:
            "A misspelt path would report success and change nothing"
            ["containerd images.Store.Update"],
        an_update_of_nothing_is_not_found:
            "A removed image would come back by an update that came late"
            ["containerd images.Store.Update"],
        a_label_without_value_is_none:
            "A label that was cleared would still be matched by filters"
            ["containerd images.Store.Update"],
    ]
    change(racy) [
        updates_of_different_labels_lose_none:
            "Two tools that each keep a label would take turns in losing it"
            ["containerd images.Store.Update, field paths"],
    ]
    find() [
        images_are_listed_by_name:
            "Output could not be compared from one call to the next"
            ["cas_core::ImageStore::list"],
        filters_choose_images:
            "A filter that chooses too many removes too many"
            ["containerd filters"],
        bad_filters_are_refused:
            "A filter that is not understood would choose everything, for deletions too"
            ["containerd filters"],
    ]
}
