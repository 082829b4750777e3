//! Names of images in docker's grammar, with defaults for the parts that are left out.

use std::fmt;
use std::str::FromStr;

use super::Reference;
use super::grammar::{EXPECTED, HUB, OFFICIAL, check, is_host_like};
use crate::digest::Digest;
use crate::error::{Error, Result, excerpt};
use crate::limit;

/// The older name of [`HUB`], which means the same.
const LEGACY_HUB: &str = "index.docker.io";
/// The tag of names that have neither a tag nor a digest.
const LATEST: &str = "latest";

/// A name in docker's grammar, with its defaults filled in:
/// `HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]`.
///
/// Names are parsed as docker parses them, so `app`, `app:latest`, `index.docker.io/library/app`
/// and `docker.io/library/app:latest` are equal. The part before the first `/` is the host if it
/// has a `.`, a `:` or an upper-case letter, or is `localhost`. The grammar is taken from the
/// module `reference` of the distribution project, but is stricter: a repository of Docker Hub must
/// not look like a digest, digests are SHA-256 or SHA-512, and IPv6 addresses and ports must be
/// valid.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FullName {
    host: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl FullName {
    /// Returns the full form of a stored name, or `None` if the name does not parse.
    pub fn of(name: &Reference) -> Option<Self> {
        name.as_str().parse().ok()
    }

    /// Returns the host of the registry, with its port if the name has one.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the repository in the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Returns the tag, or `None` if the name has a digest and no tag. If the name was given with
    /// neither a tag nor a digest, the tag is `latest`.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Returns the digest, if the name has one.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Returns the full form, as it is stored.
    pub fn name(&self) -> Reference {
        self.into()
    }

    /// Returns the form that docker shows: the host and `library/` of Docker Hub are left out,
    /// unless the rest would be read as another name.
    pub fn familiar(&self) -> String {
        let mut text = self.short_repository();
        self.write_rest(&mut text, self.tag());
        text
    }

    /// Returns all ways to spell the name, the full form first. Earlier releases of cas may have
    /// stored the name in any of these forms.
    pub fn spellings(&self) -> Vec<Reference> {
        let mut repositories = vec![format!("{}/{}", self.host, self.repository)];
        if self.host == HUB {
            repositories.push(self.repository.clone());
            repositories.push(format!("{LEGACY_HUB}/{}", self.repository));
            if let Some(short) = self.repository.strip_prefix(OFFICIAL) {
                repositories.push(short.to_owned());
                repositories.extend([HUB, LEGACY_HUB].map(|host| format!("{host}/{short}")));
            }
        }
        let untagged = self.digest.is_none() && self.tag() == Some(LATEST);
        let tags = [Some(self.tag()), untagged.then_some(None)];
        let spelled = tags.into_iter().flatten().flat_map(|tag| {
            repositories.iter().map(move |repository| {
                let mut text = repository.clone();
                self.write_rest(&mut text, tag);
                text
            })
        });
        // A spelling may mean something else: `docker.io/x/y` is not `x/y` if `x` is a host.
        let same = |text: &String| text.parse().is_ok_and(|other: FullName| other == *self);
        let names = spelled.filter(same).map(|text| text.parse());
        names.filter_map(Result::ok).collect()
    }

    /// Returns the repository as docker shows it.
    fn short_repository(&self) -> String {
        let (host, repository) = (&self.host, &self.repository);
        if host != HUB {
            return format!("{host}/{repository}");
        }
        match repository.strip_prefix(OFFICIAL) {
            Some(rest) if !rest.contains('/') => rest.to_owned(),
            // Without the host, the first part would be taken for a host.
            _ if is_host_like(repository.split('/').next().unwrap_or_default()) => {
                format!("{host}/{repository}")
            }
            _ => repository.clone(),
        }
    }

    /// Adds a tag and the digest.
    fn write_rest(&self, text: &mut String, tag: Option<&str>) {
        if let Some(tag) = tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
    }
}

impl fmt::Display for FullName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = format!("{}/{}", self.host, self.repository);
        self.write_rest(&mut text, self.tag());
        f.pad(&text)
    }
}

impl FromStr for FullName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let named = |error: Error| error.operation("parse name").subject(excerpt(text));
        parse(text).map_err(named)
    }
}

/// Returns a stored name in the short form that people type and that docker shows: `app:1` for
/// `docker.io/library/app:1`. An image without a name is stored under its digest. Such a digest is
/// shortened. Any other name that docker would not accept is returned unchanged.
pub fn familiar(name: &Reference) -> String {
    match (FullName::of(name), name.as_str().parse::<Digest>()) {
        (Some(full), _) => full.familiar(),
        (None, Ok(digest)) => digest.short(),
        (None, Err(_)) => name.to_string(),
    }
}

fn parse(text: &str) -> Result<FullName> {
    if text.contains("://") {
        return Err(Error::invalid(format!(
            "not the name of an image: {EXPECTED}, without a scheme; for http, pull or push with \
             --plain-http"
        )));
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
        None => (text, None),
    };
    let (host, path) = match rest.split_once('/') {
        Some((LEGACY_HUB, path)) => (HUB, path),
        Some((host, path)) if is_host_like(host) => (host, path),
        _ => (HUB, rest),
    };
    let (path, tag) = match path.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (path, None),
    };
    let official = if host == HUB && !path.contains('/') {
        OFFICIAL
    } else {
        ""
    };
    let repository = format!("{official}{path}");
    check(host, &repository, tag)?;
    let tag = tag.or(digest.is_none().then_some(LATEST));
    let name = FullName {
        host: host.to_owned(),
        repository,
        tag: tag.map(str::to_owned),
        digest,
    };
    let length = name.to_string().len();
    if length > limit::NAME {
        return Err(Error::invalid(format!(
            "the full name, which includes the host, has {length} bytes; expected at most {}",
            limit::NAME
        )));
    }
    Ok(name)
}

impl From<&FullName> for Reference {
    fn from(name: &FullName) -> Self {
        Reference::known(name.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(text: &str) -> String {
        text.parse::<FullName>().expect(text).to_string()
    }

    #[test]
    fn what_docker_leaves_out_is_filled_in() {
        let digest = Digest::sha256(b"x");
        for (typed, expected, familiar) in [
            ("app", "docker.io/library/app:latest", "app:latest"),
            ("app:1", "docker.io/library/app:1", "app:1"),
            ("library/app:1", "docker.io/library/app:1", "app:1"),
            (
                "docker.io/app",
                "docker.io/library/app:latest",
                "app:latest",
            ),
            (
                "index.docker.io/library/app",
                "docker.io/library/app:latest",
                "app:latest",
            ),
            ("index.docker.io/me/app:1", "docker.io/me/app:1", "me/app:1"),
            ("me/app:1", "docker.io/me/app:1", "me/app:1"),
            ("library/a/b:1", "docker.io/library/a/b:1", "library/a/b:1"),
            (
                "docker.io/x.y/z:1",
                "docker.io/x.y/z:1",
                "docker.io/x.y/z:1",
            ),
            (
                "localhost:5000",
                "docker.io/library/localhost:5000",
                "localhost:5000",
            ),
            (
                "localhost/app",
                "localhost/app:latest",
                "localhost/app:latest",
            ),
            ("x:5000/a/b", "x:5000/a/b:latest", "x:5000/a/b:latest"),
            ("[::1]:5000/a:1", "[::1]:5000/a:1", "[::1]:5000/a:1"),
            (
                "[2001:db8::1]/a",
                "[2001:db8::1]/a:latest",
                "[2001:db8::1]/a:latest",
            ),
            ("Reg/a:1", "Reg/a:1", "Reg/a:1"),
            ("REG.test/a:V_1", "REG.test/a:V_1", "REG.test/a:V_1"),
            (
                "e/f__b_c.d---e:_",
                "docker.io/e/f__b_c.d---e:_",
                "e/f__b_c.d---e:_",
            ),
        ] {
            assert_eq!(full(typed), expected, "{typed}");
            let name: FullName = typed.parse().unwrap();
            assert_eq!(name.familiar(), familiar, "{typed}");
            assert_eq!(full(familiar), expected, "{typed}");
        }
        let typed = format!("app@{digest}");
        assert_eq!(full(&typed), format!("docker.io/library/app@{digest}"));
        let typed = format!("x.test:1/app:2@{digest}");
        assert_eq!(full(&typed), typed);
    }

    #[test]
    fn other_text_is_refused() {
        let id = "ab".repeat(32);
        let digest = Digest::sha256(b"x").to_string();
        for bad in [
            "",
            "[::ffff:1.2.3.4]:5000/a",
            " ",
            "app ",
            " app",
            "a b",
            "App",
            "app:",
            ":1",
            "app:-1",
            "app:.1",
            "app:1+2",
            "a___b",
            "a..b",
            "a._b",
            "_a",
            "a-",
            "a//b",
            "/a",
            "a/",
            "../a",
            "a?b",
            "https://x.test/a",
            "x.test/",
            "x.test/A",
            "x.test/a/../b",
            "x.test/a#b",
            "x.test/a%2fb",
            "me@x.test/a",
            "x.test:99999/a",
            "x.test:/a",
            "-x.test/a",
            "x..y/a",
            "x.test/a@sha256:12",
            "x.test/a@md5:12",
            "[::1/a",
            "[::1]x/a",
            "[zz]/a",
            "[]:1/a",
            "::1/a",
            "größe",
            "sha256:1",
            "docker.io/library/sha512:a",
            &id,
            &digest,
        ] {
            let error = bad.parse::<FullName>().expect_err(bad);
            assert_eq!(error.kind(), crate::ErrorKind::InvalidArgument, "{bad}");
        }
    }

    #[test]
    fn names_have_bounds() {
        let name = |repository: usize, tag: usize| {
            format!("x.test/{}:{}", "r".repeat(repository), "t".repeat(tag))
        };
        assert!(
            name(limit::REPOSITORY, limit::TAG)
                .parse::<FullName>()
                .is_ok()
        );
        assert!(name(limit::REPOSITORY + 1, 1).parse::<FullName>().is_err());
        assert!(name(1, limit::TAG + 1).parse::<FullName>().is_err());
        let host = format!("{}.test:5000", ["h"; 125].join("."));
        assert!(format!("{host}/a").parse::<FullName>().is_ok());
        assert!(format!("hhhhh.{host}/a").parse::<FullName>().is_err());
        let all = format!("{host}/{}:{}", "r".repeat(200), "t".repeat(100));
        assert!(
            all.parse::<FullName>().is_err(),
            "longer than a stored name"
        );
    }

    #[test]
    fn all_spellings_are_the_same_name() {
        for (typed, count) in [
            ("app", 12),
            ("app:1", 6),
            ("me/app:1", 3),
            ("x.test/app:1", 1),
            ("x.test/app", 2),
            ("docker.io/x.y/app:1", 2),
        ] {
            let name: FullName = typed.parse().unwrap();
            let spellings = name.spellings();
            assert_eq!(spellings.len(), count, "{spellings:?}");
            assert_eq!(spellings[0], name.name());
            for spelling in &spellings {
                assert_eq!(FullName::of(spelling).as_ref(), Some(&name), "{spelling}");
            }
        }
    }
}
