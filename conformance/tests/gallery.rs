//! Every broken store is convicted by its law, and by no law that has nothing to do with it.

use conformance::broken::{CONTENT, Exhibit, IMAGES, RECORDS, STORES};
use conformance::laws::{collect, content, images, records};
use conformance::{Law, Promises, Verdict, judge};

/// What the laws say that they should not, or do not say that they should.
fn misjudged<S>(laws: &[Law<S>], exhibit: &Exhibit<S>) -> Vec<String>
where
    S: ?Sized + Promises + 'static,
{
    let mut wrong = Vec::new();
    for law in laws {
        let broken = match judge(law, exhibit.open, &[], None) {
            Verdict::Broken(seen) => Some(seen),
            _ => None,
        };
        match broken {
            None if law.name == exhibit.law => {
                wrong.push(format!("{}: {} sees nothing", exhibit.name, law.name));
            }
            Some(seen) if law.name != exhibit.law && !exhibit.also.contains(&law.name) => {
                wrong.push(format!("{}: {} sees {seen}", exhibit.name, law.name));
            }
            _ => {}
        }
    }
    wrong
}

#[test]
fn every_broken_content_store_is_convicted() {
    let wrong: Vec<String> = CONTENT
        .iter()
        .flat_map(|exhibit| misjudged(content::all(), exhibit))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_broken_home_of_records_is_convicted() {
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
        .flat_map(|exhibit| misjudged(collect::all(), exhibit))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
