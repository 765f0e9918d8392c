//! f16 and bf16 arithmetic, single and packed. Every result is the exact value rounded once.

use super::float::{extreme, fused};
use super::{binary, ternary, unary};
use crate::Error;
use crate::decode::{Decoder, Form, Inst};
use crate::machine::{Exec, Step, each_lane};
use crate::module::ScalarType::*;
use crate::numerics::half::{bf16_to_f32, f16_to_f32};
use crate::numerics::rounding::{Format, Rounding, add_odd};
use crate::numerics::special::Function;

const BFLOAT: u32 = 1;
const PACKED: u32 = 2;
const FTZ: u32 = 4;
const SATURATE: u32 = 8;
const RELU: u32 = 16;
const PROPAGATE_NAN: u32 = 32;
const XOR_SIGN: u32 = 64;
const OPERATION_SHIFT: u32 = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Add,
    Subtract,
    Multiply,
    Fma,
    Absolute,
    Negate,
    Minimum,
    Maximum,
    Exp2,
    Tanh,
}

const OPERATIONS: [(&str, Operation); 10] = [
    ("add", Operation::Add),
    ("sub", Operation::Subtract),
    ("mul", Operation::Multiply),
    ("fma", Operation::Fma),
    ("abs", Operation::Absolute),
    ("neg", Operation::Negate),
    ("min", Operation::Minimum),
    ("max", Operation::Maximum),
    ("ex2", Operation::Exp2),
    ("tanh", Operation::Tanh),
];

pub(super) fn decode(d: &mut Decoder<'_>, f: &Form<'_>) -> Result<Inst, Error> {
    let index = OPERATIONS.iter().position(|(name, _)| *name == f.base);
    let index = index.ok_or_else(|| f.unsupported("this operation has no half-precision form"))?;
    let operation = OPERATIONS[index].1;
    let mut flags = (index as u32) << OPERATION_SHIFT;
    let mut take = |name: &str, flag: u32| {
        if f.accept(name) {
            flags |= flag;
        }
    };
    match operation {
        Operation::Exp2 | Operation::Tanh => {
            f.require("the accuracy", &[("approx", ())])?;
        }
        Operation::Minimum | Operation::Maximum => {
            take("NaN", PROPAGATE_NAN);
            if f.accept("xorsign") {
                take("abs", XOR_SIGN);
            }
        }
        Operation::Absolute | Operation::Negate => {}
        // To nearest is the only mode, and the default.
        _ => {
            f.accept("rn");
            take("sat", SATURATE);
            if operation == Operation::Fma {
                take("relu", RELU);
            }
        }
    }
    take("ftz", FTZ);
    let ty = f.ty()?;
    if matches!(ty, Bf16 | Bf16x2) {
        flags |= BFLOAT;
    }
    if matches!(ty, F16x2 | Bf16x2) {
        flags |= PACKED;
    }
    let mut inst = match operation {
        Operation::Fma => ternary(d, f, execute::<3>, ty)?,
        Operation::Absolute | Operation::Negate | Operation::Exp2 | Operation::Tanh => {
            unary(d, f, execute::<1>, ty, ty)?
        }
        _ => binary(d, f, execute::<2>, ty)?,
    };
    inst.flags = flags;
    Ok(inst)
}

fn execute<const OPERANDS: u32>(x: &mut Exec<'_>, i: &Inst, mask: u32) -> Step {
    let a = x.word(i.a, mask);
    let b = if OPERANDS > 1 { x.word(i.b, mask) } else { [0; 32] };
    let c = if OPERANDS > 2 { x.word(i.c, mask) } else { [0; 32] };
    let mut out = [0; 32];
    for lane in each_lane(mask) {
        let low = one(i.flags, a[lane] as u16, b[lane] as u16, c[lane] as u16);
        out[lane] = u32::from(low);
        if i.flags & PACKED != 0 {
            let high = one(i.flags, (a[lane] >> 16) as u16, (b[lane] >> 16) as u16, (c[lane] >> 16) as u16);
            out[lane] |= u32::from(high) << 16;
        }
    }
    x.set_word(i.d, mask, &out);
    Step::Next
}

fn one(flags: u32, a: u16, b: u16, c: u16) -> u16 {
    let bfloat = flags & BFLOAT != 0;
    let format = if bfloat { Format::BF16 } else { Format::F16 };
    let exponent = if bfloat { 0x7f80 } else { 0x7c00 };
    let flush = |bits: u16| if flags & FTZ != 0 && bits & exponent == 0 { bits & 0x8000 } else { bits };
    let widen = |bits: u16| if bfloat { bf16_to_f32(bits) } else { f16_to_f32(bits) };
    let (a, b, c) = (flush(a), flush(b), flush(c));
    let (p, q, r) = (widen(a), widen(b), widen(c));
    let round = |value: f64| format.encode(value, Rounding::Nearest, false) as u16;
    let operation = OPERATIONS[(flags >> OPERATION_SHIFT) as usize].1;
    let result = match operation {
        Operation::Absolute => return flush(a & 0x7fff),
        Operation::Negate => return flush(a ^ 0x8000),
        Operation::Add => round(add_odd(f64::from(p), f64::from(q))),
        Operation::Subtract => round(add_odd(f64::from(p), -f64::from(q))),
        Operation::Multiply => round(f64::from(p) * f64::from(q)),
        Operation::Fma => round(fused(p, q, r)),
        Operation::Minimum | Operation::Maximum => {
            let sign = (a ^ b) & 0x8000;
            let (p, q) = if flags & XOR_SIGN != 0 { (p.abs(), q.abs()) } else { (p, q) };
            let propagate = flags & PROPAGATE_NAN != 0;
            let chosen = if operation == Operation::Maximum {
                extreme::<true>(p, q, propagate)
            } else {
                extreme::<false>(p, q, propagate)
            };
            round(f64::from(chosen)) | if flags & XOR_SIGN != 0 && !chosen.is_nan() { sign } else { 0 }
        }
        Operation::Exp2 => round(Function::Exp2.exact(f64::from(p))),
        Operation::Tanh => round(Function::Tanh.exact(f64::from(p))),
    };
    let result = flush(result);
    let value = widen(result);
    if flags & SATURATE != 0 {
        return if value >= 1.0 {
            round(1.0)
        } else if value > 0.0 {
            result
        } else {
            0
        };
    }
    if flags & RELU != 0 && !value.is_nan() && result & 0x8000 != 0 { 0 } else { result }
}
