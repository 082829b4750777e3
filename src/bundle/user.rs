//! Finds the user and groups of a process in the image's own `/etc/passwd` and `/etc/group`.

use cas_core::error::{excerpt, shortened};
use cas_core::{Error, Result, limit};

use super::{Rootfs, User};

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// A user and their home directory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(super) user: User,
    pub(super) home: String,
}

/// Returns the account for `USER[:GROUP]`. Each part is a name or a number. Empty text means the
/// superuser.
///
/// A number need not be in the image's files. The user of a number that is not there has the group
/// 0 and the home directory `/`. Without `GROUP`, the account has all groups that the files give
/// the user. With `GROUP`, the account has only that group.
///
/// # Errors
/// `NotFound` for a name that the image does not have; `Corrupt` for a number that is too large, or
/// if one of the files is not a regular file; `OutOfRange` if a file is too long, or the user is in
/// more than [`limit::GROUPS`] groups; errors of the file system.
pub(crate) fn find(rootfs: &Rootfs, wanted: &str) -> Result<Account> {
    let (user, group) = wanted.split_once(':').unwrap_or((wanted, ""));
    let text = rootfs.read(PASSWD, limit::ACCOUNTS)?.unwrap_or_default();
    let number = match user {
        "" => Some(0),
        name => number(name)?,
    };
    let mut lines = text.lines().filter_map(Line::parse);
    let line = lines.find(|line| match number {
        Some(uid) => line.uid == uid,
        None => line.name == user,
    });
    let (name, uid, gid, home) = match (line, number) {
        (Some(line), _) => (line.name, line.uid, line.gid, line.home),
        (None, Some(uid)) => ("", uid, 0, "/"),
        (None, None) => return Err(unknown("user", user, PASSWD)),
    };
    let groups = rootfs.read(GROUP, limit::ACCOUNTS)?.unwrap_or_default();
    let (gid, additional_gids) = match group {
        "" => (gid, memberships(&groups, name, gid)?),
        group => {
            let gid = group_id(&groups, group)?;
            (gid, vec![gid])
        }
    };
    Ok(Account {
        user: User {
            uid,
            gid,
            additional_gids,
        },
        home: home.to_owned(),
    })
}

/// A line of `/etc/passwd`.
struct Line<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> Line<'a> {
    /// Parses a line. Returns `None` if it is malformed.
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let (name, _) = (fields.next()?, fields.next()?);
        let (uid, gid) = (number(fields.next()?), number(fields.next()?));
        let home = fields.nth(1).filter(|home| !home.is_empty());
        Some(Line {
            name,
            uid: uid.ok()??,
            gid: gid.ok()??,
            home: home.unwrap_or("/"),
        })
    }
}

/// Returns the name, number and members of each group in the text of a file.
fn groups(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _) = (fields.next()?, fields.next()?);
        let gid = number(fields.next()?).ok()??;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

/// Returns the groups that the user `name` is a member of, and their primary group `own`. The
/// mode of a file may deny access to `own`. If the list did not have `own`, a program could leave
/// this group by changing its primary group, and then open the file.
fn memberships(text: &str, name: &str, own: u32) -> Result<Vec<u32>> {
    let member = |members: &str| !name.is_empty() && members.split(',').any(|one| one == name);
    let all = groups(text).filter(|(_, _, members)| member(members));
    let mut all: Vec<u32> = all.map(|(_, gid, _)| gid).chain([own]).collect();
    all.sort_unstable();
    all.dedup();
    let (found, allowed) = (all.len(), limit::GROUPS);
    if found > allowed {
        return Err(Error::out_of_range(format!(
            "{GROUP} of the image puts the user {} into {found} groups; at most {allowed} \
             are supported; build the image with a user of the form USER:GROUP, who is then \
             only in GROUP",
            excerpt(name)
        ))
        .operation("find user"));
    }
    Ok(all)
}

fn group_id(text: &str, group: &str) -> Result<u32> {
    if let Some(gid) = number(group)? {
        return Ok(gid);
    }
    let found = groups(text).find(|(name, ..)| *name == group);
    found
        .map(|(_, gid, _)| gid)
        .ok_or_else(|| unknown("group", group, GROUP))
}

/// Parses a number. Returns `None` for a name.
fn number(text: &str) -> Result<Option<u32>> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse() {
        Ok(id) if id <= limit::ID => Ok(Some(id)),
        _ => Err(Error::corrupt(format!(
            "expected a user or group id of at most {}, found {}; build the image with a smaller \
             id",
            limit::ID,
            shortened(text, 40, 0, text.len())
        ))
        .operation("find user")),
    }
}

fn unknown(what: &str, name: &str, file: &str) -> Error {
    Error::not_found(format!(
        "the image runs as {what} \"{}\", but the image's {file} does not list this {what}; the \
         author of the image must add the {what} to the file, or state a numeric id instead of \
         the name",
        excerpt(name)
    ))
    .operation("find user")
}

#[cfg(test)]
mod tests {
    use super::*;
    use cas_core::ErrorKind;
    use std::fs;
    use std::os::unix::fs::symlink;

    const USERS: &str = "root:x:0:0:root:/root:/bin/sh\n# odd\nodd:x:y:1::/:\n\
        huge:x:4294967295:1::/:\napp:x:1000:1001:,,,:/home/app:/bin/sh\n7up:x:77:78\n";
    const GROUPS: &str =
        "root:x:0:\napp:x:1001:app\ndisk:x:6:other,app\naudio:x:5:app\nbad:x:z:app\nnone:x:9\n";

    fn image() -> (tempfile::TempDir, Rootfs) {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("etc")).unwrap();
        fs::write(temp.path().join("etc/passwd"), USERS).unwrap();
        fs::write(temp.path().join("etc/group"), GROUPS).unwrap();
        let rootfs = Rootfs::open(temp.path()).unwrap();
        (temp, rootfs)
    }

    fn account(uid: u32, gid: u32, others: &[u32], home: &str) -> Account {
        let additional_gids = others.to_vec();
        Account {
            user: User {
                uid,
                gid,
                additional_gids,
            },
            home: home.to_owned(),
        }
    }

    #[test]
    fn names_and_numbers_are_found_as_the_configuration_page_says() {
        let (_temp, rootfs) = image();
        for (wanted, expected) in [
            ("", account(0, 0, &[0], "/root")),
            ("root", account(0, 0, &[0], "/root")),
            ("app", account(1000, 1001, &[5, 6, 1001], "/home/app")),
            ("1000", account(1000, 1001, &[5, 6, 1001], "/home/app")),
            ("app:disk", account(1000, 6, &[6], "/home/app")),
            ("app:12", account(1000, 12, &[12], "/home/app")),
            ("5000:none", account(5000, 9, &[9], "/")),
            ("5000", account(5000, 0, &[0], "/")),
            (":app", account(0, 1001, &[1001], "/root")),
            ("7up", account(77, 78, &[78], "/")),
        ] {
            assert_eq!(find(&rootfs, wanted).unwrap(), expected, "{wanted}");
        }
    }

    #[test]
    fn an_unknown_or_invalid_user_is_an_error() {
        let (temp, rootfs) = image();
        for (wanted, kind) in [
            ("nobody", ErrorKind::NotFound),
            ("odd", ErrorKind::NotFound),
            ("huge", ErrorKind::NotFound),
            ("app:nogroup", ErrorKind::NotFound),
            ("app:bad", ErrorKind::NotFound),
            ("-1", ErrorKind::NotFound),
            ("2147483648", ErrorKind::Corrupt),
            ("4294967296:0", ErrorKind::Corrupt),
            ("0:99999999999999999999", ErrorKind::Corrupt),
        ] {
            let error = find(&rootfs, wanted).unwrap_err();
            assert_eq!(error.kind(), kind, "{wanted}: {error}");
        }
        fs::remove_dir_all(temp.path().join("etc")).unwrap();
        assert_eq!(find(&rootfs, "3:4").unwrap(), account(3, 4, &[4], "/"));
        let error = find(&rootfs, "app").unwrap_err().to_string();
        assert!(error.contains("/etc/passwd"), "{error}");
    }

    #[test]
    fn files_and_numbers_have_bounds() {
        let (temp, rootfs) = image();
        for name in ["etc/passwd", "etc/group"] {
            let before = fs::read(temp.path().join(name)).unwrap();
            for (size, refused) in [(limit::ACCOUNTS, false), (limit::ACCOUNTS + 1, true)] {
                let mut text = before.clone();
                text.resize(size as usize, b'\n');
                fs::write(temp.path().join(name), text).unwrap();
                match find(&rootfs, "app") {
                    Ok(_) => assert!(!refused, "{name}"),
                    Err(error) => {
                        assert!(refused, "{name}: {error}");
                        let bound = limit::ACCOUNTS.to_string();
                        assert!(error.to_string().contains(&bound), "{error}");
                    }
                }
            }
            fs::write(temp.path().join(name), before).unwrap();
        }
        let (most, more) = (limit::ID, u64::from(limit::ID) + 1);
        let found = find(&rootfs, &format!("{most}:{most}")).unwrap();
        assert_eq!((found.user.uid, found.user.gid), (most, most));
        for wanted in [format!("{more}"), format!("{most}:{more}")] {
            let said = find(&rootfs, &wanted).unwrap_err().to_string();
            assert!(said.contains(&most.to_string()), "{said}");
        }
    }

    #[test]
    fn a_user_in_too_many_groups_and_a_long_name_are_refused() {
        let (temp, rootfs) = image();
        let put_into = |groups: usize| {
            let line = |gid| format!("g{gid}:x:{gid}:app\n");
            let text: String = (10_000..10_000 + groups).map(line).collect();
            fs::write(temp.path().join("etc/group"), text).unwrap();
        };
        // The primary group counts.
        put_into(limit::GROUPS - 1);
        let found = find(&rootfs, "app").unwrap();
        assert_eq!(found.user.additional_gids.len(), limit::GROUPS);
        for groups in [limit::GROUPS, 50_000] {
            put_into(groups);
            for wanted in ["app", "1000"] {
                let error = find(&rootfs, wanted).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
                assert!(error.to_string().contains("USER:GROUP"), "{error}");
            }
            assert_eq!(find(&rootfs, "app:7").unwrap().user.additional_gids, [7]);
        }
        // Long files that put the user into at most one group besides the primary group.
        let long = format!("g:x:9:{}app\n", "other,".repeat(50_000));
        for (text, expected) in [
            ("g:x:9:app\n".repeat(50_000), vec![9, 1001]),
            (format!("g:x:9:{}\n", "app,".repeat(50_000)), vec![9, 1001]),
            (long, vec![9, 1001]),
            ("g:x:9:other\n".repeat(50_000), vec![1001]),
            ("g:x:9\n".repeat(50_000), vec![1001]),
            ("app,".repeat(50_000), vec![1001]),
        ] {
            fs::write(temp.path().join("etc/group"), text).unwrap();
            let found = find(&rootfs, "app").unwrap();
            assert_eq!(found.user.additional_gids, expected);
        }
        let error = find(&rootfs, &"\u{1b}]0;x".repeat(500_000)).unwrap_err();
        let said = error.to_string();
        assert!(said.len() < 400 && !said.contains('\u{1b}'), "{said}");
    }

    #[test]
    fn links_lead_nowhere_outside_and_pipes_are_not_opened() {
        let (temp, rootfs) = image();
        let passwd = temp.path().join("etc/passwd");
        let canary = tempfile::tempdir().unwrap();
        let outside = canary.path().join("passwd");
        fs::write(&outside, "app:x:66:66::/:\n").unwrap();
        let up = format!("../../../../../../../..{}", outside.display());
        for target in [outside.to_str().unwrap(), &up] {
            fs::remove_file(&passwd).unwrap();
            symlink(target, &passwd).unwrap();
            let error = find(&rootfs, "app").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        }
        // The link is resolved inside the root file system.
        let inside = temp.path().join(outside.strip_prefix("/").unwrap());
        fs::create_dir_all(inside.parent().unwrap()).unwrap();
        fs::write(&inside, "app:x:55:55::/:\n").unwrap();
        assert_eq!(find(&rootfs, "app:1").unwrap().user.uid, 55);

        fs::remove_file(&passwd).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &passwd,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        assert_eq!(find(&rootfs, "app").unwrap_err().kind(), ErrorKind::Corrupt);
        fs::remove_file(&passwd).unwrap();
        symlink("passwd", &passwd).unwrap();
        assert_eq!(
            find(&rootfs, "app").unwrap_err().kind(),
            ErrorKind::NotFound
        );
        fs::remove_file(&passwd).unwrap();
        fs::File::create(&passwd).unwrap().set_len(1 << 40).unwrap();
        let error = find(&rootfs, "app").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
    }
}
