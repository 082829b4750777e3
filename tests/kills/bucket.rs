//! A store in an S3 service.

use std::collections::BTreeMap;

use cas::backend::unique;
use testkit::s3::{BUCKET, ask, service};

/// What tests call a store in the service.
const S3: &str = "s3";
/// The folder of parts of blobs. Their names are random.
const PARTS: &str = "uploads/";

/// The objects of one store.
pub(crate) struct Bucket {
    host: &'static str,
    url: String,
    /// What all of their names begin with.
    prefix: String,
}

/// Returns whether a store can be used here. If not, prints why.
pub(crate) fn can_use(store: &str) -> bool {
    store != S3 || service().is_some()
}

impl Bucket {
    /// Returns the objects of a new store if `store` is [`S3`].
    pub(crate) fn of(store: &str) -> Option<Self> {
        if store != S3 {
            return None;
        }
        let host = service()?;
        let place = unique::key("kills");
        Some(Bucket {
            host,
            url: format!("s3://{BUCKET}/{place}?endpoint=http://{host}"),
            prefix: format!("{place}/"),
        })
    }

    /// Returns the URL of the store.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Returns how many objects have each name. The random names of parts count as one name.
    pub(crate) fn objects(&self) -> BTreeMap<String, usize> {
        let list = format!("/{BUCKET}?list-type=2&prefix={}", self.prefix);
        let listed = ask(self.host, "GET", &list);
        assert!(listed.contains("<IsTruncated>false<"), "{listed}");
        let mut objects = BTreeMap::new();
        for key in listed.split("<Key>").skip(1) {
            let key = key.split("</Key>").next().unwrap_or_default();
            let name = key.strip_prefix(&self.prefix).unwrap();
            let name = if name.starts_with(PARTS) { PARTS } else { name };
            *objects.entry(name.to_owned()).or_default() += 1;
        }
        objects
    }
}
