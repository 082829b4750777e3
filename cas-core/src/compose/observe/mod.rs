//! Metrics: a store that reports each asynchronous call to an observer, with the number of bytes,
//! the duration and the error of the call.
//!
//! In all other respects, the store behaves like the store that it observes, and has the same
//! capabilities. A call that is cancelled is not reported.

mod content;
mod counters;
mod event;
mod records;

use std::sync::Arc;
use std::time::Instant;

pub use self::counters::{Counters, Counts};
pub use self::event::{Event, Interface, Operation};
use crate::error::Result;
use crate::store::Store;

/// Receives an event for every asynchronous call that ended.
pub trait Observer: Send + Sync + 'static {
    /// Receives one event. The store calls this method on the thread of the observed call, before
    /// the observed call returns, so this method must be quick.
    fn observe(&self, event: &Event);
}

/// Wraps `store`. Returns a store that reports to `observer` every asynchronous call of its content
/// store, ingests, readers, records and image store.
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

    /// Runs one call. `bytes` returns how many bytes it moved, if it succeeded.
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
