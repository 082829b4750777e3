//! `registries.conf` as podman documents it.

use cas_core::Result;
use cas_core::image::FullName;

use super::endpoint::Endpoint;
use super::file::Text;
use super::fixtures::{Row, digest, hold, words};
use super::registries_conf::RegistriesConf;

const APP: &str = "x.test/team/app:1";

fn read(text: &Text, name: &FullName) -> Result<Vec<Endpoint>> {
    let mut conf = RegistriesConf::default();
    conf.add(text, false)?;
    conf.endpoints(name)
}

fn hold_all(rows: &[Row]) {
    hold("/c/registries.conf", rows, read);
}

#[test]
fn the_longest_prefix_decides() {
    let conf = "[[registry]]\nprefix = \"x.test\"\nlocation = \"one.test\"\n\
        [[registry]]\nprefix = \"x.test/team\"\nlocation = \"two.test/a\"\n\
        [[registry]]\nprefix = \"x.test/team/app\"\nlocation = \"three.test/b\"\n\
        [[registry]]\nprefix = \"x.test/team/app:9\"\nlocation = \"four.test/c:1\"\n\
        [[registry]]\nprefix = \"*.y.test\"\nlocation = \"five.test\"\n\
        [[registry]]\nprefix = \"*.a.y.test\"\n";
    hold_all(&[
        (
            "x.test/other:1",
            conf,
            Ok(&[
                "pr- https://one.test/v2/other/",
                "--u https://x.test/v2/other/",
            ]),
        ),
        (
            "x.test/team/b:1",
            conf,
            Ok(&[
                "pr- https://two.test/v2/a/b/",
                "--u https://x.test/v2/team/b/",
            ]),
        ),
        (
            APP,
            conf,
            Ok(&[
                "pr- https://three.test/v2/b/",
                "--u https://x.test/v2/team/app/",
            ]),
        ),
        (
            "x.test/team/app:9",
            conf,
            Ok(&[
                "pr- https://four.test/v2/c/",
                "--u https://x.test/v2/team/app/",
            ]),
        ),
        (
            "x.test/teams/b:1",
            conf,
            Ok(&[
                "pr- https://one.test/v2/teams/b/",
                "--u https://x.test/v2/teams/b/",
            ]),
        ),
        (
            "b.y.test/app:1",
            conf,
            Ok(&[
                "pr- https://five.test/v2/app/",
                "--u https://b.y.test/v2/app/",
            ]),
        ),
        (
            "b.a.y.test/app:1",
            conf,
            Ok(&["pru https://b.a.y.test/v2/app/"]),
        ),
        ("y.test/app:1", conf, Ok(&["pru https://y.test/v2/app/"])),
        (
            "x.test:5000/app:1",
            conf,
            Ok(&["pru https://x.test:5000/v2/app/"]),
        ),
    ]);
}

#[test]
fn mirrors_are_for_reading() {
    let documented = "unqualified-search-registries = [\"x.test\"]\n\
        [[registry]]\nprefix = \"x.test/foo\"\ninsecure = false\nblocked = false\n\
        location = \"internal.test/bar\"\n\
        [[registry.mirror]]\nlocation = \"mirror-0.test/mirror-for-foo\"\n\
        [[registry.mirror]]\nlocation = \"mirror-1.test/mirrors/foo\"\ninsecure = true\n";
    let by_digest = "[[registry]]\nlocation = \"x.test\"\nmirror-by-digest-only = true\n\
        [[registry.mirror]]\nlocation = \"m.test\"\n";
    let by_kind = "[[registry]]\nlocation = \"x.test\"\n\
        [[registry.mirror]]\nlocation = \"d.test\"\npull-from-mirror = \"digest-only\"\n\
        [[registry.mirror]]\nlocation = \"t.test\"\npull-from-mirror = \"tag-only\"\n\
        [[registry.mirror]]\nlocation = \"a.test\"\npull-from-mirror = \"all\"\n";
    let own = "pru https://x.test/v2/team/app/";
    hold_all(&[
        (
            "x.test/foo/image:latest",
            documented,
            Ok(&[
                "pr- https://mirror-0.test/v2/mirror-for-foo/image/",
                "pr- https://mirror-1.test/v2/mirrors/foo/image/ or http unverified",
                "pr- https://internal.test/v2/bar/image/",
                "--u https://x.test/v2/foo/image/",
            ]),
        ),
        (APP, by_digest, Ok(&[own])),
        (
            "x.test/team/app@digest",
            by_digest,
            Ok(&["pr- https://m.test/v2/team/app/", own]),
        ),
        (
            "x.test/team/app:1@digest",
            by_digest,
            Ok(&["pr- https://m.test/v2/team/app/", own]),
        ),
        (
            APP,
            by_kind,
            Ok(&[
                "pr- https://t.test/v2/team/app/",
                "pr- https://a.test/v2/team/app/",
                own,
            ]),
        ),
        (
            "x.test/team/app@digest",
            by_kind,
            Ok(&[
                "pr- https://d.test/v2/team/app/",
                "pr- https://a.test/v2/team/app/",
                own,
            ]),
        ),
        (
            "docker.io/library/app:1",
            "[[registry]]\nprefix = \"docker.io\"\nlocation = \"hub.test/proxy\"\n",
            Ok(&[
                "pr- https://hub.test/v2/proxy/library/app/",
                "--u https://registry-1.docker.io/v2/library/app/",
            ]),
        ),
        (
            APP,
            "[[registry]]\nlocation = \"x.test/\"\ninsecure = true\n",
            Ok(&["pru https://x.test/v2/team/app/ or http unverified"]),
        ),
        // The first table of a prefix counts.
        (
            APP,
            "[[registry]]\nprefix = \"x.test\"\nlocation = \"a.test\"\n\
             [[registry]]\nprefix = \"x.test\"\nlocation = \"b.test\"\n",
            Ok(&[
                "pr- https://a.test/v2/team/app/",
                "--u https://x.test/v2/team/app/",
            ]),
        ),
        (
            APP,
            "unknown = 1\n[[registry]]\nlocation = \"x.test\"\nnew = 1\n",
            Ok(&[own]),
        ),
        (
            APP,
            "[[registry]]\nprefix = \"x.test\"\nlocation = \"docker.io\"\n",
            Ok(&[
                "pr- https://registry-1.docker.io/v2/team/app/",
                "--u https://x.test/v2/team/app/",
            ]),
        ),
        (
            "x.test/app:1",
            "[[registry]]\nprefix = \"x.test\"\nlocation = \"docker.io\"\n",
            Err("gives the name \"docker.io/app:1\""),
        ),
    ]);
}

#[test]
fn the_first_format_lists_hosts() {
    let lists = "[registries.search]\nregistries = [\"registry1.test\"]\n\
        [registries.insecure]\nregistries = ['registry3.test']\n\
        [registries.block]\nregistries = ['untrusted.test', 'unsafe.test']\n";
    hold_all(&[
        (APP, lists, Ok(&["pru https://x.test/v2/team/app/"])),
        (
            "registry3.test/a:1",
            lists,
            Ok(&["pru https://registry3.test/v2/a/ or http unverified"]),
        ),
        (
            "unsafe.test/a:1",
            lists,
            Err("/c/registries.conf blocks names that begin with \"unsafe"),
        ),
        (
            APP,
            "unqualified-search-registries = [\"a.test\"]\n\
             [registries.search]\nregistries = [\"b.test\"]\n",
            Err("line 2: the file mixes the first format"),
        ),
    ]);
}

/// A table is for a registry, however its host is spelled. A table that spells it as the name does
/// comes first.
#[test]
fn another_spelling_does_not_evade_a_table() {
    let blocks = "[[registry]]\nlocation = \"x.test\"\nblocked = true\n\
        [[registry]]\nlocation = \"[2001:db8::1]:5000\"\nblocked = true\n\
        [[registry]]\nlocation = \"docker.io/team\"\nblocked = true\n\
        [[registry]]\nprefix = \"*.y.test\"\nblocked = true\n";
    for name in [
        "X.Test/a:1",
        "x.test:443/a:1",
        "X.TEST:0443/a:1",
        "[2001:DB8:0:0::1]:5000/a:1",
        "[2001:0db8::1]:05000/a:1",
        "registry-1.docker.io/team/a:1",
        "INDEX.docker.io:443/team/a:1",
        "A.Y.test:5000/a:1",
    ] {
        hold_all(&[(name, blocks, Err("blocks names that begin with"))]);
    }
    let lists = "[registries.block]\nregistries = [\"X.test.\"]\n";
    let mirror = "[[registry]]\nlocation = \"x.test\"\n\
        [[registry.mirror]]\nlocation = \"m.test\"\n";
    let both = "[[registry]]\nlocation = \"docker.io\"\n\
        [[registry]]\nprefix = \"registry-1.docker.io\"\nlocation = \"m.test\"\n";
    hold_all(&[
        ("x.test/a:1", lists, Err("blocks names")),
        (
            "x.test:80/a:1",
            blocks,
            Ok(&["pru https://x.test:80/v2/a/"]),
        ),
        (
            "X.TEST:443/a:1",
            mirror,
            Ok(&["pr- https://m.test/v2/a/", "pru https://x.test/v2/a/"]),
        ),
        (
            "team/a:1",
            both,
            Ok(&["pru https://registry-1.docker.io/v2/team/a/"]),
        ),
        (
            "registry-1.docker.io/team/a:1",
            both,
            Ok(&[
                "pr- https://m.test/v2/team/a/",
                "--u https://registry-1.docker.io/v2/team/a/",
            ]),
        ),
    ]);
}

#[test]
fn mistakes_are_told_with_their_line() {
    hold_all(&[
        (
            APP,
            "[[registry]]\nlocation = \"x.test\"\nblocked = true\n",
            Err("blocks names that begin with \"x.test\"; remove `blocked`"),
        ),
        (
            APP,
            "\n[[registry]]\ninsecure = true\n",
            Err("line 2: expected a prefix or a location"),
        ),
        (
            APP,
            "[[registry]]\nprefix = \"x.test\"\n",
            Err("the prefix \"x.test\" needs a location"),
        ),
        (
            APP,
            "[[registry]]\nlocation = \"https://x.test\"\n",
            Err("without a scheme"),
        ),
        (
            APP,
            "[[registry]]\nprefix = \"*.x.test/a\"\nlocation = \"y.test\"\n",
            Err("expected a prefix such as *.example.com"),
        ),
        (
            APP,
            "[[registry]]\nlocation = \"x.test\"\npull-from-mirror = \"all\"\n",
            Err("belongs in a [[registry.mirror]]"),
        ),
        (
            APP,
            "[[registry]]\nlocation = \"x.test\"\n[[registry.mirror]]\ninsecure = true\n",
            Err("line 3: the mirror needs a location"),
        ),
        (
            APP,
            "[[registry]]\nlocation = \"x.test\"\n[[registry.mirror]]\nlocation = \"m.test\"\n\
             pull-from-mirror = \"some\"\n",
            Err("expected pull-from-mirror to be all, digest-only or tag-only, found \"some\""),
        ),
        (
            APP,
            "[[registry]]\nlocation = \"x.test\"\nmirror-by-digest-only = true\n\
             [[registry.mirror]]\nlocation = \"m.test\"\npull-from-mirror = \"all\"\n",
            Err("exclude each other"),
        ),
        (
            APP,
            "[[registry]]\nlocation = \"x.test\"\n\
             [[registry]]\nprefix = \"y.test\"\nlocation = \"x.test\"\ninsecure = true\n",
            Err("line 3: another [[registry]] of this location has another \"insecure\""),
        ),
        (
            APP,
            "[[registry]]\nlocation = \"x.test\"\nproxy = \"http://p\"\n",
            Err("a proxy"),
        ),
        (APP, "[[registry]]\nlocation = 1\n", Err("line 2: ")),
    ]);
}

#[test]
fn a_later_file_replaces_tables_of_the_same_prefix() {
    let mut conf = RegistriesConf::default();
    let path = std::path::Path::new("/c/50.conf");
    for (file, is_drop_in) in [
        (
            "[[registry]]\nlocation = \"x.test\"\nblocked = true\n\
             [[registry]]\nprefix = \"y.test\"\n\
          location = \"a.test\"\n",
            false,
        ),
        ("[[registry]]\nlocation = \"x.test\"\n", true),
    ] {
        conf.add(&Text::of(path, file), is_drop_in).unwrap();
    }
    let found = |name: &str| words(&conf.endpoints(&name.parse().unwrap()).unwrap());
    assert_eq!(found(APP), ["pru https://x.test/v2/team/app/"]);
    assert_eq!(found("y.test/app:1")[0], "pr- https://a.test/v2/app/");
    assert_eq!(found(&format!("y.test/app@{}", digest())).len(), 2);
    let first = Text::of(path, "[registries.block]\nregistries = [\"x.test\"]\n");
    let error = conf.add(&first, true).unwrap_err().to_string();
    assert!(
        error.contains("this is a drop-in; found the first format"),
        "{error}"
    );
}

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
            "line 2: expected hosts",
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
