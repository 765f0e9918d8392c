//! kernels/softmax.cu.

use super::{GLOBAL_RACE, RACE, SOFTMAX_BLOCK, SOFTMAX_STREAM, SOFTMAX_WARP};
use crate::mutant::Mutant;

const FILE: &str = "softmax.cu";

pub fn mutants() -> Vec<Mutant> {
    vec![
        Mutant::new("softmax-rows-unguarded", "spare warps of the last block have rows too", SOFTMAX_WARP)
            .edit(FILE, "if (row >= params.rows) return;", "")
            .hazard(&[GLOBAL_RACE])
            .fast(),
        Mutant::new("softmax-one-row-more", "one spare warp of the last block has a row", SOFTMAX_WARP)
            .edit(FILE, "if (row >= params.rows) return;", "if (row > params.rows) return;")
            .hazard(&[GLOBAL_RACE]),
        Mutant::new(
            "softmax-scratch-shared",
            "the sums' partials overwrite the maxima's while others read them",
            SOFTMAX_BLOCK,
        )
        .edit(
            FILE,
            "inverse(reduce_row<Sum, THREADS_PER_ROW>(sum, scratch.sum))",
            "inverse(reduce_row<Sum, THREADS_PER_ROW>(sum, scratch.max))",
        )
        .hazard(&[RACE])
        .fast(),
        Mutant::new("softmax-stream-scratch-shared", "the same, in rows of any length", SOFTMAX_STREAM)
            .edit(FILE, "(sum * weigh(max, row_max), scratch.sum)", "(sum * weigh(max, row_max), scratch.max)")
            .hazard(&[RACE]),
        Mutant::new("softmax-base-e-lost", "exponents are taken to base 2", SOFTMAX_WARP).edit(
            FILE,
            "ptx::exp2_approx((x - max) * LOG2E);",
            "ptx::exp2_approx(x - max + 0.0f * LOG2E);",
        ),
        Mutant::new(
            "softmax-difference-last",
            "the maximum is subtracted from the product with log2(e)",
            SOFTMAX_BLOCK,
        )
        .edit(FILE, "ptx::exp2_approx((x - max) * LOG2E);", "ptx::exp2_approx(x * LOG2E - max * LOG2E);"),
        Mutant::new("softmax-without-maximum", "exponents are not relative to the maximum", SOFTMAX_BLOCK).edit(
            FILE,
            "return max == -CUDART_INF_F ? 0.0f : max;",
            "return 0.0f;",
        ),
        Mutant::new("softmax-hidden-row", "a row of -inf computes -inf - (-inf)", SOFTMAX_WARP).edit(
            FILE,
            "return max == -CUDART_INF_F ? 0.0f : max;",
            "return max;",
        ),
        Mutant::new("softmax-empty-sum", "a row of -inf is divided by its sum, which is 0", SOFTMAX_STREAM).edit(
            FILE,
            "return sum == 0.0f ? 0.0f : 1.0f / sum;",
            "return 1.0f / sum;",
        ),
        Mutant::new("softmax-nan-to-zero", "a row with a NaN becomes 0", SOFTMAX_BLOCK).edit(
            FILE,
            "return sum == 0.0f ? 0.0f : 1.0f / sum;",
            "return sum > 0.0f ? 1.0f / sum : 0.0f;",
        ),
        Mutant::new("softmax-padding-of-zero", "elements outside of a row count as 0 instead of -inf", SOFTMAX_WARP)
            .edit(
                FILE,
                "slots.load(x, thread + v * THREADS_PER_ROW, -CUDART_INF_F, values[v]);",
                "slots.load(x, thread + v * THREADS_PER_ROW, 0.0f, values[v]);",
            ),
        Mutant::new("softmax-maximum-of-thread", "each thread takes its own maximum for the row's", SOFTMAX_BLOCK)
            .edit(
                FILE,
                "max = base_of(reduce_row<Max, THREADS_PER_ROW>(max, scratch.max));\n  float sum",
                "max = base_of(max);\n  float sum",
            ),
        Mutant::new("softmax-sum-not-rescaled", "the running sum stays relative to the old maximum", SOFTMAX_STREAM)
            .edit(FILE, "sum *= weigh(max, base);", ""),
        Mutant::new("softmax-sum-not-shared", "a thread's sum stays relative to its own maximum", SOFTMAX_STREAM).edit(
            FILE,
            "(sum * weigh(max, row_max), scratch.sum)",
            "(sum, scratch.sum)",
        ),
        Mutant::new("softmax-maximum-of-slot", "the running maximum is the last slot's", SOFTMAX_STREAM).edit(
            FILE,
            "float new_max = max;",
            "float new_max = -CUDART_INF_F;",
        ),
        Mutant::new("softmax-maximum-of-0", "the running maximum starts at 0", SOFTMAX_WARP).edit_nth(
            1,
            FILE,
            "float max = -CUDART_INF_F;",
            "float max = 0.0f;",
        ),
        Mutant::new(
            "softmax-stream-strided-twice",
            "every second slot of a thread is left out of the result",
            SOFTMAX_STREAM,
        )
        .edit_nth(2, FILE, "slot += THREADS_PER_ROW", "slot += 2 * THREADS_PER_ROW"),
        Mutant::new("softmax-endless", "a thread does not go on to its next slot", SOFTMAX_STREAM)
            .edit_nth(2, FILE, "slot += THREADS_PER_ROW", "slot += 0 * THREADS_PER_ROW")
            .endless(),
    ]
}
