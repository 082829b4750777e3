//! Measures the first command in an image whose layers are read on demand, over a link to a distant
//! registry.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::jobs::{Contender, Jobs};
use super::served::end_session;
use oci_cas_benches::images::Image;
use oci_cas_benches::process::{Sample, finish, measure};

/// The commands that are measured. Each has a name and a script that a shell in the image runs.
pub(super) const COMMANDS: [(&str, &str); 3] = [
    ("python3", "python3 -c 'import json'"),
    ("node", "nodejs -e 'JSON.parse(\"1\")'"),
    (
        "gcc",
        "echo 'int main() { return 0; }' | gcc -x c -o /tmp/a -",
    ),
];

/// Sizes of the spans of the images: a size for small reads, and the size that SOCI's tools use.
pub(super) const SPANS: [&str; 2] = ["256KiB", "4MiB"];

/// Time after which the list of files that were read is complete.
const LISTED: Duration = Duration::from_secs(2);

impl Jobs<'_> {
    /// Makes the image `bench` of the root `present` readable on demand, with spans of this size,
    /// and pushes it under a name.
    pub(super) fn push_lazy(&self, present: &Path, reference: &str, span: &str) -> Result<()> {
        self.push_with(present, reference, &["--span-size", span])
    }

    /// Runs a command in the image `from`, whose layers are read on demand. Then pushes the image
    /// `bench` of the root `present` as `reference`, with spans of the size `span` and a list of
    /// the files that the command has read. `fresh` is the path of the new root from which the
    /// command runs.
    pub(super) fn push_listed(
        &self,
        present: &Path,
        fresh: &Path,
        (from, command): (&str, &str),
        (reference, span): (&str, &str),
    ) -> Result<()> {
        let list = fresh.with_extension("list");
        self.run_lazy(fresh, from, command, || {
            thread::sleep(LISTED);
            let mut listing = self.cas(fresh);
            let listed = listing.args(["soci", "prefetch-list", from]).output()?;
            anyhow::ensure!(
                listed.status.success(),
                "cas soci prefetch-list failed: {}",
                String::from_utf8_lossy(&listed.stderr)
            );
            Ok(fs::write(&list, listed.stdout)?)
        })?;
        let list = list
            .to_str()
            .context("the path of the prefetch list is not UTF-8")?;
        let options = ["--span-size", span, "--prefetch-list", list];
        self.push_with(present, reference, &options)
    }

    /// Pushes an image with layers in the format zstd:chunked, by way of the root `present`. If
    /// skopeo pushed the image itself, it would use the layers that the registry already has.
    pub(super) fn push_chunked(
        &self,
        present: &Path,
        image: &Image,
        reference: &str,
    ) -> Result<()> {
        let layout = present.with_extension("chunked");
        let to = format!("oci:{}:latest", layout.display());
        let mut copy = Command::new("skopeo");
        copy.args(["copy", "-q", "--dest-compress-format", "zstd:chunked"]);
        finish(copy.args([&image.source(), &to]))?;
        let mut import = self.cas(present);
        finish(import.args(["import", "--name", reference]).arg(&layout))?;
        finish(self.cas(present).args(["push", "--plain-http", reference]))
    }

    fn push_with(&self, present: &Path, reference: &str, options: &[&str]) -> Result<()> {
        let mut convert = self.cas(present);
        convert.args(["soci", "convert", "bench", reference]);
        finish(convert.args(["--min-layer-size", "0"]).args(options))?;
        finish(self.cas(present).args(["push", "--plain-http", reference]))
    }

    /// Pulls an image without its layers into a new root, and runs a command in the image. Calls
    /// `then` while the layers can still be read on demand, and then unmounts their file system.
    /// Returns what the pull and the command took together.
    fn run_lazy(
        &self,
        fresh: &Path,
        reference: &str,
        command: &str,
        then: impl FnOnce() -> Result<()>,
    ) -> Result<Sample> {
        finish(self.cas(fresh).args(["--snapshotter", "erofs", "init"]))?;
        let mut run = self.cas(fresh);
        let measured = measure(run.args(["run", "--lazy", reference, "--", "-c", command]));
        let done = then();
        // The file system must not stay mounted after a failure.
        let ended = end_session(fresh);
        done.and(ended).and(measured)
    }

    /// Returns the contenders that pull an image and run a command in it. The first contender reads
    /// the layers of the image `listed` on demand. The SOCI index of `listed` lists the files that
    /// the command reads. The second contender does the same with the image `reference`, which has
    /// no such list. The third contender pulls and unpacks the whole image `reference` first.
    pub(super) fn first_commands<'a>(
        &'a self,
        listed: &'a str,
        reference: &'a str,
        command: &'a str,
    ) -> Vec<Contender<'a>> {
        let lazy = move |reference: &'a str| {
            move |fresh: &Path| self.run_lazy(fresh, reference, command, || self.report(fresh))
        };
        let whole = move |fresh: &Path| {
            finish(self.cas(fresh).args(["--snapshotter", "erofs", "init"]))?;
            let (cas, root) = (self.cas.display(), fresh.display());
            let mut shell = Command::new("sh");
            let script = format!(
                "{cas} --root {root} -q pull --plain-http --unpack {reference} && \
                 exec {cas} --root {root} -q run {reference} -- -c \"$1\""
            );
            measure(shell.args(["-c", &script, "sh", command]))
        };
        vec![
            Contender::new("cas run --lazy, with prefetch list", lazy(listed)),
            Contender::new("cas run --lazy", lazy(reference)),
            Contender::new("cas pull --unpack, cas run", whole),
        ]
    }

    /// Prints how many bytes of the layers in a root were read, verified and fetched.
    fn report(&self, root: &Path) -> Result<()> {
        let lines = |arguments: &[&str]| -> Result<Vec<Value>> {
            let out = self.cas(root).args(arguments).arg("--json").output()?;
            let lines = String::from_utf8(out.stdout)?;
            let values = lines.lines().map(serde_json::from_str);
            Ok(values.collect::<serde_json::Result<_>>()?)
        };
        let mut sums = [0; 3];
        for snapshot in lines(&["snapshot", "ls"])? {
            let key = snapshot["info"]["key"].as_str().context("no key")?;
            for info in lines(&["snapshot", "info", key])? {
                let names = ["read", "verified", "fetched"];
                for (sum, name) in sums.iter_mut().zip(names) {
                    *sum += info["on_demand"][name].as_u64().unwrap_or(0);
                }
            }
        }
        let [read, verified, fetched] = sums.map(|sum: u64| sum as f64 / f64::from(1 << 20));
        eprintln!("read {read:.1} MiB, verified {verified:.1} MiB, fetched {fetched:.1} MiB");
        Ok(())
    }
}
