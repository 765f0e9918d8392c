// The softmax of lib/online_softmax.cuh for a warpgroup: two rows a thread, whose scores leave the tensor cores as they are,
// not less their base.
//
// How a score becomes a weight is a choice: by the special-function unit (MUFU.EX2), or a share of them by the units for FP32. For
// head_dim 64 a tile has as many exponentials as the tensor cores have cycles for its products: 4 lanes of a warp are all that
// a sub-partition's MUFU does in a cycle. A polynomial takes 7 instructions more, which the scheduler has to spare.
//
//   x = n + r, n an integer, |r| <= 1/2            2^x = 2^n p(r)            p(r) = 1 + c1 r + c2 r^2 + c3 r^3 + c4 r^4
//
// Error: p is the minimax polynomial of its degree among those that are 1 at 0, off by at most 2.9e-6 of 2^r. x, near the largest
// weights, is off by 1e-6, as it is for the other weights. A log-sum-exp is off by no more than the worst of its weights: by
// less than the 2^-18 that tests allow for scores of 1. Rounding a weight to 16 bits takes 80 times as much and more.
//
// Source: Cody and Waite (1980) for the reduction; that attention has FP32 arithmetic to spare: FlashAttention-4 (2026), section 3.
#pragma once

#include "lib/hopper/ptx.cuh"
#include "lib/online_softmax.cuh"

namespace warpfold {

// 2^(c score + c shift), for one row: every one by the special-function unit.
struct Exponential {
  // Whether a NaN may come out as a number; it is out of the softmax's bounds then.
  static constexpr bool HIDES_NAN = false;

  float factor_log2, shift_log2;

  __device__ __forceinline__ Exponential(float factor_log2, float row_shift)
      : factor_log2(factor_log2), shift_log2(row_shift * factor_log2) {}
  __device__ __forceinline__ float operator()(float score, int) const {
    return ptx::exp2_approx(fmaf(score, factor_log2, shift_log2));
  }
};

// The same, the last 8 of every 8 * PERIOD columns of a tile by a polynomial. Which ones these are follows from the place in the
// tile alone, so that a row's bits do not depend on where else it lies.
template <int PERIOD>
struct MixedExponential {
  static constexpr bool HIDES_NAN = true;

  // x is limited to [X_MIN, X_MAX]: at X_MIN the result is +0, as that of -inf has to be, and from X_MAX on it is out of the
  // softmax's bounds.
  static constexpr float X_MIN = -127.0f, X_MAX = 9.0f, SPAN = X_MAX - X_MIN;
  // 1.5 * 2^23. Added to a number below 2^22, it leaves the integer nearest in the lowest bits.
  static constexpr float ROUNDER = 12582912.0f;

  Exponential others;
  float factor, shift;  // score * factor + shift: how far x is below X_MAX, in units of SPAN

  __device__ __forceinline__ MixedExponential(float factor_log2, float row_shift)
      : others(factor_log2, row_shift),
        factor(factor_log2 * (-1.0f / SPAN)),
        shift(fmaf(row_shift, factor, X_MAX / SPAN)) {}

  __device__ __forceinline__ float operator()(float score, int key_tile) const {
    if (key_tile % PERIOD != PERIOD - 1) return others(score, key_tile);
    // Downwards from X_MAX, because saturation makes 0 of NaN, too: it ends at X_MAX, not among the weights that vanish.
    const float below = ptx::fma_saturated(score, factor, shift);
    const float rounded = fmaf(below, -SPAN, ROUNDER + X_MAX);  // n in its lowest bits
    const float r = fmaf(below, -SPAN, (ROUNDER + X_MAX) - rounded);
    float p = fmaf(r, 0.009582853f, 0.055906425f);
    p = fmaf(p, r, 0.240240986f);
    p = fmaf(p, r, 0.693124193f);
    p = fmaf(p, r, 1.0f);
    // n is added to the exponent. For X_MIN, p is 1 and nothing is left: +0.
    return __uint_as_float(__float_as_uint(p) + (__float_as_uint(rounded) << 23));
  }
};

template <typename ToWeight>
struct WarpgroupSoftmax : OnlineSoftmax<1> {
  // What the weights of this thread's columns of a tile may add up to: nothing is in bounds before a row has a key.
  float sum_max[2] = {-1.0f, -1.0f};

  // Takes the scores of a tile of keys, as OnlineSoftmax does. `rescale(half, factor)` is called for both rows, perhaps with 1.
  template <int KEY_TILES, typename Store, typename Rescale>
  __device__ __forceinline__ void advance(const float (&s)[KEY_TILES][4], float factor_log2, Store store, Rescale rescale) {
    float tile_sum[2] = {weigh(s, 0, factor_log2, store), weigh(s, 1, factor_log2, store)};
    // Rare after a row's first tile. NaN need not be found: it stays in the sum.
    if (__any_sync(0xffffffff, !(fmaxf(tile_sum[0], tile_sum[1]) <= fminf(sum_max[0], sum_max[1])))) {
      ptx::mark_as_rare();
#pragma unroll
      for (int half = 0; half < 2; ++half) rescale(half, raise(s, half, factor_log2, tile_sum[half]));
#pragma unroll
      for (int half = 0; half < 2; ++half) tile_sum[half] = weigh_in_bounds(s, half, factor_log2, store);
    }
    sum[0][0] += tile_sum[0];
    sum[0][1] += tile_sum[1];
  }

  // The first tile of a row's keys, of one of its two rows or the other: there is no base yet to try.
  template <int KEY_TILES, typename Store>
  __device__ __forceinline__ void start_row(const float (&s)[KEY_TILES][4], int half, float factor_log2, Store store) {
    raise(s, half, factor_log2, 0.0f);
    sum[0][half] += weigh_in_bounds(s, half, factor_log2, store);
  }

  // As advance() for one of the two rows: its scores are done with before the other's weights take registers.
  template <int KEY_TILES, typename Store, typename Rescale>
  __device__ __forceinline__ void advance_row(const float (&s)[KEY_TILES][4], int half, float factor_log2, Store store,
                                              Rescale rescale) {
    float tile_sum = weigh(s, half, factor_log2, store);
    if (__any_sync(0xffffffff, !(tile_sum <= sum_max[half]))) {
      ptx::mark_as_rare();
      rescale(half, raise(s, half, factor_log2, tile_sum));
      tile_sum = weigh_in_bounds(s, half, factor_log2, store);
    }
    sum[0][half] += tile_sum;
  }

 private:
  // The weights of a row of a tile, and what this thread's columns of it add up to.
  template <int KEY_TILES, typename Store>
  __device__ __forceinline__ float weigh(const float (&s)[KEY_TILES][4], int half, float factor_log2, Store store) const {
    const ToWeight weight(factor_log2, shift[0][2 * half]);
    float tile_sum = 0.0f;
#pragma unroll
    for (int key_tile = 0; key_tile < KEY_TILES; ++key_tile) {
      const float low = weight(s[key_tile][2 * half], key_tile);
      const float high = weight(s[key_tile][2 * half + 1], key_tile);
      tile_sum = key_tile == 0 ? low + high : tile_sum + low + high;
      store(key_tile, half, low, high);
    }
    return tile_sum;
  }

  // The same after raise(): only a NaN is out of bounds now.
  template <int KEY_TILES, typename Store>
  __device__ __forceinline__ float weigh_in_bounds(const float (&s)[KEY_TILES][4], int half, float factor_log2, Store store) {
    sum_max[half] = shift[0][2 * half] == 0.0f ? -1.0f : TILE_SUM_MAX;
    const float tile_sum = weigh(s, half, factor_log2, store);
    return ToWeight::HIDES_NAN && tile_sum > TILE_SUM_MAX ? CUDART_NAN_F : tile_sum;
  }

  // Moves a row's base to the tile's maximum where the weights are out of bounds or the row's first. The factor for what was
  // accumulated before.
  template <int KEY_TILES>
  __device__ __forceinline__ float raise(const float (&s)[KEY_TILES][4], int half, float factor_log2, float tile_sum) {
    float tile_max = -CUDART_INF_F;
#pragma unroll
    for (int key_tile = 0; key_tile < KEY_TILES; ++key_tile) {
      tile_max = fmaxf(tile_max, fmaxf(s[key_tile][2 * half], s[key_tile][2 * half + 1]));
    }
    // Shuffles are for all lanes: before any of them leaves.
    tile_max = quad_max(tile_max);
    tile_sum = quad_max(tile_sum);
    const float before = shift[0][2 * half];
    const bool is_first = before == 0.0f && tile_max > -CUDART_INF_F;
    if (!is_first && !(tile_sum > TILE_SUM_MAX)) return 1.0f;
    // A shift of exactly 0 would mean that there is no key yet; a number this small shifts nothing either.
    shift[0][2 * half] = tile_max == 0.0f ? 1e-30f : -tile_max;
    // Nothing was accumulated before the first key, and the maximum may then be far below zero.
    const float factor = is_first ? 1.0f : ptx::exp2_approx(-factor_log2 * (tile_max + before));
    sum[0][half] *= factor;
    return factor;
  }
};

}  // namespace warpfold
