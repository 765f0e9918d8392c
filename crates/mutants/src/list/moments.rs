//! kernels/lib/moments.cuh.

use super::{NORM_BACKWARD_BLOCK, NORM_BLOCK, NORM_LANES, RACE};
use crate::mutant::Mutant;

const FILE: &str = "lib/moments.cuh";

pub fn mutants() -> Vec<Mutant> {
    let squares = "moments.squares = reduce_row<Sum, Layout>(squares, &scratch[1]);";
    let by_squares =
        "moments.squares = reduce_row<Sum, Layout>(squares, &scratch[1]) - columns * moments.mean * moments.mean;";
    vec![
        Mutant::new("moments-variance-by-squares", "the variance is E[x^2] - E[x]^2", NORM_BLOCK)
            .edit(FILE, "const float distance = values[i] - moments.mean;", "const float distance = values[i];")
            .edit(FILE, squares, by_squares)
            .fast(),
        Mutant::new("moments-variance-by-squares-backward", "the same, computed again", NORM_BACKWARD_BLOCK)
            .edit(FILE, "const float distance = values[i] - moments.mean;", "const float distance = values[i];")
            .edit(FILE, squares, by_squares),
        Mutant::new("moments-center-zero", "the mean is a plain mean of the elements", NORM_BLOCK)
            .edit(FILE, "sum += values[i] - center;", "sum += values[i];")
            .edit(FILE, "moments.mean = center + reduce_row", "moments.mean = reduce_row"),
        Mutant::new("moments-center-lost", "the mean is relative to the row's first element", NORM_LANES).edit(
            FILE,
            "moments.mean = center + reduce_row",
            "moments.mean = reduce_row",
        ),
        Mutant::new("moments-variance-around-center", "the variance is taken around the first element", NORM_LANES)
            .edit(FILE, "values[i] - moments.mean;", "values[i] - center;"),
        Mutant::new("moments-always-centered", "RMS norm has a mean", NORM_LANES).edit(
            FILE,
            "if (is_centered) {",
            "if (true) {",
        ),
        Mutant::new(
            "moments-scratch-shared",
            "partial squares overwrite partial sums while others read them",
            NORM_BLOCK,
        )
        .edit(FILE, "(squares, &scratch[1])", "(squares, &scratch[0])")
        .hazard(&[RACE])
        .fast(),
        Mutant::new("moments-eps-lost", "the variance gets no eps", NORM_LANES).edit(
            FILE,
            "static_cast<float>(columns) + eps);",
            "static_cast<float>(columns) + 0.0f * eps);",
        ),
        Mutant::new("moments-eps-outside", "eps is added to the standard deviation", NORM_BLOCK).edit(
            FILE,
            "sqrtf(moments.squares / static_cast<float>(columns) + eps);",
            "(sqrtf(moments.squares / static_cast<float>(columns)) + eps);",
        ),
        Mutant::new("moments-of-a-sample", "the variance is that of a sample", NORM_BLOCK).edit(
            FILE,
            "static_cast<float>(columns) + eps);",
            "static_cast<float>(columns - 1) + eps);",
        ),
    ]
}
