// Attention, forward, for Hopper: the copy engine, the warpgroup tensor cores and specialised warps.
//
//   out[i, :] = sum_j weight[i, j] v[j, :]         weight = softmax_j(score[i, j])         lse[i] = ln sum_j exp(score[i, j])
//
// Scores are scale * q[i] . k[j] and what lib/score.cuh makes of them.
//
// Shapes   q [batch, heads_q, len_q, head_dim], k [batch, heads_kv, len_kv, head_dim], v [batch, heads_kv, len_kv,
//          head_dim_v], out [batch, heads_q, len_q, head_dim_v], lse f32 [batch, heads_q, len_q]; strided but for the last
//          dimension. Packed sequences: lib/place.cuh. A head_dim below the tile's is filled up with zeros by the copy engine.
// Grid     persistent: as many blocks as multiprocessors walk the pieces of work, to and fro (lib/hopper/work.cuh), in the order
//          of lib/place.cuh: the longest first. A piece of work is BLOCK_Q query rows of one head.
// Cluster  of CLUSTER blocks (a choice of the tile): a piece of work is BLOCK_Q neighbouring rows for each of them. Every block
//          copies its part of each tile of keys and values to all of them. A block that sees fewer tiles than the others takes
//          part in copying the rest, and does nothing with them.
// Warps    one warpgroup of which one warp fills the buffers, and CONSUMERS warpgroups of 64 query rows each that compute. The
//          first gives most of its registers to the others. These may take turns (lib/hopper/turns.cuh; a choice of the tile).
// Shared   one tile of Q, rings of STAGES tiles of K and of V, and the output's tile, which is Q's where there is no room.
// Order    of a consumer, with the product of one tile under the softmax of the next:
//
//            issue S = Q K(n)            issue O = O + P V(n-1)
//            wait for S                  release K(n)
//            P' = softmax(S)             while the tensor cores are at O; where a row's base moves, wait for O and rescale it
//            wait for O                  release V(n-1); P' is P of the next tile
//
//          Tiles that every row sees whole go in pairs, so that P and P' change places without a copy.
// Every row's keys are walked in ascending tiles that start at multiples of BLOCK_KV, and nothing of a row depends on the
// others, so neither do its bits.
// Images   plain: no option that touches single scores; general: everything.
// Source   Shah et al., "FlashAttention-3" (2024), sections 3.1 and 3.2; the softmax is that of lib/hopper/softmax.cuh.

#include "lib/hopper/mask.cuh"
#include "lib/hopper/ring.cuh"
#include "lib/hopper/softmax.cuh"
#include "lib/hopper/turns.cuh"
#include "lib/hopper/wgmma.cuh"
#include "lib/hopper/work.cuh"
#include "lib/philox.cuh"
#include "lib/place.cuh"
#include "lib/score.cuh"

#include <type_traits>

namespace warpfold {

using Element = WARPFOLD_ELEMENT;
constexpr int HEAD_DIM = WARPFOLD_HEAD_DIM;
constexpr int HEAD_DIM_V = WARPFOLD_HEAD_DIM_V;
constexpr int BLOCK_Q = WARPFOLD_BLOCK_Q;
constexpr int BLOCK_KV = WARPFOLD_BLOCK_KV;
constexpr int STAGES = WARPFOLD_STAGES;
constexpr int CONSUMERS = WARPFOLD_CONSUMERS;
constexpr int CLUSTER = WARPFOLD_CLUSTER;
constexpr bool PING_PONG = WARPFOLD_PING_PONG;
constexpr bool GENERAL = WARPFOLD_GENERAL;
constexpr int THREADS = 128 * (CONSUMERS + 1);

constexpr int KEY_TILES = BLOCK_KV / 8;      // 8-column tiles of S
constexpr int VALUE_TILES = HEAD_DIM_V / 8;  // 8-column tiles of O
using TileQ = Panels<BLOCK_Q, HEAD_DIM>;
using TileK = Panels<BLOCK_KV, HEAD_DIM>;
using TileV = Panels<BLOCK_KV, HEAD_DIM_V>;
using TileOut = Panels<BLOCK_Q, HEAD_DIM_V>;
using Tiles = KeyTiles<BLOCK_KV, GENERAL>;

// Whether the output has a tile of its own; else the next block's Q waits until the output has left.
constexpr int SHARED_BYTES_MAX = 227 * 1024;
constexpr bool OUT_APART =
    TileQ::BYTES + TileOut::BYTES + STAGES * (TileK::BYTES + TileV::BYTES) + 2048 <= SHARED_BYTES_MAX;

// With three warpgroups a thread has 160 registers, of which scores, two tiles of weights and the output take 128.
constexpr bool ROWS_APART = CONSUMERS == 3;
// For short rows there is no more time for the products than for the exponentials.
using ToWeight = std::conditional_t<!GENERAL && HEAD_DIM <= 64, MixedExponential<6>, Exponential>;

static_assert(BLOCK_Q == 64 * CONSUMERS, "a warpgroup owns 64 query rows");
static_assert(BLOCK_KV % 16 == 0 && HEAD_DIM % 16 == 0 && HEAD_DIM_V % 16 == 0, "tiles are whole tensor-core steps");
static_assert(OUT_APART || TileOut::BYTES <= TileQ::BYTES, "the output fits Q's tile");
static_assert(BLOCK_KV % (8 * CLUSTER) == 0, "a block's part of a tile is whole periods of the swizzle");
// Without a prefix, the tiles of several blocks together are one range.
static_assert(CLUSTER == 1 || !GENERAL, "clusters are for the plain image");

struct SharedStorage {
  alignas(1024) char q[TileQ::BYTES];
  alignas(1024) char k[STAGES][TileK::BYTES];
  alignas(1024) char v[STAGES][TileV::BYTES];
  alignas(1024) char out[OUT_APART ? TileOut::BYTES : 0];
  alignas(1024) Ring<1> q_ring;
  Ring<STAGES> k_ring;
  Ring<STAGES> v_ring;
  // What a block of work comes to, one a consumer warp: the registers are for the products.
  alignas(16) char blocks[4 * CONSUMERS][128];
};
static_assert(sizeof(SharedStorage) == TileQ::BYTES + STAGES * (TileK::BYTES + TileV::BYTES) +
                                           (OUT_APART ? TileOut::BYTES : 0) + 2048,
              "src/variants.rs counts the same bytes");

struct TensorMaps {
  TensorMap q;    // (head_dim, packed_heads, len_q, heads_q / packed_heads, batch), boxes of (64, packed_heads, BLOCK_Q / packed_heads)
  TensorMap k;    // (head_dim, len_kv, heads_kv, batch), boxes of (64, BLOCK_KV / CLUSTER)
  TensorMap v;
  TensorMap out;  // as q, boxes of 64 rows
};

// Where a piece of work lies: BLOCK_Q query rows of every block of the cluster.
using Place = QueryPlace<BLOCK_Q * CLUSTER>;

// Leaves of a piece of work what this block of the cluster computes, which may be nothing.
__device__ __forceinline__ void take_part(Place& place) {
  if constexpr (CLUSTER > 1) {
    const int before = ptx::cluster_rank() * BLOCK_Q;
    place.first_row += before;
    place.num_rows = min(place.num_rows - before, BLOCK_Q);
  }
}

// What a piece of work comes to.
struct Block {
  Place place;  // this block's part
  KeyBand band;
  // All that the cluster's blocks see between them, which each of them takes part in loading, and what this one sees of it.
  Tiles loaded;
  Tiles tiles;

  __device__ __forceinline__ Block(const AttentionForwardParams& params, uint32_t work)
      : place(params, work),
        band(params.shape, place.len_q, place.len_kv, place.key_length, GENERAL),
        loaded(band, place.query(params.shape, 0), place.query(params.shape, place.num_rows - 1)),
        tiles(loaded) {
    if (place.num_rows <= 0) loaded.end = tiles.end = 0;
    if constexpr (CLUSTER > 1) {
      take_part(place);
      tiles = Tiles(band, place.query(params.shape, 0), place.query(params.shape, place.num_rows - 1));
      if (place.num_rows <= 0) tiles.end = 0;
      // An empty range is at the end.
      if (tiles.start >= tiles.end) tiles.start = tiles.end = loaded.end;
    }
  }

  __device__ __forceinline__ bool has_keys() const { return tiles.start < tiles.end; }
};

static_assert(sizeof(Block) <= 128, "a block's state fits its place");

// One side of all rings.
struct Rings {
  RingSide<1> q;
  RingSide<STAGES, CLUSTER> k;
  RingSide<STAGES, CLUSTER> v;

  __device__ __forceinline__ explicit Rings(const SharedStorage& shared)
      : q(shared.q_ring), k(shared.k_ring), v(shared.v_ring) {}
};

// The filling warp: copies Q once a piece of work, and K and V tile by tile. One lane acts; all of them work out the places.
__device__ __forceinline__ void fill(const AttentionForwardParams& params, const TensorMaps& maps, SharedStorage& shared) {
  const AttentionShape& shape = params.shape;
  Rings rings(shared);
  for (Work<CLUSTER> work; work.exists(shape.work_blocks); work.advance()) {
    const Block block(params, work.index);
    const Tiles& loaded = block.loaded;
    if (loaded.start >= loaded.end) continue;
    const Place& place = block.place;
    if (threadIdx.x % 32 == 0) {
      const int kv_head = place.first_head / shape.heads_per_kv;
      // A block of a cluster copies its part of the rows to all of them.
      const auto part_row = [] { return CLUSTER == 1 ? 0 : ptx::cluster_rank() * (BLOCK_KV / CLUSTER); };
      const auto fill_tile = [&](auto& ring, const TensorMap& map, const auto& tile_of, char* tiles_smem, int tile) {
        using TileOf = std::remove_reference_t<decltype(tile_of)>;
        ring.start_filling(TileOf::BYTES);
        const uint32_t tile_smem = ptx::shared_address(tiles_smem) + ring.stage * TileOf::BYTES + part_row() * 128;
        const int key = place.first_key + tile * BLOCK_KV + part_row();
#pragma unroll
        for (int panel = 0; panel < TileOf::COUNT; ++panel) {
          const uint32_t panel_smem = tile_smem + panel * TileOf::PANEL_BYTES;
          if constexpr (CLUSTER == 1) {
            ptx::load_box(panel_smem, map, ring.full(), 64 * panel, key, kv_head, place.tensor_batch);
          } else {
            ptx::load_box_multicast(panel_smem, map, ring.full(), (1 << CLUSTER) - 1, 64 * panel, key, kv_head,
                                    place.tensor_batch);
          }
        }
        ring.advance();
      };
      const auto fill_keys = [&](int tile) { fill_tile(rings.k, maps.k, TileK(), shared.k[0], tile); };
      const auto fill_values = [&](int tile) { fill_tile(rings.v, maps.v, TileV(), shared.v[0], tile); };
      if (block.has_keys()) {
        rings.q.start_filling(TileQ::BYTES);
#pragma unroll
        for (int panel = 0; panel < TileQ::COUNT; ++panel) {
          ptx::load_box(ptx::shared_address(shared.q) + panel * TileQ::PANEL_BYTES, maps.q, rings.q.full(), 64 * panel, 0,
                        place.first_query + place.query(shape, 0), place.first_head / shape.packed_heads,
                        place.tensor_batch);
        }
        rings.q.advance();
      }
      int tile = loaded.start;
      fill_keys(tile);
#pragma unroll 1
      for (int next = loaded.after(tile); next < loaded.end; next = loaded.after(next)) {
        fill_keys(next);
        fill_values(tile);
        tile = next;
      }
      fill_values(tile);
    }
    __syncwarp();
  }
}

// One consumer warp's share of a block of work: 16 query rows, of which a thread holds parts of two.
struct Warp {
  float o[VALUE_TILES][4] = {};
  WarpgroupSoftmax<ToWeight> softmax;
  int query[2];  // of this thread's rows, for the plain image; the other works it out for each tile

  __device__ __forceinline__ Warp(const Place& place, const AttentionShape& shape) {
#pragma unroll
    for (int half = 0; half < 2; ++half) query[half] = place.query(shape, tile_row(half));
  }

  // The row of the block's tile that `half` of this lane's accumulators belong to. Warps 0 to 3 fill the rings.
  static __device__ __forceinline__ int tile_row(int half) { return (threadIdx.x / 32 - 4) * 16 + fragment::row(half); }

  // Products become scores, by all options. `is_full`: positions hide nothing. What is left of each weight by dropout: bits as
  // Dropout::keep_rows() has them, four a tile.
  __device__ __forceinline__ void apply_options(float (&s)[KEY_TILES][4], uint32_t (&keep)[(KEY_TILES + 7) / 8],
                                                const AttentionForwardParams& params, const Block& block, int first_key,
                                                bool is_full) const {
    const AttentionShape& shape = params.shape;
    const ScoreOptions<Element> options(params, block.place.sequence);
    ScorePlace<false> score_place;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      score_place.row[half] = block.place.query(shape, tile_row(half));
      score_place.head[half] = block.place.head(shape, tile_row(half));
      score_place.is_valid[half] = tile_row(half) < block.place.num_rows;
    }
    score_place.first_column = first_key;
    score_place.num_columns = block.band.end;
    options.apply(s, score_place, block.band, shape, is_full, [](int, int, float) {});
#pragma unroll
    for (int word = 0; word < (KEY_TILES + 7) / 8; ++word) keep[word] = ~0u;
    if (shape.dropout_scale == 0.0f) return;
    const Dropout dropout(shape);
    const uint32_t sequence_head[2] = {block.place.sequence * shape.heads_q + score_place.head[0],
                                       block.place.sequence * shape.heads_q + score_place.head[1]};
#pragma unroll
    for (int word = 0; word < (KEY_TILES + 7) / 8; ++word) {
      keep[word] = 0;
#pragma unroll 1
      for (int tile = 0; tile < min(8, KEY_TILES - 8 * word); ++tile) {
        keep[word] |= dropout.keep_rows(first_key + 8 * (8 * word + tile), score_place.row, sequence_head) << (4 * tile);
      }
    }
  }

  // Products become weights: options, masks, softmax.
  __device__ __forceinline__ void weigh(float (&s)[KEY_TILES][4], Weights<Element, KEY_TILES>& weights,
                                        const AttentionForwardParams& params, const Block& block, int first_key,
                                        bool is_full) {
    uint32_t keep[(KEY_TILES + 7) / 8];
    if constexpr (GENERAL) {
      apply_options(s, keep, params, block, first_key, is_full);
    } else if (!is_full) {
      hide_by_bits(s, query, block.band, first_key);
    }
    // Scores of the general image are in base 2 already.
    const float factor_log2 = GENERAL ? 1.0f : params.shape.scale_log2;
    const auto store = [&](int tile, int half, float low, float high) {
      if constexpr (GENERAL) {
        const uint32_t bits = keep[tile / 8] >> (4 * (tile % 8) + 2 * half);
        low = bits & 1 ? low : 0.0f;
        high = bits & 2 ? high : 0.0f;
      }
      weights.set(tile, half, low, high);
    };
    const auto rescale = [&](int half, float factor) {
      // The tensor cores may still be adding to the output.
      ptx::wgmma_wait<0>();
      hold(o);
#pragma unroll
      for (int tile = 0; tile < VALUE_TILES; ++tile) {
        o[tile][2 * half] *= factor;
        o[tile][2 * half + 1] *= factor;
      }
    };
    if constexpr (ROWS_APART) {
      softmax.advance_row(s, 0, factor_log2, store, rescale);
      softmax.advance_row(s, 1, factor_log2, store, rescale);
    } else {
      softmax.advance(s, factor_log2, store, rescale);
    }
  }
};

// The barriers of consumers among themselves: one a warpgroup, one of all, and those of their turns. Barrier 0 is the block's.
__device__ __forceinline__ void warpgroup_sync() { ptx::barrier_sync(threadIdx.x / 128, 128); }
__device__ __forceinline__ void consumers_sync() { ptx::barrier_sync(CONSUMERS + 1, 128 * CONSUMERS); }
using ConsumerTurns = Turns<PING_PONG, CONSUMERS, CONSUMERS + 2>;

// Values that take no part become zero: a weight of zero does not keep out NaN. By all consumers, before the tile is multiplied.
__device__ __forceinline__ void clear_hidden(SharedStorage& shared, const RingSide<STAGES, CLUSTER>& ring,
                                             const AttentionShape& shape, const Block& block, int first_key) {
  // Rows past the tensor's end are zero already.
  const int end_key = min(first_key + BLOCK_KV, shape.len_kv - block.place.first_key);
  if (first_key >= block.band.begin && end_key <= block.band.end) return;
  ptx::mark_as_rare();
  ring.wait();
  char* const tile_smem = shared.v[ring.stage];
#pragma unroll 1
  for (int index = threadIdx.x - 128; index < BLOCK_KV * TileV::COUNT * 8; index += 128 * CONSUMERS) {
    const int key = first_key + index / 8 % BLOCK_KV;
    if (key < block.band.begin || key >= block.band.end) {
      *reinterpret_cast<uint4*>(tile_smem + index * 16) = make_uint4(0, 0, 0, 0);
    }
  }
  ptx::fence_async_proxy();
  consumers_sync();
}

// The logit of a row's sink in base 2; -inf without one.
__device__ __forceinline__ float sink_log2(const AttentionForwardParams& params, uint32_t head) {
  return params.sinks == 0 ? -CUDART_INF_F : reinterpret_cast<const float*>(params.sinks)[head] * LOG2E;
}

// Normalises the accumulators and writes output and lse. On return the output's tile may still be read by the copy engine.
__device__ __forceinline__ void store(Warp& warp, const AttentionForwardParams& params, const TensorMaps& maps,
                                      char* tile_smem, uint32_t work, bool has_keys) {
  // Worked out a second time, so that the loop over keys has its registers for itself.
  ptx::forget(work);
  Place place(params, work);
  take_part(place);
  const AttentionShape& shape = params.shape;
  const float factor_log2 = GENERAL ? 1.0f : shape.scale_log2;
  warp.softmax.finish();
  const float kept_scale = GENERAL && shape.dropout_scale != 0.0f ? shape.dropout_scale : 1.0f;
  float scale[1][2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = Warp::tile_row(half);
    const bool exists = row < place.num_rows;
    const float sink = exists ? sink_log2(params, place.head(shape, row)) : -CUDART_INF_F;
    scale[0][half] = warp.softmax.normalizer(0, half, factor_log2, sink) * kept_scale;
    // The 4 lanes of a row hold the same state.
    if (params.lse != 0 && exists && fragment::lane() % 4 == 0) {
      reinterpret_cast<float*>(params.lse)[place.stat(shape, row)] = warp.softmax.lse(0, half, factor_log2, sink);
    }
  }
  const auto row_gmem = [&](int row) { return place.row(shape, params.out, params.out_strides, row); };
  const int first_row = Warp::tile_row(0) - fragment::row(0);
  // Partial results stay f32.
  if (params.out_f32 != 0) {
    const float(&acc)[1][VALUE_TILES][4] = reinterpret_cast<const float(&)[1][VALUE_TILES][4]>(warp.o);
    store_rows<float, true>(acc, scale, first_row, 0, place.num_rows, shape.head_dim_v, true, row_gmem);
    return;
  }
  // A warp's chunks of the output one by one: its rows, but for those that do not exist.
  const auto store_chunks = [&](auto chunk_at) {
    constexpr int CHUNKS = HEAD_DIM_V / 8;
    for (int index = fragment::lane(); index < 16 * CHUNKS; index += 32) {
      const int row = first_row + index / CHUNKS;
      const int chunk = index % CHUNKS;
      if (row >= place.num_rows || chunk * 8 >= shape.head_dim_v) continue;
      *reinterpret_cast<uint4*>(row_gmem(row) + chunk * 16) = chunk_at(row, chunk);
    }
  };
  if (!has_keys) {
    // Not through the tile: where that is Q's, the next piece's Q may be there already.
    store_chunks([](int, int) { return make_uint4(0, 0, 0, 0); });
    return;
  }
  const bool leads_warpgroup = threadIdx.x % 128 == 0;
  // The output before this one has left the tile.
  if (leads_warpgroup) ptx::bulk_wait_read<0>();
  warpgroup_sync();
#pragma unroll
  for (int pair = 0; pair < VALUE_TILES / 2; ++pair) {
    uint32_t rows[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float(&acc)[4] = warp.o[2 * pair + i / 2];
      rows[i] = ptx::pack_rn(acc[2 * (i % 2)] * scale[0][i % 2], acc[2 * (i % 2) + 1] * scale[0][i % 2], Element());
    }
    ptx::stmatrix_x4(ptx::shared_address(tile_smem) +
                         TileOut::offset(first_row + fragment::a_row(), 2 * pair + fragment::a_chunk()),
                     rows);
  }
  const int warpgroup_row = (threadIdx.x / 128 - 1) * 64;
  if (warpgroup_row + 64 <= place.num_rows) {
    ptx::fence_async_proxy();
    warpgroup_sync();
    if (leads_warpgroup) {
#pragma unroll
      for (int panel = 0; panel < TileOut::COUNT; ++panel) {
        ptx::store_box(maps.out, ptx::shared_address(tile_smem) + panel * TileOut::PANEL_BYTES + warpgroup_row * 128,
                       64 * panel, 0, place.first_query + place.query(shape, warpgroup_row),
                       place.first_head / shape.packed_heads, place.tensor_batch);
      }
      ptx::bulk_commit();
    }
  } else {
    // A box would reach into the rows of another sequence.
    __syncwarp();
    store_chunks([&](int row, int chunk) {
      return *reinterpret_cast<const uint4*>(tile_smem + TileOut::offset(row, chunk));
    });
  }
}

// The same value, which all lanes hold, so that the compiler knows that they do: what follows from it is worked out once a warp.
__device__ __forceinline__ int uniform(int value) { return __shfl_sync(0xffffffff, value, 0); }
__device__ __forceinline__ Tiles uniform(Tiles tiles) {
  for (int* field : {&tiles.start, &tiles.end, &tiles.full_start, &tiles.full_end, &tiles.gap_start, &tiles.gap_end}) {
    *field = uniform(*field);
  }
  return tiles;
}

// All keys of a piece of work, for a consumer warpgroup: there are some.
__device__ __forceinline__ void attend(Warp& warp, DepthMajor<TileQ::PANEL_BYTES>& q, Rings& rings,
                                       const AttentionForwardParams& params, SharedStorage& shared, const Block& block,
                                       const Tiles& tiles) {
  const AttentionShape& shape = params.shape;
  // Weights that the tensor cores read, and those of the next tile: each is the other's after a tile.
  Weights<Element, KEY_TILES> even, odd;
  float s[KEY_TILES][4];

  const auto issue_scores = [&](auto& weights) {
    rings.k.wait();
    // Of both products: between them no register may change.
    hold(warp.o);
    hold(weights);
    ptx::wgmma_fence();
    // The descriptors of a wide Q would all be kept in registers.
    if constexpr (HEAD_DIM > 128) ptx::forget(q.low);
    const DepthMajor<TileK::PANEL_BYTES> k(ptx::shared_address(shared.k[0]) + rings.k.stage * TileK::BYTES);
    issue_product<Element, HEAD_DIM / 16, 0>(s, q, k);
    ptx::wgmma_commit();
  };
  const auto issue_output = [&](auto& weights) {
    rings.v.wait();
    const WidthMajor<TileV::PANEL_BYTES> v(ptx::shared_address(shared.v[0]) + rings.v.stage * TileV::BYTES);
    ptx::wgmma_fence();
    issue_product<Element, 1>(warp.o, weights, v);
    ptx::wgmma_commit();
  };
  const auto finish_scores = [&] {
    hold(s);
    rings.k.release();
    rings.k.advance();
  };
  const auto finish_output = [&](auto& weights) {
    ptx::wgmma_wait<0>();
    hold(warp.o);
    hold(weights);
    rings.v.release();
    rings.v.advance();
  };
  const auto step = [&](auto& weights, auto& next_weights, int next, bool is_full) {
    ConsumerTurns::take();
    issue_scores(weights);
    issue_output(weights);
    ConsumerTurns::hand_on();
    ptx::wgmma_wait<1>();
    finish_scores();
    warp.weigh(s, next_weights, params, block, next * BLOCK_KV, is_full);
    finish_output(weights);
  };

  rings.q.wait();
  issue_scores(even);
  ptx::wgmma_wait<0>();
  finish_scores();
  warp.weigh(s, even, params, block, tiles.start * BLOCK_KV, false);
  clear_hidden(shared, rings.v, shape, block, tiles.start * BLOCK_KV);
  int next = tiles.after(tiles.start);
#pragma unroll 1
  while (next < tiles.end) {
    // Whether the next tiles are so many that everybody sees whole.
    const auto are_full = [&](int count) {
      return next >= tiles.full_start && next + count <= min(tiles.full_end, tiles.end);
    };
    if constexpr (!GENERAL) {
#pragma unroll 1
      for (; are_full(2); next += 2) {
        step(even, odd, next, true);
        step(odd, even, next + 1, true);
      }
    }
    // Tiles that are hidden in part, or one that is left.
#pragma unroll 1
    while (next < tiles.end && (GENERAL || !are_full(2))) {
      step(even, odd, next, GENERAL && are_full(1));
      take_over(even, odd);
      clear_hidden(shared, rings.v, shape, block, next * BLOCK_KV);
      next = tiles.after(next);
    }
  }
  if constexpr (OUT_APART) rings.q.release();
  hold(warp.o);
  hold(even);
  issue_output(even);
  finish_output(even);
}

// A consumer warpgroup.
__device__ __forceinline__ void consume(const AttentionForwardParams& params, const TensorMaps& maps, SharedStorage& shared) {
  const AttentionShape& shape = params.shape;
  Rings rings(shared);
  DepthMajor<TileQ::PANEL_BYTES> q(ptx::shared_address(shared.q) + (uniform(threadIdx.x / 128) - 1) * 64 * 128);
  char* const out_smem = OUT_APART ? shared.out : shared.q;
  ConsumerTurns::begin();
  for (Work<CLUSTER> work; work.exists(shape.work_blocks); work.advance()) {
    Block& block = *reinterpret_cast<Block*>(shared.blocks[threadIdx.x / 32 - 4]);
    const Block here(params, work.index);
    if (CLUSTER == 1 && uniform(here.place.num_rows) <= 0) continue;
    __syncwarp();
    if (threadIdx.x % 32 == 0) block = here;
    __syncwarp();
    const Tiles held_tiles = uniform(here.tiles);
    // The general image's options need the registers.
    const Tiles& tiles = GENERAL ? block.tiles : held_tiles;
    const bool has_keys = tiles.start < tiles.end;
    // Tiles that only other blocks of the cluster see.
    const auto pass_tiles = [&](int count) {
#pragma unroll 1
      for (; CLUSTER > 1 && count > 0; --count) {
        rings.k.wait();
        rings.k.release();
        rings.k.advance();
        rings.v.wait();
        rings.v.release();
        rings.v.advance();
      }
    };
    if constexpr (CLUSTER > 1) pass_tiles(tiles.start - block.loaded.start);
    Warp warp(block.place, shape);
    if (has_keys) {
      attend(warp, q, rings, params, shared, block, tiles);
    }
    if constexpr (CLUSTER > 1) pass_tiles(block.loaded.end - tiles.end);
    store(warp, params, maps, out_smem, work.index, has_keys);
    if (has_keys) {
      if constexpr (!OUT_APART) {
        // Q's tile is free when the output has left it. Ordinary stores wrote there, and the copy engine is next.
        if (threadIdx.x % 128 == 0) ptx::bulk_wait_read<0>();
        ptx::fence_async_proxy();
        warpgroup_sync();
        rings.q.release();
      }
      rings.q.advance();
    }
  }
  ConsumerTurns::end();
  if (threadIdx.x % 128 == 0) ptx::bulk_wait_read<0>();
}

__device__ __forceinline__ void attention_forward(const AttentionForwardParams& params, const TensorMaps& maps) {
  extern __shared__ __align__(1024) char shared_bytes[];
  SharedStorage& shared = *reinterpret_cast<SharedStorage*>(shared_bytes);
  if (threadIdx.x == 0) {
    shared.q_ring.init(4 * CONSUMERS);
    shared.k_ring.init(4 * CONSUMERS * CLUSTER);
    shared.v_ring.init(4 * CONSUMERS * CLUSTER);
    ptx::fence_mbarrier_init();
    ptx::prefetch_map(maps.q);
    ptx::prefetch_map(maps.k);
    ptx::prefetch_map(maps.v);
    ptx::prefetch_map(maps.out);
  }
  // Before anyone arrives at the barriers, from this block or from another.
  if constexpr (CLUSTER == 1) {
    __syncthreads();
  } else {
    ptx::cluster_sync();
  }
  if (threadIdx.x < 128) {
    ptx::give_registers<Registers<CONSUMERS>::FILL>();
    if (threadIdx.x < 32) fill(params, maps, shared);
  } else {
    ptx::take_registers<Registers<CONSUMERS>::CONSUME>();
    consume(params, maps, shared);
  }
  // Other blocks still arrive at this one's barriers.
  if constexpr (CLUSTER > 1) ptx::cluster_sync();
}

}  // namespace warpfold

extern "C" __global__ void __launch_bounds__(warpfold::THREADS, 1)
    WARPFOLD_ENTRY(const __grid_constant__ AttentionForwardParams params,
                   const __grid_constant__ warpfold::TensorMaps maps) {
  warpfold::attention_forward(params, maps);
}
