//! Visiting an image: a [`Handler`] is called for each descriptor, and the children that it returns
//! are visited next, in order by [`walk`] or in parallel by [`dispatch`].
//!
//! Of several descriptors with the same digest, size and media type, both functions visit only one.
//! Both functions enforce the bounds [`limit::INDEX_DEPTH`](crate::limit::INDEX_DEPTH) and
//! [`limit::WALK`](crate::limit::WALK), so the visit of any image ends. They spawn no tasks and run
//! on any executor.

mod children;
mod chooser;
mod platforms;
mod walk;

use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;

pub(crate) use children::parse;
pub use children::{children, children_handler, document, embedded, read};
pub use chooser::Chooser;
pub(crate) use platforms::{best_first, suits};
pub use platforms::{choose, filter_platforms, limit_manifests};
pub use walk::{dispatch, walk, walk_not_empty};

use crate::descriptor::Descriptor;
use crate::error::Result;

/// What to do after a handler was called for a descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Visit these children.
    Children(Vec<Descriptor>),
    /// Call no further handler of [`handlers`] for this descriptor, and visit the children that the
    /// earlier handlers returned. Without earlier handlers, visit nothing below this descriptor.
    Stop,
    /// Call no further handler of [`handlers`] for this descriptor, and visit nothing below it,
    /// even if earlier handlers returned children.
    Skip,
}

impl Next {
    /// No children.
    pub const NONE: Next = Next::Children(Vec::new());
}

/// Handles one descriptor.
#[async_trait]
pub trait Handler: Send + Sync {
    /// Handles the descriptor. Returns what to visit next.
    ///
    /// # Errors
    /// Any error ends the visit.
    async fn handle(&self, descriptor: &Descriptor) -> Result<Next>;
}

macro_rules! through_pointer {
    ($($pointer:ty),*) => {$(
        #[async_trait]
        impl<H: Handler + ?Sized> Handler for $pointer {
            async fn handle(&self, descriptor: &Descriptor) -> Result<Next> {
                (**self).handle(descriptor).await
            }
        }
    )*};
}

through_pointer!(&H, Box<H>, Arc<H>);

/// Returns a handler that calls `function`.
pub fn handler_fn<F, R>(function: F) -> impl Handler
where
    F: Fn(Descriptor) -> R + Send + Sync,
    R: Future<Output = Result<Next>> + Send,
{
    HandlerFn(function)
}

struct HandlerFn<F>(F);

#[async_trait]
impl<F, R> Handler for HandlerFn<F>
where
    F: Fn(Descriptor) -> R + Send + Sync,
    R: Future<Output = Result<Next>> + Send,
{
    async fn handle(&self, descriptor: &Descriptor) -> Result<Next> {
        (self.0)(descriptor.clone()).await
    }
}

/// Returns a handler that calls the handlers of `sequence` in order and returns all their children.
/// With [`Next::Stop`] or [`Next::Skip`], a handler ends the sequence early.
pub fn handlers<'a>(sequence: Vec<Box<dyn Handler + 'a>>) -> impl Handler + 'a {
    Sequence(sequence)
}

struct Sequence<'a>(Vec<Box<dyn Handler + 'a>>);

#[async_trait]
impl Handler for Sequence<'_> {
    async fn handle(&self, descriptor: &Descriptor) -> Result<Next> {
        let mut gathered = Vec::new();
        for handler in &self.0 {
            match handler.handle(descriptor).await? {
                Next::Children(children) => gathered.extend(children),
                Next::Stop => break,
                Next::Skip => return Ok(Next::Skip),
            }
        }
        Ok(Next::Children(gathered))
    }
}
