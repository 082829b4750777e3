//! Checks that all blobs have records, keeps documents that lost their names, and reads the
//! selected blobs.

use std::collections::BTreeSet;

use super::heal::{keep, read_intact};
use super::reader::{Reading, damage, hash};
use super::{Checker, Problem, RECOVERED, Use};
use crate::complete::{incomplete_children, is_of_document};
use crate::content::Stat;
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::dispatch;
use crate::document_type::document_type;
use crate::error::{ErrorKind, Result};
use crate::lease::BlobRef;
use crate::limit;
use crate::media_type::MediaType;
use crate::records::{BlobRecord, Resource};

/// Maximum number of blobs in one page of a list.
const PAGE: usize = 1024;

/// A document that no image and no lease needs. It had no record, or the store lost names.
struct Unnamed {
    digest: Digest,
    children: Vec<Digest>,
}

impl Checker<'_> {
    /// Checks that all blobs have records and that subjects keep their referrers, reports documents
    /// that lost their names, and reads the selected blobs.
    pub(super) async fn check_blobs(&mut self) -> Result<()> {
        let stats = self.list().await?;
        self.report.blobs = stats.len() as u64;
        let mut unnamed = Vec::new();
        let blobs = self.store.blobs();
        for stat in &stats {
            // If `check_records` has replaced the record, it may still list no children.
            let is_replaced = self.made.contains(&stat.digest);
            let found = blobs.load_sound(&stat.digest).await?;
            let found = found.filter(|record| !is_replaced || !record.children.is_empty());
            unnamed.extend(match found {
                None => self.add_record(stat).await?,
                Some(record) => self.unnamed(stat, record),
            });
        }
        self.link_referrers(&stats).await?;
        unnamed.retain(|document| !self.uses.contains_key(&document.digest));
        self.keep_unnamed(unnamed).await?;
        self.read_data(&stats).await
    }

    async fn list(&self) -> Result<Vec<Stat>> {
        let mut stats: Vec<Stat> = Vec::new();
        loop {
            let after = stats.last().map(|stat| stat.digest);
            let page = self.store.content.list(after.as_ref(), PAGE).await?;
            let is_last = page.len() < PAGE;
            stats.extend(page);
            if is_last {
                return Ok(stats);
            }
        }
    }

    /// Reports that a blob has no record. If another program has stored the blob, this function
    /// only counts it. If the record is or was damaged, this function reports nothing, because
    /// `check_records` has reported the record. A repair makes or completes the record. Returns the
    /// blob if it is a document that no image and no lease needs.
    async fn add_record(&mut self, stat: &Stat) -> Result<Option<Unnamed>> {
        let used = self.uses.get(&stat.digest).cloned();
        let media_type = match &used {
            Some(used) => Some(used.descriptor.media_type.clone()),
            None => self.recognise(stat).await?,
        };
        let is_document = media_type.as_ref().is_some_and(MediaType::is_document);
        let descriptor = Descriptor::new(
            media_type.unwrap_or(MediaType::BYTES),
            stat.digest,
            stat.size,
        );
        let children = match is_document {
            true => self.children(&descriptor).await?,
            false => Vec::new(),
        };
        let is_replaced = !self.note_made(stat.digest).await?;
        let repairs = self.options.repair.is_some();
        let found = self.store.blobs().load(&stat.digest).await;
        // `check_records` has reported a damaged record.
        let is_damaged = found.is_err_and(|error| error.kind() == ErrorKind::Corrupt);
        let is_reported = is_replaced || is_damaged;
        if repairs {
            self.describe(&descriptor, &children).await?;
        }
        let detail = match repairs {
            true => "the blob had no record; one was made",
            false => "the blob has no record, so no collection can remove it; a repair makes one",
        };
        if self.foreign.contains(&stat.digest) {
            self.report.unrecorded += u64::from(!is_reported);
        } else if !is_reported {
            self.labels_lost = true;
            self.add(Problem::RecordMissing, stat.digest, detail, repairs);
        }
        Ok((is_document && used.is_none()).then_some(Unnamed {
            digest: stat.digest,
            children,
        }))
    }

    /// Returns the blob if names were lost, and if the blob is a document that no image and no
    /// lease needs and that no collection is removing.
    fn unnamed(&self, stat: &Stat, record: BlobRecord) -> Option<Unnamed> {
        let is_document = record
            .media_type
            .as_ref()
            .is_some_and(MediaType::is_document);
        let is_kept = self.uses.contains_key(&stat.digest) || record.tombstone.is_some();
        (self.names_lost && is_document && !is_kept).then_some(Unnamed {
            digest: stat.digest,
            children: record.children,
        })
    }

    /// Returns the media type of a blob without a record, or `None` if the blob is not an intact
    /// document of at most [`limit::DOCUMENT_READ`] bytes.
    pub(super) async fn recognise(&self, stat: &Stat) -> Result<Option<MediaType>> {
        if stat.size > limit::DOCUMENT_READ {
            return Ok(None);
        }
        let data = read_intact(self.store, stat).await?;
        Ok(data.and_then(|data| document_type(&data)))
    }

    /// Returns the children of a document, or none if it is missing, damaged or unsupported.
    pub(super) async fn children(&self, document: &Descriptor) -> Result<Vec<Digest>> {
        match dispatch::children(&*self.store.content, document).await {
            Ok(children) => Ok(children.iter().map(|child| child.digest).collect()),
            Err(error) if is_of_document(&error) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Makes or completes the record of a blob. The record keeps the blob for a day. If the blob is
    /// an index, the record lists the incomplete manifests of the index as absent.
    async fn describe(&self, descriptor: &Descriptor, children: &[Digest]) -> Result<()> {
        let mut blob = BlobRef::of(descriptor, children.to_vec());
        if descriptor.media_type.is_index() {
            blob.absent = incomplete_children(self.store, descriptor).await?;
        }
        self.store.record(&blob).await
    }

    /// Reports each document of `unnamed` that no other document of `unnamed` lists and that no
    /// earlier repair has kept. A repair keeps the reported documents under a lease, and then
    /// checks the blobs that they need.
    async fn keep_unnamed(&mut self, unnamed: Vec<Unnamed>) -> Result<()> {
        let listed: BTreeSet<Digest> = unnamed
            .iter()
            .flat_map(|document| document.children.iter().copied())
            .collect();
        let tops = unnamed.iter().map(|document| document.digest);
        let kept = &self.kept_by(RECOVERED).await? - &self.doubtful;
        let is_new = |digest: &Digest| !listed.contains(digest) && !kept.contains(digest);
        let tops: Vec<Digest> = tops.filter(is_new).collect();
        let repairs = self.options.repair.is_some();
        if repairs && !tops.is_empty() {
            keep(self.store, RECOVERED, &tops).await?;
        }
        for digest in tops {
            let detail = match repairs {
                true => {
                    format!(
                        "no name reaches the image; the lease `{RECOVERED}` keeps it; tag the image"
                    )
                }
                false => "no name reaches the image; a repair keeps it under a lease".to_owned(),
            };
            self.add(Problem::NameMissing, digest, detail, repairs);
            if repairs && let Some(descriptor) = self.known(&digest).await? {
                let image = None;
                self.check_tree(Use { descriptor, image }).await?;
            }
        }
        Ok(())
    }

    /// Returns the blobs that a lease lists, or none if the lease does not exist or is damaged.
    pub(super) async fn kept_by(&self, lease: &str) -> Result<BTreeSet<Digest>> {
        let lease = match self.store.leases().load(lease).await {
            // `check_records` has reported the damaged lease.
            Err(error) if error.kind() == ErrorKind::Corrupt => None,
            lease => lease?,
        };
        let resources = lease.into_iter().flat_map(|(lease, _)| lease.resources);
        Ok(resources
            .filter_map(|resource| match resource {
                Resource::Content(digest) => Some(digest),
                _ => None,
            })
            .collect())
    }

    async fn read_data(&mut self, stats: &[Stat]) -> Result<()> {
        let reading = Reading::begin(self.store, self.options).await?;
        let selected = reading.select(stats);
        for (number, stat) in selected.iter().enumerate() {
            if !self.hashed.contains(&stat.digest) {
                self.read_blob(stat).await?;
            }
            reading.note(number, stat).await;
        }
        reading.end(selected.last()).await;
        Ok(())
    }

    async fn read_blob(&mut self, stat: &Stat) -> Result<()> {
        let Some(reader) = self.store.content.open(&stat.digest).await? else {
            return Ok(());
        };
        let hashed = hash(&*reader, &stat.digest, self.options).await;
        let why = damage(hashed.map(Some), &stat.digest)?;
        self.report.bytes_read += stat.size;
        let Some(why) = why else {
            self.hashed.insert(stat.digest);
            return Ok(());
        };
        let blob = self.use_of(stat).await?;
        if blob.descriptor.media_type == MediaType::LAYER_CHECKPOINTS {
            return self.remove_checkpoints(stat, &why).await;
        }
        self.heal(Problem::BlobDamaged, &blob, &why)
            .await
            .map(|_| ())
    }

    /// Reports damaged checkpoints of a layer. No source has them, so a repair removes them.
    async fn remove_checkpoints(&mut self, stat: &Stat, why: &str) -> Result<()> {
        let repairs = self.options.repair.is_some();
        if repairs {
            let content = &self.store.content;
            content.remove_version(&stat.digest, stat.version).await?;
        }
        let outcome = match repairs {
            true => "they were removed",
            false => "a repair removes them",
        };
        let detail = format!(
            "{why}; these are checkpoints, which only make the next unpack of a layer faster; \
             {outcome}, and the next unpack records them again"
        );
        self.add(Problem::BlobDamaged, stat.digest, detail, repairs);
        Ok(())
    }

    /// Returns how an image or a lease uses a blob. If none does, the media type and the size are
    /// taken from the record of the blob, because a damaged file may have another size. Only the
    /// size of the file is known if the record was lost.
    async fn use_of(&self, stat: &Stat) -> Result<Use> {
        if let Some(used) = self.uses.get(&stat.digest) {
            return Ok(used.clone());
        }
        let record = self.store.blobs().load_sound(&stat.digest).await?;
        let size = record.as_ref().map_or(stat.size, |record| record.size);
        let media_type = record.and_then(|record| record.media_type);
        let media_type = media_type.unwrap_or(MediaType::BYTES);
        Ok(Use {
            descriptor: Descriptor::new(media_type, stat.digest, size),
            image: None,
        })
    }
}
