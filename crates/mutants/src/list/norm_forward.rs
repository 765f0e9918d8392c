//! kernels/norm_forward.cu.

use super::{
    BOUNDS, GLOBAL_RACE, MISALIGNED, NORM_BLOCK, NORM_GENERAL, NORM_GENERAL_BLOCK, NORM_GENERAL_FLOAT, NORM_LANES,
};
use crate::mutant::Mutant;

const FILE: &str = "norm_forward.cu";

pub fn mutants() -> Vec<Mutant> {
    let mut mutants = summands();
    mutants.extend(segments());
    mutants.extend(results());
    mutants
}

fn summands() -> Vec<Mutant> {
    vec![
        Mutant::new("norm-residual-lost", "a residual is not added", NORM_LANES).edit(
            FILE,
            "sum[i] += other[i];",
            "sum[i] += 0.0f * other[i];",
        ),
        Mutant::new("norm-residual-through-dropout", "a residual is scaled as what dropout keeps", NORM_GENERAL).edit(
            FILE,
            "sum[i] += other[i];",
            "sum[i] += other[i] * params.dropout.keep_scale;",
        ),
        Mutant::new("norm-sum-not-rounded", "the sum is normalised before it is rounded", NORM_LANES).edit(
            FILE,
            "sum[i] = round_to<Layout::Element>(type, sum[i]);",
            "sum[i] = type == 99 ? 0.0f : sum[i];",
        ),
        Mutant::new("norm-dropped-not-rounded", "only a sum with a residual is rounded", NORM_GENERAL).edit(
            FILE,
            "if (params.residual != 0 || (GENERAL && params.dropout.below != 0)) {",
            "if (params.residual != 0) {",
        ),
        Mutant::new("norm-sum-of-the-type-of-x", "the sum is rounded to the type of x", NORM_GENERAL).edit(
            FILE,
            "GENERAL ? params.sum_type : params.x_rows.type;",
            "params.x_rows.type;",
        ),
        Mutant::new("norm-dropout-not-scaled", "what dropout keeps is not scaled", NORM_GENERAL)
            .edit(FILE, "sum[i] * params.dropout.keep_scale : 0.0f;", "sum[i] : 0.0f;")
            .fast(),
        Mutant::new("norm-dropout-inverted", "dropout drops what it has to keep", NORM_GENERAL).edit(
            FILE,
            "kept >> i & 1 ? sum[i]",
            "~kept >> i & 1 ? sum[i]",
        ),
        Mutant::new("norm-dropout-of-one-column", "a slot goes by its first column's random number", NORM_GENERAL)
            .edit(FILE, "kept >> i & 1 ? sum[i]", "kept & 1 ? sum[i]"),
        Mutant::new("norm-dropout-of-one-row", "all rows drop the same columns", NORM_GENERAL).edit(
            FILE,
            "(place.first_column + column, place.row);",
            "(place.first_column + column, 0);",
        ),
        Mutant::new("norm-dropout-of-segments", "all segments drop the same columns", NORM_GENERAL_BLOCK).edit(
            FILE,
            "(place.first_column + column, place.row);",
            "(column, place.row);",
        ),
        Mutant::new("norm-center-not-summed", "the row's first element is taken before anything is added", NORM_BLOCK)
            .edit(
                FILE,
                "summands.add(0, first_x, first_residual, center);",
                "unpack<Layout::Element>(first_x, center);",
            ),
    ]
}

fn segments() -> Vec<Mutant> {
    vec![
        Mutant::new("norm-join-of-long-segments", "the last segment counts as a whole one", NORM_BLOCK).edit(
            FILE,
            "min(shape.columns - s * shape.segment_columns, shape.segment_columns)",
            "shape.segment_columns",
        ),
        Mutant::new("norm-join-center-lost", "a long row's mean is relative to its first segment's", NORM_BLOCK).edit(
            FILE,
            "joined.mean = center + sum / columns;",
            "joined.mean = sum / columns;",
        ),
        Mutant::new("norm-join-center-zero", "a long row's mean is a plain mean of its segments", NORM_BLOCK).edit(
            FILE,
            "const float center = partials[0];",
            "const float center = 0.0f * partials[0];",
        ),
        Mutant::new("norm-join-without-distances", "the segments' means count as one", NORM_BLOCK).edit(
            FILE,
            "partials[2 * s + 1] + count_of_segment(s) * distance * distance;",
            "partials[2 * s + 1];",
        ),
        Mutant::new("norm-join-without-first", "the first segment's squares are left out", NORM_GENERAL_BLOCK)
            .edit_nth(2, FILE, "for (uint32_t s = 0;", "for (uint32_t s = 1;"),
        Mutant::new("norm-mean-by-whole-row", "a segment's mean is its sum over the row's length", NORM_BLOCK).edit(
            FILE,
            "center[0], place.columns, scratch)",
            "center[0], shape.columns, scratch)",
        ),
        Mutant::new("norm-variance-by-segment", "a long row's variance is its squares over a segment", NORM_BLOCK)
            .edit(FILE, "rstd_of(moments, shape.columns, params.eps)", "rstd_of(moments, place.columns, params.eps)"),
        Mutant::new("norm-partials-of-every-thread", "all threads store a segment's partials", NORM_BLOCK)
            .edit(FILE, "if (is_first) {", "if (true) {")
            .hazard(&[GLOBAL_RACE]),
        Mutant::new("norm-statistics-of-segments", "every segment stores its row's statistics", NORM_BLOCK)
            .edit(FILE, "if (is_first && place.segment == 0) {", "if (is_first) {")
            .hazard(&[GLOBAL_RACE]),
        Mutant::new("norm-weight-of-segments", "every segment takes the row's first weights", NORM_BLOCK).edit(
            FILE,
            "params.weight_type, place.first_column + column, weights",
            "params.weight_type, column, weights",
        ),
        Mutant::new("norm-bias-of-segments", "every segment takes the row's first biases", NORM_BLOCK).edit(
            FILE,
            "params.bias_type, place.first_column + column, biases",
            "params.bias_type, column, biases",
        ),
    ]
}

fn results() -> Vec<Mutant> {
    vec![
        Mutant::new("norm-statistics-of-every-thread", "all threads of a row store its mean", NORM_BLOCK)
            .edit(FILE, "layout.thread == 0 && place.columns > 0;", "place.columns > 0;")
            .hazard(&[GLOBAL_RACE]),
        Mutant::new("norm-statistics-of-spare-threads", "threads without a row store the last one's", NORM_LANES)
            .edit(FILE, "layout.thread == 0 && place.columns > 0;", "layout.thread == 0;")
            .hazard(&[GLOBAL_RACE]),
        Mutant::new("norm-statistics-of-block", "mean and rstd are stored by block instead of by row", NORM_LANES)
            .edit(FILE, "(params.mean)[place.row] = moments.mean;", "(params.mean)[blockIdx.x] = moments.mean;")
            .hazard(&[GLOBAL_RACE]),
        Mutant::new("norm-weight-and-bias-exchanged", "the weight is added and the bias multiplied", NORM_LANES)
            .edit(FILE, "r[i] *= weights[i] + params.weight_offset;", "r[i] += weights[i] + params.weight_offset;")
            .edit(FILE, "r[i] += biases[i];", "r[i] *= biases[i];")
            .fast(),
        Mutant::new("norm-weight-offset-lost", "a zero-centred weight gets no one", NORM_LANES).edit(
            FILE,
            "r[i] *= weights[i] + params.weight_offset;",
            "r[i] *= weights[i];",
        ),
        Mutant::new("norm-weight-of-the-biases-type", "a weight has the type of the bias", NORM_GENERAL_FLOAT).edit(
            FILE,
            "(weight, params.weight_type,",
            "(weight, params.bias_type,",
        ),
        Mutant::new("norm-bias-always-read", "a bias is read where there is none", NORM_LANES)
            .edit(FILE, "if (bias != nullptr) {", "if (true) {")
            .hazard(&[BOUNDS]),
        Mutant::new("norm-weight-always-read", "a weight is read where there is none", NORM_LANES)
            .edit(FILE, "if (weight != nullptr) {", "if (true) {")
            .hazard(&[BOUNDS]),
        Mutant::new("norm-mean-not-subtracted", "the row is scaled only", NORM_LANES).edit(
            FILE,
            "r[i] = (r[i] - moments.mean) * rstd;",
            "r[i] = r[i] * rstd;",
        ),
        Mutant::new("norm-sum-stored-by-vectors", "the sum is stored as if it lay where y does", NORM_GENERAL)
            .edit(FILE, "Layout::store<false>(sum,", "Layout::store<true>(sum,")
            .hazard(&[MISALIGNED]),
        Mutant::new("norm-sum-of-the-type-of-y", "the sum is stored as y is", NORM_GENERAL_FLOAT)
            .edit(
                FILE,
                "store<false>(sum, params.sum_type, column, r)",
                "store<false>(sum, params.y_rows.type, column, r)",
            )
            .hazard(&[BOUNDS, MISALIGNED]),
    ]
}
