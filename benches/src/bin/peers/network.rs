//! The jobs with a registry: pulls over loopback and over slower links, and pushes over loopback.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::daemon::{Containerd, Registry};
use super::jobs::{Contender, Jobs, Subject};
use oci_cas_benches::images::Image;
use oci_cas_benches::process::{Sample, finish, measure};
use oci_cas_benches::scratch;

impl Jobs<'_> {
    /// Returns a command that pulls.
    fn pull(&self, root: &Path, reference: &str, options: &[&str]) -> Command {
        let mut command = self.cas(root);
        command
            .args(["pull", "--plain-http", reference])
            .args(options);
        command
    }

    /// Returns the contenders that pull an image, and unpack it into snapshots. The second
    /// contender imports the image from an archive instead.
    pub(super) fn pulls<'a>(&'a self, host: &str, subject: &'a Subject) -> Vec<Contender<'a>> {
        let reference = format!("{host}/bench:1");
        let ctr_reference = reference.clone();
        let ctr = move |fresh: &Path| {
            let containerd = Containerd::start(fresh, self.containerd)?;
            let mut pull = containerd.ctr();
            pull.args(["images", "pull", "--plain-http", &ctr_reference]);
            containerd.measure(&pull)
        };
        vec![
            Contender::command("cas pull --unpack, synced", move |fresh| {
                self.pull(fresh, &reference, &["--unpack"])
            }),
            Contender::command("cas import --unpack, synced", |fresh| {
                let mut command = self.import(fresh, &subject.archive);
                command.arg("--unpack");
                command
            }),
            Contender::new("ctr images pull, layers not synced", ctr),
        ]
    }

    /// Returns the contenders that pull an image, and do not unpack it.
    pub(super) fn fetches<'a>(&'a self, host: &str) -> Vec<Contender<'a>> {
        let reference = format!("{host}/bench:1");
        let [synced, unsynced] = [&reference, &reference].map(|one| skopeo(one));
        vec![
            Contender::command("cas pull, synced", move |fresh| {
                self.pull(fresh, &reference, &[])
            }),
            Contender::command("skopeo copy to oci:, synced", move |fresh| {
                let mut command = Command::new("sh");
                let place = fresh.display();
                command.args([
                    "-c",
                    &format!("{synced} oci:{place}:bench && sync -f {place}"),
                ]);
                command
            }),
            Contender::command("skopeo copy to oci:, not synced", move |fresh| {
                let mut command = Command::new("sh");
                let place = fresh.display();
                command.args(["-c", &format!("exec {unsynced} oci:{place}:bench")]);
                command
            }),
        ]
    }

    /// Returns the contenders that pull an image into memory, where a sync costs nothing.
    pub(super) fn relaxed_fetches<'a>(&'a self, host: &str) -> Vec<Contender<'a>> {
        let reference = format!("{host}/bench:1");
        let copy = skopeo(&reference);
        let in_memory = |fresh: &Path, command: &dyn Fn(&Path) -> Command| -> Result<Sample> {
            std::fs::create_dir_all(fresh)?;
            let memory = tempfile::tempdir_in(scratch::MEMORY)?;
            measure(&command(&memory.path().join("root")))
        };
        vec![
            Contender::new("cas pull", move |fresh: &Path| {
                in_memory(fresh, &|root| self.pull(root, &reference, &[]))
            }),
            Contender::new("skopeo copy to oci:", move |fresh: &Path| {
                in_memory(fresh, &|root| {
                    let mut command = Command::new("sh");
                    command.args(["-c", &format!("exec {copy} oci:{}:bench", root.display())]);
                    command
                })
            }),
        ]
    }

    /// Returns the contenders that pull the image `name` from `host`, which is a registry or a link
    /// to one. There is one contender for each number in `ranges`, the value of its `--ranges`.
    pub(super) fn ranged_fetches<'a>(
        &'a self,
        host: &str,
        name: &str,
        ranges: &'static [&'static str],
    ) -> Vec<Contender<'a>> {
        let contender = |ranges: &'static str| {
            let reference = format!("{host}/{name}");
            Contender::command(format!("cas pull --ranges {ranges}"), move |fresh| {
                self.pull(fresh, &reference, &["--ranges", ranges])
            })
        };
        ranges.iter().map(|one| contender(one)).collect()
    }

    /// Returns the contenders that push an image to a new registry.
    pub(super) fn pushes<'a>(
        &'a self,
        present: &'a Path,
        subject: &'a Subject,
    ) -> Vec<Contender<'a>> {
        let to_new = |fresh: &Path, command: &dyn Fn(&str) -> Command| -> Result<Sample> {
            let registry = Registry::start(&fresh.join("registry"))?;
            measure(&command(&registry.host))
        };
        vec![
            Contender::new("cas push", move |fresh: &Path| {
                to_new(fresh, &|host| {
                    let mut command = self.cas(present);
                    command.args(["push", "--plain-http", "bench", &format!("{host}/bench:1")]);
                    command
                })
            }),
            Contender::new("skopeo copy from oci:", move |fresh: &Path| {
                to_new(fresh, &|host| push_command(&subject.image, host, "bench:1"))
            }),
        ]
    }
}

/// Returns a contender whose time is the time that a transfer of the image's layers takes at this
/// speed.
pub(super) fn wire<'a>(image: &Image, bytes_per_second: u64) -> Result<Contender<'a>> {
    let sizes = image
        .layers()?
        .into_iter()
        .map(|layer| Ok(layer.metadata()?.len()));
    let bytes = sizes.sum::<Result<u64>>()?;
    let seconds = bytes as f64 / bytes_per_second as f64;
    Ok(Contender::new("the wire", move |fresh: &Path| {
        std::fs::create_dir_all(fresh)?;
        Ok(Sample {
            seconds,
            processor: 0.0,
            peak: 0,
        })
    }))
}

/// Returns the beginning of a shell command that copies an image from a registry.
fn skopeo(reference: &str) -> String {
    format!("skopeo copy -q --src-tls-verify=false docker://{reference}")
}

/// Pushes an image to a registry under a name.
pub(super) fn push(image: &Image, host: &str, name: &str) -> Result<()> {
    finish(&mut push_command(image, host, name))
}

fn push_command(image: &Image, host: &str, name: &str) -> Command {
    let target = format!("docker://{host}/{name}");
    let mut command = Command::new("skopeo");
    let source = image.source();
    command.args(["copy", "-q", "--dest-tls-verify=false", &source, &target]);
    command
}
