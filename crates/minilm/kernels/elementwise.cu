// What a transformer does between matrix products, other than layer norm and attention:
//
//   minilm_embed   y[r, c] = words[ids[r], c] + positions[places[r], c] + token_types[0, c]
//   minilm_start   y[r, c] = bias[c] + residual[r, c], which the product that follows is added to
//   minilm_gelu    y[i]    = y[i] / 2 * (1 + erf(y[i] / sqrt(2))), in place
//
// Shapes   y [rows, columns], row-major without gaps; residual the same, or null for none; bias [columns].
// Grid     one thread an element, THREADS a block. All sums are f32, rounded once.
// Source   Hendrycks and Gimpel, "Gaussian Error Linear Units" (2016), the exact form.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

using Element = MINILM_ELEMENT;

__device__ __forceinline__ uint64_t element_idx() {
  return static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

// The caller has checked every id and place against the tables.
extern "C" __global__ void minilm_embed(const Element* __restrict__ words, const Element* __restrict__ positions,
                                        const Element* __restrict__ token_types, const uint32_t* __restrict__ ids,
                                        const uint32_t* __restrict__ places, Element* __restrict__ y,
                                        uint64_t columns, uint64_t num_elements) {
  const uint64_t element = element_idx();
  if (element >= num_elements) return;
  const uint64_t row = element / columns;
  const uint64_t column = element % columns;
  const float word = static_cast<float>(words[ids[row] * columns + column]);
  const float position = static_cast<float>(positions[places[row] * columns + column]);
  y[element] = Element(word + position + static_cast<float>(token_types[column]));
}

extern "C" __global__ void minilm_start(const Element* __restrict__ bias, const Element* __restrict__ residual,
                                        Element* __restrict__ y, uint64_t columns, uint64_t num_elements) {
  const uint64_t element = element_idx();
  if (element >= num_elements) return;
  const float start = residual == nullptr ? 0.0f : static_cast<float>(residual[element]);
  y[element] = Element(start + static_cast<float>(bias[element % columns]));
}

extern "C" __global__ void minilm_gelu(Element* __restrict__ y, uint64_t num_elements) {
  const uint64_t element = element_idx();
  if (element >= num_elements) return;
  const float x = static_cast<float>(y[element]);
  const float SQRT_HALF = 0.70710678118654752f;
  y[element] = Element(0.5f * x * (1.0f + erff(x * SQRT_HALF)));
}
