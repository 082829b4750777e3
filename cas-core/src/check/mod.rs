//! Checking a store and its snapshots, and repairing them.
//!
//! A check has these steps, in this order, so that each repair can rely on the repairs before it:
//!
//! 1. Records of blobs, images and leases: each one must parse. A repair sets a damaged record
//!    aside. In its place, a stored blob gets a record with the labels that can be read, in one
//!    write. Step 3 completes this record.
//! 2. Images: the store must have every blob and every referrer that a name, a lease or a label
//!    keeps, with the right size. Documents are hashed, and the record of a document must list the
//!    same blobs as the document. If an index is the target of an image, the store must have one of
//!    its manifests.
//! 3. Blobs: each one must have a record, except blobs that are needed only by images that another
//!    program has named. The record of the subject of each referrer must keep the referrer.
//! 4. Lost names: a document that no name and no lease reaches is reported if it had no record, or
//!    if the store lost names.
//! 5. Bytes: the selected blobs are read and hashed.
//! 6. Ingests: an ingest is reported if no job has it open and no later job continues it. A repair
//!    discards these ingests.
//! 7. Snapshots: each record must parse, and each snapshot must have its directory, with the files
//!    that were committed. The files of the selected snapshots are read. A repair makes damaged
//!    committed snapshots again from their layers. If a directory without a record has the only
//!    copy of a layer, a repair makes the snapshot again from this copy. It also removes
//!    directories and files that a snapshotter has, but that no record names.
//! 8. Facts that only lost records of blobs had: a repair adds the claims of owners to the records
//!    that it has made. Each owner claims the blobs that the names of this owner reach. If labels
//!    may be lost, a repair also keeps the blobs to which nothing refers.
//!
//! A repair fetches a missing or damaged blob from a source. If the fetch fails, damaged bytes that
//! can be read are set aside in quarantine: they are stored under their own digest, and the lease
//! [`QUARANTINE`] keeps them. The blob itself is then missing, and each check reports it until the
//! store has it again, or a user ends the lease. A repair also keeps documents that no name
//! reaches, blobs whose labels may be lost, and blobs to which a lost label may have referred,
//! under the lease [`RECOVERED`].

mod blobs;
mod finding;
mod heal;
mod images;
mod labelled;
mod made;
mod options;
mod own_leases;
mod owners;
mod reader;
mod records;
mod referrers;
mod snapshots;
mod stray_tars;
mod strays;
mod tars;

use std::collections::{BTreeSet, HashMap};

pub use finding::{Finding, Problem, Report};
pub use options::{CheckOptions, NoSources, ReadData, Rebuilder, Repair, Sources, parse_rate};

use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::error::Result;
use crate::image::Reference;
use crate::lease::LeaseGuard;
use crate::snapshot::Snapshotter;
use crate::store::Store;

/// The id of the lease that keeps damaged bytes.
pub const QUARANTINE: &str = "quarantine";
/// The id of the lease that keeps documents that no name reaches, blobs whose labels may be lost,
/// and blobs to which a lost label may have referred.
pub const RECOVERED: &str = "recovered";

/// Checks a store and its snapshots, and repairs them if `options.repair` is set. Returns what was
/// found. Other jobs may use the store meanwhile. If the first snapshotter keeps tars, a layer
/// counts as stored if this snapshotter has its tar.
///
/// # Errors
/// Errors of the store and of the snapshotters. A damaged blob, record or snapshot is not an error.
/// The report has a finding for it.
pub async fn check(
    store: &Store,
    snapshotters: &[&dyn Snapshotter],
    options: &CheckOptions<'_>,
) -> Result<Report> {
    let guard = match options.repair {
        Some(_) => Some(LeaseGuard::begin(store, "fsck").await?),
        None => None,
    };
    let mut checker = Checker {
        store,
        snapshotters,
        options,
        guard: guard.as_ref(),
        report: Report::default(),
        uses: HashMap::new(),
        foreign: BTreeSet::new(),
        is_foreign: false,
        names_lost: options.names_lost,
        hashed: BTreeSet::new(),
        made: BTreeSet::new(),
        unstored: BTreeSet::new(),
        is_continued: false,
        list_lost: false,
        labels_lost: false,
        doubtful: BTreeSet::new(),
        stray: BTreeSet::new(),
    };
    let outcome = checker.run().await;
    let report = std::mem::take(&mut checker.report);
    match guard {
        Some(guard) => guard.finish_with(outcome).await?,
        None => outcome?,
    }
    Ok(report)
}

/// A check in progress.
struct Checker<'a> {
    store: &'a Store,
    snapshotters: &'a [&'a dyn Snapshotter],
    options: &'a CheckOptions<'a>,
    /// The lease of a repair.
    guard: Option<&'a LeaseGuard>,
    report: Report,
    /// The blobs that images need, or that leases or labels keep.
    uses: HashMap<Digest, Use>,
    /// The blobs that only images without a record need. Another program has named these images.
    foreign: BTreeSet<Digest>,
    /// Whether the images that are being checked have no record.
    is_foreign: bool,
    /// Whether names were lost. If so, documents that no name reaches are reported, even if they
    /// have records.
    names_lost: bool,
    /// The blobs that need no more hashing: found intact, or reported as missing or damaged.
    hashed: BTreeSet<Digest>,
    /// The blobs whose records were missing or damaged. A repair makes these records again.
    made: BTreeSet<Digest>,
    /// The layers that the store did not need until their tars were lost. They had no records.
    unstored: BTreeSet<Digest>,
    /// Whether an earlier repair has made records again, and was killed before its end.
    is_continued: bool,
    /// Whether the list of the lease [`RECOVERED`] was damaged and could not be read completely,
    /// now or in an earlier repair that was killed.
    list_lost: bool,
    /// Whether the missing or damaged records may have had labels that are lost.
    labels_lost: bool,
    /// The blobs that this repair has added to the lease [`RECOVERED`] because their labels may be
    /// lost. For the rest of the repair, the lease does not count as a use of them. So a document
    /// without a name is still reported, and a referrer is still linked to its subject.
    doubtful: BTreeSet<Digest>,
    /// The layers whose tars are in directories without a record. The check of the snapshots
    /// reports these tars.
    stray: BTreeSet<Digest>,
}

/// How an image, a lease or a label uses a blob. `image` is `None` if no image with a name is known
/// to need the blob.
#[derive(Clone)]
struct Use {
    descriptor: Descriptor,
    image: Option<Reference>,
}

impl Checker<'_> {
    async fn run(&mut self) -> Result<()> {
        if !self.options.resume {
            self.forget_notes().await?;
        }
        self.load_unfinished().await?;
        self.check_records().await?;
        self.find_stray_tars().await?;
        self.check_images().await?;
        self.check_blobs().await?;
        self.check_ingests().await?;
        self.check_pieces().await?;
        self.report_quarantine().await?;
        for snapshotter in self.snapshotters {
            self.check_snapshots(*snapshotter).await?;
        }
        self.restore_facts().await?;
        self.forget_notes().await
    }

    /// Deletes the notes of how far an earlier check, or this one, has read.
    async fn forget_notes(&self) -> Result<()> {
        let selection = self.options.read_data;
        reader::forget(self.store, selection, self.snapshotters).await
    }

    fn add(
        &mut self,
        problem: Problem,
        subject: impl ToString,
        detail: impl Into<String>,
        repaired: bool,
    ) {
        self.report.findings.push(Finding {
            problem,
            subject: subject.to_string(),
            detail: detail.into(),
            repaired,
        });
    }
}
