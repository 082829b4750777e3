//! The thread that extends the lease of a job, even while the job itself is blocked.

use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use crate::error::ErrorKind;
use crate::pool;
use crate::records::{Leases, Records};
use crate::sync::lock;

/// A thread that extends a lease. Dropping the renewer ends the thread, without waiting for its
/// end.
pub(super) struct LeaseRenewer(Arc<Signal>);

#[derive(Default)]
struct Signal {
    ended: Mutex<bool>,
    changed: Condvar,
}

impl LeaseRenewer {
    /// Starts a thread that extends the lease after each third of `ttl`. The lease then expires
    /// `ttl` after its last extension. While the thread waits, it does not keep the store open.
    pub(super) fn start(records: &Arc<dyn Records>, id: &Arc<str>, ttl: Duration) -> Self {
        let records = Arc::downgrade(records);
        let signal = Arc::new(Signal::default());
        let (end, id) = (Arc::clone(&signal), Arc::clone(id));
        // If no thread can be started, the lease may expire before the job ends. If a collection
        // then removes the lease, the guard creates it again.
        let _ = thread::Builder::new()
            .name("cas-lease".to_owned())
            .spawn(move || {
                while !end.wait(ttl / 3) {
                    if !extend(&records, &id, ttl) {
                        return;
                    }
                }
            });
        LeaseRenewer(signal)
    }
}

impl Drop for LeaseRenewer {
    fn drop(&mut self) {
        *lock(&self.0.ended) = true;
        self.0.changed.notify_all();
    }
}

impl Signal {
    /// Waits for `pause`. When the renewer is dropped, stops waiting and returns true.
    fn wait(&self, pause: Duration) -> bool {
        let ended = lock(&self.ended);
        let waited = self
            .changed
            .wait_timeout_while(ended, pause, |ended| !*ended);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Extends the lease. Returns false if the lease no longer exists, or the store is closed.
fn extend(records: &Weak<dyn Records>, id: &str, ttl: Duration) -> bool {
    let Some(records) = records.upgrade() else {
        return false;
    };
    match pool::wait(Leases::new(records).extend(id, ttl)) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(
                lease = id, %error,
                "a lease could not be extended; if the lease expires, the job creates it again"
            );
            error.kind() != ErrorKind::NotFound
        }
    }
}
