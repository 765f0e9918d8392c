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

/* Strides of a [batch, heads_q, len_q, len_kv] tensor, 0 where it is broadcast. */
struct ScoreStrides {
  int64_t batch;
  int64_t head;
  int64_t query;
  int64_t key;
};

/* What all attention kernels know of a problem: how q, k and v lie in memory, which keys a query sees, and what happens
 * to a score. A row is a query of a query head.
 *
 * Packed sequences (query_lengths given) lie one after the other in tensors of one batch entry; len_q and len_kv are
 * then the rows of all of them. */
struct AttentionShape {
  struct HeadStrides q_strides;
  struct HeadStrides k_strides;
  struct HeadStrides v_strides;
  struct ScoreStrides bias_strides;
  struct ScoreStrides mask_strides;
  int64_t lse_batch;      /* strides of lse, delta and d_lse in elements; a row's stride is 1 */
  int64_t lse_head;
  int64_t slopes_batch;   /* stride of alibi_slopes in elements: heads_q, or 0 */
  uint64_t dropout_seed;
  uint32_t batch;         /* sequences */
  uint32_t heads_q;
  uint32_t heads_per_kv;  /* query heads that share one key head: heads_q / heads_kv */
  int32_t len_q;
  int32_t len_kv;
  int32_t head_dim;       /* may be less than the kernel's, which pads it with zeros */
  int32_t head_dim_v;
  float scale;
  float scale_log2;       /* scale * log2(e): the softmax is computed in base 2 */
  float softcap;          /* 0: none */
  uint32_t bottom_right;  /* 1: query i sits at position i + len_kv - len_q of its sequence; 0: at i + offset */
  int32_t offset;
  int32_t window_left;    /* key j is visible iff position - left <= j <= position + right; INT32_MAX: unbounded */
  int32_t window_right;
  int32_t prefix;         /* keys below are visible whatever the window says */
  int32_t key_begin;      /* only keys [key_begin, key_end) take part */
  int32_t key_end;
  uint32_t dropout_below; /* a weight is dropped iff its random word is below */
  float dropout_scale;    /* of the weights that are kept: 1 / (1 - probability); 0: no dropout */
  uint32_t dropout_offset;
  uint32_t packed_heads;  /* query heads that share a tile of query rows: 1, or heads_per_kv */
  uint32_t blocks;        /* row (or key) blocks of a sequence and head; packed sequences: of all sequences */
  uint32_t section;       /* (sequence, head) pairs whose blocks are scheduled together, so that their keys stay in L2 */
  uint32_t aligned;       /* 1: every row of every tensor starts on a 16-byte boundary */
};

/* Attention, forward: out = softmax(scores) v and the log of each row's sum of exponentials. */
struct AttentionForwardParams {
  uint64_t q;             /* [batch, heads_q, len_q, head_dim] */
  uint64_t k;             /* [batch, heads_kv, len_kv, head_dim] */
  uint64_t v;             /* [batch, heads_kv, len_kv, head_dim_v] */
  uint64_t bias;          /* the type of q, or 0 */
  uint64_t mask;          /* u8, 0 is hidden; or 0 */
  uint64_t alibi_slopes;  /* f32 [heads_q] or [batch, heads_q], or 0 */
  uint64_t key_lengths;   /* i32 [batch], or 0: every sequence has len_kv keys */
  uint64_t query_lengths; /* i32 [batch], or 0: sequences are not packed */
  uint64_t order;         /* i32 [batch], the sequences from the longest on, or 0: as they come */
  uint64_t sinks;         /* f32 [heads_q], or 0 */
  uint64_t out;           /* [batch, heads_q, len_q, head_dim_v] */
  uint64_t lse;           /* f32, natural log, or 0 */
  struct AttentionShape shape;
  struct HeadStrides out_strides;
  uint32_t out_f32;       /* 1: out is f32, whatever the type of q */
  uint32_t reserved;      /* keeps the size a multiple of 8 bytes */
};

/* Attention, backward: the kernels that compute d_q, d_k and d_v, or d_bias. */
struct AttentionBackwardParams {
  uint64_t q;
  uint64_t k;
  uint64_t v;
  uint64_t bias;
  uint64_t mask;
  uint64_t alibi_slopes;
  uint64_t key_lengths;
  uint64_t query_lengths;
  uint64_t order;
  uint64_t d_out;         /* [batch, heads_q, len_q, head_dim_v] */
  uint64_t lse;           /* f32, natural log */
  uint64_t delta;         /* f32: see AttentionDeltaParams */
  uint64_t d_q;
  uint64_t d_k;
  uint64_t d_v;
  uint64_t d_bias;
  struct AttentionShape shape;
  struct HeadStrides d_out_strides;
  struct HeadStrides d_q_strides;
  struct HeadStrides d_k_strides;
  struct HeadStrides d_v_strides;
  struct ScoreStrides d_bias_strides;
  uint32_t bias_batch;    /* sizes of d_bias, 1 where the bias is broadcast */
  uint32_t bias_heads;
  uint32_t bias_queries;
  int32_t bias_keys;
};

/* Attention, backward: delta = sum_d out d_out - d_lse of each row. */
struct AttentionDeltaParams {
  uint64_t out;
  uint64_t d_out;
  uint64_t d_lse;         /* f32, or 0 */
  uint64_t delta;         /* f32 */
  struct HeadStrides out_strides;
  struct HeadStrides d_out_strides;
  int64_t lse_batch;
  int64_t lse_head;
  uint32_t batch;         /* of the tensors: 1 for packed sequences */
  uint32_t heads_q;
  uint32_t len_q;
  uint32_t head_dim_v;
};

/* Attention, backward: d_sinks[head] = -sum over the head's rows of exp(sink - lse) delta. */
struct AttentionSinksParams {
  uint64_t sinks;
  uint64_t lse;
  uint64_t delta;
  uint64_t d_sinks;       /* f32 [heads_q] */
  int64_t lse_batch;
  int64_t lse_head;
  uint32_t batch;
  uint32_t len_q;
};

/* Partial results that one kernel merges, at most. */
#define ATTENTION_MERGE_MAX 16

/* Merges partial results over disjoint sets of keys. */
struct AttentionMergeParams {
  uint64_t parts[ATTENTION_MERGE_MAX];     /* f32 [batch, heads, len, head_dim_v], all with the same strides; or 0 */
  uint64_t parts_lse[ATTENTION_MERGE_MAX]; /* f32 [rows], natural log; or 0 */
  uint64_t sinks;                          /* f32 [heads], or 0 */
  uint64_t out;
  uint64_t lse;                            /* f32 [rows], or 0 */
  struct HeadStrides part_strides;
  struct HeadStrides out_strides;
  uint32_t batch;
  uint32_t heads;
  uint32_t len;
  uint32_t head_dim_v;
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
