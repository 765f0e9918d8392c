//! Single and double precision arithmetic.

use super::{binary, ternary, unary};
use crate::Error;
use crate::decode::{Decoder, Form, Inst};
use crate::machine::lanes::{long1, long2, long3};
use crate::machine::{Exec, Handler, Step, each_lane};
use crate::module::ScalarType::{self, *};
use crate::numerics::rounding::{Format, Rounding, add_odd, div_odd, fix_zero, fma_odd, sqrt_odd};
use crate::numerics::simd;
use crate::numerics::special::{Function, approximate};

/// NaN that arithmetic produces.
const NAN: u32 = 0x7fff_ffff;
const NAN64: u64 = 0x7fff_ffff_ffff_ffff;

const FTZ: u32 = 1;
const SATURATE: u32 = 2;
const PROPAGATE_NAN: u32 = 4;
const XOR_SIGN: u32 = 8;
/// Rounding mode, from this bit on.
const ROUNDING_SHIFT: u32 = 8;

/// Subnormals to zero of the same sign.
#[inline(always)]
pub(super) fn flush(bits: u32) -> u32 {
    if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits }
}

#[inline(always)]
fn canonical(value: f32) -> u32 {
    if value.is_nan() { NAN } else { value.to_bits() }
}

#[inline(always)]
fn canonical64(value: f64) -> u64 {
    if value.is_nan() { NAN64 } else { value.to_bits() }
}

/// `.sat`: to 0..=1, NaN to 0.
#[inline(always)]
fn saturate(bits: u32) -> u32 {
    let value = f32::from_bits(bits);
    if value > 1.0 {
        1.0f32.to_bits()
    } else if value > 0.0 {
        bits
    } else {
        0
    }
}

pub(super) fn rounding(f: &Form<'_>) -> Option<Rounding> {
    f.choose(&[("rn", Rounding::Nearest), ("rz", Rounding::Zero), ("rm", Rounding::Down), ("rp", Rounding::Up)])
}

pub(super) fn decode(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    match f.base {
        "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh" => return function(d, f),
        "copysign" => return copy_sign(d, f),
        "testp" => return test(d, f),
        _ => {}
    }
    let mode = rounding(f);
    let division = if f.base == "div" { f.choose(&[("approx", ()), ("full", ())]) } else { None };
    let mut flags = 0;
    flags |= if f.accept("ftz") { FTZ } else { 0 };
    flags |= if f.accept("sat") { SATURATE } else { 0 };
    if matches!(f.base, "min" | "max") {
        flags |= if f.accept("NaN") { PROPAGATE_NAN } else { 0 };
        flags |= if f.accept("xorsign") && f.accept("abs") { XOR_SIGN } else { 0 };
    }
    let ty = f.ty()?;
    if ty == F64 {
        if flags & !PROPAGATE_NAN != 0 || mode.is_some_and(|mode| mode != Rounding::Nearest) {
            return Err(f.unsupported("for .f64 only rounding to nearest is modelled"));
        }
        return double(d, f);
    }
    if ty != F32 {
        return Err(f.unsupported(format!("type {ty:?} is not possible here")));
    }
    if f.base == "div" && mode.is_none() && division.is_none() {
        return Err(f.unsupported("a division needs a rounding mode, .approx or .full"));
    }
    let mode = mode.unwrap_or(Rounding::Nearest);
    let operation = match f.base {
        "add" => ADD,
        "sub" => SUBTRACT,
        "mul" => MULTIPLY,
        "div" => DIVIDE,
        "fma" | "mad" => FMA,
        "min" => MINIMUM,
        "max" => MAXIMUM,
        "abs" => return flagged(unary(d, f, absolute, F32, F32)?, flags),
        _ => return flagged(unary(d, f, negate, F32, F32)?, flags),
    };
    if operation == FMA {
        let handler: Handler = match (mode, flags) {
            (Rounding::Nearest, 0) => fma_plain,
            (Rounding::Nearest, _) => fma_flagged,
            _ => directed::<FMA>,
        };
        return flagged(ternary(d, f, handler, F32)?, flags | (mode as u32) << ROUNDING_SHIFT);
    }
    let handler: Handler = match (operation, mode, flags & (FTZ | SATURATE)) {
        (ADD, Rounding::Nearest, 0) => plain::<ADD>,
        (ADD, Rounding::Nearest, _) => with_flags::<ADD>,
        (ADD, ..) => directed::<ADD>,
        (SUBTRACT, Rounding::Nearest, 0) => plain::<SUBTRACT>,
        (SUBTRACT, Rounding::Nearest, _) => with_flags::<SUBTRACT>,
        (SUBTRACT, ..) => directed::<SUBTRACT>,
        (MULTIPLY, Rounding::Nearest, 0) => plain::<MULTIPLY>,
        (MULTIPLY, Rounding::Nearest, _) => with_flags::<MULTIPLY>,
        (MULTIPLY, ..) => directed::<MULTIPLY>,
        (DIVIDE, Rounding::Nearest, 0) => plain::<DIVIDE>,
        (DIVIDE, Rounding::Nearest, _) => with_flags::<DIVIDE>,
        (DIVIDE, ..) => directed::<DIVIDE>,
        (MINIMUM, ..) => extremum::<false>,
        _ => extremum::<true>,
    };
    flagged(binary(d, f, handler, F32)?, flags | (mode as u32) << ROUNDING_SHIFT)
}

fn flagged(mut inst: Inst, flags: u32) -> Result<Inst, Error> {
    inst.flags = flags;
    Ok(inst)
}

const ADD: u8 = 0;
const SUBTRACT: u8 = 1;
const MULTIPLY: u8 = 2;
const DIVIDE: u8 = 3;
const FMA: u8 = 4;
const MINIMUM: u8 = 5;
const MAXIMUM: u8 = 6;

#[inline(always)]
fn compute<const OPERATION: u8>(a: u32, b: u32) -> u32 {
    let (a, b) = (f32::from_bits(a), f32::from_bits(b));
    canonical(match OPERATION {
        ADD => a + b,
        SUBTRACT => a - b,
        MULTIPLY => a * b,
        _ => a / b,
    })
}

fn plain<const OPERATION: u8>(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let (a, b) = (x.word(i.a, mask), x.word(i.b, mask));
    let mut out = [0; 32];
    for lane in 0..32 {
        out[lane] = compute::<OPERATION>(a[lane], b[lane]);
    }
    x.set_word(i.d, mask, &out);
    Step::Next
}

fn with_flags<const OPERATION: u8>(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let (mut a, mut b) = (x.word(i.a, mask), x.word(i.b, mask));
    let mut out = [0; 32];
    let ftz = i.flags & FTZ != 0;
    if ftz {
        a = a.map(flush);
        b = b.map(flush);
    }
    for lane in 0..32 {
        out[lane] = compute::<OPERATION>(a[lane], b[lane]);
    }
    finish(x, i, mask, out)
}

/// Applies `.ftz` and `.sat` to a result and stores it.
fn finish(x: &mut Exec<'_>, i: &Inst, mask: u32, mut out: [u32; 32]) -> Step {
    if i.flags & FTZ != 0 {
        out = out.map(flush);
    }
    if i.flags & SATURATE != 0 {
        out = out.map(saturate);
    }
    x.set_word(i.d, mask, &out);
    Step::Next
}

fn fma_plain(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let (a, b, c) = (x.word(i.a, mask), x.word(i.b, mask), x.word(i.c, mask));
    let out = simd::fma(&a, &b, &c);
    x.set_word(i.d, mask, &out);
    Step::Next
}

fn fma_flagged(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let (mut a, mut b, mut c) = (x.word(i.a, mask), x.word(i.b, mask), x.word(i.c, mask));
    if i.flags & FTZ != 0 {
        (a, b, c) = (a.map(flush), b.map(flush), c.map(flush));
    }
    let out = simd::fma(&a, &b, &c);
    finish(x, i, mask, out)
}

fn mode_of(i: &Inst) -> Rounding {
    match i.flags >> ROUNDING_SHIFT {
        1 => Rounding::Zero,
        2 => Rounding::Down,
        3 => Rounding::Up,
        _ => Rounding::Nearest,
    }
}

/// Any rounding mode, lane by lane.
fn directed<const OPERATION: u8>(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let (mut a, mut b) = (x.word(i.a, mask), x.word(i.b, mask));
    let mut c = if OPERATION == FMA { x.word(i.c, mask) } else { [0; 32] };
    if i.flags & FTZ != 0 {
        (a, b, c) = (a.map(flush), b.map(flush), c.map(flush));
    }
    let mode = mode_of(i);
    let mut out = [0; 32];
    for lane in each_lane(mask) {
        let (p, q, r) = (f32::from_bits(a[lane]), f32::from_bits(b[lane]), f32::from_bits(c[lane]));
        let sum = |left: f64, right: f64| {
            let negative_zeros = left == 0.0 && right == 0.0 && left.is_sign_negative() && right.is_sign_negative();
            let positive_zeros = left == 0.0 && right == 0.0 && left.is_sign_positive() && right.is_sign_positive();
            fix_zero(add_odd(left, right), negative_zeros || positive_zeros, mode)
        };
        let value = match OPERATION {
            ADD => sum(f64::from(p), f64::from(q)),
            SUBTRACT => sum(f64::from(p), -f64::from(q)),
            MULTIPLY => f64::from(p) * f64::from(q),
            DIVIDE => div_odd(p, q),
            _ => sum(f64::from(p) * f64::from(q), f64::from(r)),
        };
        out[lane] = Format::F32.encode(value, mode, false);
    }
    finish(x, i, mask, out)
}

/// The smaller or larger of two numbers; -0 is smaller than +0.
#[inline(always)]
pub(super) fn extreme<const LARGER: bool>(a: f32, b: f32, propagate: bool) -> f32 {
    let nan = f32::from_bits(NAN);
    if propagate && (a.is_nan() || b.is_nan()) {
        return nan;
    }
    if a.is_nan() {
        return if b.is_nan() { nan } else { b };
    }
    if b.is_nan() {
        return a;
    }
    let a_first = if a == b { a.is_sign_negative() } else { a < b };
    if a_first != LARGER { a } else { b }
}

fn extremum<const LARGER: bool>(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let (mut a, mut b) = (x.word(i.a, mask), x.word(i.b, mask));
    if i.flags & FTZ != 0 {
        (a, b) = (a.map(flush), b.map(flush));
    }
    let mut out = [0; 32];
    if i.flags & (PROPAGATE_NAN | XOR_SIGN) == 0 {
        for lane in 0..32 {
            let (p, q) = (f32::from_bits(a[lane]), f32::from_bits(b[lane]));
            // As integers the bits of floats are ordered once the negative ones are mirrored.
            let key = |bits: u32| bits as i32 ^ ((bits as i32 >> 31) as u32 >> 1) as i32;
            let a_wins = (key(a[lane]) > key(b[lane])) == LARGER;
            let chosen = if a_wins { a[lane] } else { b[lane] };
            let chosen = if p.is_nan() {
                b[lane]
            } else if q.is_nan() {
                a[lane]
            } else {
                chosen
            };
            out[lane] = canonical(f32::from_bits(chosen));
        }
    } else {
        for lane in each_lane(mask) {
            let sign = (a[lane] ^ b[lane]) & 0x8000_0000;
            let magnitude = if i.flags & XOR_SIGN != 0 { 0x7fff_ffff } else { u32::MAX };
            let (p, q) = (f32::from_bits(a[lane] & magnitude), f32::from_bits(b[lane] & magnitude));
            let value = extreme::<LARGER>(p, q, i.flags & PROPAGATE_NAN != 0);
            let signed = i.flags & XOR_SIGN != 0 && !value.is_nan();
            out[lane] = value.to_bits() | if signed { sign } else { 0 };
        }
    }
    x.set_word(i.d, mask, &out);
    Step::Next
}

fn absolute(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let out = x.word(i.a, mask).map(|a| a & 0x7fff_ffff);
    finish(x, i, mask, out)
}

fn negate(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let out = x.word(i.a, mask).map(|a| a ^ 0x8000_0000);
    finish(x, i, mask, out)
}

fn double(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    fn value(bits: u64) -> f64 {
        f64::from_bits(bits)
    }
    fn extreme64(a: u64, b: u64, larger: bool) -> u64 {
        let (p, q) = (value(a), value(b));
        if p.is_nan() || q.is_nan() {
            return canonical64(if p.is_nan() { q } else { p });
        }
        let a_first = if p == q { p.is_sign_negative() } else { p < q };
        if a_first != larger { a } else { b }
    }
    let handler: Handler = match f.base {
        "add" => long2!(|a, b| canonical64(value(a) + value(b))),
        "sub" => long2!(|a, b| canonical64(value(a) - value(b))),
        "mul" => long2!(|a, b| canonical64(value(a) * value(b))),
        "div" => long2!(|a, b| canonical64(value(a) / value(b))),
        "min" => long2!(|a, b| extreme64(a, b, false)),
        "max" => long2!(|a, b| extreme64(a, b, true)),
        "fma" | "mad" => {
            return ternary(d, f, long3!(|a, b, c| canonical64(value(a).mul_add(value(b), value(c)))), F64);
        }
        "abs" => return unary(d, f, long1!(|a| a & !(1 << 63)), F64, F64),
        "neg" => return unary(d, f, long1!(|a| a ^ 1 << 63), F64, F64),
        _ => return Err(f.unsupported("this operation has no .f64 form here")),
    };
    binary(d, f, handler, F64)
}

fn function(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    let function = match f.base {
        "rcp" => Function::Reciprocal,
        "sqrt" => Function::Sqrt,
        "rsqrt" => Function::ReciprocalSqrt,
        "sin" => Function::Sine,
        "cos" => Function::Cosine,
        "lg2" => Function::Log2,
        "ex2" => Function::Exp2,
        _ => Function::Tanh,
    };
    let approx = f.accept("approx");
    let mode = if approx { None } else { rounding(f) };
    let ftz = f.accept("ftz");
    let ty = f.ty()?;
    if ty == F64 {
        let handler: Handler = match (function, mode) {
            (Function::Reciprocal, Some(Rounding::Nearest)) => long1!(|a| canonical64(1.0 / f64::from_bits(a))),
            (Function::Sqrt, Some(Rounding::Nearest)) => long1!(|a| canonical64(f64::from_bits(a).sqrt())),
            (Function::Reciprocal, None) if approx && ftz => long1!(|a| coarse(a, |value| 1.0 / value)),
            (Function::ReciprocalSqrt, None) if approx && ftz => long1!(|a| coarse(a, |value| 1.0 / value.sqrt())),
            _ => return Err(f.unsupported("this form has no .f64")),
        };
        return unary(d, f, handler, F64, F64);
    }
    if ty != F32 {
        return Err(f.unsupported(format!("type {ty:?} is not possible here")));
    }
    let flags = (if ftz { FTZ } else { 0 }) | (mode.unwrap_or(Rounding::Nearest) as u32) << ROUNDING_SHIFT;
    let handler: Handler = match (function, mode) {
        (Function::Reciprocal, Some(_)) => rounded::<false>,
        (Function::Sqrt, Some(_)) => rounded::<true>,
        (_, Some(_)) => return Err(f.unsupported("this function has no rounding modes")),
        (Function::Reciprocal, None) if approx => approximated::<{ Function::Reciprocal as u8 }>,
        (Function::Sqrt, None) if approx => approximated::<{ Function::Sqrt as u8 }>,
        (Function::ReciprocalSqrt, None) if approx => approximated::<{ Function::ReciprocalSqrt as u8 }>,
        (Function::Sine, None) if approx => approximated::<{ Function::Sine as u8 }>,
        (Function::Cosine, None) if approx => approximated::<{ Function::Cosine as u8 }>,
        (Function::Log2, None) if approx => approximated::<{ Function::Log2 as u8 }>,
        (Function::Exp2, None) if approx => approximated::<{ Function::Exp2 as u8 }>,
        (Function::Tanh, None) if approx => approximated::<{ Function::Tanh as u8 }>,
        _ => return Err(f.unsupported("a rounding mode or .approx is missing")),
    };
    flagged(unary(d, f, handler, F32, F32)?, flags)
}

/// `rcp.approx.ftz.f64` and `rsqrt.approx.ftz.f64` look at the upper half of the operand and give the upper half of a
/// result; subnormals count as zero.
fn coarse(bits: u64, function: impl Fn(f64) -> f64) -> u64 {
    let upper = |bits: u64| {
        let bits = bits & !0xffff_ffff;
        if bits & 0x7ff0_0000_0000_0000 == 0 { bits & 1 << 63 } else { bits }
    };
    let value = f64::from_bits(bits);
    if value.is_nan() { NAN64 } else { upper(canonical64(function(f64::from_bits(upper(bits))))) }
}

/// `rcp.rn`, `sqrt.rn` and the other rounding modes.
fn rounded<const ROOT: bool>(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let mut a = x.word(i.a, mask);
    if i.flags & FTZ != 0 {
        a = a.map(flush);
    }
    let mode = mode_of(i);
    let mut out = [0; 32];
    for lane in each_lane(mask) {
        let value = f32::from_bits(a[lane]);
        let exact = if ROOT { sqrt_odd(value) } else { div_odd(1.0, value) };
        out[lane] = Format::F32.encode(exact, mode, false);
    }
    finish(x, i, mask, out)
}

fn approximated<const FUNCTION: u8>(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    const ALL: [Function; 8] = [
        Function::Exp2,
        Function::Log2,
        Function::Reciprocal,
        Function::ReciprocalSqrt,
        Function::Sqrt,
        Function::Sine,
        Function::Cosine,
        Function::Tanh,
    ];
    let function = ALL[FUNCTION as usize];
    let mut a = x.word(i.a, mask);
    if i.flags & FTZ != 0 {
        a = a.map(flush);
    }
    let options = x.launch.options;
    let mut out = [0; 32];
    if function == Function::Exp2 && options.numerics == crate::Numerics::Rounded {
        let powers = simd::exp2(&a.map(f32::from_bits));
        for lane in 0..32 {
            out[lane] = canonical(powers[lane]);
        }
        return finish(x, i, mask, out);
    }
    for lane in each_lane(mask) {
        let operand = f32::from_bits(a[lane]);
        out[lane] = canonical(approximate(options, function, operand, function.exact(f64::from(operand))));
    }
    finish(x, i, mask, out)
}

fn copy_sign(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    use crate::machine::lanes::word2;
    match f.ty()? {
        F32 => binary(d, f, word2!(|a, b| b & 0x7fff_ffff | a & 0x8000_0000), F32),
        F64 => binary(d, f, long2!(|a, b| b & !(1 << 63) | a & 1 << 63), F64),
        ty => Err(f.unsupported(format!("type {ty:?} is not possible here"))),
    }
}

fn test(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    let kinds = [("finite", 0), ("infinite", 1), ("number", 2), ("notanumber", 3), ("normal", 4), ("subnormal", 5)];
    let kind: u32 = f.require("the property", &kinds)?;
    let ty = f.ty()?;
    fn holds(value: f64, smallest: f64, kind: u32) -> bool {
        match kind {
            0 => value.is_finite(),
            1 => value.is_infinite(),
            2 => !value.is_nan(),
            3 => value.is_nan(),
            4 => value.is_finite() && value.abs() >= smallest,
            _ => value != 0.0 && value.abs() < smallest,
        }
    }
    let handler: Handler = match ty {
        F32 => |x, i, mask| {
            let a = x.word(i.a, mask);
            let smallest = f64::from(f32::MIN_POSITIVE);
            let value = each_lane(mask)
                .filter(|lane| holds(f64::from(f32::from_bits(a[*lane])), smallest, i.flags))
                .fold(0, |all, lane| all | 1 << lane);
            x.set_predicate(i.d, mask, value);
            Step::Next
        },
        F64 => |x, i, mask| {
            let a = x.long(i.a, mask);
            let value = each_lane(mask)
                .filter(|lane| holds(f64::from_bits(a[*lane]), f64::MIN_POSITIVE, i.flags))
                .fold(0, |all, lane| all | 1 << lane);
            x.set_predicate(i.d, mask, value);
            Step::Next
        },
        _ => return Err(f.unsupported(format!("type {ty:?} is not possible here"))),
    };
    flagged(unary(d, f, handler, ScalarType::Pred, ty)?, kind)
}

/// `a * b + c` of f32 values, rounded once to another format.
pub(super) fn fused(a: f32, b: f32, c: f32) -> f64 {
    fma_odd(a, b, c)
}
