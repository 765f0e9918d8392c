//! The machine: blocks of warps that execute decoded instructions.

pub(crate) mod barrier;
pub(crate) mod block;
pub(crate) mod bulk;
pub(crate) mod cluster;
pub(crate) mod copies;
mod grid;
pub(crate) mod lanes;
pub(crate) mod mbarrier;
pub(crate) mod registers;
pub(crate) mod report;
pub(crate) mod warp;
pub(crate) mod warpgroup;
pub(crate) mod wgmma;

pub(crate) use block::BlockState;
pub(crate) use grid::{LaunchState, run};
pub(crate) use warp::Warp;

use crate::decode::Inst;
use crate::hazard::HazardKind;
use crate::shadow::Actor;
use registers::{Longs, Words, blend};

/// What comes after an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The next instruction.
    Next,
    /// The executing lanes go there, the others on.
    Jump(u32),
    /// Each executing lane goes to its entry of [`Warp::targets`].
    Scatter,
    /// The executing lanes are done.
    Exit,
    /// The executing lanes wait at a barrier, which will let them on to the next instruction.
    Wait,
    /// The executing lanes wait for [`BlockState::parked_at`], and then execute the instruction again.
    Park,
    /// The next instruction, after other warps had a chance.
    Yield,
    /// The block stops.
    Fault,
}

/// Executes one instruction for the lanes of the mask, of which there is at least one.
pub(crate) type Handler = fn(&mut Exec<'_>, &Inst, u32) -> Step;

/// All that an instruction may touch.
pub(crate) struct Exec<'a> {
    pub launch: &'a LaunchState<'a>,
    pub block: &'a mut BlockState,
    /// Blocks of the cluster of lower and of higher rank.
    pub before: &'a mut [BlockState],
    pub after: &'a mut [BlockState],
    pub warp: &'a mut Warp,
    pub pc: u32,
    /// The lanes whose result of the current instruction follows from a register that they never wrote.
    pub undefined: u32,
}

impl Exec<'_> {
    /// The values of a word row.
    #[inline(always)]
    pub fn word(&mut self, row: u32, mask: u32) -> Words {
        let registers = &mut self.warp.registers;
        if registers.words_defined[row as usize] & mask != mask {
            self.undefined_word(row, mask);
        }
        self.warp.registers.words[row as usize]
    }

    /// The values of a long row.
    #[inline(always)]
    pub fn long(&mut self, row: u32, mask: u32) -> Longs {
        if self.warp.registers.longs_defined[row as usize] & mask != mask {
            self.undefined_long(row, mask);
        }
        self.warp.registers.longs[row as usize]
    }

    /// The lanes for which a guard is true: a decision, also where the instruction itself only computes.
    #[inline(always)]
    pub fn guard(&mut self, row: u32, mask: u32) -> u32 {
        let lanes = mask & !self.warp.registers.predicates_defined[row as usize];
        if lanes != 0 {
            self.warp.registers.predicates_defined[row as usize] |= lanes;
            let name = self.launch.program.predicate_names.get(&row).cloned();
            self.report_undefined(name, lanes);
        }
        self.warp.registers.predicates[row as usize]
    }

    /// The lanes for which a predicate row is true.
    #[inline(always)]
    pub fn predicate(&mut self, row: u32, mask: u32) -> u32 {
        if self.warp.registers.predicates_defined[row as usize] & mask != mask {
            self.undefined_predicate(row, mask);
        }
        self.warp.registers.predicates[row as usize]
    }

    #[inline(always)]
    pub fn set_word(&mut self, row: u32, mask: u32, values: &Words) {
        blend(&mut self.warp.registers.words[row as usize], mask, values);
        let defined = &mut self.warp.registers.words_defined[row as usize];
        *defined = (*defined | mask) & !(self.undefined & mask);
    }

    #[inline(always)]
    pub fn set_long(&mut self, row: u32, mask: u32, values: &Longs) {
        blend(&mut self.warp.registers.longs[row as usize], mask, values);
        let defined = &mut self.warp.registers.longs_defined[row as usize];
        *defined = (*defined | mask) & !(self.undefined & mask);
    }

    #[inline(always)]
    pub fn set_predicate(&mut self, row: u32, mask: u32, value: u32) {
        let slot = &mut self.warp.registers.predicates[row as usize];
        *slot = *slot & !mask | value & mask;
        let defined = &mut self.warp.registers.predicates_defined[row as usize];
        *defined = (*defined | mask) & !(self.undefined & mask);
    }

    #[cold]
    #[inline(never)]
    fn undefined_word(&mut self, row: u32, mask: u32) {
        let lanes = mask & !self.warp.registers.words_defined[row as usize];
        if self.only_computes(lanes) {
            return;
        }
        self.warp.registers.words_defined[row as usize] |= lanes;
        let name = self.launch.program.word_names.get(&row).cloned();
        self.report_undefined(name, lanes);
    }

    #[cold]
    #[inline(never)]
    fn undefined_long(&mut self, row: u32, mask: u32) {
        let lanes = mask & !self.warp.registers.longs_defined[row as usize];
        if self.only_computes(lanes) {
            return;
        }
        self.warp.registers.longs_defined[row as usize] |= lanes;
        let name = self.launch.program.long_names.get(&row).cloned();
        self.report_undefined(name, lanes);
    }

    #[cold]
    #[inline(never)]
    fn undefined_predicate(&mut self, row: u32, mask: u32) {
        let lanes = mask & !self.warp.registers.predicates_defined[row as usize];
        if self.only_computes(lanes) {
            return;
        }
        self.warp.registers.predicates_defined[row as usize] |= lanes;
        let name = self.launch.program.predicate_names.get(&row).cloned();
        self.report_undefined(name, lanes);
    }

    /// Compilers compute ahead of the branch that decides whether anything was there to compute from. So a value that
    /// follows from nothing is no hazard yet: it is as undefined as its source, until it decides something or leaves
    /// the lane.
    fn only_computes(&mut self, undefined: u32) -> bool {
        let is_pure = self.launch.program.code[self.pc as usize].is_pure;
        if is_pure {
            self.undefined |= undefined;
        }
        is_pure
    }

    /// Reports a register that lanes need and never wrote, or computed from such a one. They count as written from then on.
    fn report_undefined(&mut self, register: Option<String>, lanes: u32) {
        self.report(Some(lanes.trailing_zeros()), None, HazardKind::UndefinedRegister { register, lanes });
    }

    /// Reports a hazard of the current instruction.
    pub fn report(&mut self, lane: Option<u32>, address: Option<u64>, kind: HazardKind) -> Step {
        let fatal = kind.is_fatal();
        let place = report::Place { block: self.block.linear, warp: self.warp.index, lane, address, pc: self.pc };
        self.block.hazards.add(self.launch, place, kind);
        if fatal { Step::Fault } else { Step::Next }
    }

    /// The current instruction as an actor in the shadow memories.
    #[inline(always)]
    pub fn actor(&self, lane: u32, atomic: bool) -> Actor {
        Actor { cluster: self.block.cluster, lane, pc: self.pc, atomic }
    }
}

/// The lanes of a mask, lowest first.
#[inline]
pub(crate) fn each_lane(mask: u32) -> impl Iterator<Item = usize> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        let lane = rest.trailing_zeros() as usize;
        rest &= rest - 1;
        Some(lane)
    })
}
