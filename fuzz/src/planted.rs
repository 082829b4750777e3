//! Planted faults: targets that fail on purpose. A campaign first checks that libFuzzer finds these
//! faults, and ends if one is not found. Without this check, a campaign without findings would
//! prove nothing.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::Target;

/// A planted fault, and the exit code with which libFuzzer reports it.
pub struct Planted {
    /// The target with the fault.
    pub target: Target,
    /// The exit code of libFuzzer.
    pub code: i32,
}

/// The planted faults. Each occurs only if the input begins with the eight bytes `planted!`. Random
/// inputs almost never begin with these bytes. libFuzzer finds the bytes by recording the
/// comparisons that a target makes.
pub const PLANTED: [Planted; 3] = [
    Planted {
        target: planted("planted-panic", |input| {
            assert!(!input.starts_with(b"planted!"), "a planted panic");
            true
        }),
        code: 77,
    },
    Planted {
        target: planted("planted-delay", |input| {
            let begun = Instant::now();
            while input.starts_with(b"planted!") && begun.elapsed() < Duration::from_secs(60) {}
            true
        }),
        code: 70,
    },
    Planted {
        target: planted("planted-memory", |input| {
            if input.starts_with(b"planted!") {
                let memory = black_box(vec![1u8; 2 << 30]);
                std::thread::sleep(Duration::from_secs(3));
                drop(memory);
            }
            true
        }),
        code: 71,
    },
];

const fn planted(name: &'static str, run: fn(&[u8]) -> bool) -> Target {
    Target {
        name,
        run,
        seeds: || vec![b"plain".to_vec()],
        longest: 64,
    }
}

/// Returns the targets of all planted faults.
pub(crate) fn all() -> impl Iterator<Item = Target> {
    PLANTED.into_iter().map(|planted| planted.target)
}
