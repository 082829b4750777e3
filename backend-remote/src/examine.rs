//! Finds and repairs damaged objects in the folders of records and of blobs.
//!
//! - An object in the folder of records is damaged if it is not a cell, or if its name is not an
//!   escaped key. Until a repair, the records of its table cannot be listed.
//! - An object in the folder of blobs is damaged if it is not a cell, if its name is not a digest,
//!   or if its value is not a pointer to parts of its blob. Until a repair, the blobs of the store
//!   cannot be listed.

use std::future::ready;

use cas_core::check::{Finding, Problem};
use cas_core::records::Expect;
use cas_core::{Digest, ErrorKind, Result, limit};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::blob::{FOLDER, Pointer};
use crate::cell::CONCURRENCY;
use crate::error::foreign_object;
use crate::object_name::{escape, unescape};
use crate::runtime;
use crate::store::{Remote, RemoteStore};

/// The folder of the cells of records.
pub(crate) const RECORDS: &str = "records/";
/// The check of a store parses the records of these tables.
const CHECKED: [&str; 3] = ["blobs/", "images/", "leases/"];
/// The prefix of the keys of notes that keep damaged records.
const NOTES: &str = "damaged-records/objects/";
/// Maximum number of names in one page of a list.
const PAGE: usize = 1000;

impl RemoteStore {
    /// Finds the damaged objects in the folders of records and of blobs. Returns a finding for each
    /// object, with one exception. In a directory, also finds what is in the place of an object and
    /// is not a file. A repair sets it aside.
    ///
    /// A repair deletes such an object in the folder of blobs. The blob is then missing. In the
    /// folder of records, a repair makes the bytes of the object the value of the record. If the
    /// check of the store parses the records of the table, the repair returns no finding for this
    /// object, because the check then reports the record and sets it aside. If the name of the
    /// object is not an escaped key, a repair moves the bytes to a note instead. The note keeps at
    /// most the first [`limit::NOTE`] bytes.
    ///
    /// # Errors
    /// `Denied` if something must be repaired and the store is read-only; errors of the service or
    /// the directory.
    pub(crate) async fn examine(&self, repair: bool) -> Result<Vec<Finding>> {
        let remote = self.0.clone();
        runtime::run(async move {
            let mut findings = Vec::new();
            for path in remote.damaged(RECORDS).await? {
                findings.extend(remote.examine_record(&path, repair).await?);
            }
            for path in remote.damaged(FOLDER).await? {
                findings.push(remote.examine_blob(&path, repair).await?);
            }
            Ok(findings)
        })
        .await
    }
}

impl Remote {
    /// Returns the paths of the objects in a folder that are not valid cells.
    async fn damaged(&self, folder: &str) -> Result<Vec<String>> {
        let (mut damaged, mut after) = (Vec::new(), None);
        loop {
            let prefix = self.cells.prefix();
            let names = prefix.list(folder, "", after.as_deref(), PAGE).await?;
            after = names.get(PAGE - 1).cloned();
            let checked = stream::iter(names).map(|name| async move {
                let path = format!("{folder}{name}");
                match self.check_cell(&path).await {
                    Err(error) if error.kind() == ErrorKind::Corrupt => Ok(Some(path)),
                    checked => checked.map(|()| None),
                }
            });
            let found = checked
                .buffered(CONCURRENCY)
                .try_filter_map(|path| ready(Ok(path)));
            damaged.extend(found.try_collect::<Vec<String>>().await?);
            if after.is_none() {
                return Ok(damaged);
            }
        }
    }

    async fn check_cell(&self, path: &str) -> Result<()> {
        let Some(cell) = self.cells.load(path).await? else {
            return Ok(());
        };
        match path.strip_prefix(FOLDER).map(digest) {
            Some(Some(digest)) => Pointer::parse(&cell.value, &digest).map(|_| ()),
            None if key(path).is_some() => Ok(()),
            Some(None) | None => Err(foreign_object(path)),
        }
    }

    async fn examine_record(&self, path: &str, repair: bool) -> Result<Option<Finding>> {
        let name = path.strip_prefix(RECORDS).unwrap_or(path);
        if let Some(what) = self.cells.prefix().misplaced(path)? {
            if repair {
                self.cells.prefix().delete(path).await?;
            }
            let outcome = match repair {
                true => {
                    "this entry was moved to the top directory of the store, and `.damaged-` and a \
                     number were added to its name"
                }
                false => {
                    "a repair moves this entry to the top directory of the store, and adds \
                     `.damaged-` and a number to its name"
                }
            };
            return Ok(Some(Finding {
                problem: Problem::DatabaseDamaged,
                subject: path.to_owned(),
                detail: format!("the record is lost: {}; {outcome}", what.without_advice()),
                repaired: repair,
            }));
        }
        let Some(subject) = key(path) else {
            if repair {
                self.move_to_note(path).await?;
            }
            return Ok(Some(Finding {
                problem: Problem::RecordDamaged,
                subject: name.to_owned(),
                detail: format!(
                    "the name of the object is not the escaped key of a record; {}",
                    match repair {
                        true =>
                            "the object was removed, and up to 64 KiB of it were kept in the table \
                             `notes`",
                        false =>
                            "the records of its table cannot be listed until a repair removes the \
                             object and keeps up to 64 KiB of it in the table `notes`",
                    }
                ),
                repaired: repair,
            }));
        };
        if repair {
            self.cells.wrap(path).await?;
        }
        let is_checked = CHECKED.iter().any(|table| name.starts_with(table));
        let outcome = match repair {
            true => "the bytes of the object are now the value of the record",
            false => {
                "the records of its table cannot be listed until a repair makes the bytes of the \
                 object the value of the record"
            }
        };
        let finding = Finding {
            problem: Problem::RecordDamaged,
            subject,
            detail: format!("the object of the record is damaged; {outcome}"),
            repaired: repair,
        };
        Ok(Some(finding).filter(|_| !(repair && is_checked)))
    }

    /// Makes the bytes of an object, at most the first [`limit::NOTE`], the value of a note. Then
    /// deletes the object.
    async fn move_to_note(&self, path: &str) -> Result<()> {
        let prefix = self.cells.prefix();
        if let Some(object) = prefix.get(path).await? {
            let kept = object.body.slice(..object.body.len().min(limit::NOTE));
            // The name of the object may be too long to be a part of another name.
            let hash = Digest::sha256(path.as_bytes()).hex();
            let note = format!("{RECORDS}notes/{}", escape(&format!("{NOTES}{hash}")));
            self.cells.swap(&note, &Expect::Any, Some(kept)).await?;
        }
        prefix.delete(path).await
    }

    async fn examine_blob(&self, path: &str, repair: bool) -> Result<Finding> {
        let name = path.strip_prefix(FOLDER).unwrap_or(path);
        let digest = digest(name);
        if repair {
            match &digest {
                // Another process may have replaced the object since it was checked.
                Some(digest) => drop(self.blobs.remove_damaged(digest).await?),
                None => self.cells.prefix().delete(path).await?,
            }
        }
        let outcome = match repair {
            true => "the object was removed, and the blob is missing",
            false => "a repair removes the object, and the blob is then missing",
        };
        Ok(Finding {
            problem: Problem::BlobDamaged,
            subject: digest.map_or_else(|| name.to_owned(), |digest| digest.to_string()),
            detail: format!("the object that lists the parts of the blob is damaged; {outcome}"),
            repaired: repair,
        })
    }
}

/// Returns the table and the key of a record, as in `TABLE/KEY`. Returns `None` if the name of its
/// object is not an escaped key.
fn key(path: &str) -> Option<String> {
    let (table, name) = path.strip_prefix(RECORDS)?.split_once('/')?;
    Some(format!("{table}/{}", unescape(name)?))
}

/// Returns the digest of the blob whose cell is the object `name`, or `None` if `name` is not the
/// name of a blob's cell.
fn digest(name: &str) -> Option<Digest> {
    let (algorithm, hex) = name.split_once('/')?;
    format!("{algorithm}:{hex}").parse().ok()
}
