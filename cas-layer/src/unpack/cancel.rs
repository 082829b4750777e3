//! Ends the work of a thread when the future that waits for it is dropped.

use std::io::{self, Read};
use std::sync::{Arc, Weak};

use cas_core::Error;

use crate::flow::LayerSource;

/// Held by a future that waits for a thread.
pub(super) struct Waiter(Arc<()>);

/// Reports whether the waiter still exists.
#[derive(Clone)]
pub(super) struct WaiterWatch(Weak<()>);

/// A reader that fails once the waiter is dropped.
struct WatchedReader<R> {
    reader: R,
    watch: WaiterWatch,
}

impl Waiter {
    pub(super) fn new() -> Self {
        Waiter(Arc::new(()))
    }

    pub(super) fn watch(&self) -> WaiterWatch {
        WaiterWatch(Arc::downgrade(&self.0))
    }
}

impl WaiterWatch {
    /// Returns the same layer, whose bytes end with an error once the waiter is dropped.
    pub(super) fn layer<'a>(&self, mut layer: LayerSource<'a>) -> LayerSource<'a> {
        layer.blob = Box::new(WatchedReader {
            reader: layer.blob,
            watch: self.clone(),
        });
        layer
    }
}

impl<R: Read> Read for WatchedReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.watch.0.strong_count() == 0 {
            return Err(Error::cancelled("the caller no longer waits for the layer").into());
        }
        self.reader.read(out)
    }
}
