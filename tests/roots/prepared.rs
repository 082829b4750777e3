//! Root directories as they are prepared.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, SystemTime};

use cas::blocking::Cas;
use cas::gc::GcOptions;
use cas::{
    Digest, ErrorKind, ImageRef, OpenOptions, Platform, PruneOptions, RootDirOptions,
    UnmountOptions,
};
use serde_json::{Value, json};
use testkit::archive::{Header, Tar};

use super::{Scene, each, each_store, mode, names};
use crate::common::{fails, ok};

#[test]
fn a_root_directory_has_the_tree_the_configuration_and_the_name() {
    each_store(|scene| {
        scene.prepare("app:1");
        scene.assert_prepared("app:1");
        assert_eq!(mode(&scene.dir()), 0o700);
        for file in ["image-config.json", "image-name"] {
            assert_eq!(mode(&scene.dir().join(file)), 0o600, "{file}");
        }
        fs::write(scene.rootfs().join("new"), "written").unwrap();
        let usage = scene.cas.snapshot_usage(super::KEY).unwrap();
        assert!(usage.inodes > 0);
        assert!(scene.cas.remove_root_dir(scene.dir()).unwrap());
        scene.assert_nothing_left();
        assert!(!scene.cas.remove_root_dir(scene.dir()).unwrap());
    });
}

/// Another handle on the root may have another snapshotter.
#[test]
fn a_root_directory_of_another_snapshotter_is_replaced_with_its_snapshot() {
    each(|scene| {
        let other = match scene.snapshotter {
            "native" => "overlay",
            _ => "native",
        };
        let options = OpenOptions::default().with_snapshotter(other);
        let handle = Cas::open_with(scene.path("root"), options).unwrap();
        let has_key = || {
            let found = handle.snapshots().unwrap();
            found.iter().any(|info| info.key == super::KEY)
        };
        for is_mounted in [true, false] {
            handle.prepare_root_dir(scene.dir(), "other:1").unwrap();
            assert!(has_key());
            if !is_mounted {
                assert!(handle.unmount_root_dir(scene.dir()).unwrap());
            }
            scene.prepare("app:1");
            scene.assert_prepared("app:1");
            assert!(!has_key(), "{is_mounted}");
            assert!(scene.cas.remove_root_dir(scene.dir()).unwrap());
            scene.assert_nothing_left();
        }
        // A snapshot that is not of this directory stays.
        handle.create_snapshot(super::KEY, "other:1").unwrap();
        scene.prepare("app:1");
        scene.assert_prepared("app:1");
        assert!(has_key());
        assert!(handle.remove_snapshot(super::KEY).unwrap());
        assert!(scene.cas.remove_root_dir(scene.dir()).unwrap());
        scene.assert_nothing_left();
    });
}

/// This holds for any umask of the process, and for any modes that the directory had before.
#[test]
fn other_users_cannot_reach_the_programs_of_the_image() {
    each(|scene| {
        let program = Header::new(b'0', "program").mode(0o4755);
        scene.import("suid:1", vec![Tar::new().member(program, "")]);
        fs::create_dir(scene.dir()).unwrap();
        fs::set_permissions(scene.dir(), fs::Permissions::from_mode(0o777)).unwrap();
        scene.prepare("suid:1");
        assert_eq!(mode(&scene.dir()), 0o700);
        assert_eq!(mode(&scene.rootfs().join("program")), 0o4755);
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let here = scene.path("dirs").display().to_string();
        let line = table.lines().find(|line| line.contains(&here));
        assert!(!line.unwrap().contains("nosuid"), "{line:?}");
        assert!(scene.cas.unmount_root_dir(scene.dir()).unwrap());
        assert_eq!(mode(&scene.rootfs()), 0o700);
    });
}

#[test]
fn what_was_written_stays_until_it_is_prepared_again() {
    each_store(|scene| {
        let cas = &scene.cas;
        scene.prepare("app:1");
        fs::write(scene.rootfs().join("new"), "kept").unwrap();
        assert!(cas.unmount_root_dir(scene.dir()).unwrap());
        assert!(!cas.unmount_root_dir(scene.dir()).unwrap(), "idempotent");
        assert_eq!(names(&scene.rootfs()), [""; 0]);
        let later = SystemTime::now() + Duration::from_secs(30 * 86_400);
        cas.gc_with(GcOptions::default().with_now(later)).unwrap();
        // The machine may have been restarted since.
        cas.mount_snapshot(super::KEY, scene.rootfs()).unwrap();
        let kept = fs::read_to_string(scene.rootfs().join("new")).unwrap();
        assert_eq!(kept, "kept");
        scene.prepare("app:1");
        scene.assert_prepared("app:1");
        scene.prepare("other:1");
        scene.assert_prepared("other:1");
    });
}

#[test]
fn a_root_directory_is_a_use_of_its_image() {
    each_store(|scene| {
        let used = |name: &str| {
            let listed = scene.cas.listing(&[]).unwrap().images.into_iter();
            let mut listed = listed.filter(|one| one.shown == name);
            listed.next().unwrap().used_at.unwrap()
        };
        let (app, other) = (used("app:1"), used("other:1"));
        scene.prepare("app:1");
        assert!(used("app:1") > app && used("other:1") == other);
        let again = used("app:1");
        scene.prepare("app:1");
        assert!(used("app:1") > again);
        // A pruning keeps the image while it is mounted, however little space is allowed.
        let bounds = PruneOptions::default().with_max_size(0);
        let later = SystemTime::now() + Duration::from_secs(30 * 86_400);
        scene.cas.prune(bounds.with_now(later)).unwrap();
        assert!(scene.cas.image("app:1").is_ok() && scene.cas.image("other:1").is_err());
        scene.assert_prepared("app:1");
    });
}

#[test]
fn the_image_may_be_removed_while_its_root_directory_is_used() {
    each(|scene| {
        scene.prepare("app:1");
        scene.cas.remove("app:1").unwrap();
        let later = SystemTime::now() + Duration::from_secs(30 * 86_400);
        scene
            .cas
            .gc_with(GcOptions::default().with_now(later))
            .unwrap();
        assert!(scene.cas.unmount_root_dir(scene.dir()).unwrap());
        scene
            .cas
            .mount_snapshot(super::KEY, scene.rootfs())
            .unwrap();
        assert_eq!(names(&scene.rootfs()), ["app", "etc"]);
        assert!(scene.cas.remove_root_dir(scene.dir()).unwrap());
        scene.assert_nothing_left();
    });
}

/// Adds an index of two platforms to the layout of `app:1`, and imports it. Returns the bytes of
/// the configuration for arm64.
fn import_platforms(scene: &Scene) -> String {
    let layout = scene.path("app-1");
    let blob = |media_type: &str, text: &str| {
        let digest = Digest::sha256(text.as_bytes()).to_string();
        fs::write(layout.join("blobs").join(digest.replace(':', "/")), text).unwrap();
        json!({"mediaType": media_type, "digest": digest, "size": text.len()})
    };
    let index = fs::read_to_string(layout.join("index.json")).unwrap();
    let index: Value = index.parse().unwrap();
    let mut host = index["manifests"][0].clone();
    host["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let path = |digest: &Value| digest.as_str().unwrap().replace(':', "/");
    let read = |digest: &Value| -> Value {
        let text = fs::read_to_string(layout.join("blobs").join(path(digest)));
        text.unwrap().parse().unwrap()
    };
    let mut manifest = read(&host["digest"]);
    let rootfs = &read(&manifest["config"]["digest"])["rootfs"];
    // Blanks and the order of members are kept.
    let config =
        format!("{{ \"rootfs\": {rootfs},\n  \"architecture\": \"arm64\", \"os\": \"linux\" }}\n");
    manifest["config"] = blob("application/vnd.oci.image.config.v1+json", &config);
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let mut arm = blob(media_type, &manifest.to_string());
    arm["platform"] = json!({"os": "linux", "architecture": "arm64"});
    let both = json!({"schemaVersion": 2, "manifests": [host, arm]});
    let mut both = blob("application/vnd.oci.image.index.v1+json", &both.to_string());
    both["annotations"] = json!({"org.opencontainers.image.ref.name": "multi:1"});
    let index = json!({"schemaVersion": 2, "manifests": [both]});
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    scene.cas.import(&layout).unwrap();
    config
}

#[test]
fn the_configuration_is_that_of_the_platform_byte_for_byte() {
    each(|scene| {
        let config = import_platforms(scene);
        let arm = Platform::new("linux", "arm64");
        let options = RootDirOptions::default().with_platforms(arm);
        let cas = &scene.cas;
        cas.prepare_root_dir_with(scene.dir(), "multi:1", options)
            .unwrap();
        let read = || fs::read_to_string(scene.dir().join("image-config.json")).unwrap();
        assert_eq!(read(), config);
        scene.prepare("multi:1");
        assert!(read().contains("amd64"));
        let absent = Platform::new("linux", "s390x");
        let options = RootDirOptions::default().with_platforms(absent);
        let refused = cas.prepare_root_dir_with(scene.dir(), "multi:1", options);
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::NotFound);
        assert!(read().contains("amd64"), "what was there stays");
        let all = RootDirOptions::default().with_platforms(cas::Platforms::All);
        let refused = cas.prepare_root_dir_with(scene.dir(), "multi:1", all);
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidArgument);
    });
}

#[test]
fn an_image_may_be_given_by_its_digest() {
    each(|scene| {
        let image = scene.cas.image("app:1").unwrap();
        let digest = image.target.digest.to_string();
        let typed = ImageRef::typed(digest.clone());
        scene.cas.prepare_root_dir(scene.dir(), typed).unwrap();
        scene.assert_prepared("app:1");
        scene.cas.remove("app:1").unwrap();
        let typed = ImageRef::typed(digest.clone());
        scene.cas.prepare_root_dir(scene.dir(), typed).unwrap();
        let name = fs::read_to_string(scene.dir().join("image-name")).unwrap();
        assert_eq!(name, digest, "it has no other name");
    });
}

#[test]
fn an_image_without_layers_has_an_empty_root() {
    each(|scene| {
        scene.import("empty:1", vec![]);
        scene.prepare("empty:1");
        assert_eq!(names(&scene.rootfs()), [""; 0]);
        fs::write(scene.rootfs().join("new"), "").unwrap();
        assert!(scene.cas.remove_root_dir(scene.dir()).unwrap());
        scene.assert_nothing_left();
    });
}

#[test]
fn a_process_in_it_keeps_all_of_it_and_a_lazy_unmount_lets_go() {
    each(|scene| {
        let cas = &scene.cas;
        scene.prepare("app:1");
        fs::write(scene.rootfs().join("new"), "kept").unwrap();
        let mut inside = Command::new("sleep")
            .arg("600")
            .current_dir(scene.rootfs())
            .spawn()
            .unwrap();
        let forced = UnmountOptions::default().with_force(true);
        let refused = [
            cas.unmount_root_dir(scene.dir()).unwrap_err(),
            cas.unmount_root_dir_with(scene.dir(), forced).unwrap_err(),
            cas.remove_root_dir(scene.dir()).unwrap_err(),
            cas.prepare_root_dir(scene.dir(), "other:1").unwrap_err(),
        ];
        for refused in refused {
            assert_eq!(refused.kind(), ErrorKind::Busy, "{refused}");
            assert!(refused.to_string().contains("--lazy"), "{refused}");
        }
        // Nothing was removed, and a collection does not mistake the directory for the remains of a
        // removal.
        assert_eq!(names(&scene.rootfs()), ["app", "etc", "new"]);
        assert_eq!(names(&scene.dir()).len(), 3);
        let later = SystemTime::now() + Duration::from_secs(30 * 86_400);
        cas.gc_with(GcOptions::default().with_now(later)).unwrap();
        assert_eq!(names(&scene.rootfs()), ["app", "etc", "new"]);
        let lazy = UnmountOptions::default().with_lazy(true);
        assert!(cas.unmount_root_dir_with(scene.dir(), lazy).unwrap());
        assert!(!cas.unmount_root_dir_with(scene.dir(), lazy).unwrap());
        scene.prepare("other:1");
        scene.assert_prepared("other:1");
        inside.kill().unwrap();
        inside.wait().unwrap();
    });
}

#[test]
fn root_directories_share_their_layers_and_are_prepared_side_by_side() {
    each(|scene| {
        let dirs: Vec<_> = (0..8)
            .map(|number| scene.path("dirs").join(format!("c{number}")))
            .collect();
        std::thread::scope(|scope| {
            for dir in &dirs {
                scope.spawn(move || scene.another().prepare_root_dir(dir, "app:1").unwrap());
            }
        });
        for dir in &dirs {
            fs::write(dir.join("rootfs/new"), "").unwrap();
            assert_eq!(names(&dir.join("rootfs")), ["app", "etc", "new"]);
            assert!(scene.cas.remove_root_dir(dir).unwrap());
        }
        scene.assert_nothing_left();
    });
}

#[test]
fn the_tool_prepares_unmounts_and_removes() {
    each(|scene| {
        let path = format!("dirs/{}", super::KEY);
        let run = |arguments: &[&str]| ok(&mut scene.tool(arguments));
        let made = run(&["rootfs", "prepare", &path, "--image", "app:1", "--json"]);
        let made: Value = made.parse().unwrap();
        assert_eq!(made, json!({"image": "app:1", "path": path}));
        scene.assert_prepared("app:1");
        let said = run(&["rootfs", "unmount", &path]);
        assert_eq!(said, format!("unmounted {path}\n"));
        let said = run(&["rootfs", "unmount", "--force", "--lazy", &path]);
        assert_eq!(said, format!("not mounted: {path}\n"));
        run(&["rootfs", "prepare", &path, "--image", "other:1"]);
        scene.assert_prepared("other:1");
        for removed in [true, false] {
            let said = run(&["rootfs", "remove", &path, "--json"]);
            let said: Value = said.parse().unwrap();
            assert_eq!(said, json!({"path": path, "removed": removed}));
        }
        scene.assert_nothing_left();
        fails(&mut scene.tool(&["rootfs", "prepare", &path]), 2);
        let absent = ["rootfs", "prepare", &path, "--image", "absent"];
        fails(&mut scene.tool(&absent), 3);
        scene.assert_nothing_left();
    });
}
