//! Laws of [`cas_core::ImageStore`].

mod change;
mod find;
mod name;
mod repeat;

/// The argument of a law of this group.
type Subject = crate::Subject<dyn cas_core::ImageStore>;

laws! { $
    /// Makes a module with a test for each law of image stores. The first argument is the name of
    /// the module.
    ///
    /// The second argument is the opener, an async closure that captures nothing. It receives a
    /// directory, opens the store there, and creates the store if there is none. It returns a
    /// `Result<Arc<dyn ImageStore>>`. The optional third argument, [`Gaps`](crate::Gaps), lists the
    /// laws that the store cannot keep.
    image_store!, __image_tests!, images: dyn cas_core::ImageStore;
    name() [
        a_name_is_created_once:
            "A second import would silently replace the image of the first import"
            ["containerd images.Store.Create; EVE CreateImage"],
        the_store_sets_the_times:
            "The wrong clock of a caller would decide when an image is old enough to be removed"
            ["containerd images.Store.Create"],
        names_of_every_form_are_kept:
            "Two images would become one in a store that shortens names or ignores case"
            ["containerd images.Store; umoci reference grammar"],
        an_image_needs_a_target:
            "A name would point to an image that cannot be read or unpacked"
            ["containerd images.Store.Create"],
        a_digest_in_a_name_is_that_of_the_target:
            "A reference that is pinned by its digest would lead to other content"
            ["OCI distribution-spec, pulling by digest; cas_core::image::Reference::allows"],
        labels_have_bounds:
            "An unbounded label would make every list slow and every record large"
            ["containerd labels.Validate"],
        a_deleted_name_is_not_found:
            "A removed image could still be run"
            ["containerd images.Store.Delete"],
        deletion_asks_for_the_target:
            "A deletion of an old image would remove the new image that has the same name"
            ["containerd images.DeleteTarget"],
    ]
    name(racy) [
        forty_creators_lose_none:
            "Parallel imports would lose names, and a collection would remove their images"
            ["opencontainers/umoci#146"],
        one_creator_of_a_name_wins:
            "Two builds of one tag would both report success, and one image would be lost"
            ["containerd images.Store.Create"],
    ]
    change() [
        an_update_replaces_all_but_name_and_creation_time:
            "An update without field paths would not remove old labels, such as an expiry label"
            ["containerd images.Store.Update"],
        field_paths_change_what_they_name:
            "Setting one label would remove other labels"
            ["containerd images.Store.Update"],
        unknown_field_paths_are_refused:
            "An update with a misspelled field path would report success and change nothing"
            ["containerd images.Store.Update"],
        an_update_of_an_unknown_name_is_not_found:
            "A late update would bring back a removed image"
            ["containerd images.Store.Update"],
        an_empty_label_is_not_stored:
            "A label that was cleared would still match filters"
            ["containerd images.Store.Update"],
    ]
    change(racy) [
        updates_of_different_labels_lose_none:
            "If two tools each set a label at the same time, one label would be lost"
            ["containerd images.Store.Update, field paths"],
    ]
    find() [
        images_are_listed_by_name:
            "Two lists of the same images could differ in their order"
            ["cas_core::ImageStore::list"],
        filters_choose_images:
            "A filter would match the wrong images, and a deletion by filter would remove them"
            ["containerd filters"],
        bad_filters_are_refused:
            "An invalid filter would match all images, even in a deletion"
            ["containerd filters"],
        images_are_found_by_their_targets:
            "A removal by digest would miss a name, or remove a name that now has another target"
            ["cas_core::ImageStore::find"],
    ]
    repeat() [
        an_image_can_be_put_again:
            "An interrupted job could not be repeated, because the name that it created exists"
            ["cas_core::ImageStoreExt::put; EVE IngestBlobsAndCreateImage"],
        a_name_is_put_once_and_never_moved:
            "A job would move a name that another job created, or would fail when it is repeated"
            ["cas_core::ImageStoreExt::put_new; an OCI layout engine's PutReference, ErrClobber"],
        a_name_can_be_removed_again:
            "A repeated removal would fail because the first removal succeeded"
            ["cas_core::ImageStoreExt::remove; EVE RemoveImage"],
        a_replacement_asks_for_the_target:
            "A slow updater would undo the update of a faster updater"
            ["cas_core::ImageStoreExt::replace; EVE ReplaceImage"],
    ]
    repeat(racy) [
        putting_and_removing_at_once_succeed:
            "A job would fail because another job puts or removes the same name at the same time"
            ["cas_core::ImageStoreExt::put"],
        one_of_many_replacements_wins:
            "Two updaters would both report success, and one update would be lost"
            ["cas_core::ImageStoreExt::replace"],
    ]
}
