//! What the warps of a block share for warpgroup instructions: whether the four warps of a warpgroup do the same, and
//! the registers that `setmaxnreg` moves between them.

use std::collections::VecDeque;

use super::Exec;
use crate::hazard::HazardKind;
use crate::numerics::warpgroup::{Group, Tile};

/// Warps of a warpgroup.
pub(crate) const WARPS: usize = 4;

/// Registers of a multiprocessor.
pub(crate) const REGISTER_FILE: u32 = 65_536;

/// One warpgroup instruction as one warp executed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Event {
    pub pc: u32,
    /// Everything that must be the same in all four warps.
    pub operands: [u64; 3],
}

/// The instructions of one warpgroup that not all of its warps have executed.
#[derive(Debug, Default)]
struct Log {
    events: VecDeque<(u32, Event)>,
    /// Events before the first of `events`.
    forgotten: u64,
    /// Events of each warp.
    seen: [u64; WARPS],
    mismatched: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Warpgroups {
    logs: Vec<Log>,
    /// Registers per thread of each warp, once it has executed `setmaxnreg`.
    registers: Vec<Option<u32>>,
    exhausted: bool,
    /// Memory that matrix products use one after the other.
    pub tiles: Vec<Tile>,
    pub groups: Vec<Group>,
}

impl Warpgroups {
    pub fn new(warps: usize) -> Self {
        let logs = (0..warps / WARPS).map(|_| Log::default()).collect();
        Warpgroups { logs, registers: vec![None; warps], ..Warpgroups::default() }
    }
}

impl Exec<'_> {
    /// A warp executes an instruction that all warps of its warpgroup must execute alike.
    pub fn in_warpgroup(&mut self, operands: [u64; 3]) {
        let warp = self.warp.index as usize;
        let event = Event { pc: self.pc, operands };
        let Some(log) = self.block.warpgroups.logs.get_mut(warp / WARPS) else {
            let reason = format!("the block's {} warps do not make up its warpgroup", self.launch.warps);
            self.report(None, None, HazardKind::WarpgroupMismatch { reason });
            return;
        };
        let at = (log.seen[warp % WARPS] - log.forgotten) as usize;
        log.seen[warp % WARPS] += 1;
        let other = match log.events.get(at) {
            None => {
                log.events.push_back((self.warp.index, event));
                None
            }
            Some((_, known)) if *known == event || log.mismatched => None,
            Some(other) => {
                log.mismatched = true;
                Some(*other)
            }
        };
        let oldest = log.seen.iter().min().copied().unwrap_or(0);
        while log.forgotten < oldest {
            log.events.pop_front();
            log.forgotten += 1;
        }
        if let Some((warp, other)) = other {
            let what = if other.pc == self.pc { "with other operands" } else { "in its place" };
            let reason = format!("warp {warp} executed {} {what}", self.launch.position(other.pc));
            self.report(None, None, HazardKind::WarpgroupMismatch { reason });
        }
    }

    /// The last lane of the warp has exited.
    pub fn leave_warpgroup(&mut self, pc: u32) {
        self.pc = pc;
        self.end_products();
        self.check_register_pool();
        let warp = self.warp.index as usize;
        let first = warp / WARPS * WARPS;
        let Some(log) = self.block.warpgroups.logs.get_mut(warp / WARPS) else { return };
        let gone = self.block.live[first..first + WARPS].iter().all(|live| *live == 0);
        let furthest = log.seen.iter().max().copied().unwrap_or(0);
        let behind = log.seen.iter().position(|seen| *seen != furthest);
        if let (true, false, Some(behind)) = (gone, log.mismatched, behind) {
            let at = (log.seen[behind] - log.forgotten) as usize;
            let Some((other, event)) = log.events.get(at).copied() else { return };
            let missing = first + behind;
            let reason = format!("warp {other} executed {}, warp {missing} did not", self.launch.position(event.pc));
            self.pc = event.pc;
            self.report(None, None, HazardKind::WarpgroupMismatch { reason });
        }
    }

    /// `setmaxnreg`
    pub fn set_registers(&mut self, count: u32, increase: bool) {
        self.in_warpgroup([u64::from(count), 0, 0]);
        let warp = self.warp.index as usize;
        let launched = self.launch.registers;
        let before = self.block.warpgroups.registers[warp].or((launched != 0).then_some(launched));
        if let Some(before) = before
            && (if increase { count < before } else { count > before })
        {
            self.report(None, None, HazardKind::RegisterCount { count, before });
        }
        self.block.warpgroups.registers[warp] = Some(count);
        self.check_register_pool();
    }

    /// Once every warp has set its registers, or has exited, they must fit into what the block was launched with: an
    /// increase waits until there are enough, and nothing more is coming.
    fn check_register_pool(&mut self) {
        let launched = self.launch.registers;
        let groups = &mut self.block.warpgroups;
        let settled = groups.registers.iter().zip(&self.block.live).all(|(set, live)| set.is_some() || *live == 0);
        if groups.exhausted || !settled || groups.registers.iter().all(Option::is_none) {
            return;
        }
        let wanted: u32 = groups.registers.iter().map(|set| 32 * set.unwrap_or(launched)).sum();
        let pool = if launched == 0 { REGISTER_FILE } else { launched * 32 * self.launch.warps as u32 };
        if wanted > pool {
            groups.exhausted = true;
            self.report(None, None, HazardKind::RegisterPool { wanted, pool });
        }
    }
}
