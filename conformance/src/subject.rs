//! The store that a law tests: how it is opened, and where.

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use cas_core::Result;

/// The future of a store that is being opened.
pub type Opening<S> = Pin<Box<dyn Future<Output = Result<Arc<S>>>>>;

/// A function that opens the store in a directory, and creates the store if there is none.
pub type Open<S> = fn(PathBuf) -> Opening<S>;

/// Calls `open`, the opener of a store, with `dir`. Returns the future that `open` returns. The
/// macros call this function so that a closure need not state the type of its argument.
pub fn opening<S, O, F>(dir: PathBuf, open: O) -> Opening<S>
where
    S: ?Sized,
    O: FnOnce(PathBuf) -> F,
    F: Future<Output = Result<Arc<S>>> + 'static,
{
    Box::pin(open(dir))
}

/// The argument of a law: a store that can be opened several times.
pub struct Subject<S: ?Sized> {
    open: Open<S>,
    dir: PathBuf,
    test: Option<&'static str>,
}

impl<S: ?Sized> Subject<S> {
    /// Returns a subject whose stores are below `dir`. `test` is the path of the test that runs the
    /// law. Some laws run this test again in a child process.
    pub(crate) fn new(open: Open<S>, dir: PathBuf, test: Option<&'static str>) -> Self {
        Subject { open, dir, test }
    }

    /// Opens the store, even if it is open already. Returns the store.
    ///
    /// # Panics
    /// If the store cannot be opened, or if its directory cannot be created.
    pub async fn open(&self) -> Arc<S> {
        self.open_other("store").await
    }

    /// Opens the store, even if it is open already. Returns the store.
    ///
    /// # Errors
    /// Errors of the store.
    ///
    /// # Panics
    /// If the directory of the store cannot be created.
    pub async fn try_open(&self) -> Result<Arc<S>> {
        (self.open)(self.store_dir("store")).await
    }

    /// Opens another store of the same kind, in the directory `name` below [`Subject::dir`], even
    /// if that store is open already. Returns the store.
    ///
    /// # Panics
    /// If the store cannot be opened, or if its directory cannot be created.
    pub async fn open_other(&self, name: &str) -> Arc<S> {
        (self.open)(self.store_dir(name))
            .await
            .expect("the store must open")
    }

    fn store_dir(&self, name: &str) -> PathBuf {
        let dir = self.dir.join(name);
        if !dir.is_dir() {
            fs::create_dir_all(&dir).expect("the directory of the law must be writable");
        }
        dir
    }

    /// Returns the opener.
    pub(crate) fn opener(&self) -> Open<S> {
        self.open
    }

    /// Returns the directory that contains the stores. The law may put its own files there.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the path of the test that runs the law, if there is one.
    pub(crate) fn test(&self) -> Option<&'static str> {
        self.test
    }
}
