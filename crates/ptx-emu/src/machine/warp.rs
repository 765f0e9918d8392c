//! One warp: groups of lanes that share a program counter, and the loop that runs them.

use super::bulk::BulkQueue;
use super::cluster::Blocks;
use super::copies::CopyQueue;
use super::registers::Registers;
use super::wgmma::ProductQueue;
use super::{Exec, LaunchState, Step};
use crate::decode::{ALWAYS, Inst, Sync};
use crate::hazard::HazardKind;
use crate::options::Schedule;
use crate::shadow::clock::WarpClock;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    /// Waits at a block barrier.
    Barrier(u32),
    /// Waits at a `.sync` instruction for lanes that are elsewhere.
    Rendezvous,
    /// Waits for a phase of an mbarrier, and then executes the wait again.
    Mbarrier {
        address: u32,
        parity: u32,
    },
    /// Waits for the phase of the cluster's barrier that it arrived in, and then executes the wait again.
    ClusterBarrier,
}

impl State {
    /// Whether lanes that come to the same place join these.
    fn may_meet(self) -> bool {
        matches!(self, State::Ready | State::Rendezvous)
    }
}

/// Lanes that go together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Group {
    pub pc: u32,
    pub lanes: u32,
    pub state: State,
}

/// Why a warp stopped running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pause {
    /// All lanes have exited.
    Done,
    /// Every lane waits.
    Blocked,
    /// Its turn is over.
    Quantum,
    /// The block stops.
    Fault,
}

/// Instructions after which lanes that are ahead get a turn, so that a lane that spins does not
/// starve the lane it waits for.
const FAIRNESS_STEPS: u64 = 4096;

#[derive(Debug)]
pub(crate) struct Warp {
    pub index: u32,
    pub registers: Registers,
    pub groups: Vec<Group>,
    /// Lanes that have not exited.
    pub live: u32,
    pub clock: WarpClock,
    pub copies: CopyQueue,
    pub bulk: BulkQueue,
    /// Lanes that have arrived at the cluster's barrier and not waited there yet.
    pub arrived_at_cluster: u32,
    pub products: ProductQueue,
    /// Local memory of all lanes, one after the other, and which bytes were written.
    pub local: Vec<u8>,
    pub local_written: Vec<bool>,
    /// For [`Step::Scatter`].
    pub targets: [u32; 32],
    /// Instructions since lanes that are ahead last had a turn.
    pub since_rotation: u64,
    /// The next `.sync` instruction executes with the lanes that are there.
    pub forced: bool,
}

impl Warp {
    /// Whether some lanes can go on.
    pub fn is_ready(&self) -> bool {
        self.groups.iter().any(|group| group.state == State::Ready)
    }

    /// Lets the first group that waits for other lanes go on without them.
    pub fn force(&mut self) -> bool {
        let waiting = self.groups.iter_mut().filter(|g| g.state == State::Rendezvous).min_by_key(|g| g.pc);
        if let Some(group) = waiting {
            group.state = State::Ready;
            self.forced = true;
            return true;
        }
        false
    }

    /// Joins ready groups at the same place.
    fn merge(&mut self) {
        let mut at = 0;
        while at < self.groups.len() {
            let Group { pc, state, .. } = self.groups[at];
            if state == State::Ready {
                let mut other = at + 1;
                while other < self.groups.len() {
                    if self.groups[other].pc == pc && self.groups[other].state == State::Ready {
                        self.groups[at].lanes |= self.groups.swap_remove(other).lanes;
                    } else {
                        other += 1;
                    }
                }
            }
            at += 1;
        }
    }

    /// Joins all groups that wait at the place of group `at` into it.
    fn gather(&mut self, at: usize) -> usize {
        let pc = self.groups[at].pc;
        let mut lanes = 0;
        for (index, group) in self.groups.iter().enumerate() {
            if index == at || group.pc == pc && group.state.may_meet() {
                lanes |= group.lanes;
            }
        }
        self.groups.retain(|group| group.lanes & lanes == 0);
        self.groups.push(Group { pc, lanes, state: State::Ready });
        self.groups.len() - 1
    }
}

/// Runs a warp until it waits, ends or has executed `quantum` instructions.
pub(crate) fn run(launch: &LaunchState<'_>, blocks: &mut Blocks<'_>, warp: &mut Warp, quantum: u64) -> Pause {
    let code: &[Inst] = &launch.program.code;
    let diverged = launch.options.schedule == Schedule::Diverged;
    let Blocks { before, own: block, after } = blocks;
    let mut exec = Exec { launch, block, before, after, warp, pc: 0, undefined: 0 };
    let mut left = quantum;
    'pick: loop {
        if exec.warp.groups.len() > 1 && !diverged {
            exec.warp.merge();
        }
        let rotate = exec.warp.since_rotation > FAIRNESS_STEPS;
        let Some((at, stop, mut slice)) = pick(&mut exec, diverged, rotate) else {
            return if exec.warp.groups.is_empty() { Pause::Done } else { Pause::Blocked };
        };
        if rotate {
            exec.warp.since_rotation = 0;
        }
        let Group { mut pc, lanes, .. } = exec.warp.groups[at];
        let alone = exec.warp.groups.len() == 1;
        loop {
            if left == 0 || slice == 0 {
                exec.warp.groups[at].pc = pc;
                if left == 0 {
                    return Pause::Quantum;
                }
                continue 'pick;
            }
            left -= 1;
            slice -= 1;
            let Some(inst) = code.get(pc as usize) else {
                // Running off the end is a return.
                exit(&mut exec, at, lanes, 0, pc);
                continue 'pick;
            };
            exec.pc = pc;
            let mut mask = lanes;
            if inst.guard != ALWAYS {
                let guard = exec.guard(inst.guard, lanes);
                mask &= if inst.guard_negated { !guard } else { guard };
            }
            exec.block.executed += 1;
            let tally = &mut exec.block.tally;
            tally.issued[pc as usize] += 1;
            tally.lanes[pc as usize] += if mask == u32::MAX { 32 } else { u64::from(mask.count_ones()) };
            if !alone {
                tally.divergent_instructions += 1;
                exec.warp.since_rotation += 1;
            }
            if mask == 0 {
                pc += 1;
            } else {
                if inst.sync != Sync::None && !synchronize(&mut exec, inst, at, lanes, mask) {
                    continue 'pick;
                }
                exec.undefined = 0;
                if inst.touches {
                    exec.touch_registers();
                }
                match (inst.handler)(&mut exec, inst, mask) {
                    Step::Next => pc += 1,
                    Step::Jump(target) if mask == lanes => pc = target,
                    Step::Jump(target) => {
                        exec.block.tally.divergent_branches += 1;
                        exec.warp.groups[at] = Group { pc: target, lanes: mask, state: State::Ready };
                        exec.warp.groups.push(Group { pc: pc + 1, lanes: lanes & !mask, state: State::Ready });
                        continue 'pick;
                    }
                    Step::Scatter => {
                        scatter(&mut exec, at, lanes, mask, pc);
                        continue 'pick;
                    }
                    Step::Exit => {
                        exit(&mut exec, at, mask, lanes & !mask, pc);
                        continue 'pick;
                    }
                    Step::Wait => {
                        let state = State::Barrier(exec.block.barrier_entered);
                        exec.warp.groups[at] = Group { pc: pc + 1, lanes: mask, state };
                        if lanes != mask {
                            let rest = Group { pc: pc + 1, lanes: lanes & !mask, state: State::Ready };
                            exec.warp.groups.push(rest);
                        }
                        continue 'pick;
                    }
                    Step::Park => {
                        // It is counted when it goes on.
                        let tally = &mut exec.block.tally;
                        tally.issued[pc as usize] -= 1;
                        tally.lanes[pc as usize] -= u64::from(mask.count_ones());
                        exec.warp.groups[at] = Group { pc, lanes: mask, state: exec.block.parked_at };
                        if lanes != mask {
                            let rest = Group { pc: pc + 1, lanes: lanes & !mask, state: State::Ready };
                            exec.warp.groups.push(rest);
                        }
                        continue 'pick;
                    }
                    Step::Yield => {
                        exec.warp.groups[at].pc = pc + 1;
                        return Pause::Quantum;
                    }
                    Step::Fault => {
                        exec.warp.groups[at].pc = pc;
                        return Pause::Fault;
                    }
                }
            }
            if !alone && pc >= stop {
                exec.warp.groups[at].pc = pc;
                continue 'pick;
            }
        }
    }
}

/// Chooses the group to run, up to which place, and for how many instructions at most.
fn pick(exec: &mut Exec<'_>, diverged: bool, rotate: bool) -> Option<(usize, u32, u64)> {
    let groups = &exec.warp.groups;
    if let [only] = groups.as_slice() {
        return (only.state == State::Ready).then_some((0, u32::MAX, u64::MAX));
    }
    let ready = || groups.iter().enumerate().filter(|(_, group)| group.state == State::Ready);
    if diverged {
        let count = ready().count() as u64;
        if count == 0 {
            return None;
        }
        let chosen = ready().nth((exec.block.random.next() % count) as usize).map(|(at, _)| at)?;
        return Some((chosen, u32::MAX, 1 + exec.block.random.next() % 64));
    }
    if rotate {
        return ready().max_by_key(|(_, group)| group.pc).map(|(at, _)| (at, u32::MAX, 256));
    }
    // The lanes that are furthest behind, until they catch up with the next: so lanes that parted
    // at a branch come together again behind it.
    let (at, group) = ready().min_by_key(|(_, group)| group.pc)?;
    let stop = ready().filter(|(other, _)| *other != at).map(|(_, g)| g.pc).min();
    Some((at, stop.unwrap_or(u32::MAX).max(group.pc + 1), FAIRNESS_STEPS + 1))
}

/// Whether all lanes that the instruction needs are there. If not, the group waits.
fn synchronize(exec: &mut Exec<'_>, inst: &Inst, at: usize, lanes: u32, mask: u32) -> bool {
    let live = exec.warp.live;
    let required = match inst.sync {
        Sync::None => return true,
        Sync::Aligned | Sync::Barrier => live,
        Sync::Members(row) => {
            let members = exec.word(row, mask);
            super::each_lane(mask).fold(0, |all, lane| all | members[lane]) & live
        }
    };
    let missing = required & !mask;
    if missing == 0 {
        exec.warp.forced = false;
        return true;
    }
    if std::mem::take(&mut exec.warp.forced) {
        let kind = if inst.sync == Sync::Barrier {
            let barrier = exec.word(inst.a, mask)[mask.trailing_zeros() as usize];
            HazardKind::BarrierDivergence { barrier, present: mask, missing }
        } else {
            HazardKind::MissingParticipants { required, present: mask }
        };
        exec.report(None, None, kind);
        return true;
    }
    let pc = exec.pc;
    exec.warp.groups[at].pc = pc;
    let elsewhere = |group: &Group| group.pc == pc && group.state.may_meet();
    if exec.warp.groups.iter().enumerate().any(|(index, group)| index != at && elsewhere(group)) {
        // Others wait here: go on together, and look again who is missing.
        exec.warp.gather(at);
        return false;
    }
    exec.warp.groups[at] = Group { pc, lanes: mask, state: State::Rendezvous };
    if lanes != mask {
        exec.warp.groups.push(Group { pc: pc + 1, lanes: lanes & !mask, state: State::Ready });
    }
    false
}

fn exit(exec: &mut Exec<'_>, at: usize, leaving: u32, staying: u32, pc: u32) {
    exec.pc = pc;
    exec.end_bulk_groups(leaving);
    exec.warp.live &= !leaving;
    exec.block.live[exec.warp.index as usize] = exec.warp.live;
    exec.block.barriers_changed = true;
    exec.block.waits_changed = true;
    if exec.warp.live == 0 && exec.launch.program.has_warpgroups {
        exec.leave_warpgroup(pc);
    }
    if staying == 0 {
        exec.warp.groups.swap_remove(at);
    } else {
        exec.warp.groups[at] = Group { pc: pc + 1, lanes: staying, state: State::Ready };
    }
}

fn scatter(exec: &mut Exec<'_>, at: usize, lanes: u32, mask: u32, pc: u32) {
    exec.warp.groups.swap_remove(at);
    if lanes != mask {
        exec.warp.groups.push(Group { pc: pc + 1, lanes: lanes & !mask, state: State::Ready });
    }
    let mut rest = mask;
    while rest != 0 {
        let target = exec.warp.targets[rest.trailing_zeros() as usize];
        let same = super::each_lane(rest)
            .filter(|lane| exec.warp.targets[*lane] == target)
            .fold(0, |all, lane| all | 1 << lane);
        exec.warp.groups.push(Group { pc: target, lanes: same, state: State::Ready });
        rest &= !same;
    }
    if exec.warp.groups.len() > 1 {
        exec.block.tally.divergent_branches += 1;
    }
}
