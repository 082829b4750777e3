//! No text names a command, an option, a feature or a document that does not exist.
//!
//! The tests check string literals and comments below each `src/`, and the pages for readers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail anywhere"
)]
#![cfg(all(feature = "cli", feature = "registry"))]

mod facts;
mod scan;

use std::fs;
use std::path::{Path, PathBuf};

use facts::Facts;

/// Pages that may name what no longer exists.
const HISTORY: &[&str] = &["CHANGELOG.md", "docs/decisions"];

/// Directories with nothing written by hand.
const GENERATED: &[&str] = &["target", "plots"];

#[test]
fn commands_features_and_documents_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let facts = Facts::collect(root);
    let mut wrong = Vec::new();
    let mut files = 0;
    for path in texts(root) {
        let text = fs::read_to_string(root.join(&path)).unwrap();
        let text = if path.extension().is_some_and(|ext| ext == "rs") {
            scan::prose_of_rust(&text)
        } else {
            text
        };
        files += 1;
        let problems = facts.problems(&path, &text).into_iter();
        wrong.extend(problems.map(|problem| format!("{}: {problem}", path.display())));
    }
    assert!(files > 200, "only {files} files were read");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn rules_about_logins_name_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/CREDENTIALS.md")).unwrap();
    let rules = page
        .lines()
        .filter(|line| line.starts_with("| ") && !line.ends_with("| test |"));
    let mut count = 0;
    for rule in rules {
        let named = rule.trim_end_matches("` |").rsplit('`').next().unwrap();
        let (file, test) = named.split_once("::").expect(rule);
        let source = fs::read_to_string(root.join(file)).expect(file);
        assert!(
            source.contains(&format!("fn {test}()")),
            "{file} has no test {test}"
        );
        count += 1;
    }
    assert!(count > 30, "only {count} rules");
}

#[test]
fn readme_lists_every_feature() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    for feature in facts::features_of(root, "oci-cas") {
        let row = format!("`{feature}`");
        let listed = |line: &str| line.starts_with("| `") && line.contains(&row);
        assert!(
            feature == "default" || readme.lines().any(listed),
            "the table of features in README.md does not have {row}"
        );
    }
}

#[test]
fn planted_mistakes_are_found() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let facts = Facts::collect(root);
    for (planted, expected) in [
        ("use `cas blob move DIGEST`", "command `cas blob move`"),
        ("run `cas --root /x scrub`", "command `cas scrub`"),
        ("`cas gc --hard`", "option --hard"),
        ("`cas ingest ls|resume`", "command `cas ingest resume`"),
        ("Example:\n  cas images && cas prune", "command `cas prune`"),
        ("```sh\ncas images\ncas vacuum app:1\n```", "`cas vacuum`"),
        ("`cargo xtask deploy`", "task deploy"),
        ("build with the Cargo feature `gcs`", "feature gcs"),
        ("the `azblob` feature", "feature azblob"),
        ("`cargo build --features s3,webdav`", "feature webdav"),
        ("see docs/PERFORMANCE.md", "docs/PERFORMANCE.md"),
        ("decided in `docs/decisions/0999`", "docs/decisions/0999"),
    ] {
        let source = format!("fn main() {{ warn({planted:?}); }}");
        for text in [planted.to_owned(), scan::prose_of_rust(&source)] {
            let found = facts.problems(Path::new("README.md"), &text);
            assert!(
                found.iter().any(|problem| problem.contains(expected)),
                "{text:?}: {found:?}"
            );
        }
    }
    for right in [
        "use `cas blob info DIGEST`, or `cas images | head -1`",
        "Example:\n  cas --root /x --store 'redb://?a=b' init && cas run app:1 -- sh --nothing",
        "`cas blob ls|info|cat|add|rm|label`",
        "the Cargo features `fs` and `redb`, or `--features s3,rocksdb`",
        "see docs/DURABILITY.md and `docs/decisions/0001`, or https://x.test/docs/none.md",
        "`cas` alone, and cas in a sentence",
    ] {
        let found = facts.problems(Path::new("README.md"), right);
        assert!(found.is_empty(), "{right:?}: {found:?}");
    }
}

/// Returns the files to check, relative to `root`: pages, and sources below a `src`.
fn texts(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(root.join(&directory)).unwrap() {
            let entry = entry.unwrap();
            let path = directory.join(entry.file_name());
            let name = entry.file_name().into_string().unwrap();
            let history = HISTORY.iter().any(|page| path == Path::new(page));
            if name.starts_with('.') || GENERATED.contains(&name.as_str()) || history {
                continue;
            }
            let below_src = path.iter().any(|part| part == "src");
            if entry.file_type().unwrap().is_dir() {
                directories.push(path);
            } else if name.ends_with(".md") || below_src && name.ends_with(".rs") {
                found.push(path);
            }
        }
    }
    found
}
