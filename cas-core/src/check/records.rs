//! Damaged records: records of blobs, images or leases that do not parse, that have a wrong
//! checksum, or that were written for another key.
//!
//! A repair copies a damaged record into a note, so that a user can still read the data: perhaps
//! only one letter is wrong. A table that contains a damaged record cannot be listed. So the repair
//! then deletes the record or, if it is the record of a stored blob, replaces it. The replacement
//! has the labels that can be read from the beginning. So even if the repair is killed,
//! collections keep what these labels refer to. If labels may be lost or wrong, a lease keeps the
//! blob. No labels are taken from a record that was written for another blob. The record of an
//! image is replaced, too, if its name and its target can still be read, and so are the records of
//! the leases of repairs (`own_leases.rs`).

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Deserialize;

use super::heal::keep;
use super::{Checker, Problem, RECOVERED};
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Image, Reference, UNCOMPRESSED, decode_image, encode_image};
use crate::labels::{GC_REF_CONTENT, Labels, check_labels};
use crate::limit;
use crate::records::{
    Batch, BlobRecord, Blobs, Expect, Lease, Leases, Notes, Record, Table, blob, codec, each,
};

/// The room of the notes on damaged records. The key of a note is `TABLE/KEY`. Its value is the
/// value of the record, cut to [`limit::NOTE`] bytes. If a record is damaged again, and has another
/// value than before, the key of the second note has a space and the digest of this value at its
/// end.
const ROOM: &str = "damaged-records";
/// The prefix of the keys of notes on lost names.
const NAMES: &str = "images/";
/// What is before the labels in the record of a blob.
const LABELS: &[u8] = b"\"labels\":{";

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
        // A repair that replaces records of blobs needs a lease that parses.
        for table in [Table::Leases, Table::Blobs, Table::Images] {
            let mut damaged = Vec::new();
            each(&*self.store.records, table, "", |record| {
                if let Err(why) = examine(table, record) {
                    damaged.push((record.clone(), why.without_advice()));
                }
                Ok(())
            })
            .await?;
            if table == Table::Blobs && self.options.repair.is_some() {
                let records = damaged.iter().map(|(record, _)| record);
                self.keep_doubtful(records.collect()).await?;
            }
            for (record, why) in damaged {
                self.set_aside(table, &record, &why).await?;
            }
        }
        self.report_lost_names().await
    }

    /// Keeps the stored blobs of damaged records under a lease, except those whose records state
    /// that they have no labels. This comes before the records are replaced: the next repair does
    /// not know which labels a replaced record may have lost.
    async fn keep_doubtful(&mut self, damaged: Vec<&Record>) -> Result<()> {
        let kept = self.kept_by(RECOVERED).await?;
        let mut doubtful = BTreeSet::new();
        for record in damaged {
            let digest: Option<Digest> = record.key.parse().ok();
            let Some(digest) = digest.filter(|_| !states_no_labels(record)) else {
                continue;
            };
            self.labels_lost = true;
            if !kept.contains(&digest) && self.store.content.stat(&digest).await?.is_some() {
                doubtful.insert(digest);
            }
        }
        if !doubtful.is_empty() {
            let blobs: Vec<Digest> = doubtful.iter().copied().collect();
            keep(self.store, RECOVERED, &blobs).await?;
        }
        self.doubtful = doubtful;
        Ok(())
    }

    async fn set_aside(&mut self, table: Table, record: &Record, why: &str) -> Result<()> {
        let repairs = self.options.repair.is_some();
        let (mut replaced, mut is_named, mut rebuilt) = (None, false, None);
        if repairs {
            match self.note_value(table, record).await {
                // The key is too long or has control characters, so no blob, image or lease has it.
                Err(error) if error.kind() == ErrorKind::InvalidArgument => {}
                noted => noted?,
            }
            let mut batch = Batch::new();
            let expect = Expect::Revision(record.revision.clone());
            if let Some((digest, new)) = self.replacement(table, record).await? {
                Blobs::put(&mut batch, &digest, &new, expect)?;
                replaced = Some(new.labels);
            } else if let Some(image) = self.readable_image(table, record).await? {
                let value = encode_image(&record.key, &image)?;
                batch.put(table, record.key.as_str(), expect, value);
                is_named = true;
            } else if let Some((lease, how)) = self.rebuilt_lease(table, record).await? {
                Leases::put(&mut batch, &record.key, &lease, expect)?;
                rebuilt = Some(how);
            } else {
                batch.delete(table, record.key.as_str(), expect);
            }
            self.store.records.commit(&batch).await?;
        }
        let detail = match (table, replaced) {
            (Table::Images, _) if is_named => format!(
                "the record is damaged: {why}; it was set aside, and made again with the target \
                 that could be read; the labels of the name are lost"
            ),
            (Table::Images, _) => {
                format!(
                    "the record is damaged: {why}; the labels and the owner of the name are lost; \
                     pull, import or tag the image again after a repair"
                )
            }
            (_, Some(labels)) => format!(
                "the record is damaged: {why}; it was set aside, and made again {}",
                outcome(record, &labels)
            ),
            _ if repairs => {
                let how = rebuilt.map(|how| format!(", and {how}"));
                let how = how.unwrap_or_default();
                format!("the record is damaged: {why}; it was set aside{how}")
            }
            _ => format!("the record is damaged: {why}; a repair sets it aside"),
        };
        // After a repair, the name itself is reported as lost, unless the store has it elsewhere.
        let subject = format!("{}/{}", table.name(), record.key);
        self.add(Problem::RecordDamaged, subject, detail, repairs);
        Ok(())
    }

    /// Keeps the value of a damaged record in a note. A note on earlier damage of the record stays.
    async fn note_value(&self, table: Table, record: &Record) -> Result<()> {
        let notes = self.damaged_records()?;
        let mut key = format!("{}/{}", table.name(), record.key);
        let kept = record.value.slice(..record.value.len().min(limit::NOTE));
        let earlier = notes.load(&key).await?;
        if earlier.is_some_and(|(earlier, _)| earlier != kept) {
            key = format!("{key} {}", Digest::sha256(&kept));
        }
        notes.put(&key, kept, Expect::Any).await
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
        self.note_made(digest).await?;
        let Some(stat) = self.store.content.stat(&digest).await? else {
            return Ok(None);
        };
        let mut record = BlobRecord::new(stat.size, self.recognise(&stat).await?);
        record.labels = self.readable_labels(damaged).await?;
        Ok(Some((digest, record)))
    }

    /// Returns the labels that can be read in the damaged record of a blob, or none if the record
    /// is that of another blob. Leaves out the diff ID: a wrong one would not be noticed, and the
    /// next unpack computes it again. Also leaves out references to blobs that the store does not
    /// know. A repair could not fetch these blobs, because their sizes are not known.
    async fn readable_labels(&self, damaged: &Record) -> Result<Labels> {
        if codec::is_of_another_key(Table::Blobs, damaged) {
            return Ok(Labels::new());
        }
        let readable: Readable = serde_json::from_slice(&damaged.value).unwrap_or_default();
        let mut labels = readable.labels;
        if labels.is_empty() {
            labels = salvage(&damaged.value);
        }
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

    /// Returns the image of a damaged record, without its labels and its owner, if the text of the
    /// record states the name in the key, and the digest of a document that is stored intact.
    /// Returns `None` if the text states an owner, because nobody else may get the name, and the
    /// stated owner may be wrong.
    async fn readable_image(&self, table: Table, damaged: &Record) -> Result<Option<Image>> {
        let text = String::from_utf8_lossy(&damaged.value);
        let states_key = text.contains(&format!("\"name\":\"{}\"", damaged.key));
        if table != Table::Images || !states_key || text.contains("\"owner\":") {
            return Ok(None);
        }
        let target = text.split_once("\"target\":{").map(|(_, target)| target);
        let digest = target.and_then(|target| target.split_once("\"digest\":\""));
        let digest: Option<Digest> =
            digest.and_then(|(_, digest)| digest.split('"').next()?.parse().ok());
        let name: Option<Reference> = damaged.key.parse().ok();
        let (Some(name), Some(digest)) = (name, digest) else {
            return Ok(None);
        };
        let Some(stat) = self.store.content.stat(&digest).await? else {
            return Ok(None);
        };
        let media_type = self.recognise(&stat).await?;
        let media_type = media_type.filter(|one| one.is_document() && name.allows(&digest));
        Ok(media_type.map(|media_type| {
            let target = Descriptor::new(media_type, digest, stat.size);
            Image::new(name, target)
        }))
    }

    /// Reports the names whose records were set aside and that are still missing. A repair deletes
    /// the notes on the other names.
    async fn report_lost_names(&mut self) -> Result<()> {
        let notes = self.damaged_records()?;
        let mut lost = BTreeSet::new();
        for note in notes.list(NAMES).await? {
            let name = note.key.strip_prefix(NAMES).unwrap_or(&note.key).to_owned();
            // `backend-fs` stores the target of the name in `index.json`, and appends the digest of
            // the target to the key of the record. There may be several notes on one name.
            let plain = name.split(' ').next().unwrap_or_default();
            let exists = match plain.parse() {
                Ok(name) => self.store.images.get(&name).await?.is_some(),
                Err(_) => false,
            };
            if !exists {
                if !lost.insert(plain.to_owned()) {
                    continue;
                }
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

/// Returns whether the damaged record of a blob states that the blob has no labels. Then the record
/// is not that of another blob, parses, and has no other member, which might be the labels under a
/// changed key.
fn states_no_labels(damaged: &Record) -> bool {
    let content = codec::content(&damaged.value);
    let parsed: serde_json::Result<BlobRecord> = serde_json::from_slice(&damaged.value);
    let has_none = parsed.is_ok_and(|record| {
        let encoded = serde_json::to_vec(&record);
        // `content` lacks the end of the object.
        record.labels.is_empty() && encoded.is_ok_and(|bytes| bytes.len() == content.len() + 1)
    });
    has_none && !codec::is_of_another_key(Table::Blobs, damaged)
}

/// Says which labels the new record of a blob has.
fn outcome(damaged: &Record, labels: &Labels) -> String {
    if states_no_labels(damaged) {
        return "without labels, because it had none".to_owned();
    }
    let read = match labels.is_empty() {
        true => "without labels, because none could be read",
        false => "with the labels that could be read",
    };
    format!("{read}; a label may be lost or wrong, so the lease `{RECOVERED}` keeps the blob")
}

/// Returns the labels in the text of a damaged record, up to the first one that cannot be read.
/// One byte of the text before the labels may be wrong, and one bit of the byte after a string.
fn salvage(value: &[u8]) -> Labels {
    let is_before = |text: &[u8]| text.iter().zip(LABELS).filter(|(a, b)| a != b).count() <= 1;
    let starts = value.windows(LABELS.len()).position(is_before);
    let text = starts.and_then(|at| value.get(at + LABELS.len()..));
    let mut rest = text.unwrap_or_default();
    let mut labels = Labels::new();
    while let Some((key, after)) = split_string(rest, b":")
        && let Some((label, after)) = split_string(after, b",}")
    {
        labels.insert(key, label);
        rest = after;
    }
    labels
}

/// Splits a JSON string and the byte after it from `text`. At most one bit of this byte may differ
/// from one of `ends`.
fn split_string<'a>(text: &'a [u8], ends: &[u8]) -> Option<(String, &'a [u8])> {
    let mut strings = serde_json::Deserializer::from_slice(text).into_iter::<String>();
    let string = strings.next()?.ok()?;
    let (found, rest) = text.get(strings.byte_offset()..)?.split_first()?;
    let is_end = ends.iter().any(|end| (found ^ end).count_ones() <= 1);
    is_end.then_some((string, rest))
}

/// Checks that a record parses, does not have a wrong checksum, and was written for its key.
fn examine(table: Table, record: &Record) -> Result<()> {
    match table {
        Table::Blobs => {
            let _: Digest = record.key.parse()?;
            blob::decode(record).map(drop)
        }
        Table::Images => check_key(&decode_image(record)?, &record.key),
        Table::Leases => codec::decode::<Lease>(table, record, "read lease").map(drop),
        _ => Ok(()),
    }
}

/// Checks that the key of a record belongs to its image: that it is the name of the image or, in
/// `backend-fs`, the name and the digest of the target. Records of earlier releases have no
/// checksum of their keys.
fn check_key(image: &Image, key: &str) -> Result<()> {
    let (name, target) = (&image.name, image.target.digest);
    if key == name.as_str() || key == format!("{name} {target}") {
        return Ok(());
    }
    Err(Error::corrupt(format!(
        "the key was changed: the record states the image {name} with the target {target}"
    )))
}
