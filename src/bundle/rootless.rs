//! The part of `config.json` for a user without privileges: a user namespace. In the namespace, the
//! user who starts the bundle has the id 0, because runc without privileges refuses bundles in
//! which that user has another id.

use serde_json::{Value, json};

use super::{User, UserIds};

/// The group of terminals.
const TTY: u32 = 5;

/// Returns the user that a process of the image runs as, without further groups, because runc
/// refuses further groups. Also returns a warning if the process cannot run as the user that the
/// image names.
pub(super) fn user(ids: &UserIds, wanted: &User) -> (User, Option<String>) {
    let User { uid, gid, .. } = *wanted;
    let mut user = User::default();
    let missing = !ids.users.has(uid) || !ids.groups.has(gid);
    if !missing {
        (user.uid, user.gid) = (uid, gid);
    }
    let warning = missing.then(|| {
        format!(
            "the user and group of the image are {uid}:{gid}, which your user namespace does not \
             map; the program runs as 0:0 instead, with your own rights; to map more ids, add \
             ranges to /etc/subuid and /etc/subgid, and install newuidmap and newgidmap (package \
             uidmap)"
        )
    });
    (user, warning)
}

/// Changes the document so that a user without privileges can start it.
pub(super) fn adapt(document: &mut Value, ids: &UserIds) {
    let linux = &mut document["linux"];
    linux["uidMappings"] = json!(ids.users.map());
    linux["gidMappings"] = json!(ids.groups.map());
    if let Some(namespaces) = linux["namespaces"].as_array_mut() {
        namespaces.push(json!({"type": "user"}));
    }
    // This user may not set limits on resources. Rules for devices are not needed, because nobody
    // in the namespace can make device nodes.
    if let Some(linux) = linux.as_object_mut() {
        linux.remove("resources");
    }
    if !ids.groups.has(TTY) {
        leave_out_group(document);
    }
}

/// Leaves out the group of terminals, for a namespace that does not have it.
pub(super) fn leave_out_group(document: &mut Value) {
    let own_group = json!(format!("gid={TTY}"));
    for mount in document["mounts"].as_array_mut().into_iter().flatten() {
        if let Some(options) = mount["options"].as_array_mut() {
            options.retain(|option| *option != own_group);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::Ids;

    fn ids(more: &[(u32, u32)]) -> UserIds {
        let of = |own| Ids {
            own,
            more: more.to_vec(),
        };
        UserIds {
            users: of(1000),
            groups: of(100),
        }
    }

    fn account(uid: u32, gid: u32, groups: &[u32]) -> User {
        User {
            uid,
            gid,
            additional_gids: groups.to_vec(),
        }
    }

    #[test]
    fn the_user_of_the_image_is_kept_if_there_are_ids_for_it() {
        let many = ids(&[(100_000, 50)]);
        for (uid, gid, kept) in [
            (0, 0, true),
            (33, 34, true),
            (0, 7, true),
            (50, 50, true),
            (51, 0, false),
            (0, 51, false),
            (3_000_000, 7, false),
        ] {
            let (found, warning) = user(&many, &account(uid, gid, &[gid, 4]));
            let expected = if kept { (uid, gid) } else { (0, 0) };
            assert_eq!(found, account(expected.0, expected.1, &[]));
            assert_eq!(warning.is_none(), kept, "{uid}:{gid}");
        }
        let (found, warning) = user(&ids(&[]), &account(0, 0, &[0, 8]));
        assert_eq!((found, warning), (User::default(), None));
        let (found, warning) = user(&ids(&[]), &account(33, 34, &[]));
        assert_eq!(found, User::default());
        assert!(warning.unwrap().contains("33:34"));
    }

    #[test]
    fn the_document_has_a_user_namespace_and_only_mapped_groups() {
        let document = |more: &[(u32, u32)]| {
            let mut document = json!({
                "linux": {"namespaces": [{"type": "pid"}], "resources": {"devices": []}},
                "mounts": [{"destination": "/proc"}, {"options": ["gid=5", "nosuid"]}],
            });
            adapt(&mut document, &ids(more));
            document
        };
        let one = document(&[]);
        let own = |id: u32| json!([{"containerID": 0, "hostID": id, "size": 1}]);
        assert_eq!(one["linux"]["uidMappings"], own(1000));
        assert_eq!(one["linux"]["gidMappings"], own(100));
        let namespaces = json!([{"type": "pid"}, {"type": "user"}]);
        assert_eq!(one["linux"]["namespaces"], namespaces);
        assert!(one["linux"].get("resources").is_none());
        assert_eq!(one["mounts"][1]["options"], json!(["nosuid"]));
        let many = document(&[(100_000, 50)]);
        assert_eq!(many["mounts"][1]["options"], json!(["gid=5", "nosuid"]));
        assert_eq!(many["linux"]["uidMappings"][1]["hostID"], 100_000);
    }
}
