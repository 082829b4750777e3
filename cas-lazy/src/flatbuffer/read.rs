//! Reads tables. Every offset is checked before it is followed.

use cas_core::{Error, Result};

/// A table in a buffer.
#[derive(Clone, Copy)]
pub(crate) struct Table<'a> {
    data: &'a [u8],
    at: usize,
    /// The offsets of the fields in the table, two bytes each. Zero means the default.
    fields: &'a [u8],
}

impl<'a> Table<'a> {
    /// Returns the table to which the first bytes of a buffer lead.
    pub(crate) fn root(data: &'a [u8]) -> Result<Self> {
        Table::at(data, follow(data, 0)?)
    }

    fn at(data: &'a [u8], at: usize) -> Result<Self> {
        let back = i64::from(i32::from_le_bytes(bytes(data, at)?));
        let head = usize::try_from(at as i64 - back).map_err(|_| damaged())?;
        let size = usize::from(u16::from_le_bytes(bytes(data, head)?));
        // The sizes of the list of fields and of the table precede the fields.
        let fields = head.checked_add(size).ok_or_else(damaged)?;
        let fields = data.get(head + 4..fields).ok_or_else(damaged)?;
        Ok(Table { data, at, fields })
    }

    /// Returns the position of a field, or `None` if it has its default.
    fn field(&self, slot: usize) -> Option<usize> {
        let offset = self.fields.get(slot * 2..)?.first_chunk()?;
        let offset = usize::from(u16::from_le_bytes(*offset));
        (offset > 0).then(|| self.at + offset)
    }

    fn number<const N: usize>(&self, slot: usize) -> Result<Option<[u8; N]>> {
        self.field(slot).map(|at| bytes(self.data, at)).transpose()
    }

    pub(crate) fn i8(&self, slot: usize, default: i8) -> Result<i8> {
        Ok(self.number(slot)?.map_or(default, i8::from_le_bytes))
    }

    pub(crate) fn i32(&self, slot: usize) -> Result<i32> {
        Ok(self.number(slot)?.map_or(0, i32::from_le_bytes))
    }

    pub(crate) fn u32(&self, slot: usize) -> Result<u32> {
        Ok(self.number(slot)?.map_or(0, u32::from_le_bytes))
    }

    pub(crate) fn i64(&self, slot: usize) -> Result<i64> {
        Ok(self.number(slot)?.map_or(0, i64::from_le_bytes))
    }

    /// Returns a text or a vector of bytes. It is empty if the field has its default.
    pub(crate) fn bytes(&self, slot: usize) -> Result<&'a [u8]> {
        match self.field(slot) {
            Some(at) => vector(self.data, follow(self.data, at)?, 1),
            None => Ok(&[]),
        }
    }

    pub(crate) fn table(&self, slot: usize) -> Result<Option<Table<'a>>> {
        let at = self.field(slot);
        at.map(|at| Table::at(self.data, follow(self.data, at)?))
            .transpose()
    }

    /// Returns a vector of tables.
    pub(crate) fn tables(
        &self,
        slot: usize,
    ) -> Result<impl ExactSizeIterator<Item = Result<Table<'a>>> + use<'a>> {
        let data = self.data;
        let places = self.places(slot)?;
        Ok(places.map(move |at| Table::at(data, follow(data, at)?)))
    }

    /// Returns a vector of texts.
    pub(crate) fn texts(
        &self,
        slot: usize,
    ) -> Result<impl ExactSizeIterator<Item = Result<&'a [u8]>> + use<'a>> {
        let data = self.data;
        let places = self.places(slot)?;
        Ok(places.map(move |at| vector(data, follow(data, at)?, 1)))
    }

    /// Returns the positions of the elements of a vector of offsets.
    fn places(&self, slot: usize) -> Result<impl ExactSizeIterator<Item = usize> + use<'a>> {
        let (first, count) = match self.field(slot) {
            Some(at) => {
                let at = follow(self.data, at)?;
                (at + 4, vector(self.data, at, 4)?.len() / 4)
            }
            None => (0, 0),
        };
        Ok((0..count).map(move |index| first + index * 4))
    }
}

/// Returns the position to which the offset at a position leads.
fn follow(data: &[u8], at: usize) -> Result<usize> {
    let offset = u32::from_le_bytes(bytes(data, at)?) as usize;
    at.checked_add(offset).ok_or_else(damaged)
}

/// Returns the elements of a vector.
fn vector(data: &[u8], at: usize, width: usize) -> Result<&[u8]> {
    let count = u32::from_le_bytes(bytes(data, at)?) as usize;
    let rest = data.get(at + 4..).unwrap_or_default();
    let length = count.checked_mul(width).ok_or_else(damaged)?;
    rest.get(..length).ok_or_else(damaged)
}

fn bytes<const N: usize>(data: &[u8], at: usize) -> Result<[u8; N]> {
    let found = data.get(at..).and_then(|rest| rest.first_chunk());
    found.copied().ok_or_else(damaged)
}

fn damaged() -> Error {
    Error::corrupt("an offset leads out of the zTOC; get an intact copy, or create the zTOC again")
}
