//! kernels/attention_forward_sm90.cu, and lib/hopper/turns.cuh.

use super::{
    ASYNC, COUNT, DEADLOCK, GLOBAL_RACE, HOPPER, HOPPER_D64, HOPPER_WIDE, MBARRIER, PROXY, RACE, REGISTERS, UNFINISHED,
    UNWRITTEN, WARPGROUP,
};
use crate::mutant::Mutant;

const FILE: &str = "attention_forward_sm90.cu";

pub fn mutants() -> Vec<Mutant> {
    [copies(), order()].concat()
}

fn copies() -> Vec<Mutant> {
    vec![
        Mutant::new("q-not-waited-for", "Q is multiplied before it is there", HOPPER)
            .edit(FILE, "    side_in_round(shared.q_ring, block.round).wait();\n", "\n")
            .hazard(&[ASYNC, RACE, UNWRITTEN]),
        Mutant::new("keys-of-the-first-sequence", "keys of packed sequences are taken from the first one", HOPPER)
            .edit(FILE, "maps.k, keys.full(), place.first_key + tile * BLOCK_KV", "maps.k, keys.full(), tile * BLOCK_KV"),
        Mutant::new("v-of-the-next-tile", "values are those of the next tile of keys", HOPPER)
            .edit(FILE, "maps.v, values.full(), place.first_key + tile * BLOCK_KV", "maps.v, values.full(), place.first_key + (tile + 1) * BLOCK_KV"),
        Mutant::new("v-of-k", "values are the keys", HOPPER)
            .edit(FILE, "maps.v, values.full(),", "maps.k, values.full(),"),
        Mutant::new("keys-of-the-query-head", "keys and values are those of the head that has the query head's number", HOPPER)
            .edit(FILE, "const int kv_head = place.first_head / shape.heads_per_kv;", "const int kv_head = place.first_head;"),
        Mutant::new("q-of-the-first-block", "every block of work has the first queries", HOPPER)
            .edit(FILE, "place.first_query + place.query(shape, 0), place.first_head / shape.packed_heads, place.tensor_batch);\n    }", "place.first_query, place.first_head / shape.packed_heads, place.tensor_batch);\n    }"),
        Mutant::new("q-released-early", "Q is released before its last product", HOPPER)
            .edit(FILE, "    side_in_round(shared.q_ring, block.round).wait();\n", "    side_in_round(shared.q_ring, block.round).wait();     side_in_round(shared.q_ring, block.round).release();\n")
            .hazard(&[MBARRIER, ASYNC, RACE]),
        Mutant::new("q-not-released", "Q is not released after its last product", HOPPER)
            .edit(FILE, "if (OUT_APART && is_last) side_in_round(", "if (false) side_in_round(")
            .hazard(&[DEADLOCK]),
        Mutant::new("mbarriers-not-announced", "warps use mbarriers that may not be initialised yet", HOPPER)
            .edit(FILE, "  __syncthreads();\n  if (threadIdx.x < 128) {", "\n  if (threadIdx.x < 128) {")
            .hazard(&[MBARRIER]),
    ]
}

fn order() -> Vec<Mutant> {
    vec![
        Mutant::new("k-released-under-its-product", "K is released while the tensor cores read it", HOPPER)
            .edit(FILE, "    ptx::wgmma_wait<1>();\n    finish_scores(is_last);", "    finish_scores(is_last);\n    ptx::wgmma_wait<1>();")
            .hazard(REGISTERS),
        Mutant::new("v-released-under-its-product", "V is released while the tensor cores read it", HOPPER)
            .edit(FILE, "    ptx::wgmma_wait<0>();\n    hold(warp.o);\n    hold(weights);\n    values.release();", "    values.release();\n    hold(warp.o);\n    hold(weights);\n    ptx::wgmma_wait<0>();")
            .hazard(REGISTERS),
        Mutant::new("scores-one-product-early", "scores are read while the tensor cores write them", HOPPER)
            .edit(FILE, "    ptx::wgmma_wait<1>();\n    finish_scores(is_last);", "    ptx::wgmma_wait<2>();\n    finish_scores(is_last);")
            .hazard(REGISTERS),
        Mutant::new("first-scores-early", "the first scores are read while the tensor cores write them", HOPPER)
            .edit(FILE, "  ptx::wgmma_wait<0>();\n  finish_scores(is_last(tiles.start));", "  ptx::wgmma_wait<1>();\n  finish_scores(is_last(tiles.start));")
            .hazard(REGISTERS),
        Mutant::new("output-early", "the output is read while the tensor cores add to it", HOPPER)
            .edit(FILE, "    ptx::wgmma_wait<0>();\n    hold(warp.o);\n    hold(weights);\n    values.release();", "    ptx::wgmma_wait<1>();\n    hold(warp.o);\n    hold(weights);\n    values.release();")
            .hazard(REGISTERS),
        Mutant::new("output-rescaled-early", "the output is rescaled while the tensor cores add to it", HOPPER)
            .edit(FILE, "    finish_output(weights);\n    warp.rescale_output();", "    warp.rescale_output();\n    finish_output(weights);")
            .hazard(REGISTERS),
        Mutant::new("output-rescaled-by-a-warp", "a warp whose rows need it waits for the tensor cores by itself", HOPPER)
            .edit(FILE, "    if (!rescales) return;\n    ptx::mark_as_rare();", "    if (!rescales) return;\n    ptx::mark_as_rare();     ptx::wgmma_wait<0>();")
            .hazard(&[WARPGROUP])
            .fast(),
        Mutant::new("output-not-rescaled", "the output keeps the base that its row had before", HOPPER)
            .edit(FILE, "    warp.rescale_output();", ""),
        Mutant::new("output-rescaled-by-the-upper-row", "both rows of a thread are rescaled by what the upper one needs", HOPPER)
            .edit(FILE, "o[tile][i] *= factor[i / 2];", "o[tile][i] *= factor[0];"),
        Mutant::new("values-not-cleared", "NaN beyond the key length is multiplied by weights of zero", HOPPER)
            .edit(FILE, "      *reinterpret_cast<uint4*>(tile_smem + index * 16) = make_uint4(0, 0, 0, 0);\n    }\n  }\n  ptx::fence", "\n    }\n  }\n  ptx::fence"),
        Mutant::new("values-cleared-too-far", "the first key that takes part is cleared too", HOPPER)
            .edit(FILE, "if (key < block.band.begin || key >= block.band.end) {", "if (key <= block.band.begin || key >= block.band.end) {"),
        Mutant::new("values-cleared-early", "values are cleared before they are there", HOPPER)
            .edit(FILE, "  ring.wait();\n  char* const tile_smem", "\n  char* const tile_smem")
            .hazard(&[ASYNC, RACE]),
        Mutant::new("cleared-without-proxy-fence", "the tensor cores may not see the zeros", HOPPER)
            .edit(FILE, "  ptx::fence_async_proxy();\n  consumers_sync();", "\n  consumers_sync();")
            .hazard(&[PROXY])
            .fast(),
        Mutant::new("cleared-without-barrier", "a warpgroup multiplies what another still clears", HOPPER)
            .edit(FILE, "  ptx::fence_async_proxy();\n  consumers_sync();", "\n  ptx::fence_async_proxy();")
            .hazard(&[RACE, PROXY, ASYNC]),
        Mutant::new("cleared-behind-a-warpgroup", "the barrier after clearing holds a warpgroup only", HOPPER)
            .edit(FILE, "  ptx::fence_async_proxy();\n  consumers_sync();", "  ptx::fence_async_proxy();\n  warpgroup_sync();")
            .hazard(&[RACE, PROXY, ASYNC]),
        Mutant::new("consumers-barrier-of-all", "the barrier of those who compute waits for the filling warpgroup", HOPPER)
            .edit(FILE, "ptx::barrier_sync(CONSUMERS + 1, 128 * CONSUMERS); }", "ptx::barrier_sync(CONSUMERS + 1, 128 * (CONSUMERS + 1)); }")
            .hazard(&[DEADLOCK, COUNT]),
        Mutant::new("q-of-the-first-warpgroup", "all warpgroups multiply the first 64 queries", HOPPER)
            .edit(FILE, "uniform(threadIdx.x / 128 - 1) * 64 * 128);", "0 * uniform(threadIdx.x / 128 - 1));"),
        Mutant::new("q-wide-released-under-the-output", "Q is copied to where the output is still read from", HOPPER_WIDE)
            .edit(FILE, "      if (threadIdx.x % 128 == 0) ptx::bulk_wait_read<0>();\n      warpgroup_sync();", "\n      warpgroup_sync();")
            .hazard(&[ASYNC, RACE, MBARRIER]),
        Mutant::new("output-not-waited-for", "the block ends while the copy engine reads its shared memory", HOPPER_D64)
            .edit(FILE, "  ConsumerTurns::end();\n  if (threadIdx.x % 128 == 0) ptx::bulk_wait_read<0>();\n", "\n  ConsumerTurns::end();\n")
            .hazard(&[UNFINISHED]),
        Mutant::new("output-of-the-first-warpgroup", "all warpgroups store to the first 64 rows", HOPPER_D64)
            .edit(FILE, "place.first_query + place.query(shape, warpgroup_first),", "place.first_query + place.query(shape, 0),")
            .hazard(&[ASYNC, GLOBAL_RACE]),
        Mutant::new("turns-of-one", "every warpgroup takes the turn of the first", HOPPER_D64)
            .edit("lib/hopper/turns.cuh", "    if constexpr (ENABLED) ptx::barrier_sync(mine(), 256);", "    if constexpr (ENABLED) ptx::barrier_sync(FIRST, 256);")
            .hazard(&[DEADLOCK, COUNT]),
        Mutant::new("turns-not-handed-on", "no warpgroup hands its turn on", HOPPER_D64)
            .edit("lib/hopper/turns.cuh", "      ptx::barrier_arrive(barrier == LAST ? FIRST : barrier + 1, 256);", "")
            .hazard(&[DEADLOCK]),
        Mutant::new("turns-never-begin", "nobody hands the first turn to the first warpgroup", HOPPER_D64)
            .edit("lib/hopper/turns.cuh", "    if (ENABLED && mine() == LAST) ptx::barrier_arrive(FIRST, 256);", "")
            .hazard(&[DEADLOCK]),
    ]
}
