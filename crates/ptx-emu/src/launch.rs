//! What a caller hands in and gets back.

use crate::{Counters, Error, Hazard, Kernel, Memory, Options};

/// A kernel launch.
#[derive(Debug, Clone, Copy)]
pub struct Launch<'a> {
    /// What to run.
    pub kernel: &'a Kernel,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Blocks of a cluster, which divide the grid; `[1, 1, 1]` for a launch without clusters.
    pub cluster: [u32; 3],
    /// Registers per thread that the kernel was compiled to (`ptxas -v`, or the driver's function attribute): what
    /// `setmaxnreg` shares out. 0 if unknown: then only the register file of a multiprocessor is the bound.
    pub registers: u32,
    /// Size of `.extern .shared` arrays.
    pub dynamic_shared_bytes: u32,
    /// The bytes of each parameter, structures passed by value included.
    pub params: &'a [&'a [u8]],
}

/// What a launch did, apart from its effects on memory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// What the kernel did wrong: one entry per kind and source position, lowest block first.
    pub hazards: Vec<Hazard>,
    /// Occurrences beyond `Limits::hazards`.
    pub hazards_dropped: u64,
    /// What it cost.
    pub counters: Counters,
}

/// Runs a kernel on emulated memory.
///
/// # Errors
/// Whatever keeps the kernel from running: a launch that does not fit the kernel or the device, an
/// instruction that is not modelled, a limit. Faults of the kernel itself are hazards in the report.
pub fn run(launch: &Launch<'_>, memory: &Memory, options: &Options) -> Result<Report, Error> {
    crate::machine::run(launch, memory, options)
}
