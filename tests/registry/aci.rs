//! `cas aci fetch`: ACIs from a server, with ETag and max-age.

use std::path::Path;
use std::process::Command;

use testkit::aci::{aci, manifest};

use super::fake::{Answer, Fake, Request};
use crate::common::{cas, fails, ok};

/// Answers as a server with ACIs: one that stays fresh, one that does not, and a few that fail.
fn answer(request: &Request) -> Answer {
    let etag = "\"one\"";
    let known = request.header("if-none-match") == Some(etag);
    let send = |name: &str| {
        Answer::new(200)
            .with("ETag", etag)
            .body(&aci(&manifest(name, "")))
    };
    let not_modified = || Answer::new(304).with("Cache-Control", "max-age=0");
    match request.path.split('?').next().unwrap() {
        "/fresh.aci" => send("fresh").with("Cache-Control", "max-age=3600"),
        "/stale.aci" if known => not_modified(),
        "/stale.aci" => send("stale"),
        "/moved.aci" => Answer::new(302).with("Location", "/fresh.aci"),
        "/loop.aci" => Answer::new(302).with("Location", "/loop.aci"),
        "/cut.aci" => send("cut").cut(1000),
        "/text.aci" => Answer::new(200).body(b"no ACI"),
        "/closed.aci" => Answer::new(403),
        "/busy.aci" => Answer::new(503),
        _ => Answer::new(404),
    }
}

struct Scene {
    server: Fake,
    scratch: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        Scene {
            server: Fake::start(answer),
            scratch: tempfile::tempdir_in("/dev/shm").unwrap(),
        }
    }

    fn url(&self, name: &str) -> String {
        format!("http://{}/{name}.aci", self.server.host)
    }

    fn aci(&self, arguments: &[&str]) -> Command {
        let mut command = cas(&Path::new(self.scratch.path()).join("root"));
        command.arg("aci").args(arguments);
        command
    }

    fn listed(&self) -> Vec<serde_json::Value> {
        let listed = ok(self.aci(&["ls", "--json"]).arg("--reverse"));
        let lines = listed.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

#[test]
fn an_aci_is_asked_for_when_it_is_not_fresh_and_fetched_when_it_has_changed() {
    let scene = Scene::new();
    let (fresh, stale) = (scene.url("fresh"), scene.url("stale"));
    let first = ok(&mut scene.aci(&["fetch", &fresh, &stale]));
    let keys: Vec<&str> = first.lines().collect();
    assert!(keys.iter().all(|key| key.starts_with("sha512-")));
    let listed = scene.listed();
    assert_eq!(
        (&listed[0]["name"], &listed[1]["name"]),
        (&"stale".into(), &"fresh".into())
    );
    let remote = &listed[1]["remotes"][0];
    assert_eq!(remote["url"], fresh);
    assert_eq!(
        (&remote["etag"], &remote["maxAge"]),
        (&"\"one\"".into(), &3600.into())
    );
    // The second fetch does not request the fresh ACI, and the stale ACI has not changed.
    assert_eq!(ok(scene.aci(&["fetch", "--all"]).arg("--quiet")), first);
    assert_eq!(scene.server.count("GET", "/fresh.aci"), 1);
    assert_eq!(scene.server.count("GET", "/stale.aci"), 2);
    assert_eq!(scene.listed()[0]["importedAt"], listed[0]["importedAt"]);
    // An import of the URL does not request the fresh ACI either.
    let again = ok(&mut scene.aci(&["import", &fresh, "--name", "fresh"]));
    assert_eq!(again.trim(), keys[0]);
    assert_eq!(scene.server.count("GET", "/fresh.aci"), 1);
    let moved = ok(&mut scene.aci(&["fetch", &scene.url("moved")]));
    assert_eq!(moved.trim(), keys[0]);
    assert_eq!(scene.listed()[1]["remotes"].as_array().unwrap().len(), 2);
}

#[test]
fn a_fetch_that_fails_is_told_and_leaves_nothing() {
    let scene = Scene::new();
    for (name, code, said) in [
        ("absent", 3, "404"),
        ("closed", 7, "no login is sent"),
        ("busy", 7, "try again later"),
        ("loop", 7, "redirects"),
        ("cut", 7, "lost the connection"),
        ("text", 4, "text.aci"),
    ] {
        let shown = fails(&mut scene.aci(&["fetch", &scene.url(name)]), code);
        assert!(shown.contains(said), "{name}: {shown}");
    }
    for url in [
        "ftp://host/a",
        "http://192.0.2.1/a.aci",
        "https://a:b@host/",
    ] {
        fails(&mut scene.aci(&["fetch", url]), 2);
    }
    let wrong = ["import", &scene.url("fresh"), "--name", "other"];
    fails(&mut scene.aci(&wrong), 4);
    assert!(scene.listed().is_empty());
    let root = scene.scratch.path().join("root");
    assert!(ok(cas(&root).args(["blob", "ls", "--json"])).is_empty());
    assert!(ok(cas(&root).args(["lease", "ls", "--json"])).is_empty());
    // The failures do not stop the fetch of the other ACIs.
    let urls = ["absent", "fresh", "busy"].map(|name| scene.url(name));
    let mut several = scene.aci(&["fetch"]);
    let shown = fails(several.args(&urls), 3);
    assert!(shown.contains("404") && shown.contains("503"), "{shown}");
    assert_eq!(scene.listed().len(), 1);
}

/// A URL may have a login, or a query with a signature.
#[test]
fn no_message_and_no_list_repeats_what_is_secret_in_a_url() {
    let scene = Scene::new();
    let (fresh, host) = (scene.url("fresh"), &scene.server.host);
    ok(&mut scene.aci(&["fetch", &format!("{fresh}?signature=hush")]));
    assert_eq!(scene.listed()[0]["remotes"][0]["url"], fresh);
    // The whole URL is requested again.
    ok(&mut scene.aci(&["fetch", "--all"]));
    for (url, code, part) in [
        (
            format!("{}?signature=hush", scene.url("absent")),
            3,
            "/absent.aci",
        ),
        (
            format!("{}?signature=hush", scene.url("text")),
            4,
            "/text.aci",
        ),
        (format!("http://me:hush@{host}/fresh.aci"), 2, host),
        ("http://me:hush@host:port/a".to_owned(), 2, "http://"),
    ] {
        let said = fails(&mut scene.aci(&["fetch", &url]), code);
        assert!(said.contains(part) && !said.contains("hush"), "{said}");
        let said = fails(&mut scene.aci(&["import", &url]), code);
        assert!(said.contains(part) && !said.contains("hush"), "{said}");
    }
}
