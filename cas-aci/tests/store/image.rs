//! ACIs as OCI images.

use std::io::{BufReader, Read};

use cas_aci::AciStore;
use cas_core::image::ImageConfig;
use cas_core::pool::wait;
use cas_core::{
    ContentExt, Descriptor, Digest, Document, ErrorKind, Image, Manifest, Store, limit,
};
use cas_layer::codec::{Compression, Decoder};
use cas_layer::tar::{Entry, EntryKind, Reader};
use serde_json::{Value, json};
use testkit::archive::{Header, Tar};

use super::common::*;

/// Returns an ACI with this manifest and one file.
fn aci_with(manifest: &str, file: &str) -> Vec<u8> {
    let tar = Tar::new().file("manifest", manifest).dir("rootfs");
    tar.file(format!("rootfs/{file}"), file).end()
}

/// Returns the member `dependencies` of a manifest that names these images.
fn on(names: &[&str]) -> String {
    let names: Vec<Value> = names
        .iter()
        .map(|name| json!({ "imageName": name }))
        .collect();
    format!(r#","dependencies":{}"#, json!(names))
}

fn to_image(acis: &AciStore, key: &cas_aci::Key) -> cas_core::Result<Image> {
    wait(acis.to_image(&key.half(), "example.com/image:1".parse().unwrap()))
}

fn fetch(store: &Store, blob: &Descriptor) -> Vec<u8> {
    wait(store.content.fetch(blob)).unwrap().to_vec()
}

fn manifest_of(store: &Store, image: &Image) -> Manifest {
    let data = fetch(store, &image.target);
    match Document::parse(&image.target.media_type, &data).unwrap() {
        Document::Manifest(manifest) => *manifest,
        Document::Index(_) => panic!("an index"),
    }
}

/// Returns the uncompressed layers of an image, after their diff IDs were checked.
fn layers(store: &Store, image: &Image) -> Vec<Vec<u8>> {
    let manifest = manifest_of(store, image);
    let config = ImageConfig::parse(&fetch(store, &manifest.config)).unwrap();
    let plain: Vec<Vec<u8>> = manifest
        .layers
        .iter()
        .map(|layer| {
            let packed = fetch(store, layer);
            let mut plain = Vec::new();
            let mut decoder = Decoder::new(&packed[..], Compression::Gzip).unwrap();
            decoder.read_to_end(&mut plain).unwrap();
            plain
        })
        .collect();
    let found: Vec<Digest> = plain.iter().map(|layer| Digest::sha256(layer)).collect();
    assert_eq!(config.diff_ids, found);
    plain
}

fn entries(archive: &[u8]) -> Vec<Entry> {
    let mut reader = Reader::new(BufReader::new(archive));
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        entries.push(entry);
    }
    assert_eq!(reader.warnings(), Vec::<String>::new());
    entries
}

/// Returns the paths in each layer that are not directories.
fn files(store: &Store, image: &Image) -> Vec<Vec<String>> {
    let of = |layer: &Vec<u8>| {
        let found = entries(layer).into_iter();
        let found = found.filter(|entry| entry.kind != EntryKind::Directory);
        found
            .map(|entry| String::from_utf8(entry.path).unwrap())
            .collect()
    };
    layers(store, image).iter().map(of).collect()
}

#[test]
fn dependencies_are_layers_lowest_first() {
    on_every_store(|store| {
        let acis = open(&store);
        for (name, on) in [
            ("base", on(&[])),
            ("mid", on(&["base"])),
            ("other", on(&[])),
        ] {
            write(&acis, &aci_with(&manifest(name, &on), name));
        }
        let top = aci_with(&manifest("top", &on(&["mid", "other"])), "top");
        let key = write(&acis, &top);
        let image = to_image(&acis, &key).unwrap();
        assert_eq!(image.name.to_string(), "example.com/image:1");
        assert_eq!(
            files(&store, &image),
            [["base"], ["mid"], ["other"], ["top"]]
        );
        // The image does not need the ACIs, and a collection keeps it.
        wait(acis.remove_aci(&key.half())).unwrap();
        collect_later(&store);
        assert_eq!(files(&store, &image).len(), 4);
        let found = wait(store.images.get(&image.name)).unwrap().unwrap();
        assert_eq!(found.target, image.target);
    });
}

#[test]
fn the_app_becomes_the_configuration() {
    let store = memory();
    let acis = open(&store);
    let more = r#","labels":[{"name":"os","value":"linux"},{"name":"arch","value":"armv7l"},
            {"name":"version","value":"1"}],
        "annotations":[{"name":"authors","value":"A"}],
        "app":{"exec":["/bin/a","-v"],"user":"1000","group":"wheel","workingDirectory":"/w",
            "environment":[{"name":"A","value":"B=C"}],
            "mountPoints":[{"name":"data","path":"/data"}],
            "ports":[{"name":"web","protocol":"tcp","port":80},
                {"name":"dns","protocol":"udp","port":65534,"count":2}]}"#;
    let key = write(&acis, &aci(&manifest("a", more)));
    let image = to_image(&acis, &key).unwrap();
    let config = fetch(&store, &manifest_of(&store, &image).config);
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    config["rootfs"].take();
    let expected = json!({
        "architecture": "arm",
        "variant": "v7",
        "os": "linux",
        "rootfs": null,
        "config": {
            "User": "1000:wheel",
            "Entrypoint": ["/bin/a", "-v"],
            "WorkingDir": "/w",
            "Env": ["A=B=C"],
            "Volumes": { "/data": {} },
            "ExposedPorts": { "80/tcp": {}, "65534/udp": {}, "65535/udp": {} },
            "Labels": { "os": "linux", "arch": "armv7l", "version": "1", "authors": "A" },
        },
    });
    assert_eq!(config, expected);
}

#[test]
fn an_aci_without_a_platform_is_for_this_machine() {
    let store = memory();
    let acis = open(&store);
    let key = write(&acis, &aci(&manifest("a", "")));
    let image = to_image(&acis, &key).unwrap();
    let config = fetch(&store, &manifest_of(&store, &image).config);
    let platform = ImageConfig::parse(&config).unwrap().platform;
    assert_eq!(platform, cas_core::Platform::host());
}

#[test]
fn members_keep_everything_but_the_rootfs_before_their_paths() {
    let store = memory();
    let acis = open(&store);
    let long = format!("{}/{}", "d".repeat(90), "f".repeat(90));
    let tar = Tar::new()
        .file("manifest", manifest("a", ""))
        .dir("rootfs/");
    let special = Header::new(b'3', "rootfs/null").device(1, 3).mode(0o666);
    let archive = tar
        .member(
            Header::new(b'0', "rootfs/setuid")
                .mode(0o4755)
                .owner(1000, 3_000_000)
                .size(1),
            "x",
        )
        .hardlink("rootfs/link", "rootfs/setuid")
        .symlink("rootfs/symlink", "../../target")
        .member(special, "")
        .member(Header::new(b'6', "rootfs/fifo"), "")
        .pax(&[
            ("path", format!("rootfs/{long}").as_bytes()),
            ("mtime", b"-1.5"),
            ("SCHILY.xattr.user.a", b"\0value"),
        ])
        .file("rootfs/short", "body")
        .file("./rootfs/./dotted", "")
        .end();
    let key = write(&acis, &archive);
    let image = to_image(&acis, &key).unwrap();
    let mut expected = entries(&archive);
    expected.remove(0);
    let strip = |path: &mut Vec<u8>| {
        let text = String::from_utf8(path.clone()).unwrap();
        let text = text.replace("./", "").replacen("rootfs/", "", 1);
        *path = if text.is_empty() {
            b"./".to_vec()
        } else {
            text.into_bytes()
        };
    };
    for entry in &mut expected {
        strip(&mut entry.path);
        if let EntryKind::Hardlink(target) = &mut entry.kind {
            strip(target);
        }
    }
    assert_eq!(entries(&layers(&store, &image)[0]), expected);
    let made_again = to_image(&acis, &key).unwrap();
    assert_eq!(made_again.target, image.target);
}

#[test]
fn a_whitelist_limits_the_aci_that_has_it_and_all_below() {
    let store = memory();
    let acis = open(&store);
    let all = |name: &str, more: &str| {
        let tar = Tar::new()
            .file("manifest", manifest(name, more))
            .dir("rootfs");
        let tar = tar
            .dir("rootfs/etc")
            .file("rootfs/etc/a", name)
            .file("rootfs/etc/b", name);
        tar.dir("rootfs/var").file("rootfs/var/c", name).end()
    };
    let list = |paths: &str| format!(r#","pathWhitelist":{paths}"#);
    write(&acis, &all("base", ""));
    let mid = on(&["base"]) + &list(r#"["/etc/a","/var/"]"#);
    write(&acis, &all("mid", &mid));
    write(&acis, &all("other", ""));
    let top = on(&["mid", "other"]) + &list(r#"["/etc/a","/etc/b"]"#);
    let image = to_image(&acis, &write(&acis, &all("top", &top))).unwrap();
    let found = files(&store, &image);
    assert_eq!(found[..2], [["etc/a"], ["etc/a"]]);
    assert_eq!(found[2..], [["etc/a", "etc/b"], ["etc/a", "etc/b"]]);
    let directories = |layer: &[u8]| -> Vec<Vec<u8>> {
        let found = entries(layer).into_iter();
        let found = found.filter(|entry| entry.kind == EntryKind::Directory);
        found.map(|entry| entry.path).collect()
    };
    assert_eq!(
        directories(&layers(&store, &image)[0]),
        [b"./".to_vec(), b"etc".to_vec()]
    );
}

#[test]
fn making_an_image_is_a_use_of_all_its_acis() {
    let store = memory();
    let acis = open(&store);
    let keys = [
        write(&acis, &aci(&manifest("base", ""))),
        write(&acis, &aci(&manifest("top", &on(&["base"])))),
    ];
    let used = || {
        keys.each_ref()
            .map(|key| wait(acis.get_aci_info(&key.half())).unwrap().last_used)
    };
    let before = used();
    to_image(&acis, &keys[1]).unwrap();
    assert!(used().iter().zip(before).all(|(now, then)| *now > then));
}

#[test]
fn a_dependency_must_be_there_and_be_what_its_key_says() {
    let store = memory();
    let acis = open(&store);
    let base = write(&acis, &aci(&versioned("base", "1")));
    let depends = |name: &str, on: Value| {
        let more = format!(r#","dependencies":{}"#, json!([on]));
        to_image(&acis, &write(&acis, &aci(&manifest(name, &more))))
    };
    let labels = |version: &str| json!([{ "name": "version", "value": version }]);
    let fixed = |name: &str, labels: Value| {
        depends(
            "fixed",
            json!({ "imageName": name, "imageID": base.half(), "labels": labels }),
        )
    };
    fixed("base", labels("1")).unwrap();
    depends(
        "asked",
        json!({ "imageName": "base", "labels": labels("1") }),
    )
    .unwrap();
    for (outcome, kind, reason) in [
        (
            fixed("base", labels("2")),
            ErrorKind::Corrupt,
            "belongs to base (version=1); expected base (version=2);",
        ),
        (
            fixed("other", json!([])),
            ErrorKind::Corrupt,
            "belongs to base (version=1); expected other; build",
        ),
        (
            depends("a", json!({ "imageName": "none" })),
            ErrorKind::NotFound,
            "import this dependency first",
        ),
        (
            depends("b", json!({ "imageName": "base", "labels": labels("2") })),
            ErrorKind::NotFound,
            "import this dependency first",
        ),
        (
            depends(
                "c",
                json!({ "imageName": "base", "imageID": "sha512-00000000000000000" }),
            ),
            ErrorKind::NotFound,
            "import this dependency first",
        ),
    ] {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
    wait_until_jobs_end(&store);
}

#[test]
fn circles_and_long_chains_of_dependencies_end() {
    let store = memory();
    let acis = open(&store);
    write(&acis, &aci(&manifest("one", &on(&["other"]))));
    let key = write(&acis, &aci(&manifest("other", &on(&["one"]))));
    let error = to_image(&acis, &key).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("depends on itself"), "{error}");
    let mut keys = vec![write(&acis, &aci(&manifest("level0", "")))];
    for level in 1..40 {
        let below = format!("level{}", level - 1);
        let text = manifest(&format!("level{level}"), &on(&[&below]));
        keys.push(write(&acis, &aci(&text)));
    }
    assert_eq!(
        layers(&store, &to_image(&acis, &keys[31]).unwrap()).len(),
        32
    );
    let error = to_image(&acis, &keys[32]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange);
    // Each level lists the level below twice, which gives 2^12 layers.
    for level in 1..=12 {
        let below = format!("double{}", level - 1);
        let more = if level == 1 {
            on(&[])
        } else {
            on(&[&below, &below])
        };
        keys.push(write(
            &acis,
            &aci(&manifest(&format!("double{level}"), &more)),
        ));
    }
    let error = to_image(&acis, keys.last().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
}

#[test]
fn what_an_image_cannot_express_is_refused_and_leaves_nothing() {
    let user = r#","app":{"user":"/etc/owner","group":"0"}"#;
    let ports = [r#"{"name":"p","protocol":"tcp","port":1,"count":65535}"#; 3].join(",");
    let ports = format!(r#","app":{{"user":"0","group":"0","ports":[{ports}]}}"#);
    let rootfs = |more: &str| {
        Tar::new()
            .file("manifest", manifest("a", more))
            .dir("rootfs")
    };
    let link = rootfs(r#","pathWhitelist":["/b"]"#).file("rootfs/a", "");
    for (archive, kind, reason) in [
        (
            rootfs("").file("rootfs/.wh.a", "").end(),
            ErrorKind::Unsupported,
            "whiteout",
        ),
        (
            link.hardlink("rootfs/b", "rootfs/a").end(),
            ErrorKind::Unsupported,
            "hard link",
        ),
        (
            rootfs(user).end(),
            ErrorKind::Unsupported,
            "owner of a file",
        ),
        (rootfs(&ports).end(), ErrorKind::OutOfRange, "ports"),
    ] {
        let store = memory();
        let acis = open(&store);
        let error = to_image(&acis, &write(&acis, &archive)).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(reason), "{error}");
        wait_until_jobs_end(&store);
        collect_later(&store);
        assert_eq!(blobs(&store), 2);
        let name = "example.com/image:1".parse().unwrap();
        assert!(wait(store.images.get(&name)).unwrap().is_none());
    }
}

#[test]
fn one_image_is_made_by_several_jobs_at_once() {
    for store in [memory(), strict()] {
        let key = write(&open(&store), &aci(&manifest("a", "")));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| to_image(&open(&store), &key).unwrap());
            }
        });
        wait_until_jobs_end(&store);
        assert_eq!(blobs(&store), 5);
    }
}

/// Each ACI depends on the one before it.
#[test]
fn a_chain_of_dependencies_has_a_largest_length() {
    let store = memory();
    let acis = open(&store);
    let mut keys = Vec::new();
    for level in 0..=limit::ACI_DEPTH {
        let below = level.checked_sub(1).map(|below| format!("level{below}"));
        let below: Vec<&str> = below.iter().map(String::as_str).collect();
        let name = format!("level{level}");
        keys.push(write(
            &acis,
            &aci_with(&manifest(&name, &on(&below)), &name),
        ));
    }
    let image = to_image(&acis, &keys[limit::ACI_DEPTH - 1]).unwrap();
    assert_eq!(files(&store, &image).len(), limit::ACI_DEPTH);
    let error = to_image(&acis, &keys[limit::ACI_DEPTH]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange);
    let said = error.to_string();
    assert!(said.contains("more than 32 levels"), "{said}");
}

#[test]
fn an_app_has_at_most_all_ports_of_both_protocols() {
    let store = memory();
    let acis = open(&store);
    let all = |protocol: &str| json!({"name": protocol, "protocol": protocol, "port": 1, "count": u16::MAX});
    let image = |more: Option<Value>| {
        let mut ports = vec![all("tcp"), all("udp")];
        ports.extend(more);
        let app = json!({"exec": ["/a"], "user": "0", "group": "0", "ports": ports});
        let key = write(&acis, &aci(&manifest("a", &format!(r#","app":{app}"#))));
        to_image(&acis, &key)
    };
    let largest = image(None).unwrap();
    let config = fetch(&store, &manifest_of(&store, &largest).config);
    let config: Value = serde_json::from_slice(&config).unwrap();
    let exposed = config["config"]["ExposedPorts"].as_object().unwrap();
    assert_eq!(exposed.len(), limit::ACI_PORTS);
    let one = json!({"name": "one", "protocol": "tcp", "port": 80});
    let error = image(Some(one)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange);
    let said = error.to_string();
    assert!(said.contains(&limit::ACI_PORTS.to_string()), "{said}");
}
