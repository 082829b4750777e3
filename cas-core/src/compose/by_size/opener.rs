//! The URL of the composition: `by-size:///PATH?small=SCHEME&large=SCHEME&threshold=64KiB`. The
//! members are at `PATH/small` and `PATH/large`. For a member that is elsewhere, give its URL
//! instead of its scheme.

use async_trait::async_trait;

use super::{THRESHOLD, by_size};
use crate::error::Result;
use crate::location::Location;
use crate::registry::{Composer, Registry};
use crate::store::Store;

/// Opens `by-size` URLs. Such a URL names two members, and may set a threshold other than
/// [`THRESHOLD`], in bytes or with a unit, as in `64KiB`.
#[derive(Clone, Copy, Debug, Default)]
pub struct BySize;

const SMALL: &str = "small";
const LARGE: &str = "large";
const OPTION: &str = "threshold";

#[async_trait]
impl Composer for BySize {
    fn scheme(&self) -> &'static str {
        "by-size"
    }

    fn members(&self) -> &'static [&'static str] {
        &[SMALL, LARGE]
    }

    fn check(&self, location: &Location) -> Result<()> {
        location.check_options(&[SMALL, LARGE, OPTION])?;
        location.size_option(OPTION).map(|_| ())
    }

    async fn open(&self, location: &Location, registry: &Registry) -> Result<Store> {
        let threshold = location.size_option(OPTION)?.unwrap_or(THRESHOLD);
        let small = registry.open(&location.member(SMALL)?).await?;
        let large = registry.open(&location.member(LARGE)?).await?;
        Ok(by_size(small, large.content, threshold))
    }
}
