//! Requests tokens for one repository from the token service that a registry names.

use cas_core::{Error, ErrorKind, Result, limit};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, Url};
use serde::Deserialize;

use crate::credentials::Credentials;
use crate::error::{self, Credit};
use crate::http::{self, Http};

/// A request for a token.
pub(crate) struct Wanted<'a> {
    /// The token service.
    pub(crate) realm: Url,
    /// The registry's name for itself.
    pub(crate) service: Option<&'a str>,
    /// The scope that the operation needs.
    pub(crate) scope: &'a str,
    /// The login for the registry, if the service may receive it.
    pub(crate) login: Option<&'a Credentials>,
    /// What the service is shown, in words.
    pub(crate) credit: &'a Credit,
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
}

impl Answer {
    /// Returns the token in the body of an answer. Services write it into either member, and may
    /// leave the other one empty.
    fn read(body: &[u8]) -> Option<String> {
        let answer: Answer = serde_json::from_slice(body).ok()?;
        let tokens = [answer.token, answer.access_token];
        tokens.into_iter().flatten().find(|token| !token.is_empty())
    }
}

/// Returns a new token. Without a login, it is anonymous. Redirects are not followed.
///
/// # Errors
/// As [`error::refused`] if the service refuses; `Denied` if it sends no token; `Unavailable` if it
/// cannot be reached.
pub(crate) async fn fetch(http: &Http, wanted: Wanted<'_>) -> Result<String> {
    let realm = &address(&wanted.realm);
    let request = match wanted.login {
        Some(Credentials::Identity(token)) => http
            .request(Method::POST, realm)?
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form(&wanted, token)),
        Some(Credentials::Password { name, password }) => http
            .request(Method::GET, &query(realm, &wanted))?
            .basic_auth(name, Some(password)),
        // A registry token is only for the registry.
        Some(Credentials::Registry(_)) | None => {
            http.request(Method::GET, &query(realm, &wanted))?
        }
    };
    let response = http::send(request, realm).await?;
    if !response.status().is_success() {
        return Err(error::refused(response, wanted.credit).await);
    }
    let body = http::body(response, limit::ANSWER).await?;
    Answer::read(&body).ok_or_else(|| {
        let from = crate::origin::shown(realm);
        Error::new(
            ErrorKind::Denied,
            format!(
                "the answer of the token service {from} does not contain a token; its operator \
                 must change this"
            ),
        )
        .backend(error::REGISTRY)
    })
}

/// Returns the URL of the service without any scopes that the registry has put into it.
fn address(realm: &Url) -> Url {
    let mut url = realm.clone();
    url.set_query(None);
    for (key, value) in realm.query_pairs() {
        if !key.to_ascii_lowercase().contains("scope") {
            url.query_pairs_mut().append_pair(&key, &value);
        }
    }
    url
}

fn query(address: &Url, wanted: &Wanted<'_>) -> Url {
    let mut url = address.clone();
    {
        let mut query = url.query_pairs_mut();
        if let Some(service) = wanted.service {
            query.append_pair("service", service);
        }
        query.append_pair("scope", wanted.scope);
    }
    url
}

/// Returns the OAuth 2 form that exchanges an identity token.
fn form(wanted: &Wanted<'_>, token: &str) -> String {
    let mut form = wanted.realm.clone();
    form.query_pairs_mut()
        .clear()
        .append_pair("grant_type", "refresh_token")
        .append_pair("client_id", "cas")
        .append_pair("service", wanted.service.unwrap_or_default())
        .append_pair("scope", wanted.scope)
        .append_pair("refresh_token", token);
    form.query().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_member_of_an_answer_has_the_token() {
        for (body, expected) in [
            (r#"{"token":"a"}"#, Some("a")),
            (r#"{"access_token":"b"}"#, Some("b")),
            (r#"{"token":"a","access_token":"b"}"#, Some("a")),
            (r#"{"token":"","access_token":"b"}"#, Some("b")),
            (
                r#"{"token":null,"access_token":"b","expires_in":60}"#,
                Some("b"),
            ),
            (r#"{"token":"a","access_token":""}"#, Some("a")),
            (r#"{"token":"","access_token":""}"#, None),
            ("{}", None),
            (r#"{"token":7}"#, None),
            ("<html>", None),
            ("", None),
        ] {
            assert_eq!(Answer::read(body.as_bytes()).as_deref(), expected, "{body}");
        }
    }

    #[test]
    fn the_registry_adds_no_scopes() {
        for (realm, expected) in [
            ("https://x.test/token", "https://x.test/token"),
            ("https://x.test/t?a=b&c", "https://x.test/t?a=b&c="),
            ("https://x.test/t?scope=s", "https://x.test/t"),
            ("https://x.test/t?a=b&s%63ope=s", "https://x.test/t?a=b"),
            ("https://x.test/t?Scope[]=s&a=b", "https://x.test/t?a=b"),
            // Some servers separate parameters by a semicolon as well.
            (
                "https://x.test/t?a=b;scope=s",
                "https://x.test/t?a=b%3Bscope%3Ds",
            ),
        ] {
            assert_eq!(address(&realm.parse().unwrap()).as_str(), expected);
        }
    }
}
