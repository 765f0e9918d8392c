//! A vector of f32 as each instruction set has it. What is written over [`Simd`] is compiled once for every set, and
//! `vectorized!` chooses at run time.

use half::{bf16, f16};

/// An instruction set. A value of an implementing type exists only where the processor has the instructions, which is why the
/// methods without pointers are safe.
pub(super) trait Simd: Copy {
    /// [`Simd::LANES`] f32.
    type F: Copy;
    /// One truth value a lane.
    type Mask: Copy;
    const LANES: usize;
    /// Whether the processor keeps 32 vectors in registers, not 16.
    const HAS_MANY_REGISTERS: bool;

    fn splat(self, value: f32) -> Self::F;
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    fn abs(self, a: Self::F) -> Self::F;
    /// `a` with the sign of `b`; `a` has none.
    fn copy_sign(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`.
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The larger one; `b` if either is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    fn is_less(self, a: Self::F, b: Self::F) -> Self::Mask;
    fn and(self, a: Self::Mask, b: Self::Mask) -> Self::Mask;
    fn or(self, a: Self::Mask, b: Self::Mask) -> Self::Mask;
    /// `a` where the mask holds, else `b`.
    fn select(self, mask: Self::Mask, a: Self::F, b: Self::F) -> Self::F;
    /// The bits, shifted left by 23: what an exponent is made of.
    fn shift_to_exponent(self, a: Self::F) -> Self::F;
    /// `c` plus the products of two pairs of bf16 a lane, each pair in the 32 bits of an f32. The processors that have it as one
    /// instruction take subnormal numbers for 0.
    fn dot_pairs(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The first and the second elements of pairs of bf16.
    fn split_pairs(self, pairs: Self::F) -> [Self::F; 2];
    /// Rounds to bf16, to nearest, ties to even, and joins two vectors into pairs, `low` in the first places. A NaN stays one. As
    /// with [`Simd::dot_pairs`], subnormal numbers may become 0.
    fn pairs(self, low: Self::F, high: Self::F) -> Self::F;
    /// Asks for the cache line of an address, which may be any.
    fn prefetch(self, at: *const u8);

    /// # Safety
    /// [`Simd::LANES`] elements from `from` on can be read.
    unsafe fn load(self, from: *const f32) -> Self::F;
    /// Eight elements of as many rows as there are lanes: a vector an element, a lane a row.
    ///
    /// # Safety
    /// Eight elements can be read from `from` on, and from each of the next rows, which are `stride` apart.
    unsafe fn load_transposed(self, from: *const f32, stride: usize) -> [Self::F; 8];
    /// # Safety
    /// As [`Simd::load`].
    unsafe fn load_f16(self, from: *const f16) -> Self::F;
    /// # Safety
    /// As [`Simd::load`].
    unsafe fn load_bf16(self, from: *const bf16) -> Self::F;
    /// # Safety
    /// [`Simd::LANES`] elements from `to` on can be written; to `STREAM` past the caches, `to` is a multiple of their size.
    unsafe fn store<const STREAM: bool>(self, to: *mut f32, value: Self::F);
    /// Ends a series of stores past the caches.
    fn fence(self);
    /// Rounds to nearest, ties to even.
    ///
    /// # Safety
    /// As [`Simd::store`].
    unsafe fn store_f16<const STREAM: bool>(self, to: *mut f16, value: Self::F);
    /// Rounds to nearest, ties to even; a NaN stays one.
    ///
    /// # Safety
    /// As [`Simd::store`].
    unsafe fn store_bf16<const STREAM: bool>(self, to: *mut bf16, value: Self::F);
}

/// Defines functions that run on an instruction set chosen at run time: each one calls the function after `=`, which is generic
/// over [`Simd`], in a form compiled for that set.
macro_rules! vectorized {
    ($(
        $(#[$attribute:meta])*
        $visibility:vis fn $name:ident $(<$life:lifetime>)? ($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? = $generic:path;
    )*) => {$(
        $(#[$attribute])*
        #[allow(clippy::too_many_arguments, reason = "a loop over several slices")]
        $visibility fn $name $(<$life>)? (set: $crate::cpu::simd::InstructionSet, $($argument: $type),*) $(-> $result)? {
            use $crate::cpu::simd::{InstructionSet, portable::Portable};
            match set.of_vectors() {
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx512Bf16(simd) => {
                    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma,f16c")]
                    fn compiled $(<$life>)? (
                        simd: $crate::cpu::simd::avx512::Avx512<true>, $($argument: $type),*
                    ) $(-> $result)? {
                        $generic(simd, $($argument),*)
                    }
                    // SAFETY: a value of this type exists only where the processor has these instructions.
                    unsafe { compiled(simd, $($argument),*) }
                }
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx512(simd) => {
                    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma,f16c")]
                    fn compiled $(<$life>)? (
                        simd: $crate::cpu::simd::avx512::Avx512<false>, $($argument: $type),*
                    ) $(-> $result)? {
                        $generic(simd, $($argument),*)
                    }
                    // SAFETY: as above.
                    unsafe { compiled(simd, $($argument),*) }
                }
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx2(simd) => {
                    #[target_feature(enable = "avx2,fma,f16c")]
                    fn compiled $(<$life>)? (
                        simd: $crate::cpu::simd::avx2::Avx2, $($argument: $type),*
                    ) $(-> $result)? {
                        $generic(simd, $($argument),*)
                    }
                    // SAFETY: as above.
                    unsafe { compiled(simd, $($argument),*) }
                }
                InstructionSet::Portable => $generic(Portable, $($argument),*),
                #[cfg(test)]
                InstructionSet::PortablePairs => $generic($crate::cpu::simd::portable::WidePortable, $($argument),*),
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Amx(_) => unreachable!("`of_vectors` leaves none"),
                #[cfg(test)]
                InstructionSet::PortableTiles => unreachable!("`of_vectors` leaves none"),
            }
        }
    )*};
}
pub(super) use vectorized;
