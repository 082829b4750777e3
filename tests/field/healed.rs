//! Whatever brings the right bytes of a blob replaces what is in its place.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use cas::blocking::Cas;
use cas::records::BlobRecord;
use cas::{Algorithm, Digest};
use serde_json::{Value, json};
use testkit::archive::Tar;

use crate::common::{cas, fails, ok};
use crate::scene::{CONFIG, Files, INDEX, LAYER, MANIFEST, Place, config, hello, host};

/// Puts something else in the place of a blob with these bytes.
type Damage = fn(&Path, &[u8]);

const DAMAGES: [(&str, Damage); 9] = [
    ("flipped", |path, bytes| {
        let mut flipped = bytes.to_vec();
        flipped[bytes.len() / 2] ^= 1;
        fs::write(path, flipped).unwrap();
    }),
    ("shorter", |path, bytes| {
        fs::write(path, &bytes[1..]).unwrap();
    }),
    ("longer", |path, bytes| {
        fs::write(path, [bytes, b"x"].concat()).unwrap();
    }),
    ("empty", |path, _| fs::write(path, "").unwrap()),
    ("missing", |_, _| {}),
    ("directory", |path, _| {
        fs::create_dir_all(path.join("theirs")).unwrap();
    }),
    ("empty directory", |path, _| fs::create_dir(path).unwrap()),
    ("link", |path, _| symlink("/etc/passwd", path).unwrap()),
    ("pipe", |path, _| {
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
        rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
    }),
];

/// Returns a layout with an index of one image of two layers, and a referrer of the image.
fn layout(algorithm: Algorithm) -> Files {
    let mut files = Files::layout();
    let large = vec![7; 3 << 20];
    let mut blob = |media_type: &str, data: &[u8]| files.blob_of(algorithm, media_type, data);
    let text = |document: &Value| document.to_string().into_bytes();
    let layers = [blob(LAYER, &hello()), blob(LAYER, &large)];
    let config = blob(CONFIG, &text(&config(&host(), &[&hello(), &large])));
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
    let mut manifest = blob(MANIFEST, &text(&manifest));
    manifest["platform"] = json!({"os": "linux", "architecture": host()});
    let index = blob(
        INDEX,
        &text(&json!({"schemaVersion": 2, "manifests": [manifest]})),
    );
    let empty = blob("application/vnd.oci.empty.v1+json", b"{}");
    let signature = blob("text/plain", b"signature");
    let referrer = json!({"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "a/b",
        "config": empty, "layers": [signature], "subject": index});
    let referrer = blob(MANIFEST, &text(&referrer));
    let mut named = index;
    named["annotations"] = json!({"org.opencontainers.image.ref.name": "app:1"});
    let listed = json!({"schemaVersion": 2, "manifests": [named, referrer]});
    files.add("index.json", listed.to_string());
    files
}

/// Returns an archive of docker with an image of two layers.
fn docker() -> Files {
    let mut files = Files::default();
    let large = vec![7; 3 << 20];
    files.add(
        "config.json",
        config(&host(), &[&hello(), &large]).to_string(),
    );
    files.add("0.tar", hello());
    files.add("1.tar", &large);
    let listed = json!([{"Config": "config.json", "RepoTags": ["app:1"],
        "Layers": ["0.tar", "1.tar"]}]);
    files.add("manifest.json", listed.to_string());
    files
}

/// Returns the blobs of the store with their right bytes.
fn blobs(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for algorithm in Algorithm::ALL {
        let directory = root.join("store/blobs").join(algorithm.name());
        for entry in fs::read_dir(directory).into_iter().flatten() {
            let path = entry.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap();
            assert_eq!(Digest::of(algorithm, &bytes).hex(), name);
            found.push((path, bytes));
        }
    }
    found.sort();
    found
}

/// Damages all blobs, each in another way. Then runs `bring`, and checks that all are right.
fn heals(case: &str, place: &Place, bring: &dyn Fn() -> Command) {
    ok(&mut bring());
    let before = blobs(&place.path("root"));
    assert!(before.len() >= 4, "{case}");
    for round in 0..3 {
        let damages = DAMAGES.iter().cycle().skip(3 * round);
        for ((path, bytes), (_, damage)) in before.iter().zip(damages) {
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
            fs::remove_file(path).unwrap();
            damage(path, bytes);
        }
        ok(&mut bring());
        for (path, bytes) in &before {
            let found = fs::symlink_metadata(path).unwrap();
            assert!(found.is_file(), "{case} {round}: {}", path.display());
            let is_right = fs::read(path).unwrap() == *bytes;
            assert!(is_right, "{case} {round}: {}", path.display());
        }
        ok(place.cas().args(["fsck", "--read-data"]));
        assert_eq!(blobs(&place.path("root")).len(), before.len(), "{case}");
    }
}

#[test]
fn every_import_and_copy_of_the_right_bytes_heals_every_kind_of_blob() {
    let sources = Algorithm::ALL.map(|algorithm| (algorithm.name(), layout(algorithm)));
    let sources = sources.into_iter().chain([("docker", docker())]);
    for (kind, files) in sources {
        let scratch = Place::new();
        let (archive, mut paths) = (scratch.path("archive"), vec![scratch.path("archive")]);
        if kind == "docker" {
            fs::write(&archive, files.tar()).unwrap();
            ok(scratch.cas().arg("import").arg(&archive));
        } else {
            paths.push(files.write(&scratch.path("layout")));
            ok(scratch.cas().arg("import").arg(&paths[1]));
            ok(scratch.cas().args(["export", "app:1", "-o"]).arg(&archive));
        }
        for path in paths {
            let place = Place::new();
            heals(&format!("{kind} {}", path.display()), &place, &|| {
                let mut import = place.cas();
                import.arg("import").arg(&path);
                import
            });
        }
        let place = Place::new();
        heals(&format!("{kind} from standard input"), &place, &|| {
            let mut import = place.cas();
            import.args(["import", "-"]);
            import.stdin(File::open(&archive).unwrap());
            import
        });
        let (from, place) = (scratch.path("root"), Place::new());
        heals(&format!("{kind} by a copy"), &place, &|| {
            let mut copy = cas(&from);
            copy.args(["copy", "app:1"]);
            copy.arg(format!("{}#", place.path("root").display()));
            copy
        });
    }
}

/// Flips a bit of a blob, and records that the damaged bytes were verified, as if the damage had
/// changed no time.
fn rot(place: &Place, path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let digest = Digest::sha256(&bytes);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
    let open = Cas::open(place.path("root")).unwrap();
    let store = open.store();
    cas::backend::pool::wait(async {
        let stat = store.content.stat(&digest).await.unwrap().unwrap();
        let verified = |record: Option<BlobRecord>| {
            let mut record = record.unwrap();
            record.verified = Some(stat.version);
            Ok(record)
        };
        store.blobs().update(&digest, verified).await.unwrap();
    });
}

#[test]
fn damage_that_changes_no_time_is_healed_once_it_was_found() {
    let large = Tar::new().file("large", vec![7; 3 << 20]).end();
    let mut files = Files::layout();
    let mut named = files.image(&host(), &large);
    named["annotations"] = json!({"org.opencontainers.image.ref.name": "app:1"});
    files.lists(&named);
    let (place, other) = (Place::new(), Place::new());
    let layout = files.write(&place.path("layout"));
    let import = || ok(place.cas().arg("import").arg(&layout));
    import();
    let digest = Digest::sha256(&large);
    let path = place.path("root/store/blobs/sha256").join(digest.hex());
    let digest = digest.to_string();
    let archive = place.path("archive").display().to_string();
    let out = place.path("out").display().to_string();
    let to = format!("{}#", other.path("root").display());
    for finds in [
        vec!["fsck", "--read-data"],
        vec!["unpack", "app:1", &out],
        vec!["export", "app:1", "-o", &archive],
        vec!["blob", "cat", &digest],
        vec!["copy", "app:1", &to],
    ] {
        rot(&place, &path);
        fails(place.cas().args(&finds), 4);
        import();
        assert!(fs::read(&path).unwrap() == large, "{finds:?}");
    }
    ok(place.cas().args(["fsck", "--read-data"]));
}
