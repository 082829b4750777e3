//! Whether overlays can be had, found out by making one.

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::{fs, io};

use cas_core::snapshot::Mount;
use cas_core::{Context, Error, Result, unique};
use cas_host::mount;
use rustix::fs::AtFlags;

/// The user namespace that the system begins with has all numbers.
const ALL: &str = "0 0 4294967295";

/// Options that every mount gets.
///
/// An index would tie a layer to the work directory that it was made with. In a user namespace
/// only the attributes of users can be written.
pub(super) fn options() -> Result<Vec<String>> {
    const MAP: &str = "/proc/self/uid_map";
    let map = fs::read_to_string(MAP).during("read", MAP)?;
    let map: Vec<&str> = map.split_whitespace().collect();
    let mut options = vec!["index=off".to_owned()];
    if map.join(" ") != ALL {
        options.push("userxattr".to_owned());
    }
    Ok(options)
}

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
        options: options()?,
    }])?;
    let removed = rustix::fs::unlinkat(&root, "gone", AtFlags::empty());
    removed
        .map_err(io::Error::from)
        .during("remove", "a file of a lower layer")
}
