//! The search over the orders in which the actors take steps, with few preemptions.

use std::task::{Context, Poll, Waker};

use cas_core::pool;

use crate::Scene;
use crate::actors::{Actor, collect, killed};
use crate::world::World;

/// What a search found.
#[derive(Debug)]
pub(crate) enum Outcome {
    Kept { runs: usize },
    Lost { runs: usize, what: String },
}

/// A choice other than the usual one: the step, and the actor that takes it.
type Choice = (usize, usize);

/// The other actors that could have taken a step, and whether choosing one is a preemption.
struct Fork {
    others: Vec<usize>,
    preempts: bool,
}

/// Searches a scene with up to `preemptions` preemptions. Returns the outcome. Switching to another
/// actor when one has ended does not count.
pub(crate) fn search(scene: &Scene, preemptions: usize) -> Outcome {
    let mut runs = 0;
    let mut waiting = vec![(Vec::<Choice>::new(), preemptions)];
    while let Some((choices, left)) = waiting.pop() {
        runs += 1;
        let world = pool::wait(World::new(scene.names));
        let forks = play((scene.actors)(&world), &choices);
        if let Some(what) = pool::wait(world.judge()) {
            let what = format!("{what}, with the choices {choices:?}");
            return Outcome::Lost { runs, what };
        }
        let first = choices.last().map_or(0, |(step, _)| step + 1);
        for (step, fork) in forks.iter().enumerate().skip(first) {
            let cost = usize::from(fork.preempts);
            for other in fork.others.iter().filter(|_| left >= cost) {
                let mut longer = choices.clone();
                longer.push((step, *other));
                waiting.push((longer, left - cost));
            }
        }
    }
    Outcome::Kept { runs }
}

/// Tries an import that is killed after `steps` steps, with a collection that starts at any step.
/// Returns the outcome.
pub(crate) fn killed_at(steps: usize) -> Outcome {
    let (mut runs, mut step) = (0, 0);
    loop {
        runs += 1;
        let world = pool::wait(World::new(&["a"]));
        let forks = play(
            vec![killed(&world, 1, "b", steps), collect(&world)],
            &[(step, 1)],
        );
        if let Some(what) = pool::wait(world.judge()) {
            return Outcome::Lost { runs, what };
        }
        step += 1;
        if step >= forks.len() {
            return Outcome::Kept { runs };
        }
    }
}

/// Runs all actors to their ends. Returns, for each step, which other actors could have taken it.
fn play(actors: Vec<Actor>, choices: &[Choice]) -> Vec<Fork> {
    let mut actors: Vec<Option<Actor>> = actors.into_iter().map(Some).collect();
    let mut context = Context::from_waker(Waker::noop());
    let (mut forks, mut current) = (Vec::new(), 0);
    loop {
        let ready: Vec<usize> = (0..actors.len())
            .filter(|one| actors[*one].is_some())
            .collect();
        let Some(usual) = ready
            .iter()
            .copied()
            .find(|one| *one == current)
            .or(ready.first().copied())
        else {
            return forks;
        };
        let step = forks.len();
        assert!(step < 10_000, "an actor runs for ever");
        let chosen = choices
            .iter()
            .find(|(at, _)| *at == step)
            .map(|(_, actor)| *actor);
        let preempts = usual == current && step > 0;
        current = chosen.filter(|one| ready.contains(one)).unwrap_or(usual);
        let others = ready.into_iter().filter(|one| *one != current).collect();
        forks.push(Fork { others, preempts });
        let actor = actors[current].as_mut().expect("it is ready");
        // Work for the pool is done inline; otherwise the steps would differ between runs.
        if let Poll::Ready(()) = pool::inline(|| actor.as_mut().poll(&mut context)) {
            actors[current] = None;
        }
    }
}
