//! Prints the report of a run of the laws. Usage: `law-report DIRECTORY [--json]`.
//!
//! `DIRECTORY` is the directory that `CONFORMANCE_REPORT` named when the tests ran. Exits with 1 if
//! a law is broken, if a store keeps a law that it declares as a gap, or if the results are missing
//! or cannot be read. Exits with 2 if the arguments are wrong.

use std::env;
use std::path::Path;
use std::process::ExitCode;

use conformance::report::Report;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (directory, json) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [directory] if !directory.starts_with('-') => (directory, false),
        [directory, "--json"] | ["--json", directory] => (directory, true),
        _ => {
            eprintln!("usage: law-report DIRECTORY [--json]");
            return ExitCode::from(2);
        }
    };
    match Report::read(Path::new(directory)) {
        Ok(report) if report.is_empty() => {
            eprintln!(
                "law-report: {directory} has no results; run the tests with CONFORMANCE_REPORT set \
                 to the absolute path of this directory"
            );
            ExitCode::FAILURE
        }
        Ok(report) => {
            if json {
                println!("{:#}", report.json());
            } else {
                print!("{}", report.markdown());
            }
            ExitCode::from(u8::from(report.has_broken()))
        }
        Err(error) => {
            eprintln!("law-report: cannot read {directory}: {error}");
            ExitCode::FAILURE
        }
    }
}
