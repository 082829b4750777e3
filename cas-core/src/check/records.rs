//! Damaged records: records of blobs, images or leases that do not parse.
//!
//! A repair copies a damaged record into a note, so that a user can still read the data: perhaps
//! only one letter is wrong. The repair then deletes the record, because a table that contains a
//! damaged record cannot be listed.

use std::sync::Arc;

use super::{Checker, Problem};
use crate::error::{ErrorKind, Result};
use crate::image::Image;
use crate::limit;
use crate::records::blob::decode;
use crate::records::{Batch, Expect, Lease, Notes, Record, Table, each};

/// The room of the notes on damaged records. The key of a note is `TABLE/KEY`. Its value is the
/// value of the record, cut to [`limit::NOTE`] bytes.
const ROOM: &str = "damaged-records";
/// The prefix of the keys of notes on lost names.
const NAMES: &str = "images/";

impl Checker<'_> {
    /// Checks that the records of blobs, images and leases parse. A repair sets aside those that do
    /// not. Also reports the names that were lost in this way, now or in an earlier repair.
    pub(super) async fn check_records(&mut self) -> Result<()> {
        for table in [Table::Blobs, Table::Images, Table::Leases] {
            let mut damaged = Vec::new();
            each(&*self.store.records, table, "", |record| {
                if let Err(why) = parses(table, record) {
                    damaged.push((record.clone(), why));
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
                    "the record does not parse: {why}; the labels and the owner of the name are \
                     lost; pull, import or tag the image again after a repair"
                )
            }
            _ if repairs => format!("the record does not parse: {why}; it was set aside"),
            _ => format!("the record does not parse: {why}; a repair sets it aside"),
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
                let detail = "the record of the name did not parse, so the target of the name is \
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

/// Checks that a record parses. The error says why it does not.
fn parses(table: Table, record: &Record) -> Result<(), String> {
    let parsed = match table {
        Table::Blobs => {
            let key: Result<crate::Digest, _> = record.key.parse();
            return match (key, decode(record)) {
                (Err(error), _) | (_, Err(error)) => Err(error.to_string()),
                _ => Ok(()),
            };
        }
        Table::Images => serde_json::from_slice::<Image>(&record.value).map(|_| ()),
        Table::Leases => serde_json::from_slice::<Lease>(&record.value).map(|_| ()),
        _ => Ok(()),
    };
    parsed.map_err(|error| error.to_string())
}
