//! kernels/lib/pack.cuh.

use super::{FLOAT, NORM_WARP, SOFTMAX_STREAM, SOFTMAX_WARP};
use crate::mutant::Mutant;

const FILE: &str = "lib/pack.cuh";

pub fn mutants() -> Vec<Mutant> {
    vec![
        Mutant::new("f16-towards-zero", "results are cut off instead of rounded to nearest", NORM_WARP).edit(
            FILE,
            "return __float2half_rn(value);",
            "return __float2half_rz(value);",
        ),
        Mutant::new("bf16-towards-zero", "results are cut off instead of rounded to nearest", SOFTMAX_STREAM).edit(
            FILE,
            "return __float2bfloat16_rn(value);",
            "return __float2bfloat16_rz(value);",
        ),
        Mutant::new("vector-of-eight-bytes", "a 16-byte access is taken for half as many elements", SOFTMAX_WARP).edit(
            FILE,
            "inline constexpr int VECTOR = 16 /",
            "inline constexpr int VECTOR = 8 /",
        ),
        Mutant::new("f32-pair-exchanged", "two neighbouring f32 results change places", FLOAT).edit(
            FILE,
            "make_float2(low, high)",
            "make_float2(high, low)",
        ),
    ]
}
