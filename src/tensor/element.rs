//! The Rust types that stand for a [`DType`].

use half::slice::HalfFloatSliceExt as _;
use half::{bf16, f16};

use crate::dtype::DType;

/// A Rust type that a tensor can hold: `f32`, [`half::f16`], [`half::bf16`], `i32` and `u8`.
#[cfg(not(feature = "cuda"))]
pub trait Element: bytemuck::Pod + Send + Sync + std::fmt::Debug + PartialEq + sealed::Sealed {
    /// The element type.
    const DTYPE: DType;
}

/// A Rust type that a tensor can hold: `f32`, [`half::f16`], [`half::bf16`], `i32` and `u8`.
#[cfg(feature = "cuda")]
pub trait Element:
    bytemuck::Pod + Send + Sync + std::fmt::Debug + PartialEq + cudarc::driver::DeviceRepr + sealed::Sealed
{
    /// The element type.
    const DTYPE: DType;
}

/// A float type; arithmetic on it goes through f32.
pub(crate) trait Float: Element {
    fn to_f32(self) -> f32;
    /// Converts a slice, rounding to nearest, ties to even; both have one length.
    fn narrow(values: &[f32], out: &mut [Self]);
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
}
impl Element for f16 {
    const DTYPE: DType = DType::F16;
}
impl Element for bf16 {
    const DTYPE: DType = DType::BF16;
}
impl Element for i32 {
    const DTYPE: DType = DType::I32;
}

impl Element for u8 {
    const DTYPE: DType = DType::U8;
}

impl Float for f32 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    fn narrow(values: &[f32], out: &mut [f32]) {
        out.copy_from_slice(values);
    }
}

impl Float for f16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
    fn narrow(values: &[f32], out: &mut [f16]) {
        out.convert_from_f32_slice(values);
    }
}

impl Float for bf16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
    fn narrow(values: &[f32], out: &mut [bf16]) {
        out.convert_from_f32_slice(values);
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
    impl Sealed for i32 {}
    impl Sealed for u8 {}
}
