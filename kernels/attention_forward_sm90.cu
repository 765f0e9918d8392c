// Attention, forward, for Hopper: the copy engine, the warpgroup tensor cores and specialised warps.
//
//   out[i, :] = sum_j weight[i, j] v[j, :]         weight = softmax_j(score[i, j])         lse[i] = ln sum_j exp(score[i, j])
//
// Scores are scale * q[i] . k[j] and what lib/score.cuh makes of them.
//
// Shapes   q [batch, heads_q, len_q, head_dim], k [batch, heads_kv, len_kv, head_dim], v [batch, heads_kv, len_kv,
//          head_dim_v], out [batch, heads_q, len_q, head_dim_v], lse f32 [batch, heads_q, len_q]; strided but for the last
//          dimension. Packed sequences: lib/place.cuh. A head_dim below the tile's is filled up with zeros by the copy engine.
// Grid     persistent: as many blocks as multiprocessors walk the blocks of work, to and fro (lib/hopper/plan.cuh), in the order
//          of lib/place.cuh. A block of work is BLOCK_Q query rows of one head.
// Warps    one warpgroup of which one warp works out what the next block of work comes to and one fills the buffers; and CONSUMERS
//          warpgroups of 64 query rows each that compute. The first gives nearly all of its registers to the others. These may
//          take turns (lib/hopper/turns.cuh; a choice of the tile).
// Shared   one tile of Q, rings of STAGES tiles of K and of V, and the output's tile, which is Q's where there is no room.
// Order    of a consumer, with the product of one tile under the softmax of the next:
//
//            issue S = Q K(n)            issue O = O + P V(n-1)
//            wait for S                  release K(n)
//            P' = softmax(S)             while the tensor cores are at O
//            wait for O                  release V(n-1); where a row's base moved, rescale O; P' is P of the next tile
//
//          Tiles that every row sees whole go in pairs, so that P and P' change places without a copy.
// Every row's keys are walked in ascending tiles that start at multiples of BLOCK_KV, and nothing of a row depends on the
// others, so neither do its bits.
// Images   plain: no option that touches single scores; general: everything.
// Source   Shah et al., "FlashAttention-3" (2024), sections 3.1 and 3.2; the softmax is that of lib/hopper/softmax.cuh.

#include "lib/hopper/mask.cuh"
#include "lib/hopper/plan.cuh"
#include "lib/hopper/softmax.cuh"
#include "lib/hopper/tiles.cuh"
#include "lib/hopper/turns.cuh"
#include "lib/hopper/wgmma.cuh"
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
constexpr int STATE_BYTES = 2048;
constexpr int INPUT_BYTES = TileQ::BYTES + STAGES * (TileK::BYTES + TileV::BYTES);
constexpr bool OUT_APART = INPUT_BYTES + TileOut::BYTES + STATE_BYTES <= SHARED_BYTES_MAX;

// With three warpgroups a thread has 160 registers, of which scores, two tiles of weights and the output take 128.
constexpr bool ROWS_APART = CONSUMERS == 3;
// For short rows there is no more time for the products than for the exponentials.
using ToWeight = std::conditional_t<!GENERAL && HEAD_DIM <= 64, MixedExponential<6>, Exponential>;

static_assert(BLOCK_Q == 64 * CONSUMERS, "a warpgroup owns 64 query rows");
static_assert(BLOCK_KV % 16 == 0 && HEAD_DIM % 16 == 0 && HEAD_DIM_V % 16 == 0, "tiles are whole tensor-core steps");
static_assert(OUT_APART || TileOut::BYTES <= TileQ::BYTES, "the output fits Q's tile");

struct SharedStorage {
  alignas(1024) char q[TileQ::BYTES];
  alignas(1024) char k[STAGES][TileK::BYTES];
  alignas(1024) char v[STAGES][TileV::BYTES];
  alignas(1024) char out[OUT_APART ? TileOut::BYTES : 0];
  alignas(1024) Ring<1> q_ring;
  Ring<STAGES> k_ring;
  Ring<STAGES> v_ring;
  PlanRing plans;
  char rest[STATE_BYTES - sizeof(Ring<1>) - 2 * sizeof(Ring<STAGES>) - sizeof(PlanRing)];
};
static_assert(sizeof(SharedStorage) == INPUT_BYTES + (OUT_APART ? TileOut::BYTES : 0) + STATE_BYTES,
              "src/variants.rs counts the same bytes");

struct TensorMaps {
  TensorMap q;    // (head_dim, packed_heads, len_q, heads_q / packed_heads, batch), boxes of (64, packed_heads, BLOCK_Q / packed_heads)
  TensorMap k;    // (head_dim, len_kv, heads_kv, batch), boxes of (64, BLOCK_KV)
  TensorMap v;
  TensorMap out;  // as q, boxes of 64 rows
};

// What a block of work comes to. One past the last sequence has no rows and no tiles.
struct Block {
  QueryPlace<BLOCK_Q> place;
  KeyBand band;
  Tiles tiles;
  uint32_t round;  // of this block's work

  __device__ __forceinline__ bool has_keys() const { return tiles.start < tiles.end; }
};

// The planning warp. One lane writes, all of them work it out: piece by piece, since this warp has few registers.
__device__ __forceinline__ void plan(const AttentionForwardParams& params, SharedStorage& shared) {
  const AttentionShape& shape = params.shape;
  const auto writes = [] { return ptx::thread_index() % 32 == 0; };
  plan_each_block<Block>(shape.work_blocks, shared.plans, [&](Block& block, uint32_t round) {
    const QueryPlace<BLOCK_Q> place(params, work_in_round(round));
    if (writes()) block.place = place;
    __syncwarp();
    const KeyBand band(shape, block.place.len_q, block.place.len_kv, block.place.key_length, GENERAL);
    if (writes()) block.band = band;
    __syncwarp();
    Tiles tiles(block.band, block.place.query(shape, 0), block.place.query(shape, block.place.num_rows - 1));
    if (block.place.num_rows <= 0) tiles.end = tiles.start;
    if (writes()) {
      block.tiles = tiles;
      block.round = round;
    }
  });
}

// The filling warp: copies Q once a block of work, and K and V tile by tile, each V after the K of the next tile.
__device__ __forceinline__ void fill(const AttentionForwardParams& params, const TensorMaps& maps, SharedStorage& shared) {
  const AttentionShape& shape = params.shape;
  RingSide<STAGES> keys(shared.k_ring);
  RingSide<STAGES> values(shared.v_ring);
  for_each_block<Block>(shape.work_blocks, shared.plans, [&](const Block& block) {
    if (threadIdx.x % 32 != 0) return;
    const QueryPlace<BLOCK_Q>& place = block.place;
    const int kv_head = place.first_head / shape.heads_per_kv;
    const auto fill_keys = [&](int tile) {
      keys.start_filling(TileK::BYTES);
      load_tile<TileK>(shared.k[keys.stage], maps.k, keys.full(), place.first_key + tile * BLOCK_KV, kv_head,
                       place.tensor_batch);
      keys.advance();
    };
    const auto fill_values = [&](int tile) {
      values.start_filling(TileV::BYTES);
      load_tile<TileV>(shared.v[values.stage], maps.v, values.full(), place.first_key + tile * BLOCK_KV, kv_head,
                       place.tensor_batch);
      values.advance();
    };
    // A buffer of keys is free before that of the queries.
    int tile = block.tiles.start;
    if (block.has_keys()) fill_keys(tile);
    // Queries that see no key come as well: nobody has to tell the cases apart.
    const RingSide<1> queries = side_in_round(shared.q_ring, block.round);
    queries.start_filling(TileQ::BYTES);
#pragma unroll
    for (int panel = 0; panel < TileQ::COUNT; ++panel) {
      ptx::load_box(ptx::shared_address(shared.q) + panel * TileQ::PANEL_BYTES, maps.q, queries.full(), 64 * panel, 0,
                    place.first_query + place.query(shape, 0), place.first_head / shape.packed_heads, place.tensor_batch);
    }
    if (!block.has_keys()) return;
#pragma unroll 1
    for (int next = block.tiles.after(tile); next < block.tiles.end; next = block.tiles.after(next)) {
      fill_keys(next);
      fill_values(tile);
      tile = next;
    }
    fill_values(tile);
  });
}

// One consumer warp's share of a block of work: 16 query rows, of which a thread holds parts of two.
struct Warp {
  float o[VALUE_TILES][4] = {};
  WarpgroupSoftmax<ToWeight> softmax;
  int query[2];  // of this thread's rows, for the plain image; the other works it out for each tile
  // Whether the output is to be rescaled, when the tensor cores are done with it, and by how much each row.
  bool rescales = false;
  float factor[2];

  __device__ __forceinline__ Warp(const QueryPlace<BLOCK_Q>& place, const AttentionShape& shape) {
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

  // Products become weights: options, masks, softmax. IS_FIRST: of the first tile.
  template <bool IS_FIRST>
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
    rescales = false;
    const auto rescale = [&](int half, float row_factor) {
      // The first row to ask for it may be the second.
      if (!rescales) factor[0] = factor[1] = 1.0f;
      rescales = true;
      factor[half] = row_factor;
    };
    if constexpr (IS_FIRST) {
      softmax.start_row(s, 0, factor_log2, store);
      softmax.start_row(s, 1, factor_log2, store);
    } else if constexpr (ROWS_APART) {
      softmax.advance_row(s, 0, factor_log2, store, rescale);
      softmax.advance_row(s, 1, factor_log2, store, rescale);
    } else {
      softmax.advance(s, factor_log2, store, rescale);
    }
  }

  // After the tensor cores have added the values before those just weighed. All lanes of a warp ask for it or none.
  __device__ __forceinline__ void rescale_output() {
    if (!rescales) return;
    ptx::mark_as_rare();
#pragma unroll
    for (int tile = 0; tile < VALUE_TILES; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) o[tile][i] *= factor[i / 2];
    }
  }
};

// The barriers of consumers among themselves: one a warpgroup, one of all, and those of their turns. Barrier 0 is the block's.
__device__ __forceinline__ void consumers_sync() { ptx::barrier_sync(CONSUMERS + 1, 128 * CONSUMERS); }
using ConsumerTurns = Turns<PING_PONG, CONSUMERS, CONSUMERS + 2>;

// Values that take no part become zero: a weight of zero does not keep out NaN. By all consumers, before the tile is multiplied.
__device__ __forceinline__ void clear_hidden(SharedStorage& shared, const RingSide<STAGES>& ring,
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
                                      char* tile_smem, const QueryPlace<BLOCK_Q>& place) {
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
  const int warpgroup_first = uniform(threadIdx.x / 128 - 1) * 64;
  store_warpgroup<Element, TileOut>(
      warp.o, scale[0], tile_smem, warpgroup_first, place.num_rows, shape.head_dim_v,
      [&](int panel, uint32_t address_smem) {
        ptx::store_box(maps.out, address_smem, 64 * panel, 0, place.first_query + place.query(shape, warpgroup_first),
                       place.first_head / shape.packed_heads, place.tensor_batch);
      },
      row_gmem);
}

__device__ __forceinline__ Tiles uniform(Tiles tiles) {
  for (int* field : {&tiles.start, &tiles.end, &tiles.full_start, &tiles.full_end, &tiles.gap_start, &tiles.gap_end}) {
    *field = uniform(*field);
  }
  return tiles;
}

// All keys of a block of work, for a consumer warpgroup: there are some.
__device__ __forceinline__ void attend(Warp& warp, DepthMajor<TileQ::PANEL_BYTES>& q, RingSide<STAGES>& keys,
                                       RingSide<STAGES>& values, const AttentionForwardParams& params, SharedStorage& shared,
                                       const Block& block, const Tiles& tiles) {
  const AttentionShape& shape = params.shape;
  // Weights that the tensor cores read, and those of the next tile: each is the other's after a tile.
  Weights<Element, KEY_TILES> even, odd;
  float s[KEY_TILES][4];

  const auto issue_scores = [&](auto& weights) {
    keys.wait();
    // Of both products: between them no register may change.
    hold(warp.o);
    hold(weights);
    ptx::wgmma_fence();
    // The descriptors of a wide Q would all be kept in registers.
    if constexpr (HEAD_DIM > 128) ptx::forget(q.low);
    const DepthMajor<TileK::PANEL_BYTES> k(ptx::shared_address(shared.k[0]) + keys.stage * TileK::BYTES);
    issue_product<Element, HEAD_DIM / 16, 0>(s, q, k);
    ptx::wgmma_commit();
  };
  const auto issue_output = [&](auto& weights) {
    values.wait();
    const WidthMajor<TileV::PANEL_BYTES> v(ptx::shared_address(shared.v[0]) + values.stage * TileV::BYTES);
    ptx::wgmma_fence();
    issue_product<Element, 1>(warp.o, weights, v);
    ptx::wgmma_commit();
  };
  // Q's tile is free after the last scores, if it is not the output's.
  const auto finish_scores = [&](bool is_last) {
    hold(s);
    keys.release();
    keys.advance();
    if (OUT_APART && is_last) side_in_round(shared.q_ring, block.round).release();
  };
  const auto finish_output = [&](auto& weights) {
    ptx::wgmma_wait<0>();
    hold(warp.o);
    hold(weights);
    values.release();
    values.advance();
  };
  const auto step = [&](auto& weights, auto& next_weights, int next, bool is_full, bool is_last) {
    ConsumerTurns::take();
    issue_scores(weights);
    issue_output(weights);
    ConsumerTurns::hand_on();
    ptx::wgmma_wait<1>();
    finish_scores(is_last);
    warp.template weigh<false>(s, next_weights, params, block, next * BLOCK_KV, is_full);
    finish_output(weights);
    warp.rescale_output();
  };
  // Whether everybody sees a tile whole; and whether two, which are not the last.
  const auto is_full = [&](int tile) { return tile >= tiles.full_start && tile < tiles.full_end; };
  const auto is_full_pair = [&](int tile) {
    return tile >= tiles.full_start && tile + 2 <= min(tiles.full_end, tiles.end - 1);
  };
  const auto is_last = [&](int tile) { return tiles.after(tile) >= tiles.end; };

  issue_scores(even);
  ptx::wgmma_wait<0>();
  finish_scores(is_last(tiles.start));
  warp.template weigh<true>(s, even, params, block, tiles.start * BLOCK_KV, is_full(tiles.start));
  clear_hidden(shared, values, shape, block, tiles.start * BLOCK_KV);
  int next = tiles.after(tiles.start);
#pragma unroll 1
  while (next < tiles.end) {
    if constexpr (!GENERAL) {
#pragma unroll 1
      for (; is_full_pair(next); next += 2) {
        step(even, odd, next, true, false);
        step(odd, even, next + 1, true, false);
      }
    }
    // Tiles that are hidden in part, or one or two that are left.
#pragma unroll 1
    while (next < tiles.end && (GENERAL || !is_full_pair(next))) {
      step(even, odd, next, is_full(next), is_last(next));
      take_over(even, odd);
      clear_hidden(shared, values, shape, block, next * BLOCK_KV);
      next = tiles.after(next);
    }
  }
  hold(warp.o);
  hold(even);
  issue_output(even);
  finish_output(even);
}

// A consumer warpgroup.
__device__ __forceinline__ void consume(const AttentionForwardParams& params, const TensorMaps& maps, SharedStorage& shared) {
  const AttentionShape& shape = params.shape;
  RingSide<STAGES> keys(shared.k_ring);
  RingSide<STAGES> values(shared.v_ring);
  DepthMajor<TileQ::PANEL_BYTES> q(ptx::shared_address(shared.q) + uniform(threadIdx.x / 128 - 1) * 64 * 128);
  ConsumerTurns::begin();
  for_each_block<Block>(shape.work_blocks, shared.plans, [&](const Block& block) {
    Warp warp(block.place, shape);
    side_in_round(shared.q_ring, block.round).wait();
    const Tiles held_tiles = uniform(block.tiles);
    // The general image's options need the registers.
    const Tiles& tiles = GENERAL ? block.tiles : held_tiles;
    if (tiles.start < tiles.end) {
      attend(warp, q, keys, values, params, shared, block, tiles);
    } else if (OUT_APART) {
      side_in_round(shared.q_ring, block.round).release();
    }
    store(warp, params, maps, OUT_APART ? shared.out : shared.q, block.place);
    if constexpr (!OUT_APART) {
      // Q's tile is free when the output has left it.
      if (threadIdx.x % 128 == 0) ptx::bulk_wait_read<0>();
      warpgroup_sync();
      side_in_round(shared.q_ring, block.round).release();
    }
  });
  ConsumerTurns::end();
  if (threadIdx.x % 128 == 0) ptx::bulk_wait_read<0>();
}

__device__ __forceinline__ void attention_forward(const AttentionForwardParams& params, const TensorMaps& maps) {
  extern __shared__ __align__(1024) char shared_bytes[];
  SharedStorage& shared = *reinterpret_cast<SharedStorage*>(shared_bytes);
  if (threadIdx.x == 0) {
    shared.q_ring.init(4 * CONSUMERS);
    shared.k_ring.init(4 * CONSUMERS);
    shared.v_ring.init(4 * CONSUMERS);
    // The filling warp reads them as well.
    shared.plans.ring.init(4 * CONSUMERS + 1);
    ptx::fence_mbarrier_init();
    ptx::prefetch_map(maps.q);
    ptx::prefetch_map(maps.k);
    ptx::prefetch_map(maps.v);
    ptx::prefetch_map(maps.out);
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    ptx::give_registers<Registers<CONSUMERS>::FILL>();
    if (threadIdx.x < 32) {
      fill(params, maps, shared);
    } else if (threadIdx.x < 64) {
      plan(params, shared);
    }
  } else {
    ptx::take_registers<Registers<CONSUMERS>::CONSUME>();
    consume(params, maps, shared);
  }
}

}  // namespace warpfold

extern "C" __global__ void __launch_bounds__(warpfold::THREADS, 1)
    WARPFOLD_ENTRY(const __grid_constant__ AttentionForwardParams params,
                   const __grid_constant__ warpfold::TensorMaps maps) {
  warpfold::attention_forward(params, maps);
}
