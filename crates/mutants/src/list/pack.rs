//! kernels/lib/pack.cuh.

use super::{FLOAT, NORM_LANES, WEIGHT_GRADIENTS};
use crate::mutant::Mutant;

const FILE: &str = "lib/pack.cuh";

pub fn mutants() -> Vec<Mutant> {
    vec![
        Mutant::new("f16-towards-zero", "results are cut off instead of rounded to nearest", NORM_LANES).edit(
            FILE,
            "return __float2half_rn(value);",
            "return __float2half_rz(value);",
        ),
        Mutant::new("bf16-towards-zero", "results are cut off instead of rounded to nearest", WEIGHT_GRADIENTS).edit(
            FILE,
            "return __float2bfloat16_rn(value);",
            "return __float2bfloat16_rz(value);",
        ),
        Mutant::new("f32-pair-exchanged", "two neighbouring f32 results change places", FLOAT).edit(
            FILE,
            "make_float2(low, high)",
            "make_float2(high, low)",
        ),
    ]
}
