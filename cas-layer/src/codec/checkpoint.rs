//! Checkpoints: places in a gzip stream from which it can be decompressed without the bytes before
//! them (`docs/decisions/0040`).
//!
//! A checkpoint has the whole state of the decoder at its place. So if the decoder is known to be
//! right at one checkpoint, and decompresses from there to exactly the state of the next one, then
//! the next one is right, too. No checkpoint is used before it was found to be right in this way.

use bytes::{Buf, Bytes};
use cas_core::{Error, Result, limit};
use zstd::bulk::{Compressor, Decompressor};

use super::inflate::WINDOW;

/// The first bytes of stored checkpoints. The last one is the version of the format.
const MAGIC: &[u8; 8] = b"cas-ckp\x01";
/// Size in bytes of a stored checkpoint without its window.
const HEAD: usize = 28;
/// Maximum size in bytes of a compressed window: that of bytes that cannot be compressed, with the
/// headers of zstd.
const STORED_WINDOW: usize = WINDOW + 256;
/// Stands in the place of the number of bits, if a member may begin at the checkpoint.
const MEMBER: u8 = 8;
/// Maximum size in bytes of stored checkpoints.
pub(crate) const LARGEST: u64 =
    (MAGIC.len() + 4 + limit::CHECKPOINTS * (HEAD + STORED_WINDOW)) as u64;

/// Number of decompressed bytes from one checkpoint to the next, at least.
const SPACING: u64 = 4 << 20;
/// Minimum number of checkpoints that are of use. A smaller layer has none, because its
/// decompression takes less time than to store them and to find them.
const FEWEST: usize = 4;
/// The level of zstd for windows. Compression takes about 0.1 ms for each [`SPACING`].
const LEVEL: i32 = 1;

/// A place in a gzip stream, and the state of the decoder there, except for the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Number of compressed bytes before the place. Includes a byte within which a block begins.
    pub(super) compressed: u64,
    /// Number of decompressed bytes before the place.
    pub(super) decompressed: u64,
    pub(super) begins: Begins,
    /// The CRC-32 of the decompressed bytes of the member before the place.
    pub(super) sum: u32,
    /// The number of these bytes, modulo 2³².
    pub(super) length: u32,
}

/// What begins at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begins {
    /// A member, or zeros, or nothing, because a member has ended.
    Member,
    /// A block within a member.
    Block {
        /// The number of bits of the byte `last` that belong to the block.
        bits: u8,
        /// The byte before the place. 0 if the block begins with a whole byte.
        last: u8,
    },
}

/// A place and the compressed window before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Checkpoint {
    pub(super) place: Place,
    window: Bytes,
}

impl Checkpoint {
    /// Returns the decompressed bytes before the place, or `None` if they are damaged.
    pub(super) fn window(&self) -> Option<Vec<u8>> {
        Decompressor::new()
            .and_then(|mut zstd| zstd.decompress(&self.window, WINDOW))
            .ok()
    }
}

/// The checkpoints of a layer, in the order of their places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoints(pub(super) Vec<Checkpoint>);

impl Checkpoints {
    /// Returns the checkpoints as they are stored: the magic bytes, the number of checkpoints, and
    /// for each of them its place, the length of its compressed window, and this window. All
    /// integers have the lowest byte first.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend((self.0.len() as u32).to_le_bytes());
        for Checkpoint { place, window } in &self.0 {
            let (bits, last) = match place.begins {
                Begins::Member => (MEMBER, 0),
                Begins::Block { bits, last } => (bits, last),
            };
            bytes.extend(place.compressed.to_le_bytes());
            bytes.extend(place.decompressed.to_le_bytes());
            bytes.extend([bits, last]);
            bytes.extend(place.sum.to_le_bytes());
            bytes.extend(place.length.to_le_bytes());
            bytes.extend((window.len() as u16).to_le_bytes());
            bytes.extend(window);
        }
        bytes
    }

    /// Reads stored checkpoints. The windows stay compressed, and refer to the memory of `stored`.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are not exactly checkpoints in the right order; `OutOfRange` for
    /// more than [`limit::CHECKPOINTS`] checkpoints.
    pub fn decode(mut stored: Bytes) -> Result<Self> {
        if !stored.starts_with(MAGIC) || stored.len() < MAGIC.len() + 4 {
            return Err(damaged());
        }
        stored.advance(MAGIC.len());
        let count = stored.get_u32_le() as usize;
        if count > limit::CHECKPOINTS {
            return Err(Error::out_of_range(format!(
                "found {count} checkpoints of a layer; at most {} are allowed",
                limit::CHECKPOINTS
            )));
        }
        let mut checkpoints = Vec::with_capacity(count);
        for _ in 0..count {
            checkpoints.push(read(&mut stored)?);
        }
        let places = || checkpoints.iter().map(|one: &Checkpoint| &one.place);
        let ordered = places().is_sorted_by(|before, after| {
            before.compressed < after.compressed && before.decompressed < after.decompressed
        });
        let sound = |place: &Place| {
            (1..=limit::LAYER).contains(&place.decompressed) && place.compressed > 0
        };
        match stored.is_empty() && ordered && places().all(sound) {
            true => Ok(Checkpoints(checkpoints)),
            false => Err(damaged()),
        }
    }

    /// Returns whether the parts of the layer between the checkpoints are so small that several of
    /// them can be in memory.
    pub(crate) fn are_close(&self) -> bool {
        let (mut compressed, mut decompressed) = (0, 0);
        self.0.iter().all(|Checkpoint { place, .. }| {
            let largest = (place.compressed - compressed).max(place.decompressed - decompressed);
            (compressed, decompressed) = (place.compressed, place.decompressed);
            largest <= limit::CHECKPOINT_SPAN
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Reads one checkpoint.
fn read(stored: &mut Bytes) -> Result<Checkpoint> {
    if stored.len() < HEAD {
        return Err(damaged());
    }
    let (compressed, decompressed) = (stored.get_u64_le(), stored.get_u64_le());
    let begins = match (stored.get_u8(), stored.get_u8()) {
        (MEMBER, 0) => Begins::Member,
        (bits @ 0..MEMBER, last) if bits > 0 || last == 0 => Begins::Block { bits, last },
        _ => return Err(damaged()),
    };
    let (sum, length) = (stored.get_u32_le(), stored.get_u32_le());
    let window = usize::from(stored.get_u16_le());
    if window > STORED_WINDOW || window > stored.len() {
        return Err(damaged());
    }
    Ok(Checkpoint {
        place: Place {
            compressed,
            decompressed,
            begins,
            sum,
            length,
        },
        window: stored.split_to(window),
    })
}

fn damaged() -> Error {
    Error::corrupt(
        "the checkpoints of a layer are damaged; the layer is decompressed without them, and the \
         next unpack records them again",
    )
}

/// Records checkpoints while a layer is decompressed.
pub(crate) struct Recorder {
    spacing: u64,
    fewest: usize,
    most: usize,
    checkpoints: Vec<Checkpoint>,
    /// `None` after a window could not be compressed. No more checkpoints are recorded then.
    zstd: Option<Compressor<'static>>,
}

impl Recorder {
    /// Returns a recorder that has these checkpoints already.
    pub(super) fn after(checkpoints: &[Checkpoint]) -> Self {
        Self::with_bounds(checkpoints, SPACING, limit::CHECKPOINTS)
    }

    /// Returns a recorder that has these checkpoints already, and records at most `most`, at first
    /// with a distance of at least `spacing` decompressed bytes.
    pub(super) fn with_bounds(checkpoints: &[Checkpoint], spacing: u64, most: usize) -> Self {
        Recorder {
            spacing,
            fewest: FEWEST,
            most,
            checkpoints: checkpoints.to_vec(),
            zstd: Compressor::new(LEVEL).ok(),
        }
    }

    pub(crate) fn new() -> Self {
        Self::after(&[])
    }

    #[cfg(feature = "fuzzing")]
    pub(crate) fn of_every_block() -> Self {
        Recorder {
            fewest: 1,
            ..Self::with_bounds(&[], 1, limit::CHECKPOINTS)
        }
    }

    /// Returns whether the next place after this number of decompressed bytes is recorded.
    pub(super) fn wants(&self, decompressed: u64) -> bool {
        let last = self.checkpoints.last();
        let last = last.map_or(0, |last| last.place.decompressed);
        self.zstd.is_some() && decompressed >= last + self.spacing
    }

    /// Records a checkpoint. If there are too many then, removes every second one, and the next
    /// ones have twice the distance.
    pub(super) fn note(&mut self, place: Place, window: &[u8]) {
        let Some(zstd) = &mut self.zstd else { return };
        let Ok(window) = zstd.compress(window) else {
            self.zstd = None;
            return;
        };
        // The memory of the vector is as large as if nothing had been saved.
        let window = Bytes::copy_from_slice(&window);
        self.checkpoints.push(Checkpoint { place, window });
        if self.checkpoints.len() > self.most {
            let mut number = 0;
            self.checkpoints.retain(|_| {
                number += 1;
                number % 2 == 0
            });
            self.spacing *= 2;
        }
    }

    /// Returns the checkpoints, or `None` if they are too few to be of use, or incomplete.
    pub(super) fn finish(self) -> Option<Checkpoints> {
        let is_whole = self.zstd.is_some() && self.checkpoints.len() >= self.fewest;
        is_whole.then_some(Checkpoints(self.checkpoints))
    }
}

#[cfg(test)]
impl Checkpoint {
    /// Returns this place with the window of another one.
    pub(super) fn with_window_of(&self, other: &Self) -> Self {
        let window = other.window.clone();
        Checkpoint { window, ..*self }
    }

    /// Returns this place with a window that cannot be decompressed.
    pub(super) fn with_damaged_window(&self) -> Self {
        let window = Bytes::from_static(b"damaged");
        Checkpoint { window, ..*self }
    }
}

#[cfg(test)]
mod tests {
    use cas_core::ErrorKind;

    use super::*;

    fn at(compressed: u64, decompressed: u64, begins: Begins) -> Checkpoint {
        let mut recorder = Recorder::new();
        let place = Place {
            compressed,
            decompressed,
            begins,
            sum: 0x1234_5678,
            length: 9,
        };
        recorder.note(place, b"window");
        recorder.checkpoints.remove(0)
    }

    const WHOLE: Begins = Begins::Block { bits: 0, last: 0 };

    #[test]
    fn stored_checkpoints_are_read_again() {
        let begins = [
            Begins::Member,
            WHOLE,
            Begins::Block {
                bits: 7,
                last: 0xff,
            },
            Begins::Block { bits: 1, last: 0 },
        ];
        let list = (1..).zip(begins).map(|(at_, one)| at(at_, 2 * at_, one));
        let list = Checkpoints(list.collect());
        let stored = Bytes::from(list.encode());
        let window = list.0[0].window.len();
        assert_eq!(stored.len(), 8 + 4 + 4 * (28 + window));
        assert_eq!(
            stored[..40],
            [
                b"cas-ckp\x01\x04\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x08\0".as_slice(),
                b"\x78\x56\x34\x12\x09\0\0\0",
                &(window as u16).to_le_bytes(),
            ]
            .concat()
        );
        assert_eq!(Checkpoints::decode(stored.clone()).unwrap(), list);
        assert_eq!(list.0[3].window().unwrap(), b"window");
        for length in 0..stored.len() {
            let error = Checkpoints::decode(stored.slice(..length)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{length}");
        }
        let longer = [&stored[..], b"x"].concat();
        assert!(Checkpoints::decode(longer.into()).is_err());
        let none = Checkpoints(Vec::new());
        assert_eq!(Checkpoints::decode(none.encode().into()).unwrap(), none);
    }

    #[test]
    fn checkpoints_that_lie_are_refused() {
        let refused = |list: &[Checkpoint], why: &str| {
            let error = Checkpoints::decode(Checkpoints(list.to_vec()).encode().into());
            assert_eq!(error.unwrap_err().kind(), ErrorKind::Corrupt, "{why}");
        };
        let first = at(10, 20, WHOLE);
        refused(&[first.clone(), first.clone()], "the same place twice");
        refused(&[first.clone(), at(9, 30, WHOLE)], "compressed backwards");
        refused(
            &[first.clone(), at(11, 19, WHOLE)],
            "decompressed backwards",
        );
        refused(&[at(0, 20, WHOLE)], "the beginning");
        refused(&[at(10, 0, WHOLE)], "nothing before it");
        refused(&[at(10, limit::LAYER + 1, WHOLE)], "too far");
        refused(&[at(10, 20, Begins::Block { bits: 9, last: 0 })], "bits");
        refused(
            &[at(10, 20, Begins::Block { bits: 8, last: 1 })],
            "a member",
        );
        refused(&[at(10, 20, Begins::Block { bits: 0, last: 1 })], "no bits");
        let mut version = Checkpoints(vec![first]).encode();
        version[7] = 2;
        assert!(Checkpoints::decode(version.into()).is_err());
        let mut many = Checkpoints(Vec::new()).encode();
        many[8..12].copy_from_slice(&(limit::CHECKPOINTS as u32 + 1).to_le_bytes());
        let error = Checkpoints::decode(many.into()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange);
    }

    #[test]
    fn checkpoints_are_close_up_to_the_bound() {
        let most = limit::CHECKPOINT_SPAN;
        let close = |list: &[(u64, u64)]| {
            let list = list.iter().map(|(from, to)| at(*from, *to, WHOLE));
            Checkpoints(list.collect()).are_close()
        };
        assert!(close(&[(5, most), (6, 2 * most)]));
        assert!(!close(&[(5, most + 1)]));
        assert!(!close(&[(5, most), (6, 2 * most + 1)]));
        assert!(!close(&[(5, most), (most + 6, 2 * most)]));
    }
}
