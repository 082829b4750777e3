//! The certificates that `cas` trusts and shows: files with authorities, certificates of clients,
//! and hosts that are not verified.

use std::fs;
use std::process::Command;

use super::cas;
use super::fake::Fake;
use super::sample::Sample;
use crate::common::docker::{PROGRAM, Registry};
use crate::common::shop::{GZIP, Shop};
use crate::common::{can, fails, ok};

/// Starts a registry with a certificate that the system does not trust.
fn encrypted() -> Option<(Shop, Registry)> {
    if !can(&["skopeo", PROGRAM, "openssl"]) {
        return None;
    }
    let shop = Shop::open();
    let registry = Registry::encrypted(shop.scratch.path());
    Some((shop, registry))
}

#[test]
fn an_unknown_issuer_says_where_its_certificate_belongs() {
    let Some((shop, registry)) = encrypted() else {
        return;
    };
    let there = registry.at("app:1");
    let push = || {
        let mut push = cas(&shop.root, shop.scratch.path());
        push.args(["push", GZIP, &there]);
        push
    };
    let said = fails(&mut push(), 7);
    let place = format!("/etc/containers/certs.d/{}/ca.crt", registry.host);
    assert!(
        said.contains(&place) && said.contains("--ca FILE"),
        "{said}"
    );
    let certificate = shop.path("certificate.pem");
    ok(push().arg("--ca").arg(&certificate));
    // podman reads the certificates of one user from this directory.
    let own = shop.path(".config/containers/certs.d").join(&registry.host);
    fs::create_dir_all(&own).unwrap();
    fs::copy(&certificate, own.join("ca.crt")).unwrap();
    ok(&mut push());
    fs::write(own.join("ca.crt"), "nothing").unwrap();
    let said = fails(&mut push(), 2);
    assert!(
        said.contains("ca.crt") && said.contains("expected certificates in PEM form"),
        "{said}"
    );
}

/// Without options, `openssl req -x509` makes a certificate of an authority, and people use it for
/// a server. skopeo, podman and curl accept it, and also a server's certificate without its issuer.
#[test]
fn the_certificate_of_a_server_may_be_trusted_itself() {
    if !can(&["skopeo", PROGRAM, "openssl"]) {
        return;
    }
    let shop = Shop::open();
    let (issuer, key) = (shop.path("issuer.pem"), shop.path("issuer.key"));
    let mut openssl = Command::new("openssl");
    openssl.args("req -x509 -newkey rsa:2048 -nodes -subj /CN=issuer -keyout".split(' '));
    ok(openssl.arg(&key).arg("-out").arg(&issuer));
    let (issuer, key) = (issuer.to_str().unwrap(), key.to_str().unwrap());
    let issued = ["-CA", issuer, "-CAkey", key];
    for (host, options, code) in [
        ("IP:127.0.0.1", &[][..], 0),
        ("IP:127.0.0.1", &issued, 0),
        ("DNS:other.test", &[], 7),
        ("DNS:other.test", &issued, 7),
    ] {
        let registry = Registry::certified(shop.scratch.path(), host, options);
        let there = registry.at("app:1");
        let push = || {
            let mut push = cas(&shop.root, shop.scratch.path());
            push.args(["push", "--retry-for", "0s", GZIP, &there]);
            push
        };
        fails(&mut push(), 7);
        let mut trusting = push();
        trusting.arg("--ca").arg(shop.path("certificate.pem"));
        match code {
            0 => drop(ok(&mut trusting)),
            code => drop(fails(&mut trusting, code)),
        }
    }
}

/// A certificate that is trusted itself is still only valid for a time.
#[test]
fn an_expired_certificate_is_refused_even_if_it_is_trusted_itself() {
    if !can(&["skopeo", PROGRAM, "openssl"]) {
        return;
    }
    let shop = Shop::open();
    let registry = Registry::expired(shop.scratch.path());
    let there = registry.at("app:1");
    let mut push = cas(&shop.root, shop.scratch.path());
    push.args(["push", GZIP, &there, "--ca"]);
    let said = fails(push.arg(shop.path("certificate.pem")), 7);
    assert!(
        said.contains("expired") && said.contains("to renew the certificate"),
        "{said}"
    );
}

#[test]
fn a_login_trusts_the_certificates_that_a_pull_trusts() {
    let Some((shop, registry)) = encrypted() else {
        return;
    };
    let login = |options: &[&str]| {
        let mut login = cas(&shop.root, shop.scratch.path());
        login.args(["login", "-u", "me", "--password-stdin", &registry.host]);
        let password = fs::File::open(shop.path("password")).unwrap();
        login.args(options).stdin(password);
        login
    };
    fs::write(shop.path("password"), "word\n").unwrap();
    let certificate = shop.path("certificate.pem");
    fails(&mut login(&[]), 7);
    ok(&mut login(&["--ca", certificate.to_str().unwrap()]));
    let hosts = shop.path("hosts");
    let directory = ["--hosts-dir", hosts.to_str().unwrap()];
    let said = fails(&mut login(&directory), 3);
    assert!(said.contains("does not exist"), "{said}");
    let own = hosts.join(&registry.host);
    fs::create_dir_all(&own).unwrap();
    fails(&mut login(&directory), 7);
    fs::copy(&certificate, own.join("ca.crt")).unwrap();
    ok(&mut login(&directory));
}

#[test]
fn files_that_options_name_are_read_even_if_the_registry_does_not_need_them() {
    let sample = Sample::new(&[10]);
    let registry = Fake::start(move |request| sample.answer(request));
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path();
    fs::write(home.join("empty.pem"), "nothing").unwrap();
    for (option, file, code) in [
        ("--hosts-dir", "absent", 3),
        ("--hosts-dir", "empty.pem", 2),
        ("--ca", "absent.pem", 2),
        ("--ca", "empty.pem", 2),
    ] {
        for verb in ["pull", "login"] {
            let mut run = cas(&home.join("root"), home);
            match verb {
                "pull" => run.args([verb, &registry.image()]),
                _ => run.args([verb, "-u", "me", "--password-stdin", &registry.host]),
            };
            let password = fs::File::open(home.join("empty.pem")).unwrap();
            let path = home.join(file);
            run.arg(option).arg(&path).stdin(password);
            let said = fails(&mut run, code);
            let path = path.to_string_lossy();
            assert!(said.contains(&*path), "{verb} {option}: {said}");
        }
    }
    assert!(registry.seen().is_empty());
}

#[test]
fn a_host_is_not_verified_only_if_a_file_says_so() {
    let Some((shop, registry)) = encrypted() else {
        return;
    };
    let there = registry.at("app:1");
    let conf = |host: &str| {
        let text = format!("[[registry]]\nlocation = \"{host}\"\ninsecure = true\n");
        fs::write(shop.path("registries.conf"), text).unwrap();
    };
    let push = || -> Command {
        let mut push = cas(&shop.root, shop.scratch.path());
        push.args(["push", GZIP, &there, "--registries-conf"]);
        push.arg(shop.path("registries.conf"));
        push
    };
    conf("127.0.0.1:1");
    fails(&mut push(), 7);
    conf(&registry.host);
    ok(&mut push());
    let directory = shop.path("hosts").join(&registry.host);
    fs::create_dir_all(&directory).unwrap();
    let text = format!(
        "server = \"https://{}\"\nskip_verify = true\n",
        registry.host
    );
    fs::write(directory.join("hosts.toml"), text).unwrap();
    let mut pull = cas(&shop.path("empty"), shop.scratch.path());
    ok(pull
        .args(["pull", &there, "--hosts-dir"])
        .arg(shop.path("hosts")));
}

#[test]
fn a_certificate_is_shown_to_the_registry_that_it_is_for() {
    if !can(&["skopeo", PROGRAM, "openssl"]) {
        return;
    }
    let shop = Shop::open();
    let registry = Registry::mutual(shop.scratch.path());
    let there = registry.at("app:1");
    let push = || {
        let mut push = cas(&shop.root, shop.scratch.path());
        push.args(["push", GZIP, &there]);
        push
    };
    let own = shop.path(".config/containers/certs.d").join(&registry.host);
    fs::create_dir_all(&own).unwrap();
    fs::copy(shop.path("certificate.pem"), own.join("ca.crt")).unwrap();
    fails(push().args(["--retry-for", "0s"]), 7);
    fs::copy(shop.path("certificate.pem"), own.join("client.cert")).unwrap();
    fs::copy(shop.path("key.pem"), own.join("client.key")).unwrap();
    ok(&mut push());
}
