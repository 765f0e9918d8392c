// Reductions over the threads that share a row: a part of a warp, a warp, or a whole block. The order is fixed, so the bits
// are too.
#pragma once

#include <math_constants.h>

#include "lib/ptx.cuh"

namespace warpfold {

struct Max {
  static constexpr __device__ float identity() { return -CUDART_INF_F; }
  static __device__ __forceinline__ float join(float a, float b) { return fmaxf(a, b); }
};
struct Sum {
  static constexpr __device__ float identity() { return 0.0f; }
  static __device__ __forceinline__ float join(float a, float b) { return a + b; }
};

// The result in each of THREADS neighbouring lanes.
template <typename Operation, int THREADS>
__device__ __forceinline__ float reduce_lanes(float value) {
#pragma unroll
  for (int distance = THREADS / 2; distance > 0; distance /= 2) {
    value = Operation::join(value, __shfl_xor_sync(0xffffffff, value, distance));
  }
  return value;
}

// A partial result of each warp.
using WarpPartials = float[32];

// The threads of a whole block, as those that share a row.
struct WholeBlock {
  static constexpr int LANES = 32;
  static constexpr bool IS_BLOCK = true;
};

// Reduces N values at once, with the results in every thread of a row. A block that is one row passes memory for N values,
// which no other reduction uses between this one's barrier and the block's next.
template <typename Operation, typename Layout, int N>
__device__ __forceinline__ void reduce_row(float (&values)[N], WarpPartials* partials_smem) {
  constexpr int LANES = Layout::LANES;
#pragma unroll
  for (int i = 0; i < N; ++i) values[i] = reduce_lanes<Operation, LANES>(values[i]);
  if constexpr (Layout::IS_BLOCK) {
    const int lane = threadIdx.x % 32;
    if (lane == 0) {
#pragma unroll
      for (int i = 0; i < N; ++i) partials_smem[i][threadIdx.x / 32] = values[i];
    }
    // Every warp's partial result is written before any warp reads them.
    __syncthreads();
    const bool is_partial = lane < blockDim.x / 32;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      values[i] = reduce_lanes<Operation, 32>(is_partial ? partials_smem[i][lane] : Operation::identity());
    }
  }
}

template <typename Operation, typename Layout>
__device__ __forceinline__ float reduce_row(float value, WarpPartials* partials_smem) {
  float values[1] = {value};
  reduce_row<Operation, Layout>(values, partials_smem);
  return values[0];
}

}  // namespace warpfold
