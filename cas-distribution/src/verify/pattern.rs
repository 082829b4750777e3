//! Patterns for names: `*` stands for any text without `/`, and `**` for any text. Both may stand
//! for an empty text.

/// A pattern for a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern(Vec<Piece>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Byte(u8),
    /// Any bytes but `/`.
    Part,
    /// Any bytes.
    All,
}

impl Pattern {
    pub(super) fn new(text: &str) -> Self {
        let mut pieces = Vec::new();
        for byte in text.bytes() {
            let last = pieces.last_mut();
            match (byte, last) {
                (b'*', Some(last @ (Piece::Part | Piece::All))) => *last = Piece::All,
                (b'*', _) => pieces.push(Piece::Part),
                (byte, _) => pieces.push(Piece::Byte(byte)),
            }
        }
        Pattern(pieces)
    }

    /// Returns whether the pattern stands for the whole of `text`. The time is at most proportional
    /// to the product of their lengths.
    pub(super) fn is_for(&self, text: &str) -> bool {
        let text = text.as_bytes();
        // `reached[n]`: whether the pieces so far stand for the first `n` bytes.
        let mut reached = vec![false; text.len() + 1];
        reached[0] = true;
        for piece in &self.0 {
            let mut next = vec![false; text.len() + 1];
            for at in 0..=text.len() {
                match piece {
                    Piece::Byte(byte) => {
                        next[at] = at > 0 && reached[at - 1] && text[at - 1] == *byte;
                    }
                    Piece::Part | Piece::All => {
                        let goes_on = at > 0
                            && next[at - 1]
                            && (*piece == Piece::All || text[at - 1] != b'/');
                        next[at] = reached[at] || goes_on;
                    }
                }
            }
            reached = next;
        }
        reached[text.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_star_stays_within_a_component_and_two_do_not() {
        for (pattern, text, expected) in [
            ("x.test/a", "x.test/a", true),
            ("x.test/a", "x.test/ab", false),
            ("x.test/a", "", false),
            ("x.test/*", "x.test/ab", true),
            ("x.test/*", "x.test/a/b", false),
            ("x.test/**", "x.test/a/b", true),
            ("x.test/***", "x.test/a/b", true),
            ("x.test/*/b", "x.test/a/b", true),
            ("x.test/**/c", "x.test/a/b/c", true),
            ("x.test/a*c", "x.test/abc", true),
            ("x.test/a*c", "x.test/ac", true),
            ("x.test/a*c", "x.test/a/c", false),
            ("*.x.test/**", "a.x.test/b", true),
            ("*.x.test/**", "evil.test/a.x.test/b", false),
            ("**", "", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(
                Pattern::new(pattern).is_for(text),
                expected,
                "{pattern} {text}"
            );
        }
    }

    #[test]
    fn many_stars_do_not_take_long() {
        let pattern = Pattern::new(&"*a".repeat(200));
        assert!(!pattern.is_for(&"a".repeat(199)));
        assert!(pattern.is_for(&"a".repeat(1000)));
        assert!(!pattern.is_for(&format!("{}b", "a".repeat(1000))));
    }
}
