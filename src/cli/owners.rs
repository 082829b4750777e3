//! Other owners for a mount: ranges of ids, and the user namespace by which the kernel takes them.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitCode, Stdio};
use std::str::FromStr;

use cas::{Context, Error, Result};
use clap::Args;
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Its name among the commands of the tool.
const COMMAND: &str = "hold-namespace";

/// The greatest id there is. No image has it, so that whoever mounts is known by it on disk.
const LAST: u32 = u32::MAX - 1;

/// Users and groups `inside` the image, one after the other, who are others `outside`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    inside: u32,
    outside: u32,
    count: u32,
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = || "expected INSIDE:OUTSIDE:COUNT, as in 0:100000:65536".to_owned();
        let numbers = text.split(':').map(|number| number.parse::<u32>());
        let numbers: Vec<u32> = numbers
            .collect::<std::result::Result<_, _>>()
            .map_err(|_| wrong())?;
        let &[inside, outside, count] = &numbers[..] else {
            return Err(wrong());
        };
        let fits = |first: u32| first.checked_add(count).is_some_and(|end| end <= LAST);
        match count > 0 && fits(inside) && fits(outside) {
            true => Ok(Range {
                inside,
                outside,
                count,
            }),
            false => Err(format!(
                "a range has at least one id, and none above {LAST}"
            )),
        }
    }
}

/// Hold a user namespace until standard input ends
#[derive(Args)]
pub(crate) struct HoldNamespace {}

impl HoldNamespace {
    pub(crate) fn run(self) -> Result<ExitCode> {
        // SAFETY: the table of descriptors stays shared.
        let unshared = unsafe { unshare_unsafe(UnshareFlags::NEWUSER) };
        unshared.map_err(std::io::Error::from)?;
        std::io::stdout().write_all(b".")?;
        std::io::stdout().flush()?;
        std::io::stdin().read_to_end(&mut Vec::new())?;
        Ok(ExitCode::SUCCESS)
    }
}

/// A user namespace of these ranges; a process that ends at once made it, for a process of several
/// threads cannot.
///
/// # Errors
/// `Unsupported` where user namespaces cannot be had; `Denied` or `InvalidArgument` for ranges that
/// the kernel refuses.
pub(super) fn namespace(ranges: &[Range]) -> Result<OwnedFd> {
    let mut child = Command::new("/proc/self/exe")
        .arg(COMMAND)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .during("start", COMMAND)?;
    let namespace = describe(&mut child, ranges);
    drop(child.stdin.take());
    child.wait().during("wait for", COMMAND)?;
    namespace
}

fn describe(child: &mut Child, ranges: &[Range]) -> Result<OwnedFd> {
    let mut made = [0];
    let ready = child.stdout.as_mut().map(|out| out.read_exact(&mut made));
    if !matches!(ready, Some(Ok(()))) {
        let message = "user namespaces cannot be had here; mount without a map of ids";
        return Err(Error::unsupported(message).operation("map owners"));
    }
    let line = |range: &Range| format!("{} {} {}\n", range.inside, range.outside, range.count);
    let mut map: String = ranges.iter().map(line).collect();
    // Who mounts an overlay must be somebody on its disk.
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
