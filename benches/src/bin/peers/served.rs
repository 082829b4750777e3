//! Measures an image whose layers are read on demand, after its first mount.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::jobs::{Contender, Jobs};
use oci_cas_benches::process::{Sample, finish, measure};

/// Layers are completed after no reader has needed the registry for this time.
const QUIET: Duration = Duration::from_secs(1);
/// Time between two looks at the layers.
const LOOK: Duration = Duration::from_millis(10);
/// Maximum time in which the processes that serve layers end.
const ENDS: Duration = Duration::from_secs(10);
/// Reads all files of the mounted image `$0`.
const READ: &str = "find \"$0\" -xdev -type f -exec cat {} + > /dev/null";

/// A mounted image, which is unmounted at the end.
struct Mounted<'a> {
    jobs: &'a Jobs<'a>,
    root: PathBuf,
    at: PathBuf,
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // If this fails, the next use of the directory fails, and says why.
        let _ = finish(self.jobs.cas(&self.root).arg("umount").arg(&self.at));
        let _ = end_session(&self.root);
    }
}

impl Jobs<'_> {
    /// Mounts an image in a new root. The layers of the image are read on demand if `is_lazy`.
    fn mounted(&self, root: &Path, reference: &str, is_lazy: bool) -> Result<Mounted<'_>> {
        let at = root.with_extension("mounted");
        fs::create_dir_all(&at)?;
        finish(self.cas(root).args(["--snapshotter", "erofs", "init"]))?;
        if !is_lazy {
            let pull = ["pull", "--plain-http", "--unpack", reference];
            finish(self.cas(root).args(pull))?;
        }
        let mounted = Mounted {
            jobs: self,
            root: root.to_owned(),
            at,
        };
        let lazy = is_lazy.then_some("--lazy");
        let mut mount = self.cas(root);
        finish(
            mount
                .arg("mount")
                .args(lazy)
                .arg(reference)
                .arg(&mounted.at),
        )?;
        Ok(mounted)
    }

    /// Returns a contender whose time is that in which all layers of an image arrive while nothing
    /// reads them, after the second in which they wait for readers. Its memory is that of the
    /// process that serves the layers.
    pub(super) fn completion<'a>(&'a self, reference: &'a str) -> Contender<'a> {
        Contender::new("cas, in the background", move |fresh: &Path| {
            let mounted = self.mounted(fresh, reference, true)?;
            let begun = Instant::now() + QUIET;
            let snapshots = fresh.join("snapshots/erofs/snapshots");
            while count(&snapshots, "layer.tar")? < count(&snapshots, "fs/lazy.toc")? {
                thread::sleep(LOOK);
            }
            Ok(Sample {
                seconds: Instant::now()
                    .saturating_duration_since(begun)
                    .as_secs_f64(),
                processor: 0.0,
                peak: peak(&servers(&mounted.root)?)?,
            })
        })
    }

    /// Returns a contender that mounts an image without a network after the processes that serve
    /// its layers were killed.
    pub(super) fn restart<'a>(&'a self, reference: &'a str) -> Contender<'a> {
        Contender::new("cas mount, after a restart", move |fresh: &Path| {
            let mounted = self.mounted(fresh, reference, true)?;
            let read = || finish(Command::new("cat").arg(mounted.at.join("etc/passwd")));
            read()?;
            // Arrived spans are recorded within a second.
            thread::sleep(2 * QUIET);
            for process in servers(fresh)? {
                finish(Command::new("kill").args(["-9", &process]))?;
            }
            finish(self.cas(fresh).arg("umount").arg(&mounted.at))?;
            let mut mount = Command::new("unshare");
            mount.arg("--net").arg(&self.cas).arg("--root").arg(fresh);
            let sample = measure(mount.args(["-q", "mount", reference]).arg(&mounted.at))?;
            read()?;
            Ok(sample)
        })
    }

    /// Returns contenders that read all files of an image for the second time, from layers that are
    /// read on demand and from local layers.
    pub(super) fn second_reads<'a>(&'a self, reference: &'a str) -> Vec<Contender<'a>> {
        let read = move |is_lazy| {
            move |fresh: &Path| {
                let mounted = self.mounted(fresh, reference, is_lazy)?;
                let read = || {
                    let mut read = Command::new("sh");
                    read.args(["-c", READ]).arg(&mounted.at);
                    read
                };
                finish(&mut read())?;
                measure(&read())
            }
        };
        vec![
            Contender::new("layers read on demand", read(true)),
            Contender::new("local layers", read(false)),
        ]
    }
}

/// Unmounts the file system that serves the layers of a root, if it is mounted. Waits until the
/// processes that serve it have ended, because they use files of the root.
pub(super) fn end_session(root: &Path) -> Result<()> {
    let served = root.join("snapshots/erofs/lazy");
    if served.exists() {
        finish(Command::new("umount").arg("-l").arg(served))?;
    }
    let begun = Instant::now();
    while !servers(root)?.is_empty() {
        anyhow::ensure!(
            begun.elapsed() < ENDS,
            "the processes that serve layers do not end"
        );
        thread::sleep(LOOK);
    }
    Ok(())
}

/// Returns how many of the snapshots in a directory have the file `name`.
fn count(snapshots: &Path, name: &str) -> Result<usize> {
    let mut count = 0;
    for snapshot in fs::read_dir(snapshots)? {
        count += usize::from(snapshot?.path().join(name).exists());
    }
    Ok(count)
}

/// Returns the ids of the processes that serve the layers of a root.
fn servers(root: &Path) -> Result<Vec<String>> {
    let root = root.to_str().context("the path of the root is not UTF-8")?;
    let mut found = Vec::new();
    for process in fs::read_dir("/proc")? {
        let process = process?;
        // Most entries of /proc are not processes, and processes end.
        let line = fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
        let words: Vec<_> = line.split('\0').collect();
        if words.contains(&root) && words.contains(&"lazy") && words.contains(&"serve") {
            found.push(process.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(found)
}

/// Returns the largest memory in bytes that one of the processes has had.
fn peak(processes: &[String]) -> Result<u64> {
    let mut peak = 0;
    for process in processes {
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kibibytes = line.and_then(|line| line.split_whitespace().next());
        peak = peak.max(kibibytes.context("no VmHWM")?.parse::<u64>()? * 1024);
    }
    Ok(peak)
}
