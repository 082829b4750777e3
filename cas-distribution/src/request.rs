//! Requests that may be repeated: when the registry wants to see who asks, and where it leads on.

use bytes::Bytes;
use cas_core::{Error, MediaType, Result, limit};
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION};
use reqwest::{Method, Response, StatusCode, Url};

use crate::client::Inner;
use crate::error::{self, REGISTRY};
use crate::{http, origin};

/// How often one request may be told to show who asks.
const REFUSALS: usize = 2;

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
    pub(crate) fn with(mut self, name: HeaderName, value: &str) -> Self {
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

impl Inner {
    /// As [`Inner::send`], with one of these statuses.
    pub(crate) async fn expect(&self, ask: Ask, accepted: &[StatusCode]) -> Result<Response> {
        let response = self.send(ask).await?;
        match accepted.contains(&response.status()) {
            true => Ok(response),
            false => Err(self.refused(response).await),
        }
    }

    /// The error for an answer of the registry that is not a success.
    pub(crate) async fn refused(&self, response: Response) -> Error {
        let withheld = self.auth.current().await.withheld;
        error::refused(response, withheld.as_deref()).await
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
