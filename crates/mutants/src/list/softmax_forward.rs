//! kernels/softmax_forward.cu.

use super::{
    BOUNDS, GLOBAL_RACE, MISALIGNED, RACE, SOFTMAX_BLOCK, SOFTMAX_GENERAL, SOFTMAX_GENERAL_BLOCK, SOFTMAX_LANES,
    UNDEFINED,
};
use crate::mutant::Mutant;

const FILE: &str = "softmax_forward.cu";

pub fn mutants() -> Vec<Mutant> {
    let mut mutants = weights();
    mutants.extend(segments());
    mutants.extend(options());
    mutants.extend(bands());
    mutants
}

fn weights() -> Vec<Mutant> {
    vec![
        Mutant::new("softmax-base-e-lost", "exponents are taken to base 2", SOFTMAX_LANES).edit(
            FILE,
            "const float unit_log2 = unit * LOG2E;",
            "const float unit_log2 = unit + 0.0f * LOG2E;",
        ),
        Mutant::new(
            "softmax-difference-last",
            "the maximum is subtracted from the product with log2(e)",
            SOFTMAX_BLOCK,
        )
        .edit(FILE, "(x - base) * unit_log2);", "x * unit_log2 - base * unit_log2);"),
        Mutant::new("softmax-without-maximum", "exponents are not relative to the maximum", SOFTMAX_LANES).edit(
            FILE,
            "return max == -CUDART_INF_F ? 0.0f : max;",
            "return 0.0f;",
        ),
        Mutant::new("softmax-hidden-row", "a row of -inf computes -inf - (-inf)", SOFTMAX_LANES)
            .edit(FILE, "return max == -CUDART_INF_F ? 0.0f : max;", "return max;")
            .fast(),
        Mutant::new("softmax-empty-sum", "a row of -inf is divided by its sum, which is 0", SOFTMAX_LANES).edit(
            FILE,
            "sum == 0.0f ? 0.0f : 1.0f / sum;",
            "1.0f / sum;",
        ),
        Mutant::new("softmax-log-of-empty-sum", "the logarithm of an empty row's sum is taken", SOFTMAX_BLOCK).edit(
            FILE,
            "params.is_log && sum != 0.0f ? logf(sum)",
            "params.is_log ? logf(sum)",
        ),
        Mutant::new("softmax-nan-to-zero", "a row with a NaN becomes 0", SOFTMAX_LANES).edit(
            FILE,
            "sum == 0.0f ? 0.0f : 1.0f / sum;",
            "sum > 0.0f ? 1.0f / sum : 0.0f;",
        ),
        Mutant::new("softmax-log-scale-lost", "a logarithm's distances are not scaled", SOFTMAX_LANES).edit(
            FILE,
            "? (s[i] - base) * unit : weight;",
            "? s[i] - base : weight;",
        ),
        Mutant::new("softmax-log-of-weights", "the logarithm's sum is taken from the weights", SOFTMAX_BLOCK).edit(
            FILE,
            "s[i] = params.is_log ? (s[i] - base) * unit : weight;",
            "s[i] = weight;",
        ),
        Mutant::new("softmax-maximum-of-thread", "each thread takes its own maximum for the row's", SOFTMAX_LANES)
            .edit(FILE, "max = reduce_row<Max, Layout>(max, &scratch[0]);", ""),
        Mutant::new("softmax-sum-of-thread", "each thread takes its own sum for the row's", SOFTMAX_BLOCK).edit(
            FILE,
            "sum = reduce_row<Sum, Layout>(own_sum, &scratch[1]);",
            "sum = own_sum;",
        ),
        Mutant::new("softmax-maximum-of-0", "the maximum starts at 0", SOFTMAX_LANES).edit_nth(
            2,
            FILE,
            "float max = -CUDART_INF_F;",
            "float max = 0.0f;",
        ),
        Mutant::new(
            "softmax-scratch-shared",
            "the sums' partials overwrite the maxima's while others read them",
            SOFTMAX_BLOCK,
        )
        .edit(FILE, "(own_sum, &scratch[1])", "(own_sum, &scratch[0])")
        .hazard(&[RACE])
        .fast(),
    ]
}

fn segments() -> Vec<Mutant> {
    vec![
        Mutant::new("softmax-join-not-rescaled", "sums of segments stay relative to their own maxima", SOFTMAX_BLOCK)
            .edit(FILE, "partials[2 * s + 1] * weigh(partials[2 * s], base, unit_log2);", "partials[2 * s + 1];"),
        Mutant::new("softmax-join-of-maxima", "the sums of segments are their maxima", SOFTMAX_BLOCK).edit(
            FILE,
            "sum += partials[2 * s + 1] *",
            "sum += partials[2 * s] *",
        ),
        Mutant::new("softmax-join-without-first", "the first segment's sum is left out", SOFTMAX_GENERAL_BLOCK)
            .edit_nth(2, FILE, "for (uint32_t s = 0;", "for (uint32_t s = 1;"),
        Mutant::new(
            "softmax-join-of-last-maximum",
            "a long row's weights are relative to its last segment's maximum",
            SOFTMAX_BLOCK,
        )
        .edit(FILE, "max = fmaxf(max, partials[2 * s]);", "max = partials[2 * s];"),
        Mutant::new("softmax-join-of-own-sum", "a segment is divided by its own sum", SOFTMAX_BLOCK).edit(
            FILE,
            "if (!joins) sum =",
            "sum =",
        ),
        Mutant::new("softmax-join-of-own-segment", "a segment takes its own partials for the row's", SOFTMAX_BLOCK)
            .edit(FILE, "const Place first(shape, place.row, 0);", "const Place first = place;")
            .hazard(&[BOUNDS]),
        Mutant::new("softmax-partials-of-every-thread", "all threads store a segment's partials", SOFTMAX_BLOCK)
            .edit(FILE, "if (threadIdx.x == 0) {", "if (true) {")
            .hazard(&[GLOBAL_RACE]),
    ]
}

fn options() -> Vec<Mutant> {
    vec![
        Mutant::new("softmax-scale-twice", "x is scaled before the options and in the exponent", SOFTMAX_GENERAL).edit(
            FILE,
            "const float unit = has_options ? 1.0f : params.scale;",
            "const float unit = params.scale;",
        ),
        Mutant::new("softmax-scaled-bias", "the bias is scaled too", SOFTMAX_GENERAL).edit(
            FILE,
            "values[i] += biases[i];",
            "values[i] += scale * biases[i];",
        ),
        Mutant::new("softmax-bias-lost", "a bias without a mask is left out", SOFTMAX_GENERAL).edit(
            FILE,
            "(params.bias != 0 || params.mask != 0 ||",
            "(params.mask != 0 ||",
        ),
        Mutant::new("softmax-bias-of-the-next-column", "a row's one bias is one of every column", SOFTMAX_GENERAL)
            .edit(
                FILE,
                "Layout::load_columns(bias, bias_type, 0, one);",
                "Layout::load_columns(bias, bias_type, column, one);",
            )
            .hazard(&[BOUNDS]),
        Mutant::new("softmax-bias-type", "a bias has the type of x", SOFTMAX_GENERAL).edit(
            FILE,
            "bias_type(params.bias_rows.type)",
            "bias_type(params.x_rows.type)",
        ),
        Mutant::new("softmax-bias-of-the-rows-of-x", "the bias lies in rows as x does", SOFTMAX_GENERAL).edit(
            FILE,
            "place.address(params.bias, params.bias_rows,",
            "place.address(params.bias, params.x_rows,",
        ),
        Mutant::new("softmax-mask-of-words", "a column is hidden by four bytes", SOFTMAX_GENERAL).edit(
            FILE,
            "(bytes[i / 4] >> i % 4 * 8 & 0xff) != 0",
            "(bytes[i / 4] >> i % 4 * 8) != 0",
        ),
        Mutant::new("softmax-mask-of-ones", "a mask shows what has an odd byte", SOFTMAX_GENERAL).edit(
            FILE,
            "i % 4 * 8 & 0xff) != 0",
            "i % 4 * 8 & 0x01) != 0",
        ),
        Mutant::new("softmax-mask-of-any-alignment", "a mask's bytes are loaded by vectors anywhere", SOFTMAX_GENERAL)
            .edit(FILE, "reinterpret_cast<uint64_t>(first) % N == 0", "reinterpret_cast<uint64_t>(first) % 4 == 0")
            .hazard(&[MISALIGNED]),
        Mutant::new("softmax-mask-of-neighbours", "a row's one byte is taken for its columns' first", SOFTMAX_GENERAL)
            .edit(FILE, "first + (mask_is_row ? i : 0)", "first + i"),
        Mutant::new("softmax-mask-byte-lost", "the last byte of a group is not looked at", SOFTMAX_GENERAL).edit(
            FILE,
            "<< i % 4 * 8;",
            "<< i % 3 * 8;",
        ),
        Mutant::new("softmax-mask-adds", "-inf is added to what a mask hides", SOFTMAX_GENERAL).edit(
            FILE,
            "& 0xff) != 0 ? values[i] : -CUDART_INF_F;",
            "& 0xff) != 0 ? values[i] : values[i] - CUDART_INF_F;",
        ),
        Mutant::new("softmax-segments-of-a-mask", "the mask of a segment is the row's first", SOFTMAX_GENERAL_BLOCK)
            .edit(
                FILE,
                "place.address(params.mask, params.mask_rows, params.shape)",
                "Place(params.shape, place.row, 0).address(params.mask, params.mask_rows, params.shape)",
            ),
    ]
}

fn bands() -> Vec<Mutant> {
    vec![
        Mutant::new("softmax-band-adds", "-inf is added to what a band hides", SOFTMAX_GENERAL)
            .edit(
                FILE,
                "band.shows(column + i) ? values[i] : -CUDART_INF_F;",
                "band.shows(column + i) ? values[i] : values[i] - CUDART_INF_F;",
            )
            .hazard(&[UNDEFINED]),
        Mutant::new("softmax-prefix-lost", "a prefix is not shown", SOFTMAX_GENERAL).edit(
            FILE,
            "return column < prefix || (column >= first",
            "return (column >= first",
        ),
        Mutant::new("softmax-prefix-not-loaded", "slots of a prefix are not loaded", SOFTMAX_GENERAL)
            .edit(FILE, "return column < prefix || (column + count > first", "return (column + count > first")
            .hazard(&[UNDEFINED]),
        Mutant::new("softmax-prefix-of-segments", "every segment has the prefix", SOFTMAX_GENERAL_BLOCK).edit(
            FILE,
            "params.prefix - place.first_column : 0;",
            "params.prefix : 0;",
        ),
        Mutant::new("softmax-band-of-segments", "every segment is banded as the first one is", SOFTMAX_GENERAL_BLOCK)
            .edit(FILE, "query + params.offset - place.first_column;", "query + params.offset;"),
        Mutant::new("softmax-query-of-rows", "a row's query is its number among all rows", SOFTMAX_GENERAL)
            .edit(FILE, "place.row % params.len_q", "place.row")
            .fast(),
        Mutant::new("softmax-window-begins-late", "the first column of a window is hidden", SOFTMAX_GENERAL).edit(
            FILE,
            "position - params.window_left : 0;",
            "position - params.window_left + 1 : 0;",
        ),
        Mutant::new("softmax-window-ends-early", "the last column of a window is hidden", SOFTMAX_GENERAL).edit(
            FILE,
            "position + params.window_right + 1 :",
            "position + params.window_right :",
        ),
        Mutant::new("softmax-open-left", "no left bound is a bound of 2^31 - 1 columns", SOFTMAX_GENERAL).edit(
            FILE,
            "is_banded && params.window_left != INT32_MAX ?",
            "is_banded ?",
        ),
        Mutant::new("softmax-open-right", "no right bound is a bound of 2^31 - 1 columns", SOFTMAX_GENERAL).edit(
            FILE,
            "is_banded && params.window_right != INT32_MAX ?",
            "is_banded ?",
        ),
        Mutant::new(
            "softmax-slot-before-window",
            "a slot that ends with a window's first column is hidden",
            SOFTMAX_GENERAL,
        )
        .edit(FILE, "column + count > first &&", "column + count > first + 1 &&")
        .hazard(&[UNDEFINED]),
        Mutant::new(
            "softmax-slot-after-window",
            "a slot that begins with a window's last column is hidden",
            SOFTMAX_GENERAL,
        )
        .edit_nth(2, FILE, "column < end);", "column + 1 < end);")
        .hazard(&[UNDEFINED]),
        Mutant::new("softmax-hidden-slots-loaded", "slots are loaded that a band hides", SOFTMAX_GENERAL)
            .edit(FILE, "return !GENERAL || options.band.shows_any(column, count);", "return true;")
            .counters(),
    ]
}
