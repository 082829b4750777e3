//! What a law is.

use std::pin::Pin;

use cas_core::Capability;

use crate::subject::Subject;

/// The gaps of a store: the name of each law that it cannot keep, with the reason.
pub type Gaps = &'static [(&'static str, &'static str)];

/// The future of a running law.
pub type Trial = Pin<Box<dyn Future<Output = ()>>>;

/// A rule that stores of kind `S` must keep.
pub struct Law<S: ?Sized + 'static> {
    /// The group of the law, such as `content`. The laws of whole stores are in the group `gc`.
    pub group: &'static str,
    /// The name of the law, unique among all laws.
    pub name: &'static str,
    /// What goes wrong for a user if a store does not keep the law, in one sentence.
    pub why: &'static str,
    /// The document, trait, program or issue that the rule comes from.
    pub source: &'static str,
    /// The promise that the law is about, if there is one. A store that does not make the promise
    /// need not keep the law.
    pub needs: Option<Capability>,
    /// Whether the outcome of the law depends on timing. Such a law is not run on a store that
    /// declares it as a gap.
    pub racy: bool,
    /// Runs the law. The future panics if the store breaks the law.
    pub run: fn(Subject<S>) -> Trial,
}
