//! Referrers: the documents that refer to another document, their subject. The record of the
//! subject has a label for each of its referrers, so that collections keep them.

use std::collections::BTreeSet;
use std::time::SystemTime;

use super::{Checker, Problem, Use};
use crate::complete::is_of_document;
use crate::content::Stat;
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::dispatch;
use crate::error::{ErrorKind, Result};
use crate::labels::kept_referrers;
use crate::lease::{BlobRef, add_referrers};
use crate::limit;
use crate::media_type::MediaType;
use crate::records::BlobRecord;

/// A referrer that no image and no lease needs, with its subject.
struct Found {
    referrer: Descriptor,
    subject: Descriptor,
}

impl Checker<'_> {
    /// Returns the referrers that a document keeps. Reports each referrer of which the store has
    /// neither the bytes nor a record. A repair cannot fetch such a referrer, because its size is
    /// not known.
    pub(super) async fn referrers_of(
        &mut self,
        subject: &Use,
        record: &BlobRecord,
    ) -> Result<Vec<Use>> {
        let mut kept = Vec::new();
        for referrer in kept_referrers(&record.labels) {
            match self.known(&referrer).await? {
                Some(descriptor) => kept.push(Use {
                    descriptor,
                    image: subject.image.clone(),
                }),
                None => {
                    let detail = format!(
                        "the store has neither the bytes nor a record of this referrer, but a \
                         label of the subject {} names it; pull or import the image again with \
                         its referrers, or remove this label from the subject",
                        subject.descriptor.digest
                    );
                    self.add(Problem::BlobMissing, referrer, detail, false);
                }
            }
        }
        Ok(kept)
    }

    /// Returns the descriptor of a blob, or `None` if the store has neither its bytes nor a record.
    pub(super) async fn known(&self, digest: &Digest) -> Result<Option<Descriptor>> {
        let record = self.store.blobs().load_sound(digest).await?;
        self.described(digest, record.as_ref()).await
    }

    /// Returns the descriptor of a blob from its record, or from its bytes if it has no record.
    /// Returns `None` if the store has neither.
    async fn described(
        &self,
        digest: &Digest,
        record: Option<&BlobRecord>,
    ) -> Result<Option<Descriptor>> {
        if let Some(record) = record {
            let media_type = record.media_type.clone().unwrap_or(MediaType::BYTES);
            return Ok(Some(Descriptor::new(media_type, *digest, record.size)));
        }
        let Some(stat) = self.store.content.stat(digest).await? else {
            return Ok(None);
        };
        let media_type = self.recognise(&stat).await?.unwrap_or(MediaType::BYTES);
        Ok(Some(Descriptor::new(media_type, *digest, stat.size)))
    }

    /// Reports the referrers that their subjects do not keep, if an image or a lease keeps the
    /// subjects. A repair adds the missing labels. Then checks the blobs that such referrers need.
    pub(super) async fn link_referrers(&mut self, stats: &[Stat]) -> Result<()> {
        let mut found = Vec::new();
        for stat in stats {
            found.extend(self.unlinked(stat).await?);
        }
        // A referrer may be the subject of another one.
        loop {
            found.retain(|one| !self.uses.contains_key(&one.referrer.digest));
            let is_kept = |one: &Found| self.uses.contains_key(&one.subject.digest);
            let Some(at) = found.iter().position(is_kept) else {
                return Ok(());
            };
            let one = found.swap_remove(at);
            self.link(&one).await?;
            let image = self.uses.get(&one.subject.digest);
            let image = image.and_then(|subject| subject.image.clone());
            self.check_tree(Use {
                descriptor: one.referrer,
                image,
            })
            .await?;
        }
    }

    async fn link(&mut self, found: &Found) -> Result<()> {
        let (referrer, subject) = (found.referrer.digest, &found.subject);
        let linked = match self.guard {
            Some(guard) => {
                guard.pin(BlobRef::existing(referrer)).await?;
                match add_referrers(self.store, subject, &[referrer]).await {
                    Err(error) if error.kind() == ErrorKind::OutOfRange => Err(error.to_string()),
                    added => added.map(Ok)?,
                }
            }
            None => Err("a repair adds the label that keeps the referrer".to_owned()),
        };
        let detail = match &linked {
            Ok(()) => format!("the subject {} keeps this referrer again", subject.digest),
            Err(why) => format!(
                "the subject {} does not keep this referrer; {why}",
                subject.digest
            ),
        };
        self.add(Problem::ReferrerUnlinked, referrer, detail, linked.is_ok());
        Ok(())
    }

    /// Returns the referrer and its subject, if the blob is a referrer that no image and no lease
    /// keeps. Returns `None` if the referrer is damaged or too large to be read, if a collection is
    /// removing it, or if one of its children is missing or its record lists no children, because a
    /// job that failed or was killed leaves such a referrer. Also returns `None` if the referrer
    /// was stored without a lease within the last day, because its subject may be stored later.
    /// This does not apply if the record of the referrer or of the subject was lost.
    async fn unlinked(&self, stat: &Stat) -> Result<Option<Found>> {
        if self.uses.contains_key(&stat.digest) || stat.size > limit::DOCUMENT_READ {
            return Ok(None);
        }
        let record = self.store.blobs().load_sound(&stat.digest).await?;
        if record.as_ref().is_some_and(|one| one.tombstone.is_some()) {
            return Ok(None);
        }
        let Some(referrer) = self.described(&stat.digest, record.as_ref()).await? else {
            return Ok(None);
        };
        if !referrer.media_type.is_document() {
            return Ok(None);
        }
        let document = match dispatch::document(&*self.store.content, &referrer).await {
            Err(error) if is_of_document(&error) => return Ok(None),
            document => document?,
        };
        let Some(subject) = document.subject().cloned() else {
            return Ok(None);
        };
        let children: BTreeSet<Digest> = document.children().map(|child| child.digest).collect();
        let lists_nothing = |one: &BlobRecord| one.children.is_empty() && !children.is_empty();
        if record.as_ref().is_some_and(lists_nothing) {
            return Ok(None);
        }
        let is_lost = |digest: &Digest| self.made.contains(digest);
        let expires = record.and_then(|record| record.expires_at);
        let is_young = expires.is_some_and(|expires| expires > SystemTime::now());
        if is_young && !is_lost(&referrer.digest) && !is_lost(&subject.digest) {
            return Ok(None);
        }
        for child in children {
            if self.store.content.stat(&child).await?.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(Found { referrer, subject }))
    }
}
