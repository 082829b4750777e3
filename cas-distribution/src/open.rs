//! Requests a range of some content, or the whole content if the range is refused.

use std::ops::Range;
use std::sync::atomic::Ordering;

use cas_core::error::excerpt;
use cas_core::{Descriptor, Error, ErrorKind, Result};
use reqwest::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, HeaderName, RANGE, TRANSFER_ENCODING,
};
use reqwest::{Method, Response, StatusCode, Version};

use crate::client::Inner;
use crate::error::REGISTRY;
use crate::origin::shown;
use crate::request::{Action, Ask};
use crate::retry::Patience;

/// An answer with bytes of some content.
pub(crate) struct Opened {
    pub(crate) response: Response,
    /// Which bytes of the body are wanted.
    pub(crate) kept: Range<u64>,
    /// Whether the body is a range of the content.
    pub(crate) is_partial: bool,
}

impl Opened {
    /// Returns whether a complete body can be distinguished from a body whose connection broke.
    pub(crate) fn has_length(&self) -> bool {
        let headers = self.response.headers();
        self.response.version() >= Version::HTTP_2
            || headers.contains_key(CONTENT_LENGTH)
            || headers.contains_key(TRANSFER_ENCODING)
    }
}

impl Inner {
    /// Notes that content had wrong bytes. Returns whether the registry has sent ranges since the
    /// last call. If so, no more ranges are requested, and the content may be right when it is
    /// requested as a whole.
    pub(crate) fn distrust_ranges(&self) -> bool {
        let sent = self.sent_ranges.swap(false, Ordering::Relaxed);
        if sent {
            self.distrusts_ranges.store(true, Ordering::Relaxed);
            self.ignores_ranges.store(true, Ordering::Relaxed);
        }
        sent
    }

    /// Requests the bytes `range` of some content.
    ///
    /// If `range` reaches the end of the content, bytes beyond the size of `descriptor` are not cut
    /// off, so that the caller finds content that is too long.
    ///
    /// # Errors
    /// As [`Inner::expect`]; `Unsupported` if the registry sends the whole content, but encoded.
    pub(crate) async fn open(
        &self,
        descriptor: &Descriptor,
        range: Range<u64>,
        patience: &mut Patience,
    ) -> Result<Opened> {
        let ask = Ask::new(Method::GET, self.content(descriptor)?, Action::Pull);
        let ask = ask.accepting(&descriptor.media_type);
        let size = descriptor.size;
        let end = if range.end < size {
            range.end
        } else {
            u64::MAX
        };
        let mut response = None;
        let may_be_ranged = !self.distrusts_ranges.load(Ordering::Relaxed);
        if range != (0..size) && may_be_ranged && !patience.gave_up_ranges() {
            let (start, last) = (range.start, range.end.saturating_sub(1));
            let ranged = ask.clone().with(RANGE, &format!("bytes={start}-{last}"));
            match self.send(ranged, patience).await {
                Ok(answer) => {
                    if let Some(length) = partial(&answer, start..end, size) {
                        self.sent_ranges.store(true, Ordering::Relaxed);
                        return Ok(Opened {
                            response: answer,
                            kept: 0..length,
                            is_partial: true,
                        });
                    }
                    if answer.status() == StatusCode::UNAUTHORIZED {
                        return Err(self.refused(answer).await.into());
                    }
                    response = Some(answer).filter(|answer| answer.status() == StatusCode::OK);
                }
                Err(_) if patience.gave_up_ranges() => {}
                Err(error) => return Err(error),
            }
            self.ignores_ranges.store(true, Ordering::Relaxed);
        }
        // If the registry has ignored the range, it already sends the whole content.
        let response = match response {
            Some(response) => response,
            None => self.request_whole(ask, descriptor, patience).await?,
        };
        check_encoding(&response, Some(size))?;
        Ok(Opened {
            response,
            kept: range.start..end,
            is_partial: false,
        })
    }

    /// Sends `ask`, a request for the whole of some content. If the registry does not have a
    /// manifest or an index, asks for a blob with its digest and size. A manifest may state the
    /// type of a document for its layer, which a registry has only as a blob. The caller then finds
    /// that the layer is not a document.
    ///
    /// # Errors
    /// As [`Inner::expect`] for `ask`.
    async fn request_whole(
        &self,
        ask: Ask,
        descriptor: &Descriptor,
        patience: &mut Patience,
    ) -> Result<Response> {
        let answered = self.expect(ask, &[StatusCode::OK], patience).await;
        let is_absent = |error: &Error| error.kind() == ErrorKind::NotFound;
        if !descriptor.media_type.is_document() || !answered.as_ref().is_err_and(is_absent) {
            return answered;
        }
        let url = self.url("blobs", &descriptor.digest.to_string())?;
        let ask = Ask::new(Method::GET, url, Action::Pull).accepting(&descriptor.media_type);
        match self.expect(ask, &[StatusCode::OK], patience).await {
            Ok(blob) if blob.content_length() == Some(descriptor.size) => Ok(blob),
            _ => answered,
        }
    }
}

/// Checks that an answer is not encoded. Some servers declare a compressed blob as encoded, but
/// send its bytes as they are. So an answer whose length is `size`, the size of the content, is
/// accepted.
///
/// # Errors
/// `Unsupported` if the answer is encoded. The request has asked for the bytes as they are.
pub(crate) fn check_encoding(response: &Response, size: Option<u64>) -> Result<()> {
    let encoding = header(response, CONTENT_ENCODING).unwrap_or("identity");
    let length = header(response, CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
    if encoding.eq_ignore_ascii_case("identity") || size.is_some() && length == size {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "{} sent content with the encoding {}, which was not requested; ask the operator of \
         this host to turn the encoding off",
        shown(response.url()),
        excerpt(encoding)
    ))
    .backend(REGISTRY))
}

/// Returns the maximum number of bytes of the body that are wanted, if the answer is a part of a
/// content of `size` bytes and begins where `wanted` begins. Returns `None` for any other answer. A
/// server may send less than it was asked for.
fn partial(response: &Response, wanted: Range<u64>, size: u64) -> Option<u64> {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return None;
    }
    let (range, total) = header(response, CONTENT_RANGE)?
        .strip_prefix("bytes ")?
        .split_once('/')?;
    let (start, last) = range.split_once('-')?;
    let (start, last): (u64, u64) = (start.parse().ok()?, last.parse().ok()?);
    let is_total = total == "*" || total.parse() == Ok(size);
    if !is_total || start != wanted.start || last < start || last >= size {
        return None;
    }
    Some(wanted.end - start)
}

fn header(response: &Response, name: HeaderName) -> Option<&str> {
    response.headers().get(name)?.to_str().ok()
}
