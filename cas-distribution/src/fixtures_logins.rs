//! Tests with files of logins that users of docker or podman may have. Each test expects the login
//! that the documentation of docker or podman describes.
//!
//! A row has the name of an image, a file, and the expected result: the helpers in the order in
//! which they are asked, and then the login that the file itself has.

use cas_core::Result;
use cas_core::image::FullName;

use crate::config::Config;
use crate::credentials::Credentials;
use crate::hosts::Endpoint;
use crate::keys::Keys;

/// The name of an image, a file, and what [`words`] returns for them: the text, or an error that
/// contains this part.
type Row<'a> = (&'a str, &'a str, Result<&'a str, &'a str>);

/// Returns in words where the login for the name of an image comes from: `ask HELPER` for each
/// helper in turn, then the login that the file itself has.
fn words(name: &str, file: &str, is_legacy: bool) -> Result<String> {
    let endpoint = Endpoint::of(&name.parse::<FullName>()?);
    let keys = Keys::new(&endpoint.base("https")?, endpoint.reference.repository());
    let config = Config::parse(file.as_bytes(), is_legacy)?;
    let asked = config.helpers(&keys).into_iter();
    let asked = asked.map(|helper| format!("ask {helper}"));
    let login = config.saved(&keys)?.map(|login| match login {
        Credentials::Password { name, password } => format!("{name}:{password}"),
        Credentials::Identity(token) => format!("identity {token}"),
        Credentials::Registry(token) => format!("registry {token}"),
    });
    let said: Vec<_> = asked.chain(login).collect();
    Ok(said.join(", "))
}

fn hold(is_legacy: bool, rows: &[Row]) {
    for (name, file, expected) in rows {
        match (words(name, file, is_legacy), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, *expected, "{name} {file}"),
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

/// The keys of `auths` in docker's `config.json`.
#[test]
fn docker_keeps_logins_by_host_or_by_url() {
    let two = r#"{"auths": {
        "https://x.test/v1/": {"auth": "eW91OnB3Mg=="},
        "x.test": {"auth": "bWU6cHc="},
        "x.test:5000": {"auth": "dGVhbTp0"}
    }}"#;
    let url = r#"{"auths": {"https://x.test/v2/": {"auth": "bWU6cHc="}}}"#;
    let port = r#"{"auths": {"http://x.test:5000": {"auth": "bWU6cHc="}}}"#;
    let address = r#"{"auths": {"[fd00::1]:5000": {"auth": "bWU6cHc="}}}"#;
    hold(
        false,
        &[
            // The host alone as a key takes precedence over a URL with the host. The same host with
            // a port is another registry.
            ("x.test/app", two, Ok("me:pw")),
            ("x.test:5000/app", two, Ok("team:t")),
            ("x.test:5001/app", two, Ok("")),
            ("y.test/app", two, Ok("")),
            ("a.x.test/app", two, Ok("")),
            ("x.test/team/app", url, Ok("me:pw")),
            ("x.test:5000/app", url, Ok("")),
            ("x.test:5000/app", port, Ok("me:pw")),
            ("x.test/app", port, Ok("")),
            ("[fd00::1]:5000/app", address, Ok("me:pw")),
            ("[fd00::2]:5000/app", address, Ok("")),
        ],
    );
}

#[test]
fn docker_keeps_the_login_of_its_hub_under_a_url_of_its_own() {
    let hub = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "bWU6cHc="}}}"#;
    let both = r#"{"auths": {
        "docker.io": {"auth": "eW91OnB3Mg=="},
        "https://index.docker.io/v1/": {"auth": "bWU6cHc="}
    }}"#;
    let tokens = r#"{"auths": {
        "https://index.docker.io/v1/access-token": {"auth": "dGVhbTp0"},
        "https://index.docker.io/v1/": {"auth": "bWU6cHc="}
    }}"#;
    let other = r#"{"auths": {"hub.docker.com": {"auth": "bWU6cHc="}}}"#;
    hold(
        false,
        &[
            ("busybox", hub, Ok("me:pw")),
            ("docker.io/team/app", hub, Ok("me:pw")),
            ("index.docker.io/team/app", hub, Ok("me:pw")),
            ("registry-1.docker.io/team/app", hub, Ok("me:pw")),
            ("x.test/busybox", hub, Ok("")),
            ("busybox", both, Ok("me:pw")),
            ("busybox", tokens, Ok("me:pw")),
            ("busybox", other, Ok("")),
        ],
    );
}

/// The members of an entry, as docker writes and reads them.
#[test]
fn an_entry_of_docker_has_one_of_several_logins() {
    let of = |entry: &str| format!(r#"{{"auths": {{"x.test": {entry}}}}}"#);
    for (entry, expected) in [
        (r#"{"auth": "bWU6cHc=", "email": "me@x.test"}"#, Ok("me:pw")),
        (r#"{"auth": "bWU6cDp3"}"#, Ok("me:p:w")),
        (r#"{"auth": "bWU6cHcAAA=="}"#, Ok("me:pw")),
        (r#"{"auth": "bWU6"}"#, Ok("me:")),
        (r#"{"username": "me", "password": "pw"}"#, Ok("me:pw")),
        (r#"{"username": "me"}"#, Ok("me:")),
        (
            r#"{"auth": "", "username": "me", "password": "pw"}"#,
            Ok("me:pw"),
        ),
        // `auth` takes precedence over `username` and `password`.
        (
            r#"{"auth": "bWU6cHc=", "username": "you", "password": "pw2"}"#,
            Ok("me:pw"),
        ),
        (
            r#"{"auth": "bWU6cHc=", "identitytoken": "id"}"#,
            Ok("identity id"),
        ),
        (r#"{"auth": "bWU6cHc=", "identitytoken": ""}"#, Ok("me:pw")),
        (r#"{"auth": "PHRva2VuPjppZA=="}"#, Ok("identity id")),
        (r#"{"registrytoken": "tok"}"#, Ok("registry tok")),
        ("{}", Ok("")),
        ("null", Ok("")),
        (r#"{"auth": "", "email": ""}"#, Ok("")),
        (r#"{"auth": "bm9jb2xvbg=="}"#, Err("not NAME:PASSWORD")),
        (r#"{"auth": "OnB3"}"#, Err("not NAME:PASSWORD")),
        (r#"{"auth": "me:pw"}"#, Err("not NAME:PASSWORD in base64")),
        (r#"{"auth": "/w=="}"#, Err("not NAME:PASSWORD")),
        (r#"{"auth": 7}"#, Err("line 1 does not parse")),
        (r#""bWU6cHc=""#, Err("line 1 does not parse")),
    ] {
        hold(false, &[("x.test/app", &of(entry), expected)]);
    }
}

#[test]
fn docker_asks_the_helper_of_a_registry_or_the_one_for_all() {
    let store = r#"{"auths": {"x.test": {}}, "credsStore": "pass"}"#;
    let helpers = r#"{
        "auths": {"z.test": {"auth": "bWU6cHc="}},
        "credHelpers": {"x.test": "ecr-login", "y.test:5000": "gcr", "z.test": ""},
        "credsStore": "secretservice"
    }"#;
    let hub = r#"{"credHelpers": {"https://index.docker.io/v1/": "hub", "gcr.io": "gcr"}}"#;
    let only = r#"{
        "auths": {"x.test": {"auth": "bWU6cHc="}}, "credHelpers": {"x.test": "own"}
    }"#;
    hold(
        false,
        &[
            ("x.test/app", store, Ok("ask pass")),
            ("y.test/app", store, Ok("ask pass")),
            (
                "x.test/app",
                helpers,
                Ok("ask ecr-login, ask secretservice"),
            ),
            ("y.test:5000/app", helpers, Ok("ask gcr, ask secretservice")),
            ("y.test/app", helpers, Ok("ask secretservice")),
            // If the name of the helper is empty, the login is in the file.
            ("z.test/app", helpers, Ok("me:pw")),
            ("busybox", hub, Ok("ask hub")),
            ("gcr.io/team/app", hub, Ok("ask gcr")),
            ("eu.gcr.io/team/app", hub, Ok("")),
            ("x.test/app", only, Ok("ask own, me:pw")),
        ],
    );
}

#[test]
fn other_settings_of_docker_are_passed_over_and_damage_is_an_error() {
    let settings = r#"{
        "auths": {"x.test": {"auth": "bWU6cHc="}},
        "HttpHeaders": {"User-Agent": "Docker-Client/19.03"},
        "psFormat": "table {{.ID}}",
        "proxies": {"default": {"httpProxy": "http://proxy.test:3128"}},
        "plugins": {"x": {"y": "z"}},
        "currentContext": "default",
        "experimental": "enabled"
    }"#;
    let other = r#"{"auths": {"x.test": {"auth": "bWU6cHc="}, "y.test": {"auth": "!"}}}"#;
    hold(
        false,
        &[
            ("x.test/app", settings, Ok("me:pw")),
            // The damaged login of another registry does not matter.
            ("x.test/app", other, Ok("me:pw")),
            ("y.test/app", other, Err("not NAME:PASSWORD")),
            ("x.test/app", "", Ok("")),
            ("x.test/app", "{}", Ok("")),
            (
                "x.test/app",
                "{\n\"auths\": [\n]}",
                Err("line 2 does not parse"),
            ),
            (
                "x.test/app",
                "{\"auths\":\n{\"x.test\"",
                Err("line 2 does not parse"),
            ),
            ("x.test/app", " [{}]", Err("found a list")),
            ("x.test/app", "\u{feff}{}", Err("line 1 does not parse")),
        ],
    );
}

/// The lookup of containers-auth.json(5): from the repository up to the host.
#[test]
fn podman_keeps_logins_by_namespace() {
    let paths = r#"{"auths": {
        "my-registry.local/foo/bar/image": {"auth": "bWU6cHc="},
        "my-registry.local/foo": {"auth": "eW91OnB3Mg=="},
        "my-registry.local": {"auth": "dGVhbTp0"}
    }}"#;
    let alone = r#"{"auths": {"quay.io/user/image": {"auth": "bWU6cHc="}}}"#;
    let empty = r#"{"auths": {"x.test/team": {}, "x.test": {"auth": "bWU6cHc="}}}"#;
    let port = r#"{"auths": {"localhost:5001/team": {"auth": "bWU6cHc="}}}"#;
    let tagged = r#"{"auths": {"x.test/app:1": {"auth": "bWU6cHc="}}}"#;
    hold(
        false,
        &[
            ("my-registry.local/foo/bar/image:latest", paths, Ok("me:pw")),
            ("my-registry.local/foo/bar/other", paths, Ok("you:pw2")),
            ("my-registry.local/foo/bar", paths, Ok("you:pw2")),
            ("my-registry.local/foo", paths, Ok("you:pw2")),
            ("my-registry.local/food", paths, Ok("team:t")),
            (
                "my-registry.local/namespace/user/image",
                paths,
                Ok("team:t"),
            ),
            ("other.my-registry.local/foo", paths, Ok("")),
            ("quay.io/user/image", alone, Ok("me:pw")),
            ("quay.io/user/image/below", alone, Ok("me:pw")),
            ("quay.io/user", alone, Ok("")),
            ("quay.io/user/image2", alone, Ok("")),
            ("x.test/team/app", empty, Ok("me:pw")),
            ("localhost:5001/team/app", port, Ok("me:pw")),
            ("localhost:5001/app", port, Ok("")),
            ("localhost/team/app", port, Ok("")),
            ("x.test/app:1", tagged, Ok("")),
        ],
    );
}

#[test]
fn podman_keeps_the_login_of_docker_hub_by_its_name() {
    let host = r#"{"auths": {"docker.io": {"auth": "bWU6cHc="}}}"#;
    let parts = r#"{"auths": {
        "docker.io/library": {"auth": "bWU6cHc="},
        "docker.io/team/app": {"identitytoken": "id"}
    }}"#;
    let helper = r#"{
        "auths": {"localhost:5001": {}},
        "credHelpers": {"registry.example.com": "secretservice", "docker.io": "hub"}
    }"#;
    hold(
        false,
        &[
            ("busybox", host, Ok("me:pw")),
            ("docker.io/team/app", host, Ok("me:pw")),
            ("busybox", parts, Ok("me:pw")),
            ("team/app", parts, Ok("identity id")),
            ("team/other", parts, Ok("")),
            ("registry.example.com/app", helper, Ok("ask secretservice")),
            ("busybox", helper, Ok("ask hub")),
            ("localhost:5001/app", helper, Ok("")),
        ],
    );
}

/// `.dockercfg` contains only the entries, and each key is a URL, with or without its scheme.
#[test]
fn the_earliest_file_of_docker_has_urls() {
    let hub = r#"{"https://index.docker.io/v1/": {"auth": "bWU6cHc=", "email": "me@x.test"}}"#;
    let bare = r#"{"x.test/v1/": {"auth": "bWU6cHc="}, "y.test:5000": {"auth": "dGVhbTp0"}}"#;
    let newer = r#"{"auths": {"auth": "bWU6cHc="}, "x.test": {"auth": "eW91OnB3Mg=="}}"#;
    hold(
        true,
        &[
            ("busybox", hub, Ok("me:pw")),
            ("x.test/app", hub, Ok("")),
            ("x.test/app", bare, Ok("me:pw")),
            ("y.test:5000/app", bare, Ok("team:t")),
            ("y.test/app", bare, Ok("")),
            ("x.test/app", newer, Ok("you:pw2")),
            ("x.test/app", "[]", Err("found a list")),
        ],
    );
}
