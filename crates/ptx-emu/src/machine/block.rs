//! The blocks of one cluster (a launch without clusters has clusters of one block): their warps, their shared memory, and
//! the order in which the warps run.

use std::collections::HashMap;

use super::LaunchState;
use super::barrier::{self, BARRIERS, Barrier};
use super::bulk::{self, Bulk, BulkQueue};
use super::cluster::{self, Blocks, ClusterBarrier, Visit};
use super::copies::CopyQueue;
use super::mbarrier::Mbarriers;
use super::registers::Registers;
use super::report::{HazardSink, Place};
use super::warp::{self, Group, Pause, State, Warp};
use super::warpgroup::Warpgroups;
use super::wgmma::ProductQueue;
use crate::Error;
use crate::counters::Tally;
use crate::decode::special;
use crate::hazard::{HazardKind, Stuck};
use crate::options::{Completion, Schedule};
use crate::shadow::clock::{Knowledge, WHOLE_WARP, WarpClock};
use crate::shadow::global::GlobalShadow;
use crate::shadow::shared::{SharedShadow, TIME_MAX};

/// Instructions a warp runs in a deterministic schedule before the next one has its turn.
const TURN: u64 = 20_000;

/// Warp instructions after which a starved warp has a turn all the same: a GPU starves nobody for ever, and some wait in a
/// loop for what the starved warp does.
const PATIENCE: u64 = 16 * TURN;

/// splitmix64: small, and the same everywhere.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

/// What the warps of a block share.
#[derive(Debug)]
pub(crate) struct BlockState {
    pub linear: u32,
    /// Linear index of its cluster.
    pub cluster: u32,
    /// Number in the cluster.
    pub rank: u32,
    pub shared: Vec<u8>,
    pub shared_shadow: SharedShadow,
    pub global_shadow: GlobalShadow,
    /// What synchronising accesses to shared addresses have published.
    pub shared_sync: HashMap<u64, Knowledge>,
    /// The same for global addresses.
    pub global_sync: HashMap<u64, Knowledge>,
    pub barriers: [Barrier; BARRIERS],
    /// The barrier of the last [`super::Step::Wait`].
    pub barrier_entered: u32,
    pub barriers_changed: bool,
    pub mbarriers: Mbarriers,
    /// The barrier of the cluster, in its first block.
    pub cluster_barrier: ClusterBarrier,
    /// Some warp of the cluster may go on: an mbarrier's phase or the cluster's barrier is complete.
    pub waits_changed: bool,
    /// What the last [`super::Step::Park`] waits for.
    pub parked_at: State,
    /// The last access of each warp of another block.
    pub visitors: Vec<Visit>,
    /// Copies that warps of this block issued and that complete at an mbarrier.
    pub bulk: Vec<Bulk>,
    /// Agents that have been numbered, see [`BlockState::new_agent`].
    pub agents: u16,
    pub warpgroups: Warpgroups,
    /// Lanes of each warp that have not exited.
    pub live: Vec<u32>,
    pub hazards: HazardSink,
    pub tally: Tally,
    /// Warp instructions so far.
    pub executed: u64,
    pub error: Option<Error>,
    pub random: Random,
    /// Where the last global access was found.
    pub allocation_hint: usize,
}

/// Memory that one block leaves to the next on the same host thread.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    pub registers: Vec<Registers>,
    pub global_shadow: GlobalShadow,
}

impl BlockState {
    /// A number behind those of all warps of the cluster, for those who wait for asynchronous copies.
    pub fn new_agent(&mut self, launch: &LaunchState<'_>) -> u16 {
        let size = launch.cluster_size();
        self.agents = self.agents.saturating_add(1);
        let number = launch.warps * size + (usize::from(self.agents) - 1) * size + self.rank as usize;
        number.min(usize::from(u16::MAX)) as u16
    }

    /// Whether all warps have exited.
    pub fn has_exited(&self) -> bool {
        self.live.iter().all(|live| *live == 0)
    }
}

/// A cluster and its progress.
pub(crate) struct Cluster {
    pub blocks: Vec<BlockState>,
    /// Of all blocks, one after the other.
    warps: Vec<Warp>,
    next: usize,
    /// Warp instructions when a starved warp last ran, or could not.
    last_starved: u64,
    /// The block that has the cluster's shadow of global memory.
    holder: usize,
    /// Blocks whose end has been looked at.
    ended: Vec<bool>,
}

/// How far a cluster got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    Done,
    /// It used up its turn.
    Paused,
}

impl Cluster {
    /// A cluster at its start. The memory in `pool` is used again.
    pub fn new(launch: &LaunchState<'_>, cluster: u32, pool: &mut Pool) -> Self {
        let size = launch.cluster_size() as u32;
        let mut all = Vec::new();
        let mut blocks = Vec::new();
        for rank in 0..size {
            let warps = warps_of(launch, cluster, rank, pool);
            let linear = launch.linear_index(cluster, rank);
            let first = rank as usize * launch.warps;
            let own = first..first + launch.warps;
            let seed = launch.options.seed ^ u64::from(linear).wrapping_mul(0xd6e8_feb8_6659_fd93);
            blocks.push(BlockState {
                linear,
                cluster,
                rank,
                // Undefined shared memory reads back as NaN.
                shared: vec![0xff; launch.shared_bytes as usize],
                shared_shadow: SharedShadow::new(launch.shared_bytes, launch.warps * size as usize, own, cluster),
                global_shadow: GlobalShadow::default(),
                shared_sync: HashMap::new(),
                global_sync: HashMap::new(),
                barriers: Default::default(),
                barrier_entered: 0,
                barriers_changed: false,
                mbarriers: Mbarriers::default(),
                cluster_barrier: ClusterBarrier::default(),
                waits_changed: false,
                parked_at: State::Ready,
                visitors: Vec::new(),
                bulk: Vec::new(),
                agents: 0,
                warpgroups: Warpgroups::new(launch.warps),
                live: warps.iter().map(|warp| warp.live).collect(),
                hazards: HazardSink::default(),
                tally: Tally::new(launch.program.code.len()),
                executed: 0,
                error: None,
                random: Random::new(seed),
                allocation_hint: 0,
            });
            all.extend(warps);
        }
        blocks[0].global_shadow = std::mem::take(&mut pool.global_shadow);
        Cluster { ended: vec![false; blocks.len()], blocks, warps: all, next: 0, last_starved: 0, holder: 0 }
    }

    /// The block that has the cluster's shadow of global memory, and what blocks have published there.
    pub fn holder(&mut self) -> &mut BlockState {
        &mut self.blocks[self.holder]
    }

    /// Gives the register files back.
    pub fn recycle(self, pool: &mut Pool) -> Vec<BlockState> {
        pool.registers.extend(self.warps.into_iter().map(|warp| warp.registers));
        self.blocks
    }

    /// It ran into its limit of instructions while others had no place: that is what it waited for.
    pub fn report_starvation(&mut self, launch: &LaunchState<'_>, clusters_waiting: u32) {
        let Some(first) = self.warps.iter().position(|warp| !warp.groups.is_empty()) else { return };
        let waiting = clusters_waiting * self.blocks.len() as u32;
        self.blocks.iter_mut().for_each(|block| block.error = None);
        let block = &mut self.blocks[first / launch.warps];
        let warp = &self.warps[first];
        let place = Place { block: block.linear, warp: warp.index, lane: None, address: None, pc: warp.groups[0].pc };
        let resident = launch.options.resident_blocks;
        block.hazards.add(launch, place, HazardKind::Starvation { waiting, resident });
    }

    /// Ends the cluster with an error, if it has none yet.
    fn fail(&mut self, error: Error) -> Progress {
        self.blocks[0].error.get_or_insert(error);
        Progress::Done
    }

    /// Runs for about `budget` warp instructions.
    pub fn run(&mut self, launch: &LaunchState<'_>, budget: u64) -> Progress {
        let executed = |cluster: &Cluster| cluster.blocks.iter().map(|block| block.executed).sum::<u64>();
        let end = executed(self).saturating_add(budget);
        let limit = launch.options.limits.block_instructions.saturating_mul(self.blocks.len() as u64);
        loop {
            if self.warps.iter().all(|warp| warp.groups.is_empty()) {
                return Progress::Done;
            }
            let now = executed(self);
            if now >= limit {
                let limit = launch.options.limits.block_instructions;
                return self.fail(Error::Limit { what: "warp instructions of a block", limit });
            }
            if self.warps.iter().any(|warp| warp.clock.now >= TIME_MAX) {
                return self.fail(Error::Limit { what: "synchronisations of a warp", limit: u64::from(TIME_MAX) });
            }
            if now >= end {
                return Progress::Paused;
            }
            if launch.options.completion == Completion::Random {
                self.complete_by_chance(launch);
            }
            let Some((chosen, turn)) = self.choose(launch, now) else {
                if !self.unblock(launch) {
                    return Progress::Done;
                }
                continue;
            };
            let turn = turn.min(limit - now).min(end - now);
            let rank = chosen / launch.warps;
            if self.holder != rank {
                self.hand_over(rank);
            }
            let mut blocks = Blocks::around(&mut self.blocks, rank);
            let pause = warp::run(launch, &mut blocks, &mut self.warps[chosen], turn);
            if pause == Pause::Fault {
                return Progress::Done;
            }
            self.settle(launch, rank);
        }
    }

    /// The block that runs next has the cluster's view of global memory.
    fn hand_over(&mut self, rank: usize) {
        let [old, new] = self.blocks.get_disjoint_mut([self.holder, rank]).expect("two blocks of the cluster");
        std::mem::swap(&mut old.global_shadow, &mut new.global_shadow);
        std::mem::swap(&mut old.global_sync, &mut new.global_sync);
        self.holder = rank;
    }

    /// After a warp of the block ran: opens what is complete, and looks at the block if it has come to its end.
    fn settle(&mut self, launch: &LaunchState<'_>, rank: usize) {
        if self.blocks[rank].barriers_changed {
            let warps = &mut self.warps[rank * launch.warps..][..launch.warps];
            barrier::open(&mut self.blocks[rank], warps);
            if self.blocks[rank].has_exited() && !self.ended[rank] {
                self.ended[rank] = true;
                self.check_visitors(launch, rank);
                bulk::end_block(launch, &mut Blocks::around(&mut self.blocks, rank));
            }
        }
        let is_under_way = self.blocks.iter().any(|block| !block.bulk.is_empty());
        if is_under_way && self.blocks[rank].mbarriers.are_polled() {
            self.complete_copy(launch, 0);
        }
        self.wake(launch);
    }

    /// A block that others of its cluster visit must not end before they have.
    fn check_visitors(&mut self, launch: &LaunchState<'_>, rank: usize) {
        let warps = &self.warps[rank * launch.warps..][..launch.warps];
        let block = &mut self.blocks[rank];
        for Visit { warp, time, pc } in std::mem::take(&mut block.visitors) {
            let knows = |own: &Warp| own.clock.sees(block.cluster, warp, Some(WHOLE_WARP), time, 0);
            if warps.iter().any(knows) {
                continue;
            }
            let reason = "may have exited: nothing orders its end behind this";
            let visitor = &mut self.blocks[warp as usize / launch.warps];
            let place =
                Place { block: visitor.linear, warp: warp % launch.warps as u32, lane: None, address: None, pc };
            visitor.hazards.add(launch, place, HazardKind::RemoteBlock { rank: rank as u32, reason });
            return;
        }
    }

    /// Lets the groups go on whose wait is over.
    fn wake(&mut self, launch: &LaunchState<'_>) {
        let mut changed = false;
        for block in &mut self.blocks {
            changed |= std::mem::take(&mut block.waits_changed);
        }
        if !changed {
            return;
        }
        cluster::open(&mut self.blocks);
        for (index, warp) in self.warps.iter_mut().enumerate() {
            let mbarriers = &self.blocks[index / launch.warps].mbarriers;
            let barrier = &self.blocks[0].cluster_barrier;
            for group in &mut warp.groups {
                let is_over = match group.state {
                    State::Mbarrier { address, parity } => mbarriers.is_complete(address, parity),
                    State::ClusterBarrier => !barrier.expects(index, group.lanes),
                    _ => false,
                };
                if is_over {
                    group.state = State::Ready;
                }
            }
        }
    }

    /// Some copy that is under way may complete now.
    fn complete_by_chance(&mut self, launch: &LaunchState<'_>) {
        let pending: usize = self.blocks.iter().map(|block| block.bulk.len()).sum();
        if pending == 0 || self.blocks[0].random.next() & 3 != 0 {
            return;
        }
        let chosen = (self.blocks[0].random.next() % pending as u64) as usize;
        self.complete_copy(launch, chosen);
    }

    /// Completes one of the copies that are under way, counted through all blocks.
    fn complete_copy(&mut self, launch: &LaunchState<'_>, mut number: usize) {
        for rank in 0..self.blocks.len() {
            let count = self.blocks[rank].bulk.len();
            if number < count {
                let copy = self.blocks[rank].bulk.remove(number);
                bulk::complete(launch, &mut Blocks::around(&mut self.blocks, rank), copy);
                break;
            }
            number -= count;
        }
        self.wake(launch);
    }

    /// The warp that runs next and for how long, if one can; so far the cluster executed `now` instructions.
    fn choose(&mut self, launch: &LaunchState<'_>, now: u64) -> Option<(usize, u64)> {
        let count = self.warps.len();
        match launch.options.schedule {
            Schedule::InOrder => {
                let order = (0..count).map(|step| (self.next + step) % count);
                let chosen = order.into_iter().find(|warp| self.warps[*warp].is_ready())?;
                self.next = (chosen + 1) % count;
                Some((chosen, TURN))
            }
            Schedule::Reverse => {
                let order = (0..count).map(|step| (2 * count - 1 - self.next - step) % count);
                let chosen = order.into_iter().find(|warp| self.warps[*warp].is_ready())?;
                self.next = (count - chosen) % count;
                Some((chosen, TURN))
            }
            Schedule::Random | Schedule::Diverged => {
                let ready: Vec<usize> = (0..count).filter(|warp| self.warps[*warp].is_ready()).collect();
                if ready.is_empty() {
                    return None;
                }
                let random = &mut self.blocks[0].random;
                let chosen = ready[(random.next() % ready.len() as u64) as usize];
                Some((chosen, 1 + random.next() % 256))
            }
            Schedule::LowestStarved | Schedule::HighestStarved => {
                let of_block = launch.warps;
                let quarter = (of_block / 4).max(1);
                let is_starved = |warp: usize| match launch.options.schedule {
                    Schedule::LowestStarved => warp % of_block < quarter,
                    _ => warp % of_block >= of_block - quarter,
                };
                let order =
                    || (0..count).map(|step| (self.next + step) % count).filter(|warp| self.warps[*warp].is_ready());
                let starved = order().find(|warp| is_starved(*warp));
                let other = order().find(|warp| !is_starved(*warp));
                let chosen = match (starved, other) {
                    (Some(_), Some(other)) if now - self.last_starved < PATIENCE => other,
                    (starved, other) => {
                        self.last_starved = now;
                        starved.or(other)?
                    }
                };
                self.next = (chosen + 1) % count;
                Some((chosen, TURN))
            }
        }
    }

    /// No warp can go on. Completes a copy that is under way, if there is one; else lets lanes that wait for others of
    /// their warp go on without them, which is reported; else reports the deadlock.
    fn unblock(&mut self, launch: &LaunchState<'_>) -> bool {
        if self.blocks.iter().any(|block| !block.bulk.is_empty()) {
            self.complete_copy(launch, 0);
            return true;
        }
        if self.warps.iter_mut().any(Warp::force) {
            return true;
        }
        let mut stuck = Vec::new();
        for (index, warp) in self.warps.iter().enumerate() {
            let block = &self.blocks[index / launch.warps];
            for group in &warp.groups {
                let (pc, waits_for) = match group.state {
                    State::Barrier(id) => {
                        let barrier = &block.barriers[id as usize];
                        let arrived = barrier.arrivals();
                        let what = match barrier.expected() {
                            Some(count) => format!("barrier {id}, where {arrived} of {count} threads are"),
                            None => format!("barrier {id}, where {arrived} threads are"),
                        };
                        (group.pc.saturating_sub(1), what)
                    }
                    State::Mbarrier { address, parity } => (group.pc, block.mbarriers.describe(address, parity)),
                    State::ClusterBarrier => (group.pc, "the cluster's barrier".to_owned()),
                    _ => (group.pc, "other lanes of its warp".to_owned()),
                };
                let of_other_block =
                    if self.blocks.len() > 1 { format!(", in block {}", block.rank) } else { String::new() };
                stuck.push(Stuck {
                    warp: warp.index,
                    lanes: group.lanes,
                    position: launch.position(pc),
                    waits_for: waits_for + &of_other_block,
                });
            }
        }
        let Some(first) = self.warps.iter().position(|warp| !warp.groups.is_empty()) else { return false };
        let block = &mut self.blocks[first / launch.warps];
        let place = Place {
            block: block.linear,
            warp: self.warps[first].index,
            lane: None,
            address: None,
            pc: self.warps[first].groups[0].pc.saturating_sub(1),
        };
        block.hazards.add(launch, place, HazardKind::Deadlock { warps: stuck });
        false
    }
}

/// The warps of a block at their start.
fn warps_of(launch: &LaunchState<'_>, cluster: u32, rank: u32, pool: &mut Pool) -> Vec<Warp> {
    let linear = launch.linear_index(cluster, rank);
    let size = launch.cluster_size();
    let threads = launch.block.iter().product::<u32>();
    let new = |warp: u32| {
        let place = special::Place {
            warp,
            block_index: launch.block_index(linear),
            block_linear: u64::from(linear),
            block_shape: launch.block,
            grid_shape: launch.grid,
            cluster_shape: launch.cluster,
            dynamic_shared_bytes: launch.dynamic_shared_bytes,
            total_shared_bytes: launch.shared_bytes,
        };
        let mut registers = pool.registers.pop().unwrap_or_else(|| Registers::new(&launch.program));
        registers.reset(&launch.program, &place);
        let lanes = (threads - warp * 32).min(32);
        let live = u32::MAX >> (32 - lanes);
        let local = launch.program.local.bytes as usize * 32;
        let number = rank * launch.warps as u32 + warp;
        Warp {
            index: warp,
            registers,
            groups: vec![Group { pc: 0, lanes: live, state: State::Ready }],
            live,
            clock: WarpClock::new(cluster, number, launch.warps * size),
            copies: CopyQueue::default(),
            bulk: BulkQueue::default(),
            arrived_at_cluster: 0,
            products: ProductQueue::new(if launch.program.has_warpgroups {
                launch.program.word_rows as usize
            } else {
                0
            }),
            local: vec![0xff; local],
            local_written: vec![false; local],
            targets: [0; 32],
            since_rotation: 0,
            forced: false,
        }
    };
    (0..launch.warps as u32).map(new).collect()
}
