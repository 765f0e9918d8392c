// One function = one PTX instruction. The line above each is the instruction, the ISA version and the first SM.
// Whatever touches memory or order is volatile and clobbers memory; pure arithmetic is neither, so that it can move.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

namespace warpfold::ptx {

// The 32-bit address of a shared-memory pointer, which every instruction below takes.
__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// mov.u32 d, %ctaid.x;   PTX 1.0. Volatile, so that what follows from it is computed again rather than kept in registers.
__device__ __forceinline__ uint32_t block_index() {
  uint32_t d;
  asm volatile("mov.u32 %0, %ctaid.x;" : "=r"(d));
  return d;
}

// mov.u32 d, %nctaid.x;   PTX 1.0. Volatile for the same reason.
__device__ __forceinline__ uint32_t grid_blocks() {
  uint32_t d;
  asm volatile("mov.u32 %0, %nctaid.x;" : "=r"(d));
  return d;
}

// mov.u32 d, %tid.x;   PTX 1.0. Volatile for the same reason.
__device__ __forceinline__ uint32_t thread_index() {
  uint32_t d;
  asm volatile("mov.u32 %0, %tid.x;" : "=r"(d));
  return d;
}

// No instruction: hides from the compiler where a value came from, so that nothing derived from it is kept for long.
__device__ __forceinline__ void forget(uint32_t& value) { asm volatile("" : "+r"(value)); }
__device__ __forceinline__ void forget(int& value) { asm volatile("" : "+r"(value)); }
__device__ __forceinline__ void forget(int64_t& value) { asm volatile("" : "+l"(value)); }
__device__ __forceinline__ void forget(const char*& value) { asm volatile("" : "+l"(value)); }
__device__ __forceinline__ void forget(float& value) { asm volatile("" : "+f"(value)); }

// pmevent 0;   PTX 1.4, sm_10. Marks code that runs rarely: profilers count it on a GPU, and who reads the machine code for
// the costs of a loop leaves it out.
__device__ __forceinline__ void mark_as_rare() { asm volatile("pmevent 0;"); }

// cp.async.cg.shared.global.L2::128B [dst], [src], 16, bytes;   PTX 7.0, sm_80. bytes is 16, or 0 to write zeros
// (src is then not read).
__device__ __forceinline__ void cp_async_16(uint32_t dst_smem, const void* src_gmem, uint32_t bytes) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(dst_smem), "l"(src_gmem), "r"(bytes)
               : "memory");
}

// cp.async.commit_group;   PTX 7.0, sm_80
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// cp.async.wait_group n;   PTX 7.0, sm_80. Waits until at most n of this thread's groups are pending; other threads'
// copies become visible only through a barrier after each thread's own wait.
template <int PENDING>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// ld.global.v4.u32 {d0, d1, d2, d3}, [a];   PTX 2.0, sm_20. a on a 16-byte boundary. Volatile, so that a load stays where
// it is written: compilers move it to its first use, and then loads that should fly together wait for one another.
__device__ __forceinline__ void load_global_4(uint32_t (&d)[4], const void* address_gmem) {
  asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "l"(address_gmem)
               : "memory");
}

// ldmatrix.sync.aligned.m8n8.x4.shared.b16 {d0,d1,d2,d3}, [addr];   PTX 6.5, sm_75
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&d)[4], uint32_t address_smem) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(address_smem)
               : "memory");
}

// ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {d0,d1,d2,d3}, [addr];   PTX 6.5, sm_75
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&d)[4], uint32_t address_smem) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(address_smem)
               : "memory");
}

// ld.shared.v4.f32 {d0,d1,d2,d3}, [addr];   PTX 2.0, sm_20
__device__ __forceinline__ float4 load_shared_4(uint32_t address_smem) {
  float4 d;
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(d.x), "=f"(d.y), "=f"(d.z), "=f"(d.w)
               : "r"(address_smem)
               : "memory");
  return d;
}

// ld.shared.v2.f32 {d0,d1}, [addr];   PTX 2.0, sm_20
__device__ __forceinline__ float2 load_shared_2(uint32_t address_smem) {
  float2 d;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(d.x), "=f"(d.y) : "r"(address_smem) : "memory");
  return d;
}

// mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 d, a, b, c;   PTX 7.0, sm_80
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                             const float (&c)[4], __half) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

// mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 d, a, b, c;   PTX 7.0, sm_80
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                             const float (&c)[4], __nv_bfloat16) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

// ex2.approx.ftz.f32 d, a;   PTX 1.4, sm_10. Within 2 ulp; ex2(-inf) = +0.
__device__ __forceinline__ float exp2_approx(float a) {
  float d;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(a));
  return d;
}

// rcp.approx.ftz.f32 d, a;   PTX 1.4, sm_10. Within 1 ulp; rcp(inf) = +0.
__device__ __forceinline__ float rcp_approx(float a) {
  float d;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(a));
  return d;
}

// lg2.approx.ftz.f32 d, a;   PTX 1.4, sm_10. Relative error 2^-22, absolute 2^-22 near 1.
__device__ __forceinline__ float log2_approx(float a) {
  float d;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(a));
  return d;
}

// cvt.rn.f16x2.f32 d, high, low;   PTX 7.0, sm_80
__device__ __forceinline__ uint32_t pack_rn(float low, float high, __half) {
  uint32_t d;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
  return d;
}

// cvt.rn.bf16x2.f32 d, high, low;   PTX 7.0, sm_80
__device__ __forceinline__ uint32_t pack_rn(float low, float high, __nv_bfloat16) {
  uint32_t d;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
  return d;
}

}  // namespace warpfold::ptx
