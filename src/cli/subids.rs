//! The ids of this user: their own ids, and the ids that `/etc/subuid` and `/etc/subgid` give them.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use cas::bundle::{Ids, UserIds};
use cas_core::limit;
use rustix::process::{getegid, geteuid};

use super::run::on_path;

/// Returns the paths of `newuidmap` and `newgidmap`, which map more ids than the user's own into a
/// user namespace. Returns `None` if one of them is not installed.
pub(super) fn mappers() -> Option<[PathBuf; 2]> {
    Some([on_path("newuidmap")?, on_path("newgidmap")?])
}

/// Returns the ids of this user. The result has only the user's own ids if `/etc/subuid` or
/// `/etc/subgid` has no range for the user, or if `newuidmap` or `newgidmap` is not installed.
pub(super) fn of_this_user() -> UserIds {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let name = name(&read("/etc/passwd"), uid);
    let listed = |file| ranges(&read(file), uid, name.as_deref());
    let mut ids = UserIds {
        users: Ids {
            own: uid,
            more: listed("/etc/subuid"),
        },
        groups: Ids {
            own: gid,
            more: listed("/etc/subgid"),
        },
    };
    if !ids.has_more() || mappers().is_none() {
        ids.users.more.clear();
        ids.groups.more.clear();
    }
    ids
}

/// Returns the first [`limit::ACCOUNTS`] bytes of a file as text. Returns fewer if the file is
/// shorter, or cannot be read further.
fn read(path: &str) -> String {
    let mut text = Vec::new();
    if let Ok(file) = File::open(path) {
        let _ = file.take(limit::ACCOUNTS).read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Returns the name that `passwd`, the text of `/etc/passwd`, gives to the user `uid`.
fn name(passwd: &str, uid: u32) -> Option<String> {
    let of = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    };
    passwd.lines().find_map(of)
}

/// Returns the ranges of ids that `text`, the text of `/etc/subuid` or `/etc/subgid`, gives to a
/// user: the first id and the number of ids of each range. A line may state the user by id or by
/// name. Skips lines that are not valid.
fn ranges(text: &str, uid: u32, name: Option<&str>) -> Vec<(u32, u32)> {
    let of = |line: &str| {
        let mut fields = line.split(':');
        let user = fields.next()?;
        let (first, count): (u32, u32) = (number(fields.next())?, number(fields.next())?);
        let ours = Some(user) == name || user.parse() == Ok(uid);
        let valid = count > 0 && first.checked_add(count).is_some();
        (ours && valid && fields.next().is_none()).then_some((first, count))
    };
    text.lines().filter_map(of).collect()
}

fn number(field: Option<&str>) -> Option<u32> {
    field?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_by_number() {
        let passwd = "root:x:0:0::/:\nbroken\nann:x:1000:1000::/home/ann:\nbob:x:1001:7::/:\n";
        assert_eq!(name(passwd, 1000).as_deref(), Some("ann"));
        assert_eq!(name(passwd, 7), None);
        let subuid = "bob:1:2\nann:100000:65536\n1000:500000:10\n\nann:7\nann:x:1\nann:1:0\n\
            ann:4294967295:9\nann:1:2:3\n10000:9:9\nannie:5:5\n1001:3:4 \n";
        for (uid, name, expected) in [
            (1000, Some("ann"), &[(100_000, 65_536), (500_000, 10)][..]),
            (1000, None, &[(500_000, 10)]),
            (1001, Some("bob"), &[(1, 2), (3, 4)]),
            (10_000, None, &[(9, 9)]),
            (5, Some("eve"), &[]),
        ] {
            assert_eq!(ranges(subuid, uid, name), expected, "{uid} {name:?}");
        }
    }
}
