//! Normalisation over the last axis.

mod layer_norm;

pub use layer_norm::{LayerNorm, LayerNormForward, LayerNormInputs, LayerNormOutputs, LayerNormPlan, LayerNormSpec};
