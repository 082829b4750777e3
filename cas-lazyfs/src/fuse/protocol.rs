//! Messages of FUSE. Numbers have the byte order of the machine.
//!
//! Source: include/uapi/linux/fuse.h of Linux 6.12.

/// Size in bytes of the header of a request.
pub(super) const REQUEST_HEADER: usize = 40;
/// Size in bytes of the header of a reply.
pub(super) const REPLY_HEADER: usize = 16;

/// The version of the protocol that is implemented.
pub(super) const MAJOR: u32 = 7;
const MINOR: u32 = 36;

/// The number of the root directory.
pub(super) const ROOT: u64 = 1;
/// The number of the file of the snapshot 0. The numbers of the others follow.
const FIRST_FILE: u64 = 2;

/// Flags of the handshake.
const ASYNC_READ: u64 = 1 << 0;
const PARALLEL_DIROPS: u64 = 1 << 18;
const INIT_EXT: u64 = 1 << 30;
/// The kernel marks requests that it sends again.
const HAS_RESEND: u64 = 1 << 39;
const FLAGS: u64 = ASYNC_READ | PARALLEL_DIROPS | INIT_EXT | HAS_RESEND;

/// Flags of an open file: what the kernel has in memory stays valid, and a close sends no flush.
const KEEP_CACHE: u32 = 1 << 1;
const NO_FLUSH: u32 = 1 << 5;

/// How long attributes stay valid, in seconds. Those of a layer never change.
const VALID: u64 = 1 << 31;

const DIRECTORY: u32 = 0o040_500;
const FILE: u32 = 0o100_400;

/// The operation that a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Lookup,
    /// Needs no reply.
    Forget,
    Attributes,
    Open,
    OpenDirectory,
    ReadDirectory,
    Read,
    StatFs,
    Init,
    /// Release and flush of files and directories, which have nothing to do.
    Nothing,
    Destroy,
    Other,
}

impl Operation {
    fn of(code: u32) -> Self {
        match code {
            1 => Operation::Lookup,
            2 | 36 | 42 => Operation::Forget,
            3 => Operation::Attributes,
            14 => Operation::Open,
            15 => Operation::Read,
            17 => Operation::StatFs,
            18 | 25 | 29 => Operation::Nothing,
            26 => Operation::Init,
            27 => Operation::OpenDirectory,
            28 => Operation::ReadDirectory,
            38 => Operation::Destroy,
            _ => Operation::Other,
        }
    }
}

/// A request of the kernel.
pub(super) struct Request<'a> {
    pub(super) operation: Operation,
    /// Identifies the request in its reply.
    pub(super) unique: u64,
    pub(super) node: u64,
    body: &'a [u8],
}

impl<'a> Request<'a> {
    /// Returns the request in `message`, or `None` if it is too short, which never happens.
    pub(super) fn parse(message: &'a [u8]) -> Option<Self> {
        let (header, body) = message.split_at_checked(REQUEST_HEADER)?;
        Some(Request {
            operation: Operation::of(u32_at(header, 4)?),
            unique: u64_at(header, 8)?,
            node: u64_at(header, 16)?,
            body,
        })
    }

    /// Returns the name of a lookup as a number, or `None` if it is not a number.
    pub(super) fn number(&self) -> Option<u64> {
        let name = self.body.strip_suffix(b"\0")?;
        let text = str::from_utf8(name).ok()?;
        let number: u64 = text.parse().ok()?;
        (number.to_string() == text).then_some(number)
    }

    /// Returns the major version of a handshake.
    pub(super) fn major(&self) -> Option<u32> {
        u32_at(self.body, 0)
    }

    /// Returns the largest read ahead that the kernel offers in a handshake, in bytes.
    pub(super) fn read_ahead(&self) -> Option<u32> {
        u32_at(self.body, 8)
    }

    /// Returns the identity of the layer in a read: what the reply to the open has stated.
    pub(super) fn identity(&self) -> Option<u64> {
        u64_at(self.body, 0)
    }

    /// Returns the offset and the size of a read, in bytes.
    pub(super) fn extent(&self) -> Option<(u64, u32)> {
        Some((u64_at(self.body, 8)?, u32_at(self.body, 16)?))
    }
}

/// Returns the number of the file of a snapshot.
fn node_of(snapshot: u64) -> u64 {
    snapshot.saturating_add(FIRST_FILE)
}

/// Returns the snapshot whose file has this number.
pub(super) fn snapshot_of(node: u64) -> Option<u64> {
    node.checked_sub(FIRST_FILE)
}

/// Returns the header of a reply whose body has `length` bytes. `error` is the number of an error,
/// or 0. A negative number is the code of a notification.
pub(super) fn header(unique: u64, length: usize, error: i32) -> [u8; REPLY_HEADER] {
    let mut header = [0; REPLY_HEADER];
    header[..4].copy_from_slice(&((REPLY_HEADER + length) as u32).to_ne_bytes());
    header[4..8].copy_from_slice(&(-error).to_ne_bytes());
    header[8..].copy_from_slice(&unique.to_ne_bytes());
    header
}

/// Returns the message that makes the kernel send all requests again that were not answered.
pub(super) fn resend() -> [u8; REPLY_HEADER] {
    const RESEND: i32 = 7;
    header(0, 0, -RESEND)
}

/// Returns the reply to a handshake.
pub(super) fn handshake(read_ahead: u32) -> Vec<u8> {
    // Maximum number of bytes in a write. The kernel must receive a number, but never writes.
    const MAX_WRITE: u32 = 4096;
    let mut reply = Vec::with_capacity(64);
    for number in [MAJOR, MINOR, read_ahead, FLAGS as u32] {
        reply.extend(number.to_ne_bytes());
    }
    // Maximum number of requests in the background, and the number from which on the kernel reads
    // ahead less.
    for number in [64_u16, 48] {
        reply.extend(number.to_ne_bytes());
    }
    for number in [MAX_WRITE, 1] {
        reply.extend(number.to_ne_bytes());
    }
    reply.extend([0; 4]);
    reply.extend(((FLAGS >> 32) as u32).to_ne_bytes());
    reply.resize(64, 0);
    reply
}

/// Returns the reply to a lookup of the file of a snapshot, which has `size` bytes. The kernel
/// looks up the name again before each use. If `identity` has changed meanwhile, the kernel makes a
/// new inode, and does not use the pages of the old one.
pub(super) fn entry(snapshot: u64, identity: u64, size: u64) -> Vec<u8> {
    let node = node_of(snapshot);
    let mut reply = Vec::with_capacity(128);
    for number in [node, identity, 0, VALID, 0] {
        reply.extend(number.to_ne_bytes());
    }
    attribute(&mut reply, node, FILE, size);
    reply
}

/// Returns the attributes of the root directory, or of a file of `size` bytes.
pub(super) fn attributes(node: u64, size: Option<u64>) -> Vec<u8> {
    let mut reply = Vec::with_capacity(104);
    for number in [VALID, 0] {
        reply.extend(number.to_ne_bytes());
    }
    let mode = match size {
        Some(_) => FILE,
        None => DIRECTORY,
    };
    attribute(&mut reply, node, mode, size.unwrap_or(0));
    reply
}

fn attribute(reply: &mut Vec<u8>, node: u64, mode: u32, size: u64) {
    let blocks = size.div_ceil(512);
    for number in [node, size, blocks, 0, 0, 0] {
        reply.extend(number.to_ne_bytes());
    }
    let (links, block_size) = (1, 4096);
    for number in [0, 0, 0, mode, links, 0, 0, 0, block_size, 0] {
        reply.extend(number.to_ne_bytes());
    }
}

/// Returns the reply to an open of the layer with this identity, or of the root directory, which
/// has the identity 0. The kernel repeats the identity in each read.
pub(super) fn opened(identity: u64) -> Vec<u8> {
    let mut reply = vec![0; 16];
    reply[..8].copy_from_slice(&identity.to_ne_bytes());
    reply[8..12].copy_from_slice(&(KEEP_CACHE | NO_FLUSH).to_ne_bytes());
    reply
}

/// Returns the reply to a request for the space of the file system.
pub(super) fn space() -> Vec<u8> {
    let mut reply = vec![0; 80];
    for (at, number) in [(40, 512_u32), (44, 255), (48, 512)] {
        reply[at..at + 4].copy_from_slice(&number.to_ne_bytes());
    }
    reply
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let found = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(found.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let found = bytes.get(at..at + 8)?;
    Some(u64::from_ne_bytes(found.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(code: u32, node: u64, body: &[u8]) -> Vec<u8> {
        let length = (REQUEST_HEADER + body.len()) as u32;
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(code.to_ne_bytes());
        message.extend(5_u64.to_ne_bytes());
        message.extend(node.to_ne_bytes());
        message.resize(REQUEST_HEADER, 0);
        message.extend(body);
        message
    }

    #[test]
    fn a_name_is_a_number_as_it_is_written() {
        let number = |name: &[u8]| {
            let message = request(1, ROOT, name);
            let request = Request::parse(&message).unwrap();
            assert_eq!((request.operation, request.unique), (Operation::Lookup, 5));
            request.number()
        };
        assert_eq!(number(b"7\0"), Some(7));
        assert_eq!(number(b"18446744073709551615\0"), Some(u64::MAX));
        for name in [
            &b"07\0"[..],
            b"+7\0",
            b"\0",
            b"7",
            b"7x\0",
            b"18446744073709551616\0",
        ] {
            assert_eq!(number(name), None, "{}", name.escape_ascii());
        }
    }

    #[test]
    fn replies_have_the_sizes_that_the_kernel_expects() {
        assert_eq!(handshake(0).len(), 64);
        assert_eq!(entry(0, 1, 1).len(), 128);
        assert_eq!(attributes(ROOT, None).len(), 104);
        assert_eq!((opened(1).len(), space().len()), (16, 80));
        assert_eq!(header(1, 4, 0)[..8], [20, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(resend()[4..8], 7_i32.to_ne_bytes());
    }

    #[test]
    fn messages_of_any_length_are_parsed_without_a_panic() {
        let whole = request(15, 9, &[0; 40]);
        for length in 0..whole.len() {
            if let Some(request) = Request::parse(&whole[..length]) {
                assert_eq!(request.extent().is_some(), length >= REQUEST_HEADER + 20);
            }
        }
        assert_eq!(snapshot_of(9), Some(7));
        assert_eq!(snapshot_of(ROOT), None);
    }
}
