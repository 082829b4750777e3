//! Files of containerd, docker and podman about registries, logins and policy.

use std::fs;
use std::path::PathBuf;

use cas_core::image::FullName;
use cas_core::{Error, Result};
use cas_distribution::{Hosts, fuzzing};
use tempfile::TempDir;

use super::{accepted, block_on, scratch, texts};
use crate::Target;

pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "hosts-toml",
        run: hosts_toml,
        seeds: || {
            texts(&[
                "server = \"https://host.test\"\n[host.\"https://mirror.test\"]\ncapabilities = [\"pull\", \"resolve\"]\nca = \"/x.pem\"\nskip_verify = true\n[host.\"https://mirror.test\".header]\nx-a = [\"b\"]\n",
                "[host.\"http://127.0.0.1:5000/v2/path\"]\noverride_path = true\ndial_timeout = \"1s\"\nclient = [[\"/a.crt\", \"/a.key\"]]\n",
            ])
        },
        longest: 1500,
    },
    Target {
        name: "registries-conf",
        run: registries_conf,
        seeds: || {
            texts(&[
                "unqualified-search-registries = [\"docker.io\"]\nshort-name-mode = \"permissive\"\n[[registry]]\nprefix = \"*.test\"\nlocation = \"other.test/a\"\ninsecure = true\n[[registry.mirror]]\nlocation = \"mirror.test\"\npull-from-mirror = \"digest-only\"\n[aliases]\n\"app\" = \"host.test/app\"\n",
                "[registries.search]\nregistries = [\"host.test\"]\n[registries.block]\nregistries = [\"blocked.test\"]\n",
            ])
        },
        longest: 1500,
    },
    Target {
        name: "policy-json",
        run: policy,
        seeds: || {
            texts(&[
                r#"{"default":[{"type":"insecureAcceptAnything"}],"transports":{"docker":{"host.test/team":[{"type":"insecureAcceptAnything"}],"":[{"type":"reject"}]}}}"#,
            ])
        },
        longest: 1000,
    },
    Target {
        name: "logins",
        run: |input| {
            let current = accepted(fuzzing::logins(input, false));
            current | accepted(fuzzing::logins(input, true))
        },
        seeds: || {
            texts(&[
                r#"{"auths":{"host.test":{"auth":"YTpi"},"https://index.docker.io/v1/":{"identitytoken":"t"}},"credHelpers":{"a.test":"x"},"credsStore":"y"}"#,
                r#"{"https://host.test/v1/":{"auth":"YTpi","email":"e"}}"#,
            ])
        },
        longest: 1000,
    },
];

thread_local! {
    /// The directory of this thread for the files that targets read.
    static DIRECTORY: TempDir =
        scratch().unwrap_or_else(|error| panic!("cannot make a directory: {error}"));
}

/// Returns the path of a file that targets read.
fn file(name: &str) -> PathBuf {
    DIRECTORY.with(|directory| directory.path().join(name))
}

fn name() -> Result<FullName> {
    "host.test/team/app:1".parse()
}

/// Returns a value of [`Hosts`] that names no file.
fn nowhere() -> Hosts {
    let mut hosts = Hosts::of_system();
    hosts.directories.clear();
    hosts.certificates.clear();
    hosts.registries_conf = None;
    hosts.drop_ins.clear();
    hosts.aliases = None;
    hosts.policy = None;
    hosts
}

fn hosts_toml(input: &[u8]) -> bool {
    let find = || {
        let certs = file("certs.d");
        fs::create_dir_all(certs.join("host.test"))?;
        fs::write(certs.join("host.test/hosts.toml"), input)?;
        block_on(nowhere().with_directory(certs).endpoints(&name()?))
    };
    accepted(find())
}

fn registries_conf(input: &[u8]) -> bool {
    let find = || {
        let conf = file("registries.conf");
        fs::write(&conf, input)?;
        let hosts = nowhere().with_registries_conf(conf);
        block_on(async {
            for short in ["app", "team/app"] {
                hosts.expand(short).await?;
            }
            hosts.endpoints(&name()?).await
        })
    };
    // A blocked registry is not an error of the file.
    let accepts = |error: &Error| error.kind() == cas_core::ErrorKind::Denied;
    match find() {
        Err(error) if accepts(&error) => true,
        found => accepted(found),
    }
}

fn policy(input: &[u8]) -> bool {
    let check = || {
        let file = file("policy.json");
        fs::write(&file, input)?;
        block_on(nowhere().with_policy(file).check_policy(&name()?))
    };
    accepted(check())
}
