//! Sends one request and reads its answer, with timeouts.

use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use cas_core::{Error, Result};
use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue};
use reqwest::{ClientBuilder, Method, RequestBuilder, Response, Url, redirect};
use tokio::time::timeout;

use crate::address::{Judge, Resolver};
use crate::hosts::Access;
use crate::origin::is_local;
use crate::pace::Pace;
use crate::retry::{Failure, Patience};
use crate::timeouts::Timeouts;
use crate::{address, error, origin, tls};

/// Connections to a registry, and to the URLs it refers to. Redirects are not followed here, and
/// bodies are not decompressed.
pub(crate) struct Http {
    plain: reqwest::Client,
    /// Created when it is needed, because reading the root certificates takes a tenth of a second.
    encrypted: OnceLock<reqwest::Client>,
    /// Like `encrypted`, for the registry's own host, if client certificates are shown to it or its
    /// certificate is not verified.
    own: OnceLock<reqwest::Client>,
    local: bool,
    registry: Url,
    access: Access,
    judge: Arc<Judge>,
    pub(crate) timeouts: Timeouts,
}

impl Http {
    /// Returns a client for the registry at this URL.
    ///
    /// # Errors
    /// `Unavailable` if the system does not provide what an HTTP client needs.
    pub(crate) fn new(registry: &Url, judge: Judge, timeouts: Timeouts) -> Result<Self> {
        Self::reaching(registry, judge, timeouts, Access::default())
    }

    /// Returns a client for the registry at this URL, which is reached as `access` describes.
    ///
    /// # Errors
    /// As [`Http::new`].
    pub(crate) fn reaching(
        registry: &Url,
        judge: Judge,
        mut timeouts: Timeouts,
        access: Access,
    ) -> Result<Self> {
        let (local, judge) = (is_local(registry), Arc::new(judge));
        timeouts.connect = access.connect.unwrap_or(timeouts.connect);
        let plain = builder(local, &judge, &timeouts).tls_backend_preconfigured(tls::unused()?);
        Ok(Http {
            plain: (plain.build()).map_err(|error| error::broken(error, registry))?,
            encrypted: OnceLock::new(),
            own: OnceLock::new(),
            local,
            registry: registry.clone(),
            access,
            judge,
            timeouts,
        })
    }

    /// Returns a new request to `url`.
    ///
    /// # Errors
    /// `Denied` if the host is an address that must not be connected to; `InvalidArgument` if the
    /// environment names a proxy that cannot be used; for https, as [`Http::new`] and
    /// [`tls::config`].
    pub(crate) fn request(&self, method: Method, url: &Url) -> Result<RequestBuilder> {
        self.judge.check(url)?;
        if !self.local {
            address::check_proxy(url.scheme())?;
        }
        let request = self.client(url)?.request(method, url.clone());
        let is_own = origin::authority(url) == origin::authority(&self.registry);
        Ok(match is_own {
            true => request.headers(self.access.headers.clone()),
            false => request,
        })
    }

    fn client(&self, url: &Url) -> Result<&reqwest::Client> {
        if url.scheme() == "http" {
            return Ok(&self.plain);
        }
        let tls = &self.access.tls;
        let is_special = tls.skip_verify || !tls.clients.is_empty();
        let is_own = is_special && url.host_str() == self.registry.host_str();
        let kept = if is_own { &self.own } else { &self.encrypted };
        if let Some(client) = kept.get() {
            return Ok(client);
        }
        let made = builder(self.local, &self.judge, &self.timeouts)
            .tls_backend_preconfigured(tls::config(tls, is_own)?)
            .build();
        let made = made.map_err(|error| error::broken(error, url))?;
        Ok(kept.get_or_init(|| made))
    }

    /// Sends a request once. Returns the answer, with any status. The body of the request must be
    /// short, because the time for the answer includes the sending of the body.
    ///
    /// # Errors
    /// As [`error::broken`] if the connection fails; a failure that may pass if no answer arrives
    /// in time.
    pub(crate) async fn send(
        &self,
        request: RequestBuilder,
        url: &Url,
    ) -> Result<Response, Failure> {
        let answer = timeout(self.timeouts.answer, request.send()).await;
        let answer = answer.map_err(|_| error::silent(url, self.timeouts.answer))?;
        answer.map_err(|error| error::broken(error, url))
    }

    /// Returns the whole body of an answer of at most `allowed` bytes.
    ///
    /// # Errors
    /// `OutOfRange` if it is longer; errors of [`Pace::next`].
    pub(crate) async fn body(
        &self,
        mut response: Response,
        allowed: u64,
    ) -> Result<Bytes, Failure> {
        let (mut data, mut pace) = (BytesMut::new(), Pace::new(&self.timeouts));
        while let Some(piece) = pace.next(&mut response).await? {
            if (data.len() + piece.len()) as u64 > allowed {
                return Err(Failure::Stays(Error::out_of_range(format!(
                    "the answer is too long: at most {allowed} bytes are read; check the registry"
                ))));
            }
            data.extend_from_slice(&piece);
        }
        Ok(data.freeze())
    }

    /// Returns the patience for one operation.
    pub(crate) fn patience(&self) -> Patience {
        Patience::new(&self.timeouts)
    }
}

fn builder(local: bool, judge: &Arc<Judge>, timeouts: &Timeouts) -> ClientBuilder {
    let builder = reqwest::Client::builder()
        .user_agent(concat!("cas/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .referer(false)
        .default_headers(HeaderMap::from_iter([(
            ACCEPT_ENCODING,
            HeaderValue::from_static("identity"),
        )]))
        .no_gzip()
        .no_brotli()
        .no_zstd()
        .no_deflate()
        .connect_timeout(timeouts.connect)
        .dns_resolver(Arc::new(Resolver(Arc::clone(judge))));
    // A client for a registry that is on this machine or link-local does not use a proxy.
    if local { builder.no_proxy() } else { builder }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use cas_core::limit;

    use super::*;

    /// Returns what [`Http::body`] returns for an answer of `size` bytes.
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
            let http = Http::new(&url, Judge::new(&url, false), Timeouts::default())?;
            let request = http.request(Method::GET, &url)?;
            let response = http.send(request, &url).await?;
            Ok(http.body(response, limit::ANSWER).await?)
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
