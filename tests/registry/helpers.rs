//! Credential helpers that are missing or broken: each is skipped with one warning.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use super::cas;
use super::fake::{Answer, Fake, Request};
use super::login::{AUTH, closed};
use super::sample::Sample;
use crate::common::{at_terminal, fails, ok, program, text};

/// A line of a script: answers with the login of [`AUTH`].
pub(crate) const ANSWER: &str = r#"echo '{"ServerURL":"x","Username":"me","Secret":"pass:word"}'"#;
/// A line of a script: reports that the helper has no login.
pub(crate) const NONE: &str = "{ echo 'credentials not found in native keychain'; exit 1; }";

/// Writes the helper `name` into `home`: a shell script.
pub(crate) fn helper(home: &Path, name: &str, lines: &str) {
    script(&home.join(format!("docker-credential-{name}")), lines);
}

/// Writes a shell script that can be started.
pub(crate) fn script(path: &Path, lines: &str) {
    program(path, &format!("#!/bin/sh\n{lines}\n"), 0o755);
}

/// Returns the path of programs with those in `home` first.
pub(crate) fn path(home: &Path) -> String {
    format!("{}:{}", home.display(), std::env::var("PATH").unwrap())
}

/// Answers questions at a terminal, each when it is asked. Returns what the terminal showed.
pub(crate) fn answer(mut script: Command, answers: &[(&str, &str)]) -> String {
    let mut script = script.spawn().unwrap();
    let (mut typed, mut shown) = (script.stdin.take().unwrap(), script.stdout.take().unwrap());
    let mut seen = String::new();
    for (question, answer) in answers {
        while !seen.ends_with(question) {
            let mut byte = [0];
            assert_eq!(shown.read(&mut byte).unwrap(), 1, "{seen}");
            seen.push(char::from(byte[0]));
        }
        typed.write_all(answer.as_bytes()).unwrap();
    }
    let mut rest = Vec::new();
    shown.read_to_end(&mut rest).unwrap();
    seen.push_str(&text(&rest));
    assert!(script.wait().unwrap().success(), "{seen}");
    seen
}

/// Starts a registry whose token service gives a token to everybody.
fn public() -> Fake {
    closed(&Sample::new(&[1000]), None)
}

/// Pulls with this configuration and the helpers in `home`.
fn pull(home: &Path, registry: &Fake, config: &Value) -> Output {
    fs::write(home.join("config.json"), config.to_string()).unwrap();
    let root = tempfile::tempdir_in(home).unwrap();
    let mut pull = cas(&root.path().join("root"), home);
    pull.env("PATH", path(home))
        .args(["pull", &registry.image()]);
    pull.output().unwrap()
}

/// Returns the logins that the token service was shown.
fn shown(registry: &Fake) -> Vec<Option<String>> {
    let asked = registry.seen().into_iter();
    let asked = asked.filter(|request: &Request| request.path.starts_with("/token"));
    asked
        .map(|request| request.header("authorization").map(str::to_owned))
        .collect()
}

#[test]
fn a_helper_that_is_broken_is_skipped_with_one_warning() {
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path();
    for (name, lines) in [
        ("fails", "exit 3"),
        ("killed", "kill -9 $$"),
        ("chatty", "echo hello"),
        ("silent", "true"),
        ("json", "echo '{\"Secret\":\"hush\"}'"),
        ("leaks", "echo '{\"Secret\":\"hush\"}'; exit 1"),
        ("endless", "yes"),
        ("deaf", "exec <&-; echo no; exit 1"),
    ] {
        helper(home, name, lines);
    }
    let broken = [
        "absent", "fails", "killed", "chatty", "silent", "json", "leaks", "endless", "deaf", "../x",
    ];
    for name in broken {
        let registry = public();
        let host = registry.host.as_str();
        for config in [
            json!({"credsStore": name}),
            json!({"credHelpers": {host: name}}),
            json!({"credHelpers": {host: name}, "credsStore": name}),
        ] {
            let out = pull(home, &registry, &config);
            let said = text(&out.stderr);
            assert!(out.status.success(), "{config}: {said}");
            let named = format!("credential helper docker-credential-{name} of ");
            assert_eq!(said.matches(&named).count(), 1, "{config}: {said}");
            assert_eq!(said.matches("warning").count(), 1, "{config}: {said}");
            assert!(
                said.contains("config.json") && !said.contains("hush"),
                "{said}"
            );
        }
        assert_eq!(shown(&registry), vec![None; 3], "{name}");
    }
}

#[test]
fn the_next_source_is_asked_after_a_broken_helper() {
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path();
    helper(home, "good", ANSWER);
    let registry = public();
    let host = registry.host.as_str();
    let configs = [
        json!({"credHelpers": {host: "absent"}, "credsStore": "good"}),
        json!({"credsStore": "absent", "auths": {host: {"auth": AUTH}}}),
        json!({"credHelpers": {host: "absent"}, "auths": {host: {"auth": AUTH}}}),
    ];
    for config in &configs {
        let out = pull(home, &registry, config);
        let said = text(&out.stderr);
        assert!(out.status.success(), "{config}: {said}");
        assert_eq!(
            said.matches("docker-credential-absent").count(),
            1,
            "{said}"
        );
    }
    // If another file names the helper, the login is found in the next file.
    fs::create_dir(home.join("containers")).unwrap();
    let auth = json!({"credHelpers": {host: "absent"}});
    fs::write(home.join("containers/auth.json"), auth.to_string()).unwrap();
    let out = pull(
        home,
        &registry,
        &json!({"credsStore": "absent", "auths": {host: {"auth": AUTH}}}),
    );
    let said = text(&out.stderr);
    assert_eq!(
        said.matches("docker-credential-absent").count(),
        1,
        "{said}"
    );
    assert_eq!(shown(&registry), vec![Some(format!("Basic {AUTH}")); 4]);
}

#[test]
fn a_helper_without_a_login_is_passed_over_without_a_warning() {
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path();
    helper(home, "none", NONE);
    helper(
        home,
        "empty",
        r#"echo '{"ServerURL":"","Username":"","Secret":""}'"#,
    );
    let registry = public();
    for name in ["none", "empty"] {
        let out = pull(home, &registry, &json!({"credsStore": name}));
        let said = text(&out.stderr);
        assert!(out.status.success() && !said.contains("warning"), "{said}");
    }
    assert_eq!(shown(&registry), [None, None]);
}

/// A helper in the background would be stopped when it reads from the terminal.
#[test]
fn a_helper_may_ask_at_the_terminal() {
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path();
    let ask = "printf 'PIN? ' > /dev/tty; read pin < /dev/tty; test \"$pin\" = 1234 || exit 1";
    helper(home, "asks", &format!("{ask}\n{ANSWER}"));
    fs::write(home.join("config.json"), r#"{"credsStore": "asks"}"#).unwrap();
    let registry = public();
    let mut pull = cas(&home.join("root"), home);
    pull.env("PATH", path(home));
    pull.args(["pull", &registry.image()]);
    let Some(script) = at_terminal(&pull) else {
        return;
    };
    let seen = answer(script, &[("PIN? ", "1234\n")]);
    assert!(!seen.contains("warning"), "{seen}");
    assert_eq!(shown(&registry), [Some(format!("Basic {AUTH}"))]);
}

#[test]
fn a_repair_goes_on_without_a_broken_helper() {
    let registry = public();
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path();
    let tool = |words: &[&str]| {
        let mut tool = cas(&home.join("root"), home);
        tool.args(words);
        tool
    };
    ok(&mut tool(&["pull", &registry.image()]));
    let blobs = fs::read_dir(home.join("root/store/blobs/sha256")).unwrap();
    for blob in blobs {
        fs::remove_file(blob.unwrap().path()).unwrap();
    }
    fs::write(home.join("config.json"), r#"{"credsStore": "absent"}"#).unwrap();
    let out = tool(&["fsck", "--repair"]).output().unwrap();
    let said = text(&out.stderr);
    assert!(out.status.success(), "{said}");
    assert_eq!(
        said.matches("docker-credential-absent").count(),
        1,
        "{said}"
    );
}

#[test]
fn a_refusal_after_a_broken_helper_has_the_warning_too() {
    let registry = Fake::start(|_| {
        Answer::error(401, "UNAUTHORIZED", "no").with("WWW-Authenticate", "Basic realm=\"x\"")
    });
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path();
    fs::write(home.join("config.json"), r#"{"credsStore": "absent"}"#).unwrap();
    let mut pull = cas(&home.join("root"), home);
    let said = fails(pull.args(["pull", &registry.image()]), 7);
    assert_eq!(
        said.matches("docker-credential-absent").count(),
        1,
        "{said}"
    );
}
