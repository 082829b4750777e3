//! Lists of the files, mounts, records, ingests and snapshots of a root, for comparisons.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cas_core::records::Table;
use cas_core::{Snapshotter, Store, snapshot};

/// How many bytes more the files may occupy than those of the inventory with which they are
/// compared. Databases keep free pages for later use, and redb shrinks its file only once a quarter
/// of it is free.
const SLACK: u64 = 2 << 20;

/// A list of files, mounts, records, ingests and snapshots. The default list is empty. The paths of
/// files have `N` in place of each component that consists of digits and dots, because the number
/// of a file may differ between runs.
#[derive(Default)]
pub struct Inventory {
    things: BTreeMap<String, usize>,
    bytes: u64,
}

impl Inventory {
    /// Lists the files and mounts below `scratch`, and the records, ingests and snapshots of the
    /// open root `root`, which is below `scratch`. Leaves out files that may differ between
    /// inventories even if no operation was interrupted: working files of database engines, and
    /// the directories and images that the kernel or a snapshotter creates at the first use.
    ///
    /// # Panics
    /// If the root cannot be read.
    pub async fn take(
        scratch: &Path,
        root: &Path,
        store: &Store,
        snapshotter: &dyn Snapshotter,
    ) -> Self {
        let mut inventory = Inventory::default();
        inventory.add_files(scratch, root);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let here = scratch.to_str().unwrap();
        for line in mounts.lines().filter(|line| line.contains(here)) {
            inventory.add(format!("mount {line}"));
        }
        for table in Table::ALL {
            let found = store.records.scan(table, "", None, 10_000).await;
            for record in found.unwrap() {
                inventory.add(format!("record {}/{}", table.name(), record.key));
            }
        }
        for ingest in store.content.ingests().await.unwrap() {
            inventory.add(format!("ingest {}", ingest.key));
        }
        for info in snapshot::all(snapshotter).await.unwrap() {
            inventory.add(format!("snapshot {:?} {}", info.kind, info.key));
        }
        inventory
    }

    fn add(&mut self, thing: String) {
        *self.things.entry(thing).or_default() += 1;
    }

    fn add_files(&mut self, directory: &Path, root: &Path) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            // An engine may remove its files while the store is open.
            let Ok(data) = path.symlink_metadata() else {
                continue;
            };
            let below = path.strip_prefix(root).unwrap_or(&path).to_str().unwrap();
            if !is_changing(below) {
                self.bytes += data.blocks() * 512;
                self.add(format!("file {}", without_numbers(below)));
            }
            if data.is_dir() {
                self.add_files(&path, root);
            }
        }
    }

    /// Returns a line for each entry whose number of occurrences differs between this inventory and
    /// `before`. Returns one more line if the files of this inventory occupy over 2 MiB more than
    /// the files of `before`.
    pub fn differences(&self, before: &Inventory) -> Vec<String> {
        let mut found = Vec::new();
        let names = self.things.keys().chain(before.things.keys());
        let names: std::collections::BTreeSet<&String> = names.collect();
        for name in names {
            let count = |one: &Inventory| one.things.get(name).copied().unwrap_or(0);
            if count(self) != count(before) {
                found.push(format!(
                    "{name}: found {} times instead of {}",
                    count(self),
                    count(before)
                ));
            }
        }
        if self.bytes > before.bytes + SLACK {
            found.push(format!(
                "the files occupy {} bytes instead of {}",
                self.bytes, before.bytes
            ));
        }
        found
    }
}

/// Returns whether an engine, the kernel or a snapshotter makes and removes this file as it needs
/// to.
fn is_changing(path: &str) -> bool {
    let engine = [".sst", ".log", ".blob", "-wal", "-shm"];
    let rocks = ["LOG", "MANIFEST", "OPTIONS", "CURRENT"];
    // The kernel makes this directory in a snapshot that it mounts writable.
    if path.ends_with("/work/work") {
        return true;
    }
    let name = path.rsplit('/').next().unwrap_or_default();
    // The first parallel unpack makes this directory, which stays. What is in it is compared.
    if path.starts_with("snapshots/") && name == "jobs" {
        return true;
    }
    // The first mount of a snapshot makes its image, which is removed with the snapshot.
    if name == "image.erofs" || name == "image.json" {
        return true;
    }
    engine.iter().any(|end| name.ends_with(end)) || rocks.iter().any(|one| name.starts_with(one))
}

/// Replaces the numbers of snapshots and of the parts of blobs by `N`.
fn without_numbers(path: &str) -> String {
    let is_number = |part: &str| {
        part.bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.')
    };
    let parts = path
        .split('/')
        .map(|part| if is_number(part) { "N" } else { part });
    parts.collect::<Vec<_>>().join("/")
}
