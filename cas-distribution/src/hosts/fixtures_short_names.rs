//! Tests that the settings for short names in `registries.conf` have the meaning that podman
//! documents.

use super::file::Text;
use super::fixtures::digest;
use super::registries_conf::RegistriesConf;

/// Returns the names that a typed name may mean, or the error.
fn expanded(files: &[&str], typed: &str) -> Result<Vec<String>, String> {
    let mut conf = RegistriesConf::default();
    for file in files {
        let text = Text::of(std::path::Path::new("/c/r.conf"), file);
        conf.add(&text, false).map_err(|error| error.to_string())?;
    }
    let found = conf.short_names.expand(typed);
    let found = found.map_err(|error| error.to_string())?;
    Ok(found.iter().map(ToString::to_string).collect())
}

#[test]
fn names_without_a_host_are_completed() {
    let conf = "unqualified-search-registries = [\"a.test\", \"b.test:5000\"]\n\
        [aliases]\n\"fedora\" = \"registry.test/fedora\"\n\"team/app\" = \"x.test/y/app\"\n";
    let drop_in = "[aliases]\nfedora = \"\"\nnew = \"new.test/new\"\n";
    let digest = digest();
    let with_digest = format!("fedora@{digest}");
    let full = format!("registry.test/fedora@{digest}");
    let rows: &[(&[&str], &str, &[&str])] = &[
        (&[], "app", &["docker.io/library/app:latest"]),
        (&[conf], "fedora", &["registry.test/fedora:latest"]),
        (&[conf], "fedora:36", &["registry.test/fedora:36"]),
        (&[conf], &with_digest, &[&full]),
        (&[conf], "team/app:1", &["x.test/y/app:1"]),
        (
            &[conf],
            "other:1",
            &["a.test/other:1", "b.test:5000/other:1"],
        ),
        (
            &[conf],
            "docker.io/fedora:1",
            &["docker.io/library/fedora:1"],
        ),
        (&[conf], "localhost/fedora:1", &["localhost/fedora:1"]),
        (
            &[conf, drop_in],
            "fedora:1",
            &["a.test/fedora:1", "b.test:5000/fedora:1"],
        ),
        (&[conf, drop_in], "new:1", &["new.test/new:1"]),
        (
            &[conf, "unqualified-search-registries = [\"docker.io\"]\n"],
            "other:1",
            &["docker.io/library/other:1"],
        ),
        (
            &["short-name-mode = \"enforcing\"\nunqualified-search-registries = [\"a.test\"]\n"],
            "app:1",
            &["a.test/app:1"],
        ),
        (
            &["[registries.search]\nregistries = [\"a.test\"]\n"],
            "app:1",
            &["a.test/app:1"],
        ),
    ];
    for (files, typed, expected) in rows {
        assert_eq!(expanded(files, typed).unwrap(), *expected, "{typed}");
    }
    let enforcing = [conf, "short-name-mode = \"enforcing\"\n"];
    let said = expanded(&enforcing, "app:1").unwrap_err();
    assert!(
        said.contains("use one of a.test/app:1, b.test:5000/app:1"),
        "{said}"
    );
    assert_eq!(
        expanded(&enforcing, "fedora:1").unwrap(),
        ["registry.test/fedora:1"]
    );
}

#[test]
fn mistakes_about_short_names_are_told_with_their_line() {
    for (file, expected) in [
        (
            "short-name-mode = \"some\"\n",
            "line 1: expected short-name-mode",
        ),
        (
            "\nunqualified-search-registries = [\"x.test/a\"]\n",
            "line 2: expected HOST[:PORT]",
        ),
        (
            "[aliases]\n\"x.test/a\" = \"y.test/a\"\n",
            "line 2: expected an alias",
        ),
        ("[aliases]\na = \"b\"\n", "line 2: expected an alias"),
        (
            "[aliases]\n\"a:1\" = \"y.test/a\"\n",
            "line 2: expected an alias",
        ),
        (
            "[aliases]\na = \"y.test/a\"\na = \"y.test/b\"\n",
            "line 3: duplicate key",
        ),
    ] {
        let said = expanded(&[file], "app").unwrap_err();
        assert!(said.contains(expected), "{file}: {said}");
    }
}
