//! f16 and bf16: storage formats that are computed in f32, written without branches so that loops
//! over lanes become vector code.

/// NaN that arithmetic produces, in f16 and bf16.
pub(crate) const NAN16: u16 = 0x7fff;

/// Exact.
#[inline(always)]
pub(crate) fn f16_to_f32(half: u16) -> f32 {
    let magnitude = u32::from(half & 0x7fff);
    // Scaling rebiases the exponent, of subnormals too.
    let scaled = (f32::from_bits(magnitude << 13) * f32::from_bits((127 + 112) << 23)).to_bits();
    let special = magnitude << 13 | 0x7f80_0000;
    let bits = if magnitude >= 0x7c00 { special } else { scaled };
    f32::from_bits(bits | u32::from(half & 0x8000) << 16)
}

/// To nearest, ties to even.
#[inline(always)]
pub(crate) fn f32_to_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    let rounded = magnitude.wrapping_add(0xfff + (magnitude >> 13 & 1));
    let normal = (rounded >> 13).wrapping_sub(112 << 10);
    // Adding 0.5 puts the lowest bit of a subnormal half at the lowest bit of the sum.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let finite = if magnitude < 0x3880_0000 { subnormal } else { normal };
    let large = if magnitude > 0x7f80_0000 { u32::from(NAN16) } else { 0x7c00 };
    let result = if magnitude >= 0x477f_f000 { large } else { finite };
    let sign = if magnitude > 0x7f80_0000 { 0 } else { bits >> 16 & 0x8000 };
    (result | sign) as u16
}

/// Exact.
#[inline(always)]
pub(crate) fn bf16_to_f32(half: u16) -> f32 {
    f32::from_bits(u32::from(half) << 16)
}

/// To nearest, ties to even.
#[inline(always)]
pub(crate) fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    (if value.is_nan() { u32::from(NAN16) } else { rounded }) as u16
}
