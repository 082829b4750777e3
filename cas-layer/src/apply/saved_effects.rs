//! Converts deferred effects to bytes and back, so that a later process can pass them to
//! [`Tree::resolve_onto`](super::Tree::resolve_onto).
//!
//! The first line names the format. After it, each effect has one byte with its kind, four bytes
//! with the length of its path in little-endian order, and the path.

use cas_core::{Error, Result};

use super::standalone::{DeferredEffects, Implied};

const FORMAT: &[u8] = b"cas deferred effects 1\n";

const HIDDEN: u8 = 0;
const OPAQUE: u8 = 1;
const IMPLIED: u8 = 2;
/// Added to [`IMPLIED`] if something needs the directory.
const NEEDED: u8 = 1;
/// Added to [`IMPLIED`] if a member describes the directory.
const DESCRIBED: u8 = 2;

impl DeferredEffects {
    /// Returns the effects as bytes for [`DeferredEffects::from_bytes`].
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = FORMAT.to_vec();
        let mut put = |kind: u8, path: &[u8]| {
            out.push(kind);
            // Paths are shorter than 4 GiB: all effects together have a bound.
            out.extend_from_slice(&(path.len() as u32).to_le_bytes());
            out.extend_from_slice(path);
        };
        for implied in &self.implied {
            let needed = if implied.needed { NEEDED } else { 0 };
            let described = if implied.described { DESCRIBED } else { 0 };
            put(IMPLIED + needed + described, &implied.path);
        }
        self.hidden.iter().for_each(|path| put(HIDDEN, path));
        self.opaque.iter().for_each(|path| put(OPAQUE, path));
        out
    }

    /// Returns the effects for which [`DeferredEffects::to_bytes`] returned these bytes.
    ///
    /// # Errors
    /// `Corrupt` for bytes that are damaged or have another format.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let mut effects = DeferredEffects::default();
        let mut rest = bytes.strip_prefix(FORMAT).ok_or_else(damaged)?;
        while let Some((kind, after)) = rest.split_first() {
            let (length, after) = after.split_first_chunk::<4>().ok_or_else(damaged)?;
            let length = u32::from_le_bytes(*length) as usize;
            let (path, after) = after.split_at_checked(length).ok_or_else(damaged)?;
            let path = path.to_vec();
            match *kind {
                HIDDEN => effects.hidden.push(path),
                OPAQUE => effects.opaque.push(path),
                kind @ IMPLIED.. if kind - IMPLIED <= NEEDED + DESCRIBED => {
                    let flags = kind - IMPLIED;
                    let (needed, described) = (flags & NEEDED != 0, flags & DESCRIBED != 0);
                    effects
                        .implied
                        .push(Implied::saved(path, needed, described));
                }
                _ => return Err(damaged()),
            }
            rest = after;
        }
        Ok(effects)
    }
}

fn damaged() -> Error {
    Error::corrupt(
        "the saved effects of the layer on the layers below it are damaged; unpack the image again",
    )
}

#[cfg(test)]
mod tests {
    use cas_core::ErrorKind;

    use super::*;

    fn effects() -> DeferredEffects {
        DeferredEffects {
            implied: [(false, false), (true, false), (false, true), (true, true)]
                .map(|(needed, described)| Implied::saved(b"a/\xff".into(), needed, described))
                .into(),
            hidden: vec![b"etc/two".to_vec(), vec![0; 300]],
            opaque: vec![Vec::new(), b"usr".to_vec()],
        }
    }

    #[test]
    fn effects_come_back_as_they_were_saved() {
        for effects in [effects(), DeferredEffects::default()] {
            let back = DeferredEffects::from_bytes(&effects.to_bytes()).unwrap();
            assert_eq!(format!("{back:?}"), format!("{effects:?}"));
        }
    }

    #[test]
    fn a_part_and_other_bytes_are_refused() {
        let whole = effects().to_bytes();
        let damaged = [
            &whole[..whole.len() - 1],
            &whole[..FORMAT.len() + 3],
            b"",
            b"x",
        ];
        let unknown = [FORMAT, &[6, 0, 0, 0, 0]].concat();
        for bytes in damaged.into_iter().chain([&unknown[..]]) {
            let error = DeferredEffects::from_bytes(bytes).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
    }
}
