//! How far a long operation is, for whoever shows it.

/// Hears of the items of a long operation: blobs that are copied, layers that are applied.
///
/// Calls come from several threads; items overlap.
pub trait Progress: Send + Sync {
    /// `item` begins; it has `total` bytes, where that is known.
    fn begin(&self, item: &str, total: Option<u64>);

    /// `bytes` more of `item` are done.
    fn advance(&self, item: &str, bytes: u64);

    /// `item` is done.
    fn end(&self, item: &str);

    /// Something is odd, but accepted.
    fn warn(&self, message: &str);
}

/// Hears nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: Option<u64>) {}
    fn advance(&self, _: &str, _: u64) {}
    fn end(&self, _: &str) {}
    fn warn(&self, _: &str) {}
}
