//! Faults that the trials must report. They show that a trial can fail.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cage::Cage;
use super::cases::Case;
use super::watch::{Bounds, processor_time};

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Plant {
    /// An unpacker that takes absolute names as they are: GNU tar with `-P`.
    Follow,
    /// A program that only reads the canary, which changes an access time.
    Read,
    /// An outcome that is the opposite of the true one.
    Invert,
    /// A full disk.
    Fill,
    /// Memory over the bound.
    Grow,
    /// Work over the bound.
    Spin,
    /// No end.
    Hang,
    /// A panic.
    Panic,
}

/// Each fault, and a part of the line that reports it.
pub(super) const ALL: [(Plant, &str); 8] = [
    (Plant::Follow, "outside"),
    (Plant::Read, "outside"),
    (Plant::Invert, "Refused(Corrupt), not Harmless"),
    (Plant::Fill, "Full"),
    (Plant::Grow, "of memory"),
    (Plant::Spin, "of the processor"),
    (Plant::Hang, "no end after"),
    (Plant::Panic, "a planted panic"),
];

impl Plant {
    /// Does what goes wrong, before a trial. [`Plant::Invert`] does nothing here: the plan changes
    /// the outcome after the trial.
    pub(super) fn before(self, cage: &Cage, case: &Case, bounds: &Bounds) {
        match self {
            Plant::Invert => {}
            Plant::Follow => {
                let archive = cage.path("layout");
                fs::write(&archive, &case.layers[0].blob).unwrap();
                let mut tar = Command::new("tar");
                tar.arg("-xPf")
                    .arg(&archive)
                    .current_dir(cage.path("plain"));
                assert!(tar.stderr(Stdio::null()).status().unwrap().success());
                fs::remove_file(&archive).unwrap();
            }
            Plant::Read => {
                fs::read(cage.path("canary/file")).unwrap();
            }
            Plant::Fill => {
                let file = fs::File::create(cage.path("locks")).unwrap();
                let filled = rustix::fs::fallocate(
                    &file,
                    rustix::fs::FallocateFlags::empty(),
                    0,
                    bounds.disk,
                );
                assert!(filled.is_err());
            }
            Plant::Grow => drop(vec![1; bounds.memory as usize + 1]),
            Plant::Spin => {
                let begun = processor_time();
                while processor_time() - begun <= bounds.processor {}
            }
            Plant::Hang => thread::sleep(Duration::MAX),
            Plant::Panic => panic!("a planted panic"),
        }
    }
}
