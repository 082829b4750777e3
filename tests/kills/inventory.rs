//! What exists in a place.

use std::collections::{BTreeMap, BTreeSet};

use testkit::inventory;

/// Lists of what exists in a place.
pub(crate) struct Inventory {
    /// Files, mounts, records, ingests and snapshots.
    pub(crate) root: inventory::Inventory,
    /// How many objects of a store in S3 have each name.
    pub(crate) objects: BTreeMap<String, usize>,
    /// The command lines of processes.
    pub(crate) processes: Vec<String>,
}

impl Inventory {
    /// Returns a line for each difference between this inventory and `before`, in which no process
    /// ran.
    pub(crate) fn differences(&self, before: &Inventory) -> Vec<String> {
        let mut found = self.root.differences(&before.root);
        let names: BTreeSet<_> = self.objects.keys().chain(before.objects.keys()).collect();
        for name in names {
            let [now, then] = [self, before].map(|one| one.objects.get(name).unwrap_or(&0));
            if now != then {
                found.push(format!(
                    "object {name}: found {now} times instead of {then}"
                ));
            }
        }
        let processes = self.processes.iter();
        found.extend(processes.map(|process| format!("process {process}")));
        found
    }
}
