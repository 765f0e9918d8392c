//! The sixteen barriers of a block.

use super::{BlockState, Exec, Warp};
use crate::hazard::HazardKind;
use crate::shadow::clock::{Knowledge, join};

/// Number of barriers of a block.
pub(crate) const BARRIERS: usize = 16;

/// What `barrier.red` computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reduction {
    And,
    Or,
    Count,
}

/// Where `barrier.red` puts its result.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Destination {
    pub operation: Reduction,
    /// A word row for [`Reduction::Count`], else a predicate row.
    pub row: u32,
}

#[derive(Debug)]
struct Waiter {
    warp: u32,
    lanes: u32,
    destination: Option<Destination>,
}

#[derive(Debug, Default)]
pub(crate) struct Barrier {
    /// The explicit thread count of this phase, 0 for all threads.
    count: Option<u32>,
    threads: u32,
    arrived: Vec<u32>,
    waiters: Vec<Waiter>,
    knowledge: Knowledge,
    /// Of the predicates of `barrier.red`.
    all: bool,
    any: bool,
    trues: u32,
}

impl Barrier {
    /// Threads that have arrived.
    pub fn arrivals(&self) -> u32 {
        self.threads
    }

    /// The explicit count of the phase, if the barrier has one.
    pub fn expected(&self) -> Option<u32> {
        self.count.filter(|count| *count != 0)
    }
}

/// One arrival at a barrier.
pub(crate) struct Arrival {
    pub barrier: u32,
    /// Explicit thread count.
    pub count: Option<u32>,
    pub lanes: u32,
    pub waits: bool,
    /// Predicates of `barrier.red` and where the result goes.
    pub reduction: Option<(u32, Destination)>,
}

impl Exec<'_> {
    /// Lanes of this warp arrive at a barrier.
    pub fn arrive(&mut self, arrival: &Arrival) {
        let padded = self.launch.warps as u32 * 32;
        let count = arrival.count.unwrap_or(0);
        if arrival.count.is_some() && (count == 0 || !count.is_multiple_of(32) || count > padded) {
            let kind = HazardKind::BarrierCount { barrier: arrival.barrier, count, expected: padded };
            self.report(None, None, kind);
        }
        let live = self.warp.live;
        self.warp.clock.meet(arrival.lanes, live);
        let knowledge = self.warp.clock.release();
        let warps = self.launch.warps;
        let barrier = &mut self.block.barriers[arrival.barrier as usize];
        if barrier.arrived.len() != warps {
            barrier.arrived = vec![0; warps];
        }
        let mismatch = match barrier.count {
            None => None,
            Some(before) => {
                let threads = |count| if count == 0 { padded } else { count };
                (threads(before) != threads(count)).then(|| threads(before))
            }
        };
        if barrier.count.is_none() {
            barrier.count = Some(count);
            barrier.all = true;
        }
        join(&mut barrier.knowledge, &knowledge);
        // A warp counts as a whole once all its live lanes are there.
        let before = barrier.arrived[self.warp.index as usize];
        let after = before | arrival.lanes;
        let weight = |lanes: u32| if lanes & live == live { 32 } else { lanes.count_ones() };
        let twice = before & arrival.lanes != 0;
        barrier.threads += if before == 0 || twice { weight(arrival.lanes) } else { weight(after) - weight(before) };
        barrier.arrived[self.warp.index as usize] = after;
        if let Some((predicates, _)) = arrival.reduction {
            let trues = predicates & arrival.lanes;
            barrier.all &= trues == arrival.lanes;
            barrier.any |= trues != 0;
            barrier.trues += trues.count_ones();
        }
        if arrival.waits {
            let destination = arrival.reduction.map(|(_, destination)| destination);
            barrier.waiters.push(Waiter { warp: self.warp.index, lanes: arrival.lanes, destination });
        }
        self.block.tally.barrier_arrivals += 1;
        self.block.tally.barrier_waits += u64::from(arrival.waits);
        self.block.barrier_entered = arrival.barrier;
        self.block.barriers_changed = true;
        if let Some(expected) = mismatch {
            let count = if count == 0 { padded } else { count };
            self.report(None, None, HazardKind::BarrierCount { barrier: arrival.barrier, count, expected });
        }
    }
}

/// Opens the barriers that all expected threads have reached. Returns whether any warp can go on.
pub(crate) fn open(block: &mut BlockState, warps: &mut [Warp]) -> bool {
    let mut opened = false;
    for barrier in &mut block.barriers {
        let complete = match barrier.count {
            None => false,
            Some(0) => barrier.arrived.iter().zip(&block.live).all(|(arrived, live)| live & !arrived == 0),
            Some(count) => barrier.threads >= count,
        };
        if !complete {
            continue;
        }
        let finished = std::mem::take(barrier);
        if let Some(last) = finished.waiters.last() {
            // The last one to come did not have to wait.
            block.tally.barrier_waits -= u64::from(last.lanes != 0);
        }
        for waiter in &finished.waiters {
            let warp = &mut warps[waiter.warp as usize];
            warp.clock.acquire(&finished.knowledge);
            if let Some(destination) = waiter.destination {
                deliver(warp, waiter.lanes, destination, &finished);
            }
            for group in warp.groups.iter_mut().filter(|group| group.lanes & waiter.lanes != 0) {
                group.state = super::warp::State::Ready;
            }
            opened = true;
        }
    }
    block.barriers_changed = false;
    opened
}

fn deliver(warp: &mut Warp, lanes: u32, destination: Destination, barrier: &Barrier) {
    let row = destination.row as usize;
    let registers = &mut warp.registers;
    if destination.operation == Reduction::Count {
        super::registers::blend(&mut registers.words[row], lanes, &[barrier.trues; 32]);
        registers.words_defined[row] |= lanes;
    } else {
        let value = if destination.operation == Reduction::And { barrier.all } else { barrier.any };
        let old = registers.predicates[row] & !lanes;
        registers.predicates[row] = if value { old | lanes } else { old };
        registers.predicates_defined[row] |= lanes;
    }
}
