//! Examines a database, and copies the readable rows of a damaged database to a new database.
//!
//! The new database is made under a temporary name, and replaces the damaged database in one step.
//! The damaged database is renamed.

mod copy;
mod skip;
mod source;

use std::path::Path;

use cas_core::check::{Finding, Problem};
use cas_core::records::Table;
use cas_core::{Error, ErrorKind, Result};

use self::copy::{Copied, copy};
use self::source::Source;
use crate::engine::Engine;
use crate::kv::Kv;
use crate::owned_dir::OwnedDir;
use crate::store::{KvStore, OpenMode};

impl KvStore {
    /// Examines the database in `dir`: reads all its records, its list of blobs and its list of
    /// ingests, and checks its files with [`Engine::check_files`], but does not read the rows that
    /// contain pieces of blobs and ingests. Returns a finding if damage is found, or if the
    /// database is missing although `dir` had one before. Returns `None` if no damage is found, or
    /// if `dir` never had a database. Also returns `None` if opening the database fails with
    /// `Denied`, `FailedPrecondition` or `Internal`, because [`KvStore::open`] reports these
    /// errors.
    ///
    /// A damaged database is repaired if `repair` is set and the directory can be written: all
    /// blobs and records that can be read are copied to a new database. Ingests are not copied. The
    /// damaged database gets another name, and the new database gets the original name. If no blob
    /// and no record can be read, or if the database is missing, the new database is empty, and the
    /// finding counts as not repaired, because the content is lost.
    ///
    /// # Errors
    /// `Full` if the disk has no room for the copy; other errors of the engine and of the file
    /// system. The bytes of the damaged database are then unchanged.
    pub fn examine<E: Engine>(
        dir: &OwnedDir,
        repair: bool,
        open: impl Fn(&Path, OpenMode) -> Result<E>,
    ) -> Result<Option<Finding>> {
        let repair = repair && dir.is_writable();
        if !dir.database().try_exists()? {
            return examine_absent(dir, repair, &open);
        }
        let open_as =
            |mode| -> Result<Box<dyn Engine>> { Ok(Box::new(open(&dir.database(), mode)?)) };
        let open_old = || open_as(OpenMode::ReadOnly);
        let (old, damage) = match Source::open(&open_old) {
            Err(error) if error.kind() == ErrorKind::Corrupt => (None, error),
            Err(error) if is_reported(&error) => return Ok(None),
            old => {
                let mut old = old?;
                scan(&mut old)?;
                let Some(damage) = old.damage.take() else {
                    return Ok(None);
                };
                (Some(old), damage)
            }
        };
        // The finding states what was done, or what a repair does.
        let damage = damage.without_advice();
        if !repair {
            let detail = format!(
                "{damage}; a repair copies all readable blobs and records to a new database"
            );
            return Ok(Some(finding(dir, detail, false)));
        }
        let new = dir.remove_unfinished()?;
        let open_damaged = || open_as(OpenMode::Damaged);
        let mut old = match old {
            Some(old) => Some(old),
            None => match Source::open(&open_damaged) {
                // An error of another kind may be temporary. It does not mean that the content is
                // lost.
                Err(error) if error.kind() == ErrorKind::Corrupt => None,
                opened => Some(opened?),
            },
        };
        let new = open(&new, OpenMode::Create)?;
        let copied = match &mut old {
            Some(old) => copy(old, &new),
            None => Kv::write_format(&new).map(|()| Copied::default()),
        };
        let later = match old.is_some_and(|old| old.reads_head) {
            true => {
                "; the start of the old database was read from a copy that was made when the \
                 database was last closed, so later changes may be missing"
            }
            false => "",
        };
        // Both databases close their files before the files get other names.
        drop(new);
        let Copied { kept, lost } = copied?;
        let without = match lost.len() {
            0 => String::new(),
            lost => format!("; damaged blobs that were not copied: {lost}"),
        };
        let aside = dir.replace_database()?;
        let detail = match kept {
            0 => format!(
                "{damage}; nothing in the old database can be read, so the new database is empty; \
                 the old database is now named {aside}, and may be removed; pull or import the \
                 images again"
            ),
            _ => format!(
                "{damage}; all readable blobs and records were copied to a new \
                 database{without}{later}; the old database is now named {aside}, and may be \
                 removed"
            ),
        };
        Ok(Some(finding(dir, detail, kept > 0)))
    }
}

/// Reports a database that was lost. A repair makes an empty database.
fn examine_absent<E: Engine>(
    dir: &OwnedDir,
    repair: bool,
    open: &impl Fn(&Path, OpenMode) -> Result<E>,
) -> Result<Option<Finding>> {
    if !dir.has_lost_database()? {
        return Ok(None);
    }
    let detail = if repair {
        Kv::write_format(&open(&dir.remove_unfinished()?, OpenMode::Create)?)?;
        dir.publish()?;
        "the database is missing; an empty database was made; pull or import the images again"
    } else {
        "the database is missing; restore a copy, or let a repair make an empty database"
    };
    Ok(Some(finding(dir, detail.to_owned(), false)))
}

fn finding(dir: &OwnedDir, detail: String, repaired: bool) -> Finding {
    Finding {
        problem: Problem::DatabaseDamaged,
        subject: dir.database().display().to_string(),
        detail,
        repaired,
    }
}

/// Returns whether the examination ignores an error of opening the database. It ignores errors that
/// are not caused by damage, and that opening the store reports.
fn is_reported(error: &Error) -> bool {
    use ErrorKind::{Denied, FailedPrecondition, Internal};
    matches!(error.kind(), Denied | FailedPrecondition | Internal)
}

/// Reads all entries and records. If none of them is damaged, checks the files.
fn scan(source: &mut Source<'_>) -> Result<()> {
    source.blobs(&mut |_, _| Ok(()))?;
    for table in Table::ALL {
        source.records(table, &mut |_, _| Ok(()))?;
    }
    source.read(|view| view.ingests().map(|_| ()))?;
    match source.damage {
        Some(_) => Ok(()),
        None => source.check_files(),
    }
}
