//! kernels/lib/score.cuh.

use super::{BOUNDS, GENERAL, KEY_VALUE, QUERY};
use crate::mutant::Mutant;

const FILE: &str = "lib/score.cuh";

pub fn mutants() -> Vec<Mutant> {
    vec![
        Mutant::new("tanh-of-half", "tanh is that of half the score", GENERAL).edit(
            FILE,
            "x * (2.0f * LOG2E)",
            "x * LOG2E",
        ),
        Mutant::new("softcap-unscaled", "scores are capped before they are scaled", GENERAL).edit(
            FILE,
            "shape.scale * ptx::rcp_approx(shape.softcap)",
            "ptx::rcp_approx(shape.softcap)",
        ),
        Mutant::new("softcap-in-base-e", "capped scores stay in base e", GENERAL).edit(
            FILE,
            "shape.softcap * LOG2E",
            "shape.softcap",
        ),
        Mutant::new("softcap-beside-bias-lost", "softcap is left out where there is a bias", GENERAL).edit(
            FILE,
            "if (shape.softcap != 0.0f) {",
            "if (shape.softcap != 0.0f && bias == nullptr) {",
        ),
        Mutant::new("softcap-derivative-lost", "the derivative of a capped score is that of an uncapped one", QUERY)
            .edit(FILE, "fmaf(-capped, capped, 1.0f)", "1.0f")
            .fast(),
        Mutant::new("softcap-derivative-sign", "the derivative of a capped score grows with it", KEY_VALUE).edit(
            FILE,
            "fmaf(-capped, capped, 1.0f)",
            "fmaf(capped, capped, 1.0f)",
        ),
        Mutant::new("scale-of-base-2-only", "scores are not scaled", GENERAL).edit(
            FILE,
            "s_frag[tile][i] *= shape.scale_log2;",
            "s_frag[tile][i] *= LOG2E;",
        ),
        Mutant::new("alibi-rises", "ALiBi favours distant keys", GENERAL).edit(
            FILE,
            "fmaf(-slope_log2[i / 2],",
            "fmaf(slope_log2[i / 2],",
        ),
        Mutant::new("alibi-signed", "keys after the query have a negative distance", GENERAL).edit(
            FILE,
            "static_cast<float>(abs(distance))",
            "static_cast<float>(distance)",
        ),
        Mutant::new("alibi-without-offset", "distances are counted from the query's number, not its position", GENERAL)
            .edit(FILE, "place.query(tile, i) + band.offset - place.key", "place.query(tile, i) - place.key"),
        Mutant::new("alibi-of-the-upper-row", "both rows of a thread have the first one's slope", GENERAL).edit(
            FILE,
            "{slopes[place.head[0]] * LOG2E, slopes[place.head[1]]",
            "{slopes[place.head[0]] * LOG2E, slopes[place.head[0]]",
        ),
        Mutant::new("alibi-in-base-e", "slopes are taken as if they were for base 2", GENERAL).edit(
            FILE,
            "{slopes[place.head[0]] * LOG2E,",
            "{slopes[place.head[0]],",
        ),
        Mutant::new("alibi-of-sequence-0", "all sequences have the first one's slopes", GENERAL).edit(
            FILE,
            " + batch_idx * shape.slopes_batch;",
            ";",
        ),
        Mutant::new("bias-of-sequence-0", "all sequences have the first one's bias", GENERAL).edit(
            FILE,
            "batch_idx * shape.bias_strides.batch",
            "0 * shape.bias_strides.batch",
        ),
        Mutant::new("bias-of-head-0", "all heads have the first one's bias and mask", GENERAL).edit(
            FILE,
            "place.head[i / 2] * strides.head +",
            "0 * strides.head +",
        ),
        Mutant::new("bias-of-the-first-row", "both rows of a thread have the first one's bias and mask", GENERAL).edit(
            FILE,
            "row[i / 2];\n  }\n  __device__ __forceinline__ int key",
            "row[0];\n  }\n  __device__ __forceinline__ int key",
        ),
        Mutant::new("bias-of-even-keys", "odd keys have the bias and mask of even ones", GENERAL).edit(
            FILE,
            "place.key(tile, i) * strides.key;",
            "place.key(tile, i / 2 * 2) * strides.key;",
        ),
        Mutant::new("bias-in-base-e", "a bias is added as if it were in base 2", GENERAL).edit(
            FILE,
            "LOG2E, s_frag[tile][i]);",
            "1.0f, s_frag[tile][i]);",
        ),
        Mutant::new(
            "bias-of-query-and-key-exchanged",
            "a bias is walked with the strides of the other dimension",
            GENERAL,
        )
        .edit(FILE, "place.query(tile, i) * strides.query +", "place.query(tile, i) * strides.key +")
        .edit(FILE, "place.key(tile, i) * strides.key;", "place.key(tile, i) * strides.query;")
        .hazard(&["out of bounds"]),
        Mutant::new("bias-past-the-end", "a bias is read for keys and rows that do not exist", GENERAL)
            .edit(FILE, "if (place.exists(tile, i)) {", "if (true) {")
            .hazard(&[BOUNDS]),
        Mutant::new("mask-inverted", "a mask hides what it has to show", GENERAL)
            .edit(FILE, "place, tile, i) == 0) {", "place, tile, i) != 0) {")
            .fast(),
        Mutant::new("mask-of-sequence-0", "all sequences have the first one's mask", GENERAL).edit(
            FILE,
            "batch_idx * shape.mask_strides.batch",
            "0 * shape.mask_strides.batch",
        ),
        Mutant::new("mask-past-the-end", "a mask is read for keys and rows that do not exist", GENERAL)
            .edit(FILE, "place.exists(tile, i) && *at(mask", "*at(mask")
            .hazard(&[BOUNDS]),
        Mutant::new("positions-never-hide", "the positions hide nothing", GENERAL).edit(
            FILE,
            "if (!is_full) hide(",
            "if (false) hide(",
        ),
        Mutant::new("positions-always-asked", "tiles that are visible in full are masked too", GENERAL)
            .edit(FILE, "if (!is_full) hide(", "if (true) hide(")
            .counters(),
    ]
}
