//! The options of a pull are not known when layers are fetched later.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use super::scene::{end_session, import, is_usable};
use crate::common::docker::{PASSWORD, Registry, USER};
use crate::common::{cas, chunked, fails, ok};

fn configure(root: &Path, lines: &str) {
    let file = File::options().append(true).open(root.join("cas.toml"));
    file.unwrap().write_all(lines.as_bytes()).unwrap();
}

fn make_root(root: &Path) {
    ok(cas(root).args(["--snapshotter", "erofs", "init"]));
    configure(root, "[lazy]\ncomplete = false\n");
}

/// Mounts the image that the root has pulled, reads a file, and ends the session.
fn read_later(root: &Path, image: &str, mnt: &Path) {
    ok(cas(root).args(["-q", "mount", image]).arg(mnt));
    assert_eq!(fs::read(mnt.join("dir/large")).unwrap().len(), 300_000);
    ok(cas(root).arg("umount").arg(mnt));
    end_session(root);
}

#[test]
fn a_pull_names_the_settings_that_reading_later_needs() {
    if !is_usable() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let place = scratch.path();
    let [whole, root, mnt] = ["whole", "root", "mnt"].map(|name| place.join(name));
    fs::create_dir(&mnt).unwrap();
    let registry = Registry::encrypted(place);
    let image = registry.at("app:1");
    let certificate = place.join("certificate.pem");
    ok(cas(&whole).args(["--snapshotter", "erofs", "init"]));
    import(&whole, &image, chunked::estargz);
    let mut push = cas(&whole);
    ok(push.args(["-q", "push", &image, "--ca"]).arg(&certificate));

    make_root(&root);
    let pull = |options: &[&str]| {
        let mut pull = cas(&root);
        // A path is written as it is found later.
        pull.current_dir(place);
        pull.args(["-q", "pull", "--lazy", &image]).args(options);
        pull
    };
    let said = fails(&mut pull(&["--ca", "certificate.pem"]), 1);
    let line = format!("ca = [{certificate:?}]");
    assert!(said.contains(&format!("`{line}` in [remote]")), "{said}");
    assert!(said.contains("cas.toml"), "{said}");
    let listed = ok(cas(&root).args(["images", "--json"]));
    assert_eq!(listed, "", "nothing was pulled");
    configure(&root, &format!("[remote]\n{line}\n"));
    ok(&mut pull(&[]));
    read_later(&root, &image, &mnt);

    let host = &registry.host;
    let logins = place.join("auth.json");
    let (hosts, conf) = (place.join("hosts"), place.join("conf"));
    fs::create_dir(&hosts).unwrap();
    fs::write(&conf, "").unwrap();
    let more = format!(
        "`plain-http = true`, `private-addresses = true` in [registries.{host:?}] and `hosts-dir = \
         {hosts:?}`, `registries-conf = {conf:?}` in [remote]"
    );
    let options = [
        "--plain-http",
        "--private-addresses",
        "--hosts-dir",
        "hosts",
    ];
    let said = fails(pull(&options).args(["--registries-conf", "conf"]), 1);
    assert!(said.contains(&more), "{said}");
    let said = fails(&mut pull(&["--authfile", "auth.json"]), 1);
    assert!(
        said.contains(&format!("`auth-file = {logins:?}` in [remote]")),
        "{said}"
    );
    // Without --lazy, everything arrives now, and the option is used as it is.
    ok(cas(&root)
        .args(["-q", "pull", &image, "--ca"])
        .arg(&certificate));
    // What the messages propose has an effect: this registry does not speak plain HTTP.
    configure(
        &root,
        &format!("[registries.{host:?}]\nplain-http = true\n"),
    );
    assert!(!pull(&[]).status().unwrap().success());
}

/// The login is found where `cas.toml` says, and is stored nowhere else.
#[test]
fn a_login_is_not_stored_with_the_layers() {
    if !is_usable() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let place = scratch.path();
    let [whole, root, mnt] = ["whole", "root", "mnt"].map(|name| place.join(name));
    fs::create_dir(&mnt).unwrap();
    let registry = Registry::closed(place);
    let image = registry.at("app:1");
    let logins = place.join("auth.json");
    let login = "printf %s \"$0:$1\" | base64";
    let login = ok(Command::new("sh").args(["-c", login, USER, PASSWORD]));
    let login = login.trim();
    let text = format!(
        "{{\"auths\":{{{:?}:{{\"auth\":{login:?}}}}}}}",
        registry.host
    );
    fs::write(&logins, text).unwrap();
    ok(cas(&whole).args(["--snapshotter", "erofs", "init"]));
    import(&whole, &image, chunked::estargz);
    let mut push = cas(&whole);
    ok(push.args(["-q", "push", &image, "--authfile"]).arg(&logins));
    make_root(&root);
    configure(&root, &format!("[remote]\nauth-file = {logins:?}\n"));
    ok(cas(&root).args(["-q", "pull", "--lazy", &image]));
    read_later(&root, &image, &mnt);
    for secret in [PASSWORD, login] {
        // Files may come and go while the session ends.
        let mut grep = Command::new("grep");
        let found = grep.args(["-raFs", "--", secret]).arg(&root).output();
        assert!(found.unwrap().stdout.is_empty(), "the root has the secret");
    }
}
