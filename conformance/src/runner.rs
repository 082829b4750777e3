//! The body of each `#[test]` that runs a law.

use std::time::Instant;

use crate::crash::victim_home;
use crate::judge::{Promises, Verdict, judge};
use crate::law::{Gaps, Law};
use crate::report;
use crate::subject::Open;

/// Runs one law on a store. `test` is the path of the `#[test]` that runs the law. If the store
/// does not make the promise that the law is about, prints the promise and does not run the law. If
/// the store declares the law as a gap, prints the reason. A law that is declared as a gap is not
/// run if its outcome depends on timing ([`Law::racy`]). If the environment variable
/// [`report::DIRECTORY`] is set, appends the result to the [`report`].
///
/// # Panics
/// If the store breaks the law and does not declare it as a gap, if the store keeps the law but
/// declares it as a gap, if no law has the name `name`, if the law cannot be run, or if its result
/// cannot be written.
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
            "the store breaks the law {test}: {seen}\n  without this law: {}\n  source: {}",
            law.why, law.source
        ),
        Verdict::NotClaimed(capability) => {
            eprintln!(
                "{name}: not claimed: the store does not promise {}",
                capability.name()
            );
        }
        Verdict::Gap(reason) => eprintln!("{name}: gap: {reason}"),
        Verdict::Outgrown => {
            panic!("the store declares {test} as a gap, but keeps the law; remove the gap")
        }
    }
}
