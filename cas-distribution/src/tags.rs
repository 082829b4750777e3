//! Lists the tags of a repository, and the repositories of a registry.

use std::sync::Arc;

use cas_core::nulls::null_is_default;
use cas_core::{Error, Result, limit};
use reqwest::Url;
use serde::Deserialize;

use crate::client::{Client, Inner};
use crate::error::REGISTRY;
use crate::pages::{Listing, Pages, pages};
use crate::request::Action;
use crate::whole::Whole;

/// Which part of a listing is requested, and the size of its pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListOptions {
    /// Maximum number of names in one page. By default the registry decides. Some registries ignore
    /// this number.
    pub page: Option<u32>,
    /// The name after which the listing begins. By default it begins with the first name.
    pub after: Option<String>,
}

impl ListOptions {
    /// Sets [`page`](Self::page).
    #[must_use]
    pub fn with_page(mut self, page: impl Into<Option<u32>>) -> Self {
        self.page = page.into();
        self
    }

    /// Sets [`after`](Self::after).
    #[must_use]
    pub fn with_after(mut self, after: impl Into<Option<String>>) -> Self {
        self.after = after.into();
        self
    }

    fn apply(&self, url: &mut Url) {
        if let Some(page) = self.page {
            url.query_pairs_mut().append_pair("n", &page.to_string());
        }
        if let Some(after) = &self.after {
            url.query_pairs_mut().append_pair("last", after);
        }
    }
}

/// A page of tags.
#[derive(Deserialize)]
struct Tags {
    #[serde(default, deserialize_with = "null_is_default")]
    tags: Vec<String>,
}

/// A page of the catalogue.
#[derive(Deserialize)]
struct Catalogue {
    #[serde(default, deserialize_with = "null_is_default")]
    repositories: Vec<String>,
}

impl Client {
    /// Returns the tags of the repository, page by page, in the order of the registry. At most
    /// [`limit::PAGES`] pages of at most [`limit::PAGE`] bytes each are read. The names are not
    /// checked, and may contain any text.
    ///
    /// # Errors
    /// `InvalidArgument` if the reference does not give a valid URL.
    pub fn tags(&self, options: &ListOptions) -> Result<Pages<String>> {
        let mut url = self.0.url("tags", "list")?;
        options.apply(&mut url);
        let listing = Listing {
            action: Action::Pull,
            allowed: limit::PAGE,
        };
        let read = |page: &Whole| Ok(parse::<Tags>(page)?.tags);
        Ok(pages(Arc::clone(&self.0), listing, url, read))
    }

    /// Returns the repositories of the registry, page by page, in the order of the registry. At
    /// most [`limit::PAGES`] pages of at most [`limit::PAGE`] bytes each are read. The names are
    /// not checked, and may contain any text. The repository in the client's reference does not
    /// matter. Many registries refuse this listing.
    ///
    /// # Errors
    /// None at present. [`Pages::next`] returns the errors of the listing.
    pub fn catalogue(&self, options: &ListOptions) -> Result<Pages<String>> {
        let mut url = self.0.catalogue()?;
        options.apply(&mut url);
        let listing = Listing {
            action: Action::Catalogue,
            allowed: limit::PAGE,
        };
        let read = |page: &Whole| Ok(parse::<Catalogue>(page)?.repositories);
        Ok(pages(Arc::clone(&self.0), listing, url, read))
    }
}

impl Inner {
    /// Returns the URL of the catalogue.
    fn catalogue(&self) -> Result<Url> {
        let path = self.base.path();
        let end = self.reference.repository().len() + 1;
        let root = path.len().checked_sub(end).map(|at| &path[..at]);
        let mut url = self.base.clone();
        url.set_path(&format!("{}_catalog", root.unwrap_or("/v2/")));
        Ok(url)
    }
}

fn parse<T: for<'a> Deserialize<'a>>(page: &Whole) -> Result<T> {
    serde_json::from_slice(&page.data).map_err(|error| {
        Error::corrupt(format!(
            "the answer is not a list: {error}; check that the host is a registry"
        ))
        .backend(REGISTRY)
    })
}
