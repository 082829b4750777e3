//! Archives for skopeo, podman and containerd, and archives from them: digests stay the same, for
//! gzip, zstd and several platforms.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use cas::Digest;
use serde_json::Value;

use crate::common::shop::{ALL, GZIP, MULTI, Names, Shop, ZSTD, names, skopeo};
use crate::common::{can, cas, ok};
use crate::containerd::Containerd;
use crate::podman::podman;

impl Shop {
    /// Exports an archive of these images. Returns its path.
    fn export(&self, format: &str, names: &[&str]) -> PathBuf {
        let file = self.path("export.tar");
        let mut command = cas(&self.root);
        command.args(["export", "--format", format]).args(names);
        ok(command.arg("-o").arg(&file));
        file
    }

    /// Imports `archive` into a new root. Returns the names.
    fn import(&self, archive: &Path) -> Names {
        let root = tempfile::tempdir_in(self.scratch.path()).unwrap();
        ok(cas(root.path()).arg("import").arg(archive));
        names(root.path())
    }

    /// Runs podman with a storage of its own. Returns its output.
    fn podman(&self, arguments: &[&str]) -> String {
        ok(podman(self.scratch.path()).args(arguments))
    }
}

#[test]
fn skopeo_reads_ours_with_equal_digests_and_we_read_its() {
    if !can(&["skopeo"]) {
        return;
    }
    let shop = Shop::open();
    let archive = shop.export("oci", &ALL);
    for (name, digest) in shop.own(&ALL) {
        let from = format!("oci-archive:{}:{name}", archive.display());
        assert_eq!(
            Digest::sha256(skopeo(&["inspect", "--raw", &from]).as_bytes()),
            digest
        );
        let back = shop.path("back.tar");
        let to = format!("oci-archive:{}:{name}", back.display());
        skopeo(&["copy", "-q", "--all", &from, &to]);
        assert_eq!(shop.import(&back), BTreeMap::from([(name, digest)]));
        fs::remove_file(back).unwrap();
    }
}

#[test]
fn skopeo_reads_our_docker_archives_with_equal_configurations() {
    if !can(&["skopeo"]) {
        return;
    }
    let shop = Shop::open();
    let archive = shop.export("docker", &ALL);
    for name in ALL {
        let inspected = ok(cas(&shop.root).args(["inspect", name, "--json"]));
        let ours: Value = serde_json::from_str(&inspected).unwrap();
        let from = format!("docker-archive:{}:{name}", archive.display());
        let theirs: Value = serde_json::from_str(&skopeo(&["inspect", "--raw", &from])).unwrap();
        assert_eq!(
            ours["manifest"]["config"]["digest"],
            theirs["config"]["digest"]
        );
        // skopeo makes a manifest of the decompressed layers, and checks them.
        let layout = shop.path("layout");
        skopeo(&["copy", "-q", &from, &format!("oci:{}:x", layout.display())]);
        fs::remove_dir_all(layout).unwrap();
    }
}

#[test]
fn podman_loads_ours_with_equal_digests_and_we_read_what_it_saves() {
    if !can(&["skopeo", "podman"]) {
        return;
    }
    let shop = Shop::open();
    let podman = |arguments: &[&str], file: &Path| {
        shop.podman(&[arguments, &[file.to_str().unwrap()]].concat())
    };
    let digest = |name: &str| {
        let format = ["image", "inspect", "--format", "{{.Digest}} {{.Id}}"];
        podman(&format, Path::new(name)).trim().to_owned()
    };
    let names = shop.own(&ALL);
    // podman refuses to save zstd layers in Docker's format.
    for (name, format, saved) in [
        (GZIP, "oci", "docker-archive"),
        (ZSTD, "docker", "oci-archive"),
    ] {
        podman(&["load", "-q", "-i"], &shop.export(format, &[name]));
        let found = digest(name);
        let (digest, id) = found.split_once(' ').unwrap();
        assert_eq!(digest, names[name].to_string(), "{name}");
        let file = shop.path("saved.tar");
        podman(&["save", "-q", "--format", saved, name, "-o"], &file);
        let root = shop.path(saved);
        ok(cas(&root).arg("import").arg(&file));
        // podman saves layers uncompressed or compressed again, but keeps the configuration.
        let inspected = ok(cas(&root).args(["inspect", name, "--json"]));
        let inspected: Value = serde_json::from_str(&inspected).unwrap();
        let config = &inspected["manifest"]["config"]["digest"];
        assert_eq!(*config, format!("sha256:{id}"));
        fs::remove_file(file).unwrap();
        // podman merges images with the same configuration, and keeps the first digest.
        podman(&["rmi", "-f"], Path::new(name));
    }
    let said = podman(&["load", "-q", "-i"], &shop.export("oci", &[MULTI]));
    assert!(said.contains(MULTI), "{said}");
    let said = podman(&["load", "-q", "-i"], &shop.export("docker", &ALL));
    assert!(ALL.iter().all(|name| said.contains(name)), "{said}");
}

/// When podman pushes, to an archive as to a registry, it compresses layers again and adds
/// platforms.
#[test]
fn podman_pushes_zstd_and_platforms_and_we_read_them_with_equal_digests() {
    if !can(&["skopeo", "podman"]) {
        return;
    }
    let shop = Shop::open();
    let archive = shop.export("oci", &[GZIP]);
    shop.podman(&["load", "-q", "-i", archive.to_str().unwrap()]);
    let read = |file: &str| {
        let file = shop.path(file);
        let raw = skopeo(&[
            "inspect",
            "--raw",
            &format!("oci-archive:{}", file.display()),
        ]);
        let name = "x.test/theirs:1";
        let named = shop.import(&file);
        assert_eq!(named[name], Digest::sha256(raw.as_bytes()));
        serde_json::from_str::<Value>(&raw).unwrap()
    };
    let to = |file: &str| format!("oci-archive:{}:x.test/theirs:1", shop.path(file).display());
    let zstd = [
        "push",
        "-q",
        "--compression-format",
        "zstd",
        GZIP,
        &to("zstd.tar"),
    ];
    shop.podman(&zstd);
    let manifest = read("zstd.tar");
    let layers = manifest["layers"].as_array().unwrap();
    let kind = "application/vnd.oci.image.layer.v1.tar+zstd";
    assert!(
        layers.iter().all(|layer| layer["mediaType"] == kind),
        "{manifest}"
    );

    let multi = shop.export("oci", &[MULTI]);
    let multi = format!("oci-archive:{}:{MULTI}", multi.display());
    shop.podman(&["manifest", "create", "list"]);
    shop.podman(&["manifest", "add", "--all", "list", &multi]);
    shop.podman(&["manifest", "push", "-q", "--all", "list", &to("list.tar")]);
    let list = read("list.tar");
    assert_eq!(list["manifests"].as_array().unwrap().len(), 2, "{list}");
}

#[test]
fn containerd_imports_ours_with_equal_digests_and_we_read_its() {
    if !can(&["skopeo", "containerd", "ctr"]) {
        return;
    }
    let shop = Shop::open();
    let containerd = Containerd::start(shop.scratch.path());
    let docker = containerd.import(&shop.export("docker", &[GZIP, ZSTD]), &[]);
    assert_eq!(docker, shop.own(&[GZIP, ZSTD]));
    containerd.forget(&docker);
    let oci = containerd.import(&shop.export("oci", &ALL), &["--all-platforms"]);
    assert_eq!(oci, shop.own(&ALL));

    let theirs = shop.path("theirs.tar");
    let export = ["export", "--all-platforms", theirs.to_str().unwrap()];
    containerd.images(&[&export[..], &ALL].concat());
    assert_eq!(shop.import(&theirs), oci);
    let unpack = shop.export("oci", &[ZSTD]);
    let native = [
        "import",
        "--snapshotter",
        "native",
        unpack.to_str().unwrap(),
    ];
    containerd.images(&native);
}

/// An image that was imported for one platform is exported unchanged; the other programs choose
/// the platform.
#[test]
fn an_index_without_its_other_platforms_is_read_by_all() {
    if !can(&["skopeo", "containerd", "ctr"]) {
        return;
    }
    let shop = Shop::open();
    let whole = shop.export("oci", &[MULTI]);
    let root = shop.path("sparse");
    let host = cas::Platform::host().to_string();
    ok(cas(&root).args(["import", "--platform", &host]).arg(whole));
    let sparse = shop.path("sparse.tar");
    ok(cas(&root).args(["export", MULTI, "-o"]).arg(&sparse));
    let digest = shop.own(&[MULTI]);
    assert_eq!(shop.import(&sparse), digest);
    let from = format!("oci-archive:{}", sparse.display());
    skopeo(&[
        "copy",
        "-q",
        &from,
        &format!("dir:{}", shop.path("dir").display()),
    ]);
    let containerd = Containerd::start(shop.scratch.path());
    assert_eq!(containerd.import(&sparse, &[]), digest);
}
