// A ring of shared-memory buffers between the warp that fills them by the copy engine and the warps that read them.
//
//   buffer      0     1     0     1     0 ...
//   fill        F0 -> F1 -> F2 -> F3            waits until buffer and phase before are empty
//   read              R0 -> R1 -> R2            waits until they are full
//
// Every buffer has two mbarriers: `full` flips when its bytes have arrived, `empty` when every reading warp has released
// it. Both sides walk the buffers with a RingSide each, which carries the phase along.
#pragma once

#include "lib/hopper/ptx.cuh"

namespace warpfold {

template <int STAGES>
struct Ring {
  uint64_t full[STAGES];
  uint64_t empty[STAGES];

  // By one thread, before any other use; ptx::fence_mbarrier_init() and a barrier of the block follow. Other
  // warps may fill a part of each buffer by ordinary stores.
  __device__ __forceinline__ void init(uint32_t reading_warps, uint32_t storing_warps = 0) {
#pragma unroll
    for (int stage = 0; stage < STAGES; ++stage) {
      ptx::mbarrier_init(ptx::shared_address(&full[stage]), 1 + storing_warps);
      ptx::mbarrier_init(ptx::shared_address(&empty[stage]), reading_warps);
    }
  }
};

// One side's way around the ring. Its calls come in the order of the comments and then start over with the next buffer.
template <int STAGES>
struct RingSide {
  uint32_t address;  // of the ring's barriers
  uint32_t stage = 0;
  uint32_t phase = 0;

  __device__ __forceinline__ explicit RingSide(const Ring<STAGES>& ring) : address(ptx::shared_address(&ring)) {}

  __device__ __forceinline__ uint32_t full() const { return address + 8 * stage; }
  __device__ __forceinline__ uint32_t empty() const { return address + 8 * (STAGES + stage); }

  // The filling side, one lane: waits for the buffer; then `bytes` are to be copied into buffer `stage`, completing on full().
  __device__ __forceinline__ void start_filling(uint32_t bytes) const {
    // A new barrier counts as complete for the phase before its first: the first time around nobody waits.
    ptx::mbarrier_wait(empty(), phase ^ 1);
    ptx::mbarrier_arrive_expect(full(), bytes);
  }

  // A warp that fills by ordinary stores, every lane: waits for the buffer; stores, and is done.
  __device__ __forceinline__ void start_storing() const { ptx::mbarrier_wait(empty(), phase ^ 1); }
  __device__ __forceinline__ void finish_storing() const {
    // The lanes' stores come before the arrival of the first.
    __syncwarp();
    if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(full());
  }

  // The reading side, every lane: waits until buffer `stage` is full.
  __device__ __forceinline__ void wait() const { ptx::mbarrier_wait(full(), phase); }
  // Every reading warp, after its last access: the warp's own wgmmas must have been waited for.
  __device__ __forceinline__ void release() const {
    if (ptx::elect()) ptx::mbarrier_arrive(empty());
  }

  // The same for the buffer before, whose reader is at this one already.
  __device__ __forceinline__ void release_before() const {
    const uint32_t before = (stage == 0 ? STAGES : stage) - 1;
    if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(address + 8 * (STAGES + before));
  }

  // Both sides: on to the next buffer.
  __device__ __forceinline__ void advance() {
    if (++stage == STAGES) {
      stage = 0;
      phase ^= 1;
    }
  }
};

// Registers of a thread of the filling warpgroup and of those that compute: what the launch gives every thread (65536 over all,
// rounded down to a multiple of 8) is shared out anew.
template <int CONSUMERS>
struct Registers;
template <>
struct Registers<2> {
  static constexpr int FILL = 24, CONSUME = 240;
};
template <>
struct Registers<3> {
  static constexpr int FILL = 32, CONSUME = 160;
};
static_assert(Registers<2>::FILL + 2 * Registers<2>::CONSUME <= 3 * 168 &&
              Registers<3>::FILL + 3 * Registers<3>::CONSUME <= 4 * 128);

}  // namespace warpfold
