// One function = one PTX instruction of sm_90 and sm_90a, as lib/ptx.cuh has those of sm_80.
//
// Three worlds touch shared memory: ordinary loads and stores (the generic proxy), and the copy engine and the tensor cores
// (the asynchronous proxy). mbarriers order what they copy and compute; what was written by ordinary stores also needs
// fence_async_proxy() before the others may read it.
#pragma once

#include "lib/params.h"
#include "lib/ptx.cuh"

namespace warpfold::ptx {

// ---- mbarriers: an 8-byte object counts arrivals and bytes; when both are complete its phase flips.

// mbarrier.init.shared::cta.b64 [bar], count;   PTX 7.0, sm_80
__device__ __forceinline__ void mbarrier_init(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// fence.mbarrier_init.release.cluster;   PTX 8.0, sm_90. Makes initialised barriers known to the copy engine and the cluster.
__device__ __forceinline__ void fence_mbarrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// mbarrier.arrive.shared::cta.b64 _, [bar];   PTX 7.0, sm_80
__device__ __forceinline__ void mbarrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], bytes;   PTX 8.0, sm_90. Arrives, and keeps the phase open until so many
// bytes more have been copied.
__device__ __forceinline__ void mbarrier_arrive_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// mbarrier.try_wait.parity.shared::cta.b64 p, [bar], parity;   PTX 7.8, sm_90. Waits until the phase of that parity is
// complete; the instruction gives up after a while, so it stands in a loop.
__device__ __forceinline__ void mbarrier_wait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "WAIT:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra WAIT;\n"
      "}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// ---- arithmetic

// fma.rn.sat.f32 d, a, b, c;   PTX 1.4, sm_20. Limited to [0, 1]; NaN becomes 0.
__device__ __forceinline__ float fma_saturated(float a, float b, float c) {
  float d;
  asm("fma.rn.sat.f32 %0, %1, %2, %3;" : "=f"(d) : "f"(a), "f"(b), "f"(c));
  return d;
}

// ---- the copy engine

// prefetch.tensormap [map];   PTX 8.0, sm_90
__device__ __forceinline__ void prefetch_map(const TensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [dst], [map, {c}], [bar];   PTX 8.0, sm_90.
// Elements outside of the tensor become zero, and count.
__device__ __forceinline__ void load_box(uint32_t dst_smem, const TensorMap& map, uint32_t barrier, int c0, int c1, int c2,
                                         int c3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];" ::
          "r"(dst_smem),
      "l"(&map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
      : "memory");
}

// cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [dst], [map, {c}], [bar];   PTX 8.0, sm_90
__device__ __forceinline__ void load_box(uint32_t dst_smem, const TensorMap& map, uint32_t barrier, int c0, int c1, int c2,
                                         int c3, int c4) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6, %7}], "
      "[%2];" ::"r"(dst_smem),
      "l"(&map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
      : "memory");
}

// cp.async.bulk.tensor.5d.global.shared::cta.tile.bulk_group [map, {c}], [src];   PTX 8.0, sm_90. Elements outside of the tensor
// are left out.
__device__ __forceinline__ void store_box(const TensorMap& map, uint32_t src_smem, int c0, int c1, int c2, int c3, int c4) {
  asm volatile("cp.async.bulk.tensor.5d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4, %5, %6}], [%1];" ::"l"(&map),
               "r"(src_smem), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
               : "memory");
}

// cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [map, {c}], [src];   PTX 8.0, sm_90
__device__ __forceinline__ void store_box(const TensorMap& map, uint32_t src_smem, int c0, int c1, int c2, int c3) {
  asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(&map),
               "r"(src_smem), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
               : "memory");
}

// cp.async.bulk.commit_group;   PTX 8.0, sm_90
__device__ __forceinline__ void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }

// cp.async.bulk.wait_group.read n;   PTX 8.0, sm_90. Until at most n of this thread's groups still read shared memory.
template <int PENDING>
__device__ __forceinline__ void bulk_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(PENDING) : "memory");
}

// cp.async.bulk.wait_group n;   PTX 8.0, sm_90. Until at most n of this thread's groups are incomplete.
template <int PENDING>
__device__ __forceinline__ void bulk_wait() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(PENDING) : "memory");
}

// fence.proxy.async.shared::cta;   PTX 8.0, sm_90. This thread's ordinary accesses of shared memory come before what the copy
// engine and the tensor cores do there later.
__device__ __forceinline__ void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- warpgroups

// wgmma.fence.sync.aligned;   PTX 8.0, sm_90a. Registers written so far may be read by the wgmmas to come.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// wgmma.commit_group.sync.aligned;   PTX 8.0, sm_90a
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// wgmma.wait_group.sync.aligned n;   PTX 8.0, sm_90a
template <int PENDING>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// setmaxnreg.inc.sync.aligned.u32 n;   PTX 8.0, sm_90a
template <int REGISTERS>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

// setmaxnreg.dec.sync.aligned.u32 n;   PTX 8.0, sm_90a
template <int REGISTERS>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

// elect.sync _|p, 0xffffffff;   PTX 8.0, sm_90. True in one lane of the warp.
__device__ __forceinline__ bool elect() {
  uint32_t is_elected;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "elect.sync _|p, 0xffffffff;\n"
      "selp.u32 %0, 1, 0, p;\n"
      "}"
      : "=r"(is_elected));
  return is_elected != 0;
}

// bar.sync id, threads;   PTX 2.0
__device__ __forceinline__ void barrier_sync(uint32_t id, uint32_t threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// bar.arrive id, threads;   PTX 2.0
__device__ __forceinline__ void barrier_arrive(uint32_t id, uint32_t threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// stmatrix.sync.aligned.m8n8.x4.shared.b16 [addr], {d0,d1,d2,d3};   PTX 7.8, sm_90
__device__ __forceinline__ void stmatrix_x4(uint32_t address_smem, const uint32_t (&d)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address_smem), "r"(d[0]), "r"(d[1]),
               "r"(d[2]), "r"(d[3])
               : "memory");
}

// stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [addr], {d0,d1,d2,d3};   PTX 7.8, sm_90
__device__ __forceinline__ void stmatrix_x4_trans(uint32_t address_smem, const uint32_t (&d)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address_smem), "r"(d[0]),
               "r"(d[1]), "r"(d[2]), "r"(d[3])
               : "memory");
}

}  // namespace warpfold::ptx
