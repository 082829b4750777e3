//! Registries that try to steal a login: which hosts get it, and the message if it is withheld.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};

use super::cas;
use super::fake::{Answer, Fake, Request};
use super::login::{AUTH, log_in};
use super::sample::Sample;
use crate::common::{fails, ok, text};

/// The scope of a pull of the image of [`Fake::image`], as in a query.
const PULL: &str = "scope=repository%3Ateam%2Fapp%3Apull";
/// The scope of a push of that image.
const PUSH: &str = "scope=repository%3Ateam%2Fapp%3Apull%2Cpush";

/// Starts a registry at `address` that accepts the token `accepted`. Its challenge names the token
/// service `realm`, or `/token` of this registry if `realm` is `None`. The challenge asks for the
/// victim's repository.
fn registry(address: &str, realm: Option<String>, accepted: &'static str) -> Fake {
    let sample = Sample::new(&[1000]);
    let own = Arc::new(OnceLock::<String>::new());
    let host = Arc::clone(&own);
    let fake = Fake::start_at(address, move |request| {
        let token = format!("Bearer {accepted}");
        if request.path.starts_with("/token") {
            return tokens(request);
        }
        if request.header("authorization") == Some(&token) {
            return match request.method.as_str() {
                "PUT" => Answer::new(201),
                _ => sample.answer(request),
            };
        }
        let own = || format!("http://{}/token", host.get().unwrap());
        let realm = realm.clone().unwrap_or_else(own);
        let challenge = format!(
            "Bearer realm=\"{realm}\",service=\"fake\",scope=\"repository:victim/private:pull,push\""
        );
        Answer::error(401, "UNAUTHORIZED", "show a token").with("WWW-Authenticate", &challenge)
    });
    own.set(fake.host.clone()).unwrap();
    fake
}

/// Answers as a token service: with the token `bought` to a login, and with `free` otherwise.
fn tokens(request: &Request) -> Answer {
    let body = String::from_utf8_lossy(&request.body);
    let login = request.header("authorization").is_some() || body.contains("refresh_token");
    let token = if login { "bought" } else { "free" };
    Answer::new(200).body(json!({ "token": token }).to_string().as_bytes())
}

/// Writes Docker's config.json with these credentials for each host.
fn log_in_to(home: &Path, hosts: &[&Fake], credentials: &Value) {
    let hosts = hosts
        .iter()
        .map(|fake| (fake.host.clone(), credentials.clone()));
    let config = json!({"auths": hosts.collect::<serde_json::Map<_, _>>()});
    fs::write(home.join("config.json"), config.to_string()).unwrap();
}

fn pull(home: &Path, root: &str, registry: &Fake) -> Output {
    let mut pull = cas(&home.join(root), home);
    pull.args(["pull", &registry.image()]).output().unwrap()
}

/// Asserts that the registry received only the token `expected`, and no other secret.
fn saw_only(registry: &Fake, expected: Option<&str>) {
    for request in registry.seen() {
        let shown = request.header("authorization");
        assert!(shown.is_none() || shown == expected, "{request:?}");
    }
}

#[test]
fn a_token_service_on_a_foreign_host_gets_no_login_and_no_other_scope() {
    for credentials in [
        json!({"auth": AUTH}),
        json!({"identitytoken": "id"}),
        json!({"auth": AUTH, "identitytoken": "id"}),
    ] {
        let service = Fake::start_at("127.0.0.2", tokens);
        let realm = format!("http://{}/token?scope=victim", service.host);
        let registry = registry("127.0.0.1", Some(realm), "free");
        let scratch = tempfile::tempdir().unwrap();
        let home = scratch.path();
        log_in_to(home, &[&registry, &service], &credentials);
        let out = pull(home, "root", &registry);
        let said = text(&out.stderr);
        assert!(out.status.success(), "{said}");
        for part in [
            format!("login for {}", registry.host),
            format!("withheld from http://{}", service.host),
            format!("add \"{}\" to token-hosts", service.host),
            format!("[registries.\"{}\"]", registry.host),
        ] {
            assert!(said.contains(&part), "{said}");
        }
        let seen = service.seen();
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].method, "GET");
        assert_eq!(seen[0].path, format!("/token?service=fake&{PULL}"));
        assert_eq!(seen[0].header("authorization"), None);
        assert!(seen[0].body.is_empty());
        saw_only(&registry, Some("Bearer free"));
    }
}

#[test]
fn a_refusal_without_the_login_says_that_it_was_withheld() {
    // First the registry refuses, then the token service, in three ways.
    let redirect = |_: &Request| Answer::new(307).with("Location", "http://127.0.0.3:9/token");
    let services = [
        Fake::start_at("127.0.0.2", tokens),
        Fake::start_at("127.0.0.2", |_| Answer::new(401)),
        Fake::start_at("127.0.0.2", |_| Answer::new(404)),
        Fake::start_at("127.0.0.2", redirect),
    ];
    for (service, code) in services.iter().zip([7, 7, 3, 7]) {
        let realm = format!("http://{}/token", service.host);
        let registry = registry("127.0.0.1", Some(realm), "bought");
        let scratch = tempfile::tempdir().unwrap();
        let home = scratch.path();
        log_in_to(home, &[&registry, service], &json!({"auth": AUTH}));
        let mut tool = cas(&home.join("root"), home);
        let tool = tool.args(["pull", &registry.image()]);
        let said = fails(tool, code);
        let withheld = format!(
            "the login for {} was withheld from http://{}",
            registry.host, service.host
        );
        assert!(said.contains(&withheld), "{said}");
        assert!(said.contains("token-hosts"), "{said}");
        // A login for the token service only is not a login for the registry: nothing was withheld.
        log_in(home, &service.host, &json!({"auth": AUTH}));
        let said = fails(tool, code);
        assert!(!said.contains("withheld"), "{said}");
        for request in service.seen() {
            assert_eq!(request.header("authorization"), None, "{request:?}");
        }
        saw_only(&registry, Some("Bearer free"));
    }
}

#[test]
fn a_redirect_of_a_token_service_is_not_followed() {
    let trap = Fake::start_at("127.0.0.1", tokens);
    let location = format!("http://{}/token", trap.host);
    let service = Fake::start(move |_| Answer::new(307).with("Location", &location));
    let realm = format!("http://{}/token", service.host);
    let registry = registry("127.0.0.1", Some(realm), "bought");
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path();
    for credentials in [json!({"auth": AUTH}), json!({"identitytoken": "id"})] {
        log_in(home, &registry.host, &credentials);
        fails(
            cas(&home.join("root"), home).args(["pull", &registry.image()]),
            7,
        );
    }
    assert_eq!(service.seen().len(), 2);
    assert_eq!(trap.seen().len(), 0);
}

#[test]
fn a_configuration_names_a_token_service_for_one_registry() {
    let service = Fake::start_at("127.0.0.2", tokens);
    let realm = || Some(format!("http://{}/token", service.host));
    let named = registry("127.0.0.1", realm(), "bought");
    let other = registry("127.0.0.1", realm(), "free");
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path();
    log_in_to(home, &[&named, &other], &json!({"auth": AUTH}));
    ok(cas(&home.join("root"), home).arg("init"));
    let file = home.join("root/cas.toml");
    let engines = fs::read_to_string(&file).unwrap();
    let configure = |registry: &str, host: &str| {
        let table = format!("\n[registries.\"{registry}\"]\ntoken-hosts = [\"{host}\"]\n");
        fs::write(&file, engines.clone() + &table).unwrap();
    };
    configure(&named.host, &service.host);
    let out = pull(home, "root", &named);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(!text(&out.stderr).contains("withheld"));
    let password = format!("Basic {AUTH}");
    let shown = service.seen()[0].header("authorization").map(str::to_owned);
    assert_eq!(shown, Some(password));
    saw_only(&named, Some("Bearer bought"));
    let out = pull(home, "root", &other);
    assert!(out.status.success() && text(&out.stderr).contains("withheld"));
    assert_eq!(service.seen()[1].header("authorization"), None);
    saw_only(&other, Some("Bearer free"));
    // Initialising the root again keeps the table.
    ok(cas(&home.join("root"), home).arg("init"));
    assert!(fs::read_to_string(&file).unwrap().contains(&named.host));
    for (registry, host, key) in [
        (named.host.as_str(), "http://x.test/token", "token-hosts"),
        ("http://x.test", "x.test", "[registries.\"http://x.test\"]"),
    ] {
        configure(registry, host);
        let mut tool = cas(&home.join("root"), home);
        let said = fails(tool.args(["pull", &named.image()]), 2);
        assert!(said.contains(key) && said.contains("cas.toml"), "{said}");
    }
}

/// The address 0.0.0.0 leads to this machine, but is not a loopback address.
#[test]
fn a_login_buys_no_token_over_plain_http_off_loopback() {
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path();
    for (root, credentials) in [
        ("password", json!({"auth": AUTH})),
        ("identity", json!({"identitytoken": "id"})),
        ("registry", json!({"registrytoken": "bought"})),
    ] {
        let registry = registry("0.0.0.0", None, "free");
        log_in(home, &registry.host, &credentials);
        let mut tool = cas(&home.join(root), home);
        let out = tool.args(["pull", "--plain-http", &registry.image()]);
        let out = out.output().unwrap();
        let said = text(&out.stderr);
        assert!(out.status.success(), "{said}");
        assert!(
            said.contains("withheld") && said.contains("https"),
            "{said}"
        );
        assert_eq!(registry.count("GET", "/token"), 1);
        saw_only(&registry, Some("Bearer free"));
    }
}

/// Users of registries without TLS rely on this.
#[test]
fn a_password_goes_to_the_registry_itself_that_asks_for_it() {
    let sample = Sample::new(&[1000]);
    let registry = Fake::start_at("0.0.0.0", move |request| {
        match request.header("authorization") {
            Some(_) => sample.answer(request),
            None => Answer::new(401).with("WWW-Authenticate", "Basic realm=\"x\""),
        }
    });
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path();
    log_in(home, &registry.host, &json!({"auth": AUTH}));
    ok(cas(&home.join("root"), home).args(["pull", "--plain-http", &registry.image()]));
    let password = format!("Basic {AUTH}");
    saw_only(&registry, Some(&password));
    let mut tool = cas(&home.join("token"), home);
    log_in(home, &registry.host, &json!({"registrytoken": "bought"}));
    let said = fails(tool.args(["pull", "--plain-http", &registry.image()]), 7);
    assert!(
        said.contains("withheld") && said.contains("https"),
        "{said}"
    );
    saw_only(&registry, Some(&password));
}

#[test]
fn a_registry_token_is_for_the_registry_alone() {
    let service = Fake::start_at("127.0.0.2", tokens);
    let realm = format!("http://{}/token", service.host);
    let registry = registry("127.0.0.1", Some(realm), "bought");
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path();
    log_in(home, &registry.host, &json!({"registrytoken": "bought"}));
    let out = pull(home, "root", &registry);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(service.seen().len(), 0);
    saw_only(&registry, Some("Bearer bought"));
}

#[test]
fn a_push_asks_to_pull_and_push_and_a_pull_to_pull() {
    let registry = registry("127.0.0.1", None, "bought");
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path();
    log_in(home, &registry.host, &json!({"auth": AUTH}));
    let root = home.join("root");
    ok(cas(&root, home).args(["pull", &registry.image()]));
    ok(cas(&root, home).args(["push", &registry.image()]));
    let seen = registry.seen();
    let tokens = seen
        .iter()
        .filter(|request| request.path.starts_with("/token"));
    let asked: Vec<&str> = tokens.map(|request| request.path.as_str()).collect();
    let [pull, push] = [PULL, PUSH].map(|scope| format!("/token?service=fake&{scope}"));
    assert_eq!(asked, [pull, push]);
}
