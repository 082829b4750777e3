//! The tool `cas`.

mod cli;

use std::fs::File;
use std::io;
use std::process::ExitCode;

use cas_core::Context;
use cas_host::calls::undisturbed;
use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};

/// Number of files that this process must be able to open before the async runtime starts: a few
/// more than the runtime opens.
const RUNTIME_FILES: usize = 8;

fn main() -> ExitCode {
    let arguments = cli::Arguments::try_parse().unwrap_or_else(|error| cli::exit::misused(&error));
    let verbose = arguments.verbose;
    raise_descriptor_limit();
    report_only_defects();
    let outcome = start_runtime().and_then(|runtime| runtime.block_on(cli::run(arguments)));
    match outcome {
        Ok(code) => code,
        Err(error) => cli::exit::report(&error, verbose),
    }
}

/// Returns the async runtime. Its builder panics if it cannot open its files, so this function
/// first checks that [`RUNTIME_FILES`] files can be opened.
fn start_runtime() -> cas::Result<Runtime> {
    const ANY: &str = "/dev/null";
    let files = (0..RUNTIME_FILES).map(|_| undisturbed(|| File::open(ANY)));
    files.collect::<io::Result<Vec<_>>>().during("open", ANY)?;
    Ok(Builder::new_current_thread().enable_all().build()?)
}

/// Installs a panic hook that reports only defects of the program. Panics that become errors, such
/// as a panic of an engine on a damaged file, are not reported.
fn report_only_defects() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !cas_core::caught::is_expected() {
            report(panic);
        }
    }));
}

/// Raises the limit on open files, because deep trees and many layers need more file descriptors
/// than the usual 1,024.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // If the kernel refuses, the work may still fit into the current limit.
    let _ = setrlimit(Resource::Nofile, raised);
}
