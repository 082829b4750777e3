//! A store in a bucket of S3 or a compatible service:
//! `s3://BUCKET/PREFIX?endpoint=URL&region=NAME&single=true`.
//!
//! Credentials are read from the sources that other S3 tools use: the environment variables
//! `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`, a profile, or the role of
//! the machine.

use std::env;
use std::time::Duration;

use async_trait::async_trait;
use cas_core::check::Finding;
use cas_core::{Capabilities, Capability, Error, Location, Opener, Result, Store};
use opendal::layers::RetryLayer;
use opendal::services::S3;
use opendal::{OperationContext, Operator};

use crate::error::{classify, of_opening};
use crate::format::{self, Format, Found};
use crate::prefix::Prefix;
use crate::store::{GAPS, MAX_NAME, RemoteStore};
use crate::transport::{Patience, transport};
use crate::{runtime, shared};

const OPTIONS: &[&str] = &["endpoint", "region", "single"];
const DEFAULT_ENDPOINT: &str = "https://s3.amazonaws.com";
/// The region that is used for a given endpoint if no region is set.
const DEFAULT_REGION: &str = "us-east-1";
/// Maximum number of retries of a request that failed temporarily. A service that does not answer
/// ends the retries earlier (see [`Patience`]).
const RETRIES: usize = 5;
/// Minimum pause before the first retry. The minimum doubles before each further retry. A random
/// time is added.
const FIRST_BACKOFF: Duration = Duration::from_millis(200);

/// Opens stores at `s3://BUCKET/PREFIX`.
#[derive(Clone, Copy, Debug, Default)]
pub struct S3Opener;

#[async_trait]
impl Opener for S3Opener {
    fn scheme(&self) -> &'static str {
        "s3"
    }

    fn capabilities(&self) -> Capabilities {
        shared::CAPABILITIES
    }

    fn gaps(&self) -> &'static [(&'static str, &'static str)] {
        GAPS
    }

    fn check(&self, location: &Location) -> Result<()> {
        S3Location::parse(location).map(|_| ())
    }

    async fn open(&self, location: &Location) -> Result<Store> {
        RemoteStore::open_s3(location)
            .await
            .map(|store| store.store())
    }

    async fn examine(&self, location: &Location, repair: bool) -> Result<Vec<Finding>> {
        let Some(mut findings) = RemoteStore::examine_format(location, repair).await? else {
            // A check creates no store.
            return Ok(Vec::new());
        };
        // A store without its format cannot be opened.
        if findings.iter().all(|finding| finding.repaired) {
            let store = RemoteStore::open_s3(location).await?;
            findings.extend(store.examine(repair).await?);
        }
        Ok(findings)
    }
}

impl RemoteStore {
    /// Opens the store below a prefix in a bucket. Creates the store if the prefix is empty, and
    /// upgrades an older format. If the environment sets no region, the location must have the
    /// option `region` or `endpoint`.
    ///
    /// # Errors
    /// `InvalidArgument` if the location has no bucket, contains credentials, has an unknown option
    /// or a wrong value of `single`, or lacks both `region` and `endpoint` when it needs one of
    /// them, if no credentials are found, or if the service redirects to another address;
    /// `NotFound` if the bucket does not exist; `FailedPrecondition` if the prefix contains objects
    /// but no store, if the store is of another kind or of a newer format, or if the service does
    /// not evaluate conditions atomically and `single=true` is not set; `Corrupt` if the object
    /// `format` of a store is missing or does not parse; `Denied` if permissions are missing;
    /// `Unavailable` if the service does not answer or TLS cannot be set up; other errors of the
    /// service.
    pub async fn open_s3(location: &Location) -> Result<Self> {
        let location = S3Location::parse(location)?;
        let shown = location.shown();
        let prefix = location.open_prefix()?;
        let opened = if location.single {
            Self::open_single(prefix, None, Capabilities::of(&[Capability::Durable])).await
        } else {
            Self::open_shared(prefix, location.endpoint).await
        };
        opened.map_err(|error| of_opening(error).operation("open store").within(shown))
    }

    /// Checks the object `format` of the store at `location`. A repair makes a damaged or missing
    /// object again. Without a repair, writes nothing. Returns what was found, or `None` if the
    /// location has no store.
    ///
    /// # Errors
    /// As [`RemoteStore::open_s3`], but the service is tested only by a repair.
    async fn examine_format(location: &Location, repair: bool) -> Result<Option<Vec<Finding>>> {
        let location = S3Location::parse(location)?;
        let (prefix, shown) = (location.open_prefix()?, location.shown());
        let endpoint = (!location.single).then_some(location.endpoint);
        let examined = runtime::run(async move {
            let damaged = match Format::find(&prefix).await? {
                Found::Nothing => return Ok(None),
                Found::Format(_) => return Ok(Some(Vec::new())),
                Found::Damaged(damaged) => damaged,
            };
            let damage = format::damage(damaged.is_some());
            if repair {
                shared::make_format(&prefix, damaged, endpoint).await?;
            }
            Ok(Some(vec![format::finding(damage, repair)]))
        });
        let examined = examined.await;
        examined.map_err(|error| of_opening(error).operation("examine store").within(shown))
    }
}

/// A parsed location.
#[derive(Debug, PartialEq, Eq)]
struct S3Location {
    bucket: String,
    prefix: String,
    endpoint: String,
    /// `None` if an environment variable sets the region.
    region: Option<String>,
    /// Whether only this process uses the store.
    single: bool,
}

impl S3Location {
    /// Parses a location. Errors do not contain values of the location, because a value may be a
    /// secret.
    fn parse(location: &Location) -> Result<Self> {
        let fail = |why: String| Error::invalid(why).operation("open store").subject("s3");
        let options = location.options();
        let get = |name: &str| options.get(name).map(String::as_str);
        let has_login = |text: &str| text.contains('@');
        if has_login(location.place()) || get("endpoint").is_some_and(has_login) {
            return Err(fail(
                "the location contains credentials; set AWS_ACCESS_KEY_ID and \
                 AWS_SECRET_ACCESS_KEY in the environment instead"
                    .into(),
            ));
        }
        if let Some(unknown) = options
            .keys()
            .find(|name| !OPTIONS.contains(&name.as_str()))
        {
            return Err(fail(format!(
                "option {unknown:?} is unknown; expected one of: {}; set credentials in the \
                 environment, not in the location",
                OPTIONS.join(", ")
            )));
        }
        let (bucket, prefix) = location
            .place()
            .split_once('/')
            .unwrap_or((location.place(), ""));
        if bucket.is_empty() {
            return Err(fail(
                "the bucket is missing; expected s3://BUCKET/PREFIX".into(),
            ));
        }
        let single = match get("single").unwrap_or("false") {
            "true" => true,
            "false" => false,
            _ => return Err(fail("option \"single\" must be true or false".into())),
        };
        Ok(S3Location {
            bucket: bucket.to_owned(),
            prefix: prefix.trim_matches('/').to_owned(),
            endpoint: get("endpoint").unwrap_or(DEFAULT_ENDPOINT).to_owned(),
            region: match get("region") {
                Some(region) => Some(region.to_owned()),
                None if environment_names_region() => None,
                // The service at a given endpoint may not have regions.
                None if get("endpoint").is_some() => Some(DEFAULT_REGION.to_owned()),
                None => {
                    return Err(fail(
                        "the region is missing; add the option region=NAME to the location, or set \
                         AWS_REGION in the environment"
                            .into(),
                    ));
                }
            },
            single,
        })
    }

    /// Returns the location as messages show it, without options.
    fn shown(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.prefix)
    }

    /// Returns a client for the prefix. Sends no request.
    fn open_prefix(&self) -> Result<Prefix> {
        let mut service = S3::default()
            .bucket(&self.bucket)
            .root(&format!("/{}", self.prefix))
            .endpoint(&self.endpoint);
        if let Some(region) = &self.region {
            service = service.region(region);
        }
        let retry = RetryLayer::new()
            .with_max_times(RETRIES)
            .with_min_delay(FIRST_BACKOFF);
        let transport = transport(Patience::DEFAULT)?;
        let operator = Operator::new(service)
            .map_err(|error| classify(error, "open store", &self.bucket))?
            .with_context(OperationContext::new().with_http_transport(transport))
            .layer(retry.with_jitter());
        let max_name = MAX_NAME.saturating_sub(self.prefix.len() + 1);
        Ok(Prefix::new(operator, None, max_name))
    }
}

fn environment_names_region() -> bool {
    ["AWS_REGION", "AWS_DEFAULT_REGION"]
        .iter()
        .any(|name| env::var_os(name).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<S3Location> {
        S3Location::parse(&text.parse().unwrap())
    }

    #[test]
    fn a_location_has_a_bucket_a_prefix_and_options() {
        let found = parse("s3://b/p/q/?endpoint=http://h:1&region=r&single=true").unwrap();
        let parts = (
            found.bucket.as_str(),
            found.prefix.as_str(),
            found.endpoint.as_str(),
        );
        assert_eq!(parts, ("b", "p/q", "http://h:1"));
        assert_eq!((found.region.as_deref(), found.single), (Some("r"), true));
        assert_eq!(parse("s3://b?region=r").unwrap().endpoint, DEFAULT_ENDPOINT);
    }

    #[test]
    fn secrets_are_refused_and_not_shown() {
        for text in [
            "s3://key:hush@b/p",
            "s3://b?secret_access_key=hush",
            "s3://b?endpoint=http://key:hush@h",
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.kind(), cas_core::ErrorKind::InvalidArgument);
            let shown = format!("{error} {error:?}");
            assert!(
                shown.contains("environment") && !shown.contains("hush"),
                "{shown}"
            );
        }
        for text in ["s3://", "s3:///p", "s3://b?single=1", "s3://b?colour=red"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
