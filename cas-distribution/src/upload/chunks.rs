//! Uploads a blob in chunks.

use reqwest::header::{HeaderMap, RANGE};
use reqwest::{Method, StatusCode, Url};

use super::{Refusal, Upload};
use crate::request::{Action, Ask};

impl Upload<'_> {
    /// Sends the blob to `place` in chunks of `length` bytes. The last chunk may be shorter. After
    /// a failure that may pass, asks how much has arrived, and continues there.
    pub(super) async fn send_chunks(&mut self, mut place: Url, length: u64) -> Result<(), Refusal> {
        let (size, mut at) = (self.descriptor.size, 0);
        while at < size {
            let end = size.min(at.saturating_add(length));
            let failure = match self.send(Method::PATCH, &place, at..end).await {
                Ok(response) if response.status() == StatusCode::ACCEPTED => {
                    place = self.inner.location(&response)?;
                    // The registry may have kept only the first part of the chunk.
                    let kept = arrived(response.headers());
                    at = kept
                        .filter(|kept| (at + 1..end).contains(kept))
                        .unwrap_or(end);
                    if at > self.best {
                        self.best = at;
                        self.patience.renew();
                    }
                    continue;
                }
                Ok(response) => match self.refused(response).await {
                    Refusal::Failed(failure) => failure,
                    too_large => return Err(too_large),
                },
                Err(failure) => failure,
            };
            self.patience.wait(failure).await?;
            (place, at) = self.find_out(place).await?;
        }
        let place = self.finished(place);
        let response = self.send(Method::PUT, &place, size..size).await?;
        self.check_stored(response).await
    }

    /// Asks how many bytes of an upload have arrived. Returns where to send the next bytes, and how
    /// many have arrived.
    async fn find_out(&mut self, place: Url) -> Result<(Url, u64), Refusal> {
        let ask = Ask::new(Method::GET, place.clone(), Action::Push);
        let response = self.inner.send(ask, &mut self.patience).await?;
        if ![StatusCode::NO_CONTENT, StatusCode::OK].contains(&response.status()) {
            return Err(self.refused(response).await);
        }
        let at = arrived(response.headers()).unwrap_or(0);
        let moved = self.inner.location(&response);
        Ok((moved.unwrap_or(place), at.min(self.descriptor.size)))
    }
}

/// Returns how many bytes of an upload have arrived, or `None` if the headers of the answer do not
/// state that.
fn arrived(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(RANGE)?.to_str().ok()?;
    let range = range.strip_prefix("bytes=").unwrap_or(range);
    match range.strip_prefix("0-")?.parse::<u64>().ok()? {
        // Registries state `0-0` for an upload without bytes, too.
        0 => Some(0),
        last => last.checked_add(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_of_an_upload_tells_how_much_has_arrived() {
        for (range, expected) in [
            ("0-99", Some(100)),
            ("bytes=0-99", Some(100)),
            ("0-0", Some(0)),
            ("5-9", None),
            ("0-", None),
            ("0-18446744073709551615", None),
            ("99", None),
        ] {
            let headers = HeaderMap::from_iter([(RANGE, range.parse().unwrap())]);
            assert_eq!(arrived(&headers), expected, "{range}");
        }
        assert_eq!(arrived(&HeaderMap::new()), None);
    }
}
