//! Lists of what may be pulled and what may not: registries, patterns of names, and digests.

use async_trait::async_trait;
use cas_core::error::excerpt;
use cas_core::image::FullName;
use cas_core::{Descriptor, Digest, Error, ErrorKind, Result};
use reqwest::Url;

use super::Verifier;
use super::pattern::Pattern;
use crate::hosts::url;
use crate::{Host, hub, origin};

/// Lists of rules by which images are accepted. A rule that denies an image wins over one that
/// allows it.
///
/// A rule is
/// - a registry, `HOST` or `HOST:PORT`. Without a port, it is for every port of the host;
/// - a pattern of names, `HOST/REPOSITORY`, with or without `:TAG` and `@DIGEST`. `*` stands for
///   any part of a component, and `**` for any text, as in `registry.example/team/**`. A pattern of
///   hosts alone, such as `*.example.com`, is for all of their names;
/// - the digest that a name refers to. If an image has an index, that is the digest of the index.
#[derive(Clone, Debug)]
pub struct Rules {
    allow: Vec<Rule>,
    deny: Vec<Rule>,
    /// Where the rules come from, for messages.
    place: String,
}

#[derive(Clone, Debug)]
struct Rule {
    /// The rule, as it was written.
    text: String,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Registry(Host),
    Digest(Digest),
    Name {
        pattern: Pattern,
        has_tag: bool,
        has_digest: bool,
    },
}

impl Rules {
    /// Returns rules that accept every image. `place` tells in messages where the rules are, such
    /// as the path of a file.
    pub fn new(place: impl Into<String>) -> Self {
        Rules {
            allow: Vec::new(),
            deny: Vec::new(),
            place: place.into(),
        }
    }

    /// Adds a rule that allows images. Once there is such a rule, images that no such rule allows
    /// are denied.
    ///
    /// # Errors
    /// `InvalidArgument` for text that is not a rule.
    pub fn allow(mut self, rule: &str) -> Result<Self> {
        self.allow.push(Rule::parse(rule)?);
        Ok(self)
    }

    /// Adds a rule that denies images.
    ///
    /// # Errors
    /// `InvalidArgument` for text that is not a rule.
    pub fn deny(mut self, rule: &str) -> Result<Self> {
        self.deny.push(Rule::parse(rule)?);
        Ok(self)
    }

    fn check(&self, name: &FullName, target: &Descriptor) -> Result<()> {
        let image = Judged::new(name, target)?;
        let place = &self.place;
        if let Some(rule) = self.deny.iter().find(|rule| rule.is_for(&image)) {
            let message = format!(
                "the rule {:?} of `deny` in {place} denies the image {}; pull another image, or \
                 change the rule",
                rule.text, target.digest
            );
            return Err(Error::new(ErrorKind::Denied, message));
        }
        if self.allow.is_empty() || self.allow.iter().any(|rule| rule.is_for(&image)) {
            return Ok(());
        }
        let message = format!(
            "no rule of `allow` in {place} allows the image {}; pull another image, or add a rule",
            target.digest
        );
        Err(Error::new(ErrorKind::Denied, message))
    }
}

#[async_trait]
impl Verifier for Rules {
    async fn verify(&self, name: &FullName, target: &Descriptor) -> Result<Vec<String>> {
        self.check(name, target).map(|()| Vec::new())
    }
}

/// An image, as rules compare it.
struct Judged<'a> {
    registry: Url,
    /// `HOST/REPOSITORY`.
    name: String,
    tag: Option<&'a str>,
    digest: Digest,
}

impl<'a> Judged<'a> {
    fn new(name: &'a FullName, target: &Descriptor) -> Result<Self> {
        Ok(Judged {
            registry: url(name.host(), "", "https")?,
            name: format!("{}/{}", one_spelling(name.host())?, name.repository()),
            tag: name.tag(),
            digest: target.digest,
        })
    }
}

/// Returns a host in the one form that rules and names are compared in: in lower case, without the
/// usual ports, and `docker.io` for all names of Docker Hub. Another spelling must not evade a
/// rule.
fn one_spelling(host: &str) -> Result<String> {
    let host = origin::authority(&url(host, "", "https")?);
    let host = host.strip_suffix(":80").unwrap_or(&host);
    let host = if hub::is_hub(host) {
        hub::HOSTS[0]
    } else {
        host
    };
    Ok(host.to_owned())
}

impl Rule {
    fn parse(text: &str) -> Result<Self> {
        let kind = match text.split_once('/') {
            Some((host, rest)) => Kind::name(host, rest),
            None if text.contains('*') => Kind::name(text, "**"),
            // A digest with too few digits is not a host.
            None if text.starts_with("sha") && text.contains(':') => {
                text.parse().ok().map(Kind::Digest)
            }
            None => text.parse().ok().map(Kind::Registry),
        };
        let kind = kind.ok_or_else(|| {
            Error::invalid(format!(
                "\"{}\" is not a rule; expected HOST[:PORT], HOST/REPOSITORY[:TAG] in which * and \
                 ** stand for any text, or a digest",
                excerpt(text)
            ))
        })?;
        let text = text.to_owned();
        Ok(Rule { text, kind })
    }

    fn is_for(&self, image: &Judged) -> bool {
        match &self.kind {
            // The registry of Docker Hub has another host than its names.
            Kind::Registry(host) if hub::is_hub(&host.to_string()) => {
                image.registry.host_str().is_some_and(hub::is_hub)
            }
            Kind::Registry(host) => host.has(&image.registry),
            Kind::Digest(digest) => *digest == image.digest,
            Kind::Name {
                pattern,
                has_tag,
                has_digest,
            } => {
                let mut name = image.name.clone();
                match image.tag {
                    Some(tag) if *has_tag => name.push_str(&format!(":{tag}")),
                    None if *has_tag => return false,
                    _ => {}
                }
                if *has_digest {
                    name.push_str(&format!("@{}", image.digest));
                }
                pattern.is_for(&name)
            }
        }
    }
}

impl Kind {
    /// Returns the rule for names, or `None` if it could not be for any name.
    fn name(host: &str, rest: &str) -> Option<Self> {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:@*".contains(&byte);
        let is_host = host == "localhost" || host.contains(['.', ':', '*']);
        if !is_host || rest.split('/').any(str::is_empty) || !rest.bytes().all(known) {
            return None;
        }
        let host = match host.contains('*') {
            true if host.bytes().all(known) => host.to_ascii_lowercase(),
            true => return None,
            false => one_spelling(&host.parse::<Host>().ok()?.to_string()).ok()?,
        };
        let (named, digest) = match rest.split_once('@') {
            Some((named, digest)) => (named, Some(digest)),
            None => (rest, None),
        };
        let has_tag = named.contains(':');
        // Names of Docker Hub without a namespace are below library/.
        let is_official = host == hub::HOSTS[0] && !rest.contains('/') && !named.contains("**");
        let library = if is_official { "library/" } else { "" };
        Some(Kind::Name {
            pattern: Pattern::new(&format!("{host}/{library}{rest}")),
            has_tag,
            has_digest: digest.is_some(),
        })
    }
}

#[cfg(test)]
mod tests {
    use cas_core::MediaType;

    use super::*;

    fn target() -> Descriptor {
        Descriptor::new(MediaType::OCI_INDEX, Digest::sha256(b"x"), 1)
    }

    /// Returns whether a rule is for a name.
    fn is_for(rule: &str, name: &str) -> bool {
        let rules = Rules::new("here").deny(rule).unwrap();
        rules.check(&name.parse().unwrap(), &target()).is_err()
    }

    #[test]
    fn a_rule_is_a_registry_a_pattern_or_a_digest() {
        let digest = Digest::sha256(b"x").to_string();
        let other = Digest::sha256(b"y").to_string();
        let pinned = format!("x.test/a@{digest}");
        for (rule, name, expected) in [
            ("x.test", "x.test/a:1", true),
            ("x.test", "x.test:5000/a:1", true),
            ("x.test:5000", "x.test:5000/a:1", true),
            ("x.test:5000", "x.test/a:1", false),
            ("x.test", "a.x.test/a:1", false),
            ("localhost", "localhost:5000/a:1", true),
            ("docker.io", "busybox", true),
            ("docker.io", "x.test/busybox", false),
            ("x.test/a", "x.test/a:1", true),
            ("x.test/a", &pinned, true),
            ("x.test/a", "x.test/ab:1", false),
            ("x.test/a", "x.test/a/b:1", false),
            ("x.test/a:1", "x.test/a:1", true),
            ("x.test/a:1", "x.test/a:11", false),
            ("x.test/a:1", &pinned, false),
            ("x.test/a:*", "x.test/a:11", true),
            ("x.test/**:latest", "x.test/a/b", true),
            ("x.test/**", "x.test/a/b:1", true),
            ("x.test/**", "x.test:5000/a/b:1", false),
            ("x.test:5000/**", "x.test:5000/a/b:1", true),
            ("*.x.test", "a.x.test/b:1", true),
            ("*.x.test", "x.test/b:1", false),
            ("*", "x.test/b:1", true),
            ("docker.io/busybox", "busybox", true),
            ("docker.io/*", "busybox", true),
            ("docker.io/*", "team/app", false),
            ("docker.io/team/*", "team/app", true),
            ("docker.io/**", "team/app", true),
            (digest.as_str(), "x.test/a:1", true),
            (other.as_str(), "x.test/a:1", false),
            (pinned.as_str(), "x.test/a:1", true),
            (&format!("x.test/a@{other}"), "x.test/a:1", false),
            (&format!("x.test/a:1@{digest}"), "x.test/a:1", true),
        ] {
            assert_eq!(is_for(rule, name), expected, "{rule} {name}");
        }
    }

    /// Names that lead to the same registry, although they are spelled in another way.
    #[test]
    fn another_spelling_does_not_evade_a_rule() {
        for (rule, name) in [
            ("x.test", "X.Test/a:1"),
            ("X.TEST", "x.test/a:1"),
            ("x.test", "x.test:443/a:1"),
            ("x.test/a", "x.test:443/a:1"),
            ("x.test:443/a", "x.test/a:1"),
            ("x.test/a", "x.test:80/a:1"),
            ("x.test/a", "X.TEST/a:1"),
            ("docker.io", "index.docker.io/team/app"),
            ("docker.io", "registry-1.docker.io/team/app"),
            ("docker.io", "REGISTRY-1.docker.io/team/app"),
            ("index.docker.io", "team/app"),
            ("registry-1.docker.io/team/*", "team/app"),
            ("docker.io/team/app", "registry-1.docker.io:443/team/app"),
        ] {
            assert!(is_for(rule, name), "{rule} {name}");
        }
    }

    #[test]
    fn what_denies_wins_and_the_message_names_the_rule() {
        let rules = Rules::new("[policy] of /root/cas.toml");
        let rules = rules.allow("x.test").unwrap().allow("y.test/a").unwrap();
        let rules = rules.deny("x.test/bad").unwrap();
        let check = |name: &str| rules.check(&name.parse().unwrap(), &target());
        check("x.test/good:1").unwrap();
        check("y.test/a:1").unwrap();
        for (name, expected) in [
            (
                "x.test/bad:1",
                "the rule \"x.test/bad\" of `deny` in [policy] of /root/cas.toml",
            ),
            (
                "y.test/b:1",
                "no rule of `allow` in [policy] of /root/cas.toml",
            ),
            ("z.test/a:1", "no rule of `allow`"),
        ] {
            let error = check(name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Denied);
            assert!(error.to_string().contains(expected), "{error}");
        }
        Rules::new("here")
            .check(&"x.test/a".parse().unwrap(), &target())
            .unwrap();
    }

    #[test]
    fn a_rule_that_could_be_for_no_name_is_refused() {
        for rule in [
            "",
            "/",
            "x.test/",
            "/a",
            "library/app",
            "x.test/a b",
            "https://x.test/a",
            "x.test/a?b",
            "sha256:00",
            "a b",
            "x.test:port",
            "*.x/\u{e9}",
        ] {
            let error = Rules::new("here").allow(rule).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{rule}");
        }
    }
}
