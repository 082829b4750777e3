//! Conversion of file times.

use rustix::fs::{Stat, Timespec, Timestamps};

use crate::tar::Time;

/// The times of directories that no member describes.
pub(super) const EPOCH: Timestamps = {
    let zero = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    Timestamps {
        last_access: zero,
        last_modification: zero,
    }
};

/// Returns the access and modification time of a file.
#[allow(
    clippy::unnecessary_cast,
    reason = "the fields' types differ between targets"
)]
pub(super) fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds as _,
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Returns the time of a member as the modification time and as the access time, because archives
/// rarely have access times.
pub(super) fn timestamps(time: Time) -> Timestamps {
    let time = Timespec {
        tv_sec: time.seconds,
        tv_nsec: i64::from(time.nanoseconds) as _,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
