//! Downloads files by URL, without the protocol of registries and without credentials.

use std::io::{self, Read};

use bytes::Bytes;
use cas_core::error::url_excerpt;
use cas_core::{Error, ErrorKind, Result, limit, pool};
use reqwest::header::{CACHE_CONTROL, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::address::Judge;
use crate::error::REGISTRY;
use crate::http::Http;
use crate::origin::{is_loopback, shown};
use crate::pace::Pace;
use crate::timeouts::Timeouts;
use crate::{error, request, runtime};

/// Maximum number of pieces that are read ahead.
const AHEAD: usize = 16;

/// The answer to [`download`].
pub enum Download {
    /// The server has not changed the file since it sent the ETag that the caller gave.
    NotModified {
        /// The header `Cache-Control`. Empty if there is none.
        cache_control: String,
    },
    /// The server sends the file.
    File {
        /// The bytes of the file. Reading them blocks. Up to 16 pieces of the answer are read
        /// ahead. A read fails if the connection is lost or too slow. The download is then not
        /// continued.
        body: Box<dyn Read + Send>,
        /// The header `ETag`. Empty if there is none.
        etag: String,
        /// The header `Cache-Control`. Empty if there is none.
        cache_control: String,
    },
}

/// Downloads the file at `url`. Returns the file, or [`Download::NotModified`] if the server
/// reports that the file still has the ETag `etag`. An `etag` that is not valid in a header is
/// ignored. Redirects are followed under the rules in the documentation of this crate. No login is
/// sent. The request is repeated if a temporary failure, such as a lost connection, prevents an
/// answer. A request that was answered is not repeated.
///
/// # Errors
/// `InvalidArgument` if `url` is not an http or https URL, or contains a login; `InvalidArgument`
/// if `url` uses http, its host is not on loopback, and `plain_http` is false; `InvalidArgument` if
/// the environment names a proxy that cannot be used; `NotFound`, `Denied` or `Unavailable` if the
/// server answers with a status other than 200, 304 and redirects; `Denied` for a redirect or an
/// address that the rules of this crate forbid; `Unavailable` if the server cannot be reached,
/// redirects too often, or redirects without a valid `Location`.
pub async fn download(url: &str, etag: Option<&str>, plain_http: bool) -> Result<Download> {
    let url = parse(url, plain_http)?;
    let etag = etag.and_then(|etag| HeaderValue::from_str(etag).ok());
    runtime::run(async move {
        let response = get(&url, etag).await?;
        let said = |name: HeaderName| {
            let value = response.headers().get(name);
            let value = value.and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let (etag, cache_control) = (said(ETAG), said(CACHE_CONTROL));
        match response.status() {
            StatusCode::NOT_MODIFIED => Ok(Download::NotModified { cache_control }),
            StatusCode::OK => Ok(Download::File {
                body: Box::new(Body::of(response)?),
                etag,
                cache_control,
            }),
            _ => Err(refused(&response)),
        }
    })
    .await
}

/// Sends the request, and sends it again to the target of each redirect. Returns the last response.
async fn get(base: &Url, etag: Option<HeaderValue>) -> Result<Response> {
    let http = Http::new(base, Judge::new(base, false), Timeouts::default())?;
    let (mut url, mut patience) = (base.clone(), http.patience());
    let mut last = url.clone();
    for _ in 0..=limit::REDIRECTS {
        let attempt = || async {
            let mut request = http.request(Method::GET, &url)?;
            if let Some(etag) = &etag {
                request = request.header(IF_NONE_MATCH, etag.clone());
            }
            http.send(request, &url).await
        };
        let response = patience.repeat(attempt).await?;
        let status = response.status();
        if !status.is_redirection() || status == StatusCode::NOT_MODIFIED {
            return Ok(response);
        }
        last = url;
        url = request::location(base, &response)?;
    }
    Err(error::redirected(&last))
}

fn parse(text: &str, plain_http: bool) -> Result<Url> {
    let invalid = |why: &str| Error::invalid(why.to_owned()).subject(url_excerpt(text));
    let url = text.parse::<Url>();
    let url = url.map_err(|error| invalid(&format!("invalid URL: {error}; correct the URL")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(invalid(
            "expected a URL that begins with https:// or http://",
        ));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid(
            "the URL contains a login, but no login is sent; remove the login from the URL",
        ));
    }
    if url.scheme() == "http" && !plain_http && !is_loopback(&url) {
        return Err(invalid(
            "http does not protect the file from changes in transit; use https, or allow http \
             (--plain-http)",
        ));
    }
    Ok(url)
}

/// Returns the error for an answer that is not a success.
fn refused(response: &Response) -> Error {
    let status = response.status();
    let answered = format!("{} answered {status}", shown(response.url()));
    let error = match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            Error::not_found(format!("{answered}; check the URL"))
        }
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
            Error::unavailable(format!("{answered}; try again later"))
        }
        status if status.is_server_error() => {
            Error::unavailable(format!("{answered}; try again later"))
        }
        _ => Error::new(
            ErrorKind::Denied,
            format!(
                "{answered}; no login is sent, so download the file with another tool, and import \
                 it"
            ),
        ),
    };
    error.backend(REGISTRY)
}

/// Reads the body of an answer.
struct Body {
    pieces: Receiver<Result<Bytes>>,
    piece: Bytes,
}

impl Body {
    fn of(response: Response) -> Result<Self> {
        let (sender, pieces) = channel(AHEAD);
        runtime::handle()?.spawn(pump(response, sender));
        let piece = Bytes::new();
        Ok(Body { pieces, piece })
    }
}

/// Sends the body of an answer to the receiver, until the body ends, reading it fails, or the
/// receiver is dropped.
async fn pump(mut response: Response, sender: Sender<Result<Bytes>>) {
    let mut pace = Pace::new(&Timeouts::default());
    loop {
        let next = tokio::select! {
            () = sender.closed() => return,
            next = pace.next(&mut response) => next,
        };
        let Some(piece) = next.map_err(Error::from).transpose() else {
            return;
        };
        let is_last = piece.is_err();
        if sender.send(piece).await.is_err() || is_last {
            return;
        }
    }
}

impl Read for Body {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() {
            match pool::wait(self.pieces.recv()) {
                None => return Ok(0),
                Some(piece) => self.piece = piece?,
            }
        }
        let read = self.piece.len().min(out.len());
        out[..read].copy_from_slice(&self.piece.split_to(read));
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_urls_that_protect_the_file_are_requested() {
        for url in [
            "https://host/a.aci",
            "http://127.0.0.1:1/a",
            "http://[::1]/",
        ] {
            parse(url, false).unwrap();
        }
        for url in [
            "a.aci",
            "ftp://host/a",
            "http://host/a",
            "https://me:secret@host/a",
            "https://me:secret@host:port/a",
            "http://host/a?secret",
            "https://",
        ] {
            let error = parse(url, false).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{url}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        parse("http://host/a", true).unwrap();
    }
}
