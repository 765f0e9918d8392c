// Tiles of 16-bit rows in shared memory, swizzled in 16-byte chunks, and the lanes' places in tensor-core fragments.
#pragma once

#include "lib/pack.cuh"

namespace warpfold {

// A tile of ROWS rows of COLUMNS 16-bit elements, without gaps between rows.
//
// ldmatrix reads the same chunk of 8 consecutive rows at once, so these 8 chunks must lie in different banks (8 groups of
// 16 bytes span all 32). A row of COLUMNS / 8 chunks moves the bank group by that number modulo 8:
//
//   rows of a multiple of 128 bytes stay in their group: chunk c of row r goes to place c ^ (r & 7)
//   rows of an odd multiple of 64 bytes alternate:       chunk c of row r goes to place c ^ ((r >> 1) & 3)
//
//   128-byte rows, where chunk 0..7 of each row lies:      64-byte rows, two of which share 128 bytes:
//     row 0   0 1 2 3 4 5 6 7                                row 0, 1   0 1 2 3 | 0 1 2 3
//     row 1   1 0 3 2 5 4 7 6                                row 2, 3   1 0 3 2 | 1 0 3 2
//     row 2   2 3 0 1 6 7 4 5                                row 4, 5   2 3 0 1 | 2 3 0 1
//     ...                                                    row 6, 7   3 2 1 0 | 3 2 1 0
template <int ROWS, int COLUMNS>
struct SwizzledTile {
  static constexpr int CHUNKS = COLUMNS / 8;
  static constexpr int ROW_BYTES = COLUMNS * 2;
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

// One thread's part in copying tiles of ROWS rows from strided global memory into shared memory.
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

  uint32_t offset_smem;  // of the first pass's chunk in the tile
  const char* source;    // of the first pass's chunk in the first tile
  int32_t row_bytes;     // distance of rows in global memory; the plan checked that it fits

  __device__ __forceinline__ TileCopy(const char* tile_gmem, int64_t row_stride)
      : offset_smem(Tile::offset(threadIdx.x / Tile::CHUNKS, threadIdx.x % Tile::CHUNKS)),
        source(tile_gmem + threadIdx.x / Tile::CHUNKS * row_stride + threadIdx.x % Tile::CHUNKS * 16),
        row_bytes(static_cast<int32_t>(row_stride)) {}

  // How many of the rows from this thread's first one on are valid. Its row is worked out from the chunk's offset every
  // time: a register that lives through the whole kernel costs more than two instructions a tile.
  __device__ __forceinline__ int valid_rows(int first_row, int num_rows) const {
    uint32_t offset = offset_smem;
    ptx::forget(offset);
    return num_rows - first_row - static_cast<int>(offset / Tile::ROW_BYTES);
  }

  // Starts copying rows [first_row, first_row + ROWS) of the source; those from num_rows on become zero.
  __device__ __forceinline__ void start(uint32_t tile_smem, int first_row, int num_rows) const {
    if (COPIERS < THREADS && threadIdx.x >= COPIERS) return;
    const int valid = valid_rows(first_row, num_rows);
    const char* pass_gmem = source + static_cast<int64_t>(row_bytes) * first_row;
#pragma unroll
    for (int pass = 0; pass < ROWS / PASS_ROWS; ++pass) {
      ptx::cp_async_16(tile_smem + offset_smem + pass * PASS_ROWS * Tile::ROW_BYTES,
                       pass_gmem + static_cast<int64_t>(row_bytes) * (pass * PASS_ROWS),
                       pass * PASS_ROWS < valid ? 16u : 0u);
    }
  }

  // The same for rows of any alignment: elements are loaded one by one and stored as chunks, complete on return.
  template <typename Element>
  __device__ __forceinline__ void by_element(char* tile_smem, int first_row, int num_rows) const {
    if (COPIERS < THREADS && threadIdx.x >= COPIERS) return;
    const int valid = valid_rows(first_row, num_rows);
#pragma unroll 1
    for (int pass = 0; pass < ROWS / PASS_ROWS; ++pass) {
      const char* chunk_gmem = source + static_cast<int64_t>(row_bytes) * (first_row + pass * PASS_ROWS);
      Vector<Element> vector = {};
      if (pass * PASS_ROWS < valid) {
#pragma unroll
        for (int i = 0; i < VECTOR<Element>; ++i) vector.values[i] = reinterpret_cast<const Element*>(chunk_gmem)[i];
      }
      *reinterpret_cast<Vector<Element>*>(tile_smem + offset_smem + pass * PASS_ROWS * Tile::ROW_BYTES) = vector;
    }
  }
};

}  // namespace warpfold
