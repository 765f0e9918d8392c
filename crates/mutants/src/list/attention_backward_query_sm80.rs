//! kernels/attention_backward_query_sm80.cu.

use super::{ASYNC, BOUNDS, QUERY, QUERY_FLOAT, RACE, UNWRITTEN};
use crate::mutant::Mutant;

const FILE: &str = "attention_backward_query_sm80.cu";

pub fn mutants() -> Vec<Mutant> {
    vec![
        Mutant::new(
            "d-q-barrier-a-missing",
            "no barrier between the copies of K and V and the products with them",
            QUERY,
        )
        .edit(
            FILE,
            "ptx::cp_async_wait<0>();\n    __syncthreads();\n    float p_frag",
            "ptx::cp_async_wait<0>();\n    \n    float p_frag",
        )
        .hazard(&[RACE, ASYNC]),
        Mutant::new("d-q-wait-missing", "K and V are read without a wait for their copies", QUERY)
            .edit(
                FILE,
                "ptx::cp_async_wait<0>();\n    __syncthreads();\n    float p_frag",
                "\n    __syncthreads();\n    float p_frag",
            )
            .hazard(&[ASYNC]),
        Mutant::new("d-q-barrier-b-missing", "copies of V(n+1) start before everybody is done with V(n)", QUERY)
            .edit(FILE, "__syncthreads();\n    const int next", "\n    const int next")
            .hazard(&[RACE, ASYNC])
            .fast(),
        Mutant::new("d-q-barrier-c-missing", "copies of K(n+1) start before everybody is done with K(n)", QUERY)
            .edit(
                FILE,
                "__syncthreads();\n    if (next < block.tiles.end) load_k(next);",
                "\n    if (next < block.tiles.end) load_k(next);",
            )
            .hazard(&[RACE, ASYNC]),
        Mutant::new("d-q-k-before-barrier-c", "copies of K(n+1) start together with those of V(n+1)", QUERY)
            .edit(
                FILE,
                "load_v(next);\n    const float",
                "load_v(next); if (next < block.tiles.end) load_k(next);\n    const float",
            )
            .edit(FILE, "__syncthreads();\n    if (next < block.tiles.end) load_k(next);", "__syncthreads();\n")
            .hazard(&[RACE, ASYNC]),
        Mutant::new("d-q-block-state-unsynchronised", "a block's state is read before thread 0 has written it", QUERY)
            .edit(
                FILE,
                "= here;\n    // Everybody reads what thread 0 wrote, again after every barrier.\n    __syncthreads();",
                "= here;\n\n",
            )
            .hazard(&[RACE, UNWRITTEN]),
        Mutant::new("d-q-commit-missing", "copies of K and V are not committed to a group", QUERY)
            .edit(FILE, "ptx::cp_async_commit();", "")
            .hazard(&[ASYNC]),
        Mutant::new("d-q-unscaled", "the gradient of q is not scaled as the scores were", QUERY).edit(
            FILE,
            "{{shape.scale, shape.scale}}",
            "{{1.0f, 1.0f}}",
        ),
        Mutant::new("d-q-dropout-unscaled", "the gradient of kept weights is not scaled up", QUERY).edit(
            FILE,
            "dp_frag[0][key_tile][i] * kept_scale : 0.0f",
            "dp_frag[0][key_tile][i] : 0.0f",
        ),
        Mutant::new("d-q-nothing-dropped", "the gradient of dropped weights counts", QUERY).edit(
            FILE,
            "keep >> (4 * key_tile + i) & 1 ?",
            "true ?",
        ),
        Mutant::new("d-q-dropout-of-sequence-0", "every sequence is dropped like the first one", QUERY).edit(
            FILE,
            "{place.sequence * shape.heads_q + score_place.head[0],",
            "{score_place.head[0],",
        ),
        Mutant::new("d-q-delta-of-upper-row", "both rows of a thread have the upper one's delta", QUERY).edit(
            FILE,
            "dp, delta[i / 2],",
            "dp, delta[0],",
        ),
        Mutant::new("d-q-base-of-upper-row", "both rows of a thread have the upper one's base", QUERY).edit(
            FILE,
            "- base_log2[i / 2]",
            "- base_log2[0]",
        ),
        Mutant::new("d-q-numbers-of-missing-rows", "lse and delta are read for rows that do not exist", QUERY)
            .edit(FILE, "exists ? place.stat(shape, row) : 0;", "place.stat(shape, row);")
            .edit(
                FILE,
                "exists ? base_of_lse(reinterpret_cast<const float*>(params.lse)[stat]) : CUDART_INF_F;",
                "base_of_lse(reinterpret_cast<const float*>(params.lse)[stat]);",
            )
            .hazard(&[BOUNDS]),
        Mutant::new("d-q-weights-of-missing-rows", "rows that do not exist have weights", QUERY)
            .edit(FILE, "(params.lse)[stat]) : CUDART_INF_F;", "(params.lse)[stat]) : 0.0f;")
            .equivalent("a row of d_q depends on the row of q alone, and rows that do not exist are not stored"),
        Mutant::new("d-q-full-too-long", "tiles past the last fully visible one are taken for fully visible", QUERY)
            .edit(FILE, " && tile < block.tiles.full_end;", ";"),
        Mutant::new(
            "d-q-full-too-early",
            "tiles before the first fully visible one are taken for fully visible",
            QUERY,
        )
        .edit(FILE, "tile >= block.tiles.full_start && tile", "tile"),
        Mutant::new("d-q-keys-before-the-range", "keys before those that take part are copied", QUERY).edit(
            FILE,
            "block.band.begin - first_key, block.band.end",
            "0, block.band.end",
        ),
        Mutant::new("d-q-keys-past-the-end", "keys past those that take part are copied", QUERY).edit(
            FILE,
            "block.band.end - first_key, columns",
            "BLOCK_KV, columns",
        ),
        Mutant::new("d-q-derivative-zero", "without softcap the derivative is 0", QUERY).edit(
            FILE,
            "derivative[key_tile][i] = 1.0f;",
            "derivative[key_tile][i] = 0.0f;",
        ),
        Mutant::new("d-q-f32-rows", "f32 rounds the score gradients to the upper halves of their bits", QUERY_FLOAT)
            .edit(
                FILE,
                "ds[0].set(key_tile, 1, gradient[2], gradient[3]);",
                "ds[0].set(key_tile, 1, __bfloat162float(__float2bfloat16_rn(gradient[2])), gradient[3]);",
            ),
    ]
}
