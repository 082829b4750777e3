//! Decides whether an image may be pulled, after its name is resolved and before its content is
//! fetched.
//!
//! [`Rules`] has a list of rules that allow images and a list of rules that deny images. A
//! [`VerifierDir`] runs programs in the same way as containerd runs its image verifiers. With the
//! feature `cosign`, `Cosign` checks signatures. Callers may also implement [`Verifier`]
//! themselves.

#[cfg(feature = "cosign")]
mod cosign;
mod pattern;
mod programs;
mod rules;

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use cas_core::image::FullName;
use cas_core::progress::Progress;
use cas_core::transfer::{Fetcher, Pieces};
use cas_core::{Descriptor, Result};

#[cfg(feature = "cosign")]
pub use cosign::{Connect, Cosign, CosignKey, Repository};
pub use programs::VerifierDir;
pub use rules::Rules;

/// Decides whether an image may be pulled.
#[async_trait]
pub trait Verifier: Send + Sync {
    /// Decides whether the image `name` may be pulled. `target` is the manifest or the index that
    /// the name refers to. Returns warnings if the image is accepted. The caller may drop the
    /// future at any time.
    ///
    /// # Errors
    /// `Denied` if the image is rejected; any other error if the image could not be judged. After
    /// an error, the image is not pulled.
    async fn verify(&self, name: &FullName, target: &Descriptor) -> Result<Vec<String>>;
}

/// Asks the verifiers in their order. All of them must accept the image. The warnings of the
/// verifiers go to `progress`.
///
/// # Errors
/// The error of the first verifier that does not accept the image.
pub async fn verify(
    verifiers: &[Arc<dyn Verifier>],
    name: &FullName,
    target: &Descriptor,
    progress: &dyn Progress,
) -> Result<()> {
    for verifier in verifiers {
        let judged = verifier.verify(name, target).await;
        let judged = judged.map_err(|error| error.operation("verify").subject(name));
        for warning in judged? {
            progress.warn(&warning);
        }
    }
    Ok(())
}

/// A fetcher that asks the verifiers when it resolves the name of an image. [`Fetcher::resolve`]
/// fails if a verifier does not accept the image. [`Fetcher::fetch`] does not ask the verifiers.
pub struct Verified<'a> {
    /// Resolves the name and fetches the content of the image.
    pub fetcher: &'a dyn Fetcher,
    /// The name of the image.
    pub name: &'a FullName,
    /// The verifiers, in the order in which they are asked.
    pub verifiers: &'a [Arc<dyn Verifier>],
    /// Receives the warnings of the verifiers.
    pub progress: &'a dyn Progress,
}

#[async_trait]
impl Fetcher for Verified<'_> {
    async fn resolve(&self) -> Result<Descriptor> {
        let target = self.fetcher.resolve().await?;
        verify(self.verifiers, self.name, &target, self.progress).await?;
        Ok(target)
    }

    async fn fetch(&self, descriptor: &Descriptor, range: Range<u64>) -> Result<Pieces> {
        self.fetcher.fetch(descriptor, range).await
    }

    fn serves_ranges(&self) -> bool {
        self.fetcher.serves_ranges()
    }

    fn distrust(&self, descriptor: &Descriptor) -> bool {
        self.fetcher.distrust(descriptor)
    }
}
