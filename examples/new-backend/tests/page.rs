//! `docs/NEW-BACKEND.md` has this store in it: whoever follows the page writes these files.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

#[test]
fn the_page_has_every_file_as_it_is_here() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(here.join("../../docs/NEW-BACKEND.md")).unwrap();
    // A block that names a file is the next part of it, after an empty line.
    let mut told: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for block in page.split("\n```").skip(1).step_by(2) {
        let (head, text) = block.split_once('\n').unwrap();
        if let Some((_, file)) = head.split_once(' ') {
            told.entry(file).or_default().push(text);
        }
    }
    let mut files = vec!["Cargo.toml".to_owned()];
    for entry in fs::read_dir(here.join("src")).unwrap() {
        files.push(format!("src/{}", entry.unwrap().file_name().display()));
    }
    files.extend(["laws", "program"].map(|test| format!("tests/{test}.rs")));
    for file in files {
        let text = fs::read_to_string(here.join(&file)).unwrap();
        let blocks = told.remove(file.as_str()).unwrap_or_default();
        assert_eq!(
            blocks.join("\n\n") + "\n",
            text,
            "{file} in the page and here"
        );
    }
    assert!(
        told.is_empty(),
        "the page has files that are not here: {told:?}"
    );
}
