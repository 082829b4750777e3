//! Handlers that choose among children by platform.

use std::cmp::Ordering;

use async_trait::async_trait;

use super::{Handler, Next};
use crate::descriptor::Descriptor;
use crate::error::{Error, Result};
use crate::platform::Matcher;

/// Returns a handler that calls `handler` and leaves out the children whose platform `matcher` does
/// not match. Children without a platform are kept.
pub fn filter_platforms<'a>(
    handler: impl Handler + 'a,
    matcher: &'a dyn Matcher,
) -> impl Handler + 'a {
    FilterPlatforms { handler, matcher }
}

struct FilterPlatforms<'a, H> {
    handler: H,
    matcher: &'a dyn Matcher,
}

#[async_trait]
impl<H: Handler> Handler for FilterPlatforms<'_, H> {
    async fn handle(&self, descriptor: &Descriptor) -> Result<Next> {
        let mut next = self.handler.handle(descriptor).await?;
        if let Next::Children(children) = &mut next {
            children.retain(|child| suits(child, self.matcher));
        }
        Ok(next)
    }
}

/// Returns a handler that calls `handler` and sorts the children of an index: the best match first,
/// and children without a platform last. Only the first `most` children of the index are returned,
/// or all of them if `most` is 0. The children of other documents stay as they are.
///
/// If `most` is not 0, the returned handler fails with `NotFound` for an index for which `handler`
/// returns no children. The returned handler does not filter by platform. To filter too, pass the
/// result of [`filter_platforms`] as `handler`.
pub fn limit_manifests<'a>(
    handler: impl Handler + 'a,
    matcher: &'a dyn Matcher,
    most: usize,
) -> impl Handler + 'a {
    LimitManifests {
        handler,
        matcher,
        most,
    }
}

struct LimitManifests<'a, H> {
    handler: H,
    matcher: &'a dyn Matcher,
    most: usize,
}

#[async_trait]
impl<H: Handler> Handler for LimitManifests<'_, H> {
    async fn handle(&self, descriptor: &Descriptor) -> Result<Next> {
        let mut next = self.handler.handle(descriptor).await?;
        if let Next::Children(children) = &mut next
            && descriptor.media_type.is_index()
        {
            children.sort_by(|a, b| best_first(self.matcher, a, b));
            if self.most > 0 && children.is_empty() {
                return Err(Error::not_found(
                    "the index has no manifest that can be chosen; choose another platform",
                )
                .operation("choose manifest")
                .subject(descriptor.digest));
            }
            if self.most > 0 {
                children.truncate(self.most);
            }
        }
        Ok(next)
    }
}

/// Returns whether a descriptor states no platform, or a platform that matches.
pub(crate) fn suits(descriptor: &Descriptor, matcher: &dyn Matcher) -> bool {
    descriptor
        .platform
        .as_ref()
        .is_none_or(|platform| matcher.matches(platform))
}

/// Returns the descriptors whose platform matches best, and the descriptors without a platform.
/// If several platforms match equally well, returns the descriptors of all of them.
pub fn choose(listed: &[Descriptor], matcher: &dyn Matcher) -> Vec<Descriptor> {
    let platforms = listed.iter().filter_map(|child| child.platform.as_ref());
    let best = platforms
        .filter(|platform| matcher.matches(platform))
        .min_by(|a, b| matcher.compare(a, b));
    let wanted = |child: &&Descriptor| match (&child.platform, best) {
        (None, _) => true,
        (Some(platform), Some(best)) => {
            matcher.matches(platform) && matcher.compare(platform, best).is_eq()
        }
        (Some(_), None) => false,
    };
    listed.iter().filter(wanted).cloned().collect()
}

/// Compares manifests: the best match comes first, and manifests without a platform come last.
pub(crate) fn best_first(matcher: &dyn Matcher, a: &Descriptor, b: &Descriptor) -> Ordering {
    match (&a.platform, &b.platform) {
        (Some(a), Some(b)) => matcher.compare(a, b),
        (a, b) => a.is_none().cmp(&b.is_none()),
    }
}
