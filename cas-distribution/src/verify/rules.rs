//! Lists of registries, digests and patterns of names, which allow or deny images.

use async_trait::async_trait;
use cas_core::error::excerpt;
use cas_core::image::FullName;
use cas_core::{Descriptor, Digest, Error, ErrorKind, Result};

use super::Verifier;
use super::pattern::Pattern;
use crate::{Host, hub, spelling};

/// Lists of rules by which images are accepted. A rule that denies an image wins over a rule that
/// allows the image.
///
/// The ports 443 and 80 count as one port. A rule has one of three forms:
/// - A registry, `HOST` or `HOST:PORT`. `HOST` is for every port of the host.
/// - A pattern of names, `HOST/REPOSITORY`, with or without `:TAG` and `@DIGEST`. `*` stands for
///   any text without a slash, and `**` for any text, as in `registry.example/team/**`. Both may
///   stand for an empty text. A pattern of hosts alone, such as `*.example.com`, is for all names
///   on these hosts. In a pattern, a host that has a `*` and no port is for every port. A host
///   without `*` and without a port is only for the ports 443 and 80. A host with a port is only
///   for that port. `docker.io/NAME` stands for `docker.io/library/NAME`, unless `NAME` has a slash
///   or `**`.
/// - A digest. The rule is for every name that refers to this digest. For an image with an index,
///   this is the digest of the index.
///
/// A pattern with a digest is only for names that refer to this digest. If the name of an image has
/// a digest, a tag in the name is not looked up, so the tags of the image are unknown. Then:
/// - The tag of a `deny` rule is ignored.
/// - An `allow` rule with a tag but without a digest does not allow the image.
/// - An `allow` rule with a tag and a digest allows the image only if the name has that tag.
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
    Registry {
        /// The host in its canonical spelling.
        host: String,
        any_port: bool,
    },
    Digest(Digest),
    Name {
        pattern: Pattern,
        /// The pattern without its tag, if it has one.
        untagged: Option<Pattern>,
        has_digest: bool,
        /// Whether the host is a pattern, too.
        any_host: bool,
        /// Whether the host is a pattern without a port.
        any_port: bool,
    },
}

/// What the rules of a list do with an image that they match.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    Allow,
    Deny,
}

impl Rules {
    /// Returns rules that accept every image. `place` states where the rules come from, such as the
    /// path of a file. It is part of the messages about denied images.
    pub fn new(place: impl Into<String>) -> Self {
        Rules {
            allow: Vec::new(),
            deny: Vec::new(),
            place: place.into(),
        }
    }

    /// Adds a rule that allows images. If there is at least one `allow` rule, images that no
    /// `allow` rule allows are denied.
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
        let image = Judged::new(name, target);
        let place = &self.place;
        if let Some(rule) = self
            .deny
            .iter()
            .find(|rule| rule.is_for(&image, Effect::Deny))
        {
            let message = format!(
                "the rule {:?} of `deny` in {place} denies the image {}; pull another image, or \
                 change the rule",
                rule.text, target.digest
            );
            return Err(Error::new(ErrorKind::Denied, message));
        }
        let mut allow = self.allow.iter();
        if self.allow.is_empty() || allow.any(|rule| rule.is_for(&image, Effect::Allow)) {
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
    /// The registry in its canonical spelling.
    host: String,
    /// The registry in its canonical spelling, without a port.
    portless: String,
    /// `HOST/REPOSITORY`.
    name: String,
    /// The other names with which a pattern of hosts is compared: the name without the port of its
    /// host, and, for an image of Docker Hub, the name with each host of Docker Hub.
    others: Vec<String>,
    tag: Option<&'a str>,
    /// Whether the name has a digest. The tag of such a name is not looked up.
    is_pinned: bool,
    digest: Digest,
}

impl<'a> Judged<'a> {
    fn new(name: &'a FullName, target: &Descriptor) -> Self {
        let host = spelling::host(name.host());
        let portless = spelling::host(spelling::without_port(&host));
        let named = |host: &str| format!("{host}/{}", name.repository());
        let mut others = vec![named(&portless)];
        if hub::is_hub(&portless) {
            others.extend(hub::HOSTS.iter().map(|host| named(host)));
        }
        Judged {
            name: named(&host),
            host,
            portless,
            others,
            tag: name.tag(),
            is_pinned: name.digest().is_some(),
            digest: target.digest,
        }
    }
}

impl Rule {
    fn parse(text: &str) -> Result<Self> {
        let kind = match text.split_once('/') {
            Some((host, rest)) => Kind::name(host, rest),
            None if text.contains('*') => Kind::name(text, "**"),
            // Otherwise `sha256:12`, a digest with too few digits, would be a host with a port.
            None if text.starts_with("sha256:") || text.starts_with("sha512:") => {
                text.parse().ok().map(Kind::Digest)
            }
            None => host(text).map(Kind::registry),
        };
        let kind = kind.ok_or_else(|| {
            Error::invalid(format!(
                "\"{}\" is not a rule; expected HOST[:PORT], a digest, or \
                 HOST/REPOSITORY[:TAG][@DIGEST], in which * stands for any text without a slash, \
                 and ** for any text",
                excerpt(text)
            ))
        })?;
        let text = text.to_owned();
        Ok(Rule { text, kind })
    }

    fn is_for(&self, image: &Judged, effect: Effect) -> bool {
        match &self.kind {
            Kind::Registry { host, any_port } => match any_port {
                true => *host == image.portless,
                false => *host == image.host,
            },
            Kind::Digest(digest) => *digest == image.digest,
            Kind::Name {
                pattern,
                untagged,
                has_digest,
                any_host,
                any_port,
            } => {
                let (pattern, tag) = match (untagged, image.tag) {
                    (None, _) => (pattern, String::new()),
                    (Some(untagged), _) if image.is_pinned && effect == Effect::Deny => {
                        (untagged, String::new())
                    }
                    // A rule with a digest needs no look-up of the tag: the digest names the image.
                    (Some(_), Some(tag)) if !image.is_pinned || *has_digest => {
                        (pattern, format!(":{tag}"))
                    }
                    (Some(_), _) => return false,
                };
                let digest = match has_digest {
                    true => format!("@{}", image.digest),
                    false => String::new(),
                };
                let is_usual_port = image.host == image.portless;
                let may_differ = *any_port || (*any_host && is_usual_port);
                let others = image.others.iter().filter(|_| may_differ);
                let mut names = std::iter::once(&image.name).chain(others);
                names.any(|name| pattern.is_for(&format!("{name}{tag}{digest}")))
            }
        }
    }
}

/// Returns the host of a rule. An address may have any form that is valid in a URL, such as
/// `127.1`.
fn host(text: &str) -> Option<Host> {
    let parsed = text.parse().ok();
    let has_port = text.contains(':');
    parsed.or_else(|| {
        let spelled = spelling::host(text);
        let is_address = text.contains('.') && spelled.contains(':') == has_port;
        spelled.parse().ok().filter(|_| is_address)
    })
}

impl Kind {
    fn registry(host: Host) -> Self {
        Kind::Registry {
            host: spelling::host(&host.to_string()),
            any_port: host.is_any_port(),
        }
    }

    /// Returns the rule for names, or `None` if no name could match it.
    fn name(host: &str, rest: &str) -> Option<Self> {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:@*".contains(&byte);
        let is_host = host == "localhost" || host.contains(['.', ':', '*']);
        if !is_host || rest.split('/').any(str::is_empty) || !rest.bytes().all(known) {
            return None;
        }
        let any_host = host.contains('*');
        let any_port = any_host && spelling::without_port(host) == host;
        let host = match any_host {
            true if host.bytes().all(known) => spelling::host(host),
            true => return None,
            false => spelling::host(&self::host(host)?.to_string()),
        };
        let (named, digest) = match rest.split_once('@') {
            Some((named, digest)) => (named, format!("@{digest}")),
            None => (rest, String::new()),
        };
        // Names of Docker Hub without a namespace are below library/.
        let is_official = host == hub::HOSTS[0] && !rest.contains('/') && !named.contains("**");
        let library = if is_official { "library/" } else { "" };
        let pattern = |rest: &str| Pattern::new(&format!("{host}/{library}{rest}"));
        let untagged = named.split_once(':');
        Some(Kind::Name {
            pattern: pattern(rest),
            untagged: untagged.map(|(repository, _)| pattern(&format!("{repository}{digest}"))),
            has_digest: !digest.is_empty(),
            any_host,
            any_port,
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
            ("x.test:443", "x.test:5000/a:1", false),
            ("shared.test:5000", "shared.test:5000/a:1", true),
            ("sha:5000", "sha:5000/a:1", true),
            ("docker.io:443", "registry-1.docker.io:5000/a:1", false),
            ("*.x.test.:5000", "a.x.test/b:1", false),
            ("[2002:7f00:1::1]", "127.0.0.1/a:1", false),
            ("localhost", "localhost:5000/a:1", true),
            ("docker.io", "busybox", true),
            ("docker.io", "x.test/busybox", false),
            ("x.test/a", "x.test/a:1", true),
            ("x.test/a", &pinned, true),
            ("x.test/a", "x.test/ab:1", false),
            ("x.test/a", "x.test/a/b:1", false),
            ("x.test/a:1", "x.test/a:1", true),
            ("x.test/a:1", "x.test/a:11", false),
            ("x.test/a:*", "x.test/a:11", true),
            ("x.test/**:latest", "x.test/a/b", true),
            ("x.test/**", "x.test/a/b:1", true),
            ("x.test/**", "x.test:5000/a/b:1", false),
            ("x.test:5000/**", "x.test:5000/a/b:1", true),
            ("*.x.test", "a.x.test/b:1", true),
            ("*.x.test", "x.test/b:1", false),
            ("*.x.test:5000", "a.x.test/b:1", false),
            ("*.x.test:443", "a.x.test:5000/b:1", false),
            ("*.x.test:80/b", "a.x.test:5000/b:1", false),
            ("*.docker.io:443", "registry-1.docker.io:5000/a:1", false),
            ("*.docker.io:443", "team/app", true),
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
            ("*.x.test", "a.x.test:8443/b:1"),
            ("*.x.test/b", "a.x.test:8443/b:1"),
            ("*.x.test:443", "a.x.test/b:1"),
            ("*.x.test:80", "a.x.test/b:1"),
            ("*.docker.io", "team/app"),
            ("registry*.docker.io/team/*", "team/app"),
            ("x.test.", "x.test/a:1"),
            ("x.test./a", "x.test/a:1"),
            ("[2001:db8::1]", "[2001:DB8:0:0::1]/a:1"),
            ("[2001:db8::1]/a", "[2001:DB8:0:0::1]:443/a:1"),
            ("127.0.0.1/a", "127.1/a:1"),
            ("127.1", "127.0.0.1:5000/a:1"),
            ("127.1:5000", "127.0.0.1:5000/a:1"),
            ("127.1/a", "127.0.0.1/a:1"),
            ("127.0.0.1", "[::ffff:7f00:1]:5000/a:1"),
            ("127.0.0.1:5000", "[::FFFF:7F00:1]:05000/a:1"),
            ("127.0.0.1/a", "[0:0:0:0:0:ffff:7f00:1]/a:1"),
            ("127.0.0.*", "[::ffff:7f00:1]:5000/a:1"),
            ("[::ffff:7f00:1]:5000", "127.0.0.1:5000/a:1"),
            ("192.0.2.1", "[64:ff9b::c000:201]/a:1"),
            ("x.test:443", "x.test:80/a:1"),
            ("x.test:80", "x.test/a:1"),
            ("docker.io", "registry-1.docker.io:80/a"),
            ("docker.io", "registry-1.docker.io:5000/a"),
            ("*.x.test.", "a.x.test/b:1"),
            ("*.X.test.:443/b", "a.x.test:80/b:1"),
            ("*.x.test.:5000/b", "a.x.test:5000/b:1"),
        ] {
            assert!(is_for(rule, name), "{rule} {name}");
        }
    }

    #[test]
    fn a_tag_that_is_not_looked_up_is_denied_and_not_allowed() {
        let digest = Digest::sha256(b"x");
        let other = Digest::sha256(b"y");
        let check =
            |rules: Rules, name: &str| rules.check(&name.parse().unwrap(), &target()).is_ok();
        for name in [
            format!("x.test/a@{digest}"),
            format!("x.test/a:1@{digest}"),
            format!("x.test/a:2@{digest}"),
        ] {
            for rule in ["x.test/a:1", "x.test/a:*", "x.test/*:1"] {
                let rules = Rules::new("here");
                assert!(
                    !check(rules.clone().deny(rule).unwrap(), &name),
                    "{rule} {name}"
                );
                assert!(!check(rules.allow(rule).unwrap(), &name), "{rule} {name}");
            }
            let rules = Rules::new("here");
            let rules = rules.deny(&format!("x.test/a:1@{other}")).unwrap();
            assert!(check(rules, &name), "{name}");
        }
        let rules = Rules::new("here").allow(&format!("x.test/a:1@{digest}"));
        assert!(check(rules.unwrap(), &format!("x.test/a:1@{digest}")));
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
