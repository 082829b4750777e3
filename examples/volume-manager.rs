//! A program that works like the volume manager of EVE, an operating system for edge devices. It
//! imports images into a store, prepares a root directory for each container, and removes this
//! directory when the container has ended.
//!
//! Start it as the superuser: `cargo run --example volume-manager -- ROOT ARCHIVE VOLUMES`. ROOT is
//! the directory in which `cas` keeps its store, its snapshots and its settings. It is created if
//! it does not exist. ARCHIVE is an archive of images or a directory with an OCI layout. VOLUMES is
//! an existing directory for the root directories of the containers.

use std::path::{Path, PathBuf};

use cas::blocking::Cas;
use cas::gc::GcOptions;
use cas::{MountSnapshotOptions, Result, UnmountOptions, UsageOptions};

fn main() -> Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [root, archive, volumes] = &arguments[..] else {
        let why = "expected the arguments ROOT ARCHIVE VOLUMES";
        return Err(cas::Error::invalid(why));
    };
    for line in run(root, archive, volumes)? {
        println!("{line}");
    }
    Ok(())
}

/// Prepares, uses and removes the root directory of one container for each image of the archive.
/// Returns a line for each step.
///
/// # Errors
/// Errors of the store, the snapshots and the mounts.
pub(crate) fn run(root: &Path, archive: &Path, volumes: &Path) -> Result<Vec<String>> {
    let cas = Cas::open(root)?;
    let mut steps = Vec::new();
    for (number, image) in cas.import(archive)?.iter().enumerate() {
        steps.push(format!("stored {}", image.name));

        // The last component of the path becomes the key of the snapshot. A directory that an
        // earlier run left at this path is replaced, even if it is still mounted.
        let key = format!("volume-{number}#0.container");
        let volume = volumes.join(&key);
        cas.prepare_root_dir(&volume, image)?;
        steps.push(format!("prepared {key}"));

        // The container runs now, and writes to its root file system.
        let log = volume.join("rootfs/log");
        std::fs::write(&log, "started\n")?;
        let own = cas.snapshot_usage(&key)?;
        let whole = UsageOptions::default().with_parents(true);
        let whole = cas.snapshot_usage_with(&key, whole)?;
        let (own, whole) = (own.inodes, whole.inodes);
        steps.push(format!("{key} has {own} inodes, {whole} with its layers"));

        // The container ends, and is started again, perhaps after a restart of the machine.
        cas.unmount_root_dir(&volume)?;
        let rights = MountSnapshotOptions::default()
            .with_suid(true)
            .with_devices(true);
        cas.mount_snapshot_with(&key, volume.join("rootfs"), rights)?;
        let kept = std::fs::read_to_string(&log)?;
        steps.push(format!(
            "mounted {key} again; its log contains: {}",
            kept.trim_end()
        ));

        // The container is not started again. Its directory is removed even if one of its processes
        // still runs.
        let lazy = UnmountOptions::default().with_force(true).with_lazy(true);
        cas.unmount_root_dir_with(&volume, lazy)?;
        cas.remove_root_dir(&volume)?;
        cas.remove(image)?;
        steps.push(format!("removed {key}"));
    }
    // This removes content that nothing refers to any more. Content that was stored without a lease
    // stays until it is a day old.
    cas.gc_with(GcOptions::default())?;
    cas.close()?;
    Ok(steps)
}
