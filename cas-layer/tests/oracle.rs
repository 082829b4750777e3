//! Random stacks of layers, compared with a model of what layers mean, and random damage.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use cas_core::snapshot::Mount;
use cas_layer::apply::Tree;
use cas_layer::tar::Reader;
use common::{Apply, Cage, Header, Tar, read_all, record};
use proptest::collection::vec;
use proptest::prelude::*;

type Names = Vec<&'static str>;

#[derive(Clone, Debug)]
enum Op {
    File(Names),
    Dir(Names),
    /// A link to the directory `/s`, through which other members may lead.
    Link(Names),
    Hard(Names, Names),
    Hide(Names),
    Opaque(Names),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    /// A directory and its time.
    Dir(i64),
    /// A file, by its inode, which is also its content.
    File(usize),
    Link(usize),
}

/// A tree in memory, and what the current layer added to it.
#[derive(Clone, Default)]
struct Model {
    tree: BTreeMap<Names, Node>,
    kept: BTreeSet<Names>,
    inodes: usize,
}

impl Model {
    fn parent(&mut self, names: &[&'static str], make: bool) -> Option<Names> {
        let mut at = Names::new();
        for &name in names {
            let mut next = [&at[..], &[name]].concat();
            if let Some(Node::Link(_)) = self.tree.get(&next) {
                next = vec!["s"];
            }
            if !matches!(self.tree.get(&next), Some(Node::Dir(_))) {
                if !make {
                    return None;
                }
                self.tree.insert(next.clone(), Node::Dir(0));
            }
            at = next;
        }
        Some(at)
    }

    fn remove(&mut self, path: &[&str]) {
        self.tree.retain(|other, _| !other.starts_with(path));
    }

    /// Adds a node at a path, and records the path and its ancestors as kept.
    fn place(&mut self, names: &[&'static str], node: Node) {
        let path = self.place_of(names);
        let merge = matches!(
            (self.tree.get(&path), &node),
            (Some(Node::Dir(_)), Node::Dir(_))
        );
        if !merge {
            self.remove(&path);
        }
        self.tree.insert(path.clone(), node);
        for length in 0..=path.len() {
            self.kept.insert(path[..length].to_vec());
        }
    }

    fn hide(&mut self, path: &[&'static str]) {
        match self.tree.get(path) {
            Some(Node::Dir(_)) if self.kept.contains(path) => self.purge(path),
            Some(_) if self.kept.contains(path) => {}
            _ => self.remove(path),
        }
    }

    fn purge(&mut self, path: &[&'static str]) {
        let below = |other: &&Names| other.len() == path.len() + 1 && other.starts_with(path);
        let children: Vec<Names> = self.tree.keys().filter(below).cloned().collect();
        for child in children {
            self.hide(&child);
        }
    }

    /// Applies an operation. Returns `false` if no layer may contain it.
    fn apply(&mut self, op: &Op) -> bool {
        self.inodes += 1;
        match op {
            Op::File(names) => self.place(names, Node::File(self.inodes)),
            Op::Link(names) => self.place(names, Node::Link(self.inodes)),
            Op::Dir(names) => self.place(names, Node::Dir(1_000_000_000)),
            Op::Hard(names, target) => {
                let (name, parent) = target.split_last().unwrap();
                let Some(mut target) = self.parent(parent, false) else {
                    return false;
                };
                target.push(name);
                let node = self.tree.get(&target).cloned();
                let Some(node @ (Node::File(_) | Node::Link(_))) = node else {
                    return false;
                };
                let itself = self.clone().place_of(names) == target;
                self.place(names, node.clone());
                return self.tree.get(&target) == Some(&node) && !itself;
            }
            Op::Hide(names) => {
                let (name, parent) = names.split_last().unwrap();
                if let Some(mut path) = self.parent(parent, false) {
                    path.push(name);
                    self.hide(&path);
                }
            }
            Op::Opaque(names) => {
                if let Some(path) = self.parent(names, false) {
                    self.purge(&path);
                }
            }
        }
        true
    }

    fn place_of(&mut self, names: &[&'static str]) -> Names {
        let (name, parent) = names.split_last().unwrap();
        let mut path = self.parent(parent, true).unwrap();
        path.push(name);
        path
    }
}

fn member(tar: Tar, op: &Op, content: usize) -> Tar {
    let (base, marker) = match op {
        Op::Hide(names) => {
            let (name, parent) = names.split_last().unwrap();
            (parent.join("/"), format!(".wh.{name}"))
        }
        Op::Opaque(names) => (names.join("/"), ".wh..wh..opq".to_owned()),
        Op::File(names) => return tar.file(names.join("/"), content.to_string()),
        Op::Dir(names) => return tar.dir(names.join("/")),
        Op::Link(names) => return tar.symlink(names.join("/"), "/s"),
        Op::Hard(names, target) => return tar.hardlink(names.join("/"), target.join("/")),
    };
    tar.file(format!("{base}/{marker}"), "")
}

/// Reads a tree from the disk into the model's form. Files are identified by their content.
fn look(
    root: &Path,
    at: &Path,
    links: &mut BTreeMap<u64, usize>,
    out: &mut BTreeMap<String, Node>,
) {
    for entry in fs::read_dir(root.join(at)).unwrap() {
        let path = at.join(entry.unwrap().file_name());
        let meta = fs::symlink_metadata(root.join(&path)).unwrap();
        let node = if meta.is_dir() {
            look(root, &path, links, out);
            Node::Dir(meta.mtime())
        } else if meta.is_symlink() {
            let next = links.len();
            Node::Link(*links.entry(meta.ino()).or_insert(next))
        } else {
            Node::File(
                fs::read_to_string(root.join(&path))
                    .unwrap()
                    .parse()
                    .unwrap(),
            )
        };
        out.insert(path.to_str().unwrap().to_owned(), node);
    }
}

fn names() -> impl Strategy<Value = Names> {
    vec(prop_oneof![Just("a"), Just("b"), Just("c")], 1..4)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => names().prop_map(Op::File),
        2 => names().prop_map(Op::Dir),
        1 => names().prop_map(Op::Link),
        2 => (names(), names()).prop_map(|(name, target)| Op::Hard(name, target)),
        2 => names().prop_map(Op::Hide),
        1 => names().prop_map(Op::Opaque),
        1 => Just(Op::Opaque(Vec::new())),
    ]
}

/// Returns a tree with its inodes renumbered in the order of their first path.
fn canonical(tree: BTreeMap<String, Node>) -> BTreeMap<String, Node> {
    let mut seen = BTreeMap::new();
    let rename = |node| match node {
        Node::Link(inode) => {
            let next = seen.len();
            Node::Link(*seen.entry(inode).or_insert(next))
        }
        other => other,
    };
    let (paths, nodes): (Vec<_>, Vec<_>) = tree.into_iter().unzip();
    paths
        .into_iter()
        .zip(nodes.into_iter().map(rename))
        .collect()
}

/// Returns the archives of a stack of layers, and the tree that they mean.
fn replay(layers: &[Vec<Op>]) -> (Vec<Tar>, BTreeMap<String, Node>) {
    let mut model = Model::default();
    let archive = |layer: &Vec<Op>| {
        model.kept.clear();
        let mut tar = Tar::new();
        for op in layer {
            let saved = model.clone();
            if model.apply(op) {
                tar = member(tar, op, model.inodes);
            } else {
                model = saved;
            }
        }
        tar
    };
    let tars = layers.iter().map(archive).collect();
    let tree = model.tree.into_iter();
    (
        tars,
        tree.map(|(path, node)| (path.join("/"), node)).collect(),
    )
}

/// Returns a tree without the inodes of links, because an overlay copies each link.
fn single(mut tree: BTreeMap<String, Node>) -> BTreeMap<String, Node> {
    for node in tree.values_mut() {
        if let Node::Link(inode) = node {
            *inode = 0;
        }
    }
    tree
}

fn can_mount() -> bool {
    static ROOT: LazyLock<bool> = LazyLock::new(|| {
        let root = fs::metadata("/proc/self").is_ok_and(|data| data.uid() == 0);
        if !root {
            eprintln!("SKIPPED: only the superuser can mount overlays");
        }
        root
    });
    *ROOT
}

fn overlay(below: &[PathBuf], upper: Option<(&PathBuf, &PathBuf)>) -> OwnedFd {
    let mount = match (below, upper) {
        ([], Some((source, _))) | ([source], None) => Mount::Bind {
            source: source.clone(),
            read_only: upper.is_none(),
        },
        _ => Mount::Overlay {
            lower: below.to_vec(),
            upper: upper.map(|(upper, _)| upper.clone()),
            work: upper.map(|(_, work)| work.clone()),
            options: vec!["index=off".into()],
        },
    };
    cas_host::mount::open(&[mount]).unwrap()
}

/// Creates the directories of one layer. Returns its upper and its work directory.
fn place(cage: &Cage, number: usize) -> (PathBuf, PathBuf) {
    let place = cage.root().join(number.to_string());
    let (upper, work) = (place.join("fs"), place.join("work"));
    fs::create_dir_all(&upper).unwrap();
    fs::create_dir(&work).unwrap();
    (upper, work)
}

/// Returns what layers show when they are stacked.
fn shown(layers: &[PathBuf]) -> BTreeMap<String, Node> {
    let root = overlay(layers, None);
    let path = format!("/proc/self/fd/{}", root.as_raw_fd());
    let mut found = BTreeMap::new();
    let (path, none) = (Path::new(&path), Path::new(""));
    look(path, none, &mut BTreeMap::new(), &mut found);
    found
}

/// Applies each layer on the overlay of those below it. Returns their directories, the last first.
fn stacked(cage: &Cage, tars: Vec<Tar>) -> Vec<PathBuf> {
    let mut below = Vec::new();
    for (number, tar) in tars.into_iter().enumerate() {
        let (upper, work) = place(cage, number);
        let root = overlay(&below, Some((&upper, &work)));
        tar.apply_to(&Tree::at(root.as_fd()).unwrap()).unwrap();
        below.insert(0, upper);
    }
    below
}

/// If the times of a removed directory are set, an overlay copies the directory from the layers
/// below to where it was, and replaces an empty directory that is there now.
#[test]
fn a_directory_that_replaces_another_keeps_its_times() {
    if !can_mount() {
        return;
    }
    let (a, b) = (|| vec!["a"], || vec!["a", "b"]);
    let below = vec![Op::File(vec!["a", "b", "c"]), Op::File(vec!["c"])];
    let touched = [vec!["a", "x"], vec!["a", "b", "x"], vec!["b", "a", "b"]];
    for replaced in [a(), b()] {
        for other in [
            Op::File(replaced.clone()),
            Op::Link(replaced.clone()),
            Op::Hard(replaced.clone(), vec!["c"]),
        ] {
            let last = touched.iter().cloned().map(Op::Hide);
            let last = last.chain([other.clone(), Op::Dir(replaced.clone())]);
            let emptied = vec![Op::Hide(vec!["a", "b", "c"])];
            let layers = [below.clone(), emptied, last.collect()];
            // The order in which times are restored is random.
            for _ in 0..10 {
                let cage = Cage::new();
                let (tars, tree) = replay(&layers);
                let found = single(shown(&stacked(&cage, tars)));
                assert_eq!(found, single(tree), "{other:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn stacked_layers_match_the_model(layers in vec(vec(op(), 0..12), 1..5)) {
        let cage = Cage::new();
        let time = |path| fs::metadata(path).unwrap().mtime();
        let before = time(cage.root());
        let (tars, tree) = replay(&layers);
        for tar in tars {
            tar.apply(&cage.root()).unwrap();
        }
        let mut found = BTreeMap::new();
        look(&cage.root(), Path::new(""), &mut BTreeMap::new(), &mut found);
        prop_assert_eq!(canonical(found), canonical(tree));
        prop_assert_eq!(time(cage.root()), before);
    }

    #[test]
    fn layers_in_an_overlay_match_the_model(layers in vec(vec(op(), 0..12), 1..5)) {
        prop_assume!(can_mount());
        let cage = Cage::new();
        let (tars, tree) = replay(&layers);
        prop_assert_eq!(single(shown(&stacked(&cage, tars))), single(tree));
        cage.assert_untouched();
    }

    #[test]
    fn standalone_layers_match_the_model(layers in vec(vec(op(), 0..12), 1..5)) {
        prop_assume!(can_mount());
        let cage = Cage::new();
        let (tars, tree) = replay(&layers);
        let mut below = Vec::new();
        for (number, tar) in tars.into_iter().enumerate() {
            let (upper, work) = place(&cage, number);
            let under = (number > 0).then(|| Tree::at(overlay(&below, None).as_fd()).unwrap());
            let alone = Tree::open(&upper).unwrap();
            let archive = tar.0.clone();
            let (_, effects) = alone.apply_standalone(&mut Reader::new(&tar.end()[..])).unwrap();
            let resolved = effects
                .map(|effects| alone.resolve_onto(under.as_ref(), &effects).unwrap());
            if resolved != Some(true) {
                fs::remove_dir_all(&upper).unwrap();
                fs::create_dir(&upper).unwrap();
                let root = overlay(&below, Some((&upper, &work)));
                Tar(archive).apply_to(&Tree::at(root.as_fd()).unwrap()).unwrap();
            }
            below.insert(0, upper);
        }
        prop_assert_eq!(single(shown(&below)), single(tree));
        cage.assert_untouched();
    }

    #[test]
    fn damage_is_an_error_or_stays_inside_the_tree(
        flips in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        swap in any::<(prop::sample::Index, prop::sample::Index)>(),
        reseal in any::<bool>(),
    ) {
        let cage = Cage::new();
        let mut archive = specimen(&cage);
        for (at, value) in &flips {
            let at = at.index(archive.len());
            archive[at] = *value;
        }
        let blocks = archive.len() / 512;
        let (from, to) = (swap.0.index(blocks) * 512, swap.1.index(blocks) * 512);
        archive.copy_within(from..from + 512, to);
        if cut.index(3) == 0 {
            archive.truncate(cut.index(archive.len()));
        }
        if reseal {
            for (at, _) in &flips {
                let at = at.index(blocks * 512) / 512 * 512;
                if let Some(block) = archive.get_mut(at..at + 512) {
                    let header = Header(block.try_into().unwrap());
                    block.copy_from_slice(&header.sealed(false));
                }
            }
        }
        let _ = read_all(&archive);
        let _ = Tar(archive).apply(&cage.root());
        cage.assert_untouched();
    }
}

/// Returns an archive with a bit of everything, so small that random damage hits all of it.
fn specimen(cage: &Cage) -> Vec<u8> {
    let mut map = b"1\n600\n3\n".to_vec();
    map.resize(512, 0);
    map.extend(b"abc");
    let mut old = Header::new(b'S', "old").gnu().size(3);
    old.octal(386..398, 10)
        .octal(398..410, 3)
        .octal(483..495, 20);
    Tar::new()
        .dir("d")
        .symlink("out", cage.canary())
        .file("d/f", "1")
        .pax(&[
            ("path", b"d/long"),
            ("size", b"2"),
            ("SCHILY.xattr.user.x", b"y"),
        ])
        .file("x", "22")
        .extension(b'g', record("comment", "c"))
        .extension(b'L', "gnu\0")
        .hardlink("h", "d/f")
        .pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.realsize", b"1000")])
        .file("sparse", map)
        .member(old, b"abc")
        .file("d/.wh..wh..opq", "")
        .file(".wh.h", "")
        .member(Header::new(b'6', "fifo"), b"")
        .end()
}
