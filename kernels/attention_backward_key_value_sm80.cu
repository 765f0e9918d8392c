// Attention, backward: the gradients of k and v, for the tensor cores of sm_80; in f32 by multiplying and adding.
//
//   d_k[j, :] = scale * sum_i ds[i, j] q[i, :]         ds: see lib/backward.cuh
//   d_v[j, :] = sum_i p[i, j] d_out[i, :]              p after dropout
//
// The sums run over the queries of every query head that shares the key head.
//
// Shapes   k and d_k [batch, heads_kv, len_kv, head_dim], v and d_v [batch, heads_kv, len_kv, head_dim_v]; q and d_out of
//          heads_q heads; lse and delta f32 [batch, heads_q, len_q].
// Grid     linear, blocks of 32 * WARPS threads, in the order of lib/place.cuh. A block owns BLOCK_KV keys of a key head, a
//          warp 16 of them and all columns of the results, or half of the columns where their accumulators would not
//          fit the registers (two warps then compute the same scores). It walks the query heads of the group, and of each
//          the queries that see its keys, in tiles of BLOCK_Q from query 0 on: in one fixed order, so that two runs give
//          the same bits.
// Shared   one tile each of K, V, Q and dO, swizzled; each query's base and delta; what the block works out once. At the end
//          K's and V's tiles stage the results.
// Order    everything is transposed: keys are rows. The accumulators of S^T and dS^T are operand A of the next product as they
//          are.
//
//            barrier A   everybody is done with Q and dO:  copy Q(n) and dO(n)
//            barrier B   they have arrived
//            S^T = K Q^T, P^T;  dV = dV + P^T dO;  dP^T = V dO^T;  dS^T;  dK = dK + dS^T Q

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
constexpr int COLUMN_PARTS = 16 * WARPS / BLOCK_KV;  // warps that share 16 keys
constexpr int COLUMNS = HEAD_DIM / COLUMN_PARTS;     // of a warp's results
constexpr int QUERY_TILES = BLOCK_Q / 8;  // 8-column tiles of S^T

using TileK = SwizzledTile<BLOCK_KV, HEAD_DIM, sizeof(Element)>;
using TileV = SwizzledTile<BLOCK_KV, HEAD_DIM_V, sizeof(Element)>;
using TileQ = SwizzledTile<BLOCK_Q, HEAD_DIM, sizeof(Element)>;
using TileOut = SwizzledTile<BLOCK_Q, HEAD_DIM_V, sizeof(Element)>;

static_assert(16 * WARPS % BLOCK_KV == 0 && HEAD_DIM % COLUMN_PARTS == 0, "every warp owns one tile of 16 keys");
static_assert(COLUMN_PARTS == 1 || COLUMNS * sizeof(Element) % 128 == 0, "its columns are whole periods of the swizzle");
static_assert(BLOCK_Q <= THREADS, "a thread loads the numbers of one query");

// What a block works out once.
struct Block {
  KeyPlace<BLOCK_KV> place;
  KeyBand band;
  QueryRange queries;

  __device__ __forceinline__ Block(const AttentionBackwardParams& params)
      : place(params),
        band(params.shape, place.len_q, place.len_kv, place.key_length, true),
        queries(band, place.first_row, place.first_row + place.num_rows, place.len_q) {}
};

struct SharedTiles {
  alignas(128) char k[TileK::BYTES];
  alignas(128) char v[TileV::BYTES];
  alignas(128) char q[TileQ::BYTES];
  alignas(128) char d_out[TileOut::BYTES];
  alignas(8) float base_log2[BLOCK_Q];
  alignas(8) float delta[BLOCK_Q];
  alignas(16) char block[128];
};
static_assert(sizeof(Block) <= 128, "the block's state fits its place");
static_assert(sizeof(SharedTiles) ==
                  (BLOCK_Q + BLOCK_KV) * (HEAD_DIM + HEAD_DIM_V) * sizeof(Element) + BLOCK_Q * 2 * sizeof(float) + 128,
              "src/variants.rs counts the same bytes");

// A tile of values lies beside one of keys as d_out beside q: rows of one length are read at one distance. Without that, a
// kernel for two lengths would need readers of its own.
static_assert(HEAD_DIM == HEAD_DIM_V, "V is read at K's addresses");

__device__ __forceinline__ void attention_backward_key_value(const AttentionBackwardParams& params) {
  extern __shared__ __align__(128) char shared_bytes[];
  SharedTiles& shared = *reinterpret_cast<SharedTiles*>(shared_bytes);

  const AttentionShape& shape = params.shape;
  const bool aligned = shape.aligned != 0;
  {
    const Block here(params);
    if (here.place.num_rows <= 0) return;
    if (threadIdx.x == 0) *reinterpret_cast<Block*>(shared.block) = here;
    // Everybody reads what thread 0 wrote, again after every barrier.
    __syncthreads();
  }
  const Block& block = *reinterpret_cast<const Block*>(shared.block);
  const KeyPlace<BLOCK_KV>& place = block.place;
  {
    // Keys that take no part may hold anything.
    const int first = block.band.begin - place.first_row;
    const int num_keys = block.band.end - place.first_row;
    copy_rows<TileK, BLOCK_KV, THREADS, Element>(shared.k, first, num_keys, shape.head_dim, aligned, [&](int row) {
      return place.key(params.k, shape.k_strides, row);
    });
    copy_rows<TileV, BLOCK_KV, THREADS, Element>(shared.v, first, num_keys, shape.head_dim_v, aligned, [&](int row) {
      return place.key(params.v, shape.v_strides, row);
    });
    ptx::cp_async_commit();
  }

  const int warp_row = threadIdx.x / 32 / COLUMN_PARTS * 16;
  const int first_column = threadIdx.x / 32 % COLUMN_PARTS * COLUMNS;
  auto k = Reader<Element, TileK>::rows(shared.k, warp_row);
  auto q = Reader<Element, TileQ>::columns(shared.q);
  auto q_depth = from_column(Reader<Element, TileQ>::depth(shared.q), first_column * sizeof(Element));
  float dk_frag[1][COLUMNS / 8][4] = {};
  float dv_frag[1][COLUMNS / 8][4] = {};
  const float zero[1][4] = {};

  const auto process_tile = [&](uint32_t head, int first_query) {
    k.forget();
    q.forget();
    q_depth.forget();
    // Barrier A: everybody is done with the tiles and numbers of the queries before.
    __syncthreads();
    const int num_queries = place.len_q - first_query;
    copy_rows<TileQ, BLOCK_Q, THREADS, Element>(shared.q, 0, num_queries, shape.head_dim, aligned, [&](int row) {
      return place.query(params.q, shape.q_strides, head, first_query + row);
    });
    copy_rows<TileOut, BLOCK_Q, THREADS, Element>(shared.d_out, 0, num_queries, shape.head_dim_v, aligned, [&](int row) {
      return place.query(params.d_out, params.d_out_strides, head, first_query + row);
    });
    ptx::cp_async_commit();
    if (threadIdx.x < BLOCK_Q) {
      const bool exists = threadIdx.x < num_queries;
      const int64_t stat = exists ? place.stat(shape, head, first_query + threadIdx.x) : 0;
      shared.base_log2[threadIdx.x] =
          exists ? base_of_lse(reinterpret_cast<const float*>(params.lse)[stat]) : CUDART_INF_F;
      shared.delta[threadIdx.x] = exists ? reinterpret_cast<const float*>(params.delta)[stat] : 0.0f;
    }
    // Barrier B: this thread's copies (of K and V too, the first time) have landed, after it everybody's.
    ptx::cp_async_wait<0>();
    __syncthreads();

    float p_frag[1][QUERY_TILES][4];
    float derivative[QUERY_TILES][4];
    multiply_nt<Element, HEAD_DIM>(p_frag, k, q, zero);
    ScorePlace<true> score_place;
    const int first_key = place.first_row + warp_row;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      score_place.row[half] = first_key + fragment::row(half);
      score_place.head[half] = head;
      score_place.is_valid[half] = score_place.row[half] < block.band.end;
    }
    score_place.first_column = first_query;
    score_place.num_columns = place.len_q;
    const bool is_full = block.band.is_full(first_query, min(first_query + BLOCK_Q, place.len_q) - 1, place.first_row,
                                            place.first_row + BLOCK_KV);
#pragma unroll
    for (int tile = 0; tile < QUERY_TILES; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) derivative[tile][i] = 1.0f;
    }
    ScoreOptions<Element>(params, place.sequence)
        .apply(p_frag[0], score_place, block.band, shape, is_full,
               [&](int tile, int i, float value) { derivative[tile][i] = value; });
#pragma unroll
    for (int tile = 0; tile < QUERY_TILES; ++tile) {
      const float2 base = *reinterpret_cast<const float2*>(&shared.base_log2[8 * tile + fragment::column(0)]);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        p_frag[0][tile][i] = ptx::exp2_approx(p_frag[0][tile][i] - (i % 2 == 0 ? base.x : base.y));
      }
    }
    uint32_t keep = ~0u;
    if (shape.dropout_scale != 0.0f) {
      const Dropout dropout(shape);
      const uint32_t sequence_head = place.sequence * shape.heads_q + head;
      keep = 0;
#pragma unroll 1
      for (int tile = 0; tile < QUERY_TILES; ++tile) {
        keep |= dropout.keep_columns(first_key, first_query + 8 * tile, sequence_head) << (4 * tile);
      }
    }

    Weights<Element, QUERY_TILES> weights[1];
#pragma unroll
    for (int tile = 0; tile < QUERY_TILES; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float low = keep >> (4 * tile + 2 * half) & 1 ? p_frag[0][tile][2 * half] : 0.0f;
        const float high = keep >> (4 * tile + 2 * half + 1) & 1 ? p_frag[0][tile][2 * half + 1] : 0.0f;
        weights[0].set(tile, half, low, high);
      }
    }
    multiply_nn<Element>(dv_frag, weights, moved(q_depth, shared.q, shared.d_out));

    float dp_frag[1][QUERY_TILES][4];
    multiply_nt<Element, HEAD_DIM_V>(dp_frag, moved(k, shared.k, shared.v), moved(q, shared.q, shared.d_out), zero);
    const float kept_scale = shape.dropout_scale != 0.0f ? shape.dropout_scale : 1.0f;
    Weights<Element, QUERY_TILES> ds[1];
#pragma unroll
    for (int tile = 0; tile < QUERY_TILES; ++tile) {
      const float2 delta = *reinterpret_cast<const float2*>(&shared.delta[8 * tile + fragment::column(0)]);
      float gradient[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float dp = keep >> (4 * tile + i) & 1 ? dp_frag[0][tile][i] * kept_scale : 0.0f;
        gradient[i] = score_gradient(p_frag[0][tile][i], dp, i % 2 == 0 ? delta.x : delta.y, derivative[tile][i]);
      }
      ds[0].set(tile, 0, gradient[0], gradient[1]);
      ds[0].set(tile, 1, gradient[2], gradient[3]);
    }
    multiply_nn<Element>(dk_frag, ds, q_depth);
  };
  // One counter for heads and tiles: registers are scarce.
#pragma unroll 1
  for (int step = 0;; ++step) {
    const int first_tile = block.queries.start / BLOCK_Q;
    const int num_tiles = ceil_div(block.queries.end, BLOCK_Q) - first_tile;
    if (step >= num_tiles * static_cast<int>(shape.heads_per_kv)) break;
    process_tile(place.kv_head * shape.heads_per_kv + step / num_tiles, (first_tile + step % num_tiles) * BLOCK_Q);
  }

  // Everybody is done with K and V, whose copies may still be under way where no query sees the keys.
  ptx::cp_async_wait<0>();
  __syncthreads();
  if (params.d_k != 0) {
    const float scale[1][2] = {{shape.scale, shape.scale}};
    store_rows<Element, TileK, true>(dk_frag, scale, shared.k, warp_row, first_column, place.num_rows, shape.head_dim,
                                     aligned,
                                     [&](int row) { return place.key(params.d_k, params.d_k_strides, row); });
  }
  if (params.d_v != 0) {
    const float kept_scale = shape.dropout_scale != 0.0f ? shape.dropout_scale : 1.0f;
    const float scale[1][2] = {{kept_scale, kept_scale}};
    store_rows<Element, TileV, true>(dv_frag, scale, shared.v, warp_row, first_column, place.num_rows, shape.head_dim_v,
                                     aligned,
                                     [&](int row) { return place.key(params.d_v, params.d_v_strides, row); });
  }
}

}  // namespace warpfold

extern "C" __global__ void __launch_bounds__(warpfold::THREADS, 1)
    WARPFOLD_ENTRY(const __grid_constant__ AttentionBackwardParams params) {
  warpfold::attention_backward_key_value(params);
}
