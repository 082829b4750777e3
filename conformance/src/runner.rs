//! The body of each `#[test]`.

use std::time::Instant;

use crate::crash::victim_home;
use crate::judge::{Promises, Verdict, judge};
use crate::law::{Gaps, Law};
use crate::report;
use crate::subject::Open;

/// Runs one law on a store. `test` is the path of the `#[test]` that runs the law. If the store
/// does not make the promise that the law is about, prints the promise. If the store declares the
/// law as a gap, prints the reason. If a [`report`] was requested, appends the result to it.
///
/// # Panics
/// If the law is broken, if the store keeps a law that it declares as a gap and that is not racy,
/// if no law has this name, or if the law cannot be run or reported.
pub fn test<S>(laws: &[Law<S>], name: &str, open: Open<S>, gaps: Gaps, test: &'static str)
where
    S: ?Sized + Promises + 'static,
{
    let law = laws.iter().find(|law| law.name == name);
    let law = law.unwrap_or_else(|| panic!("no law has the name {name}"));
    let begun = Instant::now();
    let verdict = judge(law, open, gaps, Some(test));
    if victim_home().is_none() {
        report::record(law.group, test, &verdict, begun.elapsed());
    }
    match verdict {
        Verdict::Kept | Verdict::Skipped(_) => {}
        Verdict::Broken(seen) => panic!(
            "{test} is broken: {seen}\n  without it: {}\n  source: {}",
            law.why, law.source
        ),
        Verdict::NotClaimed(capability) => {
            eprintln!("{name}: not claimed: {}", capability.name());
        }
        Verdict::Gap(reason) => eprintln!("{name}: gap: {reason}"),
        Verdict::Outgrown => {
            panic!("the store declares {test} as a gap, but keeps the law; remove the gap")
        }
    }
}
