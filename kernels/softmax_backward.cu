// The gradient of softmax or log-softmax over the last axis:
//   d_x = scale * y * (d_y - sum(y d_y)),  of the logarithm  scale * (d_y - exp(y) * sum(d_y)).
//
// Shapes   y, d_y, d_x: `rows` rows of `columns`, strided, any alignment.
// Grid     Several rows a block: ceil(rows / ROWS_PER_BLOCK) blocks. A row a block: rows * segments blocks.
// Memory   y and d_y are loaded once, d_x is stored once; both inputs lie in registers in between, as they are stored.
// Segments STAGE_PARTIALS leaves the sum of each segment of a long row, STAGE_JOIN adds them up and computes the result.
// Hidden   Where a mask hid an element, y is 0 (its logarithm -inf). It takes no part, whatever d_y is there.

#include "lib/reduce.cuh"
#include "lib/row.cuh"

namespace warpfold {

using Layout = RowLayout<WARPFOLD_ELEMENT, WARPFOLD_THREADS_PER_ROW, WARPFOLD_ROWS_PER_BLOCK, WARPFOLD_VECTORS,
                         WARPFOLD_FEATURES>;
constexpr int THREADS_MAX = WARPFOLD_THREADS_PER_ROW * WARPFOLD_ROWS_PER_BLOCK;

__device__ __forceinline__ void softmax_backward(const SoftmaxBackwardParams& params) {
  const float LOG2E = 1.44269504088896341f;
  __shared__ WarpPartials scratch[1];
  const RowShape& shape = params.shape;
  const Place place = Place::of_block(shape, WARPFOLD_THREADS_PER_ROW, WARPFOLD_ROWS_PER_BLOCK);
  char* d_x = place.address(params.d_x, params.d_x_rows, shape);
  const char* d_y = params.d_y == 0 ? d_x : place.address(params.d_y, params.d_y_rows, shape);
  const uint32_t type = params.d_x_rows.type;
  const Layout layout(d_x, type, place.columns);

  Layout::Words y_words, d_y_words;
  layout.load(place.address(params.y, params.y_rows, shape), type, y_words);
  layout.load(d_y, type, d_y_words);
  const bool is_log = params.is_log != 0;
  const float hidden = is_log ? -CUDART_INF_F : 0.0f;

  float sum = 0.0f;
  if (Layout::IS_BLOCK && shape.stage == STAGE_JOIN) {
    const Place first(shape, place.row, 0);
    const float* partials = first.partials(params.partials, shape, 1);
#pragma unroll 1
    for (uint32_t s = 0; s < shape.segments; ++s) sum += partials[s];
  } else {
    layout.for_each(
        [&](int, auto& y_words, auto& d_y_words) {
          constexpr int N = Layout::COUNT<decltype(y_words)>;
          float y[N], gradient[N];
          unpack<Layout::Element>(y_words, y);
          unpack<Layout::Element>(d_y_words, gradient);
#pragma unroll
          for (int i = 0; i < N; ++i) {
            const float weighted = is_log ? gradient[i] : y[i] * gradient[i];
            sum += y[i] == hidden ? 0.0f : weighted;
          }
        },
        y_words, d_y_words);
    sum = reduce_row<Sum, Layout>(sum, scratch);
  }
  if (Layout::IS_BLOCK && shape.stage == STAGE_PARTIALS) {
    if (threadIdx.x == 0) *place.partials(params.partials, shape, 1) = sum;
    return;
  }
  layout.for_each(
      [&](int column, auto& y_words, auto& d_y_words) {
        constexpr int N = Layout::COUNT<decltype(y_words)>;
        float y[N], gradient[N];
        unpack<Layout::Element>(y_words, y);
        unpack<Layout::Element>(d_y_words, gradient);
#pragma unroll
        for (int i = 0; i < N; ++i) {
          const float of_log = fmaf(-ptx::exp2_approx(y[i] * LOG2E), sum, gradient[i]);
          const float result = params.scale * (is_log ? of_log : y[i] * (gradient[i] - sum));
          gradient[i] = y[i] == hidden ? 0.0f : result;
        }
        Layout::store<true>(d_x, type, column, gradient);
      },
      y_words, d_y_words);
}

}  // namespace warpfold

extern "C" __global__ void __launch_bounds__(warpfold::THREADS_MAX, WARPFOLD_BLOCKS_PER_SM)
    WARPFOLD_ENTRY(const __grid_constant__ SoftmaxBackwardParams params) {
  warpfold::softmax_backward(params);
}
