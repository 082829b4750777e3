//! Sends the body of a request, and watches that the service accepts it.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cas_core::sync::lock;
use futures_util::stream;
use http::Request;
use http::header::CONTENT_LENGTH;
use opendal::Buffer;
use reqwest::Body;
use tokio::time::{Instant, timeout_at};

use super::{Patience, temporary};

/// Maximum number of bytes that are passed on at once. The HTTP library gathers 16 pieces and
/// writes them all before it takes the next piece. So progress is noticed every 64 KiB.
const PIECE: usize = 4 << 10;

/// A body that is being sent.
pub(super) struct Sending {
    patience: Patience,
    /// Length of the body in bytes. 0 if the request has no body.
    length: u64,
    began: Instant,
    progress: Arc<Mutex<Progress>>,
}

#[derive(Clone, Copy)]
struct Progress {
    /// Number of bytes that were passed on.
    sent: u64,
    /// When the last of them were passed on, or when the request began.
    last: Instant,
}

impl Sending {
    /// Returns a body of `length` bytes, none of which were sent.
    pub(super) fn begin(length: u64, patience: Patience) -> Self {
        let began = Instant::now();
        let progress = Progress {
            sent: 0,
            last: began,
        };
        Sending {
            patience,
            length,
            began,
            progress: Arc::new(Mutex::new(progress)),
        }
    }

    /// Returns the request with a body that notes its progress.
    pub(super) fn wrap(&self, request: Request<Buffer>) -> Request<Body> {
        let (mut head, body) = request.into_parts();
        if self.length == 0 {
            return Request::from_parts(head, Body::default());
        }
        // The length of a stream is not known.
        head.headers.insert(CONTENT_LENGTH, self.length.into());
        let progress = Arc::clone(&self.progress);
        let pieces = body.chunks(PIECE).map(move |piece| {
            let mut progress = lock(&progress);
            progress.sent += piece.len() as u64;
            progress.last = Instant::now();
            Ok::<_, Infallible>(piece.to_bytes())
        });
        Request::from_parts(head, Body::wrap_stream(stream::iter(pieces)))
    }

    /// Returns when bytes were last passed on, or when the request began.
    pub(super) fn last(&self) -> Instant {
        self.progress().last
    }

    /// Waits for the head of the answer as long as the service accepts bytes. Returns the answer.
    ///
    /// # Errors
    /// Errors of `answer`; a temporary error if the service accepts no bytes or does not answer.
    pub(super) async fn watch<T>(
        &self,
        answer: impl Future<Output = opendal::Result<T>>,
    ) -> opendal::Result<T> {
        let mut answer = pin!(answer);
        loop {
            let seen = self.progress();
            let allowed = self.allowed(seen);
            match timeout_at(seen.last + allowed, &mut answer).await {
                Ok(answered) => return answered,
                Err(_) if self.progress().sent == seen.sent => {
                    return Err(self.stalled(seen, allowed));
                }
                Err(_) => {}
            }
        }
    }

    fn progress(&self) -> Progress {
        *lock(&self.progress)
    }

    /// Returns the maximum time from the last progress to the next, or to the head of the answer.
    fn allowed(&self, seen: Progress) -> Duration {
        if self.length == 0 {
            return self.patience.answer;
        }
        if seen.sent < self.length {
            return self.patience.upload;
        }
        // Buffers, such as those of the kernel, may still hold half of a part of a blob. On a slow
        // line, the service receives this half as slowly as the half before.
        self.patience.upload + (seen.last - self.began)
    }

    fn stalled(&self, seen: Progress, allowed: Duration) -> opendal::Error {
        let (length, sent, seconds) = (self.length, seen.sent, allowed.as_secs_f32());
        temporary(match (length, length - sent) {
            (0, _) => format!(
                "the service did not answer for {seconds} seconds; check the endpoint, or try \
                 again later"
            ),
            (_, 0) => format!(
                "the service did not answer for {seconds:.0} seconds after the last byte of an \
                 upload; check the endpoint, or try again later"
            ),
            _ => format!(
                "the service stopped accepting an upload: {sent} of {length} bytes were sent, and \
                 none for the last {seconds:.0} seconds; check the endpoint and the connection, or \
                 try again later"
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Buffers may hold half of the body, so the service may take as long to receive this half as
    /// it took to receive the other.
    #[test]
    fn the_end_of_a_slow_upload_has_more_time() {
        let patience = Patience::DEFAULT;
        let length = 8 << 20;
        let sending = Sending::begin(length, patience);
        let allowed = |sent, seconds| {
            let last = sending.began + Duration::from_secs(seconds);
            sending.allowed(Progress { sent, last })
        };
        assert_eq!(allowed(length - 1, 512), patience.upload);
        assert_eq!(allowed(length, 0), patience.upload);
        let more = Duration::from_secs(512);
        assert_eq!(allowed(length, 512), patience.upload + more);
    }
}
