//! kernels/lib/online_softmax.cuh.

use super::{D64, D96};
use crate::mutant::Mutant;

const FILE: &str = "lib/online_softmax.cuh";

pub fn mutants() -> Vec<Mutant> {
    vec![
        Mutant::new("sum-not-rescaled", "the running sum stays relative to the old maximum", D64)
            .edit(FILE, "sum *= rescale;", "")
            .fast(),
        Mutant::new("maximum-not-kept", "the running maximum is forgotten after every tile", D64)
            .edit(FILE, "    max = new_max;\n", "\n"),
        Mutant::new("maximum-of-last-tile", "the running maximum is the last tile's", D64)
            .edit(FILE, "const float new_max = fmaxf(max, tile_max);", "const float new_max = tile_max;"),
        Mutant::new("scale-lost", "weights are powers of the unscaled scores", D64)
            .edit(
                FILE,
                "ptx::exp2_approx(fmaf(score, scale_log2, -base_log2));",
                "ptx::exp2_approx(score - base_log2);",
            ),
        Mutant::new("base-of-empty-row", "a row without a visible key so far computes -inf - (-inf)", D64)
            .edit(FILE, "new_max == -CUDART_INF_F ? 0.0f : new_max * scale_log2", "new_max * scale_log2")
            .fast(),
        Mutant::new("norm-of-empty-row", "a row without keys is divided by its sum, which is 0", D64)
            .edit(FILE, "return sum == 0.0f ? 0.0f : 1.0f / sum;", "return 1.0f / sum;"),
        Mutant::new("nan-taken-for-empty", "a row whose sum is NaN is taken for one without keys", D64)
            .edit(FILE, "return sum == 0.0f ? 0.0f : 1.0f / sum;", "return sum > 0.0f ? 1.0f / sum : 0.0f;")
            .equivalent(
                "a sum is never negative, and NaN only where a weight is; that weight is NaN in P too, so that all of the \
                 row's products with V are NaN before the factor 0",
            ),
        Mutant::new("lse-of-empty-row", "the log-sum-exp of a row without keys has no case of its own", D96)
            .edit(FILE, "return sum == 0.0f ? -CUDART_INF_F : fmaf(", "return fmaf(")
            .equivalent("the maximum is -inf and the scale above 0, so that the general formula is -inf + lg2(0) = -inf"),
        Mutant::new("lse-without-maximum", "the log-sum-exp leaves the maximum out", D64)
            .edit(FILE, "fmaf(max, scale_log2, ptx::log2_approx(sum))", "ptx::log2_approx(sum)"),
        Mutant::new("lse-in-base-2", "the log-sum-exp stays in base 2", D96)
            .edit(FILE, "ptx::log2_approx(sum)) * LN2;", "ptx::log2_approx(sum));"),
        Mutant::new("quad-maximum-of-two", "the maximum of a row is taken over two of its four lanes", D64)
            .edit(FILE, "return fmaxf(value, __shfl_xor_sync(0xffffffff, value, 2));", "return value;"),
        Mutant::new("quad-sum-of-two", "the sum of a row is taken over two of its four lanes", D64)
            .edit(FILE, "return value + __shfl_xor_sync(0xffffffff, value, 2);", "return value;"),
        Mutant::new("quad-sum-across-rows", "the sum of a row takes lanes of the next one in", D64)
            .edit(FILE, "return value + __shfl_xor_sync(0xffffffff, value, 2);", "return value + __shfl_xor_sync(0xffffffff, value, 4);"),
    ]
}
