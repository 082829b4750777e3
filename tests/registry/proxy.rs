//! Registries behind a proxy that the environment names.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::cas;
use super::fake::{Answer, Fake};
use super::login::AUTH;
use super::relay::Relay;
use super::sample::Sample;
use crate::common::docker::{PROGRAM, Registry};
use crate::common::shop::{GZIP, Shop};
use crate::common::{can, fails, ok};

/// A registry that only the proxy can find.
const NAME: &str = "registry.test/team/app:1";
/// The login of the proxy, as its URL contains it. In the header of a request, it is [`AUTH`].
const LOGIN: &str = "me:pass%3Aword";

fn pull(home: &Path, name: &str, proxy: &str) -> Command {
    let mut pull = cas(&home.join("root"), home);
    pull.args(["pull", name, "--retry-for", "0s"]);
    for scheme in ["HTTP", "HTTPS"] {
        pull.env(format!("{scheme}_PROXY"), proxy);
        pull.env_remove(format!("{}_proxy", scheme.to_ascii_lowercase()));
    }
    pull.env_remove("NO_PROXY").env_remove("no_proxy");
    pull
}

fn registry() -> Fake {
    let sample = Sample::new(&[1000]);
    Fake::start(move |request| sample.answer(request))
}

#[test]
fn plain_http_goes_through_the_proxy_which_alone_gets_its_login() {
    let registry = registry();
    let shown = format!("Basic {AUTH}");
    let relay = Relay::start(&[("registry.test:80", &registry.host)], Some(&shown));
    let scratch = tempfile::tempdir().unwrap();
    let proxy = format!("http://{LOGIN}@{}", relay.host);
    ok(pull(scratch.path(), NAME, &proxy).arg("--plain-http"));
    assert_eq!(relay.asked().len(), registry.seen().len());
    for asked in relay.asked() {
        assert_eq!(asked.host, "registry.test:80");
        assert_eq!(asked.login.as_deref(), Some(shown.as_str()));
    }
    for request in registry.seen() {
        for header in ["proxy-authorization", "authorization"] {
            assert_eq!(request.header(header), None);
        }
    }
    // The proxy refuses another login, and no message repeats it.
    let wrong = format!("http://me:hush@{}", relay.host);
    let said = fails(pull(scratch.path(), NAME, &wrong).arg("--plain-http"), 7);
    assert!(said.contains("407") && !said.contains("hush"), "{said}");
}

#[test]
fn https_goes_through_a_tunnel_of_the_proxy() {
    if !can(&["skopeo", PROGRAM, "openssl"]) {
        return;
    }
    let shop = Shop::open();
    let home = shop.scratch.path();
    let registry = Registry::encrypted(home);
    let directory = shop.path("hosts").join("registry.test");
    fs::create_dir_all(&directory).unwrap();
    let text = "server = \"https://registry.test\"\nskip_verify = true\n";
    fs::write(directory.join("hosts.toml"), text).unwrap();
    let mut push = cas(&shop.root, home);
    push.args(["push", GZIP, &registry.at("team/app:1"), "--ca"]);
    ok(push.arg(shop.path("certificate.pem")));
    let shown = format!("Basic {AUTH}");
    let relay = Relay::start(&[("registry.test:443", &registry.host)], Some(&shown));
    let through = |login: &str| {
        let root = home.join("through");
        fs::create_dir_all(&root).unwrap();
        let mut pull = pull(&root, NAME, &format!("http://{login}@{}", relay.host));
        pull.arg("--hosts-dir").arg(shop.path("hosts"));
        pull
    };
    let said = fails(&mut through("me:hush"), 7);
    assert!(!said.contains("hush"), "{said}");
    ok(&mut through(LOGIN));
    assert!(
        relay
            .asked()
            .iter()
            .all(|asked| asked.host == "registry.test:443")
    );
}

#[test]
fn no_proxy_is_used_for_what_the_environment_excepts_and_for_this_machine() {
    let registry = registry();
    let relay = Relay::start(&[("registry.test:80", &registry.host)], None);
    let scratch = tempfile::tempdir().unwrap();
    let proxy = format!("http://{}", relay.host);
    for excepted in ["registry.test", ".test", "*"] {
        let mut pull = pull(scratch.path(), NAME, &proxy);
        pull.arg("--plain-http").env("NO_PROXY", excepted);
        let said = fails(&mut pull, 7);
        assert!(said.contains("cannot connect to"), "{said}");
    }
    ok(&mut pull(scratch.path(), &registry.image(), &proxy));
    assert!(relay.asked().is_empty(), "{:?}", relay.asked());
    let mut through = pull(scratch.path(), NAME, &proxy);
    ok(through
        .arg("--plain-http")
        .env("NO_PROXY", "other.test,10.0.0.0/8"));
}

#[test]
fn a_proxy_that_fails_is_named_without_its_login() {
    let scratch = tempfile::tempdir().unwrap();
    // Nothing listens on port 1.
    let proxy = "http://me:hush@127.0.0.1:1";
    for scheme in [&["--plain-http"][..], &[]] {
        let said = fails(pull(scratch.path(), NAME, proxy).args(scheme), 7);
        let names = said.contains("check the proxy http://127.0.0.1:1,");
        assert!(names && !said.contains("hush"), "{said}");
        let said = fails(
            pull(scratch.path(), NAME, "http://me:hush@").args(scheme),
            2,
        );
        let variable = ["HTTPS_PROXY", "HTTP_PROXY"][scheme.len()];
        assert!(said.contains(variable) && !said.contains("hush"), "{said}");
    }
}

/// The proxy resolves names, but an address in a URL is judged before the proxy is asked for it.
#[test]
fn addresses_are_judged_and_names_are_left_to_the_proxy() {
    let sample = Sample::new(&[1000]);
    let part = format!("/blobs/{}", sample.layers[0].digest);
    let elsewhere = registry();
    for (place, is_asked) in [
        ("cdn.test", true),
        ("169.254.169.254", false),
        ("10.0.0.1", false),
        ("127.0.0.1:9", false),
        ("[fd00:ec2::254]", false),
        ("[::ffff:10.0.0.1]", false),
        ("100.100.100.200", false),
        ("2130706433", false),
    ] {
        let (good, path) = (sample.clone(), part.clone());
        let location = format!("http://{place}{}", "/v2/team/app".to_owned() + &part);
        let registry = Fake::start(move |request| match request.path.ends_with(&path) {
            true => Answer::new(307).with("Location", &location),
            false => good.answer(request),
        });
        let routes = [
            ("registry.test:80", registry.host.as_str()),
            ("cdn.test:80", elsewhere.host.as_str()),
        ];
        let relay = Relay::start(&routes, None);
        let scratch = tempfile::tempdir().unwrap();
        let proxy = format!("http://{}", relay.host);
        let mut pull = pull(scratch.path(), NAME, &proxy);
        pull.arg("--plain-http");
        if is_asked {
            ok(&mut pull);
        } else {
            fails(&mut pull, 7);
        }
        let others = relay.asked().into_iter();
        let others = others
            .filter(|asked| asked.host != "registry.test:80")
            .count();
        assert_eq!(others > 0, is_asked, "{place}: {:?}", relay.asked());
    }
}

#[test]
fn a_proxy_is_named_if_an_answer_through_it_ends_too_early() {
    let sample = Sample::new(&[100_000]);
    let part = sample.layers[0].digest.to_string();
    let registry = Fake::start(move |request| {
        let answer = sample.answer(request);
        match request.path.ends_with(&part) {
            true => answer
                .edit(|body| body.truncate(1000))
                .with("X-No-Length", "1"),
            false => answer,
        }
    });
    let relay = Relay::start(&[("registry.test:80", &registry.host)], None);
    let scratch = tempfile::tempdir().unwrap();
    let proxy = format!("http://{}", relay.host);
    let said = fails(pull(scratch.path(), NAME, &proxy).arg("--plain-http"), 7);
    let expected = format!("ended too early; check the proxy {proxy},");
    assert!(said.contains(&expected), "{said}");
}
