//! S3 and what speaks like it: `s3://BUCKET/PREFIX?endpoint=URL&region=NAME&single=true`.
//!
//! Credentials come from where the tools of S3 look for them: `AWS_ACCESS_KEY_ID`,
//! `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`, a profile, the role of the machine.

use std::env;
use std::time::Duration;

use async_trait::async_trait;
use cas_core::{Capabilities, Capability, Error, Location, Opener, Result, Store};
use opendal::Operator;
use opendal::layers::{RetryLayer, TimeoutLayer};
use opendal::services::S3;

use crate::error::sort;
use crate::place::Place;
use crate::store::{GAPS, LONGEST, RemoteStore};

const OPTIONS: &[&str] = &["endpoint", "region", "single"];
const ENDPOINT: &str = "https://s3.amazonaws.com";
/// What services that have no regions are told.
const REGION: &str = "us-east-1";
/// How long one request may take, and one piece of its body.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a request is sent again that failed for a passing reason, and after which pause
/// first; each pause is twice the one before it.
const RETRIES: usize = 5;
const PAUSE: Duration = Duration::from_millis(200);

/// Opens `s3://BUCKET/PREFIX`.
#[derive(Clone, Copy, Debug, Default)]
pub struct S3Opener;

#[async_trait]
impl Opener for S3Opener {
    fn scheme(&self) -> &'static str {
        "s3"
    }

    fn capabilities(&self) -> Capabilities {
        RemoteStore::OF_BUCKET
    }

    fn gaps(&self) -> &'static [(&'static str, &'static str)] {
        GAPS
    }

    async fn open(&self, location: &Location) -> Result<Store> {
        RemoteStore::open_s3(location)
            .await
            .map(|store| store.store())
    }
}

impl RemoteStore {
    /// Opens the store in a bucket of S3, making it where the prefix is empty.
    ///
    /// # Errors
    /// `InvalidArgument` for options that are not known, and for secrets in the location;
    /// `FailedPrecondition` without a bucket, where something else is below the prefix, and where
    /// the service does not decide conditions atomically; `Denied`; `Unavailable`.
    pub async fn open_s3(location: &Location) -> Result<Self> {
        let asked = Asked::of(location)?;
        let shown = format!("s3://{}/{}", asked.bucket, asked.prefix);
        let opened = match asked.single {
            true => {
                Self::open_alone(asked.place()?, Capabilities::of(&[Capability::Durable])).await
            }
            false => Self::open_shared(asked.place()?, asked.endpoint.clone()).await,
        };
        opened.map_err(|error| error.operation("open store").within(shown))
    }
}

/// A location, understood.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    bucket: String,
    prefix: String,
    endpoint: String,
    region: Option<String>,
    single: bool,
}

impl Asked {
    /// No error repeats the location, for it may hold what should not be shown.
    fn of(location: &Location) -> Result<Self> {
        let fail = |why: String| Error::invalid(why).operation("open store").subject("s3");
        let options = location.options();
        let get = |name: &str| options.get(name).map(String::as_str);
        let in_url = |text: &str| text.contains('@');
        if in_url(location.place()) || get("endpoint").is_some_and(in_url) {
            return Err(fail(
                "credentials do not belong in a location; set AWS_ACCESS_KEY_ID and \
                 AWS_SECRET_ACCESS_KEY in the environment"
                    .into(),
            ));
        }
        if let Some(unknown) = options
            .keys()
            .find(|name| !OPTIONS.contains(&name.as_str()))
        {
            return Err(fail(format!(
                "option {unknown:?} is unknown; s3 knows: {}; credentials come from the \
                 environment only",
                OPTIONS.join(", ")
            )));
        }
        let (bucket, prefix) = location
            .place()
            .split_once('/')
            .unwrap_or((location.place(), ""));
        if bucket.is_empty() {
            return Err(fail("names no bucket; expected s3://BUCKET/PREFIX".into()));
        }
        let single = match get("single").unwrap_or("false") {
            "true" => true,
            "false" => false,
            _ => return Err(fail("option single is true or false".into())),
        };
        Ok(Asked {
            bucket: bucket.to_owned(),
            prefix: prefix.trim_matches('/').to_owned(),
            endpoint: get("endpoint").unwrap_or(ENDPOINT).to_owned(),
            region: match get("region") {
                Some(region) => Some(region.to_owned()),
                None => region(get("endpoint")).ok_or_else(|| {
                    fail("no region is known; add ?region=NAME, or set AWS_REGION".into())
                })?,
            },
            single,
        })
    }

    fn place(&self) -> Result<Place> {
        opendal::install_default();
        let mut service = S3::default()
            .bucket(&self.bucket)
            .root(&format!("/{}", self.prefix))
            .endpoint(&self.endpoint);
        if let Some(region) = &self.region {
            service = service.region(region);
        }
        let retry = RetryLayer::new()
            .with_max_times(RETRIES)
            .with_min_delay(PAUSE);
        let operator = Operator::new(service)
            .map_err(|error| sort(error, "open store", &self.bucket))?
            .layer(
                TimeoutLayer::new()
                    .with_timeout(PATIENCE)
                    .with_io_timeout(PATIENCE),
            )
            .layer(retry.with_jitter());
        let longest = LONGEST.saturating_sub(self.prefix.len() + 1);
        Ok(Place::new(operator, None, longest))
    }
}

/// The region of services of others, where neither location nor environment says.
///
/// Nothing inside where the environment says, nothing at all where nobody does.
fn region(endpoint: Option<&str>) -> Option<Option<String>> {
    let named = ["AWS_REGION", "AWS_DEFAULT_REGION"]
        .iter()
        .any(|name| env::var_os(name).is_some());
    match named {
        true => Some(None),
        false => endpoint.map(|_| Some(REGION.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> Result<Asked> {
        Asked::of(&text.parse().unwrap())
    }

    #[test]
    fn a_location_names_bucket_prefix_and_service() {
        let found = asked("s3://b/p/q/?endpoint=http://h:1&region=r&single=true").unwrap();
        let parts = (
            found.bucket.as_str(),
            found.prefix.as_str(),
            found.endpoint.as_str(),
        );
        assert_eq!(parts, ("b", "p/q", "http://h:1"));
        assert_eq!((found.region.as_deref(), found.single), (Some("r"), true));
        assert_eq!(asked("s3://b?region=r").unwrap().endpoint, ENDPOINT);
    }

    #[test]
    fn secrets_are_refused_and_not_repeated() {
        for text in [
            "s3://key:hush@b/p",
            "s3://b?secret_access_key=hush",
            "s3://b?endpoint=http://key:hush@h",
        ] {
            let error = asked(text).unwrap_err();
            assert_eq!(error.kind(), cas_core::ErrorKind::InvalidArgument);
            let shown = format!("{error} {error:?}");
            assert!(
                shown.contains("environment") && !shown.contains("hush"),
                "{shown}"
            );
        }
        for text in ["s3://", "s3:///p", "s3://b?single=1", "s3://b?colour=red"] {
            assert!(asked(text).is_err(), "{text}");
        }
    }
}
