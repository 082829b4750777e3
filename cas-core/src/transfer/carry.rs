//! Moves the referrers of an image, their referrers, and so on, together with the image.

use std::collections::HashSet;

use async_trait::async_trait;

use super::artifact_client::ArtifactClient;
use super::documents::{Document, blob_refs, descriptors};
use super::referrers::Referrers;
use crate::content::ContentStore;
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::dispatch;
use crate::document::unverifiable_subject;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::lease::LeaseGuard;
use crate::limit;
use crate::progress::Progress;

/// Moves one referrer.
#[async_trait]
pub(super) trait Carrier: Send + Sync {
    /// Moves a referrer and everything below it, but does not record what the documents list.
    /// Returns the documents that were moved, including the referrer.
    async fn carry(&self, referrer: &Descriptor) -> Result<Vec<Document>>;

    /// Returns the content from which the documents can be read after they were moved.
    fn content(&self) -> &dyn ContentStore;
}

/// What was moved with an image.
#[derive(Default)]
pub(super) struct Carried {
    /// Each subject with the referrers that were moved with it.
    links: Vec<(Descriptor, Vec<Digest>)>,
    /// The referrers, and the documents below them.
    documents: Vec<Document>,
}

/// Records what the moved documents list, and the referrers that were moved with each subject.
pub(super) async fn record(guard: &LeaseGuard, carried: Carried) -> Result<()> {
    // The children are recorded only now, when all referrers have arrived. So `fsck` can tell that
    // a referrer without recorded children is left over from a job that failed, and was not lost.
    if !carried.documents.is_empty() {
        let mut documents = blob_refs(carried.documents);
        // A document can be a referrer and also a part of another referrer.
        let mut seen = HashSet::new();
        documents.retain(|document| seen.insert(document.digest));
        guard.record_children(documents).await?;
    }
    // A referrer can itself be a subject. Its own referrers are recorded first, so that the
    // referrer already keeps them when the record of its subject begins to keep the referrer.
    for (subject, referrers) in carried.links.into_iter().rev() {
        guard.record_referrers(&subject, &referrers).await?;
    }
    Ok(())
}

/// Moves the referrers of `documents` that `lister` lists, their referrers, and so on. If a listed
/// referrer or a part of it is absent or not supported, or the digest of its subject has an unknown
/// algorithm, the referrer is left out with a warning. Returns what was moved.
///
/// # Errors
/// `Corrupt` for a referrer that is not a document, or that has another subject; `OutOfRange` for
/// more than [`limit::REFERRERS`] referrers, for a chain of more than [`limit::REFERRER_DEPTH`], or
/// if the referrers of more than [`limit::WALK`] documents would be looked up; errors of `lister`,
/// `carrier` and the content.
pub(super) async fn carry(
    lister: &dyn Referrers,
    carrier: &dyn Carrier,
    documents: Vec<Descriptor>,
    progress: &dyn Progress,
) -> Result<Carried> {
    let client = ArtifactClient::new(lister);
    let mut known: HashSet<Digest> = documents.iter().map(|one| one.digest).collect();
    let most = known.len() + limit::REFERRERS;
    let mut left_out = HashSet::new();
    let (mut subjects, mut carried, mut depth) = (documents, Carried::default(), 0);
    let mut asked = HashSet::new();
    while !subjects.is_empty() {
        depth += 1;
        let mut next = Vec::new();
        for subject in subjects {
            if !asked.insert(subject.digest) {
                continue;
            }
            if asked.len() > limit::WALK {
                return Err(too_many_subjects(&subject));
            }
            let mut referrers = Vec::new();
            for listed in client.all_referrers(&subject).await? {
                let referrer = plain(&listed, &subject)?;
                if known.insert(referrer.digest) {
                    check_bounds(known.len() <= most, depth, &subject)?;
                    match carry_one(carrier, &referrer).await {
                        Ok(documents) => {
                            next.extend(descriptors(&documents));
                            carried.documents.extend(documents);
                        }
                        Err(error) => {
                            let why = match error.kind() {
                                ErrorKind::NotFound => "absent",
                                ErrorKind::Unsupported => "not supported",
                                _ => return Err(error),
                            };
                            progress.warn(&format!(
                                "the listed referrer {} is left out, because it or a part of it is \
                                 {why}: {error}",
                                referrer.digest
                            ));
                            left_out.insert(referrer.digest);
                        }
                    }
                }
                if left_out.contains(&referrer.digest) {
                    continue;
                }
                let checked = check_subject(carrier.content(), &referrer, &subject).await;
                checked.during("check referrer", referrer.digest)?;
                referrers.push(referrer.digest);
            }
            if !referrers.is_empty() {
                carried.links.push((subject, referrers));
            }
        }
        subjects = next;
    }
    Ok(carried)
}

/// Moves a referrer and everything below it. Returns the documents that were moved.
///
/// # Errors
/// `Unsupported` if the digest of its subject has an unknown algorithm; errors of `carrier` and the
/// content.
async fn carry_one(carrier: &dyn Carrier, referrer: &Descriptor) -> Result<Vec<Document>> {
    let documents = carrier.carry(referrer).await?;
    let data = dispatch::read(carrier.content(), referrer).await?;
    match unverifiable_subject(&data) {
        None => Ok(documents),
        Some(what) => Err(Error::unsupported(what)
            .operation("check referrer")
            .subject(referrer.digest)),
    }
}

/// Returns the descriptor with which a listed referrer is moved: only the media type, the digest
/// and the size. The annotations in the list belong to the list.
fn plain(listed: &Descriptor, subject: &Descriptor) -> Result<Descriptor> {
    let media_type = &listed.media_type;
    if media_type.is_document() {
        return Ok(Descriptor::new(
            media_type.clone(),
            listed.digest,
            listed.size,
        ));
    }
    Err(Error::corrupt(format!(
        "expected a manifest or an index as a referrer of {}, found {media_type:.200}; remove \
         this entry from the list of referrers",
        subject.digest
    ))
    .operation("check referrer")
    .subject(listed.digest))
}

fn too_many_subjects(subject: &Descriptor) -> Error {
    Error::out_of_range(format!(
        "the image and its referrers have more than the {} documents allowed; transfer the image \
         without its referrers, or remove some referrers",
        limit::WALK
    ))
    .operation("list referrers")
    .subject(subject.digest)
}

fn check_bounds(within: bool, depth: usize, subject: &Descriptor) -> Result<()> {
    let why = if !within {
        format!("more than {} referrers", limit::REFERRERS)
    } else if depth > limit::REFERRER_DEPTH {
        format!("a chain of more than {} referrers", limit::REFERRER_DEPTH)
    } else {
        return Ok(());
    };
    let why =
        format!("the image has {why}; transfer it without its referrers, or remove some referrers");
    Err(Error::out_of_range(why)
        .operation("list referrers")
        .subject(subject.digest))
}

/// Checks that a referrer names the subject for which it was listed.
async fn check_subject(
    content: &dyn ContentStore,
    referrer: &Descriptor,
    subject: &Descriptor,
) -> Result<()> {
    let document = dispatch::document(content, referrer).await?;
    let found = match document.subject() {
        Some(found) if found.digest == subject.digest => return Ok(()),
        Some(other) => other.digest.to_string(),
        None => "none".to_owned(),
    };
    Err(Error::corrupt(format!(
        "expected the subject {0}, found {found}; remove this referrer from the list of referrers \
         of {0} in the source of the image, or transfer the image without its referrers",
        subject.digest
    )))
}
