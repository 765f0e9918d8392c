//! The kernels' parameters, as they lie in memory.
//!
//! Generated from kernels/lib/params.h by `cargo xtask bindings` (bindgen); the test run compares. Do not edit.
#![allow(missing_docs, clippy::unnecessary_operation, clippy::identity_op, rustdoc::broken_intra_doc_links)]

/// Strides of the first three dimensions of a [batch, heads, len, head_dim] tensor; the last one is contiguous.
/// The row stride fits 32 bits.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct HeadStrides {
    pub batch: i64,
    pub head: i64,
    pub row: i64,
}
const _: () = {
    ["Size of HeadStrides"][::std::mem::size_of::<HeadStrides>() - 24usize];
    ["Alignment of HeadStrides"][::std::mem::align_of::<HeadStrides>() - 8usize];
    ["Offset of field: HeadStrides::batch"][::std::mem::offset_of!(HeadStrides, batch) - 0usize];
    ["Offset of field: HeadStrides::head"][::std::mem::offset_of!(HeadStrides, head) - 8usize];
    ["Offset of field: HeadStrides::row"][::std::mem::offset_of!(HeadStrides, row) - 16usize];
};

/// Strides of a [batch, heads_q, len_q, len_kv] tensor, 0 where it is broadcast.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct ScoreStrides {
    pub batch: i64,
    pub head: i64,
    pub query: i64,
    pub key: i64,
}
const _: () = {
    ["Size of ScoreStrides"][::std::mem::size_of::<ScoreStrides>() - 32usize];
    ["Alignment of ScoreStrides"][::std::mem::align_of::<ScoreStrides>() - 8usize];
    ["Offset of field: ScoreStrides::batch"][::std::mem::offset_of!(ScoreStrides, batch) - 0usize];
    ["Offset of field: ScoreStrides::head"][::std::mem::offset_of!(ScoreStrides, head) - 8usize];
    ["Offset of field: ScoreStrides::query"][::std::mem::offset_of!(ScoreStrides, query) - 16usize];
    ["Offset of field: ScoreStrides::key"][::std::mem::offset_of!(ScoreStrides, key) - 24usize];
};

/// What all attention kernels know of a problem: how q, k and v lie in memory, which keys a query sees, and what happens
/// to a score. A row is a query of a query head.
///
/// Packed sequences (query_lengths given) lie one after the other in tensors of one batch entry; len_q and len_kv are
/// then the rows of all of them.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct AttentionShape {
    pub q_strides: HeadStrides,
    pub k_strides: HeadStrides,
    pub v_strides: HeadStrides,
    pub bias_strides: ScoreStrides,
    pub mask_strides: ScoreStrides,
    /// strides of lse, delta and d_lse in elements; a row's stride is 1
    pub lse_batch: i64,
    pub lse_head: i64,
    /// stride of alibi_slopes in elements: heads_q, or 0
    pub slopes_batch: i64,
    pub dropout_seed: u64,
    /// sequences
    pub batch: u32,
    pub heads_q: u32,
    /// query heads that share one key head: heads_q / heads_kv
    pub heads_per_kv: u32,
    pub len_q: i32,
    pub len_kv: i32,
    /// may be less than the kernel's, which pads it with zeros
    pub head_dim: i32,
    pub head_dim_v: i32,
    pub scale: f32,
    /// scale * log2(e): the softmax is computed in base 2
    pub scale_log2: f32,
    /// 0: none
    pub softcap: f32,
    /// 1: query i sits at position i + len_kv - len_q of its sequence; 0: at i + offset
    pub bottom_right: u32,
    pub offset: i32,
    /// key j is visible iff position - left <= j <= position + right; INT32_MAX: unbounded
    pub window_left: i32,
    pub window_right: i32,
    /// keys below are visible whatever the window says
    pub prefix: i32,
    /// only keys [key_begin, key_end) take part
    pub key_begin: i32,
    pub key_end: i32,
    /// a weight is dropped iff its random word is below
    pub dropout_below: u32,
    /// of the weights that are kept: 1 / (1 - probability); 0: no dropout
    pub dropout_scale: f32,
    pub dropout_offset: u32,
    /// query heads that share a tile of query rows: 1, or heads_per_kv
    pub packed_heads: u32,
    /// row (or key) blocks of a sequence and head; packed sequences: of all sequences
    pub blocks: u32,
    /// (sequence, head) pairs whose blocks are scheduled together, so that their keys stay in L2
    pub section: u32,
    /// 1: every row of every tensor starts on a 16-byte boundary
    pub aligned: u32,
    /// blocks of work; a grid that is smaller walks them in strides of its own size
    pub work_blocks: u32,
    /// keeps the size a multiple of 8 bytes
    pub reserved: u32,
}
const _: () = {
    ["Size of AttentionShape"][::std::mem::size_of::<AttentionShape>() - 272usize];
    ["Alignment of AttentionShape"][::std::mem::align_of::<AttentionShape>() - 8usize];
    ["Offset of field: AttentionShape::q_strides"][::std::mem::offset_of!(AttentionShape, q_strides) - 0usize];
    ["Offset of field: AttentionShape::k_strides"][::std::mem::offset_of!(AttentionShape, k_strides) - 24usize];
    ["Offset of field: AttentionShape::v_strides"][::std::mem::offset_of!(AttentionShape, v_strides) - 48usize];
    ["Offset of field: AttentionShape::bias_strides"][::std::mem::offset_of!(AttentionShape, bias_strides) - 72usize];
    ["Offset of field: AttentionShape::mask_strides"][::std::mem::offset_of!(AttentionShape, mask_strides) - 104usize];
    ["Offset of field: AttentionShape::lse_batch"][::std::mem::offset_of!(AttentionShape, lse_batch) - 136usize];
    ["Offset of field: AttentionShape::lse_head"][::std::mem::offset_of!(AttentionShape, lse_head) - 144usize];
    ["Offset of field: AttentionShape::slopes_batch"][::std::mem::offset_of!(AttentionShape, slopes_batch) - 152usize];
    ["Offset of field: AttentionShape::dropout_seed"][::std::mem::offset_of!(AttentionShape, dropout_seed) - 160usize];
    ["Offset of field: AttentionShape::batch"][::std::mem::offset_of!(AttentionShape, batch) - 168usize];
    ["Offset of field: AttentionShape::heads_q"][::std::mem::offset_of!(AttentionShape, heads_q) - 172usize];
    ["Offset of field: AttentionShape::heads_per_kv"][::std::mem::offset_of!(AttentionShape, heads_per_kv) - 176usize];
    ["Offset of field: AttentionShape::len_q"][::std::mem::offset_of!(AttentionShape, len_q) - 180usize];
    ["Offset of field: AttentionShape::len_kv"][::std::mem::offset_of!(AttentionShape, len_kv) - 184usize];
    ["Offset of field: AttentionShape::head_dim"][::std::mem::offset_of!(AttentionShape, head_dim) - 188usize];
    ["Offset of field: AttentionShape::head_dim_v"][::std::mem::offset_of!(AttentionShape, head_dim_v) - 192usize];
    ["Offset of field: AttentionShape::scale"][::std::mem::offset_of!(AttentionShape, scale) - 196usize];
    ["Offset of field: AttentionShape::scale_log2"][::std::mem::offset_of!(AttentionShape, scale_log2) - 200usize];
    ["Offset of field: AttentionShape::softcap"][::std::mem::offset_of!(AttentionShape, softcap) - 204usize];
    ["Offset of field: AttentionShape::bottom_right"][::std::mem::offset_of!(AttentionShape, bottom_right) - 208usize];
    ["Offset of field: AttentionShape::offset"][::std::mem::offset_of!(AttentionShape, offset) - 212usize];
    ["Offset of field: AttentionShape::window_left"][::std::mem::offset_of!(AttentionShape, window_left) - 216usize];
    ["Offset of field: AttentionShape::window_right"][::std::mem::offset_of!(AttentionShape, window_right) - 220usize];
    ["Offset of field: AttentionShape::prefix"][::std::mem::offset_of!(AttentionShape, prefix) - 224usize];
    ["Offset of field: AttentionShape::key_begin"][::std::mem::offset_of!(AttentionShape, key_begin) - 228usize];
    ["Offset of field: AttentionShape::key_end"][::std::mem::offset_of!(AttentionShape, key_end) - 232usize];
    ["Offset of field: AttentionShape::dropout_below"]
        [::std::mem::offset_of!(AttentionShape, dropout_below) - 236usize];
    ["Offset of field: AttentionShape::dropout_scale"]
        [::std::mem::offset_of!(AttentionShape, dropout_scale) - 240usize];
    ["Offset of field: AttentionShape::dropout_offset"]
        [::std::mem::offset_of!(AttentionShape, dropout_offset) - 244usize];
    ["Offset of field: AttentionShape::packed_heads"][::std::mem::offset_of!(AttentionShape, packed_heads) - 248usize];
    ["Offset of field: AttentionShape::blocks"][::std::mem::offset_of!(AttentionShape, blocks) - 252usize];
    ["Offset of field: AttentionShape::section"][::std::mem::offset_of!(AttentionShape, section) - 256usize];
    ["Offset of field: AttentionShape::aligned"][::std::mem::offset_of!(AttentionShape, aligned) - 260usize];
    ["Offset of field: AttentionShape::work_blocks"][::std::mem::offset_of!(AttentionShape, work_blocks) - 264usize];
    ["Offset of field: AttentionShape::reserved"][::std::mem::offset_of!(AttentionShape, reserved) - 268usize];
};

/// Attention, forward: out = softmax(scores) v and the log of each row's sum of exponentials.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct AttentionForwardParams {
    /// [batch, heads_q, len_q, head_dim]
    pub q: u64,
    /// [batch, heads_kv, len_kv, head_dim]
    pub k: u64,
    /// [batch, heads_kv, len_kv, head_dim_v]
    pub v: u64,
    /// the type of q, or 0
    pub bias: u64,
    /// u8, 0 is hidden; or 0
    pub mask: u64,
    /// f32 [heads_q] or [batch, heads_q], or 0
    pub alibi_slopes: u64,
    /// i32 [batch], or 0: every sequence has len_kv keys
    pub key_lengths: u64,
    /// i32 [batch], or 0: sequences are not packed
    pub query_lengths: u64,
    /// i32 [batch], the sequences from the longest on, or 0: as they come
    pub order: u64,
    /// f32 [heads_q], or 0
    pub sinks: u64,
    /// [batch, heads_q, len_q, head_dim_v]
    pub out: u64,
    /// f32, natural log, or 0
    pub lse: u64,
    pub shape: AttentionShape,
    pub out_strides: HeadStrides,
    /// 1: out is f32, whatever the type of q
    pub out_f32: u32,
    /// keeps the size a multiple of 8 bytes
    pub reserved: u32,
}
const _: () = {
    ["Size of AttentionForwardParams"][::std::mem::size_of::<AttentionForwardParams>() - 400usize];
    ["Alignment of AttentionForwardParams"][::std::mem::align_of::<AttentionForwardParams>() - 8usize];
    ["Offset of field: AttentionForwardParams::q"][::std::mem::offset_of!(AttentionForwardParams, q) - 0usize];
    ["Offset of field: AttentionForwardParams::k"][::std::mem::offset_of!(AttentionForwardParams, k) - 8usize];
    ["Offset of field: AttentionForwardParams::v"][::std::mem::offset_of!(AttentionForwardParams, v) - 16usize];
    ["Offset of field: AttentionForwardParams::bias"][::std::mem::offset_of!(AttentionForwardParams, bias) - 24usize];
    ["Offset of field: AttentionForwardParams::mask"][::std::mem::offset_of!(AttentionForwardParams, mask) - 32usize];
    ["Offset of field: AttentionForwardParams::alibi_slopes"]
        [::std::mem::offset_of!(AttentionForwardParams, alibi_slopes) - 40usize];
    ["Offset of field: AttentionForwardParams::key_lengths"]
        [::std::mem::offset_of!(AttentionForwardParams, key_lengths) - 48usize];
    ["Offset of field: AttentionForwardParams::query_lengths"]
        [::std::mem::offset_of!(AttentionForwardParams, query_lengths) - 56usize];
    ["Offset of field: AttentionForwardParams::order"][::std::mem::offset_of!(AttentionForwardParams, order) - 64usize];
    ["Offset of field: AttentionForwardParams::sinks"][::std::mem::offset_of!(AttentionForwardParams, sinks) - 72usize];
    ["Offset of field: AttentionForwardParams::out"][::std::mem::offset_of!(AttentionForwardParams, out) - 80usize];
    ["Offset of field: AttentionForwardParams::lse"][::std::mem::offset_of!(AttentionForwardParams, lse) - 88usize];
    ["Offset of field: AttentionForwardParams::shape"][::std::mem::offset_of!(AttentionForwardParams, shape) - 96usize];
    ["Offset of field: AttentionForwardParams::out_strides"]
        [::std::mem::offset_of!(AttentionForwardParams, out_strides) - 368usize];
    ["Offset of field: AttentionForwardParams::out_f32"]
        [::std::mem::offset_of!(AttentionForwardParams, out_f32) - 392usize];
    ["Offset of field: AttentionForwardParams::reserved"]
        [::std::mem::offset_of!(AttentionForwardParams, reserved) - 396usize];
};

/// Attention, backward: the kernels that compute d_q, d_k and d_v, or d_bias.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct AttentionBackwardParams {
    pub q: u64,
    pub k: u64,
    pub v: u64,
    pub bias: u64,
    pub mask: u64,
    pub alibi_slopes: u64,
    pub key_lengths: u64,
    pub query_lengths: u64,
    pub order: u64,
    /// [batch, heads_q, len_q, head_dim_v]
    pub d_out: u64,
    /// f32, natural log
    pub lse: u64,
    /// f32: see AttentionDeltaParams
    pub delta: u64,
    pub d_q: u64,
    pub d_k: u64,
    pub d_v: u64,
    pub d_bias: u64,
    pub shape: AttentionShape,
    pub d_out_strides: HeadStrides,
    pub d_q_strides: HeadStrides,
    pub d_k_strides: HeadStrides,
    pub d_v_strides: HeadStrides,
    pub d_bias_strides: ScoreStrides,
    /// sizes of d_bias, 1 where the bias is broadcast
    pub bias_batch: u32,
    pub bias_heads: u32,
    pub bias_queries: u32,
    pub bias_keys: i32,
}
const _: () = {
    ["Size of AttentionBackwardParams"][::std::mem::size_of::<AttentionBackwardParams>() - 544usize];
    ["Alignment of AttentionBackwardParams"][::std::mem::align_of::<AttentionBackwardParams>() - 8usize];
    ["Offset of field: AttentionBackwardParams::q"][::std::mem::offset_of!(AttentionBackwardParams, q) - 0usize];
    ["Offset of field: AttentionBackwardParams::k"][::std::mem::offset_of!(AttentionBackwardParams, k) - 8usize];
    ["Offset of field: AttentionBackwardParams::v"][::std::mem::offset_of!(AttentionBackwardParams, v) - 16usize];
    ["Offset of field: AttentionBackwardParams::bias"][::std::mem::offset_of!(AttentionBackwardParams, bias) - 24usize];
    ["Offset of field: AttentionBackwardParams::mask"][::std::mem::offset_of!(AttentionBackwardParams, mask) - 32usize];
    ["Offset of field: AttentionBackwardParams::alibi_slopes"]
        [::std::mem::offset_of!(AttentionBackwardParams, alibi_slopes) - 40usize];
    ["Offset of field: AttentionBackwardParams::key_lengths"]
        [::std::mem::offset_of!(AttentionBackwardParams, key_lengths) - 48usize];
    ["Offset of field: AttentionBackwardParams::query_lengths"]
        [::std::mem::offset_of!(AttentionBackwardParams, query_lengths) - 56usize];
    ["Offset of field: AttentionBackwardParams::order"]
        [::std::mem::offset_of!(AttentionBackwardParams, order) - 64usize];
    ["Offset of field: AttentionBackwardParams::d_out"]
        [::std::mem::offset_of!(AttentionBackwardParams, d_out) - 72usize];
    ["Offset of field: AttentionBackwardParams::lse"][::std::mem::offset_of!(AttentionBackwardParams, lse) - 80usize];
    ["Offset of field: AttentionBackwardParams::delta"]
        [::std::mem::offset_of!(AttentionBackwardParams, delta) - 88usize];
    ["Offset of field: AttentionBackwardParams::d_q"][::std::mem::offset_of!(AttentionBackwardParams, d_q) - 96usize];
    ["Offset of field: AttentionBackwardParams::d_k"][::std::mem::offset_of!(AttentionBackwardParams, d_k) - 104usize];
    ["Offset of field: AttentionBackwardParams::d_v"][::std::mem::offset_of!(AttentionBackwardParams, d_v) - 112usize];
    ["Offset of field: AttentionBackwardParams::d_bias"]
        [::std::mem::offset_of!(AttentionBackwardParams, d_bias) - 120usize];
    ["Offset of field: AttentionBackwardParams::shape"]
        [::std::mem::offset_of!(AttentionBackwardParams, shape) - 128usize];
    ["Offset of field: AttentionBackwardParams::d_out_strides"]
        [::std::mem::offset_of!(AttentionBackwardParams, d_out_strides) - 400usize];
    ["Offset of field: AttentionBackwardParams::d_q_strides"]
        [::std::mem::offset_of!(AttentionBackwardParams, d_q_strides) - 424usize];
    ["Offset of field: AttentionBackwardParams::d_k_strides"]
        [::std::mem::offset_of!(AttentionBackwardParams, d_k_strides) - 448usize];
    ["Offset of field: AttentionBackwardParams::d_v_strides"]
        [::std::mem::offset_of!(AttentionBackwardParams, d_v_strides) - 472usize];
    ["Offset of field: AttentionBackwardParams::d_bias_strides"]
        [::std::mem::offset_of!(AttentionBackwardParams, d_bias_strides) - 496usize];
    ["Offset of field: AttentionBackwardParams::bias_batch"]
        [::std::mem::offset_of!(AttentionBackwardParams, bias_batch) - 528usize];
    ["Offset of field: AttentionBackwardParams::bias_heads"]
        [::std::mem::offset_of!(AttentionBackwardParams, bias_heads) - 532usize];
    ["Offset of field: AttentionBackwardParams::bias_queries"]
        [::std::mem::offset_of!(AttentionBackwardParams, bias_queries) - 536usize];
    ["Offset of field: AttentionBackwardParams::bias_keys"]
        [::std::mem::offset_of!(AttentionBackwardParams, bias_keys) - 540usize];
};

/// Attention, backward: delta = sum_d out d_out - d_lse of each row.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct AttentionDeltaParams {
    pub out: u64,
    pub d_out: u64,
    /// f32, or 0
    pub d_lse: u64,
    /// f32
    pub delta: u64,
    pub out_strides: HeadStrides,
    pub d_out_strides: HeadStrides,
    pub lse_batch: i64,
    pub lse_head: i64,
    /// of the tensors: 1 for packed sequences
    pub batch: u32,
    pub heads_q: u32,
    pub len_q: u32,
    pub head_dim_v: u32,
}
const _: () = {
    ["Size of AttentionDeltaParams"][::std::mem::size_of::<AttentionDeltaParams>() - 112usize];
    ["Alignment of AttentionDeltaParams"][::std::mem::align_of::<AttentionDeltaParams>() - 8usize];
    ["Offset of field: AttentionDeltaParams::out"][::std::mem::offset_of!(AttentionDeltaParams, out) - 0usize];
    ["Offset of field: AttentionDeltaParams::d_out"][::std::mem::offset_of!(AttentionDeltaParams, d_out) - 8usize];
    ["Offset of field: AttentionDeltaParams::d_lse"][::std::mem::offset_of!(AttentionDeltaParams, d_lse) - 16usize];
    ["Offset of field: AttentionDeltaParams::delta"][::std::mem::offset_of!(AttentionDeltaParams, delta) - 24usize];
    ["Offset of field: AttentionDeltaParams::out_strides"]
        [::std::mem::offset_of!(AttentionDeltaParams, out_strides) - 32usize];
    ["Offset of field: AttentionDeltaParams::d_out_strides"]
        [::std::mem::offset_of!(AttentionDeltaParams, d_out_strides) - 56usize];
    ["Offset of field: AttentionDeltaParams::lse_batch"]
        [::std::mem::offset_of!(AttentionDeltaParams, lse_batch) - 80usize];
    ["Offset of field: AttentionDeltaParams::lse_head"]
        [::std::mem::offset_of!(AttentionDeltaParams, lse_head) - 88usize];
    ["Offset of field: AttentionDeltaParams::batch"][::std::mem::offset_of!(AttentionDeltaParams, batch) - 96usize];
    ["Offset of field: AttentionDeltaParams::heads_q"]
        [::std::mem::offset_of!(AttentionDeltaParams, heads_q) - 100usize];
    ["Offset of field: AttentionDeltaParams::len_q"][::std::mem::offset_of!(AttentionDeltaParams, len_q) - 104usize];
    ["Offset of field: AttentionDeltaParams::head_dim_v"]
        [::std::mem::offset_of!(AttentionDeltaParams, head_dim_v) - 108usize];
};

/// Attention, backward: d_sinks[head] = -sum over the head's rows of exp(sink - lse) delta.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct AttentionSinksParams {
    pub sinks: u64,
    pub lse: u64,
    pub delta: u64,
    /// f32 [heads_q]
    pub d_sinks: u64,
    pub lse_batch: i64,
    pub lse_head: i64,
    pub batch: u32,
    pub len_q: u32,
}
const _: () = {
    ["Size of AttentionSinksParams"][::std::mem::size_of::<AttentionSinksParams>() - 56usize];
    ["Alignment of AttentionSinksParams"][::std::mem::align_of::<AttentionSinksParams>() - 8usize];
    ["Offset of field: AttentionSinksParams::sinks"][::std::mem::offset_of!(AttentionSinksParams, sinks) - 0usize];
    ["Offset of field: AttentionSinksParams::lse"][::std::mem::offset_of!(AttentionSinksParams, lse) - 8usize];
    ["Offset of field: AttentionSinksParams::delta"][::std::mem::offset_of!(AttentionSinksParams, delta) - 16usize];
    ["Offset of field: AttentionSinksParams::d_sinks"][::std::mem::offset_of!(AttentionSinksParams, d_sinks) - 24usize];
    ["Offset of field: AttentionSinksParams::lse_batch"]
        [::std::mem::offset_of!(AttentionSinksParams, lse_batch) - 32usize];
    ["Offset of field: AttentionSinksParams::lse_head"]
        [::std::mem::offset_of!(AttentionSinksParams, lse_head) - 40usize];
    ["Offset of field: AttentionSinksParams::batch"][::std::mem::offset_of!(AttentionSinksParams, batch) - 48usize];
    ["Offset of field: AttentionSinksParams::len_q"][::std::mem::offset_of!(AttentionSinksParams, len_q) - 52usize];
};

/// Merges partial results over disjoint sets of keys.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct AttentionMergeParams {
    /// f32 [batch, heads, len, head_dim_v], all with the same strides; or 0
    pub parts: [u64; 16usize],
    /// f32 [rows], natural log; or 0
    pub parts_lse: [u64; 16usize],
    /// f32 [heads], or 0
    pub sinks: u64,
    pub out: u64,
    /// f32 [rows], or 0
    pub lse: u64,
    pub part_strides: HeadStrides,
    pub out_strides: HeadStrides,
    pub batch: u32,
    pub heads: u32,
    pub len: u32,
    pub head_dim_v: u32,
}
const _: () = {
    ["Size of AttentionMergeParams"][::std::mem::size_of::<AttentionMergeParams>() - 344usize];
    ["Alignment of AttentionMergeParams"][::std::mem::align_of::<AttentionMergeParams>() - 8usize];
    ["Offset of field: AttentionMergeParams::parts"][::std::mem::offset_of!(AttentionMergeParams, parts) - 0usize];
    ["Offset of field: AttentionMergeParams::parts_lse"]
        [::std::mem::offset_of!(AttentionMergeParams, parts_lse) - 128usize];
    ["Offset of field: AttentionMergeParams::sinks"][::std::mem::offset_of!(AttentionMergeParams, sinks) - 256usize];
    ["Offset of field: AttentionMergeParams::out"][::std::mem::offset_of!(AttentionMergeParams, out) - 264usize];
    ["Offset of field: AttentionMergeParams::lse"][::std::mem::offset_of!(AttentionMergeParams, lse) - 272usize];
    ["Offset of field: AttentionMergeParams::part_strides"]
        [::std::mem::offset_of!(AttentionMergeParams, part_strides) - 280usize];
    ["Offset of field: AttentionMergeParams::out_strides"]
        [::std::mem::offset_of!(AttentionMergeParams, out_strides) - 304usize];
    ["Offset of field: AttentionMergeParams::batch"][::std::mem::offset_of!(AttentionMergeParams, batch) - 328usize];
    ["Offset of field: AttentionMergeParams::heads"][::std::mem::offset_of!(AttentionMergeParams, heads) - 332usize];
    ["Offset of field: AttentionMergeParams::len"][::std::mem::offset_of!(AttentionMergeParams, len) - 336usize];
    ["Offset of field: AttentionMergeParams::head_dim_v"]
        [::std::mem::offset_of!(AttentionMergeParams, head_dim_v) - 340usize];
};

/// The rows of a tensor. Its leading dimensions merge into three; row r begins at
/// (r / (n1 * n2)) * s0 + (r / n2 % n1) * s1 + (r % n2) * s2 bytes.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct RowTensor {
    pub s0: i64,
    pub s1: i64,
    pub s2: i64,
    /// an ElementType
    pub type_: u32,
    /// stride of the columns in elements: 1, or 0 for a tensor that is broadcast along the rows
    pub column: u32,
}
const _: () = {
    ["Size of RowTensor"][::std::mem::size_of::<RowTensor>() - 32usize];
    ["Alignment of RowTensor"][::std::mem::align_of::<RowTensor>() - 8usize];
    ["Offset of field: RowTensor::s0"][::std::mem::offset_of!(RowTensor, s0) - 0usize];
    ["Offset of field: RowTensor::s1"][::std::mem::offset_of!(RowTensor, s1) - 8usize];
    ["Offset of field: RowTensor::s2"][::std::mem::offset_of!(RowTensor, s2) - 16usize];
    ["Offset of field: RowTensor::type_"][::std::mem::offset_of!(RowTensor, type_) - 24usize];
    ["Offset of field: RowTensor::column"][::std::mem::offset_of!(RowTensor, column) - 28usize];
};

/// What all row operations know of a problem. A block of one row may own only a segment of it: then one launch leaves
/// a partial result of each segment, and a second one joins them and writes.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct RowShape {
    /// sizes of the second and third of the merged leading dimensions
    pub n1: u32,
    pub n2: u32,
    pub rows: u32,
    pub columns: u32,
    pub segments: u32,
    /// of every segment but the last: a multiple of 8
    pub segment_columns: u32,
    /// a RowStage
    pub stage: u32,
    /// keeps the size a multiple of 8 bytes
    pub reserved: u32,
}
const _: () = {
    ["Size of RowShape"][::std::mem::size_of::<RowShape>() - 32usize];
    ["Alignment of RowShape"][::std::mem::align_of::<RowShape>() - 4usize];
    ["Offset of field: RowShape::n1"][::std::mem::offset_of!(RowShape, n1) - 0usize];
    ["Offset of field: RowShape::n2"][::std::mem::offset_of!(RowShape, n2) - 4usize];
    ["Offset of field: RowShape::rows"][::std::mem::offset_of!(RowShape, rows) - 8usize];
    ["Offset of field: RowShape::columns"][::std::mem::offset_of!(RowShape, columns) - 12usize];
    ["Offset of field: RowShape::segments"][::std::mem::offset_of!(RowShape, segments) - 16usize];
    ["Offset of field: RowShape::segment_columns"][::std::mem::offset_of!(RowShape, segment_columns) - 20usize];
    ["Offset of field: RowShape::stage"][::std::mem::offset_of!(RowShape, stage) - 24usize];
    ["Offset of field: RowShape::reserved"][::std::mem::offset_of!(RowShape, reserved) - 28usize];
};
pub const ELEMENT_F32: ElementType = 0;
pub const ELEMENT_F16: ElementType = 1;
pub const ELEMENT_BF16: ElementType = 2;
pub const ELEMENT_U8: ElementType = 3;

/// The type of a tensor's elements, where the kernel's own does not say it.
pub type ElementType = ::std::os::raw::c_uint;

/// everything: rows of one segment
pub const STAGE_WHOLE: RowStage = 0;

/// writes the partial results of all segments
pub const STAGE_PARTIALS: RowStage = 1;

/// joins the partial results of a row and writes its segment
pub const STAGE_JOIN: RowStage = 2;

/// What a launch of a row operation does.
pub type RowStage = ::std::os::raw::c_uint;

/// Softmax or log-softmax over the last axis, forward.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct SoftmaxForwardParams {
    /// or 0: in y, which is replaced
    pub x: u64,
    /// added to the scaled x, or 0
    pub bias: u64,
    /// bytes: 0 hides; or 0
    pub mask: u64,
    pub y: u64,
    /// f32 [rows, segments, 2]: each segment's maximum and sum; 0 for one segment
    pub partials: u64,
    pub shape: RowShape,
    pub x_rows: RowTensor,
    pub bias_rows: RowTensor,
    pub mask_rows: RowTensor,
    pub y_rows: RowTensor,
    pub scale: f32,
    pub is_log: u32,
    /// 1: what follows hides columns
    pub is_banded: u32,
    /// row r is query r % len_q, at position r % len_q + offset
    pub len_q: u32,
    pub offset: i32,
    /// column j is visible iff position - left <= j <= position + right, or j < prefix
    pub window_left: i32,
    pub window_right: i32,
    pub prefix: i32,
}
const _: () = {
    ["Size of SoftmaxForwardParams"][::std::mem::size_of::<SoftmaxForwardParams>() - 232usize];
    ["Alignment of SoftmaxForwardParams"][::std::mem::align_of::<SoftmaxForwardParams>() - 8usize];
    ["Offset of field: SoftmaxForwardParams::x"][::std::mem::offset_of!(SoftmaxForwardParams, x) - 0usize];
    ["Offset of field: SoftmaxForwardParams::bias"][::std::mem::offset_of!(SoftmaxForwardParams, bias) - 8usize];
    ["Offset of field: SoftmaxForwardParams::mask"][::std::mem::offset_of!(SoftmaxForwardParams, mask) - 16usize];
    ["Offset of field: SoftmaxForwardParams::y"][::std::mem::offset_of!(SoftmaxForwardParams, y) - 24usize];
    ["Offset of field: SoftmaxForwardParams::partials"]
        [::std::mem::offset_of!(SoftmaxForwardParams, partials) - 32usize];
    ["Offset of field: SoftmaxForwardParams::shape"][::std::mem::offset_of!(SoftmaxForwardParams, shape) - 40usize];
    ["Offset of field: SoftmaxForwardParams::x_rows"][::std::mem::offset_of!(SoftmaxForwardParams, x_rows) - 72usize];
    ["Offset of field: SoftmaxForwardParams::bias_rows"]
        [::std::mem::offset_of!(SoftmaxForwardParams, bias_rows) - 104usize];
    ["Offset of field: SoftmaxForwardParams::mask_rows"]
        [::std::mem::offset_of!(SoftmaxForwardParams, mask_rows) - 136usize];
    ["Offset of field: SoftmaxForwardParams::y_rows"][::std::mem::offset_of!(SoftmaxForwardParams, y_rows) - 168usize];
    ["Offset of field: SoftmaxForwardParams::scale"][::std::mem::offset_of!(SoftmaxForwardParams, scale) - 200usize];
    ["Offset of field: SoftmaxForwardParams::is_log"][::std::mem::offset_of!(SoftmaxForwardParams, is_log) - 204usize];
    ["Offset of field: SoftmaxForwardParams::is_banded"]
        [::std::mem::offset_of!(SoftmaxForwardParams, is_banded) - 208usize];
    ["Offset of field: SoftmaxForwardParams::len_q"][::std::mem::offset_of!(SoftmaxForwardParams, len_q) - 212usize];
    ["Offset of field: SoftmaxForwardParams::offset"][::std::mem::offset_of!(SoftmaxForwardParams, offset) - 216usize];
    ["Offset of field: SoftmaxForwardParams::window_left"]
        [::std::mem::offset_of!(SoftmaxForwardParams, window_left) - 220usize];
    ["Offset of field: SoftmaxForwardParams::window_right"]
        [::std::mem::offset_of!(SoftmaxForwardParams, window_right) - 224usize];
    ["Offset of field: SoftmaxForwardParams::prefix"][::std::mem::offset_of!(SoftmaxForwardParams, prefix) - 228usize];
};

/// The gradient of softmax or log-softmax over the last axis.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct SoftmaxBackwardParams {
    pub y: u64,
    /// or 0: in d_x, which is replaced
    pub d_y: u64,
    pub d_x: u64,
    /// f32 [rows, segments]: sums over segments; 0 for one segment
    pub partials: u64,
    pub shape: RowShape,
    pub y_rows: RowTensor,
    pub d_y_rows: RowTensor,
    pub d_x_rows: RowTensor,
    pub scale: f32,
    pub is_log: u32,
}
const _: () = {
    ["Size of SoftmaxBackwardParams"][::std::mem::size_of::<SoftmaxBackwardParams>() - 168usize];
    ["Alignment of SoftmaxBackwardParams"][::std::mem::align_of::<SoftmaxBackwardParams>() - 8usize];
    ["Offset of field: SoftmaxBackwardParams::y"][::std::mem::offset_of!(SoftmaxBackwardParams, y) - 0usize];
    ["Offset of field: SoftmaxBackwardParams::d_y"][::std::mem::offset_of!(SoftmaxBackwardParams, d_y) - 8usize];
    ["Offset of field: SoftmaxBackwardParams::d_x"][::std::mem::offset_of!(SoftmaxBackwardParams, d_x) - 16usize];
    ["Offset of field: SoftmaxBackwardParams::partials"]
        [::std::mem::offset_of!(SoftmaxBackwardParams, partials) - 24usize];
    ["Offset of field: SoftmaxBackwardParams::shape"][::std::mem::offset_of!(SoftmaxBackwardParams, shape) - 32usize];
    ["Offset of field: SoftmaxBackwardParams::y_rows"][::std::mem::offset_of!(SoftmaxBackwardParams, y_rows) - 64usize];
    ["Offset of field: SoftmaxBackwardParams::d_y_rows"]
        [::std::mem::offset_of!(SoftmaxBackwardParams, d_y_rows) - 96usize];
    ["Offset of field: SoftmaxBackwardParams::d_x_rows"]
        [::std::mem::offset_of!(SoftmaxBackwardParams, d_x_rows) - 128usize];
    ["Offset of field: SoftmaxBackwardParams::scale"][::std::mem::offset_of!(SoftmaxBackwardParams, scale) - 160usize];
    ["Offset of field: SoftmaxBackwardParams::is_log"]
        [::std::mem::offset_of!(SoftmaxBackwardParams, is_log) - 164usize];
};

/// What dropout needs to know.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct DropoutParams {
    pub seed: u64,
    pub offset: u32,
    /// an element is dropped iff its random word is below; 0: no dropout
    pub below: u32,
    /// 1 / (1 - probability)
    pub keep_scale: f32,
    pub reserved: u32,
}
const _: () = {
    ["Size of DropoutParams"][::std::mem::size_of::<DropoutParams>() - 24usize];
    ["Alignment of DropoutParams"][::std::mem::align_of::<DropoutParams>() - 8usize];
    ["Offset of field: DropoutParams::seed"][::std::mem::offset_of!(DropoutParams, seed) - 0usize];
    ["Offset of field: DropoutParams::offset"][::std::mem::offset_of!(DropoutParams, offset) - 8usize];
    ["Offset of field: DropoutParams::below"][::std::mem::offset_of!(DropoutParams, below) - 12usize];
    ["Offset of field: DropoutParams::keep_scale"][::std::mem::offset_of!(DropoutParams, keep_scale) - 16usize];
    ["Offset of field: DropoutParams::reserved"][::std::mem::offset_of!(DropoutParams, reserved) - 20usize];
};

/// Layer norm or RMS norm over the last axis, forward: r = dropout(x) + residual, y = (r - mean) * rstd * weight + bias.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct NormForwardParams {
    pub x: u64,
    /// or 0
    pub residual: u64,
    /// [columns], or 0: one
    pub weight: u64,
    /// [columns], or 0: zero
    pub bias: u64,
    /// or 0: only statistics are wanted
    pub y: u64,
    /// r, or 0
    pub sum: u64,
    /// f32 [rows], or 0
    pub mean: u64,
    /// f32 [rows], or 0
    pub rstd: u64,
    /// f32 [rows, segments, 2]: mean and sum of squared distances from it; 0 for one segment
    pub partials: u64,
    pub shape: RowShape,
    pub x_rows: RowTensor,
    pub residual_rows: RowTensor,
    pub y_rows: RowTensor,
    pub sum_rows: RowTensor,
    pub dropout: DropoutParams,
    pub weight_type: u32,
    pub bias_type: u32,
    /// r is rounded to this type, whether it is written or not
    pub sum_type: u32,
    /// 1: layer norm; 0: RMS norm, whose mean is 0
    pub is_centered: u32,
    /// added to the weight
    pub weight_offset: f32,
    pub eps: f32,
}
const _: () = {
    ["Size of NormForwardParams"][::std::mem::size_of::<NormForwardParams>() - 280usize];
    ["Alignment of NormForwardParams"][::std::mem::align_of::<NormForwardParams>() - 8usize];
    ["Offset of field: NormForwardParams::x"][::std::mem::offset_of!(NormForwardParams, x) - 0usize];
    ["Offset of field: NormForwardParams::residual"][::std::mem::offset_of!(NormForwardParams, residual) - 8usize];
    ["Offset of field: NormForwardParams::weight"][::std::mem::offset_of!(NormForwardParams, weight) - 16usize];
    ["Offset of field: NormForwardParams::bias"][::std::mem::offset_of!(NormForwardParams, bias) - 24usize];
    ["Offset of field: NormForwardParams::y"][::std::mem::offset_of!(NormForwardParams, y) - 32usize];
    ["Offset of field: NormForwardParams::sum"][::std::mem::offset_of!(NormForwardParams, sum) - 40usize];
    ["Offset of field: NormForwardParams::mean"][::std::mem::offset_of!(NormForwardParams, mean) - 48usize];
    ["Offset of field: NormForwardParams::rstd"][::std::mem::offset_of!(NormForwardParams, rstd) - 56usize];
    ["Offset of field: NormForwardParams::partials"][::std::mem::offset_of!(NormForwardParams, partials) - 64usize];
    ["Offset of field: NormForwardParams::shape"][::std::mem::offset_of!(NormForwardParams, shape) - 72usize];
    ["Offset of field: NormForwardParams::x_rows"][::std::mem::offset_of!(NormForwardParams, x_rows) - 104usize];
    ["Offset of field: NormForwardParams::residual_rows"]
        [::std::mem::offset_of!(NormForwardParams, residual_rows) - 136usize];
    ["Offset of field: NormForwardParams::y_rows"][::std::mem::offset_of!(NormForwardParams, y_rows) - 168usize];
    ["Offset of field: NormForwardParams::sum_rows"][::std::mem::offset_of!(NormForwardParams, sum_rows) - 200usize];
    ["Offset of field: NormForwardParams::dropout"][::std::mem::offset_of!(NormForwardParams, dropout) - 232usize];
    ["Offset of field: NormForwardParams::weight_type"]
        [::std::mem::offset_of!(NormForwardParams, weight_type) - 256usize];
    ["Offset of field: NormForwardParams::bias_type"][::std::mem::offset_of!(NormForwardParams, bias_type) - 260usize];
    ["Offset of field: NormForwardParams::sum_type"][::std::mem::offset_of!(NormForwardParams, sum_type) - 264usize];
    ["Offset of field: NormForwardParams::is_centered"]
        [::std::mem::offset_of!(NormForwardParams, is_centered) - 268usize];
    ["Offset of field: NormForwardParams::weight_offset"]
        [::std::mem::offset_of!(NormForwardParams, weight_offset) - 272usize];
    ["Offset of field: NormForwardParams::eps"][::std::mem::offset_of!(NormForwardParams, eps) - 276usize];
};

/// The gradients of layer norm or RMS norm over the last axis. r is what was normalised.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct NormBackwardParams {
    pub d_y: u64,
    pub r: u64,
    /// the gradient of r from its other uses, or 0
    pub d_sum: u64,
    /// [columns], or 0: one
    pub weight: u64,
    /// f32 [rows], or 0: recomputed, or 0
    pub mean: u64,
    /// f32 [rows], or 0: recomputed
    pub rstd: u64,
    /// the gradient of x: of r, through dropout
    pub d_x: u64,
    /// the gradient of r, or 0
    pub d_residual: u64,
    /// f32 [rows, segments, 2]: sums over segments; 0 for one segment
    pub partials: u64,
    /// f32 [parts, 2, columns]: parts of d_weight and d_bias; or 0
    pub weight_partials: u64,
    pub shape: RowShape,
    pub d_y_rows: RowTensor,
    pub r_rows: RowTensor,
    pub d_sum_rows: RowTensor,
    pub d_x_rows: RowTensor,
    pub d_residual_rows: RowTensor,
    pub dropout: DropoutParams,
    /// blocks that share the rows of a segment: block b takes rows b, b + parts, ... of groups of rows
    pub parts: u32,
    pub weight_type: u32,
    pub is_centered: u32,
    pub weight_offset: f32,
    pub eps: f32,
    /// keeps the size a multiple of 8 bytes
    pub reserved: u32,
}
const _: () = {
    ["Size of NormBackwardParams"][::std::mem::size_of::<NormBackwardParams>() - 320usize];
    ["Alignment of NormBackwardParams"][::std::mem::align_of::<NormBackwardParams>() - 8usize];
    ["Offset of field: NormBackwardParams::d_y"][::std::mem::offset_of!(NormBackwardParams, d_y) - 0usize];
    ["Offset of field: NormBackwardParams::r"][::std::mem::offset_of!(NormBackwardParams, r) - 8usize];
    ["Offset of field: NormBackwardParams::d_sum"][::std::mem::offset_of!(NormBackwardParams, d_sum) - 16usize];
    ["Offset of field: NormBackwardParams::weight"][::std::mem::offset_of!(NormBackwardParams, weight) - 24usize];
    ["Offset of field: NormBackwardParams::mean"][::std::mem::offset_of!(NormBackwardParams, mean) - 32usize];
    ["Offset of field: NormBackwardParams::rstd"][::std::mem::offset_of!(NormBackwardParams, rstd) - 40usize];
    ["Offset of field: NormBackwardParams::d_x"][::std::mem::offset_of!(NormBackwardParams, d_x) - 48usize];
    ["Offset of field: NormBackwardParams::d_residual"]
        [::std::mem::offset_of!(NormBackwardParams, d_residual) - 56usize];
    ["Offset of field: NormBackwardParams::partials"][::std::mem::offset_of!(NormBackwardParams, partials) - 64usize];
    ["Offset of field: NormBackwardParams::weight_partials"]
        [::std::mem::offset_of!(NormBackwardParams, weight_partials) - 72usize];
    ["Offset of field: NormBackwardParams::shape"][::std::mem::offset_of!(NormBackwardParams, shape) - 80usize];
    ["Offset of field: NormBackwardParams::d_y_rows"][::std::mem::offset_of!(NormBackwardParams, d_y_rows) - 112usize];
    ["Offset of field: NormBackwardParams::r_rows"][::std::mem::offset_of!(NormBackwardParams, r_rows) - 144usize];
    ["Offset of field: NormBackwardParams::d_sum_rows"]
        [::std::mem::offset_of!(NormBackwardParams, d_sum_rows) - 176usize];
    ["Offset of field: NormBackwardParams::d_x_rows"][::std::mem::offset_of!(NormBackwardParams, d_x_rows) - 208usize];
    ["Offset of field: NormBackwardParams::d_residual_rows"]
        [::std::mem::offset_of!(NormBackwardParams, d_residual_rows) - 240usize];
    ["Offset of field: NormBackwardParams::dropout"][::std::mem::offset_of!(NormBackwardParams, dropout) - 272usize];
    ["Offset of field: NormBackwardParams::parts"][::std::mem::offset_of!(NormBackwardParams, parts) - 296usize];
    ["Offset of field: NormBackwardParams::weight_type"]
        [::std::mem::offset_of!(NormBackwardParams, weight_type) - 300usize];
    ["Offset of field: NormBackwardParams::is_centered"]
        [::std::mem::offset_of!(NormBackwardParams, is_centered) - 304usize];
    ["Offset of field: NormBackwardParams::weight_offset"]
        [::std::mem::offset_of!(NormBackwardParams, weight_offset) - 308usize];
    ["Offset of field: NormBackwardParams::eps"][::std::mem::offset_of!(NormBackwardParams, eps) - 312usize];
    ["Offset of field: NormBackwardParams::reserved"][::std::mem::offset_of!(NormBackwardParams, reserved) - 316usize];
};

/// Sums the parts of d_weight and d_bias in their order.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct NormWeightGradientsParams {
    /// f32 [parts, 2, columns]
    pub weight_partials: u64,
    /// [columns], or 0
    pub d_weight: u64,
    /// [columns], or 0
    pub d_bias: u64,
    pub parts: u32,
    pub columns: u32,
    pub d_weight_type: u32,
    pub d_bias_type: u32,
}
const _: () = {
    ["Size of NormWeightGradientsParams"][::std::mem::size_of::<NormWeightGradientsParams>() - 40usize];
    ["Alignment of NormWeightGradientsParams"][::std::mem::align_of::<NormWeightGradientsParams>() - 8usize];
    ["Offset of field: NormWeightGradientsParams::weight_partials"]
        [::std::mem::offset_of!(NormWeightGradientsParams, weight_partials) - 0usize];
    ["Offset of field: NormWeightGradientsParams::d_weight"]
        [::std::mem::offset_of!(NormWeightGradientsParams, d_weight) - 8usize];
    ["Offset of field: NormWeightGradientsParams::d_bias"]
        [::std::mem::offset_of!(NormWeightGradientsParams, d_bias) - 16usize];
    ["Offset of field: NormWeightGradientsParams::parts"]
        [::std::mem::offset_of!(NormWeightGradientsParams, parts) - 24usize];
    ["Offset of field: NormWeightGradientsParams::columns"]
        [::std::mem::offset_of!(NormWeightGradientsParams, columns) - 28usize];
    ["Offset of field: NormWeightGradientsParams::d_weight_type"]
        [::std::mem::offset_of!(NormWeightGradientsParams, d_weight_type) - 32usize];
    ["Offset of field: NormWeightGradientsParams::d_bias_type"]
        [::std::mem::offset_of!(NormWeightGradientsParams, d_bias_type) - 36usize];
};
