//! Writes tables, last bytes first. The FlatBuffers library for Go writes the same bytes, so equal
//! content has equal digests.

/// Something that was written: the distance of its first byte from the end of the buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place(u32);

/// A buffer that is being written.
#[derive(Default)]
pub(crate) struct Builder {
    /// The bytes, last byte first.
    bytes: Vec<u8>,
    /// The largest alignment so far.
    alignment: usize,
    /// The lists of fields that were written. Tables share equal lists.
    lists: Vec<(Place, Vec<u16>)>,
    /// The fields of the table that is being written, and where it ends.
    fields: Vec<u32>,
    end: u32,
}

impl Builder {
    fn place(&self) -> Place {
        Place(self.bytes.len() as u32)
    }

    /// Adds zeros, so that a value of `size` bytes is aligned if it is written after the next
    /// `more` bytes.
    fn align(&mut self, size: usize, more: usize) {
        self.alignment = self.alignment.max(size);
        let length = (self.bytes.len() + more).next_multiple_of(size) - more;
        self.bytes.resize(length, 0);
    }

    fn put<const N: usize>(&mut self, bytes: [u8; N]) {
        self.bytes.extend(bytes.iter().rev());
    }

    fn number<const N: usize>(&mut self, bytes: [u8; N]) {
        self.align(N, 0);
        self.put(bytes);
    }

    fn offset(&mut self, to: Place) {
        self.align(4, 0);
        let from = self.bytes.len() as u32 + 4;
        self.put((from - to.0).to_le_bytes());
    }

    /// Writes a text, which a NUL follows.
    pub(crate) fn text(&mut self, text: &[u8]) -> Place {
        self.align(4, text.len() + 1);
        self.put([0]);
        self.counted(text)
    }

    /// Writes a vector of bytes.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Place {
        self.align(4, bytes.len());
        self.counted(bytes)
    }

    fn counted(&mut self, bytes: &[u8]) -> Place {
        self.bytes.extend(bytes.iter().rev());
        self.put((bytes.len() as u32).to_le_bytes());
        self.place()
    }

    /// Writes a vector of texts or tables.
    pub(crate) fn places(&mut self, places: &[Place]) -> Place {
        self.align(4, 4 * places.len());
        for place in places.iter().rev() {
            self.offset(*place);
        }
        self.put((places.len() as u32).to_le_bytes());
        self.place()
    }

    /// Begins a table.
    pub(crate) fn begin(&mut self, fields: usize) {
        self.fields = vec![0; fields];
        self.end = self.place().0;
    }

    fn filled(&mut self, slot: usize) {
        self.fields[slot] = self.place().0;
    }

    /// Writes a field. A zero is the default, and is not stored.
    pub(crate) fn i32(&mut self, slot: usize, value: i32) {
        if value != 0 {
            self.number(value.to_le_bytes());
            self.filled(slot);
        }
    }

    pub(crate) fn u32(&mut self, slot: usize, value: u32) {
        self.i32(slot, value.cast_signed());
    }

    pub(crate) fn i64(&mut self, slot: usize, value: i64) {
        if value != 0 {
            self.number(value.to_le_bytes());
            self.filled(slot);
        }
    }

    /// Writes a field that leads to a text, a vector or a table.
    pub(crate) fn link(&mut self, slot: usize, to: Place) {
        self.offset(to);
        self.filled(slot);
    }

    /// Ends the table. Returns its place.
    pub(crate) fn finish_table(&mut self) -> Place {
        // The offset to the list of fields, which is written below.
        self.number([0; 4]);
        let table = self.place();
        let used = self.fields.iter().rposition(|&field| field != 0);
        let fields = self.fields[..used.map_or(0, |last| last + 1)].iter();
        let fields = fields.map(|&field| match field {
            0 => 0,
            field => (table.0 - field) as u16,
        });
        let fields: Vec<u16> = fields.collect();
        let known = self.lists.iter().rev().find(|(_, known)| *known == fields);
        let list = match known {
            Some((place, _)) => *place,
            None => {
                for field in fields.iter().rev() {
                    self.number(field.to_le_bytes());
                }
                self.number(((table.0 - self.end) as u16).to_le_bytes());
                self.number((2 * (fields.len() + 2) as u16).to_le_bytes());
                self.lists.push((self.place(), fields));
                self.place()
            }
        };
        let back = list.0.wrapping_sub(table.0).to_le_bytes();
        let head = table.0 as usize;
        for (stored, byte) in self.bytes[head - 4..head].iter_mut().rev().zip(back) {
            *stored = byte;
        }
        table
    }

    /// Returns the whole buffer, which leads to the table `root`.
    pub(crate) fn finish(mut self, root: Place) -> Vec<u8> {
        self.align(self.alignment.max(1), 4);
        self.offset(root);
        self.bytes.reverse();
        self.bytes
    }
}
