//! [`OwnIngest`]: discards an ingest that no other job resumes.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::{ContentStore, discard_unless_open};
use crate::background;
use crate::error::{ErrorKind, Result};
use crate::unique;

/// Maximum time to wait until a write that was under way has ended.
const LAST_WRITE: Duration = Duration::from_secs(5);

/// The key of an ingest that no other job resumes. Dropping this value discards the ingest in the
/// background. To prevent this, call [`published`](Self::published). Create the value before the
/// writer. Rust drops variables in reverse order, so the writer releases the key before the ingest
/// is discarded. The order is the same if a future that holds both variables is dropped. If another
/// writer keeps the key open for more than 5 seconds, or if the store fails, the ingest stays until
/// a collection removes it.
pub struct OwnIngest {
    content: Arc<dyn ContentStore>,
    key: String,
}

impl OwnIngest {
    /// Returns an `OwnIngest` with a new key that begins with `purpose`. No other job uses the key.
    pub fn new(content: &Arc<dyn ContentStore>, purpose: &str) -> Self {
        Self::of(content, unique::key(purpose))
    }

    /// Returns an `OwnIngest` for the ingest `key`, which the caller has open. Unlike a new key,
    /// this key may be known to other jobs that wait for it. The ingest is not discarded while one
    /// of these jobs has it open.
    pub fn of(content: &Arc<dyn ContentStore>, key: impl Into<String>) -> Self {
        OwnIngest {
            content: Arc::clone(content),
            key: key.into(),
        }
    }

    /// Drops the value without discarding the ingest. Call this after the ingest was published.
    pub fn published(mut self) {
        self.key.clear();
    }

    /// Discards the ingest now, unless a writer has the key open. Returns whether the ingest was
    /// discarded.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn discard(mut self) -> Result<bool> {
        let discarded = discard_unless_open(&*self.content, &self.key).await;
        self.key.clear();
        discarded
    }

    /// Returns the key.
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl Drop for OwnIngest {
    fn drop(&mut self) {
        let (content, key) = (Arc::clone(&self.content), std::mem::take(&mut self.key));
        if key.is_empty() {
            return;
        }
        background::run(async move {
            let begun = Instant::now();
            // If the ingest cannot be discarded, a collection discards it once it has not grown for
            // a day.
            while let Err(error) = content.discard(&key).await {
                if error.kind() != ErrorKind::Busy || begun.elapsed() > LAST_WRITE {
                    return;
                }
                thread::sleep(Duration::from_millis(5));
            }
        });
    }
}
