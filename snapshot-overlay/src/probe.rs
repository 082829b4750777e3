//! Whether overlays can be had, found out by making one.

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::{fs, io};

use cas_core::snapshot::Mount;
use cas_core::{Context, Error, Result, unique};
use cas_host::{mount, overlay};
use rustix::fs::AtFlags;

/// Makes an overlay in `directory`, which is made where it is absent, and removes a file of a
/// lower layer.
///
/// # Errors
/// `Unsupported`, saying what the kernel says.
pub fn probe(directory: &Path) -> Result<()> {
    let place = directory.join(unique::key("probe"));
    let tried = make(&place).map_err(|error| {
        Error::unsupported(format!(
            "overlays cannot be had here ({error}); use the snapshotter native"
        ))
        .subject(directory.display())
        .source(error)
    });
    let cleaned = fs::remove_dir_all(&place).during("remove", place.display());
    tried.and(cleaned)
}

fn make(place: &Path) -> Result<()> {
    let [base, lower, upper, work] = ["base", "lower", "upper", "work"].map(|one| place.join(one));
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
