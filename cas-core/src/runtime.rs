//! Private tokio runtimes, for crates with dependencies that need a tokio runtime. The callers of
//! these crates need not run on tokio.

use std::path::Path;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;
use std::{fs, io, thread};

use tokio::runtime::{Builder, Handle, Runtime};

use crate::error::{Error, Result};
use crate::sync::lock;

const THREADS: usize = 2;
/// Maximum number of threads for work that blocks, such as reading files. The default of tokio is
/// 512.
const BLOCKING: usize = 8;
/// How long a thread for work that blocks stays idle before it ends. After the end of the last one,
/// tokio would panic if it could not start another one.
const IDLE: Duration = Duration::from_secs(365 * 86_400);

/// How often, and at which intervals, it is checked whether the kernel has removed a thread that
/// has ended. This takes microseconds, or longer on a busy machine.
const REMOVALS: u32 = 1000;
const PAUSE: Duration = Duration::from_millis(1);

/// A tokio runtime that the first call of [`PrivateRuntime::handle`] starts.
pub struct PrivateRuntime {
    /// The name of its threads.
    name: &'static str,
    started: OnceLock<io::Result<Runtime>>,
}

impl PrivateRuntime {
    /// Returns a runtime that is not started yet. Its threads get the name `name`.
    pub const fn new(name: &'static str) -> Self {
        PrivateRuntime {
            name,
            started: OnceLock::new(),
        }
    }

    /// Returns a handle of the runtime. The first call starts the runtime, with the drivers that
    /// `builder` enables. If the start fails, later calls do not try again, and return the same
    /// error.
    ///
    /// # Errors
    /// Errors of the system, for example `OutOfRange` if the process has too many open files, or
    /// `Busy` if the process may not start more threads.
    pub fn handle(&self, builder: impl FnOnce() -> Builder) -> Result<&Handle> {
        match self.started.get_or_init(|| start(self.name, builder())) {
            Ok(runtime) => Ok(runtime.handle()),
            Err(error) => Err(Error::of_system(error)
                .unwrap_or_else(|| Error::unavailable(error.to_string()))
                .operation("start threads")),
        }
    }
}

fn start(name: &str, mut builder: Builder) -> io::Result<Runtime> {
    check_threads(THREADS + 1)?;
    let runtime = builder
        .worker_threads(THREADS)
        .max_blocking_threads(BLOCKING)
        .thread_keep_alive(IDLE)
        .thread_name(name)
        .build()?;
    runtime.spawn_blocking(|| {});
    Ok(runtime)
}

/// Checks that this process can have `count` more threads, because tokio panics if it cannot start
/// a thread.
fn check_threads(count: usize) -> io::Result<()> {
    let (gate, ended) = (Mutex::new(()), Mutex::new(Vec::new()));
    let started = thread::scope(|scope| {
        // Until all are started, none ends.
        let _closed = lock(&gate);
        for _ in 0..count {
            thread::Builder::new().spawn_scoped(scope, || {
                drop(lock(&gate));
                lock(&ended).extend(fs::read_link("/proc/thread-self"));
            })?;
        }
        Ok(())
    });
    // A thread that has ended counts until the kernel has removed it, and no other can take its
    // place until then.
    for thread in lock(&ended).iter() {
        let path = Path::new("/proc").join(thread);
        let is_there = |_: &u32| path.exists();
        (0..REMOVALS)
            .take_while(is_there)
            .for_each(|_| thread::sleep(PAUSE));
    }
    started
}
