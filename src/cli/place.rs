//! Images in this store and in other stores, as people type them: `URL#NAME`, `DIR#NAME` or `NAME`.

use std::path::{Path, PathBuf};

use cas::{Cas, Error, OpenOptions, Result};
use cas_host::calls::{is_dir, is_file, undisturbed};

use super::Context;
use super::output::beginning;

/// A store, and the name of an image in it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) store: At,
    pub(crate) name: Option<String>,
}

/// Where a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// The store of the root that the tool uses, or the store that `--store` names.
    Here,
    /// A URL, a scheme or the name of a table in cas.toml.
    Store(String),
    /// The store of the root in this directory.
    Root(PathBuf),
}

impl Place {
    /// Parses what a user typed. Text without `#` that is neither a URL nor a path is the name of
    /// an image in [`At::Here`].
    ///
    /// # Errors
    /// `InvalidArgument` if the text is empty, if nothing is before `#`, or if the text could be
    /// both a name and the directory of a root.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let refused = |why: &'static str| {
            Err(Error::invalid(why)
                .operation("copy")
                .subject(beginning(text)))
        };
        let Some((store, name)) = text.rsplit_once('#') else {
            if is_url(text) || is_path(text) {
                let store = At::of(text);
                return Ok(Place { store, name: None });
            }
            if text.is_empty() {
                return refused("the text is empty; expected URL#NAME, DIR#NAME or NAME");
            }
            if is_file(&Path::new(text).join("cas.toml")) {
                return refused(
                    "this could be the name of an image or the directory of a root; for the image, \
                     write NAME:TAG; for the root, write DIR#NAME, or ./DIR# to keep the name of \
                     the image",
                );
            }
            let name = Some(text.to_owned());
            return Ok(Place {
                store: At::Here,
                name,
            });
        };
        if store.is_empty() {
            return refused("expected the URL of a store or the directory of a root before #");
        }
        Ok(Place {
            store: At::of(store),
            name: (!name.is_empty()).then(|| name.to_owned()),
        })
    }

    /// Returns the name of the image to copy. `typed` is the text from which this place was parsed.
    ///
    /// # Errors
    /// `InvalidArgument` if the text has no name.
    pub(crate) fn source(&self, typed: &str) -> Result<&str> {
        self.name.as_deref().ok_or_else(|| {
            Error::invalid("expected the name of an image after #, as in URL#NAME or DIR#NAME")
                .operation("copy")
                .subject(beginning(typed))
        })
    }
}

impl At {
    fn of(text: &str) -> Self {
        if is_url(text) {
            return At::Store(text.to_owned());
        }
        if is_path(text) || text.contains('/') || is_dir(Path::new(text)) {
            let path = Path::new(text);
            let found = undisturbed(|| path.canonicalize());
            return At::Root(found.unwrap_or_else(|_| path.to_owned()));
        }
        At::Store(text.to_owned())
    }

    /// Returns [`At::Here`] for the directory of a root whose store the tool uses. Otherwise
    /// returns a copy of this value. Equal results name the same store. Different results can also
    /// name the same store, for example by its URL and by the name of its table in cas.toml.
    pub(crate) fn resolved(&self, context: &Context) -> At {
        match self {
            At::Root(path) if context.is_own_root(path) => At::Here,
            other => other.clone(),
        }
    }

    /// Returns the text that a user types for the image `name` of this store.
    pub(crate) fn with(&self, name: &str) -> String {
        match self {
            At::Here => name.to_owned(),
            At::Store(store) => format!("{store}#{name}"),
            At::Root(path) => format!("{}#{name}", path.display()),
        }
    }

    /// Opens the store. An absent store is created if `may_create` is set, or for [`At::Here`].
    ///
    /// # Errors
    /// `NotFound` if a store in the file system is absent and may not be created; errors of
    /// [`Cas::open_with`].
    pub(crate) async fn open(&self, context: &Context, may_create: bool) -> Result<Cas> {
        match self {
            At::Here => context.cas().await,
            At::Store(store) => {
                let options = context.open_options().with_store(store);
                Cas::open_with(context.root()?, options.with_must_exist(!may_create)).await
            }
            At::Root(path) => {
                if !may_create && !is_file(&path.join("cas.toml")) {
                    let why = "not a root: expected a directory with cas.toml; for an archive or \
                               an image layout, use `cas import`";
                    let error = Error::not_found(why).operation("open root");
                    return Err(error.subject(path.display()));
                }
                let options = OpenOptions::default().with_unconfined(context.unconfined);
                Cas::open_with(path, options).await
            }
        }
    }
}

fn is_url(text: &str) -> bool {
    text.contains("://")
}

/// Returns whether text is a path and cannot be a name.
fn is_path(text: &str) -> bool {
    text.starts_with('/') || text.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(store: At, name: &str) -> Place {
        Place {
            store,
            name: (!name.is_empty()).then(|| name.to_owned()),
        }
    }

    #[test]
    fn a_place_is_read_as_people_type_it() {
        let url = |text: &str| At::Store(text.to_owned());
        let root = |text: &str| At::Root(text.into());
        for (text, expected) in [
            ("app:1", place(At::Here, "app:1")),
            ("team/app:1", place(At::Here, "team/app:1")),
            ("sha256:ab", place(At::Here, "sha256:ab")),
            ("redb:///no/x#app:1", place(url("redb:///no/x"), "app:1")),
            ("redb:///no/x#", place(url("redb:///no/x"), "")),
            ("redb:///no/x", place(url("redb:///no/x"), "")),
            (
                "s3://b/p?endpoint=http://h:1#a",
                place(url("s3://b/p?endpoint=http://h:1"), "a"),
            ),
            ("fs:///a#b#c", place(url("fs:///a#b"), "c")),
            ("mixed#app", place(url("mixed"), "app")),
            ("/no/root#app", place(root("/no/root"), "app")),
            ("/no/root", place(root("/no/root"), "")),
            ("./no#", place(root("./no"), "")),
            ("../no#a", place(root("../no"), "a")),
            ("no/root#a", place(root("no/root"), "a")),
        ] {
            assert_eq!(Place::parse(text).unwrap(), expected, "{text}");
        }
        for bad in ["", "#", "#app"] {
            assert!(Place::parse(bad).is_err(), "{bad}");
        }
        for bad in ["fs:///x", "fs:///x#", "/no/root"] {
            assert!(Place::parse(bad).unwrap().source(bad).is_err(), "{bad}");
        }
    }
}
