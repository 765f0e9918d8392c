// Attention, backward: what the score gradients of a row have in common.
//
//   delta[row] = sum_d out[row, d] d_out[row, d] - d_lse[row]
//
// Shapes   out and d_out [batch, heads_q, len_q, head_dim_v], delta and d_lse f32 [batch, heads_q, len_q].
// Grid     linear, a warp a row, WARPS rows a block.
// Source   Dao et al., "FlashAttention" (2022), section B.4, equation (4).

#include "lib/pack.cuh"
#include "lib/place.cuh"
#include "lib/reduce.cuh"

namespace warpfold {

using Element = WARPFOLD_ELEMENT;
constexpr int WARPS = WARPFOLD_WARPS;

__device__ __forceinline__ void attention_delta(const AttentionDeltaParams& params) {
  const int64_t row = static_cast<int64_t>(ptx::block_index()) * WARPS + threadIdx.x / 32;
  const int64_t rows_of_batch = static_cast<int64_t>(params.heads_q) * params.len_q;
  const uint32_t batch_idx = row / rows_of_batch;
  if (batch_idx >= params.batch) return;
  const uint32_t head = row % rows_of_batch / params.len_q;
  const uint32_t query = row % rows_of_batch % params.len_q;
  const Element* out =
      reinterpret_cast<const Element*>(row_address(params.out, params.out_strides, batch_idx, head, query));
  const Element* d_out =
      reinterpret_cast<const Element*>(row_address(params.d_out, params.d_out_strides, batch_idx, head, query));
  float sum = 0.0f;
  for (uint32_t d = threadIdx.x % 32; d < params.head_dim_v; d += 32) {
    sum = fmaf(to_float(out[d]), to_float(d_out[d]), sum);
  }
  sum = reduce_lanes<Sum, 32>(sum);
  if (threadIdx.x % 32 == 0) {
    const int64_t stat = batch_idx * params.lse_batch + head * params.lse_head + query;
    const float d_lse = params.d_lse == 0 ? 0.0f : reinterpret_cast<const float*>(params.d_lse)[stat];
    reinterpret_cast<float*>(params.delta)[stat] = sum - d_lse;
  }
}

}  // namespace warpfold

extern "C" __global__ void __launch_bounds__(32 * warpfold::WARPS)
    WARPFOLD_ENTRY(const __grid_constant__ AttentionDeltaParams params) {
  warpfold::attention_delta(params);
}
