//! `cas unshare`.

use std::fs;
use std::process::Command;

use testkit::archive::{Header, Tar};

use crate::common::{can, cas, fails, ok, program};
use crate::scene::{Home, Ids, MORE, USER, succeeds};

#[test]
fn the_program_has_the_ids_that_the_user_may_use() {
    let Some(home) = Home::with_namespaces(&["newuidmap"]) else {
        return;
    };
    let script = "id -u; cat /proc/self/uid_map /proc/self/gid_map";
    let words = |ids| {
        let (shown, said) = succeeds(&mut home.unshared(ids, script));
        assert_eq!(said, "");
        let words = shown.split_whitespace().map(|word| word.parse().unwrap());
        words.collect::<Vec<u32>>()
    };
    let own = [0, USER, 1];
    assert_eq!(words(Ids::One), [&[0], &own[..], &own].concat());
    let more = [1, MORE.0, MORE.1];
    let map = [own, more].concat();
    assert_eq!(words(Ids::Many), [&[0], &map[..], &map].concat());
}

/// The ranges are given to the id of the user, and `newuidmap` fails for an id that has no name.
#[test]
fn if_further_ids_cannot_be_mapped_the_own_id_is() {
    let Some(home) = Home::with_namespaces(&["newuidmap"]) else {
        return;
    };
    let line = format!("{USER}:{}:{}\n", MORE.0, MORE.1);
    fs::write(home.outside("subids"), line).unwrap();
    fs::write(home.outside("passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
    let (shown, said) = succeeds(&mut home.unshared(Ids::Many, "cat /proc/self/uid_map"));
    let map: Vec<&str> = shown.split_whitespace().collect();
    assert_eq!(map, ["0", &USER.to_string(), "1"]);
    assert!(said.contains("uid_map maps only your own id"), "{said}");
    assert!(said.contains("newuidmap"), "{said}");
}

#[test]
fn the_program_gets_the_root_and_its_exit_code_is_returned() {
    let Some(home) = Home::with_namespaces(&[]) else {
        return;
    };
    let unshare = |arguments: &[&str]| {
        let all = [&["unshare"], arguments].concat();
        home.cas(Ids::One, &all)
    };
    for arguments in [&["sh", "-c", "exit 7"][..], &["--", "sh", "-c", "exit 7"]] {
        fails(&mut unshare(arguments), 7);
    }
    fails(&mut unshare(&["no-such-program"]), 127);
    fails(&mut unshare(&["--", home.path("").to_str().unwrap()]), 126);
    let mut killed = unshare(&["sh", "-c", "kill -9 $$"]);
    assert_eq!(killed.output().unwrap().status.code(), None);
    // Options after the program are the program's.
    assert_eq!(
        succeeds(&mut unshare(&["echo", "--json", "-q"])).0,
        "--json -q\n"
    );
    let shell = home.path("shell");
    program(&shell, "#!/bin/sh\necho $CAS_ROOT\n", 0o755);
    let default = home.path(".local/share/cas");
    for (options, root) in [(&[][..], default), (&["--root", "r"], home.path("r"))] {
        let all = [options, &["unshare"]].concat();
        let mut command = home.cas(Ids::One, &all);
        let (shown, _) = succeeds(command.env("SHELL", &shell));
        assert_eq!(shown.trim(), root.to_str().unwrap());
    }
}

/// What the two snapshotters mount, in a namespace of one id.
#[test]
fn images_are_mounted_in_it_and_only_there() {
    let Some(home) = Home::with_namespaces(&[]) else {
        return;
    };
    let upper = Tar::new().file("b", "").file(".wh.a", "");
    home.image(vec![Tar::new().file("a", "").file("dir/c", ""), upper]);
    fs::create_dir(home.path("mnt")).unwrap();
    ok(Command::new("chown")
        .arg(USER.to_string())
        .arg(home.path("mnt")));
    for snapshotter in ["native", "overlay"] {
        let script = format!(
            "$cas --root {snapshotter} --snapshotter {snapshotter} init; export CAS_ROOT=\
             {snapshotter}; $cas -q import ../image --name demo; $cas mount demo mnt; \
             ls mnt; ! touch mnt/x 2>&-; $cas umount mnt; $cas mount --rw demo mnt; \
             rm -r mnt/*; touch mnt/x; ls mnt; echo; ls $OUTSIDE/home/mnt"
        );
        let mut command = home.unshared(Ids::One, &script);
        let (shown, said) = succeeds(command.env("OUTSIDE", home.outside("")));
        assert!(
            shown.ends_with("x\n\nx\n") && shown.contains("b\ndir\n"),
            "{snapshotter}: {shown}{said}"
        );
        // The namespace has ended, and with it the mount.
        let outside = fs::read_dir(home.path("mnt")).unwrap().count();
        assert_eq!(outside, 0, "{snapshotter}");
        let script =
            format!("export CAS_ROOT={snapshotter}; $cas umount mnt; $cas rmi demo; $cas gc");
        succeeds(&mut home.unshared(Ids::One, &script));
    }
}

/// An image of many owners, unpacked and mounted with all of them.
#[test]
fn owners_of_an_image_are_kept_with_further_ids() {
    let Some(home) = Home::with_namespaces(&["newuidmap"]) else {
        return;
    };
    let owned = |header: Header| header.owner(33, 34);
    let layer = Tar::new()
        .member(owned(Header::new(b'5', "own").mode(0o700)), "")
        .member(owned(Header::new(b'0', "own/file")), "")
        .member(Header::new(b'0', "far").owner(1_000_000, 2_000_000), "");
    home.import(&home.image(vec![layer]));
    let script = "mkdir mnt; $cas unpack app tree; $cas mount app mnt; for tree in tree mnt; do \
        stat -c %u:%g $tree/own/file $tree/far; done";
    let (shown, said) = succeeds(&mut home.unshared(Ids::Many, script));
    let owners = "33:34\n1000000:2000000\n".repeat(2);
    assert!(shown.ends_with(&owners), "{shown}{said}");
    // Outside `cas unshare`, a mount fails. A copy, which would have other owners, does not replace
    // it.
    for options in [
        &["mount", "--rw", "app", "tree"][..],
        &["mount", "app", "tree"],
    ] {
        let said = fails(&mut home.cas(Ids::Many, options), 1);
        let expected = "need CAP_SYS_ADMIN; run the command in `cas unshare`";
        assert!(said.contains(expected), "{options:?}: {said}");
    }
    // The mount ended with its namespace. Its snapshot can be removed only in another namespace.
    let said = fails(&mut home.cas(Ids::Many, &["umount", "mnt"]), 1);
    assert!(said.contains("`cas unshare`"), "{said}");
    let script = "$cas umount mnt; $cas rmi app; rm -r tree";
    succeeds(&mut home.unshared(Ids::Many, script));
    let said = fails(&mut home.cas(Ids::Many, &["gc"]), 1);
    assert!(said.contains("other users may own files"), "{said}");
    succeeds(&mut home.unshared(Ids::Many, "$cas gc"));
}

#[test]
fn the_superuser_gets_mounts_of_their_own() {
    if !can(&["unshare"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let (root, place) = (scratch.path().join("root"), scratch.path().join("place"));
    fs::create_dir(&place).unwrap();
    let script = "id -u && mount -t tmpfs none \"$0\" && touch \"$0/x\" && ls \"$0\"";
    let mut unshare = cas(&root);
    unshare
        .args(["unshare", "--", "sh", "-c", script])
        .arg(&place);
    assert_eq!(ok(&mut unshare), "0\nx\n");
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
    fails(cas(&root).args(["unshare", "sh", "-c", "exit 9"]), 9);
}
