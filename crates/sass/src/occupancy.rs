//! How many blocks of a kernel an SM holds, and what keeps out more.

use serde::Serialize;

use crate::listing::RESERVED_BYTES;

/// The limits of one GPU's SM.
///
/// Source: the CUDA C++ Programming Guide, "Technical Specifications per Compute Capability", and the granularities
/// of NVIDIA's occupancy calculator: registers are given to a warp in units of 256, warps lie on four sub-partitions,
/// and the driver keeps 1 KB of shared memory for itself in every block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// The name, as in tables.
    pub name: &'static str,
    /// The compute capability of the machine code that it runs, as `10 * major + minor`.
    pub code: u32,
    /// Resident threads, at most.
    pub threads_max: u32,
    /// Resident blocks, at most.
    pub blocks_max: u32,
    /// Shared memory of the SM.
    pub shared_bytes: u32,
    /// Shared memory of a block, opt-in included, at most.
    pub shared_bytes_block_max: u32,
}

impl Gpu {
    /// The GPUs that tables show.
    pub const ALL: [Gpu; 4] = [
        Gpu::new("A100", 80, 2048, 32, 164),
        // Compute capability 8.6.
        Gpu::new("A40", 80, 1536, 16, 100),
        // Compute capability 8.9.
        Gpu::new("L40S", 80, 1536, 24, 100),
        Gpu::new("H100", 90, 2048, 32, 228),
    ];

    const fn new(name: &'static str, code: u32, threads_max: u32, blocks_max: u32, shared_kb: u32) -> Gpu {
        let shared_bytes = shared_kb << 10;
        Gpu { name, code, threads_max, blocks_max, shared_bytes, shared_bytes_block_max: shared_bytes - RESERVED_BYTES }
    }
}

const REGISTERS_SUB_PARTITION: u32 = 16 << 10;
const SUB_PARTITIONS: u32 = 4;
const REGISTERS_UNIT: u32 = 256;
const SHARED_UNIT_BYTES: u32 = 128;

/// What a block asks of an SM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Threads.
    pub threads: u32,
    /// Registers of a thread.
    pub registers: u32,
    /// Shared memory, static and dynamic.
    pub shared_bytes: u32,
}

/// What fits on an SM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Occupancy {
    /// The GPU.
    pub gpu: &'static str,
    /// Resident blocks; 0 where a block does not fit at all.
    pub blocks: u32,
    /// Their warps.
    pub warps: u32,
    /// The most warps that the SM takes.
    pub warps_max: u32,
    /// What keeps out one block more.
    pub limits: Vec<&'static str>,
}

impl Occupancy {
    /// What fits of a kernel.
    pub fn of(block: &Block, gpu: &Gpu) -> Occupancy {
        let warps_block = block.threads.div_ceil(32).max(1);
        let warps_max = gpu.threads_max / 32;
        // Registers of a warp lie in one sub-partition. A block has to fit as if its warps went evenly around all four.
        let registers_warp = (block.registers * 32).next_multiple_of(REGISTERS_UNIT).max(REGISTERS_UNIT);
        let warps_by_registers = REGISTERS_SUB_PARTITION / registers_warp * SUB_PARTITIONS;
        let fits = warps_block.next_multiple_of(SUB_PARTITIONS) <= warps_by_registers;
        let by_registers = if fits { warps_by_registers / warps_block } else { 0 };
        let shared_block = (block.shared_bytes + RESERVED_BYTES).next_multiple_of(SHARED_UNIT_BYTES);
        let by_shared =
            if block.shared_bytes > gpu.shared_bytes_block_max { 0 } else { gpu.shared_bytes / shared_block };
        let candidates = [
            ("registers", by_registers),
            ("shared", by_shared),
            ("threads", warps_max / warps_block),
            ("blocks", gpu.blocks_max),
        ];
        let blocks = candidates.iter().map(|(_, blocks)| *blocks).min().unwrap_or(0);
        let limits = candidates.iter().filter(|(_, limit)| *limit == blocks).map(|(name, _)| *name).collect();
        Occupancy { gpu: gpu.name, blocks, warps: blocks * warps_block, warps_max, limits }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occupancy(threads: u32, registers: u32, shared_kb: u32) -> [Occupancy; 4] {
        Gpu::ALL.map(|gpu| Occupancy::of(&Block { threads, registers, shared_bytes: shared_kb << 10 }, &gpu))
    }

    #[test]
    fn registers_limit_large_tiles() {
        for found in occupancy(128, 244, 32) {
            assert_eq!((found.blocks, found.warps), (2, 8), "{found:?}");
            assert_eq!(found.limits, ["registers"], "{found:?}");
        }
        // 168 registers are 5376 of a warp: three warps a sub-partition.
        assert_eq!(occupancy(128, 168, 8)[0].blocks, 3);
        assert_eq!(occupancy(128, 169, 8)[0].blocks, 2);
    }

    #[test]
    fn shared_memory_counts_with_the_kilobyte_of_the_driver() {
        let blocks: Vec<u32> = occupancy(128, 64, 40).iter().map(|found| found.blocks).collect();
        // 164 / 41, 100 / 41, 228 / 41.
        assert_eq!(blocks, [4, 2, 2, 5]);
        let blocks: Vec<u32> = occupancy(128, 64, 100).iter().map(|found| found.blocks).collect();
        assert_eq!(blocks, [1, 0, 0, 2]);
        assert_eq!(occupancy(128, 64, 163)[0].blocks, 1);
    }

    #[test]
    fn small_blocks_are_limited_by_threads_and_by_their_number() {
        let [a100, a40, l40s, h100] = occupancy(32, 16, 0);
        assert_eq!((a100.blocks, a100.limits), (32, vec!["blocks"]));
        assert_eq!((a40.blocks, l40s.blocks, h100.blocks), (16, 24, 32));
        let [a100, a40, ..] = occupancy(512, 32, 0);
        assert_eq!((a100.blocks, a100.warps, a100.limits), (4, 64, vec!["registers", "threads"]));
        assert_eq!((a40.blocks, a40.warps, a40.warps_max), (3, 48, 48));
    }
}
