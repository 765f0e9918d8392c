// Attention, backward: the gradient of the bias, for the tensor cores of sm_80; in f32 by multiplying and adding.
//
//   d_bias[b, h, i, j] = sum of ds over everything that the bias was broadcast over         ds: see lib/backward.cuh
//
// Shapes   d_bias [batch or 1, heads_q or 1, len_q or 1, len_kv]; the rest as in attention_backward_query_sm80.cu.
// Grid     linear: (key tile, query tile, head, batch) of d_bias, key tiles first. A block owns a tile of d_bias of BLOCK_Q
//          queries (all of them where the bias has one row) and BLOCK_KV keys, and walks the sequences, heads and query
//          tiles that share it, in this one order: two runs give the same bits, and nothing is added to memory.
// Shared   one tile each of Q, dO, K and V, swizzled; partial sums of the warps where the bias has one row.
//
// A tile of d_bias in memory is written once; the scores are computed again for it (lib/backward.cuh).

#include "lib/backward.cuh"
#include "lib/place.cuh"
#include "lib/product.cuh"

namespace warpfold {

using Element = WARPFOLD_ELEMENT;
constexpr int HEAD_DIM = WARPFOLD_HEAD_DIM;
constexpr int HEAD_DIM_V = WARPFOLD_HEAD_DIM_V;
constexpr int BLOCK_Q = WARPFOLD_BLOCK_Q;
constexpr int BLOCK_KV = WARPFOLD_BLOCK_KV;
constexpr int WARPS = WARPFOLD_WARPS;
constexpr int THREADS = 32 * WARPS;
constexpr int KEY_TILES = BLOCK_KV / 8;  // 8-column tiles of S

using TileQ = SwizzledTile<BLOCK_Q, HEAD_DIM, sizeof(Element)>;
using TileOut = SwizzledTile<BLOCK_Q, HEAD_DIM_V, sizeof(Element)>;
using TileK = SwizzledTile<BLOCK_KV, HEAD_DIM, sizeof(Element)>;
using TileV = SwizzledTile<BLOCK_KV, HEAD_DIM_V, sizeof(Element)>;

static_assert(BLOCK_Q == 16 * WARPS, "every warp owns one tile of 16 rows");
static_assert(WARPS * BLOCK_KV * sizeof(float) <= TileQ::BYTES, "the warps' partial sums fit Q's tile");

struct SharedTiles {
  alignas(128) char q[TileQ::BYTES];
  alignas(128) char d_out[TileOut::BYTES];
  alignas(128) char k[TileK::BYTES];
  alignas(128) char v[TileV::BYTES];
};
static_assert(sizeof(SharedTiles) == (BLOCK_Q + BLOCK_KV) * (HEAD_DIM + HEAD_DIM_V) * sizeof(Element),
              "src/variants.rs counts the same bytes");

// One sequence: where it lies, and how long it is.
struct SequencePlace {
  uint32_t idx;
  uint32_t tensor_batch;
  int first_query;
  int first_key;
  int len_q;
  int len_kv;
  int key_length;
};

// Adds a tile of the score gradients of one head of one sequence to the accumulators.
__device__ __forceinline__ void add_tile(float (&sum)[KEY_TILES][4], SharedTiles& shared,
                                         const AttentionBackwardParams& params, const SequencePlace& sequence,
                                         uint32_t head, int first_query, int first_key) {
  const AttentionShape& shape = params.shape;
  const bool aligned = shape.aligned != 0;
  const KeyBand band(shape, sequence.len_q, sequence.len_kv, sequence.key_length, true);
  const int num_queries = min(BLOCK_Q, sequence.len_q - first_query);
  const int num_keys = min(BLOCK_KV, band.end - first_key);
  if (num_queries <= 0 || num_keys <= 0) return;
  if (!band.any(first_query, first_query + num_queries - 1, first_key, first_key + num_keys)) return;

  const auto row = [&](uint64_t address, const HeadStrides& strides, uint32_t head_idx, int row_idx) {
    return row_address(address, strides, sequence.tensor_batch, head_idx, row_idx);
  };
  const uint32_t kv_head = head / shape.heads_per_kv;
  // Everybody is done with the tiles before.
  __syncthreads();
  copy_rows<TileQ, BLOCK_Q, THREADS, Element>(shared.q, 0, num_queries, shape.head_dim, aligned, [&](int i) {
    return row(params.q, shape.q_strides, head, sequence.first_query + first_query + i);
  });
  copy_rows<TileOut, BLOCK_Q, THREADS, Element>(shared.d_out, 0, num_queries, shape.head_dim_v, aligned, [&](int i) {
    return row(params.d_out, params.d_out_strides, head, sequence.first_query + first_query + i);
  });
  copy_rows<TileK, BLOCK_KV, THREADS, Element>(
      shared.k, band.begin - first_key, num_keys, shape.head_dim, aligned,
      [&](int j) { return row(params.k, shape.k_strides, kv_head, sequence.first_key + first_key + j); });
  copy_rows<TileV, BLOCK_KV, THREADS, Element>(
      shared.v, band.begin - first_key, num_keys, shape.head_dim_v, aligned,
      [&](int j) { return row(params.v, shape.v_strides, kv_head, sequence.first_key + first_key + j); });
  ptx::cp_async_commit();
  // This thread's copies have landed, after the barrier everybody's.
  ptx::cp_async_wait<0>();
  __syncthreads();

  const int warp_row = threadIdx.x / 32 * 16;
  const float zero[1][4] = {};
  float p_frag[1][KEY_TILES][4];
  multiply_nt<Element, HEAD_DIM>(p_frag, Reader<Element, TileQ>::rows(shared.q, warp_row),
                                 Reader<Element, TileK>::columns(shared.k), zero);
  ScorePlace<false> place;
  float base_log2[2], delta[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int query = first_query + warp_row + fragment::row(half);
    place.row[half] = query;
    place.head[half] = head;
    place.is_valid[half] = query < sequence.len_q;
    const int64_t stat = sequence.tensor_batch * shape.lse_batch + head * shape.lse_head + sequence.first_query + query;
    base_log2[half] =
        place.is_valid[half] ? base_of_lse(reinterpret_cast<const float*>(params.lse)[stat]) : CUDART_INF_F;
    delta[half] = place.is_valid[half] ? reinterpret_cast<const float*>(params.delta)[stat] : 0.0f;
  }
  place.first_column = first_key;
  place.num_columns = band.end;
  ScoreOptions<Element>(params, sequence.idx).apply(p_frag[0], place, band, shape, false, [](int, int, float) {});
  uint32_t keep = ~0u;
  if (shape.dropout_scale != 0.0f) {
    const Dropout dropout(shape);
    const uint32_t sequence_head[2] = {sequence.idx * shape.heads_q + head, sequence.idx * shape.heads_q + head};
    keep = 0;
#pragma unroll 1
    for (int key_tile = 0; key_tile < KEY_TILES; ++key_tile) {
      keep |= dropout.keep_rows(first_key + 8 * key_tile, place.row, sequence_head) << (4 * key_tile);
    }
  }
  float dp_frag[1][KEY_TILES][4];
  multiply_nt<Element, HEAD_DIM_V>(dp_frag, Reader<Element, TileOut>::rows(shared.d_out, warp_row),
                                   Reader<Element, TileV>::columns(shared.v), zero);
  const float kept_scale = shape.dropout_scale != 0.0f ? shape.dropout_scale : 1.0f;
#pragma unroll
  for (int key_tile = 0; key_tile < KEY_TILES; ++key_tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float weight = ptx::exp2_approx(p_frag[0][key_tile][i] - base_log2[i / 2]);
      const float dp = keep >> (4 * key_tile + i) & 1 ? dp_frag[0][key_tile][i] * kept_scale : 0.0f;
      sum[key_tile][i] += score_gradient(weight, dp, delta[i / 2], 1.0f);
    }
  }
}

// Where an element of d_bias goes.
__device__ __forceinline__ Element* bias_address(const AttentionBackwardParams& params, uint32_t batch_idx,
                                                 uint32_t head_idx, int query, int key) {
  const ScoreStrides& strides = params.d_bias_strides;
  return reinterpret_cast<Element*>(reinterpret_cast<char*>(params.d_bias) + batch_idx * strides.batch +
                                    head_idx * strides.head + query * strides.query + key * strides.key);
}

__device__ __forceinline__ void attention_backward_bias(const AttentionBackwardParams& params) {
  extern __shared__ __align__(128) char shared_bytes[];
  SharedTiles& shared = *reinterpret_cast<SharedTiles*>(shared_bytes);

  const AttentionShape& shape = params.shape;
  const uint32_t tile = ptx::block_index() % shape.blocks;
  const uint32_t pair = ptx::block_index() / shape.blocks;
  const uint32_t bias_head = pair % params.bias_heads;
  const uint32_t bias_batch = pair / params.bias_heads;
  const uint32_t key_blocks = ceil_div(params.bias_keys, BLOCK_KV);
  const int first_key = tile % key_blocks * BLOCK_KV;
  const int own_query = tile / key_blocks * BLOCK_Q;
  const bool has_one_row = params.bias_queries == 1;

  const bool is_packed = params.query_lengths != 0;
  const int* query_lengths = reinterpret_cast<const int*>(params.query_lengths);
  const int* key_lengths = reinterpret_cast<const int*>(params.key_lengths);
  float sum[KEY_TILES][4] = {};
  SequencePlace sequence = {0, 0, 0, 0, shape.len_q, shape.len_kv, shape.len_kv};
#pragma unroll 1
  for (; sequence.idx < shape.batch; ++sequence.idx) {
    if (is_packed) {
      sequence.len_q = checked_length(query_lengths, sequence.idx, shape.len_q - sequence.first_query);
      sequence.len_kv = checked_length(key_lengths, sequence.idx, shape.len_kv - sequence.first_key);
      sequence.key_length = sequence.len_kv;
    } else {
      sequence.tensor_batch = sequence.idx;
      if (key_lengths != nullptr) sequence.key_length = checked_length(key_lengths, sequence.idx, shape.len_kv);
    }
    if (params.bias_batch == 1 || sequence.idx == bias_batch) {
      const uint32_t end_head = params.bias_heads == 1 ? shape.heads_q : bias_head + 1;
      const int end_query = has_one_row ? sequence.len_q : own_query + 1;
#pragma unroll 1
      for (uint32_t head = params.bias_heads == 1 ? 0 : bias_head; head < end_head; ++head) {
#pragma unroll 1
        for (int query = own_query; query < end_query; query += BLOCK_Q) {
          add_tile(sum, shared, params, sequence, head, query, first_key);
        }
      }
    }
    if (is_packed) {
      sequence.first_query += sequence.len_q;
      sequence.first_key += sequence.len_kv;
    }
  }

  if (!has_one_row) {
#pragma unroll
    for (int key_tile = 0; key_tile < KEY_TILES; ++key_tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int query = own_query + threadIdx.x / 32 * 16 + fragment::row(i / 2);
        const int key = first_key + 8 * key_tile + fragment::column(i);
        if (query < static_cast<int>(params.bias_queries) && key < params.bias_keys) {
          *bias_address(params, bias_batch, bias_head, query, key) = from_float<Element>(sum[key_tile][i]);
        }
      }
    }
    return;
  }
  // Rows are added within a warp, then the warps' sums, in one order.
  float* partial_smem = reinterpret_cast<float*>(shared.q);
  // Everybody is done with Q's tile.
  __syncthreads();
#pragma unroll
  for (int key_tile = 0; key_tile < KEY_TILES; ++key_tile) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float column = sum[key_tile][i] + sum[key_tile][2 + i];
#pragma unroll
      for (int distance = 4; distance < 32; distance *= 2) column += __shfl_xor_sync(0xffffffff, column, distance);
      if (fragment::lane() < 4) {
        partial_smem[threadIdx.x / 32 * BLOCK_KV + 8 * key_tile + fragment::column(i)] = column;
      }
    }
  }
  // Every warp's sums are there.
  __syncthreads();
  const int key = first_key + threadIdx.x;
  if (threadIdx.x < BLOCK_KV && key < params.bias_keys) {
    float column = 0.0f;
#pragma unroll
    for (int warp = 0; warp < WARPS; ++warp) column += partial_smem[warp * BLOCK_KV + threadIdx.x];
    *bias_address(params, bias_batch, bias_head, 0, key) = from_float<Element>(column);
  }
}

}  // namespace warpfold

extern "C" __global__ void __launch_bounds__(warpfold::THREADS, 1)
    WARPFOLD_ENTRY(const __grid_constant__ AttentionBackwardParams params) {
  warpfold::attention_backward_bias(params);
}
