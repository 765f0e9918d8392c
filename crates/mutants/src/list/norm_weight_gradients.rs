//! kernels/norm_weight_gradients.cu.

use super::{BOUNDS, RACE, UNWRITTEN, WEIGHT_GRADIENTS};
use crate::mutant::Mutant;

const FILE: &str = "norm_weight_gradients.cu";

pub fn mutants() -> Vec<Mutant> {
    vec![
        Mutant::new("weight-gradients-parts-skipped", "every other part of a warp is left out", WEIGHT_GRADIENTS).edit(
            FILE,
            "part += WARPS",
            "part += 2 * WARPS",
        ),
        Mutant::new("weight-gradients-endless", "a warp does not go on to its next part", WEIGHT_GRADIENTS)
            .edit(FILE, "part += WARPS", "part += 0 * WARPS")
            .endless(),
        Mutant::new("weight-gradients-parts-by-warps", "a part more than there are is added up", WEIGHT_GRADIENTS)
            .edit(FILE, "part < params.parts;", "part <= params.parts;")
            .hazard(&[BOUNDS]),
        Mutant::new("weight-gradients-columns-read", "columns past the last one are read", WEIGHT_GRADIENTS)
            .edit(FILE, "if (column < params.columns) {", "if (true) {")
            .hazard(&[BOUNDS]),
        Mutant::new("weight-gradients-columns-stored", "columns past the last one are stored", WEIGHT_GRADIENTS).edit(
            FILE,
            "if (warp > 1 || column >= params.columns) return;",
            "if (warp > 1) return;",
        ),
        Mutant::new("weight-gradients-unsynchronised", "sums are read before all warps wrote theirs", WEIGHT_GRADIENTS)
            .edit(FILE, "__syncthreads();", "")
            .hazard(&[RACE, UNWRITTEN]),
        Mutant::new("weight-gradients-last-warp-lost", "the last warp's sum is left out", WEIGHT_GRADIENTS).edit(
            FILE,
            "for (int w = 0; w < WARPS; ++w)",
            "for (int w = 0; w < WARPS - 1; ++w)",
        ),
        Mutant::new("weight-gradients-biases-lost", "the second warp leaves before it stores", WEIGHT_GRADIENTS).edit(
            FILE,
            "if (warp > 1 || column",
            "if (warp > 0 || column",
        ),
        Mutant::new("weight-gradients-of-one-kind", "d_bias is d_weight", WEIGHT_GRADIENTS)
            .edit(FILE, "sum += sums_smem[warp][w][lane];", "sum += sums_smem[0][w][lane];")
            .fast(),
        Mutant::new("weight-gradients-bias-next-column", "a bias is a weight's neighbour", WEIGHT_GRADIENTS).edit(
            FILE,
            "d_bias += of_part[params.columns];",
            "d_bias += of_part[1];",
        ),
        Mutant::new("weight-gradients-parts-overlap", "parts are taken for half as long", WEIGHT_GRADIENTS).edit(
            FILE,
            "static_cast<int64_t>(part) * 2 * params.columns;",
            "static_cast<int64_t>(part) * params.columns;",
        ),
        Mutant::new("weight-gradients-absent", "a gradient that nobody wants is stored", WEIGHT_GRADIENTS)
            .edit(FILE, "if (result == 0) return;", "")
            .hazard(&[BOUNDS]),
        Mutant::new("weight-gradients-of-one-type", "d_bias has the type of d_weight", WEIGHT_GRADIENTS).edit(
            FILE,
            "warp == 0 ? params.d_weight_type : params.d_bias_type;",
            "params.d_weight_type;",
        ),
    ]
}
