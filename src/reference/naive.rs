//! The unfused computation in an element type: each step rounds its result to that type, as separate kernels would,
//! with sums in f32. Its distance from the oracle is the yardstick for a fused result.

use half::{bf16, f16};

use crate::dtype::DType;
use crate::reference::attention::AttentionCase;

/// Rounds to an element type, to nearest, ties to even.
///
/// Integers have no rounding: their values return unchanged.
pub fn round(value: f64, dtype: DType) -> f64 {
    match dtype {
        DType::F32 => f64::from(value as f32),
        DType::F16 => f16::from_f64(value).to_f64(),
        DType::BF16 => bf16::from_f64(value).to_f64(),
        DType::I32 => value,
    }
}

/// Half the distance of 1 from the next larger number of the type.
pub fn unit_roundoff(dtype: DType) -> f64 {
    match dtype {
        DType::F32 | DType::I32 => 2f64.powi(-24),
        DType::F16 => 2f64.powi(-11),
        DType::BF16 => 2f64.powi(-8),
    }
}

/// A sum of products as a matrix-product kernel computes it: f32 accumulator.
fn dot(pairs: impl Iterator<Item = (f64, f64)>) -> f64 {
    f64::from(pairs.fold(0.0f32, |sum, (a, b)| sum + (a * b) as f32))
}

/// Attention forward as three kernels would compute it: scores, softmax, product with v.
pub fn attention_forward(case: &AttentionCase, dtype: DType, q: &[f64], k: &[f64], v: &[f64]) -> Vec<f64> {
    let mut output = Vec::with_capacity(case.rows() * case.head_dim_v);
    let group = case.heads_q / case.heads_kv;
    for row in 0..case.rows() {
        let (sequence, head, i) = (row / case.len_q / case.heads_q, row / case.len_q % case.heads_q, row % case.len_q);
        let kv_head = sequence * case.heads_kv + head / group;
        let query = &q[row * case.head_dim..][..case.head_dim];
        let scores: Vec<f64> = (0..case.len_kv)
            .map(|j| {
                if !case.visible(sequence, i, j) {
                    return f64::NEG_INFINITY;
                }
                let key = &k[(kv_head * case.len_kv + j) * case.head_dim..][..case.head_dim];
                let product = round(dot(query.iter().copied().zip(key.iter().copied())), dtype);
                round(product * case.scale(), dtype)
            })
            .collect();
        let weights = softmax_forward(&scores, case.len_kv.max(1), dtype);
        for c in 0..case.head_dim_v {
            // A hidden key's value takes no part, whatever it holds.
            let visible = (0..case.len_kv).filter(|j| case.visible(sequence, i, *j));
            let sum = dot(visible.map(|j| (weights[j], v[(kv_head * case.len_kv + j) * case.head_dim_v + c])));
            output.push(round(sum, dtype));
        }
    }
    output
}

/// Softmax of each row, computed in f32 from values of the type and rounded to it.
pub fn softmax_forward(x: &[f64], columns: usize, dtype: DType) -> Vec<f64> {
    let mut y = Vec::with_capacity(x.len());
    for row in x.chunks(columns) {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max) as f32;
        let base = if max == f32::NEG_INFINITY { 0.0 } else { max };
        let powers: Vec<f32> = row.iter().map(|value| (*value as f32 - base).exp()).collect();
        let sum = powers.iter().fold(0.0f32, |sum, power| sum + power);
        y.extend(powers.iter().map(|power| match sum == 0.0 {
            true => 0.0,
            false => round(f64::from(power / sum), dtype),
        }));
    }
    y
}

/// Layer norm of each row: statistics in f32 by two passes, normalised and scaled values rounded to the type.
pub fn layer_norm_forward(
    x: &[f64],
    columns: usize,
    weight: Option<&[f64]>,
    bias: Option<&[f64]>,
    eps: f64,
    dtype: DType,
) -> Vec<f64> {
    let mut y = Vec::with_capacity(x.len());
    for row in x.chunks(columns) {
        let mean = row.iter().fold(0.0f32, |sum, value| sum + *value as f32) / columns as f32;
        let squares = row.iter().fold(0.0f32, |sum, value| sum + (*value as f32 - mean) * (*value as f32 - mean));
        let rstd = 1.0 / (squares / columns as f32 + eps as f32).sqrt();
        for (column, value) in row.iter().enumerate() {
            let normalized = round(f64::from((*value as f32 - mean) * rstd), dtype);
            let scaled = round(normalized * weight.map_or(1.0, |weight| weight[column]), dtype);
            y.push(round(scaled + bias.map_or(0.0, |bias| bias[column]), dtype));
        }
    }
    y
}
