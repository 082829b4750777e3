//! The tool `cas`.

mod cli;

use std::process::ExitCode;

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    let verbose = arguments.verbose;
    raise_descriptor_limit();
    report_only_defects();
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(cas::Error::from)
        .and_then(|runtime| runtime.block_on(cli::run(arguments)));
    match outcome {
        Ok(code) => code,
        Err(error) => cli::exit::report(&error, verbose),
    }
}

/// Leaves out the reports of panics that become errors, such as those of an engine on a damaged
/// file.
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
