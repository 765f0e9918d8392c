//! A launch: validation, and the blocks of the grid.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rayon::prelude::*;

use super::block::{Cluster, Pool, Progress};
use super::registers::Registers;
use super::report::{HazardSink, Place, other};
use crate::counters::Tally;
use crate::decode::{self, Bindings, Program};
use crate::hazard::HazardKind;
use crate::memory::Allocation;
use crate::module::{Kernel, Position, Space};
use crate::options::Options;
use crate::shadow::global::Summary;
use crate::{Error, Launch, Memory, Report};

/// Blocks of a cluster that every launch may ask for, and more by a function attribute.
const CLUSTER_MAX: u64 = 16;
/// Warp instructions after which a block that may wait for others makes room for the next.
const BLOCK_TURN: u64 = 200_000;

/// What all blocks of a launch share.
pub(crate) struct LaunchState<'a> {
    pub kernel: &'a Kernel,
    pub kernel_name: Arc<str>,
    pub program: Program,
    pub options: &'a Options,
    pub allocations: Vec<Arc<Allocation>>,
    pub parameters: Vec<u8>,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Blocks of a cluster.
    pub cluster: [u32; 3],
    /// Warps per block.
    pub warps: usize,
    pub dynamic_shared_bytes: u32,
    pub shared_bytes: u32,
    /// Registers per thread, 0 if unknown.
    pub registers: u32,
    source_positions: OnceLock<Vec<u32>>,
}

impl LaunchState<'_> {
    /// The place of an instruction.
    pub fn position(&self, pc: u32) -> Position {
        // The end of the code stands for the return that the text leaves out.
        let Some(instruction) = self.kernel.code.get(pc as usize).or(self.kernel.code.last()) else {
            return Position {
                file: None,
                line: 0,
                inlined_at: Vec::new(),
                ptx_line: self.kernel.line,
                opcode: Arc::from(""),
            };
        };
        let (file, line, inlined_at) = match instruction.loc {
            Some(loc) => self.kernel.locations.resolve(loc, &self.kernel.module.files),
            None => (None, 0, Vec::new()),
        };
        Position { file, line, inlined_at, ptx_line: instruction.line, opcode: Arc::from(instruction.opcode.as_str()) }
    }

    /// A number that instructions share if they have the same opcode and come from the same source
    /// line by the same calls, as the copies of an unrolled loop do.
    pub fn source_position(&self, pc: u32) -> u32 {
        let all = self.source_positions.get_or_init(|| {
            let mut known = HashMap::new();
            let mut numbers = Vec::with_capacity(self.kernel.code.len());
            for (pc, instruction) in self.kernel.code.iter().enumerate() {
                let number = instruction.loc.map_or(pc as u32, |loc| {
                    let place = self.kernel.locations.resolve(loc, &self.kernel.module.files);
                    *known.entry((place, instruction.opcode.as_str())).or_insert(pc as u32)
                });
                numbers.push(number);
            }
            numbers
        });
        all.get(pc as usize).copied().unwrap_or(pc)
    }

    /// Blocks of a cluster.
    pub fn cluster_size(&self) -> usize {
        self.cluster.iter().product::<u32>() as usize
    }

    /// The linear index of a cluster's block of that rank.
    pub fn linear_index(&self, cluster: u32, rank: u32) -> u32 {
        let [x, y, _] = self.cluster;
        let [clusters_x, clusters_y] = [self.grid[0] / x, self.grid[1] / y];
        let inside = [rank % x, rank / x % y, rank / x / y];
        let of = [cluster % clusters_x, cluster / clusters_x % clusters_y, cluster / clusters_x / clusters_y];
        let index: [u32; 3] = std::array::from_fn(|axis| of[axis] * self.cluster[axis] + inside[axis]);
        index[0] + self.grid[0] * (index[1] + self.grid[1] * index[2])
    }

    /// Block coordinates of a linear index.
    pub fn block_index(&self, linear: u32) -> [u32; 3] {
        let [x, y, _] = self.grid;
        [linear % x, linear / x % y, linear / x / y]
    }
}

/// What finished blocks leave behind. Merging does not depend on the order.
struct Outcome {
    tally: Tally,
    hazards: HazardSink,
    /// Of the lowest block that has one.
    error: Option<(u32, Error)>,
}

impl Outcome {
    fn new(instructions: usize) -> Self {
        Outcome { tally: Tally::new(instructions), hazards: HazardSink::default(), error: None }
    }

    fn merge(mut self, other: Outcome) -> Self {
        self.tally.merge(&other.tally);
        self.hazards.merge(other.hazards);
        self.error = match (self.error, other.error) {
            (Some(a), Some(b)) => Some(if a.0 <= b.0 { a } else { b }),
            (a, b) => a.or(b),
        };
        self
    }

    fn add(&mut self, blocks: Vec<super::BlockState>) {
        blocks.into_iter().for_each(|state| self.add_block(state));
    }

    fn add_block(&mut self, state: super::BlockState) {
        self.tally.merge(&state.tally);
        self.hazards.merge(state.hazards);
        if let Some(error) = state.error
            && self.error.as_ref().is_none_or(|(block, _)| state.linear < *block)
        {
            self.error = Some((state.linear, error));
        }
    }
}

pub(crate) fn run(launch: &Launch<'_>, memory: &Memory, options: &Options) -> Result<Report, Error> {
    let state = prepare(launch, memory, options)?;
    let clusters = state.grid.iter().product::<u32>() / state.cluster_size() as u32;
    let summary = Mutex::new(Summary::default());
    let outcome = if state.program.communicates {
        run_together(&state, clusters)
    } else {
        let one = |pool: &mut Pool, outcome: &mut Outcome, index: u32| {
            let mut cluster = Cluster::new(&state, index, pool);
            while cluster.run(&state, u64::MAX) == Progress::Paused {}
            let mut shadow = std::mem::take(&mut cluster.holder().global_shadow);
            if options.checks.global_races && clusters > 1 {
                summary.lock().unwrap_or_else(PoisonError::into_inner).add(&shadow);
            }
            shadow.clear();
            outcome.add(cluster.recycle(pool));
            pool.global_shadow = shadow;
        };
        let instructions = state.program.code.len();
        let fold = || {
            (0..clusters)
                .into_par_iter()
                .fold(
                    || (Pool::default(), Outcome::new(instructions)),
                    |(mut pool, mut outcome), index| {
                        if outcome.error.is_none() {
                            one(&mut pool, &mut outcome, index);
                        }
                        (pool, outcome)
                    },
                )
                .map(|(_, outcome)| outcome)
                .reduce(|| Outcome::new(instructions), Outcome::merge)
        };
        match options.threads {
            1 => {
                let (mut pool, mut outcome) = (Pool::default(), Outcome::new(instructions));
                for index in 0..clusters {
                    one(&mut pool, &mut outcome, index);
                    if outcome.error.is_some() {
                        break;
                    }
                }
                outcome
            }
            0 => fold(),
            threads => match rayon::ThreadPoolBuilder::new().num_threads(threads).build() {
                Ok(pool) => pool.install(fold),
                // The host grants no more threads: one still gives the same result.
                Err(_) => fold(),
            },
        }
    };
    let Outcome { tally, mut hazards, error } = outcome;
    if let Some((_, error)) = error {
        return Err(error);
    }
    let summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    for conflict in summary.conflicts() {
        let address = state.allocations[conflict.allocation].base + conflict.offset;
        let warps = state.warps as u32;
        let later = conflict.later;
        let place = Place {
            block: state.linear_index(later.cluster, later.warp / warps),
            warp: later.warp % warps,
            lane: later.lane,
            address: Some(address),
            pc: later.pc,
        };
        let kind =
            HazardKind::Race { space: Space::Global, access: later.access, other: other(&state, conflict.earlier) };
        hazards.add(&state, place, kind);
    }
    let (hazards, hazards_dropped) = hazards.finish(options.limits.hazards);
    let counters = tally.finish(|pc| state.position(pc as u32));
    Ok(Report { hazards, hazards_dropped, counters })
}

/// Blocks that may order their memory accesses among each other, or wait for each other: one host
/// thread, in turn, so that the outcome does not depend on the host.
fn run_together(state: &LaunchState<'_>, clusters: u32) -> Outcome {
    let mut outcome = Outcome::new(state.program.code.len());
    let mut pool = Pool::default();
    let mut resident: VecDeque<Cluster> = VecDeque::new();
    let resident_max = (state.options.resident_blocks / state.cluster_size()).max(1);
    let mut next = 0;
    let mut shadow = Default::default();
    let mut sync = Default::default();
    loop {
        // Clusters start in order, and a new one only when those before it have finished or paused.
        let mut cluster = if next < clusters && resident.len() < resident_max {
            next += 1;
            Cluster::new(state, next - 1, &mut pool)
        } else if let Some(cluster) = resident.pop_front() {
            cluster
        } else {
            return outcome;
        };
        let exchange = |cluster: &mut Cluster, shadow: &mut _, sync: &mut _| {
            std::mem::swap(&mut cluster.holder().global_shadow, shadow);
            std::mem::swap(&mut cluster.holder().global_sync, sync);
        };
        exchange(&mut cluster, &mut shadow, &mut sync);
        let progress = cluster.run(state, BLOCK_TURN);
        exchange(&mut cluster, &mut shadow, &mut sync);
        if progress == Progress::Paused {
            resident.push_back(cluster);
            continue;
        }
        // As long as there is a place, nobody waits for one.
        let waiting = if resident.len() + 1 < resident_max { 0 } else { clusters - next };
        let starves = waiting > 0 && cluster.blocks.iter().any(|block| block.error.is_some());
        if starves {
            cluster.report_starvation(state, waiting);
        }
        outcome.add(cluster.recycle(&mut pool));
        if starves || outcome.error.is_some() {
            return outcome;
        }
    }
}

fn prepare<'a>(launch: &Launch<'a>, memory: &Memory, options: &'a Options) -> Result<LaunchState<'a>, Error> {
    let kernel = launch.kernel;
    let refuse = |message: String| Err(Error::LaunchShape { message });
    let blocks = launch.grid.iter().fold(1u64, |all, n| all.saturating_mul(u64::from(*n)));
    let threads = launch.block.iter().fold(1u64, |all, n| all.saturating_mul(u64::from(*n)));
    if launch.grid[0] > i32::MAX as u32 || launch.grid[1] > 65_535 || launch.grid[2] > 65_535 || blocks == 0 {
        return refuse(format!("grid {:?}; the bounds are [2147483647, 65535, 65535]", launch.grid));
    }
    if blocks > options.limits.blocks.min(1 << 24) {
        return Err(Error::Limit { what: "blocks of the grid", limit: options.limits.blocks.min(1 << 24) });
    }
    if launch.block[2] > 64 || threads > 1024 || threads == 0 {
        return refuse(format!("block {:?}; a block has 1 to 1024 threads, at most 64 in z", launch.block));
    }
    let cluster_size = launch.cluster.iter().fold(1u64, |all, n| all.saturating_mul(u64::from(*n)));
    let divides = launch.grid.iter().zip(&launch.cluster).all(|(blocks, n)| *n > 0 && blocks % n == 0);
    if !divides || cluster_size > CLUSTER_MAX {
        let (cluster, grid) = (launch.cluster, launch.grid);
        return refuse(format!("cluster {cluster:?}; it has 1 to {CLUSTER_MAX} blocks and divides the grid {grid:?}"));
    }
    if cluster_size > 1 && options.architecture != crate::Architecture::Sm90a {
        return refuse(format!("cluster {:?}; only sm_90a has clusters", launch.cluster));
    }
    if let Some(required) = kernel.required_cluster
        && required != launch.cluster
    {
        return refuse(format!("cluster {:?}; the kernel requires {required:?}", launch.cluster));
    }
    if let Some(required) = kernel.required_threads
        && required != launch.block
    {
        return refuse(format!("block {:?}; the kernel requires {required:?}", launch.block));
    }
    if let Some(maximum) = kernel.maximum_threads {
        let bound = maximum.iter().fold(1u64, |all, n| all.saturating_mul(u64::from(*n)));
        if threads > bound {
            return refuse(format!("block {:?}; the kernel was compiled for at most {bound} threads", launch.block));
        }
    }
    if launch.params.len() != kernel.parameters.len() {
        return Err(Error::ParameterCount {
            kernel: kernel.name.clone(),
            expected_count: kernel.parameters.len(),
            count: launch.params.len(),
        });
    }
    let mut parameters = vec![0u8; kernel.parameter_bytes];
    for (index, (declared, bytes)) in kernel.parameters.iter().zip(launch.params).enumerate() {
        if declared.bytes != bytes.len() {
            return Err(Error::ParameterSize {
                index,
                name: declared.name.clone(),
                expected_bytes: declared.bytes,
                bytes: bytes.len(),
            });
        }
        parameters[declared.offset..declared.offset + declared.bytes].copy_from_slice(bytes);
    }
    let variables = memory.module_variables(&kernel.module)?;
    let bindings = Bindings { parameters: &parameters, variables: &variables };
    let program = decode::decode(kernel, bindings)?;
    let bytes = program.shared.dynamic_offset.saturating_add(u64::from(launch.dynamic_shared_bytes));
    let limit_bytes = options.shared_bytes_max;
    let shared_bytes = u32::try_from(bytes).ok().filter(|bytes| *bytes <= limit_bytes);
    let shared_bytes = shared_bytes.ok_or(Error::SharedMemory { bytes, limit_bytes })?;
    let warps = threads.div_ceil(32);
    // The shadow of shared memory remembers a read of each word by each warp of the cluster.
    let shadow_bytes = u64::from(shared_bytes) * 2 * warps * cluster_size;
    let of_block = warps * (Registers::bytes(&program) + u64::from(program.local.bytes) * 64) + shadow_bytes;
    let state_bytes = of_block.saturating_mul(cluster_size);
    if state_bytes > options.limits.block_state_bytes {
        return Err(Error::Limit {
            what: "bytes for the registers, the local memory and the shadow of a cluster",
            limit: options.limits.block_state_bytes,
        });
    }
    Ok(LaunchState {
        kernel,
        kernel_name: Arc::from(kernel.name.as_str()),
        program,
        options,
        allocations: memory.view(),
        parameters,
        grid: launch.grid,
        block: launch.block,
        cluster: launch.cluster,
        warps: warps as usize,
        dynamic_shared_bytes: launch.dynamic_shared_bytes,
        shared_bytes,
        registers: launch.registers,
        source_positions: OnceLock::new(),
    })
}
