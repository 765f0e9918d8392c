// Conversions between storage types and f32, and 16-byte groups of elements.
#pragma once

#include "lib/ptx.cuh"

namespace warpfold {

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__half value) { return __half2float(value); }
__device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

template <typename Element>
__device__ __forceinline__ Element from_float(float value);
template <>
__device__ __forceinline__ float from_float<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ __half from_float<__half>(float value) {
  return __float2half_rn(value);
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

// Elements of one 16-byte access.
template <typename Element>
inline constexpr int VECTOR = 16 / static_cast<int>(sizeof(Element));

// One aligned 16-byte access worth of elements.
template <typename Element>
struct alignas(16) Vector {
  Element values[VECTOR<Element>];
};

// Two neighbouring elements, in one access.
template <typename Element>
__device__ __forceinline__ void store_pair(void* address, float low, float high, Element) {
  *reinterpret_cast<uint32_t*>(address) = ptx::pack_rn(low, high, Element());
}
__device__ __forceinline__ void store_pair(void* address, float low, float high, float) {
  *reinterpret_cast<float2*>(address) = make_float2(low, high);
}

}  // namespace warpfold
