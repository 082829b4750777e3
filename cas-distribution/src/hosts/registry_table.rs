//! One `[[registry]]` of `registries.conf`: a prefix of names, the location of their images, and
//! mirrors.

use std::ops::Range;

use cas_core::image::FullName;
use cas_core::{Error, ErrorKind, Result};
use serde::Deserialize;
use toml::Spanned;

use super::endpoint::{Capabilities, Endpoint, Scheme};
use super::file::Text;
use super::prefix::{self, Compared};
use crate::spelling;

/// A table as it is written.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "kebab-case")]
pub(super) struct Table {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirror_by_digest_only: bool,
    mirror: Vec<Spanned<MirrorTable>>,
    pull_from_mirror: String,
    proxy: String,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "kebab-case")]
struct MirrorTable {
    location: String,
    insecure: bool,
    pull_from_mirror: String,
    proxy: String,
}

/// Which names a mirror is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    All,
    WithDigest,
    WithoutDigest,
}

/// A place of images: the location of a registry, or a mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    /// The text that replaces the prefix in a name. If the text is empty, the name stays as it is.
    location: String,
    insecure: bool,
    names: Names,
}

/// A checked table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Registry {
    pub(super) prefix: String,
    own: Place,
    mirrors: Vec<Place>,
    pub(super) blocked: bool,
    /// The file, for messages.
    file: String,
}

impl Table {
    /// Returns the table for a registry as version 1 of the format lists it.
    pub(super) fn of_list(location: &str) -> Self {
        Table {
            location: location.to_owned(),
            ..Table::default()
        }
    }

    pub(super) fn block(&mut self) {
        self.blocked = true;
    }

    pub(super) fn trust(&mut self) {
        self.insecure = true;
    }

    /// Checks a table, which is at the bytes `at` of the file.
    ///
    /// # Errors
    /// `InvalidArgument` for a table that podman refuses, and for a proxy.
    pub(super) fn check(self, text: &Text, at: &Range<usize>) -> Result<Registry> {
        let refused = |what: String| text.mistake(at, what);
        let location = trimmed(&self.location).map_err(refused)?;
        let prefix = trimmed(&self.prefix).map_err(refused)?;
        let prefix = if prefix.is_empty() { location } else { prefix };
        let is_wildcard = prefix.starts_with("*.");
        if prefix.is_empty() {
            return Err(refused(
                "expected a location, or a prefix such as *.example.com".into(),
            ));
        }
        if is_wildcard && prefix.contains(['/', '@', ':']) {
            let what = format!(
                "expected a prefix such as *.example.com, without a port or a path, found {prefix:?}"
            );
            return Err(refused(what));
        }
        if location.is_empty() && !is_wildcard {
            return Err(refused(format!("the prefix {prefix:?} needs a location")));
        }
        if !self.pull_from_mirror.is_empty() {
            let what = "pull-from-mirror belongs in a [[registry.mirror]], not in a [[registry]]";
            return Err(refused(what.into()));
        }
        refuse_proxy(&self.proxy, text, at)?;
        let (prefix, location) = (prefix.to_owned(), location.to_owned());
        let by_digest = self.mirror_by_digest_only;
        let mirrors = self.mirror.into_iter().map(|mirror| {
            let at = mirror.span();
            mirror.into_inner().check(by_digest, text, &at)
        });
        Ok(Registry {
            prefix,
            mirrors: mirrors.collect::<Result<_>>()?,
            own: Place {
                location,
                insecure: self.insecure,
                names: Names::All,
            },
            blocked: self.blocked,
            file: text.path().display().to_string(),
        })
    }
}

impl MirrorTable {
    fn check(self, by_digest: bool, text: &Text, at: &Range<usize>) -> Result<Place> {
        let refused = |what: String| text.mistake(at, what);
        let location = trimmed(&self.location).map_err(refused)?;
        if location.is_empty() {
            return Err(refused("the mirror needs a location".into()));
        }
        refuse_proxy(&self.proxy, text, at)?;
        let names = match self.pull_from_mirror.as_str() {
            "" if by_digest => Names::WithDigest,
            "" | "all" => Names::All,
            "digest-only" => Names::WithDigest,
            "tag-only" => Names::WithoutDigest,
            other => {
                return Err(refused(format!(
                    "expected pull-from-mirror to be all, digest-only or tag-only, found {other:?}"
                )));
            }
        };
        if by_digest && !self.pull_from_mirror.is_empty() {
            return Err(refused(
                "pull-from-mirror and mirror-by-digest-only exclude each other; remove one".into(),
            ));
        }
        Ok(Place {
            location: location.to_owned(),
            insecure: self.insecure,
            names,
        })
    }
}

impl Registry {
    /// Returns the key in which this table contradicts another one of the same file, or `None` if
    /// they agree or are for different locations.
    pub(super) fn contradicts(&self, other: &Self) -> Option<&'static str> {
        if !spelling::is_same_place(self.location(), other.location()) {
            None
        } else if self.own.insecure != other.own.insecure {
            Some("insecure")
        } else if self.blocked != other.blocked {
            Some("blocked")
        } else {
            None
        }
    }

    fn location(&self) -> &str {
        match self.own.location.as_str() {
            "" => &self.prefix,
            location => location,
        }
    }

    /// Returns the endpoints for a name that begins with the prefix.
    ///
    /// # Errors
    /// `Denied` if the names are blocked; `InvalidArgument` if a location does not give a name.
    pub(super) fn endpoints(&self, reference: &FullName) -> Result<Vec<Endpoint>> {
        if self.blocked {
            let why = format!(
                "{} blocks names that begin with {:?}; remove `blocked`, or the host from \
                 [registries.block], to allow them",
                self.file, self.prefix
            );
            return Err(Error::new(ErrorKind::Denied, why).subject(reference));
        }
        let mut found = Vec::new();
        for mirror in &self.mirrors {
            let is_used = match mirror.names {
                Names::All => true,
                Names::WithDigest => reference.digest().is_some(),
                Names::WithoutDigest => reference.digest().is_none(),
            };
            if is_used {
                let there = self.rewritten(mirror, reference)?;
                found.push(endpoint(&there, mirror, Capabilities::READ));
            }
        }
        let there = self.rewritten(&self.own, reference)?;
        if there == *reference {
            found.push(endpoint(reference, &self.own, Capabilities::ALL));
        } else {
            found.push(endpoint(&there, &self.own, Capabilities::READ));
            // Locations and mirrors are for reading only.
            found.push(endpoint(reference, &self.own, Capabilities::PUSH));
        }
        Ok(found)
    }

    /// Returns the name of the image in a place.
    fn rewritten(&self, place: &Place, reference: &FullName) -> Result<FullName> {
        let name = Compared::of(reference);
        let is_own =
            place.location.is_empty() || spelling::is_same_place(&place.location, &self.prefix);
        let Some(rest) = name.rest(&self.prefix).filter(|_| !is_own) else {
            return Ok(reference.clone());
        };
        let text = format!("{}{rest}", place.location);
        if name.is(&text) {
            return Ok(reference.clone());
        }
        let parsed = text.parse::<FullName>().ok();
        // `parse` adds a default host, namespace or tag, as docker does. If it added one, the text
        // is refused.
        let parsed = parsed.filter(|parsed| prefix::written(parsed) == text);
        parsed.ok_or_else(|| {
            Error::invalid(format!(
                "{} gives the name {text:?}, which is not a full name; expected \
                 HOST[:PORT]/REPOSITORY with a tag or a digest, where a repository on docker.io \
                 has a namespace, as in library/alpine; correct the location {:?}",
                self.file, place.location
            ))
            .subject(reference)
        })
    }
}

fn endpoint(reference: &FullName, place: &Place, may: Capabilities) -> Endpoint {
    let mut endpoint = Endpoint::of(reference);
    endpoint.may = may;
    if place.insecure {
        endpoint.scheme = Scheme::Either;
        endpoint.access.tls.skip_verify = true;
    }
    endpoint
}

fn refuse_proxy(proxy: &str, text: &Text, at: &Range<usize>) -> Result<()> {
    if proxy.is_empty() {
        return Ok(());
    }
    let what = "a proxy for one registry is not supported; use the environment variables \
                HTTPS_PROXY and NO_PROXY, and remove `proxy` here";
    Err(text.mistake(at, what))
}

/// Returns a location or a prefix without the slashes at its end, or why it is refused.
fn trimmed(location: &str) -> Result<&str, String> {
    let trimmed = location.trim_end_matches('/');
    if trimmed.starts_with("http://") || trimmed.starts_with("https://") {
        return Err(format!(
            "expected HOST[:PORT][/NAMESPACE] without a scheme, found {location:?}"
        ));
    }
    Ok(trimmed)
}
