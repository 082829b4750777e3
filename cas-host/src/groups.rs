//! The groups of this process.

/// Returns whether the user namespace of this process lets processes set their groups. In a user
/// namespace that an unprivileged process made, processes may not set their groups, unless a helper
/// such as `newgidmap` has mapped the groups of the namespace. Returns false if `/proc` cannot be
/// read.
pub fn may_set_groups() -> bool {
    let allowed = std::fs::read_to_string("/proc/self/setgroups");
    allowed.is_ok_and(|allowed| allowed.trim() == "allow")
}
