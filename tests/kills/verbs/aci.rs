//! The verbs of `cas aci` that write.

use std::fs;
use std::path::Path;
use std::process::Command;
#[cfg(feature = "registry")]
use std::sync::LazyLock;
use std::time::SystemTime;

use cas::aci::AciStore;
use cas::{Algorithm, Digest, Result, Store};
use testkit::aci::manifest;
use testkit::archive::Tar;

use super::Verb;
use crate::common::ok;
#[cfg(feature = "registry")]
use crate::fake::{Answer, Fake};
use crate::place::Place;

/// The name of the ACI, and of the image that is made of it.
const NAME: &str = "example.com/app";
const IMAGE: &str = "aci:1";
/// The size of the large file of the ACI.
const LARGE: usize = 700_000;

/// The verbs of every build with this feature.
pub(crate) const VERBS: &[Verb] = &[
    Verb {
        name: "aci import",
        prepare: renew,
        command: import,
        recover: remove,
    },
    #[cfg(feature = "registry")]
    Verb {
        name: "aci fetch",
        prepare: renew,
        command: |place| {
            let url = format!("http://{}/app.aci", SERVER.host);
            place.cas(&["aci", "fetch", &url])
        },
        recover: remove,
    },
    Verb {
        name: "aci import-store",
        prepare: |place| {
            renew(place);
            write_store_of_rkt(&place.path("rkt"));
        },
        command: |place| {
            let mut import = place.cas(&["aci", "import-store"]);
            import.arg(place.path("rkt"));
            import
        },
        recover: remove,
    },
    // Writes when the ACI was last read.
    Verb {
        name: "aci cat-manifest",
        prepare: |place| {
            ok(&mut import(place));
        },
        command: |place| place.cas(&["aci", "cat-manifest", NAME]),
        recover: remove,
    },
    Verb {
        name: "aci to-image",
        prepare: |place| {
            renew(place);
            ok(&mut import(place));
        },
        command: |place| place.cas(&["aci", "to-image", NAME, IMAGE]),
        recover: remove,
    },
    Verb {
        name: "aci rm",
        prepare: |place| {
            ok(&mut import(place));
        },
        command: |place| place.cas(&["aci", "rm", &key_of(&archive(NAME))]),
        recover: remove,
    },
    Verb {
        name: "aci gc",
        prepare: |place| {
            ok(&mut import(place));
        },
        command: gc,
        recover: remove,
    },
];

#[cfg(feature = "registry")]
static SERVER: LazyLock<Fake> = LazyLock::new(|| {
    Fake::start(|_| {
        let answer = Answer::new(200).with("ETag", "\"one\"");
        answer.body(&archive(NAME))
    })
});

/// Returns an ACI with a large file, whose bytes do not repeat.
fn archive(name: &str) -> Vec<u8> {
    let mut large = Vec::with_capacity(LARGE);
    for number in 0_u32.. {
        if large.len() >= LARGE {
            break;
        }
        large.extend(Digest::sha256(&number.to_le_bytes()).as_bytes());
    }
    let tar = Tar::new().file("manifest", manifest(name, ""));
    tar.dir("rootfs").file("rootfs/large", large).end()
}

/// Returns the key of an archive as rkt writes it.
fn key_of(archive: &[u8]) -> String {
    let digest = Digest::of(Algorithm::Sha512, archive);
    format!("sha512-{}", &digest.hex()[..64])
}

fn import(place: &Place) -> Command {
    let file = place.path("app.aci");
    if !file.exists() {
        fs::write(&file, archive(NAME)).unwrap();
    }
    let mut import = place.cas(&["aci", "import"]);
    import.arg(file);
    import
}

/// Removes what killed jobs left in the catalogue, as `cas aci gc` does.
pub(crate) async fn sweep(store: &Store, now: SystemTime) -> Result<()> {
    let acis = AciStore::open(store.clone()).await?;
    acis.sweep(now).await.map(drop)
}

fn gc(place: &Place) -> Command {
    place.cas(&["aci", "gc", "--older-than", "0s"])
}

/// Removes the ACIs, and the image that was made of one.
fn remove(place: &Place) {
    place.forget(IMAGE);
    ok(&mut gc(place));
}

/// Prepares a verb: in half of the rounds it starts without content, in the others with what kills
/// have left.
fn renew(place: &Place) {
    remove(place);
    if place.round.is_multiple_of(2) {
        place.collect();
    }
}

/// Writes a directory of rkt, whose database lists two ACIs, unless it exists.
fn write_store_of_rkt(root: &Path) {
    if root.exists() {
        return;
    }
    let database = Path::new(env!("CARGO_MANIFEST_DIR")).join("cas-aci/tests/fixtures/ql/v7.ql");
    fs::create_dir_all(root.join("db")).unwrap();
    fs::copy(database, root.join("db/ql.db")).unwrap();
    for name in ["example.com/image0", "example.com/image1"] {
        let archive = testkit::aci::aci(&manifest(name, ""));
        let key = key_of(&archive);
        let directory = root.join("blob/sha512").join(&key[7..9]);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(key), archive).unwrap();
    }
}
