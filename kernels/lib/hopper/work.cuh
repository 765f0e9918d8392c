// The pieces of work of a persistent block, or of a cluster of them: the blocks of a cluster take the same piece and share it.
//
// Work is numbered from the longest on. With G clusters, cluster c takes c, then 2 G - 1 - c, then 2 G + c, ...: to and fro, so
// that who had the longest share of one round has the shortest of the next. Which one computes a piece of work does not show in
// the result.
#pragma once

#include <stdint.h>

namespace warpfold {

template <int CLUSTER>
struct Work {
  uint32_t index = blockIdx.x / CLUSTER;

  __device__ __forceinline__ bool exists(uint32_t count) const { return index < count; }
  // Mirrored at the end of the round: place p of one becomes place G - 1 - p of the next.
  __device__ __forceinline__ void advance() {
    const uint32_t num_clusters = gridDim.x / CLUSTER;
    const uint32_t round = index / num_clusters;
    index = 2 * (round + 1) * num_clusters - 1 - index;
  }
};

}  // namespace warpfold
