// Attention, backward: the gradient of q, for the tensor cores of sm_80; in f32 by multiplying and adding.
//
//   d_q[i, :] = scale * sum_j ds[i, j] k[j, :]         ds: see lib/backward.cuh
//
// Shapes   q and d_q [batch, heads_q, len_q, head_dim], d_out like the output; lse and delta f32 [batch, heads_q, len_q].
// Grid     as attention_forward_sm80.cu: a block owns BLOCK_Q query rows and walks the visible keys, ascending.
// Shared   one tile each of Q, dO, K and V, swizzled; what the block works out once. At the end Q's tile stages d_q.
// Order    K and V have one buffer each:
//
//            barrier A   K(n) and V(n) have arrived
//            S = Q K(n), dP = dO V(n)
//            barrier B   everybody is done with V(n):                        start copying V(n+1)
//            dS, dQ = dQ + dS K(n)
//            barrier C   everybody is done with K(n):                        start copying K(n+1)
//
//          The result of a row depends on its own inputs only, and on no order between blocks.

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
using Tiles = KeyTiles<BLOCK_KV, true>;

static_assert(BLOCK_Q == 16 * WARPS, "every warp owns one tile of 16 rows");

// What a block works out once.
struct Block {
  QueryPlace<BLOCK_Q> place;
  KeyBand band;
  Tiles tiles;

  __device__ __forceinline__ Block(const AttentionBackwardParams& params)
      : place(params),
        band(params.shape, place.len_q, place.len_kv, place.key_length, true),
        tiles(band, place.query(params.shape, 0), place.query(params.shape, place.num_rows - 1)) {}
};

struct SharedTiles {
  alignas(128) char q[TileQ::BYTES];
  alignas(128) char d_out[TileOut::BYTES];
  alignas(128) char k[TileK::BYTES];
  alignas(128) char v[TileV::BYTES];
  alignas(128) char block[128];
};
static_assert(sizeof(Block) <= 128, "the block's state fits its place");
static_assert(sizeof(SharedTiles) == (BLOCK_Q + BLOCK_KV) * (HEAD_DIM + HEAD_DIM_V) * sizeof(Element) + 128,
              "src/variants.rs counts the same bytes");

// Starts loading a tile of keys, or of values; those that take no part become zero.
template <typename Tile>
__device__ __forceinline__ void load_keys(char* tile_smem, const AttentionShape& shape, const Block& block,
                                          uint64_t address, const HeadStrides& strides, int columns, int tile) {
  const char* first_gmem = block.place.keys(shape, address, strides) + tile * BLOCK_KV * strides.row;
  const int first_key = tile * BLOCK_KV;
  copy_rows<Tile, BLOCK_KV, THREADS, Element>(tile_smem, block.band.begin - first_key, block.band.end - first_key, columns,
                                              shape.aligned != 0, [&](int row) { return first_gmem + row * strides.row; });
  ptx::cp_async_commit();
}

__device__ __forceinline__ void attention_backward_query(const AttentionBackwardParams& params) {
  extern __shared__ __align__(128) char shared_bytes[];
  SharedTiles& shared = *reinterpret_cast<SharedTiles*>(shared_bytes);

  const AttentionShape& shape = params.shape;
  {
    const Block here(params);
    if (here.place.num_rows <= 0) return;
    if (threadIdx.x == 0) *reinterpret_cast<Block*>(shared.block) = here;
    // Everybody reads what thread 0 wrote, again after every barrier.
    __syncthreads();
  }
  const Block& block = *reinterpret_cast<const Block*>(shared.block);
  const QueryPlace<BLOCK_Q>& place = block.place;
  const auto load_k = [&](int tile) {
    load_keys<TileK>(shared.k, shape, block, params.k, shape.k_strides, shape.head_dim, tile);
  };
  const auto load_v = [&](int tile) {
    load_keys<TileV>(shared.v, shape, block, params.v, shape.v_strides, shape.head_dim_v, tile);
  };
  if (block.tiles.start < block.tiles.end) {
    copy_rows<TileQ, BLOCK_Q, THREADS, Element>(
        shared.q, 0, place.num_rows, shape.head_dim, shape.aligned != 0,
        [&](int row) { return place.row(shape, params.q, shape.q_strides, row); });
    copy_rows<TileOut, BLOCK_Q, THREADS, Element>(
        shared.d_out, 0, place.num_rows, shape.head_dim_v, shape.aligned != 0,
        [&](int row) { return place.row(shape, params.d_out, params.d_out_strides, row); });
    load_k(block.tiles.start);
    load_v(block.tiles.start);
  }

  const int warp_row = threadIdx.x / 32 * 16;
  float base_log2[2], delta[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = warp_row + fragment::row(half);
    const bool exists = row < place.num_rows;
    const int64_t stat = exists ? place.stat(shape, row) : 0;
    base_log2[half] = exists ? base_of_lse(reinterpret_cast<const float*>(params.lse)[stat]) : CUDART_INF_F;
    delta[half] = exists ? reinterpret_cast<const float*>(params.delta)[stat] : 0.0f;
  }

  auto q = Reader<Element, TileQ>::rows(shared.q, warp_row);
  auto d_out = Reader<Element, TileOut>::rows(shared.d_out, warp_row);
  auto k = Reader<Element, TileK>::columns(shared.k);
  auto v = Reader<Element, TileV>::columns(shared.v);
  float dq_frag[1][HEAD_DIM / 8][4] = {};
  const float zero[1][4] = {};

  int tile = block.tiles.start;
#pragma unroll 1
  while (tile < block.tiles.end) {
    const int first_key = tile * BLOCK_KV;
    q.forget();
    d_out.forget();
    k.forget();
    v.forget();
    // Barrier A: this thread's copies of K(n) and V(n) (and of Q and dO) have landed, after it everybody's.
    ptx::cp_async_wait<0>();
    __syncthreads();
    float p_frag[1][KEY_TILES][4];
    float derivative[KEY_TILES][4];
    multiply_nt<Element, HEAD_DIM>(p_frag, q, k, zero);
    ScorePlace<false> score_place;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = warp_row + fragment::row(half);
      score_place.row[half] = place.query(shape, row);
      score_place.head[half] = place.head(shape, row);
      score_place.is_valid[half] = row < place.num_rows;
    }
    score_place.first_column = first_key;
    score_place.num_columns = block.band.end;
    const bool is_full = tile >= block.tiles.full_start && tile < block.tiles.full_end;
#pragma unroll
    for (int key_tile = 0; key_tile < KEY_TILES; ++key_tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) derivative[key_tile][i] = 1.0f;
    }
    ScoreOptions<Element>(params, place.sequence)
        .apply(p_frag[0], score_place, block.band, shape, is_full,
               [&](int key_tile, int i, float value) { derivative[key_tile][i] = value; });
#pragma unroll
    for (int key_tile = 0; key_tile < KEY_TILES; ++key_tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        p_frag[0][key_tile][i] = ptx::exp2_approx(p_frag[0][key_tile][i] - base_log2[i / 2]);
      }
    }
    uint32_t keep = ~0u;
    if (shape.dropout_scale != 0.0f) {
      const Dropout dropout(shape);
      const uint32_t sequence_head[2] = {place.sequence * shape.heads_q + score_place.head[0],
                                         place.sequence * shape.heads_q + score_place.head[1]};
      keep = 0;
#pragma unroll 1
      for (int key_tile = 0; key_tile < KEY_TILES; ++key_tile) {
        keep |= dropout.keep_rows(first_key + 8 * key_tile, score_place.row, sequence_head) << (4 * key_tile);
      }
    }

    float dp_frag[1][KEY_TILES][4];
    multiply_nt<Element, HEAD_DIM_V>(dp_frag, d_out, v, zero);
    // Barrier B: V's buffer is free.
    __syncthreads();
    const int next = block.tiles.after(tile);
    if (next < block.tiles.end) load_v(next);
    const float kept_scale = shape.dropout_scale != 0.0f ? shape.dropout_scale : 1.0f;
    Weights<Element, KEY_TILES> ds[1];
#pragma unroll
    for (int key_tile = 0; key_tile < KEY_TILES; ++key_tile) {
      float gradient[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float dp = keep >> (4 * key_tile + i) & 1 ? dp_frag[0][key_tile][i] * kept_scale : 0.0f;
        gradient[i] = score_gradient(p_frag[0][key_tile][i], dp, delta[i / 2], derivative[key_tile][i]);
      }
      ds[0].set(key_tile, 0, gradient[0], gradient[1]);
      ds[0].set(key_tile, 1, gradient[2], gradient[3]);
    }
    multiply_nn<Element>(dq_frag, ds, Reader<Element, TileK>::depth(k, shared.k));
    // Barrier C: K's buffer is free.
    __syncthreads();
    if (next < block.tiles.end) load_k(next);
    tile = next;
  }

  // Only this warp reads and writes its rows of Q's tile. Which these are is worked out again.
  const int end_row = ptx::thread_index() / 32 * 16;
  const float scale[1][2] = {{shape.scale, shape.scale}};
  store_rows<Element, TileQ, true>(dq_frag, scale, shared.q, end_row, 0, place.num_rows, shape.head_dim,
                                   shape.aligned != 0, [&](int row) {
                                     return place.row(shape, params.d_q, params.d_q_strides, row);
                                   });
}

}  // namespace warpfold

extern "C" __global__ void __launch_bounds__(warpfold::THREADS, 1)
    WARPFOLD_ENTRY(const __grid_constant__ AttentionBackwardParams params) {
  warpfold::attention_backward_query(params);
}
