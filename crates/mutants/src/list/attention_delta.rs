//! kernels/attention_delta.cu.

use super::{BOUNDS, DELTA, GLOBAL_RACE};
use crate::mutant::Mutant;

const FILE: &str = "attention_delta.cu";

pub fn mutants() -> Vec<Mutant> {
    vec![
        Mutant::new("d-lse-added", "the gradient of lse is added to delta", DELTA)
            .edit(FILE, "sum - d_lse;", "sum + d_lse;")
            .fast(),
        Mutant::new("d-lse-always-read", "the gradient of lse is read where there is none", DELTA)
            .edit(FILE, "params.d_lse == 0 ? 0.0f :", "false ? 0.0f :")
            .hazard(&[BOUNDS]),
        Mutant::new("delta-of-32-columns", "only the first 32 columns of a row count", DELTA).edit(
            FILE,
            "d < params.head_dim_v; d += 32",
            "d < min(params.head_dim_v, 32u); d += 32",
        ),
        Mutant::new("delta-columns-unbounded", "as many columns are read as a warp has lanes", DELTA).edit(
            FILE,
            "d < params.head_dim_v; d += 32",
            "d < (params.head_dim_v + 31) / 32 * 32; d += 32",
        ),
        Mutant::new("delta-of-head-0", "all heads write the first one's delta", DELTA)
            .edit(FILE, "head * params.lse_head + query", "query")
            .hazard(&[GLOBAL_RACE]),
        Mutant::new("delta-past-the-last-row", "warps past the last row do not end", DELTA)
            .edit(FILE, "if (batch_idx >= params.batch) return;", "")
            .hazard(&[BOUNDS]),
    ]
}
