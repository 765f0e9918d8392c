//! Who touched which memory when: the happens-before relation and the shadow of each memory.

pub(crate) mod clock;
pub(crate) mod global;
pub(crate) mod shared;

use crate::hazard::Access;

/// An access as the shadow remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Event {
    pub access: Access,
    /// Linear cluster index.
    pub cluster: u32,
    /// Number in the cluster.
    pub warp: u32,
    /// `None`: several lanes.
    pub lane: Option<u32>,
    /// Instruction index.
    pub pc: u32,
}

/// Who accesses now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Actor {
    /// Linear cluster index.
    pub cluster: u32,
    pub lane: u32,
    pub pc: u32,
    /// Whether the access is strong: an atomic, volatile, relaxed or ordered one.
    pub atomic: bool,
}

/// What is wrong with an access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conflict {
    Race(Event),
    InFlight(Event),
    /// Ordered, but no proxy fence makes it visible to an asynchronous copy.
    Unfenced(Event),
    /// It touches the bytes of an mbarrier.
    Barrier,
}
