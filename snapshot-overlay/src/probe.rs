//! Probing whether overlayfs is usable, by mounting an overlay.

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::{fs, io};

use cas_core::snapshot::Mount;
use cas_core::{Context, Error, ErrorKind, Result, unique};
use cas_host::{make_scratch, mount, overlay};
use rustix::fs::AtFlags;

/// The beginning of the name of the directory in which the overlay is.
const SCRATCH: &str = "probe";

/// Probes whether overlayfs is usable in `directory`. Creates the directory if it is absent. Mounts
/// an overlay whose layers are in `directory`, and removes a file of a lower layer through the
/// overlay. Removes the files that a killed probe has left in `directory`.
///
/// # Errors
/// `Full` if the disk is full; `Unsupported`, with the reason, if the probe fails for another
/// reason, for example because the overlay cannot be mounted, or because the file cannot be removed
/// through the overlay; errors of removing the files of the probe.
pub fn probe(directory: &Path) -> Result<()> {
    let scratch = directory.join(unique::key(SCRATCH));
    let tried = mount_and_remove(&scratch).map_err(|error| {
        if error.kind() == ErrorKind::Full {
            return error;
        }
        Error::unsupported(format!(
            "overlayfs is not usable here ({error}); use the native snapshotter"
        ))
        .subject(directory.display())
        .source(error)
    });
    let cleaned = fs::remove_dir_all(&scratch).during("remove", scratch.display());
    tried.and(cleaned)
}

fn mount_and_remove(scratch: &Path) -> Result<()> {
    let _lock = make_scratch(scratch, &format!("{SCRATCH}-"))?;
    let [base, lower, upper, work] =
        ["base", "lower", "upper", "work"].map(|one| scratch.join(one));
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    for directory in [&base, &lower, &upper, &work] {
        let made = builder.create(directory);
        made.during("make directory", directory.display())?;
    }
    fs::write(base.join("gone"), "").during("write", base.display())?;
    let root = mount::open(&[Mount::Overlay {
        lower: vec![lower, base],
        upper: Some(upper),
        work: Some(work),
        options: overlay::options()?,
    }])?;
    let removed = rustix::fs::unlinkat(&root, "gone", AtFlags::empty());
    removed
        .map_err(io::Error::from)
        .during("remove", "a file of a lower layer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_probe_left_is_removed() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir_all(temp.path().join("probe-1-2/upper")).unwrap();
        // Whether overlays can be mounted here does not matter.
        let _ = probe(temp.path());
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
    }
}
