//! The approximate functions: correctly rounded, or perturbed within what the PTX ISA manual allows.

use crate::options::{Numerics, Options};

/// A function with a documented error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    Exp2,
    Log2,
    Reciprocal,
    ReciprocalSqrt,
    Sqrt,
    Sine,
    Cosine,
    Tanh,
}

/// How far a result may be from the exact value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Bound {
    /// Units in the last place of an f32.
    Ulps(i32),
    /// Log base 2 of a relative error.
    Relative(f64),
    /// Log base 2 of an absolute error.
    Absolute(f64),
}

impl Function {
    /// The exact value, rounded to f64.
    pub fn exact(self, x: f64) -> f64 {
        match self {
            Function::Exp2 => x.exp2(),
            Function::Log2 => x.log2(),
            Function::Reciprocal => 1.0 / x,
            Function::ReciprocalSqrt => {
                if x == 0.0 {
                    1.0 / x
                } else {
                    1.0 / x.sqrt()
                }
            }
            Function::Sqrt => x.sqrt(),
            Function::Sine => x.sin(),
            Function::Cosine => x.cos(),
            Function::Tanh => x.tanh(),
        }
    }

    /// The documented error of the `.approx.f32` form at this operand.
    pub fn bound(self, x: f32) -> Bound {
        match self {
            Function::Exp2 => Bound::Ulps(2),
            Function::Log2 if x > 0.5 && x < 2.0 => Bound::Absolute(-22.0),
            Function::Log2 => Bound::Relative(-22.0),
            Function::Reciprocal => Bound::Ulps(1),
            Function::ReciprocalSqrt => Bound::Relative(-22.9),
            Function::Sqrt => Bound::Relative(-23.0),
            Function::Sine | Function::Cosine => Bound::Absolute(-20.5),
            Function::Tanh => Bound::Relative(-11.0),
        }
    }
}

/// A number in -1..=1 that depends on nothing but its arguments.
fn draw(seed: u64, function: u32, operand: u64) -> f64 {
    let mut z = seed ^ operand.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(function) << 56;
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    (z >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}

/// The result of an approximate instruction: `exact` rounded to f32, or a neighbour within the bound.
pub(crate) fn approximate(options: &Options, function: Function, operand: f32, exact: f64) -> f32 {
    let rounded = exact as f32;
    let fixed = operand.is_infinite()
        || rounded == 0.0
        || !rounded.is_finite()
        || operand == 0.0
        || rounded.abs() < f32::MIN_POSITIVE;
    if options.numerics == Numerics::Rounded || fixed {
        return rounded;
    }
    let direction = draw(options.seed, function as u32, u64::from(operand.to_bits()));
    let candidate = match function.bound(operand) {
        Bound::Ulps(most) => {
            let steps = (direction * f64::from(most)).round() as i32;
            f32::from_bits(rounded.to_bits().wrapping_add_signed(steps))
        }
        Bound::Relative(log2) => (exact * (1.0 + direction * log2.exp2())) as f32,
        Bound::Absolute(log2) => (exact + direction * log2.exp2()) as f32,
    };
    // Rounding the candidate may have carried it over the bound; the exact result is always legal.
    let error = (f64::from(candidate) - exact).abs();
    let legal = match function.bound(operand) {
        Bound::Ulps(_) => candidate.is_finite(),
        Bound::Relative(log2) => error <= exact.abs() * log2.exp2(),
        Bound::Absolute(log2) => error <= log2.exp2(),
    };
    if legal { candidate } else { rounded }
}
