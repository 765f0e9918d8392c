// Dropout: the random numbers of Philox 4x32-10 (Salmon et al. 2011) and where they lie in accumulator fragments.
//
// Norms: key (seed), counter (column / 4, row, 0, offset), word column % 4.
// Attention: four neighbouring keys of a query share one call: key (seed), counter (key / 4, query, sequence * heads_q + head, offset),
// word key % 4. A weight is kept iff its word is at least floor(probability * 2^32).
#pragma once

#include "lib/params.h"
#include "lib/tile.cuh"

namespace warpfold {

struct Dropout {
  uint64_t seed;
  uint32_t offset;
  uint32_t below;

  __device__ __forceinline__ Dropout(const AttentionShape& shape)
      : seed(shape.dropout_seed), offset(shape.dropout_offset), below(shape.dropout_below) {}

  __device__ __forceinline__ Dropout(const DropoutParams& params)
      : seed(params.seed), offset(params.offset), below(params.below) {}

  // Bit i: whether the weight of key 4 * key_group + i is kept.
  __device__ __forceinline__ uint32_t keep_four(uint32_t key_group, uint32_t query, uint32_t sequence_head) const {
    uint32_t key_0 = static_cast<uint32_t>(seed);
    uint32_t key_1 = static_cast<uint32_t>(seed >> 32);
    uint32_t c_0 = key_group, c_1 = query, c_2 = sequence_head, c_3 = offset;
#pragma unroll
    for (int round = 0; round < 10; ++round) {
      const uint32_t high_0 = __umulhi(0xD2511F53u, c_0), low_0 = 0xD2511F53u * c_0;
      const uint32_t high_1 = __umulhi(0xCD9E8D57u, c_2), low_1 = 0xCD9E8D57u * c_2;
      c_0 = high_1 ^ c_1 ^ key_0;
      c_1 = low_1;
      c_2 = high_0 ^ c_3 ^ key_1;
      c_3 = low_0;
      key_0 += 0x9E3779B9u;
      key_1 += 0xBB67AE85u;
    }
    return (c_0 >= below) | (c_1 >= below) << 1 | (c_2 >= below) << 2 | (c_3 >= below) << 3;
  }

  // Bit i: whether column first + i of a norm's row is kept, for N columns.
  template <int N>
  __device__ __forceinline__ uint32_t keep_columns_of_row(int first, uint32_t row) const {
    uint32_t bits = 0;
#pragma unroll
    for (int four = 0; four < N; four += 4) bits |= keep_four(first / 4 + four / 4, row, 0) << four;
    if constexpr (N > 1) {
      if (first % 4 != 0) bits |= keep_four(first / 4 + N / 4, row, 0) << N;
    }
    return bits >> first % 4;
  }

  // The kept weights of an accumulator tile of 16 queries and 8 keys: bit i is accumulator i's. `first_key` is a multiple of
  // 8, `query` and `sequence_head` are those of the thread's two rows.
  //
  // Lanes t and t ^ 1 of a quad hold the same four keys. Even lanes ask for the upper row's, odd ones for the lower row's.
  __device__ __forceinline__ uint32_t keep_rows(int first_key, const int (&query)[2],
                                                const uint32_t (&sequence_head)[2]) const {
    const int lane = fragment::lane();
    const int half = lane % 2;
    const uint32_t four = keep_four(first_key / 4 + lane % 4 / 2, half ? query[1] : query[0],
                                    half ? sequence_head[1] : sequence_head[0]);
    const uint32_t upper = __shfl_sync(0xffffffff, four, lane & ~1) >> lane % 2 * 2;
    const uint32_t lower = __shfl_sync(0xffffffff, four, lane | 1) >> lane % 2 * 2;
    return (upper & 3) | (lower & 3) << 2;
  }

  // The same for a tile of 16 keys and 8 queries: the four lanes whose rows are the keys of a group ask for one of the four
  // (row half, query) pairs each. `first_key` is a multiple of 16.
  __device__ __forceinline__ uint32_t keep_columns(int first_key, int first_query, uint32_t sequence_head) const {
    const int lane = fragment::lane();
    const int row = lane / 4;
    const int pair = row % 4;
    const uint32_t four = keep_four((first_key + 8 * (pair / 2) + row) / 4,
                                    first_query + fragment::column(0) + pair % 2, sequence_head);
    uint32_t bits = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t of_pair = __shfl_sync(0xffffffff, four, (row - pair + i) * 4 + lane % 4);
      bits |= (of_pair >> row % 4 & 1) << i;
    }
    return bits;
  }
};

}  // namespace warpfold
