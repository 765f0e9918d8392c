// Neighbouring elements of a tensor of any type, in as few accesses as their address allows.
//
// Elements are held as they are stored, packed in 32-bit words, so that a load is just a load: what waits for it is the
// conversion, when all loads are under way.
#pragma once

#include "lib/pack.cuh"
#include "lib/params.h"

namespace warpfold {

template <typename Element>
__device__ __forceinline__ Element from_bits(uint32_t bits) {
  if constexpr (sizeof(Element) == 4) {
    return __uint_as_float(bits);
  } else {
    const auto half = static_cast<uint16_t>(bits);
    return *reinterpret_cast<const Element*>(&half);
  }
}

template <typename Element>
__device__ __forceinline__ uint32_t to_bits(float value) {
  const Element element = from_float<Element>(value);
  if constexpr (sizeof(Element) == 4) {
    return __float_as_uint(element);
  } else {
    return *reinterpret_cast<const uint16_t*>(&element);
  }
}

// N elements from packed words; one element is the low part of its word.
template <typename Element, int WORDS, int N>
__device__ __forceinline__ void unpack(const uint32_t (&words)[WORDS], float (&values)[N]) {
  if constexpr (sizeof(Element) == 4 || N == 1) {
    static_assert(WORDS == N, "a word an element");
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = to_float(from_bits<Element>(words[i]));
  } else {
    static_assert(2 * WORDS == N, "a word for two elements");
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = to_float(from_bits<Element>(words[i / 2] >> i % 2 * 16));
  }
}

template <typename Element, int WORDS, int N>
__device__ __forceinline__ void pack(const float (&values)[N], uint32_t (&words)[WORDS]) {
  if constexpr (sizeof(Element) == 4 || N == 1) {
    static_assert(WORDS == N, "a word an element");
#pragma unroll
    for (int i = 0; i < N; ++i) words[i] = to_bits<Element>(values[i]);
  } else {
    static_assert(2 * WORDS == N, "a word for two elements");
#pragma unroll
    for (int i = 0; i < WORDS; ++i) words[i] = ptx::pack_rn(values[2 * i], values[2 * i + 1], Element());
  }
}

// Words of N elements.
template <typename Element, int N>
inline constexpr int WORDS_OF = N == 1 ? 1 : N * static_cast<int>(sizeof(Element)) / 4;

// Loads WORDS packed words, or one element where that is a word of its own. ALIGNED words lie on a boundary of as many
// bytes as they have, 16 at most.
template <bool ALIGNED, typename Element, int WORDS>
__device__ __forceinline__ void load_words(const Element* first, uint32_t (&words)[WORDS]) {
  const auto* bytes = reinterpret_cast<const char*>(first);
  const auto address = static_cast<uint32_t>(reinterpret_cast<uint64_t>(first));
  constexpr int WIDE = WORDS < 4 ? WORDS : 4;
  if constexpr (WORDS == 1) {
    if constexpr (sizeof(Element) == 4) {
      words[0] = *reinterpret_cast<const uint32_t*>(bytes);
    } else {
      words[0] = *reinterpret_cast<const uint16_t*>(bytes);
    }
  } else if (ALIGNED || address % (4 * WIDE) == 0) {
#pragma unroll
    for (int w = 0; w < WORDS; w += WIDE) {
      if constexpr (WIDE == 4) {
        uint32_t four[4];
        ptx::load_global_4(four, bytes + 4 * w);
#pragma unroll
        for (int i = 0; i < 4; ++i) words[w + i] = four[i];
      } else {
        const uint2 two = *reinterpret_cast<const uint2*>(bytes + 4 * w);
        words[w] = two.x;
        words[w + 1] = two.y;
      }
    }
  } else if (sizeof(Element) == 4 || address % 4 == 0) {
#pragma unroll
    for (int w = 0; w < WORDS; ++w) words[w] = *reinterpret_cast<const uint32_t*>(bytes + 4 * w);
  } else {
    // The elements lie across word boundaries: their first and last half-word are loaded alone, so that nothing beside
    // them is touched.
    uint32_t low = *reinterpret_cast<const uint16_t*>(bytes) << 16;
#pragma unroll
    for (int w = 0; w < WORDS; ++w) {
      const char* next = bytes + 4 * w + 2;
      const uint32_t high = w + 1 < WORDS ? *reinterpret_cast<const uint32_t*>(next)
                                          : *reinterpret_cast<const uint16_t*>(next);
      words[w] = __funnelshift_l(low, high, 16);
      low = high;
    }
  }
}

template <bool ALIGNED, typename Element, int WORDS>
__device__ __forceinline__ void store_words(Element* first, const uint32_t (&words)[WORDS]) {
  auto* bytes = reinterpret_cast<char*>(first);
  const auto address = static_cast<uint32_t>(reinterpret_cast<uint64_t>(first));
  constexpr int WIDE = WORDS < 4 ? WORDS : 4;
  if constexpr (WORDS == 1) {
    if constexpr (sizeof(Element) == 4) {
      *reinterpret_cast<uint32_t*>(bytes) = words[0];
    } else {
      *reinterpret_cast<uint16_t*>(bytes) = static_cast<uint16_t>(words[0]);
    }
  } else if (ALIGNED || address % (4 * WIDE) == 0) {
#pragma unroll
    for (int w = 0; w < WORDS; w += WIDE) {
      if constexpr (WIDE == 4) {
        *reinterpret_cast<uint4*>(bytes + 4 * w) = make_uint4(words[w], words[w + 1], words[w + 2], words[w + 3]);
      } else {
        *reinterpret_cast<uint2*>(bytes + 4 * w) = make_uint2(words[w], words[w + 1]);
      }
    }
  } else if (sizeof(Element) == 4 || address % 4 == 0) {
#pragma unroll
    for (int w = 0; w < WORDS; ++w) *reinterpret_cast<uint32_t*>(bytes + 4 * w) = words[w];
  } else {
    *reinterpret_cast<uint16_t*>(bytes) = static_cast<uint16_t>(words[0]);
#pragma unroll
    for (int w = 0; w + 1 < WORDS; ++w) {
      *reinterpret_cast<uint32_t*>(bytes + 4 * w + 2) = __funnelshift_l(words[w], words[w + 1], 16);
    }
    *reinterpret_cast<uint16_t*>(bytes + 4 * WORDS - 2) = static_cast<uint16_t>(words[WORDS - 1] >> 16);
  }
}

// log2 of an element's size in bytes.
__device__ __forceinline__ int size_log2(uint32_t type) { return type == ELEMENT_F32 ? 2 : type == ELEMENT_U8 ? 0 : 1; }

// Calls f with a value of the type that `type` names. A kernel of a 16-bit type knows that one and f32, the kernel of f32 all.
template <typename Own, typename F>
__device__ __forceinline__ void with_type(uint32_t type, F f) {
  if constexpr (sizeof(Own) == 2) {
    if (type == ELEMENT_F32) {
      f(float());
    } else {
      f(Own());
    }
  } else {
    if (type == ELEMENT_F32) {
      f(float());
    } else if (type == ELEMENT_F16) {
      f(__half());
    } else {
      f(__nv_bfloat16());
    }
  }
}

// Rounds a value to the type that `type` names.
template <typename Own>
__device__ __forceinline__ float round_to(uint32_t type, float value) {
  with_type<Own>(type, [&](auto zero) { value = to_float(from_float<decltype(zero)>(value)); });
  return value;
}

}  // namespace warpfold
