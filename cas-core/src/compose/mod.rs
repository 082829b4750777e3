//! Stores made of stores.
//!
//! A composition is a store again: it keeps every law whose capability it reports, and knows its
//! members only by their traits. It says which of them is the one home of records.

pub mod by_size;
pub mod observe;

use async_trait::async_trait;

pub use by_size::{BySize, by_size};
pub use observe::{Counters, Observer, observe};

use crate::error::Result;
use crate::location::Location;
use crate::registry::Registry;
use crate::store::Store;

/// Opens the stores of one kind of composition, members first.
#[async_trait]
pub trait Composer: Send + Sync + 'static {
    /// The scheme.
    fn scheme(&self) -> &'static str;

    /// The options that name its members: each holds a URL, or a scheme for a store below the
    /// place of the composition; see [`Location::member`].
    fn members(&self) -> &'static [&'static str];

    /// Checks the other options, before anything is opened.
    ///
    /// # Errors
    /// `InvalidArgument`, naming the option.
    fn check(&self, location: &Location) -> Result<()>;

    /// Opens the members from `registry`, and the composition over them.
    ///
    /// # Errors
    /// Those of the members.
    async fn open(&self, location: &Location, registry: &Registry) -> Result<Store>;
}
