//! The actors that work on the store at the same time.

use std::future::Future;
use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use cas_core::gc::{self, GcOptions};
use cas_core::lease::{BlobRef, LeaseGuard};
use cas_core::{ErrorKind, Image, Result, Store};
use conformance::sample::{JOB_LEASE, Sample, tag as tag_whole};

use crate::world::World;

/// The work of one actor.
pub(crate) type Actor = Pin<Box<dyn Future<Output = ()>>>;

/// Returns whether an actor succeeded. Losing a race, or not finding the content it works on, is
/// allowed.
fn forgive(outcome: Result<()>) -> bool {
    match outcome {
        Ok(()) => true,
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::Conflict | ErrorKind::Busy
            ) =>
        {
            false
        }
        Err(error) => panic!("an actor failed: {error}"),
    }
}

/// Returns an actor that imports image `number`.
pub(crate) fn import(world: &World, number: u64, name: &'static str) -> Actor {
    let (store, promised) = (world.store.clone(), Arc::clone(&world.promised));
    Box::pin(async move {
        if forgive(Sample::of(number).import(&store, name).await) {
            promised.lock().unwrap().insert(name.to_owned());
        }
    })
}

/// As [`import`], but the actor is killed after `steps` steps: none of its code runs any more, not
/// even destructors.
pub(crate) fn killed(world: &World, number: u64, name: &'static str, steps: usize) -> Actor {
    let actor = import(world, number, name);
    Box::pin(Killed(ManuallyDrop::new(actor), steps))
}

struct Killed(ManuallyDrop<Actor>, usize);

impl Future for Killed {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.1 == 0 {
            return Poll::Ready(());
        }
        self.1 -= 1;
        self.0.as_mut().poll(context)
    }
}

/// Returns an actor that gives the image `from` a second name.
pub(crate) fn tag(world: &World, from: &'static str, to: &'static str) -> Actor {
    let (store, promised) = (world.store.clone(), Arc::clone(&world.promised));
    Box::pin(async move {
        if forgive(tag_whole(&store, from, to).await) {
            promised.lock().unwrap().insert(to.to_owned());
        }
    })
}

/// As [`tag`], with a fault: only the target is pinned, but not the blobs that the target reaches.
pub(crate) fn tag_root_only(world: &World, from: &'static str, to: &'static str) -> Actor {
    let store = world.store.clone();
    Box::pin(async move {
        forgive(tag_root(&store, from, to).await);
    })
}

async fn tag_root(store: &Store, from: &str, to: &str) -> Result<()> {
    let image = store.images.get(&from.parse()?).await?;
    let image = image.ok_or_else(|| cas_core::Error::not_found("no such image"))?;
    let guard = LeaseGuard::begin_for(store, "tag", JOB_LEASE).await?;
    guard.pin(BlobRef::existing(image.target.digest)).await?;
    let image = Image::new(to.parse()?, image.target);
    guard.name(vec![image], &["target"]).await.map(|_| ())
}

/// Returns an actor that gives an image another name.
pub(crate) fn rename(world: &World, from: &'static str, to: &'static str) -> Actor {
    let (store, promised) = (world.store.clone(), Arc::clone(&world.promised));
    Box::pin(async move {
        if forgive(tag_whole(&store, from, to).await) {
            promised.lock().unwrap().insert(to.to_owned());
            promised.lock().unwrap().remove(from);
            forgive(store.images.delete(&from.parse().unwrap(), None).await);
        }
    })
}

/// Returns an actor that removes a name.
pub(crate) fn remove(world: &World, name: &'static str) -> Actor {
    let store = world.store.clone();
    Box::pin(async move {
        forgive(store.images.delete(&name.parse().unwrap(), None).await);
    })
}

/// Returns an actor that collects garbage.
pub(crate) fn collect(world: &World) -> Actor {
    collect_with(world.store.clone())
}

/// Returns an actor that collects garbage in a store that may break a rule.
pub(crate) fn collect_with(store: Store) -> Actor {
    collect_at(store, SystemTime::now())
}

/// Returns an actor that collects garbage at a time when all leases have expired.
pub(crate) fn collect_later(world: &World) -> Actor {
    let now = SystemTime::now() + JOB_LEASE + Duration::from_secs(3600);
    collect_at(world.store.clone(), now)
}

fn collect_at(store: Store, now: SystemTime) -> Actor {
    Box::pin(async move {
        let options = GcOptions::default().with_now(now);
        gc::collect(&store, &[], &options).await.unwrap();
    })
}
