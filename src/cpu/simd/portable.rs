//! Plain Rust, which the compiler turns into whatever vectors the target has without asking: SSE2 on x86-64, NEON with fused
//! multiply-add on AArch64.

use half::{bf16, f16};

#[cfg(test)]
use super::tiles::{Rows, SIDE, Tiles};
use super::vector::Simd;

/// Four lanes: a register of SSE2 or NEON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Portable;

/// Sixteen lanes, as AVX-512 has, with products of bf16 pairs: so that what is done with pairs can be tested on any machine.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WidePortable;

/// `a * b + c`; never a library call.
#[inline(always)]
fn mul_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(target_arch = "aarch64") { a.mul_add(b, c) } else { a * b + c }
}

macro_rules! portable {
    ($type:ty, $lanes:literal) => {
        impl Simd for $type {
            type F = [f32; $lanes];
            type Mask = [bool; $lanes];
            const LANES: usize = $lanes;
            const HAS_MANY_REGISTERS: bool = cfg!(target_arch = "aarch64");

            #[inline(always)]
            fn splat(self, value: f32) -> Self::F {
                [value; $lanes]
            }
            #[inline(always)]
            fn add(self, a: Self::F, b: Self::F) -> Self::F {
                std::array::from_fn(|lane| a[lane] + b[lane])
            }
            #[inline(always)]
            fn sub(self, a: Self::F, b: Self::F) -> Self::F {
                std::array::from_fn(|lane| a[lane] - b[lane])
            }
            #[inline(always)]
            fn mul(self, a: Self::F, b: Self::F) -> Self::F {
                std::array::from_fn(|lane| a[lane] * b[lane])
            }
            #[inline(always)]
            fn div(self, a: Self::F, b: Self::F) -> Self::F {
                std::array::from_fn(|lane| a[lane] / b[lane])
            }
            #[inline(always)]
            fn abs(self, a: Self::F) -> Self::F {
                a.map(f32::abs)
            }
            #[inline(always)]
            fn copy_sign(self, a: Self::F, b: Self::F) -> Self::F {
                std::array::from_fn(|lane| a[lane].copysign(b[lane]))
            }
            #[inline(always)]
            fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
                std::array::from_fn(|lane| mul_add(a[lane], b[lane], c[lane]))
            }
            #[inline(always)]
            fn max(self, a: Self::F, b: Self::F) -> Self::F {
                std::array::from_fn(|lane| if a[lane] > b[lane] { a[lane] } else { b[lane] })
            }
            #[inline(always)]
            fn is_less(self, a: Self::F, b: Self::F) -> Self::Mask {
                std::array::from_fn(|lane| a[lane] < b[lane])
            }
            #[inline(always)]
            fn and(self, a: Self::Mask, b: Self::Mask) -> Self::Mask {
                std::array::from_fn(|lane| a[lane] & b[lane])
            }
            #[inline(always)]
            fn or(self, a: Self::Mask, b: Self::Mask) -> Self::Mask {
                std::array::from_fn(|lane| a[lane] | b[lane])
            }
            #[inline(always)]
            fn select(self, mask: Self::Mask, a: Self::F, b: Self::F) -> Self::F {
                std::array::from_fn(|lane| if mask[lane] { a[lane] } else { b[lane] })
            }
            #[inline(always)]
            fn shift_to_exponent(self, a: Self::F) -> Self::F {
                a.map(|value| f32::from_bits(value.to_bits() << 23))
            }
            #[inline(always)]
            fn dot_pairs(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
                let ([a_low, a_high], [b_low, b_high]) = (self.split_pairs(a), self.split_pairs(b));
                self.mul_add(a_high, b_high, self.mul_add(a_low, b_low, c))
            }
            #[inline(always)]
            unsafe fn load_transposed(self, from: *const f32, stride: usize) -> [Self::F; 8] {
                let mut columns = [[0.0; $lanes]; 8];
                for (index, column) in columns.iter_mut().enumerate() {
                    for (row, element) in column.iter_mut().enumerate() {
                        // SAFETY: as the trait demands. Pairs of bf16 are aligned as one is.
                        *element = unsafe { from.add(row * stride + index).read_unaligned() };
                    }
                }
                columns
            }
            #[inline(always)]
            fn split_pairs(self, pairs: Self::F) -> [Self::F; 2] {
                let low = pairs.map(|pair| f32::from_bits(pair.to_bits() << 16));
                [low, pairs.map(|pair| f32::from_bits(pair.to_bits() & 0xffff_0000))]
            }
            #[inline(always)]
            fn pairs(self, low: Self::F, high: Self::F) -> Self::F {
                let bits = |value: f32| u32::from(bf16::from_f32(value).to_bits());
                std::array::from_fn(|lane| f32::from_bits(bits(low[lane]) | (bits(high[lane]) << 16)))
            }
            #[inline(always)]
            fn prefetch(self, _: *const u8) {}
            #[inline(always)]
            unsafe fn load(self, from: *const f32) -> Self::F {
                // SAFETY: as the trait demands.
                unsafe { from.cast::<Self::F>().read_unaligned() }
            }
            #[inline(always)]
            unsafe fn store<const STREAM: bool>(self, to: *mut f32, value: Self::F) {
                // SAFETY: as the trait demands.
                unsafe { to.cast::<Self::F>().write_unaligned(value) }
            }
            #[inline(always)]
            unsafe fn load_f16(self, from: *const f16) -> Self::F {
                // SAFETY: as the trait demands.
                unsafe { from.cast::<[f16; $lanes]>().read_unaligned() }.map(f16::to_f32)
            }
            #[inline(always)]
            unsafe fn load_bf16(self, from: *const bf16) -> Self::F {
                // SAFETY: as the trait demands.
                let values = unsafe { from.cast::<[bf16; $lanes]>().read_unaligned() };
                values.map(|value| f32::from_bits(u32::from(value.to_bits()) << 16))
            }
            #[inline(always)]
            fn fence(self) {}
            #[inline(always)]
            unsafe fn store_f16<const STREAM: bool>(self, to: *mut f16, value: Self::F) {
                // SAFETY: as the trait demands.
                unsafe { to.cast::<[f16; $lanes]>().write_unaligned(value.map(f16::from_f32)) }
            }
            #[inline(always)]
            unsafe fn store_bf16<const STREAM: bool>(self, to: *mut bf16, value: Self::F) {
                // SAFETY: as the trait demands.
                unsafe { to.cast::<[bf16; $lanes]>().write_unaligned(value.map(bf16::from_f32)) }
            }
        }
    };
}

portable!(Portable, 4);
#[cfg(test)]
portable!(WidePortable, 16);

/// Tiles in memory.
#[cfg(test)]
impl Tiles for WidePortable {
    type Vectors = WidePortable;

    fn vectors(self) -> WidePortable {
        self
    }

    type Held = ();

    fn hold(self) {}

    unsafe fn multiply<const R: usize, const C: usize>(
        self,
        a: Rows,
        b: Rows,
        groups: usize,
        c: *mut f32,
        stride: usize,
        adds: bool,
    ) {
        let halves = |pair: f32| [pair.to_bits() << 16, pair.to_bits() & 0xffff_0000].map(f32::from_bits);
        for (row, column) in (0..R * SIDE).flat_map(|row| (0..C * SIDE).map(move |column| (row, column))) {
            // SAFETY: as the caller promises.
            unsafe {
                let to = c.add(row * stride + column);
                let mut sum = if adds { *to } else { 0.0 };
                for group in 0..groups {
                    let mut parts = [0.0; 2];
                    for depth in 0..SIDE {
                        let left = *a.at[row / SIDE].add(group * a.step + row % SIDE * a.stride + depth);
                        let right = *b.at[column / SIDE].add(group * b.step + depth * b.stride + column % SIDE);
                        let (left, right) = (halves(left), halves(right));
                        parts = [0, 1].map(|half| parts[half] + left[half] * right[half]);
                    }
                    sum += parts[0] + parts[1];
                }
                *to = sum;
            }
        }
    }
}
