//! Tokens: asked of the service that a registry names, for one repository.

use cas_core::{Error, ErrorKind, Result, limit};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, Url};
use serde::Deserialize;

use crate::credentials::Credentials;
use crate::error;
use crate::http::{self, Http};

/// What a token is asked for.
pub(crate) struct Wanted<'a> {
    /// The token service.
    pub(crate) realm: Url,
    /// How the registry calls itself.
    pub(crate) service: Option<&'a str>,
    /// What shall be allowed.
    pub(crate) scopes: Vec<&'a str>,
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
}

/// Asks for a token; without credentials for what everybody may do.
///
/// # Errors
/// `Denied` when the service refuses; `Unavailable`.
pub(crate) async fn fetch(
    http: &Http,
    wanted: Wanted<'_>,
    credentials: Option<&Credentials>,
) -> Result<String> {
    let realm = wanted.realm.clone();
    let request = match credentials {
        Some(Credentials::Identity(token)) => http
            .request(Method::POST, &realm)?
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form(&wanted, token)),
        Some(Credentials::Password { name, password }) => http
            .request(Method::GET, &query(wanted))?
            .basic_auth(name, Some(password)),
        Some(Credentials::Registry(_)) | None => http.request(Method::GET, &query(wanted))?,
    };
    let response = http::send(request, &realm).await?;
    if !response.status().is_success() {
        return Err(error::refused(response).await);
    }
    let body = http::body(response, limit::ANSWER).await?;
    let answer = serde_json::from_slice::<Answer>(&body).ok();
    let token = answer.and_then(|answer| answer.token.or(answer.access_token));
    token.filter(|token| !token.is_empty()).ok_or_else(|| {
        let from = crate::origin::shown(&realm);
        Error::new(
            ErrorKind::Denied,
            format!("the token service {from} gave no token"),
        )
        .backend(error::REGISTRY)
    })
}

fn query(wanted: Wanted<'_>) -> Url {
    let mut url = wanted.realm;
    {
        let mut query = url.query_pairs_mut();
        if let Some(service) = wanted.service {
            query.append_pair("service", service);
        }
        for scope in wanted.scopes {
            query.append_pair("scope", scope);
        }
    }
    url
}

/// The same, for whoever has an identity token, as OAuth 2 writes it.
fn form(wanted: &Wanted<'_>, token: &str) -> String {
    let mut form = wanted.realm.clone();
    form.query_pairs_mut()
        .clear()
        .append_pair("grant_type", "refresh_token")
        .append_pair("client_id", "cas")
        .append_pair("service", wanted.service.unwrap_or_default())
        .append_pair("scope", &wanted.scopes.join(" "))
        .append_pair("refresh_token", token);
    form.query().unwrap_or_default().to_owned()
}
