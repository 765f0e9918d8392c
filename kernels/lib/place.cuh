// Which part of an attention problem a block computes: fixed-length and packed sequences, one schedule for both.
//
// Blocks that own query rows. Late queries see the most keys under a causal mask; their blocks start first, so that the
// grid's tail is short. The keys of as many (sequence, head) pairs as fit the L2 cache are worked on together:
//
//   fixed    block = (section, row block, pair in the section); row blocks descend in the last section, ascend in the one before,
//            and so on, so that neighbours of the whole line take about as long
//   packed   block = (row block of a sequence, head); sequences from the longest on, the row blocks of every other one ascend
//
// A tile's rows are queries of one query head, or, where there are few queries, of all query heads of one key head: row r is
// query r / packed_heads of head r % packed_heads.
#pragma once

#include "lib/mask.cuh"
#include "lib/params.h"
#include "lib/ptx.cuh"

namespace warpfold {

// Whether a section of (sequence, head) pairs begins at its other end.
__device__ __forceinline__ bool is_reversed(uint32_t section_start, uint32_t section, uint32_t num_pairs) {
  return (ceil_div(num_pairs, section) - 1 - section_start / section) % 2 == 1;
}

// A sequence, found by the number of a block.
struct Sequence {
  uint32_t idx;
  int block;       // the block among the sequence's; -1: the number is past the last sequence
  int num_blocks;
  int first_query; // row of its first query in the packed tensors
  int first_key;
  int len_q;
  int len_kv;
};

__device__ __forceinline__ int warp_sum(int value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffff, value, distance);
  return value;
}

// A length that nobody may have checked: wrong ones must give wrong numbers at worst, never a stray access.
__device__ __forceinline__ int checked_length(const int* lengths, uint32_t idx, int limit) {
  return min(max(lengths[idx], 0), limit);
}

// Finds the block's sequence: every sequence has ceil(length * rows_each / BLOCK) blocks, where length is that of its queries
// (or of its keys). Each warp works this out for itself.
template <int BLOCK, bool OF_KEYS, typename Params>
__device__ __forceinline__ Sequence find_sequence(const Params& params, int block, int rows_each) {
  const AttentionShape& shape = params.shape;
  const int* len_q = reinterpret_cast<const int*>(params.query_lengths);
  const int* len_kv = reinterpret_cast<const int*>(params.key_lengths);
  const int* order = reinterpret_cast<const int*>(params.order);
  const uint32_t lane = ptx::thread_index() % 32;

  Sequence sequence = {0, -1, 0, 0, 0, 0, 0};
  int before = 0;
#pragma unroll 1
  for (uint32_t first = 0; first < shape.batch && sequence.block < 0; first += 32) {
    const uint32_t rank = first + lane;
    const bool exists = rank < shape.batch;
    const uint32_t idx = exists && order != nullptr ? min(static_cast<uint32_t>(order[rank]), shape.batch - 1) : rank;
    const int length = !exists   ? 0
                       : OF_KEYS ? checked_length(len_kv, idx, shape.len_kv)
                                 : checked_length(len_q, idx, shape.len_q);
    const int num_blocks = ceil_div(length * rows_each, BLOCK);
    int up_to = num_blocks;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const int other = __shfl_up_sync(0xffffffff, up_to, distance);
      if (lane >= distance) up_to += other;
    }
    const uint32_t reached = __ballot_sync(0xffffffff, block < before + up_to);
    if (reached != 0) {
      const int owner = __ffs(reached) - 1;
      sequence.idx = __shfl_sync(0xffffffff, idx, owner);
      sequence.num_blocks = __shfl_sync(0xffffffff, num_blocks, owner);
      sequence.block = block - before - __shfl_sync(0xffffffff, up_to - num_blocks, owner);
      if ((shape.batch - 1 - first - owner) % 2 == 1) sequence.block = sequence.num_blocks - 1 - sequence.block;
    }
    before += __shfl_sync(0xffffffff, up_to, 31);
  }
  if (sequence.block < 0) return sequence;

  // The lengths of all sequences before it.
  int first_query = 0, first_key = 0;
#pragma unroll 1
  for (uint32_t idx = lane; idx < sequence.idx; idx += 32) {
    first_query += checked_length(len_q, idx, shape.len_q);
    first_key += checked_length(len_kv, idx, shape.len_kv);
  }
  sequence.first_query = min(warp_sum(first_query), shape.len_q);
  sequence.first_key = min(warp_sum(first_key), shape.len_kv);
  sequence.len_q = checked_length(len_q, sequence.idx, shape.len_q - sequence.first_query);
  sequence.len_kv = checked_length(len_kv, sequence.idx, shape.len_kv - sequence.first_key);
  return sequence;
}

// The row of a head of a tensor. The sequence's offset is a row of the tensor, or an entry of its batch dimension.
__device__ __forceinline__ char* row_address(uint64_t address, const HeadStrides& strides, uint32_t batch_idx,
                                             uint32_t head_idx, int row) {
  return reinterpret_cast<char*>(address) + batch_idx * strides.batch + head_idx * strides.head + row * strides.row;
}

// The place of the block of work `block_idx`, which owns BLOCK_Q query rows.
template <int BLOCK_Q>
struct QueryPlace {
  uint32_t sequence;      // indexes lengths, biases and random numbers
  uint32_t tensor_batch;  // of q, k and v: the sequence, or 0 where sequences are packed
  uint32_t first_head;    // query head of row 0 of the tile
  int first_row;          // of the tile, counted in rows of the sequence
  int num_rows;           // of the tile; 0: nothing to do
  int first_query;        // row of the sequence's query 0 in the tensors
  int first_key;
  int len_q;
  int len_kv;
  int key_length;         // how many of len_kv keys count

  template <typename Params>
  __device__ __forceinline__ QueryPlace(const Params& params, uint32_t block_idx = ptx::block_index()) {
    const AttentionShape& shape = params.shape;
    const uint32_t heads = shape.heads_q / shape.packed_heads;
    int block, num_blocks;
    if (params.query_lengths != 0) {
      const Sequence found = find_sequence<BLOCK_Q, false>(params, block_idx / heads, shape.packed_heads);
      sequence = found.idx;
      tensor_batch = 0;
      first_head = block_idx % heads * shape.packed_heads;
      first_query = found.first_query;
      first_key = found.first_key;
      len_q = found.len_q;
      len_kv = key_length = found.len_kv;
      block = found.block;
      num_blocks = found.num_blocks;
    } else {
      const uint32_t section_blocks = shape.section * shape.blocks;
      const uint32_t section_start = block_idx / section_blocks * shape.section;
      const uint32_t pairs = min(shape.section, heads * shape.batch - section_start);
      const uint32_t in_section = block_idx % section_blocks;
      const uint32_t pair = section_start + in_section % pairs;
      sequence = tensor_batch = pair / heads;
      first_head = pair % heads * shape.packed_heads;
      first_query = first_key = 0;
      len_q = shape.len_q;
      len_kv = shape.len_kv;
      key_length = params.key_lengths == 0
                       ? len_kv
                       : checked_length(reinterpret_cast<const int*>(params.key_lengths), sequence, len_kv);
      block = in_section / pairs;
      num_blocks = shape.blocks;
      if (is_reversed(section_start, shape.section, heads * shape.batch)) block = num_blocks - 1 - block;
    }
    first_row = (num_blocks - 1 - block) * BLOCK_Q;
    num_rows = block < 0 ? 0 : min(BLOCK_Q, len_q * static_cast<int>(shape.packed_heads) - first_row);
  }

  // The query and the head of a row of the tile.
  __device__ __forceinline__ int query(const AttentionShape& shape, int row) const {
    return shape.packed_heads == 1 ? first_row + row : (first_row + row) / static_cast<int>(shape.packed_heads);
  }
  __device__ __forceinline__ uint32_t head(const AttentionShape& shape, int row) const {
    return shape.packed_heads == 1 ? first_head : first_head + (first_row + row) % shape.packed_heads;
  }

  // A row of the tile in a tensor like q.
  __device__ __forceinline__ char* row(const AttentionShape& shape, uint64_t address, const HeadStrides& strides,
                                       int row) const {
    return row_address(address, strides, tensor_batch, head(shape, row), first_query + query(shape, row));
  }
  // The sequence's first row of a tensor like k.
  __device__ __forceinline__ char* keys(const AttentionShape& shape, uint64_t address, const HeadStrides& strides) const {
    return row_address(address, strides, tensor_batch, first_head / shape.heads_per_kv, first_key);
  }
  // Where the numbers of a row of the tile are in a tensor like lse.
  __device__ __forceinline__ int64_t stat(const AttentionShape& shape, int row) const {
    return tensor_batch * shape.lse_batch + head(shape, row) * shape.lse_head + first_query + query(shape, row);
  }
};

// The place of the block of work `block_idx`, which owns BLOCK_KV keys of one key head. Early keys are seen by the most queries and start first.
template <int BLOCK_KV>
struct KeyPlace {
  uint32_t sequence;
  uint32_t tensor_batch;
  uint32_t kv_head;
  int first_row;    // the sequence's key that row 0 of the tile is
  int num_rows;     // of the tile; 0: nothing to do
  int first_query;  // row of the sequence's query 0 in the tensors
  int first_key;
  int len_q;
  int len_kv;
  int key_length;   // how many of len_kv keys count

  template <typename Params>
  __device__ __forceinline__ KeyPlace(const Params& params, uint32_t block_idx = ptx::block_index()) {
    const AttentionShape& shape = params.shape;
    // Worked out again for every block, with what a division by it needs: a warp that plans has few registers.
    uint32_t heads = shape.heads_q;
    ptx::forget(heads);
    heads /= shape.heads_per_kv;
    uint32_t section_blocks = shape.section * shape.blocks;
    ptx::forget(section_blocks);
    int block;
    if (params.query_lengths != 0) {
      const Sequence found = find_sequence<BLOCK_KV, true>(params, block_idx / heads, 1);
      sequence = found.idx;
      tensor_batch = 0;
      kv_head = block_idx % heads;
      first_query = found.first_query;
      first_key = found.first_key;
      len_q = found.len_q;
      len_kv = key_length = found.len_kv;
      block = found.block;
    } else {
      const uint32_t section_start = block_idx / section_blocks * shape.section;
      const uint32_t pairs = min(shape.section, heads * shape.batch - section_start);
      const uint32_t in_section = block_idx % section_blocks;
      const uint32_t pair = section_start + in_section % pairs;
      sequence = tensor_batch = pair / heads;
      kv_head = pair % heads;
      first_query = first_key = 0;
      len_q = shape.len_q;
      len_kv = shape.len_kv;
      key_length = params.key_lengths == 0
                       ? len_kv
                       : checked_length(reinterpret_cast<const int*>(params.key_lengths), sequence, len_kv);
      block = in_section / pairs;
      if (is_reversed(section_start, shape.section, heads * shape.batch)) block = shape.blocks - 1 - block;
    }
    first_row = block * BLOCK_KV;
    num_rows = block < 0 ? 0 : min(BLOCK_KV, len_kv - first_row);
  }

  // A row of the tile in a tensor like k.
  __device__ __forceinline__ char* key(uint64_t address, const HeadStrides& strides, int row) const {
    return row_address(address, strides, tensor_batch, kv_head, first_key + first_row + row);
  }
  // A query of a head in a tensor like q.
  __device__ __forceinline__ char* query(uint64_t address, const HeadStrides& strides, uint32_t head, int query) const {
    return row_address(address, strides, tensor_batch, head, first_query + query);
  }
  __device__ __forceinline__ int64_t stat(const AttentionShape& shape, uint32_t head, int query) const {
    return tensor_batch * shape.lse_batch + head * shape.lse_head + first_query + query;
  }
};

}  // namespace warpfold
