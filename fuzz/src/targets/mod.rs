//! The targets, in one module for each kind of input.
#![allow(clippy::panic, reason = "a target panics if a promise is broken")]

mod aci;
mod apply;
mod codec;
mod disk;
mod document;
mod host;
mod hosts;
mod import;
mod lazy;
mod name;
mod records;
mod registry;
mod settings;
mod store;
mod tar;

use std::fmt::{Debug, Display};
use std::io;
use std::str::FromStr;

use cas_core::{ErrorKind, Result};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use crate::Target;

/// Returns all targets.
pub(crate) fn all() -> Vec<Target> {
    [
        tar::TARGETS,
        apply::TARGETS,
        codec::TARGETS,
        document::TARGETS,
        name::TARGETS,
        registry::TARGETS,
        hosts::TARGETS,
        settings::TARGETS,
        records::TARGETS,
        store::TARGETS,
        disk::TARGETS,
        lazy::TARGETS,
        aci::TARGETS,
        import::TARGETS,
        host::TARGETS,
    ]
    .concat()
}

/// Returns whether an input was accepted.
///
/// # Panics
/// Panics for an error of the kind `Internal`, because input must not be able to cause one.
fn accepted<T>(result: Result<T>) -> bool {
    if let Err(error) = &result {
        assert_ne!(error.kind(), ErrorKind::Internal, "{error}");
    }
    result.is_ok()
}

/// Parses a text, writes the value as a text, and parses that text. Returns whether the input was
/// accepted. An input that is not UTF-8 is not.
///
/// # Panics
/// Panics if the second text does not parse or has another value, and as [`accepted`].
fn parsed<T: FromStr<Err = cas_core::Error> + Display + PartialEq + Debug>(input: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(input) else {
        return false;
    };
    let result = text.parse::<T>();
    if let Ok(value) = &result {
        let written = value.to_string();
        let again = written.parse::<T>();
        assert!(
            again.as_ref().is_ok_and(|again| again == value),
            "{written:?}: {again:?}"
        );
    }
    accepted(result)
}

/// Returns texts as seeds.
fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Makes a temporary directory. In a campaign, it is in memory if the machine has `/dev/shm`.
fn scratch() -> io::Result<TempDir> {
    TempDir::with_prefix("fuzz-")
}

/// Waits for a job. Returns its result.
fn block_on<T>(job: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: io::Result<Runtime> = Builder::new_current_thread().enable_all().build();
    }
    RUNTIME.with(|runtime| match runtime {
        Ok(runtime) => runtime.block_on(job),
        Err(error) => panic!("cannot start the runtime: {error}"),
    })
}
