//! What files take on the disk, as `du` counts it.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Returns the number of bytes that a file or a tree takes. A file with several names counts once.
/// Databases and their reserves are not counted. An absent path takes nothing.
pub(crate) fn usage(path: &Path) -> u64 {
    fn below(path: &Path, seen: &mut HashSet<u64>) -> u64 {
        let Ok(found) = path.symlink_metadata() else {
            return 0;
        };
        let name = path.file_name().unwrap().to_string_lossy();
        if name.contains(".db") || name.contains("reserve") || !seen.insert(found.ino()) {
            return 0;
        }
        let children = found.is_dir().then(|| fs::read_dir(path).unwrap());
        let children = children.into_iter().flatten();
        let children: u64 = children.map(|one| below(&one.unwrap().path(), seen)).sum();
        found.blocks() * 512 + children
    }
    below(path, &mut HashSet::new())
}
