// Rows of any length and alignment in aligned 16-byte accesses.
//
// A row is cut where a tensor that is written crosses 16-byte boundaries. What lies between two of them is a slot, which
// one thread holds; the few elements before the first slot and after the last one are edges, one for each of the first
// threads (or some, where a row has few threads):
//
//   address   ...16       32       48       64...
//   row           |. . x x|x x x x|x x x x|x . .|      4 elements a slot
//                  edges   slot 0  slot 1  edge
//
// Thread t holds slots t, t + threads, ... The plain kernels take tensors of one type that all lie the same way in memory,
// as tensors without gaps do. The general ones take any: where a tensor's 16-byte boundaries are others, its elements move in
// smaller accesses.
#pragma once

#include <type_traits>

#include "lib/access.cuh"
#include "lib/params.h"

namespace warpfold {

// What a thread works on: a row, or a segment of one.
struct Place {
  uint32_t row;
  uint32_t segment;
  int first_column;
  int columns;  // 0: there is no such row

  // `group_idx` counts the groups of threads that hold a row each.
  __device__ __forceinline__ Place(const RowShape& shape, uint32_t group_idx, uint32_t segment)
      : row(min(group_idx, shape.rows - 1)), segment(segment), first_column(segment * shape.segment_columns) {
    const int rest = static_cast<int>(shape.columns) - first_column;
    columns = group_idx < shape.rows ? min(rest, static_cast<int>(shape.segment_columns)) : 0;
  }

  // The place of a thread in a grid of `rows_per_block` rows a block, or of segments of a row.
  static __device__ __forceinline__ Place of_block(const RowShape& shape, int threads_per_row, int rows_per_block) {
    if (rows_per_block == 1) return Place(shape, blockIdx.x / shape.segments, blockIdx.x % shape.segments);
    return Place(shape, blockIdx.x * rows_per_block + threadIdx.x / threads_per_row, 0);
  }

  // The first element of a tensor's row, or of the segment.
  __device__ __forceinline__ char* address(uint64_t tensor, const RowTensor& rows, const RowShape& shape) const {
    const uint32_t outer = row / shape.n2;
    const int64_t offset = outer / shape.n1 * rows.s0 + outer % shape.n1 * rows.s1 + row % shape.n2 * rows.s2;
    const int64_t column = static_cast<int64_t>(first_column) * rows.column << size_log2(rows.type);
    return reinterpret_cast<char*>(tensor) + offset + column;
  }

  // Where the segment's partial results lie, of `values` numbers each.
  __device__ __forceinline__ float* partials(uint64_t tensor, const RowShape& shape, int values) const {
    return reinterpret_cast<float*>(tensor) + (static_cast<int64_t>(row) * shape.segments + segment) * values;
  }
};

// What a kernel takes: rows of whole slots only; rows that all lie alike; or any, with every option. The values of
// WARPFOLD_FEATURES.
enum RowFeatures { WHOLE_ROWS = 0, PLAIN_ROWS = 1, GENERAL_ROWS = 2 };

template <typename Element_, int THREADS_PER_ROW, int ROWS_PER_BLOCK, int VECTORS, int FEATURES>
struct RowLayout {
  using Element = Element_;
  static constexpr int SLOT = VECTOR<Element>;
  static constexpr bool IS_BLOCK = ROWS_PER_BLOCK == 1;
  static constexpr int LANES = THREADS_PER_ROW < 32 ? THREADS_PER_ROW : 32;
  static constexpr bool GENERAL = FEATURES == GENERAL_ROWS;
  static constexpr int EDGES = FEATURES == WHOLE_ROWS ? 0 : (2 * (SLOT - 1) + THREADS_PER_ROW - 1) / THREADS_PER_ROW;
  static_assert(IS_BLOCK || THREADS_PER_ROW <= 32, "rows that share a block are not longer than a warp");

  // What a thread holds of a row, SIZE things for each slot and one for each edge.
  template <typename T, int SIZE>
  struct Share {
    T slots[VECTORS][SIZE];
    T edges[EDGES > 0 ? EDGES : 1][1];
  };
  // Elements of a part of a share: a slot's, or one.
  template <typename Part>
  static constexpr int COUNT = std::extent_v<std::remove_reference_t<Part>> == 1 ? 1 : SLOT;

  using Words = Share<uint32_t, 4>;
  using Values = Share<float, SLOT>;

  int thread;
  int threads;
  int head;   // edges before the first slot
  int slots;
  int edges;

  // Cuts a row at the 16-byte boundaries of `reference`, its first element in a tensor of the type that `type` names.
  __device__ __forceinline__ RowLayout(const char* reference, uint32_t type, int columns)
      : thread(IS_BLOCK ? threadIdx.x : threadIdx.x % THREADS_PER_ROW),
        threads(IS_BLOCK ? blockDim.x : THREADS_PER_ROW) {
    const uint32_t element = static_cast<uint32_t>(reinterpret_cast<uint64_t>(reference)) >> size_log2(type);
    head = min(static_cast<int>((0 - element) % SLOT), columns);
    slots = (columns - head) / SLOT;
    edges = columns - slots * SLOT;
  }

  // Calls f(column, ...) with every group of neighbouring elements that the thread holds and its parts of some shares.
  template <typename F, typename... Shares>
  __device__ __forceinline__ void for_each(F f, Shares&... shares) const {
#pragma unroll
    for (int v = 0; v < VECTORS; ++v) {
      const int slot = thread + v * threads;
      if (slot < slots) f(head + slot * SLOT, shares.slots[v]...);
    }
#pragma unroll
    for (int e = 0; e < EDGES; ++e) {
      const int edge = thread + e * threads;
      if (edge < edges) f(edge < head ? edge : edge + slots * SLOT, shares.edges[e]...);
    }
  }

  // Loads what the thread holds of a row; is_wanted(column, N) says whether a group of N columns is needed.
  template <typename F>
  __device__ __forceinline__ void load_if(const char* row, uint32_t type, Words& words, F is_wanted) const {
    with_row_type(type, [&](auto zero) {
      for_each(
          [&](int column, auto& into) {
            constexpr int N = COUNT<decltype(into)>;
            if (is_wanted(column, N)) load_as<N>(reinterpret_cast<const decltype(zero)*>(row) + column, into);
          },
          words);
    });
    // No thread needs another's elements: this keeps ptxas from moving a load down to its first use, behind the wait for
    // the one before it.
    __syncwarp();
  }

  __device__ __forceinline__ void load(const char* row, uint32_t type, Words& words) const {
    load_if(row, type, words, [](int, int) { return true; });
  }

  // Loads a row's first element.
  __device__ __forceinline__ void load_first(const char* row, uint32_t type, uint32_t (&word)[1]) const {
    with_row_type(type, [&](auto zero) { load_as<1>(reinterpret_cast<const decltype(zero)*>(row), word); });
  }

  // Elements column, column + 1, ... of a tensor that may lie in memory unlike the others: a weight.
  template <int N>
  static __device__ __forceinline__ void load_columns(const char* row, uint32_t type, int column, float (&values)[N]) {
    with_any_type(type, [&](auto zero) {
      using Stored = decltype(zero);
      uint32_t words[WORDS_OF<Stored, N>];
      load_words<false>(reinterpret_cast<const Stored*>(row) + column, words);
      unpack<Stored>(words, values);
    });
  }

  // Stores elements column, column + 1, ...; IS_REFERENCE: of the tensor at whose boundaries rows are cut.
  template <bool IS_REFERENCE, int N>
  static __device__ __forceinline__ void store(char* row, uint32_t type, int column, const float (&values)[N]) {
    with_any_type(type, [&](auto zero) {
      using Stored = decltype(zero);
      uint32_t words[WORDS_OF<Stored, N>];
      pack<Stored>(values, words);
      store_words<IS_REFERENCE || !GENERAL>(reinterpret_cast<Stored*>(row) + column, words);
    });
  }

 private:
  // Any tensor's type.
  template <typename F>
  static __device__ __forceinline__ void with_any_type(uint32_t type, F f) {
    if constexpr (GENERAL) {
      with_type<Element>(type, f);
    } else {
      f(Element());
    }
  }

  // The type of a row that is loaded: a kernel of a 16-bit type takes no other.
  template <typename F>
  static __device__ __forceinline__ void with_row_type(uint32_t type, F f) {
    if constexpr (GENERAL && sizeof(Element) == 4) {
      with_type<Element>(type, f);
    } else {
      f(Element());
    }
  }

  template <int N, typename Stored, int WORDS>
  static __device__ __forceinline__ void load_as(const Stored* first, uint32_t (&words)[WORDS]) {
    if constexpr (sizeof(Stored) == sizeof(Element)) {
      load_words<!GENERAL>(first, words);
    } else {
      uint32_t stored[WORDS_OF<Stored, N>];
      load_words<!GENERAL>(first, stored);
      float values[N];
      unpack<Stored>(stored, values);
      pack<Element>(values, words);
    }
  }
};

}  // namespace warpfold
