//! An image that is unpacked while it comes from somewhere.

use std::sync::Arc;

use async_trait::async_trait;
use cas_core::transfer::{Receiving, Unpacker, feed};
use cas_core::{Descriptor, Digest, Error, Manifest, Result, Store};
use tokio::sync::RwLock;

use super::unpacking::{Target, Unpacking};
use crate::progress::Progress;

/// Unpacks one image into snapshots while it comes to the store, where the snapshotter takes
/// parents late; else from the store, when all is there.
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
    /// One that waits for an image to come to `store`.
    pub fn new(store: &'a Store, target: Target<'a>, progress: &'a Arc<dyn Progress>) -> Self {
        StreamingUnpacker {
            store,
            target,
            progress,
            state: RwLock::new(State::Waiting),
        }
    }

    /// The chain id of the image, once it is unpacked; an image without layers has none.
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

    fn receive(&self, layer: &Descriptor) -> Option<Receiving<'_>> {
        // While another image is looked at, this layer can as well be read from the store later.
        let state = self.state.try_read().ok()?;
        let State::Running(unpacking) = &*state else {
            return None;
        };
        let index = unpacking.claim(&layer.digest)?;
        let (feed, incoming) = feed();
        let unpacked = async move {
            match &*self.state.read().await {
                State::Running(unpacking) => unpacking.apply_incoming(index, incoming).await,
                _ => Err(Error::internal("a layer comes after its image")),
            }
        };
        Some(Receiving {
            feed,
            unpacked: Box::pin(unpacked),
        })
    }

    async fn finish(&self) -> Result<()> {
        self.end(Ok(())).await
    }

    async fn abandon(&self) {
        // The caller has the error that matters.
        let _ = self
            .end(Err(Error::cancelled("the image did not come")))
            .await;
    }
}
