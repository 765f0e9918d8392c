// Attention, forward, for the tensor cores of sm_80 and everything after it.
//
//   out[i, :] = sum_j softmax_j(scale * q[i, :] . k[j, :]) v[j, :]         lse[i] = ln sum_j exp(scale * q[i] . k[j])
//
// Shapes   q [batch, heads_q, len_q, HEAD_DIM], k and v [batch, heads_kv, len_kv, HEAD_DIM], out like q, lse f32
//          [batch, heads_q, len_q]; strided but for the last dimension.
// Grid     linear, q_blocks * heads_q * batch blocks of 32 * WARPS threads. A block owns BLOCK_Q query rows of one head,
//          a warp 16 * ROW_TILES of them, and every warp walks all visible keys in tiles of BLOCK_KV from key 0 on.
//          Nothing of a row depends on the other rows, so neither do its bits.
// Shared   one tile each of Q, K and V, swizzled. At the end Q's tile stages the output.
// Order    K and V have one buffer each, and the copy of one flies while the other is in use:
//
//            barrier A   K(n) has arrived, everybody is done with V(n-1):    start copying V(n)
//            S = Q K(n)
//            barrier B   V(n) has arrived, everybody is done with K(n)
//            P = softmax(S), O = rescale * O                                 start copying K(n+1), now that S is gone
//            O = O + P V(n)                                                  and its registers are free
//
// Source   Dao, "FlashAttention-2" (2023), Algorithm 1; Dao et al., "FlashAttention" (2022).

#include "lib/mask.cuh"
#include "lib/online_softmax.cuh"
#include "lib/tile.cuh"

namespace warpfold {

using Element = WARPFOLD_ELEMENT;
constexpr int HEAD_DIM = WARPFOLD_HEAD_DIM;
constexpr int BLOCK_Q = WARPFOLD_BLOCK_Q;
constexpr int BLOCK_KV = WARPFOLD_BLOCK_KV;
constexpr int WARPS = WARPFOLD_WARPS;
constexpr bool GENERAL = WARPFOLD_GENERAL;
constexpr int THREADS = 32 * WARPS;

// Tiles of 16 query rows of a warp. Each K or V fragment that is read from shared memory serves all of them.
constexpr int ROW_TILES = BLOCK_Q / (16 * WARPS);
constexpr int KEY_TILES = BLOCK_KV / 8;     // 8-column tiles of S
constexpr int VALUE_TILES = HEAD_DIM / 8;   // 8-column tiles of O
constexpr int DIM_STEPS = HEAD_DIM / 16;    // k-steps of S = Q K^T
constexpr int KEY_STEPS = BLOCK_KV / 16;    // k-steps of O = P V
// Short rows leave registers for all of Q; longer ones read it again from shared memory for every key tile.
constexpr bool Q_IN_REGISTERS = HEAD_DIM <= 64;

using TileQ = SwizzledTile<BLOCK_Q, HEAD_DIM>;
using TileKV = SwizzledTile<BLOCK_KV, HEAD_DIM>;

static_assert(BLOCK_Q % (16 * WARPS) == 0, "every warp owns whole 16-row tiles");
static_assert(BLOCK_KV % 16 == 0 && HEAD_DIM % 32 == 0, "tiles are whole tensor-core steps and swizzle periods");
static_assert(sizeof(Element) == 2, "the tensor cores take 16-bit elements");

struct SharedTiles {
  alignas(128) char q[TileQ::BYTES];
  alignas(128) char k[TileKV::BYTES];
  alignas(128) char v[TileKV::BYTES];
};
static_assert(sizeof(SharedTiles) == (BLOCK_Q + 2 * BLOCK_KV) * HEAD_DIM * 2, "src/variants.rs counts the same bytes");

// Starts loading rows [first_row, first_row + ROWS) of a tensor; those from num_rows on become zero.
template <typename Tile, int ROWS>
__device__ __forceinline__ void load(const TileCopy<Tile, ROWS, THREADS>& copy, char* tile_smem, int first_row,
                                     int num_rows, const AttentionForwardParams& params) {
  if (GENERAL && !params.aligned) {
    copy.template by_element<Element>(tile_smem, first_row, num_rows);
  } else {
    copy.start(ptx::shared_address(tile_smem), first_row, num_rows);
  }
  ptx::cp_async_commit();
}

// A compile-time choice as a value.
template <bool VALUE>
struct Flag {
  static constexpr bool value = VALUE;
};

// Which part of the problem this block computes. Made once before and once after the loop over keys, so that the loop
// has its registers for itself.
struct Place {
  uint32_t head_idx;
  uint32_t batch_idx;
  int first_query;
  int num_queries;

  __device__ __forceinline__ Place(const AttentionForwardParams& params) {
    const uint32_t block_idx = ptx::block_index();
    // Late query blocks see the most keys under a causal mask; they start first, so that the grid's tail is short.
    first_query = (params.q_blocks - 1 - block_idx % params.q_blocks) * BLOCK_Q;
    num_queries = min(BLOCK_Q, params.len_q - first_query);
    head_idx = block_idx / params.q_blocks % params.heads_q;
    batch_idx = block_idx / params.q_blocks / params.heads_q;
  }

  // Row `row` of a head of a tensor.
  __device__ __forceinline__ char* rows(uint64_t address, const HeadStrides& strides, uint32_t head, int row) const {
    return reinterpret_cast<char*>(address) + batch_idx * strides.batch + head * strides.head + row * strides.row;
  }
};

// One warp's share of the work: the accumulators and the softmax state of its rows.
struct Warp {
  float o_frag[ROW_TILES][VALUE_TILES][4] = {};
  OnlineSoftmaxRow rows[ROW_TILES][2];
  uint32_t q_frag[ROW_TILES][Q_IN_REGISTERS ? DIM_STEPS : 1][4];
  uint32_t q_address;  // of this lane's rows and first chunk, for ldmatrix
  uint32_t k_address;
  uint32_t v_address;

  __device__ __forceinline__ Warp(const SharedTiles& shared) {
    const int row = threadIdx.x / 32 * 16 * ROW_TILES + fragment::a_row();
    q_address = ptx::shared_address(shared.q) + TileQ::offset(row, fragment::a_chunk());
    k_address = ptx::shared_address(shared.k) + TileKV::offset(fragment::b_row(), fragment::b_chunk());
    v_address = ptx::shared_address(shared.v) + TileKV::offset(fragment::a_row(), fragment::a_chunk());
  }

  // The swizzled addresses of all steps follow from these three by one XOR each. Hoisted out of the loop they would hold
  // a dozen registers and push others out to local memory, so the compiler must not see that they stay the same.
  __device__ __forceinline__ void forget_addresses() {
    ptx::forget(q_address);
    ptx::forget(k_address);
    ptx::forget(v_address);
  }

  __device__ __forceinline__ void load_q(uint32_t (&frag)[4], int row_tile, int step) const {
    ptx::ldmatrix_x4(frag, TileQ::pair_address(q_address + row_tile * 16 * TileQ::ROW_BYTES, step));
  }

  __device__ __forceinline__ void load_q_registers() {
    if constexpr (Q_IN_REGISTERS) {
#pragma unroll
      for (int step = 0; step < DIM_STEPS; ++step) {
#pragma unroll
        for (int t = 0; t < ROW_TILES; ++t) load_q(q_frag[t][step], t, step);
      }
    }
  }

  // S = Q K^T for one tile of keys.
  __device__ __forceinline__ void multiply_qk(float (&s_frag)[ROW_TILES][KEY_TILES][4]) {
#pragma unroll
    for (int step = 0; step < DIM_STEPS; ++step) {
      if constexpr (!Q_IN_REGISTERS) {
#pragma unroll
        for (int t = 0; t < ROW_TILES; ++t) load_q(q_frag[t][0], t, step);
      }
#pragma unroll
      for (int pair = 0; pair < KEY_TILES / 2; ++pair) {
        uint32_t k_frag[4];
        ptx::ldmatrix_x4(k_frag, TileKV::pair_address(k_address + pair * 16 * TileKV::ROW_BYTES, step));
#pragma unroll
        for (int t = 0; t < ROW_TILES; ++t) {
          const uint32_t(&q)[4] = q_frag[t][Q_IN_REGISTERS ? step : 0];
          if (step == 0) {
            ptx::mma_m16n8k16_zero(s_frag[t][2 * pair], q, k_frag[0], k_frag[1], Element());
            ptx::mma_m16n8k16_zero(s_frag[t][2 * pair + 1], q, k_frag[2], k_frag[3], Element());
          } else {
            ptx::mma_m16n8k16(s_frag[t][2 * pair], q, k_frag[0], k_frag[1], Element());
            ptx::mma_m16n8k16(s_frag[t][2 * pair + 1], q, k_frag[2], k_frag[3], Element());
          }
        }
      }
    }
  }

  // Scores of keys that a row does not see become -inf. The comparison selects, so that a NaN cannot pass.
  __device__ __forceinline__ void hide(float (&s_frag)[ROW_TILES][KEY_TILES][4], const KeyMask& mask, int first_query,
                                       int first_key) const {
#pragma unroll
    for (int t = 0; t < ROW_TILES; ++t) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int visible = mask.visible_keys(first_query + 16 * t + fragment::row(half)) - first_key;
#pragma unroll
        for (int key_tile = 0; key_tile < KEY_TILES; ++key_tile) {
#pragma unroll
          for (int i = 2 * half; i < 2 * half + 2; ++i) {
            if (8 * key_tile + fragment::column(i) >= visible) s_frag[t][key_tile][i] = -CUDART_INF_F;
          }
        }
      }
    }
  }

  // Scores become weights, rounded to the element type as fragments of operand A, and O is rescaled to the new maxima.
  __device__ __forceinline__ void softmax(float (&s_frag)[ROW_TILES][KEY_TILES][4],
                                          uint32_t (&p_frag)[ROW_TILES][KEY_STEPS][4], float scale_log2) {
#pragma unroll
    for (int t = 0; t < ROW_TILES; ++t) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float tile_max = s_frag[t][0][2 * half];
#pragma unroll
        for (int key_tile = 0; key_tile < KEY_TILES; ++key_tile) {
          tile_max = fmaxf(tile_max, fmaxf(s_frag[t][key_tile][2 * half], s_frag[t][key_tile][2 * half + 1]));
        }
        float base_log2;
        const float rescale = rows[t][half].advance(quad_max(tile_max), scale_log2, base_log2);
#pragma unroll
        for (int value_tile = 0; value_tile < VALUE_TILES; ++value_tile) {
          o_frag[t][value_tile][2 * half] *= rescale;
          o_frag[t][value_tile][2 * half + 1] *= rescale;
        }
#pragma unroll
        for (int key_tile = 0; key_tile < KEY_TILES; ++key_tile) {
          const float low = rows[t][half].weigh(s_frag[t][key_tile][2 * half], scale_log2, base_log2);
          const float high = rows[t][half].weigh(s_frag[t][key_tile][2 * half + 1], scale_log2, base_log2);
          // An accumulator fragment is half of an operand-A fragment: its 8 columns are columns 0-7 or 8-15 there.
          p_frag[t][key_tile / 2][key_tile % 2 * 2 + half] = ptx::pack_rn(low, high, Element());
        }
      }
    }
  }

  // O += P V for one tile of keys.
  __device__ __forceinline__ void multiply_pv(const uint32_t (&p_frag)[ROW_TILES][KEY_STEPS][4]) {
#pragma unroll
    for (int step = 0; step < KEY_STEPS; ++step) {
#pragma unroll
      for (int pair = 0; pair < VALUE_TILES / 2; ++pair) {
        uint32_t v_frag[4];
        ptx::ldmatrix_x4_trans(v_frag, TileKV::pair_address(v_address + step * 16 * TileKV::ROW_BYTES, pair));
#pragma unroll
        for (int t = 0; t < ROW_TILES; ++t) {
          ptx::mma_m16n8k16(o_frag[t][2 * pair], p_frag[t][step], v_frag[0], v_frag[1], Element());
          ptx::mma_m16n8k16(o_frag[t][2 * pair + 1], p_frag[t][step], v_frag[2], v_frag[3], Element());
        }
      }
    }
  }

  // Normalises the accumulators and writes them, rounded, to this warp's rows of Q's tile.
  __device__ __forceinline__ void stage_output(char* tile_smem) {
#pragma unroll
    for (int t = 0; t < ROW_TILES; ++t) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float scale = rows[t][half].finish();
        const int row = (threadIdx.x / 32 * ROW_TILES + t) * 16 + fragment::row(half);
#pragma unroll
        for (int value_tile = 0; value_tile < VALUE_TILES; ++value_tile) {
          const float low = o_frag[t][value_tile][2 * half] * scale;
          const float high = o_frag[t][value_tile][2 * half + 1] * scale;
          const uint32_t offset = TileQ::offset(row, value_tile) + fragment::column(0) * sizeof(Element);
          *reinterpret_cast<uint32_t*>(tile_smem + offset) = ptx::pack_rn(low, high, Element());
        }
      }
    }
  }

  // After finish().
  __device__ __forceinline__ void store_lse(const AttentionForwardParams& params, const Place& place) const {
    if (fragment::lane() % 4 != 0) return;  // the 4 lanes of a row hold the same state
    float* lse_gmem = reinterpret_cast<float*>(params.lse) +
                      (static_cast<int64_t>(place.batch_idx) * params.heads_q + place.head_idx) * params.len_q +
                      place.first_query;
#pragma unroll
    for (int t = 0; t < ROW_TILES; ++t) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = (threadIdx.x / 32 * ROW_TILES + t) * 16 + fragment::row(half);
        if (row < place.num_queries) lse_gmem[row] = rows[t][half].lse(params.scale_log2);
      }
    }
  }
};

// Copies this warp's staged rows to global memory, 16 bytes a lane where rows are aligned.
__device__ __forceinline__ void store_output(const char* tile_smem, char* out_gmem, int64_t row_stride, int rows,
                                             bool aligned) {
  constexpr int WARP_ROWS = 16 * ROW_TILES;
  const int first_row = threadIdx.x / 32 * WARP_ROWS;
#pragma unroll
  for (int index = fragment::lane(); index < WARP_ROWS * TileQ::CHUNKS; index += 32) {
    const int row = first_row + index / TileQ::CHUNKS;
    const int chunk = index % TileQ::CHUNKS;
    if (row >= rows) continue;
    const auto vector = *reinterpret_cast<const Vector<Element>*>(tile_smem + TileQ::offset(row, chunk));
    Element* out = reinterpret_cast<Element*>(out_gmem + row * row_stride) + chunk * 8;
    if (GENERAL && !aligned) {
#pragma unroll
      for (int i = 0; i < 8; ++i) out[i] = vector.values[i];
    } else {
      *reinterpret_cast<Vector<Element>*>(out) = vector;
    }
  }
}

__device__ __forceinline__ void attention_forward(const AttentionForwardParams& params) {
  extern __shared__ __align__(128) char shared_bytes[];
  SharedTiles& shared = *reinterpret_cast<SharedTiles*>(shared_bytes);

  const Place place(params);
  const char* q_gmem = place.rows(params.q, params.q_strides, place.head_idx, place.first_query);
  const char* k_gmem = place.rows(params.k, params.k_strides, place.head_idx / params.heads_per_kv, 0);
  const char* v_gmem = place.rows(params.v, params.v_strides, place.head_idx / params.heads_per_kv, 0);
  const int first_query = place.first_query;
  const int num_queries = place.num_queries;

  const KeyMask mask(params, place.batch_idx);
  // The first row sees the fewest keys, the last one the most.
  const int full_tiles = mask.visible_keys(first_query) / BLOCK_KV;
  const int num_tiles = (mask.visible_keys(first_query + num_queries - 1) + BLOCK_KV - 1) / BLOCK_KV;

  Warp warp(shared);
  const TileCopy<TileKV, BLOCK_KV, THREADS> k_copy(k_gmem, params.k_strides.row);
  const TileCopy<TileKV, BLOCK_KV, THREADS> v_copy(v_gmem, params.v_strides.row);
  if (num_tiles > 0) {
    load(TileCopy<TileQ, BLOCK_Q, THREADS>(q_gmem, params.q_strides.row), shared.q, 0, num_queries, params);
    load(k_copy, shared.k, 0, mask.num_keys, params);
  }

  const auto process_tile = [&](int tile, auto masked) {
    const int first_key = tile * BLOCK_KV;
    warp.forget_addresses();
    // Barrier A: this thread's copies of K(n) (and of Q) have landed, after it everybody's; V's buffer is free.
    ptx::cp_async_wait<0>();
    __syncthreads();
    load(v_copy, shared.v, first_key, mask.num_keys, params);
    if (tile == 0) warp.load_q_registers();
    float s_frag[ROW_TILES][KEY_TILES][4];
    warp.multiply_qk(s_frag);
    // Barrier B: V(n) has landed; K's buffer is free.
    ptx::cp_async_wait<0>();
    __syncthreads();
    if constexpr (decltype(masked)::value) {
      warp.hide(s_frag, mask, first_query + threadIdx.x / 32 * 16 * ROW_TILES, first_key);
    }
    uint32_t p_frag[ROW_TILES][KEY_STEPS][4];
    warp.softmax(s_frag, p_frag, params.scale_log2);
    if (tile + 1 < num_tiles) load(k_copy, shared.k, first_key + BLOCK_KV, mask.num_keys, params);
    warp.multiply_pv(p_frag);
  };
#pragma unroll 1
  for (int tile = 0; tile < full_tiles; ++tile) process_tile(tile, Flag<false>());
#pragma unroll 1
  for (int tile = full_tiles; tile < num_tiles; ++tile) process_tile(tile, Flag<true>());

  // Only this warp reads and writes its rows of Q's tile, and all of its lanes were past their last ldmatrix there at the
  // last barrier B.
  warp.stage_output(shared.q);
  // The lanes of a row copy what other lanes of the warp staged.
  __syncwarp();
  const Place end_place(params);
  store_output(shared.q, end_place.rows(params.out, params.out_strides, end_place.head_idx, end_place.first_query),
               params.out_strides.row, end_place.num_queries, params.aligned != 0);
  if (params.lse != 0) warp.store_lse(params, end_place);
}

}  // namespace warpfold

extern "C" __global__ void __launch_bounds__(warpfold::THREADS)
    WARPFOLD_ENTRY(const __grid_constant__ AttentionForwardParams params) {
  warpfold::attention_forward(params);
}
