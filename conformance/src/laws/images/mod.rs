//! Laws of [`cas_core::ImageStore`].

mod change;
mod find;
mod name;

laws! { $
    /// Holds an image store to its laws: one test each, in a module of the given name.
    ///
    /// The opener is an async closure from a directory to `Result<Arc<dyn ImageStore>>` that
    /// captures nothing; the gaps, [`Gaps`](crate::Gaps), may be left out.
    image_store!, __image_tests!, images: dyn cas_core::ImageStore;
    name() [
        a_name_is_created_once,
        the_store_sets_the_times,
        names_of_every_form_are_kept,
        an_image_needs_a_target,
        labels_have_bounds,
        a_deleted_name_is_not_found,
        deletion_asks_for_the_target,
    ]
    name(racy) [forty_creators_lose_none, one_creator_of_a_name_wins]
    change() [
        an_update_replaces_all_but_name_and_birth,
        field_paths_change_what_they_name,
        unknown_field_paths_are_refused,
        an_update_of_nothing_is_not_found,
        a_label_without_value_is_none,
    ]
    change(racy) [updates_of_different_labels_lose_none]
    find() [
        images_are_listed_by_name,
        filters_choose_images,
        bad_filters_are_refused,
    ]
}
