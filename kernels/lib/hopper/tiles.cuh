// Whole tiles between global and shared memory, and what the warps of a block agree on: what the backward kernels share.
#pragma once

#include "lib/hopper/ring.cuh"
#include "lib/hopper/wgmma.cuh"

namespace warpfold {

// Starts copying a tile by a map of (column, row, head, batch), from row `row` on. By one lane.
template <typename Tile>
__device__ __forceinline__ void load_tile(const char* tile_smem, const TensorMap& map, uint32_t barrier, int row, int head,
                                          int batch) {
#pragma unroll
  for (int panel = 0; panel < Tile::COUNT; ++panel) {
    ptx::load_box(ptx::shared_address(tile_smem) + panel * Tile::PANEL_BYTES, map, barrier, 64 * panel, row, head, batch);
  }
}

// The barrier of each computing warpgroup, 1 and up; barrier 0 is the block's.
__device__ __forceinline__ void warpgroup_sync() { ptx::barrier_sync(threadIdx.x / 128, 128); }

// The same value, which all lanes hold, so that the compiler knows that they do: what follows from it is worked out once a warp.
__device__ __forceinline__ int uniform(int value) { return __shfl_sync(0xffffffff, value, 0); }

// The row of a warpgroup's 64 that `half` of this lane's accumulators belong to.
__device__ __forceinline__ int warpgroup_row(int half) { return threadIdx.x / 32 % 4 * 16 + fragment::row(half); }

// Rows [begin, end) of a tile become zero, for what the copy engine and the tensor cores do there next: a weight of zero does not
// keep out NaN. By THREADS threads, which have a barrier afterwards; `thread` is this one's number.
template <typename Tile, int THREADS>
__device__ __forceinline__ void clear_rows(char* tile_smem, int begin, int end, int thread) {
#pragma unroll 1
  for (int index = 8 * begin + thread; index < 8 * end; index += THREADS) {
#pragma unroll
    for (int panel = 0; panel < Tile::COUNT; ++panel) {
      *reinterpret_cast<uint4*>(tile_smem + panel * Tile::PANEL_BYTES + index * 16) = make_uint4(0, 0, 0, 0);
    }
  }
  ptx::fence_async_proxy();
}

// Writes a warpgroup's accumulators times `scale`, a number for each of a lane's two rows, to 64 rows of 16-bit elements, by way of rows `first_row` and up of a tile in
// shared memory, which are this warpgroup's own. Rows from num_rows on and columns from `columns` on are left out.
// `store_box(panel, address_smem)` has the copy engine store 64 rows, `row_gmem(row)` is where a row begins; both count rows of
// the tile. On return the copy engine may still read the tile: ptx::bulk_wait_read() of the warpgroup's first thread.
template <typename Element, typename Tile, int TILES, typename StoreBox, typename RowAddress>
__device__ __forceinline__ void store_warpgroup(const float (&acc)[TILES][4], const float (&scale)[2], char* tile_smem, int first_row,
                                                int num_rows, int columns, StoreBox store_box, RowAddress row_gmem) {
  const bool leads_warpgroup = threadIdx.x % 128 == 0;
  // What was stored before has left the tile.
  if (leads_warpgroup) ptx::bulk_wait_read<0>();
  warpgroup_sync();
  const int warp_row = first_row + warpgroup_row(0) - fragment::row(0);
#pragma unroll
  for (int pair = 0; pair < TILES / 2; ++pair) {
    uint32_t rows[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float(&part)[4] = acc[2 * pair + i / 2];
      rows[i] = ptx::pack_rn(part[2 * (i % 2)] * scale[i % 2], part[2 * (i % 2) + 1] * scale[i % 2], Element());
    }
    ptx::stmatrix_x4(
        ptx::shared_address(tile_smem) + Tile::offset(warp_row + fragment::a_row(), 2 * pair + fragment::a_chunk()), rows);
  }
  // The copy engine reads these rows, or fills them again.
  ptx::fence_async_proxy();
  if (first_row + 64 <= num_rows) {
    warpgroup_sync();
    if (leads_warpgroup) {
#pragma unroll
      for (int panel = 0; panel < Tile::COUNT; ++panel) {
        store_box(panel, ptx::shared_address(tile_smem) + panel * Tile::PANEL_BYTES + first_row * 128);
      }
      ptx::bulk_commit();
    }
  } else {
    // A box would reach into the rows of another sequence. A warp writes what it staged itself.
    __syncwarp();
    constexpr int CHUNKS = TILES;
    for (int index = fragment::lane(); index < 16 * CHUNKS; index += 32) {
      const int row = warp_row + index / CHUNKS;
      const int chunk = index % CHUNKS;
      if (row >= num_rows || chunk * 8 >= columns) continue;
      *reinterpret_cast<uint4*>(row_gmem(row) + chunk * 16) =
          *reinterpret_cast<const uint4*>(tile_smem + Tile::offset(row, chunk));
    }
  }
}

}  // namespace warpfold
