// What happens to a score between the product of query and key and the softmax: scale, softcap, ALiBi, bias, masks.
//
// Works on accumulator tiles in either orientation: queries as rows (forward, d_q, d_bias) or keys as rows (d_k, d_v). The
// results are in base 2: multiplied by log2(e), -inf where hidden.
#pragma once

#include "lib/mask.cuh"
#include "lib/online_softmax.cuh"
#include "lib/pack.cuh"
#include "lib/tile.cuh"

namespace warpfold {

// tanh from the hardware's exponential and reciprocal: absolute error about 1e-7, so that of a capped score is about 1e-7
// of the cap. (The hardware's own tanh is off by 2^-11.) Saturates without overflow: 2^inf is inf, 1 / inf is 0.
__device__ __forceinline__ float tanh_of(float x, bool exact) {
  if (exact) return tanhf(x);
  return fmaf(-2.0f, ptx::rcp_approx(ptx::exp2_approx(x * (2.0f * LOG2E)) + 1.0f), 1.0f);
}

// Where the rows of a warp's accumulator tile are among queries or keys.
template <bool KEYS_ARE_ROWS>
struct ScorePlace {
  int row[2];         // of this thread's two rows: the query, or the key
  uint32_t head[2];   // the query head of each row
  bool is_valid[2];   // whether a row exists
  int first_column;   // the key, or the query, of the tile's column 0
  int num_columns;    // columns that exist, from column 0 of the sequence on

  __device__ __forceinline__ int query(int tile, int i) const {
    return KEYS_ARE_ROWS ? first_column + 8 * tile + fragment::column(i) : row[i / 2];
  }
  __device__ __forceinline__ int key(int tile, int i) const {
    return KEYS_ARE_ROWS ? row[i / 2] : first_column + 8 * tile + fragment::column(i);
  }
  __device__ __forceinline__ bool exists(int tile, int i) const {
    return is_valid[i / 2] && first_column + 8 * tile + fragment::column(i) < num_columns;
  }
};

// Scores of keys that a row of queries does not see, without a prefix, become -inf. The comparison selects, so that a NaN cannot
// pass.
template <int TILES>
__device__ __forceinline__ void hide_by_position(float (&s_frag)[TILES][4], const int (&query)[2], const KeyBand& band,
                                                 int first_key) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint32_t first = band.first(query[half]) - first_key - fragment::column(0);
    const uint32_t count = max(band.last(query[half]) - band.first(query[half]), 0);
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        // One unsigned comparison for both ends.
        if (8 * tile + i - first >= count) s_frag[tile][2 * half + i] = -CUDART_INF_F;
      }
    }
  }
}

// Weights of a tile whose rows are keys, which the columns' queries do not see, become zero; without a prefix. Queries past the
// sequence's end need not exist.
template <int TILES>
__device__ __forceinline__ void drop_by_position(float (&p_frag)[TILES][4], const int (&key)[2], const KeyBand& band,
                                                 int first_query) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    // Columns [first, last) see the key.
    const int position = key[half] - band.offset - first_query;
    const int first = band.right == KeyBand::UNBOUNDED ? 0 : min(max(position - band.right, 0), 8 * TILES);
    const int last = band.left == KeyBand::UNBOUNDED ? 8 * TILES : min(max(position + band.left + 1, 0), 8 * TILES);
    const bool exists = key[half] >= band.begin && key[half] < band.end;
    const uint32_t count = exists ? max(last - first, 0) : 0;
    const uint32_t first_own = first - fragment::column(0);
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        // One unsigned comparison for both ends.
        if (8 * tile + i - first_own >= count) p_frag[tile][2 * half + i] = 0.0f;
      }
    }
  }
}

// The options of a problem, for one sequence.
template <typename Element>
struct ScoreOptions {
  static constexpr bool EXACT = sizeof(Element) == 4;

  const char* bias;  // of the sequence, or null
  const char* mask;
  const float* slopes;

  template <typename Params>
  __device__ __forceinline__ ScoreOptions(const Params& params, uint32_t batch_idx)
      : bias(nullptr), mask(nullptr), slopes(nullptr) {
    const AttentionShape& shape = params.shape;
    if (params.bias != 0) bias = reinterpret_cast<const char*>(params.bias) + batch_idx * shape.bias_strides.batch;
    if (params.mask != 0) mask = reinterpret_cast<const char*>(params.mask) + batch_idx * shape.mask_strides.batch;
    if (params.alibi_slopes != 0) {
      slopes = reinterpret_cast<const float*>(params.alibi_slopes) + batch_idx * shape.slopes_batch;
    }
  }

  // Whether a score needs more than its scale.
  __device__ __forceinline__ bool any(const AttentionShape& shape) const {
    return bias != nullptr || mask != nullptr || slopes != nullptr || shape.softcap != 0.0f ||
           shape.dropout_scale != 0.0f;
  }

  // Products to scores in base 2. With softcap, `derivative` becomes that of the capped score by the score, else nothing is
  // written to it. `is_full`: the mask of positions hides nothing here.
  template <bool KEYS_ARE_ROWS, int TILES, typename Derivative>
  __device__ __forceinline__ void apply(float (&s_frag)[TILES][4], const ScorePlace<KEYS_ARE_ROWS>& place,
                                        const KeyBand& band, const AttentionShape& shape, bool is_full,
                                        Derivative derivative) const {
    if (shape.softcap != 0.0f) {
      const float inverse = shape.scale * ptx::rcp_approx(shape.softcap);
      const float cap_log2 = shape.softcap * LOG2E;
#pragma unroll
      for (int tile = 0; tile < TILES; ++tile) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float capped = tanh_of(s_frag[tile][i] * inverse, EXACT);
          derivative(tile, i, fmaf(-capped, capped, 1.0f));
          s_frag[tile][i] = capped * cap_log2;
        }
      }
    } else {
#pragma unroll
      for (int tile = 0; tile < TILES; ++tile) {
#pragma unroll
        for (int i = 0; i < 4; ++i) s_frag[tile][i] *= shape.scale_log2;
      }
    }
    if (slopes != nullptr) {
      const float slope_log2[2] = {slopes[place.head[0]] * LOG2E, slopes[place.head[1]] * LOG2E};
#pragma unroll
      for (int tile = 0; tile < TILES; ++tile) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int distance = place.query(tile, i) + band.offset - place.key(tile, i);
          s_frag[tile][i] = fmaf(-slope_log2[i / 2], static_cast<float>(abs(distance)), s_frag[tile][i]);
        }
      }
    }
    if (bias != nullptr) {
#pragma unroll
      for (int tile = 0; tile < TILES; ++tile) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (place.exists(tile, i)) {
            const char* element = at(bias, shape.bias_strides, place, tile, i);
            s_frag[tile][i] = fmaf(to_float(*reinterpret_cast<const Element*>(element)), LOG2E, s_frag[tile][i]);
          }
        }
      }
    }
    if (mask != nullptr) {
#pragma unroll
      for (int tile = 0; tile < TILES; ++tile) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (place.exists(tile, i) && *at(mask, shape.mask_strides, place, tile, i) == 0) {
            s_frag[tile][i] = -CUDART_INF_F;
          }
        }
      }
    }
    if (!is_full) hide(s_frag, place, band);
  }

  // Scores that the positions hide become -inf. The comparison selects, so that a NaN cannot pass.
  template <bool KEYS_ARE_ROWS, int TILES>
  static __device__ __forceinline__ void hide(float (&s_frag)[TILES][4], const ScorePlace<KEYS_ARE_ROWS>& place,
                                              const KeyBand& band) {
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const bool is_visible = place.exists(tile, i) && band.is_visible(place.query(tile, i), place.key(tile, i));
        if (!is_visible) s_frag[tile][i] = -CUDART_INF_F;
      }
    }
  }

 private:
  template <bool KEYS_ARE_ROWS>
  static __device__ __forceinline__ const char* at(const char* tensor, const ScoreStrides& strides,
                                                   const ScorePlace<KEYS_ARE_ROWS>& place, int tile, int i) {
    return tensor + place.head[i / 2] * strides.head + place.query(tile, i) * strides.query +
           place.key(tile, i) * strides.key;
  }
};

}  // namespace warpfold
