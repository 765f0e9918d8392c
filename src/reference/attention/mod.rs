//! Attention in float64, one scalar at a time: forward, backward and the merging of partial results.

mod backward;
mod case;
mod forward;
mod merge;
mod philox;

pub use backward::{AttentionGradients, attention_backward};
pub use case::{Alignment, AttentionCase, Broadcast, DropoutCase};
pub use forward::{AttentionResult, attention_forward};
pub use merge::{MergedRows, merge};
pub(super) use philox::philox_4x32_10;

/// Numbers of no pattern for the tests, in -0.4 ..= 0.6 times the step.
#[cfg(test)]
pub(super) fn ramp(elements: usize, step: f64) -> Vec<f64> {
    (0..elements).map(|i| ((i * 7919 % 101) as f64 - 40.0) * 0.01 * step).collect()
}
