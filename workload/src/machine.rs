//! The machine, the file system and the device that a table was measured on.

use std::fs;
use std::path::Path;

/// A machine and a disk.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The model of the processor, the number of cores, whether the processor has SHA instructions,
    /// the size of the memory, and the name and release of the kernel.
    pub processor: String,
    /// The type of the file system that was measured, and its device.
    pub disk: String,
}

impl Machine {
    /// Returns the description of this machine and of the file system that `directory` is on.
    pub fn of(directory: &Path) -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let processor = text("/proc/cpuinfo");
        let field = |name: &str| {
            let line = processor.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(": "))
                .map_or("", |(_, value)| value)
        };
        let flags = field("flags")
            .split(' ')
            .chain(field("Features").split(' '));
        let mut flags = flags.into_iter();
        let sha = if flags.any(|flag| flag == "sha_ni" || flag == "sha2") {
            "SHA instructions"
        } else {
            "no SHA instructions"
        };
        let model = match field("model name") {
            "" => std::env::consts::ARCH,
            model => model,
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let memory = text("/proc/meminfo");
        let memory = memory
            .split_whitespace()
            .nth(1)
            .and_then(|kib| kib.parse::<u64>().ok());
        let memory = memory.unwrap_or_default() as f64 / f64::from(1 << 20);
        let kernel = text("/proc/sys/kernel/osrelease");
        Machine {
            processor: format!(
                "{model}, {cores} cores, {sha}, {memory:.0} GiB, {} {}",
                std::env::consts::OS,
                kernel.trim()
            ),
            disk: disk(directory, &text("/proc/self/mountinfo")),
        }
    }
}

/// Returns the file system and device of the longest mount point above `directory`.
fn disk(directory: &Path, mounts: &str) -> String {
    let directory = directory
        .canonicalize()
        .unwrap_or_else(|_| directory.to_owned());
    let found = mounts.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let point = left.split(' ').nth(4)?;
        directory.starts_with(point).then_some(())?;
        let mut right = right.split(' ');
        Some((point.len(), right.next()?, right.next()?))
    });
    // Of several mounts on one point, the last hides the others.
    match found.max_by_key(|(length, ..)| *length) {
        Some((_, kind, device)) => format!("{kind} on {device}"),
        None => "an unknown file system".to_owned(),
    }
}
