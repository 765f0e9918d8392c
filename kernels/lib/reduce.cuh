// Reductions over the threads that share a row: a warp, or a whole block. The order is fixed, so the bits are too.
#pragma once

#include "lib/ptx.cuh"

namespace warpfold {

struct Max {
  static __device__ __forceinline__ float join(float a, float b) { return fmaxf(a, b); }
};
struct Sum {
  static __device__ __forceinline__ float join(float a, float b) { return a + b; }
};

// The result in every one of the THREADS threads of a row. A block that is one row passes `partials_smem`, one float a
// warp, which no other reduction of the block may use.
template <typename Operation, int THREADS>
__device__ __forceinline__ float reduce_row(float value, float* partials_smem) {
  static_assert(THREADS % 32 == 0, "a row belongs to whole warps");
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    value = Operation::join(value, __shfl_xor_sync(0xffffffff, value, distance));
  }
  if constexpr (THREADS > 32) {
    if (threadIdx.x % 32 == 0) partials_smem[threadIdx.x / 32] = value;
    // Every warp's partial is written before any thread reads them.
    __syncthreads();
    value = partials_smem[0];
#pragma unroll
    for (int warp = 1; warp < THREADS / 32; ++warp) value = Operation::join(value, partials_smem[warp]);
  }
  return value;
}

}  // namespace warpfold
