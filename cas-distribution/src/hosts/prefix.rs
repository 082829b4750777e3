//! How a `prefix` of `registries.conf`, and a scope of `policy.json`, matches a name.

use cas_core::image::FullName;

use crate::spelling;

/// Returns the name as podman and skopeo compare it: without the tag, if it also has a digest.
pub(super) fn written(reference: &FullName) -> String {
    let (host, repository) = (reference.host(), reference.repository());
    match (reference.digest(), reference.tag()) {
        (Some(digest), _) => format!("{host}/{repository}@{digest}"),
        (None, Some(tag)) => format!("{host}/{repository}:{tag}"),
        (None, None) => format!("{host}/{repository}"),
    }
}

/// A name with which prefixes are compared: first as podman compares them, then in their [canonical
/// spelling](spelling).
pub(super) struct Compared {
    written: String,
    spelled: String,
}

impl Compared {
    pub(super) fn of(reference: &FullName) -> Self {
        let written = written(reference);
        let spelled = spelling::name(&written);
        Compared { written, spelled }
    }

    /// Returns the part of the name after a prefix, or `None` if the name does not begin with it.
    pub(super) fn rest(&self, prefix: &str) -> Option<&str> {
        let spelled = || rest(&self.spelled, &spelling::name(prefix));
        rest(&self.written, prefix).or_else(spelled)
    }

    /// Returns the rank of a prefix of the name, or `None` if the name does not begin with it.
    /// `refuses` states whether the rule of this prefix refuses images.
    pub(super) fn rank(&self, prefix: &str, refuses: bool) -> Option<Rank> {
        self.rest(prefix)?;
        Some(Rank {
            has_host: !prefix.starts_with('*'),
            length: spelling::name(prefix).len(),
            refuses,
            is_as_written: rest(&self.written, prefix).is_some(),
        })
    }

    /// Returns whether a text leads to the same place as this name over https, however its host is
    /// spelled.
    pub(super) fn is(&self, text: &str) -> bool {
        spelling::is_same_place(text, &self.written)
    }
}

/// How specific a prefix of a name is. The prefix of the greatest rank decides. The first field
/// counts most.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// Whether the prefix begins with a host, and not with a pattern of hosts.
    has_host: bool,
    /// The length of the prefix in its canonical spelling, in bytes.
    length: usize,
    /// Whether the rule of the prefix refuses images. If several prefixes are spellings of
    /// each other, one that refuses decides, so that the others do not evade it.
    refuses: bool,
    /// Whether the prefix is spelled like the name.
    is_as_written: bool,
}

/// Returns the part of a name after `prefix`, or `None` if the name does not begin with it. The
/// prefix must end where a component of the name ends. `*.HOST` matches each subdomain of HOST at
/// any port. The port is then part of the returned text.
fn rest<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    let slash = name.find('/').unwrap_or(name.len());
    if let Some(domain) = prefix.strip_prefix('*') {
        let host = spelling::without_port(&name[..slash]);
        let domain = domain.strip_suffix('.').unwrap_or(domain);
        let [lower, domain] = [host, domain].map(str::to_ascii_lowercase);
        return lower.ends_with(&domain).then(|| &name[host.len()..]);
    }
    let rest = name.strip_prefix(prefix)?;
    // A colon in the host begins a port. A host with a port is another registry.
    let is_in_host = prefix.len() < slash;
    let is_end = rest.is_empty()
        || rest.starts_with('/')
        || !is_in_host && prefix.len() > slash && rest.starts_with([':', '@']);
    is_end.then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_where_a_part_of_the_name_does() {
        for (name, prefix, expected) in [
            ("x.test/a/b:1", "x.test", Some("/a/b:1")),
            ("x.test/a/b:1", "x.test/a", Some("/b:1")),
            ("x.test/a/b:1", "x.test/a/b", Some(":1")),
            ("x.test/a/b:1", "x.test/a/b:1", Some("")),
            ("x.test/a@sha256:00", "x.test/a", Some("@sha256:00")),
            ("x.test/ab:1", "x.test/a", None),
            ("x.test/a:11", "x.test/a:1", None),
            ("x.test:5000/a:1", "x.test", None),
            ("x.test:5000/a:1", "x.test:5000", Some("/a:1")),
            ("x.test.evil.test/a:1", "x.test", None),
            ("x.test/a:1", "y.test", None),
            ("a.x.test/b:1", "*.x.test", Some("/b:1")),
            ("a.b.x.test/b:1", "*.x.test", Some("/b:1")),
            ("a.x.test:5000/b:1", "*.x.test", Some(":5000/b:1")),
            ("x.test/b:1", "*.x.test", None),
            ("ax.test/b:1", "*.x.test", None),
            ("a.x.test.evil.test/b:1", "*.x.test", None),
            ("evil.test/a.x.test:1", "*.x.test", None),
        ] {
            assert_eq!(rest(name, prefix), expected, "{name} {prefix}");
        }
    }

    #[test]
    fn another_spelling_begins_with_the_prefix_too() {
        for (name, prefix, expected) in [
            ("X.TEST/a:1", "x.test", Some("/a:1")),
            ("x.test/a:1", "X.Test/a", Some(":1")),
            ("x.test:443/a:1", "x.test", Some("/a:1")),
            ("x.test/a:1", "x.test.:443/a", Some(":1")),
            ("x.test:05000/a:1", "x.test:5000", Some("/a:1")),
            ("[2001:DB8:0::1]/a:1", "[2001:db8::1]", Some("/a:1")),
            ("[::1]:443/a:1", "[0:0:0:0:0:0:0:1]", Some("/a:1")),
            ("registry-1.docker.io/a/b:1", "docker.io/a", Some("/b:1")),
            ("a/b:1", "index.docker.io", Some("/a/b:1")),
            ("REGISTRY-1.docker.io/a/b:1", "*.docker.io", Some("/a/b:1")),
            ("a.x.test/b:1", "*.X.test.", Some("/b:1")),
            ("A.x.test:5000/b:1", "*.X.test", Some(":5000/b:1")),
            ("x.test:80/a:1", "x.test", Some("/a:1")),
            ("x.test/a:1", "x.test:80/a", Some(":1")),
            ("x.test:8080/a:1", "x.test", None),
            ("[::ffff:7f00:1]:5000/a:1", "127.0.0.1:5000", Some("/a:1")),
            ("127.0.0.1/a:1", "[::ffff:7f00:1]", Some("/a:1")),
            ("X.TEST/a:1", "y.test", None),
        ] {
            let compared = Compared::of(&name.parse().unwrap());
            assert_eq!(compared.rest(prefix), expected, "{name} {prefix}");
            assert_eq!(compared.rank(prefix, false).is_some(), expected.is_some());
        }
    }

    #[test]
    fn a_host_is_more_specific_than_a_pattern_however_long_it_is() {
        for (name, less, more) in [
            (
                "registry-1.docker.io/a",
                "*.docker.io",
                "registry-1.docker.io",
            ),
            ("a.x.test/a", "*.x.test.", "a.x.test"),
            ("a.x.test/a", "*.x.test", "a.x.test/a"),
            ("x.test/a", "x.test:443", "x.test/a"),
            ("a.b.x.test/a", "*.x.test", "*.b.x.test"),
            // Of two spellings of one prefix, the one that is spelled like the name is preferred.
            ("x.test/a", "X.test:443", "x.test"),
            // A host in another spelling than the name is still preferred to a pattern.
            ("a.x.test/a", "*.x.test", "a.x.test:80"),
        ] {
            let compared = Compared::of(&name.parse().unwrap());
            let [less, more] = [less, more].map(|prefix| compared.rank(prefix, false).unwrap());
            assert!(less < more, "{name}");
        }
        let compared = Compared::of(&"x.test/a".parse().unwrap());
        assert!(compared.rank("x.test", false) < compared.rank("X.TEST:443", true));
        assert!(compared.rank("x.test", true) < compared.rank("x.test/a", false));
        let compared = Compared::of(&"a.x.test/a".parse().unwrap());
        assert!(compared.rank("*.x.test", false) == compared.rank("*.X.test.", false));
    }
}
