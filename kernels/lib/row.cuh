// Rows of any length and alignment in aligned 16-byte accesses.
//
// A row is cut at 16-byte boundaries into slots; the first and the last may be partial:
//
//   address   ...16       32       48       64...
//   row           |..x x x|x x x x|x x x x|x x . .|
//   slot              0        1       2       3
//
// Whole slots move with one access, partial ones element by element, so no row is slow as a whole. `phase` is the number
// of missing elements in slot 0. Where the output's phase is another one, its elements are stored one by one.
#pragma once

#include "lib/pack.cuh"
#include "lib/params.h"

namespace warpfold {

// Where row `row` starts, in bytes.
__device__ __forceinline__ int64_t row_offset(const RowStrides& strides, uint32_t n1, uint32_t n2, uint32_t row) {
  return row / n2 / n1 * strides.s0 + row / n2 % n1 * strides.s1 + row % n2 * strides.s2;
}

template <typename Element>
struct RowSlots {
  static constexpr int SIZE = VECTOR<Element>;  // elements of a slot

  int phase;
  int columns;

  __device__ __forceinline__ RowSlots(const void* row, int columns)
      : phase(reinterpret_cast<uint64_t>(row) % 16 / sizeof(Element)), columns(columns) {}

  __device__ __forceinline__ int count() const { return (phase + columns + SIZE - 1) / SIZE; }
  // The column of a slot's element 0; negative in a partial slot 0.
  __device__ __forceinline__ int first_column(int slot) const { return slot * SIZE - phase; }
  __device__ __forceinline__ bool is_whole(int slot) const {
    return first_column(slot) >= 0 && first_column(slot) + SIZE <= columns;
  }
  __device__ __forceinline__ bool contains(int slot, int i) const {
    return first_column(slot) + i >= 0 && first_column(slot) + i < columns;
  }

  // The slot's elements of a vector that starts at `row`, of any alignment; those outside the row become `outside`.
  __device__ __forceinline__ void load(const Element* row, int slot, float outside, float (&values)[SIZE]) const {
    const Element* first = row + first_column(slot);
    if (is_whole(slot) && reinterpret_cast<uint64_t>(first) % 16 == 0) {
      const auto vector = *reinterpret_cast<const Vector<Element>*>(first);
#pragma unroll
      for (int i = 0; i < SIZE; ++i) values[i] = to_float(vector.values[i]);
    } else {
#pragma unroll
      for (int i = 0; i < SIZE; ++i) values[i] = contains(slot, i) ? to_float(first[i]) : outside;
    }
  }

  __device__ __forceinline__ void store(Element* row, int slot, const float (&values)[SIZE]) const {
    Element* first = row + first_column(slot);
    if (is_whole(slot) && reinterpret_cast<uint64_t>(first) % 16 == 0) {
      Vector<Element> vector;
#pragma unroll
      for (int i = 0; i < SIZE; ++i) vector.values[i] = from_float<Element>(values[i]);
      *reinterpret_cast<Vector<Element>*>(first) = vector;
    } else {
#pragma unroll
      for (int i = 0; i < SIZE; ++i) {
        if (contains(slot, i)) first[i] = from_float<Element>(values[i]);
      }
    }
  }
};

}  // namespace warpfold
