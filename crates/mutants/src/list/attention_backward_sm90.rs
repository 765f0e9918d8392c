//! kernels/attention_backward_key_value_sm90.cu and attention_backward_query_sm90.cu.

use super::{ASYNC, BOUNDS, DEADLOCK, HOPPER_KEY_VALUE, HOPPER_QUERY, MBARRIER, PROXY, RACE, REGISTERS, UNWRITTEN};
use crate::mutant::Mutant;

const KEY_VALUE: &str = "attention_backward_key_value_sm90.cu";
const QUERY: &str = "attention_backward_query_sm90.cu";

pub fn mutants() -> Vec<Mutant> {
    vec![
        Mutant::new("kv-numbers-stored-at-once", "queries' numbers are overwritten while they are read", HOPPER_KEY_VALUE)
            .edit(KEY_VALUE, "      queries.start_storing();\n#pragma unroll", "\n#pragma unroll")
            .hazard(&[RACE, MBARRIER]),
        Mutant::new("kv-numbers-of-the-next-tile", "queries have the numbers of those a tile further on", HOPPER_KEY_VALUE)
            .edit(KEY_VALUE, "const int64_t stat = block.place.stat(params.shape, head, first_query + row);", "const int64_t stat = block.place.stat(params.shape, head, first_query + BLOCK_Q + row);")
            .hazard(&[BOUNDS, UNWRITTEN]),
        Mutant::new("kv-missing-query-has-a-weight", "a query that does not exist takes part with an lse of 0", HOPPER_KEY_VALUE)
            .edit(KEY_VALUE, ": CUDART_INF_F;", ": 0.0f;")
            .equivalent("the filled-up rows of Q and of the output's gradient are zero, and so is what they add to every sum"),
        Mutant::new("kv-released-by-a-lane", "a buffer is released while other lanes read the queries' numbers", HOPPER_KEY_VALUE)
            .edit(KEY_VALUE, "      // All lanes have read the queries' numbers.\n      __syncwarp();\n", "\n\n")
            .hazard(&[RACE]),
        Mutant::new("kv-scores-early", "scores are read while the tensor cores write them", HOPPER_KEY_VALUE)
            .edit(KEY_VALUE, "      ptx::wgmma_wait<GENERAL ? 0 : 1>();\n      hold(s);", "      ptx::wgmma_wait<2>();\n      hold(s);")
            .hazard(REGISTERS),
        Mutant::new("kv-dp-early", "dP is read while the tensor cores write it", HOPPER_KEY_VALUE)
            .edit(KEY_VALUE, "      ptx::wgmma_wait<GENERAL ? 0 : 1>();\n      hold(dp);", "      ptx::wgmma_wait<2>();\n      hold(dp);")
            .hazard(REGISTERS),
        Mutant::new("kv-released-under-its-products", "Q and dO are released while the tensor cores read them", HOPPER_KEY_VALUE)
            .edit(KEY_VALUE, "      ptx::wgmma_wait<0>();\n      hold(dv);\n      hold(dk);\n      hold(weights);\n      hold(gradients);\n      // All lanes", "\n\n\n\n\n      // All lanes")
            .hazard(REGISTERS),
        Mutant::new("kv-foreign-queries-not-cleared", "NaN among the queries of the next sequence reaches the gradients", HOPPER_KEY_VALUE)
            .edit(KEY_VALUE, "  clear_rows<TileQ, 128 * CONSUMERS>(q_smem, num_queries, end, threadIdx.x - 128);", ""),
        Mutant::new("kv-keys-released-early", "K and V are released before the last product with them", HOPPER_KEY_VALUE)
            .edit(KEY_VALUE, "  if constexpr (RESULTS_APART == HAS_STORED) return;", "  if constexpr (HAS_STORED) return;")
            .edit(KEY_VALUE, "    side_in_round(shared.key_ring, block.round).wait();\n#pragma unroll 1\n    for (Walk walk(block, shape); walk.exists(); walk.advance()) {\n      const bool is_full", "    side_in_round(shared.key_ring, block.round).wait();\n    release_keys<false>(shared, block);\n#pragma unroll 1\n    for (Walk walk(block, shape); walk.exists(); walk.advance()) {       const bool is_full")
            .hazard(&[MBARRIER, ASYNC, RACE]),
        Mutant::new("kv-dk-unscaled", "the gradient of k lacks the scale", HOPPER_KEY_VALUE)
            .edit(KEY_VALUE, "  store<TileK>(dk, params.shape.scale,", "  store<TileK>(dk, 1.0f,"),
        Mutant::new("kv-one-head-of-the-group", "the gradients of a key head lack all but the first query head", HOPPER_KEY_VALUE)
            .edit(KEY_VALUE, "heads(block.tiles.start < block.tiles.end ? shape.heads_per_kv : 0)", "heads(block.tiles.start < block.tiles.end ? 1 : 0)")
            .hazard(&[DEADLOCK]),
        Mutant::new("q-dq-unscaled", "the gradient of q lacks the scale", HOPPER_QUERY)
            .edit(QUERY, "{shape.scale, shape.scale}", "{1.0f, 1.0f}"),
        Mutant::new("q-k-released-under-its-product", "K is released while the tensor cores read it", HOPPER_QUERY)
            .edit(QUERY, "        ptx::wgmma_wait<0>();\n        hold(warp.dq);\n        hold(gradients);\n        keys.release();", "        ptx::wgmma_wait<1>();\n        hold(warp.dq);\n        hold(gradients);\n        keys.release();")
            .hazard(REGISTERS),
        Mutant::new("q-hidden-keys-not-cleared", "NaN among the keys that take no part reaches the gradient", HOPPER_QUERY)
            .edit(QUERY, "  clear_rows<TileK, 128 * CONSUMERS>(k_smem, end_visible, end, threadIdx.x - 128);", ""),
        Mutant::new("q-cleared-without-barrier", "a warpgroup multiplies keys that another still clears", HOPPER_QUERY)
            .edit(QUERY, "  ptx::barrier_sync(CONSUMERS + 1, 128 * CONSUMERS);", "")
            .hazard(&[RACE, PROXY, ASYNC]),
        Mutant::new("q-dp-early", "dP is read while the tensor cores write it", HOPPER_QUERY)
            .edit(QUERY, "      ptx::wgmma_wait<0>();\n      hold(dp);", "      ptx::wgmma_wait<1>();\n      hold(dp);")
            .hazard(REGISTERS),
        Mutant::new("q-v-of-k", "the values of the gradient's product are the keys", HOPPER_QUERY)
            .edit(QUERY, "load_tile<TileV>(shared.v[values.stage], maps.v,", "load_tile<TileV>(shared.v[values.stage], maps.k,"),
    ]
}
