//! AVX2, FMA and F16C: 8 lanes, 16 registers.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::vector::Simd;

/// Exists only where the processor has AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx2(());

impl Avx2 {
    pub fn detect() -> Option<Avx2> {
        let has_it =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        has_it.then_some(Avx2(()))
    }
}

// SAFETY of every block below: `self` proves that the processor has the instructions; pointers are as the trait demands.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason for all, above")]
impl Simd for Avx2 {
    type F = __m256;
    type Mask = __m256;
    const LANES: usize = 8;
    const HAS_MANY_REGISTERS: bool = false;

    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        unsafe { _mm256_set1_ps(value) }
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    fn abs(self, a: __m256) -> __m256 {
        unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), a) }
    }
    #[inline(always)]
    fn copy_sign(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_or_ps(a, _mm256_and_ps(_mm256_set1_ps(-0.0), b)) }
    }
    #[inline(always)]
    fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    fn is_less(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_cmp_ps::<_CMP_LT_OQ>(a, b) }
    }
    #[inline(always)]
    fn and(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_and_ps(a, b) }
    }
    #[inline(always)]
    fn or(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_or_ps(a, b) }
    }
    #[inline(always)]
    fn select(self, mask: __m256, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_blendv_ps(b, a, mask) }
    }
    #[inline(always)]
    fn shift_to_exponent(self, a: __m256) -> __m256 {
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(a))) }
    }
    #[inline(always)]
    fn dot_pairs(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        let ([a_low, a_high], [b_low, b_high]) = (self.split_pairs(a), self.split_pairs(b));
        self.mul_add(a_high, b_high, self.mul_add(a_low, b_low, c))
    }
    #[inline(always)]
    unsafe fn load_transposed(self, from: *const f32, stride: usize) -> [__m256; 8] {
        // SAFETY: as the trait demands.
        unsafe { transposed(from, stride) }
    }
    #[inline(always)]
    fn split_pairs(self, pairs: __m256) -> [__m256; 2] {
        unsafe {
            let low = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_castps_si256(pairs)));
            [low, _mm256_and_ps(pairs, _mm256_castsi256_ps(_mm256_set1_epi32(-0x1_0000)))]
        }
    }
    #[inline(always)]
    fn pairs(self, low: __m256, high: __m256) -> __m256 {
        unsafe {
            let high = _mm256_and_si256(rounded_to_bf16(high), _mm256_set1_epi32(-0x1_0000));
            _mm256_castsi256_ps(_mm256_or_si256(_mm256_srli_epi32::<16>(rounded_to_bf16(low)), high))
        }
    }
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store<const STREAM: bool>(self, to: *mut f32, value: __m256) {
        unsafe { if STREAM { _mm256_stream_ps(to, value) } else { _mm256_storeu_ps(to, value) } }
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> __m256 {
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> __m256 {
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast())))) }
    }
    #[inline(always)]
    fn fence(self) {
        unsafe { _mm_sfence() }
    }
    #[inline(always)]
    unsafe fn store_f16<const STREAM: bool>(self, to: *mut f16, value: __m256) {
        unsafe { store_halves::<STREAM>(to.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(value)) }
    }
    #[inline(always)]
    unsafe fn store_bf16<const STREAM: bool>(self, to: *mut bf16, value: __m256) {
        unsafe {
            let halves = _mm256_srli_epi32::<16>(rounded_to_bf16(value));
            // Both 128-bit lanes are packed on their own.
            let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(halves, halves));
            store_halves::<STREAM>(to.cast(), _mm256_castsi256_si128(packed));
        }
    }
}

/// The transpose of eight rows of eight elements, `stride` apart.
///
/// # Safety
/// The processor has AVX, and the elements can be read.
#[inline(always)]
pub(super) unsafe fn transposed(from: *const f32, stride: usize) -> [__m256; 8] {
    // SAFETY: as the caller promises.
    unsafe {
        let [a, b, c, d] = transposed_half(from, stride);
        let [e, f, g, h] = transposed_half(from.add(4), stride);
        [a, b, c, d, e, f, g, h]
    }
}

/// The transpose of eight rows of four elements, `stride` apart.
///
/// # Safety
/// As [`transposed`].
#[inline(always)]
unsafe fn transposed_half(from: *const f32, stride: usize) -> [__m256; 4] {
    // SAFETY: as the caller promises.
    unsafe {
        // Rows i and i + 4 side by side, so that what is left to do stays within halves.
        let mut rows = [_mm256_setzero_ps(); 4];
        for (index, row) in rows.iter_mut().enumerate() {
            let low = _mm256_castps128_ps256(_mm_loadu_ps(from.add(index * stride)));
            *row = _mm256_insertf128_ps::<1>(low, _mm_loadu_ps(from.add((index + 4) * stride)));
        }
        let [a, b, c, d] = rows;
        let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
        let (ab_high, cd_high) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
        [
            _mm256_shuffle_ps::<0x44>(ab, cd),
            _mm256_shuffle_ps::<0xee>(ab, cd),
            _mm256_shuffle_ps::<0x44>(ab_high, cd_high),
            _mm256_shuffle_ps::<0xee>(ab_high, cd_high),
        ]
    }
}

/// Stores eight 16-bit elements.
///
/// # Safety
/// The processor has AVX2, and `to` is as [`Simd::store`] demands.
#[inline(always)]
unsafe fn store_halves<const STREAM: bool>(to: *mut __m128i, halves: __m128i) {
    // SAFETY: as the caller promises.
    unsafe { if STREAM { _mm_stream_si128(to, halves) } else { _mm_storeu_si128(to, halves) } }
}

/// The bits of values whose upper halves are those of the nearest bf16.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn rounded_to_bf16(values: __m256) -> __m256i {
    // SAFETY: as the caller promises.
    unsafe {
        let bits = _mm256_castps_si256(values);
        let is_odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(is_odd, _mm256_set1_epi32(0x7fff)));
        let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
        let is_nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(values, values));
        _mm256_blendv_epi8(rounded, quiet, is_nan)
    }
}
