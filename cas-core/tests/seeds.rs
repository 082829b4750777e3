//! Every test that `docs/SEEDS.md` names must exist.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;

#[test]
fn every_test_on_the_page_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = std::fs::read_to_string(root.join("docs/SEEDS.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| "));
    let rows: Vec<&str> = rows
        .filter(|line| !line.starts_with("| theirs |"))
        .collect();
    for row in &rows {
        let cell = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        let named = cell.trim_matches('`').split_once(".rs::");
        let Some((file, test)) = named else {
            panic!("the row names no test: {row}");
        };
        let file = format!("{file}.rs");
        let source = std::fs::read_to_string(root.join(&file));
        let source = source.unwrap_or_else(|error| panic!("{file}: {error}"));
        let function = format!("fn {test}(");
        assert!(source.contains(&function), "{file} has no test {test}");
    }
    assert!(rows.len() > 40, "the page has too few rows");
}
