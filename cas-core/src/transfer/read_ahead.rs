//! Reads a blob from front to back, with several concurrent requests.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;

use super::pull_limits::PullLimits;
use super::quota::{ImageQuota, QuotaLease};
use super::remote::{Fetcher, Pieces};
use crate::descriptor::Descriptor;
use crate::error::{Error, Result};

/// The bytes of one range, and the [`QuotaLease`] of its request. The reader drops this lease when
/// it reaches the range, so that the limit on requests also bounds the ranges that wait in memory.
type Fetched = Result<(VecDeque<Bytes>, QuotaLease)>;

/// Reads a blob in order while the ranges ahead are fetched into memory.
pub(super) struct RangeReader<'a> {
    fetcher: &'a dyn Fetcher,
    descriptor: &'a Descriptor,
    /// The pieces that are left of the range that is being read.
    current: VecDeque<Bytes>,
    ahead: ReadAhead<'a>,
    /// The bytes that were not requested yet.
    rest: Range<u64>,
    limits: &'a PullLimits,
    requests: &'a ImageQuota,
}

/// Ranges that were requested, in the order of the blob. The ranges in `arrived` come before those
/// in `running`.
#[derive(Default)]
struct ReadAhead<'a> {
    arrived: VecDeque<Fetched>,
    running: FuturesOrdered<BoxFuture<'a, Fetched>>,
}

impl<'a> RangeReader<'a> {
    /// Returns a reader of the bytes `range`. Requests nothing before [`begin`](Self::begin).
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
            current: VecDeque::new(),
            ahead: ReadAhead::default(),
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
        let collected = collect(pieces, length, lease);
        self.ahead.running.push_back(Box::pin(collected));
        self.request_ahead();
        Ok(Some(self))
    }

    /// Returns the next bytes, or `None` after the last range that was requested. If the
    /// [rest](Self::rest) is then empty, all bytes of this reader were returned. Otherwise, the
    /// remote has stopped serving ranges.
    ///
    /// # Errors
    /// As [`Fetcher::fetch`]; `Corrupt` if the remote sends more or less than a range.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(piece) = self.current.pop_front() {
                return Ok(Some(piece));
            }
            let Some(range) = self.ahead.next().await else {
                return Ok(None);
            };
            let (pieces, _lease) = range?;
            self.current = pieces;
            self.request_ahead();
        }
    }

    /// Returns the range of the bytes that were not requested yet.
    pub(super) fn rest(&self) -> Range<u64> {
        self.rest.clone()
    }

    /// Does `work` while the ranges ahead arrive. Returns its result.
    pub(super) async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        self.ahead.during(work).await
    }

    fn take_range(&mut self) -> Range<u64> {
        let end = self.rest.end.min(self.rest.start + self.limits.range());
        let range = self.rest.start..end;
        self.rest.start = end;
        range
    }

    fn request_ahead(&mut self) {
        // A remote that does not serve ranges sends the whole content for each request.
        let serves = self.fetcher.serves_ranges();
        while serves && self.ahead.len() < self.limits.per_layer() && !self.rest.is_empty() {
            let (fetcher, descriptor, range) = (self.fetcher, self.descriptor, self.take_range());
            let requests = self.requests;
            self.ahead.running.push_back(Box::pin(async move {
                let length = range.end - range.start;
                let lease = requests.acquire().await?;
                let pieces = fetcher.fetch(descriptor, range).await?;
                collect(pieces, length, lease).await
            }));
        }
    }
}

impl ReadAhead<'_> {
    fn len(&self) -> usize {
        self.arrived.len() + self.running.len()
    }

    async fn next(&mut self) -> Option<Fetched> {
        match self.arrived.pop_front() {
            Some(range) => Some(range),
            None => self.running.next().await,
        }
    }

    async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                Some(range) = self.running.next() => self.arrived.push_back(range),
            }
        }
    }
}

/// Reads a whole range into memory. Returns it with the lease of its request, which counts in the
/// quota until the lease is dropped.
async fn collect(mut pieces: Pieces, length: u64, lease: QuotaLease) -> Fetched {
    let (mut range, mut read) = (VecDeque::new(), 0);
    while let Some(piece) = pieces.next().await.transpose()? {
        read += piece.len() as u64;
        if read > length {
            return Err(wrong_length(length, "more"));
        }
        if !piece.is_empty() {
            range.push_back(piece);
        }
    }
    if read < length {
        return Err(wrong_length(length, "fewer"));
    }
    Ok((range, lease))
}

fn wrong_length(length: u64, found: &str) -> Error {
    Error::corrupt(format!(
        "expected a range of {length} bytes, found {found}; check the repository that sent them"
    ))
}
