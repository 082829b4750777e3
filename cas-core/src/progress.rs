//! Progress of a long operation, for programs that show it.

/// Receives the progress of a long operation, item by item: blobs that are copied, layers that are
/// applied.
///
/// Calls come from several threads, and items overlap.
pub trait Progress: Send + Sync {
    /// Called when `item` begins. `total` is its size in bytes, if known.
    fn begin(&self, item: &str, total: Option<u64>);

    /// Called when `bytes` more of `item` are done.
    fn advance(&self, item: &str, bytes: u64);

    /// Called when `item` is done.
    fn end(&self, item: &str);

    /// Called when something is unusual but accepted.
    fn warn(&self, message: &str);
}

/// Ignores all progress.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: Option<u64>) {}
    fn advance(&self, _: &str, _: u64) {}
    fn end(&self, _: &str) {}
    fn warn(&self, _: &str) {}
}
