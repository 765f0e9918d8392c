//! The float64 oracle: scalar, obviously right, and the contract that every device is held to.
//!
//! Nothing else in the crate shares code with it. Tensors are contiguous row-major slices of f64; [`from_f32`] widens
//! what a device returned. [`compare`] holds a device's result to the oracle with the tolerance of the unfused
//! computation ([`naive`]) in the same element type.

mod attention;
pub mod compare;
pub mod naive;
mod rows;

pub use attention::{
    Alignment, AttentionCase, AttentionGradients, AttentionResult, Broadcast, DropoutCase, MergedRows,
    attention_backward, attention_forward, merge,
};
pub use rows::{
    NormCase, NormGradients, NormResult, RowBroadcast, SoftmaxCase, norm_backward, norm_forward, norm_sum,
    softmax_backward, softmax_forward,
};

/// Widens a device's result.
pub fn from_f32(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}
