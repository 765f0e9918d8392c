// The running state of a softmax over tiles of keys, in base 2 (Milakov and Gimelshein 2018; Dao 2023, section 3.1).
//
// With c the factor that takes scores to base 2, a weight is 2^(c s - c base). Any base serves, as long as neither large
// weights overflow nor the largest ones underflow; the result is normalised by the sum in the end. So the base is not the
// row's maximum, but follows it only when that has grown a lot: in most tiles nothing is rescaled, no maximum is worked out and
// no lane needs to know of another's. What tells is the sum of a tile's weights, which is needed anyway: a weight over
// TILE_SUM_MAX makes a larger sum.
//
// Scores come as s - base: the accumulators of their product start at -base.
//
// A row's base follows from its own scores alone: the warp votes whether any row has to be raised, but each row that does not
// have to is left as it is, to the bit.
#pragma once

#include <math_constants.h>

#include "lib/ptx.cuh"

namespace warpfold {

// The most that the weights of a thread's columns of one tile may add up to: far below the largest f16.
inline constexpr float TILE_SUM_MAX = 256.0f;

inline constexpr float LN2 = 0.693147180559945309f;
inline constexpr float LOG2E = 1.442695040888963407f;

// The maximum, or the sum, over the 4 lanes that hold one row of an accumulator fragment.
__device__ __forceinline__ float quad_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(0xffffffff, value, 1));
  return fmaxf(value, __shfl_xor_sync(0xffffffff, value, 2));
}
__device__ __forceinline__ float quad_sum(float value) {
  value += __shfl_xor_sync(0xffffffff, value, 1);
  return value + __shfl_xor_sync(0xffffffff, value, 2);
}

// The rows of a thread: two in each of its ROW_TILES tiles of 16.
template <int ROW_TILES>
struct OnlineSoftmax {
  // -base of each row, twice, as the accumulators of a score tile start with it; 0 until the row has a key.
  float shift[ROW_TILES][4] = {};
  float sum[ROW_TILES][2] = {};  // of the weights of this thread's columns so far
  // Whether every row of this thread has a key; before, a tile's weights may be anything.
  bool settled[ROW_TILES] = {};

  __device__ __forceinline__ OnlineSoftmax() { keep_shifts_apart(); }

  // The tensor core takes its accumulators from four neighbouring registers. The two that hold one row's shift stay two
  // registers only if the compiler does not know that they are equal; merged, they would be copied for every instruction.
  __device__ __forceinline__ void keep_shifts_apart() {
#pragma unroll
    for (int t = 0; t < ROW_TILES; ++t) {
#pragma unroll
      for (int i = 0; i < 4; ++i) ptx::forget(shift[t][i]);
    }
  }

  // Takes the scores of row tile t for a tile of keys, less their base. `store(key_tile, half, low, high)` takes two
  // neighbouring weights, perhaps twice: what comes last counts. `rescale(half, factor)` is called for both rows with the
  // factor for what was accumulated under the old base, if any row's base moves.
  template <int KEY_TILES, typename Store, typename Rescale>
  __device__ __forceinline__ void advance(float (&s_frag)[KEY_TILES][4], int t, float factor_log2, Store store,
                                          Rescale rescale) {
    float tile_sum[2];
    weigh(s_frag, factor_log2, tile_sum, store);
    // Rare after a row's first tile. NaN is not in bounds either.
    const bool in_bounds = settled[t] && fmaxf(tile_sum[0], tile_sum[1]) <= TILE_SUM_MAX;
    if (__any_sync(0xffffffff, !in_bounds)) {
      ptx::mark_as_rare();
      settled[t] = true;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        rescale(half, raise(s_frag, t, half, factor_log2, tile_sum[half]));
        settled[t] = settled[t] && shift[t][2 * half] != 0.0f;
      }
      keep_shifts_apart();
      weigh(s_frag, factor_log2, tile_sum, store);
    }
    sum[t][0] += tile_sum[0];
    sum[t][1] += tile_sum[1];
  }

  // After the last tile: shares the sums of a row's lanes.
  __device__ __forceinline__ void finish() {
#pragma unroll
    for (int t = 0; t < ROW_TILES; ++t) {
      sum[t][0] = quad_sum(sum[t][0]);
      sum[t][1] = quad_sum(sum[t][1]);
    }
  }

  // After finish(): what normalises the accumulators, with a sink's logit among the exponentials (-inf: without one); 0 for a
  // row without keys, whose output is 0. NaN stays NaN.
  __device__ __forceinline__ float normalizer(int t, int half, float factor_log2, float sink_log2) const {
    if (sum[t][half] == 0.0f) return 0.0f;
    return ptx::rcp_approx(sum[t][half] + ptx::exp2_approx(sink_log2 - base_log2(t, half, factor_log2)));
  }

  // After finish(): the natural log of the row's sum of exponentials; -inf for a row without keys and sink.
  __device__ __forceinline__ float lse(int t, int half, float factor_log2, float sink_log2) const {
    if (sum[t][half] == 0.0f) return sink_log2 * LN2;
    const float keys_log2 = base_log2(t, half, factor_log2) + ptx::log2_approx(sum[t][half]);
    if (sink_log2 == -CUDART_INF_F) return keys_log2 * LN2;
    const float larger = fmaxf(keys_log2, sink_log2);
    // NaN passes through the sum: the maximum alone would lose it.
    const float others = ptx::exp2_approx(keys_log2 - larger) + ptx::exp2_approx(sink_log2 - larger);
    return (larger + ptx::log2_approx(others)) * LN2;
  }

 private:
  // The weights of a tile, and what a thread's columns of each row add up to.
  template <int KEY_TILES, typename Store>
  static __device__ __forceinline__ void weigh(const float (&s_frag)[KEY_TILES][4], float factor_log2,
                                               float (&tile_sum)[2], Store store) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int key_tile = 0; key_tile < KEY_TILES; ++key_tile) {
        const float low = ptx::exp2_approx(s_frag[key_tile][2 * half] * factor_log2);
        const float high = ptx::exp2_approx(s_frag[key_tile][2 * half + 1] * factor_log2);
        tile_sum[half] = key_tile == 0 ? low + high : tile_sum[half] + low + high;
        store(key_tile, half, low, high);
      }
    }
  }

  // Moves a row's base to the tile's maximum, and the scores with it, where the weights are out of bounds or the row's first.
  template <int KEY_TILES>
  __device__ __forceinline__ float raise(float (&s_frag)[KEY_TILES][4], int t, int half, float factor_log2,
                                         float tile_sum) {
    float tile_max = -CUDART_INF_F;
#pragma unroll
    for (int key_tile = 0; key_tile < KEY_TILES; ++key_tile) {
      tile_max = fmaxf(tile_max, fmaxf(s_frag[key_tile][2 * half], s_frag[key_tile][2 * half + 1]));
    }
    // Shuffles are for all lanes: before any of them leaves.
    tile_max = quad_max(tile_max);
    tile_sum = quad_max(tile_sum);
    const bool is_first = shift[t][2 * half] == 0.0f && tile_max > -CUDART_INF_F;
    if (!is_first && !(tile_sum > TILE_SUM_MAX)) return 1.0f;
#pragma unroll
    for (int key_tile = 0; key_tile < KEY_TILES; ++key_tile) {
      s_frag[key_tile][2 * half] -= tile_max;
      s_frag[key_tile][2 * half + 1] -= tile_max;
    }
    // A shift of exactly 0 would mean that there is no key yet; a number this small shifts nothing either.
    const float moved = shift[t][2 * half] - tile_max;
    shift[t][2 * half] = shift[t][2 * half + 1] = moved == 0.0f ? 1e-30f : moved;
    // Nothing was accumulated before the first key, and the maximum may then be far below zero.
    const float rescale = is_first ? 1.0f : ptx::exp2_approx(-factor_log2 * tile_max);
    sum[t][half] *= rescale;
    return rescale;
  }

  // After the last tile: the exponent that weights are relative to, c base.
  __device__ __forceinline__ float base_log2(int t, int half, float factor_log2) const {
    return -shift[t][2 * half] * factor_log2;
  }
};

}  // namespace warpfold
