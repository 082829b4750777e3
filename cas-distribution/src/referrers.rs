//! Lists the referrers of a manifest: by the API of the registry, or, if the registry lacks the
//! API, by the tag that clients maintain instead.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use cas_core::document::left_out;
use cas_core::transfer::{ReferrerPages, Referrers};
use cas_core::{Descriptor, Digest, Document, ErrorKind, MediaType, Result, limit};
use futures_util::{StreamExt, stream};
use reqwest::header::ACCEPT;
use reqwest::{Method, StatusCode};

use crate::client::{Client, Inner};
use crate::error::REGISTRY;
use crate::fallback::Listed;
use crate::fetch::known;
use crate::pages::{self, Listing};
use crate::request::{Action, Ask};
use crate::whole::Whole;

/// How the pages of referrers are requested.
const LISTING: Listing = Listing {
    action: Action::Pull,
    allowed: limit::DOCUMENT_READ,
};

#[async_trait]
impl Referrers for Client {
    async fn referrers(
        &self,
        subject: &Descriptor,
        artifact_type: Option<&str>,
    ) -> Result<ReferrerPages> {
        let (subject, wanted) = (subject.digest, artifact_type.map(str::to_owned));
        self.run(move |inner| async move {
            let listed = Arc::clone(&inner).referrers(&subject, wanted).await;
            listed.map_err(|error| error.operation("list referrers").within(&inner.reference))
        })
        .await
    }
}

impl Inner {
    async fn referrers(
        self: Arc<Self>,
        subject: &Digest,
        wanted: Option<String>,
    ) -> Result<ReferrerPages> {
        if let Some(first) = self.referrers_by_api(subject, wanted.as_deref()).await? {
            let page = self.entries(&first, wanted.as_deref())?;
            let next = self.next(&first)?;
            let inner = Arc::clone(&self);
            let read = move |page: &Whole| inner.entries(page, wanted.as_deref());
            let rest = pages::after(self, LISTING, next, 1, read);
            return Ok(stream::once(async { Ok(page) }).chain(rest).boxed());
        }
        let patience = &mut self.http.patience();
        let found = match self.read_fallback(subject, Action::Pull, patience).await? {
            Listed::Index {
                index, left_out, ..
            } => {
                self.warn_of_left_out(left_out);
                suiting(index.manifests, wanted.as_deref())
            }
            // By the specification, any other document at this tag counts as an empty list.
            Listed::Absent | Listed::Other(_) => Vec::new(),
        };
        Ok(stream::once(async { Ok(found) }).boxed())
    }

    /// Returns the first page of the referrers, or `None` if the registry lacks the API. A registry
    /// without the API answers with the status 404 or with another document.
    pub(crate) async fn referrers_by_api(
        &self,
        subject: &Digest,
        wanted: Option<&str>,
    ) -> Result<Option<Whole>> {
        if self.lacks_referrers.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let mut url = self.url("referrers", &subject.to_string())?;
        if let Some(wanted) = wanted {
            url.query_pairs_mut().append_pair("artifactType", wanted);
        }
        let ask = Ask::new(Method::GET, url, Action::Pull);
        let ask = ask.with(ACCEPT, MediaType::OCI_INDEX.as_str());
        let accepted = [StatusCode::OK, StatusCode::NOT_FOUND];
        let patience = &mut self.http.patience();
        let page = self
            .whole(ask, &accepted, LISTING.allowed, patience)
            .await?;
        let is_list = page.status == StatusCode::OK
            && known(&page.headers).is_some_and(|found| found == MediaType::OCI_INDEX);
        if !is_list {
            self.lacks_referrers.store(true, Ordering::Relaxed);
        }
        Ok(Some(page).filter(|_| is_list))
    }

    /// Returns those entries of a page that have the wanted type. Leaves out the entries that
    /// [`left_out`] describes, with a warning.
    fn entries(&self, page: &Whole, wanted: Option<&str>) -> Result<Vec<Descriptor>> {
        let listed = match Document::parse(&MediaType::OCI_INDEX, &page.data) {
            // All entries are left out.
            Err(error) if error.kind() == ErrorKind::Unsupported => Vec::new(),
            document => {
                let document = document.map_err(|error| error.backend(REGISTRY))?;
                document.children().cloned().collect()
            }
        };
        self.warn_of_left_out(left_out(&page.data));
        Ok(suiting(listed, wanted))
    }

    /// Warns of referrers that [`left_out`] describes, if there are any.
    fn warn_of_left_out(&self, what: Option<String>) {
        if let Some(what) = what {
            let text = format!("lists referrers that cannot be verified and are left out: {what}");
            self.warnings.keep(text);
        }
    }
}

/// Returns the descriptors of the wanted type. A registry need not apply the filter, so
/// its header `OCI-Filters-Applied` is not relied on.
fn suiting(mut found: Vec<Descriptor>, wanted: Option<&str>) -> Vec<Descriptor> {
    if wanted.is_some() {
        found.retain(|one| one.artifact_type.as_deref() == wanted);
    }
    found
}
