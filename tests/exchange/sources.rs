//! Archives, layouts, directories and registry images that other programs make.

use std::path::PathBuf;

use super::containerd::Containerd;
use super::handmade;
use super::kitchen::Kitchen;
use crate::common::docker::Registry;
use crate::common::shop::skopeo;

/// A source of images.
pub(crate) struct Source {
    /// Its name in messages, and in the names of its images.
    pub(crate) id: &'static str,
    /// A file or a directory.
    pub(crate) path: PathBuf,
    /// The reference of an image in a registry with the same content, if that image is pulled
    /// instead of reading `path`.
    pub(crate) pulled: Option<String>,
}

fn name(id: &str) -> String {
    format!("x.test/{id}:1")
}

/// Makes all sources.
pub(crate) fn all(kitchen: &Kitchen, containerd: &Containerd, registry: &Registry) -> Vec<Source> {
    let of_path = |(id, path)| Source {
        id,
        path,
        pulled: None,
    };
    let mut sources = of_skopeo(kitchen);
    sources.extend(of_podman(kitchen));
    sources.extend(of_umoci(kitchen));
    sources.extend(of_buildah(kitchen));
    sources.extend(of_containerd(kitchen, containerd));
    sources.extend(handmade::all(kitchen));
    let mut sources: Vec<Source> = sources.into_iter().map(of_path).collect();
    sources.extend(of_registry(kitchen, registry));
    sources
}

type Made = Vec<(&'static str, PathBuf)>;

fn of_skopeo(kitchen: &Kitchen) -> Made {
    let copy = |id: &'static str, options: &[&str], transport: &str| {
        let is_directory = transport == "dir";
        let tag = if is_directory {
            String::new()
        } else {
            format!(":{}", name(id))
        };
        (id, kitchen.copy(id, options, transport, &tag))
    };
    vec![
        copy("skopeo-layout", &[], "oci"),
        copy("skopeo-archive", &[], "oci-archive"),
        copy("skopeo-zstd", &["--dest-compress-format", "zstd"], "oci"),
        copy(
            "skopeo-docker",
            &["--additional-tag", "x.test/second:1"],
            "docker-archive",
        ),
        copy("skopeo-dir", &[], "dir"),
        copy("skopeo-dir-docker", &["--format", "v2s2"], "dir"),
        copy("skopeo-dir-plain", &["--dest-decompress"], "dir"),
    ]
}

fn of_podman(kitchen: &Kitchen) -> Made {
    let load = |id: &str| {
        let image = kitchen.podman(&["pull", "-q", &kitchen.fresh(id)]);
        kitchen.podman(&["tag", image.trim(), &name(id)]);
    };
    let mut made = Made::new();
    for (id, format) in [
        ("podman-docker", "docker-archive"),
        ("podman-archive", "oci-archive"),
        ("podman-layout", "oci-dir"),
        ("podman-dir", "docker-dir"),
    ] {
        load(id);
        let file = kitchen.text(id);
        kitchen.podman(&["save", "-q", "--format", format, &name(id), "-o", &file]);
        made.push((id, kitchen.path(id)));
    }
    let id = "podman-many";
    load(id);
    let save = ["save", "-q", "-m", "--format", "docker-archive", "-o"];
    let names = [name(id), name("podman-another")];
    kitchen.podman(&["tag", &names[0], &names[1]]);
    kitchen.podman(&[&save[..], &[&kitchen.text(id), &names[0], &names[1]]].concat());
    made.push((id, kitchen.path(id)));
    let id = "podman-zstd";
    load(id);
    let to = format!("oci-archive:{}:{}", kitchen.text(id), name(id));
    kitchen.podman(&["push", "-q", "--compression-format", "zstd", &name(id), &to]);
    made.push((id, kitchen.path(id)));
    let id = "podman-list";
    let other = kitchen.fresh("podman-other");
    let other_platform = ["--arch", "s390x", "list", &other];
    kitchen.podman(&["manifest", "create", "list"]);
    kitchen.podman(&["manifest", "add", "list", &kitchen.fresh(id)]);
    kitchen.podman(&[&["manifest", "add"], &other_platform[..]].concat());
    let to = format!("oci-archive:{}:{}", kitchen.text(id), name(id));
    kitchen.podman(&["manifest", "push", "-q", "--all", "list", &to]);
    made.push((id, kitchen.path(id)));
    made
}

/// A layout of umoci may have tags only.
fn of_umoci(kitchen: &Kitchen) -> Made {
    let layout = kitchen.text("umoci-layout");
    let image = format!("{layout}:umoci-one");
    kitchen.umoci(&["init", "--layout", &layout]);
    kitchen.umoci(&["new", "--image", &image]);
    kitchen.umoci(&["insert", "--image", &image, &kitchen.text("one"), "/one"]);
    kitchen.umoci(&[
        "config",
        "--image",
        &image,
        "--tag",
        "umoci-two",
        "--config.cmd",
        "/two",
    ]);
    let removed = [
        "insert",
        "--image",
        &image,
        "--tag",
        "umoci-three",
        "--whiteout",
        "/one",
    ];
    kitchen.umoci(&removed);
    vec![("umoci-layout", kitchen.path("umoci-layout"))]
}

fn of_buildah(kitchen: &Kitchen) -> Made {
    let mut made = Made::new();
    for (id, options, transport) in [
        ("buildah-archive", &[][..], "oci-archive"),
        ("buildah-docker", &[], "docker-archive"),
        ("buildah-dir", &["--format", "v2s2"], "dir"),
        ("buildah-layout", &[], "oci"),
    ] {
        let container = kitchen.buildah(&["from", "scratch"]);
        let container = container.trim();
        kitchen.buildah(&["copy", "-q", container, &kitchen.text("one"), "/one"]);
        let label = format!("id={id}");
        kitchen.buildah(&["config", "--label", &label, "--cmd", "/one", container]);
        kitchen.buildah(&["commit", "-q", container, &name(id)]);
        let tag = if transport == "dir" {
            String::new()
        } else {
            format!(":{}", name(id))
        };
        let to = format!("{transport}:{}{tag}", kitchen.text(id));
        kitchen.buildah(&[&["push", "-q"], options, &[&name(id), &to]].concat());
        made.push((id, kitchen.path(id)));
    }
    made
}

fn of_containerd(kitchen: &Kitchen, containerd: &Containerd) -> Made {
    let mut made = Made::new();
    for (id, options) in [
        ("ctr-archive", &["--all-platforms"][..]),
        (
            "ctr-plain",
            &["--skip-manifest-json", "--platform", "linux/amd64"],
        ),
    ] {
        let archive = format!("{id}-from");
        let to = format!("oci-archive:{}:{}", kitchen.text(&archive), name(id));
        skopeo(&["copy", "-q", &kitchen.fresh(id), &to]);
        containerd.import(&kitchen.path(&archive), &[]);
        let file = kitchen.text(id);
        containerd.images(&[&["export"], options, &[&file, &name(id)]].concat());
        made.push((id, kitchen.path(id)));
    }
    made
}

/// The registry of Debian, filled by skopeo. Its images are also copied to a layout, for readers
/// other than `cas`.
fn of_registry(kitchen: &Kitchen, registry: &Registry) -> Vec<Source> {
    let push = |id: &'static str, options: &[&str]| {
        let reference = registry.at(&format!("{id}:1"));
        let to = format!("docker://{reference}");
        let insecure = ["--dest-tls-verify=false", &kitchen.fresh(id), &to];
        skopeo(&[&["copy", "-q"], options, &insecure].concat());
        let copy = format!("oci:{}:{reference}", kitchen.text(id));
        skopeo(&[
            "copy",
            "-q",
            "--src-tls-verify=false",
            "--preserve-digests",
            &to,
            &copy,
        ]);
        Source {
            id,
            path: kitchen.path(id),
            pulled: Some(reference),
        }
    };
    vec![push("registry-oci", &[])]
}
