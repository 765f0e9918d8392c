//! Comparison and selection.

use super::ternary_mixed;
use crate::Error;
use crate::decode::{Decoder, Form, Inst};
use crate::machine::{Exec, Handler, Step, each_lane};
use crate::module::ScalarType::{self, *};
use crate::module::{Class, Operand};
use crate::numerics::half::{bf16_to_f32, f16_to_f32};

/// How two numbers relate, in the order in which a mask over relations is built.
const LESS: u32 = 1;
const EQUAL: u32 = 2;
const GREATER: u32 = 4;
const UNORDERED: u32 = 8;

/// The relations under which a comparison is true.
fn relations(f: &Form<'_>) -> Result<(u32, bool), Error> {
    let all = [
        ("eq", (EQUAL, false)),
        ("ne", (LESS | GREATER, false)),
        ("lt", (LESS, false)),
        ("le", (LESS | EQUAL, false)),
        ("gt", (GREATER, false)),
        ("ge", (GREATER | EQUAL, false)),
        ("lo", (LESS, true)),
        ("ls", (LESS | EQUAL, true)),
        ("hi", (GREATER, true)),
        ("hs", (GREATER | EQUAL, true)),
        ("equ", (EQUAL | UNORDERED, false)),
        ("neu", (LESS | GREATER | UNORDERED, false)),
        ("ltu", (LESS | UNORDERED, false)),
        ("leu", (LESS | EQUAL | UNORDERED, false)),
        ("gtu", (GREATER | UNORDERED, false)),
        ("geu", (GREATER | EQUAL | UNORDERED, false)),
        ("num", (LESS | EQUAL | GREATER, false)),
        ("nan", (UNORDERED, false)),
    ];
    f.require("the comparison", &all)
}

const RELATION_MASK: u32 = 15;
const COMBINE_SHIFT: u32 = 4;
const NEGATE_THIRD: u32 = 1 << 7;
const FTZ: u32 = 1 << 8;
const TO_FLOAT: u32 = 1 << 9;
const NO_ROW: u32 = u32::MAX;

pub(super) fn decode(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    match f.base {
        "selp" => select(d, f),
        "slct" => select_by_sign(d, f),
        "setp" => set_predicate(d, f),
        _ => set(d, f),
    }
}

/// `setp.cmp{.bool}{.ftz}.type p{|q}, a, b{, {!}c}`
fn set_predicate(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    let (relation, _) = relations(f)?;
    let combine = f.choose(&[("and", 1), ("or", 2), ("xor", 3)]).unwrap_or(0);
    let ftz = f.accept("ftz");
    let ty = f.ty()?;
    let third = combine != 0;
    f.expect_operands(if third { 4..=4 } else { 3..=3 })?;
    let (first, second) = super::pair(f.operand(0)?);
    let packed = matches!(ty, F16x2 | Bf16x2);
    let handler = compare_handler(f, ty)?;
    let mut inst = Inst::new(handler);
    inst.flags = relation | combine << COMBINE_SHIFT | if ftz { FTZ } else { 0 };
    inst.d = d.destination(f, first, Pred)?;
    let second = match second {
        Some(second) => d.destination(f, second, Pred)?,
        None if packed => return Err(f.unsupported("a packed comparison has two destinations")),
        None => NO_ROW,
    };
    inst.a = d.source(f, f.operand(1)?, ty)?;
    inst.b = d.source(f, f.operand(2)?, ty)?;
    let mut rows = vec![second];
    if third {
        let (row, negated) = d.predicate(f, f.operand(3)?)?;
        inst.c = row;
        inst.flags |= if negated { NEGATE_THIRD } else { 0 };
    }
    rows.push(0);
    inst.rows = rows.into();
    Ok(inst)
}

fn compare_handler(f: &Form<'_>, ty: ScalarType) -> Result<Handler, Error> {
    Ok(match ty {
        B16 | U16 | B32 | U32 => setp_word::<0>,
        S16 => setp_word::<1>,
        S32 => setp_word::<2>,
        F32 => setp_word::<3>,
        F16 => setp_word::<4>,
        Bf16 => setp_word::<5>,
        F16x2 => setp_packed::<4>,
        Bf16x2 => setp_packed::<5>,
        B64 | U64 => setp_long::<0>,
        S64 => setp_long::<1>,
        F64 => setp_long::<2>,
        _ => return Err(f.unsupported(format!("type {ty:?} cannot be compared"))),
    })
}

/// The lanes for which the relation between `a` and `b` is one of the wanted ones.
#[inline(always)]
fn matching<T: Copy + PartialOrd>(a: &[T; 32], b: &[T; 32], wanted: u32) -> u32 {
    let (mut less, mut equal, mut greater) = ([0u32; 32], [0u32; 32], [0u32; 32]);
    for lane in 0..32 {
        less[lane] = u32::from(a[lane] < b[lane]) << lane;
        equal[lane] = u32::from(a[lane] == b[lane]) << lane;
        greater[lane] = u32::from(a[lane] > b[lane]) << lane;
    }
    let all = |lanes: [u32; 32]| lanes.iter().fold(0, |all, bit| all | bit);
    let (less, equal, greater) = (all(less), all(equal), all(greater));
    let pick = |relation: u32, lanes: u32| if wanted & relation != 0 { lanes } else { 0 };
    pick(LESS, less) | pick(EQUAL, equal) | pick(GREATER, greater) | pick(UNORDERED, !(less | equal | greater))
}

/// The lanes of a comparison of word rows. `KIND`: 0 unsigned, 1 s16, 2 s32, 3 f32, 4 f16, 5 bf16.
#[inline(always)]
fn compare_words<const KIND: u8>(a: [u32; 32], b: [u32; 32], flags: u32) -> u32 {
    let wanted = flags & RELATION_MASK;
    let flush = |bits: u32| if flags & FTZ != 0 { super::float::flush(bits) } else { bits };
    match KIND {
        0 => matching(&a, &b, wanted),
        1 => matching(&a.map(|v| v as i16), &b.map(|v| v as i16), wanted),
        2 => matching(&a.map(|v| v as i32), &b.map(|v| v as i32), wanted),
        3 => matching(&a.map(|v| f32::from_bits(flush(v))), &b.map(|v| f32::from_bits(flush(v))), wanted),
        4 => {
            let widen = |v: u32| {
                let small = flags & FTZ != 0 && v & 0x7c00 == 0;
                f16_to_f32(if small { v as u16 & 0x8000 } else { v as u16 })
            };
            matching(&a.map(widen), &b.map(widen), wanted)
        }
        _ => matching(&a.map(|v| bf16_to_f32(v as u16)), &b.map(|v| bf16_to_f32(v as u16)), wanted),
    }
}

fn setp_word<const KIND: u8>(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let (a, b) = (x.word(i.a, mask), x.word(i.b, mask));
    let result = compare_words::<KIND>(a, b, i.flags);
    store_predicates(x, i, mask, result, !result)
}

fn setp_packed<const KIND: u8>(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let (a, b) = (x.word(i.a, mask), x.word(i.b, mask));
    let low = compare_words::<KIND>(a.map(|v| v & 0xffff), b.map(|v| v & 0xffff), i.flags);
    let high = compare_words::<KIND>(a.map(|v| v >> 16), b.map(|v| v >> 16), i.flags);
    store_predicates(x, i, mask, low, high)
}

fn setp_long<const KIND: u8>(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let (a, b) = (x.long(i.a, mask), x.long(i.b, mask));
    let wanted = i.flags & RELATION_MASK;
    let result = match KIND {
        0 => matching(&a, &b, wanted),
        1 => matching(&a.map(|v| v as i64), &b.map(|v| v as i64), wanted),
        _ => matching(&a.map(f64::from_bits), &b.map(f64::from_bits), wanted),
    };
    store_predicates(x, i, mask, result, !result)
}

/// `p = first BoolOp c; q = second BoolOp c`
fn store_predicates(x: &mut Exec<'_>, i: &Inst, mask: u32, first: u32, second: u32) -> Step {
    let combine = i.flags >> COMBINE_SHIFT & 3;
    let third = if combine == 0 {
        0
    } else {
        let value = x.predicate(i.c, mask);
        if i.flags & NEGATE_THIRD != 0 { !value } else { value }
    };
    let apply = |value: u32| match combine {
        0 => value,
        1 => value & third,
        2 => value | third,
        _ => value ^ third,
    };
    x.set_predicate(i.d, mask, apply(first));
    if i.rows[0] != NO_ROW {
        x.set_predicate(i.rows[0], mask, apply(second));
    }
    Step::Next
}

/// `set.cmp.dtype.stype d, a, b`: all ones or 1.0 for true.
fn set(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    let (relation, _) = relations(f)?;
    if f.choose(&[("and", ()), ("or", ()), ("xor", ())]).is_some() {
        return Err(f.unsupported("set with a third operand is not modelled"));
    }
    let ftz = f.accept("ftz");
    let (to, ty) = (f.ty()?, f.ty()?);
    if !matches!(to, U32 | S32 | F32) || ty.class() != Class::Word || matches!(ty, F16x2 | Bf16x2) {
        return Err(f.unsupported(format!("set from {ty:?} to {to:?} is not modelled")));
    }
    f.expect_operands(3..=3)?;
    let handler: Handler = match ty {
        B16 | U16 | B32 | U32 => set_word::<0>,
        S16 => set_word::<1>,
        S32 => set_word::<2>,
        F32 => set_word::<3>,
        F16 => set_word::<4>,
        _ => set_word::<5>,
    };
    let mut inst = Inst::new(handler);
    inst.flags = relation | if ftz { FTZ } else { 0 } | if to == F32 { TO_FLOAT } else { 0 };
    inst.d = d.destination(f, f.operand(0)?, to)?;
    inst.a = d.source(f, f.operand(1)?, ty)?;
    inst.b = d.source(f, f.operand(2)?, ty)?;
    Ok(inst)
}

fn set_word<const KIND: u8>(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let (a, b) = (x.word(i.a, mask), x.word(i.b, mask));
    let result = compare_words::<KIND>(a, b, i.flags);
    let on = if i.flags & TO_FLOAT != 0 { 1.0f32.to_bits() } else { u32::MAX };
    let out = std::array::from_fn(|lane| if result >> lane & 1 != 0 { on } else { 0 });
    x.set_word(i.d, mask, &out);
    Step::Next
}

/// `selp.type d, a, b, p`
fn select(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    let ty = f.ty()?;
    f.expect_operands(4..=4)?;
    let handler: Handler = match ty.class() {
        Class::Word => |x, i, mask| {
            let predicate = x.predicate(i.c, mask);
            // What is not selected may be undefined.
            let a = x.word(i.a, mask & predicate);
            let b = x.word(i.b, mask & !predicate);
            let mut out = b;
            for lane in 0..32 {
                out[lane] = if predicate >> lane & 1 != 0 { a[lane] } else { b[lane] };
            }
            x.set_word(i.d, mask, &out);
            Step::Next
        },
        Class::Long => |x, i, mask| {
            let predicate = x.predicate(i.c, mask);
            let a = x.long(i.a, mask & predicate);
            let b = x.long(i.b, mask & !predicate);
            let mut out = b;
            for lane in 0..32 {
                out[lane] = if predicate >> lane & 1 != 0 { a[lane] } else { b[lane] };
            }
            x.set_long(i.d, mask, &out);
            Step::Next
        },
        Class::Predicate => return Err(f.unsupported("selp has no .pred form")),
    };
    ternary_mixed(d, f, handler, [ty, ty, ty, Pred])
}

/// `slct.type.s32 d, a, b, c`: `a` if `c >= 0`, else `b`.
fn select_by_sign(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    let ftz = f.accept("ftz");
    let (ty, by) = (f.ty()?, f.ty()?);
    if !matches!(by, S32 | F32) {
        return Err(f.unsupported("the selector must be .s32 or .f32"));
    }
    fn chosen(x: &mut Exec<'_>, i: &Inst, mask: u32) -> u32 {
        let c = x.word(i.c, mask);
        each_lane(mask)
            .filter(|lane| {
                let bits = if i.flags & FTZ != 0 { super::float::flush(c[*lane]) } else { c[*lane] };
                if i.flags & TO_FLOAT != 0 { f32::from_bits(bits) >= 0.0 } else { bits as i32 >= 0 }
            })
            .fold(0, |all, lane| all | 1 << lane)
    }
    let handler: Handler = match ty.class() {
        Class::Word => |x, i, mask| {
            let first = chosen(x, i, mask);
            let (a, b) = (x.word(i.a, mask & first), x.word(i.b, mask & !first));
            let out = std::array::from_fn(|lane| if first >> lane & 1 != 0 { a[lane] } else { b[lane] });
            x.set_word(i.d, mask, &out);
            Step::Next
        },
        Class::Long => |x, i, mask| {
            let first = chosen(x, i, mask);
            let (a, b) = (x.long(i.a, mask & first), x.long(i.b, mask & !first));
            let out = std::array::from_fn(|lane| if first >> lane & 1 != 0 { a[lane] } else { b[lane] });
            x.set_long(i.d, mask, &out);
            Step::Next
        },
        Class::Predicate => return Err(f.unsupported("slct has no .pred form")),
    };
    let mut inst = ternary_mixed(d, f, handler, [ty, ty, ty, by])?;
    inst.flags = if ftz { FTZ } else { 0 } | if by == F32 { TO_FLOAT } else { 0 };
    Ok(inst)
}

/// Whether an operand is a vector.
pub(super) fn is_vector(operand: &Operand) -> bool {
    matches!(operand, Operand::Vector(_))
}
