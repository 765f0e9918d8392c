// Adds up the parts of d_weight and d_bias that norm_backward.cu leaves.
//
// Shapes   weight_partials f32 [parts, 2, columns]; d_weight and d_bias [columns], of any type, each optional.
// Grid     ceil(columns / 32) blocks of WARPS warps. Lane l of every warp has one column; warp w takes parts w, w + WARPS, ...,
//          and the warps' sums are added in their order.

#include "lib/access.cuh"

namespace warpfold {

constexpr int WARPS = WARPFOLD_WARPS;
constexpr int UNROLL = 4;  // loads under way

__device__ __forceinline__ void norm_weight_gradients(const NormWeightGradientsParams& params) {
  __shared__ float sums_smem[2][WARPS][32];
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t warp = threadIdx.x / 32;
  const uint32_t column = blockIdx.x * 32 + lane;
  float d_weight = 0.0f;
  float d_bias = 0.0f;
  if (column < params.columns) {
    const auto* partials = reinterpret_cast<const float*>(params.weight_partials) + column;
#pragma unroll UNROLL
    for (uint32_t part = warp; part < params.parts; part += WARPS) {
      const float* of_part = partials + static_cast<int64_t>(part) * 2 * params.columns;
      d_weight += of_part[0];
      d_bias += of_part[params.columns];
    }
  }
  sums_smem[0][warp][lane] = d_weight;
  sums_smem[1][warp][lane] = d_bias;
  // All warps' sums are there.
  __syncthreads();
  if (warp > 1 || column >= params.columns) return;
  float sum = 0.0f;
#pragma unroll
  for (int w = 0; w < WARPS; ++w) sum += sums_smem[warp][w][lane];
  // The first warp has the weights, the second one the biases.
  const uint64_t result = warp == 0 ? params.d_weight : params.d_bias;
  const uint32_t type = warp == 0 ? params.d_weight_type : params.d_bias_type;
  if (result == 0) return;
  with_type<float>(type, [&](auto zero) {
    reinterpret_cast<decltype(zero)*>(result)[column] = from_float<decltype(zero)>(sum);
  });
}

}  // namespace warpfold

extern "C" __global__ void __launch_bounds__(32 * warpfold::WARPS)
    WARPFOLD_ENTRY(const __grid_constant__ NormWeightGradientsParams params) {
  warpfold::norm_weight_gradients(params);
}
