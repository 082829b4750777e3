//! containerd, as a process of the tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::common::ok;
use crate::common::shop::Names;

/// A containerd with its own storage.
pub(crate) struct Containerd {
    process: Child,
    socket: PathBuf,
}

impl Containerd {
    /// Starts containerd with all its files in `directory`, and waits until it answers.
    pub(crate) fn start(directory: &Path) -> Self {
        let at = |name: &str| json!(directory.join(name)).to_string();
        let config = format!(
            "version = 2\nroot = {}\nstate = {}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = {}\n[ttrpc]\naddress = {}\n",
            at("containerd"),
            at("containerd-run"),
            at("sock"),
            at("ttrpc")
        );
        let file = directory.join("containerd.toml");
        fs::write(&file, config).unwrap();
        let process = Command::new("containerd")
            .arg("--config")
            .arg(file)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let socket = directory.join("sock");
        let containerd = Containerd { process, socket };
        for _ in 0..1200 {
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
        command.arg("--address").arg(&self.socket);
        command
    }

    /// Runs `ctr images`. Returns its output.
    pub(crate) fn images(&self, arguments: &[&str]) -> String {
        ok(self.ctr().arg("images").args(arguments))
    }

    /// Imports an archive. Returns the names of all images.
    pub(crate) fn import(&self, archive: &Path, options: &[&str]) -> Names {
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

    /// Removes images and their content.
    pub(crate) fn forget(&self, names: &Names) {
        for name in names.keys() {
            self.images(&["rm", "--sync", name]);
        }
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}
