//! Errors of operations that only the superuser may do, with advice.

use cas_core::{Error, ErrorKind};
use rustix::fs::FileType;
use rustix::io::Errno;

/// Returns whether a node could not be created because this process may not create devices.
pub(super) fn device(kind: FileType, error: &Error) -> bool {
    matches!(kind, FileType::CharacterDevice | FileType::BlockDevice)
        && error.kind() == ErrorKind::Denied
}

/// Returns the error for an owner that could not be set.
pub(super) fn owner(errno: Errno, uid: u32, gid: u32) -> Error {
    let io = std::io::Error::from(errno);
    match errno {
        Errno::INVAL => Error::precondition(format!(
            "the owner {uid}:{gid} of the file is not mapped in this user namespace; map more \
             users and groups (/etc/subuid, /etc/subgid, `cas unshare`), or keep owners in \
             attributes (`cas unpack --rootless`)"
        ))
        .source(io),
        Errno::PERM => Error::new(
            ErrorKind::Denied,
            format!(
                "only the superuser can give a file to its owner {uid}:{gid}; run the command in \
                 `cas unshare`, or keep owners in attributes (`cas unpack --rootless`)"
            ),
        )
        .source(io),
        _ => io.into(),
    }
}
