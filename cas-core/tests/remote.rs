//! Pulls and pushes between stores, without a network protocol.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

mod remote {
    mod fake;
    mod limits;
    mod pull;
    mod push;
    mod ranges;
    mod referrers;
    mod repository;
    mod unpack;
}
