//! Settings of registries in `cas.toml`, and options that override them.

use std::fs;
use std::path::Path;

use cas::transfer::PullLimits;
use serde_json::json;

use super::cas;
use super::fake::{Answer, Fake};
use super::login::{AUTH, closed};
use super::sample::Sample;
use crate::common::docker::{PROGRAM, Registry};
use crate::common::shop::{GZIP, Shop};
use crate::common::{can, fails, ok};

/// Adds tables to `cas.toml` of a root, which is made if it is absent.
pub(super) fn configure(root: &Path, tables: &str) {
    let file = root.join("cas.toml");
    if !file.exists() {
        ok(crate::common::cas(root).arg("init"));
    }
    let text = fs::read_to_string(&file).unwrap();
    // A table ends where the next one begins.
    let own = text.split("\n[").next().unwrap();
    fs::write(file, format!("{own}\n{tables}")).unwrap();
}

fn registry(sample: &Sample) -> Fake {
    let sample = sample.clone();
    Fake::start(move |request| {
        let mut plain = request.clone();
        plain.path = request.path.split('?').next().unwrap().to_owned();
        sample.answer(&plain)
    })
}

#[test]
fn the_root_names_its_hosts_and_an_option_replaces_them() {
    let sample = Sample::new(&[1000]);
    let (origin, one, two) = (registry(&sample), registry(&sample), registry(&sample));
    let scratch = tempfile::tempdir().unwrap();
    let (home, root) = (scratch.path(), scratch.path().join("root"));
    let name = origin.host.replace(':', "_") + "_";
    for (directory, mirror) in [(root.join("hosts"), &one), (home.join("other"), &two)] {
        let directory = directory.join(&name);
        fs::create_dir_all(&directory).unwrap();
        let text = format!("server = \"http://{}\"\n", mirror.host);
        fs::write(directory.join("hosts.toml"), text).unwrap();
    }
    fs::rename(root.join("hosts"), home.join("hosts")).unwrap();
    fs::remove_dir(&root).unwrap();
    // A relative path begins at the root.
    configure(&root, "[remote]\nhosts-dir = \"../hosts\"\n");
    ok(cas(&root, home).args(["pull", &origin.image()]));
    assert_eq!(one.count("HEAD", "/manifests/1"), 1);
    let mut pull = cas(&root, home);
    ok(pull
        .args(["pull", &origin.image(), "--hosts-dir"])
        .arg(home.join("other")));
    assert_eq!(two.count("HEAD", "/manifests/1"), 1);
    assert_eq!(origin.seen().len(), 0);
}

#[test]
fn the_root_names_its_policy_and_what_completes_its_names() {
    let sample = Sample::new(&[1000]);
    let registry = registry(&sample);
    let scratch = tempfile::tempdir().unwrap();
    let (home, root) = (scratch.path(), scratch.path().join("root"));
    configure(
        &root,
        "[remote]\nregistries-conf = \"r.conf\"\npolicy-file = \"policy.json\"\n",
    );
    let alias = format!("[aliases]\n\"short\" = \"{}/team/app\"\n", registry.host);
    fs::write(root.join("r.conf"), alias).unwrap();
    fs::write(
        root.join("policy.json"),
        r#"{"default": [{"type": "reject"}]}"#,
    )
    .unwrap();
    let said = fails(cas(&root, home).args(["pull", "short:1"]), 1);
    assert!(
        said.contains("root/policy.json rejects the image"),
        "{said}"
    );
    assert_eq!(registry.seen().len(), 0);
    let accepts = home.join("accepts.json");
    fs::write(
        &accepts,
        r#"{"default": [{"type": "insecureAcceptAnything"}]}"#,
    )
    .unwrap();
    let mut pull = cas(&root, home);
    ok(pull
        .args(["pull", "short:1", "--policy-file"])
        .arg(&accepts));
    fs::remove_file(root.join("r.conf")).unwrap();
    let said = fails(cas(&root, home).args(["pull", "short:1"]), 3);
    assert!(said.contains("root/r.conf"), "{said}");
}

#[test]
fn the_root_names_its_file_of_logins() {
    let sample = Sample::new(&[1000]);
    let registry = closed(&sample, None);
    let scratch = tempfile::tempdir().unwrap();
    let (home, root) = (scratch.path(), scratch.path().join("root"));
    configure(&root, "[remote]\nauth-file = \"logins.json\"\n");
    let logins = json!({"auths": {&registry.host: {"auth": AUTH}}});
    fs::write(root.join("logins.json"), logins.to_string()).unwrap();
    ok(cas(&root, home).args(["pull", &registry.image()]));
    let password = format!("Basic {AUTH}");
    let shown = |registry: &Fake| {
        let seen = registry.seen();
        seen.iter()
            .any(|one| one.header("authorization") == Some(&password))
    };
    assert!(shown(&registry));
    // `cas logout` removes the login from the file that `cas.toml` names.
    ok(cas(&root, home).args(["logout", &registry.host]));
    let left = fs::read_to_string(root.join("logins.json")).unwrap();
    assert!(!left.contains(&registry.host), "{left}");
    // An option names another file, which must exist.
    let mut pull = cas(&root, home);
    let absent = pull.args(["pull", &registry.image(), "--authfile", "/absent.json"]);
    assert!(fails(absent, 3).contains("/absent.json"));
}

#[test]
fn the_root_names_whom_it_trusts() {
    if !can(&["skopeo", PROGRAM, "openssl"]) {
        return;
    }
    let shop = Shop::open();
    let registry = Registry::encrypted(shop.scratch.path());
    let there = registry.at("app:1");
    let push = || {
        let mut push = cas(&shop.root, shop.scratch.path());
        push.args(["push", GZIP, &there]);
        push
    };
    fails(&mut push(), 7);
    let certificate = shop.path("certificate.pem");
    configure(&shop.root, &format!("[remote]\nca = [{certificate:?}]\n"));
    ok(&mut push());
    configure(&shop.root, "[remote]\nca = [\"absent.pem\"]\n");
    let said = fails(&mut push(), 2);
    assert!(said.contains("root/absent.pem"), "{said}");
}

/// The registry is reached over http, so nothing needs the directory or the certificates.
#[test]
fn options_that_have_no_effect_are_taken() {
    let sample = Sample::new(&[1000]);
    let origin = registry(&sample);
    let scratch = tempfile::tempdir().unwrap();
    let (home, root) = (scratch.path(), scratch.path().join("root"));
    // A directory without a file for the registry.
    let mut pull = cas(&root, home);
    ok(pull
        .args(["pull", &origin.image(), "--hosts-dir"])
        .arg(home));
    // A policy that asks nothing cannot bring referrers.
    let missing = [
        "pull",
        &origin.image(),
        "--referrers",
        "--policy",
        "missing",
    ];
    let pulled = cas(&root, home).args(missing).output().unwrap();
    let said = String::from_utf8(pulled.stderr).unwrap();
    assert!(
        pulled.status.success() && said.contains("referrers"),
        "{said}"
    );
}

#[test]
fn the_root_says_how_long_requests_are_repeated_and_an_option_replaces_that() {
    let sample = Sample::new(&[1000]);
    let left = std::sync::atomic::AtomicUsize::new(0);
    let left = std::sync::Arc::new(left);
    let (good, busy) = (sample.clone(), left.clone());
    let registry = Fake::start(move |request| {
        use std::sync::atomic::Ordering::SeqCst;
        let is_busy = busy.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
        match is_busy {
            Ok(_) => Answer::new(503).with("Retry-After", "0"),
            Err(_) => good.answer(request),
        }
    });
    let scratch = tempfile::tempdir().unwrap();
    let (home, root) = (scratch.path(), scratch.path().join("root"));
    configure(&root, "[remote]\nretry-for = 0\n");
    let once = |arguments: &[&str]| {
        // A registry that refuses HEAD may answer GET.
        left.store(3, std::sync::atomic::Ordering::SeqCst);
        let mut command = cas(&root, home);
        command.args(arguments);
        command
    };
    let (image, repository) = (registry.image(), format!("{}/team/app", registry.host));
    fails(&mut once(&["pull", &image]), 7);
    fails(&mut once(&["registry", "tags", &repository]), 7);
    ok(&mut once(&["pull", &image, "--retry-for", "60s"]));
    configure(&root, "[remote]\nretry-for = 60\n");
    ok(&mut once(&["pull", &image]));
    fails(&mut once(&["pull", &image, "--retry-for", "0s"]), 7);
}

#[test]
fn the_root_says_in_how_many_ranges_a_layer_comes() {
    let sample = Sample::new(&[2 * PullLimits::RANGE as usize + 5]);
    let scratch = tempfile::tempdir().unwrap();
    let home = scratch.path();
    for (at, (tables, options, expected)) in [
        ("[remote]\nranges = 3\n", &[][..], 3),
        ("[remote]\nranges = 3\n", &["--ranges", "1"], 0),
        ("", &["--ranges", "2"], 3),
        ("", &[], 0),
    ]
    .into_iter()
    .enumerate()
    {
        let (registry, root) = (registry(&sample), home.join(at.to_string()));
        configure(&root, tables);
        ok(cas(&root, home)
            .args(["pull", &registry.image()])
            .args(options));
        let seen = registry.seen();
        let ranges = seen.iter().filter_map(|one| one.range()).count();
        assert_eq!(ranges, expected, "{tables}{options:?}");
    }
}

#[test]
fn values_that_make_no_sense_are_refused_with_file_and_key() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    let read = || ::cas::RemoteSettings::read(&root).unwrap();
    for (key, value, found) in [
        ("ranges", "0", "found 0"),
        ("ranges", "9", "from 1 to 8, found 9"),
        ("min-speed", "\"fast\"", "expected bytes"),
        ("min-speed", "\"-1\"", "expected bytes"),
    ] {
        configure(&root, &format!("[remote]\n{key} = {value}\n"));
        let settings = read();
        let error = settings
            .limits()
            .map(drop)
            .and(settings.timeouts().map(drop));
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ::cas::ErrorKind::InvalidArgument);
        let said = error.to_string();
        let place = format!("{key} in [remote] of {}/cas.toml", root.display());
        assert!(said.contains(&place) && said.contains(found), "{said}");
        let pull = ["pull", "localhost:1/a:1"];
        assert!(fails(cas(&root, scratch.path()).args(pull), 2).contains(&place));
    }
    configure(&root, "[remote]\nmin-speed = \"2KiB\"\nretry-for = 7\n");
    let timeouts = read().timeouts().unwrap();
    assert_eq!((timeouts.min_speed, timeouts.repeat.as_secs()), (2048, 7));
}

#[test]
fn unknown_keys_and_wrong_values_are_refused_with_their_names() {
    let scratch = tempfile::tempdir().unwrap();
    let (home, root) = (scratch.path(), scratch.path().join("root"));
    for (tables, expected) in [
        ("[remote]\nhost-dir = \"x\"\n", "unknown field `host-dir`"),
        ("[remote]\nca = \"x\"\n", "expected a sequence"),
        ("[remote]\nretry-for = \"60s\"\n", "expected u64"),
        ("[remote]\nretry-for = -1\n", "`remote.retry-for`"),
        ("[remote]\nretry-for = x\n", "line "),
        ("[policy]\nalow = []\n", "unknown field `alow`"),
        ("[policy]\nverifier-timeout = \"1s\"\n", "expected u64"),
    ] {
        configure(&root, tables);
        let said = fails(cas(&root, home).args(["images"]), 4);
        assert!(said.contains(expected), "{said}");
    }
}

/// A second `init` keeps the tables. An `init` with other settings is refused.
#[test]
fn tables_of_a_root_stay_when_it_is_made_again() {
    let scratch = tempfile::tempdir().unwrap();
    let (home, root) = (scratch.path(), scratch.path().join("root"));
    let tables = "[remote]\nhosts-dir = \"/hosts\"\n[policy]\ndeny = [\"x.test\"]\n";
    configure(&root, tables);
    ok(cas(&root, home).arg("init"));
    let text = fs::read_to_string(root.join("cas.toml")).unwrap();
    assert!(text.ends_with(tables), "{text}");
    let mut engines = ::cas::Engines::default();
    engines.policy.deny.push("y.test".to_owned());
    let refused = ::cas::Cas::init_with(&root, engines, &::cas::registry()).unwrap_err();
    assert!(
        refused.to_string().contains("[policy] differs"),
        "{refused}"
    );
}

/// `cas login` repeats a request that failed for a temporary reason before it judges a password.
#[test]
fn a_login_is_checked_again_if_the_registry_is_busy() {
    let left = std::sync::Mutex::new(2);
    let registry = Fake::start(move |_| {
        let mut left = left.lock().unwrap();
        if *left > 0 {
            *left -= 1;
            return Answer::new(503).with("Retry-After", "0");
        }
        Answer::new(200).body(b"{}")
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("auth.json");
    let options = ::cas::distribution::Options {
        auth_file: Some(file.clone()),
        timeouts: super::quick(),
        ..Default::default()
    };
    let host = registry.host.parse().unwrap();
    let hosts = ::cas::distribution::Hosts::default();
    let done = ::cas::distribution::log_in(&host, "me", "secret", &hosts, options);
    assert_eq!(runtime.block_on(done).unwrap().file, file);
    assert!(registry.count("GET", "/v2/") >= 2);
}
