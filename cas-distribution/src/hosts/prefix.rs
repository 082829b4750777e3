//! How a `prefix` of `registries.conf`, and a scope of `policy.json`, matches a name.

use cas_core::image::FullName;

/// Returns the name as podman and skopeo compare it: without the tag, if it also has a digest.
pub(super) fn compared(reference: &FullName) -> String {
    let (host, repository) = (reference.host(), reference.repository());
    match (reference.digest(), reference.tag()) {
        (Some(digest), _) => format!("{host}/{repository}@{digest}"),
        (None, Some(tag)) => format!("{host}/{repository}:{tag}"),
        (None, None) => format!("{host}/{repository}"),
    }
}

/// Returns what follows `prefix` in a name that begins with it, or `None` if the name does not. The
/// prefix must end where a component of the name ends. `*.HOST` matches each subdomain of
/// HOST at any port; the port is then part of what follows.
pub(super) fn rest<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    let slash = name.find('/').unwrap_or(name.len());
    if let Some(domain) = prefix.strip_prefix('*') {
        let host = &name[..slash];
        let host = match host.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => host,
            _ => host,
        };
        return host.ends_with(domain).then(|| &name[host.len()..]);
    }
    let rest = name.strip_prefix(prefix)?;
    // A colon in the host begins a port, which is another registry.
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
}
