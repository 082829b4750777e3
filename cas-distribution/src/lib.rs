//! A client for OCI registries, over HTTP.
//!
//! A [`Client`] serves one [`FullName`](cas_core::image::FullName), a name in one repository, and
//! returns blobs as streams. `cas_core::transfer::pull` verifies and stores them, and `push` sends
//! blobs to a client. A client also lists referrers, tags and repositories, and deletes.
//!
//! ```no_run
//! # async fn run() -> cas_core::Result<()> {
//! use cas_core::transfer::Fetcher;
//! use cas_core::{Document, Error};
//! use cas_distribution::{Client, ListOptions, Options};
//! use futures_util::{StreamExt, TryStreamExt};
//!
//! let name = "registry.example/team/app:1".parse()?;
//! let client = Client::connect(&name, Options::default()).await?;
//! let mut pages = client.tags(&ListOptions::default())?;
//! while let Some(tags) = pages.next().await? {
//!     println!("{tags:?}");
//! }
//! let own = client.resolve().await?;
//! let pieces = client.fetch(&own, 0..own.size).await?;
//! let data: Vec<u8> = pieces.try_collect::<Vec<_>>().await?.concat();
//! let document = Document::parse(&own.media_type, &data)?;
//! let layer = document.children().last().ok_or_else(|| Error::not_found("no layers"))?;
//! let mut pieces = client.fetch(layer, 0..layer.size).await?;
//! while let Some(piece) = pieces.next().await.transpose()? {
//!     println!("{} bytes", piece.len());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A client does not check digests: whatever stores the bytes does.
//!
//! Rules that hold for every request:
//! - Credentials are bound to their origin: scheme, host and port. A redirect or an upload location
//!   at another origin does not get them.
//! - A token service gets the login for its registry only if it is on the registry's host or a host
//!   below that, if both belong to Docker Hub, or if [`Options::token_hosts`] names its host. In
//!   addition, the registry and the token service must both use https or both be on loopback.
//!   Otherwise the token service is asked without a login.
//! - A token is requested with the scope that the operation needs, whatever the registry proposes.
//! - A redirect, an upload location or a token service is not connected to if its address is
//!   link-local, or on this machine or in a private network while the registry is not
//!   (`docs/ADDRESSES.md`).
//! - A redirect from `https` to `http` is refused. A registry is reached over plain `http` only on
//!   loopback, or if the caller requires it.
//! - What fails for a reason that may pass is repeated: a lost or slow connection, and the statuses
//!   408, 425, 429, 500, 502, 503 and 504. A read continues where it ended. [`Timeouts`] has all
//!   deadlines; a whole transfer that makes progress has none.

mod address;
mod auth;
mod bounded;
mod challenge;
mod client;
mod config;
mod content;
mod credentials;
mod date;
mod delete;
mod download;
mod error;
mod fallback;
mod fetch;
#[cfg(test)]
mod fixtures_logins;
mod helper;
mod host;
mod hosts;
mod http;
mod hub;
mod keys;
mod login;
mod logins;
mod mirrors;
mod open;
mod origin;
mod pace;
mod pages;
mod place;
mod push;
mod read;
mod referrers;
mod request;
mod retry;
mod runtime;
mod save;
mod tags;
mod timeouts;
mod tls;
mod token;
mod trust;
mod untrusted;
mod upload;
mod verify;
mod warning;
mod whole;

pub use client::{Client, Options};
pub use download::{Download, download};
pub use error::REGISTRY;
pub use host::Host;
pub use hosts::{Endpoint, Hosts};
pub use login::{LoggedIn, log_in, log_out, log_out_of_all};
pub use mirrors::Mirrors;
pub use pages::Pages;
pub use tags::ListOptions;
pub use timeouts::Timeouts;
#[cfg(feature = "cosign")]
pub use verify::{Connect, Cosign, CosignKey};
pub use verify::{Rules, Verified, Verifier, VerifierDir, verify};
