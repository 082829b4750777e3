//! Runs all targets on their seeds, on changed seeds, and on the inputs that are kept.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may fail anywhere"
)]

use std::collections::BTreeSet;
use std::time::Duration;

use cas_fuzz::planted::PLANTED;
use cas_fuzz::{corpus, replay, target, targets};
use testkit::random::Random;

/// A time in which every kept input is read, even by a build for tests on a busy machine.
const SOON: Duration = Duration::from_secs(120);

#[test]
fn every_seed_is_accepted() {
    let mut bad = Vec::new();
    for target in targets() {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        for (number, seed) in seeds.iter().enumerate() {
            let outcome = replay::run(&target, seed);
            if outcome.result != Ok(true) || seed.len() > target.longest {
                let (name, length) = (target.name, seed.len());
                bad.push(format!(
                    "{name} {number} ({length} bytes): {:?}",
                    outcome.result
                ));
            }
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn every_kept_input_is_read() {
    for target in targets() {
        for (file, input) in replay::inputs(&corpus(target.name)).unwrap() {
            let outcome = replay::run(&target, &input);
            let name = target.name;
            if let Err(panic) = outcome.result {
                panic!("{name} on {file}: {panic}");
            }
            assert!(outcome.took < SOON, "{name} on {file}: {:?}", outcome.took);
        }
    }
}

/// Number of changed seeds that each target reads.
const CHANGED: usize = 60;

/// Changes a byte, or removes, repeats or copies a few bytes.
fn change(input: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(input.len().max(1) as u64) as usize;
    let end = input.len().min(at + 1 + random.below(8) as usize);
    let piece = input.get(at..end).unwrap_or_default().to_vec();
    match random.below(5) {
        0 if at < input.len() => input[at] = random.below(256) as u8,
        1 if at < input.len() => input[at] ^= 1 << random.below(8),
        2 => drop(input.drain(at.min(end)..end)),
        3 => drop(input.splice(at.min(end)..at.min(end), piece)),
        _ => {
            let to = random.below(input.len().max(1) as u64) as usize;
            let to = to.min(input.len());
            drop(input.splice(to..to, piece));
        }
    }
}

#[test]
fn changed_seeds_are_read() {
    let mut bad = Vec::new();
    for target in targets() {
        let mut random = Random::new(1, target.name);
        let seeds = (target.seeds)();
        for _ in 0..CHANGED {
            let mut input = seeds[random.below(seeds.len() as u64) as usize].clone();
            for _ in 0..=random.below(4) {
                change(&mut input, &mut random);
            }
            if let Err(panic) = replay::run(&target, &input).result {
                bad.push(format!(
                    "{}: {panic}: {}",
                    target.name,
                    input.escape_ascii()
                ));
            }
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn names_are_unique_and_every_corpus_has_a_target() {
    let names: Vec<&str> = targets().iter().map(|target| target.name).collect();
    let unique: BTreeSet<&str> = names.iter().copied().collect();
    assert_eq!(unique.len(), names.len(), "{names:?}");
    for directory in std::fs::read_dir(corpus("")).unwrap() {
        let name = directory.unwrap().file_name().into_string().unwrap();
        assert!(unique.contains(&*name), "no target has the name {name}");
    }
}

#[test]
fn a_planted_panic_is_reported() {
    let planted = target(PLANTED[0].target.name).unwrap();
    let outcome = replay::run(&planted, b"planted!");
    assert_eq!(outcome.result, Err("a planted panic".to_owned()));
    assert_eq!(replay::run(&planted, b"plain").result, Ok(true));
}
