//! Rounding to any binary format in any mode, by way of f64 values that are exact or rounded to odd.
//! A value rounded to odd in 53 bits can be rounded again to 51 bits or fewer, in any mode, as if it
//! had been exact (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rounding {
    Nearest,
    Zero,
    Down,
    Up,
    /// To nearest, ties away from zero.
    NearestAway,
}

/// A binary interchange format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format {
    pub exponent_bits: u32,
    pub fraction_bits: u32,
    /// Bits of the NaN that arithmetic produces.
    pub nan: u32,
}

impl Format {
    pub const F16: Format = Format { exponent_bits: 5, fraction_bits: 10, nan: 0x7fff };
    pub const BF16: Format = Format { exponent_bits: 8, fraction_bits: 7, nan: 0x7fff };
    pub const F32: Format = Format { exponent_bits: 8, fraction_bits: 23, nan: 0x7fff_ffff };
    /// The 19 leading bits of an f32.
    pub const TF32: Format = Format { exponent_bits: 8, fraction_bits: 10, nan: 0x3_ffff };

    fn bias(self) -> i32 {
        (1 << (self.exponent_bits - 1)) - 1
    }

    fn infinity(self) -> u32 {
        ((1 << self.exponent_bits) - 1) << self.fraction_bits
    }

    /// The largest finite magnitude.
    pub fn largest(self) -> u32 {
        self.infinity() - 1
    }

    fn sign(self) -> u32 {
        1 << (self.exponent_bits + self.fraction_bits)
    }

    /// The bits of `value` rounded to this format. With `saturate`, values out of range become the
    /// largest finite one, infinities included.
    pub fn encode(self, value: f64, rounding: Rounding, saturate: bool) -> u32 {
        if value.is_nan() {
            return self.nan;
        }
        let bits = value.to_bits();
        let negative = bits >> 63 != 0;
        let sign = if negative { self.sign() } else { 0 };
        if value == 0.0 {
            return sign;
        }
        if value.is_infinite() {
            return sign | if saturate { self.largest() } else { self.infinity() };
        }
        let exponent = (bits >> 52 & 0x7ff) as i32 - 1023;
        // Subnormal f64 are far below every format here; they act as a tiny normal number.
        let significand = bits & ((1 << 52) - 1) | 1 << 52;
        let biased = exponent.max(-1000) + self.bias();
        let lost = (52 - self.fraction_bits as i32 + (1 - biased).max(0)).min(63) as u32;
        let kept = significand >> lost;
        let rest = significand & ((1u64 << lost) - 1);
        let half = 1u64 << (lost - 1);
        let up = match rounding {
            Rounding::Nearest => rest > half || rest == half && kept & 1 != 0,
            Rounding::NearestAway => rest >= half,
            Rounding::Zero => false,
            Rounding::Down => negative && rest != 0,
            Rounding::Up => !negative && rest != 0,
        };
        // The hidden bit of `kept` adds one to the exponent field of normal numbers.
        let base = ((biased - 1).max(0) as u64) << self.fraction_bits;
        let magnitude = base + kept + u64::from(up);
        if magnitude >= u64::from(self.infinity()) {
            let to_largest = match rounding {
                Rounding::Nearest | Rounding::NearestAway => false,
                Rounding::Zero => true,
                Rounding::Down => !negative,
                Rounding::Up => negative,
            };
            return sign | if saturate || to_largest { self.largest() } else { self.infinity() };
        }
        sign | magnitude as u32
    }
}

/// `sum` with its last bit set to odd if the exact value is `sum + error`.
fn to_odd(sum: f64, error: f64) -> f64 {
    let bits = sum.to_bits();
    if error == 0.0 || !sum.is_finite() || error.is_nan() || bits & 1 != 0 {
        return sum;
    }
    if sum == 0.0 {
        return error;
    }
    f64::from_bits(if (error > 0.0) == (sum > 0.0) { bits + 1 } else { bits - 1 })
}

/// `a + b` rounded to odd.
pub(crate) fn add_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    let b_part = sum - a;
    let error = (a - (sum - b_part)) + (b - b_part);
    to_odd(sum, error)
}

/// `a * b + c` rounded to odd; the product of two f32 (or smaller) is exact in f64.
pub(crate) fn fma_odd(a: f32, b: f32, c: f32) -> f64 {
    add_odd(f64::from(a) * f64::from(b), f64::from(c))
}

/// `a / b` rounded to odd.
pub(crate) fn div_odd(a: f32, b: f32) -> f64 {
    let (a, b) = (f64::from(a), f64::from(b));
    let quotient = a / b;
    if !quotient.is_finite() || quotient == 0.0 || !b.is_finite() {
        return quotient;
    }
    let rest = (-quotient).mul_add(b, a);
    to_odd(quotient, if b < 0.0 { -rest } else { rest })
}

/// `sqrt(a)` rounded to odd.
pub(crate) fn sqrt_odd(a: f32) -> f64 {
    let a = f64::from(a);
    let root = a.sqrt();
    if !root.is_finite() || root == 0.0 {
        return root;
    }
    to_odd(root, (-root).mul_add(root, a))
}

/// The sum of two values of opposite sign that cancel is -0 when rounding down, else +0.
pub(crate) fn fix_zero(value: f64, both_negative_zero: bool, rounding: Rounding) -> f64 {
    if value == 0.0 && rounding == Rounding::Down && !both_negative_zero { -0.0 } else { value }
}
