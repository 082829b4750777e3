//! A tree shows what is there, what is embedded in descriptors, and what is missing or damaged.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::common::{fails, ok};
use crate::scene::{CONFIG, Files, INDEX, LAYER, MANIFEST, Place, config, hello, host};

fn base64(data: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |bytes: &[u8]| {
        let bits = (0..3).fold(0, |bits, at| {
            bits << 8 | u32::from(bytes.get(at).copied().unwrap_or_default())
        });
        let digit = |at: usize| match at <= bytes.len() {
            true => char::from(DIGITS[(bits >> (18 - 6 * at) & 63) as usize]),
            false => '=',
        };
        (0..4).map(digit).collect::<String>()
    };
    data.chunks(3).map(group).collect()
}

/// Returns a layout whose manifest embeds its configuration, its layer, or both.
fn embedded(embedded_config: bool, embedded_layer: bool) -> Files {
    let layer = hello();
    let mut files = Files::layout();
    let part = |files: &mut Files, media_type: &str, data: &[u8], embeds: bool| {
        let mut descriptor = files.blob(media_type, data);
        if embeds {
            descriptor["data"] = json!(base64(data));
        }
        descriptor
    };
    let text = config(&host(), &[&layer]).to_string();
    let config = part(&mut files, CONFIG, text.as_bytes(), embedded_config);
    let layer = part(&mut files, LAYER, &layer, embedded_layer);
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
    let manifest = files.document(MANIFEST, &manifest);
    files.lists(&manifest);
    files
}

fn tree(place: &Place) -> Value {
    serde_json::from_str(&ok(place.cas().args(["tree", "app:1", "--json"]))).unwrap()
}

#[test]
fn embedded_data_is_there() {
    for (case, (config, layer)) in [(true, false), (false, true), (true, true)]
        .into_iter()
        .enumerate()
    {
        let place = Place::new();
        let source = embedded(config, layer).write(&place.path(&case.to_string()));
        place.import(&source, "app:1");
        // A store that was filled by another tool has no blobs for embedded data.
        let shown = tree(&place);
        let children = shown["children"].as_array().unwrap();
        for (child, embeds) in children.iter().zip([config, layer]) {
            assert_eq!(child["present"], true, "{shown}");
            if embeds {
                let digest = child["descriptor"]["digest"].as_str().unwrap();
                let _ = fs::remove_file(blob(&place, digest));
            }
        }
        let said = ok(place.cas().args(["tree", "app:1"]));
        let count = usize::from(config) + usize::from(layer);
        assert_eq!(said.matches("  embedded").count(), count, "{said}");
        assert!(
            !said.contains("MISSING") && !said.contains("DAMAGED"),
            "{said}"
        );
        let cas = cas::blocking::Cas::open(place.path("root")).unwrap();
        let check = cas.check("app:1").unwrap();
        assert!(check.is_complete() && check.present.len() == 2, "{check:?}");
    }
}

fn blob(place: &Place, digest: &str) -> PathBuf {
    place
        .path("root/store/blobs")
        .join(digest.replace(':', "/"))
}

#[test]
fn a_blob_of_the_wrong_size_is_damaged() {
    let place = Place::new();
    let mut files = Files::layout();
    let manifest = files.image(&host(), &hello());
    files.lists(&manifest);
    place.import(&files.write(&place.path("source")), "app:1");
    let whole = tree(&place);
    let digests: Vec<String> = [&whole["children"][1], &whole["children"][0], &whole]
        .iter()
        .map(|node| node["descriptor"]["digest"].as_str().unwrap().to_owned())
        .collect();
    for (digest, role) in digests.iter().zip(["layer", "config", "manifest"]) {
        let file = blob(&place, digest);
        let bytes = fs::read(&file).unwrap();
        for wrong in [&bytes[..bytes.len() - 1], &[&bytes[..], b"x"].concat(), b""] {
            fs::remove_file(&file).unwrap();
            fs::write(&file, wrong).unwrap();
            let out = place.cas().args(["tree", "app:1"]).output().unwrap();
            let said = String::from_utf8(out.stdout).unwrap();
            assert_eq!(out.status.code(), Some(4), "{said}");
            let damage = format!(
                "DAMAGED (expected {} bytes, found {})",
                bytes.len(),
                wrong.len()
            );
            let line = said.lines().find(|line| line.contains(&damage)).unwrap();
            assert!(line.contains(role), "{said}");
        }
        fs::write(&file, &bytes).unwrap();
        assert_eq!(tree(&place), whole);
    }
    // Wrong bytes of the right size are noticed in a document.
    let file = blob(&place, &digests[2]);
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, bytes.iter().map(|byte| byte ^ 1).collect::<Vec<_>>()).unwrap();
    let said = fails(place.cas().args(["tree", "app:1"]), 4);
    assert!(said.contains(&digests[2]), "{said}");
}

/// An import leaves the nested index out, but another program can store it.
#[test]
fn an_index_whose_digests_cannot_be_verified_is_damaged() {
    let place = Place::new();
    let mut files = Files::layout();
    let entries = json!([{"digest": "sha384:00", "size": 2}]);
    let text = json!({"schemaVersion": 2, "manifests": entries}).to_string();
    let nested = files.blob(INDEX, &text);
    let manifest = files.image(&host(), &hello());
    let index = json!({"schemaVersion": 2, "manifests": [nested, manifest]});
    let index = files.document(INDEX, &index);
    files.lists(&index);
    place.import(&files.write(&place.path("source")), "app:1");
    fs::write(blob(&place, nested["digest"].as_str().unwrap()), text).unwrap();
    let out = place.cas().args(["tree", "app:1"]).output().unwrap();
    let said = String::from_utf8(out.stdout).unwrap();
    assert_eq!(out.status.code(), Some(4), "{said}");
    let mut lines = said.lines();
    let damaged = lines.find(|line| line.contains("DAMAGED")).unwrap();
    assert!(damaged.contains("sha384:00"), "{said}");
    assert!(lines.any(|line| line.contains("layer")), "{said}");
}
