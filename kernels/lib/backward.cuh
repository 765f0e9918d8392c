// What the backward kernels of attention share. With s the scores, delta = sum_d out d_out - d_lse of a row:
//
//   p  = exp(s - lse)                     the weights, computed again
//   dp = d_out v^T                        times the dropout mask
//   ds = p (dp - delta)                   the gradient of the score; times 1 - tanh^2 where it is capped, and times scale, that
//                                         of the product of query and key
//
// Source: Dao et al., "FlashAttention" (2022), section B.4; the bias's gradient is ds before the softcap.
#pragma once

#include "lib/philox.cuh"
#include "lib/score.cuh"

namespace warpfold {

// What a row's scores are measured from, in base 2: its lse. A row that saw nothing has no weights: 2^(s - inf) = 0.
__device__ __forceinline__ float base_of_lse(float lse) {
  return lse == -CUDART_INF_F ? CUDART_INF_F : lse * LOG2E;
}

// From a weight to the gradient of the score, or of what was capped to it. What has no weight, above all what is hidden, has no
// gradient: selected, so that a NaN among the hidden values does not pass.
__device__ __forceinline__ float score_gradient(float weight, float dp, float delta, float derivative) {
  return weight == 0.0f ? 0.0f : weight * (dp - delta) * derivative;
}

}  // namespace warpfold
