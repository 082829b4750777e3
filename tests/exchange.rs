//! Archives for skopeo, podman and containerd, and archives from them: digests stay the same, for
//! gzip, zstd and several platforms.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail anywhere"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cas::Digest;
use common::shop::{ALL, GZIP, MULTI, Names, Shop, ZSTD, names, skopeo};
use common::{can, cas, ok};
use serde_json::{Value, json};

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
        let mut command = Command::new("podman");
        command.args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"]);
        command
            .args(["--events-backend", "file", "--root"])
            .arg(self.path("podman"));
        command.arg("--runroot").arg(self.path("podman-run"));
        ok(command.args(arguments))
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
        // It saves layers uncompressed or compressed again, but keeps the configuration.
        let inspected = ok(cas(&root).args(["inspect", name, "--json"]));
        let inspected: Value = serde_json::from_str(&inspected).unwrap();
        let config = &inspected["manifest"]["config"]["digest"];
        assert_eq!(*config, format!("sha256:{id}"));
        fs::remove_file(file).unwrap();
        // It merges images with the same configuration, and keeps the first digest.
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

/// A containerd with its own storage.
struct Containerd<'a> {
    process: Child,
    shop: &'a Shop,
}

impl<'a> Containerd<'a> {
    fn start(shop: &'a Shop) -> Self {
        let at = |name: &str| json!(shop.path(name)).to_string();
        let config = format!(
            "version = 2\nroot = {}\nstate = {}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = {}\n[ttrpc]\naddress = {}\n",
            at("containerd"),
            at("containerd-run"),
            at("sock"),
            at("ttrpc")
        );
        fs::write(shop.path("containerd.toml"), config).unwrap();
        let process = Command::new("containerd")
            .arg("--config")
            .arg(shop.path("containerd.toml"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let containerd = Containerd { process, shop };
        for _ in 0..200 {
            let asked = containerd.ctr().arg("version").output().unwrap();
            if asked.status.success() {
                return containerd;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        unreachable!("containerd does not answer");
    }

    fn ctr(&self) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.shop.path("sock"));
        command
    }

    fn images(&self, arguments: &[&str]) -> String {
        ok(self.ctr().arg("images").args(arguments))
    }

    fn import(&self, archive: &Path, options: &[&str]) -> Names {
        let file = archive.to_str().unwrap();
        self.images(&[&["import", "--no-unpack"], options, &[file]].concat());
        let listed = self.images(&["ls"]);
        let name = |line: &str| {
            let mut words = line.split_whitespace();
            let name = words.next().unwrap().to_owned();
            (name, words.nth(1).unwrap().parse().unwrap())
        };
        listed.lines().skip(1).map(name).collect()
    }

    fn forget(&self, names: &Names) {
        for name in names.keys() {
            self.images(&["rm", "--sync", name]);
        }
    }
}

impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[test]
fn containerd_imports_ours_with_equal_digests_and_we_read_its() {
    if !can(&["skopeo", "containerd", "ctr"]) {
        return;
    }
    let shop = Shop::open();
    let containerd = Containerd::start(&shop);
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
    let containerd = Containerd::start(&shop);
    assert_eq!(containerd.import(&sparse, &[]), digest);
}
