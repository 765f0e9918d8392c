//! kernels/norm_backward.cu.

use super::{
    BOUNDS, GLOBAL_RACE, NORM_BACKWARD, NORM_BACKWARD_BLOCK, NORM_BACKWARD_GENERAL, NORM_BACKWARD_GENERAL_BLOCK,
    NORM_BACKWARD_WHOLE, RACE, UNWRITTEN,
};
use crate::mutant::Mutant;

const FILE: &str = "norm_backward.cu";

pub fn mutants() -> Vec<Mutant> {
    let mut mutants = gradients();
    mutants.extend(rows());
    mutants.extend(parts());
    mutants
}

fn gradients() -> Vec<Mutant> {
    vec![
        Mutant::new("norm-backward-rstd-lost", "the gradient is not scaled with rstd", NORM_BACKWARD).edit(
            FILE,
            "scaled[i] = rstd * (scaled[i] - fmaf(",
            "scaled[i] = (scaled[i] - fmaf(",
        ),
        Mutant::new("norm-backward-product-lost", "the gradient through the variance is left out", NORM_BACKWARD).edit(
            FILE,
            "fmaf(normal[i], mean_product, mean_scaled)",
            "fmaf(0.0f * normal[i], mean_product, mean_scaled)",
        ),
        Mutant::new("norm-backward-mean-lost", "the gradient through the mean is left out", NORM_BACKWARD).edit(
            FILE,
            "params.is_centered ? sums[1] / static_cast<float>(shape.columns) : 0.0f;",
            "0.0f;",
        ),
        Mutant::new("norm-backward-always-centered", "RMS norm has a gradient through a mean", NORM_BACKWARD).edit(
            FILE,
            "params.is_centered ? sums[1] / static_cast<float>(shape.columns) : 0.0f;",
            "sums[1] / static_cast<float>(shape.columns);",
        ),
        Mutant::new("norm-backward-mean-of-product", "the two sums change places", NORM_BACKWARD).edit(
            FILE,
            "const float mean_product = sums[0]",
            "const float mean_product = sums[1]",
        ),
        Mutant::new("norm-backward-weight-lost", "g is d_y in the sums and in the result", NORM_BACKWARD).edit(
            FILE,
            "if (weight == nullptr) return;",
            "return;",
        ),
        Mutant::new("norm-backward-weight-offset-lost", "a zero-centred weight gets no one", NORM_BACKWARD).edit(
            FILE,
            "weights[i] + params.weight_offset;",
            "weights[i];",
        ),
        Mutant::new("norm-backward-weight-of-segments", "every segment takes the first weights", NORM_BACKWARD_BLOCK)
            .edit(FILE, "params.weight_type, place.first_column + column, weights", "params.weight_type, column, weights"),
        Mutant::new("norm-backward-d-sum-scaled", "the gradient of the sum is scaled with rstd", NORM_BACKWARD).edit(
            FILE,
            "scaled[i] += gradient[i];",
            "scaled[i] += rstd * gradient[i];",
        ),
        Mutant::new("norm-backward-d-sum-lost", "the gradient of the sum is d_y", NORM_BACKWARD).edit(
            FILE,
            "Layout::load_columns(d_sum, params.d_sum_rows.type, column, gradient);",
            "",
        ),
        Mutant::new(
            "norm-backward-d-residual-dropped",
            "the gradient of the residual goes through dropout",
            NORM_BACKWARD_GENERAL,
        )
        .edit(
            FILE,
            "if (GENERAL && params.d_residual != 0) Layout::store<false>(d_residual, params.d_residual_rows.type, column, scaled);",
            "",
        )
        .edit(
            FILE,
            "Layout::store<false>(d_x, params.d_x_rows.type, column, scaled);",
            "if (GENERAL && params.d_residual != 0) Layout::store<false>(d_residual, params.d_residual_rows.type, column, scaled); Layout::store<false>(d_x, params.d_x_rows.type, column, scaled);",
        )
        .fast(),
        Mutant::new("norm-backward-d-residual-type", "the gradient of the residual has d_x's type", NORM_BACKWARD_GENERAL)
            .edit(FILE, "(d_residual, params.d_residual_rows.type,", "(d_residual, params.r_rows.type,"),
        Mutant::new("norm-backward-dropout-lost", "the gradient of x does not go through dropout", NORM_BACKWARD_GENERAL)
            .edit(FILE, "if (GENERAL && params.dropout.below != 0) {", "if (false) {"),
        Mutant::new("norm-backward-dropout-not-scaled", "what dropout keeps is not scaled", NORM_BACKWARD_GENERAL).edit(
            FILE,
            "scaled[i] * params.dropout.keep_scale",
            "scaled[i]",
        ),
        Mutant::new(
            "norm-backward-dropout-of-block",
            "all rows of a block drop the first one's columns",
            NORM_BACKWARD_GENERAL,
        )
        .edit(FILE, "(place.first_column + column, place.row);", "(place.first_column + column, row);"),
        Mutant::new(
            "norm-backward-dropout-of-segments",
            "all segments drop the same columns",
            NORM_BACKWARD_GENERAL_BLOCK,
        )
        .edit(FILE, "(place.first_column + column, place.row);", "(column, place.row);"),
        Mutant::new("norm-backward-statistics-of-block", "rstd is read by block instead of by row", NORM_BACKWARD)
            .edit(FILE, "(params.rstd)[place.row];", "(params.rstd)[blockIdx.x];"),
        Mutant::new("norm-backward-rms-mean-read", "RMS norm reads a mean", NORM_BACKWARD)
            .edit(FILE, "mean = is_centered ? reinterpret_cast", "mean = true ? reinterpret_cast")
            .hazard(&[BOUNDS]),
    ]
}

fn rows() -> Vec<Mutant> {
    vec![
        Mutant::new(
            "norm-backward-one-buffer",
            "the sums of a row overwrite those of the one before while others read them",
            NORM_BACKWARD_BLOCK,
        )
        .edit(FILE, "sums_smem[parity]);", "sums_smem[0]);")
        .hazard(&[RACE])
        .fast(),
        Mutant::new(
            "norm-backward-scratch-shared",
            "a row's sums overwrite the partials of its statistics while others read them",
            NORM_BACKWARD_BLOCK,
        )
        .edit(FILE, "r_words, moments_smem, mean, rstd);", "r_words, sums_smem[parity], mean, rstd);")
        .hazard(&[RACE]),
        Mutant::new("norm-backward-spare-threads-work", "threads past the last row add it up too", NORM_BACKWARD)
            .edit(FILE, "if (place.columns == 0) of_row.slots = of_row.edges = 0;", "")
            .hazard(&[GLOBAL_RACE]),
        Mutant::new(
            "norm-backward-rows-of-another-part",
            "a part goes on with the next one's rows",
            NORM_BACKWARD_BLOCK,
        )
        .edit(FILE, "row += params.parts * ROWS_PER_BLOCK", "row += ROWS_PER_BLOCK")
        .hazard(&[GLOBAL_RACE]),
        Mutant::new("norm-backward-first-rows-only", "a part ends after its first rows", NORM_BACKWARD_BLOCK).edit(
            FILE,
            "row += params.parts * ROWS_PER_BLOCK",
            "row += shape.rows",
        ),
        Mutant::new("norm-backward-rows-overlap", "blocks begin a row apart", NORM_BACKWARD)
            .edit(FILE, "uint32_t row = part * ROWS_PER_BLOCK;", "uint32_t row = part;")
            .hazard(&[GLOBAL_RACE]),
        Mutant::new("norm-backward-part-of-segment", "a block's part is its number", NORM_BACKWARD_BLOCK)
            .edit(FILE, "Layout::IS_BLOCK ? blockIdx.x / shape.segments : blockIdx.x;", "blockIdx.x;")
            .hazard(&[UNWRITTEN, BOUNDS]),
        Mutant::new("norm-backward-join-of-last", "a long row's sum is its last segment's", NORM_BACKWARD_BLOCK).edit(
            FILE,
            "sums[0] += partials[2 * s];",
            "sums[0] = partials[2 * s];",
        ),
        Mutant::new("norm-backward-join-exchanged", "the sum of g is that of its products", NORM_BACKWARD_BLOCK).edit(
            FILE,
            "sums[1] += partials[2 * s + 1];",
            "sums[1] += partials[2 * s];",
        ),
        Mutant::new(
            "norm-backward-join-of-own-sums",
            "a long row's sums begin with the thread's own",
            NORM_BACKWARD_BLOCK,
        )
        .edit(FILE, "sums[0] = sums[1] = 0.0f;", ""),
        Mutant::new("norm-backward-partials-of-every-thread", "all threads store a sum", NORM_BACKWARD_BLOCK)
            .edit(FILE, "if (threadIdx.x == 0) {", "if (true) {")
            .hazard(&[GLOBAL_RACE]),
    ]
}

fn parts() -> Vec<Mutant> {
    vec![
        Mutant::new("norm-parts-of-scaled", "d_weight is summed up from g", NORM_BACKWARD).edit(
            FILE,
            "fmaf(gradient[i], normal[i], d_weight[i])",
            "fmaf(scaled[i], normal[i], d_weight[i])",
        ),
        Mutant::new("norm-parts-of-the-last-row", "d_bias is that of a part's last row", NORM_BACKWARD_BLOCK).edit(
            FILE,
            "d_bias[i] += gradient[i];",
            "d_bias[i] = gradient[i];",
        ),
        Mutant::new("norm-parts-overlap", "a part's biases lie where the next one's weights do", NORM_BACKWARD_BLOCK)
            .edit(
                FILE,
                "static_cast<int64_t>(part) * 2 * shape.columns;",
                "static_cast<int64_t>(part) * shape.columns;",
            )
            .hazard(&[GLOBAL_RACE]),
        Mutant::new("norm-parts-exchanged", "weights and biases change places", NORM_BACKWARD)
            .edit(FILE, "d_weight, parts + first.first_column,", "d_bias, parts + first.first_column,")
            .edit(FILE, "d_bias, parts + shape.columns", "d_weight, parts + shape.columns"),
        Mutant::new("norm-parts-of-segments", "all segments leave their parts in one place", NORM_BACKWARD_BLOCK)
            .edit(FILE, "d_weight, parts + first.first_column,", "d_weight, parts,")
            .hazard(&[GLOBAL_RACE]),
        Mutant::new("norm-parts-of-the-first-stage", "parts are stored with the partials too", NORM_BACKWARD_BLOCK)
            .edit(
                FILE,
                "if (params.weight_partials == 0 || shape.stage == STAGE_PARTIALS) return;",
                "if (params.weight_partials == 0) return;",
            )
            .equivalent("the second launch stores the same sums over them"),
        Mutant::new("norm-lines-overwritten", "sums of d_weight are overwritten while others read them", NORM_BACKWARD)
            .edit_nth(1, FILE, "__syncthreads();", "")
            .hazard(&[RACE])
            .fast(),
        Mutant::new("norm-lines-unsynchronised", "sums are read before all rows have written theirs", NORM_BACKWARD)
            .edit_nth(2, FILE, "__syncthreads();", "")
            .hazard(&[RACE, UNWRITTEN]),
        Mutant::new("norm-lines-overlap", "lines have no room for their padding", NORM_BACKWARD)
            .edit(FILE, "WORDS = COLUMNS_MAX + COLUMNS_MAX / SLOT;", "WORDS = COLUMNS_MAX;")
            .hazard(&[RACE]),
        Mutant::new("norm-lines-of-fewer-slots", "lines have no room for a row's last slots", NORM_BACKWARD)
            .edit(
                FILE,
                "(THREADS_PER_ROW * WARPFOLD_VECTORS + 1) * SLOT - 1;",
                "(THREADS_PER_ROW * (WARPFOLD_VECTORS - 1) + 1) * SLOT - 1;",
            )
            .hazard(&[RACE]),
        Mutant::new(
            "norm-lines-side-by-side",
            "the lines of a warp's rows begin in the same banks",
            NORM_BACKWARD_WHOLE,
        )
        .edit(FILE, "(THREADS_PER_ROW * (SLOT + 1) - WORDS % 32 + 32 * THREADS_PER_ROW) % 32", "(64 - WORDS % 32) % 32")
        .counters(),
        Mutant::new("norm-lines-without-padding", "a row's lanes store into the same banks", NORM_BACKWARD_WHOLE)
            .edit(FILE, "return column + column / SLOT; }", "return column; }")
            .edit(FILE, "if (word % (SLOT + 1) == SLOT) continue;", "")
            .edit(FILE, "part[word - word / (SLOT + 1)] = sum;", "part[word] = sum;")
            .counters(),
        Mutant::new("norm-lines-padding-stored", "the padding between slots is taken for a column", NORM_BACKWARD)
            .edit(FILE, "if (word % (SLOT + 1) == SLOT) continue;", "")
            .hazard(&[UNWRITTEN]),
        Mutant::new("norm-lines-last-column-lost", "the last column is not added up", NORM_BACKWARD)
            .edit(FILE, "word <= SumLines::word(columns - 1);", "word < SumLines::word(columns - 1);")
            .hazard(&[UNWRITTEN]),
        Mutant::new("norm-lines-last-row-lost", "the last row of a block is not added up", NORM_BACKWARD).edit(
            FILE,
            "for (int row = 0; row < ROWS_PER_BLOCK; ++row) sum",
            "for (int row = 0; row < ROWS_PER_BLOCK - 1; ++row) sum",
        ),
    ]
}
