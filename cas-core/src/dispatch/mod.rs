//! The one engine that visits an image: a [`Handler`] is called for each descriptor, and what it
//! returns is visited next, in order by [`walk`] or side by side by [`dispatch`].
//!
//! Both visit repeated content once, and both are bounded by [`limit`](crate::limit), so that no
//! index can keep them busy. They spawn nothing: any executor will do.

mod children;
mod platforms;
mod walk;

use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;

pub(crate) use children::parse;
pub use children::{children, children_handler, document, read};
pub(crate) use platforms::{best_first, suits};
pub use platforms::{choose, filter_platforms, limit_manifests};
pub use walk::{dispatch, walk, walk_not_empty};

use crate::descriptor::Descriptor;
use crate::error::Result;

/// What a handler says of a descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Visit these.
    Children(Vec<Descriptor>),
    /// This descriptor is done with: handlers after this one are not asked, and what those before
    /// it returned is visited.
    Stop,
    /// Nothing is visited below this descriptor, whatever other handlers returned.
    Skip,
}

impl Next {
    /// Nothing below, as far as this handler knows.
    pub const NONE: Next = Next::Children(Vec::new());
}

/// Handles one descriptor.
#[async_trait]
pub trait Handler: Send + Sync {
    /// Does what there is to do, and says what to visit next.
    ///
    /// # Errors
    /// Any; it ends the visit.
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

/// A handler from a closure.
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

/// A handler that asks `sequence` in turn and returns the children of all; see [`Next`] for how
/// one of them ends it.
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
