// The two matrix products of attention, of tiles in shared memory, for every element type.
//
//   multiply_nt   acc[16 x N]  = A[16 x K] B[N x K]^T     scores: both operands are rows of a tile
//   multiply_nn   acc[16 x N] += P[16 x K] B[K x N]       P comes from accumulators, and stays in registers
//
// 16-bit types run on the tensor cores (mma.m16n8k16 with ldmatrix). f32 has none of its precision there and is multiplied
// and added by the threads; its accumulators lie as the tensor cores' do, so that kernels need not know.
#pragma once

#include "lib/tile.cuh"

namespace warpfold {

// Where this lane reads a tile of 16-bit elements with ldmatrix: a swizzled address from which all others follow.
template <typename Tile>
struct TileReader {
  uint32_t address;

  __device__ __forceinline__ TileReader(const char* tile_smem, int row, int chunk)
      : address(ptx::shared_address(tile_smem) + Tile::offset(row, chunk)) {}

  // As operand A, from row `first_row` on.
  static __device__ __forceinline__ TileReader rows(const char* tile_smem, int first_row) {
    return TileReader(tile_smem, first_row + fragment::a_row(), fragment::a_chunk());
  }
  // As operand B^T: the tile's rows are the result's columns.
  static __device__ __forceinline__ TileReader columns(const char* tile_smem) {
    return TileReader(tile_smem, fragment::b_row(), fragment::b_chunk());
  }
  // As operand B: the tile's rows are what is summed over.
  static __device__ __forceinline__ TileReader depth(const char* tile_smem) {
    return TileReader(tile_smem, fragment::a_row(), fragment::a_chunk());
  }

  // Operand B of the tile that another reader reads as operand B^T.
  static __device__ __forceinline__ TileReader depth(const TileReader&, const char* tile_smem) {
    return depth(tile_smem);
  }

  // The swizzled addresses of all steps follow from this one by one XOR each. Hoisted out of a loop they would hold a dozen
  // registers and push others out to local memory, so the compiler must not see that they stay the same.
  __device__ __forceinline__ void forget() { ptx::forget(address); }

  // Operand A of a step, for ROW_TILES tiles of 16 rows.
  template <int ROW_TILES>
  __device__ __forceinline__ void fetch(uint32_t (&frag)[ROW_TILES][4], int step) const {
#pragma unroll
    for (int t = 0; t < ROW_TILES; ++t) load(frag[t], t, step);
  }

  // 16 rows from row 16 * block on, columns 16 * pair to 16 * pair + 15.
  __device__ __forceinline__ void load(uint32_t (&frag)[4], int block, int pair) const {
    ptx::ldmatrix_x4(frag, Tile::pair_address(address, pair) + block * 16 * Tile::ROW_BYTES);
  }
  __device__ __forceinline__ void load_transposed(uint32_t (&frag)[4], int block, int pair) const {
    ptx::ldmatrix_x4_trans(frag, Tile::pair_address(address, pair) + block * 16 * Tile::ROW_BYTES);
  }
};

// Operand A, held in registers: STEPS steps of ROW_TILES tiles of 16 rows.
template <typename Tile, int ROW_TILES, int STEPS>
struct HeldRows {
  uint32_t frag[STEPS][ROW_TILES][4];

  __device__ __forceinline__ void hold(const TileReader<Tile>& reader) {
#pragma unroll
    for (int step = 0; step < STEPS; ++step) reader.fetch(frag[step], step);
  }
  __device__ __forceinline__ void fetch(uint32_t (&step_frag)[ROW_TILES][4], int step) const {
#pragma unroll
    for (int t = 0; t < ROW_TILES; ++t) {
#pragma unroll
      for (int i = 0; i < 4; ++i) step_frag[t][i] = frag[step][t][i];
    }
  }
};

// Where a thread reads a tile of f32.
template <typename Tile>
struct FloatReader {
  uint32_t address;  // of the tile's row `first_row`, a multiple of 8 so that the swizzle is that of the tile

  __device__ __forceinline__ FloatReader(const char* tile_smem, int first_row)
      : address(ptx::shared_address(tile_smem) + first_row * Tile::ROW_BYTES) {}

  static __device__ __forceinline__ FloatReader rows(const char* tile_smem, int first_row) {
    return FloatReader(tile_smem, first_row);
  }
  static __device__ __forceinline__ FloatReader columns(const char* tile_smem) { return FloatReader(tile_smem, 0); }
  static __device__ __forceinline__ FloatReader depth(const char* tile_smem) { return FloatReader(tile_smem, 0); }
  static __device__ __forceinline__ FloatReader depth(const FloatReader& columns, const char*) { return columns; }
  __device__ __forceinline__ void forget() { ptx::forget(address); }

  __device__ __forceinline__ float4 four(int row, int chunk) const {
    return ptx::load_shared_4(address + Tile::offset(row, chunk));
  }
  __device__ __forceinline__ float2 two(int row, int column) const {
    return ptx::load_shared_2(address + Tile::offset(row, column / 4) + column % 4 * 4);
  }
};

template <typename Element, typename Tile>
struct ReaderOf {
  using Type = TileReader<Tile>;
};
template <typename Tile>
struct ReaderOf<float, Tile> {
  using Type = FloatReader<Tile>;
};
template <typename Element, typename Tile>
using Reader = typename ReaderOf<Element, Tile>::Type;

// The reader of another tile of the same shape, `other_smem`, at the same place as in `tile_smem`: one register for both.
template <typename AnyReader>
__device__ __forceinline__ AnyReader moved(AnyReader reader, const char* tile_smem, const char* other_smem) {
  reader.address += ptx::shared_address(other_smem) - ptx::shared_address(tile_smem);
  return reader;
}

// The reader of the columns from `column_bytes` on, whole periods of the swizzle.
template <typename AnyReader>
__device__ __forceinline__ AnyReader from_column(AnyReader reader, int column_bytes) {
  reader.address += column_bytes;
  return reader;
}

// Accumulators of TILES 8-column tiles as operand A of the next product: rounded to the element type, in registers.
template <typename Element, int TILES>
struct Weights {
  uint32_t frag[TILES / 2][4];

  // Two neighbouring columns of a row. An accumulator tile is half of an operand-A fragment: its 8 columns are columns 0-7
  // or 8-15 there.
  __device__ __forceinline__ void set(int tile, int half, float low, float high) {
    frag[tile / 2][tile % 2 * 2 + half] = ptx::pack_rn(low, high, Element());
  }
};
template <int TILES>
struct Weights<float, TILES> {
  float frag[TILES][4];

  __device__ __forceinline__ void set(int tile, int half, float low, float high) {
    frag[tile][2 * half] = low;
    frag[tile][2 * half + 1] = high;
  }
};

// acc = start + A B^T over DEPTH columns. `start` is one accumulator tile for each row tile, added to all of its tiles.
template <typename Element, int DEPTH, int ROW_TILES, int TILES, typename OperandA, typename TileB>
__device__ __forceinline__ void multiply_nt(float (&acc)[ROW_TILES][TILES][4], const OperandA& a,
                                            const TileReader<TileB>& b, const float (&start)[ROW_TILES][4]) {
#pragma unroll
  for (int step = 0; step < DEPTH / 16; ++step) {
    uint32_t a_frag[ROW_TILES][4];
    a.fetch(a_frag, step);
#pragma unroll
    for (int pair = 0; pair < TILES / 2; ++pair) {
      uint32_t b_frag[4];
      b.load(b_frag, pair, step);
#pragma unroll
      for (int t = 0; t < ROW_TILES; ++t) {
        // The first step adds to the start, the others to what there is.
        const float(&even)[4] = acc[t][2 * pair];
        const float(&odd)[4] = acc[t][2 * pair + 1];
        ptx::mma_m16n8k16(acc[t][2 * pair], a_frag[t], b_frag[0], b_frag[1], step == 0 ? start[t] : even, Element());
        ptx::mma_m16n8k16(acc[t][2 * pair + 1], a_frag[t], b_frag[2], b_frag[3], step == 0 ? start[t] : odd, Element());
      }
    }
  }
}

template <typename Element, int DEPTH, int TILES, typename TileA, typename TileB>
__device__ __forceinline__ void multiply_nt(float (&acc_of_one)[1][TILES][4], const FloatReader<TileA>& a,
                                            const FloatReader<TileB>& b, const float (&start)[1][4]) {
  float(&acc)[TILES][4] = acc_of_one[0];
#pragma unroll
  for (int tile = 0; tile < TILES; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) acc[tile][i] = start[0][i];
  }
#pragma unroll 1
  for (int chunk = 0; chunk < DEPTH / 4; ++chunk) {
    const float4 upper = a.four(fragment::row(0), chunk);
    const float4 lower = a.four(fragment::row(1), chunk);
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float4 column = b.four(8 * tile + fragment::column(i), chunk);
        acc[tile][i] = fmaf(upper.x, column.x, acc[tile][i]);
        acc[tile][i] = fmaf(upper.y, column.y, acc[tile][i]);
        acc[tile][i] = fmaf(upper.z, column.z, acc[tile][i]);
        acc[tile][i] = fmaf(upper.w, column.w, acc[tile][i]);
        acc[tile][2 + i] = fmaf(lower.x, column.x, acc[tile][2 + i]);
        acc[tile][2 + i] = fmaf(lower.y, column.y, acc[tile][2 + i]);
        acc[tile][2 + i] = fmaf(lower.z, column.z, acc[tile][2 + i]);
        acc[tile][2 + i] = fmaf(lower.w, column.w, acc[tile][2 + i]);
      }
    }
  }
}

// acc += P B.
template <typename Element, int ROW_TILES, int TILES, int DEPTH_TILES, typename TileB>
__device__ __forceinline__ void multiply_nn(float (&acc)[ROW_TILES][TILES][4],
                                            const Weights<Element, DEPTH_TILES> (&p)[ROW_TILES],
                                            const TileReader<TileB>& b) {
#pragma unroll
  for (int step = 0; step < DEPTH_TILES / 2; ++step) {
#pragma unroll
    for (int pair = 0; pair < TILES / 2; ++pair) {
      uint32_t b_frag[4];
      b.load_transposed(b_frag, step, pair);
#pragma unroll
      for (int t = 0; t < ROW_TILES; ++t) {
        ptx::mma_m16n8k16(acc[t][2 * pair], p[t].frag[step], b_frag[0], b_frag[1], acc[t][2 * pair], Element());
        ptx::mma_m16n8k16(acc[t][2 * pair + 1], p[t].frag[step], b_frag[2], b_frag[3], acc[t][2 * pair + 1], Element());
      }
    }
  }
}

template <typename Element, int TILES, int DEPTH_TILES, typename TileB>
__device__ __forceinline__ void multiply_nn(float (&acc_of_one)[1][TILES][4],
                                            const Weights<float, DEPTH_TILES> (&p_of_one)[1],
                                            const FloatReader<TileB>& b) {
  float(&acc)[TILES][4] = acc_of_one[0];
  const float(&p)[DEPTH_TILES][4] = p_of_one[0].frag;
#pragma unroll
  for (int depth_tile = 0; depth_tile < DEPTH_TILES; ++depth_tile) {
    // Lane j of a quad holds columns 2 j and 2 j + 1 of P. Not unrolled: the loads would move up until no register is left.
#pragma unroll 1
    for (int j = 0; j < 4; ++j) {
      const int source = fragment::lane() / 4 * 4 + j;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float upper = __shfl_sync(0xffffffff, p[depth_tile][i], source);
        const float lower = __shfl_sync(0xffffffff, p[depth_tile][2 + i], source);
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile) {
          const float2 columns = b.two(8 * depth_tile + 2 * j + i, 8 * tile + fragment::column(0));
          acc[tile][0] = fmaf(upper, columns.x, acc[tile][0]);
          acc[tile][1] = fmaf(upper, columns.y, acc[tile][1]);
          acc[tile][2] = fmaf(lower, columns.x, acc[tile][2]);
          acc[tile][3] = fmaf(lower, columns.y, acc[tile][3]);
        }
      }
    }
  }
}

}  // namespace warpfold
