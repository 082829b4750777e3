//! Damaged records: records of blobs, images or leases that do not parse, or that do not have their
//! checksum.
//!
//! A repair copies a damaged record into a note, so that a user can still read the data: perhaps
//! only one letter is wrong. A table that contains a damaged record cannot be listed. So the repair
//! then deletes the record or, if it is the record of a stored blob, replaces it. The replacement
//! has the labels of the damaged record from the beginning. So even if the repair is killed,
//! collections keep what the labels refer to.

use std::sync::Arc;

use serde::Deserialize;

use super::{Checker, Problem};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Image, UNCOMPRESSED, decode_image};
use crate::labels::{GC_REF_CONTENT, Labels, check_labels};
use crate::limit;
use crate::records::{
    Batch, BlobRecord, Blobs, Expect, Lease, Notes, Record, Table, blob, codec, each,
};

/// The room of the notes on damaged records. The key of a note is `TABLE/KEY`. Its value is the
/// value of the record, cut to [`limit::NOTE`] bytes.
const ROOM: &str = "damaged-records";
/// The prefix of the keys of notes on lost names.
const NAMES: &str = "images/";

/// What a repair takes over from the damaged record of a blob.
#[derive(Default, Deserialize)]
struct Readable {
    #[serde(default)]
    labels: Labels,
}

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
        let mut is_replaced = false;
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
            match self.replacement(table, record).await? {
                Some((digest, new)) => {
                    Blobs::put(&mut batch, &digest, &new, expect)?;
                    is_replaced = true;
                }
                None => batch.delete(table, record.key.as_str(), expect),
            }
            self.store.records.commit(&batch).await?;
        }
        let detail = match table {
            Table::Images => {
                format!(
                    "the record is damaged: {why}; the labels and the owner of the name are lost; \
                     pull, import or tag the image again after a repair"
                )
            }
            _ if is_replaced => format!(
                "the record is damaged: {why}; it was set aside, and made again with the labels \
                 that could be read"
            ),
            _ if repairs => format!("the record is damaged: {why}; it was set aside"),
            _ => format!("the record is damaged: {why}; a repair sets it aside"),
        };
        // After a repair, the name itself is reported as lost, unless the store has it elsewhere.
        let subject = format!("{}/{}", table.name(), record.key);
        self.add(Problem::RecordDamaged, subject, detail, repairs);
        Ok(())
    }

    /// Returns the blob of a damaged record, and the record that takes its place. `check_blobs`
    /// completes this record. Returns `None` if the damaged record is not that of a stored blob.
    /// The size of a blob that is not stored is not known.
    async fn replacement(
        &mut self,
        table: Table,
        damaged: &Record,
    ) -> Result<Option<(Digest, BlobRecord)>> {
        let digest: Option<Digest> = damaged.key.parse().ok();
        let Some(digest) = digest.filter(|_| table == Table::Blobs) else {
            return Ok(None);
        };
        self.made.insert(digest);
        let Some(stat) = self.store.content.stat(&digest).await? else {
            return Ok(None);
        };
        let mut record = BlobRecord::new(stat.size, self.recognise(&stat).await?);
        record.labels = self.readable_labels(&damaged.value).await?;
        Ok(Some((digest, record)))
    }

    /// Returns the labels of the damaged record of a blob, or no labels if they cannot be read.
    /// Leaves out the diff ID: a wrong one would not be noticed, and the next unpack computes it
    /// again. Also leaves out references to blobs that the store does not know. A repair could not
    /// fetch these blobs, because their sizes are not known.
    async fn readable_labels(&self, value: &[u8]) -> Result<Labels> {
        let readable: Readable = serde_json::from_slice(value).unwrap_or_default();
        let mut labels = readable.labels;
        if check_labels(&labels).is_err() {
            return Ok(Labels::new());
        }
        labels.remove(UNCOMPRESSED);
        let mut kept = Labels::new();
        for (key, value) in labels {
            let target: Option<Digest> = value.parse().ok();
            let is_lost = match target.filter(|_| key.starts_with(GC_REF_CONTENT)) {
                Some(target) => self.known(&target).await?.is_none(),
                None => false,
            };
            if !is_lost {
                kept.insert(key, value);
            }
        }
        Ok(kept)
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

/// Checks that a record parses and does not have a wrong checksum, and that an image has the key of
/// its record.
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
