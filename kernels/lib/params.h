/* The parameters of every kernel: plain C structs, shared with Rust through bindgen
 * (src/params.rs is generated from this file by `cargo xtask bindings`).
 *
 * Each kernel takes one struct by value. A struct begins with the addresses of its tensors, what is read first
 * and what is written after, in the order of the enum beside it; the plan leaves them zero and the launcher fills
 * them in. A zero address is an absent tensor. Strides count bytes; sizes are multiples of 8 bytes. */
#ifndef WARPFOLD_PARAMS_H
#define WARPFOLD_PARAMS_H

#include <stdint.h>

/* Strides of the first three dimensions of a [batch, heads, len, head_dim] tensor; the last one is contiguous.
 * The row stride fits 32 bits. */
struct HeadStrides {
  int64_t batch;
  int64_t head;
  int64_t row;
};

/* Attention, forward: out = softmax(scale * q k^T + mask) v and its log-sum-exp. */
struct AttentionForwardParams {
  uint64_t q;           /* [batch, heads_q, len_q, head_dim] */
  uint64_t k;           /* [batch, heads_kv, len_kv, head_dim] */
  uint64_t v;           /* [batch, heads_kv, len_kv, head_dim] */
  uint64_t key_lengths; /* i32 [batch], or 0: every sequence has len_kv keys */
  uint64_t out;         /* [batch, heads_q, len_q, head_dim] */
  uint64_t lse;         /* f32 [batch, heads_q, len_q], natural log, contiguous, or 0 */
  struct HeadStrides q_strides;
  struct HeadStrides k_strides;
  struct HeadStrides v_strides;
  struct HeadStrides out_strides;
  uint32_t batch;
  uint32_t heads_q;
  uint32_t heads_per_kv; /* query heads that share one key head: heads_q / heads_kv */
  int32_t len_q;
  int32_t len_kv;
  uint32_t q_blocks;     /* ceil(len_q / BLOCK_Q); the grid is q_blocks * heads_q * batch, linear */
  float scale_log2;      /* scale * log2(e): the softmax is computed in base 2 */
  uint32_t causal;       /* 1: key j is visible to query i iff j <= i + causal_offset */
  int32_t causal_offset;
  uint32_t aligned;      /* 1: every row of q, k, v and out starts on a 16-byte boundary */
};

/* Up to three leading dimensions of a tensor whose last axis is the row. Row r sits at
 * (r / (n1 * n2)) * s0 + (r / n2 % n1) * s1 + (r % n2) * s2. */
struct RowStrides {
  int64_t s0;
  int64_t s1;
  int64_t s2;
};

/* Softmax over the last axis, forward. */
struct SoftmaxForwardParams {
  uint64_t x;
  uint64_t y;
  struct RowStrides x_strides;
  struct RowStrides y_strides;
  uint32_t n1;
  uint32_t n2;
  uint32_t rows;
  uint32_t columns;
};

/* Layer norm over the last axis, forward: y = (x - mean) * rstd * weight + bias. */
struct LayerNormForwardParams {
  uint64_t x;
  uint64_t weight; /* [columns], the type of x, or 0: one */
  uint64_t bias;   /* [columns], the type of x, or 0: zero */
  uint64_t y;
  uint64_t mean; /* f32 [rows], or 0 */
  uint64_t rstd; /* f32 [rows], or 0 */
  struct RowStrides x_strides;
  struct RowStrides y_strides;
  uint32_t n1;
  uint32_t n2;
  uint32_t rows;
  uint32_t columns;
  float eps;
  uint32_t reserved; /* keeps the size a multiple of 8 bytes */
};

#endif /* WARPFOLD_PARAMS_H */
