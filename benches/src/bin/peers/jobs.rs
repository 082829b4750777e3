//! The measured jobs that need no registry: to import, unpack and mount an image. The contenders
//! are `cas`, its peers and the floor.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::daemon::{Containerd, Programs};
use super::floor;
use oci_cas_benches::images::Image;
use oci_cas_benches::process::{Sample, finish, measure};

/// A function that does a job in a directory. The directory does not exist, and the function must
/// create it.
type Run<'a> = Box<dyn Fn(&Path) -> Result<Sample> + 'a>;

/// A tool that does a job, in a new directory for each run.
pub(super) struct Contender<'a> {
    pub(super) name: String,
    pub(super) run: Run<'a>,
}

impl<'a> Contender<'a> {
    pub(super) fn new(name: impl Into<String>, run: impl Fn(&Path) -> Result<Sample> + 'a) -> Self {
        Contender {
            name: name.into(),
            run: Box::new(run),
        }
    }

    /// Returns a contender that is a command.
    pub(super) fn command(
        name: impl Into<String>,
        command: impl Fn(&Path) -> Command + 'a,
    ) -> Self {
        Contender::new(name, move |fresh| measure(&command(fresh)))
    }
}

/// An image in the forms that the jobs need.
pub(super) struct Subject {
    pub(super) image: Image,
    pub(super) archive: PathBuf,
}

impl Subject {
    pub(super) fn new(image: Image, archive: PathBuf) -> Result<Self> {
        image.archive(&archive)?;
        Ok(Subject { image, archive })
    }
}

/// The jobs, with our tool and the containerd that it is compared with.
pub(super) struct Jobs<'c> {
    pub(super) cas: PathBuf,
    pub(super) containerd: &'c Programs,
}

impl Jobs<'_> {
    pub(super) fn cas(&self, root: &Path) -> Command {
        let mut command = Command::new(&self.cas);
        command.arg("--root").arg(root).arg("-q");
        command
    }

    pub(super) fn import(&self, root: &Path, archive: &Path) -> Command {
        let mut command = self.cas(root);
        command.args(["import", "--name", "bench"]).arg(archive);
        command
    }

    /// Imports an image into a root and unpacks it. Creates the root if it does not exist.
    pub(super) fn present(&self, root: &Path, archive: &Path) -> Result<()> {
        finish(self.import(root, archive).arg("--unpack"))
    }

    /// Returns the contenders that import an archive.
    pub(super) fn imports<'a>(&'a self, subject: &'a Subject) -> Vec<Contender<'a>> {
        let skopeo = |fresh: &Path| {
            let (archive, tag) = (subject.archive.display(), &subject.image.tag);
            let mut command = Command::new("skopeo");
            command.args(["copy", "-q", &format!("oci-archive:{archive}:{tag}")]);
            command.arg(format!("oci:{}:{tag}", fresh.display()));
            command
        };
        vec![
            Contender::command("cas import, synced", |fresh| {
                self.import(fresh, &subject.archive)
            }),
            Contender::command("skopeo copy, not synced", skopeo),
        ]
    }

    /// Returns the contenders that import an archive, and unpack it into snapshots.
    pub(super) fn unpacked_imports<'a>(&'a self, subject: &'a Subject) -> Vec<Contender<'a>> {
        vec![
            Contender::command("cas import --unpack, synced", |fresh| {
                let mut command = self.import(fresh, &subject.archive);
                command.arg("--unpack");
                command
            }),
            self.ctr_import(subject),
            self.floor(subject),
        ]
    }

    /// Returns the contender `ctr`, which imports an archive and unpacks it into snapshots.
    pub(super) fn ctr_import<'a>(&'a self, subject: &'a Subject) -> Contender<'a> {
        let ctr = |fresh: &Path| {
            let containerd = Containerd::start(fresh, self.containerd)?;
            let mut import = containerd.ctr();
            import.args(["images", "import", "--base-name", "bench"]);
            containerd.measure(import.arg(&subject.archive))
        };
        Contender::new("ctr images import, layers not synced", ctr)
    }

    fn floor<'a>(&self, subject: &'a Subject) -> Contender<'a> {
        Contender::new("floor, synced", |fresh| {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg(floor::CHILD).arg(fresh);
            command
                .args(subject.image.layers()?)
                .stderr(Stdio::inherit());
            let out = command.output()?;
            let seconds = String::from_utf8(out.stdout)?;
            let seconds: f64 = seconds
                .trim()
                .parse()
                .context("the floor did not print its time")?;
            let cores = std::thread::available_parallelism()?.get() as f64;
            Ok(Sample {
                seconds,
                processor: seconds * cores,
                peak: 0,
            })
        })
    }

    /// Returns the contenders that unpack an image into a plain tree: `cas` from the root
    /// `present`, and `umoci` from the layout.
    pub(super) fn trees<'a>(
        &'a self,
        present: &'a Path,
        subject: &'a Subject,
    ) -> Vec<Contender<'a>> {
        vec![
            Contender::command("cas unpack, synced", |fresh| {
                let mut command = self.cas(present);
                command.args(["unpack", "bench"]).arg(fresh);
                command
            }),
            Contender::command("umoci unpack, not synced", |fresh| {
                let Image { layout, tag } = &subject.image;
                let mut command = Command::new("umoci");
                command.args(["unpack", "--image", &format!("{}:{tag}", layout.display())]);
                command.arg(fresh);
                command
            }),
        ]
    }

    /// Returns the contenders that mount one more root file system from existing snapshots.
    pub(super) fn mounts<'a>(&'a self, present: &'a Path) -> Vec<Contender<'a>> {
        vec![
            Contender::new("cas mount", self.mount(present, false)),
            Contender::new("cas mount --rw", self.mount(present, true)),
        ]
    }

    /// Returns a function that mounts a root file system, and unmounts it after the measurement.
    pub(super) fn mount<'a>(
        &'a self,
        present: &'a Path,
        writable: bool,
    ) -> impl Fn(&Path) -> Result<Sample> + 'a {
        move |fresh: &Path| {
            fs::create_dir_all(fresh)?;
            let mut command = self.cas(present);
            command.args(["mount", "bench"]).arg(fresh);
            if writable {
                command.arg("--rw");
            }
            let sample = measure(&command)?;
            finish(self.cas(present).arg("umount").arg(fresh))?;
            Ok(sample)
        }
    }
}
