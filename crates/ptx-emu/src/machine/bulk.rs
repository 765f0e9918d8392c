//! Bulk and tensor copies (`cp.async.bulk`) as deferred effects. Those into shared memory complete at an mbarrier, those out
//! of it belong to groups that a lane commits and waits for.

use super::cluster::Blocks;
use super::mbarrier;
use super::report::{Place, other};
use super::{Exec, LaunchState, each_lane};
use crate::hazard::{Access, HazardKind, MbarrierFault};
use crate::memory::Allocation;
use crate::module::ScalarType;
use crate::options::Completion;
use crate::shadow::Event;
use crate::tensor_map::{Piece, Swizzle};

/// A copy of one lane.
#[derive(Debug, Clone)]
pub(crate) struct Bulk {
    /// Number of the issuing warp in the cluster.
    pub warp: u32,
    pub lane: u32,
    pub pc: u32,
    /// The parts that lie in global memory; the rest of the box lies outside of the tensor.
    pub pieces: Vec<Piece>,
    /// Bytes in shared memory.
    pub bytes: u32,
    pub swizzle: Swizzle,
    /// An element outside of the tensor, over and over.
    pub fill: [u8; 8],
    pub end: End,
}

/// Where a copy goes.
#[derive(Debug, Clone)]
pub(crate) enum End {
    /// From global memory into the shared memory of blocks of the cluster, to the same address in each.
    Load { to: u32, mbarrier: u32, ranks: Vec<u32> },
    /// From this block's shared memory into that of another one.
    Forward { from: u32, to: u32, mbarrier: u32, rank: u32 },
    /// From shared to global memory.
    Store { from: u32, reduction: Option<Reduction> },
}

/// `cp.reduce.async.bulk`: how an element in memory and one that comes make a new one.
#[derive(Clone, Copy)]
pub(crate) struct Reduction {
    pub ty: ScalarType,
    pub combine: fn(ty: ScalarType, operation: u32, old: u64, new: u64) -> u64,
    pub operation: u32,
}

impl std::fmt::Debug for Reduction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "operation {} on {:?}", self.operation, self.ty)
    }
}

/// A store that its lane has not waited for.
#[derive(Debug)]
struct Pending {
    copy: Bulk,
    /// Groups that the lane had committed before it.
    group: u32,
    moved: bool,
}

/// The stores of a warp, and the groups of each lane.
#[derive(Debug, Default)]
pub(crate) struct BulkQueue {
    pending: Vec<Pending>,
    committed: [u32; 32],
    /// Of each lane; 0 is none.
    agents: [u16; 32],
}

impl Exec<'_> {
    /// Whether a copy takes place as soon as it is issued.
    fn is_early(&mut self) -> bool {
        match self.launch.options.completion {
            Completion::Latest => false,
            Completion::Earliest => true,
            Completion::Random => self.block.random.next() & 1 == 0,
        }
    }

    /// Issues a copy that completes at an mbarrier.
    pub fn issue_load(&mut self, copy: Bulk) {
        if self.is_early() {
            let launch = self.launch;
            complete(launch, &mut self.blocks(), copy);
        } else {
            self.block.bulk.push(copy);
        }
    }

    /// The agent of a lane's stores, and the time of the group that is open.
    pub fn store_agent(&mut self, lane: usize) -> (u16, u32) {
        if self.warp.bulk.agents[lane] == 0 {
            self.warp.bulk.agents[lane] = self.block.new_agent(self.launch);
        }
        (self.warp.bulk.agents[lane], self.warp.bulk.committed[lane] + 1)
    }

    /// Issues a store, which belongs to the group that its lane commits next.
    pub fn issue_store(&mut self, copy: Bulk) {
        let moved = self.is_early();
        if moved {
            self.move_out(&copy);
        }
        let group = self.warp.bulk.committed[copy.lane as usize];
        self.warp.bulk.pending.push(Pending { copy, group, moved });
    }

    /// `cp.async.bulk.commit_group`
    pub fn commit_bulk(&mut self, mask: u32) {
        each_lane(mask).for_each(|lane| self.warp.bulk.committed[lane] += 1);
    }

    /// `cp.async.bulk.wait_group`: until all but the latest `remaining` groups of each lane have read their source, or, with
    /// `written`, are complete.
    pub fn wait_bulk(&mut self, mask: u32, remaining: u32, written: bool) {
        let committed = self.warp.bulk.committed;
        let is_waited_for = |pending: &Pending| {
            let lane = pending.copy.lane as usize;
            mask >> lane & 1 != 0 && pending.group.saturating_add(remaining) < committed[lane]
        };
        let (done, rest) = std::mem::take(&mut self.warp.bulk.pending).into_iter().partition(is_waited_for);
        self.warp.bulk.pending = rest;
        let done: Vec<Pending> = done;
        for Pending { copy, moved, .. } in done {
            if !moved {
                self.move_out(&copy);
            }
            if let End::Store { from, .. } = copy.end
                && self.launch.options.checks.shared_races
            {
                self.block.shared_shadow.end_async_read(&self.warp.clock, copy.lane, from, copy.bytes);
            }
        }
        if written {
            for lane in each_lane(mask) {
                let complete = committed[lane].saturating_sub(remaining);
                if self.warp.bulk.agents[lane] != 0 {
                    self.warp.clock.acquire_agent(self.warp.bulk.agents[lane], complete);
                }
            }
        }
    }

    /// These lanes exit: their stores must have read their source, since the block's memory may go to another block.
    pub fn end_bulk_groups(&mut self, lanes: u32) {
        let of_lanes = |pending: &Pending| lanes >> pending.copy.lane & 1 != 0;
        if !self.warp.bulk.pending.iter().any(of_lanes) {
            return;
        }
        let (ended, rest) = std::mem::take(&mut self.warp.bulk.pending).into_iter().partition(of_lanes);
        self.warp.bulk.pending = rest;
        let ended: Vec<Pending> = ended;
        for Pending { copy, moved, .. } in ended {
            if !moved {
                self.move_out(&copy);
            }
            if let End::Store { from, .. } = copy.end {
                self.block.shared_shadow.drop_async_read(from, copy.bytes);
            }
            let event = event(&copy, self.block.cluster, Access::AsyncRead);
            let kind = HazardKind::UnfinishedCopy { copy: other(self.launch, event) };
            self.report(Some(copy.lane), None, kind);
        }
    }

    /// Moves the data of a store.
    fn move_out(&mut self, copy: &Bulk) {
        let End::Store { from, reduction } = &copy.end else { return };
        let staged = gather(&self.block.shared, *from, copy);
        for piece in &copy.pieces {
            let Some((index, offset)) = self.find_allocation(piece.address, u64::from(piece.bytes)) else { continue };
            let bytes = &staged[piece.offset as usize..][..piece.bytes as usize];
            let allocation = &self.launch.allocations[index];
            match reduction {
                None => allocation.write_bytes(offset, bytes),
                Some(reduction) => reduce(allocation, offset, bytes, *reduction),
            }
        }
    }
}

/// The copy as an event.
fn event(copy: &Bulk, cluster: u32, access: Access) -> Event {
    Event { access, cluster, warp: copy.warp, lane: Some(copy.lane), pc: copy.pc }
}

/// Applies each element that comes to the one in memory.
fn reduce(allocation: &Allocation, offset: u64, bytes: &[u8], reduction: Reduction) {
    let size = reduction.ty.bytes();
    for (at, element) in (offset..).step_by(size as usize).zip(bytes.chunks_exact(size as usize)) {
        let new = element.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte));
        let mut words = [0; 4];
        allocation.load(at, size, &mut words);
        let old = u64::from(words[0]) | if size == 8 { u64::from(words[1]) << 32 } else { 0 };
        let result = (reduction.combine)(reduction.ty, reduction.operation, old, new);
        allocation.store(at, size, &[result as u32, (result >> 32) as u32, 0, 0]);
    }
}

/// The bytes of a box in shared memory, in order.
fn gather(shared: &[u8], from: u32, copy: &Bulk) -> Vec<u8> {
    let mut all = vec![0; copy.bytes as usize];
    for (at, chunk) in (from..).step_by(16).zip(all.chunks_mut(16)) {
        let place = copy.swizzle.place(at) as usize;
        chunk.copy_from_slice(&shared[place..place + chunk.len()]);
    }
    all
}

/// Puts the bytes of a box, which come in order, into shared memory.
fn scatter(shared: &mut [u8], to: u32, staged: &[u8], copy: &Bulk) {
    for (at, chunk) in (to..).step_by(16).zip(staged.chunks(16)) {
        let place = copy.swizzle.place(at) as usize;
        shared[place..place + chunk.len()].copy_from_slice(chunk);
    }
}

/// The bytes of a load in order, and the offsets of those that nothing wrote.
fn read_pieces(launch: &LaunchState<'_>, copy: &Bulk) -> (Vec<u8>, Vec<u32>) {
    let mut staged: Vec<u8> = copy.fill.iter().copied().cycle().take(copy.bytes as usize).collect();
    let mut undefined = Vec::new();
    for piece in &copy.pieces {
        let after = launch.allocations.partition_point(|allocation| allocation.base <= piece.address);
        let Some(allocation) = after.checked_sub(1).map(|index| &launch.allocations[index]) else { continue };
        if !allocation.contains(piece.address, u64::from(piece.bytes)) {
            continue;
        }
        let offset = piece.address - allocation.base;
        let bytes = &mut staged[piece.offset as usize..][..piece.bytes as usize];
        for at in (0..piece.bytes).step_by(16) {
            let count = (piece.bytes - at).min(16);
            let (from, chunk) = (offset + u64::from(at), &mut bytes[at as usize..][..count as usize]);
            let mut words = [0; 4];
            let is_defined = if count == 16 && from.is_multiple_of(16) {
                let is_defined = allocation.load(from, 16, &mut words);
                chunk.chunks_exact_mut(4).zip(words).for_each(|(to, word)| to.copy_from_slice(&word.to_le_bytes()));
                is_defined
            } else {
                allocation.read_bytes(from, chunk);
                (0..count).all(|byte| allocation.is_written(from + u64::from(byte), 1))
            };
            if !is_defined {
                let is_undefined = |byte: &u32| !allocation.is_written(offset + u64::from(*byte), 1);
                undefined.extend((at..at + count).filter(is_undefined).map(|byte| piece.offset + byte));
            }
        }
    }
    (staged, undefined)
}

/// A copy that completes at an mbarrier takes place. `blocks` are seen from the block that issued it.
pub(crate) fn complete(launch: &LaunchState<'_>, blocks: &mut Blocks<'_>, copy: Bulk) {
    let place = Place {
        block: blocks.own.linear,
        warp: copy.warp % launch.warps as u32,
        lane: Some(copy.lane),
        address: None,
        pc: copy.pc,
    };
    let (to, barrier, ranks, staged, undefined) = match &copy.end {
        End::Load { to, mbarrier, ranks } => {
            let (staged, undefined) = read_pieces(launch, &copy);
            (*to, *mbarrier, ranks.clone(), staged, undefined)
        }
        End::Forward { from, to, mbarrier, rank } => {
            let staged = gather(&blocks.own.shared, *from, &copy);
            blocks.own.shared_shadow.drop_async_read(*from, copy.bytes);
            (*to, *mbarrier, vec![*rank], staged, Vec::new())
        }
        End::Store { .. } => return,
    };
    let checks = launch.options.checks;
    for rank in ranks {
        let block = blocks.of_rank(rank);
        scatter(&mut block.shared, to, &staged, &copy);
        if checks.shared_races || checks.uninitialized_memory {
            let (agent, time) = block.mbarriers.agent(barrier).unwrap_or_default();
            block.shared_shadow.end_bulk(agent, copy.warp, time, to, copy.bytes);
            for byte in &undefined {
                block.shared_shadow.undefine(copy.swizzle.place(to + byte));
            }
        }
        mbarrier::bytes_came(launch, block, barrier, copy.bytes, place);
    }
}

/// The last lane of the block the blocks are seen from has exited: no copy may use its shared memory any more.
pub(crate) fn end_block(launch: &LaunchState<'_>, blocks: &mut Blocks<'_>) {
    let rank = blocks.own.rank;
    let cluster = blocks.own.cluster;
    let mut late = Vec::new();
    for block in blocks.before.iter_mut().chain([&mut *blocks.own]).chain(blocks.after.iter_mut()) {
        let is_source = block.rank == rank;
        for copy in &mut block.bulk {
            let into_it = match &mut copy.end {
                End::Load { ranks, .. } => {
                    let before = ranks.len();
                    ranks.retain(|to| *to != rank);
                    ranks.len() != before
                }
                End::Forward { rank: to, .. } => is_source || *to == rank,
                End::Store { .. } => false,
            };
            if into_it {
                late.push(copy.clone());
            }
        }
        block.bulk.retain(|copy| match &copy.end {
            End::Load { ranks, .. } => !ranks.is_empty(),
            End::Forward { rank: to, .. } => !is_source && *to != rank,
            End::Store { .. } => true,
        });
    }
    let block = &mut *blocks.own;
    for copy in &late {
        let kind = HazardKind::UnfinishedCopy { copy: other(launch, event(copy, cluster, Access::AsyncWrite)) };
        let warp = copy.warp % launch.warps as u32;
        let place = Place { block: block.linear, warp, lane: Some(copy.lane), address: None, pc: copy.pc };
        block.hazards.add(launch, place, kind);
    }
    if !late.is_empty() {
        return;
    }
    for (address, bytes) in block.mbarriers.with_missing_bytes() {
        let end = launch.program.code.len().saturating_sub(1) as u32;
        let place = Place { block: block.linear, warp: 0, lane: None, address: Some(u64::from(address)), pc: end };
        let kind = HazardKind::Mbarrier { fault: MbarrierFault::InFlightAtExit { bytes } };
        block.hazards.add(launch, place, kind);
    }
}
