// Tiles of rows in shared memory, swizzled in 16-byte chunks, and the lanes' places in tensor-core fragments.
#pragma once

#include "lib/pack.cuh"

namespace warpfold {

// A tile of ROWS rows of COLUMNS elements of 2 or 4 bytes, without gaps between rows.
//
// ldmatrix reads the same chunk of 8 consecutive rows at once, so these 8 chunks must lie in different banks (8 groups of
// 16 bytes span all 32). A row of CHUNKS chunks moves the bank group by that number modulo 8:
//
//   rows of a multiple of 128 bytes stay in their group: chunk c of row r goes to place c ^ (r & 7)
//   rows of an odd multiple of 64 bytes alternate:       chunk c of row r goes to place c ^ ((r >> 1) & 3)
//
//   128-byte rows, where chunk 0..7 of each row lies:      64-byte rows, two of which share 128 bytes:
//     row 0   0 1 2 3 4 5 6 7                                row 0, 1   0 1 2 3 | 0 1 2 3
//     row 1   1 0 3 2 5 4 7 6                                row 2, 3   1 0 3 2 | 1 0 3 2
//     row 2   2 3 0 1 6 7 4 5                                row 4, 5   2 3 0 1 | 2 3 0 1
//     ...                                                    row 6, 7   3 2 1 0 | 3 2 1 0
template <int ROWS, int COLUMNS, int ELEMENT_BYTES = 2>
struct SwizzledTile {
  static constexpr int CHUNK_ELEMENTS = 16 / ELEMENT_BYTES;
  static constexpr int CHUNKS = COLUMNS / CHUNK_ELEMENTS;
  static constexpr int ROW_BYTES = COLUMNS * ELEMENT_BYTES;
  static constexpr int BYTES = ROWS * ROW_BYTES;
  // Chunks among which the swizzle moves.
  static constexpr int PERIOD = CHUNKS % 8 == 0 ? 8 : 4;
  static_assert(CHUNKS % PERIOD == 0, "rows are multiples of 64 bytes");

  // What row r's chunk numbers are XORed with.
  static __device__ __forceinline__ uint32_t mask(uint32_t row) { return PERIOD == 8 ? row & 7 : (row >> 1) & 3; }

  // Byte offset of a chunk in the tile.
  static __device__ __forceinline__ uint32_t offset(uint32_t row, uint32_t chunk) {
    return row * ROW_BYTES + ((chunk ^ mask(row)) << 4);
  }

  // ldmatrix walks pairs of chunks (16 columns) of a fixed row. XOR is associative, so the pair number can be applied
  // to the lane's offset of pair 0: below PERIOD by an XOR of the address bits, above it by an addition.
  static __device__ __forceinline__ uint32_t pair_address(uint32_t lane_address, int pair) {
    constexpr int PAIRS = PERIOD / 2;
    return (lane_address ^ ((pair % PAIRS) << 5)) + (pair / PAIRS) * PERIOD * 16;
  }
};

// Tensor-core fragments of mma.m16n8k16. With g = lane / 4 and t = lane % 4 (PTX ISA 9.7.14.5.8):
//
//   accumulator i of 4:  row g + 8 * (i / 2), column 2 * t + i % 2
//
//             columns 0 1   2 3   4 5   6 7
//     row 0       lane 0    1     2     3       registers 0 1
//     ...
//     row 7       lane 28   29    30    31      registers 0 1
//     row 8       lane 0    1     2     3       registers 2 3
namespace fragment {

__device__ __forceinline__ int lane() { return threadIdx.x % 32; }
// Row of accumulators {0, 1} (half 0) and {2, 3} (half 1) in a 16-row tile.
__device__ __forceinline__ int row(int half) { return lane() / 4 + 8 * half; }
// Column of accumulator i in an 8-column tile.
__device__ __forceinline__ int column(int i) { return 2 * (lane() % 4) + i % 2; }

// Where each lane points ldmatrix.x4, as (row, chunk) in a 16 x 16 block: lanes 8 q to 8 q + 7 address matrix q.
// Operand A (row-major), and operand B that is stored k-major and read with .trans:
//   matrix 0: rows 0-7, chunk 0;  1: rows 8-15, chunk 0;  2: rows 0-7, chunk 1;  3: rows 8-15, chunk 1
__device__ __forceinline__ int a_row() { return lane() % 16; }
__device__ __forceinline__ int a_chunk() { return lane() / 16; }
// Operand B stored n-major (16 rows of n, two fragments):
//   matrix 0: rows 0-7, chunk 0;  1: rows 0-7, chunk 1;  2: rows 8-15, chunk 0;  3: rows 8-15, chunk 1
__device__ __forceinline__ int b_row() { return lane() % 8 + lane() / 16 * 8; }
__device__ __forceinline__ int b_chunk() { return lane() / 8 % 2; }

}  // namespace fragment

// One thread's part in copying one tile of ROWS rows after the other from strided global memory into shared memory.
//
// Neighbouring threads copy neighbouring 16-byte chunks of a row, and each pass moves a multiple of 8 rows, so that a
// thread's chunks of all passes have one swizzle mask: their shared addresses differ by constants.
template <typename Tile, int ROWS, int THREADS>
struct TileCopy {
  static constexpr int UNIT = 8 * Tile::CHUNKS;
  static_assert(THREADS >= UNIT, "a pass moves at least 8 rows");
  static constexpr int COPIERS = THREADS / UNIT * UNIT;  // the other threads copy nothing
  static constexpr int PASS_ROWS = COPIERS / Tile::CHUNKS;
  static_assert(ROWS % PASS_ROWS == 0, "tiles are whole passes");

  uint32_t address_smem;  // of the first pass's chunk in the tile
  const char* source;     // of the first pass's chunk in the next tile
  int64_t pass_bytes;     // distance of two passes in global memory

  // Tiles from row `first_row` of the source on.
  __device__ __forceinline__ TileCopy(const char* tile_smem, const char* source_gmem, int64_t row_stride, int first_row)
      : address_smem(ptx::shared_address(tile_smem) +
                     Tile::offset(threadIdx.x / Tile::CHUNKS, threadIdx.x % Tile::CHUNKS)),
        source(source_gmem + (first_row + static_cast<int>(threadIdx.x / Tile::CHUNKS)) * row_stride +
               threadIdx.x % Tile::CHUNKS * 16),
        pass_bytes(row_stride * PASS_ROWS) {
    // Worked out once, not again for every tile.
    ptx::forget(address_smem);
    ptx::forget(pass_bytes);
  }

  // Starts copying the next tile. Of its rows from this thread's on, the first `rows_left` exist; the others become zero.
  __device__ __forceinline__ void start(int rows_left) {
#pragma unroll
    for (int pass = 0; pass < ROWS / PASS_ROWS; ++pass) copy(pass, pass * PASS_ROWS < rows_left ? 16 : 0);
  }

  // The same where the first `rows_skipped` rows become zero too.
  __device__ __forceinline__ void start_between(int rows_skipped, int rows_left) {
#pragma unroll
    for (int pass = 0; pass < ROWS / PASS_ROWS; ++pass) {
      const int row = pass * PASS_ROWS;
      copy(pass, row >= rows_skipped && row < rows_left ? 16 : 0);
    }
  }

  // The same for a tile all of whose rows exist.
  __device__ __forceinline__ void start_whole() {
#pragma unroll
    for (int pass = 0; pass < ROWS / PASS_ROWS; ++pass) copy(pass, 16);
  }

  // This thread's row of the tile.
  static __device__ __forceinline__ int row() { return threadIdx.x / Tile::CHUNKS; }

 private:
  __device__ __forceinline__ void copy(int pass, uint32_t bytes) {
    if (COPIERS == THREADS || threadIdx.x < COPIERS) {
      ptx::cp_async_16(address_smem + pass * PASS_ROWS * Tile::ROW_BYTES, source, bytes);
    }
    source += pass_bytes;
    // One addition a pass, not multiples of the distance from the first one.
    ptx::forget(source);
  }
};

// Copies rows of any place in global memory into a tile, all of the block's threads together: `row_gmem(row)` is where row
// `row` starts. Rows before first_row and from num_rows on, and columns from `columns` on (a multiple of a chunk), become
// zero. Aligned rows are copied asynchronously, others are complete on return.
template <typename Tile, int ROWS, int THREADS, typename Element, typename RowAddress>
__device__ __forceinline__ void copy_rows(char* tile_smem, int first_row, int num_rows, int columns, bool aligned,
                                          RowAddress row_gmem) {
  static_assert(sizeof(Element) * Tile::CHUNK_ELEMENTS == 16, "a chunk is one 16-byte access");
  const uint32_t tile_address = ptx::shared_address(tile_smem);
#pragma unroll 4
  for (int index = threadIdx.x; index < ROWS * Tile::CHUNKS; index += THREADS) {
    const int row = index / Tile::CHUNKS;
    const int chunk = index % Tile::CHUNKS;
    const bool exists = row >= first_row && row < num_rows && chunk * Tile::CHUNK_ELEMENTS < columns;
    const char* source = row_gmem(exists ? row : 0) + (exists ? chunk * 16 : 0);
    if (aligned) {
      ptx::cp_async_16(tile_address + Tile::offset(row, chunk), source, exists ? 16u : 0u);
    } else {
      Vector<Element> vector = {};
      if (exists) {
#pragma unroll
        for (int i = 0; i < VECTOR<Element>; ++i) vector.values[i] = reinterpret_cast<const Element*>(source)[i];
      }
      *reinterpret_cast<Vector<Element>*>(tile_smem + Tile::offset(row, chunk)) = vector;
    }
  }
}

// Writes a warp's accumulators, scaled row by row, to rows of f32 in global memory: rows from `first_row` on, columns from
// `first_column` on. `row_gmem(row)` is where row `row` goes. Rows from num_rows on, and columns from `columns` on, are left
// out.
template <typename Float, bool ANY_ROWS, int ROW_TILES, int TILES, typename RowAddress>
__device__ __forceinline__ void store_rows(const float (&acc)[ROW_TILES][TILES][4], const float (&scale)[ROW_TILES][2],
                                           int first_row, int first_column, int num_rows, int columns, bool aligned,
                                           RowAddress row_gmem) {
#pragma unroll
  for (int t = 0; t < ROW_TILES; ++t) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first_row + 16 * t + fragment::row(half);
      if (row >= num_rows) continue;
      float* target = reinterpret_cast<float*>(row_gmem(row));
#pragma unroll
      for (int tile = 0; tile < TILES; ++tile) {
        const int column = first_column + 8 * tile + fragment::column(0);
        if (ANY_ROWS && column >= columns) continue;
        const float low = acc[t][tile][2 * half] * scale[t][half];
        const float high = acc[t][tile][2 * half + 1] * scale[t][half];
        if (ANY_ROWS && !aligned) {
          target[column] = low;
          target[column + 1] = high;
        } else {
          store_pair(target + column, low, high, 0.0f);
        }
      }
    }
  }
}

// The same for rows of any element type, 16-bit ones by way of the warp's place in a tile in shared memory, which
// no other warp touches, so that they leave in 16-byte accesses.
template <typename Element, typename Tile, bool ANY_ROWS, int ROW_TILES, int TILES, typename RowAddress>
__device__ __forceinline__ void store_rows(const float (&acc)[ROW_TILES][TILES][4], const float (&scale)[ROW_TILES][2],
                                           char* tile_smem, int first_row, int first_column, int num_rows, int columns,
                                           bool aligned, RowAddress row_gmem) {
  // The four lanes of a row hold 32 bytes of f32 side by side, a whole sector.
  if constexpr (sizeof(Element) == 4) {
    store_rows<Element, ANY_ROWS>(acc, scale, first_row, first_column, num_rows, columns, aligned, row_gmem);
    return;
  }
  constexpr int CHUNKS = 8 * TILES / Tile::CHUNK_ELEMENTS;
#pragma unroll
  for (int t = 0; t < ROW_TILES; ++t) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first_row + 16 * t + fragment::row(half);
#pragma unroll
      for (int tile = 0; tile < TILES; ++tile) {
        const int column = first_column + 8 * tile + fragment::column(0);
        char* staged = tile_smem + Tile::offset(row, column / Tile::CHUNK_ELEMENTS) +
                       column % Tile::CHUNK_ELEMENTS * sizeof(Element);
        store_pair(staged, acc[t][tile][2 * half] * scale[t][half], acc[t][tile][2 * half + 1] * scale[t][half],
                   Element());
      }
    }
  }
  // The lanes of a row copy what other lanes of the warp staged.
  __syncwarp();
#pragma unroll 4
  for (int index = fragment::lane(); index < 16 * ROW_TILES * CHUNKS; index += 32) {
    const int row = first_row + index / CHUNKS;
    const int chunk = first_column / Tile::CHUNK_ELEMENTS + index % CHUNKS;
    if (row >= num_rows || (ANY_ROWS && chunk * Tile::CHUNK_ELEMENTS >= columns)) continue;
    const auto vector = *reinterpret_cast<const Vector<Element>*>(tile_smem + Tile::offset(row, chunk));
    char* target = row_gmem(row) + chunk * 16;
    if (ANY_ROWS && !aligned) {
#pragma unroll
      for (int i = 0; i < VECTOR<Element>; ++i) reinterpret_cast<Element*>(target)[i] = vector.values[i];
    } else {
      *reinterpret_cast<Vector<Element>*>(target) = vector;
    }
  }
}

}  // namespace warpfold
