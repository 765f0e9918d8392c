//! Matrix products of warpgroups as deferred effects, and the registers that they hold until a wait covers them.
//!
//! Each warp runs its own share of a product, 16 rows of A. Registers belong to a product from its issue to the wait:
//! the accumulators altogether, the fragments of A as far as writing goes. Ordinary instructions that name such a
//! register are known when the program is decoded ([`Touch`]) and are the only ones that are looked at.

use std::collections::VecDeque;

use super::Exec;
use crate::decode::{Inst, Touch};
use crate::hazard::{Access, HazardKind};
use crate::module::{Position, Space};
use crate::numerics::tensor_core::fraction_bits;
use crate::numerics::warpgroup::{
    Element, Group, Major, Tile, group_of_halves, group_of_words, halves, load_tiles, multiply, multiply_aligned,
    tiles_of_registers, words,
};
use crate::options::{Completion, TensorCore};
use crate::shadow::clock::WHOLE_WARP;

/// Bytes that a descriptor's tile is made of: eight 16-bit elements.
const CHUNK_BYTES: u32 = 16;

/// What kind of product an instruction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Columns of B.
    pub columns: u32,
    pub element: Element,
    /// The sums are f16.
    pub half_sum: bool,
    pub a_in_registers: bool,
    pub a_major: Major,
    pub b_major: Major,
    /// The product is subtracted.
    pub negate: bool,
}

impl Shape {
    /// Registers of the sums.
    pub fn sums(self) -> usize {
        self.columns as usize / if self.half_sum { 4 } else { 2 }
    }

    /// Columns of A.
    pub fn depth(self) -> usize {
        if self.element == Element::Tf32 { 8 } else { 16 }
    }

    /// Whether two products may follow each other on the same sums without a fence.
    fn chains(self, other: Shape) -> bool {
        (self.columns, self.depth(), self.half_sum) == (other.columns, other.depth(), other.half_sum)
    }
}

/// A product that has been issued.
#[derive(Debug)]
struct Product {
    number: u32,
    group: u32,
    pc: u32,
    shape: Shape,
    /// Whether the old sums are added.
    accumulates: bool,
    /// Addresses of the chunks of A, if it is in shared memory, and of B.
    a: Vec<u32>,
    b: Vec<u32>,
    /// The same as addresses and lengths of pieces.
    pieces: Vec<(u32, u32)>,
    done: bool,
}

/// What the products and the other instructions of a warp did with a register.
#[derive(Debug, Clone, Copy, Default)]
struct RegisterState {
    /// The last product with this accumulator.
    accumulator_of: u32,
    /// The last product with this fragment of A.
    fragment_of: u32,
    /// Fences before the last ordinary read, plus 1; and the same for writes.
    read: u32,
    written: u32,
    /// The last ordinary instruction.
    pc: u32,
}

/// The products of one warp.
#[derive(Debug, Default)]
pub(crate) struct ProductQueue {
    pending: VecDeque<Product>,
    /// Products are numbered from 1.
    issued: u32,
    completed: u32,
    /// Groups that were committed.
    committed: u32,
    fences: u32,
    /// The last product before the last fence.
    fenced: u32,
    registers: Vec<RegisterState>,
}

impl ProductQueue {
    /// For a warp with that many word rows, 0 if the program has no such products.
    pub fn new(rows: usize) -> Self {
        ProductQueue { registers: vec![RegisterState::default(); rows], ..ProductQueue::default() }
    }

    fn product(&self, number: u32) -> Option<&Product> {
        self.pending.get(number.checked_sub(self.completed + 1)? as usize)
    }
}

/// A matrix descriptor.
#[derive(Debug, Clone, Copy)]
struct Descriptor {
    start: u32,
    /// Between parts along the leading dimension, in bytes, and along the other one.
    leading: u32,
    stride: u32,
    /// Chunks of a swizzled line, 1 without swizzle.
    width: u32,
}

impl Descriptor {
    fn new(bits: u64) -> Self {
        let field = |from: u32| (bits >> from & 0x3fff) as u32 * 16;
        let width = [1, 8, 4, 2][(bits >> 62) as usize];
        Descriptor { start: field(0), leading: field(16), stride: field(32), width }
    }

    /// Addresses of the chunks of `count` groups of eight rows (or columns) from group `first` on, 16 for each.
    fn chunks(self, major: Major, first: u32, count: u32) -> Vec<u32> {
        let Descriptor { start, leading, stride, width } = self;
        let mut all = Vec::with_capacity(count as usize * 16);
        for group in first..first + count {
            for index in 0..16 {
                let (half, line) = (index / 8, index % 8);
                let offset = match (major, width) {
                    (Major::K, 1) => group * stride + line * CHUNK_BYTES + half * leading,
                    (Major::K, _) => group * stride + line * width * CHUNK_BYTES + half * CHUNK_BYTES,
                    (Major::Mn, 1) => group * stride + line * CHUNK_BYTES + half * leading,
                    (Major::Mn, _) => {
                        let across = group % width * CHUNK_BYTES + group / width * leading;
                        across + line * width * CHUNK_BYTES + half * stride
                    }
                };
                let linear = start + offset;
                all.push(linear ^ (linear >> 3) & ((width - 1) * CHUNK_BYTES));
            }
        }
        all
    }
}

/// What is wrong with a descriptor.
fn descriptor_fault(bits: u64) -> Option<&'static str> {
    const RESERVED: u64 = 0x3 << 14 | 0x3 << 30 | 0x7 << 46 | 0x3ff << 52;
    if bits & RESERVED != 0 {
        Some("bits that must be zero are set")
    } else if bits >> 49 & 7 != 0 {
        Some("its base offset is not zero, which is not modelled")
    } else {
        None
    }
}

/// Merges chunks into pieces, by address.
fn pieces(chunks: &[u32], into: &mut Vec<(u32, u32)>) {
    let Some(lowest) = chunks.iter().min().map(|lowest| lowest / CHUNK_BYTES) else { return };
    let highest = chunks.iter().max().map_or(lowest, |highest| highest / CHUNK_BYTES);
    let mut present = vec![0u64; ((highest - lowest) / 64 + 1) as usize];
    for chunk in chunks {
        let at = chunk / CHUNK_BYTES - lowest;
        present[(at / 64) as usize] |= 1 << (at % 64);
    }
    for (word, bits) in present.iter().enumerate() {
        let mut rest = *bits;
        while rest != 0 {
            let first = rest.trailing_zeros();
            let length = (rest >> first).trailing_ones();
            rest &= !(u64::MAX >> (64 - length) << first);
            let address = (lowest + word as u32 * 64 + first) * CHUNK_BYTES;
            into.push((address, length * CHUNK_BYTES));
        }
    }
}

impl Exec<'_> {
    /// `wgmma.fence`
    pub fn fence_products(&mut self) {
        let queue = &mut self.warp.products;
        queue.fences += 1;
        queue.fenced = queue.issued;
    }

    /// `wgmma.commit_group`
    pub fn commit_products(&mut self) {
        self.warp.products.committed += 1;
    }

    /// `wgmma.wait_group`: completes all but the latest `remaining` groups.
    pub fn wait_products(&mut self, remaining: u32) {
        while let Some(first) = self.warp.products.pending.front()
            && first.group.saturating_add(remaining) < self.warp.products.committed
        {
            let Some(product) = self.warp.products.pending.pop_front() else { return };
            if !product.done {
                self.compute(&product);
            }
            if self.launch.options.checks.shared_races {
                for (address, bytes) in &product.pieces {
                    self.block.shared_shadow.end_async_read(&self.warp.clock, WHOLE_WARP, *address, *bytes);
                }
            }
            self.warp.products.completed = product.number;
        }
    }

    /// The warp exits.
    pub fn end_products(&mut self) {
        if let Some(product) = self.warp.products.pending.front() {
            let issued = Box::new(self.launch.position(product.pc));
            let committed = product.group < self.warp.products.committed;
            self.report(None, None, HazardKind::UnfinishedProduct { issued, committed });
        }
        self.warp.products.pending.clear();
    }

    /// An ordinary instruction reads or writes registers that products use as well.
    #[inline(never)]
    pub fn touch_registers(&mut self) {
        let launch = self.launch;
        let pc = self.pc;
        let mut found = None;
        let queue = &mut self.warp.products;
        let (epoch, completed) = (queue.fences + 1, queue.completed);
        for Touch { row, writes } in &launch.program.touches[pc as usize] {
            let state = &mut queue.registers[*row as usize];
            if state.accumulator_of > completed {
                found = Some((*row, *writes, state.accumulator_of));
            } else if *writes && state.fragment_of > completed {
                found = Some((*row, true, state.fragment_of));
            }
            *(if *writes { &mut state.written } else { &mut state.read }) = epoch;
            state.pc = pc;
        }
        if let Some((row, writes, number)) = found {
            self.report_in_flight(row, if writes { Access::Write } else { Access::Read }, number);
        }
    }

    #[cold]
    fn report_in_flight(&mut self, row: u32, access: Access, number: u32) {
        let queue = &self.warp.products;
        let Some(product) = queue.product(number) else { return };
        let committed = product.group < queue.committed;
        let issued = Box::new(self.launch.position(product.pc));
        let register = self.launch.program.word_names.get(&row).cloned();
        self.report(None, None, HazardKind::RegisterInFlight { register, access, issued, committed });
    }

    fn report_unfenced(&mut self, row: Option<u32>, touched: Option<u32>) {
        let register = row.and_then(|row| self.launch.program.word_names.get(&row).cloned());
        let touched: Option<Box<Position>> = touched.map(|pc| Box::new(self.launch.position(pc)));
        self.report(None, None, HazardKind::MissingProductFence { register, touched });
    }

    /// Checks the registers of a product that is about to be issued, and reserves them.
    fn reserve_registers(&mut self, rows: &[u32], shape: Shape, number: u32, accumulates: bool) {
        let (sums, fragments) = rows.split_at(shape.sums());
        let queue = &mut self.warp.products;
        let (epoch, completed, fenced) = (queue.fences + 1, queue.completed, queue.fenced);
        let mut unfenced = if queue.fences == 0 { Some((None, None)) } else { None };
        let mut in_flight = None;
        for row in sums {
            let state = queue.registers[*row as usize];
            if state.read == epoch || state.written == epoch {
                unfenced = unfenced.or(Some((Some(*row), Some(state.pc))));
            }
            if state.fragment_of > completed {
                in_flight = Some((*row, Access::Write, state.fragment_of));
            }
            if state.accumulator_of > completed.max(fenced)
                && let Some(before) = queue.product(state.accumulator_of).filter(|before| !before.shape.chains(shape))
            {
                unfenced = unfenced.or(Some((Some(*row), Some(before.pc))));
            }
            queue.registers[*row as usize].accumulator_of = number;
        }
        for row in fragments {
            let state = queue.registers[*row as usize];
            if state.written == epoch {
                unfenced = unfenced.or(Some((Some(*row), Some(state.pc))));
            }
            // The product's own accumulators are no fragments of it either.
            if state.accumulator_of > completed {
                in_flight = Some((*row, Access::Read, state.accumulator_of));
            }
            queue.registers[*row as usize].fragment_of = number;
        }
        if let Some((row, touched)) = unfenced {
            self.report_unfenced(row, touched);
        }
        if let Some((row, access, before)) = in_flight {
            self.report_in_flight(row, access, before);
        }
        let read = if accumulates { rows } else { fragments };
        for row in read {
            self.word(*row, u32::MAX);
        }
        for row in sums {
            self.warp.registers.words_defined[*row as usize] = u32::MAX;
        }
    }

    /// Issues a product whose operands are the same in all lanes. Returns whether its operands lie in shared memory.
    pub fn issue_product(&mut self, inst: &Inst, shape: Shape, a: u64, b: u64, accumulates: bool) -> bool {
        for bits in [if shape.a_in_registers { 0 } else { a }, b] {
            if let Some(reason) = descriptor_fault(bits) {
                self.report(None, None, HazardKind::InvalidDescriptor { descriptor: bits, reason: reason.to_owned() });
            }
        }
        let quarter = self.warp.index % super::warpgroup::WARPS as u32;
        let a = match shape.a_in_registers {
            true => Vec::new(),
            false => Descriptor::new(a).chunks(shape.a_major, 2 * quarter, 2),
        };
        let b = Descriptor::new(b).chunks(shape.b_major, 0, shape.columns / 8);
        let limit = self.launch.shared_bytes;
        if let Some(outside) = a.iter().chain(&b).find(|address| **address + CHUNK_BYTES > limit) {
            self.out_of_bounds(Space::Shared, Access::Read, 0, u64::from(*outside), CHUNK_BYTES);
            return false;
        }
        let number = self.warp.products.issued + 1;
        self.reserve_registers(&inst.rows, shape, number, accumulates);
        let mut operands = Vec::new();
        pieces(&a, &mut operands);
        pieces(&b, &mut operands);
        self.check_operands(&operands);
        let columns = u64::from(shape.columns);
        let tally = &mut self.block.tally;
        tally.tensor_instructions += 1;
        tally.tensor_flops += 2 * 16 * columns * shape.depth() as u64;
        let product = Product {
            number,
            group: self.warp.products.committed,
            pc: self.pc,
            shape,
            accumulates,
            a,
            b,
            pieces: operands,
            done: false,
        };
        let early = match self.launch.options.completion {
            Completion::Latest => false,
            Completion::Earliest => true,
            // Products of a warp complete in order.
            Completion::Random => {
                self.block.random.next() & 1 == 0 && self.warp.products.pending.back().is_none_or(|last| last.done)
            }
        };
        if early {
            self.compute(&product);
        }
        self.warp.products.issued = number;
        self.warp.products.pending.push_back(Product { done: early, ..product });
        true
    }

    fn check_operands(&mut self, pieces: &[(u32, u32)]) {
        let checks = self.launch.options.checks;
        for (address, bytes) in pieces {
            if checks.shared_races {
                let actor = self.actor(0, false);
                let shadow = &mut self.block.shared_shadow;
                if let Some(conflict) = shadow.begin_async_read(&self.warp.clock, actor, *address, *bytes) {
                    self.report_conflict(Space::Shared, Access::AsyncRead, 0, u64::from(*address), conflict);
                }
            }
            if checks.uninitialized_memory && !self.block.shared_shadow.is_written(*address, *bytes) {
                self.report_uninitialized(Space::Shared, 0, u64::from(*address), *bytes);
            }
        }
    }

    /// The product itself.
    fn compute(&mut self, product: &Product) {
        let launch = self.launch;
        let shape = product.shape;
        let rows = &launch.program.code[product.pc as usize].rows;
        let (sums, fragments) = rows.split_at(shape.sums());
        let groups_count = shape.columns as usize / 8;
        let mut tiles = std::mem::take(&mut self.block.warpgroups.tiles);
        let mut groups = std::mem::take(&mut self.block.warpgroups.groups);
        tiles.resize(groups_count, Tile::default());
        groups.resize(groups_count, Group::default());
        load_tiles(&self.block.shared, &product.b, shape.element, shape.b_major, &mut tiles);
        let registers = &mut self.warp.registers.words;
        let mut a = [Tile::default(); 2];
        if shape.a_in_registers {
            let fragments = std::array::from_fn(|at| registers[fragments[at] as usize]);
            a = tiles_of_registers(&fragments, shape.element);
        } else {
            load_tiles(&self.block.shared, &product.a, shape.element, shape.a_major, &mut a);
        }
        if shape.negate {
            a.as_flattened_mut().as_flattened_mut().iter_mut().for_each(|value| *value = -*value);
        }
        let row = |at: usize| sums[at] as usize;
        for (at, group) in groups.iter_mut().enumerate() {
            *group = if !product.accumulates {
                Group::default()
            } else if shape.half_sum {
                group_of_halves([&registers[row(2 * at)], &registers[row(2 * at + 1)]])
            } else {
                group_of_words(std::array::from_fn(|i| &registers[row(4 * at + i)]))
            };
        }
        match launch.options.tensor_core {
            TensorCore::Sequential => multiply(&a, &tiles, shape.depth(), &mut groups),
            TensorCore::Aligned => {
                let bits = fraction_bits(launch.options.architecture);
                multiply_aligned(&a, &tiles, shape.depth(), bits, &mut groups);
            }
        }
        for (at, group) in groups.iter().enumerate() {
            if shape.half_sum {
                registers[row(2 * at)] = halves(&group[0], &group[1]);
                registers[row(2 * at + 1)] = halves(&group[2], &group[3]);
            } else {
                for (i, lanes) in group.iter().enumerate() {
                    registers[row(4 * at + i)] = words(lanes);
                }
            }
        }
        self.block.warpgroups.tiles = tiles;
        self.block.warpgroups.groups = groups;
    }
}
