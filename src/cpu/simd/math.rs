//! Functions of one vector.

use super::vector::Simd;

/// `2^x` for `x <= 0`, up to 127; 0 below 2^-126, NaN for NaN.
///
/// `x = n + f` with integer n and `|f| <= 1/2`; `2^f` by a polynomial of degree 6, interpolated at Chebyshev's points of
/// that range (relative remainder 2e-8), `2^n` by exponent bits. A test holds the error to 2 ulp.
#[inline(always)]
pub(super) fn exp2<S: Simd>(s: S, x: S::F) -> S::F {
    /// Adding and subtracting 1.5 * 2^23 rounds to the nearest integer; 127 is the bias of exponents.
    const ROUND: f32 = 12_582_912.0 + 127.0;
    /// Highest power first.
    const COEFFICIENTS: [f32; 7] =
        [1.546_144_5e-4, 1.340_042_8e-3, 9.618_057e-3, 5.550_327e-2, 0.240_226_5, std::f32::consts::LN_2, 1.0];
    // Where x is NaN the second operand is the result. At -127 the exponent's bits are 0, and so is the product.
    let x = s.max(s.splat(-127.0), x);
    let rounded = s.add(x, s.splat(ROUND));
    let fraction = s.sub(x, s.sub(rounded, s.splat(ROUND)));
    let mut power = s.splat(COEFFICIENTS[0]);
    for coefficient in &COEFFICIENTS[1..] {
        power = s.mul_add(power, fraction, s.splat(*coefficient));
    }
    // The last bits of the sum are the biased exponent. Those of a NaN do not matter, as it is multiplied by one.
    s.mul(power, s.shift_to_exponent(rounded))
}

/// The hyperbolic tangent: near 0 an odd polynomial (Cephes' `tanhf`), elsewhere by `exp(-2 |x|)`. A test holds the error to
/// 3 ulp.
#[inline(always)]
pub(super) fn tanh<S: Simd>(s: S, x: S::F) -> S::F {
    /// Of `x^3 (c0 x^8 + c1 x^6 + ...)`, what is beside x itself.
    const COEFFICIENTS: [f32; 5] = [-5.704_988_7e-3, 2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1];
    let magnitude = s.abs(x);
    let decay = exp2(s, s.mul(magnitude, s.splat(-2.0 * std::f32::consts::LOG2_E)));
    let square = s.mul(x, x);
    let mut sum = s.splat(COEFFICIENTS[0]);
    for coefficient in &COEFFICIENTS[1..] {
        sum = s.mul_add(sum, square, s.splat(*coefficient));
    }
    let near = s.mul_add(s.mul(sum, square), x, x);
    let one = s.splat(1.0);
    let far = s.copy_sign(s.div(s.sub(one, decay), s.add(one, decay)), x);
    s.select(s.is_less(magnitude, s.splat(0.625)), near, far)
}

/// Whether a value is 0.
#[inline(always)]
pub(super) fn is_zero<S: Simd>(s: S, value: S::F) -> S::Mask {
    let smallest = f32::from_bits(1);
    s.and(s.is_less(value, s.splat(smallest)), s.is_less(s.splat(-smallest), value))
}
