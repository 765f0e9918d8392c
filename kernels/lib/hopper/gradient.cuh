// From products to weights to gradients of the scores (lib/backward.cuh), a tile of accumulators at a time, in either orientation:
// queries as rows (d_q) or keys as rows (d_k, d_v).
//
// `base(tile)` and `delta(tile)` are a query's numbers for the four accumulators of an 8-column tile, as a float4.
#pragma once

#include "lib/backward.cuh"
#include "lib/product.cuh"

namespace warpfold {

template <int TILES>
inline constexpr int KEEP_WORDS = (TILES + 7) / 8;  // a bit an accumulator

__device__ __forceinline__ float of(const float4& numbers, int i) {
  return i == 0 ? numbers.x : i == 1 ? numbers.y : i == 2 ? numbers.z : numbers.w;
}

// Where queries are columns: their numbers lie in shared memory, from this lane's first column on.
struct ColumnNumbers {
  uint32_t address;

  __device__ __forceinline__ float4 operator()(int tile) const {
    const float2 pair = ptx::load_shared_2(address + tile * 32);
    return make_float4(pair.x, pair.y, pair.x, pair.y);
  }
};

// The same, loaded ahead.
template <int TILES>
struct HeldNumbers {
  float2 pairs[TILES];

  __device__ __forceinline__ explicit HeldNumbers(const ColumnNumbers& numbers) {
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile) pairs[tile] = ptx::load_shared_2(numbers.address + tile * 32);
  }
  __device__ __forceinline__ float4 operator()(int tile) const {
    return make_float4(pairs[tile].x, pairs[tile].y, pairs[tile].x, pairs[tile].y);
  }
};

// Where they are rows, this thread has two.
struct RowNumbers {
  float rows[2];

  __device__ __forceinline__ float4 operator()(int) const { return make_float4(rows[0], rows[0], rows[1], rows[1]); }
};

// Products become weights, in place.
template <int TILES, typename Base>
__device__ __forceinline__ void weigh(float (&p)[TILES][4], const AttentionShape& shape, const Base& base) {
#pragma unroll
  for (int tile = 0; tile < TILES; ++tile) {
    const float4 numbers = base(tile);
#pragma unroll
    for (int i = 0; i < 4; ++i) p[tile][i] = ptx::exp2_approx(fmaf(p[tile][i], shape.scale_log2, -of(numbers, i)));
  }
}

// The same with options: `store(tile, half, low, high)` takes the weights after dropout, `keep` becomes which of them it keeps, and
// those in place are multiplied by the derivative of the capped score. A part of the tile after the other, for want of
// registers. `place`: of the tile's rows, and the columns that exist.
template <typename Element, bool KEYS_ARE_ROWS, int TILES, typename Base, typename Store>
__device__ __forceinline__ void weigh_with_options(float (&p)[TILES][4], uint32_t (&keep)[KEEP_WORDS<TILES>],
                                                   ScorePlace<KEYS_ARE_ROWS> place, int first_column,
                                                   const AttentionBackwardParams& params, uint32_t sequence,
                                                   const KeyBand& band, bool is_full, const Base& base, Store store) {
  const AttentionShape& shape = params.shape;
  constexpr int PART = 2;
  static_assert(TILES % PART == 0, "whole parts");
#pragma unroll
  for (int first = 0; first < TILES; first += PART) {
    float(&part)[PART][4] = reinterpret_cast<float(&)[PART][4]>(p[first]);
    float derivative[PART][4];
#pragma unroll
    for (int tile = 0; tile < PART; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) derivative[tile][i] = 1.0f;
    }
    place.first_column = first_column + 8 * first;
    ScoreOptions<Element>(params, sequence)
        .apply(part, place, band, shape, is_full, [&](int tile, int i, float value) { derivative[tile][i] = value; });
    uint32_t bits = ~0u;
    if (shape.dropout_scale != 0.0f) {
      const Dropout dropout(shape);
      const uint32_t sequence_head[2] = {sequence * shape.heads_q + place.head[0],
                                         sequence * shape.heads_q + place.head[1]};
      bits = 0;
#pragma unroll 1
      for (int tile = 0; tile < PART; ++tile) {
        const int column = place.first_column + 8 * tile;
        if constexpr (KEYS_ARE_ROWS) {
          bits |= dropout.keep_columns(place.row[0] - fragment::row(0), column, sequence_head[0]) << (4 * tile);
        } else {
          bits |= dropout.keep_rows(column, place.row, sequence_head) << (4 * tile);
        }
      }
    }
    uint32_t& word = keep[first / 8];
    word = first % 8 == 0 ? bits : word | bits << (4 * (first % 8));
#pragma unroll
    for (int tile = 0; tile < PART; ++tile) {
      const float4 numbers = base(first + tile);
#pragma unroll
      for (int i = 0; i < 4; ++i) part[tile][i] = ptx::exp2_approx(part[tile][i] - of(numbers, i));
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t pair = bits >> (4 * tile + 2 * half);
        store(first + tile, half, pair & 1 ? part[tile][2 * half] : 0.0f, pair & 2 ? part[tile][2 * half + 1] : 0.0f);
      }
      // Selected: the derivative of a hidden score may be NaN.
#pragma unroll
      for (int i = 0; i < 4; ++i) part[tile][i] = part[tile][i] == 0.0f ? 0.0f : part[tile][i] * derivative[tile][i];
    }
  }
}

// Weights and products become gradients of the scores, as operand of the next product. `weights(tile)` are those in place, as a
// float4.
template <bool GENERAL, typename Element, int TILES, typename GetWeights, typename Delta>
__device__ __forceinline__ void differentiate(GetWeights weights, const float (&dp)[TILES][4],
                                              Weights<Element, TILES>& gradients,
                                              const uint32_t (&keep)[KEEP_WORDS<TILES>], const AttentionShape& shape,
                                              const Delta& delta) {
  const float kept_scale = shape.dropout_scale != 0.0f ? shape.dropout_scale : 1.0f;
#pragma unroll
  for (int tile = 0; tile < TILES; ++tile) {
    const float4 numbers = delta(tile);
    const float4 p = weights(tile);
    float gradient[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (GENERAL) {
        const float kept = keep[tile / 8] >> (4 * (tile % 8) + i) & 1 ? dp[tile][i] * kept_scale : 0.0f;
        gradient[i] = score_gradient(of(p, i), kept, of(numbers, i), 1.0f);
      } else {
        gradient[i] = of(p, i) * (dp[tile][i] - of(numbers, i));
      }
    }
    gradients.set(tile, 0, gradient[0], gradient[1]);
    gradients.set(tile, 1, gradient[2], gradient[3]);
  }
}

// Without options: what has no weight has no gradient, whatever the hidden values hold. Where nothing is hidden, that follows by
// itself.
template <int TILES, typename GetWeights>
__device__ __forceinline__ void drop_products(GetWeights weights, float (&dp)[TILES][4]) {
#pragma unroll
  for (int tile = 0; tile < TILES; ++tile) {
    const float4 p = weights(tile);
#pragma unroll
    for (int i = 0; i < 4; ++i) dp[tile][i] = of(p, i) == 0.0f ? 0.0f : dp[tile][i];
  }
}

// Weights in registers.
template <int TILES>
struct HeldWeights {
  const float (&p)[TILES][4];

  __device__ __forceinline__ float4 operator()(int tile) const {
    return make_float4(p[tile][0], p[tile][1], p[tile][2], p[tile][3]);
  }
};

}  // namespace warpfold
