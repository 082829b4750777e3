//! Opens a damaged database for reading. The files of the database do not change.

use std::path::Path;

use cas_core::{ErrorKind, Result};
use cas_kv::OpenMode;
use rocksdb::DB;

use crate::database::Database;
use crate::error::classify;
use crate::head;
use crate::options::Tuning;
use crate::side::SideDir;

/// Opens a damaged database. Returns the database, and whether the copy of its manifest was used.
///
/// Tries the manifest that the file `CURRENT` names, then the newest manifest, then the copy: often
/// only the file `CURRENT` is lost, and the copy may be older. If none of them can be read, RocksDB
/// makes another manifest from the table files. Rows in blob files cannot be found through that
/// manifest.
///
/// # Errors
/// `Corrupt` if nothing can be read; `Full` and other errors of the engine and of the file system.
pub(crate) fn open(path: &Path, tuning: Tuning) -> Result<(Database, bool)> {
    if let Some(database) = try_open(path, tuning)? {
        return Ok((database, false));
    }
    let side = SideDir::of(path)?;
    let (mut database, with_copy) = open_side(side.path(), path, tuning)?;
    database.side = Some(side);
    Ok((database, with_copy))
}

fn open_side(side: &Path, path: &Path, tuning: Tuning) -> Result<(Database, bool)> {
    if head::set_newest(side)?
        && let Some(database) = try_open(side, tuning)?
    {
        return Ok((database, false));
    }
    if head::restore(path, side)?
        && let Some(database) = try_open(side, tuning)?
    {
        return Ok((database, true));
    }
    DB::repair(&tuning.database(OpenMode::Damaged)?, side).map_err(classify)?;
    Ok((Database::open(side, OpenMode::Damaged, tuning)?, false))
}

/// Opens a damaged database. Returns `None` if the damage prevents this.
fn try_open(path: &Path, tuning: Tuning) -> Result<Option<Database>> {
    match Database::open(path, OpenMode::Damaged, tuning) {
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(None),
        opened => opened.map(Some),
    }
}
