// Warpgroup matrix products: acc[64 x N] (+)= A[64 x K] B[K x N], where 4 warps hold 16 rows of the accumulators each.
//
// A warp's accumulators lie as those of mma.m16n8k16 do (lib/tile.cuh): acc[tile][4] for 8-column tiles, so that masks, softmax
// and dropout are written once. Operands in shared memory are tiles of 16-bit elements in panels of 64 columns:
//
//   panel 0: columns 0 to 63 of all rows      panel 1: columns 64 to 127      ...
//   row 0   chunk 0 1 2 3 4 5 6 7             a chunk is 16 bytes, a row of a panel 128; chunk c of row r lies at place
//   row 1         1 0 3 2 5 4 7 6             c ^ (r & 7), which is the copy engine's 128-byte swizzle
//   row 2         2 3 0 1 6 7 4 5
//   ...
//
// The same tile serves both ways around (PTX ISA, "Strides" of wgmma's matrix descriptors):
//
//   depth-major   the tile's columns are what is summed over: Q and K in Q K^T. Groups of 8 rows are 1024 bytes apart; a step of
//                 16 columns is 32 bytes further in the panel. The hardware applies the swizzle to the final address, so that
//                 steps inside a panel are plain additions.
//   width-major   the tile's rows are what is summed over: V in P V. Groups of 8 rows are 1024 bytes apart, panels (the next
//                 64 columns of the result) a panel's size; a step of 16 rows is 2048 bytes further.
#pragma once

#include "lib/hopper/ptx.cuh"
#include "lib/product.cuh"

namespace warpfold {

// A tile in shared memory at a multiple of 1024 bytes.
template <int ROWS, int COLUMNS>
struct Panels {
  static constexpr int COUNT = (COLUMNS + 63) / 64;
  static constexpr int PANEL_BYTES = ROWS * 128;
  static constexpr int BYTES = COUNT * PANEL_BYTES;
  static_assert(ROWS % 8 == 0, "whole swizzle periods");

  // Byte offset of a chunk (8 columns) of a row.
  static __device__ __forceinline__ uint32_t offset(uint32_t row, uint32_t chunk) {
    return chunk / 8 * PANEL_BYTES + row * 128 + ((chunk % 8 ^ (row & 7)) << 4);
  }
};

// The descriptor of a matrix operand in shared memory: bits 0-13 address / 16, 16-29 the leading and 32-45 the stride distance / 16,
// bit 62 128-byte swizzle. The upper half is always the same.
__device__ __forceinline__ uint64_t descriptor(uint32_t low) {
  return low | static_cast<uint64_t>(1024 >> 4 | 1u << 30) << 32;
}

template <int PANEL_BYTES>
struct DepthMajor {
  static constexpr int TRANSPOSED = 0;
  uint32_t low;

  __device__ __forceinline__ explicit DepthMajor(uint32_t address_smem) : low((address_smem & 0x3ffff) >> 4 | 1u << 16) {}

  // The descriptor of the 16 columns of a step.
  __device__ __forceinline__ uint64_t step(int step) const {
    return descriptor(low + (((step / 4) * PANEL_BYTES + step % 4 * 32) >> 4));
  }
};

template <int PANEL_BYTES>
struct WidthMajor {
  static constexpr int TRANSPOSED = 1;
  uint32_t low;

  __device__ __forceinline__ explicit WidthMajor(uint32_t address_smem)
      : low((address_smem & 0x3ffff) >> 4 | static_cast<uint32_t>(PANEL_BYTES >> 4) << 16) {}

  // The descriptor of the 16 rows of a step.
  __device__ __forceinline__ uint64_t step(int step) const { return descriptor(low + (step * 2048 >> 4)); }
};

// wgmma.mma_async.sync.aligned.m64nNk16.f32.{f16,bf16}.{f16,bf16};   PTX 8.0, sm_90a. ACCUMULATE 0: acc is only written.
// TRANSPOSED_A, TRANSPOSED_B: whether the operand in shared memory is width-major.
template <int TILES, typename Element>
struct Wgmma;

// The accumulators of 8 columns, and their places in the instruction's text.
#define WARPFOLD_TILE(t) "+f"(acc[t][0]), "+f"(acc[t][1]), "+f"(acc[t][2]), "+f"(acc[t][3])
#define WARPFOLD_TILES_4(t) WARPFOLD_TILE(t), WARPFOLD_TILE(t + 1), WARPFOLD_TILE(t + 2), WARPFOLD_TILE(t + 3)
#define WARPFOLD_TILES_8(t) WARPFOLD_TILES_4(t), WARPFOLD_TILES_4(t + 4)
#define WARPFOLD_TILES_2(t) WARPFOLD_TILE(t), WARPFOLD_TILE(t + 1)
#define WARPFOLD_TILES_6 WARPFOLD_TILES_4(0), WARPFOLD_TILES_2(4)
#define WARPFOLD_TILES_10 WARPFOLD_TILES_8(0), WARPFOLD_TILES_2(8)
#define WARPFOLD_TILES_12 WARPFOLD_TILES_8(0), WARPFOLD_TILES_4(8)
#define WARPFOLD_TILES_16 WARPFOLD_TILES_8(0), WARPFOLD_TILES_8(8)
#define WARPFOLD_TILES_22 WARPFOLD_TILES_16, WARPFOLD_TILES_4(16), WARPFOLD_TILES_2(20)
#define WARPFOLD_TILES_24 WARPFOLD_TILES_16, WARPFOLD_TILES_8(16)
#define WARPFOLD_TILES_32 WARPFOLD_TILES_16, WARPFOLD_TILES_8(16), WARPFOLD_TILES_8(24)

#define WARPFOLD_PLACES_24 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23"
#define WARPFOLD_PLACES_32 WARPFOLD_PLACES_24 ",%24,%25,%26,%27,%28,%29,%30,%31"
#define WARPFOLD_PLACES_40 WARPFOLD_PLACES_32 ",%32,%33,%34,%35,%36,%37,%38,%39"
#define WARPFOLD_PLACES_48 WARPFOLD_PLACES_40 ",%40,%41,%42,%43,%44,%45,%46,%47"
#define WARPFOLD_PLACES_64 \
  WARPFOLD_PLACES_48 ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define WARPFOLD_PLACES_88 \
  WARPFOLD_PLACES_64       \
  ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87"
#define WARPFOLD_PLACES_96 WARPFOLD_PLACES_88 ",%88,%89,%90,%91,%92,%93,%94,%95"
#define WARPFOLD_PLACES_128                                                                                              \
  WARPFOLD_PLACES_96                                                                                                     \
  ",%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119" \
  ",%120,%121,%122,%123,%124,%125,%126,%127"

// For N = 8 * tiles, whose REGISTERS = N / 2 accumulators the text calls %0 to %(N / 2 - 1); P0 to P6 are the places after.
#define WARPFOLD_WGMMA(TILES, N, NAME, ELEMENT, ACCUMULATORS, PLACES, P0, P1, P2, P3, P4, P5, P6)                         \
  template <>                                                                                                             \
  struct Wgmma<TILES, ELEMENT> {                                                                                          \
    template <int ACCUMULATE, int TRANSPOSED_A, int TRANSPOSED_B>                                                         \
    static __device__ __forceinline__ void multiply(float (&acc)[TILES][4], uint64_t a, uint64_t b) {                     \
      asm volatile("wgmma.mma_async.sync.aligned.m64n" N "k16.f32." NAME "." NAME " {" PLACES "}, " P0 ", " P1 ", " P2    \
                   ", 1, 1, " P3 ", " P4 ";"                                                                              \
                   : ACCUMULATORS                                                                                         \
                   : "l"(a), "l"(b), "n"(ACCUMULATE), "n"(TRANSPOSED_A), "n"(TRANSPOSED_B));                              \
    }                                                                                                                     \
    template <int ACCUMULATE, int TRANSPOSED_B>                                                                           \
    static __device__ __forceinline__ void multiply(float (&acc)[TILES][4], const uint32_t (&a)[4], uint64_t b) {         \
      asm volatile("wgmma.mma_async.sync.aligned.m64n" N "k16.f32." NAME "." NAME " {" PLACES "}, {" P0 ", " P1 ", " P2   \
                   ", " P3 "}, " P4 ", " P5 ", 1, 1, " P6 ";"                                                             \
                   : ACCUMULATORS                                                                                         \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(ACCUMULATE), "n"(TRANSPOSED_B));             \
    }                                                                                                                     \
  };
#define WARPFOLD_WGMMAS(TILES, N, ACCUMULATORS, PLACES, P0, P1, P2, P3, P4, P5, P6)                                \
  WARPFOLD_WGMMA(TILES, N, "f16", __half, WARPFOLD_##ACCUMULATORS, WARPFOLD_##PLACES, P0, P1, P2, P3, P4, P5, P6) \
  WARPFOLD_WGMMA(TILES, N, "bf16", __nv_bfloat16, WARPFOLD_##ACCUMULATORS, WARPFOLD_##PLACES, P0, P1, P2, P3, P4, P5, P6)

WARPFOLD_WGMMAS(6, "48", TILES_6, PLACES_24, "%24", "%25", "%26", "%27", "%28", "%29", "%30")
WARPFOLD_WGMMAS(8, "64", TILES_8(0), PLACES_32, "%32", "%33", "%34", "%35", "%36", "%37", "%38")
WARPFOLD_WGMMAS(10, "80", TILES_10, PLACES_40, "%40", "%41", "%42", "%43", "%44", "%45", "%46")
WARPFOLD_WGMMAS(12, "96", TILES_12, PLACES_48, "%48", "%49", "%50", "%51", "%52", "%53", "%54")
WARPFOLD_WGMMAS(16, "128", TILES_16, PLACES_64, "%64", "%65", "%66", "%67", "%68", "%69", "%70")
WARPFOLD_WGMMAS(22, "176", TILES_22, PLACES_88, "%88", "%89", "%90", "%91", "%92", "%93", "%94")
WARPFOLD_WGMMAS(24, "192", TILES_24, PLACES_96, "%96", "%97", "%98", "%99", "%100", "%101", "%102")
WARPFOLD_WGMMAS(32, "256", TILES_32, PLACES_128, "%128", "%129", "%130", "%131", "%132", "%133", "%134")

// acc = A B over STEPS steps of 16, both operands in shared memory. The wgmmas are only issued: ptx::wgmma_fence() comes before,
// ptx::wgmma_commit() and a wait after.
template <typename Element, int STEPS, int ACCUMULATE, int TILES, typename OperandA, typename OperandB>
__device__ __forceinline__ void issue_product(float (&acc)[TILES][4], const OperandA& a, const OperandB& b) {
#pragma unroll
  for (int step = 0; step < STEPS; ++step) {
    if (step == 0) {
      Wgmma<TILES, Element>::template multiply<ACCUMULATE, OperandA::TRANSPOSED, OperandB::TRANSPOSED>(acc, a.step(step),
                                                                                                       b.step(step));
    } else {
      Wgmma<TILES, Element>::template multiply<1, OperandA::TRANSPOSED, OperandB::TRANSPOSED>(acc, a.step(step),
                                                                                              b.step(step));
    }
  }
}

// acc (+)= P B where P comes from accumulators of DEPTH_TILES 8-column tiles and stays in registers.
template <typename Element, int ACCUMULATE, int TILES, int DEPTH_TILES, typename OperandB>
__device__ __forceinline__ void issue_product(float (&acc)[TILES][4], const Weights<Element, DEPTH_TILES>& p,
                                              const OperandB& b) {
#pragma unroll
  for (int step = 0; step < DEPTH_TILES / 2; ++step) {
    if (step == 0) {
      Wgmma<TILES, Element>::template multiply<ACCUMULATE, OperandB::TRANSPOSED>(acc, p.frag[step], b.step(step));
    } else {
      Wgmma<TILES, Element>::template multiply<1, OperandB::TRANSPOSED>(acc, p.frag[step], b.step(step));
    }
  }
}

// No instruction: from here on the compiler must take these registers as changed, since a wgmma in flight writes them or reads
// them, whatever the program text says.
template <int TILES>
__device__ __forceinline__ void hold(float (&acc)[TILES][4]) {
#pragma unroll
  for (int tile = 0; tile < TILES; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) asm volatile("" : "+f"(acc[tile][i])::"memory");
  }
}
template <typename Element, int TILES>
__device__ __forceinline__ void hold(Weights<Element, TILES>& weights) {
#pragma unroll
  for (int step = 0; step < TILES / 2; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) asm volatile("" : "+r"(weights.frag[step][i])::"memory");
  }
}

// weights = next, by instructions that the compiler does not see through. It would otherwise write `next` to the registers of
// `weights` to begin with, and then not let a wgmma that reads those fly meanwhile.
template <typename Element, int TILES>
__device__ __forceinline__ void take_over(Weights<Element, TILES>& weights, const Weights<Element, TILES>& next) {
  uint32_t zero = 0;
  ptx::forget(zero);
#pragma unroll
  for (int step = 0; step < TILES / 2; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) weights.frag[step][i] = next.frag[step][i] | zero;
  }
}

}  // namespace warpfold
