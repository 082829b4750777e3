//! Catches panics of other libraries, so that callers can turn them into errors.
//!
//! Rust prints every panic through a hook, which belongs to the whole program. A library must not
//! replace the hook. A program may install a hook that does not print caught panics. The hook can
//! call [`is_expected`], which returns whether [`caught`] will catch the panic.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    /// Number of calls of [`caught`] that run on this thread.
    static RUNNING: Cell<usize> = const { Cell::new(0) };
}

/// Runs `work`, which may panic on damaged data. Returns its result, or `None` if it panicked.
///
/// If `work` panics, it may leave the data that it changes in an invalid state. The caller must not
/// use this data afterwards, unless the data is known to be valid.
pub fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    RUNNING.set(RUNNING.get() + 1);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    RUNNING.set(RUNNING.get() - 1);
    outcome.ok()
}

/// Returns whether [`caught`] would catch a panic of this thread now. Call this function in a panic
/// hook.
pub fn is_expected() -> bool {
    RUNNING.get() > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_expected_only_while_the_work_runs() {
        assert!(!is_expected());
        assert_eq!(caught(is_expected), Some(true));
        let nested = caught(|| {
            let inner = caught(|| std::panic::resume_unwind(Box::new("broken")));
            (inner, is_expected())
        });
        assert_eq!(nested, Some((None::<()>, true)));
        let elsewhere = caught(|| std::thread::spawn(is_expected).join().ok());
        assert_eq!(elsewhere, Some(Some(false)));
        assert!(!is_expected());
    }
}
