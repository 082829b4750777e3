//! The data: seeded, so that every column gets the same, and incompressible, so that none wins by
//! a codec.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use cas_core::Digest;

use crate::column::{Blob, ImageBlobs};

/// Bytes of a small blob.
pub const SMALL: usize = 4 << 10;
/// Bytes of a piece of a large one.
pub const PIECE: usize = 1 << 20;
/// Blobs of one image, its root among them.
pub const IMAGE: u32 = 100;
/// Bytes of which the pieces of large blobs are cut, so that making them costs nothing.
const POOL: usize = 16 << 20;

/// `length` bytes that nothing shortens.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x2545_f491_4f6c_dd1d);
    let mut data = Vec::with_capacity(length + 8);
    while data.len() < length {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        data.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    data.truncate(length);
    data
}

/// The blob of this seed.
pub fn blob(seed: u64, length: usize) -> Blob {
    let data = Bytes::from(bytes(seed, length));
    let digest = Digest::sha256(&data);
    Blob { digest, data }
}

/// `count` small blobs; no two seeds below 2^24 have one in common.
pub fn small(seed: u64, count: usize) -> Vec<Blob> {
    let numbers = (0..count as u64).map(|number| (seed << 40) | number);
    numbers.map(|number| blob(number, SMALL)).collect()
}

/// The pieces of a blob of `size` bytes.
pub fn pieces(seed: u64, size: u64) -> impl Iterator<Item = Bytes> + Send {
    static CUT_OF: OnceLock<Bytes> = OnceLock::new();
    let pool = CUT_OF.get_or_init(|| bytes(u64::MAX, POOL + PIECE).into());
    (0..size.div_ceil(PIECE as u64)).map(move |number| {
        let at = seed.wrapping_mul(7919).wrapping_add(number * 1_048_583) as usize % POOL;
        let length = PIECE.min((size - number * PIECE as u64) as usize);
        pool.slice(at..at + length)
    })
}

/// Hashes the [`pieces`] of a blob.
pub fn hash(seed: u64, size: u64) -> Digest {
    let mut hasher = cas_core::Hasher::new(cas_core::Algorithm::Sha256);
    pieces(seed, size).for_each(|piece| hasher.update(&piece));
    hasher.finish()
}

/// The digest of a blob made of [`pieces`], which is hashed once.
pub fn digest(seed: u64, size: u64) -> Digest {
    static KNOWN: Mutex<BTreeMap<(u64, u64), Digest>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    *known
        .entry((seed, size))
        .or_insert_with(|| hash(seed, size))
}

/// Image number `number`: a root, and the other blobs it refers to; about 100 bytes each.
pub fn image(number: u32) -> ImageBlobs {
    let of = |child: u32| {
        blob(
            (1 << 60) | (u64::from(number) << 20) | u64::from(child),
            100,
        )
    };
    ImageBlobs {
        name: format!("example.org/image:{number}"),
        root: of(0),
        children: (1..IMAGE).map(of).collect(),
    }
}
