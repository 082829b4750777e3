//! Messages about platforms list the available platforms, and an error names each subject once.

use serde_json::{Value, json};

use crate::common::{fails, ok};
use crate::scene::{CONFIG, Files, INDEX, LAYER, MANIFEST, Place, config, hello, host};

/// Returns a layout of an index with these platforms, and without the manifests that are `absent`.
fn index(platforms: &[&str], absent: &[&str]) -> Files {
    let mut files = Files::layout();
    let mut entries: Vec<Value> = Vec::new();
    for platform in platforms {
        let (os, processor) = platform.split_once('/').unwrap();
        let mut entry = files.image(processor, &hello());
        entry["platform"] = json!({"os": os, "architecture": processor});
        entries.push(entry);
    }
    for entry in &entries {
        let processor = entry["platform"]["architecture"].as_str().unwrap();
        if absent.iter().any(|absent| absent.ends_with(processor)) {
            let blob = entry["digest"].as_str().unwrap().replace(':', "/");
            files.0.retain(|(path, _)| !path.ends_with(&blob));
        }
    }
    let index = files.document(INDEX, &json!({"schemaVersion": 2, "manifests": entries}));
    files.lists(&index);
    files
}

#[test]
fn an_image_for_other_platforms_lists_them() {
    for (case, platforms, absent, expected) in [
        ("one", &["linux/s390x"][..], &[][..], "linux/s390x"),
        (
            "two",
            &["linux/s390x", "linux/arm"],
            &[],
            "linux/arm/v7, linux/s390x",
        ),
        (
            "half",
            &["linux/s390x", "linux/arm"],
            &["linux/arm"],
            "linux/s390x",
        ),
        ("twice", &["linux/s390x", "linux/s390x"], &[], "linux/s390x"),
        ("windows", &["windows/s390x"], &[], "windows/s390x"),
    ] {
        let place = Place::new();
        place.import(&index(platforms, absent).write(&place.path(case)), "app:1");
        let own = format!("linux/{}", host());
        for command in [
            &["inspect", "app:1", "--platform", &own][..],
            &["unpack", "app:1", "/dev/shm/never"],
            &["bundle", "app:1", "/dev/shm/never"],
            &["mount", "app:1", "/dev/shm"],
            &[
                "export",
                "app:1",
                "--format",
                "docker",
                "-o",
                "/dev/shm/never",
            ],
            &["copy", "app:1", "app:2", "--platform", &own],
        ] {
            let said = fails(place.cas().args(command), 3);
            let has = match command[0] {
                "copy" => "it has",
                _ => "the store has the image for",
            };
            let expected = format!("; {has}: {expected}");
            assert!(said.trim_end().ends_with(&expected), "{command:?}: {said}");
        }
    }
}

/// The same holds if the manifest for this machine is listed, but was not stored.
#[test]
fn an_image_for_other_platforms_is_shown_with_its_index() {
    let own = &*format!("linux/{}", host());
    for (case, platforms, absent, listed) in [
        ("one", &["linux/s390x"][..], &[][..], 1),
        ("two", &["linux/s390x", "linux/arm"], &[], 2),
        ("windows", &["windows/s390x"], &[], 1),
        ("half", &["linux/s390x", "linux/arm"], &["linux/arm"], 2),
        ("own", &[own, "linux/s390x"], &[own], 2),
    ] {
        let place = Place::new();
        place.import(&index(platforms, absent).write(&place.path(case)), "app:1");
        let mut inspect = place.cas();
        let out = inspect.args(["inspect", "app:1", "--json"]).output();
        let out = out.unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        assert!(
            out.status.success() && said.contains("the store has the image for: "),
            "{case}: {said}"
        );
        let shown: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(
            shown["index"]["manifests"].as_array().unwrap().len(),
            listed
        );
        assert_eq!(
            shown["platforms"].as_array().unwrap().len(),
            listed,
            "{shown}"
        );
        assert_eq!(shown["target"], shown["descriptor"]);
        assert!(shown["manifest"].is_null() && shown["name"].is_string());
        let there = platforms.iter().find(|one| !absent.contains(*one));
        let chosen = ["-q", "inspect", "app:1", "--platform", there.unwrap()];
        let shown = ok(place.cas().args(chosen));
        assert!(shown.contains("\"manifest\""), "{case}");
    }
}

#[test]
fn a_source_without_the_platform_lists_what_it_has() {
    let place = Place::new();
    let wanted = format!("linux/{}", host());
    let own = &*wanted;
    let nothing = "it has nothing for any other platform either";
    for (case, platforms, absent, expected) in [
        (
            "others",
            &["linux/s390x", "linux/riscv64"][..],
            &[][..],
            "it has: linux/riscv64, linux/s390x",
        ),
        (
            "listed",
            &[own, "linux/s390x"],
            &[own],
            "it has: linux/s390x",
        ),
        (
            "absent",
            &[own, "linux/s390x", "linux/riscv64"],
            &[own, "linux/s390x"],
            "it has: linux/riscv64",
        ),
        ("none", &[own], &[own], nothing),
        (
            "nothing",
            &[own, "linux/s390x"],
            &[own, "linux/s390x"],
            nothing,
        ),
    ] {
        let source = index(platforms, absent).write(&place.path(case));
        let import = ["--name", "app:1", "--platform", own];
        let said = fails(place.cas().arg("import").arg(source).args(import), 3);
        assert!(said.contains(&format!("nothing for {own}; ")), "{said}");
        assert!(said.trim_end().ends_with(expected), "{said}");
    }
}

/// Returns the things in a message that are named more than once.
fn repeated(said: &str) -> Vec<&str> {
    let words: Vec<&str> = said.split([' ', '\n', ',', ';', '"']).collect();
    let words = words.iter().map(|word| word.trim_end_matches([':', '.']));
    let things: Vec<&str> = words
        .filter(|word| word.contains("sha256:") || word.contains('/'))
        .collect();
    let repeats = things.iter().enumerate();
    repeats
        .filter(|(at, thing)| things[..*at].contains(thing))
        .map(|(_, thing)| *thing)
        .collect()
}

#[test]
fn an_error_names_a_thing_once() {
    let place = Place::new();
    let mut said = vec![
        fails(place.cas().args(["import", "/dev/shm/no/such/source"]), 3),
        fails(place.cas().args(["inspect", "no/such:1"]), 3),
        fails(
            place.cas().args(["unpack", "no/such:1", "/dev/shm/never"]),
            3,
        ),
    ];
    let layer = hello();
    let mut files = Files::layout();
    let image = files.image(&host(), &layer);
    files.lists(&image);
    place.import(&files.write(&place.path("source")), "app:1");
    let export = ["export", "app:1", "-o", "/dev/shm/no/such/archive.tar"];
    said.push(fails(place.cas().args(export), 3));
    // A source with another layer, without one, and with too much or too little of it.
    let blob = files.blob(LAYER, &layer)["digest"]
        .as_str()
        .unwrap()
        .replace(':', "/");
    let blob = format!("blobs/{blob}");
    for (case, bytes) in [
        ("other", Some(vec![7; layer.len()])),
        ("short", Some(layer[..100].to_vec())),
        ("long", Some(vec![7; layer.len() + 1])),
        ("none", None),
    ] {
        let source = files.write(&place.path(case));
        std::fs::remove_file(source.join(&blob)).unwrap();
        if let Some(bytes) = bytes {
            std::fs::write(source.join(&blob), bytes).unwrap();
        }
        let other = Place::new();
        for unpack in [&[][..], &["--unpack"]] {
            let mut import = other.cas();
            import
                .arg("import")
                .arg(&source)
                .args(["--name", "app:1"])
                .args(unpack);
            let out = import.output().unwrap();
            assert!(!out.status.success(), "{case}");
            said.push(String::from_utf8(out.stderr).unwrap());
        }
    }
    // The stored layer is damaged, cut off, or gone.
    let stored = place.path("root/store").join(&blob);
    for bytes in [
        Some(vec![7; layer.len()]),
        Some(layer[..600].to_vec()),
        None,
    ] {
        std::fs::remove_file(&stored).unwrap();
        bytes.inspect(|bytes| std::fs::write(&stored, bytes).unwrap());
        for command in [
            &["unpack", "app:1", "/dev/shm/never"][..],
            &["export", "app:1", "-o", "/dev/shm/never.tar"],
        ] {
            let out = place.cas().args(command).output().unwrap();
            assert!(!out.status.success(), "{command:?}");
            said.push(String::from_utf8(out.stderr).unwrap());
        }
    }
    for said in said {
        assert!(
            repeated(&said).is_empty(),
            "{:?} in {said}",
            repeated(&said)
        );
    }
    ok(place.cas().arg("images"));
}

/// Returns a layout of an image whose configuration and manifest have a member with this value.
fn with(document: &str, member: &str, value: &Value) -> Files {
    let mut files = Files::layout();
    let layer = hello();
    let mut config = config(&host(), &[&layer]);
    let set = |own: &str, into: &mut Value| {
        if own == document {
            into[member] = value.clone();
        }
    };
    set("config", &mut config["config"]);
    set("configuration", &mut config);
    set("rootfs", &mut config["rootfs"]);
    let mut layers = json!([files.blob(LAYER, &layer)]);
    set("layer", &mut layers[0]);
    let config = files.document(CONFIG, &config);
    let mut manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
    set("manifest", &mut manifest);
    let mut target = files.document(MANIFEST, &manifest);
    if document == "platform" {
        target["platform"] = json!({"os": "linux", "architecture": "s390x"});
        set("platform", &mut target["platform"]);
        let index = json!({"schemaVersion": 2, "manifests": [target]});
        target = files.document(INDEX, &index);
    }
    files.lists(&target);
    files
}

/// The message names the document, and shows neither long texts nor names of our own types.
#[test]
fn a_wrong_member_of_a_document_is_said_in_few_words() {
    let place = Place::new();
    let long = json!("b".repeat(1 << 20));
    for (n, (document, member, value, code)) in [
        ("config", "User", long.clone(), 3),
        ("config", "User", json!(7), 4),
        ("config", "Env", json!({}), 4),
        ("config", "Labels", json!("x"), 4),
        ("configuration", "config", json!([]), 4),
        ("configuration", "rootfs", json!(7), 4),
        ("configuration", "os", json!(7), 4),
        ("rootfs", "type", long.clone(), 4),
        ("rootfs", "diff_ids", json!([]), 4),
        ("rootfs", "diff_ids", json!([long.clone()]), 4),
        ("manifest", "config", json!(7), 4),
        ("manifest", "layers", json!([[]]), 4),
        ("manifest", "layers", long.clone(), 4),
        ("manifest", "mediaType", long.clone(), 4),
        ("manifest", "schemaVersion", long.clone(), 4),
        ("layer", "digest", json!("md5:abc"), 2),
        ("layer", "digest", long.clone(), 4),
        ("layer", "size", json!(-1), 4),
        ("platform", "os", long.clone(), 3),
        ("platform", "variant", long.clone(), 3),
    ]
    .into_iter()
    .enumerate()
    {
        let what = format!("{document}.{member} {value:.20}");
        let source = with(document, member, &value).write(&place.path(&n.to_string()));
        let mut import = place.cas();
        let out = import.arg("import").arg(source).args(["--name", "app:1"]);
        let out = out.output().unwrap();
        let said = if out.status.success() {
            let never = place.path("never");
            fails(place.cas().args(["bundle", "app:1"]).arg(never), code)
        } else {
            assert_eq!(out.status.code(), Some(code), "{what}");
            String::from_utf8(out.stderr).unwrap()
        };
        assert!(said.len() < 700, "{what}: {said}");
        assert!(
            said.contains("sha256:") || member == "User",
            "{what}: {said}"
        );
        for form in ["struct ", "Raw", "Some(", "None", "Error", "\\\\"] {
            assert!(!said.contains(form), "{what}: {said}");
        }
    }
    let program = json!([format!("/{}", "b".repeat(1 << 20))]);
    let source = with("config", "Cmd", &program).write(&place.path("program"));
    place.import(&source, "app:1");
    let said = fails(
        place.cas().args(["run", "--runtime", "chroot", "app:1"]),
        127,
    );
    assert!(said.len() < 300, "{said}");
}
