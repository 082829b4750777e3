//! Decides where each attribute is stored: once for all inodes if several inodes have it, otherwise
//! after the only inode that has it. An inode can refer to at most 255 shared attributes. If it has
//! more of them, copies of the excess ones are stored after the inode.

use std::collections::BTreeMap;

use cas_core::{Error, Result};

use super::format::{ATTRIBUTES, SLOT};
use crate::attributes::{Attribute, Sets};

/// Maximum number of shared attributes of one inode.
const SHARED: usize = u8::MAX as usize;
/// Maximum size of an inode's attributes in bytes. It leaves room for the padding before data.
const MOST: u64 = ATTRIBUTES + (u16::MAX as u64 - 1) * 4 - SLOT;

/// The attributes of all inodes.
pub(super) struct Placed {
    /// The bytes of the shared attributes.
    pub(super) shared: Vec<u8>,
    /// The bytes that follow an inode, by the identity of its set.
    pub(super) bodies: Vec<Vec<u8>>,
}

impl Placed {
    /// Places the attributes of all sets. `uses` has the number of inodes with each set, by the
    /// identity of the set.
    pub(super) fn new(sets: &Sets, uses: &[u64]) -> Result<Self> {
        let mut counts: BTreeMap<&Attribute, u64> = BTreeMap::new();
        for (id, &used) in uses.iter().enumerate() {
            for attribute in sets.get(id as u32) {
                *counts.entry(attribute).or_default() += used;
            }
        }
        let mut shared = Vec::new();
        let mut places = BTreeMap::new();
        for (attribute, _) in counts.into_iter().filter(|&(_, used)| used > 1) {
            // In units of four bytes.
            places.insert(attribute, (shared.len() / 4) as u32);
            write(&mut shared, attribute);
        }
        let body = |id| body(sets.get(id as u32), &places);
        let bodies = (0..uses.len()).map(body).collect::<Result<_>>()?;
        Ok(Placed { shared, bodies })
    }
}

/// Returns the bytes that follow an inode with these attributes. `places` has the offsets of the
/// shared attributes, in units of four bytes.
fn body(set: &[Attribute], places: &BTreeMap<&Attribute, u32>) -> Result<Vec<u8>> {
    if set.is_empty() {
        return Ok(Vec::new());
    }
    let (mut shared, mut own) = (Vec::new(), Vec::new());
    for attribute in set {
        match places.get(attribute) {
            Some(place) if shared.len() < SHARED => shared.push(*place),
            _ => own.push(attribute),
        }
    }
    let mut body = vec![0; ATTRIBUTES as usize];
    body[4] = shared.len() as u8;
    body.extend(shared.into_iter().flat_map(u32::to_le_bytes));
    for attribute in own {
        write(&mut body, attribute);
    }
    if body.len() as u64 <= MOST {
        return Ok(body);
    }
    Err(Error::out_of_range(format!(
        "the extended attributes of a file take {} bytes; at most {MOST} are possible; build the \
         image with fewer attributes",
        body.len()
    )))
}

/// Adds one attribute to `out`, padded to four bytes.
fn write(out: &mut Vec<u8>, attribute: &Attribute) {
    // The lengths were checked when the attribute was made.
    out.extend([attribute.name.len() as u8, attribute.prefix]);
    out.extend((attribute.value.len() as u16).to_le_bytes());
    out.extend_from_slice(&attribute.name);
    out.extend_from_slice(&attribute.value);
    out.resize(out.len().next_multiple_of(4), 0);
}
