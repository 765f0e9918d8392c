// Mean and squared distances from it, of a row that lies in registers.
#pragma once

#include "lib/reduce.cuh"
#include "lib/row.cuh"

namespace warpfold {

// The mean of some elements and the sum of their squared distances from it; of RMS norm, mean 0.
struct Moments {
  float mean;
  float squares;
};

// `read(part, values)` gives the values of a part of the share. The mean is the center, any value near those of the row,
// plus the mean distance from it: a large common offset costs no digits. `scratch` is for two reductions.
template <typename Layout, typename Share, typename Read>
__device__ __forceinline__ Moments moments_of(const Layout& layout, Share& share, Read read, bool is_centered,
                                              float center, int columns, WarpPartials* scratch) {
  Moments moments = {0.0f, 0.0f};
  if (is_centered) {
    float sum = 0.0f;
    layout.for_each(
        [&](int, auto& part) {
          float values[Layout::template COUNT<decltype(part)>];
          read(part, values);
#pragma unroll
          for (int i = 0; i < Layout::template COUNT<decltype(part)>; ++i) sum += values[i] - center;
        },
        share);
    moments.mean = center + reduce_row<Sum, Layout>(sum, &scratch[0]) / static_cast<float>(columns);
  }
  float squares = 0.0f;
  layout.for_each(
      [&](int, auto& part) {
        float values[Layout::template COUNT<decltype(part)>];
        read(part, values);
#pragma unroll
        for (int i = 0; i < Layout::template COUNT<decltype(part)>; ++i) {
          const float distance = values[i] - moments.mean;
          squares = fmaf(distance, distance, squares);
        }
      },
      share);
  moments.squares = reduce_row<Sum, Layout>(squares, &scratch[1]);
  return moments;
}

__device__ __forceinline__ float rstd_of(const Moments& moments, uint32_t columns, float eps) {
  return 1.0f / sqrtf(moments.squares / static_cast<float>(columns) + eps);
}

}  // namespace warpfold
