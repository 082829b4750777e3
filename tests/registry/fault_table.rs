//! The table of faults: the fault of a registry, where and how often it happens, and how a pull
//! then ends.
//!
//! Each case ends in the right bytes or in an error of one kind, in a bounded time. The login of
//! the registry is sent to no other host, and no message contains it. `docs/HOSTS.md` names this
//! table.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cas::ErrorKind::{self, Corrupt, Denied, NotFound, OutOfRange, Unavailable, Unsupported};
use cas::distribution::{Client, Options, Timeouts};
use cas::transfer::{PullOptions, pull};
use cas_core::testing::memory::MemoryStore;
use futures_util::stream::{self, StreamExt};
use serde_json::json;

use super::fake::{Answer, Fake, Request};
use super::login::AUTH;
use super::sample::Sample;

/// Size in bytes of the layer.
const SIZE: usize = 60_000;
/// Where a connection breaks in some cases.
const CUT: usize = 20_000;
/// Maximum time for one case, which is far more than its timeouts.
const DEADLINE: Duration = Duration::from_secs(120);
/// The head of an answer, which is longer than the client waits for if it arrives byte by byte.
const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nX-More: more\r\n\r\n1";
/// More often than any request is made.
const ALWAYS: usize = usize::MAX;

/// The request whose answer is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The tag, with HEAD.
    Tag,
    Manifest,
    Layer,
    /// The rest of the layer, after its first connection broke.
    Rest,
    /// The token.
    Token,
}

use Place::{Layer, Manifest, Rest, Tag, Token};

/// The name of a case, the place, how many answers at that place are changed, the change, and the
/// outcome. A change receives the right answer, the request and the bytes of the layer.
type Case = (
    &'static str,
    Place,
    usize,
    fn(Answer, &Request, &[u8]) -> Answer,
    Result<(), ErrorKind>,
);

fn timeouts() -> Timeouts {
    Timeouts::default()
        .with_connect(Duration::from_secs(2))
        .with_answer(Duration::from_secs(1))
        .with_idle(Duration::from_millis(400))
        .with_min_speed(1000)
        .with_repeat(Duration::from_secs(3))
        .with_pause(Duration::from_millis(5))
}

/// A flipped bit of the body.
fn flipped(answer: Answer, request: &Request, at: usize) -> Answer {
    let start = request.range().map_or(0, |range| range.0);
    answer.edit(|body| {
        if let Some(byte) = at.checked_sub(start).and_then(|at| body.get_mut(at)) {
            *byte ^= 1;
        }
    })
}

fn ranged(answer: Answer, range: &str) -> Answer {
    answer.without("Content-Range").with("Content-Range", range)
}

fn slow(answer: Answer) -> Answer {
    answer.drip(10, Duration::from_millis(100))
}

/// As one byte a second is with the default timeouts, which are longer.
fn bytewise(answer: Answer) -> Answer {
    answer.drip(1, Duration::from_millis(100))
}

fn with_length(answer: Answer, length: &str) -> Answer {
    answer.with("Content-Length", length)
}

fn busy(status: u16) -> Answer {
    Answer::error(status, "BUSY", "not now")
}

#[rustfmt::skip]
const CASES: &[Case] = &[
    // Delays.
    ("late once", Tag, 1, |good, _, _| good.late(Duration::from_secs(3)), Ok(())),
    ("late once", Manifest, 1, |good, _, _| good.late(Duration::from_secs(3)), Ok(())),
    ("late once", Layer, 1, |good, _, _| good.late(Duration::from_secs(3)), Ok(())),
    ("late always", Layer, ALWAYS, |good, _, _| good.late(Duration::from_secs(3)), Err(Unavailable)),
    ("late always", Token, ALWAYS, |good, _, _| good.late(Duration::from_secs(3)), Err(Unavailable)),
    ("slow once", Manifest, 1, |good, _, _| slow(good), Ok(())),
    ("slow once", Layer, 1, |good, _, _| slow(good), Ok(())),
    ("slow always", Layer, ALWAYS, |good, _, _| slow(good), Err(Unavailable)),
    ("byte by byte once", Manifest, 1, |good, _, _| bytewise(good), Ok(())),
    ("byte by byte once", Layer, 1, |good, _, _| bytewise(good), Ok(())),
    ("byte by byte always", Manifest, ALWAYS, |good, _, _| bytewise(good), Err(Unavailable)),
    ("byte by byte always", Layer, ALWAYS, |good, _, _| bytewise(good), Err(Unavailable)),
    ("byte by byte always", Rest, ALWAYS, |good, _, _| bytewise(good), Ok(())),
    ("byte by byte always", Token, ALWAYS, |good, _, _| bytewise(good), Err(Unavailable)),
    ("a head byte by byte", Tag, ALWAYS, |_, _, _| bytewise(Answer::raw(HEAD)), Err(Unavailable)),
    ("a head byte by byte", Layer, ALWAYS, |_, _, _| bytewise(Answer::raw(HEAD)), Err(Unavailable)),
    ("a refusal byte by byte", Manifest, ALWAYS, |_, _, _| bytewise(busy(403)), Err(Denied)),
    ("a refusal byte by byte", Layer, ALWAYS, |_, _, _| bytewise(busy(404)), Err(NotFound)),
    ("a failure byte by byte", Layer, ALWAYS, |_, _, _| bytewise(busy(503)), Err(Unavailable)),
    ("stalls once", Layer, 1, |good, _, _| good.cut(CUT).stall(), Ok(())),
    ("stalls at once, always", Rest, ALWAYS, |good, _, _| good.cut(0).stall(), Ok(())),
    // Truncation.
    ("no answer once", Tag, 1, |_, _, _| Answer::nothing(), Ok(())),
    ("no answer always", Tag, ALWAYS, |_, _, _| Answer::nothing(), Err(Unavailable)),
    ("no answer always", Token, ALWAYS, |_, _, _| Answer::nothing(), Err(Unavailable)),
    ("cut once", Manifest, 1, |good, _, _| good.cut(10), Ok(())),
    ("cut always", Manifest, ALWAYS, |good, _, _| good.cut(10), Err(Unavailable)),
    ("cut once", Layer, 1, |good, _, _| good.cut(CUT), Ok(())),
    ("cut always, with progress", Layer, ALWAYS, |good, _, _| good.cut(CUT), Ok(())),
    ("cut always, without progress", Layer, ALWAYS, |good, _, _| good.cut(100), Err(Unavailable)),
    ("cut once, without a length", Layer, 1, |good, _, _| good.with("X-No-Length", "1").cut(CUT), Ok(())),
    ("an empty body", Layer, ALWAYS, |good, _, _| good.body(&[]), Err(Corrupt)),
    ("a shorter body", Layer, ALWAYS, |good, _, _| good.edit(|body| body.truncate(CUT)), Err(Corrupt)),
    // Flipped bits.
    ("the first bit", Layer, ALWAYS, |good, asked, _| flipped(good, asked, 0), Err(Corrupt)),
    ("the last bit", Layer, ALWAYS, |good, asked, _| flipped(good, asked, SIZE - 1), Err(Corrupt)),
    ("a bit of the rest", Rest, ALWAYS, |good, asked, _| flipped(good, asked, SIZE - 1), Ok(())),
    ("a bit of the manifest", Manifest, ALWAYS, |good, asked, _| flipped(good, asked, 5), Err(Corrupt)),
    // Answers to a request for the rest.
    ("200 to a range", Rest, ALWAYS, |_, _, layer| Answer::new(200).body(layer), Ok(())),
    ("other bytes on resume", Rest, ALWAYS, |good, _, _| good.edit(|body| body.fill(7)), Ok(())),
    ("another range", Rest, ALWAYS, |good, _, _| ranged(good, "bytes 0-9/60000"), Ok(())),
    ("a range of another size", Rest, ALWAYS, |good, _, _| ranged(good, "bytes 20000-59999/70000"), Ok(())),
    ("a range without end", Rest, ALWAYS, |good, _, _| ranged(good, "bytes 20000-99999999999999999999/*"), Ok(())),
    ("no range", Rest, ALWAYS, |good, _, _| good.without("Content-Range"), Ok(())),
    ("416", Rest, ALWAYS, |_, _, _| Answer::new(416), Ok(())),
    ("404 to a range", Rest, ALWAYS, |_, _, _| Answer::new(404), Ok(())),
    // Statuses.
    ("401 in the middle", Layer, 1, |_, _, _| challenge(), Ok(())),
    ("401 on resume", Rest, 1, |_, _, _| challenge(), Ok(())),
    ("401 always", Layer, ALWAYS, |_, _, _| challenge(), Err(Denied)),
    ("429 once", Layer, 1, |_, _, _| busy(429).with("Retry-After", "0"), Ok(())),
    ("429 always", Layer, ALWAYS, |_, _, _| busy(429), Err(Unavailable)),
    ("429 for an hour", Layer, 1, |_, _, _| busy(429).with("Retry-After", "3600"), Err(Unavailable)),
    ("500 twice", Layer, 2, |_, _, _| busy(500), Ok(())),
    ("500 on resume", Rest, ALWAYS, |_, _, _| busy(500), Ok(())),
    ("500 always", Manifest, ALWAYS, |_, _, _| busy(500), Err(Unavailable)),
    ("503 twice", Token, 2, |_, _, _| busy(503), Ok(())),
    ("404", Layer, ALWAYS, |_, _, _| busy(404), Err(NotFound)),
    ("403", Layer, ALWAYS, |_, _, _| busy(403), Err(Denied)),
    ("204", Layer, ALWAYS, |_, _, _| Answer::new(204), Err(Denied)),
    ("304", Layer, ALWAYS, |_, _, _| Answer::new(304), Err(Unavailable)),
    // Bodies without an end.
    ("an endless layer", Layer, ALWAYS, |good, _, _| good.endless(), Err(Corrupt)),
    ("an endless manifest", Manifest, ALWAYS, |good, _, _| good.endless(), Err(Corrupt)),
    ("an endless refusal", Layer, ALWAYS, |_, _, _| busy(404).endless(), Err(NotFound)),
    ("an endless failure", Layer, ALWAYS, |_, _, _| busy(503).endless(), Err(Unavailable)),
    ("an endless token", Token, ALWAYS, |good, _, _| good.endless(), Err(OutOfRange)),
    // Redirects.
    ("a redirect to nowhere", Layer, ALWAYS, |_, _, _| to("nowhere:"), Err(Denied)),
    ("a redirect without a place", Layer, ALWAYS, |_, _, _| Answer::new(307), Err(Unavailable)),
    ("a redirect to a file", Layer, ALWAYS, |_, _, _| to("file:///etc/passwd"), Err(Denied)),
    ("a redirect with a login", Layer, ALWAYS, |_, _, _| to("http://me:pass@127.0.0.1/"), Err(Denied)),
    ("a redirect to a metadata service", Layer, ALWAYS, |_, _, _| to("http://169.254.169.254/"), Err(Denied)),
    ("a redirect to itself", Layer, ALWAYS, |_, asked, _| to(&asked.path), Err(Unavailable)),
    // Heads and documents that are too large.
    ("a header of a mebibyte", Layer, ALWAYS, |good, _, _| good.with("X-Long", &"x".repeat(1 << 20)), Err(Unavailable)),
    ("a thousand headers", Layer, ALWAYS, |good, _, _| (0..1000).fold(good, |good, _| good.with("X-Many", "1")), Err(Unavailable)),
    ("a large digest", Tag, ALWAYS, |good, _, _| good.without("Docker-Content-Digest").with("Docker-Content-Digest", &"a".repeat(5000)), Ok(())),
    ("a large manifest", Tag, ALWAYS, |good, _, _| with_length(good, "99999999999"), Err(OutOfRange)),
    ("a length beyond measure", Layer, ALWAYS, |good, _, _| with_length(good, "99999999999999999999999"), Err(Unavailable)),
    ("a length below zero", Layer, ALWAYS, |good, _, _| with_length(good, "-1"), Err(Unavailable)),
    ("no HTTP", Layer, ALWAYS, |_, _, _| Answer::raw(b"SSH-2.0-x\r\n\r\n"), Err(Unavailable)),
    // Encodings.
    ("gzip", Layer, ALWAYS, |good, _, _| good.with("Content-Encoding", "gzip").body(&[7; 500]), Err(Unsupported)),
    ("gzip in name alone", Layer, ALWAYS, |good, _, _| good.with("Content-Encoding", "gzip"), Ok(())),
    ("gzip", Manifest, ALWAYS, |good, _, _| good.with("Content-Encoding", "gzip").body(&[7; 50]), Err(Unsupported)),
];

fn to(location: &str) -> Answer {
    Answer::new(307).with("Location", location)
}

/// Asks for a login that the registry itself accepts.
fn challenge() -> Answer {
    Answer::error(401, "UNAUTHORIZED", "log in").with("WWW-Authenticate", "Basic realm=\"x\"")
}

fn is_at(place: Place, request: &Request, layer: &str) -> bool {
    let is_layer = request.is("GET", layer);
    match place {
        Tag => request.is("HEAD", "/manifests/"),
        Manifest => request.is("GET", "/manifests/"),
        Layer => is_layer,
        Rest => is_layer && request.range().is_some(),
        Token => request.path.starts_with("/token"),
    }
}

/// Runs one case. Returns what is wrong with its outcome, if anything is.
async fn wrong(sample: &Sample, case: &'static Case) -> Option<String> {
    let (what, place, times, change, expected) = *case;
    let (good, layer) = (sample.clone(), sample.layers[0].digest.to_string());
    let (changed, begun) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let registry = Fake::start(move |request| {
        let shown = request.header("authorization").unwrap_or_default();
        let answer = match request.path.split_once('?') {
            Some(("/token", _)) => {
                let body = json!({"token": "good", "expires_in": 600}).to_string();
                Answer::new(200).body(body.as_bytes())
            }
            _ if shown.is_empty() => {
                let host = request.header("host").unwrap();
                let realm = format!("Bearer realm=\"http://{host}/token\",service=\"x\"");
                return Answer::error(401, "UNAUTHORIZED", "log in")
                    .with("WWW-Authenticate", &realm);
            }
            _ => good.answer(request),
        };
        // The first connection of a layer whose rest is in question breaks.
        if place == Rest && request.is("GET", &layer) && begun.fetch_add(1, Ordering::SeqCst) == 0 {
            return answer.cut(CUT);
        }
        let is_there = is_at(place, request, &layer);
        if is_there && changed.fetch_add(1, Ordering::SeqCst) < times {
            return change(answer, request, good.data(&good.layers[0]));
        }
        answer
    });
    let scratch = tempfile::tempdir().unwrap();
    let auth_file = scratch.path().join("auth.json");
    let logins = json!({"auths": {&registry.host: {"auth": AUTH}}});
    fs::write(&auth_file, logins.to_string()).unwrap();
    let options = Options {
        auth_file: Some(auth_file),
        timeouts: timeouts(),
        ..Options::default()
    };
    let began = Instant::now();
    let store = MemoryStore::new().with_images();
    let reference = registry.image().parse().unwrap();
    let client = Client::connect(&reference, options).await.unwrap();
    let name: cas::image::Reference = "app:1".parse().unwrap();
    let options = PullOptions::default();
    let pulled = pull(&store, &client, name, &options);
    let pulled = tokio::time::timeout(DEADLINE, pulled).await;
    let Ok(pulled) = pulled else {
        return Some(format!("{place:?}, {what}: it hangs"));
    };
    let found = pulled.as_ref().map(|_| ()).map_err(|error| error.kind());
    let said = pulled
        .as_ref()
        .err()
        .map(|error| format!("{error} {error:?}"));
    let said = said.unwrap_or_default();
    if found != expected {
        return Some(format!(
            "{place:?}, {what}: {found:?}, not {expected:?}: {said}"
        ));
    }
    if said.contains(AUTH) || said.contains("pass:word") || said.contains("Bearer good") {
        return Some(format!("{place:?}, {what}: a secret is in {said}"));
    }
    // What is in the store is right, whatever happened.
    for (digest, data) in &sample.content {
        let Some(reader) = store.content.open(&digest.parse().unwrap()).await.unwrap() else {
            if found.is_ok() {
                return Some(format!("{place:?}, {what}: {digest} is missing"));
            }
            continue;
        };
        if reader.read_at(0, data.len() + 1).await.unwrap() != data {
            return Some(format!("{place:?}, {what}: {digest} has other bytes"));
        }
    }
    let took = began.elapsed();
    (took > DEADLINE).then(|| format!("{place:?}, {what}: it took {took:?}"))
}

#[tokio::test]
async fn each_fault_ends_in_right_bytes_or_a_typed_error() {
    let sample = Sample::new(&[SIZE]);
    let run = stream::iter(CASES).map(|case| wrong(&sample, case));
    let wrong: Vec<String> = run
        .buffer_unordered(8)
        .filter_map(async |one| one)
        .collect()
        .await;
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A redirect to another host is followed without the login.
#[tokio::test]
async fn a_redirect_to_another_host_shows_it_nothing() {
    let sample = Sample::new(&[SIZE]);
    let served = sample.clone();
    let elsewhere = Fake::start_at("127.0.0.2", move |request| served.answer(request));
    let location = format!("http://{}", elsewhere.host);
    let (good, layer) = (sample.clone(), sample.layers[0].digest.to_string());
    let registry = Fake::start(move |request| {
        if request.header("authorization") != Some(&format!("Basic {AUTH}")) {
            return challenge();
        }
        match request.is("GET", &layer) {
            true => to(&format!("{location}{}", request.path)),
            false => good.answer(request),
        }
    });
    let scratch = tempfile::tempdir().unwrap();
    let auth_file = scratch.path().join("auth.json");
    let logins =
        json!({"auths": {&registry.host: {"auth": AUTH}, &elsewhere.host: {"auth": AUTH}}});
    fs::write(&auth_file, logins.to_string()).unwrap();
    let options = Options {
        auth_file: Some(auth_file),
        timeouts: timeouts(),
        ..Options::default()
    };
    let reference = registry.image().parse().unwrap();
    let client = Client::connect(&reference, options).await.unwrap();
    let store = MemoryStore::new().with_images();
    let name = "app:1".parse().unwrap();
    pull(&store, &client, name, &PullOptions::default())
        .await
        .unwrap();
    assert_eq!(elsewhere.seen().len(), 1);
    assert_eq!(elsewhere.seen()[0].header("authorization"), None);
}
