// Masks of positions as bits, which single instructions turn into predicates (R2P, 7 at a time): a third of the instructions that
// a comparison for each score takes.
#pragma once

#include <math_constants.h>

#include "lib/mask.cuh"
#include "lib/tile.cuh"

namespace warpfold {

// How many of a lane's columns of accumulator tiles, counted from the left, lie before a column, which is counted from the first
// one that the lane has: two in every 8.
__device__ __forceinline__ int columns_before(int end) {
  const int from_first = max(end, 0);
  return from_first / 8 * 2 + min(from_first % 8, 2);
}

// The lowest `count` bits of a word: none below 0, all 32 from 32 on.
__device__ __forceinline__ uint32_t low_bits(int count) { return count >= 32 ? ~0u : (1u << max(count, 0)) - 1; }

// Scores of keys that a row of queries does not see, without a prefix, become -inf. The predicates select, so that a NaN cannot
// pass.
template <int TILES>
__device__ __forceinline__ void hide_by_bits(float (&s)[TILES][4], const int (&query)[2], const KeyBand& band, int first_key) {
  // From column fragment::column(0) on. Worked out anew each time: kept from one tile to the next, that would take a register from
  // the loop.
  const int first_column = first_key + 2 * (ptx::thread_index() % 4);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int first = columns_before(band.first(query[half]) - first_column);
    const int last = columns_before(band.last(query[half]) - first_column);
#pragma unroll
    for (int word = 0; word < (2 * TILES + 31) / 32; ++word) {
      const uint32_t visible = low_bits(last - 32 * word) & ~low_bits(first - 32 * word);
#pragma unroll
      for (int bit = 0; bit < min(32, 2 * TILES - 32 * word); ++bit) {
        float& score = s[(32 * word + bit) / 2][2 * half + bit % 2];
        if ((visible >> bit & 1) == 0) score = -CUDART_INF_F;
      }
    }
  }
}

}  // namespace warpfold
