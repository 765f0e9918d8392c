//! AVX-512, with the dot product of bf16 pairs or without: 16 lanes, 32 registers.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::avx2;
use super::vector::Simd;

/// Exists only where the processor has AVX-512 F, BW, DQ and VL, FMA and F16C; with `BF16`, AVX-512 BF16 too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx512<const BF16: bool>(());

impl<const BF16: bool> Avx512<BF16> {
    pub fn detect() -> Option<Avx512<BF16>> {
        let has_it = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
            && (!BF16 || is_x86_feature_detected!("avx512bf16"));
        has_it.then_some(Avx512(()))
    }
}

/// Whether products of bf16 pairs are faster than as many of f32. On Intel's processors they are not: one takes four times as long as a
/// multiply-add (family 6, model 207), and does the work of two.
pub(crate) fn pairs_are_fast() -> bool {
    let vendor = __cpuid(0);
    [vendor.ebx, vendor.edx, vendor.ecx] != [*b"Genu", *b"ineI", *b"ntel"].map(u32::from_le_bytes)
}

// SAFETY of every block below: `self` proves that the processor has the instructions; pointers are as the trait demands.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason for all, above")]
impl<const BF16: bool> Simd for Avx512<BF16> {
    type F = __m512;
    type Mask = __mmask16;
    const LANES: usize = 16;
    const HAS_MANY_REGISTERS: bool = true;

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        unsafe { _mm512_set1_ps(value) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        unsafe { _mm512_abs_ps(a) }
    }
    #[inline(always)]
    fn copy_sign(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_or_ps(a, _mm512_and_ps(_mm512_set1_ps(-0.0), b)) }
    }
    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn is_less(self, a: __m512, b: __m512) -> __mmask16 {
        unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b) }
    }
    #[inline(always)]
    fn and(self, a: __mmask16, b: __mmask16) -> __mmask16 {
        a & b
    }
    #[inline(always)]
    fn or(self, a: __mmask16, b: __mmask16) -> __mmask16 {
        a | b
    }
    #[inline(always)]
    fn select(self, mask: __mmask16, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mask_blend_ps(mask, b, a) }
    }
    #[inline(always)]
    fn shift_to_exponent(self, a: __m512) -> __m512 {
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_castps_si512(a))) }
    }
    #[inline(always)]
    fn dot_pairs(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        if BF16 {
            let [a, b] = [a, b].map(|pairs| unsafe { std::mem::transmute::<__m512, __m512bh>(pairs) });
            return unsafe { _mm512_dpbf16_ps(c, a, b) };
        }
        let ([a_low, a_high], [b_low, b_high]) = (self.split_pairs(a), self.split_pairs(b));
        self.mul_add(a_high, b_high, self.mul_add(a_low, b_low, c))
    }
    #[inline(always)]
    unsafe fn load_transposed(self, from: *const f32, stride: usize) -> [__m512; 8] {
        let mut columns = [self.splat(0.0); 8];
        // SAFETY: as the trait demands; AVX-512 F has AVX.
        unsafe {
            let (low, high) = (avx2::transposed(from, stride), avx2::transposed(from.add(8 * stride), stride));
            for (column, (low, high)) in columns.iter_mut().zip(low.into_iter().zip(high)) {
                *column = _mm512_insertf32x8::<1>(_mm512_castps256_ps512(low), high);
            }
        }
        columns
    }
    #[inline(always)]
    fn split_pairs(self, pairs: __m512) -> [__m512; 2] {
        unsafe {
            let low = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_castps_si512(pairs)));
            [low, _mm512_and_ps(pairs, _mm512_castsi512_ps(_mm512_set1_epi32(-0x1_0000)))]
        }
    }
    #[inline(always)]
    fn pairs(self, low: __m512, high: __m512) -> __m512 {
        unsafe {
            if BF16 {
                // Both vectors come out one after the other.
                let places: [u16; 32] = std::array::from_fn(|place| (place / 2 + place % 2 * 16) as u16);
                let rounded = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
                let joined = _mm512_permutexvar_epi16(_mm512_loadu_si512(places.as_ptr().cast()), rounded);
                return _mm512_castsi512_ps(joined);
            }
            // No closure: it would be compiled without AVX-512, and call each instruction as a function.
            let (low, high) = (nearest_bf16(low), nearest_bf16(high));
            _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32::<16>(high)))
        }
    }
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store<const STREAM: bool>(self, to: *mut f32, value: __m512) {
        unsafe { if STREAM { _mm512_stream_ps(to, value) } else { _mm512_storeu_ps(to, value) } }
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> __m512 {
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast())))) }
    }
    #[inline(always)]
    fn fence(self) {
        unsafe { _mm_sfence() }
    }
    #[inline(always)]
    unsafe fn store_f16<const STREAM: bool>(self, to: *mut f16, value: __m512) {
        unsafe { store_halves::<STREAM>(to.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(value)) }
    }
    #[inline(always)]
    unsafe fn store_bf16<const STREAM: bool>(self, to: *mut bf16, value: __m512) {
        unsafe { store_halves::<STREAM>(to.cast(), _mm512_cvtepi32_epi16(nearest_bf16(value))) }
    }
}

/// Stores sixteen 16-bit elements.
///
/// # Safety
/// The processor has AVX-512 F, and `to` is as [`Simd::store`] demands.
#[inline(always)]
unsafe fn store_halves<const STREAM: bool>(to: *mut __m256i, halves: __m256i) {
    // SAFETY: as the caller promises.
    unsafe { if STREAM { _mm256_stream_si256(to, halves) } else { _mm256_storeu_si256(to, halves) } }
}

/// The nearest bf16 of each value, in the lower half of its lane.
///
/// # Safety
/// The processor has AVX-512 F.
#[inline(always)]
unsafe fn nearest_bf16(values: __m512) -> __m512i {
    // SAFETY: as the caller promises.
    unsafe {
        let bits = _mm512_castps_si512(values);
        let is_odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(is_odd, _mm512_set1_epi32(0x7fff)));
        let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(values, values);
        _mm512_srli_epi32::<16>(_mm512_mask_or_epi32(rounded, is_nan, bits, _mm512_set1_epi32(0x40_0000)))
    }
}
