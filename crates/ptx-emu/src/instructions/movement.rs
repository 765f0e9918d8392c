//! `mov` in all its forms, and conversions between address spaces.

use super::compare::is_vector;
use super::unary;
use crate::Error;
use crate::decode::layout::{LOCAL_WINDOW, PARAMETER_WINDOW, SHARED_WINDOW, WINDOW_BYTES};
use crate::decode::{Decoder, Form, Inst};
use crate::machine::cluster::rank_of;
use crate::machine::lanes::{long1, mixed, word1};
use crate::machine::{Exec, Handler, Step, each_lane};
use crate::module::ScalarType::*;
use crate::module::{Class, Operand, ScalarType, Space};

pub(super) fn decode(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    match f.base {
        "mov" => copy(d, f),
        "cvta" => convert_address(d, f),
        _ => is_space(d, f),
    }
}

fn copy(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    let ty = f.ty()?;
    f.expect_operands(2..=2)?;
    let (to, from) = (f.operand(0)?, f.operand(1)?);
    if is_vector(to) {
        return unpack(d, f, ty);
    }
    if is_vector(from) {
        return pack(d, f, ty);
    }
    if let Operand::Special(name) = from
        && matches!(
            name.as_str(),
            "%clock" | "%clock64" | "%clock_hi" | "%globaltimer" | "%globaltimer_lo" | "%globaltimer_hi"
        )
    {
        return clock(d, f, ty);
    }
    let handler: Handler = match ty.class() {
        Class::Word if ty.bytes() == 2 => word1!(|a| a & 0xffff),
        Class::Word => word1!(|a| a),
        Class::Long => long1!(|a| a),
        Class::Predicate => |x, i, mask| {
            let a = x.predicate(i.a, mask);
            x.set_predicate(i.d, mask, a);
            Step::Next
        },
    };
    unary(d, f, handler, ty, ty)
}

/// Reads a counter: the instructions executed so far.
fn clock(d: &mut Decoder<'_>, f: &Form<'_>, ty: ScalarType) -> Result<Inst, Error> {
    let handler: Handler = match ty.class() {
        Class::Word => |x, i, mask| {
            let now = x.block.executed as u32;
            x.set_word(i.d, mask, &[now; 32]);
            Step::Next
        },
        Class::Long => |x, i, mask| {
            let now = x.block.executed;
            x.set_long(i.d, mask, &[now; 32]);
            Step::Next
        },
        Class::Predicate => return Err(f.unsupported("a clock is not a predicate")),
    };
    let mut inst = Inst::new(handler);
    inst.d = d.destination(f, f.operand(0)?, ty)?;
    Ok(inst)
}

/// The type of the parts of a packed register.
fn part_type(f: &Form<'_>, ty: ScalarType, parts: usize) -> Result<ScalarType, Error> {
    Ok(match (ty.bytes(), parts) {
        (4, 2) | (8, 4) => B16,
        (8, 2) => B32,
        _ => return Err(f.unsupported("a packed move has 2 or 4 parts of 16 or 32 bits")),
    })
}

fn elements(operand: &Operand) -> &[Operand] {
    match operand {
        Operand::Vector(elements) => elements,
        single => std::slice::from_ref(single),
    }
}

/// `mov.b32 {lo, hi}, a`
fn unpack(d: &mut Decoder<'_>, f: &Form<'_>, ty: ScalarType) -> Result<Inst, Error> {
    let parts = elements(f.operand(0)?);
    let part = part_type(f, ty, parts.len())?;
    let handler: Handler = match (ty.bytes(), parts.len()) {
        (4, _) => |x, i, mask| {
            let a = x.word(i.a, mask);
            x.set_word(i.rows[0], mask, &a.map(|v| v & 0xffff));
            x.set_word(i.rows[1], mask, &a.map(|v| v >> 16));
            Step::Next
        },
        (_, 2) => |x, i, mask| {
            let a = x.long(i.a, mask);
            x.set_word(i.rows[0], mask, &a.map(|v| v as u32));
            x.set_word(i.rows[1], mask, &a.map(|v| (v >> 32) as u32));
            Step::Next
        },
        _ => |x, i, mask| {
            let a = x.long(i.a, mask);
            for (at, row) in i.rows.iter().enumerate() {
                x.set_word(*row, mask, &a.map(|v| (v >> (16 * at)) as u32 & 0xffff));
            }
            Step::Next
        },
    };
    let mut inst = Inst::new(handler);
    inst.rows = d.vector(f, f.operand(0)?, part, true)?;
    inst.a = d.source(f, f.operand(1)?, ty)?;
    Ok(inst)
}

/// `mov.b32 d, {lo, hi}`
fn pack(d: &mut Decoder<'_>, f: &Form<'_>, ty: ScalarType) -> Result<Inst, Error> {
    let parts = elements(f.operand(1)?);
    let part = part_type(f, ty, parts.len())?;
    let handler: Handler = match (ty.bytes(), parts.len()) {
        (4, _) => |x, i, mask| {
            let (low, high) = (x.word(i.rows[0], mask), x.word(i.rows[1], mask));
            let mut out = [0; 32];
            for lane in 0..32 {
                out[lane] = low[lane] & 0xffff | high[lane] << 16;
            }
            x.set_word(i.d, mask, &out);
            Step::Next
        },
        (_, 2) => |x, i, mask| {
            let (low, high) = (x.word(i.rows[0], mask), x.word(i.rows[1], mask));
            let out = std::array::from_fn(|lane| u64::from(low[lane]) | u64::from(high[lane]) << 32);
            x.set_long(i.d, mask, &out);
            Step::Next
        },
        _ => |x, i, mask| {
            let mut out = [0; 32];
            for (at, row) in i.rows.iter().enumerate() {
                let part = x.word(*row, mask);
                for lane in 0..32 {
                    out[lane] |= u64::from(part[lane] & 0xffff) << (16 * at);
                }
            }
            x.set_long(i.d, mask, &out);
            Step::Next
        },
    };
    let mut inst = Inst::new(handler);
    inst.rows = d.vector(f, f.operand(1)?, part, false)?;
    inst.d = d.destination(f, f.operand(0)?, ty)?;
    Ok(inst)
}

fn space(f: &Form<'_>) -> Result<Space, Error> {
    let spaces = [
        ("global", Space::Global),
        ("shared", Space::Shared),
        ("shared::cta", Space::Shared),
        ("shared::cluster", Space::Shared),
        ("local", Space::Local),
        ("const", Space::Const),
        ("param", Space::Param),
    ];
    f.require("the space", &spaces)
}

/// `cvta.space d, a` to generic and `cvta.to.space d, a` back. Global, constant and parameter
/// addresses are generic addresses.
fn convert_address(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    let to = f.accept("to");
    let space = space(f)?;
    let ty = f.ty()?;
    if ty != U64 {
        return Err(f.unsupported("only 64-bit addresses are modelled"));
    }
    f.expect_operands(2..=2)?;
    // A shared address may sit in a 32-bit register.
    if let Operand::Register(id) = f.operand(1)?
        && d.kernel.registers[*id as usize].ty.class() == Class::Word
        && !to
    {
        let handler: Handler = match space {
            Space::Shared => mixed!(word => long, |a| SHARED_WINDOW + u64::from(a)),
            Space::Local => mixed!(word => long, |a| LOCAL_WINDOW + u64::from(a)),
            _ => return Err(f.unsupported("this address needs a 64-bit register")),
        };
        return unary(d, f, handler, U64, U32);
    }
    let handler: Handler = match (space, to) {
        (Space::Shared, false) => long1!(|a| a.wrapping_add(SHARED_WINDOW)),
        (Space::Shared, true) => long1!(|a| a.wrapping_sub(SHARED_WINDOW)),
        (Space::Local, false) => long1!(|a| a.wrapping_add(LOCAL_WINDOW)),
        (Space::Local, true) => long1!(|a| a.wrapping_sub(LOCAL_WINDOW)),
        _ => long1!(|a| a),
    };
    unary(d, f, handler, U64, U64)
}

/// The window that a generic address points into.
pub(super) fn window_of(address: u64) -> Space {
    let inside = |start: u64| address.wrapping_sub(start) < WINDOW_BYTES;
    if inside(SHARED_WINDOW) {
        Space::Shared
    } else if inside(LOCAL_WINDOW) {
        Space::Local
    } else if inside(PARAMETER_WINDOW) {
        Space::Param
    } else {
        Space::Global
    }
}

/// `isspacep.space p, a`. The shared memory of the own block is a part of that of the cluster.
fn is_space(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    let of_cluster = f.accept("shared::cluster");
    let space = if of_cluster { Space::Shared } else { space(f)? };
    if space == Space::Const {
        return Err(f.unsupported("isspacep.const is not modelled"));
    }
    const OWN_SHARED: u32 = 1;
    fn handler(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
        let a = x.long(i.a, mask);
        let wanted = [Space::Global, Space::Shared, Space::Local, Space::Param, Space::Shared][i.flags as usize];
        let own = x.block.rank;
        let is_elsewhere = |address: u64| rank_of(address & 0xffff_ffff).0.is_some_and(|rank| rank != own);
        let is_inside = |lane: &usize| {
            let address = a[*lane];
            window_of(address) == wanted && !(i.flags == OWN_SHARED && is_elsewhere(address))
        };
        let value = each_lane(mask).filter(is_inside).fold(0, |all, lane| all | 1 << lane);
        x.set_predicate(i.d, mask, value);
        Step::Next
    }
    let mut inst = unary(d, f, handler, Pred, U64)?;
    inst.flags = match space {
        Space::Global => 0,
        Space::Shared if of_cluster => 4,
        Space::Shared => OWN_SHARED,
        Space::Local => 2,
        _ => 3,
    };
    Ok(inst)
}
