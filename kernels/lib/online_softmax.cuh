// The running state of a softmax over tiles of keys, in base 2 (Milakov and Gimelshein 2018; Dao 2023, section 3.1).
//
// Scores arrive unscaled; with c = scale * log2(e) > 0, exp(scale * s - scale * max) = 2^(c s - c max), one FMA and one
// ex2 a score. A thread keeps a partial sum of its own columns; only the maximum is shared by the 4 lanes of a row
// after every tile, the sums once at the end.
#pragma once

#include <math_constants.h>

#include "lib/ptx.cuh"

namespace warpfold {

// The maximum, or the sum, over the 4 lanes that hold one row of an accumulator fragment.
__device__ __forceinline__ float quad_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(0xffffffff, value, 1));
  return fmaxf(value, __shfl_xor_sync(0xffffffff, value, 2));
}
__device__ __forceinline__ float quad_sum(float value) {
  value += __shfl_xor_sync(0xffffffff, value, 1);
  return value + __shfl_xor_sync(0xffffffff, value, 2);
}

struct OnlineSoftmaxRow {
  float max = -CUDART_INF_F;  // of the unscaled scores so far
  float sum = 0.0f;           // of 2^(c s - c max) over this thread's columns so far

  // Takes a tile's row maximum in. Returns the factor for what was accumulated under the old maximum, and in base_log2
  // the exponent that the new maximum stands for.
  __device__ __forceinline__ float advance(float tile_max, float scale_log2, float& base_log2) {
    const float new_max = fmaxf(max, tile_max);
    // A row without a visible key so far must not compute -inf - (-inf).
    base_log2 = new_max == -CUDART_INF_F ? 0.0f : new_max * scale_log2;
    const float rescale = ptx::exp2_approx(fmaf(max, scale_log2, -base_log2));
    max = new_max;
    sum *= rescale;
    return rescale;
  }

  // 2^(c s - base), added to the sum.
  __device__ __forceinline__ float weigh(float score, float scale_log2, float base_log2) {
    const float weight = ptx::exp2_approx(fmaf(score, scale_log2, -base_log2));
    sum += weight;
    return weight;
  }

  // After the last tile: shares the sum and returns the factor that normalises the accumulators; 0 for a row without
  // keys, whose output is 0. NaN stays NaN.
  __device__ __forceinline__ float finish() {
    sum = quad_sum(sum);
    return sum == 0.0f ? 0.0f : 1.0f / sum;
  }

  // The natural log of the row's sum of exponentials; -inf for a row without keys.
  __device__ __forceinline__ float lse(float scale_log2) const {
    const float LN2 = 0.693147180559945309f;
    return sum == 0.0f ? -CUDART_INF_F : fmaf(max, scale_log2, ptx::log2_approx(sum)) * LN2;
  }
};

}  // namespace warpfold
