//! Times in the status of a file.

use std::time::{Duration, SystemTime};

use rustix::fs::Stat;

/// Returns the time of the last change of the content.
pub(crate) fn modified(stat: &Stat) -> SystemTime {
    time(stat.st_mtime, stat.st_mtime_nsec)
}

/// Returns the time of the last change of the content, a name or an attribute.
pub(crate) fn changed(stat: &Stat) -> SystemTime {
    time(stat.st_ctime, stat.st_ctime_nsec)
}

fn time(seconds: i64, nanos: u64) -> SystemTime {
    let since = Duration::new(seconds.max(0) as u64, nanos.min(999_999_999) as u32);
    SystemTime::UNIX_EPOCH + since
}
