//! An ingest that nobody resumes.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::ContentStore;
use crate::background;
use crate::error::ErrorKind;
use crate::unique;

/// Maximum time to wait until a write that was under way has ended.
const LAST_WRITE: Duration = Duration::from_secs(5);

/// The key of an ingest that only its maker knows, so that nobody resumes it. Dropping it discards
/// the ingest, unless the ingest was published. Make it before the writer: variables are dropped in
/// reverse order, so the writer has then released the key, even if a future is dropped.
pub struct OwnIngest {
    content: Arc<dyn ContentStore>,
    key: String,
}

impl OwnIngest {
    /// Returns an unused key that begins with `purpose`.
    pub fn new(content: &Arc<dyn ContentStore>, purpose: &str) -> Self {
        OwnIngest {
            content: Arc::clone(content),
            key: unique::key(purpose),
        }
    }

    /// Returns the key.
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl Drop for OwnIngest {
    fn drop(&mut self) {
        let (content, key) = (Arc::clone(&self.content), std::mem::take(&mut self.key));
        background::run(async move {
            let begun = Instant::now();
            // If it cannot be discarded, a later collection discards it.
            while let Err(error) = content.discard(&key).await {
                if error.kind() != ErrorKind::Busy || begun.elapsed() > LAST_WRITE {
                    return;
                }
                thread::sleep(Duration::from_millis(5));
            }
        });
    }
}
