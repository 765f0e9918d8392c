// The gradients of layer norm or RMS norm over the last axis, of r (what was normalised), weight and bias:
//   g = weight * d_y,  n = (r - mean) * rstd
//   d_r = rstd * (g - mean(g) - n * mean(g n)) + d_sum      RMS norm: without mean(g)
//   d_residual = d_r,  d_x = d_r through dropout,  d_weight = sum over rows of d_y n,  d_bias = sum over rows of d_y
//
// Shapes   d_y, r, d_sum, d_x, d_residual: `rows` rows of `columns`, strided, any alignment; weight [columns]; mean and
//          rstd [rows], or absent: then they are computed again. Where d_y and r are not of the kernel's type, the f32
//          kernel takes them as they are. All other tensors have any type.
// Grid     parts * segments blocks. A block walks the rows of its part, ROWS_PER_BLOCK at a time, `parts` blocks apart.
// Memory   Every element is loaded once and stored once. d_y and r lie in registers as they are stored; a thread adds up
//          d_weight and d_bias of its columns in registers over all rows, and each part is stored once, at the end.
//          norm_weight_gradients.cu adds the parts up, in an order that no GPU's size changes.
// Columns  A thread holds the same columns of every row. Rows are cut where the first row of the part has its 16-byte
//          boundaries; where rows have one distance from each other, all rows of a part have them there, because parts are
//          multiples of 8. Plain kernels take no others.
// Segments STAGE_PARTIALS leaves the two sums of each segment of a long row, STAGE_JOIN adds them up and does the rest.
// Source   Ba, Kiros and Hinton, "Layer Normalization" (2016), supplementary material.

#include "lib/moments.cuh"
#include "lib/philox.cuh"

namespace warpfold {

using Layout = RowLayout<WARPFOLD_ELEMENT, WARPFOLD_THREADS_PER_ROW, WARPFOLD_ROWS_PER_BLOCK, WARPFOLD_VECTORS,
                         WARPFOLD_FEATURES>;
constexpr bool GENERAL = Layout::GENERAL;
constexpr int THREADS_PER_ROW = WARPFOLD_THREADS_PER_ROW;
constexpr int ROWS_PER_BLOCK = WARPFOLD_ROWS_PER_BLOCK;
constexpr int THREADS_MAX = THREADS_PER_ROW * ROWS_PER_BLOCK;
constexpr int SLOT = Layout::SLOT;

// The sums of the rows that lie side by side in a block meet in shared memory, one line for each row. A word of padding
// follows every SLOT columns, so that the lanes of a row, SLOT columns apart, fall into different banks, and lines are
// spaced so that the rows of a warp do, where they are cut alike.
struct SumLines {
  static constexpr int COLUMNS_MAX = (THREADS_PER_ROW * WARPFOLD_VECTORS + 1) * SLOT - 1;
  static constexpr int WORDS = COLUMNS_MAX + COLUMNS_MAX / SLOT;
  static constexpr int PITCH = WORDS + (THREADS_PER_ROW * (SLOT + 1) - WORDS % 32 + 32 * THREADS_PER_ROW) % 32;
  static constexpr int SIZE = Layout::IS_BLOCK ? 1 : ROWS_PER_BLOCK * PITCH;

  static __device__ __forceinline__ int word(int column) { return column + column / SLOT; }
};

// Leaves the block's part of one gradient, [columns] from `part` on.
__device__ __forceinline__ void store_part(const Layout& layout, Layout::Values& sums, float* part, int columns,
                                           float* lines_smem) {
  if constexpr (Layout::IS_BLOCK) {
    layout.for_each(
        [&](int column, auto& sum) {
          constexpr int N = Layout::COUNT<decltype(sum)>;
          uint32_t words[N];
          pack<float>(sum, words);
          store_words<false>(part + column, words);
        },
        sums);
  } else {
    // All rows' sums of the gradient before this one are read before they are overwritten.
    __syncthreads();
    float* line = lines_smem + threadIdx.x / THREADS_PER_ROW * SumLines::PITCH;
    layout.for_each(
        [&](int column, auto& sum) {
#pragma unroll
          for (int i = 0; i < Layout::COUNT<decltype(sum)>; ++i) line[SumLines::word(column + i)] = sum[i];
        },
        sums);
    // All rows' sums are there.
    __syncthreads();
    for (int word = threadIdx.x; word <= SumLines::word(columns - 1); word += THREADS_MAX) {
      if (word % (SLOT + 1) == SLOT) continue;
      float sum = 0.0f;
#pragma unroll
      for (int row = 0; row < ROWS_PER_BLOCK; ++row) sum += lines_smem[row * SumLines::PITCH + word];
      part[word - word / (SLOT + 1)] = sum;
    }
  }
}

// A row's statistics, as far as they are not given from what lies in registers.
__device__ __forceinline__ void stats_of_row(const NormBackwardParams& params, const Place& place,
                                             const Layout& layout, const char* r, Layout::Words& r_words,
                                             WarpPartials* scratch, float& mean, float& rstd) {
  const bool is_centered = params.is_centered != 0;
  if (params.rstd != 0) {
    mean = is_centered ? reinterpret_cast<const float*>(params.mean)[place.row] : 0.0f;
    rstd = reinterpret_cast<const float*>(params.rstd)[place.row];
    return;
  }
  uint32_t first[1];
  float center[1];
  layout.load_first(r, params.r_rows.type, first);
  unpack<Layout::Element>(first, center);
  const auto read = [](auto& words, auto& values) { unpack<Layout::Element>(words, values); };
  const Moments moments = moments_of(layout, r_words, read, is_centered, center[0], place.columns, scratch);
  mean = moments.mean;
  rstd = rstd_of(moments, params.shape.columns, params.eps);
}

__device__ __forceinline__ void norm_backward(const NormBackwardParams& params) {
  __shared__ WarpPartials sums_smem[2][2];  // of every other row
  __shared__ WarpPartials moments_smem[2];
  __shared__ float lines_smem[SumLines::SIZE];
  const RowShape& shape = params.shape;
  const uint32_t segment = Layout::IS_BLOCK ? blockIdx.x % shape.segments : 0;
  const uint32_t part = Layout::IS_BLOCK ? blockIdx.x / shape.segments : blockIdx.x;
  const uint32_t group = Layout::IS_BLOCK ? 0 : threadIdx.x / THREADS_PER_ROW;

  const Place first(shape, min(part * ROWS_PER_BLOCK + group, shape.rows - 1), segment);
  const Layout layout(first.address(params.d_x, params.d_x_rows, shape), params.d_x_rows.type, first.columns);
  Layout::Values d_weight, d_bias;
  layout.for_each(
      [](int, auto& d_weight, auto& d_bias) {
#pragma unroll
        for (int i = 0; i < Layout::COUNT<decltype(d_weight)>; ++i) d_weight[i] = d_bias[i] = 0.0f;
      },
      d_weight, d_bias);

  uint32_t parity = 0;
  // Every thread of the block goes through as many rows, those past the last one without elements.
#pragma unroll 1
  for (uint32_t row = part * ROWS_PER_BLOCK; row < shape.rows; row += params.parts * ROWS_PER_BLOCK, parity ^= 1) {
    const Place place(shape, row + group, segment);
    Layout of_row = layout;
    // What follows from these is cheaper to compute for every row than to keep, beside the sums.
    const char* weight = reinterpret_cast<const char*>(params.weight);
    ptx::forget(weight);
    ptx::forget(of_row.thread);
    if (place.columns == 0) of_row.slots = of_row.edges = 0;
    const char* r = place.address(params.r, params.r_rows, shape);
    Layout::Words r_words, d_y_words;
    of_row.load(r, params.r_rows.type, r_words);
    of_row.load(place.address(params.d_y, params.d_y_rows, shape), params.d_y_rows.type, d_y_words);
    float mean, rstd;
    stats_of_row(params, place, of_row, r, r_words, moments_smem, mean, rstd);

    // n and g of some neighbouring columns; leaves d_y in `gradient`.
    const auto normalize = [&](int column, auto& r_words, auto& d_y_words, auto& normal, auto& gradient, auto& scaled) {
      constexpr int N = Layout::COUNT<decltype(normal)>;
      unpack<Layout::Element>(r_words, normal);
      unpack<Layout::Element>(d_y_words, gradient);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        normal[i] = (normal[i] - mean) * rstd;
        scaled[i] = gradient[i];
      }
      if (weight == nullptr) return;
      float weights[N];
      Layout::load_columns(weight, params.weight_type, place.first_column + column, weights);
#pragma unroll
      for (int i = 0; i < N; ++i) scaled[i] *= weights[i] + params.weight_offset;
    };

    float sums[2] = {0.0f, 0.0f};  // of g n and of g
    of_row.for_each(
        [&](int column, auto& r_words, auto& d_y_words, auto& d_weight, auto& d_bias) {
          constexpr int N = Layout::COUNT<decltype(d_weight)>;
          float normal[N], gradient[N], scaled[N];
          normalize(column, r_words, d_y_words, normal, gradient, scaled);
#pragma unroll
          for (int i = 0; i < N; ++i) {
            sums[0] = fmaf(scaled[i], normal[i], sums[0]);
            sums[1] += scaled[i];
            d_weight[i] = fmaf(gradient[i], normal[i], d_weight[i]);
            d_bias[i] += gradient[i];
          }
        },
        r_words, d_y_words, d_weight, d_bias);
    if (Layout::IS_BLOCK && shape.stage == STAGE_JOIN) {
      const float* partials = Place(shape, place.row, 0).partials(params.partials, shape, 2);
      sums[0] = sums[1] = 0.0f;
#pragma unroll 1
      for (uint32_t s = 0; s < shape.segments; ++s) {
        sums[0] += partials[2 * s];
        sums[1] += partials[2 * s + 1];
      }
    } else {
      reduce_row<Sum, Layout>(sums, sums_smem[parity]);
    }
    if (Layout::IS_BLOCK && shape.stage == STAGE_PARTIALS) {
      if (threadIdx.x == 0) {
        float* partials = place.partials(params.partials, shape, 2);
        partials[0] = sums[0];
        partials[1] = sums[1];
      }
      continue;
    }
    const float mean_product = sums[0] / static_cast<float>(shape.columns);
    const float mean_scaled = params.is_centered ? sums[1] / static_cast<float>(shape.columns) : 0.0f;
    const char* d_sum = place.address(params.d_sum, params.d_sum_rows, shape);
    char* d_x = place.address(params.d_x, params.d_x_rows, shape);
    char* d_residual = place.address(params.d_residual, params.d_residual_rows, shape);
    of_row.for_each(
        [&](int column, auto& r_words, auto& d_y_words) {
          constexpr int N = Layout::COUNT<decltype(r_words)>;
          float normal[N], gradient[N], scaled[N];
          normalize(column, r_words, d_y_words, normal, gradient, scaled);
#pragma unroll
          for (int i = 0; i < N; ++i) {
            scaled[i] = rstd * (scaled[i] - fmaf(normal[i], mean_product, mean_scaled));
          }
          if (params.d_sum != 0) {
            Layout::load_columns(d_sum, params.d_sum_rows.type, column, gradient);
#pragma unroll
            for (int i = 0; i < N; ++i) scaled[i] += gradient[i];
          }
          if (GENERAL && params.d_residual != 0) Layout::store<false>(d_residual, params.d_residual_rows.type, column, scaled);
          if (GENERAL && params.dropout.below != 0) {
            const Dropout dropout(params.dropout);
            const uint32_t kept = dropout.keep_columns_of_row<N>(place.first_column + column, place.row);
#pragma unroll
            for (int i = 0; i < N; ++i) scaled[i] = kept >> i & 1 ? scaled[i] * params.dropout.keep_scale : 0.0f;
          }
          Layout::store<false>(d_x, params.d_x_rows.type, column, scaled);
        },
        r_words, d_y_words);
  }

  if (params.weight_partials == 0 || shape.stage == STAGE_PARTIALS) return;
  auto* parts = reinterpret_cast<float*>(params.weight_partials) + static_cast<int64_t>(part) * 2 * shape.columns;
  store_part(layout, d_weight, parts + first.first_column, first.columns, lines_smem);
  store_part(layout, d_bias, parts + shape.columns + first.first_column, first.columns, lines_smem);
}

}  // namespace warpfold

extern "C" __global__ void __launch_bounds__(warpfold::THREADS_MAX, WARPFOLD_BLOCKS_PER_SM)
    WARPFOLD_ENTRY(const __grid_constant__ NormBackwardParams params) {
  warpfold::norm_backward(params);
}
