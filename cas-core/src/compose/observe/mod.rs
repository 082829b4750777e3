//! A store that tells what it does: each call, with its bytes, its time and how it failed.
//!
//! Nothing else is changed, capabilities included. A call that is cancelled is not told.

mod content;
mod counters;
mod event;
mod records;

use std::sync::Arc;
use std::time::Instant;

pub use self::counters::{Counters, Counts};
pub use self::event::{Event, Operation, Subject};
use crate::error::Result;
use crate::store::Store;

/// Is told of every call that ended.
pub trait Observer: Send + Sync + 'static {
    /// Called where the call was made, before its caller hears of it: it must be quick.
    fn observe(&self, event: &Event);
}

/// `store`, with `observer` told of every call of its content, ingests, readers, records and
/// images.
pub fn observe(store: Store, observer: Arc<dyn Observer>) -> Store {
    let watch = Watch(observer);
    Store {
        content: Arc::new(content::Content::new(store.content, watch.clone())),
        records: Arc::new(records::Watched::new(store.records, watch.clone())),
        images: Arc::new(records::Watched::new(store.images, watch)),
    }
}

/// Measures calls.
#[derive(Clone)]
struct Watch(Arc<dyn Observer>);

impl Watch {
    /// Runs one call that moves no bytes.
    async fn call<T>(
        &self,
        operation: Operation,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.moves(operation, call, |_| 0).await
    }

    /// Runs one call; `bytes` tells how many it moved when it ended well.
    async fn moves<T>(
        &self,
        operation: Operation,
        call: impl Future<Output = Result<T>>,
        bytes: impl FnOnce(&T) -> usize,
    ) -> Result<T> {
        let began = Instant::now();
        let outcome = call.await;
        self.0.observe(&Event {
            operation,
            bytes: outcome.as_ref().map_or(0, bytes) as u64,
            elapsed: began.elapsed(),
            error: outcome.as_ref().err().map(|error| error.kind()),
        });
        outcome
    }
}
