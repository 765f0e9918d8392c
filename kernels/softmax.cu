// Softmax over the last axis, forward: y[r, c] = exp(x[r, c] - max_r) / sum_c exp(x[r, c] - max_r).
//
// Shapes   x and y, `rows` rows of `columns`, strided; any alignment.
// Grid     ceil(rows / ROWS_PER_BLOCK) blocks; THREADS_PER_ROW threads share a row, thread t takes slots t,
//          t + THREADS_PER_ROW, ... (lib/row.cuh).
// Memory   VECTORS > 0: the row stays in registers, VECTORS slots a thread; read once, written once.
//          VECTORS = 0: the row is streamed twice: an online pass for maximum and sum, a second one for the result.
// Source   Milakov and Gimelshein, "Online normalizer calculation for softmax" (2018), Algorithm 3.

#include <math_constants.h>

#include "lib/reduce.cuh"
#include "lib/row.cuh"

namespace warpfold {

using Element = WARPFOLD_ELEMENT;
constexpr int THREADS_PER_ROW = WARPFOLD_THREADS_PER_ROW;
constexpr int ROWS_PER_BLOCK = WARPFOLD_ROWS_PER_BLOCK;
constexpr int VECTORS = WARPFOLD_VECTORS;
constexpr int THREADS = THREADS_PER_ROW * ROWS_PER_BLOCK;
constexpr int SLOT = RowSlots<Element>::SIZE;
static_assert(ROWS_PER_BLOCK == 1 || THREADS_PER_ROW == 32, "several rows a block mean a warp a row");

// exp(x - max). The difference is taken first: it is exact where it matters, however large x is.
__device__ __forceinline__ float weigh(float x, float max) {
  const float LOG2E = 1.44269504088896341f;
  return ptx::exp2_approx((x - max) * LOG2E);
}

// What a row's exponents are relative to: a row of -inf must not compute -inf - (-inf).
__device__ __forceinline__ float base_of(float max) { return max == -CUDART_INF_F ? 0.0f : max; }

// A row of -inf has sum 0, and its result is 0. NaN stays NaN.
__device__ __forceinline__ float inverse(float sum) { return sum == 0.0f ? 0.0f : 1.0f / sum; }

struct Scratch {
  float max[THREADS / 32];
  float sum[THREADS / 32];
};

__device__ __forceinline__ void softmax_in_registers(const RowSlots<Element>& slots, const Element* x, Element* y,
                                                     int thread, Scratch& scratch) {
  float values[VECTORS > 0 ? VECTORS : 1][SLOT];
  float max = -CUDART_INF_F;
#pragma unroll
  for (int v = 0; v < VECTORS; ++v) {
    slots.load(x, thread + v * THREADS_PER_ROW, -CUDART_INF_F, values[v]);
#pragma unroll
    for (int i = 0; i < SLOT; ++i) max = fmaxf(max, values[v][i]);
  }
  max = base_of(reduce_row<Max, THREADS_PER_ROW>(max, scratch.max));
  float sum = 0.0f;
#pragma unroll
  for (int v = 0; v < VECTORS; ++v) {
#pragma unroll
    for (int i = 0; i < SLOT; ++i) {
      values[v][i] = weigh(values[v][i], max);
      sum += values[v][i];
    }
  }
  const float scale = inverse(reduce_row<Sum, THREADS_PER_ROW>(sum, scratch.sum));
#pragma unroll
  for (int v = 0; v < VECTORS; ++v) {
#pragma unroll
    for (int i = 0; i < SLOT; ++i) values[v][i] *= scale;
    slots.store(y, thread + v * THREADS_PER_ROW, values[v]);
  }
}

__device__ __forceinline__ void softmax_streamed(const RowSlots<Element>& slots, const Element* x, Element* y,
                                                 int thread, Scratch& scratch) {
  float max = -CUDART_INF_F;
  float sum = 0.0f;
  for (int slot = thread; slot < slots.count(); slot += THREADS_PER_ROW) {
    float values[SLOT];
    slots.load(x, slot, -CUDART_INF_F, values);
    float new_max = max;
#pragma unroll
    for (int i = 0; i < SLOT; ++i) new_max = fmaxf(new_max, values[i]);
    const float base = base_of(new_max);
    sum *= weigh(max, base);
#pragma unroll
    for (int i = 0; i < SLOT; ++i) sum += weigh(values[i], base);
    max = new_max;
  }
  const float row_max = base_of(reduce_row<Max, THREADS_PER_ROW>(max, scratch.max));
  const float scale = inverse(reduce_row<Sum, THREADS_PER_ROW>(sum * weigh(max, row_max), scratch.sum));
  for (int slot = thread; slot < slots.count(); slot += THREADS_PER_ROW) {
    float values[SLOT];
    slots.load(x, slot, -CUDART_INF_F, values);
#pragma unroll
    for (int i = 0; i < SLOT; ++i) values[i] = weigh(values[i], row_max) * scale;
    slots.store(y, slot, values);
  }
}

__device__ __forceinline__ void softmax_forward(const SoftmaxForwardParams& params) {
  __shared__ Scratch scratch;
  const uint32_t row = blockIdx.x * ROWS_PER_BLOCK + threadIdx.x / THREADS_PER_ROW;
  // Only blocks of several rows have spare ones, and there a row is a warp of its own: no barrier waits for it.
  if (row >= params.rows) return;
  const int thread = threadIdx.x % THREADS_PER_ROW;
  const auto* x = reinterpret_cast<const Element*>(params.x + row_offset(params.x_strides, params.n1, params.n2, row));
  auto* y = reinterpret_cast<Element*>(params.y + row_offset(params.y_strides, params.n1, params.n2, row));
  const RowSlots<Element> slots(x, params.columns);
  if constexpr (VECTORS > 0) {
    softmax_in_registers(slots, x, y, thread, scratch);
  } else {
    softmax_streamed(slots, x, y, thread, scratch);
  }
}

}  // namespace warpfold

extern "C" __global__ void __launch_bounds__(warpfold::THREADS)
    WARPFOLD_ENTRY(const __grid_constant__ SoftmaxForwardParams params) {
  warpfold::softmax_forward(params);
}
