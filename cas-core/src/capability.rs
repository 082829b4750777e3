//! Capabilities: promises that a store makes beyond the requirements of its traits. The crate
//! `oci-cas-conformance` has a group of laws (conformance tests) for each capability.

use std::fmt;

/// A promise that some backends make and others cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Capability {
    /// Data that a commit, a publish or a flush has made durable survives a crash of the process or
    /// the kernel, and a power loss.
    Durable = 1,
    /// An unfinished ingest survives the end of its process. Another process can resume it where it
    /// stopped.
    Resume = 2,
    /// Several processes may use the store concurrently.
    Shared = 4,
    /// A batch of records is applied as a whole or not at all. Without this capability, a crash or
    /// a conflict may leave a part of the batch applied.
    Atomic = 8,
    /// A call that publishes or removes bytes also commits its batch of records, in the same step.
    Joint = 16,
    /// Blobs are stored as files, which callers can open.
    Files = 32,
}

impl Capability {
    /// Every capability.
    pub const ALL: [Capability; 6] = [
        Capability::Durable,
        Capability::Resume,
        Capability::Shared,
        Capability::Atomic,
        Capability::Joint,
        Capability::Files,
    ];

    /// Returns the name of the capability, such as `durable`.
    pub const fn name(self) -> &'static str {
        match self {
            Capability::Durable => "durable",
            Capability::Resume => "resume",
            Capability::Shared => "shared",
            Capability::Atomic => "atomic",
            Capability::Joint => "joint",
            Capability::Files => "files",
        }
    }
}

/// A set of capabilities.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities(u8);

impl Capabilities {
    /// Returns the set of the capabilities in `list`.
    pub const fn of(list: &[Capability]) -> Self {
        let (mut bits, mut at) = (0, 0);
        while at < list.len() {
            bits |= list[at] as u8;
            at += 1;
        }
        Capabilities(bits)
    }

    /// Returns whether the set contains `capability`.
    pub const fn has(self, capability: Capability) -> bool {
        self.0 & capability as u8 != 0
    }

    /// Returns the capabilities in the set.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        Capability::ALL
            .into_iter()
            .filter(move |capability| self.has(*capability))
    }
}

impl FromIterator<Capability> for Capabilities {
    fn from_iter<I: IntoIterator<Item = Capability>>(all: I) -> Self {
        let add = |bits, capability| bits | capability as u8;
        Capabilities(all.into_iter().fold(0, add))
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}
