//! The law that is named for a broken store finds its fault, and unrelated laws do not.

use conformance::broken::{CONTENT, IMAGES, RECORDS, STORES, misjudged};
use conformance::laws::{content, gc, images, records};
use conformance::{Verdict, judge};

#[test]
fn every_broken_content_store_is_convicted() {
    let wrong: Vec<String> = CONTENT
        .iter()
        .flat_map(|exhibit| misjudged(content::all(), exhibit))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_broken_records_store_is_convicted() {
    let wrong: Vec<String> = RECORDS
        .iter()
        .flat_map(|exhibit| misjudged(records::all(), exhibit))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_broken_image_store_is_convicted() {
    let wrong: Vec<String> = IMAGES
        .iter()
        .flat_map(|exhibit| misjudged(images::all(), exhibit))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_broken_whole_store_is_convicted() {
    let wrong: Vec<String> = STORES
        .iter()
        .flat_map(|exhibit| misjudged(gc::all(), exhibit))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The law of random sequences finds, within its time, the fault of each store that names the law.
#[test]
fn sequences_convict_every_whole_store_that_names_them() {
    let name = "any_sequence_agrees_with_plain_maps";
    let law = gc::all().iter().find(|law| law.name == name).unwrap();
    let named = STORES
        .iter()
        .filter(|exhibit| exhibit.law == name || exhibit.also.contains(&name));
    let missed: Vec<&str> = named
        .filter(|exhibit| !matches!(judge(law, exhibit.open, &[], None), Verdict::Broken(_)))
        .map(|exhibit| exhibit.name)
        .collect();
    assert!(missed.is_empty(), "{missed:?}");
}
