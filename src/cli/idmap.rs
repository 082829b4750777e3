//! ID mappings for a mount: ranges of ids, and the user namespace that passes them to the kernel.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitCode, Stdio};

use cas::bundle::IdRange;
use cas::{Context, Error, Result};
use clap::Args;
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Name of the hidden command that holds a user namespace.
const COMMAND: &str = "hold-namespace";

/// The greatest valid id. A range must not contain this id, because [`map`] may map this id to the
/// superuser.
const LAST: u32 = u32::MAX - 1;

/// Returns the range that `text` states. The range maps ids of the image to ids of the mount, and
/// must not contain [`LAST`].
///
/// # Errors
/// `InvalidArgument` if `text` is not a range, or if the range contains `LAST`.
pub(super) fn range(text: &str) -> Result<IdRange> {
    let range: IdRange = text.parse()?;
    let greatest = range.inside.max(range.outside);
    if greatest
        .checked_add(range.count)
        .is_none_or(|end| end > LAST)
    {
        let why = format!("expected no id above {}", LAST - 1);
        return Err(Error::invalid(why));
    }
    Ok(range)
}

/// Hold a user namespace until standard input ends (started by `cas mount --map-ids`)
#[derive(Args)]
pub(crate) struct HoldNamespace {}

impl HoldNamespace {
    pub(crate) fn run(self) -> Result<ExitCode> {
        unshare(UnshareFlags::NEWUSER)?;
        std::io::stdout().write_all(b".")?;
        std::io::stdout().flush()?;
        std::io::stdin().read_to_end(&mut Vec::new())?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Gives this process new namespaces. The process must not have other threads.
pub(super) fn unshare(namespaces: UnshareFlags) -> std::io::Result<()> {
    let namespaces = namespaces.difference(UnshareFlags::FILES);
    // SAFETY: the flags do not unshare the table of file descriptors.
    Ok(unsafe { unshare_unsafe(namespaces) }?)
}

/// Returns a new user namespace with these ranges. A short-lived child process creates the
/// namespace, because a process with several threads cannot.
///
/// # Errors
/// As [`check_distinct`]; `Unsupported` if a user namespace cannot be created; `Denied` or
/// `InvalidArgument` for ranges that the kernel refuses; errors of starting the child.
pub(super) fn namespace(ranges: &[IdRange]) -> Result<OwnedFd> {
    check_distinct(ranges)?;
    let mut child = Command::new("/proc/self/exe")
        .arg(COMMAND)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .during("start", COMMAND)?;
    let namespace = map(&mut child, ranges);
    drop(child.stdin.take());
    child.wait().during("wait for", COMMAND)?;
    namespace
}

/// Checks that no two ranges share an id, neither of the image nor of the mount. The kernel refuses
/// such ranges without a reason.
///
/// # Errors
/// `InvalidArgument`, naming two ranges that share an id.
fn check_distinct(ranges: &[IdRange]) -> Result<()> {
    for (number, one) in ranges.iter().enumerate() {
        let overlap = |first: u32, other: u32, count: u32| {
            let (first, other) = (u64::from(first), u64::from(other));
            first < other + u64::from(count) && other < first + u64::from(one.count)
        };
        let shares_id = |other: &&IdRange| {
            overlap(one.inside, other.inside, other.count)
                || overlap(one.outside, other.outside, other.count)
        };
        if let Some(other) = ranges[number + 1..].iter().find(shares_id) {
            let why = format!("the ranges {one} and {other} share an id; give each id once");
            return Err(Error::invalid(why).operation("map ids"));
        }
    }
    Ok(())
}

/// Writes the ranges into the user namespace of `child`. Returns the namespace.
fn map(child: &mut Child, ranges: &[IdRange]) -> Result<OwnedFd> {
    let mut ready = [0];
    let read = child.stdout.as_mut().map(|out| out.read_exact(&mut ready));
    if !matches!(read, Some(Ok(()))) {
        let message = "a user namespace cannot be created here; mount without --map-ids";
        return Err(Error::unsupported(message).operation("map ids"));
    }
    let line = |range: &IdRange| format!("{} {} {}\n", range.inside, range.outside, range.count);
    let mut map: String = ranges.iter().map(line).collect();
    // The superuser, whose id is 0, mounts the overlay, so an id of the image must map to 0.
    if ranges.iter().all(|range| range.outside > 0) {
        map += &format!("{LAST} 0 1\n");
    }
    let of = |file: &str| format!("/proc/{}/{file}", child.id());
    for file in ["uid_map", "gid_map"] {
        fs::write(of(file), &map).during("write", of(file))?;
    }
    let namespace = File::open(of("ns/user")).during("open", of("ns/user"))?;
    Ok(namespace.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_share_an_id_are_refused() {
        let check = |texts: &[&str]| {
            let ranges: Result<Vec<IdRange>> = texts.iter().map(|text| range(text)).collect();
            check_distinct(&ranges.unwrap())
        };
        let last = format!("{}:0:1", LAST - 1);
        for good in [
            &["0:100:10"][..],
            &["0:100:10", "10:110:10", "5000:0:1"],
            &[last.as_str(), "0:1:4294967293"],
        ] {
            check(good).unwrap();
        }
        for bad in [
            ["0:100:10", "0:200:10"],
            ["0:100:10", "9:200:10"],
            ["9:200:10", "0:100:10"],
            ["0:100:10", "10:109:1"],
            ["5:100:2", "0:200:20"],
        ] {
            let said = check(&bad).unwrap_err().to_string();
            let names_both = bad.iter().all(|range| said.contains(range));
            assert!(names_both && said.contains("share an id"), "{said}");
        }
    }
}
