//! The system calls that seccomp denies.
//!
//! The lists name what is denied, and not what is allowed, because the allocator and the C library
//! of a program that embeds this code may need calls that are not known here.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::io;
use std::sync::OnceLock;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

use super::unsupported;
use crate::node::{FCHMODAT2, REMOVEXATTRAT, SETXATTRAT};

/// Calls that no confined thread needs. Every confined thread drops most capabilities. Calls that
/// need one of these are not in the list, because each line of the list costs microseconds when a
/// thread starts.
const DENIED: &[c_long] = &[
    // Programs, and other processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    // Sockets.
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_bind,
    libc::SYS_connect,
    // Mounts, namespaces and directories of the process.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_chdir,
    libc::SYS_fchdir,
    // Files without a path, and calls that avoid this list.
    libc::SYS_open_by_handle_at,
    libc::SYS_io_uring_setup,
    // Keys.
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    // What else the capability SYS_ADMIN allows.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_quotactl,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_syslog,
];

/// Calls that change the group, the mode, the times or the attributes of a file, and that its owner
/// may make without the permission to write to it. Landlock does not check them. They are denied to
/// a thread that changes no files.
const DENIED_IF_CLOSED: &[c_long] = &[
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    FCHMODAT2,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    SETXATTRAT,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    REMOVEXATTRAT,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utime,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utimes,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_futimesat,
];

/// Denies calls to this thread: those of [`DENIED`], and, unless `changes_files` is set, those of
/// [`DENIED_IF_CLOSED`].
///
/// # Errors
/// `Unsupported` on an architecture whose calls are not known here; errors of the kernel, also if
/// it does not have seccomp.
pub(super) fn deny(changes_files: bool) -> io::Result<()> {
    static FILTERS: OnceLock<Option<[BpfProgram; 2]>> = OnceLock::new();
    let filters = FILTERS.get_or_init(|| {
        let if_closed = [DENIED, DENIED_IF_CLOSED].concat();
        Some([filter(&if_closed)?, filter(DENIED)?])
    });
    match filters {
        Some(filters) => {
            apply_filter(&filters[usize::from(changes_files)]).map_err(io::Error::other)
        }
        None => Err(unsupported(format!("no filter is known for {ARCH}"))),
    }
}

/// Returns a filter that denies `calls`, or `None` if the architecture is not known.
fn filter(calls: &[c_long]) -> Option<BpfProgram> {
    let arch = TargetArch::try_from(ARCH).ok()?;
    let mut rules: BTreeMap<_, _> = calls.iter().map(|call| (*call, Vec::new())).collect();
    rules.insert(libc::SYS_tgkill, vec![to_other_processes()?]);
    let denied = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, denied, arch).ok()?;
    filter.try_into().ok()
}

/// Returns the rule that denies signals to another process. Signals to the own process must work,
/// because a program that aborts sends itself one.
fn to_other_processes() -> Option<SeccompRule> {
    let own = u64::from(std::process::id());
    let other = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, own);
    SeccompRule::new(vec![other.ok()?]).ok()
}
