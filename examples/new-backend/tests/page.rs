//! Compares the code in `docs/NEW-BACKEND.md` with these files.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

#[test]
fn the_page_contains_every_file() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(here.join("../../docs/NEW-BACKEND.md")).unwrap();
    // A block that names a file is the next part of that file. An empty line separates parts.
    let mut parts: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for block in page.split("\n```").skip(1).step_by(2) {
        let (head, text) = block.split_once('\n').unwrap();
        if let Some((_, file)) = head.split_once(' ') {
            parts.entry(file).or_default().push(text);
        }
    }
    let mut files = vec!["Cargo.toml".to_owned()];
    for entry in fs::read_dir(here.join("src")).unwrap() {
        files.push(format!("src/{}", entry.unwrap().file_name().display()));
    }
    files.extend(["laws", "snapshots", "program"].map(|test| format!("tests/{test}.rs")));
    for file in files {
        let text = fs::read_to_string(here.join(&file)).unwrap();
        let blocks = parts.remove(file.as_str()).unwrap_or_default();
        assert_eq!(
            blocks.join("\n\n") + "\n",
            text,
            "{file} differs between the page and the example"
        );
    }
    assert!(
        parts.is_empty(),
        "the page has files that the example does not have: {parts:?}"
    );
}
