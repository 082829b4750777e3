//! Parses traces of strace: the calls, in the order of their returns.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The calls that change the disk or sync it. A question mark precedes each call that some machines
/// do not have, because strace otherwise refuses an unknown name.
pub(super) const CALLS: &str = "write,pwrite64,writev,pwritev,pwritev2,copy_file_range,ftruncate,\
    ?truncate,fallocate,fsync,fdatasync,sync_file_range,syncfs,msync,?open,?creat,openat,?rename,\
    ?renameat,renameat2,?link,linkat,?symlink,symlinkat,?unlink,unlinkat,?mkdir,mkdirat,?rmdir";

/// One call that returned.
#[derive(Clone, Debug)]
pub(super) struct Call {
    /// The thread that made the call.
    pub(super) thread: String,
    /// The name of the call.
    pub(super) name: String,
    /// The arguments, as strace prints them.
    pub(super) given: String,
    /// The result of the call.
    pub(super) result: String,
    /// The number of the call among the calls of this name in its thread, from 1, as strace counts.
    pub(super) nth: usize,
}

/// Returns the calls in a trace of `strace -f`.
pub(super) fn parse(trace: &str) -> Vec<Call> {
    let mut counts: HashMap<(&str, String), usize> = HashMap::new();
    let mut begun: HashMap<&str, (String, String, usize)> = HashMap::new();
    let mut calls = Vec::new();
    for line in trace.lines() {
        let Some((thread, text)) = line.split_once(' ') else {
            continue;
        };
        let text = text.trim_start();
        let (name, given, nth) = if let Some(text) = text.strip_prefix("<... ") {
            let Some((name, mut given, nth)) = begun.remove(thread) else {
                continue;
            };
            given.push_str(text.split_once("resumed>").map_or("", |(_, rest)| rest));
            (name, given, nth)
        } else if let Some((name, given)) = text.split_once('(') {
            let name = name.to_owned();
            let nth = counts.entry((thread, name.clone())).or_default();
            *nth += 1;
            if let Some((given, _)) = given.split_once("<unfinished ...>") {
                begun.insert(thread, (name, given.to_owned(), *nth));
                continue;
            }
            (name, given.to_owned(), *nth)
        } else {
            continue;
        };
        if let Some((given, result)) = given.rsplit_once(") = ") {
            calls.push(Call {
                thread: thread.to_owned(),
                name,
                given: given.to_owned(),
                result: result.to_owned(),
                nth,
            });
        }
    }
    calls
}

impl Call {
    /// Returns whether the call succeeded.
    pub(super) fn succeeded(&self) -> bool {
        !self.result.starts_with(['-', '?'])
    }

    /// Returns whether the call, if it succeeded, may have changed or synced something at or below
    /// `dir`.
    pub(super) fn changes(&self, dir: &str) -> bool {
        let changes = !self.opens() || self.creates() || self.given.contains("O_TRUNC");
        // Only paths are compared, because data that is written may contain the text of `dir`, too.
        changes && self.paths().iter().any(|path| path.starts_with(dir))
    }

    /// Returns whether the call is a sync. `sync_file_range` gives no guarantee, so it does not
    /// count.
    pub(super) fn syncs(&self) -> bool {
        matches!(
            self.name.as_str(),
            "fsync" | "fdatasync" | "syncfs" | "msync"
        )
    }

    /// Returns whether the call is `open` or `openat`.
    pub(super) fn opens(&self) -> bool {
        matches!(self.name.as_str(), "open" | "openat")
    }

    /// Returns whether the call has the flag `O_CREAT`, which creates the file if the file does not
    /// exist.
    pub(super) fn creates(&self) -> bool {
        self.given.contains("O_CREAT")
    }

    /// Returns the arguments of the call, separated.
    pub(super) fn arguments(&self) -> Vec<&str> {
        let (mut parts, mut start) = (Vec::new(), 0);
        let (mut quoted, mut escaped, mut depth) = (false, false, 0_usize);
        for (at, byte) in self.given.bytes().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                _ if quoted => {}
                b'[' | b'{' => depth += 1,
                b']' | b'}' => depth = depth.saturating_sub(1),
                b',' if depth == 0 => {
                    parts.push(self.given[start..at].trim());
                    start = at + 1;
                }
                _ => {}
            }
        }
        parts.push(self.given[start..].trim());
        parts
    }

    /// Returns the last path in the arguments, or `None` if there is none. The path is an argument
    /// in quotes, or the path of a file descriptor. strace can filter by this path.
    pub(super) fn about(&self) -> Option<String> {
        self.paths().pop()
    }

    /// Returns whether the option `-P path` of strace selects the call.
    pub(super) fn is_about(&self, path: &str) -> bool {
        self.paths().iter().any(|found| found == path)
    }

    fn paths(&self) -> Vec<String> {
        let mut arguments = self.arguments();
        if self.name.contains("write") {
            // The rest is data.
            arguments.truncate(1);
        }
        let path = |argument: &&str| match argument.strip_prefix('"') {
            Some(written) => written.strip_suffix('"').map(str::to_owned),
            None if argument.starts_with("AT_FDCWD") => None,
            None => Some(described(argument)?.to_str()?.to_owned()),
        };
        arguments.iter().filter_map(path).collect()
    }

    /// Returns the path of the file descriptor that is argument number `at`, counted from 0.
    pub(super) fn file(&self, at: usize) -> Option<PathBuf> {
        described(self.arguments().get(at)?)
    }

    /// Returns the path in argument number `at`, counted from 0. If the argument before it is the
    /// file descriptor of a directory, the path is below that directory.
    pub(super) fn path(&self, at: usize) -> Option<PathBuf> {
        let arguments = self.arguments();
        let name = arguments.get(at)?.strip_prefix('"')?.strip_suffix('"')?;
        let before = at.checked_sub(1).and_then(|at| arguments.get(at));
        let dir = before.filter(|dir| !dir.starts_with('"'));
        let dir = dir.and_then(|dir| described(dir)).unwrap_or_default();
        Some(match name {
            "" => dir,
            name => dir.join(name),
        })
    }
}

/// Returns the path that `-y` prints for a file descriptor: `3</path>`.
fn described(argument: &str) -> Option<PathBuf> {
    let (_, path) = argument.split_once('<')?;
    let path = path.split_once('>')?.0;
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    Some(Path::new(path).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_strace_writes() {
        let trace = "\
7 openat(3</s/a>, \"b\", O_RDWR|O_CREAT, 0666) = 4</s/a/b>
7 write(4</s/a/b>, \"x, \\\")\", 5 <unfinished ...>
8 write(5</s/c>, \"\", 0) = 0
7 <... write resumed>) = 5
7 write(4</s/a/b>, \"\"..., 9) = -1 EIO (Input/output error) (INJECTED)
7 +++ exited with 0 +++
";
        let calls = parse(trace);
        let seen: Vec<_> = calls
            .iter()
            .map(|call| (call.name.as_str(), call.nth))
            .collect();
        assert_eq!(
            seen,
            [("openat", 1), ("write", 1), ("write", 1), ("write", 2)]
        );
        assert_eq!(calls[0].path(1), Some("/s/a/b".into()));
        assert_eq!(calls[2].arguments(), ["4</s/a/b>", "\"x, \\\")\"", "5"]);
        assert_eq!(calls[2].file(0), Some("/s/a/b".into()));
        assert_eq!(calls[0].about().as_deref(), Some("b"));
        assert_eq!(calls[2].about().as_deref(), Some("/s/a/b"));
        assert!(calls[0].is_about("/s/a") && !calls[0].is_about("/s"));
        assert!(calls[0].changes("/s/a") && calls[2].succeeded() && !calls[3].succeeded());
    }
}
