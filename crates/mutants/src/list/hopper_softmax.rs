//! kernels/lib/hopper/softmax.cuh.

use super::{HOPPER, HOPPER_D64};
use crate::mutant::Mutant;

const FILE: &str = "lib/hopper/softmax.cuh";

pub fn mutants() -> Vec<Mutant> {
    vec![
        Mutant::new("hopper-sum-not-rescaled", "the running sum stays relative to the old base", HOPPER).edit(
            FILE,
            "sum[0][half] *= factor;",
            "",
        ),
        Mutant::new(
            "hopper-first-key-rescales",
            "the first key rescales what there is, by a factor that may be infinite",
            HOPPER,
        )
        .edit(FILE, "is_first ? 1.0f : ptx::exp2_approx(", "ptx::exp2_approx("),
        Mutant::new(
            "hopper-maximum-of-one-lane",
            "each lane takes the maximum of its own columns for the base",
            HOPPER,
        )
        .edit(FILE, "tile_max = quad_max(tile_max);", ""),
        Mutant::new("hopper-bound-of-one-lane", "each lane decides by its own columns whether the base moves", HOPPER)
            .edit(FILE, "tile_sum = quad_max(tile_sum);", ""),
        Mutant::new("hopper-base-of-empty-row", "a row without a visible key so far computes -inf - (-inf)", HOPPER)
            .edit(FILE, " && tile_max > -CUDART_INF_F;", ";"),
        Mutant::new("hopper-base-never-raised", "a base stays, however large the weights become", HOPPER).edit(
            FILE,
            "!(fmaxf(tile_sum[0], tile_sum[1]) <= fminf(sum_max[0], sum_max[1]))",
            "fminf(sum_max[0], sum_max[1]) < 0.0f",
        ),
        Mutant::new(
            "hopper-bound-of-upper-half",
            "only the upper one of a thread's rows tells that the base has to move",
            HOPPER,
        )
        .edit(FILE, "fmaxf(tile_sum[0], tile_sum[1]) <=", "tile_sum[0] <="),
        Mutant::new("hopper-row-never-raised", "a row's base stays, however large its weights become", HOPPER_D64)
            .edit(FILE, "!(tile_sum <= sum_max[half])", "sum_max[half] < 0.0f"),
        Mutant::new("hopper-weights-of-the-old-base", "weights are not worked out again for a new base", HOPPER).edit(
            FILE,
            "tile_sum[half] = weigh_in_bounds(s, half, factor_log2, store);",
            "sum_max[half] = TILE_SUM_MAX;",
        ),
        Mutant::new("polynomial-not-the-exponential", "a coefficient of the polynomial is wrong", HOPPER_D64).edit(
            FILE,
            "0.240240986f",
            "0.340240986f",
        ),
        Mutant::new(
            "polynomial-of-low-degree",
            "the polynomial is off by 1e-4, which only log-sum-exps show",
            HOPPER_D64,
        )
        .edit(FILE, "fmaf(r, 0.009582853f, 0.055906425f)", "0.055906425f"),
        Mutant::new(
            "polynomial-without-its-integer",
            "the integer part of the argument goes to another exponent",
            HOPPER_D64,
        )
        .edit(FILE, "(__float_as_uint(rounded) << 23)", "(__float_as_uint(rounded) << 22)"),
        Mutant::new("hidden-weights-do-not-vanish", "weights of hidden keys are 2^-60", HOPPER_D64).edit(
            FILE,
            "X_MIN = -127.0f",
            "X_MIN = -60.0f",
        ),
        Mutant::new("nan-becomes-a-weight", "a score that is NaN is taken for a large one", HOPPER_D64).edit(
            FILE,
            "ToWeight::HIDES_NAN && tile_sum > TILE_SUM_MAX ? CUDART_NAN_F : tile_sum",
            "tile_sum",
        ),
    ]
}
