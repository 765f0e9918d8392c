// y = softmax(x) over rows of any length, one block of 128 threads a row; and sum += all elements of x.
//
// softmax.ptx is what `nvcc -O3 -std=c++17 -arch=compute_80 -lineinfo -ptx softmax.cu` (13.0.88) makes of it.
#include <math_constants.h>

__device__ __forceinline__ float block_reduce(float value, bool maximum) {
  __shared__ float parts[4];
  for (int distance = 16; distance; distance /= 2) {
    const float other = __shfl_xor_sync(~0u, value, distance);
    value = maximum ? fmaxf(value, other) : value + other;
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
  __syncthreads();
  value = parts[0];
  for (int part = 1; part < 4; ++part) value = maximum ? fmaxf(value, parts[part]) : value + parts[part];
  return value;
}

extern "C" __global__ void __launch_bounds__(128) softmax(const float* x, float* y, float* sum, int length) {
  x += (size_t)blockIdx.x * length;
  y += (size_t)blockIdx.x * length;
  float largest = -CUDART_INF_F;
  for (int i = threadIdx.x; i < length; i += 128) largest = fmaxf(largest, x[i]);
  largest = block_reduce(largest, true);
  float total = 0, plain = 0;
  for (int i = threadIdx.x; i < length; i += 128) {
    total += expf(x[i] - largest);
    plain += x[i];
  }
  total = block_reduce(total, false);
  plain = block_reduce(plain, false);
  for (int i = threadIdx.x; i < length; i += 128) y[i] = expf(x[i] - largest) / total;
  if (threadIdx.x == 0) atomicAdd(sum, plain);
}
