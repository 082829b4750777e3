//! Reads the body of an answer.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use opendal::{Buffer, ErrorKind};
use tokio::time::{Instant, Sleep, sleep};

use super::silence::Attempt;
use super::{Patience, temporary};

/// The body of an answer. It ends with an error if it arrives too slowly or is too large.
pub(super) struct Paced<S> {
    body: S,
    /// Maximum size of the body in bytes.
    most: u64,
    /// Number of bytes that have arrived.
    arrived: u64,
    /// Number of bytes that have arrived since the deadline was set.
    recent: u64,
    /// When [`Patience::least`] more bytes must have arrived.
    deadline: Pin<Box<Sleep>>,
    patience: Patience,
    attempt: Attempt,
}

impl<S> Paced<S> {
    /// Bounds `body`, of which at most `most` bytes are expected.
    pub(super) fn new(body: S, most: u64, patience: Patience, attempt: Attempt) -> Self {
        Paced {
            body,
            most,
            arrived: 0,
            recent: 0,
            deadline: Box::pin(sleep(patience.idle)),
            patience,
            attempt,
        }
    }

    /// Counts bytes that have arrived. Returns them, or an error if they are too many.
    fn count(&mut self, data: Buffer) -> opendal::Result<Buffer> {
        let length = data.len() as u64;
        self.arrived += length;
        if self.arrived > self.most {
            return Err(opendal::Error::new(
                ErrorKind::Unexpected,
                format!(
                    "the answer of the service is too large: expected at most {} bytes; check the \
                     service at the endpoint",
                    self.most
                ),
            ));
        }
        self.recent += length;
        if self.recent >= self.patience.least {
            self.recent = 0;
            let deadline = Instant::now() + self.patience.idle;
            self.deadline.as_mut().reset(deadline);
            self.attempt.progress();
        }
        Ok(data)
    }
}

impl<S: Stream<Item = opendal::Result<Buffer>> + Unpin> Stream for Paced<S> {
    type Item = opendal::Result<Buffer>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let Poll::Ready(next) = Pin::new(&mut this.body).poll_next(context) else {
            ready!(this.deadline.as_mut().poll(context));
            let slow = temporary(format!(
                "the answer of the service is too slow: expected at least {} bytes in {} seconds, \
                 received {}; check the connection, or try again later",
                this.patience.least,
                this.patience.idle.as_secs_f32(),
                this.recent
            ));
            return Poll::Ready(Some(Err(this.attempt.failed(slow))));
        };
        let next = match next {
            None => {
                this.attempt.progress();
                None
            }
            Some(Err(error)) => Some(Err(this.attempt.failed(error))),
            Some(Ok(data)) => Some(this.count(data)),
        };
        Poll::Ready(next)
    }
}
