//! Imports images of other programs, exports them, and reads the exports with each of the other
//! programs. Manifests keep their digests where the format carries them. Configurations and diff
//! IDs always keep theirs.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use cas::Digest;
use serde_json::Value;

use super::containerd::Containerd;
use super::kitchen::Kitchen;
use super::readers;
use super::said::{self, Images, Said};
use super::sources::{self, Source};
use crate::common::docker::{PROGRAM, Registry};
use crate::common::shop::{Names, names, skopeo};
use crate::common::{can, cas, ok};

/// Names that a source gives, and the names that the store and every other program show. All other
/// names stay as they are.
const REWRITTEN: &[(&str, &str)] = &[
    // docker, skopeo and podman write short names.
    ("short:2", "docker.io/library/short:2"),
    // Layouts of umoci have only tags, which are read as repositories.
    ("umoci-one", "docker.io/library/umoci-one:latest"),
    ("umoci-two", "docker.io/library/umoci-two:latest"),
    ("umoci-three", "docker.io/library/umoci-three:latest"),
];

/// Returns the name that the store has for an image of a source.
fn rewritten(source: &Source, name: &str) -> String {
    if name.is_empty() {
        return format!("x.test/{}:1", source.id);
    }
    let known = REWRITTEN.iter().find(|(theirs, _)| *theirs == name);
    known.map_or(name, |(_, ours)| ours).to_owned()
}

/// Stores the images of a source. Returns the images, with the properties that the source states.
fn take(root: &Path, source: &Source) -> Images {
    let said = said::read(&source.path);
    let mut command = cas(root);
    match &source.pulled {
        Some(reference) => command.args(["pull", "--plain-http", reference]),
        None if said.contains_key("") => {
            let name = rewritten(source, "");
            command
                .arg("import")
                .arg(&source.path)
                .args(["--name", &name])
        }
        None => command.arg("import").arg(&source.path),
    };
    ok(&mut command);
    let named = |(name, said): (String, Said)| (rewritten(source, &name), said);
    said.into_iter().map(named).collect()
}

/// Returns what the store has for a name.
fn stored(root: &Path, name: &str) -> Said {
    let shown = ok(cas(root).args(["inspect", name, "--json"]));
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let digest = |value: &Value| -> Digest { value.as_str().unwrap().parse().unwrap() };
    let diff_ids = shown["config"]["rootfs"]["diff_ids"].as_array();
    Said {
        manifest: Some(digest(&shown["target"]["digest"])),
        config: digest(&shown["manifest"]["config"]["digest"]),
        diff_ids: diff_ids.unwrap().iter().map(digest).collect(),
    }
}

/// Compares the report of a reader with the content of the store. Properties that the reader does
/// not report are not compared.
fn check(reader: &str, name: &str, found: &Said, expected: &Said) {
    let expected = Said {
        manifest: expected.manifest.filter(|_| found.manifest.is_some()),
        ..expected.clone()
    };
    assert_eq!(*found, expected, "{reader}: {name}");
}

struct Stage {
    kitchen: Kitchen,
    containerd: Containerd,
    registry: Registry,
    /// The images in the store.
    images: Images,
    /// The images whose target is an index.
    indexes: BTreeSet<String>,
    /// The images whose target has one of Docker's types, which only containerd finds in a layout.
    docker: BTreeSet<String>,
}

impl Stage {
    /// Makes all sources, and stores their images.
    fn open() -> Self {
        let kitchen = Kitchen::open();
        let containerd = Containerd::start(kitchen.directory());
        let registry = Registry::open(kitchen.directory());
        let sources = sources::all(&kitchen, &containerd, &registry);
        assert!(sources.len() >= 20);
        let root = kitchen.path("root");
        let mut images = Images::new();
        for source in &sources {
            for (name, said) in take(&root, source) {
                let ours = stored(&root, &name);
                check(source.id, &name, &said, &ours);
                images.insert(name, ours);
            }
        }
        let listed: BTreeSet<String> = names(&root).into_keys().collect();
        assert_eq!(listed, images.keys().cloned().collect());
        let of_type = |part: &str| {
            let listed = ok(cas(&root).args(["images", "--json"]));
            let listed = listed
                .lines()
                .map(|line| serde_json::from_str::<Value>(line).unwrap());
            let chosen = listed.filter(|image| {
                let media_type = image["target"]["mediaType"].as_str();
                media_type.unwrap().contains(part)
            });
            let name = |image: Value| image["name"].as_str().unwrap().to_owned();
            chosen.map(name).collect()
        };
        let (indexes, docker) = (of_type("image.index"), of_type("vnd.docker"));
        Stage {
            kitchen,
            containerd,
            registry,
            images,
            indexes,
            docker,
        }
    }

    fn export(&self, format: &str) -> std::path::PathBuf {
        let archive = self.kitchen.path(&format!("ours-{format}.tar"));
        let mut export = cas(&self.kitchen.path("root"));
        export
            .args(["export", "--format", format, "-o"])
            .arg(&archive);
        ok(export.args(self.images.keys()));
        archive
    }

    /// Imports an archive that `cas` exported. Returns the names of its images, with their targets.
    fn back(&self, archive: &Path) -> Names {
        let root = self.kitchen.path("back");
        ok(cas(&root).arg("import").arg(archive));
        let found = names(&root);
        fs::remove_dir_all(root).unwrap();
        found
    }

    fn targets(&self) -> Names {
        let target = |(name, said): (&String, &Said)| (name.clone(), said.manifest.unwrap());
        self.images.iter().map(target).collect()
    }
}

#[test]
fn images_of_others_come_in_go_out_and_go_into_the_others() {
    let programs = [
        "skopeo",
        "podman",
        "umoci",
        "buildah",
        "containerd",
        "ctr",
        PROGRAM,
    ];
    if !can(&programs) {
        return;
    }
    let stage = Stage::open();
    let [oci, docker] = ["oci", "docker"].map(|format| stage.export(format));
    assert_eq!(stage.back(&oci), stage.targets());
    into_docker_readers(&stage, &docker);
    into_layout_readers(&stage, &oci);
    into_umoci(&stage, &oci);
    into_containerd(&stage, &oci, &docker);
    into_a_registry(&stage);
}

fn into_docker_readers(stage: &Stage, archive: &Path) {
    for (name, expected) in &stage.images {
        let found = readers::by_skopeo(&stage.kitchen, "docker-archive", archive, name);
        check("skopeo, docker", name, &found, expected);
    }
    for (name, found) in readers::loaded_by_podman(&stage.kitchen, archive, &stage.images) {
        check("podman, docker", &name, &found, &stage.images[&name]);
    }
}

fn into_layout_readers(stage: &Stage, archive: &Path) {
    assert!(!stage.indexes.is_empty() && !stage.docker.is_empty());
    let selectable = |(name, _): &(&String, &Said)| !stage.docker.contains(*name);
    for (name, expected) in stage.images.iter().filter(selectable) {
        let found = readers::by_skopeo(&stage.kitchen, "oci-archive", archive, name);
        check("skopeo", name, &found, expected);
        let found = readers::pulled_by_buildah(&stage.kitchen, archive, name);
        assert_eq!(found, expected.config, "buildah: {name}");
        // podman shows the digest of the manifest that it chose from an index.
        let mut found = readers::pulled_by_podman(&stage.kitchen, archive, name);
        found.manifest = found.manifest.filter(|_| !stage.indexes.contains(name));
        check("podman", name, &found, expected);
    }
}

/// umoci reads neither zstd nor indexes.
fn into_umoci(stage: &Stage, archive: &Path) {
    let layout = stage.kitchen.path("ours-layout");
    fs::create_dir(&layout).unwrap();
    ok(Command::new("tar")
        .arg("-xf")
        .arg(archive)
        .arg("-C")
        .arg(&layout));
    let listed = stage
        .kitchen
        .umoci(&["ls", "--layout", &layout.display().to_string()]);
    let listed: BTreeSet<&str> = listed.lines().collect();
    assert_eq!(listed, stage.images.keys().map(String::as_str).collect());
    for (name, expected) in &stage.images {
        let is_foreign = stage.docker.contains(name) || stage.indexes.contains(name);
        if !is_foreign && !name.contains("zstd") {
            let found = readers::by_umoci(&stage.kitchen, &layout, name);
            assert_eq!(found, expected.diff_ids, "umoci: {name}");
        }
    }
}

fn into_containerd(stage: &Stage, oci: &Path, docker: &Path) {
    let ours = stage.containerd.import(docker, &[]);
    assert!(stage.images.keys().all(|name| ours.contains_key(name)));
    stage.containerd.forget(&ours);
    let found = stage.containerd.import(oci, &["--all-platforms"]);
    assert_eq!(found, stage.targets());
}

fn into_a_registry(stage: &Stage) {
    for (number, (name, expected)) in stage.targets().iter().enumerate() {
        let reference = stage.registry.at(&format!("pushed-{number}:1"));
        let mut push = cas(&stage.kitchen.path("root"));
        ok(push.args(["push", "--plain-http", name, &reference]));
        let from = format!("docker://{reference}");
        let raw = skopeo(&["inspect", "--raw", "--tls-verify=false", &from]);
        assert_eq!(Digest::sha256(raw.as_bytes()), *expected, "{name}");
    }
}
