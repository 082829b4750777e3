//! Referrers of an image are pushed, listed, pulled, exported and copied with it.

use std::fs;

use cas::distribution::{Endpoint, Mirrors, Options};
use cas::transfer::{ArtifactClient, Referrers};
use cas::{Descriptor, ErrorKind, MediaType};
use serde_json::{Value, json};

use super::artifacts::{Artifacts, SBOM, SIGNATURE, artifact};
use super::fake::{Answer, Fake};
use super::sample::Sample;
use super::spec::{Abilities, INDEX, Spec};
use super::{client, quick};
use crate::common::docker::{PROGRAM, Registry};
use crate::common::shop::{names, skopeo};
use crate::common::{can, demo_archive, fails, ok, stores, text};

const UNFILTERED: Abilities = Abilities {
    filters: false,
    ..Abilities::ALL
};

#[test]
fn artifacts_go_to_a_registry_and_back_with_their_image() {
    for able in [Abilities::ALL, UNFILTERED, Abilities::OLD] {
        let artifacts = Artifacts::new();
        let spec = Spec::new(able);
        let registry = spec.start();
        let there = registry.image();
        let push = ["push", "app:1", &there];
        ok(&mut artifacts.cas("own", &push));
        let list = ["registry", "referrers", &there];
        assert!(artifacts.json("own", &list).is_empty());
        for _ in 0..2 {
            ok(artifacts.cas("own", &push).arg("--referrers"));
        }
        let listed = artifacts.json("own", &list);
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0]["digest"], json!(artifacts.sbom.digest));
        assert_eq!(listed[0]["artifactType"], SBOM);
        assert_eq!(listed[0]["annotations"]["made"], "now");
        for (kind, number) in [(SBOM, 1), (SIGNATURE, 0)] {
            let list = [&list[..], &["--artifact-type", kind]].concat();
            assert_eq!(artifacts.json("own", &list).len(), number, "{kind}");
        }
        let by_tag = spec.listed_by_tag(&artifacts.image.digest.to_string());
        match able.referrers {
            true => assert!(by_tag.is_empty()),
            false => assert_eq!(by_tag, [artifacts.sbom.digest.to_string()]),
        }
        ok(&mut artifacts.cas("new", &["pull", &there]));
        let tree = ok(&mut artifacts.cas("new", &["tree", &there]));
        assert!(!tree.contains("referrer"), "{tree}");
        let present = ["pull", "--referrers", "--policy", "missing", &there];
        let out = artifacts.cas("new", &present).output().unwrap();
        let said = text(&out.stderr);
        assert!(
            out.status.success() && said.contains("not asked for referrers"),
            "{said}"
        );
        ok(&mut artifacts.cas("new", &["pull", "--referrers", &there]));
        artifacts.are_in("new", &there);
        artifacts.end_with("new", &there);
    }
}

/// Imports the image `demo:1`, whose layer is compressed, into the root `own`.
#[cfg(feature = "soci")]
fn import_demo(artifacts: &Artifacts) {
    let archive = demo_archive(&artifacts.path("."));
    let archive = archive.to_str().unwrap();
    ok(&mut artifacts.cas("own", &["import", archive, "--name", "demo:1"]));
}

#[cfg(feature = "soci")]
#[test]
fn an_index_of_soci_goes_to_a_registry_and_back_with_its_image() {
    let artifacts = Artifacts::new();
    let registry = Spec::new(Abilities::ALL).start();
    let there = registry.image();
    import_demo(&artifacts);
    let create = |image| ["soci", "create", image, "--min-layer-size", "0"];
    // The only layer of this image is not compressed.
    let said = fails(&mut artifacts.cas("own", &create("app:1")), 1);
    assert!(said.contains("gzip"), "{said}");
    let made = artifacts.json("own", &create("demo:1"));
    ok(&mut artifacts.cas("own", &["soci", "push", "demo:1", &there]));
    let kind = "application/vnd.amazon.soci.index.v1+json";
    let list = ["registry", "referrers", &there, "--artifact-type", kind];
    let listed = artifacts.json("own", &list);
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["digest"], made[0]["digest"]);
    ok(&mut artifacts.cas("new", &["pull", "--referrers", &there]));
    let listed = artifacts.json("new", &["soci", "ls", &there]);
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["digest"], made[0]["digest"]);
    assert_eq!(listed[0]["layers"], made[0]["layers"]);
}

/// The index of a converted image lists the manifest for one platform, and the SOCI index.
#[cfg(feature = "soci")]
#[test]
fn a_push_without_the_index_of_soci_says_so() {
    let artifacts = Artifacts::new();
    let registry = Spec::new(Abilities::ALL).start();
    let there = registry.image();
    import_demo(&artifacts);
    let convert = ["soci", "convert", "demo:1", "demo:2"];
    ok(artifacts
        .cas("own", &convert)
        .args(["--min-layer-size", "0"]));
    ok(&mut artifacts.cas("own", &["push", "demo:2", &there]));
    let copy = format!("{there}-copy");
    for (root, pull, is_left_out) in [
        ("one", &["pull"][..], true),
        ("all", &["pull", "--all-platforms"][..], false),
    ] {
        ok(artifacts.cas(root, pull).arg(&there));
        let pushed = artifacts.cas(root, &["push", &there, &copy]).output();
        let pushed = pushed.unwrap();
        let said = text(&pushed.stderr);
        assert!(pushed.status.success(), "{said}");
        assert_eq!(said.contains("SOCI index"), is_left_out, "{said}");
    }
    ok(&mut artifacts.cas("new", &["pull", "--all-platforms", &copy]));
    let target = |root| artifacts.json(root, &["images"])[0]["target"].clone();
    assert_eq!(target("new"), target("all"));
}

#[test]
fn artifacts_are_imported_exported_and_copied_with_their_image() {
    let artifacts = Artifacts::new();
    artifacts.are_in("own", "app:1");
    let export = |root: &str, file: &str, more: &[&str]| {
        let path = artifacts.path(file);
        let export = ["export", "app:1", "-o", path.to_str().unwrap()];
        ok(&mut artifacts.cas(root, &[&export[..], more].concat()));
        path
    };
    for (number, format) in ["oci", "docker"].into_iter().enumerate() {
        let more = ["--referrers", "--format", format];
        let archive = export("own", "app.tar", &more);
        let root = format!("import-{number}");
        ok(artifacts.cas(&root, &["import"]).arg(&archive));
        artifacts.are_in(&root, "app:1");
        // The archive is the same from any store.
        let again = export(&root, "again.tar", &more);
        assert_eq!(fs::read(&archive).unwrap(), fs::read(again).unwrap());
        // Without `--referrers`, an archive has none.
        let plain = export("own", "plain.tar", &more[1..]);
        let root = format!("plain-{number}");
        ok(artifacts.cas(&root, &["import"]).arg(plain));
        assert!(!ok(&mut artifacts.cas(&root, &["tree", "app:1"])).contains("referrer"));
    }
    for (number, store) in stores("referrers").iter().enumerate() {
        let root = format!("copy-{number}");
        ok(artifacts.cas(&root, &["init", "--store"]).arg(store));
        let to = artifacts.path(&root);
        ok(artifacts.cas("own", &["copy", "app:1"]).arg(&to));
        artifacts.are_in(&root, "app:1");
        artifacts.end_with(&root, "app:1");
    }
}

#[test]
fn skopeo_reads_and_moves_what_stands_for_the_missing_api() {
    if !can(&["skopeo", PROGRAM]) {
        return;
    }
    let artifacts = Artifacts::new();
    let registry = Registry::open(&artifacts.path(""));
    let (ours, theirs) = (registry.at("ours/app"), registry.at("theirs/app"));
    let tags = [&artifacts.image, &artifacts.sbom].map(|one| one.digest.to_string());
    let tags = tags.map(|digest| digest.replace(':', "-"));
    ok(&mut artifacts.cas(
        "own",
        &["push", "--referrers", "app:1", &format!("{ours}:1")],
    ));
    let raw = ["inspect", "--raw", "--tls-verify=false"];
    let raw = skopeo(&[&raw[..], &[&format!("docker://{ours}:{}", tags[0])]].concat());
    let index: serde_json::Value = serde_json::from_str(&raw).unwrap();
    assert_eq!(index["mediaType"], INDEX);
    assert_eq!(
        index["manifests"][0]["digest"],
        json!(artifacts.sbom.digest)
    );
    let listed = skopeo(&[
        "list-tags",
        "--tls-verify=false",
        &format!("docker://{ours}"),
    ]);
    for tag in ["1", &tags[0], &tags[1]] {
        assert!(listed.contains(tag), "{listed}");
    }
    let printed = ok(&mut artifacts.cas("own", &["registry", "tags", &ours]));
    let printed: Vec<&str> = printed.lines().collect();
    assert!(printed.len() == 3 && printed.contains(&"1"), "{printed:?}");
    // skopeo writes each index again, but keeps the manifests that it lists.
    for tag in [&tags[1], &tags[0], "1"] {
        let [from, to] = [&ours, &theirs].map(|place| format!("docker://{place}:{tag}"));
        let plain = ["--src-tls-verify=false", "--dest-tls-verify=false"];
        let exact = match tag {
            "1" => "--preserve-digests",
            _ => "--all",
        };
        skopeo(&[&["copy", "-q", exact][..], &plain, &[&from, &to]].concat());
    }
    let there = format!("{theirs}:1");
    ok(&mut artifacts.cas("new", &["pull", "--referrers", &there]));
    artifacts.are_in("new", &there);
}

#[tokio::test]
async fn referrers_come_in_pages_and_are_filtered_in_any_case() {
    for able in [Abilities::ALL, UNFILTERED] {
        let spec = Spec::new(able);
        let subject = Descriptor::of(MediaType::OCI_MANIFEST, b"subject");
        for number in 0..5 {
            let kind = format!("application/x.{}", number % 2);
            let mut subject = subject.clone();
            subject
                .annotations
                .insert("number".into(), number.to_string());
            let (own, data) = artifact(&kind, &subject);
            spec.put(None, own.media_type.as_str(), &data);
        }
        let registry = spec.start();
        let client = ArtifactClient::new(client(&registry, quick()).await);
        assert_eq!(client.all_referrers(&subject).await.unwrap().len(), 5);
        assert_eq!(registry.count("GET", "/referrers/"), 3);
        let client = client.with_artifact_type("application/x.1".to_owned());
        let found = client.all_referrers(&subject).await.unwrap();
        let kinds: Vec<_> = found
            .iter()
            .map(|one| one.artifact_type.clone().unwrap())
            .collect();
        assert_eq!(kinds, ["application/x.1"; 2]);
        let asked = registry.seen().pop().unwrap();
        assert!(asked.path.contains("artifactType=application%2Fx.1") || !able.filters);
    }
}

/// Returns the error of listing referrers if the API of the registry gives this answer.
async fn refused(answer: Answer) -> cas::Error {
    let registry = Fake::start(move |request| match request.path.contains("/referrers/") {
        true => answer.clone(),
        false => Answer::error(404, "MANIFEST_UNKNOWN", "unknown here"),
    });
    let client = ArtifactClient::new(client(&registry, quick()).await);
    let subject = Descriptor::of(MediaType::OCI_MANIFEST, b"subject");
    let error = client.all_referrers(&subject).await.unwrap_err();
    assert!(registry.count("GET", "") < 5, "{error}");
    error
}

#[tokio::test]
async fn answers_that_break_the_rules_are_typed_errors() {
    let index = |body: &str| {
        Answer::new(200)
            .with("Content-Type", INDEX)
            .body(body.as_bytes())
    };
    let empty = r#"{"schemaVersion":2,"manifests":[]}"#;
    let entry = json!(Descriptor::of(MediaType::OCI_MANIFEST, b"x")).to_string();
    let entries = |number: usize| {
        let listed = vec![&*entry; number].join(",");
        format!(r#"{{"schemaVersion":2,"manifests":[{listed}]}}"#)
    };
    let link = |to: &str| index(empty).with("Link", &format!("<{to}>; rel=next"));
    let own = "/v2/team/app/referrers/sha256:";
    let itself = format!("{own}{}", cas::Digest::sha256(b"subject").hex());
    for (answer, kind) in [
        (index("not JSON"), ErrorKind::Corrupt),
        (index(r#"{"manifests":[],"layers":[]}"#), ErrorKind::Corrupt),
        (index(&"[".repeat(100_000)), ErrorKind::Corrupt),
        (index(&entries(5000)), ErrorKind::Corrupt),
        // The list is larger than the limit of a document.
        (index(&entries(100_000)), ErrorKind::OutOfRange),
        (link(&itself), ErrorKind::OutOfRange),
        (link("http://169.254.169.254/latest"), ErrorKind::Corrupt),
        (link("https://127.0.0.1:1/v2/"), ErrorKind::Corrupt),
        (link("http://me:secret@127.0.0.1/"), ErrorKind::Denied),
        (link("file:///etc/passwd"), ErrorKind::Denied),
        (link("http://["), ErrorKind::Corrupt),
        (Answer::error(403, "DENIED", "no"), ErrorKind::Denied),
        (
            Answer::error(400, "DIGEST_INVALID", "no"),
            ErrorKind::Corrupt,
        ),
        (
            index(empty).with("Content-Encoding", "gzip"),
            ErrorKind::Unsupported,
        ),
    ] {
        let error = refused(answer).await;
        assert_eq!(error.kind(), kind, "{error}");
    }
}

/// Other entries may be on the same page or on a later one.
#[tokio::test]
async fn referrers_with_digests_of_other_algorithms_are_left_out() {
    let known = json!(Descriptor::of(MediaType::OCI_MANIFEST, b"x"));
    let other = json!({"digest": "sha384:00", "size": 2});
    for (pages, found) in [
        ([json!([other]), json!([])], 0),
        ([json!([other]), json!([known])], 1),
        ([json!([known]), json!([other])], 1),
        ([json!([other, known]), json!([])], 1),
    ] {
        let registry = Fake::start(move |request| {
            let is_last = request.path.contains("last=1");
            let entries = &pages[usize::from(is_last)];
            let page = json!({"schemaVersion": 2, "manifests": entries}).to_string();
            let answer = Answer::new(200).with("Content-Type", INDEX);
            let answer = answer.body(page.as_bytes());
            match is_last {
                true => answer,
                false => answer.with("Link", "<?last=1>; rel=next"),
            }
        });
        let client = client(&registry, quick()).await;
        let subject = Descriptor::of(MediaType::OCI_MANIFEST, b"subject");
        let listed = ArtifactClient::new(&client).all_referrers(&subject).await;
        assert_eq!(listed.unwrap().len(), found);
        let said = client.warnings();
        assert!(said.len() == 1 && said[0].contains("sha384:00"), "{said:?}");
    }
}

#[tokio::test]
async fn a_registry_without_the_api_and_the_tag_has_no_referrers() {
    let html = || {
        Answer::new(200)
            .with("Content-Type", "text/html")
            .body(b"<p>")
    };
    let not_found = || Answer::new(404).body(b"404 page not found");
    for (api, tag) in [
        (not_found(), not_found()),
        (html(), not_found()),
        (not_found(), html()),
        (
            not_found(),
            Answer::new(200)
                .with("Content-Type", INDEX)
                .body(b"{broken"),
        ),
    ] {
        let registry = Fake::start(move |request| match request.path.contains("/referrers/") {
            true => api.clone(),
            false => tag.clone(),
        });
        let client = client(&registry, quick()).await;
        let subject = Descriptor::of(MediaType::OCI_MANIFEST, b"subject");
        for _ in 0..2 {
            let found = ArtifactClient::new(&client).all_referrers(&subject).await;
            assert!(found.unwrap().is_empty());
        }
        // The client remembers that the registry does not have the API.
        assert_eq!(registry.count("GET", "/referrers/"), 1);
        assert_eq!(registry.count("GET", "/manifests/sha256-"), 2);
        drop(client.referrers(&subject, None).await.unwrap());
    }
}

#[test]
fn a_pull_with_artifacts_that_lie_writes_no_name() {
    let artifacts = Artifacts::new();
    let spec = Spec::new(Abilities::OLD);
    let there = spec.start();
    ok(&mut artifacts.cas("own", &["push", "--referrers", "app:1", &there.image()]));
    let tag = artifacts.image.digest.to_string().replace(':', "-");
    let list = |entry: &Descriptor| {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]});
        spec.put(Some(&tag), INDEX, index.to_string().as_bytes());
    };
    let mut plain = artifacts.sbom.clone();
    plain.media_type = "text/plain".into();
    for (entry, said) in [
        (&artifacts.signature, "expected the subject"),
        (&artifacts.image, "found none"),
        (&plain, "found text/plain"),
    ] {
        list(entry);
        let pull = ["pull", "--referrers", &there.image()];
        let error = fails(&mut artifacts.cas("new", &pull), 4);
        assert!(error.contains(said), "{error}");
        assert!(artifacts.json("new", &["images"]).is_empty());
    }
    // A referrer that was deleted or that is not supported is left out.
    let gone = Descriptor::of(MediaType::OCI_MANIFEST, b"gone");
    let odd = json!({"schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST, "artifactType": SBOM,
        "config": artifacts.sbom, "subject": artifacts.image, "layers": [
            {"mediaType": "text/plain", "size": 1, "digest": format!("blake3:{}", "0".repeat(64))}]})
    .to_string();
    spec.put(None, MediaType::OCI_MANIFEST.as_str(), odd.as_bytes());
    let odd = Descriptor::of(MediaType::OCI_MANIFEST, odd.as_bytes());
    let foreign = json!({"schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST,
        "config": Descriptor::of(MediaType::OCI_EMPTY, b"{}"), "subject": other_subject()})
    .to_string();
    spec.put(None, MediaType::OCI_MANIFEST.as_str(), foreign.as_bytes());
    let foreign = Descriptor::of(MediaType::OCI_MANIFEST, foreign.as_bytes());
    for (root, entry, why) in [
        ("new", gone, "absent"),
        ("odd", odd, "not supported"),
        ("foreign", foreign, "not supported"),
    ] {
        list(&entry);
        let pull = artifacts
            .cas(root, &["pull", "--referrers", &there.image()])
            .output();
        let pull = pull.unwrap();
        let said = text(&pull.stderr);
        assert!(pull.status.success(), "{said}");
        let expected = format!("is left out, because it or a part of it is {why}");
        assert!(said.contains(&expected), "{said}");
    }
}

/// Returns a subject whose digest has an unknown algorithm.
fn other_subject() -> Value {
    json!({"mediaType": MediaType::OCI_MANIFEST, "digest": "sha384:00", "size": 2})
}

/// containerd and skopeo ignore such a subject, too.
#[test]
fn a_subject_of_another_algorithm_does_not_matter_for_the_image() {
    let sample = Sample::with(&[100], |manifest| manifest["subject"] = other_subject());
    let digest = sample.root.digest;
    let registry = Fake::start(move |request| sample.answer(request));
    let spec = Spec::new(Abilities::OLD);
    let receiver = spec.start();
    let there = receiver.image();
    let artifacts = Artifacts::new();
    let run = |root: &str, arguments: &[&str]| ok(&mut artifacts.cas(root, arguments));
    let archive = artifacts.path("app.tar");
    let archive = archive.to_str().unwrap();
    run("first", &["pull", &registry.image()]);
    run("first", &["push", "--referrers", &registry.image(), &there]);
    assert_eq!(spec.get("1").unwrap()["subject"], other_subject());
    run("pulled", &["pull", "--referrers", &there]);
    run("pulled", &["export", &there, "-o", archive]);
    run("imported", &["import", archive, "--name", &there]);
    run("copied", &["init"]);
    let copied = artifacts.path("copied");
    run("imported", &["copy", &there, copied.to_str().unwrap()]);
    for root in ["pulled", "imported", "copied"] {
        assert_eq!(names(&artifacts.path(root))[&there], digest, "{root}");
        let checked = run(root, &["fsck", "--read-data"]);
        assert!(!checked.contains("sha384"), "{checked}");
    }
}

#[tokio::test]
async fn a_mirror_without_referrers_does_not_hide_those_of_the_registry() {
    let subject = Descriptor::of(MediaType::OCI_MANIFEST, b"subject");
    let (own, data) = artifact(SBOM, &subject);
    let spec = Spec::new(Abilities::ALL);
    spec.put(None, own.media_type.as_str(), &data);
    let registry = spec.start();
    let gone = Fake::start(|_| Answer::error(403, "DENIED", "not you"));
    let (empty, old) = (
        Spec::new(Abilities::ALL).start(),
        Spec::new(Abilities::OLD).start(),
    );
    let places = [&gone, &old, &empty, &registry].map(|place| {
        let name = place.image().parse().unwrap();
        (Endpoint::of(&name), Options::default())
    });
    let mirrors = Mirrors::new(places);
    let found = ArtifactClient::new(&mirrors).all_referrers(&subject).await;
    assert_eq!(found.unwrap()[0].digest, own.digest);
    assert_eq!(mirrors.warnings().len(), 1);
    let other = Descriptor::of(MediaType::OCI_MANIFEST, b"other");
    let found = ArtifactClient::new(&mirrors).all_referrers(&other).await;
    assert!(found.unwrap().is_empty());
}
