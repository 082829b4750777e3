//! Text from an image is escaped before it reaches the terminal, in results, warnings and errors.

use std::process::Command;

use serde_json::{Value, json};
use testkit::archive::Tar;

use crate::scene::{CONFIG, Files, INDEX, LAYER, MANIFEST, Place, config, hello, host};

/// Texts that move the cursor, set colours and titles, begin lines, or hide or reorder letters.
const TEXTS: [&str; 9] = [
    "a\u{1b}[31mb",
    "a\u{1b}]0;title\u{7}",
    "a\u{9b}31m\u{9d}0;title\u{9c}",
    "a\r\nFORGED\u{85}FORGED\u{2028}FORGED",
    "a\u{8}\u{7f}\u{b}\u{c}\tb",
    "\u{202e}txt.exe\u{2066}\u{200f}\u{61c}",
    "a\u{200b}\u{feff}\u{ad}\u{180e}\u{2060}b",
    "a\u{e0041}\u{fff9}b",
    "a\0b",
];

/// Returns whether a terminal may interpret a character, or not show it.
fn acts(letter: char) -> bool {
    let hidden = "\u{ad}\u{61c}\u{180e}\u{200b}\u{200f}\u{2028}\u{202e}\u{2060}\u{2066}\u{feff}\
                  \u{fff9}\u{e0041}";
    letter != '\n' && (letter.is_control() || hidden.contains(letter))
}

/// Runs a command with words after it, and checks what it prints. Returns its standard error.
fn check(mut command: Command, words: &[&str]) -> String {
    let out = command.args(words).output().unwrap();
    let printed = String::from_utf8([&*out.stdout, b"\n", &*out.stderr].concat()).unwrap();
    assert!(!printed.contains(acts), "{words:?}: {printed:?}");
    let forged = printed.lines().any(|line| line.starts_with("FORGED"));
    assert!(!forged, "{words:?}: {printed}");
    String::from_utf8(out.stderr).unwrap()
}

/// Returns images with the text in most places, each with a command that fails because of it, and a
/// part of the message.
fn images(text: &str, files: &mut Files) -> Vec<(Value, &'static str, &'static str)> {
    let layer = hello();
    let annotations = json!({text: text});
    let mut image = |kind: &str, layer: &[u8], process: Value| {
        let mut own = config(&host(), &[layer]);
        own["config"] = process;
        own["author"] = json!(text);
        own["history"] = json!([{"created_by": text, "comment": text}]);
        let own = files.document(CONFIG, &own);
        let mut described = files.blob(kind, layer);
        described["annotations"] = annotations.clone();
        files.document(
            MANIFEST,
            &json!({
                "schemaVersion": 2, "artifactType": text, "annotations": annotations,
                "config": own, "layers": [described],
            }),
        )
    };
    let plain = image(LAYER, &layer, json!({"User": text, "Labels": {text: text}}));
    let odd = image(&format!("a/{text}"), b"no archive", json!({}));
    let name = text.replace('\0', "");
    let records = [("path", name.as_bytes()), ("mtime", text.as_bytes())];
    let broken = Tar::new().pax(&records).file("f", "").end();
    let broken = image(LAYER, &broken, json!({}));
    let whiteout = Tar::new().pax(&[("path", name.as_bytes()), ("linkpath", name.as_bytes())]);
    let whiteout = image(LAYER, &whiteout.hardlink("x", "y").end(), json!({}));
    let mut elsewhere = plain.clone();
    elsewhere["platform"] = json!({"os": text, "architecture": text, "variant": text});
    let index = json!({"schemaVersion": 2, "manifests": [elsewhere], "annotations": annotations});
    let index = files.document(INDEX, &index);
    vec![
        (plain, "bundle", "the image runs as user"),
        (odd, "unpack", "expected a layer"),
        (broken, "unpack", "the pax record"),
        (whiteout, "unpack", "of the hard link"),
        (index, "unpack", "the store has the image for: "),
    ]
}

#[test]
fn nothing_of_an_image_reaches_the_terminal_unescaped() {
    let place = Place::new();
    for (n, text) in TEXTS.into_iter().enumerate() {
        let mut files = Files::layout();
        for (at, (target, fails, why)) in images(text, &mut files).into_iter().enumerate() {
            let name = &*format!("i{n}-{at}:1");
            let mut files = Files(files.0.clone());
            files.lists(&target);
            let source = files.write(&place.path(&format!("{n}-{at}")));
            let source = source.to_str().unwrap();
            check(place.cas(), &["import", source, "--name", name]);
            check(place.cas(), &["tree", name]);
            check(place.cas(), &["inspect", name]);
            let said = check(
                place.cas(),
                &[fails, name, place.path("never").to_str().unwrap()],
            );
            assert!(said.contains(why), "{text:?} {at}: {said}");
        }
        check(place.cas(), &["inspect", &format!("i{n}-4:1"), "--json"]);
        let archive = place.path("archive.tar");
        let out = archive.to_str().unwrap();
        check(place.cas(), &["export", &format!("i{n}-0:1"), "-o", out]);
    }
    for words in [
        &["images"][..],
        &["blob", "ls"],
        &["blob", "ls", "--json"],
        &["fsck"],
        &["df"],
        &["snapshot", "ls"],
        &["lease", "ls"],
    ] {
        check(place.cas(), words);
    }
}

#[test]
fn no_argument_reaches_the_terminal_unescaped() {
    let place = Place::new();
    for text in TEXTS.into_iter().filter(|text| !text.contains('\0')) {
        for words in [
            &["inspect", "a:1", "--platform", text][..],
            &["inspect", text],
            &["tag", "a:1", text],
            &["import", text],
            &["images", "--filter", text],
            &["--store", text, "images"],
            &["lease", "create", text, text],
            &[text],
        ] {
            check(place.cas(), words);
        }
    }
}
