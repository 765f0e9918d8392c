//! How a launch is emulated.

/// The device that is emulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Architecture {
    /// A100.
    Sm80,
    /// A10, A40, GeForce 30.
    Sm86,
    /// L4, L40, GeForce 40.
    Sm89,
    /// H100, H200, with the instructions that are Hopper's alone.
    Sm90a,
}

impl Architecture {
    /// The most shared memory that one block may use.
    pub fn shared_bytes_max(self) -> u32 {
        match self {
            Architecture::Sm80 => 163 << 10,
            Architecture::Sm86 | Architecture::Sm89 => 99 << 10,
            Architecture::Sm90a => 227 << 10,
        }
    }

    /// The number in `sm_NN`.
    pub fn number(self) -> u32 {
        match self {
            Architecture::Sm80 => 80,
            Architecture::Sm86 => 86,
            Architecture::Sm89 => 89,
            Architecture::Sm90a => 90,
        }
    }
}

/// In which order warps and lanes make progress. Every schedule is one that a GPU may choose, and
/// each is reproducible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Schedule {
    /// Warps in turn, lowest first, each until it has to wait.
    #[default]
    InOrder,
    /// As `InOrder`, highest warp first.
    Reverse,
    /// A random warp for a random number of instructions.
    Random,
    /// As `Random`; in addition lanes that part at a branch come together again only at an
    /// instruction that demands it (`.sync`), and in between each part runs at its own pace.
    /// Legal since Volta, and what code relies on when it leaves out a `__syncwarp`.
    Diverged,
    /// The lowest quarter of a block's warps (by convention those that load) run only when no other warp can.
    LowestStarved,
    /// The highest quarter of a block's warps run only when no other warp can.
    HighestStarved,
}

/// When asynchronous copies take place. All of these are legal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Completion {
    /// As late as can be: at the wait that covers the copy, or when no warp can go on without it.
    #[default]
    Latest,
    /// When the copy is issued.
    Earliest,
    /// One or the other for each copy, drawn from the seed.
    Random,
}

/// The results of instructions whose manual allows an error (`ex2.approx`, `rsqrt.approx`, ...).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Numerics {
    /// Correctly rounded.
    #[default]
    Rounded,
    /// Off by up to the documented bound, as a function of operation, operand and seed.
    Perturbed,
}

/// How `mma` adds up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum TensorCore {
    /// In f32, one product after the other.
    #[default]
    Sequential,
    /// As the tensor cores of the architecture do: products are aligned to the largest exponent,
    /// truncated, added exactly and truncated again. Several times slower.
    Aligned,
}

/// Which hazards are looked for. Accesses outside of memory always stop the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Checks {
    /// Data races in shared memory, and touches of asynchronous copies in flight.
    pub shared_races: bool,
    /// Data races in global memory, inside a block and between blocks.
    pub global_races: bool,
    /// Reads of memory that nothing wrote.
    pub uninitialized_memory: bool,
    /// Asynchronous writes of shared memory that was read in the ordinary way before, without a proxy fence between
    /// the two. The order is kept by barriers alone in most kernels, so this is not among [`Checks::ALL`].
    pub fences_after_reads: bool,
}

impl Checks {
    /// All but [`Checks::fences_after_reads`], the default.
    pub const ALL: Checks =
        Checks { shared_races: true, global_races: true, uninitialized_memory: true, fences_after_reads: false };
    /// None of the optional ones, for the largest runs.
    pub const NONE: Checks =
        Checks { shared_races: false, global_races: false, uninitialized_memory: false, fences_after_reads: false };
}

impl Default for Checks {
    fn default() -> Self {
        Checks::ALL
    }
}

/// Bounds on what one launch may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Limits {
    /// Warp instructions of one block.
    pub block_instructions: u64,
    /// Blocks of a grid.
    pub blocks: u64,
    /// Distinct hazards that are kept; further ones are counted in `Report::hazards_dropped`.
    pub hazards: usize,
    /// Bytes that the registers, the local memory and the shadow of one block, or of the blocks of one cluster, may take in
    /// the emulator.
    pub block_state_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { block_instructions: 2_000_000_000, blocks: 1 << 24, hazards: 64, block_state_bytes: 1 << 30 }
    }
}

/// Options of [`run`](crate::run).
///
/// ```
/// use ptx_emu::{Architecture, Options, Schedule};
/// let options = Options::new(Architecture::Sm80).schedule(Schedule::Random).seed(7).threads(1);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub(crate) architecture: Architecture,
    pub(crate) schedule: Schedule,
    pub(crate) completion: Completion,
    pub(crate) seed: u64,
    pub(crate) numerics: Numerics,
    pub(crate) tensor_core: TensorCore,
    pub(crate) checks: Checks,
    pub(crate) shared_bytes_max: u32,
    pub(crate) threads: usize,
    pub(crate) limits: Limits,
    pub(crate) resident_blocks: usize,
}

impl Options {
    /// All checks on, deterministic, the shared memory of the architecture, one host thread per core.
    pub fn new(architecture: Architecture) -> Self {
        Options {
            architecture,
            schedule: Schedule::default(),
            completion: Completion::default(),
            seed: 0,
            numerics: Numerics::default(),
            tensor_core: TensorCore::default(),
            checks: Checks::default(),
            shared_bytes_max: architecture.shared_bytes_max(),
            threads: 0,
            limits: Limits::default(),
            resident_blocks: 64,
        }
    }

    /// The order of warps and lanes.
    pub fn schedule(mut self, schedule: Schedule) -> Self {
        self.schedule = schedule;
        self
    }

    /// When asynchronous copies take place.
    pub fn completion(mut self, completion: Completion) -> Self {
        self.completion = completion;
        self
    }

    /// The seed of everything that is drawn: same seed, same run.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Results of approximate instructions.
    pub fn numerics(mut self, numerics: Numerics) -> Self {
        self.numerics = numerics;
        self
    }

    /// How matrix instructions add up.
    pub fn tensor_core(mut self, tensor_core: TensorCore) -> Self {
        self.tensor_core = tensor_core;
        self
    }

    /// Which hazards are looked for.
    pub fn checks(mut self, checks: Checks) -> Self {
        self.checks = checks;
        self
    }

    /// The most shared memory a block may use, in place of the architecture's.
    pub fn shared_bytes_max(mut self, bytes: u32) -> Self {
        self.shared_bytes_max = bytes;
        self
    }

    /// Host threads; 0 means one per core. Results, hazards and counters do not depend on it,
    /// except for kernels with races between blocks.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Bounds on what the launch may use.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Blocks that are on the device together, 64 unless set: a block that waits for one beyond them waits forever. It
    /// counts for kernels whose blocks can wait for each other.
    pub fn resident_blocks(mut self, blocks: usize) -> Self {
        self.resident_blocks = blocks.max(1);
        self
    }
}
