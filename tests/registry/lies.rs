//! Each request of a pull, answered with each of many lies: the pull ends in time, and either
//! brings exactly the image or names nothing.

use std::time::Duration;

use cas::transfer::{PullOptions, pull};
use cas::{Digest, ErrorKind, MediaType, limit};
use cas_core::testing::memory::MemoryStore;
use serde_json::{Value, json};

use super::fake::{Answer, Fake, Request};
use super::sample::Sample;
use super::{client, quick};

/// How long one pull may take. The waits of its timeouts and repetitions are included.
const BOUND: Duration = Duration::from_secs(60);

/// Changes a correct answer.
type Lie = fn(Answer) -> Answer;

/// Lies about any answer.
const ANSWERS: [(&str, Lie); 22] = [
    ("no body", |good| good.body(b"")),
    ("a byte less", |good| {
        good.edit(|body| body.truncate(body.len() - 1))
    }),
    ("a byte more", |good| good.edit(|body| body.push(0))),
    ("another byte", |good| good.edit(|body| body[0] ^= 1)),
    ("twice", |good| good.edit(|body| body.extend(body.clone()))),
    ("cut", |good| good.cut(5)),
    ("no end", |good| good.endless()),
    ("no length", |good| good.with("X-No-Length", "1")),
    ("a negative length", |good| {
        good.with("Content-Length", "-1")
    }),
    ("two lengths", |good| {
        good.with("Content-Length", "1").with("Content-Length", "2")
    }),
    ("a huge length", |good| {
        good.with("Content-Length", "9223372036854775807")
    }),
    ("another digest", |good| {
        let good = good.without("Docker-Content-Digest");
        let digest = Digest::sha256(b"another").to_string();
        good.with("Docker-Content-Digest", &digest)
    }),
    ("a path as the digest", |good| {
        let good = good.without("Docker-Content-Digest");
        good.with("Docker-Content-Digest", "sha256:../../../x")
    }),
    ("an index", |good| {
        let good = good.without("Content-Type");
        good.with("Content-Type", MediaType::OCI_INDEX.as_str())
    }),
    ("a web page", |good| {
        let good = good.without("Content-Type");
        good.with("Content-Type", "text/html").body(b"<html>")
    }),
    ("compressed on the way", |good| {
        good.with("Content-Encoding", "gzip")
    }),
    ("a part that nobody asked for", |good| {
        good.with("Content-Range", "bytes 5-9/10")
    }),
    ("to itself", |_| Answer::new(307).with("Location", "")),
    ("to a file", |_| {
        Answer::new(302).with("Location", "file:///etc/passwd")
    }),
    ("to a metadata service", |_| {
        Answer::new(302).with("Location", "http://169.254.169.254/latest")
    }),
    ("nothing", |_| Answer::nothing()),
    ("not HTTP", |_| Answer::raw(b"\0\xff\r\n\r\n")),
];

/// The requests of a pull.
const REQUESTS: [(&str, &str); 3] = [
    ("HEAD", "/manifests/"),
    ("GET", "/manifests/"),
    ("GET", "/blobs/"),
];

/// Changes a manifest, which the registry then serves under the digest of the changed bytes.
type Edit = fn(&mut Value);

fn edit_layer(manifest: &mut Value, key: &str, value: Value) {
    manifest["layers"][0][key] = value;
}

/// Manifests that are refused.
const MANIFESTS: [(&str, Edit); 14] = [
    ("both lists", |one| one["manifests"] = one["layers"].clone()),
    ("a type of an index", |one| {
        one["mediaType"] = json!(MediaType::OCI_INDEX);
    }),
    ("a text for a list", |one| one["layers"] = json!("all")),
    ("no configuration", |one| {
        one.as_object_mut().unwrap().remove("config");
    }),
    ("a digest with a path", |one| {
        edit_layer(one, "digest", json!("sha256:../../../etc/passwd"));
    }),
    ("a digest in capitals", |one| {
        let digest = one["layers"][0]["digest"].as_str().unwrap();
        let digest = digest.replace("sha256:", "").to_uppercase();
        edit_layer(one, "digest", json!(format!("sha256:{digest}")));
    }),
    ("a short digest", |one| {
        edit_layer(one, "digest", json!("sha256:00"))
    }),
    ("no digits", |one| {
        edit_layer(one, "digest", json!("sha512:"))
    }),
    ("another algorithm", |one| {
        edit_layer(one, "digest", json!("md5:d41d8cd98f00b204e9800998ecf8427e"));
    }),
    ("a line after the digest", |one| {
        let digest = one["layers"][0]["digest"].as_str().unwrap().to_owned();
        edit_layer(one, "digest", json!(digest + "\n"));
    }),
    ("a digest of a megabyte", |one| {
        edit_layer(one, "digest", json!("a".repeat(1 << 20)));
    }),
    ("a negative size", |one| edit_layer(one, "size", json!(-1))),
    ("a size less by one", |one| {
        let size = one["layers"][0]["size"].as_u64().unwrap();
        edit_layer(one, "size", json!(size - 1));
    }),
    ("more descriptors than are allowed", |one| {
        let layer = one["layers"][0].clone();
        one["layers"] = vec![layer; limit::DESCRIPTORS + 1].into();
    }),
];

/// Changes the text of a manifest.
type Spoil = fn(&str) -> String;

/// Bytes that replace the text of a manifest, and are refused.
const TEXTS: [(&str, Spoil); 6] = [
    ("a byte order mark", |text| format!("\u{feff}{text}")),
    ("text after the end", |text| format!("{text}{{}}")),
    ("a list twice", |text| {
        text.replacen('{', "{\"layers\":[],", 1)
    }),
    ("deep lists", |text| {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        text.replacen('{', &format!("{{\"annotations\":{deep},"), 1)
    }),
    ("half a pair of surrogates", |text| {
        text.replacen('{', "{\"artifactType\":\"\\ud800\",", 1)
    }),
    ("not a number", |text| {
        text.replacen('{', "{\"schemaVersion\":NaN,", 1)
    }),
];

/// Pulls an image. Returns whether the pull brought all of it. If not, the pull has refused the
/// image: it has named nothing, and its error has a kind and a message that fit wrong input.
/// Returns an error if the pull did neither, or did not end in time.
async fn outcome(
    sample: &Sample,
    answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
) -> Result<bool, String> {
    let registry = Fake::start(answer);
    let timeouts = quick().with_repeat(Duration::from_secs(1));
    let client = client(&registry, timeouts).await;
    let store = MemoryStore::new().with_images();
    let (name, options) = ("app:1".parse().unwrap(), PullOptions::default());
    let pulled = tokio::time::timeout(BOUND, pull(&store, &client, name, &options)).await;
    let names = store.images.list(&[]).await.unwrap();
    match pulled {
        Err(_) => Err(format!("no end after {BOUND:?}")),
        Ok(Ok(_)) => {
            for digest in sample.content.keys() {
                let stat = store.content.stat(&digest.parse().unwrap()).await;
                if stat.unwrap().is_none() {
                    return Err(format!("accepted without {digest}"));
                }
            }
            Ok(true)
        }
        Ok(Err(error)) => {
            let said = error.to_string();
            let is_of_input = matches!(
                error.kind(),
                ErrorKind::Corrupt
                    | ErrorKind::Denied
                    | ErrorKind::InvalidArgument
                    | ErrorKind::NotFound
                    | ErrorKind::OutOfRange
                    | ErrorKind::Unavailable
                    | ErrorKind::Unsupported
            );
            let is_plain = !said.contains(|one: char| one.is_control()) && said.len() < 1500;
            if !names.is_empty() || !is_of_input || !is_plain {
                return Err(format!("{:?} {names:?} {said}", error.kind()));
            }
            Ok(false)
        }
    }
}

#[tokio::test]
async fn no_lie_in_an_answer_brings_another_image() {
    let sample = Sample::new(&[70_000]);
    let (mut wrong, mut refused, mut whole) = (Vec::new(), 0, 0);
    for (method, part) in REQUESTS {
        for (what, lie) in ANSWERS {
            let good = sample.clone();
            let answered = outcome(&sample, move |request| {
                let answer = good.answer(request);
                if request.is(method, part) {
                    lie(answer)
                } else {
                    answer
                }
            });
            match answered.await {
                Ok(true) => whole += 1,
                Ok(false) => refused += 1,
                Err(error) => wrong.push(format!("{method} {part} {what}: {error}")),
            }
        }
    }
    eprintln!("{refused} pulls were refused, {whole} brought the right image");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(refused > 0 && whole > 0);
}

#[tokio::test]
async fn no_manifest_that_two_readers_read_differently_is_taken() {
    let mut lies = Vec::new();
    for (what, edit) in MANIFESTS {
        let sample = Sample::with(&[10], edit);
        let text = String::from_utf8(sample.data(&sample.root).to_vec()).unwrap();
        lies.push((what, sample, text));
    }
    let sample = Sample::new(&[10]);
    let text = String::from_utf8(sample.data(&sample.root).to_vec()).unwrap();
    for (what, change) in TEXTS {
        lies.push((what, sample.clone(), change(&text)));
    }
    let mut wrong = Vec::new();
    for (what, sample, text) in lies {
        let good = sample.clone();
        let digest = Digest::sha256(text.as_bytes()).to_string();
        let answered = outcome(&sample, move |request| {
            let answer = good.answer(request);
            if request.path.contains("/manifests/") {
                let answer = answer.without("Docker-Content-Digest");
                let answer = answer.with("Docker-Content-Digest", &digest);
                answer.body(text.as_bytes())
            } else {
                answer
            }
        });
        match answered.await {
            Ok(false) => {}
            other => wrong.push(format!("{what}: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
