//! All mutants, one file each for the file of `kernels/` that they change.

mod attention_backward_bias_sm80;
mod attention_backward_key_value_sm80;
mod attention_backward_query_sm80;
mod attention_backward_sinks;
mod attention_delta;
mod attention_forward_sm80;
mod attention_merge;
mod backward;
mod layer_norm;
mod mask;
mod online_softmax;
mod pack;
mod philox;
mod place;
mod product;
mod reduce;
mod row;
mod score;
mod softmax;
mod tile;

use crate::mutant::Mutant;

/// Rows of 128 bytes; Q's fragments stay in registers.
const D64: &[&str] = &["attention_forward_sm80_f16_d64_plain"];
/// Rows of 192 bytes; Q is read again for every tile of keys, and some threads copy nothing.
const D96: &[&str] = &["attention_forward_sm80_bf16_d96_plain"];
/// Every option, rows of any alignment.
const GENERAL: &[&str] = &["attention_forward_sm80_f16_d64_general"];
/// The same without tensor cores.
const FLOAT: &[&str] = &["attention_forward_sm80_f32_d64_general"];
/// The gradient of q.
const QUERY: &[&str] = &["attention_backward_query_sm80_f16_d64_general"];
/// The same without tensor cores.
const QUERY_FLOAT: &[&str] = &["attention_backward_query_sm80_f32_d64_general"];
/// The gradients of k and v.
const KEY_VALUE: &[&str] = &["attention_backward_key_value_sm80_f16_d64_general"];
/// The same without tensor cores.
const KEY_VALUE_FLOAT: &[&str] = &["attention_backward_key_value_sm80_f32_d64_general"];
/// Two warps share 16 keys.
const KEY_VALUE_WIDE: &[&str] = &["attention_backward_key_value_sm80_f16_d256_general"];
/// The gradient of the bias.
const BIAS: &[&str] = &["attention_backward_bias_sm80_f16_d128_general"];
/// The same without tensor cores.
const BIAS_FLOAT: &[&str] = &["attention_backward_bias_sm80_f32_d64_general"];
/// What the gradients of a row have in common.
const DELTA: &[&str] = &["attention_delta_sm80_f16"];
/// Partial results.
const MERGE: &[&str] = &["attention_merge_sm80_f16"];
/// The gradient of the sinks.
const SINKS: &[&str] = &["attention_backward_sinks_sm80_f32"];

/// Four rows a block, a warp each.
const SOFTMAX_WARP: &[&str] = &["softmax_forward_sm80_f16_t32_v4"];
/// One row a block.
const SOFTMAX_BLOCK: &[&str] = &["softmax_forward_sm80_f32_t256_v4"];
/// Rows of any length.
const SOFTMAX_STREAM: &[&str] = &["softmax_forward_sm80_bf16_t512_stream"];

/// Four rows a block, a warp each.
const NORM_WARP: &[&str] = &["layer_norm_forward_sm80_f16_t32_v1"];
/// One row a block.
const NORM_BLOCK: &[&str] = &["layer_norm_forward_sm80_f32_t256_v4"];
/// Rows of any length.
const NORM_STREAM: &[&str] = &["layer_norm_forward_sm80_f32_t512_stream"];

/// Kinds of hazards, as the emulator names them.
const ASYNC: &str = "asynchronous copy in flight";
const BARRIER: &str = "barrier divergence";
const BOUNDS: &str = "out of bounds";
const DEADLOCK: &str = "deadlock";
const GLOBAL_RACE: &str = "global memory race";
const INVALID: &str = "invalid participant";
const MISALIGNED: &str = "misaligned";
const PARTICIPANTS: &str = "missing participants";
const RACE: &str = "shared memory race";
const UNDEFINED: &str = "undefined register";
const UNWRITTEN: &str = "uninitialized memory";

/// The whole suite.
pub fn mutants() -> Vec<Mutant> {
    [
        attention_forward_sm80::mutants(),
        online_softmax::mutants(),
        mask::mutants(),
        score::mutants(),
        philox::mutants(),
        product::mutants(),
        tile::mutants(),
        place::mutants(),
        attention_merge::mutants(),
        attention_delta::mutants(),
        attention_backward_query_sm80::mutants(),
        attention_backward_key_value_sm80::mutants(),
        attention_backward_bias_sm80::mutants(),
        attention_backward_sinks::mutants(),
        backward::mutants(),
        pack::mutants(),
        reduce::mutants(),
        row::mutants(),
        softmax::mutants(),
        layer_norm::mutants(),
    ]
    .concat()
}
