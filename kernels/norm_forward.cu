// Layer norm or RMS norm over the last axis, with dropout and a residual before it:
//   r = dropout(x) + residual,  y = (r - mean) * rstd * weight + bias,  rstd = 1 / sqrt(mean((r - mean)^2) + eps).
//
// Shapes   x, residual, y, r: `rows` rows of `columns`, strided, any alignment; weight and bias [columns]; mean, rstd [rows].
//          Where one of x and residual is not of the kernel's type, the f32 kernel takes both as they are. All other
//          tensors have any type.
// Grid     Several rows a block: ceil(rows / ROWS_PER_BLOCK) blocks. A row a block: rows * segments blocks.
// Memory   x and residual are loaded once, y and r stored once; the row lies in registers in between.
// Segments A row that is longer than a block's registers has several segments. STAGE_PARTIALS leaves mean and sum of squared
//          distances from it of each, STAGE_JOIN joins them and computes the result: two reads, one write.
// Numerics Two passes over registers: the mean, as a mean distance from the row's first element, so that a large common
//          offset costs no digits; then the mean squared distance from it. RMS norm has mean 0. r is rounded to its type
//          before all of that, so that the backward pass sees what was normalised.
// Source   Ba, Kiros and Hinton, "Layer Normalization" (2016), section 3; Zhang and Sennrich, "Root Mean Square Layer
//          Normalization" (2019), section 4; Chan, Golub and LeVeque, "Updating formulae" (1979), for joining segments.

#include "lib/moments.cuh"
#include "lib/philox.cuh"
#include "lib/reduce.cuh"
#include "lib/row.cuh"

namespace warpfold {

using Layout = RowLayout<WARPFOLD_ELEMENT, WARPFOLD_THREADS_PER_ROW, WARPFOLD_ROWS_PER_BLOCK, WARPFOLD_VECTORS,
                         WARPFOLD_FEATURES>;
constexpr bool GENERAL = Layout::GENERAL;
constexpr int THREADS_MAX = WARPFOLD_THREADS_PER_ROW * WARPFOLD_ROWS_PER_BLOCK;

// What is normalised: dropout(x) + residual.
struct Summands {
  const NormForwardParams& params;
  const Place& place;

  template <int N, int WORDS>
  __device__ __forceinline__ void add(int column, const uint32_t (&x)[WORDS], const uint32_t (&residual)[WORDS],
                                      float (&sum)[N]) const {
    unpack<Layout::Element>(x, sum);
    if (GENERAL && params.dropout.below != 0) {
      const Dropout dropout(params.dropout);
      const uint32_t kept = dropout.keep_columns_of_row<N>(place.first_column + column, place.row);
#pragma unroll
      for (int i = 0; i < N; ++i) sum[i] = kept >> i & 1 ? sum[i] * params.dropout.keep_scale : 0.0f;
    }
    if (params.residual != 0) {
      float other[N];
      unpack<Layout::Element>(residual, other);
#pragma unroll
      for (int i = 0; i < N; ++i) sum[i] += other[i];
    }
    if (params.residual != 0 || (GENERAL && params.dropout.below != 0)) {
      const uint32_t type = GENERAL ? params.sum_type : params.x_rows.type;
#pragma unroll
      for (int i = 0; i < N; ++i) sum[i] = round_to<Layout::Element>(type, sum[i]);
    }
  }
};

// Joins what STAGE_PARTIALS left of all segments of a row, in their order.
__device__ __forceinline__ Moments join(const float* partials, const RowShape& shape, bool is_centered) {
  const float columns = shape.columns;
  const auto count_of_segment = [&](uint32_t s) {
    return static_cast<float>(min(shape.columns - s * shape.segment_columns, shape.segment_columns));
  };
  Moments joined = {0.0f, 0.0f};
  if (is_centered) {
    // As a distance from the first segment's mean, for the same reason as within a segment.
    const float center = partials[0];
    float sum = 0.0f;
#pragma unroll 1
    for (uint32_t s = 0; s < shape.segments; ++s) sum += count_of_segment(s) * (partials[2 * s] - center);
    joined.mean = center + sum / columns;
  }
#pragma unroll 1
  for (uint32_t s = 0; s < shape.segments; ++s) {
    const float distance = partials[2 * s] - joined.mean;
    joined.squares += partials[2 * s + 1] + count_of_segment(s) * distance * distance;
  }
  return joined;
}

__device__ __forceinline__ void norm_forward(const NormForwardParams& params) {
  __shared__ WarpPartials scratch[2];
  const RowShape& shape = params.shape;
  const Place place = Place::of_block(shape, WARPFOLD_THREADS_PER_ROW, WARPFOLD_ROWS_PER_BLOCK);
  const char* x = place.address(params.x, params.x_rows, shape);
  const char* residual = place.address(params.residual, params.residual_rows, shape);
  // Where only statistics are wanted, there is no y.
  const bool has_y = params.y != 0;
  const Layout layout(has_y ? place.address(params.y, params.y_rows, shape) : x,
                      has_y ? params.y_rows.type : params.x_rows.type, place.columns);
  const Summands summands = {params, place};
  const bool is_centered = params.is_centered != 0;

  Layout::Words x_words, residual_words;
  layout.load(x, params.x_rows.type, x_words);
  if (params.residual != 0) layout.load(residual, params.residual_rows.type, residual_words);
  Layout::Values values;
  layout.for_each([&](int column, auto& r, auto& x, auto& residual) { summands.add(column, x, residual, r); }, values,
                  x_words, residual_words);

  Moments moments = {0.0f, 0.0f};
  if (Layout::IS_BLOCK && shape.stage == STAGE_JOIN) {
    moments = join(Place(shape, place.row, 0).partials(params.partials, shape, 2), shape, is_centered);
  } else {
    uint32_t first_x[1], first_residual[1] = {0};
    layout.load_first(x, params.x_rows.type, first_x);
    if (params.residual != 0) layout.load_first(residual, params.residual_rows.type, first_residual);
    float center[1];
    summands.add(0, first_x, first_residual, center);
    const auto read = [](auto& r, auto& into) {
#pragma unroll
      for (int i = 0; i < Layout::COUNT<decltype(r)>; ++i) into[i] = r[i];
    };
    moments = moments_of(layout, values, read, is_centered, center[0], place.columns, scratch);
  }

  const bool is_first = layout.thread == 0 && place.columns > 0;
  if (Layout::IS_BLOCK && shape.stage == STAGE_PARTIALS) {
    if (is_first) {
      float* partials = place.partials(params.partials, shape, 2);
      partials[0] = moments.mean;
      partials[1] = moments.squares;
    }
    return;
  }
  const float rstd = rstd_of(moments, shape.columns, params.eps);
  if (is_first && place.segment == 0) {
    if (params.mean != 0) reinterpret_cast<float*>(params.mean)[place.row] = moments.mean;
    if (params.rstd != 0) reinterpret_cast<float*>(params.rstd)[place.row] = rstd;
  }
  if (params.sum != 0) {
    char* sum = place.address(params.sum, params.sum_rows, shape);
    layout.for_each([&](int column, auto& r) { Layout::store<false>(sum, params.sum_type, column, r); }, values);
  }
  if (!has_y) return;
  char* y = place.address(params.y, params.y_rows, shape);
  const char* weight = reinterpret_cast<const char*>(params.weight);
  const char* bias = reinterpret_cast<const char*>(params.bias);
  // Their addresses are cheaper to compute here than to keep beside a row that fills the registers.
  ptx::forget(weight);
  ptx::forget(bias);
  layout.for_each(
      [&](int column, auto& r) {
        constexpr int N = Layout::COUNT<decltype(r)>;
#pragma unroll
        for (int i = 0; i < N; ++i) r[i] = (r[i] - moments.mean) * rstd;
        if (weight != nullptr) {
          float weights[N];
          Layout::load_columns(weight, params.weight_type, place.first_column + column, weights);
#pragma unroll
          for (int i = 0; i < N; ++i) r[i] *= weights[i] + params.weight_offset;
        }
        if (bias != nullptr) {
          float biases[N];
          Layout::load_columns(bias, params.bias_type, place.first_column + column, biases);
#pragma unroll
          for (int i = 0; i < N; ++i) r[i] += biases[i];
        }
        Layout::store<true>(y, params.y_rows.type, column, r);
      },
      values);
}

}  // namespace warpfold

extern "C" __global__ void __launch_bounds__(warpfold::THREADS_MAX, WARPFOLD_BLOCKS_PER_SM)
    WARPFOLD_ENTRY(const __grid_constant__ NormForwardParams params) {
  warpfold::norm_forward(params);
}
