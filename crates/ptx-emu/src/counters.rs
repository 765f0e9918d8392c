//! Exact, deterministic figures about a run.

use std::collections::BTreeMap;

use crate::module::Position;

/// Shared-memory wavefronts of one kind of access.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wavefronts {
    /// Warp instructions.
    pub instructions: u64,
    /// Passes through the 32 banks that were needed.
    pub actual: u64,
    /// Passes that conflict-free addresses would have needed.
    pub ideal: u64,
}

impl Wavefronts {
    pub(crate) fn add(&mut self, other: Wavefronts) {
        self.instructions += other.instructions;
        self.actual += other.actual;
        self.ideal += other.ideal;
    }
}

/// Global-memory traffic of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sectors {
    /// Warp instructions.
    pub instructions: u64,
    /// 32-byte sectors touched, counted per warp instruction.
    pub actual: u64,
    /// Sectors that the same bytes would fill when packed.
    pub ideal: u64,
}

impl Sectors {
    pub(crate) fn add(&mut self, other: Sectors) {
        self.instructions += other.instructions;
        self.actual += other.actual;
        self.ideal += other.ideal;
    }
}

/// The kinds of shared-memory access that are counted apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum SharedAccess {
    Load,
    Store,
    Atomic,
    LoadMatrix,
    StoreMatrix,
    AsyncCopy,
    /// Bulk and tensor copies, in both directions.
    BulkCopy,
}

/// The kinds of global-memory access that are counted apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum GlobalAccess {
    Load,
    Store,
    Atomic,
    AsyncCopy,
    /// Bulk and tensor copies, in both directions.
    BulkCopy,
}

/// Instructions of one source line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LineCount {
    /// Warp instructions issued.
    pub warp_instructions: u64,
    /// Lanes that executed them.
    pub thread_instructions: u64,
}

/// What a launch cost.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counters {
    /// Warp instructions issued, also those whose guard was false for all lanes.
    pub warp_instructions: u64,
    /// The same, by opcode with modifiers.
    pub by_opcode: BTreeMap<String, u64>,
    /// By (file, line) of the CUDA source, or by an empty file name and the PTX line.
    pub by_line: BTreeMap<(String, u32), LineCount>,
    /// By PTX instruction, for closer looks: its place and the counts.
    pub by_instruction: Vec<(Position, LineCount)>,
    /// Sum over warp instructions of the lanes that executed them.
    pub thread_instructions: u64,
    /// Matrix multiply-accumulate instructions.
    pub tensor_instructions: u64,
    /// Floating-point operations in them (a multiply-add counts two).
    pub tensor_flops: u64,
    /// Shared memory, by kind of access.
    pub shared: BTreeMap<SharedAccess, Wavefronts>,
    /// Global memory, by kind of access.
    pub global: BTreeMap<GlobalAccess, Sectors>,
    /// Arrivals of warps at block barriers.
    pub barrier_arrivals: u64,
    /// Arrivals at which the warp had to wait for others.
    pub barrier_waits: u64,
    /// Branches at which the lanes of a warp parted.
    pub divergent_branches: u64,
    /// Warp instructions issued for a part of the warp's live lanes because they had parted.
    pub divergent_instructions: u64,
}

impl Counters {
    /// Warp instructions whose opcode starts with `prefix`.
    pub fn instructions_like(&self, prefix: &str) -> u64 {
        self.by_opcode.iter().filter(|(opcode, _)| opcode.starts_with(prefix)).map(|(_, count)| count).sum()
    }

    /// All kinds of shared-memory access together.
    pub fn shared_total(&self) -> Wavefronts {
        let mut total = Wavefronts::default();
        self.shared.values().for_each(|w| total.add(*w));
        total
    }

    /// All kinds of global-memory access together.
    pub fn global_total(&self) -> Sectors {
        let mut total = Sectors::default();
        self.global.values().for_each(|s| total.add(*s));
        total
    }
}

/// The counters of one block while it runs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    pub issued: Vec<u64>,
    pub lanes: Vec<u64>,
    pub tensor_instructions: u64,
    pub tensor_flops: u64,
    pub shared: [Wavefronts; 7],
    pub global: [Sectors; 5],
    pub barrier_arrivals: u64,
    pub barrier_waits: u64,
    pub divergent_branches: u64,
    pub divergent_instructions: u64,
}

impl Tally {
    pub fn new(instructions: usize) -> Self {
        Tally { issued: vec![0; instructions], lanes: vec![0; instructions], ..Tally::default() }
    }

    pub fn merge(&mut self, other: &Tally) {
        self.issued.iter_mut().zip(&other.issued).for_each(|(a, b)| *a += b);
        self.lanes.iter_mut().zip(&other.lanes).for_each(|(a, b)| *a += b);
        self.tensor_instructions += other.tensor_instructions;
        self.tensor_flops += other.tensor_flops;
        self.shared.iter_mut().zip(&other.shared).for_each(|(a, b)| a.add(*b));
        self.global.iter_mut().zip(&other.global).for_each(|(a, b)| a.add(*b));
        self.barrier_arrivals += other.barrier_arrivals;
        self.barrier_waits += other.barrier_waits;
        self.divergent_branches += other.divergent_branches;
        self.divergent_instructions += other.divergent_instructions;
    }

    /// The public form; `position` gives the place of each instruction.
    pub fn finish(self, position: impl Fn(usize) -> Position) -> Counters {
        use {GlobalAccess as G, SharedAccess as S};
        let mut counters = Counters {
            tensor_instructions: self.tensor_instructions,
            tensor_flops: self.tensor_flops,
            barrier_arrivals: self.barrier_arrivals,
            barrier_waits: self.barrier_waits,
            divergent_branches: self.divergent_branches,
            divergent_instructions: self.divergent_instructions,
            ..Counters::default()
        };
        for (index, (issued, lanes)) in self.issued.iter().zip(&self.lanes).enumerate() {
            let place = position(index);
            counters.warp_instructions += issued;
            counters.thread_instructions += lanes;
            if *issued > 0 {
                *counters.by_opcode.entry(place.opcode.to_string()).or_default() += issued;
                let key = match &place.file {
                    Some(file) => (file.to_string(), place.line),
                    None => (String::new(), place.ptx_line),
                };
                let line = counters.by_line.entry(key).or_default();
                line.warp_instructions += issued;
                line.thread_instructions += lanes;
            }
            let count = LineCount { warp_instructions: *issued, thread_instructions: *lanes };
            counters.by_instruction.push((place, count));
        }
        let shared = [S::Load, S::Store, S::Atomic, S::LoadMatrix, S::StoreMatrix, S::AsyncCopy, S::BulkCopy];
        counters.shared = shared.into_iter().zip(self.shared).filter(|(_, w)| w.instructions > 0).collect();
        let global = [G::Load, G::Store, G::Atomic, G::AsyncCopy, G::BulkCopy];
        counters.global = global.into_iter().zip(self.global).filter(|(_, s)| s.instructions > 0).collect();
        counters
    }
}

/// Wavefronts of one warp-wide shared access in which each active lane touches `bytes` consecutive
/// bytes. Accesses of 8 bytes go in two halves of the warp, of 16 bytes in four quarters.
pub(crate) fn shared_wavefronts(addresses: &[u32; 32], mask: u32, bytes: u32) -> Wavefronts {
    let lanes_per_pass = match bytes {
        0..=4 => 32,
        5..=8 => 16,
        _ => 8,
    };
    let words = bytes.div_ceil(4);
    let mut result = Wavefronts { instructions: 1, actual: 0, ideal: 0 };
    let mut first = 0;
    while first < 32 {
        let in_pass = mask >> first & (u32::MAX >> (32 - lanes_per_pass));
        if in_pass != 0 {
            result.ideal += 1;
            result.actual += bank_passes(addresses, first, in_pass, words);
        }
        first += lanes_per_pass;
    }
    result
}

/// The largest number of distinct words that fall into one bank.
fn bank_passes(addresses: &[u32; 32], first: u32, lanes: u32, words: u32) -> u64 {
    let mut seen = [u32::MAX; 32];
    // At most 32 lanes of one word, 16 of two or 8 of four.
    let mut conflicts = [0u32; 32];
    let mut count = 0;
    let mut rest = lanes;
    while rest != 0 {
        let lane = first + rest.trailing_zeros();
        rest &= rest - 1;
        let word = addresses[lane as usize] >> 2;
        for word in word..word.saturating_add(words) {
            let slot = &mut seen[(word & 31) as usize];
            if *slot == u32::MAX {
                *slot = word;
            } else if *slot != word {
                conflicts[count] = word;
                count += 1;
            }
        }
    }
    let conflicts = &mut conflicts[..count];
    conflicts.sort_unstable();
    let mut per_bank = [1u64; 32];
    let mut last = None;
    for word in conflicts.iter().filter(|word| last.replace(**word) != Some(**word)) {
        per_bank[(word & 31) as usize] += 1;
    }
    per_bank.into_iter().max().unwrap_or(1)
}

/// Sectors of one warp-wide global access in which each active lane touches `bytes` bytes.
pub(crate) fn global_sectors(addresses: &[u64; 32], mask: u32, bytes: u32) -> Sectors {
    if mask == 0 {
        return Sectors { instructions: 1, actual: 0, ideal: 0 };
    }
    let mut keys = [(0u64, 0u32); 32];
    let mut count = 0;
    let mut sorted = true;
    let mut rest = mask;
    while rest != 0 {
        let lane = rest.trailing_zeros();
        rest &= rest - 1;
        keys[count] = (addresses[lane as usize], lane);
        sorted &= count == 0 || keys[count - 1].0 <= keys[count].0;
        count += 1;
    }
    let keys = &mut keys[..count];
    if !sorted {
        keys.sort_unstable();
    }
    let (mut actual, mut distinct_bytes) = (0, 0u64);
    let (mut next_sector, mut next_byte) = (0u64, 0u64);
    for &(address, _) in keys.iter() {
        let end = address.saturating_add(u64::from(bytes));
        distinct_bytes += end.saturating_sub(address.max(next_byte));
        next_byte = next_byte.max(end);
        let (low, high) = (address >> 5, (end.max(1) - 1) >> 5);
        actual += (high + 1).saturating_sub(low.max(next_sector));
        next_sector = next_sector.max(high + 1);
    }
    Sectors { instructions: 1, actual, ideal: distinct_bytes.div_ceil(32) }
}
