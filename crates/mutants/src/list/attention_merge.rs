//! kernels/attention_merge.cu.

use super::{BOUNDS, GLOBAL_RACE, MERGE};
use crate::mutant::Mutant;

const FILE: &str = "attention_merge.cu";

pub fn mutants() -> Vec<Mutant> {
    vec![
        Mutant::new("merge-not-normalised", "weights are not divided by their sum", MERGE).edit(
            FILE,
            "power * ptx::rcp_approx(sum)",
            "power",
        ),
        Mutant::new("merge-of-nothing", "a row without anything computes -inf - (-inf)", MERGE)
            .edit(FILE, "largest == -CUDART_INF_F ? 0.0f : largest", "largest")
            .fast(),
        Mutant::new("merge-of-empty-parts", "parts that saw no key are multiplied by a weight of 0", MERGE).edit(
            FILE,
            "is_part && score != -CUDART_INF_F",
            "is_part",
        ),
        Mutant::new("merge-weight-of-nothing", "a row without anything divides by its sum, which is 0", MERGE)
            .edit(FILE, "sum == 0.0f ? 0.0f : power", "power")
            .equivalent("no part takes part in such a row, so that nobody asks for the weights"),
        Mutant::new("merge-without-sink", "the sink is left out", MERGE).edit(
            FILE,
            "lane == ATTENTION_MERGE_MAX && params.sinks != 0",
            "false",
        ),
        Mutant::new("merge-sink-of-head-0", "all heads have the first one's sink", MERGE).edit(
            FILE,
            "(params.sinks)[head];",
            "(params.sinks)[0];",
        ),
        Mutant::new("merge-sink-of-every-lane", "the sink takes the place of a part's lse", MERGE).edit(
            FILE,
            "lane == ATTENTION_MERGE_MAX && params.sinks",
            "lane == 0 && params.sinks",
        ),
        Mutant::new("merge-in-base-e", "lses are taken as if they were in base 2", MERGE).edit(
            FILE,
            "(score - base) * LOG2E",
            "score - base",
        ),
        Mutant::new("merge-lse-without-base", "the log-sum-exp leaves the base out", MERGE).edit(
            FILE,
            "LN2, base);",
            "LN2, 0.0f);",
        ),
        Mutant::new("merge-lse-of-nothing", "the log-sum-exp of a row without anything has no case of its own", MERGE)
            .edit(FILE, "sum == 0.0f ? -CUDART_INF_F : fmaf(", "fmaf(")
            .equivalent("the base of such a row is 0, and lg2(0) = -inf"),
        Mutant::new("merge-weight-of-the-lane", "every lane weighs with its own part's weight", MERGE).edit(
            FILE,
            "__shfl_sync(0xffffffff, weight, part)",
            "weight",
        ),
        Mutant::new("merge-columns-unbounded", "as many columns are stored as a warp has lanes", MERGE)
            .edit(FILE, "if (d < params.head_dim_v) out[d]", "out[d]")
            .hazard(&[BOUNDS, GLOBAL_RACE]),
        Mutant::new("merge-first-columns-only", "only the first 32 columns are written", MERGE).edit(
            FILE,
            "first < params.head_dim_v; first += 32",
            "first < min(params.head_dim_v, 32u); first += 32",
        ),
        Mutant::new("merge-part-15-lost", "the last part is left out", MERGE).edit(
            FILE,
            "lane < ATTENTION_MERGE_MAX && params.parts",
            "lane < ATTENTION_MERGE_MAX - 1 && params.parts",
        ),
    ]
}
