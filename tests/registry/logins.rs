//! Where logins are found: the files of podman and docker, and which of them comes first.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::cas;
use super::fake::Fake;
use super::login::closed;
use super::sample::Sample;
use crate::common::{fails, ok};

/// Returns the `auth` of a user, by number from 1 to 9: `u1:p` in base64, and so on.
fn auth(user: usize) -> String {
    format!("dT{}6cA==", &"EIMQUYcgk"[user - 1..user])
}

/// Writes a file with the login of one user.
fn write(file: &Path, key: &str, user: usize) {
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let auths = json!({key: {"auth": auth(user)}});
    let is_legacy = file.ends_with(".dockercfg");
    let config = if is_legacy {
        auths
    } else {
        json!({"auths": auths})
    };
    fs::write(file, config.to_string()).unwrap();
}

/// Pulls from the registry. Returns the login that its token service was shown last.
fn shown(pull: &mut Command, registry: &Fake) -> Option<String> {
    let before = registry.seen().len();
    ok(pull.args(["pull", &registry.image()]));
    let seen = registry.seen();
    let asked = seen[before..]
        .iter()
        .find(|request| request.path.starts_with("/token"));
    asked.unwrap().header("authorization").map(str::to_owned)
}

fn basic(user: usize) -> Option<String> {
    Some(format!("Basic {}", auth(user)))
}

#[test]
fn the_files_of_podman_come_before_those_of_docker() {
    let registry = closed(&Sample::new(&[1000]), None);
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path();
    let tool = |number: usize| {
        let mut tool = cas(&home.join(format!("root{number}")), home);
        tool.env("XDG_RUNTIME_DIR", home.join("run"));
        tool.env_remove("XDG_CONFIG_HOME")
            .env_remove("DOCKER_CONFIG");
        tool
    };
    // From the last source to the first: each of them hides the one before it.
    let files = [
        (".dockercfg", 1),
        (".docker/config.json", 2),
        (".config/containers/auth.json", 3),
        ("run/containers/auth.json", 4),
    ];
    for (number, (file, user)) in files.iter().enumerate() {
        write(&home.join(file), &registry.host, *user);
        let found = shown(&mut tool(number), &registry);
        assert_eq!(found, basic(*user), "{file}");
    }
    // Variables replace the directories, and the file of podman.
    write(&home.join("d/config.json"), &registry.host, 5);
    write(&home.join("c/containers/auth.json"), &registry.host, 6);
    write(&home.join("chosen"), &registry.host, 7);
    for file in ["run/containers/auth.json", ".config/containers/auth.json"] {
        fs::remove_file(home.join(file)).unwrap();
    }
    let found = shown(tool(4).env("DOCKER_CONFIG", home.join("d")), &registry);
    assert_eq!(found, basic(5));
    let mut pull = tool(5);
    pull.env("DOCKER_CONFIG", home.join("d"))
        .env("XDG_CONFIG_HOME", home.join("c"));
    assert_eq!(shown(&mut pull, &registry), basic(6));
    let mut pull = tool(6);
    pull.env("DOCKER_CONFIG", home.join("d"))
        .env("REGISTRY_AUTH_FILE", home.join("chosen"));
    assert_eq!(shown(&mut pull, &registry), basic(7));
    // A file without this login does not end the search.
    write(&home.join("chosen"), "other.test", 7);
    let mut pull = tool(7);
    pull.env("REGISTRY_AUTH_FILE", home.join("chosen"));
    assert_eq!(shown(&mut pull, &registry), basic(2));
}

#[test]
fn a_login_may_be_for_a_namespace_or_a_repository() {
    let registry = closed(&Sample::new(&[1000]), None);
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path();
    let host = registry.host.as_str();
    let login = |user: usize| json!({"auth": auth(user)});
    let cases: [(Value, Option<usize>); 6] = [
        (json!({host: login(1)}), Some(1)),
        (
            json!({host: login(1), format!("{host}/team"): login(2)}),
            Some(2),
        ),
        (
            json!({format!("{host}/team/app"): login(3), format!("{host}/team"): login(2)}),
            Some(3),
        ),
        (json!({format!("http://{host}/v1/"): login(4)}), Some(4)),
        (json!({format!("{host}/other"): login(5)}), None),
        (json!({format!("{host}/team/app/more"): login(6)}), None),
    ];
    for (number, (auths, expected)) in cases.into_iter().enumerate() {
        let config = json!({ "auths": auths });
        fs::write(home.join("config.json"), config.to_string()).unwrap();
        let mut pull = cas(&home.join(number.to_string()), home);
        assert_eq!(
            shown(&mut pull, &registry),
            expected.and_then(basic),
            "{config}"
        );
    }
}

#[test]
fn a_file_that_is_damaged_or_too_large_is_an_error_that_names_it() {
    let registry = closed(&Sample::new(&[1000]), None);
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path();
    let config = home.join("config.json");
    let mut large = json!({"auths": {registry.host.as_str(): {"username": "hush"}}}).to_string();
    large.push_str(&" ".repeat(8 << 20));
    for (text, code) in [
        (r#"{"auths": {"x.test": {"password": "hush}}}"#, 2),
        (r#"{"auths": ["hush"]}"#, 2),
        (r#""hush""#, 2),
        (large.as_str(), 6),
    ] {
        fs::write(&config, text).unwrap();
        let mut pull = cas(&home.join("root"), home);
        let said = fails(pull.args(["pull", &registry.image()]), code);
        assert!(said.contains(config.to_str().unwrap()), "{said}");
        assert!(!said.contains("hush"), "{said}");
    }
    assert_eq!(registry.count("GET", "/token"), 0);
}
