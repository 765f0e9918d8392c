//! kernels/softmax_backward.cu.

use super::{BOUNDS, GLOBAL_RACE, SOFTMAX_BACKWARD, SOFTMAX_BACKWARD_BLOCK};
use crate::mutant::Mutant;

const FILE: &str = "softmax_backward.cu";

pub fn mutants() -> Vec<Mutant> {
    vec![
        Mutant::new("softmax-backward-sum-of-hidden", "what is hidden takes part in the sum", SOFTMAX_BACKWARD)
            .edit(FILE, "sum += y[i] == hidden ? 0.0f : weighted;", "sum += weighted;")
            .fast(),
        Mutant::new("softmax-backward-of-hidden", "what is hidden has a gradient", SOFTMAX_BACKWARD).edit(
            FILE,
            "gradient[i] = y[i] == hidden ? 0.0f : result;",
            "gradient[i] = result;",
        ),
        Mutant::new("softmax-backward-hidden-by-zero", "a logarithm of 0 is hidden", SOFTMAX_BACKWARD).edit(
            FILE,
            "is_log ? -CUDART_INF_F : 0.0f;",
            "0.0f;",
        ),
        Mutant::new(
            "softmax-backward-weighted-log",
            "the gradient of the logarithm is weighted with y",
            SOFTMAX_BACKWARD,
        )
        .edit(FILE, "is_log ? gradient[i] : y[i] * gradient[i];", "y[i] * gradient[i];"),
        Mutant::new("softmax-backward-base-e-lost", "a logarithm is taken to base 2", SOFTMAX_BACKWARD).edit(
            FILE,
            "ptx::exp2_approx(y[i] * LOG2E)",
            "ptx::exp2_approx(y[i] + 0.0f * LOG2E)",
        ),
        Mutant::new("softmax-backward-scale-lost", "the gradient is not scaled", SOFTMAX_BACKWARD).edit(
            FILE,
            "params.scale * (is_log",
            "(is_log",
        ),
        Mutant::new("softmax-backward-sum-of-thread", "each thread takes its own sum for the row's", SOFTMAX_BACKWARD)
            .edit(FILE, "sum = reduce_row<Sum, Layout>(sum, scratch);", ""),
        Mutant::new("softmax-backward-join-of-last", "a long row's sum is its last segment's", SOFTMAX_BACKWARD_BLOCK)
            .edit(FILE, "sum += partials[s];", "sum = partials[s];"),
        Mutant::new(
            "softmax-backward-join-of-own-segment",
            "segments begin the sum at their own",
            SOFTMAX_BACKWARD_BLOCK,
        )
        .edit(FILE, "const Place first(shape, place.row, 0);", "const Place first = place;")
        .hazard(&[BOUNDS]),
        Mutant::new("softmax-backward-partials-of-every-thread", "all threads store a sum", SOFTMAX_BACKWARD_BLOCK)
            .edit(FILE, "if (threadIdx.x == 0) *place", "*place")
            .hazard(&[GLOBAL_RACE]),
        Mutant::new("softmax-backward-not-in-place", "a gradient in place is read from address 0", SOFTMAX_BACKWARD)
            .edit(FILE, "params.d_y == 0 ? d_x :", "params.d_y == 1 ? d_x :")
            .hazard(&[BOUNDS]),
    ]
}
