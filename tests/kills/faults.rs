//! Errors of system calls. Each call of a verb that reads or changes files or mounts fails in one
//! run of the verb.
//!
//! strace counts the calls of each thread. So if several threads make a call with the same number,
//! all of these calls fail in the same run.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};
use std::{fmt, fs, thread};

use crate::common::{append, can, text};
use crate::place::Place;
use crate::run::{PROGRAMS, Struck, World, chosen, strike_each};
use crate::strike;
use crate::verbs::{self, Verb, images};

/// The calls that fail with EIO. A question mark precedes each call that some machines do not have,
/// because strace otherwise refuses an unknown name.
const READS: &[&str] = &[
    "?open",
    "openat",
    "openat2",
    "read",
    "pread64",
    "statx",
    "newfstatat",
    "getdents64",
    "fgetxattr",
    "flock",
    "ioctl",
    "mount",
    "umount2",
    "?open_tree",
    "?move_mount",
    "?fsopen",
    "?fsconfig",
    "?fsmount",
    "?mount_setattr",
    "fchmod",
    "fchmodat",
    "fchown",
    "fchownat",
    "utimensat",
    "?unlink",
    "unlinkat",
    "?rmdir",
];
/// The calls that fail with EIO, and in other runs with ENOSPC.
const WRITES: &[&str] = &[
    "write",
    "pwrite64",
    "fsync",
    "fdatasync",
    "syncfs",
    "ftruncate",
    "fallocate",
    "copy_file_range",
    "?mkdir",
    "mkdirat",
    "?rename",
    "renameat",
    "renameat2",
    "?link",
    "linkat",
    "?symlink",
    "symlinkat",
    "fsetxattr",
    "setxattr",
    "lsetxattr",
];
/// How strace writes files that are not on a disk. Threads wake each other with them, so that an
/// error may end the process in any way.
const OTHER_FILES: &[&str] = &["<anon_inode:", "<pipe:", "<socket:", "<UNIX", "<TCP"];
/// The calls whose EIO a verb must report, except for those of [`SPARE`]. After ENOSPC, a store may
/// use its reserve and repeat its work.
const SYNCS: &[&str] = &["fsync", "fdatasync", "syncfs"];
/// How strace writes files whose syncs may fail. When SQLite closes its database, it copies its log
/// into it. If that fails, the log stays, and nothing is lost. SQLite does not report a failed sync
/// of its directory. If the list of the directories that a root has made is lost, the next opening
/// of the root writes it again.
const SPARE: &[&str] = &["/records.db>", "/local>", "/local/.made.json>"];
/// How strace marks the result of a call that it made fail.
const INJECTED: &str = "(INJECTED)";
/// The time in which a verb must end.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The exit code of a panic.
const PANIC: i32 = 101;
/// The exit code of a program whose libraries cannot be loaded.
const NOT_LOADED: i32 = 127;

/// A call that fails.
struct Fault {
    call: &'static str,
    error: &'static str,
    /// The number of the call among the calls of its thread with this name, from 1.
    number: usize,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault {
            call,
            error,
            number,
        } = self;
        write!(f, "{error} from call {number} of {call}")
    }
}

/// Prints the verb and the fault if a check of what is left panics.
struct Context(String);

impl Drop for Context {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

/// Makes the calls of all verbs fail, and reports together what was left of any.
pub(crate) fn fail_all(store: &str, snapshotter: &str) {
    if !can(PROGRAMS) || !can(&["strace"]) {
        return;
    }
    let each = std::env::var("CAS_FAULTS_EACH").map_or(1, |number| number.parse().unwrap());
    let which = match each {
        1 => String::new(),
        _ => format!(", one call in {each}"),
    };
    let verbs = chosen(verbs::of(store, snapshotter));
    strike_each(store, snapshotter, &which, &verbs, 1, |world, verb| {
        world.fail_verb(verb, READS, WRITES, each)
    });
}

/// Makes a few calls of an import fail.
pub(crate) fn fail_few(store: &str, snapshotter: &str) {
    if !can(&["strace"]) {
        return;
    }
    let mut verbs = images::VERBS.iter();
    let import = verbs.find(|verb| verb.name == "import").unwrap();
    strike_each(store, snapshotter, "", &[import], 1, |world, verb| {
        let struck = world.fail_verb(verb, &[], &["fsync", "renameat", "mkdirat"], 8);
        let few = struck.left.is_empty() && struck.times < 6;
        assert!(!few, "only {} calls failed", struck.times);
        struck
    });
}

/// Checks that these faults are reported: a program that leaves a file if it cannot be removed,
/// one that says nothing, one that is killed by a signal, and one that ignores a failed sync.
pub(crate) fn report_planted(store: &str, snapshotter: &str) {
    if !can(&["strace"]) {
        return;
    }
    let planted = |name, command| Verb {
        name,
        prepare: |_| {},
        command,
        recover: |_| {},
    };
    let mut world = World::new(store, snapshotter, &[]);
    for (verb, reported) in [
        (
            planted("leave", |place| shell(place, "rm $1/planted; true")),
            "planted",
        ),
        (
            planted("silent", |place| {
                shell(place, "rm -f $1/planted 2> /dev/null")
            }),
            "says nothing",
        ),
        (
            planted("killed", |place| {
                shell(place, "rm $1/planted || kill -SEGV $$")
            }),
            "signal",
        ),
        (
            planted("unsynced", |place| shell(place, "sync $1/planted; true")),
            "a sync failed",
        ),
    ] {
        let struck = world.fail_verb(&verb, &["unlinkat", "fsync"], &[], 1);
        let left = struck.left.join("\n");
        assert!(left.contains(reported), "{reported}: {left}");
        fs::remove_file(world.place.root.join("planted")).unwrap();
    }
}

/// Returns a command that writes a file into the root, and then runs a script.
fn shell(place: &Place, script: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("echo > $1/planted; {script}"), "sh"]);
    shell.arg(&place.root);
    shell
}

impl World {
    /// Makes one in `each` calls of `reads` and `writes` fail, until a collection leaves something
    /// or the verb ends in a wrong way.
    fn fail_verb(
        &mut self,
        verb: &Verb,
        reads: &[&'static str],
        writes: &[&'static str],
        each: usize,
    ) -> Struck {
        let reads = reads.iter().map(|call| (*call, "EIO"));
        let both = |call: &&'static str| [(*call, "EIO"), (*call, "ENOSPC")];
        let faults: Vec<_> = reads.chain(writes.iter().flat_map(both)).collect();
        let (mut times, mut left, begun) = (0, Vec::new(), Instant::now());
        'faults: for (call, error) in faults {
            for number in (1..).step_by(each) {
                let fault = Fault {
                    call,
                    error,
                    number,
                };
                let context = Context(format!("{}: {fault}", verb.name));
                let Some(wrong) = self.fail(verb, &fault) else {
                    (verb.recover)(&self.place);
                    break;
                };
                times += 1;
                left.extend(wrong);
                left.extend(self.left(verb));
                if !left.is_empty() {
                    left.insert(0, context.0.clone());
                    break 'faults;
                }
            }
        }
        self.add_damage(&mut left);
        let (name, spent) = (verb.name, begun.elapsed().as_secs());
        let result = match left.is_empty() {
            true => "nothing left".to_owned(),
            false => format!("LEFT {left:#?}"),
        };
        eprintln!("  {name}: {times} faults, {result} ({spent} s)");
        Struck { times, left }
    }

    /// Runs a verb in which a call fails. Returns `None` if the verb makes fewer calls. Otherwise
    /// returns in which way the verb ended wrongly, if it did.
    fn fail(&mut self, verb: &Verb, fault: &Fault) -> Option<Option<String>> {
        self.place.round += 1;
        (verb.prepare)(&self.place);
        let trace = tempfile::NamedTempFile::new().unwrap();
        let mut traced = under_strace(&(verb.command)(&self.place), fault, trace.path());
        let injected = || injected(&text(&fs::read(trace.path()).unwrap()));
        let is_other = |line: &String| OTHER_FILES.iter().any(|other| line.contains(other));
        // Such a process may wait for ever.
        let is_over = || injected().iter().any(is_other);
        let ended = strike::end_within(&mut traced, TIMEOUT, is_over);
        let injected = injected();
        let first = injected.first()?;
        if injected.iter().any(is_other) {
            return Some(None);
        }
        let is_spare = SPARE.iter().any(|file| first.contains(file));
        let must_fail = fault.error == "EIO" && SYNCS.contains(&fault.call) && !is_spare;
        Some(wrong(ended, must_fail).map(|wrong| format!("{wrong}: {first}")))
    }
}

/// Returns the calls that strace made fail. strace writes a call in two lines if another thread makes
/// a call meanwhile.
fn injected(trace: &str) -> Vec<String> {
    let mut begun = HashMap::new();
    let mut found = Vec::new();
    for line in trace.lines() {
        let thread = line.split(' ').next().unwrap_or_default();
        if line.contains("<unfinished ...>") {
            begun.insert(thread, line);
        } else if line.contains(INJECTED) {
            let first = begun.remove(thread).filter(|_| line.contains(" resumed>"));
            found.push([first.unwrap_or_default(), line].concat());
        }
    }
    found
}

fn under_strace(command: &Command, fault: &Fault, trace: &Path) -> Command {
    let Fault {
        call,
        error,
        number,
    } = fault;
    let mut strace = Command::new("strace");
    strace.args(["-f", "--seccomp-bpf", "-qq", "-y"]);
    strace.arg("-o").arg(trace);
    strace.arg("-e").arg(format!("trace={call}"));
    strace
        .arg("-e")
        .arg(format!("inject={call}:error={error}:when={number}"));
    append(&mut strace, command);
    strace
}

/// Returns in which way a verb ended wrongly. An error that is reported is right. A success is
/// right unless the verb `must_fail`, because some calls can fail without a consequence.
fn wrong(ended: Option<(ExitStatus, String)>, must_fail: bool) -> Option<String> {
    let Some((status, said)) = ended else {
        return Some(format!("did not end within {} s", TIMEOUT.as_secs()));
    };
    match status.code() {
        Some(NOT_LOADED) => None,
        Some(PANIC) => Some(format!("panicked: {said}")),
        Some(0) if must_fail => Some("succeeded although a sync failed".to_owned()),
        Some(0) => None,
        Some(code) if said.is_empty() => Some(format!("says nothing, and ends with {code}")),
        Some(_) => None,
        None => Some(format!("{status}: {said}")),
    }
}
