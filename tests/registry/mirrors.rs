//! Mirrors: which mirror is asked for which content, with which login, and what happens if a mirror
//! fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use super::cas;
use super::fake::{Answer, Fake};
use super::login::{AUTH, closed, log_in};
use super::sample::Sample;
use crate::common::docker::{PROGRAM, Registry};
use crate::common::shop::{GZIP, Shop};
use crate::common::{can, fails, ok, text};

/// A registry with mirrors, and a machine that is configured for them.
struct Scene {
    scratch: tempfile::TempDir,
    sample: Sample,
    registry: Fake,
}

impl Scene {
    fn new() -> Self {
        let sample = Sample::new(&[1000, 400_000]);
        let served = sample.clone();
        Scene {
            scratch: tempfile::tempdir().unwrap(),
            registry: Fake::start(move |request| match request.method.as_str() {
                "PUT" => Answer::new(201),
                _ => served.answer(request),
            }),
            sample,
        }
    }

    fn home(&self) -> &Path {
        self.scratch.path()
    }

    /// Starts a mirror that answers correctly, or as `change` does.
    fn mirror(
        &self,
        change: impl Fn(&super::fake::Request, Answer) -> Answer + Send + Sync + 'static,
    ) -> Fake {
        let sample = self.sample.clone();
        Fake::start(move |request| {
            let mut plain = request.clone();
            plain
                .path
                .truncate(request.path.find('?').unwrap_or(request.path.len()));
            change(request, sample.answer(&plain))
        })
    }

    /// Writes `hosts.toml` of the registry, with these mirrors and their tables.
    fn hosts_toml(&self, mirrors: &[(&Fake, &str)]) {
        let host = self.registry.host.replace(':', "_") + "_";
        let directory = self.home().join("hosts").join(host);
        fs::create_dir_all(&directory).unwrap();
        let mut text = format!("server = \"http://{}\"\n", self.registry.host);
        for (mirror, table) in mirrors {
            text.push_str(&format!("[host.\"http://{}\"]\n{table}\n", mirror.host));
        }
        fs::write(directory.join("hosts.toml"), text).unwrap();
    }

    /// Writes `registries.conf` with one table of the registry.
    fn registries_conf(&self, table: &str) -> PathBuf {
        let path = self.home().join("registries.conf");
        let text = format!(
            "[[registry]]\nprefix = \"{}\"\n{table}\n",
            self.registry.host
        );
        fs::write(&path, text).unwrap();
        path
    }

    fn cas(&self, root: &str, arguments: &[&str]) -> Command {
        let mut command = cas(&self.home().join(root), self.home());
        command.args(arguments);
        command
    }

    /// Returns a pull that reads `hosts.toml`.
    fn pull(&self, root: &str) -> Command {
        let mut pull = self.cas(root, &["pull", &self.registry.image(), "--hosts-dir"]);
        pull.arg(self.home().join("hosts"));
        pull
    }

    /// Asserts that the root has the image, with all of its content.
    fn has(&self, root: &str) {
        let image = self.registry.image();
        let inspected = ok(&mut self.cas(root, &["inspect", &image, "--json"]));
        assert!(inspected.contains(&self.sample.root.digest.to_string()));
        ok(&mut self.cas(root, &["fsck", "--read-data"]));
    }
}

#[test]
fn a_mirror_that_may_not_resolve_only_serves_content() {
    let scene = Scene::new();
    let mirror = scene.mirror(|_, answer| answer);
    scene.hosts_toml(&[(
        &mirror,
        "capabilities = [\"pull\"]\nheader = {x-key = \"one\"}",
    )]);
    ok(&mut scene.pull("root"));
    scene.has("root");
    assert_eq!(scene.registry.count("HEAD", "/manifests/1"), 1);
    assert_eq!(scene.registry.count("GET", ""), 0);
    assert_eq!(mirror.count("HEAD", ""), 0);
    assert_eq!(mirror.count("GET", "/blobs/"), 3);
    // A request to the mirror names the registry that it stands for, and has the mirror's own
    // header.
    let namespace = format!("ns={}", scene.registry.host.replace(':', "%3A"));
    for request in mirror.seen() {
        assert!(request.path.ends_with(&namespace), "{}", request.path);
        assert_eq!(request.header("x-key"), Some("one"));
    }
    assert!(
        scene
            .registry
            .seen()
            .iter()
            .all(|one| one.header("x-key").is_none())
    );
}

#[test]
fn what_a_mirror_lacks_comes_from_the_next() {
    let scene = Scene::new();
    let empty = scene.mirror(|_, _| Answer::new(404));
    let partial = scene.mirror(|request, answer| match request.is("GET", "/blobs/") {
        true => Answer::new(404),
        false => answer,
    });
    scene.hosts_toml(&[(&empty, ""), (&partial, "")]);
    let said = scene.pull("root").output().unwrap();
    assert!(said.status.success(), "{}", text(&said.stderr));
    scene.has("root");
    // A mirror need not have everything, so nothing is reported.
    assert!(
        !text(&said.stderr).contains("passed over"),
        "{}",
        text(&said.stderr)
    );
    assert_eq!(partial.count("GET", "/manifests/"), 1);
    assert_eq!(scene.registry.count("HEAD", ""), 0);
    assert_eq!(scene.registry.count("GET", "/blobs/"), 3);
}

#[test]
fn a_mirror_that_denies_or_is_gone_is_passed_over_with_a_warning() {
    let scene = Scene::new();
    let denies = scene.mirror(|_, _| Answer::error(403, "DENIED", "not you"));
    // Nothing listens on port 1.
    let gone = "127.0.0.1:1";
    let conf = scene.registries_conf(&format!(
        "location = \"{}\"\n[[registry.mirror]]\nlocation = \"{gone}/a\"\n\
         [[registry.mirror]]\nlocation = \"{}/b\"\n",
        scene.registry.host, denies.host
    ));
    let mut pull = scene.cas("root", &["pull", &scene.registry.image()]);
    let said = pull
        .env("CONTAINERS_REGISTRIES_CONF", conf)
        .output()
        .unwrap();
    assert!(said.status.success(), "{}", text(&said.stderr));
    scene.has("root");
    for host in [gone, denies.host.as_str()] {
        let warning = format!("{host} was passed over");
        assert!(
            text(&said.stderr).contains(&warning),
            "{}",
            text(&said.stderr)
        );
    }
    assert!(denies.count("HEAD", "/v2/b/team/app/manifests/1") > 0);
}

#[test]
fn a_warning_has_the_host_that_sent_it() {
    let scene = Scene::new();
    let mirror = scene.mirror(|_, answer| answer.with("Warning", "299 - \"ends soon\""));
    scene.hosts_toml(&[(&mirror, "")]);
    let out = scene.pull("root").output().unwrap();
    let (said, host) = (text(&out.stderr), &mirror.host);
    assert!(out.status.success(), "{said}");
    assert!(said.contains(&format!("{host} says: ends soon")), "{said}");
    assert_eq!(said.matches(" says: ").count(), 1, "{said}");
}

#[test]
fn a_read_that_breaks_continues_on_the_next_mirror() {
    let scene = Scene::new();
    let breaks = scene.mirror(|request, answer| match request.is("GET", "/blobs/") {
        true => answer.cut(150_000),
        false => answer,
    });
    scene.hosts_toml(&[(&breaks, "")]);
    ok(&mut scene.pull("root"));
    scene.has("root");
    let layer = scene.sample.layers[1].digest.to_string();
    let asked = scene.registry.seen();
    let asked = asked.iter().find(|one| one.is("GET", &layer)).unwrap();
    let (start, last) = asked.range().unwrap();
    assert!(start > 0 && start <= 150_000, "{start}");
    assert_eq!(last, 399_999);
}

/// For a layer or a manifest, the mirror sends other bytes, too few, none, or a beginning of other
/// bytes that breaks off.
#[test]
fn what_a_mirror_sends_wrong_comes_from_the_next() {
    type Lie = fn(Answer) -> Answer;
    let lies: [(&str, &str, Lie); 5] = [
        ("other bytes", "/blobs/", |answer| {
            answer.body(&[7; 400_000])
        }),
        ("too few", "/blobs/", |answer| answer.body(&[7; 10])),
        ("none", "/blobs/", |answer| answer.body(&[])),
        ("a beginning", "/blobs/", |answer| {
            answer.body(&[7; 400_000]).cut(300_000)
        }),
        ("a manifest", "/manifests/sha256", |answer| {
            answer.body(b"{}")
        }),
    ];
    for (number, (what, part, lie)) in lies.into_iter().enumerate() {
        let scene = Scene::new();
        let mirror = scene.mirror(move |request, answer| match request.is("GET", part) {
            true => lie(answer),
            false => answer,
        });
        scene.hosts_toml(&[(&mirror, "")]);
        let root = format!("root{number}");
        let done = scene.pull(&root).output().unwrap();
        let said = text(&done.stderr);
        assert!(done.status.success(), "{what}: {said}");
        scene.has(&root);
        // The first failure of a mirror is reported.
        assert!(said.contains("was passed over"), "{what}: {said}");
        let asked = if part == "/blobs/" { 3 } else { 1 };
        assert_eq!(mirror.count("GET", part), asked, "{what}");
    }
    // If the registry and all mirrors send wrong bytes, each is asked once.
    let scene = Scene::new();
    let layer = scene.sample.layers[1].digest.to_string();
    let wrong = || {
        let part = layer.clone();
        scene.mirror(move |request, answer| match request.is("GET", &part) {
            true => answer.body(&[7; 1000]),
            false => answer,
        })
    };
    let (one, two) = (wrong(), wrong());
    let conf = scene.registries_conf(&format!(
        "location = \"{}\"\n[[registry.mirror]]\nlocation = \"{}\"\n",
        two.host, one.host
    ));
    let mut pull = scene.cas("root", &["pull", &scene.registry.image()]);
    fails(pull.env("CONTAINERS_REGISTRIES_CONF", conf), 4);
    for mirror in [one, two] {
        assert_eq!(mirror.count("GET", &layer), 1);
    }
}

/// A layer that was unpacked while it arrived cannot be fetched again, so the whole pull is
/// repeated.
#[test]
fn a_layer_that_is_unpacked_comes_from_the_next_mirror_too() {
    if !can(&["skopeo", PROGRAM]) {
        return;
    }
    let shop = Shop::open();
    let home = shop.scratch.path();
    let registry = Registry::open(home);
    let there = registry.at("app:1");
    ok(cas(&shop.root, home).args(["push", GZIP, &there]));
    let mirror = Fake::start(|request| match request.is("GET", "/blobs/") {
        true => Answer::new(200).body(&[7; 5000]),
        false => Answer::new(404),
    });
    let directory = home.join("hosts").join(&registry.host);
    fs::create_dir_all(&directory).unwrap();
    let table = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\n",
        registry.host, mirror.host
    );
    fs::write(directory.join("hosts.toml"), table).unwrap();
    let root = home.join("unpacked");
    let mut pull = cas(&root, home);
    pull.args(["pull", &there, "--unpack", "--hosts-dir"]);
    let done = pull.arg(home.join("hosts")).output().unwrap();
    let said = text(&done.stderr);
    assert!(done.status.success(), "{said}");
    assert!(said.contains("it sent bytes that do not match"), "{said}");
    ok(cas(&root, home).args(["fsck", "--read-data"]));
}

#[test]
fn a_login_is_shown_only_to_its_own_host() {
    let scene = Scene::new();
    let mirror = closed(&scene.sample, None);
    // The login of the registry is not for the mirror, so the mirror gets no login.
    log_in(scene.home(), &scene.registry.host, &json!({"auth": AUTH}));
    scene.hosts_toml(&[(&mirror, "")]);
    ok(&mut scene.pull("one"));
    scene.has("one");
    assert!(mirror.count("GET", "/token") > 0);
    assert!(mirror.seen().iter().all(|one| {
        one.header("authorization")
            .is_none_or(|shown| shown == "Bearer good")
    }));
    // The mirror gets its own login.
    log_in(scene.home(), &mirror.host, &json!({"auth": AUTH}));
    ok(&mut scene.pull("two"));
    let password = format!("Basic {AUTH}");
    assert!(
        mirror
            .seen()
            .iter()
            .any(|one| one.header("authorization") == Some(&password))
    );
    assert!(
        scene
            .registry
            .seen()
            .iter()
            .all(|one| one.header("authorization").is_none())
    );
}

#[test]
fn a_push_goes_to_the_registry_and_a_blocked_name_nowhere() {
    let scene = Scene::new();
    let mirror = scene.mirror(|_, answer| answer);
    let conf = scene.registries_conf(&format!("location = \"{}/there\"\n", mirror.host));
    let conf = conf.to_str().unwrap();
    let image = scene.registry.image();
    ok(&mut scene.cas("root", &["pull", &image, "--registries-conf", conf]));
    scene.has("root");
    assert_eq!(scene.registry.seen().len(), 0);
    assert!(mirror.count("GET", "/v2/there/team/app/blobs/") > 0);
    ok(&mut scene.cas("root", &["push", &image, "--registries-conf", conf]));
    assert_eq!(scene.registry.count("PUT", "/manifests/1"), 1);
    assert_eq!(mirror.count("PUT", ""), 0);
    let before = scene.registry.seen().len();
    scene.registries_conf(&format!("location = \"{}\"\nblocked = true\n", mirror.host));
    for verb in ["pull", "push"] {
        let mut command = scene.cas("root", &[verb, &image, "--registries-conf", conf]);
        let said = fails(&mut command, 1);
        assert!(said.contains("blocks names that begin with"), "{said}");
    }
    assert_eq!(scene.registry.seen().len(), before);
}

#[test]
fn a_broken_file_is_told_with_its_line_and_nothing_is_asked() {
    let scene = Scene::new();
    let mirror = scene.mirror(|_, answer| answer);
    scene.hosts_toml(&[(&mirror, "capabilities = [\"pul\"]")]);
    let said = fails(&mut scene.pull("root"), 2);
    assert!(
        said.contains("hosts.toml: line 3: expected the capability pull"),
        "{said}"
    );
    assert_eq!(scene.registry.seen().len() + mirror.seen().len(), 0);
}
