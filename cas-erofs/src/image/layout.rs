//! Decides where each part of the metadata is stored. The order after the superblock is: the table
//! of data files, the inodes, the shared attributes, and the blocks of large directories and long
//! links.
//!
//! An inode is followed by its attributes, and then by its tail, if it has one. The tail is the
//! incomplete last block of a directory, a link or a file. A file has a tail only if its last block
//! is not padded with zeros in the data file. A tail must lie within one block of the metadata, so
//! there may be a gap before an inode with a tail. Small inodes without a tail are placed in the
//! gaps.

use cas_core::Result;

use super::attributes::Placed;
use super::directory;
use super::format::{DEVICE, DEVICES, DataLayout, INODE, SLOT};
use crate::BLOCK;
use crate::layers::ALIGNMENT;
use crate::tree::{Id, Kind, Node, ROOT, Tree};

/// Where one node is stored.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// Offset of the inode in bytes.
    pub(super) inode: u64,
    /// Number of zeros between the attributes and the tail, so that the tail lies within one block.
    /// The zeros are attributes without a name, which readers skip.
    pub(super) padding: u64,
    pub(super) data: DataLayout,
    /// Size of a directory or a link in bytes; 0 for other nodes.
    pub(super) size: u64,
    /// Offset in bytes of the node's blocks, if it has any. While the layout is computed, it counts
    /// from the beginning of the area of blocks; afterwards, from the beginning of the metadata.
    pub(super) blocks: u64,
}

pub(super) struct Layout {
    /// All nodes of the tree, in the order in which they are placed.
    pub(super) order: Vec<Id>,
    /// Where each node is stored, by the identity of the node.
    places: Vec<Option<Place>>,
    pub(super) attributes: Placed,
    /// Offset of the shared attributes.
    pub(super) shared: u64,
    /// Length of the metadata.
    pub(super) length: u64,
}

/// Places inodes one after the other.
struct Cursor {
    end: u64,
    /// Begin and end of the last gap that was left before an inode. Small inodes are placed in it.
    gap: (u64, u64),
}

impl Layout {
    pub(super) fn new(tree: &Tree, data_files: usize) -> Result<Self> {
        let order = order(tree);
        let mut uses = vec![0; tree.sets().len()];
        for &id in &order {
            uses[tree.node(id).attributes as usize] += 1;
        }
        let attributes = Placed::new(tree.sets(), &uses)?;
        let mut places = vec![None; tree.slots()];
        let begin = DEVICES + data_files as u64 * DEVICE;
        let mut cursor = Cursor {
            end: begin,
            gap: (begin, begin),
        };
        let mut area = 0;
        for &id in &order {
            let node = tree.node(id);
            let head = INODE + attributes.bodies[node.attributes as usize].len() as u64;
            let mut place = cursor.place(tree, id, node, head);
            let in_metadata = match place.data {
                DataLayout::Plain => place.size.next_multiple_of(BLOCK),
                DataLayout::Inline => place.size - place.size % BLOCK,
            };
            place.blocks = area;
            area += in_metadata;
            places[id as usize] = Some(place);
        }
        let shared = cursor.end.next_multiple_of(BLOCK);
        let blocks = (shared + attributes.shared.len() as u64).next_multiple_of(BLOCK);
        for place in places.iter_mut().flatten() {
            place.blocks += blocks;
        }
        Ok(Layout {
            order,
            places,
            attributes,
            shared,
            length: (blocks + area).next_multiple_of(ALIGNMENT),
        })
    }

    /// Returns where a node of the tree is stored.
    pub(super) fn place(&self, id: Id) -> Place {
        match self.places[id as usize] {
            Some(place) => place,
            None => unreachable!("every node of the tree was placed"),
        }
    }

    /// Returns the number of a node's inode.
    pub(super) fn number(&self, id: Id) -> u64 {
        self.place(id).inode / SLOT
    }
}

/// Returns the nodes of a tree in the order in which they are placed. A directory is followed by
/// everything in it that is not a directory, sorted by name, and then by the directories in it,
/// each with everything below it. A node with several names is at the first of them.
fn order(tree: &Tree) -> Vec<Id> {
    let mut order = Vec::new();
    let mut seen = vec![false; tree.slots()];
    let mut waiting = vec![ROOT];
    while let Some(id) = waiting.pop() {
        order.push(id);
        let children = &tree.directory_at(id).children;
        for child in children.values().rev() {
            if let Kind::Directory(_) = tree.node(child.id).kind {
                waiting.push(child.id);
            }
        }
        for child in children.values() {
            let is_directory = matches!(tree.node(child.id).kind, Kind::Directory(_));
            if !is_directory && !std::mem::replace(&mut seen[child.id as usize], true) {
                order.push(child.id);
            }
        }
    }
    order
}

impl Cursor {
    /// Places a node, whose inode and attributes take `head` bytes.
    fn place(&mut self, tree: &Tree, id: Id, node: &Node, head: u64) -> Place {
        // The size of a directory or a link, and the length of the tail.
        let (size, tail) = match &node.kind {
            Kind::File(content) => (0, content.tail.as_ref().map_or(0, |tail| tail.len() as u64)),
            Kind::Directory(_) => {
                let names = directory::names(tree, id);
                let size = directory::size(&directory::blocks(&names));
                (size, size % BLOCK)
            }
            Kind::Symlink(target) => (target.len() as u64, target.len() as u64 % BLOCK),
            Kind::Char(_) | Kind::Block(_) | Kind::Fifo => (0, 0),
        };
        let (inode, padding, data) = if tail > 0 {
            let padding = padding(head, tail);
            (
                self.with_tail(head + padding, tail),
                padding,
                DataLayout::Inline,
            )
        } else {
            (self.without_tail(head), 0, DataLayout::Plain)
        };
        Place {
            inode,
            padding,
            data,
            size,
            blocks: 0,
        }
    }

    fn without_tail(&mut self, head: u64) -> u64 {
        let (begin, end) = self.gap;
        if begin + head <= end {
            self.gap.0 = (begin + head).next_multiple_of(SLOT);
            return begin;
        }
        let begin = self.end.next_multiple_of(SLOT);
        self.end = begin + head;
        begin
    }

    /// Places an inode, its attributes and padding, which take `head` bytes together, and the tail
    /// after them. Returns the offset of the inode.
    fn with_tail(&mut self, head: u64, tail: u64) -> u64 {
        let first = self.end.next_multiple_of(SLOT);
        let mut begin = first;
        while (begin + head) / BLOCK != (begin + head + tail - 1) / BLOCK {
            begin += SLOT;
        }
        if begin - first >= INODE {
            self.gap = (first, begin);
        }
        self.end = begin + head + tail;
        begin
    }
}

/// Returns how many bytes must be added to `head` bytes so that a tail after them fits into a
/// block.
fn padding(head: u64, tail: u64) -> u64 {
    if head % SLOT + tail <= BLOCK {
        return 0;
    }
    head.next_multiple_of(SLOT) - head
}
