//! App Container images.

use cas_aci::{ImageManifest, Key, KeyPrefix, fuzzing};

use super::{accepted, parsed, texts};
use crate::Target;

pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "aci-manifest",
        run: manifest,
        seeds: || texts(&[MANIFEST, &testkit::aci::versioned("host.test/app", "1.0.0")]),
        longest: 3000,
    },
    Target {
        name: "aci-archive",
        run: |input| accepted(fuzzing::manifest_of(&super::tar::sealed(input))),
        seeds: || {
            vec![testkit::aci::aci(&testkit::aci::manifest(
                "host.test/app",
                "",
            ))]
        },
        longest: 8192,
    },
    Target {
        name: "aci-key",
        run: |input| {
            let prefix =
                str::from_utf8(input).is_ok_and(|text| accepted(text.parse::<KeyPrefix>()));
            parsed::<Key>(input) | prefix
        },
        seeds: || texts(&["sha512-cf83e1357eefb8bd", &format!("sha512-{:0128}", 7)]),
        longest: 200,
    },
    Target {
        name: "ql",
        run: |input| accepted(fuzzing::ql_rows(input)),
        seeds: || QL.iter().map(|file| file.to_vec()).collect(),
        longest: 4096,
    },
];

const MANIFEST: &str = r#"{"acKind":"ImageManifest","acVersion":"0.8.11","name":"host.test/app","labels":[{"name":"version","value":"1"},{"name":"os","value":"linux"},{"name":"arch","value":"amd64"}],"app":{"exec":["/a"],"user":"0","group":"0","supplementaryGIDs":[1],"eventHandlers":[{"exec":["/b"],"name":"pre-start"}],"workingDirectory":"/","environment":[{"name":"A","value":"b"}],"isolators":[],"mountPoints":[{"name":"m","path":"/m","readOnly":true}],"ports":[{"name":"p","port":80,"protocol":"tcp","count":1,"socketActivated":false}]},"dependencies":[{"imageName":"host.test/base","imageID":"sha512-abcdef0123456789","labels":[]}],"pathWhitelist":["/a"],"annotations":[{"name":"created","value":"2020-01-01T00:00:00Z"}]}"#;
/// A database with the oldest schema of rkt's store, and one with a newer schema than rkt ever had.
const QL: &[&[u8]] = &[
    include_bytes!("../../../cas-aci/tests/fixtures/ql/v1.ql"),
    include_bytes!("../../../cas-aci/tests/fixtures/ql/v8.ql"),
];

fn manifest(input: &[u8]) -> bool {
    let parsed = ImageManifest::parse(input);
    if let Ok(manifest) = &parsed {
        let _ = manifest.platform();
        assert!(manifest.has_labels(&manifest.labels));
    }
    accepted(parsed)
}
