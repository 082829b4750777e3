//! What a store promises beyond the least; each one stands for a group of laws.

use std::fmt;

/// A promise that some backends keep and others cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Capability {
    /// What was acknowledged outlives the process, the kernel and the power supply.
    Durable = 1,
    /// An unfinished ingest outlives the process and is resumed where it was.
    Resume = 2,
    /// Several processes may use the store at once.
    Shared = 4,
    /// A batch of records is atomic; elsewhere a crash leaves a prefix of it.
    Atomic = 8,
    /// Publishing commits the batch in one step with the bytes.
    Joint = 16,
    /// Blobs are files that can be handed out.
    Files = 32,
}

impl Capability {
    /// All of them.
    pub const ALL: [Capability; 6] = [
        Capability::Durable,
        Capability::Resume,
        Capability::Shared,
        Capability::Atomic,
        Capability::Joint,
        Capability::Files,
    ];

    /// The name in lists.
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
    /// The set of these.
    pub const fn of(list: &[Capability]) -> Self {
        let (mut bits, mut at) = (0, 0);
        while at < list.len() {
            bits |= list[at] as u8;
            at += 1;
        }
        Capabilities(bits)
    }

    /// Whether the set has `capability`.
    pub const fn has(self, capability: Capability) -> bool {
        self.0 & capability as u8 != 0
    }

    /// Its members.
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
