//! The blocking form has every verb.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Returns the names of the public functions in the `impl Cas` blocks of a source file.
fn public(source: &str) -> BTreeSet<String> {
    let mut verbs = BTreeSet::new();
    let mut inside = false;
    for line in source.lines() {
        match line {
            "impl Cas {" => inside = true,
            "}" => inside = false,
            _ => {}
        }
        let function = line
            .strip_prefix("    pub async fn ")
            .or_else(|| line.strip_prefix("    pub fn "));
        verbs.extend(function.filter(|_| inside).map(name));
    }
    verbs
}

fn name(function: &str) -> String {
    let end = function.find(['(', '<']).unwrap();
    function[..end].to_owned()
}

#[test]
fn the_blocking_form_has_every_verb() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cas");
    let mut verbs = BTreeSet::new();
    let mut places = vec![folder.clone()];
    while let Some(place) = places.pop() {
        if place.is_dir() {
            places.extend(
                fs::read_dir(place)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else if place.file_name().unwrap() != "blocking.rs" {
            verbs.append(&mut public(&fs::read_to_string(place).unwrap()));
        }
    }
    let blocking = fs::read_to_string(folder.join("blocking.rs")).unwrap();
    let mut found = public(&blocking);
    let listed = blocking.split("\nverbs! {").nth(1).unwrap();
    let listed = listed
        .lines()
        .filter_map(|line| line.strip_prefix("    fn "));
    found.extend(listed.map(name));
    assert!(verbs.contains("pull_with") && verbs.len() > 30, "{verbs:?}");
    let missing: Vec<_> = verbs.difference(&found).collect();
    assert!(missing.is_empty(), "blocking::Cas lacks {missing:?}");
}
