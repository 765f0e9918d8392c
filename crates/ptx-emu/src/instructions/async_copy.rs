//! `cp.async`: copies from global to shared memory that complete at a wait. Bulk and tensor copies are in [`super::bulk`].

use super::address::addresses;
use super::memory::shared_bounds;
use super::{bulk, global};
use crate::Error;
use crate::counters::{global_sectors, shared_wavefronts};
use crate::decode::{Decoder, Form, Inst};
use crate::hazard::Access;
use crate::machine::copies::Batch;
use crate::machine::{Exec, Step, each_lane};
use crate::module::ScalarType::{Pred, U32};
use crate::module::{Class, Operand, Space};

const LONG_SOURCE: u32 = 1;
const LONG_DESTINATION: u32 = 2;
/// `c` is a row of source sizes.
const SOURCE_SIZE: u32 = 4;
/// `c` is a predicate row: true ignores the source.
const IGNORE_SOURCE: u32 = 8;
const NEGATED: u32 = 16;
/// Bytes, from this bit on.
const BYTES_SHIFT: u32 = 8;

pub(super) fn decode(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    let reduces = f.accept("reduce");
    f.require("the kind", &[("async", ())])?;
    if f.accept("bulk") {
        return bulk::decode(d, f, reduces);
    }
    if reduces {
        return Err(f.unsupported("only bulk copies reduce"));
    }
    if f.accept("mbarrier") {
        return Err(f.unsupported("copies of single lanes are not announced to mbarriers here"));
    }
    if f.accept("commit_group") {
        f.expect_operands(0..=0)?;
        return Ok(Inst::new(|x, _, mask| {
            x.commit_copies(mask);
            Step::Next
        }));
    }
    if f.accept("wait_all") {
        f.expect_operands(0..=0)?;
        return Ok(Inst::new(|x, _, mask| {
            x.wait_copies(mask, None);
            Step::Next
        }));
    }
    if f.accept("wait_group") {
        f.expect_operands(1..=1)?;
        let mut inst = Inst::new(|x, i, mask| {
            x.wait_copies(mask, Some(i.offset as u64));
            Step::Next
        });
        inst.offset = f.constant(0)?;
        if inst.offset < 0 {
            return Err(f.unsupported("the number of groups is negative"));
        }
        return Ok(inst);
    }
    copy(d, f)
}

/// `cp.async.cg.shared.global [dst], [src], 16{, src-size | ignore-src}{, policy}`
fn copy(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    let wide_only = f.require("the cache operator", &[("ca", false), ("cg", true)])?;
    f.require("the destination", &[("shared", ()), ("shared::cta", ())])?;
    f.require("the source", &[("global", ())])?;
    let policy = f.accept("L2::cache_hint");
    f.skip_cache_hints();
    f.expect_operands(3..=5)?;
    let bytes = f.constant(2)?;
    if !matches!(bytes, 4 | 8 | 16) || wide_only && bytes != 16 {
        return Err(f.unsupported(format!("a copy of {bytes} bytes does not exist in this form")));
    }
    let destination = d.address(f, f.operand(0)?)?;
    let source = d.address(f, f.operand(1)?)?;
    let mut inst = Inst::new(execute);
    inst.a = destination.row;
    inst.b = source.row;
    inst.flags = (bytes as u32) << BYTES_SHIFT;
    inst.flags |= if source.long { LONG_SOURCE } else { 0 } | if destination.long { LONG_DESTINATION } else { 0 };
    inst.offset = destination.offset;
    // The source's offset does not fit the instruction; it becomes a constant row.
    inst.d = d.long_constant(source.offset as u64);
    let extra = f.operands().len() - 3 - usize::from(policy);
    if extra > 1 || policy && f.operands().len() < 4 {
        return Err(f.unsupported("the number of operands does not fit the modifiers"));
    }
    if extra == 1 {
        match f.operand(3)? {
            Operand::Negated(_) => {
                inst.c = d.predicate(f, f.operand(3)?)?.0;
                inst.flags |= IGNORE_SOURCE | NEGATED;
            }
            Operand::Register(id) if d.kernel.registers[*id as usize].ty.class() == Class::Predicate => {
                inst.c = d.source(f, f.operand(3)?, Pred)?;
                inst.flags |= IGNORE_SOURCE;
            }
            other => {
                inst.c = d.source(f, other, U32)?;
                inst.flags |= SOURCE_SIZE;
            }
        }
    }
    Ok(inst)
}

fn execute(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let bytes = i.flags >> BYTES_SHIFT;
    let mut view = Inst::new(i.handler);
    (view.a, view.offset) = (i.a, i.offset);
    view.flags = if i.flags & LONG_DESTINATION != 0 { super::address::LONG_BASE } else { 0 };
    let to = addresses(x, &view, mask);
    (view.a, view.offset) = (i.b, x.warp.registers.longs[i.d as usize][0] as i64);
    view.flags = if i.flags & LONG_SOURCE != 0 { super::address::LONG_BASE } else { 0 };
    let from = addresses(x, &view, mask);
    let mut source_bytes = [bytes as u8; 32];
    if i.flags & SOURCE_SIZE != 0 {
        source_bytes = x.word(i.c, mask).map(|size| size.min(bytes) as u8);
    } else if i.flags & IGNORE_SOURCE != 0 {
        let predicate = x.predicate(i.c, mask);
        let ignore = if i.flags & NEGATED != 0 { !predicate } else { predicate };
        source_bytes = std::array::from_fn(|lane| if ignore >> lane & 1 != 0 { 0 } else { bytes as u8 });
    }
    if !shared_bounds(x, &to, mask, bytes, Access::AsyncWrite) {
        return Step::Fault;
    }
    let mask = x.aligned(Space::Shared, Access::AsyncWrite, &to, mask, bytes);
    let reads = each_lane(mask).filter(|lane| source_bytes[*lane] != 0).fold(0, |all, lane| all | 1u32 << lane);
    let reads_aligned = x.aligned(Space::Global, Access::Read, &from, reads, bytes);
    let mask = mask & !(reads & !reads_aligned);
    let destination = to.map(|address| address as u32);
    x.block.tally.shared[5].add(shared_wavefronts(&destination, mask, bytes));
    x.block.tally.global[3].add(global_sectors(&from, reads_aligned, bytes));
    for lane in each_lane(reads_aligned) {
        if !check_source(x, lane, from[lane], u32::from(source_bytes[lane])) {
            return Step::Fault;
        }
    }
    if x.launch.options.checks.shared_races || x.launch.options.checks.uninitialized_memory {
        for lane in each_lane(mask) {
            let actor = x.actor(lane as u32, false);
            let found = x.block.shared_shadow.begin_copy(&x.warp.clock, actor, destination[lane], bytes);
            if let Some(conflict) = found.filter(|_| x.launch.options.checks.shared_races) {
                x.report_conflict(Space::Shared, Access::AsyncWrite, lane, to[lane], conflict);
            }
        }
    }
    if mask != 0 {
        x.issue_copies(Batch {
            lanes: mask,
            group: [0; 32],
            destination,
            source: from,
            bytes,
            source_bytes,
            moved: false,
        });
    }
    Step::Next
}

/// Checks the bytes that one lane's copy will read; `false` if the block must stop.
fn check_source(x: &mut Exec<'_>, lane: usize, address: u64, bytes: u32) -> bool {
    let checks = x.launch.options.checks;
    let Some((index, offset)) = x.find_allocation(address, u64::from(bytes)) else {
        x.out_of_bounds(Space::Global, Access::Read, lane, address, bytes);
        return false;
    };
    if checks.uninitialized_memory && !x.launch.allocations[index].is_written(offset, bytes) {
        x.report_uninitialized(Space::Global, lane, address, bytes);
    }
    if checks.global_races {
        if bytes.is_power_of_two() {
            global::check_read(x, lane, index, offset, bytes, false, address);
        } else {
            for byte in 0..u64::from(bytes) {
                global::check_read(x, lane, index, offset + byte, 1, false, address + byte);
            }
        }
    }
    true
}
