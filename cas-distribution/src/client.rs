//! One name in one repository, over HTTP.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::remote::{Fetcher, Pieces};
use cas_core::{Descriptor, Digest, Error, MediaType, Result, limit};
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RANGE,
};
use reqwest::{Method, Response, StatusCode, Url};

use crate::auth::Auth;
use crate::body;
use crate::error::{self, REGISTRY};
use crate::http::Http;
use crate::{RemoteRef, http, origin, runtime};

/// How often one request may be told to show who asks.
const REFUSALS: usize = 2;
/// How long a registry on this machine may take to say that it wants TLS.
const PROBE: Duration = Duration::from_secs(5);
/// The documents that are understood.
const DOCUMENTS: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json";
/// The digest of a document, as the registry says.
pub(crate) const CONTENT_DIGEST: &str = "docker-content-digest";

/// How a registry is reached.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// By http. Otherwise by https; a registry on this machine that speaks no TLS by http, too.
    pub plain_http: bool,
}

/// A name in a repository of a registry. Cheap to clone; clones share what shows who asks.
///
/// It works on any executor, for what it does runs on a runtime of its own.
#[derive(Clone)]
pub struct Client(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) http: Http,
    /// `https://HOST/v2/REPOSITORY/`.
    base: Url,
    pub(crate) reference: RemoteRef,
    auth: Auth,
}

/// What a request does, and so what has to be allowed.
#[derive(Clone, Copy)]
pub(crate) enum Action {
    Pull,
    Push,
}

/// A request that can be repeated.
#[derive(Clone)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) action: Action,
}

impl Client {
    /// A client for `reference`. Nobody is asked anything yet, but whether a registry on this
    /// machine wants TLS.
    ///
    /// # Errors
    /// `Unavailable` when the roots of trust of this system cannot be read.
    pub async fn connect(reference: &RemoteRef, options: Options) -> Result<Self> {
        let reference = reference.clone();
        runtime::run(async move {
            let mut base = base(&reference, "http")?;
            let http = Http::new(&base)?;
            if !options.plain_http && (!origin::is_local(&base) || wants_tls(&http, &base).await) {
                base = self::base(&reference, "https")?;
            }
            Ok(Client(Arc::new(Inner {
                http,
                auth: Auth::new(base.clone()),
                base,
                reference,
            })))
        })
        .await
    }

    /// What it speaks for.
    pub fn reference(&self) -> &RemoteRef {
        &self.0.reference
    }

    /// Does `work` on the runtime.
    pub(crate) async fn run<T, F>(&self, work: impl FnOnce(Arc<Inner>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        runtime::run(work(Arc::clone(&self.0))).await
    }
}

fn base(reference: &RemoteRef, scheme: &str) -> Result<Url> {
    let (host, repository) = (reference.host(), reference.repository());
    let url = format!("{scheme}://{host}/v2/{repository}/").parse();
    url.map_err(|error| Error::invalid(format!("no address: {error}")).subject(reference))
}

/// Whether a registry on this machine refuses to be spoken to in the plain. It is shown nothing.
async fn wants_tls(http: &Http, base: &Url) -> bool {
    let Ok(request) = http.request(Method::HEAD, base) else {
        return true;
    };
    match tokio::time::timeout(PROBE, request.send()).await {
        Ok(Ok(response)) => response.status() == StatusCode::BAD_REQUEST,
        Ok(Err(error)) => !error.is_connect(),
        Err(_) => false,
    }
}

#[async_trait]
impl Fetcher for Client {
    async fn resolve(&self) -> Result<Descriptor> {
        self.run(|inner| async move {
            let resolved = inner.resolve().await;
            resolved.map_err(|error| error.operation("resolve").subject(&inner.reference))
        })
        .await
    }

    async fn fetch(&self, descriptor: &Descriptor, start: u64) -> Result<Pieces> {
        let descriptor = descriptor.clone();
        self.run(move |inner| async move {
            let (response, skip) = inner.open(&descriptor, start).await?;
            body::stream(response, skip)
        })
        .await
    }
}

impl Inner {
    /// The address of a document or a blob.
    pub(crate) fn url(&self, kind: &str, name: &str) -> Result<Url> {
        let url = self.base.join(&format!("{kind}/{name}"));
        url.map_err(|error| Error::invalid(format!("no address: {error}")).subject(name))
    }

    /// Where the content of a descriptor is.
    pub(crate) fn content(&self, descriptor: &Descriptor) -> Result<Url> {
        let media_type = &descriptor.media_type;
        let kind = match media_type.is_index() || media_type.is_manifest() {
            true => "manifests",
            false => "blobs",
        };
        self.url(kind, &descriptor.digest.to_string())
    }

    async fn resolve(&self) -> Result<Descriptor> {
        let digest = self.reference.digest().map(Digest::to_string);
        let name = digest.as_deref().or(self.reference.tag());
        let url = self.url("manifests", name.unwrap_or_default())?;
        let asked = Ask::new(Method::HEAD, url.clone(), Action::Pull).with(ACCEPT, DOCUMENTS);
        let response = self.expect(asked, &[StatusCode::OK]).await?;
        let headers = response.headers();
        let said = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let size = said(CONTENT_LENGTH.as_str()).and_then(|size| size.parse::<u64>().ok());
        let digest = said(CONTENT_DIGEST).and_then(|digest| digest.parse::<Digest>().ok());
        let descriptor = match (known(headers), size, digest) {
            (Some(media_type), Some(size), Some(digest)) => {
                Descriptor::new(media_type, digest, size)
            }
            _ => self.read_root(url).await?,
        };
        if descriptor.size > limit::DOCUMENT_READ {
            let (found, allowed) = (descriptor.size, limit::DOCUMENT_READ);
            return Err(Error::out_of_range(format!(
                "a document of {found} bytes, at most {allowed} are read"
            )));
        }
        match self.reference.digest() {
            Some(expected) if *expected != descriptor.digest => Err(Error::corrupt(format!(
                "the registry has {} under this digest",
                descriptor.digest
            ))),
            _ => Ok(descriptor),
        }
    }

    /// The descriptor of a document of which the registry did not say enough.
    async fn read_root(&self, url: Url) -> Result<Descriptor> {
        let asked = Ask::new(Method::GET, url, Action::Pull).with(ACCEPT, DOCUMENTS);
        let response = self.expect(asked, &[StatusCode::OK]).await?;
        let media_type = known(response.headers());
        let data = http::body(response, limit::DOCUMENT_READ).await?;
        let said = || serde_json::from_slice::<Said>(&data).ok()?.media_type;
        let media_type = media_type.or_else(said).filter(is_document);
        let media_type = media_type.ok_or_else(|| {
            Error::unsupported("is neither a manifest nor an index of OCI or Docker's schema 2")
        })?;
        let algorithm = self.reference.digest().map(Digest::algorithm);
        let digest = Digest::of(algorithm.unwrap_or(cas_core::Algorithm::Sha256), &data);
        Ok(Descriptor::new(media_type, digest, data.len() as u64))
    }

    /// The content from `start` on, or from the beginning with how much of it is to be skipped.
    async fn open(&self, descriptor: &Descriptor, start: u64) -> Result<(Response, u64)> {
        let asked = Ask::new(Method::GET, self.content(descriptor)?, Action::Pull);
        let asked = asked.accepting(&descriptor.media_type);
        let whole = [StatusCode::OK];
        if start == 0 {
            return Ok((self.expect(asked, &whole).await?, 0));
        }
        let ranged = asked.clone().with(RANGE, &format!("bytes={start}-"));
        let accepted = [
            StatusCode::OK,
            StatusCode::PARTIAL_CONTENT,
            StatusCode::RANGE_NOT_SATISFIABLE,
        ];
        let response = self.expect(ranged, &accepted).await?;
        let range = response.headers().get("content-range");
        let range = range.and_then(|range| range.to_str().ok());
        let from_start = format!("bytes {start}-");
        match response.status() {
            StatusCode::OK => Ok((response, start)),
            StatusCode::PARTIAL_CONTENT if range.is_some_and(|at| at.starts_with(&from_start)) => {
                Ok((response, 0))
            }
            // It has other ideas of ranges, or of the blob, which its digest tells.
            _ => Ok((self.expect(asked, &whole).await?, start)),
        }
    }

    /// As [`Inner::send`], with one of these statuses.
    pub(crate) async fn expect(&self, ask: Ask, accepted: &[StatusCode]) -> Result<Response> {
        let response = self.send(ask).await?;
        match accepted.contains(&response.status()) {
            true => Ok(response),
            false => Err(error::refused(response).await),
        }
    }

    /// Sends a request, shows who asks where the registry wants to see it, and follows redirects
    /// of what only reads.
    pub(crate) async fn send(&self, mut ask: Ask) -> Result<Response> {
        let (mut refused, mut redirected) = (0, 0);
        loop {
            let own = origin::same(&self.base, &ask.url);
            let shown = self.auth.current().await;
            let mut request = self.http.request(ask.method.clone(), &ask.url)?;
            request = request.headers(ask.headers.clone()).body(ask.body.clone());
            if let Some(header) = shown.header.as_ref().filter(|_| own) {
                request = request.header(AUTHORIZATION, header.clone());
            }
            let response = http::send(request, &ask.url).await?;
            let status = response.status();
            if own && status == StatusCode::UNAUTHORIZED && refused < REFUSALS {
                refused += 1;
                let scope = self.scope(ask.action);
                let refusal = response.headers();
                self.auth
                    .answer(&self.http, &shown, refusal, &scope)
                    .await?;
            } else if status.is_redirection() && ask.reads() && redirected < limit::REDIRECTS {
                redirected += 1;
                ask.url = self.location(&response)?;
            } else {
                return Ok(response);
            }
        }
    }

    fn scope(&self, action: Action) -> String {
        let actions = match action {
            Action::Pull => "pull",
            Action::Push => "pull,push",
        };
        format!("repository:{}:{actions}", self.reference.repository())
    }

    /// Where an answer leads to.
    ///
    /// # Errors
    /// As [`origin::check`]; `Unavailable` when it does not say.
    pub(crate) fn location(&self, response: &Response) -> Result<Url> {
        let location = response.headers().get(LOCATION);
        let location = location.and_then(|location| location.to_str().ok());
        let url = location.and_then(|location| response.url().join(location).ok());
        let url = url.ok_or_else(|| error::odd(response.url(), "leads to no address"))?;
        origin::check(&self.base, &url).map_err(|error| error.backend(REGISTRY))?;
        Ok(url)
    }

    /// What may be shown at `url`.
    pub(crate) async fn shown_at(&self, url: &Url) -> Option<HeaderValue> {
        match origin::same(&self.base, url) {
            true => self.auth.current().await.header,
            false => None,
        }
    }
}

impl Ask {
    pub(crate) fn new(method: Method, url: Url, action: Action) -> Self {
        Ask {
            method,
            url,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            action,
        }
    }

    /// The same with a header; a text that is no header's value is left out.
    pub(crate) fn with(mut self, name: reqwest::header::HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    /// The same for content of this type.
    pub(crate) fn accepting(self, media_type: &MediaType) -> Self {
        self.with(ACCEPT, &format!("{media_type}, */*"))
    }

    fn reads(&self) -> bool {
        [Method::GET, Method::HEAD].contains(&self.method)
    }
}

/// What a document says of itself.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    media_type: Option<MediaType>,
}

fn is_document(media_type: &MediaType) -> bool {
    media_type.is_index() || media_type.is_manifest()
}

/// The type of a document, where the registry says one that is understood.
fn known(headers: &HeaderMap) -> Option<MediaType> {
    let said = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let said = said.split(';').next().unwrap_or_default().trim();
    Some(MediaType::from(said)).filter(is_document)
}
