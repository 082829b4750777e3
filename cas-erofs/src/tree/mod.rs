//! The merged tree of the layers of an image, in memory.

mod known;
mod merge;
mod node;
mod resolve;
#[cfg(test)]
mod tests;

use cas_core::{Error, Result, limit};
use cas_layer::Warnings;
use cas_layer::apply::{Cost, ImageCost};

use crate::attributes::{self, Sets};
use known::Known;
use node::Child;
pub(crate) use node::{Content, Directory, Id, Kind, Node, ROOT};

/// The merged tree of the layers that were applied so far, from the lowest to the highest. Hard
/// links to the same file are names of the same node.
pub struct Tree {
    nodes: Vec<Node>,
    /// Nodes that nothing refers to any more.
    free: Vec<Id>,
    sets: Sets,
    /// Number of the layer that is being applied: 1 for the first.
    layer: u32,
    /// The work that the members of this layer have caused so far.
    cost: Cost,
    /// Where paths and links of this layer lead.
    known: Known,
    warnings: Warnings,
    /// Number of bytes that all layers brought: names, targets of links, attributes, and incomplete
    /// last blocks of files.
    bytes: usize,
}

impl Default for Tree {
    /// Returns the tree without layers: an empty directory of the superuser, of mode 0755.
    fn default() -> Self {
        Tree {
            nodes: vec![Node::implied(Directory::new(ROOT, 0))],
            free: Vec::new(),
            sets: Sets::default(),
            layer: 0,
            cost: Cost::of_layer(ImageCost::default()),
            known: Known::default(),
            warnings: Warnings::default(),
            bytes: 0,
        }
    }
}

impl Tree {
    /// Begins the next layer.
    pub(crate) fn begin_layer(&mut self) {
        self.layer += 1;
        self.cost = self.cost.next_layer();
        self.known.forget();
    }

    /// Returns the warnings since the last call.
    pub(crate) fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings).list()
    }

    pub(crate) fn warn(&mut self, warning: &str) {
        self.warnings.add(warning);
    }

    pub(crate) fn node(&self, id: Id) -> &Node {
        &self.nodes[id as usize]
    }

    /// Returns the number of slots for nodes. The identity of every node is smaller than it.
    pub(crate) fn slots(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn sets(&self) -> &Sets {
        &self.sets
    }

    /// Returns a directory. The node with the identity `id` must be one.
    pub(crate) fn directory_at(&self, id: Id) -> &Directory {
        match &self.node(id).kind {
            Kind::Directory(directory) => directory,
            _ => unreachable!("only directories have children"),
        }
    }

    /// Returns the node that has a name in a directory.
    fn child(&self, directory: Id, name: &[u8]) -> Option<Id> {
        let children = &self.directory_at(directory).children;
        children.get(name).map(|child| child.id)
    }

    fn directory_mut(&mut self, id: Id) -> &mut Directory {
        match &mut self.nodes[id as usize].kind {
            Kind::Directory(directory) => directory,
            _ => unreachable!("only directories have children"),
        }
    }

    /// Stores a node without a name. Returns its identity.
    fn insert(&mut self, node: Node) -> Result<Id> {
        if let Some(id) = self.free.pop() {
            self.nodes[id as usize] = node;
            return Ok(id);
        }
        if self.nodes.len() >= limit::INODES {
            return Err(Error::out_of_range(format!(
                "the image has more than the {} files and directories allowed; build it with \
                 fewer files",
                limit::INODES
            )));
        }
        self.nodes.push(node);
        Ok((self.nodes.len() - 1) as Id)
    }

    /// Counts the bytes of a member, even if a later member replaces them.
    fn count_bytes(&mut self, bytes: usize) -> Result<()> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes <= limit::TREE {
            return Ok(());
        }
        Err(Error::out_of_range(format!(
            "the names, links, extended attributes and incomplete blocks of the image have more \
             than the {} bytes allowed; build it with fewer files",
            limit::TREE
        )))
    }

    /// Adds a name for a node to a directory. The directory must not have the name.
    fn link(&mut self, directory: Id, name: &[u8], id: Id) {
        let added = self.layer;
        self.nodes[id as usize].links += 1;
        let child = Child { id, added };
        self.directory_mut(directory)
            .children
            .insert(name.into(), child);
    }

    /// Removes a name, and everything below it.
    fn unlink(&mut self, directory: Id, name: &[u8]) {
        let Some(child) = self.directory_mut(directory).children.remove(name) else {
            return;
        };
        let mut removed = vec![child.id];
        while let Some(id) = removed.pop() {
            let node = &mut self.nodes[id as usize];
            node.links -= 1;
            // Paths may now lead elsewhere, even if a link keeps other names.
            if matches!(node.kind, Kind::Directory(_) | Kind::Symlink(_)) {
                self.known.forget();
            }
            if node.links > 0 {
                continue;
            }
            let kind = std::mem::replace(&mut node.kind, Kind::Fifo);
            node.attributes = attributes::NONE;
            if let Kind::Directory(directory) = kind {
                removed.extend(directory.children.into_values().map(|child| child.id));
            }
            self.free.push(id);
        }
    }
}
