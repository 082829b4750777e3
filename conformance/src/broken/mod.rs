//! The gallery: stores that are broken on purpose, to test the laws.
//!
//! Each [`Exhibit`] is the memory store with one fault. The law [`Exhibit::law`] must find the
//! fault. Of the other laws, only those in [`Exhibit::also`] may find the fault. The stores in
//! [`files`] are for the laws that kill a process at a system call, or make the call fail. Broken
//! snapshotters are in the tests of `snapshot-overlay`, because they wrap a working snapshotter.

mod content;
pub mod files;
mod images;
mod records;

use std::sync::Arc;

use cas_core::{ContentStore, ImageStore, Records, Store};

use self::content::{BrokenContent, ContentFault};
use self::images::{BrokenImages, ImageFault};
use self::records::{BrokenRecords, RecordFault};
use crate::judge::{Promises, Verdict, judge};
use crate::law::Law;
use crate::subject::Open;

/// A broken store, and the laws that find its fault.
pub struct Exhibit<S: ?Sized + 'static> {
    /// The name of the fault.
    pub name: &'static str,
    /// Opens a store with the fault.
    pub open: Open<S>,
    /// The law that must find the fault.
    pub law: &'static str,
    /// Other laws that may find the fault.
    pub also: &'static [&'static str],
}

/// Runs laws on a broken store. Returns a line for each law that finds the fault but is not named
/// in the exhibit, and a line if the law [`Exhibit::law`] does not find the fault. A law whose
/// outcome depends on timing is run only if the exhibit names the law.
///
/// # Panics
/// If the temporary directory or the tokio runtime cannot be created.
pub fn misjudged<S>(laws: &[Law<S>], exhibit: &Exhibit<S>) -> Vec<String>
where
    S: ?Sized + Promises + 'static,
{
    let mut wrong = Vec::new();
    let named = |law: &Law<S>| law.name == exhibit.law || exhibit.also.contains(&law.name);
    for law in laws.iter().filter(|law| !law.racy || named(law)) {
        let broken = match judge(law, exhibit.open, &[], None) {
            Verdict::Broken(seen) => Some(seen),
            _ => None,
        };
        match broken {
            None if law.name == exhibit.law => {
                wrong.push(format!(
                    "{}: the law {} does not find the fault",
                    exhibit.name, law.name
                ));
            }
            Some(seen) if !named(law) => {
                wrong.push(format!(
                    "{}: the law {} finds the fault, but the exhibit does not name the law: \
                     {seen}",
                    exhibit.name, law.name
                ));
            }
            _ => {}
        }
    }
    wrong
}

macro_rules! exhibits {
    ($store:ident, $fault:ident: $($name:ident => $law:ident [$($also:ident),* $(,)?])*) => {
        &[$(Exhibit {
            name: stringify!($name),
            open: |_| Box::pin(async { Ok(Arc::new($store::new($fault::$name)) as Arc<_>) }),
            law: stringify!($law),
            also: &[$(stringify!($also)),*],
        }),*]
    };
}

/// Broken content stores.
pub const CONTENT: &[Exhibit<dyn ContentStore>] = exhibits![BrokenContent, ContentFault:
    ForgetsAByteOnResume => a_dropped_writer_is_resumed [
        bytes_of_many_parts_come_back,
        a_second_writer_is_busy,
        a_failed_commit_can_be_retried,
        rewind_forgets_what_was_written,
        a_cancelled_publish_is_whole_or_absent,
        bytes_and_batch_are_one_step,
        any_sequence_agrees_with_a_map,
    ]
    AdoptsFromTheBeginning => a_file_becomes_its_bytes []
    CompactsALivingBlob => a_compaction_keeps_what_is_there []
    ListsBackwards => a_list_is_in_digest_order []
    HidesTheEmptyBlob => an_empty_blob_is_a_blob [
        a_reader_is_stored_whole_or_not_at_all,
        sizes_around_pieces_come_back,
        any_sequence_agrees_with_a_map,
    ]
    RemovesNothing => a_removed_blob_is_gone [
        a_compaction_keeps_what_is_there,
        a_removal_and_its_batch_are_one_step,
        a_removal_of_many_removes_only_those,
        a_late_removal_spares_what_came_after,
        sha512_names_content_too,
        a_removed_blob_can_be_stored_again,
        any_sequence_agrees_with_a_map,
    ]
    RemovesAnyVersion => a_late_removal_spares_what_came_after [a_removal_and_its_batch_are_one_step]
    RemovesBeforeItLooks => a_removal_and_its_batch_are_one_step []
    RemovesWhatIsBetween => a_removal_of_many_removes_only_those []
    AllowsASecondWriter => a_second_writer_is_busy [
        waiting_ends_with_the_other_writer,
        any_sequence_agrees_with_a_map,
    ]
    DamagesBlobsOfAPageAndAByte => sizes_around_pieces_come_back [any_sequence_agrees_with_a_map]
    FailsBeyondTheEnd => reads_stop_at_the_end []
    DiscardsTheUnknown => discard_forgets_the_ingest [a_published_ingest_is_gone]
    TakesAnyKey => bad_keys_are_refused []
    FoldsKeys => keys_are_independent [any_sequence_agrees_with_a_map]
    TrustsEveryVersion => changed_bytes_are_noticed []
    KeepsWhatIsRewound => rewind_forgets_what_was_written [any_sequence_agrees_with_a_map]
    LosesSha512 => sha512_names_content_too [
        a_list_is_in_digest_order,
        pages_make_up_the_list,
        a_removed_blob_is_gone,
    ]
    SkipsAnEntry => pages_make_up_the_list []
    SkipsAfterTheCursor => pages_make_up_the_list [
        a_removed_blob_is_gone,
        a_removal_of_many_removes_only_those,
    ]
    ForgetsAnIngest => ingests_are_listed_by_key []
    ReadsShort => bytes_of_many_parts_come_back []
    TakesForeignProofs => a_foreign_proof_is_refused []
];

/// Broken records stores.
pub const RECORDS: &[Exhibit<dyn Records>] = exhibits![BrokenRecords, RecordFault:
    IgnoresExpectations => a_revision_is_good_for_one_change [
        a_revision_never_comes_back,
        a_batch_of_many_keys_is_one_step,
        eight_incrementers_lose_nothing,
        tables_are_alike,
    ]
    OverwritesNotes => tables_are_alike []
    AppliesHalfABatch => a_conflict_applies_nothing [
        a_conflict_leaves_a_prefix_at_most,
        a_batch_of_many_keys_is_one_step,
    ]
    LooksAtTheFirst => a_batch_of_many_keys_is_one_step []
    RepeatsRevisions => a_revision_never_comes_back [eight_incrementers_lose_nothing]
    ReadsPrefixesAsPatterns => a_prefix_is_taken_literally [tables_are_alike]
    MixesTables => tables_are_separate [a_batch_is_applied_in_order, tables_are_alike]
    CutsLongValues => values_of_any_length_come_back []
    CreatesOverWhatIsThere => absent_is_expected_once [
        a_batch_sees_its_own_changes,
        a_conflict_applies_nothing,
        a_conflict_leaves_a_prefix_at_most,
        a_batch_of_many_keys_is_one_step,
        one_creator_of_a_key_wins,
        tables_are_alike,
    ]
    AppliesBackwards => a_batch_is_applied_in_order [
        a_batch_sees_its_own_changes,
        a_conflict_applies_nothing,
    ]
    FoldsCase => odd_keys_are_keys [
        a_scan_is_in_key_order,
        a_prefix_is_taken_literally,
        tables_are_alike,
    ]
    PagesWithoutLimit => a_scan_is_in_key_order [a_prefix_is_taken_literally, tables_are_alike]
];

/// Broken image stores.
pub const IMAGES: &[Exhibit<dyn ImageStore>] = exhibits![BrokenImages, ImageFault:
    ClobbersOnCreate => a_name_is_created_once [
        a_name_is_put_once_and_never_moved,
        one_creator_of_a_name_wins,
    ]
    DeletesWhateverItStandsFor => deletion_asks_for_the_target []
    ListsBackwards => images_are_listed_by_name [filters_choose_images]
    InheritsLabels => an_update_replaces_all_but_name_and_creation_time [
        field_paths_change_what_they_name,
        an_empty_label_is_not_stored,
        an_image_can_be_put_again,
    ]
    IgnoresFieldPaths => field_paths_change_what_they_name [
        unknown_field_paths_are_refused,
        updates_of_different_labels_lose_none,
    ]
    PassesOverUnknownFieldPaths => unknown_field_paths_are_refused []
    UpdatesIntoBeing => an_update_of_an_unknown_name_is_not_found []
    MatchesPartsOfNames => filters_choose_images []
    TakesBadFilters => bad_filters_are_refused []
    FindsFormerTargets => images_are_found_by_their_targets []
    KeepsTheTimesOfCallers => the_store_sets_the_times []
    TakesAnyTarget => an_image_needs_a_target []
    TakesOtherDigests => a_digest_in_a_name_is_that_of_the_target []
    SwapsWithoutComparing => a_replacement_asks_for_the_target [one_of_many_replacements_wins]
];

macro_rules! stores {
    ($($broken:ident($fault:ident::$name:ident) => $law:ident [$($also:ident),* $(,)?])*) => {
        &[$(Exhibit {
            name: stringify!($name),
            open: |_| Box::pin(async { Ok(Arc::new($broken::new($fault::$name).whole())) }),
            law: stringify!($law),
            also: &[$(stringify!($also)),*],
        }),*]
    };
}

/// Whole stores, each with one broken part.
pub const STORES: &[Exhibit<Store>] = stores![
    BrokenContent(ContentFault::RemovesWhatIsNotFlushed) => any_sequence_agrees_with_plain_maps []
    BrokenRecords(RecordFault::ForgetsLabels) => any_sequence_agrees_with_plain_maps [
        a_referrer_lives_as_long_as_its_subject,
    ]
    BrokenContent(ContentFault::RemovesAnyVersion) => a_tombstoned_blob_can_be_pinned_again [
        collections_during_other_jobs_lose_nothing,
    ]
    BrokenContent(ContentFault::RemovesNothing) => what_a_name_reaches_is_kept [
        a_dry_run_removes_nothing,
        a_lease_keeps_what_it_lists_and_all_below,
        a_flat_lease_keeps_only_what_it_lists,
        an_expired_lease_keeps_nothing,
        a_failed_import_is_collected,
        each_root_that_keeps_a_blob_is_explained,
        a_root_label_keeps_a_blob,
        a_reference_has_the_exact_suffix,
        a_back_reference_keeps_the_child,
        a_referrer_lives_as_long_as_its_subject,
        an_expired_image_is_removed,
        a_condition_needs_its_snapshot,
        a_tombstoned_blob_can_be_pinned_again,
        a_collection_finishes_what_another_began,
        a_lease_that_expires_during_a_job_is_noticed,
        a_blob_pinned_since_the_scan_stays,
        a_blob_without_a_lease_lives_a_day,
        a_job_can_be_repeated_after_any_failed_call,
        a_job_can_be_repeated_after_any_lost_response,
        a_failed_pull_leaves_stored_platforms_complete,
        an_owner_collects_only_their_content,
        bytes_stay_while_a_root_is_left,
        a_lease_keeps_a_claim,
        a_revived_blob_keeps_no_old_claim,
        any_sequence_agrees_with_plain_maps,
    ]
    BrokenRecords(RecordFault::ForgetsLeases) => a_lease_keeps_what_it_lists_and_all_below [
        a_flat_lease_keeps_only_what_it_lists,
        an_expired_lease_keeps_nothing,
        a_failed_import_is_collected,
        each_root_that_keeps_a_blob_is_explained,
        an_expired_image_is_removed,
        a_lease_that_expires_during_a_job_is_noticed,
        collections_during_other_jobs_lose_nothing,
        any_sequence_agrees_with_plain_maps,
        a_lease_keeps_a_claim,
    ]
    BrokenRecords(RecordFault::ForgetsOwners) => an_owner_collects_only_their_content [
        bytes_stay_while_a_root_is_left,
        a_name_claims_what_it_reaches,
        a_revived_blob_keeps_no_old_claim,
        a_lease_keeps_a_claim,
    ]
];
