//! Compares the dependencies between packages with a list, and this list with ARCHITECTURE.md.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail anywhere"
)]

mod budget;
mod modules;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use cargo_metadata::{DependencyKind, MetadataCommand};

/// The packages of the workspace, each with the packages that it may depend on.
const ARROWS: &[(&str, &[&str])] = &[
    ("oci-cas-aci", &["oci-cas-core", "oci-cas-layer"]),
    ("oci-cas-core", &[]),
    ("oci-cas-distribution", &["oci-cas-core"]),
    (
        "oci-cas-erofs",
        &["oci-cas-core", "oci-cas-host", "oci-cas-layer"],
    ),
    ("oci-cas-host", &["oci-cas-core"]),
    ("oci-cas-kv", &["oci-cas-core", "oci-cas-host"]),
    ("oci-cas-layer", &["oci-cas-core", "oci-cas-host"]),
    ("oci-cas-lazy", &["oci-cas-core", "oci-cas-layer"]),
    (
        "oci-cas-lazyfs",
        &[
            "oci-cas-core",
            "oci-cas-host",
            "oci-cas-layer",
            "oci-cas-lazy",
        ],
    ),
    ("oci-cas-records-sqlite", &["oci-cas-core", "oci-cas-host"]),
    (
        "oci-cas-backend-fs",
        &["oci-cas-core", "oci-cas-host", "oci-cas-records-sqlite"],
    ),
    ("oci-cas-backend-redb", &["oci-cas-core", "oci-cas-kv"]),
    ("oci-cas-backend-rocksdb", &["oci-cas-core", "oci-cas-kv"]),
    ("oci-cas-backend-remote", &["oci-cas-core", "oci-cas-host"]),
    (
        "oci-cas-snapshot-erofs",
        &[
            "oci-cas-core",
            "oci-cas-erofs",
            "oci-cas-host",
            "oci-cas-layer",
            "oci-cas-lazy",
        ],
    ),
    ("oci-cas-snapshot-native", &["oci-cas-core", "oci-cas-host"]),
    (
        "oci-cas-snapshot-overlay",
        &["oci-cas-core", "oci-cas-host"],
    ),
    ("oci-cas-conformance", &["oci-cas-core", "oci-cas-host"]),
    ("oci-cas-workload", &["oci-cas-core"]),
    (
        "oci-cas",
        &[
            "oci-cas-aci",
            "oci-cas-core",
            "oci-cas-distribution",
            "oci-cas-erofs",
            "oci-cas-host",
            "oci-cas-layer",
            "oci-cas-lazy",
            "oci-cas-lazyfs",
            "oci-cas-records-sqlite",
            "oci-cas-backend-fs",
            "oci-cas-backend-redb",
            "oci-cas-backend-rocksdb",
            "oci-cas-backend-remote",
            "oci-cas-snapshot-erofs",
            "oci-cas-snapshot-native",
            "oci-cas-snapshot-overlay",
            // For `cas bench`.
            "oci-cas-workload",
        ],
    ),
    (
        "oci-cas-benches",
        &["oci-cas", "oci-cas-workload", "oci-cas-snapshot-overlay"],
    ),
    (
        "oci-cas-crash",
        &["oci-cas", "oci-cas-host", "oci-cas-testkit"],
    ),
    (
        "oci-cas-fuzz",
        &[
            "oci-cas",
            "oci-cas-aci",
            "oci-cas-backend-fs",
            "oci-cas-backend-remote",
            "oci-cas-core",
            "oci-cas-distribution",
            "oci-cas-erofs",
            "oci-cas-host",
            "oci-cas-layer",
            "oci-cas-lazy",
            "oci-cas-testkit",
        ],
    ),
    ("oci-cas-testkit", &["oci-cas-core", "oci-cas-host"]),
    ("xtask", &[]),
];

/// Packages that only tests depend on, by path and without a version.
const TEST_ONLY: &[&str] = &["oci-cas-conformance", "oci-cas-testkit"];

/// Returns the packages that the tests of a package may depend on as well.
fn test_arrows(package: &str) -> &'static [&'static str] {
    match package {
        "oci-cas-backend-remote" | "oci-cas-core" => TEST_ONLY,
        name if name.starts_with("oci-cas-backend-") => &["oci-cas-conformance"],
        name if name.starts_with("oci-cas-snapshot-") => &[
            "oci-cas-conformance",
            "oci-cas-testkit",
            "oci-cas-records-sqlite",
        ],
        // The image store for ACIs is tested over every store of the build, which `oci-cas` opens.
        "oci-cas-aci" => &["oci-cas-testkit", "oci-cas"],
        // Unpacking is tested with the simplest snapshotter.
        "oci-cas-layer" => &["oci-cas-testkit", "oci-cas-snapshot-native"],
        "oci-cas" | "oci-cas-erofs" | "oci-cas-lazy" | "oci-cas-lazyfs" => &["oci-cas-testkit"],
        _ => &[],
    }
}

#[test]
fn only_the_arrows_of_the_architecture() {
    let metadata = MetadataCommand::new()
        .no_deps()
        .exec()
        .expect("cargo metadata");
    let arrows: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let ours: BTreeSet<&str> = metadata
        .workspace_packages()
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    for package in metadata.workspace_packages() {
        let name = package.name.as_str();
        let allowed = arrows
            .get(name)
            .unwrap_or_else(|| panic!("ARROWS does not list {name}; add it"));
        for dependency in package
            .dependencies
            .iter()
            .filter(|one| ours.contains(&*one.name))
        {
            let target = dependency.name.as_str();
            let in_tests = dependency.kind == DependencyKind::Development;
            assert!(
                allowed.contains(&target) || in_tests && test_arrows(name).contains(&target),
                "{name} must not depend on {target} ({:?})",
                dependency.kind
            );
            if TEST_ONLY.contains(&target) {
                assert_eq!(
                    dependency.req.to_string(),
                    "*",
                    "{name}: by path only, no version"
                );
            }
        }
    }
    let gone: Vec<_> = arrows.keys().filter(|name| !ours.contains(*name)).collect();
    assert!(
        gone.is_empty(),
        "ARROWS lists packages that do not exist: {gone:?}"
    );
}

#[test]
fn the_table_of_the_architecture_lists_the_same_arrows() {
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
    let text = fs::read_to_string(text).unwrap();
    let expected: BTreeMap<_, _> = ARROWS.iter().copied().map(row).collect();
    assert_eq!(table(&text), expected);
}

fn row((package, arrows): (&str, &[&str])) -> (String, BTreeSet<String>) {
    let arrows = arrows.iter().map(|arrow| (*arrow).to_owned());
    (package.to_owned(), arrows.collect())
}

#[test]
fn every_kind_of_row_is_read() {
    let text = "\n## Packages\n\n| package | contains | may use |\n|---|---|---|\n\
        | `cas-core` | a | no other package |\n| `cas-host` | b | core; xtask, to mount |\n\
        | `xtask` | `c` | no other package |\n| `src/` | d | all above except `xtask` |\n\
        | `crash` | e | the facade, host |\n| `examples/*.rs` | f | the facade |\n\n\
        | `cas-kv` | another table | core |\n";
    let expected = BTreeMap::from([
        row(("oci-cas-core", &[])),
        row(("oci-cas-host", &["oci-cas-core", "xtask"])),
        row(("xtask", &[])),
        row(("oci-cas", &["oci-cas-core", "oci-cas-host"])),
        row(("oci-cas-crash", &["oci-cas", "oci-cas-host"])),
    ]);
    assert_eq!(table(text), expected);
}

/// Returns the packages of the table in ARCHITECTURE.md, each with the packages that it may use.
fn table(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let (_, table) = text.split_once("\n## Packages\n\n").unwrap();
    let rows = table.lines().take_while(|line| line.starts_with('|'));
    let mut found = BTreeMap::new();
    for row in rows.skip(2) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, _, arrows] = cells[..] else {
            panic!("expected three cells: {row}");
        };
        let name = name.trim_matches('`');
        if name.starts_with("examples/") {
            continue;
        }
        let words = arrows.split(|letter: char| !(letter.is_ascii_lowercase() || letter == '-'));
        let packages = words.map(package).filter(|package| is_known(package));
        let mut allowed: BTreeSet<String> = packages.collect();
        if arrows.starts_with("all above except ") {
            let above: BTreeSet<String> = found.keys().cloned().collect();
            allowed = above.difference(&allowed).cloned().collect();
        }
        found.insert(package(name), allowed);
    }
    found
}

/// Returns the name of a package that ARCHITECTURE.md calls `name`, as `oci-cas-host` for `host`.
fn package(name: &str) -> String {
    match name.strip_prefix("cas-").unwrap_or(name) {
        "src/" | "facade" => "oci-cas".to_owned(),
        "xtask" => "xtask".to_owned(),
        name => format!("oci-cas-{name}"),
    }
}

fn is_known(package: &str) -> bool {
    ARROWS.iter().any(|(known, _)| *known == package)
}

#[test]
fn every_package_has_the_licence_and_a_description() {
    let metadata = MetadataCommand::new()
        .no_deps()
        .exec()
        .expect("cargo metadata");
    for package in metadata.workspace_packages() {
        assert_eq!(
            package.license.as_deref(),
            Some("Apache-2.0"),
            "{}",
            package.name
        );
        assert!(
            package.description.is_some(),
            "{} has no description",
            package.name
        );
    }
}
