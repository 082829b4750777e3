//! Reads `policy.json`, which decides which images podman accepts. Rules that require signatures
//! are not supported.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cas_core::image::FullName;
use cas_core::{Error, ErrorKind, Result};
use serde::Deserialize;
use serde_json::Value;

use super::file;
use super::prefix::Compared;
use crate::bounded::found;

/// The requirement that every image meets.
const ACCEPT: &str = "insecureAcceptAnything";
/// The transport of registries.
const REGISTRIES: &str = "docker";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    default: Vec<Requirement>,
    #[serde(default)]
    transports: BTreeMap<String, BTreeMap<String, Vec<Requirement>>>,
}

/// A requirement for images. An image must meet all requirements of a list.
#[derive(Deserialize)]
struct Requirement {
    #[serde(rename = "type")]
    kind: String,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

/// Checks that the policy in a file accepts images of this name.
///
/// # Errors
/// `Denied` if the policy rejects them; `Unsupported` if it requires signatures, which this version
/// does not verify; `NotFound` if the file is absent; `InvalidArgument` if it does not parse, has
/// an unknown key at its top or in a requirement for this image, or has an empty list; errors of
/// [`file::bytes`].
pub(super) fn check(path: &Path, reference: &FullName) -> Result<()> {
    let data = file::bytes(path)?.ok_or_else(|| {
        let error = Error::not_found("policy.json is absent; check its path");
        error.operation("read").subject(path.display())
    })?;
    let document: Document = serde_json::from_slice(&data).map_err(|error| {
        let line = Some(error.line()).filter(|line| *line > 0);
        file::mistake(path, line, error)
    })?;
    let mut lists = document.transports.values().flat_map(BTreeMap::values);
    if document.default.is_empty() || lists.any(Vec::is_empty) {
        let what =
            "a list of requirements is empty; expected one or more, as in [{\"type\": \"reject\"}]";
        return Err(file::mistake(path, None, what));
    }
    let scopes = document.transports.get(REGISTRIES);
    let (scope, requirements) = scopes
        .and_then(|scopes| most_specific(scopes, reference))
        .unwrap_or(("default", &document.default));
    for requirement in requirements {
        requirement
            .check(path, scope)
            .map_err(|error| error.operation("check the policy of").subject(reference))?;
    }
    Ok(())
}

/// Returns the most specific scope that includes this name, with its requirements.
fn most_specific<'a>(
    scopes: &'a BTreeMap<String, Vec<Requirement>>,
    reference: &FullName,
) -> Option<(&'a str, &'a Vec<Requirement>)> {
    let name = Compared::of(reference);
    let matching = scopes.iter().filter_map(|one| {
        let (scope, requirements) = one;
        let refuses = requirements.iter().any(Requirement::refuses);
        // The scope "" is the default of the transport. `None` ranks it below all other scopes.
        let rank = match scope.as_str() {
            "" => None,
            scope => Some(name.rank(scope, refuses)?),
        };
        Some((rank, one))
    });
    let (_, (scope, requirements)) = matching.max_by_key(|(rank, _)| *rank)?;
    Some((scope, requirements))
}

impl Requirement {
    /// Returns whether the requirement may refuse an image.
    fn refuses(&self) -> bool {
        self.kind != ACCEPT
    }

    fn check(&self, path: &Path, scope: &str) -> Result<()> {
        let by = format!("the rule {scope:?} of {}", path.display());
        match self.kind.as_str() {
            ACCEPT | "reject" if !self.rest.is_empty() => {
                let unknown = self.rest.keys().next().map_or("", String::as_str);
                let what = format!(
                    "the requirement {:?} of the rule {scope:?} has the unknown key {unknown:?}",
                    self.kind
                );
                Err(file::mistake(path, None, what))
            }
            ACCEPT => Ok(()),
            "reject" => Err(Error::new(
                ErrorKind::Denied,
                format!("{by} rejects the image; change the policy to accept it"),
            )),
            kind => Err(Error::unsupported(format!(
                "{by} requires {kind:?}, which this version does not verify; pull the image with \
                 podman or skopeo, or name another policy with --policy-file"
            ))),
        }
    }
}

/// Returns podman's file of the user, otherwise that of the system, or `None` if neither exists.
pub(super) fn of_system(home: Option<&Path>) -> Option<PathBuf> {
    let own = home.map(|home| home.join(".config/containers/policy.json"));
    let system = PathBuf::from("/etc/containers/policy.json");
    own.into_iter()
        .chain([system])
        .find(|path| found(path).is_some())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn checked(policy: &str, name: &str) -> Result<(), String> {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("policy.json");
        fs::write(&path, policy).unwrap();
        check(&path, &name.parse().unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_most_specific_scope_decides() {
        let policy = r#"{"default": [{"type": "reject"}], "transports": {
            "docker": {
                "docker.io/openshift": [{"type": "insecureAcceptAnything"}],
                "docker.io/library/busybox": [{"type": "insecureAcceptAnything"}],
                "docker.io/library/busybox:bad": [{"type": "reject"}],
                "*.temporary.test": [{"type": "insecureAcceptAnything"}],
                "b.temporary.test": [{"type": "reject"}],
                "signed.test:5000/a": [{"type": "sigstoreSigned", "keyPath": "/k"}],
                "both.test": [{"type": "insecureAcceptAnything"}, {"type": "reject"}]
            },
            "dir": {"": [{"type": "insecureAcceptAnything"}]}
        }}"#;
        for name in [
            "openshift/a",
            "busybox",
            "busybox:1",
            "a.temporary.test/x:1",
        ] {
            checked(policy, name).unwrap();
        }
        for (name, scope) in [
            ("alpine", "\"default\""),
            ("openshifty/a", "\"default\""),
            ("busybox:bad", "busybox:bad\""),
            ("b.temporary.test/x", "\"b.temporary.test\""),
            ("temporary.test/x", "\"default\""),
            ("both.test/x", "\"both.test\""),
        ] {
            let said = checked(policy, name).unwrap_err();
            assert!(
                said.contains(scope) && said.contains("rejects the image"),
                "{name}: {said}"
            );
        }
        let said = checked(policy, "signed.test:5000/a/b").unwrap_err();
        assert!(said.contains("requires \"sigstoreSigned\""), "{said}");
        let policy = r#"{"default": [{"type": "reject"}], "transports": {"docker":
            {"": [{"type": "insecureAcceptAnything"}], "*.x.test": [{"type": "reject"}]}}}"#;
        checked(policy, "y.test/a").unwrap();
        checked(policy, "a.x.test/a").unwrap_err();
    }

    #[test]
    fn another_spelling_does_not_evade_a_scope() {
        let policy = r#"{"default": [{"type": "insecureAcceptAnything"}], "transports": {
            "docker": {
                "x.test": [{"type": "reject"}],
                "Y.test.:443/team": [{"type": "reject"}],
                "[2001:db8::1]:5000": [{"type": "reject"}],
                "docker.io/team/app:1": [{"type": "reject"}],
                "*.Z.test": [{"type": "reject"}],
                "127.0.0.1": [{"type": "reject"}]
            }
        }}"#;
        for name in [
            "X.TEST/a:1",
            "x.test:443/a:1",
            "X.test:0443/a:1",
            "y.test/team/app:1",
            "Y.TEST:443/team/app:1",
            "[2001:DB8:0:0::1]:5000/a:1",
            "[2001:0db8::0001]:05000/a:1",
            "registry-1.docker.io/team/app:1",
            "INDEX.docker.io/team/app:1",
            "Docker.io:443/team/app:1",
            "A.z.TEST:5000/a:1",
            "127.1/a:1",
            "[::ffff:7f00:1]/a:1",
            "x.test:80/a:1",
        ] {
            let said = checked(policy, name).unwrap_err();
            assert!(said.contains("rejects the image"), "{name}: {said}");
        }
        for name in ["x.test:8080/a:1", "y.test/other:1", "docker.io/team/app:2"] {
            checked(policy, name).unwrap();
        }
    }

    #[test]
    fn a_scope_that_rejects_wins_over_other_spellings_of_it() {
        let policy = r#"{"default": [{"type": "reject"}], "transports": {
            "docker": {
                "docker.io": [{"type": "reject"}],
                "index.docker.io": [{"type": "insecureAcceptAnything"}],
                "*.docker.io.": [{"type": "insecureAcceptAnything"}],
                "X.test": [{"type": "insecureAcceptAnything"}],
                "x.test": [{"type": "signedBy"}],
                "x.test/team": [{"type": "insecureAcceptAnything"}]
            }
        }}"#;
        for name in ["docker.io/a", "index.docker.io/a", "registry-1.docker.io/a"] {
            let said = checked(policy, name).unwrap_err();
            assert!(said.contains("\"docker.io\" of"), "{name}: {said}");
        }
        for name in ["x.test/a", "X.test/a", "x.test:80/a"] {
            let said = checked(policy, name).unwrap_err();
            assert!(said.contains("requires \"signedBy\""), "{name}: {said}");
        }
        for name in ["auth.docker.io/a", "X.test:443/team/a"] {
            checked(policy, name).unwrap();
        }
    }

    #[test]
    fn mistakes_are_refused_as_by_podman() {
        for (policy, expected) in [
            ("{}", "missing field `default`"),
            (r#"{"default": []}"#, "a list of requirements is empty"),
            (
                r#"{"default": [{"type": "reject", "x": 1}]}"#,
                "unknown key \"x\"",
            ),
            (r#"{"default": [{}]}"#, "missing field `type`"),
            ("{\n\"other\": 1}", "line 2: unknown field `other`"),
            (
                r#"{"default": [{"type": "reject"}], "default": []}"#,
                "duplicate field",
            ),
            ("", "line 1: EOF"),
        ] {
            let said = checked(policy, "busybox").unwrap_err();
            assert!(
                said.contains(expected) && said.contains("policy.json"),
                "{policy}: {said}"
            );
        }
    }
}
