//! `cas inspect` of anything, `cas lease add` of anything, and what `cas backends` shows.

use std::collections::BTreeMap;

use super::Shelf;

#[test]
fn digits_of_several_blobs_do_not_mean_a_snapshot() {
    let shelf = Shelf::new();
    let mut seen = BTreeMap::new();
    let collision = (0..).find_map(|number: u32| {
        let text = number.to_string();
        let digest = cas::Digest::sha256(text.as_bytes());
        let digits = digest.hex()[..4].to_owned();
        let other = seen.insert(digits.clone(), text.clone())?;
        Some((digits, [text, other]))
    });
    let (digits, texts) = collision.unwrap();
    for text in texts {
        shelf.blob(&text);
    }
    let key = format!("sha256:{digits:0<64}");
    shelf.ok(&["snapshot", "prepare", &key]);
    let said = shelf.fails(&["inspect", &digits], 2);
    assert!(said.contains("several blobs"), "{said}");
    let shown = shelf.json(&["inspect", &key]).remove(0);
    assert_eq!(shown["snapshotter"], "native");
}

#[test]
fn everything_is_shown_by_its_digest_or_the_first_digits() {
    let shelf = Shelf::new();
    shelf.ok(&[
        "import",
        &shelf.text("demo.tar"),
        "--name",
        "app:1",
        "--unpack",
    ]);
    let image = shelf.json(&["inspect", "app:1"]).remove(0);
    let digest = |value: &serde_json::Value| value["digest"].as_str().unwrap().to_owned();
    let config = digest(&image["manifest"]["config"]);
    let layer = digest(&image["manifest"]["layers"][0]);
    let text = shelf.blob("text");
    for (what, kind) in [(&config, "config"), (&layer, "layer"), (&text, "blob")] {
        for typed in [
            what.clone(),
            what[..19].to_owned(),
            what[7..].to_owned(),
            what[7..19].to_owned(),
            what.to_uppercase(),
            format!("content/{what}"),
            format!("content/{}", &what[7..15]),
        ] {
            let shown = shelf.json(&["inspect", &typed]).remove(0);
            assert_eq!(
                (&shown["kind"], &shown["digest"]),
                (&kind.into(), &(*what).clone().into())
            );
            assert!(
                shown["size"].is_u64() && shown["mediaType"].is_string(),
                "{shown}"
            );
            assert!(shown["labels"].is_object(), "{shown}");
        }
    }
    let shown = shelf.json(&["inspect", &config]).remove(0);
    assert_eq!(shown["content"], image["config"]);
    let shown = shelf.json(&["blob", "info", &layer[7..15]]).remove(0);
    assert_eq!(shown["format"], "gzip");
    let target = shelf.target();
    for typed in [
        "app",
        "app:1",
        "docker.io/library/app:1",
        &target,
        &target[7..19],
    ] {
        if typed != "app" {
            let shown = shelf.json(&["inspect", typed]).remove(0);
            assert_eq!(shown["manifest"], image["manifest"], "{typed}");
        }
    }
    shelf.ok(&["snapshot", "prepare", "Work 1"]);
    let mut keys = vec!["Work 1".to_owned(), "snapshots/native/Work 1".to_owned()];
    for listed in shelf.json(&["snapshot", "ls"]) {
        let key = listed["info"]["key"].as_str().unwrap().to_owned();
        if key.starts_with("sha256:") {
            keys.push(key[7..19].to_owned());
            keys.push(format!("snapshots/native/{}", &key[..19]));
            keys.push(key);
        }
    }
    assert!(keys.len() > 9, "{keys:?}");
    for key in keys {
        let shown = shelf.json(&["inspect", &key]).remove(0);
        let found = shown["info"]["key"].as_str().unwrap();
        let last = key.rsplit('/').next().unwrap();
        assert!(
            found.contains(last.trim_start_matches("sha256:")),
            "{key}: {shown}"
        );
        assert_eq!(shown["snapshotter"], "native");
    }
}

#[test]
fn what_is_not_there_is_not_found_and_what_is_nothing_is_wrong() {
    let shelf = Shelf::new();
    for (what, code) in [
        ("absent:1", 3),
        ("0000000", 3),
        ("sha256:0000", 3),
        ("snapshots/native/absent", 3),
        ("content/00", 3),
        ("team/UPPER", 2),
        ("", 2),
    ] {
        shelf.fails(&["inspect", what], code);
    }
    let one = (0..40).map(|number| shelf.blob(&number.to_string()));
    let digests: Vec<String> = one.collect();
    let shared = |digit: char| {
        digests
            .iter()
            .filter(|one| one[7..].starts_with(digit))
            .count()
    };
    let digit = "0123456789abcdef".chars().find(|digit| shared(*digit) > 1);
    let said = shelf.fails(&["inspect", &format!("sha256:{}", digit.unwrap())], 2);
    assert!(said.contains("more digits"), "{said}");
}

#[test]
fn a_lease_keeps_what_short_digests_name() {
    let shelf = Shelf::new();
    shelf.ok(&[
        "import",
        &shelf.text("demo.tar"),
        "--name",
        "app:1",
        "--unpack",
    ]);
    shelf.ok(&["lease", "create", "--id", "audit"]);
    let blob = shelf.blob("kept");
    let listed = shelf.json(&["snapshot", "ls"]).remove(0);
    let key = listed["info"]["key"].as_str().unwrap();
    for (typed, resource) in [
        (blob[7..15].to_owned(), format!("content/{blob}")),
        (blob[..15].to_owned(), format!("content/{blob}")),
        (blob.to_uppercase(), format!("content/{blob}")),
        (
            format!("content/{}", &blob[7..13]),
            format!("content/{blob}"),
        ),
        (
            format!("snapshots/native/{}", &key[..19]),
            format!("snapshots/native/{key}"),
        ),
        (
            format!("snapshots/native/{}", &key[7..15]),
            format!("snapshots/native/{key}"),
        ),
        (
            "images/app:1".to_owned(),
            "images/docker.io/library/app:1".to_owned(),
        ),
    ] {
        let said = shelf.ok(&["lease", "add", "audit", &typed]);
        assert_eq!(said, format!("audit keeps {resource}\n"), "{typed}");
    }
    shelf.fails(&["lease", "add", "audit", "00"], 3);
    shelf.fails(&["lease", "add", "audit", "snapshots/native/00"], 3);
    shelf.fails(&["lease", "add", "audit", "-"], 2);
}

#[test]
fn backends_shows_what_snapshotters_can_do_here() {
    let shelf = Shelf::new();
    let snapshotters = |root: &str| {
        let mut listed = shelf.json(&["backends", "--root", root]);
        listed.retain(|one| one["kind"] == "snapshotter");
        listed
    };
    for root in [shelf.text("root"), shelf.text("absent/root")] {
        let listed = snapshotters(&root);
        let mut names: Vec<_> = listed.iter().map(|one| one["name"].as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["erofs", "native", "overlay"].map(Some));
        for one in &listed {
            assert!(!one["capabilities"].as_array().unwrap().is_empty(), "{one}");
            assert_eq!(one["works"] == true, one["why"].is_null(), "{one}");
        }
        let native = listed.iter().find(|one| one["name"] == "native").unwrap();
        assert_eq!(native["works"], true);
    }
    assert!(!shelf.path("absent").exists());
    // Nothing can be mounted in a root that is a file.
    let listed = snapshotters("/dev/null");
    let overlay = listed.iter().find(|one| one["name"] == "overlay").unwrap();
    assert_eq!(
        overlay["works"] == true,
        overlay["why"].is_null(),
        "{overlay}"
    );
    for one in snapshotters(&shelf.text("root")) {
        let name = one["name"].as_str().unwrap();
        let options = cas::OpenOptions::default().with_snapshotter(name);
        if one["works"] == true {
            let cas = cas::blocking::Cas::open_with(shelf.path("root"), options).unwrap();
            let parallel = one["capabilities"].to_string().contains("in parallel");
            assert_eq!(cas.snapshotter().unwrap().rebases(), parallel, "{one}");
        }
    }
}
