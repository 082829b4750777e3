//! Selects the system call that a fault is injected into. strace counts calls separately for each
//! thread and each name of a system call. With the option `-P path`, strace counts only the calls
//! with that path.

use super::Ended;
use super::calls::{Call, parse};

/// A placeholder for the store's directory, which differs between victims.
pub(super) const HERE: &str = "{store}";

/// The call that strace injects a fault into.
#[derive(Debug)]
pub(super) struct Aim {
    pub(super) name: String,
    /// The path of the call, with [`HERE`] in place of the directory of the store. Only calls with
    /// this path count. `None` if calls with any path count.
    pub(super) path: Option<String>,
    /// The number of the call among the calls of its thread with this name and path, from 1.
    pub(super) nth: usize,
}

impl Aim {
    /// Selects a call by its name and number alone.
    pub(super) fn by_number(call: &Call) -> Self {
        let (name, nth) = (call.name.clone(), call.nth);
        let path = None;
        Aim { name, path, nth }
    }

    /// Selects `calls[at]`, a call of the run `whole`, by its name and number. If a call of the run
    /// `other` has the same path, selects it also by its path.
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

/// Returns whether threads wake each other with calls of this name. A fault in such a call is not a
/// fault of the disk.
pub(super) fn is_of_threads(calls: &[Call], name: &str) -> bool {
    let mut calls = calls.iter().filter(|call| call.name == name);
    calls.any(|call| call.given.contains("<anon_inode:"))
}
