//! kernels/attention_backward_key_value_sm80.cu.

use super::{ASYNC, BOUNDS, KEY_VALUE, KEY_VALUE_FLOAT, KEY_VALUE_WIDE, RACE, UNWRITTEN};
use crate::mutant::Mutant;

const FILE: &str = "attention_backward_key_value_sm80.cu";

pub fn mutants() -> Vec<Mutant> {
    vec![
Mutant::new("d-k-barrier-a-missing", "copies of Q(n+1) start before everybody is done with Q(n)", KEY_VALUE)
.edit(FILE, "queries before.\n    __syncthreads();", "queries before.\n    ")
.hazard(&[RACE, ASYNC])
.fast(),
Mutant::new("d-k-barrier-b-missing", "no barrier between the copies of Q and dO and the products with them", KEY_VALUE)
.edit(FILE, "__syncthreads();\n\n    float p_frag", "\n\n    float p_frag")
.hazard(&[RACE, ASYNC]),
Mutant::new("d-k-wait-missing", "Q and dO are read without a wait for their copies", KEY_VALUE)
.edit(FILE, "ptx::cp_async_wait<0>();\n    __syncthreads();\n\n    float p_frag", "\n    __syncthreads();\n\n    float p_frag")
.hazard(&[ASYNC]),
Mutant::new("d-k-last-barrier-missing", "a result is staged in K's tile before everybody is done with it", KEY_VALUE)
.edit(FILE, "ptx::cp_async_wait<0>();\n  __syncthreads();\n  if (params.d_k", "ptx::cp_async_wait<0>();\n  \n  if (params.d_k")
.hazard(&[RACE, ASYNC]),
Mutant::new("d-k-last-wait-missing", "a result is staged while K's copies are still under way where no query sees the keys", KEY_VALUE)
.edit(FILE, "ptx::cp_async_wait<0>();\n  __syncthreads();\n  if (params.d_k", "\n  __syncthreads();\n  if (params.d_k")
.hazard(&[ASYNC]),
Mutant::new("d-k-block-state-unsynchronised", "a block's state is read before thread 0 has written it", KEY_VALUE)
.edit(FILE, "= here;\n    // Everybody reads what thread 0 wrote, again after every barrier.\n    __syncthreads();", "= here;\n\n")
.hazard(&[RACE, UNWRITTEN]),
Mutant::new("d-k-of-one-head", "only the first query head of a group counts", KEY_VALUE)
.edit(FILE, "shape.heads_per_kv + step / num_tiles,", "shape.heads_per_kv,"),
Mutant::new("d-k-heads-fewer", "the last query head of a group is left out", KEY_VALUE)
.edit(FILE, "num_tiles * static_cast<int>(shape.heads_per_kv)) break;", "num_tiles * max(static_cast<int>(shape.heads_per_kv) - 1, 1)) break;"),
Mutant::new("d-k-first-tile-lost", "every head's queries are walked from query 0 on, but not to their end", KEY_VALUE)
.edit(FILE, "(first_tile + step % num_tiles) * BLOCK_Q", "step % num_tiles * BLOCK_Q"),
Mutant::new("d-k-last-queries-lost", "the last tile of queries is left out where it is not full", KEY_VALUE)
.edit(FILE, "ceil_div(block.queries.end, BLOCK_Q)", "block.queries.end / BLOCK_Q"),
Mutant::new("d-k-unscaled", "the gradient of k is not scaled as the scores were", KEY_VALUE)
.edit(FILE, "{{shape.scale, shape.scale}}", "{{1.0f, 1.0f}}"),
Mutant::new("d-v-dropout-unscaled", "the gradient of v is not scaled up for what was dropped", KEY_VALUE)
.edit(FILE, "{{kept_scale, kept_scale}}", "{{1.0f, 1.0f}}"),
Mutant::new("d-v-dropout-of-even-queries", "odd queries are dropped with the even ones for the gradient of v", KEY_VALUE)
.edit(FILE, "keep >> (4 * tile + 2 * half + 1) & 1", "keep >> (4 * tile + 2 * half) & 1"),
Mutant::new("d-k-dropout-unscaled", "the gradient of kept weights is not scaled up", KEY_VALUE)
.edit(FILE, "dp_frag[0][tile][i] * kept_scale : 0.0f", "dp_frag[0][tile][i] : 0.0f"),
Mutant::new("d-k-dropout-of-sequence-0", "every sequence is dropped like the first one", KEY_VALUE)
.edit(FILE, "place.sequence * shape.heads_q + head;", "head;"),
Mutant::new("d-k-base-of-even-queries", "odd queries have the base of even ones", KEY_VALUE)
.edit(FILE, "(i % 2 == 0 ? base.x : base.y)", "base.x"),
Mutant::new("d-k-delta-of-even-queries", "odd queries have the delta of even ones", KEY_VALUE)
.edit(FILE, "i % 2 == 0 ? delta.x : delta.y", "delta.x"),
Mutant::new("d-k-numbers-of-missing-queries", "lse is read for queries that do not exist", KEY_VALUE)
.edit(FILE, "exists ? place.stat(shape, head, first_query + threadIdx.x) : 0;", "place.stat(shape, head, first_query + threadIdx.x);")
.edit(FILE, "exists ? base_of_lse(reinterpret_cast<const float*>(params.lse)[stat]) : CUDART_INF_F;", "base_of_lse(reinterpret_cast<const float*>(params.lse)[stat]);")
.hazard(&[BOUNDS]),
Mutant::new("d-k-weights-of-missing-queries", "queries that do not exist have weights", KEY_VALUE)
.edit(FILE, "(params.lse)[stat]) : CUDART_INF_F;", "(params.lse)[stat]) : 0.0f;")
.equivalent("their rows of q and d_out are zeros and so is their delta: the weights, 1 or less, are multiplied by nothing else"),
Mutant::new("d-k-keys-of-warp-0", "every warp masks as if its keys were those of warp 0", KEY_VALUE)
.edit(FILE, "const int first_key = place.first_row + warp_row;", "const int first_key = place.first_row;"),
Mutant::new("d-k-keys-past-the-end", "keys past those that take part are copied", KEY_VALUE)
.edit(FILE, "const int num_keys = block.band.end - place.first_row;", "const int num_keys = BLOCK_KV;").hazard(&["out of bounds"]),
Mutant::new("d-k-keys-before-the-range", "keys before those that take part are copied", KEY_VALUE)
.edit(FILE, "const int first = block.band.begin - place.first_row;", "const int first = 0;")
// Keys are rows here: what they hold goes into their own scores and gradients only, and those are hidden by selections.
.counters(),
Mutant::new("d-k-values-as-keys", "the gradient of the weights is that of the keys", KEY_VALUE)
.edit(FILE, "moved(k, shared.k, shared.v), moved", "k, moved"),
Mutant::new("d-k-strides-of-q-for-d-out", "the output's gradient is walked with q's strides", KEY_VALUE)
.edit(FILE, "place.query(params.d_out, params.d_out_strides,", "place.query(params.d_out, shape.q_strides,"),
Mutant::new("d-v-strides-of-d-k", "the gradient of v is walked with the one of k's strides", KEY_VALUE)
.edit(FILE, "place.key(params.d_v, params.d_v_strides, row)", "place.key(params.d_v, params.d_k_strides, row)").hazard(&["global memory race"]),
Mutant::new("d-k-rows-of-every-warp", "both warps of 16 keys have 16 of their own", KEY_VALUE_WIDE)
.edit(FILE, "threadIdx.x / 32 / COLUMN_PARTS * 16", "threadIdx.x / 32 * 16")
.hazard(&[RACE, BOUNDS, ASYNC]),
Mutant::new("d-k-columns-of-one-warp", "both warps of 16 keys have the first half of the columns", KEY_VALUE_WIDE)
.edit(FILE, "threadIdx.x / 32 % COLUMN_PARTS * COLUMNS;", "0;")
.hazard(&[RACE]),
Mutant::new("d-v-f32-weights-exchanged", "in f32 the gradient of v takes neighbouring queries for each other", KEY_VALUE_FLOAT)
.edit(FILE, "weights[0].set(tile, half, low, high);", "weights[0].set(tile, half, high, low);"),
]
}
