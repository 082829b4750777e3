//! The commands on blobs, ingests, stores and snapshots, as different people type them.

#[cfg(feature = "aci")]
mod aci;
mod blobs;
mod cache;
mod copying;
#[cfg(feature = "erofs")]
mod disk;
mod ingests;
mod inspecting;
mod outputs;
mod paths;
#[cfg(feature = "soci")]
mod soci;
mod streams;

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::common::{cas, demo_archive, fails, ok};

/// A root in memory with the image `app:1`, and a directory for files.
struct Shelf {
    scratch: tempfile::TempDir,
}

impl Shelf {
    fn new() -> Self {
        let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
        let archive = demo_archive(scratch.path());
        let shelf = Shelf { scratch };
        shelf.ok(&["init", "--snapshotter", "native"]);
        shelf.ok(&["import", archive.to_str().unwrap(), "--name", "app:1"]);
        shelf
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Returns a command that runs in the directory for files.
    fn cas(&self, arguments: &[&str]) -> Command {
        let mut command = cas(&self.path("root"));
        command.args(arguments).current_dir(self.scratch.path());
        command
    }

    fn ok(&self, arguments: &[&str]) -> String {
        ok(&mut self.cas(arguments))
    }

    fn fails(&self, arguments: &[&str], code: i32) -> String {
        fails(&mut self.cas(arguments), code)
    }

    /// Runs a command that prints JSON. Returns the documents.
    fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let said = ok(self.cas(arguments).arg("--json"));
        let lines = said.lines().map(serde_json::from_str);
        lines.collect::<Result<_, _>>().unwrap()
    }

    /// Stores text as a blob. Returns its digest.
    fn blob(&self, text: &str) -> String {
        let file = self.path("text");
        std::fs::write(&file, text).unwrap();
        let digest = self.ok(&["blob", "add", file.to_str().unwrap()]);
        digest.trim().to_owned()
    }

    /// Returns the digest of a layer of the image.
    fn layer(&self) -> String {
        let shown = self.json(&["inspect", "app:1"]).remove(0);
        let layer = &shown["manifest"]["layers"][0]["digest"];
        layer.as_str().unwrap().to_owned()
    }

    /// Returns the digest of the manifest of the image.
    fn target(&self) -> String {
        let shown = self.json(&["inspect", "app:1"]).remove(0);
        shown["target"]["digest"].as_str().unwrap().to_owned()
    }

    fn blobs(&self) -> Vec<String> {
        let blobs = self.json(&["blob", "ls"]).into_iter();
        blobs
            .map(|blob| blob["digest"].as_str().unwrap().to_owned())
            .collect()
    }
}
