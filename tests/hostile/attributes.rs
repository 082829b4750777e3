//! Extended attributes that control something, are malformed, or are harmless.

use testkit::random::Random;

/// Names of attributes that get any of [`VALUES`].
const NAMES: [&str; 22] = [
    "trusted.overlay.opaque",
    "trusted.overlay.redirect",
    "trusted.overlay.metacopy",
    "trusted.overlay.origin",
    "trusted.overlay.whiteout",
    "trusted.overlay.",
    "trusted.overlayx",
    "user.overlay.opaque",
    "user.cas.unfinished",
    "user.plain",
    "user.a\nb",
    "user.\u{e9}",
    "user.",
    "trusted.",
    "trusted.erofs",
    "security.",
    "security.ima",
    "security.evm",
    "security.selinux",
    "system.nfs4_acl",
    "btrfs.compression",
    "none",
];
/// Values for these names.
const VALUES: [&[u8]; 4] = [b"", b"y", b"/../../../../canary", b"a\0\n\xff"];

/// Returns an attribute: its name and its value.
pub(super) fn any(random: &mut Random) -> (&'static str, Vec<u8>) {
    let value = match random.below(4) {
        0 => return ("security.capability", capability(random)),
        1 => return ("system.posix_acl_access", list(random)),
        2 => return ("system.posix_acl_default", list(random)),
        _ => VALUES[random.below(VALUES.len() as u64) as usize],
    };
    let name = NAMES[random.below(NAMES.len() as u64) as usize];
    (name, value.to_vec())
}

/// Returns a capability of a known or an unknown version, of a right or a wrong length.
fn capability(random: &mut Random) -> Vec<u8> {
    let pick = |random: &mut Random, all: [u32; 5]| all[random.below(5) as usize];
    let version = pick(
        random,
        [
            0x0200_0000,
            0x0200_0001,
            0x0300_0000,
            0x0300_0001,
            0x0100_00ff,
        ],
    );
    let length = pick(random, [0, 12, 20, 24, 25]);
    let fill = pick(random, [0, 1, 7, 0x7f, 0xff]);
    let mut value = version.to_le_bytes().to_vec();
    value.resize(length as usize, fill as u8);
    value
}

/// Returns an access control list, which is valid, invalid or cut.
fn list(random: &mut Random) -> Vec<u8> {
    const LISTS: [&[(u16, u16)]; 6] = [
        &[],
        &[(1, 7), (4, 5), (0x20, 1)],
        &[(1, 6), (2, 7), (4, 4), (0x10, 5), (0x20, 4)],
        &[(1, 7), (2, 5), (4, 5), (0x20, 1)],
        &[(4, 5), (1, 7), (0x20, 9)],
        &[(1, 7), (4, 5), (0x40, 1)],
    ];
    let version = if random.below(8) == 0 { 1_u32 } else { 2 };
    let mut list = version.to_le_bytes().to_vec();
    for (tag, permissions) in LISTS[random.below(6) as usize] {
        let is_named = matches!(tag, 2 | 8);
        let id: u32 = if is_named { 1000 } else { u32::MAX };
        list.extend(tag.to_le_bytes());
        list.extend(permissions.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    if random.below(4) == 0 {
        list.truncate(random.below(list.len() as u64 + 1) as usize);
    }
    list
}
