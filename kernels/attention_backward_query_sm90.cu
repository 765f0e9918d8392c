// Attention, backward, for Hopper: the gradient of q.
//
//   d_q[i, :] = scale * sum_j ds[i, j] k[j, :]         ds: see lib/backward.cuh
//
// Shapes   q and d_q [batch, heads_q, len_q, head_dim], d_out like the output; lse and delta f32 [batch, heads_q, len_q]. A
//          head_dim below the tile's is filled up with zeros by the copy engine.
// Grid     as attention_forward_sm90.cu: persistent blocks; a block of work is BLOCK_Q query rows and walks the visible keys,
//          ascending.
// Warps    one warpgroup of which one warp works out what the next block of work comes to and one fills the buffers; and CONSUMERS
//          warpgroups of 64 query rows each that compute. The first gives nearly all of its registers to the others.
// Shared   one tile each of Q and dO, rings of tiles of K and of V, and the result's tile, which is Q's where there is no room.
// Order    of a consumer, whose products wait in line behind one another:
//
//            products                       meanwhile
//            S(n)  = Q K(n)^T               (the product below of n - 1)
//            dP(n) = dO V(n)^T              P(n)
//                                           dS(n), while the other warpgroup's products run
//            dQ += dS(n) K(n)               the next tile's first products follow at once, where registers allow
//
//          The general image needs the registers of dP for its options: there it comes after P.
//          The result of a row depends on its own inputs only, and on no order between blocks.
// Images   plain: no option that touches single scores; general: everything.
// Source   Shah et al., "FlashAttention-3" (2024), section 3.1, for the warps; Dao et al., "FlashAttention" (2022), section B.4.

#include "lib/hopper/gradient.cuh"
#include "lib/hopper/plan.cuh"
#include "lib/hopper/tiles.cuh"
#include "lib/place.cuh"

namespace warpfold {

using Element = WARPFOLD_ELEMENT;
constexpr int HEAD_DIM = WARPFOLD_HEAD_DIM;
constexpr int HEAD_DIM_V = WARPFOLD_HEAD_DIM_V;
constexpr int BLOCK_Q = WARPFOLD_BLOCK_Q;
constexpr int BLOCK_KV = WARPFOLD_BLOCK_KV;
constexpr int STAGES = WARPFOLD_STAGES;
constexpr int CONSUMERS = WARPFOLD_CONSUMERS;
constexpr bool GENERAL = WARPFOLD_GENERAL;
constexpr int THREADS = 128 * (CONSUMERS + 1);

constexpr int KEY_TILES = BLOCK_KV / 8;  // 8-column tiles of S
using TileQ = Panels<BLOCK_Q, HEAD_DIM>;
using TileOut = Panels<BLOCK_Q, HEAD_DIM_V>;
using TileK = Panels<BLOCK_KV, HEAD_DIM>;
using TileV = Panels<BLOCK_KV, HEAD_DIM_V>;
using Tiles = KeyTiles<BLOCK_KV, GENERAL>;

constexpr int SHARED_BYTES_MAX = 227 * 1024;
constexpr int STATE_BYTES = 2048;
constexpr int OWNED_BYTES = TileQ::BYTES + TileOut::BYTES;
// A tile of V is free after its only product, long before K's: where room is scarce, one buffer does.
constexpr int STAGES_V = OWNED_BYTES + STAGES * (TileK::BYTES + TileV::BYTES) + STATE_BYTES <= SHARED_BYTES_MAX ? STAGES : 1;
constexpr int INPUT_BYTES = OWNED_BYTES + STAGES * TileK::BYTES + STAGES_V * TileV::BYTES;
// Whether the result has a tile of its own; else the next block's Q waits until it has left.
constexpr bool RESULT_APART = INPUT_BYTES + TileQ::BYTES + STATE_BYTES <= SHARED_BYTES_MAX;

// Whether dQ's product may run beside the next tile's first ones, which takes registers for its operand: of 240, 24 are for
// everything but operands and results, and the compiler wants a few more.
constexpr bool OVERLAPS = !GENERAL && HEAD_DIM / 2 + BLOCK_KV + BLOCK_KV / 4 <= 208;

static_assert(CONSUMERS == 2 && BLOCK_Q == 64 * CONSUMERS, "a warpgroup owns 64 query rows");
static_assert(BLOCK_KV % 16 == 0 && HEAD_DIM % 16 == 0 && HEAD_DIM_V % 16 == 0, "tiles are whole tensor-core steps");

struct SharedStorage {
  alignas(1024) char q[TileQ::BYTES];
  alignas(1024) char d_out[TileOut::BYTES];
  alignas(1024) char k[STAGES][TileK::BYTES];
  alignas(1024) char v[STAGES_V][TileV::BYTES];
  alignas(1024) char dq[RESULT_APART ? TileQ::BYTES : 0];
  alignas(1024) Ring<1> query_ring;
  Ring<STAGES> key_ring;
  Ring<STAGES_V> value_ring;
  PlanRing plans;
  char rest[STATE_BYTES - sizeof(Ring<1>) - sizeof(Ring<STAGES>) - sizeof(Ring<STAGES_V>) - sizeof(PlanRing)];
};
static_assert(sizeof(SharedStorage) == INPUT_BYTES + (RESULT_APART ? TileQ::BYTES : 0) + STATE_BYTES,
              "src/variants.rs counts the same bytes");

struct TensorMaps {
  TensorMap q;      // (head_dim, packed_heads, len_q, heads_q / packed_heads, batch), boxes of (64, packed_heads, BLOCK_Q / packed_heads)
  TensorMap d_out;
  TensorMap k;      // (head_dim, len_kv, heads_kv, batch), boxes of (64, BLOCK_KV)
  TensorMap v;
  TensorMap dq;     // as q, boxes of 64 rows
};

// What a block of work comes to. One past the last sequence has no rows and no tiles.
struct Block {
  QueryPlace<BLOCK_Q> place;
  KeyBand band;
  Tiles tiles;
  uint32_t round;  // of this block's work
};

// The planning warp. One lane writes, all of them work it out: piece by piece, since this warp has few registers.
__device__ __forceinline__ void plan(const AttentionBackwardParams& params, SharedStorage& shared) {
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

// The filling warp: copies Q and dO once a block of work, and K and V tile by tile.
__device__ __forceinline__ void fill(const AttentionBackwardParams& params, const TensorMaps& maps, SharedStorage& shared) {
  const AttentionShape& shape = params.shape;
  RingSide<STAGES> keys(shared.key_ring);
  RingSide<STAGES_V> values(shared.value_ring);
  for_each_block<Block>(shape.work_blocks, shared.plans, [&](const Block& block) {
    const QueryPlace<BLOCK_Q>& place = block.place;
    if (threadIdx.x % 32 == 0) {
      // Queries that see no key come as well: nobody has to tell the cases apart.
      const RingSide<1> queries = side_in_round(shared.query_ring, block.round);
      queries.start_filling(OWNED_BYTES);
      const int first_query = place.first_query + place.query(shape, 0);
      const int head_group = place.first_head / shape.packed_heads;
#pragma unroll
      for (int panel = 0; panel < TileQ::COUNT; ++panel) {
        ptx::load_box(ptx::shared_address(shared.q) + panel * TileQ::PANEL_BYTES, maps.q, queries.full(), 64 * panel, 0,
                      first_query, head_group, place.tensor_batch);
      }
#pragma unroll
      for (int panel = 0; panel < TileOut::COUNT; ++panel) {
        ptx::load_box(ptx::shared_address(shared.d_out) + panel * TileOut::PANEL_BYTES, maps.d_out, queries.full(),
                      64 * panel, 0, first_query, head_group, place.tensor_batch);
      }
      const int kv_head = place.first_head / shape.heads_per_kv;
#pragma unroll 1
      for (int tile = block.tiles.start; tile < block.tiles.end; tile = block.tiles.after(tile)) {
        const int first_key = place.first_key + tile * BLOCK_KV;
        keys.start_filling(TileK::BYTES);
        load_tile<TileK>(shared.k[keys.stage], maps.k, keys.full(), first_key, kv_head, place.tensor_batch);
        keys.advance();
        values.start_filling(TileV::BYTES);
        load_tile<TileV>(shared.v[values.stage], maps.v, values.full(), first_key, kv_head, place.tensor_batch);
        values.advance();
      }
    }
  });
}

// Keys that take no part become zero: a gradient of zero does not keep out NaN. By all consumers.
__device__ __forceinline__ void clear_hidden(char* k_smem, const AttentionShape& shape, const Block& block, int first_key) {
  // Rows past the tensor's end are zero already.
  const int end = min(BLOCK_KV, shape.len_kv - block.place.first_key - first_key);
  const int first_visible = min(block.band.begin - first_key, end);
  const int end_visible = max(block.band.end - first_key, 0);
  if (first_visible <= 0 && end_visible >= end) return;
  ptx::mark_as_rare();
  clear_rows<TileK, 128 * CONSUMERS>(k_smem, 0, first_visible, threadIdx.x - 128);
  clear_rows<TileK, 128 * CONSUMERS>(k_smem, end_visible, end, threadIdx.x - 128);
  // The barrier of all consumers.
  ptx::barrier_sync(CONSUMERS + 1, 128 * CONSUMERS);
}

// One consumer thread's share of a block of work: parts of two query rows.
struct Warp {
  float dq[HEAD_DIM / 8][4] = {};
  RowNumbers base_log2;
  RowNumbers delta;

  __device__ __forceinline__ Warp(const AttentionBackwardParams& params, const QueryPlace<BLOCK_Q>& place) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = tile_row(half);
      const bool exists = row < place.num_rows;
      const int64_t stat = exists ? place.stat(params.shape, row) : 0;
      base_log2.rows[half] = exists ? base_of_lse(reinterpret_cast<const float*>(params.lse)[stat]) : CUDART_INF_F;
      delta.rows[half] = exists ? reinterpret_cast<const float*>(params.delta)[stat] : 0.0f;
    }
  }

  // The row of the block's tile that `half` of this lane's accumulators belong to. The first warpgroup fills the buffers.
  static __device__ __forceinline__ int tile_row(int half) {
    return (threadIdx.x / 128 - 1) * 64 + warpgroup_row(half);
  }
};

// A consumer warpgroup.
__device__ __forceinline__ void consume(const AttentionBackwardParams& params, const TensorMaps& maps, SharedStorage& shared) {
  const AttentionShape& shape = params.shape;
  RingSide<STAGES> keys(shared.key_ring);
  RingSide<STAGES_V> values(shared.value_ring);
  const int first_row = uniform(threadIdx.x / 128 - 1) * 64;
  const DepthMajor<TileQ::PANEL_BYTES> q(ptx::shared_address(shared.q) + first_row * 128);
  for_each_block<Block>(shape.work_blocks, shared.plans, [&](const Block& block) {
    const QueryPlace<BLOCK_Q>& place = block.place;
    Warp warp(params, place);
    float s[KEY_TILES][4];
    float dp[KEY_TILES][4];
    Weights<Element, KEY_TILES> gradients;
    uint32_t keep[KEEP_WORDS<KEY_TILES>];
    const auto issue_dp = [&] {
      values.wait();
      // dO's tile lies behind Q's: one register serves both.
      DepthMajor<TileOut::PANEL_BYTES> d_out(0);
      d_out.low = q.low + (TileQ::BYTES >> 4);
      ptx::wgmma_fence();
      issue_product<Element, HEAD_DIM_V / 16, 0>(
          dp, d_out, DepthMajor<TileV::PANEL_BYTES>(ptx::shared_address(shared.v[0]) + values.stage * TileV::BYTES));
      ptx::wgmma_commit();
    };
    side_in_round(shared.query_ring, block.round).wait();
    int tile = block.tiles.start;
#pragma unroll 1
    while (tile < block.tiles.end) {
      const bool is_full = tile >= block.tiles.full_start && tile < block.tiles.full_end;
      const int first_key = tile * BLOCK_KV;
      keys.wait();
      if (!is_full) clear_hidden(shared.k[keys.stage], shape, block, first_key);
      ptx::wgmma_fence();
      issue_product<Element, HEAD_DIM / 16, 0>(
          s, q, DepthMajor<TileK::PANEL_BYTES>(ptx::shared_address(shared.k[0]) + keys.stage * TileK::BYTES));
      ptx::wgmma_commit();
      if constexpr (!GENERAL) issue_dp();
      // S has come, and dQ of the tile before.
      ptx::wgmma_wait<GENERAL ? 0 : 1>();
      hold(s);
      if constexpr (OVERLAPS) {
        hold(warp.dq);
        hold(gradients);
        if (tile != block.tiles.start) keys.release_before();
      }
      if constexpr (GENERAL) {
        ScorePlace<false> score_place;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int row = Warp::tile_row(half);
          score_place.row[half] = place.query(shape, row);
          score_place.head[half] = place.head(shape, row);
          score_place.is_valid[half] = row < place.num_rows;
        }
        score_place.num_columns = block.band.end;
        weigh_with_options<Element>(s, keep, score_place, first_key, params, place.sequence, block.band, is_full,
                                    warp.base_log2, [](int, int, float, float) {});
        issue_dp();
      } else {
        if (!is_full) {
          ptx::mark_as_rare();
          const int query[2] = {place.query(shape, Warp::tile_row(0)), place.query(shape, Warp::tile_row(1))};
          hide_by_position(s, query, block.band, first_key);
        }
        weigh(s, shape, warp.base_log2);
      }
      ptx::wgmma_wait<0>();
      hold(dp);
      values.release();
      values.advance();
      const HeldWeights<KEY_TILES> weights{s};
      if (!GENERAL && !is_full) {
        ptx::mark_as_rare();
        drop_products(weights, dp);
      }
      differentiate<GENERAL>(weights, dp, gradients, keep, shape, warp.delta);
      hold(warp.dq);
      hold(gradients);
      ptx::wgmma_fence();
      issue_product<Element, 1>(
          warp.dq, gradients, WidthMajor<TileK::PANEL_BYTES>(ptx::shared_address(shared.k[0]) + keys.stage * TileK::BYTES));
      ptx::wgmma_commit();
      if constexpr (!OVERLAPS) {
        // The next tile's products need the registers of `gradients`.
        ptx::wgmma_wait<0>();
        hold(warp.dq);
        hold(gradients);
        keys.release();
      }
      keys.advance();
      tile = block.tiles.after(tile);
    }
    if constexpr (OVERLAPS) {
      ptx::wgmma_wait<0>();
      hold(warp.dq);
      hold(gradients);
      if (block.tiles.start < block.tiles.end) keys.release_before();
    }
    if constexpr (RESULT_APART) side_in_round(shared.query_ring, block.round).release();
    store_warpgroup<Element, TileQ>(
        warp.dq, {shape.scale, shape.scale}, RESULT_APART ? shared.dq : shared.q, first_row, place.num_rows, shape.head_dim,
        [&](int panel, uint32_t address_smem) {
          ptx::store_box(maps.dq, address_smem, 64 * panel, 0, place.first_query + place.query(shape, first_row),
                         place.first_head / shape.packed_heads, place.tensor_batch);
        },
        [&](int row) { return place.row(shape, params.d_q, params.d_q_strides, row); });
    if constexpr (!RESULT_APART) {
      // Q's tile is free when the result has left it.
      if (threadIdx.x % 128 == 0) ptx::bulk_wait_read<0>();
      warpgroup_sync();
      side_in_round(shared.query_ring, block.round).release();
    }
  });
  if (threadIdx.x % 128 == 0) ptx::bulk_wait_read<0>();
}

__device__ __forceinline__ void attention_backward_query(const AttentionBackwardParams& params, const TensorMaps& maps) {
  extern __shared__ __align__(1024) char shared_bytes[];
  SharedStorage& shared = *reinterpret_cast<SharedStorage*>(shared_bytes);
  if (threadIdx.x == 0) {
    shared.query_ring.init(4 * CONSUMERS);
    shared.key_ring.init(4 * CONSUMERS);
    shared.value_ring.init(4 * CONSUMERS);
    // The filling warp reads them as well.
    shared.plans.ring.init(4 * CONSUMERS + 1);
    ptx::fence_mbarrier_init();
    ptx::prefetch_map(maps.q);
    ptx::prefetch_map(maps.d_out);
    ptx::prefetch_map(maps.k);
    ptx::prefetch_map(maps.v);
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
    WARPFOLD_ENTRY(const __grid_constant__ AttentionBackwardParams params,
                   const __grid_constant__ warpfold::TensorMaps maps) {
  warpfold::attention_backward_query(params, maps);
}
