//! Runs one target under libFuzzer. `cargo xtask fuzz` builds this program with coverage counters.
//!
//! libFuzzer defines `main`, and reads all arguments of the program. Therefore, an environment
//! variable names the target.
#![no_main]

use std::sync::OnceLock;

use cas_fuzz::{TARGET, Target};

static CHOSEN: OnceLock<Target> = OnceLock::new();

/// Returns the chosen target, or ends the process if there is none.
fn chosen() -> Target {
    let name = std::env::var(TARGET).unwrap_or_default();
    cas_fuzz::target(&name).unwrap_or_else(|| {
        eprintln!("the variable {TARGET} names no target: {name:?}; use a name of `fuzz list`");
        std::process::exit(2)
    })
}

libfuzzer_sys::fuzz_target!(init: { CHOSEN.get_or_init(chosen); }, |input: &[u8]| {
    (CHOSEN.get_or_init(chosen).run)(input);
});
