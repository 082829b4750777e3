//! Decides where the spans of a layer end.

use std::ops::Range;

/// Files with less than this number of decompressed bytes between them count as one file: two more
/// checkpoints would take about as many bytes as the compressed bytes between the files.
const GAP: u64 = 256 << 10;
/// The distance in decompressed bytes that a span may begin before a file that is fetched first. A
/// deflate block usually has fewer bytes.
const NEAR: u64 = 128 << 10;

/// The rule by which spans end.
pub(super) struct Spans {
    /// Maximum number of decompressed bytes before the last block of a span.
    size: u64,
    /// The ranges of the tar that are fetched first, in order. They do not touch.
    first: Vec<Range<u64>>,
}

impl Spans {
    /// Returns the rule for spans of `size` decompressed bytes. More spans end before and after the
    /// ranges of the tar in `first`, so that these ranges can be fetched without the bytes around
    /// them.
    pub(super) fn new(size: u64, mut first: Vec<Range<u64>>) -> Self {
        first.sort_by_key(|range| range.start);
        let mut merged: Vec<Range<u64>> = Vec::new();
        for range in first {
            match merged.last_mut() {
                Some(last) if range.start < last.end.saturating_add(GAP) => {
                    last.end = last.end.max(range.end);
                }
                _ => merged.push(range),
            }
        }
        Spans {
            size,
            first: merged,
        }
    }

    /// Returns whether the span that begins at the byte `begun` of the tar ends at the byte `here`,
    /// where a deflate block begins.
    pub(super) fn end(&self, begun: u64, here: u64) -> bool {
        if here - begun > self.size {
            return true;
        }
        let next = self.first.partition_point(|range| range.end <= begun);
        self.first.get(next).is_some_and(|range| {
            let is_near = here <= range.start && range.start - here < NEAR;
            here >= range.end || (is_near && range.start - begun >= NEAR)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns where spans begin in a tar of `length` bytes whose blocks have `block` bytes each.
    fn begins(spans: &Spans, block: u64, length: u64) -> Vec<u64> {
        let mut begins = vec![0];
        for here in (block..length).step_by(block as usize) {
            if spans.end(begins[begins.len() - 1], here) {
                begins.push(here);
            }
        }
        begins
    }

    #[test]
    fn spans_end_after_their_size_and_around_the_first_files() {
        const BLOCK: u64 = 64 << 10;
        const SIZE: u64 = 4 << 20;
        let of = |first| begins(&Spans::new(SIZE, first), BLOCK, 3 * SIZE);
        let usual = SIZE + BLOCK;
        assert_eq!(of(Vec::new()), [0, usual, 2 * usual]);
        let file = (1 << 20) + 100..(2 << 20) - 100;
        let before = (1 << 20) - BLOCK;
        let around = [0, before, 2 << 20, (2 << 20) + usual, (2 << 20) + 2 * usual];
        assert_eq!(of(vec![file.clone()]), around);
        // A second file directly after the first, given before it.
        let second = (2 << 20) + 100..(3 << 20);
        let both = [0, before, 3 << 20, (3 << 20) + usual, (3 << 20) + 2 * usual];
        assert_eq!(of(vec![second, file]), both);
        // A file at the beginning of a span, and one that is larger than a span.
        let (small, large) = (100..200, 0..2 * SIZE);
        assert_eq!(of(vec![small])[..2], [0, BLOCK]);
        assert_eq!(of(vec![large])[..3], [0, usual, 2 * SIZE]);
    }
}
