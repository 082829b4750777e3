//! The tag that lists the referrers of a manifest or an index in a registry without the API for
//! referrers. A client that pushes or deletes a referrer changes the index at this tag.
//!
//! Two clients may change the index at the same time. With its change, each client sends the `ETag`
//! of the index that it has read. A registry that supports conditional requests then refuses the
//! later change. After its change, each client reads the tag again. If the registry has refused the
//! change, or another client has overwritten it, the client makes the change again. A client makes
//! at most [`limit::REFERRER_ATTEMPTS`] attempts, and begins each of them within the time
//! [`Timeouts::repeat`](crate::Timeouts::repeat). In a registry without conditional requests, a
//! race remains that no client can prevent. One client reads the tag, a second client makes its
//! change and reads the tag again, and then the first client overwrites that change. A referrer
//! that is lost in this way is listed again once it is pushed again.

use cas_core::document::left_out;
use cas_core::{Descriptor, Digest, Document, Error, ErrorKind, Index, MediaType, Result, limit};
use reqwest::header::{ACCEPT, CONTENT_TYPE, ETAG, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::client::Inner;
use crate::error::REGISTRY;
use crate::fetch::{DOCUMENTS, known};
use crate::request::{Action, Ask};
use crate::retry::{Failure, Patience};

/// What is at the tag.
pub(crate) enum Listed {
    Absent,
    Index {
        index: Box<Index>,
        /// The entries that [`left_out`] describes. A change keeps them.
        others: Vec<Value>,
        /// What [`left_out`] returns.
        left_out: Option<String>,
        /// The `ETag` for a conditional request, if the registry states a strong one.
        etag: Option<HeaderValue>,
    },
    /// Anything else, in words.
    Other(String),
}

impl Inner {
    /// Reads what is at the tag for the referrers of `subject`.
    ///
    /// # Errors
    /// `OutOfRange` for more than [`limit::DOCUMENT_READ`] bytes; as [`Inner::expect`].
    pub(crate) async fn read_fallback(
        &self,
        subject: &Digest,
        action: Action,
        patience: &mut Patience,
    ) -> Result<Listed> {
        let url = self.url("manifests", &tag(subject))?;
        let ask = Ask::new(Method::GET, url, action).with(ACCEPT, DOCUMENTS);
        let accepted = [StatusCode::OK, StatusCode::NOT_FOUND];
        let whole = self.whole(ask, &accepted, limit::DOCUMENT_READ, patience);
        let whole = whole.await?;
        if whole.status == StatusCode::NOT_FOUND {
            return Ok(Listed::Absent);
        }
        let stated = whole.headers.get(CONTENT_TYPE);
        let media_type = match (known(&whole.headers), stated) {
            (Some(media_type), _) if media_type.is_index() => media_type,
            (_, Some(stated)) => return Ok(Listed::Other(format!("content of type {stated:?}"))),
            (_, None) => MediaType::OCI_INDEX,
        };
        let index = match Document::parse(&media_type, &whole.data) {
            Ok(Document::Index(index)) => index,
            Ok(Document::Manifest(_)) => return Ok(Listed::Other("a manifest".to_owned())),
            // All entries are left out.
            Err(error) if error.kind() == ErrorKind::Unsupported => Box::new(empty()),
            Err(error) => return Ok(Listed::Other(format!("a broken index ({error})"))),
        };
        Ok(Listed::Index {
            index,
            others: unverifiable(&whole.data),
            left_out: left_out(&whole.data),
            etag: whole.headers.get(ETAG).filter(is_strong).cloned(),
        })
    }

    /// Adds `entry`, the descriptor of a referrer that was pushed, to the index at the tag for
    /// `subject`.
    ///
    /// # Errors
    /// `FailedPrecondition` if the tag exists and does not refer to an index; `OutOfRange` if the
    /// index has too many entries or bytes; `Conflict` if other clients replace the change each
    /// time; as [`Inner::expect`].
    pub(crate) async fn list_referrer(&self, subject: &Digest, entry: &Descriptor) -> Result<()> {
        self.change_fallback(subject, Action::Push, |listed| {
            if listed.iter().any(|known| known.digest == entry.digest) {
                return false;
            }
            listed.push(entry.clone());
            true
        })
        .await
    }

    /// Removes the entry of a referrer from the index at the tag for `subject`, before the referrer
    /// is deleted.
    ///
    /// # Errors
    /// As [`Inner::list_referrer`].
    pub(crate) async fn unlist_referrer(&self, subject: &Digest, referrer: &Digest) -> Result<()> {
        self.change_fallback(subject, Action::Delete, |listed| {
            let before = listed.len();
            listed.retain(|known| known.digest != *referrer);
            listed.len() < before
        })
        .await
    }

    /// Changes the index at the tag until `change` finds nothing to change there.
    async fn change_fallback(
        &self,
        subject: &Digest,
        action: Action,
        change: impl Fn(&mut Vec<Descriptor>) -> bool,
    ) -> Result<()> {
        let patience = &mut self.http.patience();
        let mut was_changed = false;
        loop {
            let listed = self.read_fallback(subject, action, patience).await?;
            let (mut index, others, condition) = match listed {
                Listed::Absent => {
                    let absent = (IF_NONE_MATCH, HeaderValue::from_static("*"));
                    (empty(), Vec::new(), Some(absent))
                }
                Listed::Index {
                    index,
                    others,
                    etag,
                    ..
                } => (*index, others, etag.map(|etag| (IF_MATCH, etag))),
                Listed::Other(found) => return Err(occupied(subject, &found)),
            };
            if !change(&mut index.manifests) {
                return Ok(());
            }
            if was_changed {
                let failure = Failure::repeated(replaced(subject), limit::REFERRER_ATTEMPTS);
                patience.wait(failure).await?;
            }
            let url = self.url("manifests", &tag(subject))?;
            let mut ask = Ask::new(Method::PUT, url, action);
            ask = ask.with(CONTENT_TYPE, MediaType::OCI_INDEX.as_str());
            ask.headers.extend(condition);
            ask.body = written(index, others)?.into();
            let accepted = [
                StatusCode::CREATED,
                StatusCode::OK,
                StatusCode::NO_CONTENT,
                StatusCode::PRECONDITION_FAILED,
            ];
            self.expect(ask, &accepted, patience).await?;
            was_changed = true;
        }
    }
}

/// Returns whether an `ETag` stands for exact bytes. A weak `ETag` never meets the condition
/// `If-Match`.
fn is_strong(etag: &&HeaderValue) -> bool {
    !etag.as_bytes().starts_with(b"W/")
}

/// Returns the tag for the referrers of a manifest or an index.
fn tag(subject: &Digest) -> String {
    let text = subject.to_string();
    let (algorithm, encoded) = text.split_once(':').unwrap_or_default();
    format!("{algorithm}-{encoded:.64}")
}

fn empty() -> Index {
    Index {
        schema_version: 2,
        media_type: Some(MediaType::OCI_INDEX),
        artifact_type: None,
        manifests: Vec::new(),
        subject: None,
        annotations: None,
    }
}

/// Returns the entries of a valid index that [`left_out`] describes, unchanged.
fn unverifiable(data: &[u8]) -> Vec<Value> {
    let mut index: Value = serde_json::from_slice(data).unwrap_or_default();
    let Some(Value::Array(mut entries)) = index.get_mut("manifests").map(Value::take) else {
        return Vec::new();
    };
    entries.retain(|entry| {
        let digest = entry.get("digest").and_then(Value::as_str);
        digest.is_none_or(|digest| digest.parse::<Digest>().is_err())
    });
    entries
}

/// Returns the bytes of an index of referrers, with `others` as further entries.
fn written(index: Index, others: Vec<Value>) -> Result<Vec<u8>> {
    let found = index.manifests.len() + others.len();
    let index = Index {
        media_type: Some(MediaType::OCI_INDEX),
        ..index
    };
    let data = serde_json::to_value(index).and_then(|mut index| {
        if let Some(Value::Array(entries)) = index.get_mut("manifests") {
            entries.extend(others);
        }
        serde_json::to_vec(&index)
    });
    let data = data.map_err(|error| {
        Error::internal("an index could not be serialized; please report it").source(error)
    })?;
    let size = data.len() as u64;
    if found > limit::DESCRIPTORS || size > limit::DOCUMENT_WRITE {
        return Err(Error::out_of_range(format!(
            "the index of referrers would have {found} entries and {size} bytes; at most {} \
             entries and {} bytes are allowed; delete some of the referrers",
            limit::DESCRIPTORS,
            limit::DOCUMENT_WRITE
        ))
        .backend(REGISTRY));
    }
    Ok(data)
}

fn occupied(subject: &Digest, found: &str) -> Error {
    Error::precondition(format!(
        "expected an index of referrers at the tag {}, found {found:.300}; remove or rename that \
         tag, and try again",
        tag(subject)
    ))
    .backend(REGISTRY)
}

fn replaced(subject: &Digest) -> Error {
    let why = "other clients changed this tag during each attempt to change it; try again later";
    let error = Error::new(cas_core::ErrorKind::Conflict, why);
    error.subject(tag(subject)).backend(REGISTRY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_of_a_digest_is_shortened_as_in_the_specification() {
        let digest = Digest::sha256(b"");
        assert_eq!(tag(&digest), format!("sha256-{}", digest.hex()));
        let digest = Digest::of(cas_core::Algorithm::Sha512, b"");
        assert_eq!(tag(&digest), format!("sha512-{}", &digest.hex()[..64]));
    }
}
