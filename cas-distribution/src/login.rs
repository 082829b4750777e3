//! Logging in to a registry, and logging out.

use std::path::PathBuf;

use cas_core::{Error, ErrorKind, Result};
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Method, Response, StatusCode, Url};

use crate::auth::Auth;
use crate::client::{self, Options};
use crate::credentials::Credentials;
use crate::error::{self, Credit, REGISTRY};
use crate::host::Host;
use crate::hosts::{self, Access, Hosts, Scheme};
use crate::http::Http;
use crate::keys::Keys;
use crate::logins::Source;
use crate::{logins, retry, runtime, save};

/// Where a login was saved.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoggedIn {
    /// The file of logins. Either it has the login itself, or it names the credential helper that
    /// keeps the login.
    pub file: PathBuf,
    /// The program of the credential helper that keeps the login, if the file names one. Otherwise
    /// the file itself has the login, and does not encrypt it.
    pub helper: Option<String>,
    /// Warnings: the login could not be checked, a credential helper or a file of logins was
    /// skipped, or another file has a different login that is used before this one.
    pub warnings: Vec<String>,
}

/// Logs in to a registry: checks `name` and `password` with the registry, and then saves them as
/// the login. If the registry does not ask for a login, the login is saved without a check, and a
/// warning is returned. The login is saved in the file [`Options::auth_file`], otherwise in
/// `$REGISTRY_AUTH_FILE`, otherwise in docker's `config.json`. If this file names a credential
/// helper for the registry or for all registries, the login is saved in the helper instead. `hosts`
/// has the certificates for the registry. Returns where the login was saved.
///
/// # Errors
/// `InvalidArgument` if the name is empty or contains a colon, if the password is empty, if
/// [`Options::auth_file`] is `None` and none of `$REGISTRY_AUTH_FILE`, `$DOCKER_CONFIG` and `$HOME`
/// is set, or if the environment names a proxy that cannot be used; `Denied` if the registry or its
/// token service refuses the login, or if the login may not be sent to the token service;
/// `Unavailable` if the registry does not answer, or answers a request of `/v2/` with an unexpected
/// status, such as 404; errors of the files of certificates. In these cases, nothing is saved.
/// `FailedPrecondition` if the helper fails; errors of the files of logins. If the message names a
/// file of logins other than the one to save in, the login was saved nevertheless.
pub async fn log_in(
    registry: &Host,
    name: &str,
    password: &str,
    hosts: &Hosts,
    options: Options,
) -> Result<LoggedIn> {
    let failed = |error: Error| error.operation("log in to").subject(registry);
    if name.is_empty() || name.contains(':') || password.is_empty() {
        let why = "expected a name without a colon, and a password; neither may be empty";
        return Err(failed(Error::invalid(why)));
    }
    let login = Credentials::Password {
        name: name.to_owned(),
        password: password.to_owned(),
    };
    let (host, hosts) = (registry.to_string(), hosts.clone());
    let work = async move { save_checked(&host, login, &hosts, options).await };
    runtime::run(work).await.map_err(failed)
}

/// Removes the login for a registry from `file`, and from the credential helpers that this file
/// names for the registry and for all registries. If `file` is `None`, the file is
/// `$REGISTRY_AUTH_FILE`, otherwise docker's `config.json`. Returns a warning if another file of
/// logins, or a helper that the other file names, has a login for the registry, because that login
/// is used from now on.
///
/// # Errors
/// `NotFound` if neither the file nor its helpers have a login for the registry; `InvalidArgument`
/// if `file` is `None` and none of `$REGISTRY_AUTH_FILE`, `$DOCKER_CONFIG` and `$HOME` is set;
/// `FailedPrecondition` if a credential helper fails; errors of the files of logins. A login that
/// was removed before the error stays removed.
pub async fn log_out(registry: &Host, file: Option<PathBuf>) -> Result<Vec<String>> {
    let failed = |error: Error| error.operation("log out of").subject(registry);
    let host = registry.to_string();
    let work = async move {
        let keys = keys(&host)?;
        let from = logins::written(file.as_deref())?;
        if !save::remove(&from, &keys).await? {
            let why = format!("{} has no login for this registry", from.display());
            return Err(Error::not_found(format!("{why}; check the host")));
        }
        let other = logins::find(&keys, file.as_deref()).await?;
        let other = other.login.and(other.source);
        Ok(other.map(|source| other_login(&source, &host, "is used from now on")))
    };
    let warning = runtime::run(work).await.map_err(failed)?;
    Ok(warning.into_iter().collect())
}

/// Removes all logins from `file`. For each key in the file, also removes the login from the
/// credential helper that the file names for this key. A key is a host, a host with a namespace or
/// a repository, or a URL. If `file` is `None`, the file is `$REGISTRY_AUTH_FILE`, otherwise
/// docker's `config.json`. Returns the keys of the removed logins.
///
/// # Errors
/// `InvalidArgument` if `file` is `None` and none of `$REGISTRY_AUTH_FILE`, `$DOCKER_CONFIG` and
/// `$HOME` is set; `FailedPrecondition` if a credential helper fails; errors of the file. Logins
/// that were removed before the error stay removed.
pub async fn log_out_of_all(file: Option<PathBuf>) -> Result<Vec<String>> {
    runtime::run(async move { save::remove_all(&logins::written(file.as_deref())?).await }).await
}

async fn save_checked(
    host: &str,
    login: Credentials,
    hosts: &Hosts,
    options: Options,
) -> Result<LoggedIn> {
    let file = logins::written(options.auth_file.as_deref())?;
    let mut warnings = Vec::new();
    let access = hosts.access(host).await?;
    if !is_accepted(host, &login, access, &options).await? {
        warnings.push(format!(
            "{host} does not ask for a login, so the name and the password could not be checked"
        ));
    }
    let keys = keys(host)?;
    let Credentials::Password { name, password } = &login else {
        return Err(Error::internal(
            "cannot save a login without a password; please report it",
        ));
    };
    let helper = save::save(&file, &keys, name, password).await?;
    let first = logins::find(&keys, options.auth_file.as_deref()).await?;
    warnings.extend(first.warnings);
    if first.login.is_some_and(|first| first != login)
        && let Some(other) = first.source
    {
        warnings.push(other_login(&other, host, "is used before this one"));
    }
    Ok(LoggedIn {
        file,
        helper,
        warnings,
    })
}

/// Returns the warning about a login in another file.
fn other_login(source: &Source, host: &str, use_of_it: &str) -> String {
    let file = source.path.display();
    let remove = match source.is_legacy {
        true => "edit this file".to_owned(),
        false => format!("use `cas logout --authfile {file} {host}`"),
    };
    format!("another login for {host} in {file} {use_of_it}; to remove it, {remove}")
}

fn keys(host: &str) -> Result<Keys> {
    Ok(Keys::new(&hosts::url(host, "", "https")?, ""))
}

/// Checks a login with the registry. Returns whether the registry asked for a login.
///
/// # Errors
/// `Denied` if the login is refused, or may not be sent; `Unavailable` if an answer has any other
/// status that is not a success; as [`client::reach`], [`Auth::answer`], [`Http::request`] and
/// [`Http::send`].
async fn is_accepted(
    host: &str,
    login: &Credentials,
    access: Access,
    options: &Options,
) -> Result<bool> {
    let base = |scheme: &str| hosts::url(host, "", scheme);
    let reached = client::reach(base, Scheme::Usual, access, options).await?;
    let (http, url) = (reached.http, reached.base);
    let auth = Auth::new(url.clone(), host, "", options).with_login(login.clone());
    let asked = ask(&http, &url, None).await?;
    if asked.status() != StatusCode::UNAUTHORIZED {
        return check(asked.status(), &url).map(|()| false);
    }
    let before = auth.current().await;
    auth.answer(&http, &before, asked.headers(), "").await?;
    let shown = auth.current().await;
    if let Some(withheld) = &shown.credit.withheld {
        return Err(Error::new(ErrorKind::Denied, withheld.clone()).backend(REGISTRY));
    }
    let answered = ask(&http, &url, shown.header).await?;
    match answered.status() {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Err(error::refused(&http, answered, &shown.credit).await.into())
        }
        status => check(status, &url).map(|()| true),
    }
}

/// Requests `/v2/`. Repeats this while it fails for a temporary reason. Returns the answer.
async fn ask(http: &Http, url: &Url, shown: Option<HeaderValue>) -> Result<Response> {
    let attempt = || async {
        let mut request = http.request(Method::GET, url)?;
        if let Some(header) = &shown {
            request = request.header(AUTHORIZATION, header.clone());
        }
        let answer = http.send(request, url).await?;
        match retry::passes(answer.status()) {
            true => Err(error::refused(http, answer, &Credit::default()).await),
            false => Ok(answer),
        }
    };
    http.patience().repeat(attempt).await
}

/// Checks that the answer to a request of `/v2/` has a status of success.
fn check(status: StatusCode, url: &Url) -> Result<()> {
    if status.is_success() {
        return Ok(());
    }
    Err(error::unexpected(
        url,
        &format!("answered {status} to a request of /v2/"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logout_is_advised_only_for_a_file_that_a_logout_changes() {
        for (is_legacy, expected) in [(false, "`cas logout --authfile /f x.test`"), (true, "edit")]
        {
            let path = "/f".into();
            let said = other_login(&Source { path, is_legacy }, "x.test", "is used");
            assert!(said.contains(expected), "{said}");
            assert_ne!(said.contains("cas logout"), is_legacy, "{said}");
        }
    }
}
