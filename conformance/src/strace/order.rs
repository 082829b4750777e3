//! Checks the order of writes, syncs and acknowledgements in a trace, because no crash that a test
//! can cause reveals a missing sync.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::aim::Aim;
use super::calls::{CALLS, Call, parse};
use super::{ALL, Ended, Fault, in_memory, points};
use crate::Subject;
use crate::crash::MARK;

/// The state of a store's files at one point of a trace.
struct Disk<'a> {
    /// The text that marks the bytes in question.
    marker: &'a str,
    /// The directory of the store.
    store: PathBuf,
    /// Files with marked bytes, and whether some of their bytes are not synced.
    files: BTreeMap<PathBuf, bool>,
    /// Whether marked bytes were written since the last acknowledgement.
    written: bool,
    /// Names whose directories are not synced.
    names: BTreeSet<PathBuf>,
    /// Paths that exist.
    known: BTreeSet<PathBuf>,
    /// Files with marked bytes whose sync failed. A later sync that succeeds proves nothing.
    lost: BTreeSet<PathBuf>,
    /// Files with marked bytes that were not synced when a sync of the whole file system failed. A
    /// later sync of the whole file system proves nothing about them. A sync of the file itself
    /// does, because the kernel reports a failed write of the file there, too.
    doubtful: BTreeSet<PathBuf>,
}

impl<S: ?Sized + 'static> Subject<S> {
    /// Traces a victim of this law. The victim writes bytes that contain `marker`. At each
    /// acknowledgement, the files with those bytes must be synced, and so must their names. Then
    /// makes each sync, or a selection of them, fail in turn. Nothing that depends on a failed sync
    /// may be acknowledged.
    pub(crate) fn syncs_before_it_acknowledges(&self, marker: &str) {
        let Some(whole) = self.run_without_fault() else {
            return;
        };
        let seen = Disk::watch(marker, &whole);
        assert!(
            seen.is_some(),
            "found no write of bytes that contain {marker:?} to a file in the store's directory"
        );
        let calls = parse(&whole.trace);
        let syncs: Vec<_> = calls
            .iter()
            .filter(|call| call.syncs() && call.changes(&whole.store))
            .collect();
        for at in points(syncs.len()) {
            let aim = Aim::by_number(syncs[at]);
            let ended = self
                .elsewhere(&in_memory())
                .run_with_fault(&aim, Fault::Error, CALLS);
            Disk::watch(marker, &ended);
        }
    }
}

impl<'a> Disk<'a> {
    /// Follows a victim through its trace. Returns `None` if the victim writes no marked bytes
    /// below the directory of its store.
    ///
    /// # Panics
    /// If the victim acknowledges a step too early, or gives a new name to a file with marked bytes
    /// before it syncs the file.
    fn watch(marker: &'a str, ended: &Ended) -> Option<()> {
        let mut disk = Disk {
            marker,
            store: ended.store.clone().into(),
            files: BTreeMap::new(),
            written: false,
            names: BTreeSet::new(),
            known: BTreeSet::new(),
            lost: BTreeSet::new(),
            doubtful: BTreeSet::new(),
        };
        let mut seen = None;
        for call in parse(&ended.trace) {
            match call.given.split_once(&format!("\"{MARK}")) {
                Some((_, acknowledged)) => {
                    let step = acknowledged.split("\\n").next().unwrap_or_default();
                    // `all` and `refused KIND` are printed at the end of the job, and are not
                    // steps. No text with a space is a step.
                    if step != ALL && !step.contains(' ') {
                        disk.check(step);
                    }
                }
                None if call.succeeded() => disk.see(&call),
                None if call.name == "syncfs" => disk.doubt(),
                None if call.syncs() => disk.lose(call.file(0)),
                None => {}
            }
            seen = seen.or((!disk.files.is_empty()).then_some(()));
        }
        seen
    }

    fn see(&mut self, call: &Call) {
        match call.name.as_str() {
            "write" | "pwrite64" | "writev" | "pwritev" | "pwritev2" => self.write(call),
            "fsync" | "fdatasync" => self.sync(call.file(0)),
            "syncfs" => {
                self.names.clear();
                for (path, dirty) in &mut self.files {
                    *dirty &= self.doubtful.contains(path);
                }
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
            self.written = true;
            self.files.insert(path, true);
        } else if let Some(dirty) = self.files.get_mut(&path) {
            *dirty = true;
        }
    }

    fn sync(&mut self, path: Option<PathBuf>) {
        let Some(path) = path else { return };
        if let Some(dirty) = self.files.get_mut(&path) {
            *dirty = false;
        }
        self.doubtful.remove(&path);
        self.names.retain(|name| name.parent() != Some(&path));
    }

    fn doubt(&mut self) {
        let dirty = self.files.iter().filter(|(_, dirty)| **dirty);
        self.doubtful.extend(dirty.map(|(path, _)| path.clone()));
    }

    fn lose(&mut self, path: Option<PathBuf>) {
        let files = |path: &PathBuf| self.files.contains_key(path);
        self.lost.extend(path.filter(files));
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
        for marks in [&mut self.lost, &mut self.doubtful] {
            marks.remove(&to);
            if marks.contains(&from) {
                marks.insert(to.clone());
            }
        }
        if moves {
            self.forget(Some(from));
        }
        match file {
            Some(dirty) => {
                assert!(!dirty, "a file that is not synced gets the name {to:?}");
                self.files.insert(to.clone(), dirty);
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
        self.lost.remove(&path);
        self.doubtful.remove(&path);
    }

    /// Checks the files when the store acknowledges `step`.
    fn check(&mut self, step: &str) {
        let written = std::mem::take(&mut self.written);
        assert!(
            written,
            "`{step}` is acknowledged, but no bytes that contain {:?} were written to a file in \
             the store's directory since the previous acknowledgement",
            self.marker
        );
        for (path, dirty) in &self.files {
            assert!(
                !dirty,
                "`{step}` is acknowledged, but {path:?} is not synced"
            );
            if let Some(name) = path.ancestors().find(|name| self.names.contains(*name)) {
                panic!(
                    "`{step}` is acknowledged, but the directory that contains {name:?} is not \
                     synced"
                );
            }
            let lost = self.lost.contains(path);
            assert!(
                !lost,
                "`{step}` is acknowledged, but a sync of {path:?} failed; a later sync that \
                 succeeds proves nothing"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;

    /// Returns whether a store may acknowledge a step after these calls.
    fn may_acknowledge(calls: &[&str]) -> bool {
        let mut trace = String::new();
        for call in calls {
            trace += &format!("7 {call}\n");
        }
        trace += &format!("7 write(2</dev/null>, \"{MARK}one\\n\", 17) = 17\n");
        let ended = Ended {
            acknowledged: Vec::new(),
            other: String::new(),
            trace,
            store: "/s".to_owned(),
        };
        catch_unwind(|| Disk::watch("marked", &ended)).is_ok()
    }

    #[test]
    fn after_a_failed_sync_of_the_file_system_only_a_sync_of_the_file_proves_anything() {
        let write = "write(3</s/a>, \"marked\", 6) = 6";
        let other = "write(3</s/b>, \"marked\", 6) = 6";
        let whole = "syncfs(4</s>) = 0";
        let failed = "syncfs(4</s>) = -1 EIO (Input/output error)";
        let sync = "fdatasync(3</s/a>) = 0";
        let lost = "fdatasync(3</s/a>) = -1 EIO (Input/output error)";
        for (calls, expected) in [
            (&[write, whole][..], true),
            (&[write, failed], false),
            (&[write, failed, whole], false),
            (&[write, failed, sync], true),
            (&[write, failed, lost, sync], false),
            (&[write, sync, failed], true),
            (&[write, failed, sync, other, whole], true),
            (&[write, failed, sync, write, whole], true),
        ] {
            assert_eq!(may_acknowledge(calls), expected, "{calls:?}");
        }
    }
}
