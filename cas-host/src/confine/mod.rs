//! Confines threads that handle the bytes of images. If such bytes mislead the code of a confined
//! thread, the thread still cannot reach the rest of the machine (`docs/decisions/0038`).
//!
//! - Landlock: the thread can open, create, remove and rename files only below one directory, or
//!   none at all. It cannot use TCP, and cannot send signals to other processes.
//! - Root directory: the directory below which the thread can open files becomes the root directory
//!   of the thread, if the thread has `CAP_SYS_CHROOT`. Then no path leads out of the directory,
//!   even in calls that Landlock does not check, such as `chmod`.
//! - Capabilities: a thread that may write files keeps only the capabilities that writing the files
//!   of a layer needs. Any other confined thread keeps none.
//! - seccomp: listed system calls that the thread does not need, such as `execve` and `mount`, fail
//!   with `EPERM`.
//!
//! The bounds last until the thread ends, and cannot be lifted before. Therefore only new threads
//! are confined. Threads that a confined thread starts have the same bounds. Therefore the work of
//! a confined thread must not call a store, a `Progress`, or other code that the embedding program
//! may provide: such code may start threads that outlive the work.
//!
//! If the kernel does not have one of these parts, or if a part fails, the thread runs without this
//! part. The bounds do not cover the memory of the process and the files that the process has open.

mod calls;
mod files;
mod privileges;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Once;
use std::thread::{Builder, Scope, ScopedJoinHandle};

use rustix::thread::CapabilitySet;

/// What a thread can reach.
#[derive(Clone, Copy, Debug)]
pub enum Confinement<'a> {
    /// Everything that the process can reach.
    None,
    /// Only the memory of the process and the files that the process has open.
    Closed,
    /// The same as [`Confinement::Closed`], and also the files below a directory. The thread cannot
    /// execute these files.
    Below(BorrowedFd<'a>),
}

impl<'a> Confinement<'a> {
    /// Starts a thread that does `work` and can reach only what this value states. If a part of the
    /// confinement cannot be set, the thread runs without this part. Returns the handle of the
    /// thread.
    ///
    /// # Errors
    /// Errors of starting a thread. A part that cannot be set is not an error.
    pub fn spawn<'scope, T>(
        self,
        scope: &'scope Scope<'scope, '_>,
        name: &str,
        work: impl FnOnce() -> T + Send + 'scope,
    ) -> io::Result<ScopedJoinHandle<'scope, T>>
    where
        'a: 'scope,
        T: Send + 'scope,
    {
        let thread = Builder::new().name(name.to_owned());
        thread.spawn_scoped(scope, move || {
            self.enter();
            work()
        })
    }

    /// Confines this thread.
    fn enter(self) {
        let (directory, kept) = match self {
            Confinement::None => return,
            Confinement::Closed => (None, CapabilitySet::empty()),
            Confinement::Below(directory) => (Some(directory), privileges::FOR_FILES),
        };
        if let Some(directory) = directory {
            report(
                "a separate root directory",
                privileges::change_root(directory),
            );
        }
        report("Landlock", files::restrict(directory));
        report("dropping capabilities", privileges::keep(kept));
        report("seccomp", calls::deny(directory.is_some()));
    }
}

/// Reports that a part of the bounds could not be set. The kind `Unsupported` is expected on some
/// kernels, on some architectures and for users without privileges, and is an event at the level
/// `DEBUG`. The first other error of this process is a warning.
fn report(part: &str, outcome: io::Result<()>) {
    static WARNED: Once = Once::new();
    let Err(error) = outcome else { return };
    if error.kind() == io::ErrorKind::Unsupported {
        return tracing::debug!("a thread is not confined by {part}: {error}");
    }
    WARNED.call_once(|| {
        tracing::warn!(
            "threads that unpack cannot be confined by {part}: {error}; they run without this part"
        );
    });
}

/// Returns an error of the kind for which [`report`] does not warn.
fn unsupported(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, why)
}
