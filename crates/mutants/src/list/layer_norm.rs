//! kernels/layer_norm.cu.

use super::{BOUNDS, GLOBAL_RACE, NORM_BLOCK, NORM_STREAM, NORM_WARP, RACE};
use crate::mutant::Mutant;

const FILE: &str = "layer_norm.cu";

pub fn mutants() -> Vec<Mutant> {
    vec![
        Mutant::new("norm-rows-unguarded", "spare warps of the last block have rows too", NORM_WARP)
            .edit(FILE, "if (row_idx >= params.rows) return;", "")
            .hazard(&[GLOBAL_RACE, BOUNDS]),
        Mutant::new(
            "norm-scratch-shared",
            "the variances' partials overwrite the means' while others read them",
            NORM_BLOCK,
        )
        .edit_nth(1, FILE, "scratch.var", "scratch.mean")
        .hazard(&[RACE]),
        Mutant::new("norm-stream-scratch-shared", "the same, in rows of any length", NORM_STREAM)
            .edit_nth(2, FILE, "scratch.var", "scratch.mean")
            .hazard(&[RACE]),
        Mutant::new("norm-center-lost", "the mean is relative to the row's first element", NORM_WARP).edit_nth(
            1,
            FILE,
            "const float mean = center + reduce_row",
            "const float mean = reduce_row",
        ),
        Mutant::new("norm-variance-around-center", "the variance is taken around the row's first element", NORM_BLOCK)
            .edit(
                FILE,
                "row.sum_squares(row.thread + v * THREADS_PER_ROW, values[v], mean);",
                "row.sum_squares(row.thread + v * THREADS_PER_ROW, values[v], center);",
            ),
        Mutant::new("norm-variance-by-squares", "the variance is E[x^2] - E[x]^2", NORM_BLOCK)
            .edit(FILE, "const float distance = values[i] - mean;", "const float distance = values[i];")
            .edit_nth(
                1,
                FILE,
                "(squares, scratch.var) / count + eps)",
                "(squares, scratch.var) / count - mean * mean + eps)",
            )
            .fast(),
        Mutant::new("norm-stream-variance-by-squares", "the same, in rows of any length", NORM_STREAM)
            .edit(FILE, "const float distance = values[i] - mean;", "const float distance = values[i];")
            .edit_nth(
                2,
                FILE,
                "(squares, scratch.var) / count + eps)",
                "(squares, scratch.var) / count - mean * mean + eps)",
            ),
        Mutant::new("norm-center-zero", "the mean is a plain mean of the elements", NORM_BLOCK).edit(
            FILE,
            "const float center = to_float(x[0]);",
            "const float center = 0.0f * to_float(x[0]);",
        ),
        Mutant::new("norm-eps-lost", "the variance gets no eps", NORM_WARP).edit_nth(
            1,
            FILE,
            "/ count + eps);",
            "/ count);",
        ),
        Mutant::new("norm-stream-eps-outside", "eps is added to the standard deviation", NORM_STREAM).edit_nth(
            2,
            FILE,
            "sqrtf(reduce_row<Sum, THREADS_PER_ROW>(squares, scratch.var) / count + eps);",
            "(sqrtf(reduce_row<Sum, THREADS_PER_ROW>(squares, scratch.var) / count) + eps);",
        ),
        Mutant::new("norm-weight-and-bias-exchanged", "the weight is added and the bias multiplied", NORM_WARP)
            .edit(FILE, "* rstd * weights[i] + biases[i];", "* rstd * biases[i] + weights[i];")
            .fast(),
        Mutant::new("norm-weight-zero", "an absent weight is 0", NORM_BLOCK).edit(
            FILE,
            "weights[i] = 1.0f;",
            "weights[i] = 0.0f;",
        ),
        Mutant::new("norm-bias-always-read", "a bias is read where there is none", NORM_WARP)
            .edit(FILE, "if (bias != nullptr) slots.load", "slots.load")
            .hazard(&[BOUNDS]),
        Mutant::new("norm-count-of-slots", "the mean is taken over whole slots", NORM_WARP).edit_nth(
            1,
            FILE,
            "const float count = row.slots.columns;",
            "const float count = row.slots.count() * SLOT;",
        ),
        Mutant::new("norm-squares-of-padding", "elements outside of a row count in its variance", NORM_BLOCK).edit(
            FILE,
            "if (whole || slots.contains(slot, i)) sum",
            "sum",
        ),
        Mutant::new("norm-padding-of-zero", "elements outside of a row are loaded as 0, not as the center", NORM_WARP)
            .edit(
                FILE,
                "row.slots.load(row.x, row.thread + v * THREADS_PER_ROW, center, values[v]);",
                "row.slots.load(row.x, row.thread + v * THREADS_PER_ROW, 0.0f, values[v]);",
            ),
        Mutant::new(
            "norm-stale-values",
            "the last pass over a long row stores what the one before loaded last",
            NORM_STREAM,
        )
        .edit(FILE, "row.slots.load(row.x, slot, center, values);\n    row.store(", "\n    row.store("),
        Mutant::new("norm-statistics-of-every-thread", "all threads of a row store its mean", NORM_BLOCK)
            .edit(FILE, "if (row.thread == 0) {", "if (true) {")
            .hazard(&[GLOBAL_RACE]),
        Mutant::new("norm-statistics-of-block", "mean and rstd are stored by block instead of by row", NORM_WARP)
            .edit(FILE, "(params.mean)[row_idx] = stats.mean;", "(params.mean)[blockIdx.x] = stats.mean;")
            .hazard(&[GLOBAL_RACE]),
    ]
}
