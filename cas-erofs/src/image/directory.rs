//! The blocks of a directory. A block begins with entries, which are sorted by name. The names of
//! these entries follow in the same block.

use super::format::{ENTRY, kind};
use crate::BLOCK;
use crate::tree::{Id, Kind, Tree};

/// Entries of a directory, such as those in one block.
type Block<'a> = &'a [(&'a [u8], Id)];

/// Returns the names in a directory with `.` and `..`, sorted by their bytes.
pub(super) fn names(tree: &Tree, id: Id) -> Vec<(&[u8], Id)> {
    let directory = tree.directory_at(id);
    let children = &directory.children;
    let mut names = Vec::with_capacity(children.len() + 2);
    names.extend(children.iter().map(|(name, child)| (&name[..], child.id)));
    for (name, id) in [(&b"."[..], id), (b"..", directory.parent)] {
        let at = names.partition_point(|&(other, _)| other < name);
        names.insert(at, (name, id));
    }
    names
}

/// Splits the names of a directory into blocks. Each block has at least one name, because a name in
/// a tree has at most 255 bytes.
pub(super) fn blocks<'a>(mut names: Block<'a>) -> Vec<Block<'a>> {
    let mut blocks = Vec::new();
    while !names.is_empty() {
        let mut size = 0;
        let fits = names.iter().take_while(|(name, _)| {
            size += ENTRY + name.len();
            size as u64 <= BLOCK
        });
        let (block, rest) = names.split_at(fits.count());
        blocks.push(block);
        names = rest;
    }
    blocks
}

/// Returns the size of a directory in bytes: all blocks but the last, and the used part of the
/// last.
pub(super) fn size(blocks: &[Block<'_>]) -> u64 {
    let Some((last, full)) = blocks.split_last() else {
        return 0;
    };
    let used: usize = last.iter().map(|(name, _)| ENTRY + name.len()).sum();
    full.len() as u64 * BLOCK + used as u64
}

/// Adds a block without its padding to `out`. `number` returns the number of an inode.
pub(super) fn write(out: &mut Vec<u8>, tree: &Tree, block: Block<'_>, number: impl Fn(Id) -> u64) {
    let mut name_at = block.len() * ENTRY;
    for &(name, id) in block {
        out.extend(number(id).to_le_bytes());
        // At most the size of a block.
        out.extend((name_at as u16).to_le_bytes());
        out.extend([kind_of(&tree.node(id).kind), 0]);
        name_at += name.len();
    }
    for (name, _) in block {
        out.extend_from_slice(name);
    }
}

fn kind_of(kind: &Kind) -> u8 {
    match kind {
        Kind::File(_) => kind::FILE,
        Kind::Directory(_) => kind::DIRECTORY,
        Kind::Char(_) => kind::CHAR,
        Kind::Block(_) => kind::BLOCK,
        Kind::Fifo => kind::FIFO,
        Kind::Symlink(_) => kind::SYMLINK,
    }
}
