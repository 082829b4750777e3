//! Docker Hub: where its names lead, and which login they use. A proxy leads its host to a registry
//! on this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use super::cas;
use super::helpers::{self, helper};
use super::login::{AUTH, log_in};
use super::relay::Relay;
use crate::common::docker::{PROGRAM, Registry};
use crate::common::shop::{GZIP, Shop};
use crate::common::{can, fails, ok};

/// Where Docker Hub's registry is.
const HUB: &str = "registry-1.docker.io:443";

/// Docker Hub as a machine behind a proxy finds it.
struct Hub {
    shop: Shop,
    proxy: Relay,
    _registry: Registry,
}

impl Hub {
    /// Starts the registry and the proxy. Returns `None` if a program for them is missing.
    fn start() -> Option<Self> {
        if !can(&["skopeo", PROGRAM, "openssl", "htpasswd"]) {
            return None;
        }
        let shop = Shop::open();
        let registry = Registry::hub(shop.scratch.path());
        Some(Hub {
            proxy: Relay::start(&[(HUB, &registry.host)], None),
            shop,
            _registry: registry,
        })
    }

    fn home(&self) -> &Path {
        self.shop.scratch.path()
    }

    fn cas(&self, root: &Path, arguments: &[&str]) -> Command {
        let mut command = cas(root, self.home());
        command.env("HTTPS_PROXY", format!("http://{}", self.proxy.host));
        command.env("SSL_CERT_FILE", self.shop.path("certificate.pem"));
        command.args(arguments);
        command
    }

    fn root(&self, name: &str) -> PathBuf {
        self.shop.path(name)
    }

    /// Asserts that nothing but Docker Hub's registry was asked.
    fn was_asked(&self) {
        let asked = self.proxy.asked();
        assert!(!asked.is_empty());
        assert!(asked.iter().all(|one| one.host == HUB), "{asked:?}");
    }
}

#[test]
fn every_name_of_docker_hub_leads_to_its_registry_with_its_login() {
    let Some(hub) = Hub::start() else {
        return;
    };
    let push = |name: &str| hub.cas(&hub.shop.root, &["push", GZIP, name]);
    let said = fails(&mut push("app:1"), 7);
    assert!(
        said.contains("https://registry-1.docker.io") || said.contains("login"),
        "{said}"
    );
    for (key, name, full) in [
        (
            "https://index.docker.io/v1/",
            "app:1",
            "docker.io/library/app:1",
        ),
        (
            "docker.io",
            "docker.io/library/app:2",
            "docker.io/library/app:2",
        ),
        (
            "index.docker.io",
            "index.docker.io/app:3",
            "docker.io/library/app:3",
        ),
        (
            "https://registry-1.docker.io/v2/",
            "registry-1.docker.io/library/app:4",
            "registry-1.docker.io/library/app:4",
        ),
        ("docker.io/me", "me/app:5", "docker.io/me/app:5"),
    ] {
        log_in(hub.home(), key, &json!({"auth": AUTH}));
        ok(&mut push(name));
        let root = hub.root(&full.replace(['/', ':'], "-"));
        ok(&mut hub.cas(&root, &["pull", name]));
        let listed = ok(&mut hub.cas(&root, &["images", "--json"]));
        assert!(listed.contains(&format!("\"{full}\"")), "{listed}");
    }
    for key in [
        "docker.io/other",
        "auth.docker.io",
        "https://hub.docker.com/",
    ] {
        log_in(hub.home(), key, &json!({"auth": AUTH}));
        fails(&mut push("me/app:6"), 7);
    }
    hub.was_asked();
}

#[test]
fn helpers_are_asked_for_the_keys_of_docker_and_podman() {
    let Some(hub) = Hub::start() else {
        return;
    };
    for (number, key) in ["https://index.docker.io/v1/", "docker.io"]
        .iter()
        .enumerate()
    {
        let knows = format!(
            "read -r key\nif [ \"$key\" = {key} ]; then {}; else {}; fi",
            helpers::ANSWER,
            helpers::NONE
        );
        helper(hub.home(), "hub", &knows);
        for config in [
            json!({"credsStore": "hub"}),
            json!({"credHelpers": {"docker.io": "hub"}}),
            json!({"credHelpers": {"https://index.docker.io/v1/": "hub"}}),
        ] {
            fs::write(hub.home().join("config.json"), config.to_string()).unwrap();
            let mut push = hub.cas(&hub.shop.root, &["push", GZIP]);
            push.arg(format!("helped{number}:1"));
            ok(push.env("PATH", helpers::path(hub.home())));
        }
    }
    hub.was_asked();
}

/// A layer of an image with a plain name is lost, and comes back from Docker Hub.
#[test]
fn a_repair_fetches_from_docker_hub() {
    let Some(hub) = Hub::start() else {
        return;
    };
    log_in(hub.home(), "docker.io", &json!({"auth": AUTH}));
    ok(&mut hub.cas(&hub.shop.root, &["push", GZIP, "app:1"]));
    let root = hub.root("healed");
    ok(&mut hub.cas(&root, &["pull", "app:1"]));
    let blobs = fs::read_dir(root.join("store/blobs/sha256")).unwrap();
    let blobs = blobs.map(|entry| entry.unwrap().path());
    let largest = blobs
        .max_by_key(|path| path.metadata().unwrap().len())
        .unwrap();
    fs::remove_file(&largest).unwrap();
    fails(&mut hub.cas(&root, &["fsck"]), 4);
    ok(&mut hub.cas(&root, &["fsck", "--repair"]));
    assert!(largest.exists());
    hub.was_asked();
}
