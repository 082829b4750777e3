//! Writes the metadata at the offsets that its layout gives.

use cas_core::{Algorithm, Hasher};

use super::directory;
use super::format::{
    COMPATIBLE, DEVICE, DEVICE_TABLE, DEVICES, DataLayout, INODE, MAGIC, SUPERBLOCK, crc32c,
};
use super::layout::{Layout, Place};
use crate::BLOCK;
use crate::layers::DataFile;
use crate::tree::{Id, Kind, ROOT, Tree};

/// Types of inodes, in their modes.
const FIFO: u16 = 0o010_000;
const CHAR: u16 = 0o020_000;
const DIRECTORY: u16 = 0o040_000;
const BLOCK_DEVICE: u16 = 0o060_000;
const FILE: u16 = 0o100_000;
const SYMLINK: u16 = 0o120_000;

/// The metadata. Bytes can be written at any offset in it.
struct Out(Vec<u8>);

impl Out {
    fn put(&mut self, offset: u64, bytes: impl AsRef<[u8]>) {
        let (at, bytes) = (offset as usize, bytes.as_ref());
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// Returns the metadata. `starts` are the offsets of the data files.
pub(super) fn metadata(tree: &Tree, layout: &Layout, data: &[DataFile], starts: &[u64]) -> Vec<u8> {
    let mut out = Out(vec![0; layout.length as usize]);
    for &id in &layout.order {
        write_node(&mut out, tree, layout, starts, id);
    }
    out.put(layout.shared, &layout.attributes.shared);
    for (index, (file, start)) in data.iter().zip(starts).enumerate() {
        let slot = DEVICES + index as u64 * DEVICE;
        // After the tag, which the kernel does not read.
        out.put(slot + 64, blocks(file.length.next_multiple_of(BLOCK)));
        out.put(slot + 68, blocks(*start));
    }
    write_superblock(&mut out, layout, data.len());
    out.0
}

/// Returns a length as a number of blocks, or an offset as the address of its block: four bytes,
/// lowest first. Four bytes are enough, because `Image::new` checked the size of the image.
fn blocks(bytes: u64) -> [u8; 4] {
    ((bytes / BLOCK) as u32).to_le_bytes()
}

fn write_superblock(out: &mut Out, layout: &Layout, data_files: usize) {
    let at = |field| SUPERBLOCK + field;
    let incompatible = if data_files > 0 { DEVICE_TABLE } else { 0 };
    let device_slots = if data_files > 0 { DEVICES / DEVICE } else { 0 };
    out.put(at(0), MAGIC.to_le_bytes());
    out.put(at(8), COMPATIBLE.to_le_bytes());
    out.put(at(12), [BLOCK.trailing_zeros() as u8]);
    // The number of the root's inode fits in 16 bits: it is the first inode, and the table of data
    // files before it is small.
    out.put(at(14), (layout.number(ROOT) as u16).to_le_bytes());
    out.put(at(16), (layout.order.len() as u64).to_le_bytes());
    out.put(at(36), blocks(layout.length));
    out.put(at(44), blocks(layout.shared));
    out.put(at(80), incompatible.to_le_bytes());
    out.put(at(86), (data_files as u16).to_le_bytes());
    out.put(at(88), (device_slots as u16).to_le_bytes());
    let mut hash = Hasher::new(Algorithm::Sha256);
    hash.update(&out.0);
    // The identity of the file system: the same for the same metadata.
    out.put(at(48), &hash.finish().as_bytes()[..16]);
    let block = SUPERBLOCK as usize..(SUPERBLOCK + BLOCK) as usize;
    let checksum = crc32c(&out.0[block]);
    out.put(at(4), checksum.to_le_bytes());
}

fn write_node(out: &mut Out, tree: &Tree, layout: &Layout, starts: &[u64], id: Id) {
    let node = tree.node(id);
    let place = layout.place(id);
    let mut links = node.links;
    let (kind, size, what) = match &node.kind {
        Kind::Directory(directory) => {
            let is_directory = |id| matches!(tree.node(id).kind, Kind::Directory(_));
            let below = directory
                .children
                .values()
                .filter(|child| is_directory(child.id));
            links = 2 + below.count() as u32;
            (DIRECTORY, place.size, blocks(place.blocks))
        }
        Kind::File(content) => {
            let start = starts.get(content.source).copied().unwrap_or_default();
            (FILE, content.size, blocks(start + content.offset))
        }
        Kind::Symlink(_) => (SYMLINK, place.size, blocks(place.blocks)),
        Kind::Char(number) => (CHAR, 0, number.to_le_bytes()),
        Kind::Block(number) => (BLOCK_DEVICE, 0, number.to_le_bytes()),
        Kind::Fifo => (FIFO, 0, [0; 4]),
    };
    let attributes = &layout.attributes.bodies[node.attributes as usize];
    let count = match attributes.len() as u64 {
        0 => 0,
        // In units of four bytes; the header counts as one.
        length => (length + place.padding - super::format::ATTRIBUTES) / 4 + 1,
    };
    let at = |field| place.inode + field;
    // Bit 0 means that the inode has the extended form.
    out.put(at(0), (1 | (place.data as u16) << 1).to_le_bytes());
    out.put(at(2), (count as u16).to_le_bytes());
    out.put(at(4), (kind | node.mode).to_le_bytes());
    out.put(at(8), size.to_le_bytes());
    out.put(at(16), what);
    out.put(at(20), (layout.number(id) as u32).to_le_bytes());
    out.put(at(24), node.uid.to_le_bytes());
    out.put(at(28), node.gid.to_le_bytes());
    out.put(at(32), node.mtime.seconds.to_le_bytes());
    out.put(at(40), node.mtime.nanoseconds.to_le_bytes());
    out.put(at(44), links.to_le_bytes());
    out.put(at(INODE), attributes);
    let after = at(INODE) + attributes.len() as u64 + place.padding;
    match &node.kind {
        Kind::Directory(_) => write_data(out, place, after, &entries(tree, layout, id)),
        Kind::Symlink(target) => write_data(out, place, after, target),
        Kind::File(content) => {
            if let Some(tail) = &content.tail {
                out.put(after, tail);
            }
        }
        Kind::Char(_) | Kind::Block(_) | Kind::Fifo => {}
    }
}

/// Returns the bytes of a directory.
fn entries(tree: &Tree, layout: &Layout, id: Id) -> Vec<u8> {
    let mut entries = Vec::new();
    for block in directory::blocks(&directory::names(tree, id)) {
        entries.resize(entries.len().next_multiple_of(BLOCK as usize), 0);
        directory::write(&mut entries, tree, block, |id| layout.number(id));
    }
    entries
}

/// Writes the data of a directory or a link.
fn write_data(out: &mut Out, place: Place, after: u64, data: &[u8]) {
    let inline = match place.data {
        DataLayout::Plain => 0,
        DataLayout::Inline => data.len() % BLOCK as usize,
    };
    let (full, tail) = data.split_at(data.len() - inline);
    out.put(place.blocks, full);
    out.put(after, tail);
}
