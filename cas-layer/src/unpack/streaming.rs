//! Unpacks an image while it arrives in the store.

use std::sync::Arc;

use async_trait::async_trait;
use cas_core::progress::Progress;
use cas_core::transfer::{LayerFeed, Unpacker, Want, layer_channel};
use cas_core::{Descriptor, Digest, Error, Manifest, Result, Store};
use tokio::sync::RwLock;

use super::unpacking::{Target, Unpacking};

/// Unpacks one image into snapshots while it arrives in the store, if the snapshotter can give a
/// snapshot its parent at the commit. Otherwise the image is unpacked from the store when it is
/// complete.
pub struct StreamingUnpacker<'a> {
    store: &'a Store,
    target: Target<'a>,
    progress: &'a Arc<dyn Progress>,
    state: RwLock<State<'a>>,
}

enum State<'a> {
    Waiting,
    Running(Box<Unpacking<'a>>),
    Ended(Option<Digest>),
}

impl<'a> StreamingUnpacker<'a> {
    /// Creates an unpacker for an image that will arrive in `store`.
    pub fn new(store: &'a Store, target: Target<'a>, progress: &'a Arc<dyn Progress>) -> Self {
        StreamingUnpacker {
            store,
            target,
            progress,
            state: RwLock::new(State::Waiting),
        }
    }

    /// Returns the chain ID of the unpacked image, or `None` if the image has no layers or was not
    /// unpacked.
    pub fn into_chain_id(self) -> Option<Digest> {
        match self.state.into_inner() {
            State::Ended(chain_id) => chain_id,
            _ => None,
        }
    }

    async fn end(&self, came: Result<()>) -> Result<()> {
        let mut state = self.state.write().await;
        if let State::Running(unpacking) = std::mem::replace(&mut *state, State::Ended(None)) {
            let ended = match came {
                Ok(()) => unpacking.finish().await,
                Err(error) => unpacking.end(Err(error)).await,
            };
            *state = State::Ended(ended?);
        }
        Ok(())
    }
}

#[async_trait]
impl Unpacker for StreamingUnpacker<'_> {
    async fn begin(&self, manifest: &Manifest) -> Result<()> {
        let mut state = self.state.write().await;
        if let State::Waiting = *state {
            let begun = Unpacking::begin(self.store, self.target, manifest, self.progress);
            *state = State::Running(Box::new(begun.await?));
        }
        Ok(())
    }

    fn wants(&self, _: &Descriptor) -> Want {
        Want::StoreAndFeed
    }

    fn receive(&self, layer: &Descriptor) -> Option<LayerFeed<'_>> {
        // While another image begins, it holds the lock. The layer is then read from the store.
        let state = self.state.try_read().ok()?;
        let State::Running(unpacking) = &*state else {
            return None;
        };
        let index = unpacking.claim(&layer.digest)?;
        let (sender, bytes) = layer_channel();
        let unpacked = async move {
            match &*self.state.read().await {
                State::Running(unpacking) => unpacking.apply_incoming(index, bytes).await,
                _ => Err(Error::internal(
                    "a layer arrived after its image was finished; please report it",
                )),
            }
        };
        Some(LayerFeed {
            sender,
            unpacked: Box::pin(unpacked),
        })
    }

    async fn finish(&self) -> Result<()> {
        self.end(Ok(())).await
    }

    async fn abandon(&self) {
        // The caller already has the error that matters.
        let _ = self
            .end(Err(Error::cancelled("the image did not arrive")))
            .await;
    }
}
