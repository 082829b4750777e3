//! Archives in parts that can be changed.

use testkit::archive::{Header, Tar};

/// A part of an archive: a member, or bytes that are kept as they are because they are not a plain
/// member.
#[derive(Clone)]
#[allow(clippy::large_enum_variant, reason = "an archive has few parts")]
pub(super) enum Part {
    Member(Member),
    Raw(Vec<u8>),
}

/// A member without extension headers, or with a pax header whose only records are the path, the
/// target and extended attributes.
#[derive(Clone)]
pub(super) struct Member {
    pub(super) header: Header,
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) records: Vec<(String, Vec<u8>)>,
    pub(super) body: Vec<u8>,
    pub(super) encoding: Encoding,
}

/// Where an archive has the path and the target of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// In the header, or in pax records if they are too long.
    Short,
    /// The path in both fields of a ustar header, if it can be split.
    Prefix,
    /// In pax records. The header has another path.
    Pax,
    /// In GNU extension headers. The header has another path.
    Gnu,
    /// As `Short`, and the checksum is a sum of signed bytes.
    Signed,
}

pub(super) const ENCODINGS: [Encoding; 4] = [
    Encoding::Prefix,
    Encoding::Pax,
    Encoding::Gnu,
    Encoding::Signed,
];

const BLOCK: usize = 512;
/// Number of bytes that a header has for a path, and for the first part of a long path.
const NAME: usize = 100;
const PREFIX: usize = 155;

impl Member {
    /// Returns a member with this type.
    pub(super) fn new(flag: u8, path: &[u8], link: &[u8]) -> Self {
        Member {
            header: Header::new(flag, ""),
            path: path.to_vec(),
            link: link.to_vec(),
            records: Vec::new(),
            body: Vec::new(),
            encoding: Encoding::Short,
        }
    }

    pub(super) fn flag(&self) -> u8 {
        self.header.0[156]
    }

    /// Changes the type. Only files have bodies.
    pub(super) fn retype(&mut self, flag: u8) {
        self.header.0[156] = flag;
        if flag != b'0' {
            self.body.clear();
            self.header = self.header.clone().size(0);
        }
    }

    /// Appends the member to an archive.
    fn write(&self, mut tar: Tar) -> Tar {
        let mut header = self.header.clone();
        let mut records: Vec<(&str, &[u8])> = self
            .records
            .iter()
            .map(|(key, value)| (key.as_str(), &value[..]))
            .collect();
        let split = split(&self.path).filter(|_| self.encoding == Encoding::Prefix);
        let is_gnu = self.encoding == Encoding::Gnu;
        let is_pax = self.encoding == Encoding::Pax;
        if let Some((prefix, name)) = split {
            header.put(345, prefix).put(0, name);
        } else if is_gnu {
            tar = tar.extension(b'L', [&self.path[..], b"\0"].concat());
            header.put(0, b"in the GNU header");
        } else if is_pax || self.path.len() > NAME {
            records.push(("path", &self.path));
            header.put(0, b"in the pax header");
        } else {
            header.put(0, &self.path);
        }
        if !self.link.is_empty() && is_gnu {
            tar = tar.extension(b'K', [&self.link[..], b"\0"].concat());
            header.put(157, b"in the GNU header");
        } else if !self.link.is_empty() && (is_pax || self.link.len() > NAME) {
            records.push(("linkpath", &self.link));
            header.put(157, b"in the pax header");
        } else {
            header.put(157, &self.link);
        }
        if !records.is_empty() {
            tar = tar.pax(&records);
        }
        let padding = vec![0; self.body.len().wrapping_neg() % BLOCK];
        tar.raw(header.sealed(self.encoding == Encoding::Signed))
            .raw(&self.body)
            .raw(padding)
    }
}

/// Splits a path for the two fields of a ustar header.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let slashes = (1..path.len().saturating_sub(1)).filter(|at| path[*at] == b'/');
    let mut parts = slashes.map(|at| (&path[..at], &path[at + 1..]));
    parts.rfind(|(prefix, name)| prefix.len() <= PREFIX && name.len() <= NAME)
}

/// Returns an archive of parts.
pub(super) fn join(parts: &[Part]) -> Vec<u8> {
    let joined = parts.iter().fold(Tar::new(), |tar, part| match part {
        Part::Member(member) => member.write(tar),
        Part::Raw(bytes) => tar.raw(bytes),
    });
    joined.0
}

/// Returns the parts of an archive. Everything from the first unusual header on is one part.
pub(super) fn parse(archive: &[u8]) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = archive;
    while let Some((part, after)) = first(rest) {
        parts.push(Part::Member(part));
        rest = after;
    }
    parts.push(Part::Raw(rest.to_vec()));
    parts
}

/// Returns the first member and what follows, or `None` if the archive does not begin with a plain
/// member.
fn first(archive: &[u8]) -> Option<(Member, &[u8])> {
    let (header, body, rest) = entry(archive)?;
    if header.0[156] != b'x' {
        return Some((member(&header, body, Vec::new())?, rest));
    }
    let mut records = records(body)?;
    let (header, body, rest) = entry(rest)?;
    let mut take = |key: &str| {
        let at = records.iter().position(|(known, _)| known == key)?;
        Some(records.remove(at).1)
    };
    let (path, link) = (take("path"), take("linkpath"));
    let is_kept = |(key, _): &(String, Vec<u8>)| key.starts_with("SCHILY.xattr.");
    if !records.iter().all(is_kept) {
        return None;
    }
    let mut member = member(&header, body, records)?;
    member.path = path.unwrap_or(member.path);
    member.link = link.unwrap_or(member.link);
    // Only a pax record can have such a byte.
    let is_plain = !member.path.contains(&0) && !member.link.contains(&0);
    is_plain.then_some((member, rest))
}

fn member(header: &Header, body: &[u8], records: Vec<(String, Vec<u8>)>) -> Option<Member> {
    let text = |field: &[u8]| field.split(|byte| *byte == 0).next().unwrap().to_vec();
    let (path, link) = (text(&header.0[..100]), text(&header.0[157..257]));
    let is_plain = header.0[345..500] == [0; 155]
        && (b'0'..=b'6').contains(&header.0[156])
        && header.0[257..263] == *b"ustar\0"
        && !path.is_empty();
    let mut blank = header.clone();
    blank.put(0, &[0; 100]).put(157, &[0; 100]);
    is_plain.then_some(Member {
        header: blank,
        path,
        link,
        records,
        body: body.to_vec(),
        encoding: Encoding::Short,
    })
}

/// Returns a header with a right checksum, its body, and what follows.
fn entry(archive: &[u8]) -> Option<(Header, &[u8], &[u8])> {
    let header = Header(*archive.first_chunk()?);
    if header.clone().sealed(false) != header.0 {
        return None;
    }
    let size = str::from_utf8(&header.0[124..135]).ok()?;
    let size = usize::from_str_radix(size, 8).ok()?;
    let rest = &archive[BLOCK..];
    let body = rest.get(..size)?;
    Some((header, body, rest.get(size.next_multiple_of(BLOCK)..)?))
}

/// Returns the records of a pax header, or `None` if one of them is malformed.
fn records(mut body: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
    let mut records = Vec::new();
    while !body.is_empty() {
        let space = body.iter().position(|byte| *byte == b' ')?;
        let length: usize = str::from_utf8(&body[..space]).ok()?.parse().ok()?;
        let text = body.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = text.iter().position(|byte| *byte == b'=')?;
        let key = String::from_utf8(text[..equals].to_vec()).ok()?;
        records.push((key, text[equals + 1..].to_vec()));
        body = &body[length..];
    }
    Some(records)
}
