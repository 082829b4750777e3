//! The store under judgement: how it is opened, and where.

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use cas_core::Result;

/// A store on its way to being open.
pub type Opening<S> = Pin<Box<dyn Future<Output = Result<Arc<S>>>>>;

/// Opens the store that lives in a directory, making it where nothing is there yet.
pub type Open<S> = fn(PathBuf) -> Opening<S>;

/// Calls the opener a backend gave; here, so that its argument has a type.
pub fn opening<S, O, F>(dir: PathBuf, open: O) -> Opening<S>
where
    S: ?Sized,
    O: FnOnce(PathBuf) -> F,
    F: Future<Output = Result<Arc<S>>> + 'static,
{
    Box::pin(open(dir))
}

/// What a law is given: a store that can be opened again and again.
pub struct Subject<S: ?Sized> {
    open: Open<S>,
    dir: PathBuf,
    test: Option<&'static str>,
}

impl<S: ?Sized> Subject<S> {
    /// A store below `dir`; `test` is the path of the test that judges it, for laws that run it
    /// again in a process of its own.
    pub(crate) fn new(open: Open<S>, dir: PathBuf, test: Option<&'static str>) -> Self {
        Subject { open, dir, test }
    }

    /// Opens the store, or opens it once more.
    ///
    /// # Panics
    /// When it does not open.
    pub async fn open(&self) -> Arc<S> {
        self.open_other("store").await
    }

    /// Opens the store a second time while it may be open.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn try_open(&self) -> Result<Arc<S>> {
        (self.open)(self.place("store")).await
    }

    /// Opens another store of the same kind.
    ///
    /// # Panics
    /// When it does not open.
    pub async fn open_other(&self, name: &str) -> Arc<S> {
        (self.open)(self.place(name))
            .await
            .expect("the store opens")
    }

    fn place(&self, name: &str) -> PathBuf {
        let dir = self.dir.join(name);
        if !dir.is_dir() {
            fs::create_dir_all(&dir).expect("the directory of a law can be made");
        }
        dir
    }

    /// What opens it.
    pub(crate) fn opener(&self) -> Open<S> {
        self.open
    }

    /// A directory for the law's own files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The path of the test that judges the store, where there is one.
    pub(crate) fn test(&self) -> Option<&'static str> {
        self.test
    }
}
