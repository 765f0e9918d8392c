/* The parameters of every kernel: plain C structs, shared with Rust through bindgen
 * (src/params.rs is generated from this file by `cargo xtask bindings`).
 *
 * Each kernel takes one struct by value. A struct begins with the addresses of its tensors, what is read first
 * and what is written after, in the order of the enum beside it; the plan leaves them zero and the launcher fills
 * them in. A zero address is an absent tensor. Strides count bytes; sizes are multiples of 8 bytes.
 * A kernel for sm_90a takes its tensor maps besides, as a second struct. */
#ifndef WARPFOLD_PARAMS_H
#define WARPFOLD_PARAMS_H

#include <stdint.h>

#ifdef __cplusplus
/* A tensor map as the driver encodes it: opaque. Its kernel takes a struct of nothing but these, in the order of the plan. */
struct alignas(64) TensorMap {
  uint64_t opaque[16];
};
#endif

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
  uint32_t work_blocks;   /* blocks of work; a grid that is smaller walks them in strides of its own size */
  uint32_t reserved;      /* keeps the size a multiple of 8 bytes */
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

/* The rows of a tensor. Its leading dimensions merge into three; row r begins at
 * (r / (n1 * n2)) * s0 + (r / n2 % n1) * s1 + (r % n2) * s2 bytes. */
struct RowTensor {
  int64_t s0;
  int64_t s1;
  int64_t s2;
  uint32_t type;   /* an ElementType */
  uint32_t column; /* stride of the columns in elements: 1, or 0 for a tensor that is broadcast along the rows */
};

/* What all row operations know of a problem. A block of one row may own only a segment of it: then one launch leaves
 * a partial result of each segment, and a second one joins them and writes. */
struct RowShape {
  uint32_t n1; /* sizes of the second and third of the merged leading dimensions */
  uint32_t n2;
  uint32_t rows;
  uint32_t columns;
  uint32_t segments;
  uint32_t segment_columns; /* of every segment but the last: a multiple of 8 */
  uint32_t stage;           /* a RowStage */
  uint32_t reserved;        /* keeps the size a multiple of 8 bytes */
};

/* The type of a tensor's elements, where the kernel's own does not say it. */
enum ElementType { ELEMENT_F32 = 0, ELEMENT_F16 = 1, ELEMENT_BF16 = 2, ELEMENT_U8 = 3 };

/* What a launch of a row operation does. */
enum RowStage {
  STAGE_WHOLE = 0,    /* everything: rows of one segment */
  STAGE_PARTIALS = 1, /* writes the partial results of all segments */
  STAGE_JOIN = 2      /* joins the partial results of a row and writes its segment */
};

/* Softmax or log-softmax over the last axis, forward. */
struct SoftmaxForwardParams {
  uint64_t x;        /* or 0: in y, which is replaced */
  uint64_t bias;     /* added to the scaled x, or 0 */
  uint64_t mask;     /* bytes: 0 hides; or 0 */
  uint64_t y;
  uint64_t partials; /* f32 [rows, segments, 2]: each segment's maximum and sum; 0 for one segment */
  struct RowShape shape;
  struct RowTensor x_rows;
  struct RowTensor bias_rows;
  struct RowTensor mask_rows;
  struct RowTensor y_rows;
  float scale;
  uint32_t is_log;
  uint32_t is_banded;  /* 1: what follows hides columns */
  uint32_t len_q;      /* row r is query r % len_q, at position r % len_q + offset */
  int32_t offset;
  int32_t window_left; /* column j is visible iff position - left <= j <= position + right, or j < prefix */
  int32_t window_right;
  int32_t prefix;
};

/* The gradient of softmax or log-softmax over the last axis. */
struct SoftmaxBackwardParams {
  uint64_t y;
  uint64_t d_y;      /* or 0: in d_x, which is replaced */
  uint64_t d_x;
  uint64_t partials; /* f32 [rows, segments]: sums over segments; 0 for one segment */
  struct RowShape shape;
  struct RowTensor y_rows;
  struct RowTensor d_y_rows;
  struct RowTensor d_x_rows;
  float scale;
  uint32_t is_log;
};

/* What dropout needs to know. */
struct DropoutParams {
  uint64_t seed;
  uint32_t offset;
  uint32_t below;   /* an element is dropped iff its random word is below; 0: no dropout */
  float keep_scale; /* 1 / (1 - probability) */
  uint32_t reserved;
};

/* Layer norm or RMS norm over the last axis, forward: r = dropout(x) + residual, y = (r - mean) * rstd * weight + bias. */
struct NormForwardParams {
  uint64_t x;
  uint64_t residual; /* or 0 */
  uint64_t weight;   /* [columns], or 0: one */
  uint64_t bias;     /* [columns], or 0: zero */
  uint64_t y;        /* or 0: only statistics are wanted */
  uint64_t sum;      /* r, or 0 */
  uint64_t mean;     /* f32 [rows], or 0 */
  uint64_t rstd;     /* f32 [rows], or 0 */
  uint64_t partials; /* f32 [rows, segments, 2]: mean and sum of squared distances from it; 0 for one segment */
  struct RowShape shape;
  struct RowTensor x_rows;
  struct RowTensor residual_rows;
  struct RowTensor y_rows;
  struct RowTensor sum_rows;
  struct DropoutParams dropout;
  uint32_t weight_type;
  uint32_t bias_type;
  uint32_t sum_type;      /* r is rounded to this type, whether it is written or not */
  uint32_t is_centered;   /* 1: layer norm; 0: RMS norm, whose mean is 0 */
  float weight_offset;    /* added to the weight */
  float eps;
};

/* The gradients of layer norm or RMS norm over the last axis. r is what was normalised. */
struct NormBackwardParams {
  uint64_t d_y;
  uint64_t r;
  uint64_t d_sum;           /* the gradient of r from its other uses, or 0 */
  uint64_t weight;          /* [columns], or 0: one */
  uint64_t mean;            /* f32 [rows], or 0: recomputed, or 0 */
  uint64_t rstd;            /* f32 [rows], or 0: recomputed */
  uint64_t d_x;             /* the gradient of x: of r, through dropout */
  uint64_t d_residual;      /* the gradient of r, or 0 */
  uint64_t partials;        /* f32 [rows, segments, 2]: sums over segments; 0 for one segment */
  uint64_t weight_partials; /* f32 [parts, 2, columns]: parts of d_weight and d_bias; or 0 */
  struct RowShape shape;
  struct RowTensor d_y_rows;
  struct RowTensor r_rows;
  struct RowTensor d_sum_rows;
  struct RowTensor d_x_rows;
  struct RowTensor d_residual_rows;
  struct DropoutParams dropout;
  uint32_t parts; /* blocks that share the rows of a segment: block b takes rows b, b + parts, ... of groups of rows */
  uint32_t weight_type;
  uint32_t is_centered;
  float weight_offset;
  float eps;
  uint32_t reserved; /* keeps the size a multiple of 8 bytes */
};

/* Sums the parts of d_weight and d_bias in their order. */
struct NormWeightGradientsParams {
  uint64_t weight_partials; /* f32 [parts, 2, columns] */
  uint64_t d_weight;        /* [columns], or 0 */
  uint64_t d_bias;          /* [columns], or 0 */
  uint32_t parts;
  uint32_t columns;
  uint32_t d_weight_type;
  uint32_t d_bias_type;
};

#endif /* WARPFOLD_PARAMS_H */
