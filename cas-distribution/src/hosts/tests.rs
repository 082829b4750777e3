//! Tests of which files of the machine are read, and which file comes before another.

use std::fs;
use std::path::{Path, PathBuf};

use cas_core::image::FullName;
use cas_core::{ErrorKind, limit};

use super::Hosts;
use super::fixtures::words;

/// Writes a file below a directory.
fn write(directory: &Path, path: &str, text: &str) -> PathBuf {
    let path = directory.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    path
}

fn found(hosts: &Hosts, name: &str) -> Vec<String> {
    let name: FullName = name.parse().unwrap();
    words(&hosts.find(&name).unwrap())
}

#[test]
fn the_directory_that_the_user_names_must_be_one() {
    let scratch = tempfile::tempdir().unwrap();
    let file = write(scratch.path(), "hosts.toml", "");
    for (path, kind, expected) in [
        (file, ErrorKind::InvalidArgument, "is not a directory"),
        (
            scratch.path().join("absent"),
            ErrorKind::NotFound,
            "does not exist",
        ),
    ] {
        let hosts = Hosts {
            chosen: Some(path),
            ..Hosts::default()
        };
        let error = hosts.check_chosen().unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn the_directory_of_a_host_hides_the_default_and_registries_conf() {
    let scratch = tempfile::tempdir().unwrap();
    let at = scratch.path();
    let server = |host: &str| format!("server = \"https://{host}.test\"\n");
    write(at, "d/_default/hosts.toml", &server("default"));
    write(at, "d/x.test_5000_/hosts.toml", &server("port"));
    write(at, "d/x.test:5000/hosts.toml", &server("hidden"));
    write(at, "d/y.test:1/hosts.toml", &server("colon"));
    write(at, "e/z.test/hosts.toml", &server("second"));
    let conf = write(
        at,
        "r.conf",
        "[[registry]]\nlocation = \"c.test\"\nblocked = true\n",
    );
    let mut hosts = Hosts {
        directories: vec![at.join("absent"), at.join("d")],
        registries_conf: Some(conf),
        ..Hosts::default()
    };
    for (name, expected) in [
        ("x.test:5000/a:1", "https://port.test/v2/a/"),
        ("y.test:1/a:1", "https://colon.test/v2/a/"),
        ("x.test/a:1", "https://default.test/v2/a/"),
        ("c.test/a:1", "https://default.test/v2/a/"),
        ("z.test/a:1", "https://default.test/v2/a/"),
    ] {
        assert!(found(&hosts, name)[0].contains(expected), "{name}");
    }
    hosts.directories = vec![at.join("e")];
    assert!(found(&hosts, "z.test/a:1")[0].contains("https://second.test/v2/a/"));
    let blocked = hosts.find(&"c.test/a:1".parse().unwrap()).unwrap_err();
    assert_eq!(blocked.kind(), ErrorKind::Denied);
}

#[test]
fn certificates_are_those_of_the_first_directory_of_the_host() {
    let scratch = tempfile::tempdir().unwrap();
    let at = scratch.path();
    for file in [
        "own/x.test:5000/ca.crt",
        "own/x.test:5000/client.cert",
        "own/x.test:5000/client.key",
        "own/x.test:5000/README",
        "docker/x.test:5000/other.crt",
        "docker/m.test/both.cert",
    ] {
        write(at, file, "");
    }
    let conf = write(
        at,
        "r.conf",
        "[[registry]]\nlocation = \"x.test:5000\"\n\
        [[registry.mirror]]\nlocation = \"m.test\"\n",
    );
    let hosts = Hosts {
        certificates: vec![at.join("own"), at.join("docker")],
        registries_conf: Some(conf),
        ..Hosts::default()
    };
    let hosts = hosts.with_authority("/all.pem".into());
    let (own, docker) = (at.join("own/x.test:5000"), at.join("docker/m.test"));
    let (own, docker) = (own.display(), docker.display());
    assert_eq!(
        found(&hosts, "x.test:5000/a:1"),
        [
            format!(
                "pr- https://m.test/v2/a/ ca=/all.pem client={docker}/both.cert+{docker}/both.cert"
            ),
            format!(
                "pru https://x.test:5000/v2/a/ ca={own}/ca.crt ca=/all.pem \
                     client={own}/client.cert+{own}/client.key"
            ),
        ]
    );
    write(at, "own/bare.test/lost.key", "");
    let error = hosts
        .find(&"bare.test/a:1".parse().unwrap())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("lost.key: the key has no certificate next to it"),
        "{error}"
    );
}

#[test]
fn drop_ins_follow_in_alphabetical_order() {
    let scratch = tempfile::tempdir().unwrap();
    let at = scratch.path();
    let table = |to: &str| format!("[[registry]]\nprefix = \"x.test\"\nlocation = \"{to}.test\"\n");
    write(at, "d/10.conf", &table("first"));
    write(at, "d/20.conf", &table("second"));
    write(at, "d/30.conf.bak", &table("ignored"));
    write(at, "d/40/50.conf", &table("ignored"));
    let conf = write(at, "r.conf", &table("conf"));
    let mut hosts = Hosts::default().with_registries_conf(conf);
    assert!(found(&hosts, "x.test/a:1")[0].contains("https://conf.test/"));
    hosts.drop_ins = vec![at.join("absent"), at.join("d")];
    assert!(found(&hosts, "x.test/a:1")[0].contains("https://second.test/"));
    let absent = hosts.with_registries_conf(at.join("absent.conf"));
    let error = absent.find(&"x.test/a:1".parse().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn aliases_that_users_have_chosen_come_before_those_of_registries_conf() {
    let scratch = tempfile::tempdir().unwrap();
    let at = scratch.path();
    let conf = "unqualified-search-registries = [\"s.test\"]\n\
        [aliases]\na = \"one.test/a\"\nb = \"one.test/b\"\nc = \"one.test/c\"\n";
    let conf = write(at, "r.conf", conf);
    let chosen = "[aliases]\na = \"two.test/a\"\nc = \"\"\nd = \"two.test/team/d\"\n\
        [[registry]]\nlocation = \"x.test\"\nblocked = true\n";
    let mut hosts = Hosts::default().with_registries_conf(conf);
    let mean = |hosts: &Hosts, typed: &str| -> cas_core::Result<String> {
        let names = hosts.short_names()?.expand(typed)?;
        Ok(names[0].to_string())
    };
    hosts.aliases = Some(at.join("absent.conf"));
    assert_eq!(mean(&hosts, "a:1").unwrap(), "one.test/a:1");
    hosts.aliases = Some(write(at, "short-name-aliases.conf", chosen));
    for (typed, expected) in [
        ("a:1", "two.test/a:1"),
        ("b:1", "one.test/b:1"),
        ("c:1", "s.test/c:1"),
        ("d:1", "two.test/team/d:1"),
        ("e:1", "s.test/e:1"),
        ("x.test/a:1", "x.test/a:1"),
    ] {
        assert_eq!(mean(&hosts, typed).unwrap(), expected);
    }
    // Only aliases are read from this file.
    assert_eq!(found(&hosts, "x.test/a:1"), ["pru https://x.test/v2/a/"]);
    write(at, "short-name-aliases.conf", "[aliases]\na = \"b\"\n");
    let said = mean(&hosts, "e").unwrap_err().to_string();
    assert!(
        said.contains("short-name-aliases.conf: line 2: expected an alias"),
        "{said}"
    );
    assert_eq!(found(&hosts, "x.test/a:1"), ["pru https://x.test/v2/a/"]);
}

#[test]
fn the_files_of_a_user_come_before_those_of_the_system() {
    let scratch = tempfile::tempdir().unwrap();
    let own = scratch.path().join(".config/containers");
    let hosts = Hosts::of(Some(scratch.path()), None);
    assert_ne!(hosts.registries_conf, Some(own.join("registries.conf")));
    let system = Path::new("/etc/containers/registries.conf.d").to_owned();
    assert_eq!(
        hosts.drop_ins,
        [system.clone(), own.join("registries.conf.d")]
    );
    assert_eq!(hosts.certificates[0], own.join("certs.d"));
    let conf = write(&own, "registries.conf", "");
    let hosts = Hosts::of(Some(scratch.path()), None);
    assert_eq!(hosts.registries_conf, Some(conf));
    assert_eq!(hosts.drop_ins, [own.join("registries.conf.d")]);
    let hosts = Hosts::of(Some(scratch.path()), Some("/chosen".into()));
    assert_eq!(hosts.registries_conf, Some("/chosen".into()));
    assert_eq!(hosts.drop_ins, [system, own.join("registries.conf.d")]);
}

#[test]
fn a_file_of_as_many_bytes_as_are_allowed_is_read_and_no_longer_one() {
    let scratch = tempfile::tempdir().unwrap();
    let mut conf = vec![b' '; limit::HOSTS_FILE as usize];
    let path = scratch.path().join("r.conf");
    let hosts = Hosts::default().with_registries_conf(path.clone());
    fs::write(&path, &conf).unwrap();
    assert_eq!(found(&hosts, "x.test/a:1"), ["pru https://x.test/v2/a/"]);
    conf.push(b' ');
    fs::write(&path, &conf).unwrap();
    let error = hosts.find(&"x.test/a:1".parse().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange);
}
