//! Images from registries, and to them.

use std::sync::Arc;

use cas_core::platform::Choice;
use cas_core::{Descriptor, Image, Result, engine};
use cas_distribution::{Client, Options, RemoteRef};
use cas_layer::progress::Progress;

use super::Cas;

impl Cas {
    /// Pulls an image; its name is the reference in full. Other platforms of an index than the
    /// chosen stay missing, and may be pulled later.
    ///
    /// # Errors
    /// `NotFound` when the registry has it not, or not for the platform; `Denied` when it refuses;
    /// `Unavailable` when it does not answer; `Corrupt` when it hands out other bytes than their
    /// digests say. Nothing is named then; what came is kept until a collection.
    pub async fn pull(
        &self,
        reference: &RemoteRef,
        choice: &Choice,
        options: Options,
        progress: &Arc<dyn Progress>,
    ) -> Result<Image> {
        let name = reference.name()?;
        let client = Client::connect(reference, options).await?;
        engine::pull(&self.store, &client, name, choice, progress).await
    }

    /// Pushes the image `name`; what `reference` stands for now.
    ///
    /// # Errors
    /// `NotFound` for an image, a platform or content that the store has not; `Denied`,
    /// `Unavailable` as [`Cas::pull`]; `Corrupt` when the registry received other bytes.
    pub async fn push(
        &self,
        name: &str,
        reference: &RemoteRef,
        choice: &Choice,
        options: Options,
        progress: &Arc<dyn Progress>,
    ) -> Result<Descriptor> {
        let target = self.image(name).await?.target;
        let client = Client::connect(reference, options).await?;
        let pushed = engine::push(&self.store, &client, &target, choice, progress).await;
        pushed.map_err(|error| error.operation("push").within(reference))
    }
}
