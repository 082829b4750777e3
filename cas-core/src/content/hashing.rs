//! Hashing that runs alongside writing, and may be a few MiB behind it. Stores accept pieces in
//! bursts. So the writer should not wait until each piece is hashed, and hashing should not wait
//! until each piece is stored.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::digest::{Algorithm, Digest, Hasher};
use crate::pool;
use crate::sync::lock;

/// Minimum size, in bytes, of a piece that is hashed on another thread if no other piece waits. For
/// a smaller piece, switching threads would cost more time than it saves.
const OVERLAP: usize = 64 << 10;
/// Maximum number of bytes that are not hashed yet when a writer continues.
const BEHIND: usize = 4 << 20;

/// The hash of a sequence of pieces. One task pushes the pieces, and a thread of the pool hashes
/// them. The thread of the task hashes small pieces itself. If it may block, it also hashes pieces
/// instead of waiting for the pool.
pub(super) struct Hashing(Arc<Shared>);

struct Shared {
    /// Must be locked before a piece is taken from the queue, so that pieces are hashed in order.
    hasher: Mutex<Hasher>,
    queue: Mutex<Queue>,
    /// Notified of each piece of the queue that was hashed.
    hashed: Notify,
}

#[derive(Default)]
struct Queue {
    pieces: VecDeque<Bytes>,
    /// Bytes that were pushed and are not hashed yet, including the piece that is being hashed.
    behind: usize,
    /// Whether a job of the pool is emptying the queue.
    draining: bool,
}

impl Hashing {
    pub(super) fn new(algorithm: Algorithm) -> Self {
        Hashing(Arc::new(Shared {
            hasher: Mutex::new(Hasher::new(algorithm)),
            queue: Mutex::default(),
            hashed: Notify::new(),
        }))
    }

    /// Adds a piece. It is hashed on the pool, or on this thread if it is small and no piece waits.
    pub(super) fn push(&self, piece: Bytes) {
        let mut queue = lock(&self.0.queue);
        if queue.behind == 0 && piece.len() < OVERLAP {
            drop(queue);
            return lock(&self.0.hasher).update(&piece);
        }
        queue.behind += piece.len();
        queue.pieces.push_back(piece);
        if !queue.draining {
            queue.draining = true;
            drop(queue);
            let shared = Arc::clone(&self.0);
            pool::start(move || while shared.step(lock(&shared.hasher)) {});
        }
    }

    /// Waits until at most [`BEHIND`] bytes are not hashed yet.
    pub(super) async fn keep_up(&self) {
        self.wait(BEHIND).await;
    }

    /// Returns the digest of everything that was pushed.
    pub(super) async fn digest(&self) -> Digest {
        self.wait(0).await;
        lock(&self.0.hasher).clone().finish()
    }

    async fn wait(&self, behind: usize) {
        loop {
            let hashed = self.0.hashed.notified();
            if lock(&self.0.queue).behind <= behind {
                return;
            }
            // Every thread of the pool may be waiting here, so a thread that may block helps.
            if !(pool::may_block() && self.0.try_step()) {
                hashed.await;
            }
        }
    }
}

impl Shared {
    /// Hashes the next piece, unless another thread is hashing a piece. Returns whether a piece was
    /// hashed.
    fn try_step(&self) -> bool {
        self.hasher.try_lock().is_ok_and(|hasher| self.step(hasher))
    }

    /// Hashes the next piece. Returns false if there is none.
    fn step(&self, mut hasher: MutexGuard<'_, Hasher>) -> bool {
        let mut queue = lock(&self.queue);
        let Some(piece) = queue.pieces.pop_front() else {
            queue.draining = false;
            return false;
        };
        drop(queue);
        hasher.update(&piece);
        drop(hasher);
        lock(&self.queue).behind -= piece.len();
        self.hashed.notify_one();
        true
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;

    use super::*;

    /// Pushes pieces as fast as the bound allows.
    async fn digest_of(pieces: &[Bytes]) -> Digest {
        let hashing = Hashing::new(Algorithm::Sha256);
        for piece in pieces {
            hashing.push(piece.clone());
            hashing.keep_up().await;
            assert!(lock(&hashing.0.queue).behind <= BEHIND);
        }
        hashing.digest().await
    }

    #[tokio::test]
    async fn a_digest_waits_for_the_piece_that_is_being_hashed() {
        let hashing = Hashing::new(Algorithm::Sha256);
        let piece = Bytes::from(vec![7; OVERLAP]);
        let hasher = lock(&hashing.0.hasher);
        hashing.push(piece.clone());
        let mut digest = pin!(hashing.digest());
        let early = digest.as_mut().now_or_never();
        assert_eq!(early, None, "nothing is hashed yet");
        assert_eq!(lock(&hashing.0.queue).behind, OVERLAP);
        drop(hasher);
        assert_eq!(digest.await, Digest::sha256(&piece));
    }

    #[tokio::test]
    async fn a_pool_full_of_writers_hashes_in_order() {
        let sizes = [1, OVERLAP, 3 * OVERLAP, 7, 1 << 20, BEHIND + 1, 0, 5];
        let pieces: Vec<_> = (sizes.iter().cycle().take(24).enumerate())
            .map(|(number, size)| Bytes::from(vec![number as u8; *size]))
            .collect();
        let expected = Digest::sha256(&pieces.concat());
        let blocking = (0..16).map(|_| {
            let pieces = pieces.clone();
            tokio::spawn(pool::run(move || Ok(pool::wait(digest_of(&pieces)))))
        });
        let blocking: Vec<_> = blocking.collect();
        assert_eq!(digest_of(&pieces).await, expected);
        for writer in blocking {
            assert_eq!(writer.await.unwrap().unwrap(), expected);
        }
    }
}
