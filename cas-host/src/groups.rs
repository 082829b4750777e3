//! The groups of this process.

/// Returns whether the user namespace of this process lets processes set their groups. A namespace
/// that an unprivileged process made does not, unless a helper such as `newgidmap` has mapped its
/// groups. Returns false if `/proc` cannot be read.
pub fn may_set_groups() -> bool {
    let allowed = std::fs::read_to_string("/proc/self/setgroups");
    allowed.is_ok_and(|allowed| allowed.trim() == "allow")
}
