// Which keys a query sees: keys [begin, prefix), and of [prefix, end) the window around the query's position.
//
//   key        0  begin      prefix                                 end   len_kv
//   query i    .  . 1 1 1 1 1 . . . 1 1 1 1 1 1 1 1 1 . . . . . . . . . . .
//                             position(i) - left ... position(i) + right
//
// src/attention/mask.rs has the same bounds for plans and the CPU.
#pragma once

#include "lib/params.h"

namespace warpfold {

__device__ __forceinline__ int ceil_div(int value, int divisor) { return (value + divisor - 1) / divisor; }

struct KeyBand {
  static constexpr int UNBOUNDED = 0x7fffffff;

  int begin;
  int prefix;
  int end;
  int left;
  int right;
  int offset;  // query i sits at position i + offset

  // Of a sequence of len_q queries and len_kv keys, of which the first key_length count. The plan keeps lengths, offset and
  // window below 2^29, 2^29 and 2^30, so that no sum overflows.
  __device__ __forceinline__ KeyBand(const AttentionShape& shape, int len_q, int len_kv, int key_length,
                                     bool with_prefix)
      : left(shape.window_left),
        right(shape.window_right),
        offset(shape.bottom_right != 0 ? len_kv - len_q : shape.offset) {
    end = min(min(len_kv, key_length), shape.key_end);
    begin = min(shape.key_begin, end);
    prefix = with_prefix ? min(max(shape.prefix, begin), end) : begin;
  }

  __device__ __forceinline__ int clamp(int key) const { return min(max(key, prefix), end); }

  // After the prefix, query i sees keys [first(i), last(i)).
  __device__ __forceinline__ int first(int query) const {
    return left == UNBOUNDED ? prefix : clamp(query + offset - left);
  }
  __device__ __forceinline__ int last(int query) const {
    return right == UNBOUNDED ? end : clamp(query + offset + right + 1);
  }

  // Whether queries [first_query, last_query] all see keys [first_key, end_key).
  __device__ __forceinline__ bool is_full(int first_query, int last_query, int first_key, int end_key) const {
    // Where the window starts at the prefix, both are one range.
    const int from = first(last_query) == prefix ? begin : first(last_query);
    const bool in_window = first_key >= from && end_key <= last(first_query);
    return in_window || (first_key >= begin && end_key <= prefix);
  }
  // Whether any of queries [first_query, last_query] sees any of keys [first_key, end_key).
  __device__ __forceinline__ bool any(int first_query, int last_query, int first_key, int end_key) const {
    const bool in_window = max(first_key, first(first_query)) < min(end_key, last(last_query));
    return in_window || max(first_key, begin) < min(end_key, prefix);
  }

  __device__ __forceinline__ bool is_visible(int query, int key) const {
    const bool in_window = key >= first(query) && key < last(query);
    return in_window || (key >= begin && key < prefix);
  }
};

// The key tiles that a block of queries walks, in ascending order.
template <int BLOCK_KV, bool WITH_PREFIX>
struct KeyTiles {
  int start;
  int end;
  // Tiles [full_start, full_end) are visible to every query of the block.
  int full_start;
  int full_end;
  // Between the prefix and the window no query sees anything.
  int gap_start;
  int gap_end;

  // For queries [first_query, last_query].
  __device__ __forceinline__ KeyTiles(const KeyBand& band, int first_query, int last_query) {
    const int window_start = band.first(first_query);
    const int window_end = max(band.last(last_query), window_start);
    // Without a gap, the prefix and the window are one range.
    const int every_start = band.first(last_query) == band.prefix ? band.begin : band.first(last_query);
    full_start = ceil_div(every_start, BLOCK_KV);
    full_end = band.last(first_query) / BLOCK_KV;
    start = window_start / BLOCK_KV;
    end = window_end > window_start ? ceil_div(window_end, BLOCK_KV) : 0;
    gap_start = gap_end = 0;
    if (WITH_PREFIX && band.prefix > band.begin) {
      gap_start = ceil_div(band.prefix, BLOCK_KV);
      gap_end = start;
      start = band.begin / BLOCK_KV;
      end = max(end, gap_start);
    }
  }

  __device__ __forceinline__ int after(int tile) const {
    const int next = tile + 1;
    return WITH_PREFIX && next >= gap_start && next < gap_end ? gap_end : next;
  }
};

// The queries that see any of keys [first_key, end_key).
struct QueryRange {
  int start;
  int end;

  __device__ __forceinline__ QueryRange(const KeyBand& band, int first_key, int end_key, int len_q) {
    const int from = max(first_key, band.begin);
    const int to = min(end_key, band.end);
    const bool is_unbounded_left = from < band.prefix || band.right == KeyBand::UNBOUNDED;
    const bool is_unbounded_right = from < band.prefix || band.left == KeyBand::UNBOUNDED;
    start = is_unbounded_left ? 0 : min(max(from - band.right - band.offset, 0), len_q);
    end = is_unbounded_right ? len_q : min(max(to + band.left - band.offset, 0), len_q);
    if (from >= to) end = start;
  }
};

// The query tiles of each head that a block of keys [first_key, end_key) walks.
template <int BLOCK_Q>
struct QueryTiles {
  int start;
  int end;
  // Every query of tiles [full_start, full_end) sees all of the keys. Queries past the sequence's end do not count.
  int full_start;
  int full_end;

  __device__ __forceinline__ QueryTiles(const KeyBand& band, int first_key, int end_key, int len_q) {
    const QueryRange range(band, first_key, end_key, len_q);
    const int num_tiles = ceil_div(len_q, BLOCK_Q);
    start = range.start / BLOCK_Q;
    end = range.end > range.start ? ceil_div(range.end, BLOCK_Q) : start;
    full_start = full_end = 0;
    if (first_key < band.begin || end_key > band.end) return;
    const bool is_all_prefix = end_key <= band.prefix;
    // The window of queries [full_begin, full_limit) holds all of the keys; so does the prefix, for any query.
    const int full_begin =
        is_all_prefix || band.right == KeyBand::UNBOUNDED ? 0 : max(end_key - band.offset - band.right - 1, 0);
    const int full_limit =
        is_all_prefix || band.left == KeyBand::UNBOUNDED ? len_q : max(first_key - band.offset + band.left + 1, 0);
    full_start = ceil_div(full_begin, BLOCK_Q);
    full_end = full_limit >= len_q ? num_tiles : full_limit / BLOCK_Q;
  }
};

}  // namespace warpfold
