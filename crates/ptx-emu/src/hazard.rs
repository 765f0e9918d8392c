//! What a kernel did wrong while it ran.

use std::fmt;
use std::sync::Arc;

use crate::module::{Position, types::Space};

/// How memory was touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// A read-modify-write, or a volatile, relaxed or ordered access.
    Atomic,
    /// The write of an asynchronous copy.
    AsyncWrite,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Access::Read => "read",
            Access::Write => "write",
            Access::Atomic => "atomic access",
            Access::AsyncWrite => "asynchronous copy into it",
        })
    }
}

/// The earlier of two accesses that conflict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// How it touched the memory.
    pub access: Access,
    /// Where in the program.
    pub position: Position,
    /// Its block.
    pub block: [u32; 3],
    /// Its warp in the block.
    pub warp: u32,
    /// Its lane, unless several lanes did it.
    pub lane: Option<u32>,
}

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} by block {:?}, warp {}", self.access, self.block, self.warp)?;
        if let Some(lane) = self.lane {
            write!(f, ", lane {lane}")?;
        }
        write!(f, " at {}", self.position)
    }
}

/// What one warp was doing when nothing could go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// The warp.
    pub warp: u32,
    /// The lanes at that place.
    pub lanes: u32,
    /// The place.
    pub position: Position,
    /// What they wait for.
    pub waits_for: String,
}

/// The kinds of hazard. [`Hazard`] says where one happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HazardKind {
    /// An access outside of any allocation, of the block's shared memory or of a parameter. Fatal.
    OutOfBounds {
        /// The space.
        space: Space,
        /// Read or write.
        access: Access,
        /// Bytes that one lane asked for.
        bytes: u32,
        /// What is nearest, in words.
        nearest: String,
    },
    /// An address that is not a multiple of the access size. The access is not performed.
    Misaligned {
        /// The space.
        space: Space,
        /// Read or write.
        access: Access,
        /// The alignment it needs.
        bytes: u32,
    },
    /// A read of memory that nothing wrote.
    UninitializedMemory {
        /// The space.
        space: Space,
        /// Bytes that one lane asked for.
        bytes: u32,
    },
    /// A register that these lanes never wrote, or computed from such a one, decides something or leaves its lane.
    UndefinedRegister {
        /// The register's name in the PTX. A register that was computed may have none: it shares its memory.
        register: Option<String>,
        /// The lanes for which it holds nothing.
        lanes: u32,
    },
    /// Two accesses, at least one of them a write, that nothing orders.
    Race {
        /// The space.
        space: Space,
        /// What the later one did.
        access: Access,
        /// The earlier one.
        other: Box<Other>,
    },
    /// Memory that an asynchronous copy is still writing was touched before the wait.
    AsyncInFlight {
        /// How it was touched.
        access: Access,
        /// The copy.
        copy: Box<Other>,
    },
    /// Some lanes of a warp are at a barrier and others can never get there.
    BarrierDivergence {
        /// Number of the barrier.
        barrier: u32,
        /// Lanes that are there.
        present: u32,
        /// Lanes that are missing.
        missing: u32,
    },
    /// A barrier was used with different or impossible thread counts.
    BarrierCount {
        /// Number of the barrier.
        barrier: u32,
        /// The count now.
        count: u32,
        /// The count of the arrivals before, or of the threads that can arrive.
        expected: u32,
    },
    /// A `.sync` instruction without all the lanes it names.
    MissingParticipants {
        /// The lanes it names.
        required: u32,
        /// The lanes that are there.
        present: u32,
    },
    /// A lane executes a `.sync` instruction whose member mask does not name it, or reads another
    /// lane that does not take part.
    InvalidParticipant {
        /// The member mask.
        members: u32,
        /// The lane in question.
        lane: u32,
    },
    /// Nothing can go on. Fatal.
    Deadlock {
        /// Every warp that has not finished.
        warps: Vec<Stuck>,
    },
    /// An integer division by zero; its result is unspecified.
    DivisionByZero,
    /// `trap`. Fatal.
    Trap,
}

impl HazardKind {
    /// Whether the block stops here.
    pub fn is_fatal(&self) -> bool {
        matches!(self, HazardKind::OutOfBounds { .. } | HazardKind::Deadlock { .. } | HazardKind::Trap)
    }

    /// A short name, the same for all hazards of the kind.
    pub fn name(&self) -> &'static str {
        match self {
            HazardKind::OutOfBounds { .. } => "out of bounds",
            HazardKind::Misaligned { .. } => "misaligned",
            HazardKind::UninitializedMemory { .. } => "uninitialized memory",
            HazardKind::UndefinedRegister { .. } => "undefined register",
            HazardKind::Race { space: Space::Shared, .. } => "shared memory race",
            HazardKind::Race { .. } => "global memory race",
            HazardKind::AsyncInFlight { .. } => "asynchronous copy in flight",
            HazardKind::BarrierDivergence { .. } => "barrier divergence",
            HazardKind::BarrierCount { .. } => "barrier count",
            HazardKind::MissingParticipants { .. } => "missing participants",
            HazardKind::InvalidParticipant { .. } => "invalid participant",
            HazardKind::Deadlock { .. } => "deadlock",
            HazardKind::DivisionByZero => "division by zero",
            HazardKind::Trap => "trap",
        }
    }
}

/// A hazard, with the place of its first occurrence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hazard {
    /// What happened.
    pub kind: HazardKind,
    /// The kernel.
    pub kernel: Arc<str>,
    /// The instruction.
    pub position: Position,
    /// Block index in the grid.
    pub block: [u32; 3],
    /// Warp in the block.
    pub warp: u32,
    /// First lane concerned, if it is a matter of lanes.
    pub lane: Option<u32>,
    /// Address in its space, if it is a matter of memory.
    pub address: Option<u64>,
    /// Times it happened at this position.
    pub count: u64,
}

impl Hazard {
    /// The CUDA source file, if the PTX names it.
    pub fn file(&self) -> Option<&str> {
        self.position.file.as_deref()
    }

    /// The line in the CUDA source file, or in the PTX if that is all there is.
    pub fn line(&self) -> u32 {
        if self.position.file.is_some() { self.position.line } else { self.position.ptx_line }
    }
}

impl fmt::Display for Hazard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: kernel {}, {}, block {:?}, warp {}",
            self.kind.name(),
            self.kernel,
            self.position,
            self.block,
            self.warp
        )?;
        if let Some(lane) = self.lane {
            write!(f, ", lane {lane}")?;
        }
        write!(f, ": ")?;
        let address = self.address.unwrap_or(0);
        match &self.kind {
            HazardKind::OutOfBounds { space, access, bytes, nearest } => {
                write!(f, "{access} of {bytes} bytes at {space} address {address:#x}, which is {nearest}")?;
            }
            HazardKind::Misaligned { space, access, bytes } => {
                write!(f, "{access} at {space} address {address:#x}, which is not a multiple of {bytes}")?;
            }
            HazardKind::UninitializedMemory { space, bytes } => {
                write!(f, "read of {bytes} bytes at {space} address {address:#x}, where nothing was written")?;
            }
            HazardKind::UndefinedRegister { register, lanes } => match register {
                Some(register) => {
                    write!(
                        f,
                        "register {register} is read by lanes {lanes:#010x}, which never wrote it, or what it follows from"
                    )?;
                }
                None => write!(
                    f,
                    "a value that lanes {lanes:#010x} computed from a register which they never wrote is used"
                )?,
            },
            HazardKind::Race { space, access, other } => {
                write!(f, "{access} at {space} address {address:#x} is not ordered with {other}")?;
            }
            HazardKind::AsyncInFlight { access, copy } => {
                write!(f, "{access} at shared address {address:#x} before a wait covers {copy}")?;
            }
            HazardKind::BarrierDivergence { barrier, present, missing } => {
                write!(f, "lanes {present:#010x} wait at barrier {barrier}, lanes {missing:#010x} do not come")?;
            }
            HazardKind::BarrierCount { barrier, count, expected } => {
                write!(f, "barrier {barrier} is used with {count} threads where {expected} are expected")?;
            }
            HazardKind::MissingParticipants { required, present } => {
                write!(f, "the instruction names lanes {required:#010x}, only {present:#010x} execute it")?;
            }
            HazardKind::InvalidParticipant { members, lane } => {
                write!(f, "lane {lane} is not among the lanes {members:#010x} that take part")?;
            }
            HazardKind::Deadlock { warps } => {
                write!(f, "nothing can go on")?;
                for stuck in warps {
                    write!(f, "; warp {} lanes {:#010x} at {}", stuck.warp, stuck.lanes, stuck.position)?;
                    write!(f, " wait for {}", stuck.waits_for)?;
                }
            }
            HazardKind::DivisionByZero => write!(f, "the divisor is zero")?,
            HazardKind::Trap => write!(f, "the kernel gave up")?,
        }
        if self.count > 1 {
            write!(f, " ({} times)", self.count)?;
        }
        Ok(())
    }
}
