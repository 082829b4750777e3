//! Finds and repairs damaged or lost files without which a store cannot be opened or read.

use std::io;
use std::path::Path;

use cas_core::check::Finding;
use cas_core::image::{Image, decode_image, encode_image};
use cas_core::layout::{INDEX as FILE, OCI_LAYOUT};
use cas_core::pool::wait;
use cas_core::records::{Batch, Expect, Records, Table};
use cas_core::{Descriptor, Error, ErrorKind, Result, limit};
use cas_host::{Dir, if_directory};
use cas_records_sqlite::SqliteRecords;

use crate::blobs::Blobs;
use crate::facts::KnownFacts;
use crate::file;
use crate::images::key;
use crate::index::Index;
use crate::index_file::{IndexFile, lock_index, replace};
use crate::layout::{self, FORMAT, RECORDS};
use crate::places::{self, BLOBS, CAS_DIR, finding};

/// Maximum number of records in one page.
const PAGE: usize = 256;

/// Examines the files of the store at `path`. Returns a finding for each problem. Changes nothing
/// if the directory is not a store of this backend. Waits while another process creates the store.
///
/// If `repair` is set, repairs the files. Sets aside a damaged database of records, and entries of
/// the wrong type, such as a file in the place of a directory. Makes a lost directory of blobs
/// again. Writes a lost or damaged `oci-layout` again, and a damaged `format.json` if the format is
/// known. Makes a lost or damaged `index.json` from the records, because they have every name that
/// this crate wrote. Corrects the entries of a readable `index.json` that are not descriptors.
/// Writes a record for each name that is only in `index.json`, if the disk has space for it.
///
/// If `format.json` is damaged and the format is not known, examines nothing else.
///
/// # Errors
/// `FailedPrecondition` for a store of another kind or of a newer format, and for an image layout
/// of a newer version; `Full` if the names in the records make too large an `index.json` when it is
/// made again; errors of the file system and of the records.
pub(crate) fn examine(path: &Path, repair: bool) -> Result<Vec<Finding>> {
    let root = match Dir::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        root => root?,
    };
    if root.stat(CAS_DIR)?.is_none() || !layout::is_created(&root)? {
        return Ok(Vec::new());
    }
    // The format decides what the other files mean, so it comes first.
    let mut findings = Vec::new();
    if let Some(format) = examine_format(path, &root, repair)? {
        let is_known = format.repaired || !repair && layout::recorded_version(path).is_some();
        findings.push(format);
        if !is_known {
            return Ok(findings);
        }
    }
    findings.extend(places::examine(&root, repair)?);
    let cas_dir = match repair {
        true => root.make_dir(CAS_DIR, 0o700)?,
        false => match root.open_dir(CAS_DIR) {
            // Something else is in its place, so there is nothing to examine.
            Err(_) if !findings.is_empty() => return Ok(findings),
            cas_dir => cas_dir?,
        },
    };
    let database = path.join(CAS_DIR).join(RECORDS);
    findings.extend(cas_records_sqlite::examine(&database, repair)?);
    if let Some(why) = why(layout::check_oci_layout(&root))? {
        if repair {
            layout::repair_oci_layout(&root, &cas_dir)?;
        }
        findings.push(finding(
            OCI_LAYOUT,
            match repair {
                true => format!("{why}; the file was written again"),
                false => format!("{why}; a repair writes the file again"),
            },
            repair,
        ));
    }
    findings.extend(examine_entries((&root, &cas_dir), repair)?);
    findings.extend(match repair {
        true => repair_index((&root, &cas_dir), &database)?,
        false => {
            let why = why(read_index(&root))?;
            let detail = |why| format!("{why}; a repair makes the file again from the records");
            why.map(|why| finding(FILE, detail(why), false))
        }
    });
    Ok(findings)
}

/// Examines `format.json`. If it is damaged and `repair` is set, writes it again if the format is
/// known.
///
/// # Errors
/// `FailedPrecondition` for a store of another kind or of a newer format, which is not damage;
/// errors of the file system.
fn examine_format(path: &Path, root: &Dir, repair: bool) -> Result<Option<Finding>> {
    let Ok(cas_dir) = root.open_dir(CAS_DIR) else {
        return Ok(None);
    };
    let why = match layout::version(&cas_dir) {
        Err(error) if error.kind() == ErrorKind::Corrupt => error.without_advice(),
        Err(error) => return Err(error),
        Ok(Some(_)) => return Ok(None),
        Ok(None) => {
            layout::refuse_newer(path)?;
            return Ok(None);
        }
    };
    let repaired = repair && layout::repair_format(path, &cas_dir)?;
    let outcome = match (repaired, layout::recorded_version(path)) {
        (true, _) => {
            "the file was written again, with the format version that the database of records \
             states"
        }
        (false, Some(_)) => {
            "a repair writes the file again, with the format version that the database of records \
             states"
        }
        (false, None) => {
            "the database of records does not state a format version that this release supports, \
             so nothing else was examined; restore the file from a copy of the store, or repair \
             the store with the newest release of cas that has used the store"
        }
    };
    let subject = format!("{CAS_DIR}/{FORMAT}");
    Ok(Some(finding(
        &subject,
        format!("{why}; {outcome}"),
        repaired,
    )))
}

/// The subject of findings about entries. It is not the file itself: a repair of the file may have
/// lost names, but a corrected entry has not.
const ENTRIES: &str = "index.json entries";

/// Finds entries of `index.json` that are not descriptors of their content, and names with several
/// targets. If `repair` is set, corrects the entries whose content is in the store. Only a user can
/// know which of several targets a name has. A kill leaves the old or the new file. A
/// damaged or lost `index.json` is reported elsewhere. An entry whose content cannot be read and an
/// `index.json` that cannot be written are findings, so that the rest of the store is repaired.
///
/// # Errors
/// Errors of the file system for the directory of blobs.
fn examine_entries(directories: (&Dir, &Dir), repair: bool) -> Result<Vec<Finding>> {
    let (root, known) = (directories.0, KnownFacts::default());
    let Ok(index) = read_index(root) else {
        return Ok(Vec::new());
    };
    let blobs = match if_directory(root.open_dir(BLOBS))? {
        Some(dir) => Blobs::new(dir),
        None => return Ok(Vec::new()),
    };
    let facts = |target: &Descriptor| match known.of_sound(&blobs, target) {
        // Something else is in the place of a directory of blobs, which is reported elsewhere.
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(None),
        found => found,
    };
    let faults = index.faults(facts);
    let (mended, outcome) = if repair && !faults.is_empty() {
        match IndexFile::default().change(directories, |index| Ok(index.mend(facts))) {
            Ok(mended) => {
                let outcome = "the entry was not corrected: its digest is not valid, or its \
                               content is missing, damaged or unreadable in the store; import the \
                               content, or correct or remove the entry";
                (Some(mended), outcome.to_owned())
            }
            // The rest of the store can still be repaired.
            Err(error) => (None, format!("the entry was not corrected: {error}")),
        }
    } else {
        let outcome = "a repair corrects the entry if the store has its content";
        (None, outcome.to_owned())
    };
    let unmended = faults.into_iter().map(|fault| (fault, false));
    let faults = mended.unwrap_or_else(|| unmended.collect());
    let found = |(fault, is_mended): (String, bool)| {
        let outcome = match is_mended {
            true => "the entry was corrected",
            false => &outcome,
        };
        finding(ENTRIES, format!("{fault}; {outcome}"), is_mended)
    };
    let several = index.several().into_iter();
    let several = several.map(|(name, error)| finding(ENTRIES, format!("{name}: {error}"), false));
    Ok(faults.into_iter().map(found).chain(several).collect())
}

/// Makes a damaged or lost `index.json` again, and writes the missing records of its names. On a
/// full disk, some of these records stay missing, so that the rest of the store is repaired. Holds
/// the lock of `index.json`, because other jobs may use the store.
fn repair_index(directories: (&Dir, &Dir), database: &Path) -> Result<Option<Finding>> {
    let (root, cas_dir) = directories;
    let _lock = lock_index(cas_dir)?;
    let mut found = None;
    if let Some(why) = why(read_index(root))? {
        root.set_aside(FILE)?;
        let names = rebuild_index(directories, database)?;
        let detail = format!(
            "{why}; the file was made again from the records; number of restored names: {names}"
        );
        found = Some(finding(FILE, detail, true));
    }
    match restore_names(&read_index(root)?, database) {
        // The names are still in `index.json`. The next repair writes their records.
        Err(error) if error.kind() == ErrorKind::Full => {}
        restored => restored?,
    }
    Ok(found)
}

/// Returns why a file is damaged or lost, without advice, or `None` if it is neither.
fn why<T>(read: Result<T>) -> Result<Option<String>> {
    match read {
        Ok(_) => Ok(None),
        Err(error) => match error.kind() {
            ErrorKind::Corrupt | ErrorKind::NotFound => Ok(Some(error.without_advice())),
            _ if file::is_too_long(&error) => Ok(Some(error.without_advice())),
            _ => Err(error),
        },
    }
}

fn read_index(root: &Dir) -> Result<Index> {
    let data = file::read(root, FILE, limit::DOCUMENT_READ)?;
    Index::parse(&data.ok_or_else(|| Error::not_found("the store has no index.json"))?)
}

/// Writes a record for each name in the index that has no record, so that all names survive a loss
/// of the index.
fn restore_names(index: &Index, database: &Path) -> Result<()> {
    let records = SqliteRecords::open(database)?;
    for (name, target) in index.list() {
        let mut batch = Batch::new();
        let key = key(&name, &target);
        if records.load_blocking(Table::Images, &key)?.is_some() {
            continue;
        }
        let value = encode_image(&key, &Image::new(name, target))?;
        batch.put(Table::Images, key, Expect::Any, value);
        records.commit_blocking(&batch)?;
    }
    Ok(())
}

/// Writes `index.json` with the names in the records. Returns the number of names. A kill may leave
/// two records of one name. The record with the later update is then used.
fn rebuild_index(directories: (&Dir, &Dir), database: &Path) -> Result<usize> {
    let mut images: Vec<Image> = Vec::new();
    let records = SqliteRecords::open(database)?;
    let mut after: Option<String> = None;
    loop {
        let page = wait(records.scan(Table::Images, "", after.as_deref(), PAGE))?;
        // A damaged record is reported by the check that follows.
        images.extend(page.iter().filter_map(|record| decode_image(record).ok()));
        match page.into_iter().nth(PAGE - 1) {
            Some(last) => after = Some(last.key),
            None => break,
        }
    }
    images.sort_by_key(|image| image.updated_at);
    let mut index = Index::empty();
    for image in &images {
        index.set(&image.name, &image.target)?;
    }
    let names = index.list().len();
    replace(directories, &index.encode()?)?;
    Ok(names)
}
