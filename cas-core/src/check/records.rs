//! Damaged records: records of blobs, images or leases that do not parse, or that do not have their
//! checksum.
//!
//! A repair copies a damaged record into a note, so that a user can still read the data: perhaps
//! only one letter is wrong. The repair then deletes the record, because a table that contains a
//! damaged record cannot be listed.

use std::sync::Arc;

use super::{Checker, Problem};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Image, decode_image};
use crate::limit;
use crate::records::{Batch, Expect, Lease, Notes, Record, Table, blob, codec, each};

/// The room of the notes on damaged records. The key of a note is `TABLE/KEY`. Its value is the
/// value of the record, cut to [`limit::NOTE`] bytes.
const ROOM: &str = "damaged-records";
/// The prefix of the keys of notes on lost names.
const NAMES: &str = "images/";

impl Checker<'_> {
    /// Checks that the records of blobs, images and leases are not damaged. A repair sets aside
    /// those that are. Also reports the names that were lost in this way, now or in an earlier
    /// repair.
    pub(super) async fn check_records(&mut self) -> Result<()> {
        for table in [Table::Blobs, Table::Images, Table::Leases] {
            let mut damaged = Vec::new();
            each(&*self.store.records, table, "", |record| {
                if let Err(why) = examine(table, record) {
                    damaged.push((record.clone(), why.without_advice()));
                }
                Ok(())
            })
            .await?;
            for (record, why) in damaged {
                self.set_aside(table, &record, &why).await?;
            }
        }
        self.report_lost_names().await
    }

    async fn set_aside(&mut self, table: Table, record: &Record, why: &str) -> Result<()> {
        let repairs = self.options.repair.is_some();
        if repairs {
            let notes = self.damaged_records()?;
            let key = format!("{}/{}", table.name(), record.key);
            let kept = record.value.slice(..record.value.len().min(limit::NOTE));
            match notes.put(&key, kept, Expect::Any).await {
                // The key is too long or has control characters, so no blob, image or lease has it.
                Err(error) if error.kind() == ErrorKind::InvalidArgument => {}
                noted => noted?,
            }
            let mut batch = Batch::new();
            let expect = Expect::Revision(record.revision.clone());
            batch.delete(table, record.key.as_str(), expect);
            self.store.records.commit(&batch).await?;
        }
        let detail = match table {
            Table::Images => {
                format!(
                    "the record is damaged: {why}; the labels and the owner of the name are lost; \
                     pull, import or tag the image again after a repair"
                )
            }
            _ if repairs => format!("the record is damaged: {why}; it was set aside"),
            _ => format!("the record is damaged: {why}; a repair sets it aside"),
        };
        // After a repair, the name itself is reported as lost, unless the store has it elsewhere.
        let subject = format!("{}/{}", table.name(), record.key);
        self.add(Problem::RecordDamaged, subject, detail, repairs);
        Ok(())
    }

    /// Reports the names whose records were set aside and that are still missing. A repair deletes
    /// the notes on the other names.
    async fn report_lost_names(&mut self) -> Result<()> {
        let notes = self.damaged_records()?;
        for note in notes.list(NAMES).await? {
            let name = note.key.strip_prefix(NAMES).unwrap_or(&note.key).to_owned();
            // `backend-fs` stores the target of the name in `index.json`, and appends the digest of
            // the target to the key of the record.
            let plain = name.split(' ').next().unwrap_or_default();
            let exists = match plain.parse() {
                Ok(name) => self.store.images.get(&name).await?.is_some(),
                Err(_) => false,
            };
            if !exists {
                let detail = "the record of the name was damaged, so the target of the name is \
                              lost; pull, import or tag the image again";
                self.add(Problem::NameLost, plain, detail, false);
                self.names_lost = true;
            } else if self.options.repair.is_some() {
                notes.delete(&note.key, Expect::Any).await?;
            }
        }
        Ok(())
    }

    fn damaged_records(&self) -> Result<Notes> {
        Notes::new(Arc::clone(&self.store.records), ROOM)
    }
}

/// Checks that a record has its checksum, if it has one, and parses, and that an image has the key
/// of its record.
fn examine(table: Table, record: &Record) -> Result<()> {
    match table {
        Table::Blobs => {
            let _: Digest = record.key.parse()?;
            blob::decode(record).map(drop)
        }
        Table::Images => check_key(&decode_image(record)?, &record.key),
        Table::Leases => codec::decode::<Lease>(record, "read lease").map(drop),
        _ => Ok(()),
    }
}

/// Checks that the key of a record belongs to its image: that it is the name of the image or, in
/// `backend-fs`, the name and the digest of the target. Only the value has a checksum.
fn check_key(image: &Image, key: &str) -> Result<()> {
    let (name, target) = (&image.name, image.target.digest);
    if key == name.as_str() || key == format!("{name} {target}") {
        return Ok(());
    }
    Err(Error::corrupt(format!(
        "the key was changed: the record states the image {name} with the target {target}"
    )))
}
