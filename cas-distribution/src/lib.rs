//! The client of OCI registries: what an image is pulled from and pushed to, over HTTP.
//!
//! A [`Client`] speaks for one [`RemoteRef`], a name in one repository, and hands out blobs as
//! streams; what is verified and stored is the business of `cas_core::transfer::{pull, push}`.
//!
//! Rules that hold for every request:
//! - Credentials are bound to their origin: scheme, host and port. A redirect, or the place of an
//!   upload, somewhere else gets none of them.
//! - A token service is shown the login for its registry only if it is on the registry's host or
//!   below it, is Docker Hub's for Docker Hub, or is named by [`Options::token_hosts`]; and only if
//!   both speak https or both are on loopback. Otherwise it is asked without a login.
//! - A token is asked for what the operation needs, whatever the registry proposes.
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
mod host;
mod http;
mod origin;
mod reference;
mod request;
mod runtime;
mod token;
mod trust;
mod upload;

pub use client::{Client, Options};
pub use error::REGISTRY;
pub use host::Host;
pub use reference::RemoteRef;
