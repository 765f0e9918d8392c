//! Which registers share a row. nvcc writes nearly every value to a virtual register of its own, and a row takes 128
//! or 256 bytes per warp: with one row each, the registers of a few warps would not fit the host's caches.
//!
//! A register that every path writes before it reads gets a row for the span of instructions in which it is live,
//! loops included. This holds for each lane by itself, so it does not matter where the lanes of a warp are. Registers
//! that may be read before they are written keep a row of their own, which tells which lanes wrote it, and so do
//! registers of asynchronous matrix products, which are in use longer than the instructions tell.

use std::collections::BTreeSet;

use crate::module::{Class, Instruction, Kernel, Operand};

/// The registers an instruction reads and writes.
#[derive(Debug, Clone, Default)]
pub(super) struct Access {
    pub reads: Vec<u32>,
    pub writes: Vec<u32>,
    /// The instruction goes on using its word registers after the next ones have begun.
    pub holds: bool,
}

/// The registers that some instruction holds.
pub(super) fn held(kernel: &Kernel, accesses: &[Access]) -> Vec<bool> {
    let mut held = vec![false; kernel.registers.len()];
    for access in accesses.iter().filter(|access| access.holds) {
        for register in access.reads.iter().chain(&access.writes) {
            held[*register as usize] |= kernel.registers[*register as usize].ty.class() == Class::Word;
        }
    }
    held
}

/// A set of registers.
#[derive(Clone, PartialEq)]
struct Bits(Vec<u64>);

impl Bits {
    fn new(size: usize) -> Self {
        Bits(vec![0; size.div_ceil(64)])
    }

    fn insert(&mut self, index: u32) {
        self.0[index as usize / 64] |= 1 << (index % 64);
    }

    fn contains(&self, index: u32) -> bool {
        self.0[index as usize / 64] >> (index % 64) & 1 != 0
    }

    fn iter(&self) -> impl Iterator<Item = u32> {
        self.0
            .iter()
            .enumerate()
            .flat_map(|(at, word)| (0..64).filter(move |bit| word >> bit & 1 != 0).map(move |bit| at as u32 * 64 + bit))
    }
}

/// Instructions without a jump into or out of their middle.
struct Block {
    start: usize,
    end: usize,
    successors: Vec<usize>,
    /// Read before any write that happens for sure.
    reads: Bits,
    /// Written for sure.
    writes: Bits,
    live_in: Bits,
}

/// Rows per register, and how many rows of words and longs there are.
pub(super) struct Rows {
    pub of: Vec<Option<u32>>,
    pub words: u32,
    pub longs: u32,
    /// Registers with a row of their own.
    pub own: Vec<bool>,
}

/// Words of bit sets that the analysis may take; no compiled kernel comes near.
const SET_WORDS_MAX: usize = 8 << 20;

pub(super) fn allocate(kernel: &Kernel, accesses: &[Access]) -> Rows {
    let count = kernel.registers.len();
    let class = |register: u32| kernel.registers[register as usize].ty.class();
    let starts = block_starts(kernel);
    if starts.len().saturating_mul(count / 64 + 1) > SET_WORDS_MAX {
        return one_row_each(kernel);
    }
    let blocks = live_blocks(kernel, accesses, &starts);
    let mut spans: Vec<Option<(usize, usize)>> = vec![None; count];
    let mut extend = |register: u32, at: usize| {
        let span = spans[register as usize].get_or_insert((at, at));
        *span = (span.0.min(at), span.1.max(at));
    };
    for block in &blocks {
        for register in block.live_in.iter() {
            extend(register, block.start);
        }
        for successor in &block.successors {
            for register in blocks[*successor].live_in.iter() {
                extend(register, block.end - 1);
            }
        }
    }
    for (at, access) in accesses.iter().enumerate() {
        access.reads.iter().chain(&access.writes).for_each(|register| extend(*register, at));
    }
    let mut rows = Rows { of: vec![None; count], words: 0, longs: 0, own: vec![false; count] };
    let undefined = |register: u32| blocks.first().is_some_and(|entry| entry.live_in.contains(register));
    let held = held(kernel, accesses);
    for wanted in [Class::Word, Class::Long] {
        let mut order: Vec<(usize, usize, u32)> = Vec::new();
        let mut next = 0;
        for register in (0..count as u32).filter(|register| class(*register) == wanted) {
            let Some((first, last)) = spans[register as usize] else { continue };
            if undefined(register) || held[register as usize] {
                rows.of[register as usize] = Some(next);
                rows.own[register as usize] = true;
                next += 1;
            } else {
                order.push((first, last, register));
            }
        }
        order.sort_unstable();
        // Rows in use by the end of their span, and rows that are free again, lowest first.
        let mut busy: BTreeSet<(usize, u32)> = BTreeSet::new();
        let mut free: BTreeSet<u32> = BTreeSet::new();
        for (first, last, register) in order {
            while let Some((end, row)) = busy.first().copied().filter(|(end, _)| *end < first) {
                busy.remove(&(end, row));
                free.insert(row);
            }
            let row = free.pop_first().unwrap_or_else(|| {
                next += 1;
                next - 1
            });
            busy.insert((last, row));
            rows.of[register as usize] = Some(row);
        }
        match wanted {
            Class::Word => rows.words = next,
            _ => rows.longs = next,
        }
    }
    rows
}

/// A row of its own for each register.
fn one_row_each(kernel: &Kernel) -> Rows {
    let count = kernel.registers.len();
    let mut rows = Rows { of: vec![None; count], words: 0, longs: 0, own: vec![true; count] };
    for (row, register) in rows.of.iter_mut().zip(&kernel.registers) {
        let next = match register.ty.class() {
            Class::Word => &mut rows.words,
            Class::Long => &mut rows.longs,
            Class::Predicate => continue,
        };
        *row = Some(*next);
        *next += 1;
    }
    rows
}

/// The instructions that blocks start with.
fn block_starts(kernel: &Kernel) -> Vec<usize> {
    let code = &kernel.code;
    let mut leaders = BTreeSet::from([0]);
    for (at, instruction) in code.iter().enumerate() {
        if let Some(targets) = jump(kernel, instruction) {
            leaders.extend(targets);
            leaders.insert(at + 1);
        }
    }
    leaders.into_iter().filter(|start| *start < code.len()).collect()
}

/// The kernel's blocks with the registers that are live where each starts.
fn live_blocks(kernel: &Kernel, accesses: &[Access], starts: &[usize]) -> Vec<Block> {
    let (code, count) = (&kernel.code, kernel.registers.len());
    let block_at = |start: usize| starts.binary_search(&start).ok();
    let mut blocks: Vec<Block> = starts
        .iter()
        .enumerate()
        .map(|(index, &start)| {
            let end = starts.get(index + 1).copied().unwrap_or(code.len());
            let last = &code[end - 1];
            let jump = jump(kernel, last);
            let goes_on = jump.is_none() || last.guard.is_some();
            let mut successors: Vec<usize> = jump.into_iter().flatten().filter_map(block_at).collect();
            successors.extend(if goes_on { block_at(end) } else { None });
            let (mut reads, mut writes) = (Bits::new(count), Bits::new(count));
            for at in start..end {
                for register in &accesses[at].reads {
                    if !writes.contains(*register) {
                        reads.insert(*register);
                    }
                }
                // A write under a guard leaves the old value in some lanes.
                if code[at].guard.is_none() {
                    accesses[at].writes.iter().for_each(|register| writes.insert(*register));
                }
            }
            Block { start, end, successors, live_in: reads.clone(), reads, writes }
        })
        .collect();
    loop {
        let mut changed = false;
        for index in (0..blocks.len()).rev() {
            let mut live = blocks[index].reads.clone();
            for successor in blocks[index].successors.clone() {
                let (after, block) = (&blocks[successor].live_in, &blocks[index]);
                for (word, (from, written)) in live.0.iter_mut().zip(after.0.iter().zip(&block.writes.0)) {
                    *word |= from & !written;
                }
            }
            changed |= live != blocks[index].live_in;
            blocks[index].live_in = live;
        }
        if !changed {
            return blocks;
        }
    }
}

/// Where an instruction may jump to; `None` if it only goes on to the next.
fn jump(kernel: &Kernel, instruction: &Instruction) -> Option<Vec<usize>> {
    let base = instruction.opcode.split('.').next().unwrap_or("");
    match base {
        "ret" | "exit" | "trap" => Some(Vec::new()),
        "bra" | "brx" => Some(
            instruction
                .operands
                .iter()
                .flat_map(|operand| match operand {
                    Operand::Label(target) => vec![*target as usize],
                    Operand::Symbol(name, _) => {
                        let table = kernel.branch_targets.get(name).map(Vec::as_slice).unwrap_or_default();
                        table.iter().map(|target| *target as usize).collect()
                    }
                    _ => Vec::new(),
                })
                .collect(),
        ),
        _ => None,
    }
}
