//! Code that the tests of `hosts.toml` and `registries.conf` share. Each test has configuration
//! files that users may write, and for each file the endpoints that the documentation of containerd
//! or podman describes.

use std::path::Path;

use cas_core::image::FullName;
use cas_core::{Digest, Result};

use super::endpoint::{Access, Endpoint, Scheme};
use super::file::Text;

/// Returns the digest of an empty blob.
pub(super) fn digest() -> String {
    Digest::sha256(b"").to_string()
}

/// Returns a text for each endpoint: its capabilities (`p`ull, `r`esolve, p`u`sh, or `-` for one
/// that it lacks), the URL of the repository, and the settings that differ from the default.
pub(super) fn words(endpoints: &[Endpoint]) -> Vec<String> {
    endpoints.iter().map(word).collect()
}

fn word(endpoint: &Endpoint) -> String {
    let may = endpoint.may;
    let letter = |may: bool, letter| if may { letter } else { "-" };
    let scheme = match endpoint.scheme {
        Scheme::Http => "http",
        _ => "https",
    };
    let mut text = [
        letter(may.pull, "p"),
        letter(may.resolve, "r"),
        letter(may.push, "u"),
    ]
    .concat();
    text.push(' ');
    text.push_str(endpoint.base(scheme).unwrap().as_str());
    if endpoint.scheme == Scheme::Either {
        text.push_str(" or http");
    }
    if let Some(namespace) = &endpoint.namespace {
        text.push_str(&format!(" ns={namespace}"));
    }
    let Access {
        tls,
        headers,
        connect,
    } = &endpoint.access;
    if tls.skip_verify {
        text.push_str(" unverified");
    }
    for path in &tls.authorities {
        text.push_str(&format!(" ca={}", path.display()));
    }
    for (certificate, key) in &tls.clients {
        let (certificate, key) = (certificate.display(), key.display());
        text.push_str(&format!(" client={certificate}+{key}"));
    }
    for (name, value) in headers {
        text.push_str(&format!(" {name}:{}", value.to_str().unwrap()));
    }
    if let Some(connect) = connect {
        text.push_str(&format!(" within {connect:?}"));
    }
    text
}

/// A name, a file, and the endpoints or a part of the error.
pub(super) type Row<'a> = (&'a str, &'a str, Result<&'a [&'a str], &'a str>);

/// Checks that each file gives the endpoints or the error of its row.
pub(super) fn hold(
    path: &str,
    rows: &[Row],
    read: impl Fn(&Text, &FullName) -> Result<Vec<Endpoint>>,
) {
    for (name, file, expected) in rows {
        let name: FullName = name
            .replace("@digest", &format!("@{}", digest()))
            .parse()
            .unwrap();
        let found = read(&Text::of(Path::new(path), file), &name);
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(words(&found), *expected, "{name} {file}"),
            (Err(error), Err(part)) => {
                let said = error.to_string();
                assert!(
                    said.contains(part),
                    "{file}: expected {part:?}, found {said:?}"
                );
            }
            (found, _) => unreachable!("{name} {file}: {found:?}"),
        }
    }
}
