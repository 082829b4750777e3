//! The data of the measurements. It is made from seeds, so that every measured store gets the same
//! bytes, and it is incompressible, so that no store gains from compression.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use cas_core::Digest;

use crate::column::{Blob, ImageBlobs};

/// Size of a small blob in bytes.
pub const SMALL: usize = 4 << 10;
/// Size of a piece of a large blob in bytes.
pub const PIECE: usize = 1 << 20;
/// Number of blobs of one image, including its root blob.
pub const BLOBS_PER_IMAGE: u32 = 100;
/// Number of offsets at which a piece can begin in the pool. The pool is a buffer of random bytes.
/// The pieces of large blobs are slices of the pool, because making a slice copies nothing.
const POOL: usize = 16 << 20;

/// Returns `length` incompressible bytes. The same seed gives the same bytes.
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

/// Returns the blob that consists of the [`bytes()`] of this seed and length.
pub fn blob(seed: u64, length: usize) -> Blob {
    let data = Bytes::from(bytes(seed, length));
    let digest = Digest::sha256(&data);
    Blob { digest, data }
}

/// Returns `count` small blobs. Different seeds below 2^24 give different blobs.
pub fn small(seed: u64, count: usize) -> Vec<Blob> {
    let numbers = (0..count as u64).map(|number| (seed << 40) | number);
    numbers.map(|number| blob(number, SMALL)).collect()
}

/// Returns the pieces of a blob of `size` bytes. Each piece has [`PIECE`] bytes, except that the
/// last may be shorter.
pub fn pieces(seed: u64, size: u64) -> impl Iterator<Item = Bytes> + Send {
    static CUT_FROM: OnceLock<Bytes> = OnceLock::new();
    let pool = CUT_FROM.get_or_init(|| bytes(u64::MAX, POOL + PIECE).into());
    (0..size.div_ceil(PIECE as u64)).map(move |number| {
        let offset = seed.wrapping_mul(7919).wrapping_add(number * 1_048_583) as usize % POOL;
        let length = PIECE.min((size - number * PIECE as u64) as usize);
        pool.slice(offset..offset + length)
    })
}

/// Hashes the blob that consists of the [`pieces`] of this seed and size. Returns its SHA-256
/// digest.
pub fn hash(seed: u64, size: u64) -> Digest {
    let mut hasher = cas_core::Hasher::new(cas_core::Algorithm::Sha256);
    pieces(seed, size).for_each(|piece| hasher.update(&piece));
    hasher.finish()
}

/// Returns the same digest as [`hash`]. Hashes each blob only once, and keeps its digest in memory.
pub fn digest(seed: u64, size: u64) -> Digest {
    static KNOWN: Mutex<BTreeMap<(u64, u64), Digest>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    *known
        .entry((seed, size))
        .or_insert_with(|| hash(seed, size))
}

/// Returns the image with this number: a root blob and the blobs that it refers to. Each blob has
/// 100 bytes.
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
        children: (1..BLOBS_PER_IMAGE).map(of).collect(),
    }
}
