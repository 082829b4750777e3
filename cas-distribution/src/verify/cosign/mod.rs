//! Verifies signatures of cosign with a public key.
//!
//! cosign keeps the signatures of an image in the repository of the image, in one of two forms. In
//! the older form ([`payload`]), the signatures are layers of a manifest. This manifest either
//! refers to the signed image or has the tag `sha256-<digits>.sig`, with the digits of the signed
//! image's digest. In the newer form ([`bundle`]), which is the default since version 3 of cosign,
//! each signature is a bundle in a manifest that refers to the signed image.
//!
//! If the signed image has a SHA-512 digest, this tag would be longer than tags may be. So no
//! registry has such a tag, and the signatures of the image are only in manifests that refer to the
//! image.

mod bundle;
mod key;
mod payload;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use cas_core::error::excerpt;
use cas_core::image::FullName;
use cas_core::transfer::{Fetcher, ReferrerPages, Referrers};
use cas_core::{Descriptor, Digest, Error, ErrorKind, Manifest, Result, limit};
use futures_util::TryStreamExt;

use super::Verifier;
use crate::content::whole;

pub use key::CosignKey;

/// A repository whose content and referrers can be read.
pub trait Repository: Fetcher + Referrers {}

impl<R: Fetcher + Referrers> Repository for R {}

/// Finds the repository for a name.
#[async_trait]
pub trait Connect: Send + Sync {
    /// Returns the repository of `name`, even if the tag of `name` is absent. This tag is
    /// `sha256-<digits>.sig`, with the digits of the signed image's digest. The repository has this
    /// tag only if the image has signatures in the older form. If the signed image has a SHA-512
    /// digest, `name` is the name of the image.
    ///
    /// # Errors
    /// Errors of the connection, such as those of [`Client::at`](crate::Client::at).
    async fn connect(&self, name: &FullName) -> Result<Arc<dyn Repository>>;
}

/// Accepts images that have a signature of cosign by one key. The digest in the signature must be
/// that of the image. The name in the signature is ignored, as in `cosign verify`. So an image
/// that was copied to another name is accepted. No transparency log is consulted. At most
/// [`limit::SIGNATURES`] signatures of an image are checked.
#[derive(Clone)]
pub struct Cosign {
    key: CosignKey,
    registries: Arc<dyn Connect>,
}

impl Cosign {
    /// Returns a verifier for this key. `registries` finds the repositories from which the
    /// signatures are fetched.
    pub fn new(key: CosignKey, registries: Arc<dyn Connect>) -> Self {
        Cosign { key, registries }
    }

    /// Checks the signatures of an image until one is valid. If none is valid, returns the last
    /// error of reading a signature. If all could be read, the error states why the last manifest
    /// has no valid signature, or that the image is not signed.
    async fn check(&self, name: &FullName, target: &Descriptor) -> Result<()> {
        let tag = signatures_of(name, &target.digest)?;
        let repository = self
            .registries
            .connect(tag.as_ref().unwrap_or(name))
            .await?;
        let absent = tag.as_ref().map(|tag| format!("{tag} is absent, and "));
        let mut search = Search {
            key: &self.key,
            repository: &*repository,
            digest: target.digest,
            left: limit::SIGNATURES,
            why: format!(
                "{}no signature refers to the image, so the image is not signed",
                absent.unwrap_or_default()
            ),
            failed: None,
        };
        if let Some(tag) = tag {
            match repository.resolve().await {
                Ok(found) => {
                    if search.is_in(&found, &tag.to_string()).await? {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let pages = repository.referrers(target, None).await?;
        if search.is_in_any(pages).await? {
            return Ok(());
        }
        Err(search.failed.unwrap_or_else(|| rejected(search.why)))
    }
}

#[async_trait]
impl Verifier for Cosign {
    async fn verify(&self, name: &FullName, target: &Descriptor) -> Result<Vec<String>> {
        self.check(name, target).await.map(|()| Vec::new())
    }
}

/// The search for a valid signature.
struct Search<'a> {
    key: &'a CosignKey,
    repository: &'a dyn Repository,
    /// The digest of the image.
    digest: Digest,
    /// How many more signatures are checked.
    left: usize,
    /// Why the last manifest has no valid signature, or that the image is not signed.
    why: String,
    /// The last error of reading a manifest of signatures or a signature.
    failed: Option<Error>,
}

impl Search<'_> {
    /// Returns whether one of these referrers has a valid signature. If none has one, `why` or
    /// `failed` has the reason.
    async fn is_in_any(&mut self, mut pages: ReferrerPages) -> Result<bool> {
        let mut read = BTreeSet::new();
        while let Some(page) = pages.try_next().await? {
            for referrer in page.iter().filter(|one| may_sign(one)) {
                // Several mirrors may list the same referrer.
                if read.contains(&referrer.digest) {
                    continue;
                }
                if read.len() == limit::SIGNATURES {
                    self.why = format!(
                        "at most {} referrers of the image are read, and none of them has a valid \
                         signature; {}",
                        limit::SIGNATURES,
                        self.why
                    );
                    return Ok(false);
                }
                read.insert(referrer.digest);
                let shown = referrer.digest.to_string();
                if self.is_in(referrer, &shown).await? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Returns whether a manifest of signatures has a valid signature. If it has none, `why` or
    /// `failed` has the reason. Messages call the manifest `shown`.
    async fn is_in(&mut self, manifest: &Descriptor, shown: &str) -> Result<bool> {
        match self.first_right(manifest).await {
            Ok(why) => {
                self.why = match why {
                    None => return Ok(true),
                    Some(why) => format!("{shown}: {why}"),
                }
            }
            // Another signature may be valid.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::Corrupt | ErrorKind::OutOfRange
                ) =>
            {
                self.failed = Some(error);
            }
            Err(error) => return Err(error),
        }
        Ok(false)
    }

    /// Checks the signatures of a manifest. Returns `None` if one is valid. Otherwise returns why
    /// the manifest has no valid signature.
    ///
    /// # Errors
    /// Errors of reading the manifest. If no signature is valid, the last error of reading one.
    async fn first_right(&mut self, manifest: &Descriptor) -> Result<Option<String>> {
        let data = whole(self.repository, manifest, limit::DOCUMENT_READ).await?;
        let manifest: Manifest = match serde_json::from_slice(&data) {
            Ok(manifest) => manifest,
            Err(error) => return Ok(Some(format!("it is not a manifest of signatures: {error}"))),
        };
        let is_subject = |subject: &Descriptor| subject.digest == self.digest;
        if !manifest.subject.as_ref().is_none_or(is_subject) {
            return Ok(Some("it refers to another image".to_owned()));
        }
        let mut why = "it has no signatures".to_owned();
        let mut failed = None;
        for layer in &manifest.layers {
            let form = match layer.media_type.as_str() {
                payload::TYPE => Form::Payload,
                bundle::TYPE => Form::Bundle,
                other if other.starts_with(bundle::ALL) => {
                    let known = bundle::TYPE;
                    let other = excerpt(other);
                    why =
                        format!("its bundle is of the type {other}, but only {known} is verified");
                    continue;
                }
                _ => continue,
            };
            if self.left == 0 {
                why = format!(
                    "at most {} signatures of the image are checked, and none of them is valid",
                    limit::SIGNATURES
                );
                break;
            }
            self.left -= 1;
            match self.check_one(form, layer).await {
                Ok(Ok(())) => return Ok(None),
                Ok(Err(reason)) => why = reason,
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(Some(why)), Err)
    }

    /// Checks a signature. The inner error is the reason why it is not valid.
    async fn check_one(&self, form: Form, layer: &Descriptor) -> Result<Result<(), String>> {
        let (size, most) = (layer.size, limit::ANSWER);
        if size > most {
            let why = format!("a signature has {size} bytes; at most {most} are read");
            return Ok(Err(why));
        }
        let data = whole(self.repository, layer, most).await?;
        Ok(match form {
            Form::Payload => payload::check(self.key, layer, &data, &self.digest),
            Form::Bundle => bundle::check(self.key, &data, &self.digest),
        })
    }
}

/// The form of a signature.
#[derive(Clone, Copy)]
enum Form {
    Payload,
    Bundle,
}

/// Returns whether a referrer may have signatures. If the registry does not have the API for
/// referrers, cosign 2 writes the list of referrers. In this list, the artifact type of a bundle is
/// the media type of its empty configuration.
fn may_sign(referrer: &Descriptor) -> bool {
    let known = [bundle::ALL, payload::ARTIFACT, "application/vnd.oci.empty."];
    let kind = referrer.artifact_type.as_deref().unwrap_or_default();
    known.iter().any(|known| kind.starts_with(known))
}

/// Returns the name of the image whose layers are the signatures of an image. Returns `None` if its
/// tag would be longer than tags may be.
fn signatures_of(name: &FullName, digest: &Digest) -> Result<Option<FullName>> {
    let (host, repository) = (name.host(), name.repository());
    let tag = format!("{}.sig", digest.to_string().replace(':', "-"));
    let is_possible = tag.len() <= limit::TAG;
    is_possible
        .then(|| format!("{host}/{repository}:{tag}").parse())
        .transpose()
}

/// Returns the message about a signature for another image.
fn other_image(named: &str) -> String {
    format!("the signature is for {}, another image", excerpt(named))
}

fn unparsed(what: &str, error: &serde_json::Error) -> String {
    format!("{what} does not parse: {}", excerpt(&error.to_string()))
}

fn rejected(why: String) -> Error {
    let advice = "sign the image with `cosign sign --key`, or pull another one";
    Error::new(ErrorKind::Denied, format!("{why}; {advice}"))
}
