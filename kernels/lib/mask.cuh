// Which keys a query sees: a prefix [0, visible_keys) for every mask of this kernel.
#pragma once

#include "lib/params.h"

namespace warpfold {

struct KeyMask {
  int num_keys;  // min(len_kv, the sequence's key length): no query sees a key from here on
  bool causal;
  int offset;    // query i sits at position i + offset

  __device__ __forceinline__ KeyMask(const AttentionForwardParams& params, int batch_idx)
      : num_keys(params.len_kv), causal(params.causal != 0), offset(params.causal_offset) {
    if (params.key_lengths != 0) {
      const int length = reinterpret_cast<const int*>(params.key_lengths)[batch_idx];
      // Unchecked lengths must give wrong numbers at worst, never a stray access.
      num_keys = min(max(length, 0), num_keys);
    }
  }

  // Query i sees keys [0, visible_keys(i)). The plan checked that i + offset + 1 does not overflow.
  __device__ __forceinline__ int visible_keys(int query_idx) const {
    return causal ? min(max(query_idx + offset + 1, 0), num_keys) : num_keys;
  }
};

}  // namespace warpfold
