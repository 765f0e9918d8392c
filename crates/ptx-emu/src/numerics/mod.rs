//! Arithmetic that the host does not have: half precision, rounding modes, the special functions,
//! the tensor cores' sums.

pub(crate) mod half;
pub(crate) mod rounding;
pub(crate) mod simd;
pub(crate) mod special;
pub(crate) mod tensor_core;
pub(crate) mod warpgroup;
