//! Images from registries, and to them.

use std::sync::Arc;

use cas_core::platform::Choice;
use cas_core::transfer::{self, PullOptions, PushOptions};
use cas_core::{Descriptor, Digest, Image, Result};
use cas_distribution::{Client, Options, RemoteRef};
use cas_layer::progress::Progress;
use cas_layer::unpack::StreamingUnpacker;

use super::Cas;

impl Cas {
    /// Pulls an image; its name is the reference in full. Other platforms of an index than the
    /// chosen stay missing, and may be pulled later.
    ///
    /// # Errors
    /// `InvalidArgument` for a `cas.toml` that names something else than hosts for a registry;
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
        let client = self.connect(reference, options).await?;
        let options = pull_options(choice, progress);
        let pulled = transfer::pull(&self.store, &client, name, &options).await?;
        warn_if_withheld(&client, progress).await;
        Ok(pulled)
    }

    /// The same, and unpacks the image for the chosen platform into snapshots as [`Cas::snapshot`]
    /// does, while it comes; with the name of its topmost. Of all platforms it unpacks this
    /// machine's, when all are there.
    ///
    /// # Errors
    /// As [`Cas::pull`] and [`Cas::snapshot`].
    pub async fn pull_unpacked(
        &self,
        reference: &RemoteRef,
        choice: &Choice,
        options: Options,
        progress: &Arc<dyn Progress>,
    ) -> Result<(Image, Option<Digest>)> {
        if *choice == Choice::All {
            let image = self.pull(reference, choice, options, progress).await?;
            let snapshot = self.snapshot(image.name.as_str(), None, progress).await?;
            return Ok((image, snapshot));
        }
        let name = reference.name()?;
        let client = self.connect(reference, options).await?;
        let unpacker = StreamingUnpacker::new(&self.store, self.target()?, progress);
        let options = pull_options(choice, progress).with_unpacker(&unpacker);
        let image = transfer::pull(&self.store, &client, name, &options).await?;
        warn_if_withheld(&client, progress).await;
        Ok((image, unpacker.into_chain_id()))
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
        let client = self.connect(reference, options).await?;
        let options = PushOptions::default()
            .with_platforms(choice.clone())
            .with_progress(Arc::clone(progress));
        let pushed = transfer::push(&self.store, &client, &target, &options).await;
        let pushed = pushed.map_err(|error| error.operation("push").within(reference))?;
        warn_if_withheld(&client, progress).await;
        Ok(pushed)
    }

    /// A client for `reference` that also trusts the token services that `cas.toml` names.
    async fn connect(&self, reference: &RemoteRef, mut options: Options) -> Result<Client> {
        options
            .token_hosts
            .extend(self.root.token_hosts(reference.host())?);
        Client::connect(reference, options).await
    }
}

/// Warns of a login that was withheld, which what went well did without.
async fn warn_if_withheld(client: &Client, progress: &Arc<dyn Progress>) {
    if let Some(message) = client.withheld().await {
        progress.warn(&message);
    }
}

fn pull_options<'a>(choice: &Choice, progress: &Arc<dyn Progress>) -> PullOptions<'a> {
    PullOptions::default()
        .with_platforms(choice.clone())
        .with_progress(Arc::clone(progress))
}
