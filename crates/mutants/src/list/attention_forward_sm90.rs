//! kernels/attention_forward_sm90.cu, and lib/hopper/work.cuh.

use super::{
    ASYNC, COUNT, DEADLOCK, GLOBAL_RACE, HOPPER, HOPPER_D64, HOPPER_WIDE, MBARRIER, PROXY, RACE, REGISTERS, UNFINISHED,
    UNWRITTEN,
};
use crate::mutant::Mutant;

const FILE: &str = "attention_forward_sm90.cu";

pub fn mutants() -> Vec<Mutant> {
    [copies(), order(), output()].concat()
}

fn copies() -> Vec<Mutant> {
    vec![
        Mutant::new("q-not-waited-for", "Q is multiplied before it is there", HOPPER)
            .edit(FILE, "  rings.q.wait();\n", "  \n")
            .hazard(&[ASYNC, RACE, UNWRITTEN]),
        Mutant::new("keys-of-the-first-sequence", "keys and values of packed sequences are taken from the first one", HOPPER)
            .edit(FILE, "const int key = place.first_key + tile * BLOCK_KV + part_row();", "const int key = tile * BLOCK_KV + part_row();"),
        Mutant::new("v-of-the-next-tile", "values are those of the next tile of keys", HOPPER)
            .edit(FILE, "fill_tile(rings.v, maps.v, TileV(), shared.v[0], tile);", "fill_tile(rings.v, maps.v, TileV(), shared.v[0], tile + 1);"),
        Mutant::new("v-of-k", "values are the keys", HOPPER)
            .edit(FILE, "fill_tile(rings.v, maps.v, TileV(), shared.v[0], tile);", "fill_tile(rings.v, maps.k, TileV(), shared.v[0], tile);"),
        Mutant::new("keys-of-the-query-head", "keys and values are those of the head that has the query head's number", HOPPER)
            .edit(FILE, "const int kv_head = place.first_head / shape.heads_per_kv;", "const int kv_head = place.first_head;"),
        Mutant::new("one-panel-short", "the last panel of a tile is not copied", HOPPER)
            .edit(FILE, "for (int panel = 0; panel < TileOf::COUNT; ++panel) {", "for (int panel = 0; panel < TileOf::COUNT - 1; ++panel) {")
            .hazard(&[DEADLOCK]),
        Mutant::new("panels-in-one-place", "all panels of a tile are copied to the place of the first", HOPPER)
            .edit(FILE, "const uint32_t panel_smem = tile_smem + panel * TileOf::PANEL_BYTES;", "const uint32_t panel_smem = tile_smem;")
            .hazard(&[ASYNC, UNWRITTEN]),
        Mutant::new("q-of-the-first-block", "every piece of work has the first queries", HOPPER)
            .edit(FILE, "place.first_query + place.query(shape, 0), place.first_head / shape.packed_heads,\n                        place.tensor_batch);\n        }\n        rings.q.advance();", "place.first_query, place.first_head / shape.packed_heads,\n                        place.tensor_batch);\n        }\n        rings.q.advance();"),
        Mutant::new("q-ring-stays", "the filling warp takes Q to be free at once after its first copy", HOPPER)
            .edit(FILE, "place.tensor_batch);\n        }\n        rings.q.advance();", "place.tensor_batch);\n        }\n        ")
            .hazard(&[DEADLOCK, ASYNC, MBARRIER, RACE]),
        Mutant::new("q-released-early", "Q is released before its last product", HOPPER)
            .edit(FILE, "  rings.q.wait();\n", "  rings.q.wait(); rings.q.release();\n")
            .hazard(&[MBARRIER, ASYNC, RACE]),
        Mutant::new("mbarriers-not-announced", "warps use mbarriers that may not be initialised yet", HOPPER)
            .edit(FILE, "  if constexpr (CLUSTER == 1) {\n    __syncthreads();", "  if constexpr (CLUSTER == 1) {\n    ")
            .hazard(&[MBARRIER]),
        Mutant::new("work-in-one-order", "who has the longest piece of work of one round has that of the next", HOPPER)
            .edit("lib/hopper/work.cuh", "index = 2 * (round + 1) * num_clusters - 1 - index;", "index += num_clusters + 0 * round;")
            .equivalent("every piece of work is still done once; only how evenly blocks are loaded changes"),
        Mutant::new("work-done-twice", "two blocks do the same pieces of work, and others are left", HOPPER)
            .edit("lib/hopper/work.cuh", "index = 2 * (round + 1) * num_clusters - 1 - index;", "index = 2 * (round + 1) * num_clusters - 2 - index;")
            .hazard(&[GLOBAL_RACE, ASYNC, DEADLOCK]),
    ]
}

fn order() -> Vec<Mutant> {
    vec![
        Mutant::new("k-released-under-its-product", "K is released while the tensor cores read it", HOPPER)
            .edit(FILE, "    ptx::wgmma_wait<1>();\n    finish_scores();", "    finish_scores();\n    ptx::wgmma_wait<1>();")
            .hazard(REGISTERS),
        Mutant::new("v-released-under-its-product", "V is released while the tensor cores read it", HOPPER)
            .edit(FILE, "    ptx::wgmma_wait<0>();\n    hold(warp.o);\n    hold(weights);\n    rings.v.release();", "    rings.v.release();\n    hold(warp.o);\n    hold(weights);\n    ptx::wgmma_wait<0>();")
            .hazard(REGISTERS),
        Mutant::new("scores-one-product-early", "scores are read while the tensor cores write them", HOPPER)
            .edit(FILE, "    ptx::wgmma_wait<1>();\n    finish_scores();", "    ptx::wgmma_wait<2>();\n    finish_scores();")
            .hazard(REGISTERS),
        Mutant::new("first-scores-early", "the first scores are read while the tensor cores write them", HOPPER)
            .edit(FILE, "  ptx::wgmma_wait<0>();\n  finish_scores();", "  ptx::wgmma_wait<1>();\n  finish_scores();")
            .hazard(REGISTERS),
        Mutant::new("output-early", "the output is read while the tensor cores add to it", HOPPER)
            .edit(FILE, "    ptx::wgmma_wait<0>();\n    hold(warp.o);\n    hold(weights);\n    rings.v.release();", "    ptx::wgmma_wait<1>();\n    hold(warp.o);\n    hold(weights);\n    rings.v.release();")
            .hazard(REGISTERS),
        Mutant::new("output-rescaled-early", "the output is rescaled while the tensor cores add to it", HOPPER)
            .edit(FILE, "      // The tensor cores may still be adding to the output.\n      ptx::wgmma_wait<0>();", "      // The tensor cores may still be adding to the output.\n      ")
            .hazard(REGISTERS),
        Mutant::new("values-not-cleared", "NaN beyond the key length is multiplied by weights of zero", HOPPER)
            .edit(FILE, "      *reinterpret_cast<uint4*>(tile_smem + index * 16) = make_uint4(0, 0, 0, 0);", "      "),
        Mutant::new("values-cleared-too-far", "the first key that takes part is cleared too", HOPPER)
            .edit(FILE, "if (key < block.band.begin || key >= block.band.end) {", "if (key <= block.band.begin || key >= block.band.end) {"),
        Mutant::new("values-cleared-early", "values are cleared before they are there", HOPPER)
            .edit(FILE, "  ring.wait();\n  char* const tile_smem", "  \n  char* const tile_smem")
            .hazard(&[ASYNC, RACE]),
        Mutant::new("cleared-without-proxy-fence", "the tensor cores may not see the zeros", HOPPER)
            .edit(FILE, "  ptx::fence_async_proxy();\n  consumers_sync();", "  \n  consumers_sync();")
            .hazard(&[PROXY]),
        Mutant::new("cleared-without-barrier", "a warpgroup multiplies what another still clears", HOPPER)
            .edit(FILE, "  ptx::fence_async_proxy();\n  consumers_sync();", "  ptx::fence_async_proxy();\n  ")
            .hazard(&[RACE, PROXY, ASYNC]),
        Mutant::new("cleared-behind-a-warpgroup", "the barrier after clearing holds a warpgroup only", HOPPER)
            .edit(FILE, "  ptx::fence_async_proxy();\n  consumers_sync();", "  ptx::fence_async_proxy();\n  warpgroup_sync();")
            .hazard(&[RACE, PROXY, ASYNC]),
        Mutant::new("consumers-barrier-of-all", "the barrier of those who compute waits for the filling warpgroup", HOPPER)
            .edit(FILE, "ptx::barrier_sync(CONSUMERS + 1, 128 * CONSUMERS); }", "ptx::barrier_sync(CONSUMERS + 1, 128 * (CONSUMERS + 1)); }")
            .hazard(&[DEADLOCK]),
        Mutant::new("warpgroups-share-a-barrier", "all warpgroups use the barrier of the first", HOPPER)
            .edit(FILE, "ptx::barrier_sync(threadIdx.x / 128, 128); }", "ptx::barrier_sync(1, 128); }")
            .hazard(&[RACE, ASYNC, PROXY, COUNT]),
        Mutant::new("q-of-the-first-warpgroup", "all warpgroups multiply the first 64 queries", HOPPER)
            .edit(FILE, "(uniform(threadIdx.x / 128) - 1) * 64 * 128);", "0 * uniform(threadIdx.x / 128));"),
        Mutant::new("q-wide-released-under-the-output", "Q is copied to where the output is still read from", HOPPER_WIDE)
            .edit(FILE, "        if (threadIdx.x % 128 == 0) ptx::bulk_wait_read<0>();\n        ptx::fence_async_proxy();\n        warpgroup_sync();", "        \n        ptx::fence_async_proxy();\n        warpgroup_sync();")
            .hazard(&[ASYNC, RACE]),
    ]
}

fn output() -> Vec<Mutant> {
    vec![
        Mutant::new(
            "output-staged-under-its-copy",
            "the next output is staged while the copy engine reads the last",
            HOPPER_D64,
        )
        .edit(
            FILE,
            "  if (leads_warpgroup) ptx::bulk_wait_read<0>();\n  warpgroup_sync();\n#pragma unroll",
            "  \n  warpgroup_sync();\n#pragma unroll",
        )
        .hazard(&[ASYNC, RACE]),
        Mutant::new(
            "output-wait-unannounced",
            "warps do not wait for the lane that waits for the copy engine",
            HOPPER_D64,
        )
        .edit(
            FILE,
            "  if (leads_warpgroup) ptx::bulk_wait_read<0>();\n  warpgroup_sync();\n#pragma unroll",
            "  if (leads_warpgroup) ptx::bulk_wait_read<0>();\n  \n#pragma unroll",
        )
        .hazard(&[ASYNC, RACE]),
        Mutant::new("output-without-proxy-fence", "the copy engine may not see the output", HOPPER_D64)
            .edit(
                FILE,
                "    ptx::fence_async_proxy();\n    warpgroup_sync();\n    if (leads_warpgroup) {",
                "    \n    warpgroup_sync();\n    if (leads_warpgroup) {",
            )
            .hazard(&[PROXY]),
        Mutant::new("output-without-barrier", "the copy engine reads what other warps have not staged", HOPPER_D64)
            .edit(
                FILE,
                "    ptx::fence_async_proxy();\n    warpgroup_sync();\n    if (leads_warpgroup) {",
                "    ptx::fence_async_proxy();\n    \n    if (leads_warpgroup) {",
            )
            .hazard(&[RACE, PROXY, UNWRITTEN]),
        Mutant::new(
            "output-fence-of-the-leader",
            "only the lane that stores fences, and so not what the others wrote",
            HOPPER_D64,
        )
        .edit(
            FILE,
            "    ptx::fence_async_proxy();\n    warpgroup_sync();\n    if (leads_warpgroup) {",
            "    if (leads_warpgroup) ptx::fence_async_proxy();\n    warpgroup_sync();\n    if (leads_warpgroup) {",
        )
        .hazard(&[PROXY]),
        Mutant::new("output-by-every-lane", "every lane of a warpgroup stores its box", HOPPER_D64)
            .edit(FILE, "    if (leads_warpgroup) {", "    if (true) {")
            .hazard(&[GLOBAL_RACE, UNFINISHED, ASYNC]),
        Mutant::new("output-box-of-ragged-rows", "a box reaches into the rows of the next sequence", HOPPER_D64)
            .edit(FILE, "if (warpgroup_row + 64 <= place.num_rows) {", "if (warpgroup_row < place.num_rows) {")
            .hazard(&[GLOBAL_RACE, ASYNC]),
        Mutant::new(
            "output-not-waited-for",
            "the block ends while the copy engine reads its shared memory",
            HOPPER_D64,
        )
        .edit(
            FILE,
            "  Turns::end();\n  if (threadIdx.x % 128 == 0) ptx::bulk_wait_read<0>();\n}",
            "  Turns::end();\n  \n}",
        )
        .hazard(&[UNFINISHED]),
        Mutant::new("output-of-the-first-warpgroup", "all warpgroups store the first 64 rows", HOPPER_D64)
            .edit(FILE, "+ warpgroup_row * 128,", "+ 0 * warpgroup_row * 128,")
            .hazard(&[RACE, PROXY, UNWRITTEN, ASYNC]),
        Mutant::new("output-rows-of-the-first-warpgroup", "all warpgroups store to the first 64 rows", HOPPER_D64)
            .edit(
                FILE,
                "place.first_query + place.query(shape, warpgroup_row),",
                "place.first_query + place.query(shape, 0),",
            )
            .hazard(&[ASYNC, GLOBAL_RACE]),
        Mutant::new(
            "output-ragged-row-more",
            "one row too many is stored where rows are stored one by one",
            HOPPER_D64,
        )
        .edit_nth(2, FILE, "if (row >= place.num_rows || chunk * 8", "if (row > place.num_rows || chunk * 8")
        .hazard(&[GLOBAL_RACE, super::BOUNDS, ASYNC]),
        Mutant::new("output-columns-of-the-tile", "columns beyond a smaller head_dim are stored", HOPPER)
            .edit_nth(2, FILE, " || chunk * 8 >= shape.head_dim_v) continue;", ") continue;")
            .hazard(&[GLOBAL_RACE, super::BOUNDS]),
    ]
}
