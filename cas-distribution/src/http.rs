//! One request and its answer, with bounds on waiting.

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

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(20);
/// How long a connection may be silent.
pub(crate) const IDLE: Duration = Duration::from_secs(60);

/// Connections to a registry, and to where it leads. No redirect is followed by itself, and bytes
/// are left as they are.
pub(crate) struct Http {
    plain: reqwest::Client,
    /// Made when it is needed: to read the roots of trust takes a tenth of a second.
    encrypted: OnceLock<reqwest::Client>,
    local: bool,
}

impl Http {
    /// For a registry at this address.
    ///
    /// # Errors
    /// `Unavailable` when the system has not what it takes.
    pub(crate) fn new(registry: &Url) -> Result<Self> {
        let local = is_local(registry);
        // It is spoken to in the clear, so it needs no roots of trust.
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

    /// A request to `url`.
    ///
    /// # Errors
    /// `Unavailable` when the roots of trust of this system cannot be read.
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

/// Begins a configuration of TLS, by ring.
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
    // What is on this machine is not asked for elsewhere.
    if local { builder.no_proxy() } else { builder }
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
pub(crate) async fn body(mut response: Response, allowed: u64) -> Result<Bytes> {
    let mut data = BytesMut::new();
    while let Some(piece) = chunk(&mut response).await? {
        if (data.len() + piece.len()) as u64 > allowed {
            return Err(Error::out_of_range(format!(
                "an answer of more than {allowed} bytes"
            )));
        }
        data.extend_from_slice(&piece);
    }
    Ok(data.freeze())
}
