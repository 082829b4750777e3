//! Reads the names of images from the directory `refs/` of an old layout. Layouts had this
//! directory before the OCI image-spec defined `index.json`. Each file in the directory has the
//! name of an image, and contains the descriptor of its target.

use std::io;

use cas_core::layout::{REFS, parse_ref};
use cas_core::{Context, Error, Result, limit};
use cas_host::{Dir, calls};

use crate::file;
use crate::index::Index;

/// Returns an index with the names in `refs/`, or `None` if that directory does not exist.
///
/// # Errors
/// `Corrupt`, with the path, for a directory, a symbolic link, a file that is not a descriptor, or
/// a file whose name is not the name of an image; `OutOfRange` for more than [`limit::DESCRIPTORS`]
/// files, or a file of more than [`limit::LAYOUT_FILE`] bytes; errors of the file system.
pub(crate) fn read(root: &Dir) -> Result<Option<Index>> {
    let mut index = Index::empty();
    let refs = match root.open_dir(REFS) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        refs => refs?,
    };
    let mut names = Vec::new();
    calls::each_entry(&refs, |name, _| {
        // A name that is not UTF-8 becomes a text that is not the name of an image.
        names.push(name.to_string_lossy().into_owned());
        if names.len() > limit::DESCRIPTORS {
            return Err(Error::out_of_range(format!(
                "{REFS} has more than the {} files allowed; import the layout in parts",
                limit::DESCRIPTORS
            ))
            .into());
        }
        Ok(())
    })?;
    names.sort();
    for name in &names {
        add(&mut index, &refs, name).during("read", format_args!("{REFS}/{name}"))?;
    }
    Ok(Some(index))
}

fn add(index: &mut Index, refs: &Dir, name: &str) -> Result<()> {
    let image = name
        .parse()
        .map_err(|error: Error| Error::corrupt(error.to_string()))?;
    let data = file::read(refs, name, limit::LAYOUT_FILE)?.unwrap_or_default();
    let target = parse_ref(&data)?;
    index.push(&image, &target)
}
