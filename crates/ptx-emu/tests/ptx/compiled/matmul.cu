// C = A B for a 64 x 64 tile per block: f16 operands, f32 sums, two stages of asynchronous copies.
//
//   A [rows, depth] and B [depth, 64], row-major, depth a multiple of 32; C [rows, 64] f32. 128 threads a block.
//
// matmul.ptx is what `nvcc -O3 -std=c++17 -arch=compute_80 -lineinfo -ptx matmul.cu` (13.0.88) makes of it.
#include <cuda_fp16.h>
#include <cstdint>

constexpr int TILE = 64, DEPTH = 32, THREADS = 128;

__device__ __forceinline__ uint32_t shared_address(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }

// Tiles of A have rows of 64 bytes, tiles of B of 128; 16-byte chunks are swizzled against bank conflicts.
__device__ __forceinline__ int a_offset(int row, int chunk) { return row * 64 + ((chunk ^ (row >> 1 & 3)) << 4); }
__device__ __forceinline__ int b_offset(int row, int chunk) { return row * 128 + ((chunk ^ (row & 7)) << 4); }

__device__ __forceinline__ void copy16(uint32_t to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}

__device__ __forceinline__ void load(char* a, char* b, const __half* A, const __half* B, int depth, int step) {
  for (int i = threadIdx.x; i < TILE * 4; i += THREADS)
    copy16(shared_address(a) + a_offset(i / 4, i % 4), A + (size_t)(i / 4) * depth + step * DEPTH + i % 4 * 8);
  for (int i = threadIdx.x; i < DEPTH * 8; i += THREADS)
    copy16(shared_address(b) + b_offset(i / 8, i % 8), B + (size_t)(step * DEPTH + i / 8) * TILE + i % 8 * 8);
  asm volatile("cp.async.commit_group;" ::: "memory");
}

extern "C" __global__ void __launch_bounds__(THREADS) matmul(const __half* A, const __half* B, float* C, int depth) {
  __shared__ alignas(128) char a_smem[2][TILE * DEPTH * 2], b_smem[2][TILE * DEPTH * 2];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, steps = depth / DEPTH;
  A += (size_t)blockIdx.x * TILE * depth;
  float sums[8][4] = {};
  load(a_smem[0], b_smem[0], A, B, depth, 0);
  for (int step = 0; step < steps; ++step) {
    const int stage = step % 2;
    if (step + 1 < steps) {
      load(a_smem[stage ^ 1], b_smem[stage ^ 1], A, B, depth, step + 1);
      asm volatile("cp.async.wait_group 1;" ::: "memory");
    } else {
      asm volatile("cp.async.wait_group 0;" ::: "memory");
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < DEPTH / 16; ++k) {
      uint32_t a[4];
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                   : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
                   : "r"(shared_address(a_smem[stage]) + a_offset(warp * 16 + lane % 16, k * 2 + lane / 16)) : "memory");
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        uint32_t b[4];
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
                     : "r"(shared_address(b_smem[stage]) + b_offset(k * 16 + lane % 16, n * 2 + lane / 16)) : "memory");
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float(&c)[4] = sums[2 * n + half];
          asm volatile(
              "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
              "{%0, %1, %2, %3};"
              : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
              : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[2 * half]), "r"(b[2 * half + 1]));
        }
      }
    }
    __syncthreads();
  }
  float* row = C + ((size_t)blockIdx.x * TILE + warp * 16 + lane / 4) * TILE + lane % 4 * 2;
  for (int n = 0; n < 8; ++n) {
    *(float2*)(row + n * 8) = make_float2(sums[n][0], sums[n][1]);
    *(float2*)(row + 8 * TILE + n * 8) = make_float2(sums[n][2], sums[n][3]);
  }
}
