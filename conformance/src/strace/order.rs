//! What reaches the disk before what: no crash that a test can make shows a sync that is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::calls::{Call, parse};
use crate::Subject;
use crate::crash::MARK;

/// What is known of the files of a store at one moment of a trace.
struct Disk<'a> {
    /// What the bytes in question contain.
    marker: &'a str,
    /// Below which files count.
    store: PathBuf,
    /// Files that those bytes were written to.
    files: BTreeMap<PathBuf, State>,
    /// Names that their directories may lose.
    names: BTreeSet<PathBuf>,
    /// Paths that are there.
    known: BTreeSet<PathBuf>,
}

#[derive(Clone, Copy, Default)]
struct State {
    /// It may lose bytes.
    dirty: bool,
    /// It was given its name by a rename or a link, which says that it is whole.
    named: bool,
}

impl<S: ?Sized + 'static> Subject<S> {
    /// Watches a victim of this law, whose bytes contain `marker`: at each acknowledgement the
    /// files that have them are synced, and so are their names.
    pub(crate) fn syncs_before_it_acknowledges(&self, marker: &str) {
        let Some(whole) = self.watched() else {
            return;
        };
        let mut disk = Disk {
            marker,
            store: whole.store.into(),
            files: BTreeMap::new(),
            names: BTreeSet::new(),
            known: BTreeSet::new(),
        };
        for call in parse(&whole.trace) {
            match call.given.split_once(&format!("\"{MARK}")) {
                Some((_, said)) => disk.check(said.split("\\n").next().unwrap_or_default()),
                None if call.succeeded() => disk.see(&call),
                None => {}
            }
        }
        assert!(
            !disk.files.is_empty(),
            "no call is seen that writes the bytes below the store's directory"
        );
    }
}

impl Disk<'_> {
    fn see(&mut self, call: &Call) {
        match call.name.as_str() {
            "write" | "pwrite64" | "writev" | "pwritev" | "pwritev2" => self.write(call),
            "fsync" | "fdatasync" => self.sync(call.file(0)),
            "syncfs" => {
                self.names.clear();
                self.files.values_mut().for_each(|file| file.dirty = false);
            }
            "open" if call.creates() => self.create(call.path(0)),
            "openat" if call.creates() => self.create(call.path(1)),
            "creat" | "mkdir" => self.create(call.path(0)),
            "mkdirat" => self.create(call.path(1)),
            "rename" => self.name(call.path(0), call.path(1), true),
            "renameat" | "renameat2" => self.name(call.path(1), call.path(3), true),
            "link" => self.name(call.path(0), call.path(1), false),
            "linkat" => self.name(call.path(1), call.path(3), false),
            "unlink" | "rmdir" => self.forget(call.path(0)),
            "unlinkat" => self.forget(call.path(1)),
            _ => {}
        }
    }

    fn write(&mut self, call: &Call) {
        let path = call.file(0).filter(|path| path.starts_with(&self.store));
        let Some(path) = path else { return };
        if call.given.contains(self.marker) {
            self.files.entry(path.clone()).or_default();
        }
        if let Some(file) = self.files.get_mut(&path) {
            assert!(!file.named, "{path:?} is written to after it had its name");
            file.dirty = true;
        }
    }

    fn sync(&mut self, path: Option<PathBuf>) {
        let Some(path) = path else { return };
        if let Some(file) = self.files.get_mut(&path) {
            file.dirty = false;
        }
        self.names.retain(|name| name.parent() != Some(&path));
    }

    fn create(&mut self, path: Option<PathBuf>) {
        let path = path.filter(|path| path.starts_with(&self.store));
        if let Some(path) = path.filter(|path| self.known.insert(path.clone())) {
            self.names.insert(path);
        }
    }

    fn name(&mut self, from: Option<PathBuf>, to: Option<PathBuf>, moves: bool) {
        let (Some(from), Some(to)) = (from, to) else {
            return;
        };
        let file = self.files.get(&from).copied();
        if moves {
            self.forget(Some(from));
        }
        match file {
            Some(file) => {
                assert!(!file.dirty, "{to:?} has its name before it is synced");
                let named = State { named: true, ..file };
                self.files.insert(to.clone(), named);
            }
            None => {
                self.files.remove(&to);
            }
        }
        self.known.insert(to.clone());
        self.names.insert(to);
    }

    fn forget(&mut self, path: Option<PathBuf>) {
        let Some(path) = path else { return };
        self.files.remove(&path);
        self.names.remove(&path);
        self.known.remove(&path);
    }

    /// What must hold when the store says that `step` is done.
    fn check(&self, step: &str) {
        for (path, file) in &self.files {
            assert!(!file.dirty, "{step}: {path:?} is not synced");
            let lost = |name: &&Path| self.names.contains(*name);
            if let Some(name) = path.ancestors().find(lost) {
                panic!("{step}: the directory of {name:?} is not synced");
            }
        }
    }
}
