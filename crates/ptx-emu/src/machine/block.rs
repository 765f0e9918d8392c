//! One block: its warps, its shared memory, and the order in which the warps run.

use std::collections::HashMap;

use super::LaunchState;
use super::barrier::{self, BARRIERS, Barrier};
use super::copies::CopyQueue;
use super::registers::Registers;
use super::report::{HazardSink, Place};
use super::warp::{self, Group, Pause, State, Warp};
use crate::Error;
use crate::counters::Tally;
use crate::decode::special;
use crate::hazard::{HazardKind, Stuck};
use crate::options::Schedule;
use crate::shadow::clock::{Knowledge, WarpClock};
use crate::shadow::global::GlobalShadow;
use crate::shadow::shared::{SharedShadow, TIME_MAX};

/// Instructions a warp runs in a deterministic schedule before the next one has its turn.
const TURN: u64 = 20_000;

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

/// A block and its progress.
pub(crate) struct Block {
    pub state: BlockState,
    warps: Vec<Warp>,
    next: usize,
}

/// How far a block got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    Done,
    /// It used up its turn.
    Paused,
}

impl Block {
    /// A block at its start. The memory in `pool` is used again.
    pub fn new(launch: &LaunchState<'_>, linear: u32, pool: &mut Pool) -> Self {
        let index = launch.block_index(linear);
        let threads = launch.block.iter().product::<u32>();
        let warps: Vec<Warp> = (0..launch.warps as u32)
            .map(|warp| {
                let place = special::Place {
                    warp,
                    block_index: index,
                    block_linear: u64::from(linear),
                    block_shape: launch.block,
                    grid_shape: launch.grid,
                    dynamic_shared_bytes: launch.dynamic_shared_bytes,
                    total_shared_bytes: launch.shared_bytes,
                };
                let mut registers = pool.registers.pop().unwrap_or_else(|| Registers::new(&launch.program));
                registers.reset(&launch.program, &place);
                let lanes = (threads - warp * 32).min(32);
                let live = u32::MAX >> (32 - lanes);
                let local = launch.program.local.bytes as usize * 32;
                Warp {
                    index: warp,
                    registers,
                    groups: vec![Group { pc: 0, lanes: live, state: State::Ready }],
                    live,
                    clock: WarpClock::new(linear, warp, launch.warps),
                    copies: CopyQueue::default(),
                    local: vec![0xff; local],
                    local_written: vec![false; local],
                    targets: [0; 32],
                    since_rotation: 0,
                    forced: false,
                }
            })
            .collect();
        let seed = launch.options.seed ^ u64::from(linear).wrapping_mul(0xd6e8_feb8_6659_fd93);
        let state = BlockState {
            linear,
            // Undefined shared memory reads back as NaN.
            shared: vec![0xff; launch.shared_bytes as usize],
            shared_shadow: SharedShadow::new(launch.shared_bytes, launch.warps, linear),
            global_shadow: std::mem::take(&mut pool.global_shadow),
            shared_sync: HashMap::new(),
            global_sync: HashMap::new(),
            barriers: Default::default(),
            barrier_entered: 0,
            barriers_changed: false,
            live: warps.iter().map(|warp| warp.live).collect(),
            hazards: HazardSink::default(),
            tally: Tally::new(launch.program.code.len()),
            executed: 0,
            error: None,
            random: Random::new(seed),
            allocation_hint: 0,
        };
        Block { state, warps, next: 0 }
    }

    /// Gives the register files back.
    pub fn recycle(self, pool: &mut Pool) -> BlockState {
        pool.registers.extend(self.warps.into_iter().map(|warp| warp.registers));
        self.state
    }

    /// Runs for about `budget` warp instructions.
    pub fn run(&mut self, launch: &LaunchState<'_>, budget: u64) -> Progress {
        let end = self.state.executed.saturating_add(budget);
        loop {
            if self.warps.iter().all(|warp| warp.groups.is_empty()) {
                return Progress::Done;
            }
            let limit = launch.options.limits.block_instructions;
            if self.state.executed >= limit {
                self.state.error.get_or_insert(Error::Limit { what: "warp instructions of a block", limit });
                return Progress::Done;
            }
            if self.warps.iter().any(|warp| warp.clock.now >= TIME_MAX) {
                let error = Error::Limit { what: "synchronisations of a warp", limit: u64::from(TIME_MAX) };
                self.state.error.get_or_insert(error);
                return Progress::Done;
            }
            if self.state.executed >= end {
                return Progress::Paused;
            }
            let Some((chosen, turn)) = self.choose(launch) else {
                if !self.unblock(launch) {
                    return Progress::Done;
                }
                continue;
            };
            let turn = turn.min(limit - self.state.executed).min(end - self.state.executed);
            let pause = warp::run(launch, &mut self.state, &mut self.warps[chosen], turn);
            if pause == Pause::Fault {
                return Progress::Done;
            }
            if self.state.barriers_changed {
                barrier::open(&mut self.state, &mut self.warps);
            }
        }
    }

    /// The warp that runs next and for how long, if one can.
    fn choose(&mut self, launch: &LaunchState<'_>) -> Option<(usize, u64)> {
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
                let chosen = ready[(self.state.random.next() % ready.len() as u64) as usize];
                Some((chosen, 1 + self.state.random.next() % 256))
            }
        }
    }

    /// No warp can go on. Lets lanes that wait for others of their warp go on without them, which
    /// is reported; if there are none, reports the deadlock.
    fn unblock(&mut self, launch: &LaunchState<'_>) -> bool {
        if self.warps.iter_mut().any(Warp::force) {
            return true;
        }
        let mut stuck = Vec::new();
        for warp in &self.warps {
            for group in &warp.groups {
                let (pc, waits_for) = match group.state {
                    State::Barrier(id) => {
                        let barrier = &self.state.barriers[id as usize];
                        let arrived = barrier.arrivals();
                        let what = match barrier.expected() {
                            Some(count) => format!("barrier {id}, where {arrived} of {count} threads are"),
                            None => format!("barrier {id}, where {arrived} threads are"),
                        };
                        (group.pc.saturating_sub(1), what)
                    }
                    _ => (group.pc, "other lanes of its warp".to_owned()),
                };
                stuck.push(Stuck { warp: warp.index, lanes: group.lanes, position: launch.position(pc), waits_for });
            }
        }
        let Some(first) = self.warps.iter().find(|warp| !warp.groups.is_empty()) else { return false };
        let place = Place {
            block: self.state.linear,
            warp: first.index,
            lane: None,
            address: None,
            pc: first.groups[0].pc.saturating_sub(1),
        };
        self.state.hazards.add(launch, place, HazardKind::Deadlock { warps: stuck });
        false
    }
}
