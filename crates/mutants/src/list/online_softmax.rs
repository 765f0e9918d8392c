//! kernels/lib/online_softmax.cuh.

use super::{D64, D96, GENERAL, INVALID, PARTICIPANTS};
use crate::mutant::Mutant;

const FILE: &str = "lib/online_softmax.cuh";

pub fn mutants() -> Vec<Mutant> {
    vec![
Mutant::new("sum-not-rescaled", "the running sum stays relative to the old base", D64)
.edit(FILE, "sum[t][half] *= rescale;", "")
.fast(),
Mutant::new("first-key-rescales", "the first key rescales what there is, by a factor that may be infinite", D64)
.edit(FILE, "is_first ? 1.0f : ptx::exp2_approx(", "ptx::exp2_approx("),
Mutant::new("maximum-of-one-lane", "each lane takes the maximum of its own columns for the base", D64)
.edit(FILE, "tile_max = quad_max(tile_max);", ""),
Mutant::new("bound-of-one-lane", "each lane decides by its own columns whether the base moves", D64)
.edit(FILE, "tile_sum = quad_max(tile_sum);", ""),
Mutant::new("maximum-of-even-columns", "odd columns are left out of the maximum", D64)
.edit(FILE, "fmaxf(s_frag[key_tile][2 * half], s_frag[key_tile][2 * half + 1])", "s_frag[key_tile][2 * half]"),
Mutant::new("base-never-raised", "a base stays, however large the weights become", D64)
.edit(FILE, "fmaxf(tile_sum[0], tile_sum[1]) <= TILE_SUM_MAX", "true"),
Mutant::new("bound-of-upper-half", "only the upper one of a thread's rows tells that the base has to move", D64)
.edit(FILE, "fmaxf(tile_sum[0], tile_sum[1]) <= TILE_SUM_MAX", "tile_sum[0] <= TILE_SUM_MAX"),
Mutant::new("bound-too-high", "weights may add up to more than f16 holds", D64)
.edit(FILE, "TILE_SUM_MAX = 256.0f", "TILE_SUM_MAX = 1e9f"),
Mutant::new("first-base-never-set", "the first scores are taken relative to 0", D64)
.edit(FILE, "settled[t] && fmaxf", "fmaxf"),
Mutant::new("base-of-empty-row", "a row without a visible key so far computes -inf - (-inf)", D64)
.edit(FILE, " && tile_max > -CUDART_INF_F;", ";")
.fast(),
Mutant::new("base-of-zero-taken-for-none", "a row whose base is 0 is taken for one without a key", D64)
.edit(FILE, "moved == 0.0f ? 1e-30f : moved", "moved"),
Mutant::new("shifts-merged", "the compiler may keep both copies of a shift in one register", D64)
.edit(FILE, "ptx::forget(shift[t][i]);", ";")
.equivalent("an instruction without text: it changes which registers the compiler uses, and no value"),
Mutant::new("scores-half-moved", "odd columns keep their old base", D64)
.edit(FILE, "s_frag[key_tile][2 * half + 1] -= tile_max;", ""),
Mutant::new("weights-of-the-old-base", "weights are not worked out again for a new base", D64)
.edit_nth(2, FILE, "weigh(s_frag, factor_log2, tile_sum, store);", ""),
Mutant::new("sum-of-even-columns", "odd columns are left out of the sum", D96)
.edit(FILE, "tile_sum[half] + low + high;", "tile_sum[half] + low;"),
Mutant::new("scale-lost", "weights are powers of the unscaled scores", D64)
.edit(FILE, "s_frag[key_tile][2 * half] * factor_log2", "s_frag[key_tile][2 * half]"),
Mutant::new("rescale-unscaled", "what was accumulated is rescaled by a power of the unscaled step", D64)
.edit(FILE, "ptx::exp2_approx(-factor_log2 * tile_max)", "ptx::exp2_approx(-tile_max)"),
Mutant::new("base-unscaled", "the exponent that weights are relative to is not scaled", D64)
.edit(FILE, "-shift[t][2 * half] * factor_log2", "-shift[t][2 * half]"),
Mutant::new("norm-of-empty-row", "a row without keys is divided by its sum, which is 0", D64)
.edit(FILE, "if (sum[t][half] == 0.0f) return 0.0f;", ""),
Mutant::new("nan-taken-for-empty", "a row whose sum is NaN is taken for one without keys", D64)
.edit(FILE, "if (sum[t][half] == 0.0f) return 0.0f;", "if (!(sum[t][half] > 0.0f)) return 0.0f;")
.equivalent("a sum is never negative, and NaN only where a weight is; that weight is NaN in P too, so that all of the row's products with V are NaN before the factor 0"),
Mutant::new("norm-without-sink", "the sink is left out of the sum", D64)
.edit(FILE, " + ptx::exp2_approx(sink_log2 - base_log2(t, half, factor_log2)));", ");"),
Mutant::new("lse-of-empty-row", "the log-sum-exp of a row without keys has no case of its own", D96)
.edit(FILE, "if (sum[t][half] == 0.0f) return sink_log2 * LN2;", "")
.equivalent("the base of such a row is 0, so that the log of its keys is lg2(0) = -inf; beside it a sink is the larger one, and lg2(0 + 1) = 0 is added"),
Mutant::new("lse-of-empty-row-without-sink", "the log-sum-exp of a row without keys is -inf, whatever its sink", D64)
.edit(FILE, "return sink_log2 * LN2;", "return -CUDART_INF_F;"),
Mutant::new("lse-without-base", "the log-sum-exp leaves the base out", D64)
.edit(FILE, "base_log2(t, half, factor_log2) + ptx::log2_approx(", "ptx::log2_approx("),
Mutant::new("lse-in-base-2", "the log-sum-exp stays in base 2", D96)
.edit(FILE, "return keys_log2 * LN2;", "return keys_log2;"),
Mutant::new("lse-without-sink", "the log-sum-exp leaves the sink out", D64)
.edit(FILE, " + ptx::exp2_approx(sink_log2 - larger);", ";"),
Mutant::new("sum-of-the-upper-half-only", "the lanes of rows 8 to 15 do not share their sums", D64)
.edit(FILE, "sum[t][1] = quad_sum(sum[t][1]);", ""),
Mutant::new("quad-maximum-of-two", "the maximum of a row is taken over two of its four lanes", D64)
.edit(FILE, "return fmaxf(value, __shfl_xor_sync(0xffffffff, value, 2));", "return value;"),
Mutant::new("quad-sum-of-two", "the sum of a row is taken over two of its four lanes", D64)
.edit(FILE, "return value + __shfl_xor_sync(0xffffffff, value, 2);", "return value;"),
Mutant::new("quad-sum-across-rows", "the sum of a row takes lanes of the next one in", D64)
.edit(FILE, "return value + __shfl_xor_sync(0xffffffff, value, 2);", "return value + __shfl_xor_sync(0xffffffff, value, 4);"),
Mutant::new("shuffle-after-some-left", "lanes exchange their sums after others of the warp have left", GENERAL)
.edit(FILE, "tile_sum = quad_max(tile_sum);", "")
.edit(FILE, "!(tile_sum > TILE_SUM_MAX)", "!(quad_max(tile_sum) > TILE_SUM_MAX)")
.hazard(&[PARTICIPANTS, INVALID]),
Mutant::new("base-always-raised", "the base follows the maximum of every tile", D64)
.edit(FILE, "TILE_SUM_MAX = 256.0f", "TILE_SUM_MAX = 1.0f")
.counters(),
]
}
