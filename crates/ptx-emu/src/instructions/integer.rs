//! Integer arithmetic.

use super::{binary, binary_mixed, ternary, ternary_mixed, unary};
use crate::Error;
use crate::decode::{Decoder, Form, Inst};
use crate::hazard::HazardKind;
use crate::machine::lanes::{long1, long2, long3, word1, word2, word3};
use crate::machine::{Exec, Handler, Step, each_lane};
use crate::module::ScalarType::{self, *};

pub(super) fn decode(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    match f.base {
        "mul" | "mad" => return multiply(d, f),
        "mul24" | "mad24" => return multiply24(d, f),
        "div" | "rem" => return divide(d, f),
        _ => {}
    }
    let saturate = matches!(f.base, "add" | "sub") && f.accept("sat");
    let packed = [("u16x2", false), ("s16x2", true)];
    if matches!(f.base, "add" | "min" | "max")
        && let Some(signed) = f.choose(&packed)
    {
        return binary(d, f, packed_handler(f, signed), B32);
    }
    let ty = f.ty()?;
    if saturate && ty != S32 {
        return Err(f.unsupported("only .s32 can saturate"));
    }
    let two: Handler = match (f.base, ty) {
        ("add", S32) if saturate => word2!(|a, b| (a as i32).saturating_add(b as i32) as u32),
        ("sub", S32) if saturate => word2!(|a, b| (a as i32).saturating_sub(b as i32) as u32),
        ("add", U16 | S16) => word2!(|a, b| a.wrapping_add(b) & 0xffff),
        ("add", U32 | S32) => word2!(|a, b| a.wrapping_add(b)),
        ("add", U64 | S64) => long2!(|a, b| a.wrapping_add(b)),
        ("sub", U16 | S16) => word2!(|a, b| a.wrapping_sub(b) & 0xffff),
        ("sub", U32 | S32) => word2!(|a, b| a.wrapping_sub(b)),
        ("sub", U64 | S64) => long2!(|a, b| a.wrapping_sub(b)),
        ("min", U16 | U32) => word2!(|a, b| a.min(b)),
        ("min", S16) => word2!(|a, b| (a as i16).min(b as i16) as u16 as u32),
        ("min", S32) => word2!(|a, b| (a as i32).min(b as i32) as u32),
        ("min", U64) => long2!(|a, b| a.min(b)),
        ("min", S64) => long2!(|a, b| (a as i64).min(b as i64) as u64),
        ("max", U16 | U32) => word2!(|a, b| a.max(b)),
        ("max", S16) => word2!(|a, b| (a as i16).max(b as i16) as u16 as u32),
        ("max", S32) => word2!(|a, b| (a as i32).max(b as i32) as u32),
        ("max", U64) => long2!(|a, b| a.max(b)),
        ("max", S64) => long2!(|a, b| (a as i64).max(b as i64) as u64),
        ("abs", S16) => return unary(d, f, word1!(|a| (a as i16).wrapping_abs() as u16 as u32), ty, ty),
        ("abs", S32) => return unary(d, f, word1!(|a| (a as i32).wrapping_abs() as u32), ty, ty),
        ("abs", S64) => return unary(d, f, long1!(|a| (a as i64).wrapping_abs() as u64), ty, ty),
        ("neg", S16) => return unary(d, f, word1!(|a| a.wrapping_neg() & 0xffff), ty, ty),
        ("neg", S32) => return unary(d, f, word1!(|a| a.wrapping_neg()), ty, ty),
        ("neg", S64) => return unary(d, f, long1!(|a| a.wrapping_neg()), ty, ty),
        ("sad", U16 | U32) => return ternary(d, f, word3!(|a, b, c| c.wrapping_add(a.abs_diff(b))), ty),
        ("sad", S32) => {
            return ternary(d, f, word3!(|a, b, c| c.wrapping_add((a as i32).abs_diff(b as i32))), ty);
        }
        _ => return Err(f.unsupported(format!("type {ty:?} is not possible here"))),
    };
    binary(d, f, two, ty)
}

fn packed_handler(f: &Form<'_>, signed: bool) -> Handler {
    fn both(a: u32, b: u32, each: impl Fn(u16, u16) -> u16) -> u32 {
        u32::from(each(a as u16, b as u16)) | u32::from(each((a >> 16) as u16, (b >> 16) as u16)) << 16
    }
    match (f.base, signed) {
        ("add", _) => word2!(|a, b| both(a, b, |x, y| x.wrapping_add(y))),
        ("min", false) => word2!(|a, b| both(a, b, |x, y| x.min(y))),
        ("min", true) => word2!(|a, b| both(a, b, |x, y| (x as i16).min(y as i16) as u16)),
        (_, false) => word2!(|a, b| both(a, b, |x, y| x.max(y))),
        (_, true) => word2!(|a, b| both(a, b, |x, y| (x as i16).max(y as i16) as u16)),
    }
}

/// Which half of a product.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Low,
    High,
    Wide,
}

fn multiply(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    let part = f.require("the part", &[("lo", Part::Low), ("hi", Part::High), ("wide", Part::Wide)])?;
    let ty = f.ty()?;
    if part == Part::Wide {
        let (to, handler, add): (ScalarType, Handler, Handler) = match ty {
            U16 => (U32, word2!(|a, b| a.wrapping_mul(b)), word3!(|a, b, c| a.wrapping_mul(b).wrapping_add(c))),
            S16 => (
                S32,
                word2!(|a, b| (i32::from(a as i16) * i32::from(b as i16)) as u32),
                word3!(|a, b, c| ((i32::from(a as i16) * i32::from(b as i16)) as u32).wrapping_add(c)),
            ),
            U32 => (U64, wide::<false, false>, wide::<false, true>),
            S32 => (S64, wide::<true, false>, wide::<true, true>),
            _ => return Err(f.unsupported(format!("type {ty:?} has no wide product"))),
        };
        return if f.base == "mul" {
            binary_mixed(d, f, handler, [to, ty, ty])
        } else {
            ternary_mixed(d, f, add, [to, ty, ty, to])
        };
    }
    let saturate = f.base == "mad" && part == Part::High && ty == S32 && f.accept("sat");
    if f.base == "mul" {
        let handler: Handler = match (part, ty) {
            (Part::Low, U16 | S16) => word2!(|a, b| a.wrapping_mul(b) & 0xffff),
            (Part::Low, U32 | S32) => word2!(|a, b| a.wrapping_mul(b)),
            (Part::Low, U64 | S64) => long2!(|a, b| a.wrapping_mul(b)),
            (Part::High, U16) => word2!(|a, b| a.wrapping_mul(b) >> 16),
            (Part::High, S16) => word2!(|a, b| (i32::from(a as i16) * i32::from(b as i16)) as u32 >> 16),
            (Part::High, U32) => word2!(|a, b| ((u64::from(a) * u64::from(b)) >> 32) as u32),
            (Part::High, S32) => word2!(|a, b| high_signed(a, b)),
            (Part::High, U64) => long2!(|a, b| ((u128::from(a) * u128::from(b)) >> 64) as u64),
            (Part::High, S64) => long2!(|a, b| ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64),
            _ => return Err(f.unsupported(format!("type {ty:?} is not possible here"))),
        };
        return binary(d, f, handler, ty);
    }
    let handler: Handler = match (part, ty) {
        (Part::Low, U16 | S16) => word3!(|a, b, c| a.wrapping_mul(b).wrapping_add(c) & 0xffff),
        (Part::Low, U32 | S32) => word3!(|a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        (Part::Low, U64 | S64) => long3!(|a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        (Part::High, U16) => word3!(|a, b, c| (a.wrapping_mul(b) >> 16).wrapping_add(c) & 0xffff),
        (Part::High, S16) => {
            word3!(|a, b, c| ((i32::from(a as i16) * i32::from(b as i16)) as u32 >> 16).wrapping_add(c) & 0xffff)
        }
        (Part::High, U32) => word3!(|a, b, c| (((u64::from(a) * u64::from(b)) >> 32) as u32).wrapping_add(c)),
        (Part::High, S32) if saturate => {
            word3!(|a, b, c| (high_signed(a, b) as i32).saturating_add(c as i32) as u32)
        }
        (Part::High, S32) => word3!(|a, b, c| high_signed(a, b).wrapping_add(c)),
        (Part::High, U64) => long3!(|a, b, c| (((u128::from(a) * u128::from(b)) >> 64) as u64).wrapping_add(c)),
        (Part::High, S64) => {
            long3!(|a, b, c| (((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64).wrapping_add(c))
        }
        _ => return Err(f.unsupported(format!("type {ty:?} is not possible here"))),
    };
    ternary(d, f, handler, ty)
}

fn high_signed(a: u32, b: u32) -> u32 {
    ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32
}

fn wide<const SIGNED: bool, const ADD: bool>(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let a = x.word(i.a, mask);
    let b = x.word(i.b, mask);
    let c = if ADD { x.long(i.c, mask) } else { [0; 32] };
    let mut out = [0u64; 32];
    for lane in 0..32 {
        let product = if SIGNED {
            (i64::from(a[lane] as i32) * i64::from(b[lane] as i32)) as u64
        } else {
            u64::from(a[lane]) * u64::from(b[lane])
        };
        out[lane] = product.wrapping_add(c[lane]);
    }
    x.set_long(i.d, mask, &out);
    Step::Next
}

/// 24-bit multiplication: exact for operands that fit 24 bits, which is all the manual promises.
fn multiply24(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    let high = f.require("the part", &[("lo", false), ("hi", true)])?;
    let ty = f.ty()?;
    fn unsigned(a: u32, b: u32) -> u64 {
        u64::from(a & 0xff_ffff) * u64::from(b & 0xff_ffff)
    }
    fn signed(a: u32, b: u32) -> u64 {
        (i64::from((a << 8) as i32 >> 8) * i64::from((b << 8) as i32 >> 8)) as u64
    }
    let handlers: (Handler, Handler) = match (ty, high) {
        (U32, false) => {
            (word2!(|a, b| unsigned(a, b) as u32), word3!(|a, b, c| (unsigned(a, b) as u32).wrapping_add(c)))
        }
        (U32, true) => (
            word2!(|a, b| (unsigned(a, b) >> 16) as u32),
            word3!(|a, b, c| ((unsigned(a, b) >> 16) as u32).wrapping_add(c)),
        ),
        (S32, false) => (word2!(|a, b| signed(a, b) as u32), word3!(|a, b, c| (signed(a, b) as u32).wrapping_add(c))),
        (S32, true) => (
            word2!(|a, b| (signed(a, b) >> 16) as u32),
            word3!(|a, b, c| ((signed(a, b) >> 16) as u32).wrapping_add(c)),
        ),
        _ => return Err(f.unsupported(format!("type {ty:?} is not possible here"))),
    };
    if f.base == "mul24" { binary(d, f, handlers.0, ty) } else { ternary(d, f, handlers.1, ty) }
}

fn divide(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    let ty = f.ty()?;
    let bits = ty.bits();
    if ty.is_float() || !matches!(bits, 16 | 32 | 64) || matches!(ty, B16 | B32 | B64) {
        return Err(f.unsupported(format!("type {ty:?} is not possible here")));
    }
    let handler: Handler = if bits == 64 { divide_long } else { divide_word };
    let mut inst = binary(d, f, handler, ty)?;
    inst.flags = u32::from(f.base == "rem") | u32::from(ty.is_signed()) << 1 | u32::from(bits == 16) << 2;
    Ok(inst)
}

const REMAINDER: u32 = 1;
const SIGNED: u32 = 2;
const SHORT: u32 = 4;

fn divide_word(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let a = x.word(i.a, mask);
    let b = x.word(i.b, mask);
    zero_divisor(x, each_lane(mask).find(|lane| b[*lane] == 0));
    let mut out = [0; 32];
    for lane in each_lane(mask) {
        let (mut n, mut m) = (i64::from(a[lane]), i64::from(b[lane]));
        if i.flags & SIGNED != 0 {
            (n, m) = if i.flags & SHORT != 0 {
                (i64::from(a[lane] as i16), i64::from(b[lane] as i16))
            } else {
                (i64::from(a[lane] as i32), i64::from(b[lane] as i32))
            };
        }
        let value = match (m, i.flags & REMAINDER != 0) {
            // What the hardware leaves there; the manual says unspecified.
            (0, false) => -1,
            (0, true) => n,
            (m, false) => n / m,
            (m, true) => n % m,
        };
        out[lane] = if i.flags & SHORT != 0 { value as u32 & 0xffff } else { value as u32 };
    }
    x.set_word(i.d, mask, &out);
    Step::Next
}

fn divide_long(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let a = x.long(i.a, mask);
    let b = x.long(i.b, mask);
    zero_divisor(x, each_lane(mask).find(|lane| b[*lane] == 0));
    let mut out = [0; 32];
    for lane in each_lane(mask) {
        let (n, m) = (a[lane], b[lane]);
        out[lane] = match (m, i.flags & REMAINDER != 0, i.flags & SIGNED != 0) {
            (0, false, _) => u64::MAX,
            (0, true, _) => n,
            (_, false, false) => n / m,
            (_, true, false) => n % m,
            (_, false, true) => (n as i64).wrapping_div(m as i64) as u64,
            (_, true, true) => (n as i64).wrapping_rem(m as i64) as u64,
        };
    }
    x.set_long(i.d, mask, &out);
    Step::Next
}

fn zero_divisor(x: &mut Exec<'_>, lane: Option<usize>) {
    if let Some(lane) = lane {
        x.report(Some(lane as u32), None, HazardKind::DivisionByZero);
    }
}
