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
    /// The read of an asynchronous copy or matrix product.
    AsyncRead,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Access::Read => "read",
            Access::Write => "write",
            Access::Atomic => "atomic access",
            Access::AsyncWrite => "asynchronous copy into it",
            Access::AsyncRead => "asynchronous read of it",
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

/// What may be wrong with the use of an mbarrier.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MbarrierFault {
    /// There is no mbarrier at the address.
    Uninitialized,
    /// Nothing orders the use behind the `mbarrier.init` of this warp.
    UnorderedInit {
        /// The initialisation.
        init: Box<Other>,
    },
    /// An asynchronous copy uses it, and neither `fence.mbarrier_init` nor `fence.proxy.async` follows its
    /// initialisation.
    UnfencedInit {
        /// The initialisation.
        init: Box<Other>,
    },
    /// It is initialised again, without `mbarrier.inval` before that.
    Reinitialized,
    /// Its count of arrivals is not between 1 and 2^20 - 1.
    Count {
        /// The count.
        count: u32,
    },
    /// More arrivals than its phase expects.
    OverArrival {
        /// Arrivals that were pending.
        pending: u32,
        /// Arrivals that came.
        count: u32,
    },
    /// `.noComplete` would have completed the phase.
    Completes,
    /// The bytes that are expected left the range of -(2^20 - 1) to 2^20 - 1.
    Transactions {
        /// Bytes expected, less bytes that came.
        bytes: i64,
    },
    /// An ordinary access to its bytes.
    Touched,
    /// A phase is over, and nothing orders that behind a wait for the phase before: the waiter may find two phases gone,
    /// and wait forever.
    Overtaken {
        /// The waiter.
        block: [u32; 3],
        /// Its warp.
        warp: u32,
    },
    /// A wait on the mbarrier of another block.
    RemoteWait,
    /// Its block ended before all bytes that it expects had come.
    InFlightAtExit {
        /// Bytes expected, less bytes that came.
        bytes: i64,
    },
}

impl fmt::Display for MbarrierFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MbarrierFault::Uninitialized => f.write_str("it is not initialised"),
            MbarrierFault::UnorderedInit { init } => write!(f, "nothing orders this behind {init}"),
            MbarrierFault::UnfencedInit { init } => {
                write!(f, "an asynchronous copy uses it, and no fence makes visible {init}")
            }
            MbarrierFault::Reinitialized => f.write_str("it is initialised again, without mbarrier.inval before that"),
            MbarrierFault::Count { count } => write!(f, "a count of {count} is not between 1 and 1048575"),
            MbarrierFault::OverArrival { pending, count } => {
                write!(f, "{count} arrivals where {pending} are pending")
            }
            MbarrierFault::Completes => f.write_str("an arrival with .noComplete completes the phase"),
            MbarrierFault::Transactions { bytes } => {
                write!(f, "{bytes} bytes are expected, outside of what it can count (1048575)")
            }
            MbarrierFault::Touched => f.write_str("an ordinary access to its bytes"),
            MbarrierFault::Overtaken { block, warp } => {
                write!(
                    f,
                    "a phase is over before block {block:?}, warp {warp} is known to have seen the end of the one before"
                )
            }
            MbarrierFault::RemoteWait => f.write_str("a wait works on mbarriers of the own block only"),
            MbarrierFault::InFlightAtExit { bytes } => {
                write!(f, "its block ends while it expects {bytes} more bytes")
            }
        }
    }
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
    /// Memory that an asynchronous copy is still writing was touched before the wait, or memory that it still reads
    /// was written.
    AsyncInFlight {
        /// The space.
        space: Space,
        /// How it was touched.
        access: Access,
        /// The copy.
        copy: Box<Other>,
    },
    /// A register of an asynchronous matrix product was touched before the wait.
    RegisterInFlight {
        /// The register's name in the PTX.
        register: Option<String>,
        /// How it was touched.
        access: Access,
        /// The product.
        issued: Box<Position>,
        /// Whether the product's group was committed.
        committed: bool,
    },
    /// A matrix product without a `wgmma.fence` between it and what touched its registers before.
    MissingProductFence {
        /// The register's name in the PTX; `None` if the warp has not executed any fence.
        register: Option<String>,
        /// The instruction that touched it: an ordinary one, or a product of another shape.
        touched: Option<Box<Position>>,
    },
    /// A warp exits without a wait for its matrix products.
    UnfinishedProduct {
        /// The first product.
        issued: Box<Position>,
        /// Whether its group was committed.
        committed: bool,
    },
    /// The warps of a warpgroup, or the lanes of a warp, do not execute the same warpgroup instruction.
    WarpgroupMismatch {
        /// What is different.
        reason: String,
    },
    /// A matrix descriptor that cannot be right.
    InvalidDescriptor {
        /// Its bits.
        descriptor: u64,
        /// What is wrong.
        reason: String,
    },
    /// `setmaxnreg.inc` to fewer registers than the warp has, or `.dec` to more.
    RegisterCount {
        /// The registers per thread that it asks for.
        count: u32,
        /// What the warp has.
        before: u32,
    },
    /// The warps of a block ask for more registers than the block has, so that `setmaxnreg.inc` waits for ever.
    RegisterPool {
        /// What all warps have asked for.
        wanted: u32,
        /// What the block has.
        pool: u32,
    },
    /// An asynchronous access of memory that was accessed in the ordinary way before, without a `fence.proxy.async`
    /// between the two.
    MissingProxyFence {
        /// What the asynchronous operation does.
        access: Access,
        /// The ordinary access.
        other: Box<Other>,
    },
    /// A copy was still going on, or nobody had waited for it, when its lane or its block ended.
    UnfinishedCopy {
        /// The copy.
        copy: Box<Other>,
    },
    /// An mbarrier was used in a way that it does not stand.
    Mbarrier {
        /// What is wrong.
        fault: MbarrierFault,
    },
    /// Shared memory of another block of the cluster was touched when that block need not be there.
    RemoteBlock {
        /// Its rank in the cluster.
        rank: u32,
        /// Why it need not be there.
        reason: &'static str,
    },
    /// A bulk or tensor copy whose size, map or operands make no sense. Fatal.
    TensorMap {
        /// What is wrong.
        message: String,
    },
    /// `barrier.cluster` was used out of turn.
    ClusterBarrier {
        /// What is wrong.
        reason: &'static str,
    },
    /// Blocks wait for blocks that are not on the device, and cannot come as long as the others do not end.
    Starvation {
        /// Blocks that had not begun.
        waiting: u32,
        /// Blocks on the device.
        resident: usize,
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
        matches!(
            self,
            HazardKind::OutOfBounds { .. }
                | HazardKind::Deadlock { .. }
                | HazardKind::Trap
                | HazardKind::TensorMap { .. }
                | HazardKind::Starvation { .. }
        )
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
            HazardKind::MissingProxyFence { .. } => "missing proxy fence",
            HazardKind::UnfinishedCopy { .. } => "unfinished copy",
            HazardKind::Mbarrier { .. } => "mbarrier",
            HazardKind::RemoteBlock { .. } => "remote block",
            HazardKind::TensorMap { .. } => "tensor map",
            HazardKind::ClusterBarrier { .. } => "cluster barrier",
            HazardKind::Starvation { .. } => "starvation",
            HazardKind::RegisterInFlight { .. } => "register in flight",
            HazardKind::MissingProductFence { .. } => "missing wgmma fence",
            HazardKind::UnfinishedProduct { .. } => "unfinished matrix product",
            HazardKind::WarpgroupMismatch { .. } => "warpgroup mismatch",
            HazardKind::InvalidDescriptor { .. } => "invalid matrix descriptor",
            HazardKind::RegisterCount { .. } => "register count",
            HazardKind::RegisterPool { .. } => "register pool",
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
            HazardKind::AsyncInFlight { space, access, copy } => {
                write!(f, "{access} at {space} address {address:#x} before a wait covers {copy}")?;
            }
            HazardKind::RegisterInFlight { register, access, issued, committed } => {
                let register = register.as_deref().unwrap_or("a register");
                write!(f, "{access} of {register} before a wait covers the product at {issued}")?;
                if !committed {
                    write!(f, ", whose group is not committed")?;
                }
            }
            HazardKind::MissingProductFence { register, touched } => {
                write!(f, "no wgmma.fence")?;
                if let Some(register) = register {
                    write!(f, " since {register} was touched")?;
                }
                if let Some(touched) = touched {
                    write!(f, " at {touched}")?;
                }
                if register.is_none() && touched.is_none() {
                    write!(f, " before the first product")?;
                }
            }
            HazardKind::UnfinishedProduct { issued, committed } => {
                let missing = if *committed { "wgmma.wait_group" } else { "wgmma.commit_group" };
                write!(f, "the warp exits without a {missing} for the product at {issued}")?;
            }
            HazardKind::WarpgroupMismatch { reason } => write!(f, "{reason}")?,
            HazardKind::InvalidDescriptor { descriptor, reason } => write!(f, "{descriptor:#018x}: {reason}")?,
            HazardKind::RegisterCount { count, before } => {
                write!(f, "{count} registers per thread where the warp has {before}")?;
            }
            HazardKind::RegisterPool { wanted, pool } => {
                write!(f, "the warps ask for {wanted} registers together, the block has {pool}")?;
            }
            HazardKind::MissingProxyFence { access, other } => {
                write!(
                    f,
                    "{access} at shared address {address:#x}, and no fence.proxy.async lies between it and {other}"
                )?;
            }
            HazardKind::UnfinishedCopy { copy } => {
                write!(f, "the end comes before a wait covers {copy}")?;
            }
            HazardKind::Mbarrier { fault } => write!(f, "mbarrier at shared address {address:#x}: {fault}")?,
            HazardKind::RemoteBlock { rank, reason } => {
                write!(f, "shared address {address:#x} of the cluster's block {rank}, which {reason}")?;
            }
            HazardKind::TensorMap { message } => f.write_str(message)?,
            HazardKind::ClusterBarrier { reason } => f.write_str(reason)?,
            HazardKind::Starvation { waiting, resident } => write!(
                f,
                "it waits without end while {waiting} blocks have no place on the device, which holds {resident} at a time"
            )?,
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
