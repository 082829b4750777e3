//! The keys under which credential helpers and files of logins keep the login for a registry.
//!
//! docker uses the host of the registry, earlier releases of docker used URLs, and Docker Hub has a
//! key of its own. podman also uses the host with a namespace or a repository. A login under a key
//! with a namespace or a repository is only for this namespace or repository.

use reqwest::Url;

use crate::{hub, origin};

/// The keys of a login for one repository, or for a registry.
pub(crate) struct Keys {
    scheme: String,
    /// Names of the registry's host.
    hosts: Vec<String>,
    /// Keys of the registry as a whole, best first. Helpers are asked for these.
    whole: Vec<String>,
    /// Keys of the repository and of the namespaces that it is in, innermost first.
    parts: Vec<String>,
}

impl Keys {
    /// Returns the keys for a repository of the registry at this URL. An empty `repository` stands
    /// for the registry as a whole.
    pub(crate) fn new(registry: &Url, repository: &str) -> Self {
        let host = origin::authority(registry);
        let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        let (hosts, whole) = if hub::is_hub(&host) {
            (texts(&hub::HOSTS), texts(&hub::KEYS))
        } else {
            (vec![host.clone()], vec![host])
        };
        let cuts = repository.match_indices('/').map(|(at, _)| at);
        let mut ends: Vec<usize> = cuts
            .chain([repository.len()])
            .filter(|end| *end > 0)
            .collect();
        ends.reverse();
        let parts = ends.iter().flat_map(|end| {
            let part = &repository[..*end];
            hosts.iter().map(move |host| format!("{host}/{part}"))
        });
        Keys {
            scheme: registry.scheme().to_owned(),
            parts: parts.collect(),
            hosts,
            whole,
        }
    }

    /// Returns the keys of the registry as a whole, best first.
    pub(crate) fn whole(&self) -> &[String] {
        &self.whole
    }

    /// Returns the keys to look up exactly, the most specific one first.
    pub(crate) fn exact(&self) -> impl Iterator<Item = &String> {
        self.parts.iter().chain(&self.whole)
    }

    /// Returns whether `key` means the registry as a whole, in any spelling.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.whole.iter().any(|own| own == key) || self.mean(key, false)
    }

    /// Returns whether `key` is a host of the registry, or a URL on such a host, in any spelling. A
    /// key is a URL if it has a scheme, if it ends with `/`, or if `is_url` is true. The scheme and
    /// the path of a URL do not count.
    pub(crate) fn mean(&self, key: &str, is_url: bool) -> bool {
        let (rest, is_url) = match key.split_once("://") {
            Some((_, rest)) => (rest, true),
            None => (key, is_url || key.ends_with('/')),
        };
        let host = match rest.split_once('/') {
            Some((host, _)) if is_url => host,
            Some(_) => return false,
            None => rest,
        };
        // The parser of URLs makes the host lower case, and removes the usual port of the scheme.
        let url = format!("{}://{host}/", self.scheme).parse::<Url>();
        url.is_ok_and(|url| self.hosts.contains(&origin::authority(&url)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(registry: &str, repository: &str) -> Keys {
        Keys::new(&registry.parse().unwrap(), repository)
    }

    #[test]
    fn the_most_specific_key_comes_first() {
        let found = keys("https://x.test:5000/v2/a/b/c/", "a/b/c");
        let found: Vec<_> = found.exact().collect();
        let expected = ["/a/b/c", "/a/b", "/a", ""].map(|part| format!("x.test:5000{part}"));
        assert_eq!(found, expected.iter().collect::<Vec<_>>());
        assert_eq!(keys("https://x.test/v2/", "").exact().count(), 1);
    }

    #[test]
    fn docker_hub_is_known_by_all_its_names() {
        for registry in ["https://registry-1.docker.io", "https://docker.io"] {
            let found = keys(registry, "library/app");
            assert_eq!(found.whole(), ["https://index.docker.io/v1/", "docker.io"]);
            let exact: Vec<_> = found.exact().map(String::as_str).collect();
            assert_eq!(exact[0], "docker.io/library/app");
            assert!(exact.contains(&"docker.io/library"), "{exact:?}");
            for key in [
                "index.docker.io",
                "https://docker.io",
                "registry-1.docker.io",
                "http://index.docker.io/v1/",
                "https://registry-1.docker.io/v2/",
                "Docker.IO",
                "docker.io:443",
            ] {
                assert!(found.mean(key, false), "{key}");
            }
            for key in [
                "auth.docker.io",
                "docker.io.test",
                "hub.docker.io",
                "docker.io:80",
            ] {
                assert!(!found.mean(key, false), "{key}");
            }
        }
        assert!(!keys("https://x.test", "").mean("https://index.docker.io/v1/", false));
    }

    #[test]
    fn urls_mean_their_host_and_nothing_else_does() {
        let found = keys("https://x.test/v2/team/app/", "team/app");
        for key in [
            "x.test",
            "X.Test",
            "x.test:443",
            "x.test/",
            "x.test/v1/",
            "http://x.test",
            "https://x.test/v2/",
            "https://x.test/other",
        ] {
            assert!(found.mean(key, false), "{key}");
        }
        for key in [
            "",
            "/",
            "://",
            "x.test:5000",
            "https://x.test:5000/",
            "x.test.evil.test",
            "https://evil.test/x.test",
            "https://me@evil.test/x.test",
            "y.test/x.test",
            // The login under a key with a namespace is for that namespace alone.
            "x.test/other",
            "x.test/team",
        ] {
            assert!(!found.mean(key, false), "{key}");
        }
        // A file of the earliest format has only URLs.
        assert!(found.mean("x.test/v1", true));
    }
}
