//! Sums as the tensor cores form them: the products and the addend are aligned to the largest
//! exponent, cut off below a fixed number of fraction bits, added exactly, and cut off again to f32.
//! Found by measurement in "MMA-Sim: Bit-Accurate Reference Model of Tensor Cores and Matrix Cores"
//! (arXiv 2511.10909).

use crate::Architecture;

/// Fraction bits that are kept below the largest exponent.
pub(crate) fn fraction_bits(architecture: Architecture) -> i32 {
    match architecture {
        Architecture::Sm80 | Architecture::Sm86 | Architecture::Sm89 => 24,
        Architecture::Sm90a => 25,
    }
}

/// Products of 16-bit operands that `mma` adds up in one sum; half as many of tf32.
pub(crate) fn products_at_a_time(architecture: Architecture) -> usize {
    match architecture {
        Architecture::Sm80 | Architecture::Sm86 | Architecture::Sm89 => 8,
        Architecture::Sm90a => 16,
    }
}

/// Sign, exponent and significand with `bits` fraction bits; `None` for zero.
fn split(value: f32, bits: u32) -> Option<(i32, i64)> {
    let raw = value.to_bits();
    let field = (raw >> 23 & 0xff) as i32;
    let fraction = i64::from(raw & 0x7f_ffff);
    let (exponent, significand) = if field == 0 { (-126, fraction) } else { (field - 127, fraction | 1 << 23) };
    let significand = significand >> (23 - bits);
    (significand != 0).then_some((exponent, if raw >> 31 != 0 { -significand } else { significand }))
}

/// `value * 2^shift`, cut off towards zero.
fn scale(value: i64, shift: i32) -> i64 {
    if shift >= 0 {
        value << shift
    } else if shift > -63 {
        let cut = value.unsigned_abs() >> -shift;
        if value < 0 { -(cut as i64) } else { cut as i64 }
    } else {
        0
    }
}

/// `c + sum a[k] b[k]` in one fused sum. The operands are f16, bf16 or tf32 values.
pub(crate) fn fused_sum(a: &[f32], b: &[f32], c: f32, fraction_bits: i32) -> f32 {
    // Operands have at most 10 fraction bits, so 11 are exact and products have 22.
    const OPERAND: u32 = 11;
    let special = a.iter().chain(b).chain(std::iter::once(&c)).any(|value| !value.is_finite());
    if special {
        // Products of finite operands stay finite here, however large they are.
        let infinite = a.iter().zip(b).filter(|(x, y)| !x.is_finite() || !y.is_finite()).map(|(x, y)| x * y);
        let sum = infinite.fold(if c.is_finite() { 0.0 } else { c }, |sum, product| sum + product);
        return if sum.is_nan() { f32::from_bits(0x7fff_ffff) } else { sum };
    }
    let product = |(x, y): (&f32, &f32)| {
        let ((ex, sx), (ey, sy)) = (split(*x, OPERAND)?, split(*y, OPERAND)?);
        Some((ex + ey, sx * sy))
    };
    let addend = split(c, 23);
    let largest = a.iter().zip(b).filter_map(product).map(|(e, _)| e).chain(addend.map(|(e, _)| e)).max();
    let Some(largest) = largest else {
        return 0.0;
    };
    let mut sum = 0;
    for (exponent, significand) in a.iter().zip(b).filter_map(product) {
        sum += scale(significand, fraction_bits - 2 * OPERAND as i32 + exponent - largest);
    }
    if let Some((exponent, significand)) = addend {
        sum += scale(significand, fraction_bits - 23 + exponent - largest);
    }
    to_f32(sum, largest - fraction_bits)
}

/// `sum * 2^exponent`, cut off towards zero.
fn to_f32(sum: i64, exponent: i32) -> f32 {
    if sum == 0 {
        return 0.0;
    }
    let magnitude = sum.unsigned_abs();
    let sign = if sum < 0 { 1u32 << 31 } else { 0 };
    let top = 63 - magnitude.leading_zeros() as i32;
    let value_exponent = top + exponent;
    if value_exponent > 127 {
        return f32::from_bits(sign | 0x7f80_0000);
    }
    let lowest = (value_exponent - 23).max(-149);
    let significand = scale(magnitude as i64, exponent - lowest) as u32;
    let field = if value_exponent < -126 { 0 } else { (value_exponent + 127) as u32 };
    f32::from_bits(sign | field << 23 | significand & 0x7f_ffff)
}
