//! Errors for the answers of registries, classified by what the caller must do.

use std::time::Duration;

use cas_core::error::{REPAIR_BYTES, excerpt, shortened};
use cas_core::nulls::null_is_default;
use cas_core::{Digest, Error, ErrorKind, limit};
use reqwest::header::{HeaderValue, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;

use crate::http::Http;
use crate::origin::{is_local, shown};
use crate::retry::{self, Failure};
use crate::{address, untrusted};

/// The name of the backend in errors that come from a registry, from its token service, from a
/// server that [`download`](fn@crate::download) asks, or from the connection to any of them.
pub const REGISTRY: &str = "registry";

/// Maximum number of characters of a registry's own message that an error repeats.
const SAID: usize = 300;

#[derive(Deserialize)]
struct Answer {
    #[serde(default, deserialize_with = "null_is_default")]
    errors: Vec<Problem>,
}

#[derive(Deserialize)]
struct Problem {
    #[serde(default, deserialize_with = "null_is_default")]
    code: String,
    #[serde(default, deserialize_with = "null_is_default")]
    message: String,
}

/// The credentials of a request that was refused, in words.
#[derive(Clone, Default)]
pub(crate) struct Credit {
    /// The message about a login that was withheld, if one was.
    pub(crate) withheld: Option<String>,
    /// The login, in words, if it was sent.
    pub(crate) login: Option<String>,
    /// Whether a token service has accepted the login.
    pub(crate) accepted: bool,
}

impl Credit {
    /// Returns why the request may have been refused, and what to do.
    fn explain(&self, status: StatusCode) -> String {
        let absent = "this name may be absent from the registry, or may require other rights";
        match (&self.withheld, &self.login) {
            (Some(withheld), _) => format!("{absent}: {withheld}"),
            (None, None) => format!("{absent}: {LOG_IN}"),
            (None, Some(login)) if status == StatusCode::UNAUTHORIZED && !self.accepted => {
                format!(
                    "the registry refused {login}: use `cas login` again, with the right password \
                     or token"
                )
            }
            (None, Some(login)) => format!(
                "{absent} than those of {login}: check the name, or use `cas login` as another \
                 user"
            ),
        }
    }
}

/// What to do if a registry refuses a request without a login.
const LOG_IN: &str =
    "check the name, or use `cas login`; cas also uses the logins of docker and podman";

/// Returns the failure for an answer that is not a success. `credit` describes the credentials of
/// the request.
pub(crate) async fn refused(http: &Http, response: Response, credit: &Credit) -> Failure {
    let status = response.status();
    let after = retry::wanted_pause(response.headers());
    let from = shown(response.url());
    let wait = response.headers().get(RETRY_AFTER);
    let wait = wait.and_then(|wait| wait.to_str().ok()).map(str::to_owned);
    let body = http.body(response, limit::ANSWER).await;
    let body = body.unwrap_or_default();
    let problem = serde_json::from_slice::<Answer>(&body).ok();
    let problem = problem.and_then(|answer| answer.errors.into_iter().next());
    let (code, said) = match problem {
        Some(problem) => {
            let said = format!("{} {}", problem.code, problem.message);
            let said = said.trim();
            let escaped = said.escape_debug().to_string();
            let said = match said.is_empty() {
                true => escaped,
                false => format!(" {}", shortened(&escaped, SAID, 0, said.len())),
            };
            (problem.code, said)
        }
        None => (String::new(), String::new()),
    };
    let answered = format!("{from} answered {status}{said}");
    let note = credit.withheld.as_ref();
    let note = note.map_or(String::new(), |withheld| format!("; {withheld}"));
    let error = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            let why = credit.explain(status);
            Error::new(ErrorKind::Denied, format!("{answered}; {why}"))
        }
        StatusCode::NOT_FOUND => Error::not_found(format!(
            "{answered}; check the name, the tag or the digest{note}"
        )),
        StatusCode::PAYLOAD_TOO_LARGE => Error::out_of_range(format!(
            "{answered}; ask the operator of the registry for a higher limit"
        )),
        status if retry::passes(status) || status.is_server_error() => {
            let wait = wait.map_or("later".to_owned(), |wait| {
                format!("later (Retry-After: {})", excerpt(&wait))
            });
            Error::unavailable(format!("{answered}; try again {wait}"))
        }
        _ if code == "DIGEST_INVALID" => Error::corrupt(format!(
            "{answered}; the bytes in the store may be damaged: {REPAIR_BYTES}"
        )),
        _ => Error::new(
            ErrorKind::Denied,
            format!("{answered}; check the name, or ask the operator of the registry{note}"),
        ),
    };
    let error = error.backend(REGISTRY);
    if retry::passes(status) {
        Failure::refused(error, after)
    } else {
        Failure::Stays(error)
    }
}

/// Returns the error for root certificates that cannot be read, or a TLS library that fails.
pub(crate) fn tls(error: &rustls::Error) -> Error {
    Error::unavailable(format!(
        "cannot set up TLS: {error}; check the root certificates"
    ))
    .backend(REGISTRY)
}

/// Returns the failure of a connection to `url`. The failure stays if an address or a certificate
/// was refused, if the answer is not HTTP, or if a limit of the system is reached. Otherwise it may
/// pass.
pub(crate) fn broken(error: reqwest::Error, url: &Url) -> Failure {
    let error = error.without_url();
    let (mut last, mut is_malformed) = (error.to_string(), false);
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        // The address was refused.
        if let Some(ours) = inner.downcast_ref::<Error>() {
            return Failure::Stays(Error::new(ours.kind(), ours.to_string()).source(error));
        }
        let parse = inner.downcast_ref::<hyper::Error>();
        is_malformed |= parse.is_some_and(hyper::Error::is_parse);
        last = inner.to_string();
        cause = inner.source();
    }
    if is_malformed {
        let message = format!(
            "{} sent an answer that is not valid HTTP: {last}; ask the operator of the host to \
             correct this",
            shown(url)
        );
        return Failure::Stays(Error::unavailable(message).source(error).backend(REGISTRY));
    }
    // If this process has reached a limit of the system, advice about the network would be wrong.
    if let Some(limit) = Error::of_system(&error)
        && limit.kind() == ErrorKind::OutOfRange
    {
        return Failure::Stays(limit.operation("connect to").subject(shown(url)));
    }
    let (connecting, advice) = (error.is_connect(), untrusted::advice(&error, url));
    // Another attempt would find the same certificate.
    let distrusted = advice.is_some();
    let what = if connecting {
        "cannot connect to"
    } else {
        "lost the connection to"
    };
    let from = shown(url);
    let advice = advice.unwrap_or_else(|| check_way_to(url));
    let message = format!("{what} {from}: {last}; {advice}");
    let error = Error::unavailable(message).source(error).backend(REGISTRY);
    match (distrusted, connecting) {
        (true, _) => Failure::Stays(error),
        (_, true) => Failure::unconnected(error),
        _ => Failure::lost(error),
    }
}

/// Returns the failure of a connection to `url` on which nothing arrived within the time `waited`.
pub(crate) fn silent(url: &Url, waited: Duration) -> Failure {
    let message = format!(
        "no response from {} for {}; try again later",
        shown(url),
        in_seconds(waited)
    );
    Failure::lost(Error::unavailable(message).backend(REGISTRY))
}

/// Returns the failure of a connection to `url` that is too slow: `arrived` bytes came within the
/// time `idle`, but at least `least` bytes were expected.
pub(crate) fn slow(url: &Url, arrived: u64, idle: Duration, least: u64) -> Failure {
    let message = format!(
        "the connection to {} is too slow: expected at least {least} bytes in {}, found {arrived}; \
         try again later",
        shown(url),
        in_seconds(idle)
    );
    Failure::lost(Error::unavailable(message).backend(REGISTRY))
}

/// Returns the failure of an answer of `url` whose body ended too early.
pub(crate) fn ended_early(url: &Url) -> Failure {
    let message = format!(
        "lost the connection to {}: the answer ended too early; {}",
        shown(url),
        check_way_to(url)
    );
    Failure::lost(Error::unavailable(message).backend(REGISTRY))
}

/// Returns the advice to check what is on the way to `url`.
fn check_way_to(url: &Url) -> String {
    match address::proxy_of(url).filter(|_| !is_local(url)) {
        Some(proxy) => format!("check the proxy {proxy}, the host and the network"),
        None => "check the host and the network".to_owned(),
    }
}

fn in_seconds(time: Duration) -> String {
    format!("{} s", time.as_secs_f32())
}

/// Returns the error for a request that is redirected too often, the last time by `url`.
pub(crate) fn redirected(url: &Url) -> Error {
    Error::unavailable(format!(
        "{} redirects again, but at most {} redirects are followed; check this host",
        shown(url),
        limit::REDIRECTS
    ))
    .backend(REGISTRY)
}

/// Returns the error for a registry that states another digest for the bytes that it has stored.
/// The kind of the error is `Unsupported` if the two digests have different algorithms, or else
/// `Corrupt`.
pub(crate) fn stored_other(expected: &Digest, found: &HeaderValue) -> Error {
    let text = String::from_utf8_lossy(found.as_bytes());
    let (stored, wanted) = (text.parse::<Digest>(), expected.algorithm());
    let found = excerpt(&text);
    let error = match stored.map(|stored| stored.algorithm()) {
        // For example, docker's registry takes each blob, but keeps it under its sha256 digest.
        Ok(other) if other != wanted => Error::unsupported(format!(
            "the registry does not keep {} digests: it stored {expected} as \"{found}\"; push to \
             another registry, or build the image again with {} digests",
            wanted.name(),
            other.name()
        )),
        _ => Error::corrupt(format!(
            "expected the digest {expected}, but the registry stored \"{found}\"; check the \
             registry"
        )),
    };
    error.backend(REGISTRY)
}

/// Returns the error for an answer that does not follow the protocol.
pub(crate) fn unexpected(url: &Url, what: &str) -> Error {
    Error::unavailable(format!(
        "{} {what}; check that this is the right host",
        shown(url)
    ))
    .backend(REGISTRY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_registry_states_is_shown_in_part() {
        let found = HeaderValue::from_bytes(&[0xff; 10_000]).unwrap();
        let digest = Digest::sha256(b"");
        let said = stored_other(&digest, &found).to_string();
        let is_named = said.contains(&digest.to_string());
        assert!(is_named && said.len() < 1000, "{said}");
    }
}
