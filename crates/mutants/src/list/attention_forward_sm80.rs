//! kernels/attention_forward_sm80.cu.

use super::{ASYNC, BOUNDS, D64, D96, GENERAL, GLOBAL_RACE, MISALIGNED, RACE, UNDEFINED};
use crate::mutant::Mutant;

const FILE: &str = "attention_forward_sm80.cu";

pub fn mutants() -> Vec<Mutant> {
    [synchronisation(), bounds(), arithmetic(), fragments(), addresses(), costs()].concat()
}

fn synchronisation() -> Vec<Mutant> {
    let wait_and_barrier = "ptx::cp_async_wait<0>();\n    __syncthreads();";
    vec![
        Mutant::new("barrier-a-missing", "no barrier between the copies of K(n) and the product with it", D64)
            .edit_nth(1, FILE, "__syncthreads();", "")
            .hazard(&[RACE, ASYNC])
            .fast(),
        Mutant::new("barrier-b-missing", "no barrier between the copies of V(n) and the product with it", D64)
            .edit_nth(2, FILE, "__syncthreads();", "")
            .hazard(&[RACE, ASYNC]),
        Mutant::new("barrier-b-of-three-warps", "warp 3 goes past barrier B", D64)
            .edit_nth(2, FILE, "__syncthreads();", "if (threadIdx.x < 96) __syncthreads();")
            .hazard(&[RACE, ASYNC]),
        Mutant::new("barrier-a-per-warp", "barrier A holds the lanes of a warp only", D96)
            .edit_nth(1, FILE, "__syncthreads();", "__syncwarp();")
            .hazard(&[RACE, ASYNC]),
        Mutant::new("wait-a-missing", "K(n) is read without a wait for its copies", D64)
            .edit_nth(1, FILE, "ptx::cp_async_wait<0>();", "")
            .hazard(&[ASYNC]),
        Mutant::new("wait-b-missing", "V(n) is read without a wait for its copies", D96)
            .edit_nth(2, FILE, "ptx::cp_async_wait<0>();", "")
            .hazard(&[ASYNC]),
        Mutant::new("wait-a-one-group-late", "the wait for K(n) leaves one group pending", D64)
            .edit_nth(1, FILE, "cp_async_wait<0>", "cp_async_wait<1>")
            .hazard(&[ASYNC])
            .fast(),
        Mutant::new("wait-b-one-group-late", "the wait for V(n) leaves one group pending", D64)
            .edit_nth(2, FILE, "cp_async_wait<0>", "cp_async_wait<1>")
            .hazard(&[ASYNC]),
        Mutant::new("wait-b-after-barrier", "threads wait for their copies of V(n) after the barrier", D64)
            .edit_nth(2, FILE, wait_and_barrier, "__syncthreads();\n    ptx::cp_async_wait<0>();")
            .hazard(&[ASYNC, RACE]),
        Mutant::new("commit-missing", "copies are not committed to a group, so that no wait covers them", D64)
            .edit(FILE, "ptx::cp_async_commit();", "")
            .hazard(&[ASYNC]),
        Mutant::new("v-before-barrier-a", "copies of V(n) start before everybody is done with V(n-1)", D64)
            .edit(
                FILE,
                "ptx::cp_async_wait<0>();\n    __syncthreads();\n    load(v_copy, shared.v, first_key, mask.num_keys, params);",
                "ptx::cp_async_wait<0>();\n    load(v_copy, shared.v, first_key, mask.num_keys, params);\n    __syncthreads();",
            )
            .hazard(&[RACE])
            .fast(),
        Mutant::new("k-before-barrier-b", "copies of K(n+1) start before everybody is done with K(n)", D64)
            .edit(FILE, "if (tile + 1 < num_tiles) load(k_copy, shared.k, first_key + BLOCK_KV, mask.num_keys, params);", "")
            .edit_nth(
                2,
                FILE,
                wait_and_barrier,
                "ptx::cp_async_wait<0>(); if (tile + 1 < num_tiles) load(k_copy, shared.k, first_key + BLOCK_KV, mask.num_keys, params);\n    __syncthreads();",
            )
            .hazard(&[RACE]),
        Mutant::new("q-registers-before-barrier-a", "Q is read before everybody's copies of it have landed", D64)
            .edit(FILE, "if (tile == 0) warp.load_q_registers();", "")
            .edit(
                FILE,
                "// Barrier A: this thread's copies of K(n) (and of Q) have landed, after it everybody's; V's buffer is free.\n    ptx::cp_async_wait<0>();",
                "\n    ptx::cp_async_wait<0>(); if (tile == 0) warp.load_q_registers();",
            )
            .hazard(&[RACE, ASYNC]),
        Mutant::new("staged-output-unsynchronised", "no __syncwarp between staging the output and copying it out", D64)
            .edit(FILE, "__syncwarp();", "")
            .hazard(&[RACE])
            .fast(),
        Mutant::new("k-without-keys", "K and Q are loaded although no query of the block sees a key", D64)
            .edit(FILE, "if (num_tiles > 0) {", "if (true) {")
            .hazard(&[ASYNC]),
    ]
}

fn bounds() -> Vec<Mutant> {
    vec![
        Mutant::new("queries-unbounded", "the last block takes BLOCK_Q queries, however few there are", D64)
            .edit(FILE, "num_queries = min(BLOCK_Q, params.len_q - first_query);", "num_queries = BLOCK_Q;")
            .hazard(&[BOUNDS, GLOBAL_RACE]),
        Mutant::new("output-one-row-more", "one row too many is stored", D64)
            .edit(FILE, "if (row >= rows) continue;", "if (row > rows) continue;")
            .hazard(&[BOUNDS, GLOBAL_RACE]),
        Mutant::new("output-one-row-less", "the last row is not stored", D96).edit(
            FILE,
            "if (row >= rows) continue;",
            "if (row >= rows - 1) continue;",
        ),
        Mutant::new("lse-one-row-more", "one log-sum-exp too many is stored", D64)
            .edit(FILE, "if (row < place.num_queries)", "if (row <= place.num_queries)")
            .hazard(&[BOUNDS, GLOBAL_RACE]),
        Mutant::new("lse-of-every-lane", "all four lanes of a row store its log-sum-exp", D64)
            .edit(FILE, "if (fragment::lane() % 4 != 0) return;", "")
            .equivalent(
                "the four lanes of a row hold one state, so that they store the same four bytes in one instruction",
            ),
        Mutant::new("last-tile-dropped", "the number of key tiles is rounded down", D64)
            .edit(FILE, "+ BLOCK_KV - 1) / BLOCK_KV;", ") / BLOCK_KV;")
            .fast(),
        Mutant::new("no-tile-masked", "tiles that only the block's last row sees in full are not masked", D64).edit(
            FILE,
            "const int full_tiles = mask.visible_keys(first_query) / BLOCK_KV;",
            "const int full_tiles = mask.visible_keys(first_query + num_queries - 1) / BLOCK_KV;",
        ),
        Mutant::new("mask-missing", "the scores of hidden keys count", D64).edit(
            FILE,
            "warp.hide(s_frag, mask, first_query + threadIdx.x / 32 * 16 * ROW_TILES, first_key);",
            "",
        ),
        Mutant::new("mask-one-key-more", "a row sees one key more than it may", D64).edit(
            FILE,
            "fragment::column(i) >= visible)",
            "fragment::column(i) > visible)",
        ),
        Mutant::new("mask-of-tile-0", "every tile is masked as if it began with key 0", D64).edit(
            FILE,
            "fragment::row(half)) - first_key;",
            "fragment::row(half));",
        ),
        Mutant::new("mask-of-warp-0", "every warp masks as if its rows were those of warp 0", D64).edit(
            FILE,
            "mask, first_query + threadIdx.x / 32 * 16 * ROW_TILES, first_key",
            "mask, first_query, first_key",
        ),
        Mutant::new("mask-of-upper-half", "rows 8 to 15 of a tile are masked like rows 0 to 7", D96).edit(
            FILE,
            "mask.visible_keys(first_query + 16 * t + fragment::row(half))",
            "mask.visible_keys(first_query + 16 * t + fragment::row(0))",
        ),
        Mutant::new("mask-by-subtraction", "hidden scores are lowered by a large number, not replaced by -inf", D64)
            .edit(FILE, "s_frag[t][key_tile][i] = -CUDART_INF_F;", "s_frag[t][key_tile][i] -= 1e4f;"),
    ]
}

fn arithmetic() -> Vec<Mutant> {
    vec![
        Mutant::new("rescale-of-half-the-output", "odd columns of O are not rescaled to a new maximum", D64)
            .edit(FILE, "o_frag[t][value_tile][2 * half + 1] *= rescale;", "")
            .fast(),
        Mutant::new("rescale-missing", "O is not rescaled to a new maximum", D96)
            .edit(FILE, "o_frag[t][value_tile][2 * half] *= rescale;", "")
            .edit(FILE, "o_frag[t][value_tile][2 * half + 1] *= rescale;", ""),
        Mutant::new("maximum-of-one-lane", "each lane takes the maximum of its own columns", D64).edit(
            FILE,
            "advance(quad_max(tile_max), scale_log2",
            "advance(tile_max, scale_log2",
        ),
        Mutant::new("maximum-of-even-columns", "odd columns are left out of the maximum", D64).edit(
            FILE,
            "fmaxf(s_frag[t][key_tile][2 * half], s_frag[t][key_tile][2 * half + 1])",
            "s_frag[t][key_tile][2 * half]",
        ),
        Mutant::new("accumulator-of-s-uninitialised", "the first step of S = Q K adds to what was there", D64)
            .edit(FILE, "if (step == 0) {", "if (step < 0) {")
            .hazard(&[UNDEFINED]),
        Mutant::new("accumulator-of-o-uninitialised", "O does not begin with zeros", D64)
            .edit(FILE, "float o_frag[ROW_TILES][VALUE_TILES][4] = {};", "float o_frag[ROW_TILES][VALUE_TILES][4];")
            .hazard(&[UNDEFINED]),
        Mutant::new("output-not-normalised", "odd columns of the output are not divided by the row's sum", D64).edit(
            FILE,
            "const float high = o_frag[t][value_tile][2 * half + 1] * scale;",
            "const float high = o_frag[t][value_tile][2 * half + 1];",
        ),
    ]
}

fn fragments() -> Vec<Mutant> {
    vec![
        Mutant::new("k-fragment-as-a", "K is read in the order of operand A", D64).edit(
            FILE,
            "TileKV::offset(fragment::b_row(), fragment::b_chunk());",
            "TileKV::offset(fragment::a_row(), fragment::a_chunk());",
        ),
        Mutant::new("v-not-transposed", "V is read without .trans", D64).edit(
            FILE,
            "ptx::ldmatrix_x4_trans(v_frag,",
            "ptx::ldmatrix_x4(v_frag,",
        ),
        Mutant::new("v-fragments-exchanged", "two matrices of V's fragment change places", D96).edit(
            FILE,
            "p_frag[t][step], v_frag[0], v_frag[1]",
            "p_frag[t][step], v_frag[0], v_frag[2]",
        ),
        Mutant::new("p-fragment-exchanged", "row half and column half of P's fragment change places", D64).edit(
            FILE,
            "[key_tile % 2 * 2 + half]",
            "[key_tile % 2 + 2 * half]",
        ),
        Mutant::new("k-tile-twice", "both key tiles of a pair are the first one, after step 0", D64).edit_nth(
            1,
            FILE,
            "k_frag[2], k_frag[3]",
            "k_frag[0], k_frag[1]",
        ),
        Mutant::new("q-step-constant", "every step of S = Q K takes the first 16 columns of Q", D96).edit(
            FILE,
            "q_address + row_tile * 16 * TileQ::ROW_BYTES, step)",
            "q_address + row_tile * 16 * TileQ::ROW_BYTES, 0 * step)",
        ),
        Mutant::new("q-rows-of-first-tile", "both row tiles of a warp take Q's first 16 rows", D64).edit(
            FILE,
            "q_address + row_tile * 16 * TileQ::ROW_BYTES",
            "q_address + 0 * row_tile * 16 * TileQ::ROW_BYTES",
        ),
        Mutant::new("v-without-swizzle", "V is stored swizzled and read plain", D64)
            .edit(
                FILE,
                "TileKV::offset(fragment::a_row(), fragment::a_chunk());",
                "fragment::a_row() * TileKV::ROW_BYTES + fragment::a_chunk() * 16;",
            )
            .fast(),
        Mutant::new("output-read-without-swizzle", "the output is staged swizzled and read plain", D64).edit(
            FILE,
            "tile_smem + TileQ::offset(row, chunk)",
            "tile_smem + row * TileQ::ROW_BYTES + chunk * 16",
        ),
        Mutant::new("output-column-lost", "the four lanes of a row stage their columns in one place", D64)
            .edit(FILE, "+ fragment::column(0) * sizeof(Element);", ";")
            .hazard(&[RACE]),
        Mutant::new("output-row-of-warp-0", "every warp stages its output in warp 0's rows", D64)
            .edit_nth(1, FILE, "(threadIdx.x / 32 * ROW_TILES + t) * 16", "t * 16")
            .hazard(&[RACE]),
    ]
}

fn addresses() -> Vec<Mutant> {
    vec![
        Mutant::new("key-head-wrong", "query heads that share a key head take turns among the key heads", D64)
            .edit_nth(
                1,
                FILE,
                "place.head_idx / params.heads_per_kv",
                "place.head_idx % (params.heads_q / params.heads_per_kv)",
            ),
        Mutant::new("value-head-is-query-head", "V's head is taken from the query's number", D64).edit_nth(
            2,
            FILE,
            "place.head_idx / params.heads_per_kv",
            "place.head_idx",
        ),
        Mutant::new("batch-stride-is-head-stride", "sequences are a head apart", D64)
            .edit(FILE, "batch_idx * strides.batch", "batch_idx * strides.head")
            .hazard(&[GLOBAL_RACE]),
        Mutant::new("output-of-head-0", "all heads write to head 0", D96)
            .edit(FILE, "params.out_strides, end_place.head_idx,", "params.out_strides, 0,")
            .hazard(&[GLOBAL_RACE])
            .fast(),
        Mutant::new("lse-batch-lost", "all sequences write the first one's log-sum-exps", D64)
            .edit(FILE, "(static_cast<int64_t>(place.batch_idx) * params.heads_q + place.head_idx)", "place.head_idx")
            .hazard(&[GLOBAL_RACE]),
        Mutant::new("row-stride-of-k-for-v", "V is walked with K's row stride", D64).edit(
            FILE,
            "v_copy(v_gmem, params.v_strides.row)",
            "v_copy(v_gmem, params.k_strides.row)",
        ),
        Mutant::new("row-stride-of-k-for-output", "the output is walked with K's row stride", D64)
            .edit(FILE, "params.out_strides.row, end_place.num_queries", "params.k_strides.row, end_place.num_queries")
            .hazard(&[GLOBAL_RACE, BOUNDS]),
        Mutant::new("copies-of-misaligned-rows", "misaligned rows are copied 16 bytes at a time", GENERAL)
            .edit(FILE, "if (GENERAL && !params.aligned) {", "if (false) {")
            .hazard(&[MISALIGNED])
            .fast(),
        Mutant::new("stores-of-misaligned-rows", "misaligned rows are stored 16 bytes at a time", GENERAL)
            .edit(FILE, "if (GENERAL && !aligned) {", "if (false) {")
            .hazard(&[MISALIGNED]),
    ]
}

fn costs() -> Vec<Mutant> {
    vec![
        Mutant::new("one-tile-of-k-more", "K is copied once more after the last tile", D64)
            .edit(FILE, "if (tile + 1 < num_tiles)", "if (tile < num_tiles)")
            .counters(),
        Mutant::new("visible-tiles-of-next-row", "a block walks the keys that the next block's first row sees", D64)
            .edit(
                FILE,
                "mask.visible_keys(first_query + num_queries - 1)",
                "mask.visible_keys(first_query + num_queries)",
            )
            .counters(),
        Mutant::new(
            "causal-tiles-all-walked",
            "tiles that no row of the block sees are masked instead of skipped",
            D64,
        )
        .edit(
            FILE,
            "const int num_tiles = (mask.visible_keys(first_query + num_queries - 1) + BLOCK_KV - 1) / BLOCK_KV;",
            "const int num_tiles = (mask.num_keys + BLOCK_KV - 1) / BLOCK_KV;",
        )
        .counters(),
        Mutant::new("every-tile-masked", "tiles that all rows see in full are masked too", D64)
            .edit(
                FILE,
                "const int full_tiles = mask.visible_keys(first_query) / BLOCK_KV;",
                "const int full_tiles = 0;",
            )
            .counters(),
        Mutant::new("q-registers-every-tile", "Q's fragments are read again for every tile of keys", D64)
            .edit(FILE, "if (tile == 0) warp.load_q_registers();", "warp.load_q_registers();")
            .counters(),
        Mutant::new("barrier-twice", "barrier B stands there twice", D64)
            .edit_nth(2, FILE, "__syncthreads();", "__syncthreads(); __syncthreads();")
            .counters(),
        Mutant::new("output-always-by-element", "aligned rows of the output are stored element by element", GENERAL)
            .edit(FILE, "if (GENERAL && !aligned) {", "if (true) {")
            .equivalent("the image for any alignment is chosen for misaligned rows only, which are stored so anyway"),
        Mutant::new("early-blocks-first", "query blocks start in ascending order", D64)
            .edit(FILE, "(params.q_blocks - 1 - block_idx % params.q_blocks)", "(block_idx % params.q_blocks)")
            .equivalent(
                "blocks are independent: their order decides how long a grid's tail is, and nothing that one computes",
            ),
    ]
}
