// Ping-pong: the warpgroups that compute take turns at issuing their products, so that one is at its exponentials while the tensor
// cores work for another.
//
//   warpgroup 1   take  issue  hand on            softmax             take ...
//   warpgroup 2                take  issue  hand on           softmax
//
// A turn is a named barrier of two warpgroups: the one that waits for it and the one before, which hands it on. All take equally
// many turns.
//
// Source: Shah et al., "FlashAttention-3" (2024), section 3.1.
#pragma once

#include "lib/hopper/ptx.cuh"

namespace warpfold {

// Of CONSUMERS warpgroups, which come after that of the filling warp; their barriers are numbered from FIRST on.
template <bool ENABLED, int CONSUMERS, uint32_t FIRST>
struct Turns {
  static constexpr uint32_t LAST = FIRST + CONSUMERS - 1;

  // Worked out anew each time, which takes no register from the loop.
  static __device__ __forceinline__ uint32_t mine() { return FIRST + ptx::thread_index() / 128 - 1; }

  // Nobody is before the first: the last one hands it its first turn. At the end, so that no barrier is left half full, the first
  // waits for the turn that it does not take.
  static __device__ __forceinline__ void begin() {
    if (ENABLED && mine() == LAST) ptx::barrier_arrive(FIRST, 256);
  }
  static __device__ __forceinline__ void end() {
    if (ENABLED && mine() == FIRST) ptx::barrier_sync(FIRST, 256);
  }

  static __device__ __forceinline__ void take() {
    if constexpr (ENABLED) ptx::barrier_sync(mine(), 256);
  }
  static __device__ __forceinline__ void hand_on() {
    if constexpr (ENABLED) {
      const uint32_t barrier = mine();
      ptx::barrier_arrive(barrier == LAST ? FIRST : barrier + 1, 256);
    }
  }
};

}  // namespace warpfold
