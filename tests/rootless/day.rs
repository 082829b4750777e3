//! The daily work of a user with the whole tool, from a fresh home.

use std::fs;

use testkit::archive::{Header, Tar};

use crate::common::{fails, ok};
use crate::scene::{Home, Ids, succeeds};

#[test]
fn a_user_imports_unpacks_runs_and_collects() {
    let Some(home) = Home::with_namespaces(&["runc"]) else {
        return;
    };
    let (shown, _) = succeeds(&mut home.cas(Ids::One, &["demo"]));
    assert!(shown.contains("unpacked and checked"), "{shown}");
    assert!(shown.contains("skipped snapshots"), "{shown}");
    let (shown, _) = succeeds(&mut home.unshared(Ids::One, "$cas demo"));
    assert!(shown.contains("unpacked into snapshots"), "{shown}");

    let (owned, plain) = (Header::new(b'0', "owned"), Tar::new().file("plain", ""));
    let image = home.image(vec![plain, Tar::new().member(owned.owner(33, 34), "")]);
    let image = image.to_str().unwrap();
    let cas = |arguments: &[&str]| succeeds(&mut home.cas(Ids::One, arguments));
    cas(&["-q", "import", image, "--name", "demo:2"]);
    assert!(home.path(".local/share/cas/cas.toml").exists());
    assert!(cas(&["images"]).0.contains("demo:2"));
    let (_, said) = cas(&["unpack", "--rootless", "demo:2", "tree"]);
    assert_eq!(said, "");
    assert_eq!(fs::read_dir(home.path("tree")).unwrap().count(), 2);

    // Without the rights to give files away or to mount, the messages say where these rights exist.
    for arguments in [
        &["unpack", "demo:2", "plain"][..],
        &["import", "--unpack", image],
        &["mount", "demo:2", "tree"],
        &["bundle", "demo:2", "plain"],
        &["bundle", "--mount", "demo:2", "plain"],
    ] {
        let said = fails(&mut home.cas(Ids::One, arguments), 1);
        assert!(said.contains("`cas unshare`"), "{arguments:?}: {said}");
    }
    assert!(!home.path("plain").exists());

    cas(&["bundle", "--rootless", "demo:2", "bundle"]);
    let config = fs::read_to_string(home.path("bundle/config.json")).unwrap();
    assert!(config.contains("uidMappings"), "{config}");
    fails(
        &mut home.cas(
            Ids::One,
            &["bundle", "--rootless", "--mount", "demo:2", "b"],
        ),
        2,
    );
    cas(&["tag", "demo:2", "demo:3"]);
    cas(&["rmi", "demo:2", "demo:3"]);
    let (freed, _) = cas(&["gc"]);
    assert!(freed.contains("freed"), "{freed}");
    assert_eq!(cas(&["--json", "images"]).0, "");
    cas(&["fsck"]);
    ok(home.user(Ids::One, "rm").args(["-r", "tree", "bundle"]));
}
