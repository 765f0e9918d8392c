// Attention, backward: the gradient of the sinks.
//
//   d_sinks[head] = -sum over the head's rows of exp(sink - lse[row]) delta[row]
//
// A sink is a score without a value: its weight is exp(sink - lse), and what it would take from d_out is 0.
//
// Shapes   sinks and d_sinks f32 [heads_q]; lse and delta f32 [batch, heads_q, len_q].
// Grid     a block a head. Its threads walk the rows in steps of their number: one fixed order of additions.

#include "lib/online_softmax.cuh"
#include "lib/params.h"
#include "lib/reduce.cuh"

namespace warpfold {

constexpr int THREADS = 32 * WARPFOLD_WARPS;

__device__ __forceinline__ void attention_backward_sinks(const AttentionSinksParams& params) {
  __shared__ WarpPartials partials_smem[1];
  const uint32_t head = ptx::block_index();
  const float sink = reinterpret_cast<const float*>(params.sinks)[head];
  float sum = 0.0f;
  for (uint32_t batch_idx = 0; batch_idx < params.batch; ++batch_idx) {
    const int64_t first = batch_idx * params.lse_batch + head * params.lse_head;
    for (uint32_t query = threadIdx.x; query < params.len_q; query += THREADS) {
      const float lse = reinterpret_cast<const float*>(params.lse)[first + query];
      const float delta = reinterpret_cast<const float*>(params.delta)[first + query];
      // lse holds the sink; only a sink of -inf leaves a row without anything.
      const float weight = lse == -CUDART_INF_F ? 0.0f : ptx::exp2_approx((sink - lse) * LOG2E);
      sum = fmaf(-weight, delta, sum);
    }
  }
  sum = reduce_row<Sum, WholeBlock>(sum, partials_smem);
  if (threadIdx.x == 0) reinterpret_cast<float*>(params.d_sinks)[head] = sum;
}

}  // namespace warpfold

extern "C" __global__ void __launch_bounds__(warpfold::THREADS)
    WARPFOLD_ENTRY(const __grid_constant__ AttentionSinksParams params) {
  warpfold::attention_backward_sinks(params);
}
