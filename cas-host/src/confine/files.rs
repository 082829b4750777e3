//! What Landlock lets a thread open and change.

use std::io;
use std::os::fd::BorrowedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, Scope,
};

use super::unsupported;

/// The newest version of Landlock whose restrictions are known to suit the work of these threads.
const NEWEST: ABI = ABI::V9;

/// The oldest usable version. In an older one, a confined thread cannot make hard links from one
/// directory into another.
const OLDEST: ABI = ABI::V2;

/// Lets this thread open, create, remove and rename only what is below `directory`, or nothing if
/// it is `None`. Also forbids it to execute files, to make sockets and to control devices there.
///
/// # Errors
/// `Unsupported` if the kernel does not have Landlock, or an older version than [`OLDEST`]; errors
/// of the kernel.
pub(super) fn restrict(directory: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let ruleset = handle_all().map_err(unsupported)?;
    let restricted = ruleset.create().and_then(|mut ruleset| {
        if let Some(directory) = directory {
            let denied = AccessFs::Execute | AccessFs::MakeSock | AccessFs::IoctlDev;
            let allowed = AccessFs::from_all(NEWEST) & !denied;
            ruleset = ruleset.add_rule(PathBeneath::new(directory, allowed))?;
        }
        ruleset.restrict_self()
    });
    restricted.map(|_| ()).map_err(io::Error::other)
}

/// Returns a set of rules that denies everything that the kernel can deny, up to the version
/// [`NEWEST`].
fn handle_all() -> Result<Ruleset, RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(OLDEST))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))
}
