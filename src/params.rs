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

/// Attention, forward: out = softmax(scale * q k^T + mask) v and its log-sum-exp.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct AttentionForwardParams {
    /// [batch, heads_q, len_q, head_dim]
    pub q: u64,
    /// [batch, heads_kv, len_kv, head_dim]
    pub k: u64,
    /// [batch, heads_kv, len_kv, head_dim]
    pub v: u64,
    /// i32 [batch], or 0: every sequence has len_kv keys
    pub key_lengths: u64,
    /// [batch, heads_q, len_q, head_dim]
    pub out: u64,
    /// f32 [batch, heads_q, len_q], natural log, contiguous, or 0
    pub lse: u64,
    pub q_strides: HeadStrides,
    pub k_strides: HeadStrides,
    pub v_strides: HeadStrides,
    pub out_strides: HeadStrides,
    pub batch: u32,
    pub heads_q: u32,
    /// query heads that share one key head: heads_q / heads_kv
    pub heads_per_kv: u32,
    pub len_q: i32,
    pub len_kv: i32,
    /// ceil(len_q / BLOCK_Q); the grid is q_blocks * heads_q * batch, linear
    pub q_blocks: u32,
    /// scale * log2(e): the softmax is computed in base 2
    pub scale_log2: f32,
    /// 1: key j is visible to query i iff j <= i + causal_offset
    pub causal: u32,
    pub causal_offset: i32,
    /// 1: every row of q, k, v and out starts on a 16-byte boundary
    pub aligned: u32,
}
const _: () = {
    ["Size of AttentionForwardParams"][::std::mem::size_of::<AttentionForwardParams>() - 184usize];
    ["Alignment of AttentionForwardParams"][::std::mem::align_of::<AttentionForwardParams>() - 8usize];
    ["Offset of field: AttentionForwardParams::q"][::std::mem::offset_of!(AttentionForwardParams, q) - 0usize];
    ["Offset of field: AttentionForwardParams::k"][::std::mem::offset_of!(AttentionForwardParams, k) - 8usize];
    ["Offset of field: AttentionForwardParams::v"][::std::mem::offset_of!(AttentionForwardParams, v) - 16usize];
    ["Offset of field: AttentionForwardParams::key_lengths"]
        [::std::mem::offset_of!(AttentionForwardParams, key_lengths) - 24usize];
    ["Offset of field: AttentionForwardParams::out"][::std::mem::offset_of!(AttentionForwardParams, out) - 32usize];
    ["Offset of field: AttentionForwardParams::lse"][::std::mem::offset_of!(AttentionForwardParams, lse) - 40usize];
    ["Offset of field: AttentionForwardParams::q_strides"]
        [::std::mem::offset_of!(AttentionForwardParams, q_strides) - 48usize];
    ["Offset of field: AttentionForwardParams::k_strides"]
        [::std::mem::offset_of!(AttentionForwardParams, k_strides) - 72usize];
    ["Offset of field: AttentionForwardParams::v_strides"]
        [::std::mem::offset_of!(AttentionForwardParams, v_strides) - 96usize];
    ["Offset of field: AttentionForwardParams::out_strides"]
        [::std::mem::offset_of!(AttentionForwardParams, out_strides) - 120usize];
    ["Offset of field: AttentionForwardParams::batch"]
        [::std::mem::offset_of!(AttentionForwardParams, batch) - 144usize];
    ["Offset of field: AttentionForwardParams::heads_q"]
        [::std::mem::offset_of!(AttentionForwardParams, heads_q) - 148usize];
    ["Offset of field: AttentionForwardParams::heads_per_kv"]
        [::std::mem::offset_of!(AttentionForwardParams, heads_per_kv) - 152usize];
    ["Offset of field: AttentionForwardParams::len_q"]
        [::std::mem::offset_of!(AttentionForwardParams, len_q) - 156usize];
    ["Offset of field: AttentionForwardParams::len_kv"]
        [::std::mem::offset_of!(AttentionForwardParams, len_kv) - 160usize];
    ["Offset of field: AttentionForwardParams::q_blocks"]
        [::std::mem::offset_of!(AttentionForwardParams, q_blocks) - 164usize];
    ["Offset of field: AttentionForwardParams::scale_log2"]
        [::std::mem::offset_of!(AttentionForwardParams, scale_log2) - 168usize];
    ["Offset of field: AttentionForwardParams::causal"]
        [::std::mem::offset_of!(AttentionForwardParams, causal) - 172usize];
    ["Offset of field: AttentionForwardParams::causal_offset"]
        [::std::mem::offset_of!(AttentionForwardParams, causal_offset) - 176usize];
    ["Offset of field: AttentionForwardParams::aligned"]
        [::std::mem::offset_of!(AttentionForwardParams, aligned) - 180usize];
};

/// Up to three leading dimensions of a tensor whose last axis is the row. Row r sits at
/// (r / (n1 * n2)) * s0 + (r / n2 % n1) * s1 + (r % n2) * s2.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct RowStrides {
    pub s0: i64,
    pub s1: i64,
    pub s2: i64,
}
const _: () = {
    ["Size of RowStrides"][::std::mem::size_of::<RowStrides>() - 24usize];
    ["Alignment of RowStrides"][::std::mem::align_of::<RowStrides>() - 8usize];
    ["Offset of field: RowStrides::s0"][::std::mem::offset_of!(RowStrides, s0) - 0usize];
    ["Offset of field: RowStrides::s1"][::std::mem::offset_of!(RowStrides, s1) - 8usize];
    ["Offset of field: RowStrides::s2"][::std::mem::offset_of!(RowStrides, s2) - 16usize];
};

/// Softmax over the last axis, forward.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct SoftmaxForwardParams {
    pub x: u64,
    pub y: u64,
    pub x_strides: RowStrides,
    pub y_strides: RowStrides,
    pub n1: u32,
    pub n2: u32,
    pub rows: u32,
    pub columns: u32,
}
const _: () = {
    ["Size of SoftmaxForwardParams"][::std::mem::size_of::<SoftmaxForwardParams>() - 80usize];
    ["Alignment of SoftmaxForwardParams"][::std::mem::align_of::<SoftmaxForwardParams>() - 8usize];
    ["Offset of field: SoftmaxForwardParams::x"][::std::mem::offset_of!(SoftmaxForwardParams, x) - 0usize];
    ["Offset of field: SoftmaxForwardParams::y"][::std::mem::offset_of!(SoftmaxForwardParams, y) - 8usize];
    ["Offset of field: SoftmaxForwardParams::x_strides"]
        [::std::mem::offset_of!(SoftmaxForwardParams, x_strides) - 16usize];
    ["Offset of field: SoftmaxForwardParams::y_strides"]
        [::std::mem::offset_of!(SoftmaxForwardParams, y_strides) - 40usize];
    ["Offset of field: SoftmaxForwardParams::n1"][::std::mem::offset_of!(SoftmaxForwardParams, n1) - 64usize];
    ["Offset of field: SoftmaxForwardParams::n2"][::std::mem::offset_of!(SoftmaxForwardParams, n2) - 68usize];
    ["Offset of field: SoftmaxForwardParams::rows"][::std::mem::offset_of!(SoftmaxForwardParams, rows) - 72usize];
    ["Offset of field: SoftmaxForwardParams::columns"][::std::mem::offset_of!(SoftmaxForwardParams, columns) - 76usize];
};

/// Layer norm over the last axis, forward: y = (x - mean) * rstd * weight + bias.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct LayerNormForwardParams {
    pub x: u64,
    /// [columns], the type of x, or 0: one
    pub weight: u64,
    /// [columns], the type of x, or 0: zero
    pub bias: u64,
    pub y: u64,
    /// f32 [rows], or 0
    pub mean: u64,
    /// f32 [rows], or 0
    pub rstd: u64,
    pub x_strides: RowStrides,
    pub y_strides: RowStrides,
    pub n1: u32,
    pub n2: u32,
    pub rows: u32,
    pub columns: u32,
    pub eps: f32,
    /// keeps the size a multiple of 8 bytes
    pub reserved: u32,
}
const _: () = {
    ["Size of LayerNormForwardParams"][::std::mem::size_of::<LayerNormForwardParams>() - 120usize];
    ["Alignment of LayerNormForwardParams"][::std::mem::align_of::<LayerNormForwardParams>() - 8usize];
    ["Offset of field: LayerNormForwardParams::x"][::std::mem::offset_of!(LayerNormForwardParams, x) - 0usize];
    ["Offset of field: LayerNormForwardParams::weight"]
        [::std::mem::offset_of!(LayerNormForwardParams, weight) - 8usize];
    ["Offset of field: LayerNormForwardParams::bias"][::std::mem::offset_of!(LayerNormForwardParams, bias) - 16usize];
    ["Offset of field: LayerNormForwardParams::y"][::std::mem::offset_of!(LayerNormForwardParams, y) - 24usize];
    ["Offset of field: LayerNormForwardParams::mean"][::std::mem::offset_of!(LayerNormForwardParams, mean) - 32usize];
    ["Offset of field: LayerNormForwardParams::rstd"][::std::mem::offset_of!(LayerNormForwardParams, rstd) - 40usize];
    ["Offset of field: LayerNormForwardParams::x_strides"]
        [::std::mem::offset_of!(LayerNormForwardParams, x_strides) - 48usize];
    ["Offset of field: LayerNormForwardParams::y_strides"]
        [::std::mem::offset_of!(LayerNormForwardParams, y_strides) - 72usize];
    ["Offset of field: LayerNormForwardParams::n1"][::std::mem::offset_of!(LayerNormForwardParams, n1) - 96usize];
    ["Offset of field: LayerNormForwardParams::n2"][::std::mem::offset_of!(LayerNormForwardParams, n2) - 100usize];
    ["Offset of field: LayerNormForwardParams::rows"][::std::mem::offset_of!(LayerNormForwardParams, rows) - 104usize];
    ["Offset of field: LayerNormForwardParams::columns"]
        [::std::mem::offset_of!(LayerNormForwardParams, columns) - 108usize];
    ["Offset of field: LayerNormForwardParams::eps"][::std::mem::offset_of!(LayerNormForwardParams, eps) - 112usize];
    ["Offset of field: LayerNormForwardParams::reserved"]
        [::std::mem::offset_of!(LayerNormForwardParams, reserved) - 116usize];
};
