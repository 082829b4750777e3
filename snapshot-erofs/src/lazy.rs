//! Layers that are read on demand. Their snapshots have a table of contents in place of a tar.

use std::fs;
use std::path::PathBuf;

use cas_core::{Context, Result};
use cas_erofs::Layers;
use cas_host::{SnapshotDirs, TREE, erofs};
use cas_lazy::StoredTable;

/// The name of the directory in which the data files of such layers are served, each under the
/// number of its snapshot.
const SERVED: &str = "lazy";

/// Returns whether the layer with this number is read on demand.
pub(crate) fn is_on_demand(dirs: &SnapshotDirs, id: u64) -> bool {
    let path = dirs.path(id).join(TREE).join(StoredTable::FILE);
    fs::symlink_metadata(path).is_ok_and(|found| found.is_file())
}

/// Returns the path of the data file of a layer that is read on demand.
pub(crate) fn device(dirs: &SnapshotDirs, id: u64) -> PathBuf {
    dirs.beside(SERVED).join(id.to_string())
}

/// Adds a layer that is read on demand to the layers of an image. Returns the warnings.
///
/// # Errors
/// `Corrupt` if its table of contents is damaged; `Corrupt` or `OutOfRange` if its members cannot
/// be merged; errors of the file system.
pub(crate) fn add(dirs: &SnapshotDirs, id: u64, layers: &mut Layers) -> Result<Vec<String>> {
    let tree = dirs.path(id).join(TREE);
    let (description, table) = (
        tree.join(StoredTable::FILE),
        tree.join(StoredTable::TABLE_FILE),
    );
    let stored = fs::read(&description).during("read", description.display())?;
    let bytes = fs::read(&table).during("read", table.display())?;
    let layer = StoredTable::from_bytes(&stored)?.read(&bytes)?;
    // The image needs only the length of the data file.
    let file = erofs::open_file(&table).during("open", table.display())?;
    let members = layer.members().iter();
    let members = members.map(|member| (&member.entry, member.offset));
    layers.add_members(file, layer.length(), members)
}
