//! Runs targets on inputs, without libFuzzer.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::Target;

/// What a target did with an input.
pub struct Outcome {
    /// Whether the input was accepted, or the message of the panic.
    pub result: Result<bool, String>,
    /// How long the target ran.
    pub took: Duration,
}

/// Runs a target on one input. Returns what the target did, also if it panics.
pub fn run(target: &Target, input: &[u8]) -> Outcome {
    let begun = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    let message = |panic: Box<dyn std::any::Any + Send>| match panic.downcast::<String>() {
        Ok(message) => *message,
        Err(panic) => match panic.downcast::<&str>() {
            Ok(message) => (*message).to_owned(),
            Err(_) => "a panic without a message".to_owned(),
        },
    };
    Outcome {
        result: result.map_err(message),
        took: begun.elapsed(),
    }
}

/// Returns the inputs in a directory, each with the name of its file, sorted by name. If the
/// directory does not exist, there are none.
///
/// # Errors
/// Errors of the file system.
pub fn inputs(directory: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let listed = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed?,
    };
    let mut inputs = Vec::new();
    for file in listed {
        let file = file?;
        let name = file.file_name().to_string_lossy().into_owned();
        inputs.push((name, fs::read(file.path())?));
    }
    inputs.sort();
    Ok(inputs)
}
