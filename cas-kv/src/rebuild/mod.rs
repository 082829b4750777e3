//! Examining a database, and copying what can be read of a damaged one to a new one.
//!
//! The new database is made under the temporary name, and replaces the damaged one in one step. The
//! damaged one is renamed.

mod copy;
mod skip;
mod source;

use std::path::Path;

use cas_core::check::{Finding, Problem};
use cas_core::records::Table;
use cas_core::{Error, ErrorKind, Result};

use self::copy::copy;
use self::source::Source;
use crate::engine::Engine;
use crate::owned_dir::OwnedDir;
use crate::store::{KvStore, OpenMode};

impl KvStore {
    /// Examines the database in `dir`. Returns what is wrong, or `None` if nothing is wrong. Also
    /// returns `None` if the database is absent, or if it cannot be opened: [`KvStore::open`] then
    /// reports why.
    ///
    /// If some rows cannot be read and `repair` is set, copies all other rows, except ingests, to a
    /// new database. The new database gets the name of the damaged one, which is renamed.
    ///
    /// # Errors
    /// `Full` if the disk has no room for the copy; errors of the engine and of the file system.
    pub fn examine<E: Engine>(
        dir: &OwnedDir,
        repair: bool,
        open: impl Fn(&Path, OpenMode) -> Result<E>,
    ) -> Result<Option<Finding>> {
        if !dir.database().try_exists()? {
            return Ok(None);
        }
        let open_old = || -> Result<Box<dyn Engine>> {
            Ok(Box::new(open(&dir.database(), OpenMode::ReadOnly)?))
        };
        let mut old = match Source::open(&open_old) {
            Err(error) if is_reported(&error) => return Ok(None),
            old => old?,
        };
        scan(&mut old)?;
        let Some(damage) = old.damage.take() else {
            return Ok(None);
        };
        let repair = repair && dir.is_writable();
        let detail = if repair {
            let new = open(&dir.remove_unfinished()?, OpenMode::Create)?;
            let copied = copy(&mut old, &new);
            // Both databases close their files before the files get other names.
            drop((old, new));
            let lost = copied?;
            let aside = dir.replace_database()?;
            format!(
                "{damage}; all that could be read was copied to a new database, without {lost} \
                 damaged blobs; the old one is {aside}, which may be removed"
            )
        } else {
            format!("{damage}; a repair copies what can be read to a new database")
        };
        Ok(Some(Finding {
            problem: Problem::DatabaseDamaged,
            subject: dir.database().display().to_string(),
            detail,
            repaired: repair,
        }))
    }
}

/// Returns whether the opening of the store after the examination reports this error.
fn is_reported(error: &Error) -> bool {
    use ErrorKind::{Corrupt, Denied, FailedPrecondition, Internal};
    matches!(
        error.kind(),
        Corrupt | Denied | FailedPrecondition | Internal
    )
}

/// Reads all entries and records.
fn scan(source: &mut Source<'_>) -> Result<()> {
    source.blobs(&mut |_, _| Ok(()))?;
    for table in Table::ALL {
        source.records(table, &mut |_, _| Ok(()))?;
    }
    source.read(|view| view.ingests().map(|_| ()))?;
    Ok(())
}
