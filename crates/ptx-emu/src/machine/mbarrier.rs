//! mbarriers: objects in shared memory that count arrivals and bytes. When both counts of a phase are complete, the next
//! phase begins; who waits names a phase by its parity.

use std::collections::HashMap;

use super::cluster::rank_of;
use super::report::{Place, other};
use super::warp::State;
use super::{BlockState, Exec, LaunchState, each_lane};
use crate::hazard::{Access, HazardKind, MbarrierFault};
use crate::module::Space;
use crate::shadow::Event;
use crate::shadow::clock::{Knowledge, WHOLE_WARP, join};

/// The largest count of arrivals, and of bytes either way.
pub(crate) const COUNT_MAX: u32 = (1 << 20) - 1;

/// One mbarrier.
#[derive(Debug)]
struct Mbarrier {
    /// Arrivals that a phase expects.
    count: u32,
    pending: u32,
    /// Bytes expected, less bytes that came.
    bytes: i64,
    /// Phases that are complete.
    phase: u32,
    /// Behind what asynchronous copies write. Its time is that of the initialisation (see [`Mbarrier::init_agent_time`])
    /// and goes on with each phase.
    agent: u16,
    /// What arrivals have released, those of the open phase included.
    arrivals: Knowledge,
    /// The same, up to the last phase that is complete.
    complete: Knowledge,
    init: Event,
    init_time: u32,
    /// Phases before it, since the agent is older than the mbarrier where there was another one at its place.
    init_phase: u32,
    /// A fence has made the initialisation visible to asynchronous copies.
    is_fenced: bool,
    /// That fence was `fence.mbarrier_init`: even a relaxed arrival at the cluster's barrier hands the initialisation on.
    is_released: bool,
    waits: Vec<Wait>,
}

/// The last wait of a warp that succeeded.
#[derive(Debug, Clone, Copy)]
struct Wait {
    warp: u32,
    /// Phases that were complete.
    phase: u32,
    time: u32,
}

impl Mbarrier {
    /// Whether the phase of this parity is the last complete one.
    fn is_complete(&self, parity: u32) -> bool {
        self.phase & 1 != parity & 1
    }

    /// The agent's time for who knows of the initialisation.
    fn init_agent_time(&self) -> u32 {
        self.init_phase + 1
    }

    /// The agent's time for who has waited for the last complete phase.
    fn agent_time(&self) -> u32 {
        self.phase + 1
    }
}

/// The mbarriers of a block, by address.
#[derive(Debug, Default)]
pub(crate) struct Mbarriers {
    all: HashMap<u32, Mbarrier>,
    /// Agents and phases of those that are invalidated.
    former: HashMap<u32, (u16, u32)>,
    /// Tests that failed since an mbarrier or a copy made progress.
    pub failed_tests: u32,
}

impl Mbarriers {
    /// Whether who waits there can go on.
    pub fn is_complete(&self, address: u32, parity: u32) -> bool {
        self.all.get(&address).is_none_or(|barrier| barrier.is_complete(parity))
    }

    /// What a wait is for.
    pub fn describe(&self, address: u32, parity: u32) -> String {
        let Some(barrier) = self.all.get(&address) else {
            return format!("an mbarrier at {address:#x} that is not there");
        };
        format!(
            "parity {parity} of the mbarrier at {address:#x}, in whose phase {} {} of {} arrivals and {} bytes are missing",
            barrier.phase, barrier.pending, barrier.count, barrier.bytes
        )
    }

    /// Whether somebody tests in a loop, so that copies that are under way must complete some time.
    pub fn are_polled(&self) -> bool {
        const TESTS: u32 = 256;
        self.failed_tests > TESTS
    }

    /// Addresses whose phase misses bytes.
    pub fn with_missing_bytes(&self) -> Vec<(u32, i64)> {
        let mut all: Vec<(u32, i64)> = self
            .all
            .iter()
            .filter(|(_, barrier)| barrier.bytes != 0)
            .map(|(at, barrier)| (*at, barrier.bytes))
            .collect();
        all.sort_unstable();
        all
    }

    /// The agent and the time under which a copy that completes there now is known.
    pub fn agent(&self, address: u32) -> Option<(u16, u32)> {
        self.all.get(&address).map(|barrier| (barrier.agent, barrier.agent_time() + 1))
    }

    /// What lanes of a warp hand on of their initialisations when they arrive at the cluster's barrier relaxed.
    pub fn released(&self, warp: u32, lanes: u32) -> impl Iterator<Item = (u16, u32)> {
        let is_theirs = move |init: &Event| init.warp == warp && init.lane.is_some_and(|lane| lanes >> lane & 1 != 0);
        let released = self.all.values().filter(move |barrier| barrier.is_released && is_theirs(&barrier.init));
        released.map(|barrier| (barrier.agent, barrier.init_agent_time()))
    }
}

/// Arrivals and bytes at an mbarrier of the block; a fault where they do not fit it.
pub(crate) fn count(
    block: &mut BlockState,
    address: u32,
    arrivals: u32,
    bytes: i64,
    launch: &LaunchState<'_>,
) -> Option<MbarrierFault> {
    let warps = launch.warps as u32;
    let cluster = block.cluster;
    let barrier = block.mbarriers.all.get_mut(&address)?;
    block.mbarriers.failed_tests = 0;
    barrier.bytes += bytes;
    if barrier.bytes.unsigned_abs() > u64::from(COUNT_MAX) {
        let bytes = std::mem::take(&mut barrier.bytes);
        return Some(MbarrierFault::Transactions { bytes });
    }
    if arrivals > barrier.pending {
        return Some(MbarrierFault::OverArrival { pending: barrier.pending, count: arrivals });
    }
    barrier.pending -= arrivals;
    if barrier.pending != 0 || barrier.bytes != 0 {
        return None;
    }
    // Who waited for the phase before must be known to have seen its end, or may find two phases gone.
    let late = barrier.waits.iter().find(|wait| {
        let known = barrier.arrivals.get(&cluster);
        wait.phase == barrier.phase
            && !known.is_some_and(|view| view.seen.covers(wait.warp, Some(WHOLE_WARP), wait.time))
    });
    let fault = late.map(|wait| {
        let linear = launch.linear_index(cluster, wait.warp / warps);
        MbarrierFault::Overtaken { block: launch.block_index(linear), warp: wait.warp % warps }
    });
    barrier.phase += 1;
    barrier.pending = barrier.count;
    barrier.complete = barrier.arrivals.clone();
    block.waits_changed = true;
    fault
}

/// A warp's arrival at an mbarrier.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    pub count: u32,
    /// Bytes expected from now on.
    pub expected_bytes: u32,
    /// The phase must not be completed by it.
    pub completes_not: bool,
    /// The expected count of the phases to come goes down as well.
    pub drops: bool,
    pub releases: bool,
}

impl Exec<'_> {
    /// `mbarrier.init`
    pub fn init_mbarrier(&mut self, lane: usize, address: u32, count: u32) {
        if !(1..=COUNT_MAX).contains(&count) {
            self.report_mbarrier(lane, address, MbarrierFault::Count { count });
        }
        let actor = self.actor(lane as u32, false);
        if self.launch.options.checks.shared_races
            && let Some(conflict) = self.block.shared_shadow.begin_barrier(&self.warp.clock, actor, address)
        {
            self.report_conflict(Space::Shared, Access::Write, lane, u64::from(address), conflict);
        }
        let valid = self.block.mbarriers.all.get(&address).map(|known| (known.agent, known.phase));
        let fault = valid.map(|_| MbarrierFault::Reinitialized);
        // The agent's time goes on, so that what was copied for a former phase is not taken for newer.
        let (agent, phase) = match valid.or(self.block.mbarriers.former.remove(&address)) {
            Some((agent, phase)) => (agent, (phase + 2) & !1),
            None => (self.block.new_agent(self.launch), 0),
        };
        let barrier = Mbarrier {
            count: count.clamp(1, COUNT_MAX),
            pending: count.clamp(1, COUNT_MAX),
            bytes: 0,
            phase,
            agent,
            arrivals: Knowledge::new(),
            complete: Knowledge::new(),
            init: Event {
                access: Access::Write,
                cluster: self.block.cluster,
                warp: self.warp.clock.warp,
                lane: Some(lane as u32),
                pc: self.pc,
            },
            init_time: self.warp.clock.now,
            init_phase: phase,
            is_fenced: false,
            is_released: false,
            waits: Vec::new(),
        };
        self.block.mbarriers.all.insert(address, barrier);
        if let Some(fault) = fault {
            self.report_mbarrier(lane, address, fault);
        }
    }

    /// `mbarrier.inval`
    pub fn end_mbarrier(&mut self, lane: usize, address: u32) {
        if self.use_mbarrier(lane, address) {
            if let Some(barrier) = self.block.mbarriers.all.remove(&address) {
                self.block.mbarriers.former.insert(address, (barrier.agent, barrier.phase));
            }
            let actor = self.actor(lane as u32, false);
            self.block.shared_shadow.end_barrier(&self.warp.clock, actor, address);
        }
    }

    /// `fence.mbarrier_init`, which also `releases`, or a proxy fence: initialisations by these lanes are visible to
    /// asynchronous copies.
    pub fn fence_mbarriers(&mut self, lanes: u32, releases: bool) {
        let warp = self.warp.clock.warp;
        for barrier in self.block.mbarriers.all.values_mut().filter(|barrier| barrier.init.warp == warp) {
            let is_theirs = barrier.init.lane.is_some_and(|lane| lanes >> lane & 1 != 0);
            barrier.is_fenced |= is_theirs;
            barrier.is_released |= is_theirs && releases;
        }
    }

    fn report_mbarrier(&mut self, lane: usize, address: u32, fault: MbarrierFault) {
        self.report(Some(lane as u32), Some(u64::from(address)), HazardKind::Mbarrier { fault });
    }

    /// Whether there is an mbarrier that the lane may use; reports what is wrong.
    fn use_mbarrier(&mut self, lane: usize, address: u32) -> bool {
        let Some(barrier) = self.block.mbarriers.all.get(&address) else {
            self.report_mbarrier(lane, address, MbarrierFault::Uninitialized);
            return false;
        };
        let (init, clock) = (barrier.init, &self.warp.clock);
        let is_known = clock.seen(barrier.agent) >= barrier.init_agent_time()
            || clock.sees(init.cluster, init.warp, init.lane, barrier.init_time, lane as u32);
        if !is_known {
            let init = other(self.launch, init);
            self.report_mbarrier(lane, address, MbarrierFault::UnorderedInit { init });
        }
        true
    }

    /// Whether a copy that the lane issues may complete at an mbarrier of the block that is the own one now.
    pub fn use_mbarrier_for_copy(&mut self, lane: usize, address: u32) -> bool {
        if !self.use_mbarrier(lane, address) {
            return false;
        }
        let barrier = &self.block.mbarriers.all[&address];
        if !barrier.is_fenced {
            let init = other(self.launch, barrier.init);
            self.report_mbarrier(lane, address, MbarrierFault::UnfencedInit { init });
        }
        true
    }

    /// Arrives for one lane, and returns the phase that it arrived in.
    pub fn arrive_at_mbarrier(&mut self, lane: usize, address: u32, arrival: Arrival) -> u64 {
        if !self.use_mbarrier(lane, address) {
            return 0;
        }
        if arrival.releases {
            let live = self.warp.live;
            let knowledge = self.warp.clock.release_lanes(1 << lane, live);
            if let Some(barrier) = self.block.mbarriers.all.get_mut(&address) {
                join(&mut barrier.arrivals, &knowledge);
            }
        }
        let Some(barrier) = self.block.mbarriers.all.get_mut(&address) else { return 0 };
        let phase = barrier.phase;
        if arrival.drops {
            barrier.count = barrier.count.saturating_sub(arrival.count);
        }
        if arrival.completes_not && arrival.count >= barrier.pending {
            self.report_mbarrier(lane, address, MbarrierFault::Completes);
        }
        let fault = count(self.block, address, arrival.count, i64::from(arrival.expected_bytes), self.launch);
        if let Some(fault) = fault {
            self.report_mbarrier(lane, address, fault);
        }
        self.block.tally.barrier_arrivals += 1;
        u64::from(phase)
    }

    /// `mbarrier.expect_tx` and `mbarrier.complete_tx`
    pub fn change_expected_bytes(&mut self, lane: usize, address: u32, bytes: i64) {
        if self.use_mbarrier(lane, address)
            && let Some(fault) = count(self.block, address, 0, bytes, self.launch)
        {
            self.report_mbarrier(lane, address, fault);
        }
    }

    /// Waits of the lanes for phases of these parities. Which lanes' phases are complete; `None`: no lane's is, and the
    /// group is to wait for `parked_at`.
    pub fn test_mbarriers(
        &mut self,
        addresses: &[u64; 32],
        parities: &[u32; 32],
        mask: u32,
        (blocks, acquires): (bool, bool),
    ) -> Option<u32> {
        let mut complete = 0;
        let mut rest = mask;
        while rest != 0 {
            let lane = rest.trailing_zeros() as usize;
            let (address, parity) = (addresses[lane], parities[lane]);
            let same = each_lane(rest)
                .filter(|other| addresses[*other] == address && parities[*other] == parity)
                .fold(0, |all, other| all | 1u32 << other);
            rest &= !same;
            let (rank, address) = rank_of(address);
            if rank.is_some_and(|rank| rank != self.block.rank) {
                self.report_mbarrier(lane, address, MbarrierFault::RemoteWait);
                complete |= same;
                continue;
            }
            if !self.use_mbarrier(lane, address) {
                complete |= same;
                continue;
            }
            let barrier = &self.block.mbarriers.all[&address];
            if !barrier.is_complete(parity) {
                self.block.parked_at = State::Mbarrier { address, parity };
                continue;
            }
            complete |= same;
            let (agent, phase, agent_time) = (barrier.agent, barrier.phase, barrier.agent_time());
            if acquires {
                let (knowledge, live) = (barrier.complete.clone(), self.warp.live);
                self.warp.clock.acquire_lanes(&knowledge, same, live);
                self.warp.clock.acquire_agent(agent, agent_time);
            }
            let wait = Wait { warp: self.warp.clock.warp, phase, time: self.warp.clock.now };
            if let Some(barrier) = self.block.mbarriers.all.get_mut(&address) {
                barrier.waits.retain(|known| known.warp != wait.warp);
                barrier.waits.push(wait);
            }
            // What comes after is told from the wait itself.
            self.warp.clock.now += 1;
        }
        if complete == 0 && blocks {
            return None;
        }
        if complete != mask {
            self.block.mbarriers.failed_tests += 1;
        }
        Some(complete)
    }
}

/// Bytes of a copy have come to an mbarrier of the block. A fault is the copy's, issued at `place`.
pub(crate) fn bytes_came(launch: &LaunchState<'_>, block: &mut BlockState, address: u32, bytes: u32, place: Place) {
    let is_gone = !block.mbarriers.all.contains_key(&address);
    let fault =
        if is_gone { Some(MbarrierFault::Uninitialized) } else { count(block, address, 0, -i64::from(bytes), launch) };
    if let Some(fault) = fault {
        block.hazards.add(launch, Place { address: Some(u64::from(address)), ..place }, HazardKind::Mbarrier { fault });
    }
}
