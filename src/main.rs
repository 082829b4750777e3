//! The tool `cas`.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    let verbose = arguments.verbose;
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(cas::Error::from)
        .and_then(|runtime| runtime.block_on(cli::run(arguments)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cli::exit::report(&error, verbose),
    }
}
