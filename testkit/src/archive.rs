//! A writer of valid and invalid tar archives.

/// Returns the bytes of a pax record.
pub fn record(key: &str, value: impl AsRef<[u8]>) -> Vec<u8> {
    let rest = [b" ", key.as_bytes(), b"=", value.as_ref(), b"\n"].concat();
    let mut length = rest.len();
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    [length.to_string().as_bytes(), &rest].concat()
}

/// A ustar header whose fields can be changed. Each method that changes a field returns the header.
#[derive(Clone)]
pub struct Header(pub [u8; 512]);

impl Header {
    /// Returns the header of an empty member with a type flag and a name.
    pub fn new(flag: u8, name: impl AsRef<[u8]>) -> Self {
        let mut header = Header([0; 512]);
        header.put(0, name.as_ref());
        header.0[156] = flag;
        header.put(257, b"ustar\x0000");
        let mode = if flag == b'5' { 0o755 } else { 0o644 };
        header
            .octal(100..108, mode)
            .octal(108..116, 0)
            .octal(116..124, 0);
        header.octal(124..136, 0).octal(136..148, 1_000_000_000);
        header
    }

    /// Writes `bytes` into the header, starting at the offset `at`.
    pub fn put(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Writes an octal number into a field, with leading zeros.
    pub fn octal(&mut self, at: std::ops::Range<usize>, value: u64) -> &mut Self {
        let text = format!("{value:0width$o}", width = at.len() - 1);
        self.put(at.start, text.as_bytes())
    }

    /// Sets the permission bits.
    pub fn mode(mut self, mode: u64) -> Self {
        self.octal(100..108, mode);
        self
    }

    /// Sets the owner and the group.
    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        self.octal(108..116, uid).octal(116..124, gid);
        self
    }

    /// Sets the size of the body.
    pub fn size(mut self, size: u64) -> Self {
        self.octal(124..136, size);
        self
    }

    /// Sets the target of a link.
    pub fn link(mut self, target: impl AsRef<[u8]>) -> Self {
        self.put(157, target.as_ref());
        self
    }

    /// Sets the device numbers.
    pub fn device(mut self, major: u64, minor: u64) -> Self {
        self.octal(329..337, major).octal(337..345, minor);
        self
    }

    /// Turns the header into a GNU header.
    pub fn gnu(mut self) -> Self {
        self.put(257, b"ustar  \0");
        self
    }

    /// Sets the checksum, and returns the bytes of the header. The checksum is the sum of these
    /// bytes, with spaces in the field of the checksum. If `signed` is set, the bytes are summed as
    /// signed numbers.
    pub fn sealed(mut self, signed: bool) -> [u8; 512] {
        self.put(148, b"        ");
        let value = |byte: u8| {
            if signed {
                i64::from(byte.cast_signed())
            } else {
                i64::from(byte)
            }
        };
        let sum: i64 = self.0.iter().map(|byte| value(*byte)).sum();
        self.put(148, format!("{sum:06o}\0 ").as_bytes());
        self.0
    }
}

/// An archive that grows member by member. Each method that appends returns the archive.
#[derive(Clone, Default)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    /// Returns an archive without members.
    pub fn new() -> Self {
        Tar::default()
    }

    /// Appends bytes as they are.
    pub fn raw(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.0.extend_from_slice(bytes.as_ref());
        self
    }

    /// Appends a header with its checksum, and a body padded to blocks of 512 bytes. Does not set
    /// the size in the header.
    pub fn member(self, header: Header, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let padding = vec![0; body.len().wrapping_neg() % 512];
        self.raw(header.sealed(false)).raw(body).raw(padding)
    }

    /// Appends a file.
    pub fn file(self, name: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> Self {
        let size = body.as_ref().len() as u64;
        self.member(Header::new(b'0', name).size(size), body)
    }

    /// Appends a directory.
    pub fn dir(self, name: impl AsRef<[u8]>) -> Self {
        self.member(Header::new(b'5', name), b"")
    }

    /// Appends a symbolic link.
    pub fn symlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.member(Header::new(b'2', name).link(target), b"")
    }

    /// Appends a hard link.
    pub fn hardlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.member(Header::new(b'1', name).link(target), b"")
    }

    /// Appends a pax header for the next member.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let body: Vec<u8> = records
            .iter()
            .flat_map(|(key, value)| record(key, value))
            .collect();
        self.extension(b'x', body)
    }

    /// Appends an extension header with this type flag and body.
    pub fn extension(self, flag: u8, body: impl AsRef<[u8]>) -> Self {
        let size = body.as_ref().len() as u64;
        self.member(Header::new(flag, "extension").size(size), body)
    }

    /// Returns the archive with its end blocks.
    pub fn end(self) -> Vec<u8> {
        self.raw([0; 1024]).0
    }
}
