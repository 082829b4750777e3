//! Neighbours of a case: the same image in other bytes, and similar images.
//!
//! A neighbour with the same meaning must have the outcome and the tree of its case. A neighbour
//! with another meaning must have the same outcome and the same tree in every place.

use std::io::Write;

use cas::{Digest, limit};
use testkit::archive::Tar;
use testkit::random::Random;

use super::attributes;
use super::cases::{Case, Layer};
use super::member::{ENCODINGS, Encoding, Member, Part, join, parse};

/// The names that begin with this are added by a neighbour, and its case does not have them.
pub(super) const ADDED: &str = "zz-added";

/// Other bytes for the same image.
#[derive(Clone, Copy, Debug)]
enum Rewrite {
    Spell(Spelling),
    Encode(Encoding),
    Compress(Compression),
    End(End),
    /// Puts unrelated layers below.
    Below(usize),
    /// Puts an unrelated layer on top.
    Above,
}

/// Another spelling of the same path.
#[derive(Clone, Copy, Debug)]
enum Spelling {
    Dot,
    Slash,
    Slashes,
    Climb,
    Detour,
    Dots,
    Doubled,
    Trailing,
}

#[derive(Clone, Copy, Debug)]
enum Compression {
    Gzip,
    GzipMembers,
    Zstd,
    ZstdFrames,
}

/// Another end of an archive.
#[derive(Clone, Copy, Debug)]
enum End {
    None,
    Long,
}

const SAME: [Rewrite; 21] = [
    Rewrite::Spell(Spelling::Dot),
    Rewrite::Spell(Spelling::Slash),
    Rewrite::Spell(Spelling::Slashes),
    Rewrite::Spell(Spelling::Climb),
    Rewrite::Spell(Spelling::Detour),
    Rewrite::Spell(Spelling::Dots),
    Rewrite::Spell(Spelling::Doubled),
    Rewrite::Spell(Spelling::Trailing),
    Rewrite::Encode(ENCODINGS[0]),
    Rewrite::Encode(ENCODINGS[1]),
    Rewrite::Encode(ENCODINGS[2]),
    Rewrite::Encode(ENCODINGS[3]),
    Rewrite::Compress(Compression::Gzip),
    Rewrite::Compress(Compression::GzipMembers),
    Rewrite::Compress(Compression::Zstd),
    Rewrite::Compress(Compression::ZstdFrames),
    Rewrite::End(End::None),
    Rewrite::End(End::Long),
    Rewrite::Below(1),
    Rewrite::Below(3),
    Rewrite::Above,
];

/// Another image.
#[derive(Clone, Copy, Debug)]
enum Change {
    Retype,
    Rename,
    Below,
    Hide,
    Opaque,
    Retarget,
    Chain,
    Swap,
    Repeat,
    Drop,
    Split,
    Merge,
    Numbers,
    Attribute,
}

const OTHER: [Change; 14] = [
    Change::Retype,
    Change::Rename,
    Change::Below,
    Change::Hide,
    Change::Opaque,
    Change::Retarget,
    Change::Chain,
    Change::Swap,
    Change::Repeat,
    Change::Drop,
    Change::Split,
    Change::Merge,
    Change::Numbers,
    Change::Attribute,
];

/// Maximum number of changes of one neighbour with another meaning.
const CHANGES: u64 = 3;

/// Returns how many neighbours with the same meaning each case has.
pub(super) const REWRITES: usize = SAME.len();

/// Returns the neighbour with the same meaning that has the number `number`, and how it was made.
/// Returns `None` if there is none, because this rewrite would change the meaning of the case or
/// cannot be applied to it.
pub(super) fn same(case: &Case, number: usize) -> Option<(String, Case)> {
    let rewrite = SAME[number];
    let mut layers: Vec<Vec<Part>> = case.layers.iter().map(|one| parse(&one.blob)).collect();
    let is_refused = case.outcome != super::cases::Outcome::Harmless;
    let is_whole = case
        .layers
        .iter()
        .all(|one| one.diff_id == Digest::sha256(&one.blob));
    if !is_whole {
        return None;
    }
    let mut neighbour = case.clone();
    let how = format!("{rewrite:?}");
    match rewrite {
        // The bound on the depth of a path counts these names, too.
        Rewrite::Spell(Spelling::Dots) if is_deep(&layers) => return None,
        Rewrite::Spell(spelling) => each(&mut layers, |member| spell(member, spelling)),
        Rewrite::Encode(encoding) => each(&mut layers, |member| member.encoding = encoding),
        Rewrite::Compress(compression) => {
            for layer in &mut neighbour.layers {
                layer.blob = compress(&layer.blob, compression);
            }
            return Some((how, neighbour));
        }
        Rewrite::End(end) => {
            for parts in &mut layers {
                if !end_with(parts, end) {
                    return None;
                }
            }
        }
        Rewrite::Below(count) => {
            for number in 0..count {
                layers.insert(number, parse(&unrelated(number)));
            }
        }
        // The last layer of a case that is refused is the one that is refused.
        Rewrite::Above if is_refused => return None,
        Rewrite::Above => layers.push(parse(&unrelated(layers.len()))),
    }
    neighbour.layers = layers.iter().map(|parts| Layer::of(join(parts))).collect();
    Some((how, neighbour))
}

/// Returns a neighbour with another meaning, and how it was made. Returns `None` if the layers have
/// no members that can be changed.
pub(super) fn other(case: &Case, random: &mut Random) -> Option<(String, Case)> {
    let mut layers: Vec<Vec<Part>> = case.layers.iter().map(|one| parse(&one.blob)).collect();
    if members(&layers).is_empty() {
        return None;
    }
    let mut neighbour = case.clone();
    let mut how = Vec::new();
    for _ in 0..=random.below(CHANGES) {
        let change = *pick(&OTHER, random);
        how.push(format!("{change:?}"));
        apply(&mut layers, change, random);
    }
    neighbour.layers = layers.iter().map(|parts| Layer::of(join(parts))).collect();
    Some((how.join(", "), neighbour))
}

fn pick<'a, T>(all: &'a [T], random: &mut Random) -> &'a T {
    &all[random.below(all.len() as u64) as usize]
}

fn each(layers: &mut [Vec<Part>], change: impl Fn(&mut Member)) {
    for part in layers.iter_mut().flatten() {
        if let Part::Member(member) = part {
            change(member);
        }
    }
}

/// Returns whether a path would be too deep with twice as many names.
fn is_deep(layers: &[Vec<Part>]) -> bool {
    layers.iter().flatten().any(|part| match part {
        Part::Member(member) => {
            let slashes = member.path.iter().filter(|byte| **byte == b'/');
            2 * slashes.count() + 1 > limit::PATH_DEPTH
        }
        Part::Raw(_) => false,
    })
}

fn spell(member: &mut Member, spelling: Spelling) {
    member.path = respelled(&member.path, spelling, member.flag() == b'5');
    if member.flag() == b'1' {
        member.link = respelled(&member.link, spelling, false);
    }
}

fn respelled(path: &[u8], spelling: Spelling, is_dir: bool) -> Vec<u8> {
    let replaced = |by: &[u8]| {
        let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        names.join(by)
    };
    match spelling {
        Spelling::Dot => [b"./", path].concat(),
        Spelling::Slash => [b"/", path].concat(),
        Spelling::Slashes => [b"//", path].concat(),
        Spelling::Climb => [b"../../../../../", path].concat(),
        Spelling::Detour => [b"no/where/../../", path].concat(),
        Spelling::Dots => replaced(b"/./"),
        Spelling::Doubled => replaced(b"//"),
        Spelling::Trailing if is_dir => [path, b"/.//"].concat(),
        Spelling::Trailing => path.to_vec(),
    }
}

/// Changes the end of an archive that has end blocks. Returns `false` for another archive.
fn end_with(parts: &mut [Part], end: End) -> bool {
    let Some(Part::Raw(last)) = parts.last_mut() else {
        return false;
    };
    if !last.ends_with(&[0; 1024]) {
        return false;
    }
    match end {
        End::None => last.truncate(last.len() - 1024),
        End::Long => last.resize(last.len() + 9 * 1024, 0),
    }
    true
}

/// Returns a layer whose files no case has.
fn unrelated(number: usize) -> Vec<u8> {
    let tar = Tar::new().dir("./").dir(format!("{ADDED}-{number}"));
    tar.file(format!("{ADDED}-{number}/file"), "added").end()
}

fn compress(archive: &[u8], compression: Compression) -> Vec<u8> {
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    // A frame of three bytes that a decoder skips.
    let skipped = [&0x184d_2a50_u32.to_le_bytes()[..], &[3, 0, 0, 0], b"any"].concat();
    match compression {
        Compression::Gzip => gzip(archive),
        Compression::GzipMembers => archive.chunks(700).flat_map(gzip).collect(),
        Compression::Zstd => zstd(archive),
        Compression::ZstdFrames => archive
            .chunks(700)
            .flat_map(|piece| [zstd(piece), skipped.clone()].concat())
            .collect(),
    }
}

/// Returns the positions of all members, except the entry of the top directory that begins each
/// layer of a case. Without this entry, the time of the top directory is the time of unpacking.
fn members(layers: &[Vec<Part>]) -> Vec<(usize, usize)> {
    let positions = layers.iter().enumerate().flat_map(|(layer, parts)| {
        let members = parts.iter().enumerate();
        let members = members.filter(|(at, part)| match part {
            Part::Member(member) => *at > 0 || member.path != b"./",
            Part::Raw(_) => false,
        });
        members.map(move |(at, _)| (layer, at))
    });
    positions.collect()
}

fn apply(layers: &mut Vec<Vec<Part>>, change: Change, random: &mut Random) {
    let all = members(layers);
    if all.is_empty() {
        return;
    }
    let (layer, at) = *pick(&all, random);
    let (other_layer, other_at) = *pick(&all, random);
    let Part::Member(other) = layers[other_layer][other_at].clone() else {
        return;
    };
    let inserted = match change {
        Change::Split => {
            let after = layers[layer].split_off(at);
            layers.insert(layer + 1, after);
            return;
        }
        Change::Merge => {
            let merged = merged(layers);
            *layers = vec![merged];
            return;
        }
        Change::Swap => {
            let first = layers[layer][at].clone();
            layers[layer][at] = std::mem::replace(&mut layers[other_layer][other_at], first);
            return;
        }
        Change::Drop => {
            layers[layer].remove(at);
            return;
        }
        Change::Repeat => other,
        Change::Below => {
            let inside = [&other.path[..], b"/inside"].concat();
            Member::new(
                *pick(b"0567124", random),
                &inside,
                target(layers, random).as_slice(),
            )
        }
        Change::Hide => Member::new(b'0', &marked(&other.path, b".wh."), b""),
        Change::Opaque => Member::new(b'0', &[&other.path[..], b"/.wh..wh..opq"].concat(), b""),
        Change::Chain => {
            let links = 1 + random.below(42);
            let mut to = target(layers, random);
            for link in 0..links {
                let name = format!("chain{link}").into_bytes();
                layers[layer].insert(at, Part::Member(Member::new(b'2', &name, &to)));
                to = name;
            }
            Member::new(b'0', &[&to[..], b"/end"].concat(), b"")
        }
        Change::Retype
        | Change::Rename
        | Change::Retarget
        | Change::Numbers
        | Change::Attribute => {
            let link = target(layers, random);
            if let Part::Member(member) = &mut layers[layer][at] {
                alter(member, change, &other, link, random);
            }
            return;
        }
    };
    layers[layer].insert(at + random.below(2) as usize, Part::Member(inserted));
}

/// Returns all parts of all layers, with one end.
fn merged(layers: &[Vec<Part>]) -> Vec<Part> {
    let last = layers.len() - 1;
    let parts = layers.iter().enumerate().flat_map(|(number, parts)| {
        let is_end = |part: &Part| matches!(part, Part::Raw(raw) if raw.iter().all(|b| *b == 0));
        let parts = parts.iter().cloned();
        parts.filter(move |part| number == last || !is_end(part))
    });
    parts.collect()
}

/// Adds a prefix to the last name of a path.
fn marked(path: &[u8], prefix: &[u8]) -> Vec<u8> {
    let trimmed = path.strip_suffix(b"/").unwrap_or(path);
    let name = trimmed
        .iter()
        .rposition(|byte| *byte == b'/')
        .map_or(0, |at| at + 1);
    [&trimmed[..name], prefix, &trimmed[name..]].concat()
}

/// Returns a target for a link: out of the tree, to the tree itself, or to another member.
fn target(layers: &[Vec<Part>], random: &mut Random) -> Vec<u8> {
    const TARGETS: [&[u8]; 14] = [
        b"../../../../canary",
        b"../../../../canary/dir",
        b"../../../../canary/file",
        b"../../../../canary/pipe",
        b"/proc/self/root",
        b"/proc/self/cwd/..",
        b"..",
        b".",
        b"/",
        b"./..//../.",
        b"no/where/..",
        b"/etc/passwd",
        b"/dev/shm",
        b"chain0",
    ];
    let known = layers.iter().flatten().filter_map(|part| match part {
        Part::Member(member) => Some(member.path.clone()),
        Part::Raw(_) => None,
    });
    // The target of a link of a case may lead to the canary by its absolute path.
    let linked = layers.iter().flatten().filter_map(|part| match part {
        Part::Member(member) if !member.link.is_empty() => Some(member.link.clone()),
        _ => None,
    });
    let fixed = TARGETS.into_iter().map(<[u8]>::to_vec);
    let all: Vec<Vec<u8>> = fixed.chain(known).chain(linked).collect();
    pick(&all, random).clone()
}

fn alter(member: &mut Member, change: Change, other: &Member, link: Vec<u8>, random: &mut Random) {
    match change {
        Change::Retype => {
            member.retype(*pick(b"0123456", random));
            if member.link.is_empty() {
                member.link = link;
            }
        }
        Change::Rename => member.path = other.path.clone(),
        Change::Retarget => member.link = link,
        Change::Numbers => {
            let header = member.header.clone();
            let ids = [0, 1, 0o777_777, 0o7_777_777];
            let header = header
                .mode(*pick(
                    &[0, 0o1777, 0o4755, 0o2070, 0o7777, 0o177_777],
                    random,
                ))
                .owner(*pick(&ids, random), *pick(&ids, random));
            member.header = header.device(*pick(&[0, 1, 8, 0o7777], random), random.below(4));
        }
        Change::Attribute => {
            let (name, value) = attributes::any(random);
            let key = format!("SCHILY.xattr.{name}");
            if !member.records.iter().any(|(known, _)| *known == key) {
                member.records.push((key, value));
            }
        }
        _ => {}
    }
}
