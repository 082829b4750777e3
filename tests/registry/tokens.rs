//! Tokens that expire: after a few requests, or after some time.

use std::collections::HashMap;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use serde_json::{Value, json};

use super::cas;
use super::fake::{Answer, Fake, Request};
use super::helpers::{self, helper};
use super::login::{AUTH, log_in};
use super::sample::Sample;
use crate::common::{fails, ok};

/// Starts a registry whose token service gives tokens `t1`, `t2` and so on, and states the lifetime
/// `expires_in`. `accepts` decides whether a token is accepted, by its number and by how often it
/// was shown before.
fn service(
    sample: &Sample,
    expires_in: Value,
    accepts: impl Fn(usize, usize) -> bool + Send + Sync + 'static,
) -> Fake {
    let sample = sample.clone();
    let own = Arc::new(OnceLock::<String>::new());
    let host = Arc::clone(&own);
    let given = AtomicUsize::new(0);
    let shown = Mutex::new(HashMap::<usize, usize>::new());
    let fake = Fake::start(move |request| {
        if request.path.starts_with("/token") {
            let number = given.fetch_add(1, Ordering::SeqCst) + 1;
            let answer = json!({"token": format!("t{number}"), "expires_in": expires_in});
            return Answer::new(200).body(answer.to_string().as_bytes());
        }
        let token = request.header("authorization").unwrap_or_default();
        let number = token
            .strip_prefix("Bearer t")
            .map(|number| number.parse().unwrap());
        let is_good = number.is_some_and(|number: usize| {
            let mut shown = shown.lock().unwrap();
            let times = shown.entry(number).or_default();
            *times += 1;
            accepts(number, *times - 1)
        });
        if is_good {
            return answer(&sample, request);
        }
        let challenge = format!("Bearer realm=\"http://{}/token\"", host.get().unwrap());
        Answer::error(401, "UNAUTHORIZED", "show a token").with("WWW-Authenticate", &challenge)
    });
    own.set(fake.host.clone()).unwrap();
    fake
}

/// Starts a registry whose tokens are good for `uses` requests each.
fn short_lived(sample: &Sample, uses: usize) -> Fake {
    service(sample, json!(300), move |_, before| before < uses)
}

/// Answers as a registry that has the sample in `team/app`, and takes pushes elsewhere.
fn answer(sample: &Sample, request: &Request) -> Answer {
    let is_new = !request.path.contains("/team/app/");
    match request.method.as_str() {
        "HEAD" if is_new => Answer::new(404),
        "POST" => Answer::new(202).with("Location", "/v2/new/upload/1"),
        "PUT" => Answer::new(201),
        _ => sample.answer(request),
    }
}

#[test]
fn tokens_that_end_in_the_middle_of_a_pull_are_renewed() {
    let sample = Sample::new(&[1000, 200_000, 3000, 4000, 5000, 6000]);
    for uses in 1..=3 {
        let registry = short_lived(&sample, uses);
        for root in ["one", "two", "three", "four"] {
            let scratch = tempfile::tempdir().unwrap();
            let home = scratch.path();
            log_in(home, &registry.host, &json!({"auth": AUTH}));
            ok(cas(&home.join(root), home).args(["pull", &registry.image()]));
        }
        assert!(registry.count("GET", "/token") > 8);
    }
}

#[test]
fn tokens_that_end_in_the_middle_of_a_push_are_renewed() {
    let sample = Sample::new(&[1000, 200_000, 3000, 4000]);
    let registry = short_lived(&sample, 3);
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path();
    let root = home.join("root");
    log_in(home, &registry.host, &json!({"auth": AUTH}));
    ok(cas(&root, home).args(["pull", &registry.image()]));
    for number in 1..=12 {
        let there = format!("{}/new/app:{number}", registry.host);
        ok(cas(&root, home).args(["push", &registry.image(), &there]));
    }
    let seen = registry.seen();
    for layer in &sample.layers {
        let whole = seen
            .iter()
            .filter(|request| request.body == sample.data(layer));
        assert!(whole.count() >= 12, "{}", layer.digest);
    }
}

#[test]
fn a_helper_is_asked_once_even_if_tokens_are_renewed() {
    let registry = short_lived(&Sample::new(&[1000, 2000, 3000]), 1);
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path();
    let script = format!("echo x >> \"$DOCKER_CONFIG/asked\"\n{}", helpers::ANSWER);
    helper(home, "counts", &script);
    fs::write(home.join("config.json"), r#"{"credsStore": "counts"}"#).unwrap();
    let mut pull = cas(&home.join("root"), home);
    pull.env("PATH", helpers::path(home));
    ok(pull.args(["pull", &registry.image()]));
    assert!(registry.count("GET", "/token") > 2);
    assert_eq!(fs::read_to_string(home.join("asked")).unwrap(), "x\n");
}

#[test]
fn a_token_is_renewed_before_it_expires() {
    let sample = Sample::new(&[1000, 2000, 3000]);
    // With a lifetime of a tenth of a millisecond, every token has expired before the next request.
    let registry = service(&sample, json!(0.0001), |_, _| true);
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path();
    ok(cas(&home.join("root"), home).args(["pull", &registry.image()]));
    let seen = registry.seen();
    let refused = seen.iter().filter(|request| {
        request.path.starts_with("/v2/") && request.header("authorization").is_none()
    });
    // Only the first request was refused.
    assert_eq!(refused.count(), 1);
    let requests = seen.len() - 1 - registry.count("GET", "/token");
    assert!(requests > 4);
    // The token that is requested after the refusal has expired, too.
    assert_eq!(registry.count("GET", "/token"), requests + 1);
}

#[test]
fn a_lifetime_that_makes_no_sense_is_not_believed() {
    let sample = Sample::new(&[1000, 2000]);
    for expires_in in [
        json!(null),
        json!(0),
        json!(-5),
        json!("soon"),
        json!([1]),
        json!(1e200),
    ] {
        let registry = service(&sample, expires_in.clone(), |_, _| true);
        let scratch = tempfile::tempdir().unwrap();
        let home = scratch.path();
        ok(cas(&home.join("root"), home).args(["pull", &registry.image()]));
        assert_eq!(registry.count("GET", "/token"), 1, "{expires_in}");
    }
}

#[test]
fn a_registry_that_refuses_every_token_is_not_asked_for_ever() {
    let registry = service(&Sample::new(&[1000]), json!(300), |_, _| false);
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path();
    let mut pull = cas(&home.join("root"), home);
    fails(pull.args(["pull", &registry.image()]), 7);
    // Two tokens are requested for each request for the manifest.
    let requests = registry.count("HEAD", "/manifests/") + registry.count("GET", "/manifests/");
    let tokens = registry.count("GET", "/token");
    assert!(
        tokens >= 2 && tokens * 3 <= requests * 2,
        "{tokens} for {requests}"
    );
}
