//! Settings of a root and of the SOCI snapshotter, image configurations, the files `passwd` and
//! `group` of an image, and ranges of user and group ids.

use std::fs;

use cas::bundle::IdRange;
use cas::{Engines, PullModes, fuzzing};

use super::{accepted, parsed, scratch, texts};
use crate::Target;

pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "cas-toml",
        run: |input| str::from_utf8(input).is_ok_and(cas_toml),
        seeds: || {
            texts(&[
                "format = 1\nstore = \"mixed\"\nsnapshotter = \"native\"\n[stores.mixed]\nkind = \"by-size\"\nsmall = \"redb\"\nlarge = \"fs:///x\"\nthreshold = \"4KiB\"\n",
                "format = 1\nstore = \"fs\"\nsnapshotter = \"overlay\"\n[remote]\nretry-for = 5\nca = [\"/a.pem\"]\nmin-speed = \"1KiB\"\n[registries.\"host.test\"]\ntoken-hosts = [\"auth.test\"]\n",
            ])
        },
        longest: 1500,
    },
    Target {
        name: "pull-modes",
        run: |input| str::from_utf8(input).is_ok_and(|text| accepted(PullModes::from_toml(text))),
        seeds: || {
            texts(&[
                "[pull_modes.parallel_pull_unpack]\nenable = true\nmax_concurrent_downloads_per_image = 12\nconcurrent_download_chunk_size = \"8mb\"\ndiscard_unpacked_layers = true\n",
            ])
        },
        longest: 1000,
    },
    Target {
        name: "process-config",
        run: |input| accepted(fuzzing::process_config(input)),
        seeds: || {
            texts(&[
                r#"{"os":"linux","config":{"User":"u:g","Env":["A=b"],"Entrypoint":["/a"],"Cmd":null,"WorkingDir":"/w","Labels":null,"StopSignal":"SIGTERM","ExposedPorts":{"80/tcp":{}}}}"#,
            ])
        },
        longest: 1000,
    },
    Target {
        name: "accounts",
        run: accounts,
        seeds: || {
            texts(&[
                "root:x:0:0:root:/root:/bin/sh\nu:x:1000:1001::/home/u:\n\0g:x:50:u,v\nh:x:51:u\n",
                "\0u:x:7:u\n",
            ])
        },
        longest: 1000,
    },
    Target {
        name: "id-range",
        run: parsed::<IdRange>,
        seeds: || texts(&["0:100000:65536"]),
        longest: 40,
    },
];

/// Parses `cas.toml`. Asserts that accepted settings are the same after they are written and
/// parsed again.
fn cas_toml(text: &str) -> bool {
    let result = fuzzing::cas_toml(text);
    if let Ok(engines) = &result {
        let written = fuzzing::cas_toml_text(engines);
        let written = written.unwrap_or_else(|error| panic!("cannot write: {error}"));
        let again: Result<Engines, _> = fuzzing::cas_toml(&written);
        assert!(
            again.as_ref().is_ok_and(|again| again == engines),
            "{written}: {again:?}"
        );
    }
    accepted(result)
}

/// Looks up users in the accounts of an image. The input is the file `passwd`, a zero byte and the
/// file `group`.
fn accounts(input: &[u8]) -> bool {
    let find = || -> cas_core::Result<bool> {
        let root = scratch()?;
        let etc = root.path().join("etc");
        fs::create_dir(&etc)?;
        let at = input
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(input.len());
        fs::write(etc.join("passwd"), &input[..at])?;
        fs::write(etc.join("group"), input.get(at + 1..).unwrap_or_default())?;
        let mut found = false;
        for user in ["", "u", "u:g", "1000", "7:50"] {
            found |= accepted(fuzzing::account(root.path(), user));
        }
        Ok(found)
    };
    find().unwrap_or_else(|error| panic!("cannot write the accounts: {error}"))
}
