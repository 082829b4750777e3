//! The groups of this process.

/// Returns whether processes may set their groups. They may not in a user namespace that maps only
/// the ids of one user.
pub fn may_set_groups() -> bool {
    let allowed = std::fs::read_to_string("/proc/self/setgroups");
    allowed.is_ok_and(|allowed| allowed.trim() == "allow")
}
