//! The columns of `cas bench`: the given stores, plain files, and the floors, which are the times
//! of hashing and of writing alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cas::backend::{Capability, Records, Snapshotter};
use cas::{Error, Location, Result};
use workload::{Contender, Open, Promise, floors, plain, stores};

/// Returns all columns.
///
/// # Errors
/// As [`cas::Registry::check`]; `InvalidArgument` for a URL that does not parse; `Unsupported` for
/// a URL with a host, or with an option whose value is a URL.
pub(super) fn all(named: &[String]) -> Result<Vec<Contender>> {
    let mut all = named
        .iter()
        .map(|name| store(name))
        .collect::<Result<Vec<_>>>()?;
    all.push(plain());
    all.extend(floors());
    Ok(all)
}

/// Returns the default directory to work in: the nearest existing directory above the store of the
/// first URL with a path for which `is_allowed` returns true, otherwise the current directory.
/// Nothing is written into the store itself.
pub(super) fn directory(named: &[String], is_allowed: impl Fn(&Path) -> bool) -> Result<PathBuf> {
    for name in named.iter().filter(|name| name.contains("://")) {
        let location: Location = name.parse()?;
        let above = Path::new(location.place())
            .ancestors()
            .skip(1)
            .find(|above| above.is_dir() && is_allowed(above));
        if let Some(above) = above {
            return Ok(above.to_owned());
        }
    }
    Ok(std::env::current_dir()?)
}

fn store(name: &str) -> Result<Contender> {
    let registry = cas::registry();
    let location = locate(name, Path::new("/"))?;
    registry.check(&location)?;
    let durable = match registry.opener(location.scheme()) {
        Ok(opener) => opener.capabilities().has(Capability::Durable),
        // A composition is durable, because every store that can be a member is durable.
        Err(_) => true,
    };
    let promise = if durable {
        Promise::Durable
    } else {
        Promise::Volatile
    };
    let options = location.options().iter();
    let options: Vec<String> = options
        .map(|(option, value)| format!("{option}={value}"))
        .collect();
    let head = if options.is_empty() {
        location.scheme().to_owned()
    } else {
        format!("{}?{}", location.scheme(), options.join("&"))
    };
    let name = name.to_owned();
    let open: Open = Arc::new(move |directory| {
        let location = locate(&name, &directory);
        Box::pin(async move { cas::registry().open(&location?).await })
    });
    Ok(stores(head, promise, open, Some(overlay)))
}

/// Returns the location of a store in `directory`. `name` is the scheme of the store, or a URL with
/// the scheme and the options of the store. The path of the URL is not used.
fn locate(name: &str, directory: &Path) -> Result<Location> {
    if !name.contains("://") {
        return Location::of_path(name, directory);
    }
    let location: Location = name.parse()?;
    let elsewhere = location
        .options()
        .values()
        .any(|value| value.contains("://"));
    if elsewhere || !(location.place().is_empty() || location.place().starts_with('/')) {
        return Err(Error::unsupported(
            "only stores in a local directory can be measured; give a scheme, or a URL without a \
             host, and name the members of a composition by their schemes",
        )
        .operation("bench")
        .subject(&location));
    }
    let fresh = Location::of_path(location.scheme(), directory)?;
    let options = location.options().iter();
    Ok(options.fold(fresh, |fresh, (option, value)| {
        fresh.with_option(option, value)
    }))
}

fn overlay(directory: &Path, records: Arc<dyn Records>) -> Result<Arc<dyn Snapshotter>> {
    let snapshotter = snapshot_overlay::OverlaySnapshotter::open(directory, records)?;
    Ok(Arc::new(snapshotter))
}
