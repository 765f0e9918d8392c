//! kernels/attention_forward_sm80.cu.

use super::{ASYNC, BOUNDS, D64, D96, GENERAL, GLOBAL_RACE, RACE, UNDEFINED, UNWRITTEN};
use crate::mutant::Mutant;

const FILE: &str = "attention_forward_sm80.cu";

pub fn mutants() -> Vec<Mutant> {
    [synchronisation(), bounds(), arithmetic(), costs()].concat()
}

fn synchronisation() -> Vec<Mutant> {
    vec![
Mutant::new("barrier-a-missing", "no barrier between the copies of K(n) and the product with it", D64)
.edit(FILE, "    __syncthreads();\n    if constexpr (MASKED) {", "    \n    if constexpr (MASKED) {")
.hazard(&[RACE, ASYNC])
.fast(),
Mutant::new("barrier-b-missing", "no barrier between the copies of V(n) and the product with it", D64)
.edit(FILE, "    __syncthreads();\n    uint32_t keep = ~0u;", "    \n    uint32_t keep = ~0u;")
.hazard(&[RACE, ASYNC]),
Mutant::new("barrier-b-of-three-warps", "warp 3 goes past barrier B", D64)
.edit(FILE, "    __syncthreads();\n    uint32_t keep = ~0u;", "    if (threadIdx.x < 96) __syncthreads();\n    uint32_t keep = ~0u;")
.hazard(&[RACE, ASYNC]),
Mutant::new("barrier-a-per-warp", "barrier A holds the lanes of a warp only", D96)
.edit(FILE, "    __syncthreads();\n    if constexpr (MASKED) {", "    __syncwarp();\n    if constexpr (MASKED) {")
.hazard(&[RACE, ASYNC]),
Mutant::new("wait-a-missing", "K(n) is read without a wait for its copies", D64)
.edit(FILE, "ptx::cp_async_wait<0>();\n    __syncthreads();\n    if constexpr (MASKED) {", "\n    __syncthreads();\n    if constexpr (MASKED) {")
.hazard(&[ASYNC]),
Mutant::new("wait-b-missing", "V(n) is read without a wait for its copies", D96)
.edit(FILE, "ptx::cp_async_wait<0>();\n    __syncthreads();\n    uint32_t keep = ~0u;", "\n    __syncthreads();\n    uint32_t keep = ~0u;")
.hazard(&[ASYNC]),
Mutant::new("wait-a-one-group-late", "the wait for K(n) leaves one group pending", D64)
.edit(FILE, "ptx::cp_async_wait<0>();\n    __syncthreads();\n    if constexpr (MASKED) {", "ptx::cp_async_wait<1>();\n    __syncthreads();\n    if constexpr (MASKED) {")
.hazard(&[ASYNC])
.fast(),
Mutant::new("wait-b-one-group-late", "the wait for V(n) leaves one group pending", D64)
.edit(FILE, "ptx::cp_async_wait<0>();\n    __syncthreads();\n    uint32_t keep = ~0u;", "ptx::cp_async_wait<1>();\n    __syncthreads();\n    uint32_t keep = ~0u;")
.hazard(&[ASYNC]),
Mutant::new("wait-b-after-barrier", "threads wait for their copies of V(n) after the barrier", D64)
.edit(FILE, "ptx::cp_async_wait<0>();\n    __syncthreads();\n    uint32_t keep = ~0u;", "__syncthreads();\n    ptx::cp_async_wait<0>();\n    uint32_t keep = ~0u;")
.hazard(&[ASYNC, RACE]),
Mutant::new("commit-of-k-missing", "copies of K are not committed to a group, so that no wait covers them", D64)
.edit(FILE, "copy.start(keys_left);\n    ptx::cp_async_commit();", "copy.start(keys_left);\n")
.hazard(&[ASYNC]),
Mutant::new("commit-of-v-missing", "copies of a tile of V that is seen in full are not committed to a group", D64)
.edit(FILE, "copy.start_whole();\n    ptx::cp_async_commit();", "copy.start_whole();\n")
.hazard(&[ASYNC]),
Mutant::new("commit-of-any-rows-missing", "copies of aligned rows of the general kernel are not committed to a group", GENERAL)
.edit(FILE, "tile_gmem + row * row_stride; });\n    ptx::cp_async_commit();", "tile_gmem + row * row_stride; });\n")
.hazard(&[ASYNC]),
Mutant::new("v-before-barrier-a", "copies of V(n) start before everybody is done with V(n-1)", D64)
.edit(FILE, "    __syncthreads();\n    if constexpr (MASKED) {", "    \n    if constexpr (MASKED) {")
.edit(FILE, "v_copy.start_whole(tile);\n    }", "v_copy.start_whole(tile);\n    } __syncthreads();")
.hazard(&[RACE])
.fast(),
Mutant::new("k-before-barrier-b", "copies of K(n+1) start before everybody is done with K(n)", D64)
.edit(FILE, "k_copy.start(next, GENERAL ? min(band.end, tiles.end * BLOCK_KV) - next * BLOCK_KV : keys_left);", "")
.edit(FILE, "ptx::cp_async_wait<0>();\n    __syncthreads();\n    uint32_t keep = ~0u;", "ptx::cp_async_wait<0>(); k_copy.start(tiles.after(tile), keys_left - BLOCK_KV);\n    __syncthreads();\n    uint32_t keep = ~0u;")
.hazard(&[RACE]),
Mutant::new("q-registers-unsynchronised", "the fragments of Q are read before everybody's copies of it have landed", D64)
.edit(FILE, "ptx::cp_async_wait<0>();\n    __syncthreads();\n    held.hold", "ptx::cp_async_wait<0>();\n    \n    held.hold")
.hazard(&[RACE, ASYNC]),
Mutant::new("q-registers-without-wait", "the fragments of Q are read without a wait for the copies", D64)
.edit(FILE, "ptx::cp_async_wait<0>();\n    __syncthreads();\n    held.hold", "\n    __syncthreads();\n    held.hold")
.hazard(&[ASYNC]),
Mutant::new("block-state-unsynchronised", "a block's state is read before thread 0 has written it", GENERAL)
.edit(FILE, "__syncthreads();\n  }\n  const Block& block", "\n  }\n  const Block& block")
.hazard(&[RACE, UNWRITTEN])
.fast(),
Mutant::new("q-without-keys", "Q is copied although no query of the block sees a key, and nobody waits for everybody's copies", GENERAL)
.edit(FILE, "if (tiles.start < tiles.end) {\n    copy_rows", "if (true) {\n    copy_rows")
.hazard(&[RACE, ASYNC]),
Mutant::new("last-copies-in-flight", "nobody waits for the copies past the last tile", D64)
.edit(FILE, "ptx::cp_async_wait<0>();\n  // Only this warp", "\n  // Only this warp")
.equivalent("they write zeros to K's tile, which nobody reads any more, and end before the block does"),
]
}

fn bounds() -> Vec<Mutant> {
    vec![
        Mutant::new("lse-one-row-more", "one log-sum-exp too many is stored", D64)
            .edit(FILE, "const bool exists = row < place.num_rows;", "const bool exists = row <= place.num_rows;")
            .hazard(&[BOUNDS, GLOBAL_RACE]),
        Mutant::new("lse-of-every-lane", "all four lanes of a row store its log-sum-exp", D64)
            .edit(FILE, " && fragment::lane() % 4 == 0) {", ") {")
            .equivalent(
                "the four lanes of a row hold one state, so that they store the same four bytes in one instruction",
            ),
        Mutant::new("hide-missing", "the scores of hidden keys count", D64).edit(
            FILE,
            "hide_by_position(s_frag[t], query, band, first_key);",
            "",
        ),
        Mutant::new("hide-one-key-late", "a row sees one key more than it may", D64).edit(
            "lib/score.cuh",
            "8 * tile + i - first >= count",
            "8 * tile + i - first > count",
        ),
        Mutant::new("hide-of-tile-0", "every tile is masked as if it began with key 0", D64).edit(
            "lib/score.cuh",
            "band.first(query[half]) - first_key - fragment::column(0)",
            "band.first(query[half]) - fragment::column(0)",
        ),
        Mutant::new("hide-of-column-0", "all lanes mask as if their columns were the first ones", D96).edit(
            "lib/score.cuh",
            "band.first(query[half]) - first_key - fragment::column(0)",
            "band.first(query[half]) - first_key",
        ),
        Mutant::new("hide-of-upper-half", "rows 8 to 15 of a tile are masked like rows 0 to 7", D96).edit(
            FILE,
            "place.query(shape, Warp::tile_row(t, 1))};",
            "place.query(shape, Warp::tile_row(t, 0))};",
        ),
        Mutant::new("hide-by-subtraction", "hidden scores are lowered by a large number, not replaced by -inf", D64)
            .edit(
                "lib/score.cuh",
                "s_frag[tile][2 * half + i] = -CUDART_INF_F;",
                "s_frag[tile][2 * half + i] -= 1e4f;",
            ),
        Mutant::new("hide-negative-count", "the number of keys that a row sees is not kept from being negative", D64)
            .edit(
                "lib/score.cuh",
                "max(band.last(query[half]) - band.first(query[half]), 0)",
                "band.last(query[half]) - band.first(query[half])",
            )
            .equivalent("a window ends after it begins, and cutting both ends to one range keeps their order"),
        Mutant::new(
            "full-tiles-of-no-start",
            "tiles are taken for fully visible before the window of the last row begins",
            D64,
        )
        .edit(FILE, "tile >= tiles.full_start ? min(", "true ? min("),
        Mutant::new("k-past-the-end", "K's copies lose count of the keys that are left", D64)
            .edit(FILE, "keys_left -= BLOCK_KV;", "")
            .hazard(&[BOUNDS]),
        Mutant::new("k-of-thread-0", "all threads copy as many rows of K as the first one", D64)
            .edit(FILE, "tiles.start * BLOCK_KV - k_copy.own_key();", "tiles.start * BLOCK_KV;")
            .hazard(&[BOUNDS]),
        Mutant::new("k-of-the-tile-before", "the copy of K(n+1) counts the keys that are left for K(n)", GENERAL)
            .edit(FILE, "tiles.end * BLOCK_KV) - next * BLOCK_KV", "tiles.end * BLOCK_KV) - tile * BLOCK_KV")
            .hazard(&[BOUNDS]),
        Mutant::new("hidden-values-kept", "values of keys that nobody sees are copied", D64).edit(
            FILE,
            "v_copy.start_between(tile, band.begin - own_key, band.end - own_key);",
            "v_copy.start_whole(tile);",
        ),
        Mutant::new("values-before-the-range-kept", "values before the keys that take part are copied", D64).edit(
            FILE,
            "v_copy.start_between(tile, band.begin - own_key, band.end",
            "v_copy.start_between(tile, -own_key, band.end",
        ),
        Mutant::new("values-before-the-range-kept-in-general", "the same in the general kernel", GENERAL).edit(
            FILE,
            "v_copy.start_between(tile, band.begin - own_key, band.end",
            "v_copy.start_between(tile, -own_key, band.end",
        ),
        Mutant::new(
            "last-key-of-a-full-tile-lost",
            "the last key of a tile that is seen in full is not copied",
            GENERAL,
        )
        .edit(FILE, "{ start(tile, BLOCK_KV); }", "{ start(tile, BLOCK_KV - 1); }"),
        Mutant::new("every-tile-from-key-0", "every tile is copied from the first one's keys", GENERAL).edit(
            FILE,
            "first_gmem + tile * BLOCK_KV * row_stride;",
            "first_gmem;",
        ),
        Mutant::new("k-of-the-gap", "K(n+1) is copied from the tile after, also where that is left out", GENERAL).edit(
            FILE,
            "const int next = tiles.after(tile);",
            "const int next = tile + 1;",
        ),
    ]
}

fn arithmetic() -> Vec<Mutant> {
    vec![
        Mutant::new("rescale-of-half-the-output", "odd columns of O are not rescaled to a new base", D64)
            .edit(FILE, "o_frag[t][value_tile][2 * half + 1] *= factor;", "")
            .fast(),
        Mutant::new("rescale-missing", "O is not rescaled to a new base", D96)
            .edit(FILE, "o_frag[t][value_tile][2 * half] *= factor;", "")
            .edit(FILE, "o_frag[t][value_tile][2 * half + 1] *= factor;", ""),
        Mutant::new("accumulator-of-o-uninitialised", "O does not begin with zeros", D64)
            .edit(FILE, "float o_frag[ROW_TILES][VALUE_TILES][4] = {};", "float o_frag[ROW_TILES][VALUE_TILES][4];")
            .hazard(&[UNDEFINED]),
        Mutant::new(
            "masked-tiles-exchanged",
            "tiles that are hidden in part are taken for fully visible, and the other way round",
            GENERAL,
        )
        .edit(FILE, "shape, !MASKED,", "shape, MASKED,"),
        Mutant::new("rows-of-the-upper-half", "options are those of rows 0 to 7 for rows 8 to 15 too", GENERAL).edit(
            FILE,
            "const int row = Warp::tile_row(0, half);",
            "const int row = Warp::tile_row(0, 0);",
        ),
        Mutant::new("missing-rows-valid", "options are read for rows that do not exist", GENERAL)
            .edit(FILE, "score_place.is_valid[half] = row < place.num_rows;", "score_place.is_valid[half] = true;")
            .hazard(&[BOUNDS]),
        Mutant::new("dropout-of-even-columns", "odd columns are dropped with the even ones", GENERAL).edit(
            FILE,
            "keep >> (4 * key_tile + 2 * half + 1) & 1",
            "keep >> (4 * key_tile + 2 * half) & 1",
        ),
        Mutant::new("dropout-of-tile-0", "every tile of keys is dropped like the first one", GENERAL).edit(
            FILE,
            "keep_rows(first_key + 8 * key_tile,",
            "keep_rows(8 * key_tile,",
        ),
        Mutant::new("dropout-of-sequence-0", "every sequence is dropped like the first one", GENERAL).edit(
            FILE,
            "{place.sequence * shape.heads_q + score_place.head[0],",
            "{score_place.head[0],",
        ),
        Mutant::new("dropout-bits-of-tile-0", "every 8 keys are dropped by the bits of the first 8", GENERAL).edit(
            FILE,
            " << (4 * key_tile);",
            ";",
        ),
        Mutant::new("dropout-unscaled", "kept weights are not scaled up", GENERAL).edit(
            FILE,
            "factor_log2, sink) * kept_scale;",
            "factor_log2, sink);",
        ),
        Mutant::new("sink-of-head-0", "all heads have the first one's sink", D64).edit(
            FILE,
            "sink_log2(params, place.head(shape, row))",
            "sink_log2(params, 0)",
        ),
        Mutant::new("sink-in-base-e", "a sink's logit is taken as if it were in base 2", D64).edit(
            FILE,
            "[head] * LOG2E;",
            "[head];",
        ),
        Mutant::new("rows-of-warp-0", "every warp takes its rows of Q from warp 0's", D64).edit(
            FILE,
            "Reader<Element, TileQ>::rows(shared.q, threadIdx.x / 32 * 16 * ROW_TILES)",
            "Reader<Element, TileQ>::rows(shared.q, 0)",
        ),
        Mutant::new("output-of-warp-0", "every warp takes its rows for those of warp 0", D64)
            .edit(FILE, "(threadIdx.x / 32 * ROW_TILES + t) * 16", "t * 16")
            .hazard(&[RACE]),
        Mutant::new("row-stride-of-k-for-v", "V is walked with K's row stride", D64).edit(
            FILE,
            "params.v, shape.v_strides), shape.v_strides.row",
            "params.v, shape.v_strides), shape.k_strides.row",
        ),
        Mutant::new("strides-of-q-for-output", "the output is walked with Q's strides", D64)
            .edit(
                FILE,
                "place.row(shape, params.out, params.out_strides, row)",
                "place.row(shape, params.out, shape.q_strides, row)",
            )
            .hazard(&[BOUNDS, GLOBAL_RACE]),
    ]
}

fn costs() -> Vec<Mutant> {
    vec![
        Mutant::new("every-tile-masked", "tiles that all rows see in full are masked too", D64)
            .edit(FILE, "min(tiles.full_end, tiles.end) : tile;", "tile : tile;")
            .counters(),
        Mutant::new("barrier-twice", "barrier B stands there twice", D64)
            .edit(
                FILE,
                "    __syncthreads();\n    uint32_t keep = ~0u;",
                "    __syncthreads(); __syncthreads();\n    uint32_t keep = ~0u;",
            )
            .counters(),
        Mutant::new("one-tile-of-k-more", "K is copied once more after the last tile", D64)
            .edit(FILE, "min(band.end, tiles.end * BLOCK_KV);", "band.end;")
            .counters(),
        Mutant::new("one-tile-of-any-rows-more", "the same in the general kernel", GENERAL)
            .edit(FILE, "min(band.end, tiles.end * BLOCK_KV) - next", "band.end - next")
            .counters(),
        Mutant::new("gap-walked", "tiles between the prefix and the window are masked instead of left out", GENERAL)
            .edit(FILE, "tile = tiles.after(tile);", "tile = tile + 1;")
            .counters(),
        Mutant::new("blocks-without-rows", "blocks past the last packed sequence do not end at once", D64)
            .edit(FILE, "if (here.place.num_rows <= 0) return;", "if (false) return;")
            .counters(),
    ]
}
