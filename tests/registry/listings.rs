//! `cas registry tags` and `cas registry ls`.

use serde_json::{Value, json};

use super::artifacts::Artifacts;
use super::fake::{Answer, Fake};
use super::spec::{Abilities, Spec};
use crate::common::{fails, ok};

#[test]
fn tags_are_listed_in_pages_from_a_name_on_up_to_a_number() {
    let artifacts = Artifacts::new();
    let spec = Spec::new(Abilities::ALL);
    for tag in ["1", "2", "3", "4", "5"] {
        spec.put(Some(tag), "text/plain", b"{}");
    }
    let registry = spec.start();
    let repository = format!("{}/team/app", registry.host);
    let list = |more: &[&str]| {
        let list = ["registry", "tags", &repository];
        ok(&mut artifacts.cas("none", &[&list[..], more].concat()))
    };
    assert_eq!(list(&[]), "1\n2\n3\n4\n5\n");
    assert_eq!(registry.count("GET", "/tags/list"), 3);
    assert_eq!(list(&["--last", "3"]), "4\n5\n");
    assert_eq!(list(&["--limit", "3"]), "1\n2\n3\n");
    assert!(registry.seen().pop().unwrap().path.ends_with("?n=3"));
    assert_eq!(list(&["--last", "1", "--limit", "1"]), "2\n");
    let lines: Vec<Value> = artifacts.json("none", &["registry", "tags", &repository]);
    assert_eq!(lines[4], json!({"tag": "5"}));
    // No store is needed, and none is made.
    assert!(!artifacts.path("none").exists());
}

#[test]
fn repositories_are_listed_in_pages() {
    let artifacts = Artifacts::new();
    let registry = Spec::new(Abilities::ALL).start();
    let listed = artifacts.json("none", &["registry", "ls", &registry.host]);
    let names = ["a", "b", "team/app"].map(|name| json!({"repository": name}));
    assert_eq!(listed, names);
    assert_eq!(registry.count("GET", "/v2/_catalog"), 2);
    let said = fails(&mut artifacts.cas("none", &["registry", "ls", "nohost"]), 2);
    assert!(said.contains("add the domain or the port"), "{said}");
}

#[test]
fn a_listing_that_breaks_the_rules_is_an_error_with_its_exit_code() {
    let artifacts = Artifacts::new();
    let tags = |tags: Value| {
        let body = json!({"name": "team/app", "tags": tags}).to_string();
        Answer::new(200).body(body.as_bytes())
    };
    // A page of this size, filled with spaces.
    let page = |size: u64| {
        let mut body = br#"{"tags":["last"]}"#.to_vec();
        body.resize(usize::try_from(size).unwrap(), b' ');
        Answer::new(200).body(&body)
    };
    for (answer, code) in [
        (Answer::error(404, "NAME_UNKNOWN", "no"), 3),
        (Answer::error(403, "DENIED", "no"), 7),
        (Answer::new(200).body(b"<html>"), 4),
        (tags(json!(7)), 4),
        (tags(json!([7])), 4),
        (
            tags(json!([])).with("Link", "</v2/team/app/tags/list>; rel=next"),
            6,
        ),
        (
            tags(json!([])).with("Link", "<http://127.0.0.1:1/>; rel=next"),
            4,
        ),
        (page(cas::limit::PAGE + 1), 6),
    ] {
        let registry = Fake::start(move |_| answer.clone());
        let list = ["registry", "tags", &format!("{}/team/app", registry.host)];
        fails(&mut artifacts.cas("none", &list), code);
    }
    let registry = Fake::start(move |_| page(cas::limit::PAGE));
    let list = ["registry", "tags", &format!("{}/team/app", registry.host)];
    assert_eq!(ok(&mut artifacts.cas("none", &list)), "last\n");
    // A repository without tags, and text that a terminal would take for commands.
    for (listed, shown) in [
        (json!(null), ""),
        (json!(["a\u{1b}]0;x\n"]), "a\\u{1b}]0;x\\u{a}\n"),
    ] {
        let answer = tags(listed);
        let registry = Fake::start(move |_| answer.clone());
        let list = ["registry", "tags", &format!("{}/team/app", registry.host)];
        assert_eq!(ok(&mut artifacts.cas("none", &list)), shown);
    }
}

/// A registry that makes pages without end is left after a bounded number of them.
#[tokio::test]
async fn pages_without_end_are_bounded() {
    let registry = Fake::start(|request| {
        let number = request
            .path
            .rsplit('=')
            .next()
            .and_then(|n| n.parse::<u64>().ok());
        let next = format!(
            "</v2/team/app/tags/list?last={}>; rel=next",
            number.unwrap_or(0) + 1
        );
        Answer::new(200)
            .with("Link", &next)
            .body(br#"{"tags":["x"]}"#)
    });
    let client = super::client(&registry, super::quick()).await;
    let mut pages = client
        .tags(&cas::distribution::ListOptions::default())
        .unwrap();
    let mut number = 0;
    let error = loop {
        match pages.next().await {
            Ok(page) => number += page.unwrap().len(),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), cas::ErrorKind::OutOfRange, "{error}");
    assert_eq!(number, cas::limit::PAGES);
}

#[test]
fn each_operation_asks_for_a_token_with_the_scope_that_it_needs() {
    let artifacts = Artifacts::new();
    let spec = Spec::new(Abilities::ALL);
    let registry = spec.start_with(|request, _| {
        if request.path.starts_with("/token") {
            return Some(Answer::new(200).body(br#"{"token":"good","expires_in":60}"#));
        }
        if request.header("authorization") == Some("Bearer good") {
            return None;
        }
        let realm = format!("http://{}/token", request.header("host").unwrap());
        let challenge = format!("Bearer realm=\"{realm}\",service=\"fake\"");
        let refusal = Answer::error(401, "UNAUTHORIZED", "show a token");
        Some(refusal.with("WWW-Authenticate", &challenge))
    });
    let place = format!("{}/team/app", registry.host);
    for (arguments, scope) in [
        (["tags", &*place], "repository:team/app:pull"),
        (["ls", &*registry.host], "registry:catalog:*"),
        (
            ["rm", &*registry.image()],
            "repository:team/app:pull,push,delete",
        ),
    ] {
        spec.put(Some("1"), "text/plain", b"{}");
        ok(&mut artifacts.cas("none", &["registry", arguments[0], arguments[1]]));
        let mut asked = registry.seen().into_iter();
        let asked = asked.rfind(|one| one.path.starts_with("/token"));
        let asked = asked.unwrap().path.replace("%3A", ":").replace("%2F", "/");
        let asked = asked.replace("%2C", ",").replace("%2A", "*");
        assert!(asked.ends_with(&format!("scope={scope}")), "{asked}");
    }
}
