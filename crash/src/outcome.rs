//! What trials found.

use std::fmt;

/// What a trial found.
pub(crate) struct Outcome {
    /// How many kills, disks or changes the trial made.
    pub(crate) tried: u64,
    /// The word for what was tried, such as `disks`, in messages.
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
        let (count, tried, what) = (self.violations.len(), self.tried, &self.what);
        let violations = match count {
            1 => "violation",
            _ => "violations",
        };
        write!(f, "{count} {violations} in {tried} {what}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_outcome_without_violations_is_sound() {
        for (count, expected) in [
            (0, "0 violations in 50 disks"),
            (1, "1 violation in 50 disks"),
            (10, "10 violations in 50 disks"),
        ] {
            let outcome = Outcome {
                tried: 50,
                what: "disks".into(),
                violations: vec![String::new(); count],
            };
            assert_eq!(outcome.to_string(), expected);
            assert_eq!(expected.starts_with(Outcome::SOUND), count == 0);
        }
        // An earlier release has written this line.
        assert!(!"1 violations in 50 disks".starts_with(Outcome::SOUND));
    }
}
