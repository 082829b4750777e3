//! What trials found.

use std::fmt;

/// What a trial found.
pub(crate) struct Outcome {
    /// How many kills, disks or changes the trial made.
    pub(crate) tried: u64,
    /// The word for them in messages, such as `disks`.
    pub(crate) what: String,
    /// A text for each violation of a promise.
    pub(crate) violations: Vec<String>,
}

impl Outcome {
    /// The beginning of the text of an outcome without violations.
    pub(crate) const SOUND: &str = "0 violations ";
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let violations = self.violations.len();
        write!(f, "{violations} violations in {} {}", self.tried, self.what)
    }
}
