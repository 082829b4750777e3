//! One request and its answer, with bounds on waiting.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cas_core::{Error, Result};
use reqwest::{RequestBuilder, Response, Url, redirect};
use tokio::time::timeout;

use crate::error;
use crate::origin::is_local;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(20);
/// How long a connection may be silent.
pub(crate) const IDLE: Duration = Duration::from_secs(60);
/// The longest answer that is neither document nor blob: of errors, of token services.
pub(crate) const ANSWER: usize = 1 << 20;

/// A client for a registry. It follows no redirect by itself, and leaves bytes as they are.
///
/// # Errors
/// `Unavailable` when the roots of trust of this system cannot be read.
pub(crate) fn client(registry: &Url) -> Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("cas/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .referer(false)
        .no_gzip()
        .no_brotli()
        .no_zstd()
        .no_deflate()
        .connect_timeout(CONNECT);
    if is_local(registry) {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|error| error::broken(error, registry))
}

/// Sends a request whose body is short; the answer, whatever its status.
///
/// # Errors
/// `Unavailable` when there is none.
pub(crate) async fn send(request: RequestBuilder, url: &Url) -> Result<Response> {
    let answer = timeout(IDLE, request.send()).await;
    let answer = answer.map_err(|_| error::silent(url))?;
    answer.map_err(|error| error::broken(error, url))
}

/// The next bytes of an answer; nothing at its end.
///
/// # Errors
/// `Unavailable` when the connection breaks, or is silent.
pub(crate) async fn chunk(response: &mut Response) -> Result<Option<Bytes>> {
    let chunk = timeout(IDLE, response.chunk()).await;
    let chunk = chunk.map_err(|_| error::silent(response.url()))?;
    chunk.map_err(|error| error::broken(error, response.url()))
}

/// All of an answer of at most `allowed` bytes.
///
/// # Errors
/// `OutOfRange` when it is longer; as [`chunk`].
pub(crate) async fn body(mut response: Response, allowed: usize) -> Result<Bytes> {
    let mut data = BytesMut::new();
    while let Some(piece) = chunk(&mut response).await? {
        if data.len() + piece.len() > allowed {
            return Err(Error::out_of_range(format!(
                "an answer of more than {allowed} bytes"
            )));
        }
        data.extend_from_slice(&piece);
    }
    Ok(data.freeze())
}
