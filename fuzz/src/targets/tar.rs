//! Archives.

use std::io::{Read as _, Write as _};

use cas_core::Result;
use cas_layer::tar::{Entry, EntryKind, Reader, Region, Stated, Writer};
use testkit::archive::{Header, Tar, record};

use super::accepted;
use crate::Target;

/// Size of a header in bytes.
const BLOCK: usize = 512;

pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "tar",
        run: tar,
        seeds: archives,
        longest: 8192,
    },
    Target {
        name: "tar-stated",
        run: tar_stated,
        seeds: archives,
        longest: 8192,
    },
    Target {
        name: "tar-peer",
        run: tar_peer,
        seeds: archives,
        longest: 8192,
    },
    Target {
        name: "tar-write",
        run: tar_write,
        seeds: archives,
        longest: 8192,
    },
    Target {
        name: "pax",
        run: pax,
        seeds: pax_headers,
        longest: 2048,
    },
    Target {
        name: "sparse",
        run: sparse,
        seeds: sparse_maps,
        longest: 2048,
    },
];

/// Returns archives with members of each [`EntryKind`], and with extensions.
pub(super) fn archives() -> Vec<Vec<u8>> {
    let long = "long/".repeat(40);
    vec![
        Tar::new()
            .dir("dir/")
            .file("dir/file", "hello")
            .symlink("dir/link", "file")
            .hardlink("dir/other", "dir/file")
            .end(),
        Tar::new()
            .file("dir/.wh.gone", "")
            .dir("opaque/")
            .file("opaque/.wh..wh..opq", "")
            .end(),
        Tar::new()
            .member(Header::new(b'3', "null").device(1, 3), "")
            .member(Header::new(b'4', "disk").device(8, 0), "")
            .member(Header::new(b'6', "pipe").mode(0o600).owner(1, 2), "")
            .end(),
        Tar::new()
            .pax(&[
                ("path", b"named"),
                ("mtime", b"-1.25"),
                ("uid", b"3000000"),
                ("SCHILY.xattr.user.name", b"value"),
            ])
            .file("short", "body")
            .end(),
        Tar::new()
            .extension(b'L', [long.as_bytes(), b"\0"].concat())
            .file("short", "")
            .extension(b'K', [long.as_bytes(), b"\0"].concat())
            .symlink("link", "short")
            .end(),
        Tar::new()
            .extension(b'g', record("comment", "global"))
            .member(Header::new(b'0', "gnu").gnu().size(3), "abc")
            .end(),
        sparse_pax(b"1,2,10,3", b"20", b"abcde"),
    ]
}

/// Returns the input with a correct checksum in each block that looks like a header. Without this,
/// few changes of a header would get past its checksum.
pub(super) fn sealed(input: &[u8]) -> Vec<u8> {
    let mut archive = input.to_vec();
    for block in archive.chunks_exact_mut(BLOCK) {
        if &block[257..262] == b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    archive
}

/// A member and its stored bytes.
type Member = (Entry, Vec<u8>);

/// Reads an archive to its end. Returns the members up to the first error, and the outcome.
fn read(archive: &[u8]) -> (Vec<Member>, Result<()>) {
    members(&mut Reader::new(archive))
}

fn members(reader: &mut Reader<&[u8]>) -> (Vec<Member>, Result<()>) {
    let mut members = Vec::new();
    loop {
        match reader.next_entry() {
            Ok(None) => return (members, Ok(())),
            Err(error) => return (members, Err(error)),
            Ok(Some(entry)) => {
                let mut body = Vec::new();
                if let Err(error) = reader.read_to_end(&mut body) {
                    return (members, Err(error.into()));
                }
                members.push((entry, body));
            }
        }
    }
}

/// Reads an archive. Checks that each member has the form that [`Entry`] promises.
fn tar(input: &[u8]) -> bool {
    let (members, outcome) = read(input);
    for (entry, body) in &members {
        assert!(entry.mode <= 0o7777 && entry.mtime.nanoseconds < 1_000_000_000);
        assert!(entry.uid != u32::MAX && entry.gid != u32::MAX);
        assert!(entry.xattrs.is_sorted(), "{:?}", entry.xattrs);
        let stored = match &entry.regions {
            Some(regions) => check_regions(regions, entry.size),
            None => entry.size,
        };
        assert_eq!(stored, body.len() as u64);
        assert!(entry.kind == EntryKind::File || entry.size == 0);
    }
    accepted(outcome)
}

/// Checks that regions are in order and within the file. Returns the sum of their lengths in bytes.
fn check_regions(regions: &[Region], size: u64) -> u64 {
    let mut end = 0;
    for region in regions {
        assert!(region.offset >= end, "{regions:?}");
        end = region.offset + region.length;
    }
    assert!(
        end <= size,
        "{regions:?} end after the {size} bytes of the file"
    );
    regions.iter().map(|region| region.length).sum()
}

/// Reads an archive with [`Reader::next_entry`] and with [`Reader::next_stated`]. Both accept it
/// and return the same members, or both refuse it. Checks that the number of warnings is bounded.
fn tar_stated(input: &[u8]) -> bool {
    let archive = sealed(input);
    let (members, outcome) = read(&archive);
    let mut reader = Reader::new(&archive[..]);
    let mut stated: Vec<(Entry, Stated)> = Vec::new();
    let other = loop {
        match reader.next_stated() {
            Ok(Some(one)) => stated.push(one),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    assert_eq!(outcome.is_ok(), other.is_ok(), "{outcome:?} {other:?}");
    if outcome.is_ok() {
        assert!(
            members
                .iter()
                .map(|(one, _)| one)
                .eq(stated.iter().map(|(one, _)| one))
        );
    }
    assert!(reader.warnings().len() <= cas_core::limit::WARNINGS + 1);
    accepted(outcome)
}

/// Reads an archive with our reader and with another one, the crate `tar`. If our reader accepts
/// the archive without a warning, and the archive has no sparse file, the readers agree about the
/// names, targets and bytes of its members. The comparison ends at a member that the other reader
/// refuses, or whose size only the other reader uses.
///
/// Two more differences are legal. Unlike GNU tar and our reader, the other reader does not end a
/// long name at a zero byte, so this function cuts its names there. It knows extensions only in
/// headers of the version 00, so headers of other versions get this version first.
fn tar_peer(input: &[u8]) -> bool {
    let mut archive = input.to_vec();
    for block in archive.chunks_exact_mut(BLOCK) {
        if &block[257..263] == b"ustar\0" {
            block[263..265].copy_from_slice(b"00");
        }
    }
    let archive = sealed(&archive);
    let mut reader = Reader::new(&archive[..]);
    let (ours, outcome) = members(&mut reader);
    if outcome.is_err() {
        return accepted(outcome);
    }
    let is_sparse = |(entry, _): &Member| entry.regions.is_some();
    if !reader.warnings().is_empty() || ours.iter().any(is_sparse) {
        return true;
    }
    let mut theirs = tar_crate::Archive::new(&archive[..]);
    let theirs = theirs.entries().unwrap_or_else(|error| panic!("{error}"));
    // The other reader returns global headers as members.
    let is_global =
        |one: &tar_crate::Entry<'_, _>| one.header().entry_type().is_pax_global_extensions();
    let mut theirs = theirs.filter(|one| !one.as_ref().is_ok_and(is_global));
    for (entry, body) in &ours {
        let shown = entry.path.escape_ascii().to_string();
        let mut other = match theirs.next() {
            Some(Ok(other)) => other,
            Some(Err(_)) => return true,
            None => panic!("the crate `tar` does not find {shown}"),
        };
        assert_eq!(*to_zero(&other.path_bytes()), *entry.path, "the name");
        match &entry.kind {
            EntryKind::File => {
                let mut found = Vec::new();
                if other.read_to_end(&mut found).is_err() {
                    return true;
                }
                assert_eq!(found, *body, "the bytes of {shown}");
            }
            EntryKind::Symlink(target) | EntryKind::Hardlink(target) => {
                let link = other.link_name_bytes().unwrap_or_default();
                assert_eq!(*to_zero(&link), **target, "the target of {shown}");
            }
            _ => {}
        }
        // Our reader ignores this size, but the other reader skips as many bytes.
        let states_size = other.header().entry_size().is_ok_and(|size| size > 0);
        if entry.kind != EntryKind::File && states_size {
            return true;
        }
    }
    let next = theirs.next();
    assert!(
        next.is_none_or(|next| next.is_err()),
        "the crate `tar` finds a member that `cas` does not find"
    );
    true
}

/// Returns the bytes before the first zero byte.
fn to_zero(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|byte| *byte == 0);
    &bytes[..end.unwrap_or(bytes.len())]
}

/// Writes the members of an archive again, except sparse files and members that the writer refuses.
/// Asserts that the written members are read back unchanged.
fn tar_write(input: &[u8]) -> bool {
    let (members, outcome) = read(&sealed(input));
    let mut writer = Writer::new(Vec::new());
    let mut written = Vec::new();
    for (entry, body) in members {
        // The writer does not write sparse files.
        if entry.regions.is_none() && writer.append(&entry, &body[..]).is_ok() {
            written.push((entry, body));
        }
    }
    let archive = writer.finish();
    let archive = archive.unwrap_or_else(|error| panic!("cannot finish: {error}"));
    let (again, end) = read(&archive);
    end.unwrap_or_else(|error| panic!("cannot read what was written: {error}"));
    assert_eq!(again, written);
    accepted(outcome)
}

/// Reads a member after a pax header. The input is the records of the header.
fn pax(input: &[u8]) -> bool {
    tar(&Tar::new().extension(b'x', input).file("file", "").end())
}

fn pax_headers() -> Vec<Vec<u8>> {
    let all = [
        record("path", "name"),
        record("mtime", "1700000000.123456789"),
        record("uid", "1000"),
        record("gid", "1000"),
        record("SCHILY.xattr.security.capability", [1, 0, 0, 2, 0]),
        record("LIBARCHIVE.xattr.user.a", "YQ=="),
    ];
    vec![
        all.concat(),
        record("comment", "nothing"),
        record("linkpath", "elsewhere"),
        record("SCHILY.xattr.user.overlay.opaque", "y"),
    ]
}

/// Reads a sparse file with a map in its body. The records are fixed, and the input is the body.
fn sparse(input: &[u8]) -> bool {
    let archive = Tar::new()
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"sparse"),
            ("GNU.sparse.realsize", b"100000"),
        ])
        .file("GNUSparseFile.0/sparse", input)
        .end();
    tar(&archive)
}

fn sparse_maps() -> Vec<Vec<u8>> {
    let map = |numbers: &[u32], data: &[u8]| {
        let mut body = Vec::new();
        for number in numbers {
            // Writing to a vector does not fail.
            let _ = writeln!(body, "{number}");
        }
        body.resize(BLOCK, 0);
        [&body, data].concat()
    };
    vec![
        map(&[1, 0, 5], b"hello"),
        map(&[2, 0, 3, 99_998, 2], b"abcde"),
        map(&[0], b""),
    ]
}

/// Returns an archive with a sparse file that has its map, of two regions, in its pax records.
fn sparse_pax(map: &[u8], size: &[u8], data: &[u8]) -> Vec<u8> {
    Tar::new()
        .pax(&[
            ("GNU.sparse.size", size),
            ("GNU.sparse.numblocks", b"2"),
            ("GNU.sparse.name", b"sparse"),
            ("GNU.sparse.map", map),
        ])
        .file("GNUSparseFile.0/sparse", data)
        .end()
}
