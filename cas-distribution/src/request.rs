//! Requests that are repeated with credentials, or at the target of a redirect.

use bytes::Bytes;
use cas_core::{Error, MediaType, Result, limit};
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION};
use reqwest::{Method, Response, StatusCode, Url};

use crate::client::Inner;
use crate::error::{self, REGISTRY};
use crate::{http, origin};

/// Maximum number of times that a registry may ask for credentials for one request.
const REFUSALS: usize = 2;
/// The same if tokens expire: some are good for a few requests, and others may use them up.
const EXPIRIES: usize = 32;

/// What a request does, which decides the scope of its token.
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

    /// Adds a header. A value that a header cannot have is left out.
    pub(crate) fn with(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    /// Adds an `Accept` header for content of this type.
    pub(crate) fn accepting(self, media_type: &MediaType) -> Self {
        self.with(ACCEPT, &format!("{media_type}, */*"))
    }

    fn reads(&self) -> bool {
        [Method::GET, Method::HEAD].contains(&self.method)
    }
}

impl Inner {
    /// Sends a request and returns the response, as [`Inner::send`] does. Any status that is not
    /// `accepted` is an error.
    pub(crate) async fn expect(&self, ask: Ask, accepted: &[StatusCode]) -> Result<Response> {
        let response = self.send(ask).await?;
        if accepted.contains(&response.status()) {
            Ok(response)
        } else {
            Err(self.refused(response).await)
        }
    }

    /// Returns the error for an answer of the registry that is not a success.
    pub(crate) async fn refused(&self, response: Response) -> Error {
        let mut credit = self.auth.current().await.credit;
        if !origin::same(&self.base, response.url()) {
            // Another host got no login.
            credit.login = None;
        }
        error::refused(response, &credit).await
    }

    /// Sends a request, with credentials if the registry asks for them. Follows redirects if the
    /// request only reads. Returns the last response.
    pub(crate) async fn send(&self, mut ask: Ask) -> Result<Response> {
        let (mut refused, mut redirected) = (0, 0);
        loop {
            let own = origin::same(&self.base, &ask.url);
            let shown = self.auth.ready(&self.http).await;
            let mut request = self.http.request(ask.method.clone(), &ask.url)?;
            request = request.headers(ask.headers.clone()).body(ask.body.clone());
            if let Some(header) = shown.header.as_ref().filter(|_| own) {
                request = request.header(AUTHORIZATION, header.clone());
            }
            let response = http::send(request, &ask.url).await?;
            let status = response.status();
            if own && status != StatusCode::UNAUTHORIZED {
                shown.note_accepted();
            }
            let allowed = if shown.may_have_expired() {
                EXPIRIES
            } else {
                REFUSALS
            };
            if own && status == StatusCode::UNAUTHORIZED && refused < allowed {
                refused += 1;
                let scope = self.scope(ask.action);
                let refusal = response.headers();
                self.auth
                    .answer(&self.http, &shown, refusal, &scope)
                    .await?;
            } else if status.is_redirection() && ask.reads() {
                redirected += 1;
                if redirected > limit::REDIRECTS {
                    return Err(error::redirected(response.url()));
                }
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

    /// Returns the URL in the `Location` header of an answer.
    ///
    /// # Errors
    /// As [`origin::check`]; `Unavailable` if the header is missing or invalid.
    pub(crate) fn location(&self, response: &Response) -> Result<Url> {
        let location = response.headers().get(LOCATION);
        let location = location.and_then(|location| location.to_str().ok());
        let url = location.and_then(|location| response.url().join(location).ok());
        let url = url.ok_or_else(|| {
            error::unexpected(response.url(), "answered without a valid Location header")
        })?;
        origin::check(&self.base, &url).map_err(|error| error.backend(REGISTRY))?;
        Ok(url)
    }

    /// Returns the credentials to send to `url`, if it has the registry's origin.
    pub(crate) async fn shown_at(&self, url: &Url) -> Option<HeaderValue> {
        if !origin::same(&self.base, url) {
            return None;
        }
        self.auth.ready(&self.http).await.header
    }
}
