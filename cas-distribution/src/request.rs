//! Sends requests. Repeats a request with credentials if the registry asks for credentials. Follows
//! the redirects of requests that only read.

use bytes::Bytes;
use cas_core::{MediaType, Result, limit};
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION, RANGE};
use reqwest::{Method, Response, StatusCode, Url};

use crate::auth::Shown;
use crate::client::Inner;
use crate::error::{self, REGISTRY};
use crate::origin;
use crate::retry::{self, Failure, Patience};

/// Maximum number of times that a registry may ask for credentials for one request.
const REFUSALS: usize = 2;
/// The same maximum for a request whose token may have expired. It is higher, because other
/// requests may use up a token that is valid for only a few requests.
const EXPIRIES: usize = 32;

/// Returns whether a request that sends `shown` is sent again with other credentials, if the
/// registry has asked for credentials `refused` times before. Each call may find another limit than
/// the call before.
pub(crate) fn may_answer(shown: &Shown, refused: usize) -> bool {
    let allowed = if shown.may_have_expired() {
        EXPIRIES
    } else {
        REFUSALS
    };
    refused < allowed
}

/// What a request does, which decides the scope of its token.
#[derive(Clone, Copy)]
pub(crate) enum Action {
    Pull,
    Push,
    Delete,
    /// To list the repositories of the registry.
    Catalogue,
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

    /// Adds a header. If the value is not valid in a header, the header is left out.
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

    /// Returns whether this request is sent again after its attempt number `tried` was answered
    /// with `status`.
    ///
    /// Some servers answer 500 to a method or a range that they do not support. So after this
    /// status, HEAD is not sent again, and a range is requested only once more. The caller then
    /// sends another request instead: GET, or a request for the whole content.
    fn is_repeated(&self, status: StatusCode, tried: usize) -> bool {
        let may_be_unknown = match status {
            StatusCode::INTERNAL_SERVER_ERROR if self.method == Method::HEAD => true,
            StatusCode::INTERNAL_SERVER_ERROR => self.headers.contains_key(RANGE) && tried > 1,
            _ => false,
        };
        retry::passes(status) && !may_be_unknown
    }
}

impl Inner {
    /// Sends a request and returns the response, as [`Inner::send`] does. Any status that is not
    /// `accepted` is an error.
    ///
    /// # Errors
    /// As [`Inner::send`]; as [`error::refused`] for a status that is not `accepted`.
    pub(crate) async fn expect(
        &self,
        ask: Ask,
        accepted: &[StatusCode],
        patience: &mut Patience,
    ) -> Result<Response> {
        let response = self.send(ask, patience).await?;
        if accepted.contains(&response.status()) {
            Ok(response)
        } else {
            Err(self.refused(response).await.into())
        }
    }

    /// Returns the failure for an answer of the registry that is not a success.
    pub(crate) async fn refused(&self, response: Response) -> Failure {
        let mut credit = self.auth.current().await.credit;
        if !origin::same(&self.base, response.url()) {
            // No login was sent to another origin.
            credit.login = None;
        }
        error::refused(&self.http, response, &credit).await
    }

    /// Sends a request, and repeats it if it fails for a temporary reason. Returns the last
    /// response.
    ///
    /// # Errors
    /// The error of the last attempt, as [`Inner::send_once`] or [`Inner::refused`], if `patience`
    /// permits no other attempt.
    pub(crate) async fn send(&self, ask: Ask, patience: &mut Patience) -> Result<Response> {
        let mut tried = 0;
        loop {
            tried += 1;
            let failure = match self.send_once(ask.clone()).await {
                Ok(response) if !ask.is_repeated(response.status(), tried) => return Ok(response),
                Ok(response) => self.refused(response).await,
                Err(failure) => failure,
            };
            match ask.headers.contains_key(RANGE) {
                true => patience.wait_for_range(failure).await?,
                false => patience.wait(failure).await?,
            }
        }
    }

    /// Sends a request, with credentials if the registry asks for them. Follows redirects if the
    /// request only reads. Returns the last response.
    ///
    /// # Errors
    /// As [`Http::request`](crate::http::Http::request), [`Http::send`](crate::http::Http::send),
    /// [`Auth::answer`](crate::auth::Auth::answer) and [`Inner::location`]; `Unavailable` for more
    /// than [`limit::REDIRECTS`] redirects.
    async fn send_once(&self, mut ask: Ask) -> Result<Response, Failure> {
        let (mut refused, mut redirected) = (0, 0);
        loop {
            let own = origin::same(&self.base, &ask.url);
            let shown = self.auth.ready(&self.http).await;
            let mut request = self.http.request(ask.method.clone(), &ask.url)?;
            request = request.headers(ask.headers.clone()).body(ask.body.clone());
            if let Some(header) = shown.header.as_ref().filter(|_| own) {
                request = request.header(AUTHORIZATION, header.clone());
            }
            let response = self.http.send(request, &ask.url).await?;
            let status = response.status();
            if own {
                self.note_answer(status);
                self.warnings.note(response.headers());
            }
            if own && status != StatusCode::UNAUTHORIZED {
                shown.note_accepted();
            }
            if own && status == StatusCode::UNAUTHORIZED && may_answer(&shown, refused) {
                refused += 1;
                let scope = self.scope(ask.action);
                let refusal = response.headers();
                self.auth
                    .answer(&self.http, &shown, refusal, &scope)
                    .await?;
            } else if status.is_redirection() && ask.reads() {
                redirected += 1;
                if redirected > limit::REDIRECTS {
                    return Err(error::redirected(response.url()).into());
                }
                ask.url = self.location(&response)?;
            } else {
                return Ok(response);
            }
        }
    }

    /// Returns the scopes of the token that an action needs, separated by blanks.
    pub(crate) fn scope(&self, action: Action) -> String {
        let own = self.reference.repository();
        match (action, &self.mount_from) {
            (Action::Pull, _) => format!("repository:{own}:pull"),
            // The deletion of a referrer changes the tag that lists it.
            (Action::Delete, _) => format!("repository:{own}:pull,push,delete"),
            (Action::Catalogue, _) => "registry:catalog:*".to_owned(),
            (Action::Push, None) => format!("repository:{own}:pull,push"),
            (Action::Push, Some(from)) => {
                format!("repository:{own}:pull,push repository:{from}:pull")
            }
        }
    }

    /// Returns the URL in the `Location` header of an answer.
    ///
    /// # Errors
    /// As [`origin::check`]; `Unavailable` if the header is missing or invalid.
    pub(crate) fn location(&self, response: &Response) -> Result<Url> {
        location(&self.base, response)
    }
}

/// Returns the URL in the `Location` header of an answer to a request that began at `base`.
///
/// # Errors
/// As [`origin::check`]; `Unavailable` if the header is missing or invalid.
pub(crate) fn location(base: &Url, response: &Response) -> Result<Url> {
    let location = response.headers().get(LOCATION);
    let location = location.and_then(|location| location.to_str().ok());
    let url = location.and_then(|location| response.url().join(location).ok());
    let url = url.ok_or_else(|| {
        error::unexpected(response.url(), "answered without a valid Location header")
    })?;
    origin::check(base, &url).map_err(|error| error.backend(REGISTRY))?;
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Other requests may stop sharing the token meanwhile, so that the limit falls below
    /// `refused`.
    #[test]
    fn no_request_is_sent_again_for_ever() {
        let shown = Shown::default();
        assert!(may_answer(&shown, REFUSALS - 1));
        shown.note_accepted();
        assert!(may_answer(&shown, EXPIRIES - 1));
        for refused in [EXPIRIES, EXPIRIES + 1] {
            assert!(!may_answer(&shown, refused));
        }
        for refused in [REFUSALS, REFUSALS + 1, EXPIRIES] {
            assert!(!may_answer(&Shown::default(), refused));
        }
    }
}
