//! What the blocks of a cluster have together: access to each other, and `barrier.cluster`.

use super::warp::State;
use super::{BlockState, Exec, Step};
use crate::decode::layout::RANK_SHIFT;
use crate::hazard::HazardKind;
use crate::shadow::clock::{Knowledge, announce, join};

/// The blocks of a cluster as seen from one of them.
pub(crate) struct Blocks<'a> {
    pub before: &'a mut [BlockState],
    pub own: &'a mut BlockState,
    pub after: &'a mut [BlockState],
}

impl<'a> Blocks<'a> {
    pub fn around(all: &'a mut [BlockState], rank: usize) -> Self {
        let (before, rest) = all.split_at_mut(rank);
        let (own, after) = rest.split_first_mut().expect("the rank is one of the cluster's");
        Blocks { before, own, after }
    }

    /// The block of a rank of the cluster.
    pub fn of_rank(&mut self, rank: u32) -> &mut BlockState {
        let rank = rank as usize;
        let own = self.before.len();
        match rank.cmp(&own) {
            std::cmp::Ordering::Less => &mut self.before[rank],
            std::cmp::Ordering::Equal => self.own,
            std::cmp::Ordering::Greater => &mut self.after[rank - own - 1],
        }
    }
}

/// The rank that an address of `shared::cluster` names, and the address in that block. The addresses of the own block are
/// valid there too, and name no rank.
pub(crate) fn rank_of(address: u64) -> (Option<u32>, u32) {
    let rank = (address >> RANK_SHIFT) as u32;
    (rank.checked_sub(1), (address & ((1 << RANK_SHIFT) - 1)) as u32)
}

/// A warp of another block touched a block's shared memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Visit {
    pub warp: u32,
    pub time: u32,
    pub pc: u32,
}

/// `barrier.cluster`
#[derive(Debug, Default)]
pub(crate) struct ClusterBarrier {
    /// Lanes of each warp of the cluster that have arrived in this phase.
    arrived: Vec<u32>,
    arrivals: Knowledge,
    /// What was released before the phases that are complete.
    complete: Knowledge,
}

impl ClusterBarrier {
    /// Whether the phase that these lanes arrived in is still open.
    pub fn expects(&self, warp: usize, lanes: u32) -> bool {
        self.arrived.get(warp).is_some_and(|arrived| arrived & lanes != 0)
    }
}

/// Completes the phase of the cluster's barrier if all that have not exited have arrived.
pub(crate) fn open(blocks: &mut [BlockState]) {
    let barrier = &blocks[0].cluster_barrier;
    let live = blocks.iter().flat_map(|block| &block.live);
    let nobody = barrier.arrived.iter().all(|arrived| *arrived == 0);
    if nobody || !live.zip(&barrier.arrived).all(|(live, arrived)| live & !arrived == 0) {
        return;
    }
    let barrier = &mut blocks[0].cluster_barrier;
    barrier.arrived.fill(0);
    let arrivals = std::mem::take(&mut barrier.arrivals);
    join(&mut barrier.complete, &arrivals);
}

impl Exec<'_> {
    /// `barrier.cluster.arrive`
    pub fn arrive_at_cluster(&mut self, lanes: u32, releases: bool) {
        if self.warp.arrived_at_cluster & lanes != 0 {
            let reason = "barrier.cluster.arrive comes twice without a barrier.cluster.wait in between";
            self.report(None, None, HazardKind::ClusterBarrier { reason });
            return;
        }
        self.warp.arrived_at_cluster |= lanes;
        let live = self.warp.live;
        self.warp.clock.meet(lanes, live);
        let knowledge =
            if releases { self.warp.clock.release_lanes(lanes, live) } else { self.fenced_knowledge(lanes) };
        let warps = self.launch.warps * self.launch.cluster_size();
        let number = self.warp.clock.warp as usize;
        let mut blocks = self.blocks();
        let barrier = &mut blocks.of_rank(0).cluster_barrier;
        barrier.arrived.resize(warps, 0);
        barrier.arrived[number] |= lanes;
        join(&mut barrier.arrivals, &knowledge);
        self.block.waits_changed = true;
        self.block.tally.barrier_arrivals += 1;
    }

    /// What an arrival that does not release hands on all the same: what fences made ready.
    fn fenced_knowledge(&self, lanes: u32) -> Knowledge {
        let clock = &self.warp.clock;
        let mut knowledge = clock.fenced().cloned().unwrap_or_default();
        for (agent, time) in self.block.mbarriers.released(clock.warp, lanes) {
            announce(&mut knowledge, clock.cluster, agent, time);
        }
        knowledge
    }

    /// `barrier.cluster.wait`
    pub fn wait_for_cluster(&mut self, lanes: u32, acquires: bool) -> Step {
        if self.warp.arrived_at_cluster & lanes != lanes {
            let reason = "barrier.cluster.wait comes without a barrier.cluster.arrive before it";
            self.report(None, None, HazardKind::ClusterBarrier { reason });
            return Step::Next;
        }
        let number = self.warp.clock.warp as usize;
        let live = self.warp.live;
        let mut blocks = self.blocks();
        let barrier = &blocks.of_rank(0).cluster_barrier;
        if barrier.expects(number, lanes) {
            self.block.parked_at = State::ClusterBarrier;
            return Step::Park;
        }
        let complete = barrier.complete.clone();
        self.warp.arrived_at_cluster &= !lanes;
        if acquires {
            self.warp.clock.acquire_lanes(&complete, lanes, live);
        }
        Step::Next
    }

    /// The blocks of the cluster.
    pub fn blocks(&mut self) -> Blocks<'_> {
        Blocks { before: self.before, own: self.block, after: self.after }
    }

    /// Does something in the shared memory of another block of the cluster as if it was the own one. Reports, and returns
    /// `None`, where that block need not be there any more. Its end must come after this.
    pub fn in_block<T>(
        &mut self,
        rank: u32,
        lane: usize,
        address: u32,
        work: impl FnOnce(&mut Self) -> T,
    ) -> Option<T> {
        let visit = Visit { warp: self.warp.clock.warp, time: self.warp.clock.now, pc: self.pc };
        let result = self.begin_in_block(rank, lane, address, work)?;
        if rank != self.block.rank {
            let mut blocks = self.blocks();
            let visitors = &mut blocks.of_rank(rank).visitors;
            visitors.retain(|known| known.warp != visit.warp);
            visitors.push(visit);
        }
        Some(result)
    }

    /// As [`Self::in_block`], for what only begins now: that block's end must come after the completion instead.
    pub fn begin_in_block<T>(
        &mut self,
        rank: u32,
        lane: usize,
        address: u32,
        work: impl FnOnce(&mut Self) -> T,
    ) -> Option<T> {
        if rank == self.block.rank {
            return Some(work(self));
        }
        let count = self.launch.cluster_size() as u32;
        let reason = if rank >= count {
            Some("is not there: the cluster has fewer blocks")
        } else if self.blocks().of_rank(rank).has_exited() {
            Some("has exited")
        } else {
            None
        };
        if let Some(reason) = reason {
            self.report(Some(lane as u32), Some(u64::from(address)), HazardKind::RemoteBlock { rank, reason });
            return None;
        }
        self.exchange_shared(rank);
        let result = work(self);
        self.exchange_shared(rank);
        Some(result)
    }

    fn exchange_shared(&mut self, rank: u32) {
        let own = self.before.len();
        let other = match (rank as usize).checked_sub(own + 1) {
            Some(later) => &mut self.after[later],
            None => &mut self.before[rank as usize],
        };
        std::mem::swap(&mut self.block.shared, &mut other.shared);
        std::mem::swap(&mut self.block.shared_shadow, &mut other.shared_shadow);
        std::mem::swap(&mut self.block.shared_sync, &mut other.shared_sync);
        std::mem::swap(&mut self.block.mbarriers, &mut other.mbarriers);
    }
}
