use cas_layer::tar::Reader;
use testkit::archive::{Header, Tar};

use super::*;

/// Merges layers. Returns a line for each path of the tree: the path, then the mode of a directory,
/// the size of a file and its number of names, the target of a symbolic link, or the number of a
/// device.
fn merge(layers: Vec<Tar>) -> Result<Vec<String>> {
    let mut tree = Tree::default();
    for layer in layers {
        tree.begin_layer();
        let archive = layer.end();
        let mut reader = Reader::new(&archive[..]);
        while let Some(entry) = reader.next_entry()? {
            let content = node::Content {
                size: entry.size,
                ..Default::default()
            };
            tree.apply(&entry, content)?;
        }
    }
    let mut lines = Vec::new();
    list(&tree, ROOT, "", &mut lines);
    Ok(lines)
}

fn list(tree: &Tree, directory: Id, path: &str, lines: &mut Vec<String>) {
    for (name, child) in &tree.directory_at(directory).children {
        let node = tree.node(child.id);
        let path = format!("{path}{}", name.escape_ascii());
        let (mode, links) = (node.mode, node.links);
        match &node.kind {
            Kind::Directory(_) => {
                lines.push(format!("{path}/ {mode:o}"));
                list(tree, child.id, &format!("{path}/"), lines);
            }
            Kind::File(content) => lines.push(format!("{path} {} x{links}", content.size)),
            Kind::Symlink(target) => lines.push(format!("{path} -> {}", target.escape_ascii())),
            Kind::Char(number) | Kind::Block(number) => lines.push(format!("{path} {number:x}")),
            Kind::Fifo => lines.push(format!("{path} |")),
        }
    }
}

#[test]
fn layers_are_merged_as_if_unpacked_one_after_the_other() {
    let lower = Tar::new()
        .file("etc/a", "1")
        .file("etc/b", "22")
        .file("dir/x/y", "1")
        .symlink("lib", "usr/lib")
        .file("usr/lib/one", "1");
    let upper = Tar::new()
        .file("etc/.wh.a", "")
        .file("etc/c", "333")
        .file("dir/.wh..wh..opq", "")
        .file("dir/new", "")
        .file("lib/two", "22")
        .hardlink("three", "lib/two")
        .member(Header::new(b'3', "device").device(259, 300), "");
    let found = merge(vec![lower, upper]).unwrap();
    let expected = [
        "device 11003032c",
        "dir/ 755",
        "dir/new 0 x1",
        "etc/ 755",
        "etc/b 2 x1",
        "etc/c 3 x1",
        "lib -> usr/lib",
        "three 2 x2",
        "usr/ 755",
        "usr/lib/ 755",
        "usr/lib/one 1 x1",
        "usr/lib/two 2 x2",
    ];
    let device = format!("device {:x}", 300 & 0xff | 259 << 8 | (300 & !0xff) << 12);
    let expected: Vec<String> = std::iter::once(device)
        .chain(expected[1..].iter().map(|&line| line.to_owned()))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn whiteouts_spare_what_their_layer_adds_in_any_order() {
    let lower = || Tar::new().file("d/old", "").file("f", "old");
    for upper in [
        Tar::new()
            .file(".wh.d", "")
            .file("d/new", "")
            .file(".wh.f", "")
            .file("f", ""),
        Tar::new()
            .file("d/new", "")
            .file(".wh.d", "")
            .file("f", "")
            .file(".wh.f", ""),
        Tar::new()
            .file("d/new", "")
            .file("d/.wh..wh..opq", "")
            .file("f", ""),
    ] {
        let found = merge(vec![lower(), upper]).unwrap();
        assert_eq!(found, ["d/ 755", "d/new 0 x1", "f 0 x1"]);
    }
    let nothing = Tar::new().file("absent/.wh.x", "").file("f/.wh.x", "");
    let found = merge(vec![lower(), nothing]).unwrap();
    assert_eq!(found, ["d/ 755", "d/old 0 x1", "f 3 x1"]);
}

#[test]
fn types_replace_each_other_and_links_stay_inside() {
    let lower = Tar::new()
        .file("a/b", "")
        .file("f", "")
        .symlink("up", "../../..");
    let upper = Tar::new()
        .file("a", "1")
        .file("f/g", "")
        .file("up/here", "");
    let found = merge(vec![lower, upper]).unwrap();
    assert_eq!(
        found,
        [
            "a 1 x1",
            "f/ 755",
            "f/g 0 x1",
            "here 0 x1",
            "up -> ../../.."
        ]
    );
}

/// Each of the 40 links leads through the one before it, and through 490 directories before that.
/// Without known links, each member needs more than 39,000 lookups.
#[test]
fn a_way_through_many_links_is_found_once() {
    let (deep, up) = ("d/".repeat(490), "../".repeat(490));
    let link = |tar: Tar, name: &str, target: &str| {
        tar.pax(&[("linkpath", target.as_bytes())])
            .symlink(name, "x")
    };
    let links = link(Tar::new(), "l1", &deep);
    let links = (2..=40).fold(links, |tar, n| {
        link(tar, &format!("l{n}"), &format!("{deep}{up}l{}", n - 1))
    });
    let members = (0..200).fold(links, |tar, n| tar.file(format!("l40/{n}/f"), ""));
    let found = merge(vec![members.clone()]).unwrap();
    for n in 0..200 {
        assert!(found.contains(&format!("{deep}{n}/f 0 x1")), "{n}");
    }
    // A known link counts as all the links that it leads through.
    let more = members.symlink("l41", "l40").file("l41/f", "");
    let error = merge(vec![more]).unwrap_err();
    assert_eq!(error.kind(), cas_core::ErrorKind::Corrupt, "{error}");
}

#[test]
fn a_way_is_found_again_after_a_link_or_a_directory_on_it_was_replaced() {
    for (what, layer, expected) in [
        (
            "a link",
            Tar::new()
                .symlink("l", "a")
                .symlink("m", "l")
                .file("m/1", "")
                .symlink("l", "b")
                .file("m/2", "")
                .file("l/3", ""),
            &["a/1 0 x1", "b/2 0 x1", "b/3 0 x1"][..],
        ),
        (
            "a directory",
            Tar::new()
                .symlink("l", "a/b")
                .file("l/1", "")
                .symlink("a", "c")
                .file("l/2", ""),
            &["c/b/2 0 x1"],
        ),
        (
            "a name of a link that has another name",
            Tar::new()
                .symlink("l", "a")
                .hardlink("k", "l")
                .file("l/1", "")
                .dir("l")
                .file("l/2", "")
                .file("k/3", ""),
            &["a/1 0 x1", "a/3 0 x1", "l/2 0 x1"],
        ),
        (
            "no name of a link that has names in two directories",
            Tar::new()
                .symlink("p/l", "a")
                .hardlink("q/l", "p/l")
                .file("p/l/1", "")
                .file("q/l/2", ""),
            &["p/a/1 0 x1", "q/a/2 0 x1"],
        ),
    ] {
        let mut found = merge(vec![layer]).unwrap();
        found.retain(|line| line.ends_with("x1"));
        assert_eq!(found, expected, "{what}");
    }
}

#[test]
fn members_that_cannot_be_applied_are_errors() {
    let looped = Tar::new()
        .symlink("a", "b")
        .symlink("b", "a")
        .file("a/x", "");
    for bad in [
        Tar::new().hardlink("a", "absent"),
        Tar::new().dir("d").hardlink("a", "d"),
        Tar::new().file("a", "").hardlink("a", "a"),
        Tar::new().file("d/a", "").hardlink("d", "d/a"),
        Tar::new().symlink(".", "x"),
        looped,
    ] {
        assert!(merge(vec![bad]).is_err());
    }
}

#[test]
fn what_is_removed_is_used_again() {
    let many = || (0..100).fold(Tar::new(), |tar, n| tar.file(format!("d/{n}"), ""));
    let mut tree = Tree::default();
    for _ in 0..10 {
        tree.begin_layer();
        for layer in [many(), Tar::new().file(".wh.d", "")] {
            tree.begin_layer();
            let archive = layer.end();
            let mut reader = Reader::new(&archive[..]);
            while let Some(entry) = reader.next_entry().unwrap() {
                tree.apply(&entry, node::Content::default()).unwrap();
            }
        }
    }
    assert!(tree.slots() <= 102, "{}", tree.slots());
}

#[test]
fn what_layers_bring_is_bounded() {
    let mut tree = Tree::default();
    tree.begin_layer();
    let attribute = |n: u32| {
        let mut value = vec![0; 60_000];
        value[..4].copy_from_slice(&n.to_le_bytes());
        value
    };
    let mut apply = |n: u32| {
        let archive = Tar::new()
            .pax(&[("SCHILY.xattr.user.n", &attribute(n))])
            .file("same", "")
            .end();
        let entry = Reader::new(&archive[..]).next_entry().unwrap().unwrap();
        tree.apply(&entry, node::Content::default())
    };
    let most = (limit::TREE / 60_010) as u32;
    for n in 0..most {
        apply(n).unwrap();
        // An attribute that is there already costs nothing more.
        apply(n).unwrap();
    }
    let error = (most..most + 3).find_map(|n| apply(n).err()).unwrap();
    assert_eq!(error.kind(), cas_core::ErrorKind::OutOfRange);
    assert!(error.to_string().contains("268435456 bytes"), "{error}");
}

/// The layer has used up nearly all lookups when the last member is applied. This member needs more
/// lookups than it allows, because its path leads through a link.
#[test]
fn a_layer_may_need_as_many_lookups_as_are_allowed_and_no_more() {
    let way = 100;
    let archive = Tar::new()
        .dir("d")
        .pax(&[("linkpath", "d/../".repeat(way / 2).as_bytes())])
        .symlink("link", "x")
        .file("link/file", "")
        .end();
    let allowed = limit::LOOKUPS + 3 * limit::LOOKUPS_BY_ENTRY + 4 * limit::LOOKUPS_BY_NAME;
    let apply = |more| {
        let mut tree = Tree::default();
        tree.begin_layer();
        let mut reader = Reader::new(&archive[..]);
        while let Some(entry) = reader.next_entry()? {
            if &entry.path[..] == b"link/file" {
                // The link is one more name.
                let others = allowed as usize - way - 1 + more;
                tree.cost.count_lookups(others).unwrap();
            }
            tree.apply(&entry, node::Content::default())?;
        }
        Ok(())
    };
    apply(0).unwrap();
    let error: cas_core::Error = apply(1).unwrap_err();
    assert_eq!(error.kind(), cas_core::ErrorKind::OutOfRange);
    let said = format!("more than the {allowed} lookups");
    assert!(error.to_string().contains(&said), "{error}");
}

#[test]
fn a_tree_has_as_many_nodes_as_are_allowed_and_no_more() {
    use cas_core::limit::INODES;
    use node::{Directory, Node, ROOT};
    let mut tree = Tree::default();
    let more = |tree: &mut Tree| tree.insert(Node::implied(Directory::new(ROOT, 1)));
    while tree.nodes.len() < INODES {
        more(&mut tree).unwrap();
    }
    let error = more(&mut tree).unwrap_err();
    assert_eq!(error.kind(), cas_core::ErrorKind::OutOfRange, "{error}");
    // The place of a removed node is free again.
    tree.free.push(7);
    assert_eq!(more(&mut tree).unwrap(), 7);
}
