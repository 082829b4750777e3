//! A place that may have an image: a registry or a mirror of a registry.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use cas_core::image::FullName;
use cas_core::{Error, Result};
use reqwest::Url;
use reqwest::header::HeaderMap;

use crate::{hub, origin};

/// The operations for which an endpoint may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capabilities {
    /// Whether content may be read by its digest.
    pub(crate) pull: bool,
    /// Whether a tag may be resolved to a digest.
    pub(crate) resolve: bool,
    /// Whether images may be pushed.
    pub(crate) push: bool,
}

impl Capabilities {
    pub(crate) const ALL: Self = Capabilities {
        pull: true,
        resolve: true,
        push: true,
    };
    pub(crate) const READ: Self = Capabilities {
        push: false,
        ..Self::ALL
    };
    pub(crate) const PUSH: Self = Capabilities {
        pull: false,
        resolve: false,
        push: true,
    };
}

/// The scheme by which an endpoint is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// http with [`Options::plain_http`](crate::Options::plain_http), and for a registry on this
    /// machine that does not require TLS. Otherwise https.
    Usual,
    Https,
    Http,
    /// http if a first request over https fails within a few seconds and the host does not use TLS.
    /// Otherwise https, even if the host has not answered that request by then.
    Either,
}

/// The certificates that are trusted, and those that are presented to the host. Each path is that
/// of a PEM file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    /// Certificates of authorities, in addition to those of the system. They are also trusted for
    /// the hosts that the registry refers to.
    pub(crate) authorities: Vec<PathBuf>,
    /// Client certificates, each with its key. A certificate and its key may be in one file. Only
    /// the first certificate is presented to the host.
    pub(crate) clients: Vec<(PathBuf, PathBuf)>,
    /// Whether the certificate of the host is not verified.
    pub(crate) skip_verify: bool,
}

/// How a host is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Access {
    /// The certificates that are trusted, and those that are presented to the host.
    pub(crate) tls: Tls,
    /// Headers of every request to the host.
    pub(crate) headers: HeaderMap,
    /// Maximum time to connect. If `None`, [`Timeouts::connect`](crate::Timeouts::connect) applies.
    pub(crate) connect: Option<Duration>,
}

/// A registry, or a mirror of a registry, that may have an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The name of the image at the endpoint. If `url` is `None`, the host of this name is the host
    /// of the endpoint.
    pub(crate) reference: FullName,
    /// The URL of the API. It ends with `/v2`, unless `hosts.toml` sets `override_path`. If `None`,
    /// the API is at the host of `reference`.
    pub(crate) url: Option<Url>,
    /// The operations for which the endpoint may be used.
    pub(crate) may: Capabilities,
    /// The host of the registry that a mirror of `hosts.toml` stands for. Requests to the mirror
    /// have this host in the query parameter `ns`, as containerd's requests do. `None` for the
    /// registry itself and for mirrors of `registries.conf`.
    pub(crate) namespace: Option<String>,
    /// How the host is reached.
    pub(crate) access: Access,
    pub(crate) scheme: Scheme,
    /// Whether `hosts.toml` has the URL or the settings of TLS, so that no directory of
    /// certificates is read.
    pub(crate) names_its_trust: bool,
}

impl Endpoint {
    /// Returns the endpoint for the registry that `reference` names.
    pub fn of(reference: &FullName) -> Self {
        Endpoint {
            reference: reference.clone(),
            url: None,
            may: Capabilities::ALL,
            namespace: None,
            access: Access::default(),
            scheme: Scheme::Usual,
            names_its_trust: false,
        }
    }

    /// Returns the host whose login is used: the host of the URL, with the port unless it is the
    /// default port of the scheme. If the endpoint has no URL, returns the host in the name of the
    /// image.
    pub fn host(&self) -> String {
        match &self.url {
            Some(url) => origin::authority(url),
            None => self.reference.host().to_owned(),
        }
    }

    /// Returns the URL of the repository, by http or https.
    ///
    /// # Errors
    /// `InvalidArgument` if the reference does not give a valid URL.
    pub(crate) fn base(&self, scheme: &str) -> Result<Url> {
        let repository = self.reference.repository();
        let Some(root) = &self.url else {
            return url(self.reference.host(), repository, scheme);
        };
        let path = root.path().trim_end_matches('/');
        let authority = origin::authority(root);
        parse(&format!("{scheme}://{authority}{path}/{repository}/"))
    }
}

impl fmt::Display for Endpoint {
    /// Writes the URL of the endpoint, or its host if it has no URL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.url {
            Some(url) => f.write_str(url.as_str()),
            None => f.write_str(self.reference.host()),
        }
    }
}

/// Returns the URL of a repository. `host` is the host of its registry as names of images have it,
/// such as `docker.io`. If `repository` is empty, returns the URL of the registry's API.
pub(crate) fn url(host: &str, repository: &str, scheme: &str) -> Result<Url> {
    let host = hub::registry(host);
    let end = if repository.is_empty() { "" } else { "/" };
    parse(&format!("{scheme}://{host}/v2/{repository}{end}"))
}

fn parse(url: &str) -> Result<Url> {
    url.parse().map_err(|error| {
        Error::invalid(format!(
            "the host gives an invalid URL: {error}; correct the host"
        ))
    })
}
