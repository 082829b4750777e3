//! The client of OCI registries: what an image is pulled from and pushed to, over HTTP.
//!
//! A [`Client`] speaks for one [`RemoteRef`], a name in one repository, and hands out blobs as
//! streams; what is verified and stored is the business of `cas_core::transfer::{pull, push}`.
//!
//! Rules that hold for every request:
//! - Credentials are bound to their origin: scheme, host and port. A redirect, or the place of an
//!   upload, somewhere else gets none of them; a token service on another site gets those that
//!   the configuration has for it, or none.
//! - `https` never leads to `http`. Plain `http` is for loopback, and for whoever asks for it.
//! - Connecting and waiting are bounded, never the whole: a layer may take as long as it flows.

mod auth;
mod body;
mod challenge;
mod client;
mod credentials;
mod error;
mod fetch;
mod helper;
mod http;
mod origin;
mod reference;
mod request;
mod runtime;
mod token;
mod upload;

pub use client::{Client, Options};
pub use error::REGISTRY;
pub use reference::RemoteRef;
