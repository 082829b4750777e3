//! Images whose layers are read on demand.

mod heal;
mod kills;
mod real;
mod replaced;
mod scene;
mod settings;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use cas::layer::unpack::{LayerTable, LayerTables};
use cas::lazy::{StoredTable, TableFormat};
use cas::{Descriptor, Digest, Manifest, PullOptions, Result};
use serde_json::Value;

use self::scene::{ALL, Scene, arrived, convert, end_session, layers, on_demand};
use crate::common::chunked;
use crate::common::tree::differences;
use crate::common::{cas, fails, ok};

#[test]
fn an_image_is_mounted_before_its_layers_arrive_and_is_the_plain_tree() {
    let Some(scene) = Scene::real(false) else {
        return;
    };
    assert_eq!(arrived(&scene.root), 0);
    scene.mount();
    let names = ok(Command::new("ls").arg(scene.mnt.join("bin")));
    assert!(names.contains("busybox"), "{names}");
    assert_eq!(arrived(&scene.root), 0, "names need no data");
    let mut run = Command::new("chroot");
    run.arg(&scene.mnt).args(["/bin/busybox", "echo", "runs"]);
    assert_eq!(ok(&mut run), "runs\n");
    let first = arrived(&scene.root);
    scene.assert_shows(&scene.plain());
    assert!(first > 0 && first < arrived(&scene.root), "{first}");
    scene.unmount();
}

#[test]
fn layers_with_tables_of_their_own_are_the_plain_tree_before_and_after_completion() {
    for write in [chunked::estargz, chunked::zstd_chunked] {
        let Some(scene) = Scene::in_format(false, write) else {
            return;
        };
        scene.assert_shows_before_and_after_completion(2);
    }
}

/// The kernel reads the data files through loop devices.
#[test]
fn layers_behind_loop_devices_are_the_plain_tree_before_and_after_completion() {
    let Some(scene) = Scene::handmade(false) else {
        return;
    };
    let settings = scene.root.join("cas.toml");
    let text = fs::read_to_string(&settings).unwrap();
    let text = text.replace("\"erofs\"", "\"erofs://?mount=loop\"");
    fs::write(&settings, text).unwrap();
    scene.mount();
    let served = scene.served().display().to_string();
    let behind = fs::read_dir("/sys/block").unwrap().filter(|device| {
        let path = device.as_ref().unwrap().path().join("loop/backing_file");
        fs::read_to_string(path).is_ok_and(|file| file.starts_with(&served))
    });
    assert_eq!(behind.count(), 2, "a device for each layer");
    scene.unmount();
    scene.assert_shows_before_and_after_completion(2);
}

/// The changes become a tar on layers that have not arrived.
#[test]
fn changes_on_layers_that_are_read_on_demand_become_a_layer() {
    let Some(scene) = Scene::handmade(false) else {
        return;
    };
    let plain = scene.plain();
    let snapshot = |arguments: &[&str]| ok(cas(&scene.root).arg("snapshot").args(arguments));
    let listed = snapshot(&["ls", "--json"]);
    let lines = listed.lines().map(serde_json::from_str::<Value>);
    let infos: Vec<Value> = lines.map(|line| line.unwrap()["info"].take()).collect();
    let is_top = |one: &&Value| infos.iter().all(|other| other["parent"] != one["key"]);
    let top = infos.iter().find(is_top).unwrap()["key"].as_str().unwrap();
    let change = |tree: &Path| {
        fs::write(tree.join("dir/new"), "new").unwrap();
        fs::remove_file(tree.join("link")).unwrap();
        for changed in ["dir/new", "dir", "."] {
            let changed = File::open(tree.join(changed)).unwrap();
            changed.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        }
    };
    let open = cas::blocking::Cas::open(&scene.root).unwrap();
    snapshot(&["prepare", "work", "--parent", top]);
    open.mount_snapshot("work", &scene.mnt).unwrap();
    change(&scene.mnt);
    assert!(open.unmount_snapshot("work").unwrap());
    snapshot(&["commit", "changes", "work"]);
    snapshot(&["prepare", "again", "--parent", "changes"]);
    open.mount_snapshot("again", &scene.mnt).unwrap();
    assert_eq!(
        arrived(&scene.root),
        0,
        "the changes are a tar of their own"
    );
    change(&plain);
    scene.assert_shows(&plain);
    ok(cas(&scene.root).args(["fsck", "--read-data"]));
    assert!(open.unmount_snapshot("again").unwrap());
}

#[test]
fn a_server_that_dies_is_replaced_and_what_arrived_needs_no_registry() {
    let Some(scene) = Scene::handmade(false) else {
        return;
    };
    scene.mount();
    let large = scene.mnt.join("dir/large");
    let expected = fs::read(scene.plain().join("dir/large")).unwrap();
    let before = scene.servers();
    assert_eq!(before.len(), 2, "a holder and a server");
    ok(Command::new("kill").args(["-9", &before[1]]));
    assert!(fs::read(&large).unwrap() == expected);
    let after = scene.servers();
    assert_eq!((&after[0], after.len()), (&before[0], 2));
    assert_ne!(after[1], before[1]);
    // What arrived is recorded within a second, or later on a busy machine.
    await_verified(&scene.root, expected.len() as u64);
    std::thread::sleep(Duration::from_millis(1500));
    scene.unmount();

    // Without any process, the session is over. The next mount begins another one.
    for server in scene.servers() {
        ok(Command::new("kill").args(["-9", &server]));
    }
    scene.end_session();
    for writable in [false, true] {
        let open = cas::blocking::Cas::open(&scene.root).unwrap();
        let options = cas::MountOptions::default().with_writable(writable);
        let refused = open.mount_with(&*scene.reference, &scene.mnt, options);
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind(), cas::ErrorKind::FailedPrecondition);
        assert!(
            refused.to_string().contains("`cas lazy serve`"),
            "{refused}"
        );
    }
    fs::remove_dir_all(scene.registry.blob("sha256:00").ancestors().nth(3).unwrap()).unwrap();
    scene.mount();
    assert!(fs::read(&large).unwrap() == expected);
    scene.unmount();
}

#[test]
fn a_whole_pull_replaces_layers_that_are_read_on_demand() {
    let Some(scene) = Scene::handmade(false) else {
        return;
    };
    let said = fails(
        cas(&scene.root).args(["export", &scene.reference, "-o", "/dev/null"]),
        3,
    );
    assert!(said.contains("sha256:"), "{said}");
    ok(cas(&scene.root).args(["fsck", "--read-data"]));
    let tree = || ok(cas(&scene.root).args(["tree", &scene.reference]));
    let layers = |tree: &str, state: &str| {
        let lines = tree.lines().filter(|line| line.contains(" layer sha256:"));
        lines.filter(|line| line.ends_with(state)).count()
    };
    let before = tree();
    assert_eq!(layers(&before, "  read on demand"), layers(&before, ""));
    assert!(layers(&before, "") > 0, "{before}");
    ok(cas(&scene.root).args(["-q", "pull", "--unpack", &scene.reference]));
    let after = tree();
    assert_eq!(layers(&after, "  read on demand"), 0, "{after}");
    scene.mount();
    scene.assert_shows(&scene.plain());
    assert_eq!(arrived(&scene.root), 0);
    scene.unmount();
}

#[test]
fn another_snapshotter_fetches_the_whole_image_and_says_so() {
    let Some(scene) = Scene::handmade(false) else {
        return;
    };
    let root = scene.scratch.path().join("native");
    ok(cas(&root).args(["--snapshotter", "native", "init"]));
    let pulled = cas(&root)
        .args(["pull", "--lazy", &scene.reference])
        .output()
        .unwrap();
    assert!(pulled.status.success());
    let said = String::from_utf8(pulled.stderr).unwrap();
    assert!(said.contains("cannot read layers on demand"), "{said}");
    ok(cas(&root)
        .args(["export", &scene.reference, "-o"])
        .arg(scene.scratch.path().join("image.tar")));
}

#[test]
fn layers_are_completed_in_the_background_and_new_mounts_use_their_tars() {
    let Some(scene) = Scene::handmade(true) else {
        return;
    };
    scene.mount();
    scene.await_tars(2);
    // The mount that exists goes on with its data files.
    let plain = scene.plain();
    scene.assert_shows(&plain);
    scene.unmount();
    scene.end_session();
    scene.mount();
    scene.assert_shows(&plain);
    // The mount needs no process.
    scene.end_session();
    scene.assert_shows(&plain);
    scene.unmount();
    ok(cas(&scene.root).args(["fsck", "--read-data"]));
}

/// The data files of eStargz layers are not the tars, so a complete layer has both.
#[test]
fn data_files_of_complete_layers_are_removed_once_no_mount_uses_them() {
    let Some(scene) = Scene::in_format(true, chunked::estargz) else {
        return;
    };
    let count = || {
        let mut find = Command::new("find");
        find.arg(&scene.root).args(["-name", "lazy.data", "-o"]);
        ok(find.args(["-name", "lazy.pieces"])).lines().count()
    };
    let plain = scene.plain();
    scene.mount();
    scene.await_tars(2);
    let space = || ok(cas(&scene.root).args(["df", "--json"]));
    let before = space();
    ok(cas(&scene.root).arg("gc"));
    assert_eq!(count(), 4, "the mount uses them");
    scene.assert_shows(&plain);
    scene.unmount();
    ok(cas(&scene.root).arg("gc"));
    assert_eq!(count(), 0);
    assert_ne!(space(), before);
    scene.mount();
    scene.end_session();
    scene.assert_shows(&plain);
    scene.unmount();
    ok(cas(&scene.root).args(["fsck", "--read-data"]));
}

#[test]
fn what_was_read_and_fetched_is_counted_for_each_layer() {
    let Some(scene) = Scene::handmade(false) else {
        return;
    };
    let before = scene.on_demand();
    assert_eq!(before.iter().filter(|layer| layer.total > 0).count(), 2);
    for layer in &before {
        assert_eq!([layer.verified, layer.fetched, layer.read], [0; 3]);
    }
    let plain = scene.plain();
    scene.mount();
    scene.assert_shows(&plain);
    let begun = Instant::now();
    let counted = loop {
        let layers = scene.on_demand();
        if layers.iter().all(|layer| layer.read > 0) {
            break layers;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{layers:?}");
        std::thread::sleep(Duration::from_millis(50));
    };
    for layer in &counted {
        assert!(
            0 < layer.fetched && layer.fetched < 2 * layer.total,
            "{layer:?}"
        );
        assert!(
            0 < layer.verified && layer.verified <= layer.total,
            "{layer:?}"
        );
    }
    // Another process goes on with the numbers.
    scene.unmount();
    scene.end_session();
    scene.mount();
    for (layer, before) in scene.on_demand().iter().zip(&counted) {
        assert!(layer.read >= before.read && layer.fetched >= before.fetched);
    }
    scene.unmount();
}

#[test]
fn files_that_were_chosen_are_fetched_when_the_image_is_mounted() {
    let Some(scene) = Scene::handmade(false) else {
        return;
    };
    let chosen = scene.registry.at("chosen:1");
    let files = ["--prefetch-file", "/dir/large", "--prefetch-file", "absent"];
    let mut convert = cas(&scene.whole);
    convert.args(["soci", "convert", "plain", &chosen, "--min-layer-size", "0"]);
    let converted = convert.args(["--span-size", "16KiB"]).args(files).output();
    let converted = converted.unwrap();
    let said = String::from_utf8(converted.stderr).unwrap();
    assert!(converted.status.success(), "{said}");
    assert!(
        said.contains("warning: absent is not fetched first"),
        "{said}"
    );
    ok(cas(&scene.whole).args(["-q", "push", &chosen]));
    assert_large_arrives_first(&scene, &chosen);
}

/// Mounts an image in a new root, and waits until `dir/large` has arrived, though nothing reads it.
fn assert_large_arrives_first(scene: &Scene, chosen: &str) {
    let root = scene.scratch.path().join("chosen");
    mount_incomplete(scene, &root, chosen);
    let large = fs::metadata(scene.mnt.join("dir/large")).unwrap().len();
    await_verified(&root, large);
    ok(cas(&root).arg("umount").arg(&scene.mnt));
    end_session(&root);
}

/// Mounts an image in a new root, which does not complete its layers.
fn mount_incomplete(scene: &Scene, root: &Path, image: &str) {
    ok(cas(root).args(["--snapshotter", "erofs", "init"]));
    let mut settings = File::options();
    let mut settings = settings.append(true).open(root.join("cas.toml")).unwrap();
    writeln!(settings, "[lazy]\ncomplete = false").unwrap();
    let mut mount = cas(root);
    ok(mount.args(["-q", "mount", "--lazy", image]).arg(&scene.mnt));
}

/// Waits until so many bytes of all layers have arrived.
fn await_verified(root: &Path, bytes: u64) {
    let begun = Instant::now();
    loop {
        let layers = on_demand(root);
        if layers.iter().map(|layer| layer.verified).sum::<u64>() >= bytes {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{layers:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn files_that_were_read_are_listed_and_arrive_first_with_the_next_image() {
    let Some(scene) = Scene::handmade(false) else {
        return;
    };
    let listed = || ok(cas(&scene.root).args(["soci", "prefetch-list", &scene.reference]));
    assert_eq!(listed(), "");
    scene.mount();
    let begun = Instant::now();
    let large = File::open(scene.mnt.join("dir/large")).unwrap();
    large.read_exact_at(&mut [0], 290_000).unwrap();
    let part = loop {
        let lines = listed();
        if let Some(line) = lines
            .lines()
            .find(|line| line.starts_with("dir/large bytes="))
        {
            break cas::lazy::PrefetchFile::parse(line.as_bytes()).unwrap();
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{lines}");
        std::thread::sleep(Duration::from_millis(50));
    };
    drop(large);
    let [part] = part.parts() else {
        panic!("{part}");
    };
    assert!(
        (100_000..290_000).contains(&part.start) && part.end == 300_000,
        "{part:?}"
    );
    fs::read(scene.mnt.join("dir/large")).unwrap();
    while !listed().lines().any(|path| path == "dir/large") {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", listed());
        std::thread::sleep(Duration::from_millis(50));
    }
    scene.unmount();
    // Another session goes on with the list.
    scene.end_session();
    scene.mount();
    fs::read(scene.mnt.join("empty")).unwrap();
    while !listed().lines().any(|path| path == "empty") {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", listed());
        std::thread::sleep(Duration::from_millis(50));
    }
    scene.unmount();
    let paths = listed();
    let mut lines: Vec<_> = paths.lines().collect();
    assert!(lines.contains(&"dir/large"), "{lines:?}");
    let count = lines.len();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), count, "{paths}");

    let list = scene.scratch.path().join("list");
    fs::write(&list, "/dir/large\n\n").unwrap();
    let chosen = scene.registry.at("chosen:1");
    let convert = || {
        let mut convert = cas(&scene.whole);
        convert
            .args(["-q", "soci", "convert", "plain", &chosen])
            .args(ALL);
        convert
            .args(["--span-size", "16KiB", "--prefetch-list"])
            .arg(&list);
        convert
    };
    ok(&mut convert());
    ok(cas(&scene.whole).args(["-q", "push", &chosen]));
    assert_large_arrives_first(&scene, &chosen);

    fs::write(&list, "dir/large bytes=290000-299999\n").unwrap();
    ok(&mut convert());
    ok(cas(&scene.whole).args(["-q", "push", &chosen]));
    let root = scene.scratch.path().join("parts");
    mount_incomplete(&scene, &root, &chosen);
    await_verified(&root, 10_000);
    ok(cas(&root).arg("umount").arg(&scene.mnt));
    end_session(&root);

    fs::write(&list, "x".repeat((cas::limit::PREFETCH + 1) as usize)).unwrap();
    let said = fails(&mut convert(), 6);
    assert!(said.contains("list of files"), "{said}");
}

#[test]
fn an_image_that_is_not_in_the_store_is_pulled_and_mounted_or_run_by_one_command() {
    let Some(scene) = Scene::real(false) else {
        return;
    };
    let plain = scene.plain();
    // The process that serves layers starts during the pull. This pull fails before a mount.
    let absent = scene.registry.at("absent:1");
    let mut mount = cas(&scene.root);
    mount.args(["mount", "--lazy", &absent]).arg(&scene.mnt);
    fails(&mut mount, 3);
    assert_eq!(scene.servers().len(), 2);
    scene.end_session();
    for command in ["mount", "run"] {
        let root = scene.scratch.path().join(command);
        ok(cas(&root).args(["--snapshotter", "erofs", "init"]));
        let mut tool = cas(&root);
        tool.args(["-q", command, "--lazy", &scene.reference]);
        match command {
            "mount" => drop(ok(tool.arg(&scene.mnt))),
            _ => assert_eq!(
                ok(tool.args(["--runtime", "chroot", "--", "cat", "/etc/debian_version"])),
                fs::read_to_string(plain.join("etc/debian_version")).unwrap()
            ),
        }
        if command == "mount" {
            scene.assert_shows(&plain);
            ok(cas(&root).arg("umount").arg(&scene.mnt));
        }
        let stored = ok(cas(&root).args(["images", "--json"]));
        assert!(stored.contains(&scene.reference), "{stored}");
        end_session(&root);
    }
}

/// A referrer can be added to the repository without a change of the image's digest.
#[test]
fn an_index_that_the_digest_does_not_cover_is_used_only_by_choice() {
    let Some(scene) = Scene::handmade(false) else {
        return;
    };
    let reference = scene.registry.at("referred:1");
    ok(cas(&scene.whole).args(["tag", "plain", &reference]));
    ok(cas(&scene.whole)
        .args(["-q", "soci", "create", &reference])
        .args(ALL));
    ok(cas(&scene.whole).args(["-q", "push", "--referrers", &reference]));
    let pull = |modes: &str| {
        let root = scene.scratch.path().join(format!("root-{}", modes.len()));
        ok(cas(&root).args(["--snapshotter", "erofs", "init"]));
        let mut settings = File::options();
        let mut settings = settings.append(true).open(root.join("cas.toml")).unwrap();
        settings.write_all(modes.as_bytes()).unwrap();
        let pulled = cas(&root)
            .args(["pull", "--lazy", &reference])
            .output()
            .unwrap();
        let said = String::from_utf8(pulled.stderr).unwrap();
        assert!(pulled.status.success(), "{said}");
        let tables = ok(Command::new("find").arg(&root).args(["-name", "lazy.toc"]));
        (tables.lines().count(), said)
    };
    let (tables, said) = pull("");
    assert!(tables == 0 && said.contains("soci_v1"), "{tables}: {said}");
    let (tables, said) = pull("[pull_modes.soci_v1]\nenable = true\n");
    assert_eq!((tables, &*said), (2, ""));
    let (tables, said) = pull("[pull_modes.soci_v2]\nenable = false\n");
    assert!(
        tables == 0 && said.contains("[pull_modes.soci_v2] are disabled"),
        "{said}"
    );
}

/// Provides these tables of contents for the layers of an image.
struct Controller(Vec<Option<LayerTable>>);

#[async_trait::async_trait]
impl LayerTables for Controller {
    async fn tables(
        &self,
        _: &Descriptor,
        _: &Descriptor,
        _: &Manifest,
        _: &[(Descriptor, Digest)],
    ) -> Result<Vec<Option<LayerTable>>> {
        Ok(self.0.clone())
    }
}

#[test]
fn tables_may_come_from_elsewhere_and_other_layers_are_fetched() {
    let Some(scene) = Scene::handmade(false) else {
        return;
    };
    let reference = scene.registry.at("plain:1");
    ok(cas(&scene.whole).args(["-q", "push", "plain", &reference]));
    let bytes = chunked::plain(&layers()[0]).bytes;
    let table = cas::lazy::Ztoc::build(&bytes[..], 16 << 10, "controller").unwrap();
    let table = table.encode().unwrap();
    let digest = Digest::sha256(&table);
    let stored = StoredTable {
        reference: reference.clone(),
        layer: Descriptor::of("application/gzip".into(), &bytes),
        diff_id: Digest::sha256(&layers()[0]),
        format: TableFormat::Ztoc { digest },
    };
    let description = stored.to_bytes().unwrap();
    let table = LayerTable {
        identity: Digest::sha256(&description),
        description: String::from_utf8(description.clone()).unwrap(),
        files: vec![
            (StoredTable::FILE, description.into()),
            (StoredTable::TABLE_FILE, table.into()),
        ],
    };
    let options = PullOptions::default()
        .with_on_demand(true)
        .with_tables(Some(
            Arc::new(Controller(vec![Some(table), None])) as Arc<dyn LayerTables>
        ));
    let open = cas::blocking::Cas::open(&scene.root).unwrap();
    open.pull_with(&*reference, options).unwrap();
    drop(open);
    ok(cas(&scene.root)
        .args(["-q", "mount", &reference])
        .arg(&scene.mnt));
    scene.assert_shows(&scene.plain());
    scene.unmount();
}

/// Two images with one configuration and the same layers, each with an index of its own.
#[test]
fn another_image_with_the_same_layers_does_not_choose_the_tables() {
    let Some(scene) = Scene::handmade(false) else {
        return;
    };
    let directories = || {
        let found = fs::read_dir(scene.root.join("snapshots/erofs/snapshots")).unwrap();
        let mut found: Vec<_> = found.map(|entry| entry.unwrap().path()).collect();
        found.sort();
        found
    };
    let own = directories();
    let other = scene.registry.at("other:1");
    convert(&scene.whole, "plain", &other, "64KiB");
    ok(cas(&scene.whole).args(["-q", "push", &other]));
    ok(cas(&scene.root).args(["-q", "pull", "--lazy", &other]));
    assert_eq!((own.len(), directories().len()), (2, 4));
    scene.mount();
    fs::read(scene.mnt.join("dir/large")).unwrap();
    scene.unmount();
    for directory in directories() {
        let has_arrived = arrived(&directory) > 0;
        assert_eq!(has_arrived, directory == own[0], "{}", directory.display());
    }
    // One of the layers comes into the store in another way.
    let layer = scene.scratch.path().join("layer");
    fs::write(&layer, chunked::plain(&layers()[0]).bytes).unwrap();
    ok(cas(&scene.root).args(["-q", "blob", "add"]).arg(&layer));
    scene.mount();
    scene.assert_shows(&scene.plain());
    scene.unmount();
}

/// A caller has the mounts of a snapshot, and its layers are completed before it mounts them. The
/// data files of eStargz layers have other offsets than their tars.
#[test]
fn mounts_that_a_caller_has_stay_right_when_layers_are_completed() {
    let Some(scene) = Scene::in_format(true, chunked::estargz) else {
        return;
    };
    let plain = scene.plain();
    // This starts the processes.
    scene.mount();
    scene.unmount();
    let open = cas::blocking::Cas::open(&scene.root).unwrap();
    let top = open.image(&*scene.reference).unwrap();
    let parent = open.snapshot(&top).unwrap().unwrap().to_string();
    let snapshots = Arc::clone(open.snapshotter().unwrap());
    let labels = cas::Labels::new();
    let view = snapshots.view("early", Some(&parent), labels.clone());
    let early = cas_core::pool::wait(view).unwrap();
    scene.mount();
    scene.await_tars(2);
    let view = snapshots.view("late", Some(&parent), labels);
    let late = cas_core::pool::wait(view).unwrap();
    for mounts in [&early, &late, &early] {
        let rights = cas_host::mount::Rights::default();
        let at = scene.scratch.path().join("at");
        fs::create_dir_all(&at).unwrap();
        cas_host::mount::attach(mounts, &at, None, rights).unwrap();
        let found = differences(&plain, &at);
        ok(Command::new("umount").arg(&at));
        assert!(found.is_empty(), "{found:#?}");
    }
    scene.unmount();
}
