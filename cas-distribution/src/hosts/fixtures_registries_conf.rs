//! Tests that `registries.conf` has the meaning that podman documents.

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
            Err("line 2: the file mixes version 1 of the format"),
        ),
    ]);
}

/// Several tables, or entries of lists, may be for one registry. If one of them blocks the
/// registry, no spelling of the registry evades it.
#[test]
fn what_blocks_a_registry_wins_over_other_spellings_of_it() {
    let lists = "[registries.block]\nregistries = [\"X.test\"]\n\
        [registries.insecure]\nregistries = [\"x.test\", \"y.test\"]\n";
    let wildcard = "[[registry]]\nprefix = \"*.docker.io\"\nlocation = \"m.test\"\n\
        [[registry]]\nlocation = \"registry-1.docker.io\"\nblocked = true\n\
        [[registry]]\nprefix = \"*.x.test.\"\nlocation = \"m.test\"\n\
        [[registry]]\nlocation = \"a.x.test\"\nblocked = true\n";
    let both = "[[registry]]\nlocation = \"x.test:80\"\nblocked = true\n\
        [[registry]]\nlocation = \"x.test\"\n[[registry.mirror]]\nlocation = \"m.test\"\n";
    let contradiction = "[[registry]]\nlocation = \"x.test:443\"\nblocked = true\n\
        [[registry]]\nlocation = \"X.test\"\n";
    for (name, conf) in [
        ("x.test/a:1", lists),
        ("X.TEST:80/a:1", lists),
        ("registry-1.docker.io/a/b:1", wildcard),
        ("index.docker.io/a/b:1", wildcard),
        ("a.x.test/a:1", wildcard),
        ("x.test/a:1", both),
        ("x.test:443/a:1", both),
    ] {
        hold_all(&[(name, conf, Err("blocks names that begin with"))]);
    }
    hold_all(&[
        (
            "Y.test/a:1",
            lists,
            Ok(&["pru https://y.test/v2/a/ or http unverified"]),
        ),
        (
            "x.test/a:1",
            contradiction,
            Err("another [[registry]] of this location has another value of \"blocked\""),
        ),
    ]);
}

#[test]
fn a_later_file_replaces_tables_of_the_same_registry_in_any_spelling() {
    let mut conf = RegistriesConf::default();
    let path = std::path::Path::new("/c/50.conf");
    let blocked = "[[registry]]\nlocation = \"x.test:443\"\nblocked = true\n\
        [[registry]]\nprefix = \"*.Y.test\"\nblocked = true\n";
    let mirror = "[[registry]]\nlocation = \"x.test\"\n\
        [[registry.mirror]]\nlocation = \"m.test\"\n\
        [[registry]]\nprefix = \"*.y.test.\"\n";
    conf.add(&Text::of(path, blocked), false).unwrap();
    conf.add(&Text::of(path, mirror), true).unwrap();
    for name in ["x.test/a:1", "x.test:443/a:1", "X.TEST/a:1"] {
        let found = words(&conf.endpoints(&name.parse().unwrap()).unwrap());
        assert_eq!(found[0], "pr- https://m.test/v2/a/", "{name}");
    }
    conf.endpoints(&"a.y.test/a:1".parse().unwrap()).unwrap();
}

/// A table is for a registry, however the host is spelled. A table that spells the host as the name
/// does comes first.
#[test]
fn another_spelling_does_not_evade_a_table() {
    let blocks = "[[registry]]\nlocation = \"x.test\"\nblocked = true\n\
        [[registry]]\nlocation = \"[2001:db8::1]:5000\"\nblocked = true\n\
        [[registry]]\nlocation = \"docker.io/team\"\nblocked = true\n\
        [[registry]]\nprefix = \"*.y.test\"\nblocked = true\n\
        [[registry]]\nlocation = \"127.0.0.1:5000\"\nblocked = true\n";
    for name in [
        "X.Test/a:1",
        "x.test:443/a:1",
        "X.TEST:0443/a:1",
        "[2001:DB8:0:0::1]:5000/a:1",
        "[2001:0db8::1]:05000/a:1",
        "registry-1.docker.io/team/a:1",
        "INDEX.docker.io:443/team/a:1",
        "A.Y.test:5000/a:1",
        "x.test:80/a:1",
        "[::ffff:7f00:1]:5000/a:1",
        "[64:ff9b::7f00:1]:5000/a:1",
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
            "x.test:8080/a:1",
            blocks,
            Ok(&["pru https://x.test:8080/v2/a/"]),
        ),
        // If the location of a table is its prefix, the name keeps its port.
        (
            "x.test:80/a:1",
            mirror,
            Ok(&["pr- https://m.test/v2/a/", "pru https://x.test:80/v2/a/"]),
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
            Err("line 2: expected a location, or a prefix such as *.example.com"),
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
            Err("expected a prefix such as *.example.com, without a port or a path"),
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
            Err("line 3: another [[registry]] of this location has another value of \"insecure\""),
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
        error.contains("a drop-in must have version 2 of the format; found [registries"),
        "{error}"
    );
}
