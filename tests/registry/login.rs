//! Authentication by name and password, tokens and helpers, and the hosts that get no login.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use super::cas;
use super::fake::{Answer, Fake, Request};
use super::helpers::{self, helper};
use super::sample::Sample;
use crate::common::docker::{PASSWORD, PROGRAM, Registry, USER};
use crate::common::shop::{GZIP, Shop};
use crate::common::{can, fails, ok};

/// `me:pass:word`.
pub(crate) const AUTH: &str = "bWU6cGFzczp3b3Jk";

/// Writes Docker's config.json with these credentials for `host`.
pub(crate) fn log_in(home: &Path, host: &str, credentials: &serde_json::Value) {
    let config = json!({"auths": {host: credentials}});
    fs::write(home.join("config.json"), config.to_string()).unwrap();
}

/// Starts a registry that requires a token of the service at `realm`. Without `realm`, the registry
/// is that service itself.
pub(crate) fn closed(sample: &Sample, realm: Option<String>) -> Fake {
    let sample = sample.clone();
    let host = Arc::new(std::sync::OnceLock::<String>::new());
    let own = Arc::clone(&host);
    let fake = Fake::start(move |request| {
        if request.path.starts_with("/token") {
            return token(request);
        }
        if request.header("authorization") == Some("Bearer good") {
            return sample.answer(request);
        }
        let own = || format!("http://{}/token", own.get().unwrap());
        let realm = realm.clone().unwrap_or_else(own);
        let challenge =
            format!("Bearer realm=\"{realm}\",service=\"fake\",scope=\"repository:team/app:pull\"");
        Answer::error(401, "UNAUTHORIZED", "show a token").with("WWW-Authenticate", &challenge)
    });
    host.set(fake.host.clone()).unwrap();
    fake
}

fn token(_: &Request) -> Answer {
    Answer::new(200).body(br#"{"token":"good","expires_in":60}"#)
}

#[test]
fn name_and_password_open_the_registry_of_the_field() {
    if !can(&["skopeo", PROGRAM, "htpasswd"]) {
        return;
    }
    let shop = Shop::open();
    let registry = Registry::closed(shop.scratch.path());
    let home = shop.scratch.path();
    let there = registry.at("app:1");
    let said = fails(cas(&shop.root, home).args(["push", GZIP, &there]), 7);
    assert!(said.contains("cas login"), "{said}");
    log_in(home, &registry.host, &json!({"auth": AUTH}));
    assert_eq!((USER, PASSWORD), ("me", "pass:word"));
    ok(cas(&shop.root, home).args(["push", GZIP, &there]));
    ok(cas(&shop.path("empty"), home).args(["pull", &there]));
    log_in(
        home,
        &registry.host,
        &json!({"username": USER, "password": "wrong"}),
    );
    let said = fails(cas(&shop.path("empty"), home).args(["pull", &there]), 7);
    assert!(!said.contains("wrong") && said.contains("401"), "{said}");
    assert!(said.contains("refused the login of me"), "{said}");
}

/// Starts a registry that refuses every login, itself or by its token service.
fn refusing(challenge: &'static str, token_status: u16) -> Fake {
    let host = Arc::new(std::sync::OnceLock::<String>::new());
    let own = Arc::clone(&host);
    let fake = Fake::start(move |request| {
        if request.path.starts_with("/token") && token_status == 200 {
            return token(request);
        }
        let realm = format!("http://{}/token", own.get().unwrap());
        Answer::error(401, "UNAUTHORIZED", "no")
            .with("WWW-Authenticate", &challenge.replace("REALM", &realm))
    });
    host.set(fake.host.clone()).unwrap();
    fake
}

#[test]
fn a_refused_login_is_told_from_no_login_and_from_missing_rights() {
    const BASIC: &str = "Basic realm=\"x\"";
    const BEARER: &str = "Bearer realm=\"REALM\",service=\"fake\"";
    let login = json!({"auth": AUTH});
    let no_login = "use `cas login`; cas also uses the logins of docker and podman";
    for (challenge, token_status, credentials, expected, unexpected) in [
        (
            BASIC,
            401,
            &login,
            "the registry refused the login of me: ",
            "other rights",
        ),
        (
            BEARER,
            401,
            &login,
            "the registry refused the login of me: ",
            "other rights",
        ),
        (
            BEARER,
            401,
            &json!({"identitytoken": "i"}),
            "refused the saved token: ",
            "other rights",
        ),
        (
            BASIC,
            401,
            &json!({"registrytoken": "r"}),
            "refused the saved token: ",
            "other rights",
        ),
        // The token service has accepted the login.
        (
            BEARER,
            200,
            &login,
            "other rights than those of the login of me: ",
            "refused",
        ),
        (BEARER, 401, &json!({}), no_login, "login of"),
        (BEARER, 200, &json!({}), no_login, "login of"),
        (
            BASIC,
            401,
            &json!({}),
            "requires a name and a password",
            "login of",
        ),
    ] {
        let registry = refusing(challenge, token_status);
        let scratch = tempfile::tempdir().unwrap();
        let home = scratch.path();
        log_in(home, &registry.host, credentials);
        let mut pull = cas(&home.join("root"), home);
        let said = fails(pull.args(["pull", &registry.image()]), 7);
        assert!(
            said.contains(expected) && !said.contains(unexpected),
            "{expected}: {said}"
        );
        assert!(!said.contains("pass:word"), "{said}");
    }
}

/// TLS is also used on this machine, where plain http would be tried first.
#[test]
fn tls_uses_the_certificates_that_the_system_trusts() {
    if !can(&["skopeo", PROGRAM, "openssl"]) {
        return;
    }
    let shop = Shop::open();
    let registry = Registry::encrypted(shop.scratch.path());
    let there = registry.at("app:1");
    let tool = |root: &str| cas(&shop.path(root), shop.scratch.path());
    let said = fails(tool("root").args(["push", GZIP, &there]), 7);
    assert!(
        said.contains("https") && said.contains("certificate"),
        "{said}"
    );
    let certificate = shop.path("certificate.pem");
    let trust = |mut command: std::process::Command| {
        command.env("SSL_CERT_FILE", &certificate);
        command
    };
    ok(trust(tool("root")).args(["push", GZIP, &there]));
    ok(trust(tool("empty")).args(["pull", &there]));
    // With --plain-http, the registry's error is shown.
    fails(tool("empty").args(["pull", "--plain-http", &there]), 7);
}

#[test]
fn a_token_is_requested_once_with_the_password_of_its_origin() {
    let sample = Sample::new(&[1000, 2000, 3000, 4000]);
    let registry = closed(&sample, None);
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path();
    log_in(home, &registry.host, &json!({"auth": AUTH}));
    ok(cas(&home.join("root"), home).args(["pull", &registry.image()]));
    assert_eq!(registry.count("GET", "/token"), 1);
    let asked = registry.seen();
    let asked = asked.iter().find(|one| one.is("GET", "/token")).unwrap();
    let password = format!("Basic {AUTH}");
    assert_eq!(asked.header("authorization"), Some(password.as_str()));
    let query = "/token?service=fake&scope=repository%3Ateam%2Fapp%3Apull";
    assert_eq!(asked.path, query);
    let shown = registry.seen();
    let mut shown = shown.iter().filter(|one| one.path.starts_with("/v2"));
    assert!(shown.all(|one| one.header("authorization") != Some(password.as_str())));
}

#[test]
fn a_token_service_at_another_port_of_the_host_gets_the_login_of_the_registry() {
    let sample = Sample::new(&[1000]);
    let service = Fake::start(token);
    let registry = closed(&sample, Some(format!("http://{}/elsewhere", service.host)));
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path();
    log_in(home, &registry.host, &json!({"auth": AUTH}));
    ok(cas(&home.join("one"), home).args(["pull", &registry.image()]));
    let password = format!("Basic {AUTH}");
    assert_eq!(service.seen().len(), 1);
    assert_eq!(
        service.seen()[0].header("authorization"),
        Some(password.as_str())
    );
    // A login for the token service itself is not used for this registry.
    log_in(home, &service.host, &json!({"auth": AUTH}));
    ok(cas(&home.join("two"), home).args(["pull", &registry.image()]));
    assert_eq!(service.seen().len(), 2);
    assert_eq!(service.seen()[1].header("authorization"), None);
}

#[test]
fn an_identity_token_goes_in_the_body_and_a_registry_token_as_it_is() {
    let sample = Sample::new(&[1000]);
    let registry = closed(&sample, None);
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path();
    log_in(
        home,
        &registry.host,
        &json!({"auth": AUTH, "identitytoken": "id"}),
    );
    ok(cas(&home.join("one"), home).args(["pull", &registry.image()]));
    let seen = registry.seen();
    let asked = seen.iter().find(|one| one.is("POST", "/token")).unwrap();
    let body = String::from_utf8(asked.body.clone()).unwrap();
    assert!(body.contains("grant_type=refresh_token") && body.contains("refresh_token=id"));
    assert_eq!(asked.header("authorization"), None);
    log_in(home, &registry.host, &json!({"registrytoken": "good"}));
    ok(cas(&home.join("two"), home).args(["pull", &registry.image()]));
    assert_eq!(registry.count("", "/token"), 0);
    assert_eq!(registry.count("GET", "/token"), 0);
}

#[test]
fn a_helper_is_asked_for_the_registry() {
    let sample = Sample::new(&[1000]);
    let registry = closed(&sample, None);
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path();
    let script = format!(
        "test \"$1\" = get || exit 9\nread -r host || :\necho \"$host\" >> \
         \"$DOCKER_CONFIG/asked\"\n{}",
        helpers::ANSWER
    );
    helper(home, "test", &script);
    for config in [
        json!({"credsStore": "test"}),
        json!({"credHelpers": {registry.host.as_str(): "test"}, "credsStore": "absent"}),
    ] {
        fs::write(home.join("config.json"), config.to_string()).unwrap();
        let root = tempfile::tempdir_in(home).unwrap();
        let mut pull = cas(&root.path().join("root"), home);
        ok(pull
            .env("PATH", helpers::path(home))
            .args(["pull", &registry.image()]));
    }
    let asked = fs::read_to_string(home.join("asked")).unwrap();
    assert_eq!(asked, format!("{0}\n{0}\n", registry.host));
}

/// Blobs are downloaded from and uploaded to another host, as with cloud registries.
#[test]
fn another_origin_gets_no_credentials() {
    let sample = Sample::new(&[100_000]);
    let blobs = sample.clone();
    let store = Fake::start(move |request| match request.method.as_str() {
        "PUT" => Answer::new(201),
        _ => blobs.answer(request),
    });
    let (there, own) = (store.host.clone(), sample.clone());
    let registry = Fake::start(move |request| {
        let basic = format!("Basic {AUTH}");
        if request.header("authorization") != Some(basic.as_str()) {
            return Answer::new(401).with("WWW-Authenticate", "Basic realm=\"x\"");
        }
        match request.method.as_str() {
            "GET" if request.path.contains("/blobs/") => {
                Answer::new(307).with("Location", &format!("http://{there}{}", request.path))
            }
            "HEAD" if request.path.contains("/new/") => Answer::new(404),
            "POST" => Answer::new(202).with("Location", &format!("http://{there}/put?state=1")),
            "PUT" => Answer::new(201),
            _ => own.answer(request),
        }
    });
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path();
    log_in(home, &registry.host, &json!({"auth": AUTH}));
    let root = home.join("root");
    ok(cas(&root, home).args(["pull", &registry.image()]));
    assert_eq!(store.count("GET", "/blobs/"), 2);
    ok(cas(&root, home).args([
        "push",
        &registry.image(),
        &format!("{}/new/app:1", registry.host),
    ]));
    let layer = &sample.layers[0];
    let put = store.seen();
    let put = put
        .iter()
        .find(|one| one.body.len() as u64 == layer.size)
        .unwrap();
    let digest = layer.digest.to_string().replace(':', "%3A");
    assert_eq!(put.path, format!("/put?state=1&digest={digest}"));
    assert_eq!(put.body, sample.data(layer));
    for request in store.seen() {
        assert_eq!(request.header("authorization"), None, "{request:?}");
    }
}
