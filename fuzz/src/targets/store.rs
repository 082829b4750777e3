//! Files of an OCI layout, and objects of a remote store.

use std::fs;

use backend_fs::validate;
use bytes::Bytes;

use super::{accepted, block_on, scratch, texts};
use crate::Target;

pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "index-json",
        run: index_json,
        seeds: || texts(&[INDEX, r#"{"schemaVersion":2,"manifests":null,"more":1}"#]),
        longest: 3000,
    },
    Target {
        name: "layout-directory",
        run: layout,
        seeds: || texts(&[INDEX]),
        longest: 3000,
    },
    Target {
        name: "cell",
        run: cell,
        seeds: || {
            let nonce = "0123456789abcdef0123456789abcdef";
            texts(&[
                &format!("{nonce} +\nvalue\n{nonce}"),
                &format!("{nonce} -\n\n{nonce}"),
            ])
        },
        longest: 300,
    },
    Target {
        name: "blob-parts",
        run: |input| accepted(backend_remote::fuzzing::parts(input)),
        seeds: || texts(&[r#"{"version":1,"size":9000000,"part":8388608}"#]),
        longest: 300,
    },
    Target {
        name: "store-format",
        run: |input| accepted(backend_remote::fuzzing::format(input)),
        seeds: || {
            texts(&[
                r#"{"kind":"oci-cas remote","version":2,"endpoint":null,"conditional_deletion":false}"#,
            ])
        },
        longest: 300,
    },
];

const INDEX: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":5,"annotations":{"org.opencontainers.image.ref.name":"host.test/app:1"},"platform":{"architecture":"amd64","os":"linux"}},{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2}],"kept":[true]}"#;

/// Parses `index.json` and writes it. Asserts that parsing the written bytes and writing them again
/// gives the same bytes.
fn index_json(input: &[u8]) -> bool {
    let written = backend_fs::fuzzing::index(input);
    if let Ok(written) = &written {
        let again = backend_fs::fuzzing::index(written);
        assert!(
            again.as_ref().is_ok_and(|again| again == written),
            "{again:?}"
        );
    }
    accepted(written)
}

/// Validates a layout that has the input as its `index.json`, and one blob.
fn layout(input: &[u8]) -> bool {
    let check = || {
        let layout = scratch()?;
        let blobs = layout.path().join("blobs/sha256");
        fs::create_dir_all(&blobs)?;
        fs::write(
            layout.path().join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )?;
        let empty = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
        fs::write(blobs.join(empty), "{}")?;
        fs::write(layout.path().join("index.json"), input)?;
        block_on(validate(layout.path()))
    };
    accepted(check())
}

fn cell(input: &[u8]) -> bool {
    let body = Bytes::copy_from_slice(input);
    let written = backend_remote::fuzzing::cell(&body);
    if let Some(written) = &written {
        assert_eq!(*written, body);
    }
    written.is_some()
}
