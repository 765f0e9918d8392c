// Layer norm over the last axis, forward: y = (x - mean) * rstd * weight + bias, rstd = 1 / sqrt(var + eps).
//
// Shapes   x and y, `rows` rows of `columns`, strided, any alignment; weight and bias [columns]; mean and rstd [rows].
// Grid     ceil(rows / ROWS_PER_BLOCK) blocks; THREADS_PER_ROW threads share a row, thread t takes slots t,
//          t + THREADS_PER_ROW, ... (lib/row.cuh).
// Memory   VECTORS > 0: the row stays in registers, VECTORS slots a thread; read once, written once.
//          VECTORS = 0: the row is streamed: once for the mean, once for the variance, once for the result.
// Numerics Two passes: the mean, as a mean distance from the row's first element, so that a large common offset costs no
//          digits; then the mean squared distance from it.
// Source   Ba, Kiros and Hinton, "Layer Normalization" (2016), section 3.

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

struct Scratch {
  float mean[THREADS / 32];
  float var[THREADS / 32];
};

// One row and the vectors that scale it.
struct Row {
  RowSlots<Element> slots;
  const Element* x;
  const Element* weight;  // null: one
  const Element* bias;    // null: zero
  Element* y;
  int thread;

  // The sum of the slot's distances from a center; elements outside the row were loaded as the center.
  static __device__ __forceinline__ float sum_distances(const float (&values)[SLOT], float center) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < SLOT; ++i) sum += values[i] - center;
    return sum;
  }

  // The sum of the slot's squared distances from the mean, elements outside the row left out.
  __device__ __forceinline__ float sum_squares(int slot, const float (&values)[SLOT], float mean) const {
    float sum = 0.0f;
    const bool whole = slots.is_whole(slot);
#pragma unroll
    for (int i = 0; i < SLOT; ++i) {
      const float distance = values[i] - mean;
      if (whole || slots.contains(slot, i)) sum = fmaf(distance, distance, sum);
    }
    return sum;
  }

  __device__ __forceinline__ void store(int slot, float (&values)[SLOT], float mean, float rstd) const {
    float weights[SLOT];
    float biases[SLOT];
#pragma unroll
    for (int i = 0; i < SLOT; ++i) {
      weights[i] = 1.0f;
      biases[i] = 0.0f;
    }
    if (weight != nullptr) slots.load(weight, slot, 1.0f, weights);
    if (bias != nullptr) slots.load(bias, slot, 0.0f, biases);
#pragma unroll
    for (int i = 0; i < SLOT; ++i) values[i] = (values[i] - mean) * rstd * weights[i] + biases[i];
    slots.store(y, slot, values);
  }
};

struct Stats {
  float mean;
  float rstd;
};

__device__ __forceinline__ Stats norm_in_registers(const Row& row, float center, float eps, Scratch& scratch) {
  float values[VECTORS > 0 ? VECTORS : 1][SLOT];
  float sum = 0.0f;
#pragma unroll
  for (int v = 0; v < VECTORS; ++v) {
    row.slots.load(row.x, row.thread + v * THREADS_PER_ROW, center, values[v]);
    sum += Row::sum_distances(values[v], center);
  }
  const float count = row.slots.columns;
  const float mean = center + reduce_row<Sum, THREADS_PER_ROW>(sum, scratch.mean) / count;
  float squares = 0.0f;
#pragma unroll
  for (int v = 0; v < VECTORS; ++v) squares += row.sum_squares(row.thread + v * THREADS_PER_ROW, values[v], mean);
  const float rstd = 1.0f / sqrtf(reduce_row<Sum, THREADS_PER_ROW>(squares, scratch.var) / count + eps);
#pragma unroll
  for (int v = 0; v < VECTORS; ++v) row.store(row.thread + v * THREADS_PER_ROW, values[v], mean, rstd);
  return {mean, rstd};
}

__device__ __forceinline__ Stats norm_streamed(const Row& row, float center, float eps, Scratch& scratch) {
  const int num_slots = row.slots.count();
  float values[SLOT];
  float sum = 0.0f;
  for (int slot = row.thread; slot < num_slots; slot += THREADS_PER_ROW) {
    row.slots.load(row.x, slot, center, values);
    sum += Row::sum_distances(values, center);
  }
  const float count = row.slots.columns;
  const float mean = center + reduce_row<Sum, THREADS_PER_ROW>(sum, scratch.mean) / count;
  float squares = 0.0f;
  for (int slot = row.thread; slot < num_slots; slot += THREADS_PER_ROW) {
    row.slots.load(row.x, slot, center, values);
    squares += row.sum_squares(slot, values, mean);
  }
  const float rstd = 1.0f / sqrtf(reduce_row<Sum, THREADS_PER_ROW>(squares, scratch.var) / count + eps);
  for (int slot = row.thread; slot < num_slots; slot += THREADS_PER_ROW) {
    row.slots.load(row.x, slot, center, values);
    row.store(slot, values, mean, rstd);
  }
  return {mean, rstd};
}

__device__ __forceinline__ void layer_norm_forward(const LayerNormForwardParams& params) {
  __shared__ Scratch scratch;
  const uint32_t row_idx = blockIdx.x * ROWS_PER_BLOCK + threadIdx.x / THREADS_PER_ROW;
  // Only blocks of several rows have spare ones, and there a row is a warp of its own: no barrier waits for it.
  if (row_idx >= params.rows) return;
  const auto* x =
      reinterpret_cast<const Element*>(params.x + row_offset(params.x_strides, params.n1, params.n2, row_idx));
  const Row row{
      RowSlots<Element>(x, params.columns),
      x,
      reinterpret_cast<const Element*>(params.weight),
      reinterpret_cast<const Element*>(params.bias),
      reinterpret_cast<Element*>(params.y + row_offset(params.y_strides, params.n1, params.n2, row_idx)),
      static_cast<int>(threadIdx.x % THREADS_PER_ROW),
  };
  const float center = to_float(x[0]);
  Stats stats;
  if constexpr (VECTORS > 0) {
    stats = norm_in_registers(row, center, params.eps, scratch);
  } else {
    stats = norm_streamed(row, center, params.eps, scratch);
  }
  if (row.thread == 0) {
    if (params.mean != 0) reinterpret_cast<float*>(params.mean)[row_idx] = stats.mean;
    if (params.rstd != 0) reinterpret_cast<float*>(params.rstd)[row_idx] = stats.rstd;
  }
}

}  // namespace warpfold

extern "C" __global__ void __launch_bounds__(warpfold::THREADS)
    WARPFOLD_ENTRY(const __grid_constant__ LayerNormForwardParams params) {
  warpfold::layer_norm_forward(params);
}
