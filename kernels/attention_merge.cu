// Merges partial results of attention over disjoint sets of keys.
//
//   lse = ln (exp(sink) + sum_n exp(lse_n))         out = sum_n exp(lse_n - lse) out_n
//
// A part whose lse is -inf saw no key and takes no part, whatever its output holds.
//
// Shapes   parts f32 [batch, heads, len, head_dim_v], all with the same strides, their lses f32 [batch, heads, len]; sinks f32
//          [heads]; out of any float type, strided but for its last dimension.
// Grid     linear, a warp a row, WARPS rows a block. Lane n works out part n's weight.

#include "lib/online_softmax.cuh"
#include "lib/pack.cuh"
#include "lib/place.cuh"
#include "lib/reduce.cuh"

namespace warpfold {

using Element = WARPFOLD_ELEMENT;
constexpr int WARPS = WARPFOLD_WARPS;
static_assert(ATTENTION_MERGE_MAX < 32, "a lane is left for the sink");

__device__ __forceinline__ void attention_merge(const AttentionMergeParams& params) {
  const int64_t row = static_cast<int64_t>(ptx::block_index()) * WARPS + threadIdx.x / 32;
  const int64_t rows_of_batch = static_cast<int64_t>(params.heads) * params.len;
  const uint32_t batch_idx = row / rows_of_batch;
  if (batch_idx >= params.batch) return;
  const uint32_t head = row % rows_of_batch / params.len;
  const uint32_t query = row % rows_of_batch % params.len;

  const int lane = threadIdx.x % 32;
  const bool is_part = lane < ATTENTION_MERGE_MAX && params.parts[lane % ATTENTION_MERGE_MAX] != 0;
  float score = -CUDART_INF_F;
  if (is_part) score = reinterpret_cast<const float*>(params.parts_lse[lane])[row];
  if (lane == ATTENTION_MERGE_MAX && params.sinks != 0) score = reinterpret_cast<const float*>(params.sinks)[head];
  const float largest = reduce_lanes<Max, 32>(score);
  // A row without anything must not compute -inf - (-inf).
  const float base = largest == -CUDART_INF_F ? 0.0f : largest;
  const float power = ptx::exp2_approx((score - base) * LOG2E);
  const float sum = reduce_lanes<Sum, 32>(power);
  const float weight = sum == 0.0f ? 0.0f : power * ptx::rcp_approx(sum);
  const uint32_t taking_part = __ballot_sync(0xffffffff, is_part && score != -CUDART_INF_F);

  Element* out = reinterpret_cast<Element*>(row_address(params.out, params.out_strides, batch_idx, head, query));
  for (uint32_t first = 0; first < params.head_dim_v; first += 32) {
    const uint32_t d = first + lane;
    float value = 0.0f;
    for (uint32_t rest = taking_part; rest != 0; rest &= rest - 1) {
      const int part = __ffs(rest) - 1;
      const float part_weight = __shfl_sync(0xffffffff, weight, part);
      if (d < params.head_dim_v) {
        const char* part_row = row_address(params.parts[part], params.part_strides, batch_idx, head, query);
        value = fmaf(part_weight, reinterpret_cast<const float*>(part_row)[d], value);
      }
    }
    if (d < params.head_dim_v) out[d] = from_float<Element>(value);
  }
  if (params.lse != 0 && lane == 0) {
    reinterpret_cast<float*>(params.lse)[row] =
        sum == 0.0f ? -CUDART_INF_F : fmaf(ptx::log2_approx(sum), LN2, base);
  }
}

}  // namespace warpfold

extern "C" __global__ void __launch_bounds__(32 * warpfold::WARPS)
    WARPFOLD_ENTRY(const __grid_constant__ AttentionMergeParams params) {
  warpfold::attention_merge(params);
}
