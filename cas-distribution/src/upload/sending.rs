//! Sends one request whose body is a part of a blob.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cas_core::sync::lock;
use cas_core::transfer::Pieces;
use cas_core::{Error, Result};
use futures_util::{StreamExt, stream};
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE};
use reqwest::{Body, Method, Response, StatusCode, Url};

use super::Upload;
use crate::request::{Action, may_answer};
use crate::retry::Failure;
use crate::{error, origin};

/// Maximum number of bytes that are passed on at once, so that the progress of a slow upload is
/// noticed.
const PIECE: usize = 64 << 10;

impl Upload<'_> {
    /// Sends the bytes `range` of the blob to the place of an upload, with credentials if the
    /// registry asks for them. An answer is returned as soon as it arrives, even if a part of the
    /// body was not sent.
    ///
    /// # Errors
    /// As [`error::broken`] if the connection breaks; if it stalls, a failure that may pass; as
    /// [`Http::request`](crate::http::Http::request); errors of the content and of the credentials.
    pub(super) async fn send(
        &self,
        method: Method,
        place: &Url,
        range: Range<u64>,
    ) -> Result<Response, Failure> {
        let inner = self.inner;
        let own = origin::same(&inner.base, place);
        let mut refused = 0;
        loop {
            let length = range.end - range.start;
            let mut request = inner
                .http
                .request(method.clone(), place)?
                .header(CONTENT_TYPE, "application/octet-stream")
                .header(CONTENT_LENGTH, length);
            if method == Method::PATCH {
                let chunk = format!("{}-{}", range.start, range.end - 1);
                request = request.header(CONTENT_RANGE, chunk);
            }
            let shown = inner.auth.ready(&inner.http).await;
            if let Some(header) = shown.header.as_ref().filter(|_| own) {
                request = request.header(AUTHORIZATION, header.clone());
            }
            let sending = Sending::default();
            let pieces = (self.content)(range.start);
            let request = request.body(sending.body(pieces, length));
            let response = self.watch(request.send(), place, &sending, length).await?;
            let response = response.map_err(|error| error::broken(error, place))?;
            if own {
                inner.warnings.note(response.headers());
            }
            // The token may have expired while the body was sent.
            let is_refused = own && response.status() == StatusCode::UNAUTHORIZED;
            if own && !is_refused {
                shown.note_accepted();
            }
            if !is_refused || !may_answer(&shown, refused) {
                return Ok(response);
            }
            refused += 1;
            let scope = inner.scope(Action::Push);
            let answer = inner
                .auth
                .answer(&inner.http, &shown, response.headers(), &scope);
            answer.await?;
        }
    }

    /// Waits for an answer as long as the registry accepts bytes. Once all `length` bytes are sent,
    /// waits longer, because the registry may have to copy and hash the blob. Returns the answer.
    ///
    /// # Errors
    /// If the time is over, a failure that may pass; errors of the content.
    async fn watch<T>(
        &self,
        answer: impl Future<Output = T>,
        url: &Url,
        sending: &Sending,
        length: u64,
    ) -> Result<T, Failure> {
        let timeouts = &self.inner.http.timeouts;
        let mut answer = std::pin::pin!(answer);
        loop {
            let before = sending.sent.load(Ordering::Relaxed);
            let is_sent = before == length;
            let allowed = if is_sent {
                timeouts.store
            } else {
                timeouts.answer
            };
            let answered = tokio::time::timeout(allowed, &mut answer).await;
            // An error of our own store must not be reported as one of the registry.
            if let Some(error) = lock(&sending.failed).take() {
                return Err(Failure::Stays(error));
            }
            match answered {
                Ok(answered) => return Ok(answered),
                Err(_) if is_sent || sending.sent.load(Ordering::Relaxed) == before => {
                    return Err(error::silent(url, allowed));
                }
                Err(_) => {}
            }
        }
    }
}

/// A body that is being sent.
#[derive(Default)]
struct Sending {
    /// Number of bytes that were passed on.
    sent: Arc<AtomicU64>,
    /// The error, if reading the content failed.
    failed: Arc<Mutex<Option<Error>>>,
}

impl Sending {
    /// Returns a body of the first `length` bytes of `pieces`, in pieces of at most [`PIECE`]
    /// bytes.
    fn body(&self, pieces: Pieces, length: u64) -> Body {
        let (sent, failed) = (Arc::clone(&self.sent), Arc::clone(&self.failed));
        let state = (pieces, Bytes::new(), length);
        Body::wrap_stream(stream::try_unfold(state, move |state| {
            let (sent, failed) = (Arc::clone(&sent), Arc::clone(&failed));
            async move {
                let (mut pieces, mut piece, left) = state;
                while piece.is_empty() && left > 0 {
                    match pieces.next().await {
                        Some(Ok(next)) => piece = next,
                        Some(Err(error)) => {
                            *lock(&failed) = Some(error);
                            return Err(Error::internal("the content cannot be read"));
                        }
                        None => break,
                    }
                }
                let most = usize::try_from(left).unwrap_or(usize::MAX);
                let first = piece.split_to(piece.len().min(PIECE).min(most));
                if first.is_empty() {
                    return Ok(None);
                }
                let length = first.len() as u64;
                sent.fetch_add(length, Ordering::Relaxed);
                Ok(Some((first, (pieces, piece, left - length))))
            }
        }))
    }
}
