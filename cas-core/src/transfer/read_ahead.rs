//! Reads a blob in order by several concurrent requests.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::ops::Range;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;

use super::pull_limits::PullLimits;
use super::quota::{ImageQuota, QuotaLease};
use super::remote::{Fetcher, Pieces};
use crate::descriptor::Descriptor;
use crate::error::{Error, Result};

/// Reads a blob in order while the ranges ahead are fetched into memory.
pub(super) struct RangeReader<'a> {
    fetcher: &'a dyn Fetcher,
    descriptor: &'a Descriptor,
    /// The ranges that were requested and are not read yet, in order.
    requested: VecDeque<RequestedRange<'a>>,
    /// What was not requested yet.
    rest: Range<u64>,
    limits: &'a PullLimits,
    requests: &'a ImageQuota,
}

impl<'a> RangeReader<'a> {
    /// Returns a reader of the bytes `range`. Nothing was requested yet.
    pub(super) fn new(
        fetcher: &'a dyn Fetcher,
        descriptor: &'a Descriptor,
        range: Range<u64>,
        limits: &'a PullLimits,
        requests: &'a ImageQuota,
    ) -> Self {
        RangeReader {
            fetcher,
            descriptor,
            requested: VecDeque::new(),
            rest: range,
            limits,
            requests,
        }
    }

    /// Requests the first ranges. Returns `None` if the remote does not serve ranges.
    ///
    /// # Errors
    /// As [`Fetcher::fetch`].
    pub(super) async fn begin(mut self) -> Result<Option<Self>> {
        // The answer to the first request shows whether the remote serves ranges.
        let first = self.take_range();
        let length = first.end - first.start;
        let lease = self.requests.acquire().await?;
        let pieces = self.fetcher.fetch(self.descriptor, first).await?;
        if !self.fetcher.serves_ranges() {
            return Ok(None);
        }
        let state = State::Arriving(pieces, lease);
        self.requested.push_back(RequestedRange::new(length, state));
        self.request_ahead();
        Ok(Some(self))
    }

    /// Returns the next bytes, or `None` at the end of what was requested. If the
    /// [rest](Self::rest) is empty, that is the end of the blob. Otherwise, the remote has stopped
    /// serving ranges.
    ///
    /// # Errors
    /// As [`Fetcher::fetch`]; `Corrupt` if the remote sends more or less than a range.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            let next = poll_fn(|context| {
                self.poll_ranges(context);
                match self.requested.front_mut() {
                    Some(range) => range.poll_next().map(Some),
                    None => Poll::Ready(None),
                }
            });
            match next.await {
                None => return Ok(None),
                Some(Some(piece)) => return piece.map(Some),
                Some(None) => {
                    self.requested.pop_front();
                    self.request_ahead();
                }
            }
        }
    }

    /// Returns what was not requested yet.
    pub(super) fn rest(&self) -> Range<u64> {
        self.rest.clone()
    }

    /// Does `work` while the ranges arrive. Returns its result.
    pub(super) async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|context| {
            let done = work.as_mut().poll(context);
            if done.is_pending() {
                self.poll_ranges(context);
            }
            done
        })
        .await
    }

    fn poll_ranges(&mut self, context: &mut Context<'_>) {
        for range in &mut self.requested {
            // What is ready is read later, in order.
            let _ = range.poll_arrival(context);
        }
    }

    fn take_range(&mut self) -> Range<u64> {
        let end = self.rest.end.min(self.rest.start + self.limits.range());
        let range = self.rest.start..end;
        self.rest.start = end;
        range
    }

    fn request_ahead(&mut self) {
        // A remote that does not serve a range also sends all bytes before it.
        let serves = self.fetcher.serves_ranges();
        while serves && self.requested.len() < self.limits.per_layer() && !self.rest.is_empty() {
            let (fetcher, descriptor, range) = (self.fetcher, self.descriptor, self.take_range());
            let (requests, length) = (self.requests, range.end - range.start);
            let answer = Box::pin(async move {
                let lease = requests.acquire().await?;
                let pieces = fetcher.fetch(descriptor, range).await?;
                Ok((pieces, lease))
            });
            let range = RequestedRange::new(length, State::Asked(answer));
            self.requested.push_back(range);
        }
    }
}

/// A range that was requested.
struct RequestedRange<'a> {
    /// What has arrived and is not read yet.
    arrived: VecDeque<Bytes>,
    length: u64,
    /// How many bytes are still to arrive.
    missing: u64,
    state: State<'a>,
}

/// The lease of a request ends when its range is read, so that the limit on requests also bounds the
/// ranges in memory.
enum State<'a> {
    Asked(BoxFuture<'a, Result<(Pieces, QuotaLease)>>),
    Arriving(Pieces, QuotaLease),
    Whole { _lease: QuotaLease },
    Failed(Option<Error>),
}

impl<'a> RequestedRange<'a> {
    fn new(length: u64, state: State<'a>) -> Self {
        RequestedRange {
            arrived: VecDeque::new(),
            length,
            missing: length,
            state,
        }
    }

    /// Takes what arrives into memory. Is ready if the range is whole, or has failed.
    fn poll_arrival(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let next = match &mut self.state {
                State::Asked(answer) => match ready!(answer.as_mut().poll(context)) {
                    Ok((pieces, lease)) => State::Arriving(pieces, lease),
                    Err(error) => State::Failed(Some(error)),
                },
                State::Arriving(pieces, _) => match ready!(pieces.poll_next_unpin(context)) {
                    Some(Ok(piece)) => match self.missing.checked_sub(piece.len() as u64) {
                        Some(missing) => {
                            self.missing = missing;
                            self.arrived
                                .extend(Some(piece).filter(|piece| !piece.is_empty()));
                            continue;
                        }
                        None => State::Failed(Some(wrong_length(self.length, "more"))),
                    },
                    Some(Err(error)) => State::Failed(Some(error)),
                    None if self.missing > 0 => {
                        State::Failed(Some(wrong_length(self.length, "fewer")))
                    }
                    None => {
                        let whole = std::mem::replace(&mut self.state, State::Failed(None));
                        if let State::Arriving(_, _lease) = whole {
                            self.state = State::Whole { _lease };
                        }
                        return Poll::Ready(());
                    }
                },
                State::Whole { .. } | State::Failed(_) => return Poll::Ready(()),
            };
            self.state = next;
        }
    }

    /// Returns the next bytes or the error of the range, or `None` at its end.
    fn poll_next(&mut self) -> Poll<Option<Result<Bytes>>> {
        if let Some(piece) = self.arrived.pop_front() {
            return Poll::Ready(Some(Ok(piece)));
        }
        match &mut self.state {
            State::Asked(_) | State::Arriving(..) => Poll::Pending,
            State::Whole { .. } => Poll::Ready(None),
            State::Failed(error) => Poll::Ready(error.take().map(Err)),
        }
    }
}

fn wrong_length(length: u64, found: &str) -> Error {
    Error::corrupt(format!(
        "expected a range of {length} bytes, found {found}; check the repository that sent them"
    ))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use async_trait::async_trait;
    use futures_util::stream;

    use super::*;
    use crate::media_type::MediaType;

    const PIECE: usize = 4096;
    const RANGE: usize = PullLimits::MIN_RANGE as usize;

    /// A remote of a blob of which each byte is the number of its range. It counts the bytes that
    /// it has sent and that are still in memory.
    #[derive(Clone, Default)]
    struct Remote {
        held: Arc<AtomicUsize>,
        most: Arc<AtomicUsize>,
        asked: Arc<AtomicUsize>,
        /// How many bytes too many or too few the second range has.
        wrong: isize,
    }

    struct Piece {
        bytes: Vec<u8>,
        held: Arc<AtomicUsize>,
    }

    impl AsRef<[u8]> for Piece {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }

    impl Drop for Piece {
        fn drop(&mut self) {
            self.held.fetch_sub(self.bytes.len(), SeqCst);
        }
    }

    #[async_trait]
    impl Fetcher for Remote {
        async fn resolve(&self) -> Result<Descriptor> {
            unreachable!("only ranges are fetched")
        }

        async fn fetch(&self, _: &Descriptor, range: Range<u64>) -> Result<Pieces> {
            self.asked.fetch_add(1, SeqCst);
            let number = range.start as usize / RANGE;
            let mut length = (range.end - range.start) as usize;
            if number == 1 {
                length = length.saturating_add_signed(self.wrong);
            }
            let remote = self.clone();
            let pieces = (0..length.div_ceil(PIECE)).map(move |at| {
                let bytes = vec![number as u8; PIECE.min(length - at * PIECE)];
                let held = remote.held.fetch_add(bytes.len(), SeqCst) + bytes.len();
                remote.most.fetch_max(held, SeqCst);
                let held = Arc::clone(&remote.held);
                Ok(Bytes::from_owner(Piece { bytes, held }))
            });
            Ok(stream::iter(pieces).boxed())
        }
    }

    /// Reads a blob of ten ranges and a half.
    async fn read(remote: &Remote, per_layer: usize) -> Result<Vec<u8>> {
        let size = 10 * RANGE + RANGE / 2;
        let limits = PullLimits::default().with_range(RANGE as u64);
        let limits = limits.with_per_layer(per_layer);
        let requests = limits.requests().for_image();
        let blob = Descriptor::new(
            MediaType::OCI_LAYER,
            crate::Digest::sha256(b""),
            size as u64,
        );
        let reader = RangeReader::new(remote, &blob, 0..size as u64, &limits, &requests);
        let mut reader = reader.begin().await?.unwrap();
        let mut all = Vec::new();
        while let Some(piece) = reader.next().await? {
            // The ranges ahead arrive meanwhile.
            reader.during(tokio::task::yield_now()).await;
            all.extend_from_slice(&piece);
        }
        assert!(reader.rest().is_empty());
        Ok(all)
    }

    #[tokio::test]
    async fn no_more_is_in_memory_than_the_ranges_that_are_fetched_at_the_same_time() {
        for ranges in [2, 4, 8] {
            let remote = Remote::default();
            let all = read(&remote, ranges).await.unwrap();
            let expected = (0..10 * RANGE + RANGE / 2).map(|at| (at / RANGE) as u8);
            assert!(all.into_iter().eq(expected));
            let most = remote.most.load(SeqCst);
            assert!(most <= ranges * RANGE, "{ranges} ranges: {most} bytes");
            assert!(most > (ranges - 1) * RANGE, "{ranges} ranges: {most} bytes");
            assert_eq!(remote.asked.load(SeqCst), 11);
            assert_eq!(remote.held.load(SeqCst), 0);
        }
    }

    #[tokio::test]
    async fn a_range_of_another_length_is_an_error() {
        for (wrong, found) in [(1, "found more"), (-1, "found fewer")] {
            let remote = Remote {
                wrong,
                ..Remote::default()
            };
            let error = read(&remote, 3).await.unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Corrupt);
            assert!(error.to_string().contains(found), "{error}");
            assert_eq!(remote.held.load(SeqCst), 0);
        }
    }
}
