//! `cas login` and `cas logout`.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};

use super::cas;
use super::fake::{Answer, Fake, Request};
use super::heals::flip;
use super::helpers::{self, helper};
use super::login::AUTH;
use super::sample::Sample;
use crate::common::docker::{PASSWORD, PROGRAM, Registry, USER};
use crate::common::shop::{GZIP, Shop};
use crate::common::{at_terminal, can, fails, ok, text};

/// Starts a registry that accepts the login of [`AUTH`]: by itself, or by its token service.
fn registry(has_tokens: bool) -> Fake {
    let own = Arc::new(OnceLock::<String>::new());
    let host = Arc::clone(&own);
    let sample = Sample::new(&[1000]);
    let fake = Fake::start(move |request| {
        let shown = request.header("authorization").unwrap_or_default();
        let knows = shown == format!("Basic {AUTH}");
        if request.path.starts_with("/token") {
            return match knows {
                true => Answer::new(200).body(br#"{"token": "good"}"#),
                false => Answer::error(401, "UNAUTHORIZED", "wrong name or password"),
            };
        }
        if if has_tokens {
            shown == "Bearer good"
        } else {
            knows
        } {
            return match request.path.as_str() {
                "/v2/" => Answer::new(200).body(b"{}"),
                _ => sample.answer(request),
            };
        }
        let challenge = match has_tokens {
            true => format!(
                "Bearer realm=\"http://{}/token\",service=\"x\"",
                host.get().unwrap()
            ),
            false => "Basic realm=\"x\"".to_owned(),
        };
        Answer::error(401, "UNAUTHORIZED", "log in").with("WWW-Authenticate", &challenge)
    });
    own.set(fake.host.clone()).unwrap();
    fake
}

/// Runs the tool with the password on standard input.
fn with_password(tool: &mut Command, password: &str) -> Output {
    tool.stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut tool = tool.spawn().unwrap();
    // A tool that refuses its arguments does not read.
    let _ = tool.stdin.take().unwrap().write_all(password.as_bytes());
    tool.wait_with_output().unwrap()
}

fn login(home: &Path, words: &[&str], password: &str) -> Output {
    let mut tool = cas(&home.join("root"), home);
    tool.args(["login", "-u", "me", "--password-stdin"])
        .args(words);
    tool.env("PATH", helpers::path(home));
    with_password(&mut tool, password)
}

fn logout(home: &Path, words: &[&str]) -> Command {
    let mut tool = cas(&home.join("root"), home);
    tool.arg("logout")
        .args(words)
        .env("PATH", helpers::path(home));
    tool
}

fn read(file: &Path) -> Value {
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

#[test]
fn a_login_is_checked_and_then_saved_where_docker_saves_it() {
    for has_tokens in [false, true] {
        let registry = registry(has_tokens);
        let scratch = tempfile::tempdir().unwrap();
        let home = scratch.path();
        let file = home.join("config.json");
        fs::write(
            &file,
            r#"{"detachKeys": "ctrl-x", "auths": {"y.test": {"auth": "YTpi"}}}"#,
        )
        .unwrap();
        let out = login(home, &[&registry.host], "wrong");
        let said = text(&out.stderr);
        assert_eq!(out.status.code(), Some(7), "{said}");
        assert!(
            said.contains("refused the login of me") && !said.contains("wrong\n"),
            "{said}"
        );
        assert_eq!(read(&file)["auths"].as_object().unwrap().len(), 1);
        let out = login(home, &[&registry.host], "pass:word\n");
        let (said, shown) = (text(&out.stderr), text(&out.stdout));
        assert!(out.status.success(), "{said}");
        assert!(
            shown.contains("as me") && shown.contains("not encrypted"),
            "{shown}"
        );
        assert!(
            !shown.contains("pass:word") && said.is_empty(),
            "{shown}{said}"
        );
        let expected = json!({
            "auths": {registry.host.as_str(): {"auth": AUTH}, "y.test": {"auth": "YTpi"}},
            "detachKeys": "ctrl-x",
        });
        assert_eq!(read(&file), expected);
        assert_eq!(
            fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600
        );
        // No root was made, and no scope asked for.
        assert!(!home.join("root").exists());
        assert!(
            registry
                .seen()
                .iter()
                .all(|request| !request.path.contains("scope"))
        );
        ok(cas(&home.join("root"), home).args(["pull", &registry.image()]));
        ok(&mut logout(home, &[&registry.host]));
        assert_eq!(read(&file)["auths"], json!({"y.test": {"auth": "YTpi"}}));
        let said = fails(&mut logout(home, &[&registry.host]), 3);
        assert!(said.contains("config.json"), "{said}");
        fails(
            cas(&home.join("other"), home).args(["pull", &registry.image()]),
            7,
        );
    }
}

#[test]
fn a_helper_keeps_the_login_if_the_file_names_one() {
    let registry = registry(true);
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path();
    // A helper that keeps one login, in a file.
    helper(
        home,
        "box",
        "box=\"$DOCKER_CONFIG/box\"\ncase $1 in\nstore) cat > $box ;;\nerase) rm $box ;;\n\
         get) if [ -e $box ]; then cat $box; else echo credentials not found; exit 1; fi ;;\nesac",
    );
    let file = home.join("config.json");
    let host = registry.host.as_str();
    // A login that an earlier version has saved without the helper.
    let old = json!({"credsStore": "box", "auths": {host: {"auth": "b2xkOm9sZA=="}}});
    fs::write(&file, old.to_string()).unwrap();
    let out = login(home, &[host, "--json"], "pass:word");
    assert!(out.status.success(), "{}", text(&out.stderr));
    let made: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(made["helper"], "docker-credential-box");
    assert_eq!(
        (&made["registry"], &made["username"]),
        (&json!(host), &json!("me"))
    );
    assert_eq!(
        read(&file),
        json!({"credsStore": "box", "auths": {host: {}}})
    );
    let kept = read(&home.join("box"));
    assert_eq!(
        kept,
        json!({"ServerURL": host, "Username": "me", "Secret": "pass:word"})
    );
    let mut pull = cas(&home.join("root"), home);
    ok(pull
        .env("PATH", helpers::path(home))
        .args(["pull", &registry.image()]));
    ok(&mut logout(home, &[host]));
    assert!(!home.join("box").exists());
    assert_eq!(read(&file)["auths"], json!({}));
    // `--all` removes all logins.
    assert!(login(home, &[host], "pass:word").status.success());
    assert_eq!(
        ok(logout(home, &["--all"]).arg("--json")),
        format!("{}\n", json!({"loggedOut": host}))
    );
    assert!(!home.join("box").exists());
    // A helper that fails saves nothing, and repeats no secret.
    helper(home, "box", "cat; exit 1");
    let out = login(home, &[host], "pass:word");
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(
        said.contains("docker-credential-box") && !said.contains("pass:word"),
        "{said}"
    );
    assert_eq!(read(&file)["auths"], json!({}));
}

#[test]
fn another_file_is_written_and_read_if_it_is_named() {
    let registry = registry(false);
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path();
    let host = registry.host.as_str();
    let named = home.join("new/auth.json");
    let named = named.to_str().unwrap();
    let out = login(home, &[host, "--authfile", named], "pass:word");
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(
        read(Path::new(named)),
        json!({"auths": {host: {"auth": AUTH}}})
    );
    assert!(!home.join("config.json").exists());
    let tool = |root: &str| cas(&home.join(root), home);
    fails(tool("root").args(["pull", &registry.image()]), 7);
    ok(tool("root").args(["pull", "--authfile", named, &registry.image()]));
    fails(
        tool("empty").args(["pull", "--authfile", "/nowhere", &registry.image()]),
        3,
    );
    // A repair reads the file, too.
    let repair = |more: &[&str]| {
        let mut repair = tool("root");
        repair.args(["fsck", "--read-data", "--repair"]).args(more);
        repair
    };
    let image = registry.image();
    for from in [&[][..], &["--from", &image]] {
        flip(&home.join("root"), &Sample::new(&[1000]).layers[0].digest);
        fails(&mut repair(&["--from", &image]), 4);
        ok(repair(from).args(["--authfile", named]));
        ok(tool("root").args(["fsck", "--read-data"]));
    }
    let mut pull = tool("variable");
    ok(pull
        .env("REGISTRY_AUTH_FILE", named)
        .args(["pull", &registry.image()]));
    // The login in the named file comes before docker's. After its removal, docker's is found
    // again.
    assert!(login(home, &[host], "pass:word").status.success());
    let said = logout(home, &[host, "--authfile", named]).output().unwrap();
    let said = text(&said.stderr);
    assert!(
        said.contains("another login") && said.contains("config.json"),
        "{said}"
    );
    let podman = home.join("containers/auth.json");
    fs::create_dir(home.join("containers")).unwrap();
    fs::write(
        &podman,
        json!({"auths": {host: {"auth": "b2xkOm9sZA=="}}}).to_string(),
    )
    .unwrap();
    let said = text(&login(home, &[host], "pass:word").stderr);
    assert!(
        said.contains("used before this one") && said.contains("containers/auth.json"),
        "{said}"
    );
}

#[test]
fn wrong_usage_is_refused_before_anything_is_asked() {
    let registry = registry(false);
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path();
    let host = registry.host.as_str();
    let tool = |words: &[&str]| {
        let mut tool = cas(&home.join("root"), home);
        tool.args(words);
        tool
    };
    for words in [
        vec!["login", host],
        vec!["login", host, "--username", "me"],
        vec!["login", host, "--password-stdin"],
        vec!["login", host, "-u", "me", "-p", "hush"],
        vec!["login", host, "-u", "me", "--password=hush"],
        vec![
            "login",
            host,
            "-u",
            "me",
            "--password",
            "hush",
            "--password-stdin",
        ],
        vec!["login", host, "-u", "", "--password-stdin"],
        vec!["login", host, "-u", "a:b", "--password-stdin"],
        vec!["login", "x.test/team", "-u", "me", "--password-stdin"],
        vec!["login", "ftp://x.test", "-u", "me", "--password-stdin"],
        vec!["logout", "--all", host],
        vec!["logout", "not a host"],
    ] {
        let out = with_password(&mut tool(&words), "secret");
        let said = text(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{words:?}: {said}");
        assert!(
            !said.contains("hush") && !said.contains("secret"),
            "{words:?}: {said}"
        );
    }
    let out = with_password(
        &mut tool(&["login", host, "-u", "me", "--password-stdin"]),
        "\n",
    );
    assert_eq!(out.status.code(), Some(2), "{}", text(&out.stderr));
    assert_eq!(registry.seen().len(), 0);
    assert!(!home.join("config.json").exists());
}

#[test]
fn a_login_is_not_shown_to_a_foreign_token_service() {
    let service = Fake::start_at("127.0.0.2", |_: &Request| {
        Answer::new(200).body(br#"{"token": "bought"}"#)
    });
    let realm = format!("http://{}/token", service.host);
    let registry = Fake::start(move |request| match request.header("authorization") {
        Some(_) => Answer::new(200),
        None => Answer::new(401).with("WWW-Authenticate", &format!("Bearer realm=\"{realm}\"")),
    });
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path();
    let out = login(home, &[&registry.host], "pass:word");
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(7), "{said}");
    assert!(
        said.contains("withheld") && said.contains("token-hosts"),
        "{said}"
    );
    assert!(
        service
            .seen()
            .iter()
            .all(|request| request.header("authorization").is_none())
    );
    assert!(!home.join("config.json").exists());
    // `cas.toml` of the root names the token service.
    ok(cas(&home.join("root"), home).arg("init"));
    let toml = home.join("root/cas.toml");
    let mut table = fs::read_to_string(&toml).unwrap();
    table += &format!(
        "\n[registries.\"{}\"]\ntoken-hosts = [\"{}\"]\n",
        registry.host, service.host
    );
    fs::write(&toml, table).unwrap();
    let out = login(home, &[&registry.host], "pass:word");
    assert!(out.status.success(), "{}", text(&out.stderr));
}

#[test]
fn what_is_no_longer_a_registry_or_asks_for_nothing_is_said() {
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path();
    let page = Fake::start(|_| Answer::new(404).body(b"<html>"));
    let out = login(home, &[&page.host], "pass:word");
    assert_eq!(out.status.code(), Some(7), "{}", text(&out.stderr));
    assert!(!home.join("config.json").exists());
    let open = Fake::start(|_| Answer::new(200).body(b"{}"));
    let out = login(home, &[&format!("http://{}/v2/", open.host)], "pass:word");
    let said = text(&out.stderr);
    assert!(
        out.status.success() && said.contains("could not be checked"),
        "{said}"
    );
}

#[test]
fn skopeo_and_cas_find_each_others_logins() {
    if !can(&["skopeo", PROGRAM, "htpasswd"]) {
        return;
    }
    let shop = Shop::open();
    let registry = Registry::closed(shop.scratch.path());
    let home = shop.scratch.path();
    let there = registry.at("app:1");
    let out = login(home, &[&registry.host], PASSWORD);
    assert!(out.status.success(), "{}", text(&out.stderr));
    ok(cas(&shop.root, home).args(["push", GZIP, &there]));
    let skopeo = |words: &[&str]| {
        let mut skopeo = Command::new("skopeo");
        let tool = cas(home, home);
        skopeo.envs(
            tool.get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        skopeo.args(words);
        skopeo
    };
    let inspect = format!("docker://{there}");
    ok(&mut skopeo(&["inspect", "--tls-verify=false", &inspect]));
    ok(&mut logout(home, &[&registry.host]));
    fails(&mut skopeo(&["inspect", "--tls-verify=false", &inspect]), 1);
    let mut theirs = skopeo(&[
        "login",
        "--tls-verify=false",
        "-u",
        USER,
        "--password-stdin",
    ]);
    let out = with_password(theirs.arg(&registry.host), PASSWORD);
    assert!(out.status.success(), "{}", text(&out.stderr));
    ok(cas(&shop.path("empty"), home).args(["pull", &there]));
}

/// `script` runs the tool at a terminal. What is typed there must not appear.
#[test]
fn a_password_that_is_typed_is_not_shown() {
    let registry = registry(false);
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path();
    let mut tool = cas(&home.join("root"), home);
    let Some(script) = at_terminal(tool.args(["login", &registry.host])) else {
        return;
    };
    let seen = helpers::answer(
        script,
        &[("Username: ", "me\n"), ("Password: ", "pass:word\n")],
    );
    assert!(
        seen.contains("as me") && !seen.contains("pass:word"),
        "{seen}"
    );
    assert_eq!(
        read(&home.join("config.json"))["auths"][&registry.host]["auth"],
        AUTH
    );
}
