//! Mount tables of the kernel, and manifests of the trees of snapshots.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use cas_core::Result;
use cas_core::snapshot::Mount;
use cas_host::fuzzing;

use super::{accepted, scratch, texts};
use crate::Target;

pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "mount-table",
        run: mount_table,
        seeds: || {
            texts(&[
                "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n30 22 0:25 /x\\040y /srv/m ro - overlay 7\\040fs lowerdir=/srv/overlay/snapshots/7/fs,upperdir=/a\n",
                "31 22 7:0 / /srv/m ro - erofs /dev/loop0 ro\n",
            ])
        },
        longest: 1000,
    },
    Target {
        name: "tree-manifest",
        run: manifest,
        seeds: || {
            let earlier = texts(&[
                "d 755 0 0 - 1.0 0 5a0 /dir\nf 644 0 0 5 1.0 0 a5c /dir/a\\x20file\nend 2\n",
            ]);
            tree_manifest().into_iter().chain(earlier).collect()
        },
        longest: 1000,
    },
];

/// Looks for mounts in a table. Accepts the table if something is mounted at `/srv/m`.
fn mount_table(input: &[u8]) -> bool {
    let Ok(table) = String::from_utf8(input.to_vec()) else {
        return false;
    };
    let mounted = fuzzing::mounted_dirs(table);
    let place = Path::new("/srv/m");
    let layers = vec![PathBuf::from("/srv/overlay/snapshots/7/fs")];
    let mounts = [
        Mount::Bind {
            source: layers[0].clone(),
            read_only: true,
        },
        Mount::Overlay {
            lower: layers,
            upper: None,
            work: None,
            options: Vec::new(),
        },
    ];
    for mount in &mounts {
        let mount = std::slice::from_ref(mount);
        let shown = mounted.shows(place, mount);
        let foreign = mounted.is_foreign(place, mount);
        assert!(!(shown || foreign) || mounted.has(place));
    }
    assert!(
        mounted
            .places_below(place)
            .all(|below| below.starts_with(place))
    );
    mounted.has(place)
}

/// Makes a tree and an empty file for its manifest. Returns their directory, the tree and the file.
fn tree() -> Result<(tempfile::TempDir, File, File)> {
    let directory = scratch()?;
    let path = directory.path();
    fs::create_dir_all(path.join("tree/dir"))?;
    fs::write(path.join("tree/dir/a file"), "hello")?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true);
    let manifest = options.open(path.join("manifest"))?;
    let tree = File::open(path.join("tree"))?;
    Ok((directory, tree, manifest))
}

fn tree_manifest() -> Result<Vec<u8>> {
    let (directory, tree, file) = tree()?;
    fuzzing::write(&tree, file)?;
    Ok(fs::read(directory.path().join("manifest"))?)
}

/// Compares a tree with its manifest, the list of the entries of the tree. A damaged manifest is
/// not compared, so it counts as accepted.
fn manifest(input: &[u8]) -> bool {
    let compare = || {
        let (directory, tree, file) = tree()?;
        fs::write(directory.path().join("manifest"), input)?;
        let found = fuzzing::compare(&tree, &file)?;
        if let Some(differences) = &found {
            assert!(differences.len() < 4096, "{differences}");
        }
        Ok(found)
    };
    accepted(compare())
}
