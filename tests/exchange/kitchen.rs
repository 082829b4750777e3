//! The image that all sources are made of.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::ok;
use crate::common::shop::skopeo;
use crate::podman::{buildah, podman};

/// A directory in memory for sources, because most programs sync everything that they write.
pub(crate) struct Kitchen {
    scratch: tempfile::TempDir,
}

impl Kitchen {
    /// Makes a layout with an image of two layers, which is called `base`.
    pub(crate) fn open() -> Self {
        // podman makes names of paths, and refuses capital letters and long paths.
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("kitchen-{}-{number}", std::process::id());
        let scratch = tempfile::Builder::new()
            .prefix(&name)
            .rand_bytes(0)
            .tempdir_in("/dev/shm");
        let scratch = scratch.unwrap();
        let kitchen = Kitchen { scratch };
        fs::write(kitchen.path("one"), "one\n").unwrap();
        fs::write(kitchen.path("two"), "#!/bin/true\n").unwrap();
        let image = format!("{}:base", kitchen.path("base").display());
        kitchen.umoci(&["init", "--layout", &kitchen.text("base")]);
        kitchen.umoci(&["new", "--image", &image]);
        for (file, target) in [("one", "/etc/one"), ("two", "/usr/bin/two")] {
            let file = kitchen.text(file);
            kitchen.umoci(&["insert", "--image", &image, &file, target]);
        }
        kitchen
    }

    pub(crate) fn directory(&self) -> &Path {
        self.scratch.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Makes an image with a configuration of its own in a layout, because podman treats images
    /// with the same configuration as one image. Returns it as skopeo names it.
    pub(crate) fn fresh(&self, id: &str) -> String {
        let base = format!("{}:base", self.path("base").display());
        let label = format!("id={id}");
        self.umoci(&[
            "config",
            "--image",
            &base,
            "--tag",
            id,
            "--config.label",
            &label,
        ]);
        format!("oci:{}:{id}", self.path("base").display())
    }

    /// Copies a fresh image with skopeo. Returns `to`.
    pub(crate) fn copy(&self, id: &str, options: &[&str], transport: &str, tag: &str) -> PathBuf {
        let to = self.path(id);
        let target = format!("{transport}:{}{tag}", to.display());
        skopeo(&[&["copy", "-q"], options, &[&self.fresh(id), &target]].concat());
        to
    }

    pub(crate) fn umoci(&self, arguments: &[&str]) -> String {
        ok(Command::new("umoci").args(arguments))
    }

    pub(crate) fn podman(&self, arguments: &[&str]) -> String {
        ok(podman(self.directory()).args(arguments))
    }

    pub(crate) fn buildah(&self, arguments: &[&str]) -> String {
        ok(buildah(self.directory()).args(arguments))
    }
}
