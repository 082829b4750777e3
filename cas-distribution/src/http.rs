//! Sends one request and reads its answer, with timeouts.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cas_core::{Error, Result};
use reqwest::{ClientBuilder, Method, RequestBuilder, Response, Url, redirect};
use rustls::crypto::ring;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::time::timeout;

use crate::error;
use crate::origin::is_local;

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(20);
/// How long to wait for the next byte.
pub(crate) const IDLE: Duration = Duration::from_secs(60);

/// Connections to a registry, and to the URLs it refers to. Redirects are not followed here, and
/// bodies are not decompressed.
pub(crate) struct Http {
    plain: reqwest::Client,
    /// Created when it is needed, because reading the root certificates takes a tenth of a second.
    encrypted: OnceLock<reqwest::Client>,
    local: bool,
}

impl Http {
    /// Returns a client for the registry at this URL.
    ///
    /// # Errors
    /// `Unavailable` if the system does not provide what an HTTP client needs.
    pub(crate) fn new(registry: &Url) -> Result<Self> {
        let local = is_local(registry);
        // This client is used for plain http, so it needs no root certificates.
        let tls = tls().map(|tls| tls.with_root_certificates(RootCertStore::empty()));
        let tls = tls
            .map_err(|error| error::tls(&error))?
            .with_no_client_auth();
        let plain = builder(local).tls_backend_preconfigured(tls).build();
        Ok(Http {
            plain: plain.map_err(|error| error::broken(error, registry))?,
            encrypted: OnceLock::new(),
            local,
        })
    }

    /// Returns a new request to `url`.
    ///
    /// # Errors
    /// `Unavailable` if the root certificates of this system cannot be read.
    pub(crate) fn request(&self, method: Method, url: &Url) -> Result<RequestBuilder> {
        if url.scheme() == "http" {
            return Ok(self.plain.request(method, url.clone()));
        }
        let client = match self.encrypted.get() {
            Some(client) => client,
            None => {
                let tls = tls().and_then(BuilderVerifierExt::with_platform_verifier);
                let tls = tls
                    .map_err(|error| error::tls(&error))?
                    .with_no_client_auth();
                let made = builder(self.local).tls_backend_preconfigured(tls).build();
                let made = made.map_err(|error| error::broken(error, url))?;
                self.encrypted.get_or_init(|| made)
            }
        };
        Ok(client.request(method, url.clone()))
    }
}

/// Returns the beginning of a TLS configuration that uses ring.
fn tls() -> std::result::Result<ConfigBuilder<ClientConfig, WantsVerifier>, rustls::Error> {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
}

fn builder(local: bool) -> ClientBuilder {
    let builder = reqwest::Client::builder()
        .user_agent(concat!("cas/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .referer(false)
        .no_gzip()
        .no_brotli()
        .no_zstd()
        .no_deflate()
        .connect_timeout(CONNECT);
    // A client for a registry that is on this machine or link-local does not use a proxy.
    if local { builder.no_proxy() } else { builder }
}

/// Sends a request with a short body. Returns the answer, whatever its status is.
///
/// # Errors
/// `Unavailable` if the connection fails, or no answer arrives in time.
pub(crate) async fn send(request: RequestBuilder, url: &Url) -> Result<Response> {
    let answer = timeout(IDLE, request.send()).await;
    let answer = answer.map_err(|_| error::silent(url, IDLE))?;
    answer.map_err(|error| error::broken(error, url))
}

/// Returns the next bytes of an answer, or `None` at its end.
///
/// # Errors
/// `Unavailable` if the connection breaks, or no bytes arrive in time.
pub(crate) async fn chunk(response: &mut Response) -> Result<Option<Bytes>> {
    let chunk = timeout(IDLE, response.chunk()).await;
    let chunk = chunk.map_err(|_| error::silent(response.url(), IDLE))?;
    chunk.map_err(|error| error::broken(error, response.url()))
}

/// Returns the whole body of an answer of at most `allowed` bytes.
///
/// # Errors
/// `OutOfRange` if it is longer; errors of [`chunk`].
pub(crate) async fn body(mut response: Response, allowed: u64) -> Result<Bytes> {
    let mut data = BytesMut::new();
    while let Some(piece) = chunk(&mut response).await? {
        if (data.len() + piece.len()) as u64 > allowed {
            return Err(Error::out_of_range(format!(
                "the answer is too long: at most {allowed} bytes are read; check the registry"
            )));
        }
        data.extend_from_slice(&piece);
    }
    Ok(data.freeze())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use cas_core::limit;

    use super::*;

    /// Returns what [`body`] makes of an answer of `size` bytes.
    fn answer(size: u64) -> Result<Bytes> {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", server.local_addr().unwrap());
        let url: Url = url.parse().unwrap();
        let serving = std::thread::spawn(move || {
            let (mut client, _) = server.accept().unwrap();
            let _ = client.read(&mut [0; 1024]);
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n");
            let _ = client.write_all(head.as_bytes());
            let _ = client.write_all(&vec![b'x'; size as usize]);
        });
        let runtime = tokio::runtime::Builder::new_current_thread();
        let read = { runtime }.enable_all().build().unwrap().block_on(async {
            let request = Http::new(&url)?.request(Method::GET, &url)?;
            let response = send(request, &url).await?;
            body(response, limit::ANSWER).await
        });
        serving.join().unwrap();
        read
    }

    #[test]
    fn an_answer_of_as_many_bytes_as_are_allowed_is_read_and_no_longer_one() {
        assert_eq!(answer(limit::ANSWER).unwrap().len() as u64, limit::ANSWER);
        let error = answer(limit::ANSWER + 1).unwrap_err();
        assert_eq!(error.kind(), cas_core::ErrorKind::OutOfRange);
        assert!(error.to_string().contains("at most 1048576"), "{error}");
    }
}
