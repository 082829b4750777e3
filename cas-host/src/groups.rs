//! The groups of this process.

/// Returns whether the user namespace of this process lets processes set their groups. A namespace
/// that maps only the ids of one user does not.
pub fn may_set_groups() -> bool {
    let allowed = std::fs::read_to_string("/proc/self/setgroups");
    allowed.is_ok_and(|allowed| allowed.trim() == "allow")
}
