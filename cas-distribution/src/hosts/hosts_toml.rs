//! Reads containerd's `hosts.toml`: the mirrors of a registry, and how each mirror is reached.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cas_core::Result;
use cas_core::image::FullName;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use toml::Spanned;

use super::certificates;
use super::duration;
use super::endpoint::{Capabilities, Endpoint, Scheme, Tls};
use super::file::Text;
use crate::bounded::found;
use crate::{hub, origin};

/// The directory for registries that do not have a directory of their own.
const DEFAULT: &str = "_default";

#[derive(Deserialize)]
struct Document {
    server: Option<Spanned<String>>,
    #[serde(default)]
    host: BTreeMap<Spanned<String>, Table>,
}

/// How one host is reached.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Table {
    capabilities: Vec<Spanned<String>>,
    ca: Option<OneOrMany>,
    client: Option<Clients>,
    skip_verify: Option<bool>,
    header: BTreeMap<String, Spanned<OneOrMany>>,
    override_path: bool,
    dial_timeout: Option<Spanned<String>>,
    proxy: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn into_vec(self) -> Vec<String> {
        match self {
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many,
        }
    }
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected a path, a list of paths or a list of [CERTIFICATE, KEY] pairs"
)]
enum Clients {
    One(String),
    Many(Vec<Client>),
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a path or a [CERTIFICATE, KEY] pair")]
enum Client {
    Both(String),
    Pair([String; 2]),
}

/// Returns the endpoints of the first directory that has a `hosts.toml` for the registry, or `None`
/// if there is none. In each of `directories`, the directory of the registry hides `_default`, even
/// if it does not have a `hosts.toml`.
///
/// # Errors
/// `InvalidArgument` for a file that does not parse, or has a value that is not valid or not
/// supported; errors of [`Text::read`].
pub(super) fn find(directories: &[PathBuf], reference: &FullName) -> Result<Option<Vec<Endpoint>>> {
    let mut names = certificates::names(reference.host());
    names.push(DEFAULT.into());
    for directory in directories {
        let own = names.iter().map(|name| directory.join(name));
        let is_dir = |path: &PathBuf| found(path).is_some_and(|found| found.is_dir());
        let Some(own) = own.into_iter().find(is_dir) else {
            continue;
        };
        let path = own.join("hosts.toml");
        if let Some(text) = Text::read(&path)? {
            return read(&text, reference).map(Some);
        }
    }
    Ok(None)
}

pub(super) fn read(text: &Text, reference: &FullName) -> Result<Vec<Endpoint>> {
    let document: Document = text.parse()?;
    let mut hosts: Vec<_> = document.host.into_iter().collect();
    // The order of the tables in the file counts.
    hosts.sort_by_key(|(url, _)| url.span().start);
    let mut found = Vec::new();
    for (url, table) in hosts {
        found.push(table.endpoint(text, Some(&url), reference)?);
    }
    let server: Table = text.parse()?;
    let last = document.server.filter(|url| !url.get_ref().is_empty());
    found.push(server.endpoint(text, last.as_ref(), reference)?);
    Ok(found)
}

impl Table {
    /// Returns the endpoint for a URL, or for the registry itself if `url` is `None`.
    fn endpoint(
        self,
        text: &Text,
        url: Option<&Spanned<String>>,
        reference: &FullName,
    ) -> Result<Endpoint> {
        let mut endpoint = Endpoint::of(reference);
        let may = self.capabilities(text)?;
        endpoint.access.headers = self.headers(text)?;
        endpoint.access.connect = self.connect(text)?;
        if let Some(proxy) = &self.proxy {
            let what = "a proxy for one host is not supported; use the environment variables \
                        HTTPS_PROXY and NO_PROXY, and remove `proxy` here";
            return Err(text.mistake(&proxy.span(), what));
        }
        let override_path = self.override_path;
        let names_trust = self.names_trust();
        endpoint.names_its_trust = names_trust || url.is_some();
        endpoint.access.tls = self.tls(text.path());
        if let Some(url) = url {
            let root = root(url.get_ref(), override_path);
            let root = root.ok_or_else(|| {
                // The message does not contain the value, which may have a password.
                let what = "expected a URL of http or https that has no login and no query";
                text.mistake(&url.span(), what)
            })?;
            // Only an endpoint with a URL has the capabilities that the file states. Without
            // `server`, the last endpoint is the registry itself, and it keeps all capabilities.
            endpoint.may = may;
            endpoint.scheme = match root.scheme() {
                "https" => Scheme::Https,
                _ if names_trust && root.port().is_some() => Scheme::Either,
                _ => Scheme::Http,
            };
            endpoint.namespace = namespace(&root, reference);
            endpoint.url = Some(root);
        }
        Ok(endpoint)
    }

    /// Returns whether the table has `ca`, `client` or `skip_verify`.
    fn names_trust(&self) -> bool {
        self.ca.is_some() || self.client.is_some() || self.skip_verify.is_some()
    }

    fn capabilities(&self, text: &Text) -> Result<Capabilities> {
        if self.capabilities.is_empty() {
            return Ok(Capabilities::ALL);
        }
        let mut may = Capabilities {
            pull: false,
            resolve: false,
            push: false,
        };
        for named in &self.capabilities {
            match named.get_ref().to_ascii_lowercase().as_str() {
                "pull" => may.pull = true,
                "resolve" => may.resolve = true,
                "push" => may.push = true,
                // This changes nothing: referrers are read from each host with `pull`.
                "referrers" => {}
                _ => {
                    let what = format!(
                        "expected the capability pull, resolve, push or referrers, found {:?}",
                        named.get_ref()
                    );
                    return Err(text.mistake(&named.span(), what));
                }
            }
        }
        Ok(may)
    }

    fn headers(&self, text: &Text) -> Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        for (name, values) in &self.header {
            let refused = || {
                let what = format!("the header {name:?} has an invalid name or value");
                text.mistake(&values.span(), what)
            };
            let name: HeaderName = name.parse().map_err(|_| refused())?;
            let values = match values.get_ref() {
                OneOrMany::One(value) => std::slice::from_ref(value),
                OneOrMany::Many(values) => values,
            };
            for value in values {
                let value = HeaderValue::from_str(value).map_err(|_| refused())?;
                headers.append(name.clone(), value);
            }
        }
        Ok(headers)
    }

    fn connect(&self, text: &Text) -> Result<Option<Duration>> {
        let Some(said) = &self.dial_timeout else {
            return Ok(None);
        };
        if said.get_ref().is_empty() {
            return Ok(None);
        }
        let parsed = duration::parse(said.get_ref()).ok_or_else(|| {
            let what = format!("expected a duration such as 1s, found {:?}", said.get_ref());
            text.mistake(&said.span(), what)
        })?;
        // With zero, the limit of the caller's timeouts holds.
        Ok(Some(parsed).filter(|parsed| !parsed.is_zero()))
    }

    /// Returns the certificates. Paths are relative to the directory of the file.
    fn tls(self, file: &Path) -> Tls {
        let directory = file.parent().unwrap_or(Path::new(""));
        let at = |path: String| directory.join(path);
        let pair = |[certificate, key]: [String; 2]| {
            let key = if key.is_empty() {
                certificate.clone()
            } else {
                key
            };
            (at(certificate), at(key))
        };
        let both = |path: String| pair([path, String::new()]);
        let clients = match self.client {
            None => Vec::new(),
            Some(Clients::One(path)) => vec![both(path)],
            Some(Clients::Many(clients)) => clients
                .into_iter()
                .map(|client| match client {
                    Client::Both(path) => both(path),
                    Client::Pair(paths) => pair(paths),
                })
                .collect(),
        };
        let authorities = self.ca.map(OneOrMany::into_vec).unwrap_or_default();
        Tls {
            authorities: authorities.into_iter().map(at).collect(),
            clients,
            skip_verify: self.skip_verify.unwrap_or_default(),
        }
    }
}

/// Returns the URL of the API at a host. Its path ends with `/v2`, or is that of `url` if
/// `override_path` is true. A `url` without a scheme is one of https. Returns `None` if `url` does
/// not parse, has a login or a query, or has a scheme other than http and https.
fn root(url: &str, override_path: bool) -> Option<Url> {
    let url = match url.split_once("://") {
        Some(_) => url.to_owned(),
        None => format!("https://{url}"),
    };
    let mut url: Url = url.parse().ok()?;
    if !["http", "https"].contains(&url.scheme()) || url.query().is_some() {
        return None;
    }
    if !url.username().is_empty() || url.password().is_some() {
        return None;
    }
    let mut path = url.path().trim_end_matches('/').to_owned();
    if !override_path && !path.ends_with("/v2") {
        path.push_str("/v2");
    }
    url.set_path(&path);
    Some(url)
}

/// Returns the value of the query parameter `ns`, or `None` if the host is the registry itself.
fn namespace(root: &Url, reference: &FullName) -> Option<String> {
    let (host, registry) = (origin::authority(root), reference.host());
    let is_own = hub::registry(registry) == host || registry == host;
    (!is_own).then(|| registry.to_owned())
}
