//! `atom` and `red`. The lanes of a warp take their turns in order.

use super::address::{addresses, set_address};
use super::global;
use super::memory::{ORDERED, STRONG, acquire, by_rank, by_window, extend_release, fetch, put, shared_bounds, space};
use crate::Error;
use crate::counters::{global_sectors, shared_wavefronts};
use crate::decode::{Decoder, Form, Inst};
use crate::hazard::Access;
use crate::machine::{Exec, Step, each_lane};
use crate::module::ScalarType::{self, *};
use crate::module::Space;
use crate::numerics::half::{bf16_to_f32, f16_to_f32};
use crate::numerics::rounding::{Format, Rounding, add_odd};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    And,
    Or,
    Xor,
    Exchange,
    CompareSwap,
    Increment,
    Decrement,
    Add,
    Minimum,
    Maximum,
}

const OPERATIONS: [(&str, Operation); 10] = [
    ("and", Operation::And),
    ("or", Operation::Or),
    ("xor", Operation::Xor),
    ("exch", Operation::Exchange),
    ("cas", Operation::CompareSwap),
    ("inc", Operation::Increment),
    ("dec", Operation::Decrement),
    ("add", Operation::Add),
    ("min", Operation::Minimum),
    ("max", Operation::Maximum),
];

const TYPES: [ScalarType; 13] = [B16, B32, B64, U32, S32, U64, S64, F32, F64, F16, Bf16, F16x2, Bf16x2];

const RETURNS: u32 = 1 << 6;
const SPACE_SHIFT: u32 = 8;
const OPERATION_SHIFT: u32 = 12;
const TYPE_SHIFT: u32 = 16;

const SPACES: [Space; 3] = [Space::Global, Space::Shared, Space::Generic];

pub(super) fn decode(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    let returns = f.base == "atom";
    let semantics = [("relaxed", 0), ("acquire", ORDERED), ("release", ORDERED), ("acq_rel", ORDERED)];
    let mut flags = STRONG | f.choose(&semantics).unwrap_or(0);
    f.choose(&[("cta", ()), ("cluster", ()), ("gpu", ()), ("sys", ())]);
    let space = space(f);
    let space_index = SPACES.iter().position(|s| *s == space);
    let space_index = space_index.ok_or_else(|| f.unsupported("atomics work on global and shared memory"))?;
    let index = OPERATIONS.iter().position(|(name, _)| f.accept(name));
    let index = index.ok_or_else(|| f.unsupported("the operation is missing or unknown"))?;
    let operation = OPERATIONS[index].1;
    f.accept("noftz");
    let ty = f.ty()?;
    let type_index = TYPES.iter().position(|t| *t == ty).filter(|_| allowed(operation, ty));
    let type_index = type_index.ok_or_else(|| f.unsupported(format!("no such operation on {ty:?}")))?;
    if space != Space::Shared {
        d.program.communicates = true;
    }
    let sources = if operation == Operation::CompareSwap { 2 } else { 1 };
    let first = usize::from(returns);
    f.expect_operands(first + 1 + sources..=first + 1 + sources)?;
    flags |= if returns { RETURNS } else { 0 };
    flags |=
        (space_index as u32) << SPACE_SHIFT | (index as u32) << OPERATION_SHIFT | (type_index as u32) << TYPE_SHIFT;
    let mut inst = Inst::new(execute);
    inst.flags = flags;
    if returns {
        inst.d = d.destination(f, f.operand(0)?, ty)?;
    }
    let address = d.address(f, f.operand(first)?)?;
    set_address(&mut inst, address);
    inst.b = d.source(f, f.operand(first + 1)?, ty)?;
    if sources == 2 {
        inst.c = d.source(f, f.operand(first + 2)?, ty)?;
    }
    Ok(inst)
}

/// The operation of that name on a type, as bulk reductions have it: its number for [`combine_numbered`].
pub(super) fn reduction(f: &Form<'_>) -> Result<(u32, ScalarType), Error> {
    let index = OPERATIONS.iter().position(|(name, _)| f.accept(name));
    let index = index.ok_or_else(|| f.unsupported("the operation is missing or unknown"))?;
    f.accept("noftz");
    let ty = f.ty()?;
    let is_known = !matches!(OPERATIONS[index].1, Operation::Exchange | Operation::CompareSwap)
        && allowed(OPERATIONS[index].1, ty);
    if is_known { Ok((index as u32, ty)) } else { Err(f.unsupported(format!("no such reduction of {ty:?}"))) }
}

/// The number of an operation for [`combine_numbered`], if it exists for the type.
pub(super) fn operation_number(f: &Form<'_>) -> Result<u32, Error> {
    let names = ["add", "min", "max", "inc", "dec", "and", "or", "xor"];
    let name = names.iter().find(|name| f.accept(name)).ok_or_else(|| f.unsupported("the operation is missing"))?;
    Ok(OPERATIONS.iter().position(|(known, _)| known == name).unwrap_or_default() as u32)
}

/// Whether an operation, given by its number, exists for a type.
pub(super) fn exists(operation: u32, ty: ScalarType) -> bool {
    OPERATIONS.get(operation as usize).is_some_and(|(_, operation)| allowed(*operation, ty))
}

/// The new value in memory, for an operation given by its number.
pub(super) fn combine_numbered(ty: ScalarType, operation: u32, old: u64, new: u64) -> u64 {
    match OPERATIONS.get(operation as usize) {
        Some((_, operation)) => combine(*operation, ty, old, new, 0),
        None => old,
    }
}

fn allowed(operation: Operation, ty: ScalarType) -> bool {
    match operation {
        Operation::And | Operation::Or | Operation::Xor => matches!(ty, B32 | B64),
        Operation::Exchange => matches!(ty, B32 | B64),
        Operation::CompareSwap => matches!(ty, B16 | B32 | B64),
        Operation::Increment | Operation::Decrement => ty == U32,
        Operation::Add => matches!(ty, U32 | S32 | U64 | S64 | F32 | F64 | F16 | Bf16 | F16x2 | Bf16x2),
        Operation::Minimum | Operation::Maximum => {
            matches!(ty, U32 | S32 | U64 | S64 | F16 | Bf16 | F16x2 | Bf16x2)
        }
    }
}

/// The new value in memory.
fn combine(operation: Operation, ty: ScalarType, old: u64, b: u64, c: u64) -> u64 {
    let signed = |v: u64| if ty.bytes() == 8 { v as i64 } else { i64::from(v as u32 as i32) };
    let less = |p: u64, q: u64| if ty.is_signed() { signed(p) < signed(q) } else { p < q };
    match operation {
        Operation::And => old & b,
        Operation::Or => old | b,
        Operation::Xor => old ^ b,
        Operation::Exchange => b,
        Operation::CompareSwap => {
            if old == b {
                c
            } else {
                old
            }
        }
        Operation::Increment => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        Operation::Decrement => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
        _ if ty.is_float() => float(operation, ty, old, b),
        Operation::Add if ty.bytes() == 8 => old.wrapping_add(b),
        Operation::Add => u64::from((old as u32).wrapping_add(b as u32)),
        Operation::Minimum => {
            if less(b, old) {
                b
            } else {
                old
            }
        }
        Operation::Maximum => {
            if less(old, b) {
                b
            } else {
                old
            }
        }
    }
}

fn float(operation: Operation, ty: ScalarType, old: u64, b: u64) -> u64 {
    let half = |p: u16, q: u16, bfloat: bool| {
        let widen = |v: u16| if bfloat { bf16_to_f32(v) } else { f16_to_f32(v) };
        let format = if bfloat { Format::BF16 } else { Format::F16 };
        let (p, q) = (widen(p), widen(q));
        let value = match operation {
            Operation::Minimum => f64::from(super::float::extreme::<false>(p, q, false)),
            Operation::Maximum => f64::from(super::float::extreme::<true>(p, q, false)),
            _ => add_odd(f64::from(p), f64::from(q)),
        };
        u64::from(format.encode(value, Rounding::Nearest, false))
    };
    match ty {
        F32 => {
            let sum = f32::from_bits(old as u32) + f32::from_bits(b as u32);
            u64::from(if sum.is_nan() { 0x7fff_ffff } else { sum.to_bits() })
        }
        F64 => {
            let sum = f64::from_bits(old) + f64::from_bits(b);
            if sum.is_nan() { 0x7fff_ffff_ffff_ffff } else { sum.to_bits() }
        }
        F16 | Bf16 => half(old as u16, b as u16, ty == Bf16),
        _ => {
            let bfloat = ty == Bf16x2;
            half(old as u16, b as u16, bfloat) | half((old >> 16) as u16, (b >> 16) as u16, bfloat) << 16
        }
    }
}

fn execute(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let all = addresses(x, i, mask);
    let ty = TYPES[(i.flags >> TYPE_SHIFT & 15) as usize];
    let operands = |x: &mut Exec<'_>, row: u32| -> [u64; 32] {
        if ty.bytes() == 8 { x.long(row, mask) } else { x.word(row, mask).map(u64::from) }
    };
    let b = operands(x, i.b);
    let compare = OPERATIONS[(i.flags >> OPERATION_SHIFT & 15) as usize].1 == Operation::CompareSwap;
    let c = if compare { operands(x, i.c) } else { [0; 32] };
    let mut old = [0; 32];
    let ok = match SPACES[(i.flags >> SPACE_SHIFT & 3) as usize] {
        Space::Shared => by_rank(x, &all, mask, |x, lanes, inside| shared(x, i, inside, lanes, (&b, &c), &mut old)),
        Space::Global => in_global(x, i, &all, mask, (&b, &c), &mut old),
        _ => by_window(&all, mask, |space, lanes, shifted| match space {
            Space::Shared => {
                by_rank(x, shifted, lanes, |x, lanes, inside| shared(x, i, inside, lanes, (&b, &c), &mut old))
            }
            _ => in_global(x, i, shifted, lanes, (&b, &c), &mut old),
        }),
    };
    if !ok {
        return Step::Fault;
    }
    if i.flags & RETURNS != 0 {
        if ty.bytes() == 8 {
            x.set_long(i.d, mask, &old);
        } else {
            x.set_word(i.d, mask, &old.map(|value| value as u32));
        }
    }
    Step::Next
}

/// Operands `b` and `c` of each lane.
type Operands<'a> = (&'a [u64; 32], &'a [u64; 32]);

fn update(i: &Inst, words: &[u32; 4], operands: Operands<'_>, lane: usize) -> (u64, [u32; 4]) {
    let ty = TYPES[(i.flags >> TYPE_SHIFT & 15) as usize];
    let operation = OPERATIONS[(i.flags >> OPERATION_SHIFT & 15) as usize].1;
    let old = u64::from(words[0]) | if ty.bytes() == 8 { u64::from(words[1]) << 32 } else { 0 };
    let new = combine(operation, ty, old, operands.0[lane], operands.1[lane]);
    (old, [new as u32, (new >> 32) as u32, 0, 0])
}

fn shared(x: &mut Exec<'_>, i: &Inst, all: &[u64; 32], mask: u32, operands: Operands<'_>, old: &mut [u64; 32]) -> bool {
    let bytes = TYPES[(i.flags >> TYPE_SHIFT & 15) as usize].bytes();
    if !shared_bounds(x, all, mask, bytes, Access::Atomic) {
        return false;
    }
    let mask = x.aligned(Space::Shared, Access::Atomic, all, mask, bytes);
    x.block.tally.shared[2].add(shared_wavefronts(&all.map(|a| a as u32), mask, bytes));
    let checks = x.launch.options.checks;
    for lane in each_lane(mask) {
        let address = all[lane] as u32;
        if checks.uninitialized_memory && !x.block.shared_shadow.is_written(address, bytes) {
            x.report_uninitialized(Space::Shared, lane, all[lane], bytes);
        }
        let mut words = [0; 4];
        fetch(&x.block.shared, address as usize, bytes, &mut words);
        let (before, after) = update(i, &words, operands, lane);
        old[lane] = before;
        x.check_shared_write(lane, address, bytes, true, &after);
        put(&mut x.block.shared, address as usize, bytes, &after);
        acquire(x, i.flags & ORDERED != 0, 1 << lane, all, true);
        extend_release(x, i.flags & ORDERED != 0, all[lane], true);
    }
    true
}

fn in_global(
    x: &mut Exec<'_>,
    i: &Inst,
    all: &[u64; 32],
    mask: u32,
    operands: Operands<'_>,
    old: &mut [u64; 32],
) -> bool {
    let bytes = TYPES[(i.flags >> TYPE_SHIFT & 15) as usize].bytes();
    let mask = x.aligned(Space::Global, Access::Atomic, all, mask, bytes);
    x.block.tally.global[2].add(global_sectors(all, mask, bytes));
    let checks = x.launch.options.checks;
    for lane in each_lane(mask) {
        let Some((index, offset)) = x.find_allocation(all[lane], u64::from(bytes)) else {
            x.out_of_bounds(Space::Global, Access::Atomic, lane, all[lane], bytes);
            return false;
        };
        let mut words = [0; 4];
        let defined = x.launch.allocations[index].load(offset, bytes, &mut words);
        if !defined && checks.uninitialized_memory {
            x.report_uninitialized(Space::Global, lane, all[lane], bytes);
        }
        let (before, after) = update(i, &words, operands, lane);
        old[lane] = before;
        if checks.global_races {
            global::check_write(x, lane, (index, offset), bytes, true, &after);
        }
        // Kernels with atomics on global memory run on one host thread, so this is not torn.
        x.launch.allocations[index].store(offset, bytes, &after);
        acquire(x, i.flags & ORDERED != 0, 1 << lane, all, false);
        extend_release(x, i.flags & ORDERED != 0, all[lane], false);
    }
    true
}
