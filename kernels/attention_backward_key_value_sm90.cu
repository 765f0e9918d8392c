// Attention, backward, for Hopper: the gradients of k and v.
//
//   d_k[j, :] = scale * sum_i ds[i, j] q[i, :]         ds: see lib/backward.cuh
//   d_v[j, :] = sum_i p[i, j] d_out[i, :]              p after dropout
//
// The sums run over the queries of every query head that shares the key head.
//
// Shapes   k and d_k [batch, heads_kv, len_kv, head_dim], v and d_v [batch, heads_kv, len_kv, head_dim_v]; q and d_out of
//          heads_q heads; lse and delta f32 [batch, heads_q, len_q]. A head_dim below the tile's is filled up with zeros by the
//          copy engine.
// Grid     persistent: as many blocks as multiprocessors walk the blocks of work, to and fro (lib/hopper/work.cuh), in the order
//          of lib/place.cuh. A block of work is BLOCK_KV keys of a key head. It walks the query heads of the group, and of each
//          the queries that see its keys, in tiles of BLOCK_Q from query 0 on: in one fixed order, so that two runs give the same
//          bits.
// Warps    one warpgroup of which one warp works out what the next block of work comes to, one fills the buffers by the copy
//          engine and one loads lse and delta; and CONSUMERS warpgroups that compute. The first gives nearly all of its registers
//          to the others.
// Shared   one tile each of K and V, a ring of STAGES tiles of Q and dO with two numbers a query, and the results' tiles, which are
//          V's and K's where there is no room.
// Order    everything is transposed: keys are rows. The accumulators of S^T and dS^T are operand A of the next product as they
//          are, in registers. A warpgroup's products wait in line behind one another.
//
//          Where the registers hold both results of 64 keys, a warpgroup owns 64 of the block's 128:
//
//            products                       meanwhile
//            S^T(n)  = K Q(n)^T
//            dP^T(n) = V dO(n)^T            P^T(n)
//            dV += P^T(n) dO(n)             dS^T(n)
//            dK += dS^T(n) Q(n)
//
//          Else both share the block's 64 keys and own a result each. P^T goes from one to the other as f32, thread to thread:
//
//            values' warpgroup              keys' warpgroup
//            S^T(n) = K Q(n)^T              dP^T(n) = V dO(n)^T
//            P^T(n)           --------->    dS^T(n)
//            dV += P^T(n) dO(n)             dK += dS^T(n) Q(n)
//
//          While one is between its products, the other's run. In the general image the options need the registers of dP^T, whose
//          product comes after them.
// Images   plain: no option that touches single scores; general: everything.
// Source   Shah et al., "FlashAttention-3" (2024), section 3.1, for the warps; Dao et al., "FlashAttention" (2022), section B.4.

#include "lib/hopper/gradient.cuh"
#include "lib/hopper/plan.cuh"
#include "lib/hopper/tiles.cuh"
#include "lib/place.cuh"

#include <type_traits>

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

constexpr int QUERY_TILES = BLOCK_Q / 8;     // 8-column tiles of S^T
using TileK = Panels<BLOCK_KV, HEAD_DIM>;
using TileV = Panels<BLOCK_KV, HEAD_DIM_V>;
using TileQ = Panels<BLOCK_Q, HEAD_DIM>;
using TileOut = Panels<BLOCK_Q, HEAD_DIM_V>;

// Whether the warpgroups share the keys, and each owns a result.
constexpr bool SHARES_KEYS = BLOCK_KV == 64;

// Whether the results have tiles of their own; else the next keys wait until they have left. A warpgroup then has the tile that
// only its own products read: that of K for dV, and that of V for dK.
constexpr int SHARED_BYTES_MAX = 227 * 1024;
// Tiles of weights on their way from one warpgroup to the other.
constexpr int EXCHANGES = SHARES_KEYS ? 2 : 0;
constexpr int EXCHANGE_BYTES = 64 * BLOCK_Q * sizeof(float);
constexpr int INPUT_BYTES =
    TileK::BYTES + TileV::BYTES + STAGES * (TileQ::BYTES + TileOut::BYTES) + EXCHANGES * EXCHANGE_BYTES;
// Two numbers of each query, barriers and plans.
constexpr int STATE_BYTES = (2 * STAGES * BLOCK_Q * static_cast<int>(sizeof(float)) + 512 + 1023) / 1024 * 1024;
constexpr int RESULT_BYTES = TileK::BYTES + TileV::BYTES;
constexpr bool RESULTS_APART = INPUT_BYTES + RESULT_BYTES + STATE_BYTES <= SHARED_BYTES_MAX;
static_assert(RESULTS_APART || (SHARES_KEYS && TileK::BYTES == TileV::BYTES), "a result fits the other tile");

static_assert(CONSUMERS == 2 && (SHARES_KEYS || BLOCK_KV == 64 * CONSUMERS), "a warpgroup owns 64 keys, or a result");
static_assert(BLOCK_Q % 16 == 0 && HEAD_DIM % 16 == 0 && HEAD_DIM_V % 16 == 0, "tiles are whole tensor-core steps");

struct SharedStorage {
  alignas(1024) char k[TileK::BYTES];
  alignas(1024) char v[TileV::BYTES];
  alignas(1024) char q[STAGES][TileQ::BYTES];
  alignas(1024) char d_out[STAGES][TileOut::BYTES];
  alignas(1024) char weights[EXCHANGES * EXCHANGE_BYTES];
  alignas(1024) char dk[RESULTS_APART ? TileK::BYTES : 0];
  alignas(1024) char dv[RESULTS_APART ? TileV::BYTES : 0];
  alignas(1024) Ring<1> key_ring;
  Ring<STAGES> query_ring;
  Ring<2> weight_ring;
  PlanRing plans;
  // Of each query; a part of the ring's buffers.
  alignas(16) float base_log2[STAGES][BLOCK_Q];
  alignas(16) float delta[STAGES][BLOCK_Q];
};
static_assert(sizeof(SharedStorage) ==
                  INPUT_BYTES + (RESULTS_APART ? RESULT_BYTES : 0) + STATE_BYTES,
              "src/variants.rs counts the same bytes");

struct TensorMaps {
  TensorMap q;      // (head_dim, len_q, heads_q, batch), boxes of (64, BLOCK_Q)
  TensorMap d_out;
  TensorMap k;      // (head_dim, len_kv, heads_kv, batch), boxes of (64, BLOCK_KV)
  TensorMap v;
  TensorMap dk;     // boxes of (64, 64)
  TensorMap dv;
};

// What a block of work comes to. One past the last sequence has no rows and no tiles.
struct Block {
  KeyPlace<BLOCK_KV> place;
  KeyBand band;
  QueryTiles<BLOCK_Q> tiles;
  uint32_t round;  // of this block's work

  // Calls `visit(head, first_query)` for every tile of queries, in the order in which all warps walk them.
  template <typename Visit>
  __device__ __forceinline__ void for_each_tile(const AttentionShape& shape, Visit visit) const {
#pragma unroll 1
    for (uint32_t head = place.kv_head * shape.heads_per_kv; head < (place.kv_head + 1) * shape.heads_per_kv; ++head) {
#pragma unroll 1
      for (int tile = tiles.start; tile < tiles.end; ++tile) visit(head, tile * BLOCK_Q);
    }
  }
};

// The planning warp. One lane writes, all of them work it out: piece by piece, since this warp has few registers.
__device__ __forceinline__ void plan(const AttentionBackwardParams& params, SharedStorage& shared) {
  const AttentionShape& shape = params.shape;
  const auto writes = [] { return ptx::thread_index() % 32 == 0; };
  plan_each_block<Block>(shape.work_blocks, shared.plans, [&](Block& block, uint32_t round) {
    const KeyPlace<BLOCK_KV> place(params, work_in_round(round));
    if (writes()) block.place = place;
    __syncwarp();
    const KeyBand band(shape, block.place.len_q, block.place.len_kv, block.place.key_length, GENERAL);
    if (writes()) block.band = band;
    __syncwarp();
    const int first_row = block.place.first_row;
    const QueryTiles<BLOCK_Q> tiles(block.band, first_row, first_row + block.place.num_rows, block.place.len_q);
    if (writes()) {
      block.tiles = tiles;
      block.round = round;
    }
  });
}

// The filling warp: copies K and V once a block of work, and Q and dO tile by tile.
__device__ __forceinline__ void fill(const AttentionBackwardParams& params, const TensorMaps& maps, SharedStorage& shared) {
  RingSide<STAGES> queries(shared.query_ring);
  for_each_block<Block>(params.shape.work_blocks, shared.plans, [&](const Block& block) {
    const KeyPlace<BLOCK_KV>& place = block.place;
    if (threadIdx.x % 32 == 0) {
      const int first_row = place.first_key + place.first_row;
      // Keys that no query sees come as well: nobody has to tell the cases apart.
      const RingSide<1> keys = side_in_round(shared.key_ring, block.round);
      keys.start_filling(TileK::BYTES + TileV::BYTES);
      load_tile<TileK>(shared.k, maps.k, keys.full(), first_row, place.kv_head, place.tensor_batch);
      load_tile<TileV>(shared.v, maps.v, keys.full(), first_row, place.kv_head, place.tensor_batch);
      block.for_each_tile(params.shape, [&](uint32_t head, int first_query) {
        const int row = place.first_query + first_query;
        queries.start_filling(TileQ::BYTES + TileOut::BYTES);
        load_tile<TileQ>(shared.q[queries.stage], maps.q, queries.full(), row, head, place.tensor_batch);
        load_tile<TileOut>(shared.d_out[queries.stage], maps.d_out, queries.full(), row, head, place.tensor_batch);
        queries.advance();
      });
    }
  });
}

// The warp that loads each query's numbers: they begin anywhere, which the copy engine does not take.
__device__ __forceinline__ void fill_numbers(const AttentionBackwardParams& params, SharedStorage& shared) {
  RingSide<STAGES> queries(shared.query_ring);
  for_each_block<Block>(params.shape.work_blocks, shared.plans, [&](const Block& block) {
    block.for_each_tile(params.shape, [&](uint32_t head, int first_query) {
      constexpr int PARTS = (BLOCK_Q + 31) / 32;
      const int lane = threadIdx.x % 32;
      float base_log2[PARTS], delta[PARTS];
      // Read before there is room for them.
#pragma unroll
      for (int part = 0; part < PARTS; ++part) {
        const int row = 32 * part + lane;
        const bool exists = row < BLOCK_Q && first_query + row < block.place.len_q;
        const int64_t stat = block.place.stat(params.shape, head, first_query + row);
        // A query that does not exist has no weights: 2^(0 - inf) = 0.
        base_log2[part] = exists ? base_of_lse(reinterpret_cast<const float*>(params.lse)[stat]) : CUDART_INF_F;
        delta[part] = exists ? reinterpret_cast<const float*>(params.delta)[stat] : 0.0f;
      }
      queries.start_storing();
#pragma unroll
      for (int part = 0; part < PARTS; ++part) {
        const int row = 32 * part + lane;
        if (BLOCK_Q % 32 != 0 && row >= BLOCK_Q) break;
        shared.base_log2[queries.stage][row] = base_log2[part];
        shared.delta[queries.stage][row] = delta[part];
      }
      queries.finish_storing();
      queries.advance();
    });
  });
}

// Which weights dropout keeps, as weigh_with_options() says it.
__device__ __forceinline__ void keep_transposed(uint32_t (&keep)[KEEP_WORDS<QUERY_TILES>], const AttentionShape& shape,
                                                const KeyPlace<BLOCK_KV>& place, uint32_t head, int first_query) {
#pragma unroll
  for (int word = 0; word < KEEP_WORDS<QUERY_TILES>; ++word) keep[word] = ~0u;
  if (shape.dropout_scale == 0.0f) return;
  const Dropout dropout(shape);
  const int warp_key = place.first_row + threadIdx.x / 32 % 4 * 16;
#pragma unroll
  for (int word = 0; word < KEEP_WORDS<QUERY_TILES>; ++word) {
    keep[word] = 0;
#pragma unroll 1
    for (int tile = 0; tile < min(8, QUERY_TILES - 8 * word); ++tile) {
      keep[word] |= dropout.keep_columns(warp_key, first_query + 8 * (8 * word + tile),
                                         place.sequence * shape.heads_q + head)
                    << (4 * tile);
    }
  }
}

// Of all consumers.
__device__ __forceinline__ void consumers_sync() { ptx::barrier_sync(CONSUMERS + 1, 128 * CONSUMERS); }

// Queries of another sequence in the tile become zero. By all consumers.
__device__ __forceinline__ void clear_foreign(char* q_smem, char* d_out_smem, const AttentionShape& shape,
                                              const KeyPlace<BLOCK_KV>& place, int first_query) {
  // Rows past the tensor's end are zero already.
  const int end = min(BLOCK_Q, shape.len_q - place.first_query - first_query);
  const int num_queries = place.len_q - first_query;
  if (end <= num_queries) return;
  ptx::mark_as_rare();
  clear_rows<TileQ, 128 * CONSUMERS>(q_smem, num_queries, end, threadIdx.x - 128);
  clear_rows<TileOut, 128 * CONSUMERS>(d_out_smem, num_queries, end, threadIdx.x - 128);
  consumers_sync();
}

// The row of the block's tile that a warpgroup's first one is, and that `half` of this lane's accumulators belong to. The first
// warpgroup fills the buffers.
__device__ __forceinline__ int first_row() { return SHARES_KEYS ? 0 : (threadIdx.x / 128 - 1) * 64; }
__device__ __forceinline__ int tile_row(int half) { return first_row() + warpgroup_row(half); }

// The numbers of the queries in buffer `stage`, from the lane's first column on.
__device__ __forceinline__ ColumnNumbers numbers(const float (&of_stages)[STAGES][BLOCK_Q], uint32_t stage) {
  return {ptx::shared_address(of_stages) + (stage * BLOCK_Q + fragment::column(0)) * static_cast<uint32_t>(sizeof(float))};
}

// The numbers of all queries of a tile, ahead of where they are needed; with options the registers are.
using TileNumbers = std::conditional_t<GENERAL, ColumnNumbers, HeldNumbers<QUERY_TILES>>;

// Products become weights, in place and as operand of the next product; with options, lib/hopper/gradient.cuh says what is in place.
__device__ __forceinline__ void weigh_tile(float (&s)[QUERY_TILES][4], Weights<Element, QUERY_TILES>& weights,
                                           uint32_t (&keep)[KEEP_WORDS<QUERY_TILES>], const AttentionBackwardParams& params,
                                           const Block& block, const TileNumbers& base, uint32_t head, int first_query,
                                           bool is_full) {
  const int key[2] = {block.place.first_row + tile_row(0), block.place.first_row + tile_row(1)};
  if constexpr (GENERAL) {
    ScorePlace<true> score_place;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      score_place.row[half] = key[half];
      score_place.head[half] = head;
      score_place.is_valid[half] = key[half] < block.band.end;
    }
    score_place.num_columns = block.place.len_q;
    weigh_with_options<Element>(
        s, keep, score_place, first_query, params, block.place.sequence, block.band, is_full, base,
        [&](int tile, int half, float low, float high) { weights.set(tile, half, low, high); });
  } else {
    weigh(s, params.shape, base);
    if (!is_full) {
      ptx::mark_as_rare();
      drop_by_position(s, key, block.band, first_query);
    }
#pragma unroll
    for (int tile = 0; tile < QUERY_TILES; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) weights.set(tile, half, s[tile][2 * half], s[tile][2 * half + 1]);
    }
  }
}

// The tiles of queries that a consumer walks.
struct Walk {
  const Block& block;
  uint32_t heads;
  int tile;
  uint32_t head = 0;  // of the group

  __device__ __forceinline__ Walk(const Block& block, const AttentionShape& shape)
      : block(block), heads(block.tiles.start < block.tiles.end ? shape.heads_per_kv : 0), tile(block.tiles.start) {}

  __device__ __forceinline__ bool exists() const { return head < heads; }
  __device__ __forceinline__ bool is_first() const { return head == 0 && tile == block.tiles.start; }
  __device__ __forceinline__ bool is_full() const { return tile >= block.tiles.full_start && tile < block.tiles.full_end; }
  __device__ __forceinline__ int first_query() const { return tile * BLOCK_Q; }
  __device__ __forceinline__ void advance() {
    if (++tile == block.tiles.end) {
      tile = block.tiles.start;
      ++head;
    }
  }
};

// Writes one result of a warpgroup. On return the copy engine may still read its tile.
template <typename Tile, int TILES>
__device__ __forceinline__ void store(const float (&acc)[TILES][4], float scale, char* tile_smem, const TensorMap& map,
                                      uint64_t address, const HeadStrides& strides, int columns,
                                      const KeyPlace<BLOCK_KV>& place) {
  if (address == 0) return;
  const int first = uniform(first_row());
  store_warpgroup<Element, Tile>(
      acc, {scale, scale}, tile_smem, first, place.num_rows, columns,
      [&](int panel, uint32_t address_smem) {
        ptx::store_box(map, address_smem, 64 * panel, place.first_key + place.first_row + first, place.kv_head,
                       place.tensor_batch);
      },
      [&](int row) { return place.key(address, strides, row); });
}
__device__ __forceinline__ void store_dk(const float (&dk)[HEAD_DIM / 8][4], const AttentionBackwardParams& params,
                                         const TensorMaps& maps, SharedStorage& shared, const Block& block) {
  store<TileK>(dk, params.shape.scale, RESULTS_APART ? shared.dk : shared.v, maps.dk, params.d_k, params.d_k_strides,
               params.shape.head_dim, block.place);
}
__device__ __forceinline__ void store_dv(const float (&dv)[HEAD_DIM_V / 8][4], const AttentionBackwardParams& params,
                                         const TensorMaps& maps, SharedStorage& shared, const Block& block) {
  const float kept_scale = GENERAL && params.shape.dropout_scale != 0.0f ? params.shape.dropout_scale : 1.0f;
  store<TileV>(dv, kept_scale, RESULTS_APART ? shared.dv : shared.k, maps.dv, params.d_v, params.d_v_strides,
               params.shape.head_dim_v, block.place);
}

// K's and V's tiles are free: when the last of their products is done, or when the results have left them.
template <bool HAS_STORED>
__device__ __forceinline__ void release_keys(SharedStorage& shared, const Block& block) {
  if constexpr (RESULTS_APART == HAS_STORED) return;
  if constexpr (HAS_STORED) {
    if (threadIdx.x % 128 == 0) ptx::bulk_wait_read<0>();
    warpgroup_sync();
  }
  side_in_round(shared.key_ring, block.round).release();
}

// A warpgroup that owns 64 keys.
__device__ __forceinline__ void consume(const AttentionBackwardParams& params, const TensorMaps& maps, SharedStorage& shared) {
  const AttentionShape& shape = params.shape;
  RingSide<STAGES> queries(shared.query_ring);
  const DepthMajor<TileK::PANEL_BYTES> k(ptx::shared_address(shared.k) + uniform(first_row()) * 128);
  for_each_block<Block>(shape.work_blocks, shared.plans, [&](const Block& block) {
    float dk[HEAD_DIM / 8][4] = {};
    float dv[HEAD_DIM_V / 8][4] = {};
    float s[QUERY_TILES][4];
    float dp[QUERY_TILES][4];
    Weights<Element, QUERY_TILES> weights, gradients;
    uint32_t keep[KEEP_WORDS<QUERY_TILES>];
    const auto issue_dp = [&] {
      // V's tile lies behind K's: one register serves both.
      DepthMajor<TileV::PANEL_BYTES> v(0);
      v.low = k.low + (TileK::BYTES >> 4);
      ptx::wgmma_fence();
      issue_product<Element, HEAD_DIM_V / 16, 0>(
          dp, v, DepthMajor<TileOut::PANEL_BYTES>(ptx::shared_address(shared.d_out[0]) + queries.stage * TileOut::BYTES));
      ptx::wgmma_commit();
    };
    side_in_round(shared.key_ring, block.round).wait();
#pragma unroll 1
    for (Walk walk(block, shape); walk.exists(); walk.advance()) {
      const bool is_full = walk.is_full();
      queries.wait();
      clear_foreign(shared.q[queries.stage], shared.d_out[queries.stage], shape, block.place, walk.first_query());
      // Before the products, behind which the loads would wait.
      const TileNumbers base(numbers(shared.base_log2, queries.stage));
      ptx::wgmma_fence();
      issue_product<Element, HEAD_DIM / 16, 0>(
          s, k, DepthMajor<TileQ::PANEL_BYTES>(ptx::shared_address(shared.q[0]) + queries.stage * TileQ::BYTES));
      ptx::wgmma_commit();
      if constexpr (!GENERAL) issue_dp();
      ptx::wgmma_wait<GENERAL ? 0 : 1>();
      hold(s);
      weigh_tile(s, weights, keep, params, block, base, block.place.kv_head * shape.heads_per_kv + walk.head,
                 walk.first_query(), is_full);
      if constexpr (GENERAL) issue_dp();
      const TileNumbers delta(numbers(shared.delta, queries.stage));
      hold(dv);
      hold(weights);
      ptx::wgmma_fence();
      issue_product<Element, 1>(
          dv, weights, WidthMajor<TileOut::PANEL_BYTES>(ptx::shared_address(shared.d_out[0]) + queries.stage * TileOut::BYTES));
      ptx::wgmma_commit();
      // dP^T has come; with options, the registers of `weights` are needed as well.
      ptx::wgmma_wait<GENERAL ? 0 : 1>();
      hold(dp);
      const HeldWeights<QUERY_TILES> held{s};
      if (!GENERAL && !is_full) {
        ptx::mark_as_rare();
        drop_products(held, dp);
      }
      differentiate<GENERAL>(held, dp, gradients, keep, shape, delta);
      hold(dk);
      hold(gradients);
      ptx::wgmma_fence();
      issue_product<Element, 1>(
          dk, gradients, WidthMajor<TileQ::PANEL_BYTES>(ptx::shared_address(shared.q[0]) + queries.stage * TileQ::BYTES));
      ptx::wgmma_commit();
      // The next tile's products need the registers of `gradients`.
      ptx::wgmma_wait<0>();
      hold(dv);
      hold(dk);
      hold(weights);
      hold(gradients);
      // All lanes have read the queries' numbers.
      __syncwarp();
      queries.release();
      queries.advance();
    }
    release_keys<false>(shared, block);
    store_dv(dv, params, maps, shared, block);
    store_dk(dk, params, maps, shared, block);
    release_keys<true>(shared, block);
  });
  if (threadIdx.x % 128 == 0) ptx::bulk_wait_read<0>();
}

// Where a thread leaves its weights for the thread of the same place in the other warpgroup: 16 bytes beside its neighbours'.
__device__ __forceinline__ float4* exchanged(SharedStorage& shared, uint32_t buffer, int tile) {
  return reinterpret_cast<float4*>(shared.weights + buffer * EXCHANGE_BYTES) + tile * 128 + threadIdx.x % 128;
}

// The warpgroup that owns the values' gradient.
__device__ __forceinline__ void consume_values(const AttentionBackwardParams& params, const TensorMaps& maps,
                                               SharedStorage& shared) {
  const AttentionShape& shape = params.shape;
  RingSide<STAGES> queries(shared.query_ring);
  RingSide<2> exchange(shared.weight_ring);
  const DepthMajor<TileK::PANEL_BYTES> k(ptx::shared_address(shared.k));
  for_each_block<Block>(shape.work_blocks, shared.plans, [&](const Block& block) {
    float dv[HEAD_DIM_V / 8][4] = {};
    float s[QUERY_TILES][4];
    Weights<Element, QUERY_TILES> weights;
    uint32_t keep[KEEP_WORDS<QUERY_TILES>];
    side_in_round(shared.key_ring, block.round).wait();
#pragma unroll 1
    for (Walk walk(block, shape); walk.exists(); walk.advance()) {
      queries.wait();
      clear_foreign(shared.q[queries.stage], shared.d_out[queries.stage], shape, block.place, walk.first_query());
      ptx::wgmma_fence();
      issue_product<Element, HEAD_DIM / 16, 0>(
          s, k, DepthMajor<TileQ::PANEL_BYTES>(ptx::shared_address(shared.q[0]) + queries.stage * TileQ::BYTES));
      ptx::wgmma_commit();
      // S^T has come, and before it dV of the tile before, whose buffer is free.
      ptx::wgmma_wait<0>();
      hold(s);
      hold(dv);
      hold(weights);
      if (!walk.is_first()) queries.release_before();
      weigh_tile(s, weights, keep, params, block, TileNumbers(numbers(shared.base_log2, queries.stage)),
                 block.place.kv_head * shape.heads_per_kv + walk.head, walk.first_query(), walk.is_full());
      hold(dv);
      hold(weights);
      ptx::wgmma_fence();
      issue_product<Element, 1>(
          dv, weights, WidthMajor<TileOut::PANEL_BYTES>(ptx::shared_address(shared.d_out[0]) + queries.stage * TileOut::BYTES));
      ptx::wgmma_commit();
      exchange.start_storing();
#pragma unroll
      for (int tile = 0; tile < QUERY_TILES; ++tile) {
        *exchanged(shared, exchange.stage, tile) = HeldWeights<QUERY_TILES>{s}(tile);
      }
      exchange.finish_storing();
      exchange.advance();
      queries.advance();
    }
    ptx::wgmma_wait<0>();
    hold(dv);
    hold(weights);
    if (block.tiles.start < block.tiles.end) queries.release_before();
    release_keys<false>(shared, block);
    store_dv(dv, params, maps, shared, block);
    release_keys<true>(shared, block);
  });
  if (threadIdx.x % 128 == 0) ptx::bulk_wait_read<0>();
}

// The warpgroup that owns the keys' gradient.
__device__ __forceinline__ void consume_keys(const AttentionBackwardParams& params, const TensorMaps& maps,
                                             SharedStorage& shared) {
  const AttentionShape& shape = params.shape;
  RingSide<STAGES> queries(shared.query_ring);
  RingSide<2> exchange(shared.weight_ring);
  const DepthMajor<TileV::PANEL_BYTES> v(ptx::shared_address(shared.v));
  for_each_block<Block>(shape.work_blocks, shared.plans, [&](const Block& block) {
    float dk[HEAD_DIM / 8][4] = {};
    float dp[QUERY_TILES][4];
    Weights<Element, QUERY_TILES> gradients;
    side_in_round(shared.key_ring, block.round).wait();
#pragma unroll 1
    for (Walk walk(block, shape); walk.exists(); walk.advance()) {
      queries.wait();
      clear_foreign(shared.q[queries.stage], shared.d_out[queries.stage], shape, block.place, walk.first_query());
      ptx::wgmma_fence();
      issue_product<Element, HEAD_DIM_V / 16, 0>(
          dp, v, DepthMajor<TileOut::PANEL_BYTES>(ptx::shared_address(shared.d_out[0]) + queries.stage * TileOut::BYTES));
      ptx::wgmma_commit();
      // dP^T has come, and before it dK of the tile before, whose buffer is free.
      ptx::wgmma_wait<0>();
      hold(dp);
      hold(dk);
      hold(gradients);
      if (!walk.is_first()) queries.release_before();
      uint32_t keep[KEEP_WORDS<QUERY_TILES>] = {};
      if (GENERAL) {
        keep_transposed(keep, shape, block.place, block.place.kv_head * shape.heads_per_kv + walk.head, walk.first_query());
      }
      exchange.wait();
      const auto weights = [&](int tile) { return *exchanged(shared, exchange.stage, tile); };
      if (!GENERAL && !walk.is_full()) {
        ptx::mark_as_rare();
        drop_products(weights, dp);
      }
      differentiate<GENERAL>(weights, dp, gradients, keep, shape, numbers(shared.delta, queries.stage));
      // All lanes have read.
      __syncwarp();
      exchange.release();
      exchange.advance();
      hold(dk);
      hold(gradients);
      ptx::wgmma_fence();
      issue_product<Element, 1>(
          dk, gradients, WidthMajor<TileQ::PANEL_BYTES>(ptx::shared_address(shared.q[0]) + queries.stage * TileQ::BYTES));
      ptx::wgmma_commit();
      queries.advance();
    }
    ptx::wgmma_wait<0>();
    hold(dk);
    hold(gradients);
    if (block.tiles.start < block.tiles.end) queries.release_before();
    release_keys<false>(shared, block);
    store_dk(dk, params, maps, shared, block);
    release_keys<true>(shared, block);
  });
  if (threadIdx.x % 128 == 0) ptx::bulk_wait_read<0>();
}

__device__ __forceinline__ void attention_backward_key_value(const AttentionBackwardParams& params, const TensorMaps& maps) {
  extern __shared__ __align__(1024) char shared_bytes[];
  SharedStorage& shared = *reinterpret_cast<SharedStorage*>(shared_bytes);
  if (threadIdx.x == 0) {
    shared.key_ring.init(4 * CONSUMERS);
    shared.query_ring.init(4 * CONSUMERS, 1);
    // From four warps to four.
    shared.weight_ring.init(4, 3);
    // The two filling warps read them as well.
    shared.plans.ring.init(4 * CONSUMERS + 2);
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
      fill_numbers(params, shared);
    } else if (threadIdx.x < 96) {
      plan(params, shared);
    }
  } else {
    ptx::take_registers<Registers<CONSUMERS>::CONSUME>();
    if constexpr (!SHARES_KEYS) {
      consume(params, maps, shared);
    } else if (threadIdx.x < 256) {
      consume_values(params, maps, shared);
    } else {
      consume_keys(params, maps, shared);
    }
  }
}

}  // namespace warpfold

extern "C" __global__ void __launch_bounds__(warpfold::THREADS, 1)
    WARPFOLD_ENTRY(const __grid_constant__ AttentionBackwardParams params,
                   const __grid_constant__ warpfold::TensorMaps maps) {
  warpfold::attention_backward_key_value(params, maps);
}
