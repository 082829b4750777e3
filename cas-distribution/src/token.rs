//! Requests tokens from the token service that a registry names.

use std::time::Duration;

use cas_core::{Error, ErrorKind, limit};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, Url};
use serde::Deserialize;
use serde_json::Value;

use crate::credentials::Credentials;
use crate::error::{self, Credit};
use crate::http::Http;
use crate::retry::Failure;

/// How long a token is valid, according to the specification, if its service does not state this.
const LIFETIME: Duration = Duration::from_secs(60);
/// How long before its expiry a token is replaced, because a request takes some time. A token with
/// a short lifetime is replaced closer to its expiry: see [`renewal`].
const MARGIN: Duration = Duration::from_secs(10);

/// A request for a token.
pub(crate) struct Wanted<'a> {
    /// The token service.
    pub(crate) realm: Url,
    /// The registry's name for itself.
    pub(crate) service: Option<&'a str>,
    /// The scopes that the operation needs, separated by blanks.
    pub(crate) scope: &'a str,
    /// The login for the registry, if the service may receive it.
    pub(crate) login: Option<&'a Credentials>,
    /// The credentials that are sent to the service, in words.
    pub(crate) credit: &'a Credit,
}

/// A token for a registry.
pub(crate) struct Token {
    pub(crate) text: String,
    /// How long after its request the token is to be replaced.
    pub(crate) renewal: Duration,
}

#[derive(Deserialize)]
pub(crate) struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    /// The lifetime in seconds. Some services write it as a text.
    #[serde(default)]
    expires_in: Value,
}

impl Answer {
    /// Returns the token in the body of an answer. Services write it into either member, and may
    /// leave the other one empty.
    pub(crate) fn read(body: &[u8]) -> Option<Token> {
        let answer: Answer = serde_json::from_slice(body).ok()?;
        let renewal = renewal(&answer.expires_in);
        let tokens = [answer.token, answer.access_token];
        let text = tokens.into_iter().flatten().find(|token| !token.is_empty());
        text.map(|text| Token { text, renewal })
    }
}

/// Returns how long after its request a token is replaced: [`MARGIN`] before its expiry, or after
/// half of its lifetime if the lifetime is short.
fn renewal(expires_in: &Value) -> Duration {
    let text = || expires_in.as_str()?.parse().ok();
    let seconds = expires_in.as_f64().or_else(text);
    let stated = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let lifetime = stated
        .filter(|stated| !stated.is_zero())
        .unwrap_or(LIFETIME);
    lifetime - MARGIN.min(lifetime / 2)
}

/// Returns a new token. Without a login, the token is one for anonymous users. Redirects are not
/// followed.
///
/// # Errors
/// As [`error::refused`] if the service refuses; `Denied` if it sends no token; as
/// [`Http::request`], [`Http::send`] and [`Http::body`].
pub(crate) async fn fetch(http: &Http, wanted: &Wanted<'_>) -> Result<Token, Failure> {
    let realm = &address(&wanted.realm);
    let request = match wanted.login {
        Some(Credentials::Identity(token)) => http
            .request(Method::POST, realm)?
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form(wanted, token)),
        Some(Credentials::Password { name, password }) => http
            .request(Method::GET, &query(realm, wanted))?
            .basic_auth(name, Some(password)),
        // A registry token is only for the registry.
        Some(Credentials::Registry(_)) | None => {
            http.request(Method::GET, &query(realm, wanted))?
        }
    };
    let response = http.send(request, realm).await?;
    if !response.status().is_success() {
        return Err(error::refused(http, response, wanted.credit).await);
    }
    let body = http.body(response, limit::ANSWER).await?;
    Answer::read(&body).ok_or_else(|| {
        let from = crate::origin::shown(realm);
        Error::new(
            ErrorKind::Denied,
            format!(
                "the answer of the token service {from} does not contain a token; ask the \
                 operator of the registry to correct this"
            ),
        )
        .backend(error::REGISTRY)
        .into()
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
        for scope in wanted.scope.split(' ').filter(|scope| !scope.is_empty()) {
            query.append_pair("scope", scope);
        }
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
            let read = Answer::read(body.as_bytes());
            assert_eq!(read.map(|token| token.text).as_deref(), expected, "{body}");
        }
    }

    #[test]
    fn a_token_is_renewed_some_time_before_its_end() {
        for (expires_in, expected) in [
            ("300", 290.0),
            ("60", 50.0),
            ("20", 10.0),
            ("5", 2.5),
            ("0.5", 0.25),
            ("\"300\"", 290.0),
            // Without a lifetime, the specification has 60 seconds.
            ("null", 50.0),
            ("0", 50.0),
            ("-1", 50.0),
            ("1e300", 50.0),
            ("\"soon\"", 50.0),
            ("\"NaN\"", 50.0),
            ("[]", 50.0),
        ] {
            let body = format!(r#"{{"token":"a","expires_in":{expires_in}}}"#);
            let token = Answer::read(body.as_bytes()).expect(expires_in);
            assert_eq!(token.renewal.as_secs_f64(), expected, "{expires_in}");
        }
        let absent = Answer::read(br#"{"token":"a"}"#).unwrap();
        assert_eq!(absent.renewal.as_secs(), 50);
    }

    #[test]
    fn several_scopes_are_asked_for_at_once() {
        let realm: Url = "https://x.test/t".parse().unwrap();
        for (scope, asked, posted) in [
            ("", "service=s", "service=s&scope=&"),
            (
                "a:b:pull",
                "service=s&scope=a%3Ab%3Apull",
                "&scope=a%3Ab%3Apull&",
            ),
            (
                "a:b c:d",
                "service=s&scope=a%3Ab&scope=c%3Ad",
                "&scope=a%3Ab+c%3Ad&",
            ),
        ] {
            let wanted = Wanted {
                realm: realm.clone(),
                service: Some("s"),
                scope,
                login: None,
                credit: &Credit::default(),
            };
            assert_eq!(query(&realm, &wanted).query(), Some(asked));
            let form = form(&wanted, "id");
            assert!(form.contains(posted), "{form}");
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
