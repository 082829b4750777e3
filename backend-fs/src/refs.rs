//! Names in a layout from before `index.json`: one file per name in `refs/`, each a descriptor.

use std::io;

use cas_core::layout::{REFS, parse_ref};
use cas_core::{Context, Error, Result, limit};
use cas_host::Dir;

use crate::index::Index;

/// Maximum size of one file in bytes.
const SMALL: u64 = 64 << 10;

/// Returns the index that has the names in `refs/`, or `None` without such a directory.
///
/// # Errors
/// `Corrupt`, with the path, for a file that is not a descriptor or does not have the name of an
/// image; `OutOfRange` for more than [`limit::DESCRIPTORS`] files; errors of the file system.
pub(crate) fn read(root: &Dir) -> Result<Option<Index>> {
    let mut index = Index::empty();
    let refs = match root.open_dir(REFS) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        refs => refs?,
    };
    let mut names = Vec::new();
    for entry in refs.entries()? {
        names.push(entry?.name);
        if names.len() > limit::DESCRIPTORS {
            return Err(Error::out_of_range(format!(
                "{REFS} has more than the {} files allowed; import the layout in parts",
                limit::DESCRIPTORS
            )));
        }
    }
    names.sort();
    for name in &names {
        add(&mut index, &refs, name).during("read", format_args!("{REFS}/{name}"))?;
    }
    Ok(Some(index))
}

fn add(index: &mut Index, refs: &Dir, name: &str) -> Result<()> {
    let data = refs.read(name, SMALL)?.unwrap_or_default();
    let target = parse_ref(&data)?;
    index.push(&name.parse()?, &target)
}
