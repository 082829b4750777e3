//! A client for OCI registries, over HTTP. It can be used without an image store:
//!
//! ```
//! # use std::io::{BufRead, BufReader, Write};
//! # use cas_core::{Descriptor, MediaType};
//! # fn serve() -> std::io::Result<String> {
//! #     let layer = Descriptor::of(MediaType::OCI_LAYER, b"hello");
//! #     let config = Descriptor::of(MediaType::OCI_CONFIG, b"{}");
//! #     let manifest = serde_json::json!({
//! #         "schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST,
//! #         "config": config, "layers": [layer],
//! #     });
//! #     let manifest = manifest.to_string();
//! #     let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
//! #     let host = listener.local_addr()?.to_string();
//! #     std::thread::spawn(move || {
//! #         for mut stream in listener.incoming().flatten() {
//! #             let mut head = BufReader::new(stream.try_clone().unwrap()).lines();
//! #             let first = head.next().unwrap().unwrap();
//! #             while head.next().is_some_and(|line| !line.unwrap().is_empty()) {}
//! #             let body = match first.split(' ').nth(1).unwrap() {
//! #                 path if path.contains("/tags/") => r#"{"tags": ["1", "2"]}"#,
//! #                 path if path.contains("/manifests/") => &manifest,
//! #                 _ => "hello",
//! #             };
//! #             let kind = MediaType::OCI_MANIFEST;
//! #             let size = body.len();
//! #             write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n").unwrap();
//! #             write!(stream, "Content-Type: {kind}\r\nContent-Length: {size}\r\n\r\n").unwrap();
//! #             let is_head = first.starts_with("HEAD");
//! #             stream.write_all(if is_head { b"" } else { body.as_bytes() }).unwrap();
//! #         }
//! #     });
//! #     Ok(host)
//! # }
//! # fn main() -> cas_core::Result<()> {
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! # let registry = serve()?;
//! # let mut file = Vec::new();
//! use cas_core::Manifest;
//! use cas_core::transfer::Fetcher;
//! use cas_distribution::{Client, ListOptions, Options};
//! use futures_util::StreamExt;
//!
//! let name = format!("{registry}/team/app:1").parse()?;
//! let client = Client::connect(&name, Options::default()).await?;
//! let mut tags = client.tags(&ListOptions::default())?;
//! while let Some(page) = tags.next().await? {
//!     println!("{}", page.join("\n"));
//! }
//! let manifest = client.document(&client.resolve().await?).await?;
//! let manifest: Manifest = serde_json::from_slice(&manifest).expect("a manifest");
//! let mut layer = client.blob(&manifest.layers[0]).await?;
//! while let Some(piece) = layer.next().await {
//!     file.write_all(&piece?)?;
//! }
//! # assert_eq!(file, b"hello");
//! # Ok(())
//! # })
//! # }
//! ```
//!
//! A [`Client`] is for one [`FullName`](cas_core::image::FullName), a name in one repository. It
//! returns blobs as streams. `cas_core::transfer::pull` stores an image that it reads from a
//! client, and verifies the content. `cas_core::transfer::push` sends an image to the registry of a
//! client. A client also lists referrers, tags and repositories, and deletes tags, manifests and
//! blobs.
//!
//! [`Client::blob`] and [`Client::document`] verify what they read. The bytes that
//! [`Fetcher::fetch`](cas_core::transfer::Fetcher::fetch) returns are not verified.
//!
//! Rules that hold for every request:
//! - Credentials are bound to their origin: scheme, host and port. A redirect or an upload location
//!   at another origin does not get them.
//! - The login for a registry is sent to a token service if the host of the token service is the
//!   registry's host, a subdomain of the registry's host, or in [`Options::token_hosts`]. The token
//!   service of Docker Hub also gets the login for Docker Hub. In each case, the registry and the
//!   token service must both use https or both be on loopback. Otherwise the token is requested
//!   without a login.
//! - A token is requested with the scope that the operation needs. The scope that the registry
//!   proposes is ignored.
//! - A redirect, an upload location or a token service must not be at a link-local or reserved
//!   address. It may be on this machine only if the registry is on this machine, too. It may be in
//!   a private network only if the registry's own address is not public. With
//!   [`Options::private_addresses`], it may be on this machine and in private networks in any case.
//!   `docs/ADDRESSES.md` has the exact rules.
//! - A redirect from `https` to `http` is refused. A registry is reached over plain `http` only on
//!   loopback, or if the caller or a file that [`Hosts`] reads allows it.
//! - A request that fails for a temporary reason is repeated: after a failed, lost or slow
//!   connection, and after the statuses 408, 425, 429, 500, 502, 503 and 504. An interrupted read
//!   continues where it stopped. [`Mirrors`] does not repeat a request at an endpoint if images may
//!   be pulled from a later endpoint: a read that fails is then sent to the next endpoint instead.
//!   [`download()`] repeats a request only if no answer arrives, and does not continue an
//!   interrupted read.
//! - [`Timeouts`] has the deadlines of requests. A transfer that makes progress has no overall
//!   deadline.

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
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
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
mod process;
mod push;
mod read;
mod referrers;
mod request;
mod retry;
mod runtime;
mod save;
mod spelling;
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
pub use verify::{Connect, Cosign, CosignKey, Repository};
pub use verify::{Rules, Verified, Verifier, VerifierDir, verify};

/// Compiles the code in README.md.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
