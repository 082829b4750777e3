//! Hashing that may run some pieces behind the writing, so that neither waits for each piece of
//! the other: a store takes its pieces in bursts.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::digest::{Algorithm, Digest, Hasher};
use crate::pool;
use crate::sync::lock;

/// Below this a hop to another thread costs more than it hides.
const OVERLAP: usize = 64 << 10;
/// Bytes that may wait to be hashed, for each writer.
const BEHIND: usize = 4 << 20;

/// The hash of a sequence of pieces. One task pushes; a thread of the pool hashes.
pub(super) struct Hashing(Arc<Shared>);

struct Shared {
    /// Whoever has it takes the next piece, so that they are hashed in their order.
    hasher: Mutex<Hasher>,
    queue: Mutex<Queue>,
    /// Told of each piece that was hashed.
    hashed: Notify,
}

#[derive(Default)]
struct Queue {
    pieces: VecDeque<Bytes>,
    /// Bytes pushed and not hashed yet, those of the piece that is being hashed among them.
    behind: usize,
    /// Whether the pool was asked, and has not found the queue empty since.
    asked: bool,
}

impl Hashing {
    pub(super) fn new(algorithm: Algorithm) -> Self {
        Hashing(Arc::new(Shared {
            hasher: Mutex::new(Hasher::new(algorithm)),
            queue: Mutex::default(),
            hashed: Notify::new(),
        }))
    }

    /// Adds a piece, which is hashed meanwhile, or here where it is small and nothing waits.
    pub(super) fn push(&self, piece: Bytes) {
        let mut queue = lock(&self.0.queue);
        if queue.behind == 0 && piece.len() < OVERLAP {
            drop(queue);
            return lock(&self.0.hasher).update(&piece);
        }
        queue.behind += piece.len();
        queue.pieces.push_back(piece);
        if !queue.asked {
            queue.asked = true;
            drop(queue);
            let shared = Arc::clone(&self.0);
            pool::start(move || while shared.step(lock(&shared.hasher)) {});
        }
    }

    /// Waits until little enough is behind for more.
    pub(super) async fn keep_up(&self) {
        self.wait(BEHIND).await;
    }

    /// The digest of all that was pushed.
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
            // The pool may be full of such as wait here: who may block does the work.
            if !(pool::may_block() && self.0.try_step()) {
                hashed.await;
            }
        }
    }
}

impl Shared {
    /// Hashes the next piece, unless another thread is at one.
    fn try_step(&self) -> bool {
        self.hasher.try_lock().is_ok_and(|hasher| self.step(hasher))
    }

    /// Hashes the next piece; false where there is none.
    fn step(&self, mut hasher: MutexGuard<'_, Hasher>) -> bool {
        let mut queue = lock(&self.queue);
        let Some(piece) = queue.pieces.pop_front() else {
            queue.asked = false;
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

    /// Small and large pieces in turn, more of them than may be behind.
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
