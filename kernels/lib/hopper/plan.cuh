// What the blocks of work of a persistent block come to, worked out ahead by a warp that does nothing else.
//
// Where a block of work lies takes registers and, among packed sequences, time: loads that wait for one another. One warp works it
// out while the others are at the block before, and leaves it in shared memory, where they read what they need when they need it.
//
// The sides of rings with a buffer a block of work follow from the number of blocks before, so that nothing is carried along.
#pragma once

#include "lib/hopper/ring.cuh"

namespace warpfold {

constexpr int PLANS = 2;  // blocks of work that are planned at a time

struct PlanRing {
  Ring<PLANS> ring;
  alignas(16) char blocks[PLANS][128];
};

// The block of work of a round. With G blocks, block c takes the works c, 2 G - 1 - c, 2 G + c, ...: to and fro, so that who had the
// longest share of one round has the shortest of the next. Worked out from the round alone, in as few registers as can be. Who
// computes a block of work does not show in the result.
__device__ __forceinline__ uint32_t work_in_round(uint32_t round) {
  const uint32_t block = ptx::block_index();
  const uint32_t num_blocks = ptx::grid_blocks();
  return round * num_blocks + (round % 2 == 0 ? block : num_blocks - 1 - block);
}

template <int BUFFERS>
__device__ __forceinline__ RingSide<BUFFERS> side_in_round(const Ring<BUFFERS>& ring, uint32_t round) {
  RingSide<BUFFERS> side(ring);
  side.stage = round % BUFFERS;
  side.phase = round / BUFFERS % 2;
  return side;
}

// The reading warps: calls `visit(block)` for every block of work. A Block has its round among what it holds.
template <typename Block, typename Visit>
__device__ __forceinline__ void for_each_block(uint32_t work_blocks, const PlanRing& plans, Visit visit) {
  static_assert(sizeof(Block) <= sizeof(plans.blocks[0]), "a block's state fits its place");
#pragma unroll 1
  for (uint32_t round = 0; work_in_round(round) < work_blocks; ++round) {
    const RingSide<PLANS> side = side_in_round(plans.ring, round);
    side.wait();
    const Block& block = *reinterpret_cast<const Block*>(plans.blocks[side.stage]);
    visit(block);
    // Read again, so that `visit` has its register.
    round = block.round;
    // All lanes are done with the block.
    __syncwarp();
    side_in_round(plans.ring, round).release();
  }
}

// The planning warp: `plan(block, round)` writes every block of work, its round included.
template <typename Block, typename Plan>
__device__ __forceinline__ void plan_each_block(uint32_t work_blocks, PlanRing& plans, Plan plan) {
#pragma unroll 1
  for (uint32_t round = 0; work_in_round(round) < work_blocks; ++round) {
    const RingSide<PLANS> side = side_in_round(plans.ring, round);
    side.start_storing();
    plan(*reinterpret_cast<Block*>(plans.blocks[side.stage]), round);
    side.finish_storing();
  }
}

}  // namespace warpfold
