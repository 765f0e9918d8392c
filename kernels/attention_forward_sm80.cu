// Attention, forward, for the tensor cores of sm_80 and everything after it; in f32 by multiplying and adding.
//
//   out[i, :] = sum_j weight[i, j] v[j, :]         weight = softmax_j(score[i, j])         lse[i] = ln sum_j exp(score[i, j])
//
// Scores are scale * q[i] . k[j] and what lib/score.cuh makes of them.
//
// Shapes   q [batch, heads_q, len_q, head_dim], k [batch, heads_kv, len_kv, head_dim], v [batch, heads_kv, len_kv,
//          head_dim_v], out [batch, heads_q, len_q, head_dim_v], lse f32 [batch, heads_q, len_q]; strided but for the last
//          dimension. Packed sequences: lib/place.cuh.
// Grid     linear, blocks of 32 * WARPS threads, in the order of lib/place.cuh. A block owns BLOCK_Q query rows, a warp
//          16 * ROW_TILES of them, and every warp walks the visible keys in tiles of BLOCK_KV, ascending from key 0 on.
//          Nothing of a row depends on the other rows, so neither do its bits.
// Shared   one tile each of Q, K and V, swizzled. At the end Q's tile stages the output.
// Order    K and V have one buffer each, and the copy of one flies while the other is in use:
//
//            barrier A   K(n) has arrived, everybody is done with V(n-1):    start copying V(n)
//            S = Q K(n)
//            barrier B   V(n) has arrived, everybody is done with K(n)
//            P = softmax(S)                                                  start copying K(n+1), now that S is gone
//            O = O + P V(n)                                                  and its registers are free
//
// Images   plain: 16-byte aligned rows of exactly HEAD_DIM elements, and no option that touches single scores. The score
//          accumulators start at minus the row's base (lib/online_softmax.cuh), so that a score costs one multiplication, one
//          exponential, one addition and half a conversion. general: everything.
// Source   Dao, "FlashAttention-2" (2023), Algorithm 1; Dao et al., "FlashAttention" (2022).

#include "lib/philox.cuh"
#include "lib/place.cuh"
#include "lib/product.cuh"
#include "lib/score.cuh"

namespace warpfold {

using Element = WARPFOLD_ELEMENT;
constexpr int HEAD_DIM = WARPFOLD_HEAD_DIM;
constexpr int HEAD_DIM_V = WARPFOLD_HEAD_DIM_V;
constexpr int BLOCK_Q = WARPFOLD_BLOCK_Q;
constexpr int BLOCK_KV = WARPFOLD_BLOCK_KV;
constexpr int WARPS = WARPFOLD_WARPS;
constexpr bool GENERAL = WARPFOLD_GENERAL;
constexpr int THREADS = 32 * WARPS;

// Tiles of 16 query rows of a warp. Each K or V fragment that is read from shared memory serves all of them.
constexpr int ROW_TILES = BLOCK_Q / (16 * WARPS);
constexpr int KEY_TILES = BLOCK_KV / 8;       // 8-column tiles of S
constexpr int VALUE_TILES = HEAD_DIM_V / 8;   // 8-column tiles of O
// Short rows leave registers for all of Q; longer ones read it again from shared memory for every key tile.
constexpr bool Q_IN_REGISTERS = !GENERAL && HEAD_DIM <= 64;

using TileQ = SwizzledTile<BLOCK_Q, HEAD_DIM, sizeof(Element)>;
using TileK = SwizzledTile<BLOCK_KV, HEAD_DIM, sizeof(Element)>;
using TileV = SwizzledTile<BLOCK_KV, HEAD_DIM_V, sizeof(Element)>;
using TileOut = SwizzledTile<BLOCK_Q, HEAD_DIM_V, sizeof(Element)>;
using Tiles = KeyTiles<BLOCK_KV, GENERAL>;

static_assert(BLOCK_Q % (16 * WARPS) == 0, "every warp owns whole 16-row tiles");
static_assert(BLOCK_KV % 16 == 0 && HEAD_DIM % 32 == 0 && HEAD_DIM_V % 32 == 0,
              "tiles are whole tensor-core steps and swizzle periods");
static_assert(GENERAL || sizeof(Element) == 2, "f32 has a general image only");
static_assert(!GENERAL || ROW_TILES == 1, "the options of a score keep no registers free for a second row tile");

// What a block works out once.
struct Block {
  QueryPlace<BLOCK_Q> place;
  KeyBand band;
  Tiles tiles;

  __device__ __forceinline__ Block(const AttentionForwardParams& params)
      : place(params),
        band(params.shape, place.len_q, place.len_kv, place.key_length, GENERAL),
        tiles(band, place.query(params.shape, 0), place.query(params.shape, place.num_rows - 1)) {}
};

struct SharedTiles {
  alignas(128) char q[TileQ::BYTES > TileOut::BYTES ? TileQ::BYTES : TileOut::BYTES];
  alignas(128) char k[TileK::BYTES];
  alignas(128) char v[TileV::BYTES];
  // Of the general image only, whose options leave no registers for it.
  alignas(128) char block[GENERAL ? 128 : 0];
};
static_assert(sizeof(Block) <= 128, "the block's state fits its place");
static_assert(sizeof(SharedTiles) == (BLOCK_Q * (HEAD_DIM > HEAD_DIM_V ? HEAD_DIM : HEAD_DIM_V) +
                                      BLOCK_KV * (HEAD_DIM + HEAD_DIM_V)) * sizeof(Element) + (GENERAL ? 128 : 0),
              "src/variants.rs counts the same bytes");

// A compile-time choice as a value.
template <bool VALUE>
struct Flag {
  static constexpr bool value = VALUE;
};

// Copies tiles of keys or values, one after the other.
template <typename Tile, bool ANY_ROWS>
struct KeyCopy;

// Of aligned rows as long as the tile's: one pointer a thread.
template <typename Tile>
struct KeyCopy<Tile, false> {
  TileCopy<Tile, BLOCK_KV, THREADS> copy;

  __device__ __forceinline__ KeyCopy(char* tile_smem, const char* first_gmem, int64_t row_stride, int, bool,
                                     int first_tile)
      : copy(tile_smem, first_gmem, row_stride, first_tile * BLOCK_KV) {}

  // Starts loading the next tile. Of its keys from this thread's on, the first keys_left exist; the others become zero.
  __device__ __forceinline__ void start(int, int keys_left) {
    copy.start(keys_left);
    ptx::cp_async_commit();
  }
  // The same without the first keys_skipped.
  __device__ __forceinline__ void start_between(int, int keys_skipped, int keys_left) {
    copy.start_between(keys_skipped, keys_left);
    ptx::cp_async_commit();
  }
  // The same for a tile all of whose keys exist.
  __device__ __forceinline__ void start_whole(int) {
    copy.start_whole();
    ptx::cp_async_commit();
  }
  // This thread's key of a tile.
  static __device__ __forceinline__ int own_key() { return TileCopy<Tile, BLOCK_KV, THREADS>::row(); }
};

// Of any rows: short ones are padded, misaligned ones loaded element by element.
template <typename Tile>
struct KeyCopy<Tile, true> {
  char* tile_smem;
  const char* first_gmem;
  int64_t row_stride;
  int columns;
  bool aligned;

  __device__ __forceinline__ KeyCopy(char* tile_smem, const char* first_gmem, int64_t row_stride, int columns,
                                     bool aligned, int)
      : tile_smem(tile_smem), first_gmem(first_gmem), row_stride(row_stride), columns(columns), aligned(aligned) {}

  __device__ __forceinline__ void start(int tile, int keys_left) { start_between(tile, 0, keys_left); }
  __device__ __forceinline__ void start_between(int tile, int keys_skipped, int keys_left) {
    const char* tile_gmem = first_gmem + tile * BLOCK_KV * row_stride;
    copy_rows<Tile, BLOCK_KV, THREADS, Element>(tile_smem, keys_skipped, keys_left, columns, aligned,
                                                [&](int row) { return tile_gmem + row * row_stride; });
    ptx::cp_async_commit();
  }
  __device__ __forceinline__ void start_whole(int tile) { start(tile, BLOCK_KV); }
  static __device__ __forceinline__ int own_key() { return 0; }
};

// Operand A of the scores: in registers, or read from shared memory for every tile of keys.
template <typename Tile, bool IN_REGISTERS>
struct QueryOperand {
  Reader<Element, Tile> reader;
  HeldRows<Tile, ROW_TILES, HEAD_DIM / 16> held;

  __device__ __forceinline__ void load() {
    // Every thread's part of Q has landed.
    ptx::cp_async_wait<0>();
    __syncthreads();
    held.hold(reader);
  }
  __device__ __forceinline__ const auto& get() const { return held; }
};
template <typename Tile>
struct QueryOperand<Tile, false> {
  Reader<Element, Tile> reader;

  __device__ __forceinline__ void load() {}
  __device__ __forceinline__ const auto& get() const { return reader; }
};

// One warp's share of the work: the accumulators and the softmax state of its rows.
struct Warp {
  float o_frag[ROW_TILES][VALUE_TILES][4] = {};
  OnlineSoftmax<ROW_TILES> softmax;
  QueryOperand<TileQ, Q_IN_REGISTERS> q;
  Reader<Element, TileK> k;
  Reader<Element, TileV> v;

  __device__ __forceinline__ Warp(const SharedTiles& shared)
      : q{Reader<Element, TileQ>::rows(shared.q, threadIdx.x / 32 * 16 * ROW_TILES)},
        k(Reader<Element, TileK>::columns(shared.k)),
        v(Reader<Element, TileV>::depth(shared.v)) {
    forget_addresses();
  }

  // After this the addresses are kept as they are, neither worked out again nor as what follows from them.
  __device__ __forceinline__ void forget_addresses() {
    q.reader.forget();
    k.forget();
    v.forget();
  }

  // S = Q K^T for one tile of keys. In the plain image, minus each row's base.
  __device__ __forceinline__ void multiply_qk(float (&s_frag)[ROW_TILES][KEY_TILES][4]) const {
    const float zero[ROW_TILES][4] = {};
    multiply_nt<Element, HEAD_DIM>(s_frag, q.get(), k, GENERAL ? zero : softmax.shift);
  }

  // Scores, less their base, become weights, rounded to the element type. Bit 4 * key_tile + i of `keep`: whether weight i is
  // not dropped.
  __device__ __forceinline__ void weigh(float (&s_frag)[ROW_TILES][KEY_TILES][4],
                                        Weights<Element, KEY_TILES> (&weights)[ROW_TILES], float factor_log2,
                                        uint32_t keep) {
#pragma unroll
    for (int t = 0; t < ROW_TILES; ++t) {
      softmax.advance(
          s_frag[t], t, factor_log2,
          [&](int key_tile, int half, float low, float high) {
            if constexpr (GENERAL) {
              low = keep >> (4 * key_tile + 2 * half) & 1 ? low : 0.0f;
              high = keep >> (4 * key_tile + 2 * half + 1) & 1 ? high : 0.0f;
            }
            weights[t].set(key_tile, half, low, high);
          },
          [&](int half, float factor) {
#pragma unroll
            for (int value_tile = 0; value_tile < VALUE_TILES; ++value_tile) {
              o_frag[t][value_tile][2 * half] *= factor;
              o_frag[t][value_tile][2 * half + 1] *= factor;
            }
          });
    }
  }

  // The row of the block's tile that `half` of this lane's accumulators belong to.
  static __device__ __forceinline__ int tile_row(int t, int half) {
    return (threadIdx.x / 32 * ROW_TILES + t) * 16 + fragment::row(half);
  }
};

// The logit of a row's sink in base 2; -inf without one.
__device__ __forceinline__ float sink_log2(const AttentionForwardParams& params, uint32_t head) {
  return params.sinks == 0 ? -CUDART_INF_F : reinterpret_cast<const float*>(params.sinks)[head] * LOG2E;
}

// Normalises the accumulators and writes output and lse.
__device__ __forceinline__ void store(Warp& warp, char* tile_smem, const AttentionForwardParams& params,
                                      float factor_log2) {
  // Worked out a second time, so that the loop over keys has its registers for itself.
  const QueryPlace<BLOCK_Q> place(params);
  const AttentionShape& shape = params.shape;
  warp.softmax.finish();
  const float kept_scale = GENERAL && shape.dropout_scale != 0.0f ? shape.dropout_scale : 1.0f;
  float scale[ROW_TILES][2];
#pragma unroll
  for (int t = 0; t < ROW_TILES; ++t) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = Warp::tile_row(t, half);
      const bool exists = row < place.num_rows;
      const float sink = exists ? sink_log2(params, place.head(shape, row)) : -CUDART_INF_F;
      scale[t][half] = warp.softmax.normalizer(t, half, factor_log2, sink) * kept_scale;
      // The 4 lanes of a row hold the same state.
      if (params.lse != 0 && exists && fragment::lane() % 4 == 0) {
        reinterpret_cast<float*>(params.lse)[place.stat(shape, row)] = warp.softmax.lse(t, half, factor_log2, sink);
      }
    }
  }
  const auto row_gmem = [&](int row) { return place.row(shape, params.out, params.out_strides, row); };
  const int first_row = Warp::tile_row(0, 0) - fragment::row(0);
  // Partial results stay f32.
  if (params.out_f32 != 0) {
    store_rows<float, GENERAL>(warp.o_frag, scale, first_row, 0, place.num_rows, shape.head_dim_v, shape.aligned != 0,
                               row_gmem);
  } else {
    store_rows<Element, TileOut, GENERAL>(warp.o_frag, scale, tile_smem, first_row, 0, place.num_rows,
                                          shape.head_dim_v, shape.aligned != 0, row_gmem);
  }
}

__device__ __forceinline__ void attention_forward(const AttentionForwardParams& params) {
  extern __shared__ __align__(128) char shared_bytes[];
  SharedTiles& shared = *reinterpret_cast<SharedTiles*>(shared_bytes);

  const AttentionShape& shape = params.shape;
  const Block here(params);
  if (here.place.num_rows <= 0) return;
  if constexpr (GENERAL) {
    if (threadIdx.x == 0) *reinterpret_cast<Block*>(shared.block) = here;
    // Everybody reads what thread 0 wrote, again after every barrier.
    __syncthreads();
  }
  const Block& block = GENERAL ? *reinterpret_cast<const Block*>(shared.block) : here;
  const QueryPlace<BLOCK_Q>& place = block.place;
  const KeyBand& band = block.band;
  const Tiles& tiles = block.tiles;

  const bool aligned = !GENERAL || shape.aligned != 0;
  KeyCopy<TileK, GENERAL> k_copy(shared.k, place.keys(shape, params.k, shape.k_strides), shape.k_strides.row,
                                 shape.head_dim, aligned, tiles.start);
  KeyCopy<TileV, GENERAL> v_copy(shared.v, place.keys(shape, params.v, shape.v_strides), shape.v_strides.row,
                                 shape.head_dim_v, aligned, tiles.start);
  // From this thread's key of the tile on that is copied next. The copy is one tile ahead: past the last tile no key is left,
  // and nothing is read.
  const int end_key = min(band.end, tiles.end * BLOCK_KV);
  int keys_left = end_key - tiles.start * BLOCK_KV - k_copy.own_key();

  Warp warp(shared);
  if (tiles.start < tiles.end) {
    copy_rows<TileQ, BLOCK_Q, THREADS, Element>(
        shared.q, 0, place.num_rows, GENERAL ? shape.head_dim : HEAD_DIM, aligned,
        [&](int row) { return place.row(shape, params.q, shape.q_strides, row); });
    k_copy.start(tiles.start, keys_left);
    warp.q.load();
  }

  // Scores of the general image are in base 2 already.
  const float factor_log2 = GENERAL ? 1.0f : shape.scale_log2;
  const auto process_tile = [&](int tile, auto masked) {
    constexpr bool MASKED = decltype(masked)::value;
    const int first_key = tile * BLOCK_KV;
    if constexpr (!Q_IN_REGISTERS) warp.forget_addresses();
    // Barrier A: this thread's copies of K(n) (and of Q) have landed, after it everybody's; V's buffer is free.
    ptx::cp_async_wait<0>();
    __syncthreads();
    if constexpr (MASKED) {
      // A hidden value must be zero: its weight is, but zero times NaN is not.
      const int own_key = first_key + v_copy.own_key();
      v_copy.start_between(tile, band.begin - own_key, band.end - own_key);
    } else {
      v_copy.start_whole(tile);
    }
    float s_frag[ROW_TILES][KEY_TILES][4];
    warp.multiply_qk(s_frag);
    // Barrier B: V(n) has landed; K's buffer is free.
    ptx::cp_async_wait<0>();
    __syncthreads();
    uint32_t keep = ~0u;
    if constexpr (GENERAL) {
      const ScoreOptions<Element> options(params, place.sequence);
      ScorePlace<false> score_place;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = Warp::tile_row(0, half);
        score_place.row[half] = place.query(shape, row);
        score_place.head[half] = place.head(shape, row);
        score_place.is_valid[half] = row < place.num_rows;
      }
      score_place.first_column = first_key;
      score_place.num_columns = band.end;
      options.apply(s_frag[0], score_place, band, shape, !MASKED, [](int, int, float) {});
#pragma unroll
      for (int key_tile = 0; key_tile < KEY_TILES; ++key_tile) {
#pragma unroll
        for (int i = 0; i < 4; ++i) s_frag[0][key_tile][i] += warp.softmax.shift[0][i];
      }
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
    } else if constexpr (MASKED) {
#pragma unroll
      for (int t = 0; t < ROW_TILES; ++t) {
        const int query[2] = {place.query(shape, Warp::tile_row(t, 0)), place.query(shape, Warp::tile_row(t, 1))};
        hide_by_position(s_frag[t], query, band, first_key);
      }
    }
    Weights<Element, KEY_TILES> weights[ROW_TILES];
    warp.weigh(s_frag, weights, factor_log2, keep);
    const int next = tiles.after(tile);
    keys_left -= BLOCK_KV;
    k_copy.start(next, GENERAL ? min(band.end, tiles.end * BLOCK_KV) - next * BLOCK_KV : keys_left);
    multiply_nn<Element>(warp.o_frag, weights, warp.v);
  };
  int tile = tiles.start;
#pragma unroll 1
  while (tile < tiles.end) {
    // The tiles that everybody sees whole, then one that is hidden in part.
    const int full_end = tile >= tiles.full_start ? min(tiles.full_end, tiles.end) : tile;
#pragma unroll 1
    for (; tile < full_end; ++tile) process_tile(tile, Flag<false>());
    if (tile < tiles.end) {
      process_tile(tile, Flag<true>());
      tile = tiles.after(tile);
    }
  }

  // The copy past the last tile wrote zeros.
  ptx::cp_async_wait<0>();
  // Only this warp reads and writes its rows of Q's tile, and all of its lanes were past their last ldmatrix there at the
  // last barrier B. A tile of wider output rows overlaps other warps' rows of Q, and f32 reads Q without ldmatrix's
  // convergence.
  if constexpr (!(HEAD_DIM == HEAD_DIM_V)) __syncthreads();
  store(warp, shared.q, params, factor_log2);
}

}  // namespace warpfold

extern "C" __global__ void __launch_bounds__(warpfold::THREADS, 1)
    WARPFOLD_ENTRY(const __grid_constant__ AttentionForwardParams params) {
  warpfold::attention_forward(params);
}
