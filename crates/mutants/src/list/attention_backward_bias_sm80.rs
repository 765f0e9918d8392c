//! kernels/attention_backward_bias_sm80.cu.

use super::{ASYNC, BIAS, BIAS_FLOAT, BOUNDS, GLOBAL_RACE, RACE, UNWRITTEN};
use crate::mutant::Mutant;

const FILE: &str = "attention_backward_bias_sm80.cu";

pub fn mutants() -> Vec<Mutant> {
    vec![
        Mutant::new("d-bias-tiles-unsynchronised", "copies start before everybody is done with the tiles before", BIAS)
            .edit(FILE, "tiles before.\n  __syncthreads();", "tiles before.\n  ")
            .hazard(&[RACE, ASYNC]),
        Mutant::new("d-bias-barrier-missing", "no barrier between the copies and the products", BIAS)
            .edit(FILE, "ptx::cp_async_wait<0>();\n  __syncthreads();", "ptx::cp_async_wait<0>();\n  ")
            .hazard(&[RACE, ASYNC]),
        Mutant::new("d-bias-wait-missing", "the tiles are read without a wait for their copies", BIAS)
            .edit(FILE, "ptx::cp_async_wait<0>();\n  __syncthreads();", "\n  __syncthreads();")
            .hazard(&[ASYNC]),
        Mutant::new(
            "d-bias-partials-before-barrier",
            "partial sums are written before everybody is done with Q's tile",
            BIAS,
        )
        .edit(FILE, "Q's tile.\n  __syncthreads();", "Q's tile.\n  ")
        .hazard(&[RACE, ASYNC]),
        Mutant::new(
            "d-bias-partials-unsynchronised",
            "partial sums are read before every warp has written its own",
            BIAS,
        )
        .edit(FILE, "sums are there.\n  __syncthreads();", "sums are there.\n  ")
        .hazard(&[RACE, UNWRITTEN])
        .fast(),
        Mutant::new("d-bias-of-head-0", "a bias of all heads gets the gradient of the first one", BIAS).edit(
            FILE,
            "params.bias_heads == 1 ? shape.heads_q : bias_head + 1;",
            "bias_head + 1;",
        ),
        Mutant::new("d-bias-heads-all", "a head's bias gets the gradients of the heads after it too", BIAS).edit(
            FILE,
            "params.bias_heads == 1 ? shape.heads_q : bias_head + 1;",
            "shape.heads_q;",
        ),
        Mutant::new("d-bias-of-sequence-0", "a bias of all sequences gets the gradient of the first one", BIAS).edit(
            FILE,
            "params.bias_batch == 1 || sequence.idx == bias_batch",
            "sequence.idx == bias_batch",
        ),
        Mutant::new("d-bias-of-the-first-tile", "a bias of all queries gets the gradient of the first tile's", BIAS)
            .edit(FILE, "has_one_row ? sequence.len_q : own_query + 1;", "own_query + 1;"),
        Mutant::new("d-bias-queries-of-sequence-0", "all packed sequences have the first one's queries", BIAS).edit(
            FILE,
            "sequence.first_query += sequence.len_q;",
            "",
        ),
        Mutant::new("d-bias-keys-of-sequence-0", "all packed sequences have the first one's keys", BIAS).edit(
            FILE,
            "sequence.first_key += sequence.len_kv;",
            "",
        ),
        Mutant::new("d-bias-lengths-ignored", "keys past a sequence's length count", BIAS).edit(
            FILE,
            "if (key_lengths != nullptr) sequence.key_length",
            "if (false) sequence.key_length",
        ),
        Mutant::new("d-bias-key-head-is-query-head", "the key head is taken from the query head's number", BIAS)
            .edit(FILE, "head / shape.heads_per_kv;", "head;")
            .counters(),
        Mutant::new("d-bias-rows-unbounded", "as many rows are stored as the tile has", BIAS)
            .edit(FILE, "query < static_cast<int>(params.bias_queries) && key", "key")
            .hazard(&[BOUNDS, GLOBAL_RACE]),
        Mutant::new("d-bias-keys-unbounded", "as many keys are stored as the tile has", BIAS)
            .edit(FILE, "(params.bias_queries) && key < params.bias_keys)", "(params.bias_queries))")
            .hazard(&[BOUNDS, GLOBAL_RACE]),
        Mutant::new("d-bias-row-unbounded", "as many keys are stored of a bias of one row", BIAS).edit(
            FILE,
            "threadIdx.x < BLOCK_KV && key < params.bias_keys",
            "threadIdx.x < BLOCK_KV",
        ),
        Mutant::new("d-bias-rows-of-half-a-warp", "half of a warp's rows are left out of its sum", BIAS).edit(
            FILE,
            "distance < 32; distance *= 2) column",
            "distance < 16; distance *= 2) column",
        ),
        Mutant::new("d-bias-lower-rows-lost", "rows 8 to 15 are left out of a warp's sum", BIAS).edit(
            FILE,
            "sum[key_tile][i] + sum[key_tile][2 + i];",
            "sum[key_tile][i];",
        ),
        Mutant::new("d-bias-last-warp-lost", "the last warp is left out of the sum", BIAS).edit(
            FILE,
            "warp < WARPS; ++warp) column",
            "warp < WARPS - 1; ++warp) column",
        ),
        Mutant::new("d-bias-partials-in-one-place", "all warps leave their sums in one place", BIAS)
            .edit(FILE, "threadIdx.x / 32 * BLOCK_KV + 8 * key_tile", "8 * key_tile")
            .hazard(&[RACE, UNWRITTEN]),
        Mutant::new("d-bias-numbers-of-head-0", "all heads have the first one's lse and delta", BIAS).edit(
            FILE,
            "head * shape.lse_head + sequence.first_query",
            "sequence.first_query",
        ),
        Mutant::new("d-bias-dropout-unscaled", "the gradient of kept weights is not scaled up", BIAS).edit(
            FILE,
            "dp_frag[0][key_tile][i] * kept_scale : 0.0f",
            "dp_frag[0][key_tile][i] : 0.0f",
        ),
        Mutant::new("d-bias-block-exchanged", "key tile and query tile of a block change places", BIAS_FLOAT)
            .edit(FILE, "tile % key_blocks * BLOCK_KV", "tile / key_blocks * BLOCK_KV")
            .edit(FILE, "tile / key_blocks * BLOCK_Q", "tile % key_blocks * BLOCK_Q")
            .hazard(&["global memory race"]),
        Mutant::new("d-bias-nothing-skipped", "tiles in which nothing is visible are computed too", BIAS)
            .edit(
                FILE,
                "if (!band.any(first_query, first_query + num_queries - 1, first_key, first_key + num_keys)) return;",
                "",
            )
            .counters(),
    ]
}
