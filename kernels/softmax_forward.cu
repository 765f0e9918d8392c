// Softmax or log-softmax over the last axis: s = scale * x + bias, y = exp(s - max) / sum or s - max - ln(sum).
//
// Shapes   x, y, bias and mask: `rows` rows of `columns`, strided, any alignment; bias and mask may be broadcast.
// Grid     Several rows a block: ceil(rows / ROWS_PER_BLOCK) blocks. A row a block: rows * segments blocks.
// Memory   Every element is loaded once and stored once; a row lies in registers in between. In place, a thread stores
//          only what it alone has loaded.
// Segments A row that is longer than a block's registers has several segments. STAGE_PARTIALS leaves maximum and sum of
//          each, STAGE_JOIN joins them and computes the result: two reads, one write.
// Options  Of the general kernels, as uniform branches. Columns that a mask hides are -inf, whatever x holds; where it hides a whole slot of a band,
//          nothing is loaded.
// Source   Milakov and Gimelshein, "Online normalizer calculation for softmax" (2018), section 3: the joining of partials.

#include "lib/reduce.cuh"
#include "lib/row.cuh"

namespace warpfold {

using Layout = RowLayout<WARPFOLD_ELEMENT, WARPFOLD_THREADS_PER_ROW, WARPFOLD_ROWS_PER_BLOCK, WARPFOLD_VECTORS,
                         WARPFOLD_FEATURES>;
constexpr bool GENERAL = Layout::GENERAL;
constexpr int THREADS_MAX = WARPFOLD_THREADS_PER_ROW * WARPFOLD_ROWS_PER_BLOCK;

// What a row's exponents are relative to: a row of -inf must not compute -inf - (-inf).
__device__ __forceinline__ float base_of(float max) { return max == -CUDART_INF_F ? 0.0f : max; }

// exp((x - base) * unit). The difference is taken first: it is exact where it matters, however large x is.
__device__ __forceinline__ float weigh(float x, float base, float unit_log2) {
  return ptx::exp2_approx((x - base) * unit_log2);
}

// The columns that a band shows of a row: all before `prefix`, and first to end - 1.
struct Band {
  int prefix;
  int first;
  int end;

  __device__ __forceinline__ Band(const SoftmaxForwardParams& params, const Place& place) {
    const bool is_banded = params.is_banded != 0;
    const int query = is_banded ? place.row % params.len_q : 0;
    const int position = query + params.offset - place.first_column;
    prefix = is_banded ? params.prefix - place.first_column : 0;
    first = is_banded && params.window_left != INT32_MAX ? position - params.window_left : 0;
    end = is_banded && params.window_right != INT32_MAX ? position + params.window_right + 1 : INT32_MAX;
  }

  __device__ __forceinline__ bool shows(int column) const {
    return column < prefix || (column >= first && column < end);
  }
  __device__ __forceinline__ bool shows_any(int column, int count) const {
    return column < prefix || (column + count > first && column < end);
  }
};

// What is added to x, and what hides it, beside a band.
struct Options {
  const char* bias;
  const char* mask;
  uint32_t bias_type;
  bool bias_is_row;  // else one value for all columns
  bool mask_is_row;
  float scale;
  Band band;

  __device__ __forceinline__ Options(const SoftmaxForwardParams& params, const Place& place)
      : bias(params.bias == 0 ? nullptr : place.address(params.bias, params.bias_rows, params.shape)),
        mask(params.mask == 0 ? nullptr : place.address(params.mask, params.mask_rows, params.shape)),
        bias_type(params.bias_rows.type),
        bias_is_row(params.bias_rows.column != 0),
        mask_is_row(params.mask_rows.column != 0),
        scale(params.scale),
        band(params, place) {}

  template <int N>
  __device__ __forceinline__ void apply(int column, float (&values)[N]) const {
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] *= scale;
    if (bias != nullptr) {
      float biases[N];
      if (bias_is_row) {
        Layout::load_columns(bias, bias_type, column, biases);
      } else {
        float one[1];
        Layout::load_columns(bias, bias_type, 0, one);
#pragma unroll
        for (int i = 0; i < N; ++i) biases[i] = one[0];
      }
#pragma unroll
      for (int i = 0; i < N; ++i) values[i] += biases[i];
    }
    if (mask != nullptr) hide(column, values);
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = band.shows(column + i) ? values[i] : -CUDART_INF_F;
  }

  template <int N>
  __device__ __forceinline__ void hide(int column, float (&values)[N]) const {
    const char* first = mask + (mask_is_row ? column : 0);
    constexpr int WORDS = N < 4 ? 1 : N / 4;
    uint32_t bytes[WORDS];
    if (N >= 4 && mask_is_row && reinterpret_cast<uint64_t>(first) % N == 0) {
      load_words<true>(reinterpret_cast<const float*>(first), bytes);
    } else {
#pragma unroll
      for (int w = 0; w < WORDS; ++w) bytes[w] = 0;
#pragma unroll
      for (int i = 0; i < N; ++i) {
        bytes[i / 4] |= static_cast<uint32_t>(*reinterpret_cast<const uint8_t*>(first + (mask_is_row ? i : 0))) << i % 4 * 8;
      }
    }
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = (bytes[i / 4] >> i % 4 * 8 & 0xff) != 0 ? values[i] : -CUDART_INF_F;
  }
};

// Joins what STAGE_PARTIALS left of all segments of a row, in their order.
__device__ __forceinline__ void join(const float* partials, uint32_t segments, float unit_log2, float& base, float& sum) {
  float max = -CUDART_INF_F;
#pragma unroll 1
  for (uint32_t s = 0; s < segments; ++s) max = fmaxf(max, partials[2 * s]);
  base = base_of(max);
  sum = 0.0f;
#pragma unroll 1
  for (uint32_t s = 0; s < segments; ++s) {
    sum += partials[2 * s + 1] * weigh(partials[2 * s], base, unit_log2);
  }
}

__device__ __forceinline__ void softmax_forward(const SoftmaxForwardParams& params) {
  const float LOG2E = 1.44269504088896341f;
  __shared__ WarpPartials scratch[2];
  const RowShape& shape = params.shape;
  const Place place = Place::of_block(shape, WARPFOLD_THREADS_PER_ROW, WARPFOLD_ROWS_PER_BLOCK);
  char* y = place.address(params.y, params.y_rows, shape);
  const char* x = params.x == 0 ? y : place.address(params.x, params.x_rows, shape);
  const uint32_t type = params.y_rows.type;
  const Layout layout(y, type, place.columns);

  const bool has_options = GENERAL && (params.bias != 0 || params.mask != 0 || params.is_banded != 0);
  const Options options(params, place);
  // With options the scale is applied before them, else in the exponent.
  const float unit = has_options ? 1.0f : params.scale;
  const float unit_log2 = unit * LOG2E;

  Layout::Words loaded;
  layout.load_if(x, type, loaded,
                 [&](int column, int count) { return !GENERAL || options.band.shows_any(column, count); });
  Layout::Values values;
  float max = -CUDART_INF_F;
  layout.for_each(
      [&](int column, auto& s, auto& words) {
        unpack<Layout::Element>(words, s);
        if (has_options) options.apply(column, s);
#pragma unroll
        for (int i = 0; i < Layout::COUNT<decltype(s)>; ++i) max = fmaxf(max, s[i]);
      },
      values, loaded);

  float base, sum;
  const bool joins = Layout::IS_BLOCK && shape.stage == STAGE_JOIN;
  if (joins) {
    const Place first(shape, place.row, 0);
    join(first.partials(params.partials, shape, 2), shape.segments, unit_log2, base, sum);
  } else {
    max = reduce_row<Max, Layout>(max, &scratch[0]);
    base = base_of(max);
    sum = 0.0f;
  }
  // From here on values are weights, or for the logarithm their distances from the maximum.
  float own_sum = 0.0f;
  layout.for_each(
      [&](int, auto& s) {
#pragma unroll
        for (int i = 0; i < Layout::COUNT<decltype(s)>; ++i) {
          const float weight = weigh(s[i], base, unit_log2);
          own_sum += weight;
          s[i] = params.is_log ? (s[i] - base) * unit : weight;
        }
      },
      values);
  if (!joins) sum = reduce_row<Sum, Layout>(own_sum, &scratch[1]);

  if (Layout::IS_BLOCK && shape.stage == STAGE_PARTIALS) {
    if (threadIdx.x == 0) {
      float* partials = place.partials(params.partials, shape, 2);
      partials[0] = max;
      partials[1] = sum;
    }
    return;
  }
  // A row that sees nothing has sum 0: its result is 0, its logarithm -inf. NaN stays NaN.
  const float factor = params.is_log ? 1.0f : sum == 0.0f ? 0.0f : 1.0f / sum;
  const float log_sum = params.is_log && sum != 0.0f ? logf(sum) : 0.0f;
  layout.for_each(
      [&](int column, auto& s) {
#pragma unroll
        for (int i = 0; i < Layout::COUNT<decltype(s)>; ++i) s[i] = fmaf(s[i], factor, -log_sum);
        Layout::store<true>(y, type, column, s);
      },
      values);
}

}  // namespace warpfold

extern "C" __global__ void __launch_bounds__(warpfold::THREADS_MAX, WARPFOLD_BLOCKS_PER_SM)
    WARPFOLD_ENTRY(const __grid_constant__ SoftmaxForwardParams params) {
  warpfold::softmax_forward(params);
}
