//! `cvt`: between any two of the integer and floating-point types.

use super::float::flush;
use super::{binary_mixed, unary};
use crate::Error;
use crate::decode::{Decoder, Form, Inst};
use crate::machine::lanes::{mixed, word1};
use crate::machine::{Exec, Handler, Step, each_lane};
use crate::module::Class;
use crate::module::ScalarType::{self, *};
use crate::numerics::half::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use crate::numerics::rounding::{Format, Rounding};

const FTZ: u32 = 1;
const SATURATE: u32 = 2;
const RELU: u32 = 4;
const FINITE: u32 = 8;
/// Round a float to a whole number of the same or another type.
const WHOLE: u32 = 16;
/// The destination register has 16 bits.
const SHORT_REGISTER: u32 = 32;
const ROUNDING_SHIFT: u32 = 8;
const FROM_SHIFT: u32 = 16;
const TO_SHIFT: u32 = 24;

const TYPES: [ScalarType; 13] = [U8, S8, U16, S16, U32, S32, U64, S64, F16, Bf16, F32, F64, Tf32];

fn code(ty: ScalarType) -> Option<u32> {
    TYPES.iter().position(|t| *t == ty).map(|at| at as u32)
}

pub(super) fn decode(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    let float_modes = [
        ("rn", Rounding::Nearest),
        ("rna", Rounding::NearestAway),
        ("rz", Rounding::Zero),
        ("rm", Rounding::Down),
        ("rp", Rounding::Up),
    ];
    let whole_modes =
        [("rni", Rounding::Nearest), ("rzi", Rounding::Zero), ("rmi", Rounding::Down), ("rpi", Rounding::Up)];
    let float_mode = f.choose(&float_modes);
    let whole_mode = f.choose(&whole_modes);
    let mut flags = 0;
    for (name, flag) in [("ftz", FTZ), ("sat", SATURATE), ("relu", RELU), ("satfinite", FINITE)] {
        flags |= if f.accept(name) { flag } else { 0 };
    }
    let (to, from) = (f.ty()?, f.ty()?);
    if matches!(to, F16x2 | Bf16x2) && from == F32 {
        return pair_of_floats(d, f, to, float_mode, flags);
    }
    let (Some(to_code), Some(from_code)) = (code(to), code(from)) else {
        return Err(f.unsupported(format!("no conversion from {from:?} to {to:?} is modelled")));
    };
    if from == Tf32 {
        return Err(f.unsupported("nothing converts from .tf32"));
    }
    let narrowing = to.is_float() && from.is_float() && (to.bytes() < from.bytes() || to == Tf32);
    let rounds_float = narrowing || to.is_float() && !from.is_float();
    let rounds_whole = from.is_float() && !to.is_float();
    if rounds_float && float_mode.is_none() {
        return Err(f.unsupported("a rounding mode is missing"));
    }
    if rounds_whole && whole_mode.is_none() {
        return Err(f.unsupported("a rounding mode such as .rzi is missing"));
    }
    if float_mode.is_some() && !rounds_float && from != to {
        // `cvt.rn.bf16.f16` and the like do not exist before sm_90; widening needs no rounding.
        return Err(f.unsupported("this conversion is exact and takes no rounding mode"));
    }
    // A register may be wider than the type: its low part is the source, or the result is extended.
    f.expect_operands(2..=2)?;
    let widened = |operand, ty: ScalarType| {
        if !ty.is_float() && ty.class() == Class::Word && d.is_long(operand) { U64 } else { ty }
    };
    let to_register = widened(f.operand(0)?, to);
    let from_register = widened(f.operand(1)?, from);
    if (to_register, from_register) == (to, from)
        && let Some(handler) = quick(to, from, float_mode, whole_mode, flags)
    {
        return unary(d, f, handler, to, from);
    }
    if whole_mode.is_some() {
        flags |= WHOLE;
    }
    let mode = float_mode.or(whole_mode).unwrap_or(Rounding::Nearest);
    let handler: Handler = match (from_register.class(), to_register.class()) {
        (Class::Word, Class::Word) => general::<false, false>,
        (Class::Word, _) => general::<false, true>,
        (_, Class::Word) => general::<true, false>,
        _ => general::<true, true>,
    };
    let mut inst = unary(d, f, handler, to_register, from_register)?;
    if d.is_short(f.operand(0)?) {
        flags |= SHORT_REGISTER;
    }
    inst.flags = flags | (mode as u32) << ROUNDING_SHIFT | from_code << FROM_SHIFT | to_code << TO_SHIFT;
    Ok(inst)
}

/// The conversions that kernels spend time in.
fn quick(
    to: ScalarType,
    from: ScalarType,
    float_mode: Option<Rounding>,
    whole_mode: Option<Rounding>,
    flags: u32,
) -> Option<Handler> {
    if flags != 0 || whole_mode.is_some() {
        return None;
    }
    Some(match (to, from, float_mode) {
        (S64, S32, None) => mixed!(word => long, |a| a as i32 as i64 as u64),
        (U64, S32, None) => mixed!(word => long, |a| a as i32 as i64 as u64),
        (U64 | S64, U32, None) => mixed!(word => long, |a| u64::from(a)),
        (U32 | S32, U64 | S64, None) => mixed!(long => word, |a| a as u32),
        (F32, S32, Some(Rounding::Nearest)) => word1!(|a| (a as i32 as f32).to_bits()),
        (F32, U32, Some(Rounding::Nearest)) => word1!(|a| (a as f32).to_bits()),
        (F32, F16, None) => word1!(|a| canonical(f16_to_f32(a as u16))),
        (F32, Bf16, None) => word1!(|a| canonical(bf16_to_f32(a as u16))),
        (F16, F32, Some(Rounding::Nearest)) => word1!(|a| u32::from(f32_to_f16(f32::from_bits(a)))),
        (Bf16, F32, Some(Rounding::Nearest)) => word1!(|a| u32::from(f32_to_bf16(f32::from_bits(a)))),
        _ => return None,
    })
}

fn canonical(value: f32) -> u32 {
    if value.is_nan() { 0x7fff_ffff } else { value.to_bits() }
}

/// `cvt.rn.f16x2.f32 d, a, b`: `a` becomes the upper half.
fn pair_of_floats(
    d: &mut Decoder<'_>,
    f: &Form<'_>,
    to: ScalarType,
    mode: Option<Rounding>,
    flags: u32,
) -> Result<Inst, Error> {
    let mode = mode.ok_or_else(|| f.unsupported("a rounding mode is missing"))?;
    if !matches!(mode, Rounding::Nearest | Rounding::Zero) || flags & FTZ != 0 {
        return Err(f.unsupported("only .rn and .rz without .ftz exist"));
    }
    let handler: Handler = match (to, mode, flags) {
        (F16x2, Rounding::Nearest, 0) => pack_nearest::<false>,
        (_, Rounding::Nearest, 0) => pack_nearest::<true>,
        _ => pack_general,
    };
    let mut inst = binary_mixed(d, f, handler, [to, F32, F32])?;
    inst.flags = flags | (mode as u32) << ROUNDING_SHIFT | u32::from(to == Bf16x2) << TO_SHIFT;
    Ok(inst)
}

fn pack_nearest<const BFLOAT: bool>(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let (a, b) = (x.word(i.a, mask), x.word(i.b, mask));
    let mut out = [0; 32];
    for lane in 0..32 {
        let (high, low) = (f32::from_bits(a[lane]), f32::from_bits(b[lane]));
        let (high, low) =
            if BFLOAT { (f32_to_bf16(high), f32_to_bf16(low)) } else { (f32_to_f16(high), f32_to_f16(low)) };
        out[lane] = u32::from(high) << 16 | u32::from(low);
    }
    x.set_word(i.d, mask, &out);
    Step::Next
}

fn pack_general(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let (a, b) = (x.word(i.a, mask), x.word(i.b, mask));
    let format = if i.flags >> TO_SHIFT != 0 { Format::BF16 } else { Format::F16 };
    let mut out = [0; 32];
    for lane in each_lane(mask) {
        let one = |bits: u32| encode(format, f64::from(f32::from_bits(bits)), i.flags);
        out[lane] = one(a[lane]) << 16 | one(b[lane]);
    }
    x.set_word(i.d, mask, &out);
    Step::Next
}

fn mode_of(flags: u32) -> Rounding {
    match flags >> ROUNDING_SHIFT & 0xff {
        1 => Rounding::Zero,
        2 => Rounding::Down,
        3 => Rounding::Up,
        4 => Rounding::NearestAway,
        _ => Rounding::Nearest,
    }
}

/// Rounds to a float format with `.relu`, `.sat` and `.satfinite`.
fn encode(format: Format, value: f64, flags: u32) -> u32 {
    let mut value = value;
    if flags & RELU != 0 && !value.is_nan() && value.is_sign_negative() {
        value = 0.0;
    }
    if flags & SATURATE != 0 {
        value = if value > 0.0 { value.min(1.0) } else { 0.0 };
    }
    format.encode(value, mode_of(flags), flags & FINITE != 0)
}

/// A value on its way from one type to another.
enum Value {
    Whole(i128),
    Float(f64),
}

fn general<const FROM_LONG: bool, const TO_LONG: bool>(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let source: [u64; 32] = if FROM_LONG { x.long(i.a, mask) } else { x.word(i.a, mask).map(u64::from) };
    let from = TYPES[(i.flags >> FROM_SHIFT & 0xff) as usize];
    let to = TYPES[(i.flags >> TO_SHIFT) as usize];
    let mut out = [0u64; 32];
    for lane in each_lane(mask) {
        out[lane] = convert(source[lane], from, to, i.flags);
    }
    if TO_LONG {
        x.set_long(i.d, mask, &out);
    } else {
        x.set_word(i.d, mask, &out.map(|value| value as u32));
    }
    Step::Next
}

fn convert(bits: u64, from: ScalarType, to: ScalarType, flags: u32) -> u64 {
    let value = match from {
        U8 => Value::Whole(i128::from(bits as u8)),
        S8 => Value::Whole(i128::from(bits as i8)),
        U16 => Value::Whole(i128::from(bits as u16)),
        S16 => Value::Whole(i128::from(bits as i16)),
        U32 => Value::Whole(i128::from(bits as u32)),
        S32 => Value::Whole(i128::from(bits as i32)),
        U64 => Value::Whole(i128::from(bits)),
        S64 => Value::Whole(i128::from(bits as i64)),
        F16 => Value::Float(f64::from(f16_to_f32(bits as u16))),
        Bf16 => Value::Float(f64::from(bf16_to_f32(bits as u16))),
        F32 => {
            let bits = if flags & FTZ != 0 { flush(bits as u32) } else { bits as u32 };
            Value::Float(f64::from(f32::from_bits(bits)))
        }
        _ => Value::Float(f64::from_bits(bits)),
    };
    let value = match value {
        Value::Float(float) if flags & WHOLE != 0 => Value::Float(whole(float, mode_of(flags))),
        other => other,
    };
    match to {
        F16 | Bf16 | F32 | Tf32 => {
            let float = match value {
                Value::Whole(whole) => whole_to_odd(whole),
                Value::Float(float) => float,
            };
            let format = match to {
                F16 => Format::F16,
                Bf16 => Format::BF16,
                Tf32 => Format::TF32,
                _ => Format::F32,
            };
            let encoded = encode(format, float, flags);
            match to {
                // The 13 low bits of a register with a tf32 value are unspecified; zero here.
                Tf32 if float.is_nan() => 0x7fff_e000,
                Tf32 => u64::from(encoded) << 13,
                F32 if flags & FTZ != 0 => u64::from(flush(encoded)),
                _ => u64::from(encoded),
            }
        }
        F64 => {
            let float = match value {
                Value::Whole(whole) => whole as f64,
                Value::Float(float) => float,
            };
            let float = if flags & SATURATE != 0 { if float > 0.0 { float.min(1.0) } else { 0.0 } } else { float };
            if float.is_nan() { 0x7fff_ffff_ffff_ffff } else { float.to_bits() }
        }
        _ => to_integer(value, to, flags),
    }
}

fn to_integer(value: Value, to: ScalarType, flags: u32) -> u64 {
    let (low, high): (i128, i128) = match to {
        U8 => (0, i128::from(u8::MAX)),
        S8 => (i128::from(i8::MIN), i128::from(i8::MAX)),
        U16 => (0, i128::from(u16::MAX)),
        S16 => (i128::from(i16::MIN), i128::from(i16::MAX)),
        U32 => (0, i128::from(u32::MAX)),
        S32 => (i128::from(i32::MIN), i128::from(i32::MAX)),
        U64 => (0, i128::from(u64::MAX)),
        _ => (i128::from(i64::MIN), i128::from(i64::MAX)),
    };
    let whole = match value {
        // A float out of range always saturates; NaN becomes zero, or the top bit in 64-bit types.
        Value::Float(float) if float.is_nan() => {
            return if to.bytes() == 8 { 1 << 63 } else { 0 };
        }
        Value::Float(float) => (float as i128).clamp(low, high),
        Value::Whole(whole) if flags & SATURATE != 0 => whole.clamp(low, high),
        Value::Whole(whole) => whole,
    };
    // Narrow results are extended to the register's width by their signedness.
    let bits = match to {
        U8 => u64::from(whole as u8),
        S8 => whole as i8 as u64,
        U16 => u64::from(whole as u16),
        S16 => whole as i16 as u64,
        U32 => u64::from(whole as u32),
        S32 => whole as i32 as u64,
        _ => whole as u64,
    };
    if flags & SHORT_REGISTER != 0 { bits & 0xffff } else { bits }
}

/// To a whole number in f64.
fn whole(value: f64, mode: Rounding) -> f64 {
    match mode {
        Rounding::Zero => value.trunc(),
        Rounding::Down => value.floor(),
        Rounding::Up => value.ceil(),
        Rounding::NearestAway => value.round(),
        Rounding::Nearest => value.round_ties_even(),
    }
}

/// A 64-bit integer as f64, rounded to odd.
fn whole_to_odd(value: i128) -> f64 {
    let magnitude = value.unsigned_abs();
    let bits = 128 - magnitude.leading_zeros();
    let extra = bits.saturating_sub(53);
    let mut kept = magnitude >> extra;
    if kept << extra != magnitude {
        kept |= 1;
    }
    let float = kept as f64 * f64::from(extra).exp2();
    if value < 0 { -float } else { float }
}
