//! Which call strace hurts: it counts those of each thread, of one name and about one path.

use super::Ended;
use super::calls::{Call, parse};

/// Stands for the store's directory, which is another for each victim.
pub(super) const HERE: &str = "{store}";

/// How strace is told which call to hurt.
#[derive(Debug)]
pub(super) struct Aim {
    pub(super) name: String,
    /// Calls about another path are passed over, where the same is seen again each time.
    pub(super) path: Option<String>,
    /// Of each thread's calls of this name, from 1.
    pub(super) nth: usize,
}

impl Aim {
    /// By its number alone.
    pub(super) fn by_number(call: &Call) -> Self {
        let (name, nth) = (call.name.clone(), call.nth);
        let path = None;
        Aim { name, path, nth }
    }

    /// By the path too, where two victims have it.
    pub(super) fn at(calls: &[Call], at: usize, whole: &Ended, other: &Ended) -> Self {
        let call = &calls[at];
        let Some(path) = call.about() else {
            return Aim::by_number(call);
        };
        let again = path.replace(&whole.store, &other.store);
        if !parse(&other.trace).iter().any(|call| call.is_about(&again)) {
            return Aim::by_number(call);
        }
        let same =
            |one: &&Call| one.thread == call.thread && one.name == call.name && one.is_about(&path);
        Aim {
            name: call.name.clone(),
            nth: calls[..=at].iter().filter(same).count(),
            path: Some(path.replace(&whole.store, HERE)),
        }
    }
}

/// Whether threads wake each other by calls of this name: one that fails there is no fault of a
/// disk.
pub(super) fn is_of_threads(calls: &[Call], name: &str) -> bool {
    let mut calls = calls.iter().filter(|call| call.name == name);
    calls.any(|call| call.given.contains("<anon_inode:"))
}
