//! All mutants, one file each for the file of `kernels/` that they change.

mod attention_forward_sm80;
mod layer_norm;
mod mask;
mod online_softmax;
mod pack;
mod reduce;
mod row;
mod softmax;
mod tile;

use crate::mutant::Mutant;

/// Rows of 128 bytes; Q's fragments stay in registers.
const D64: &[&str] = &["attention_forward_sm80_f16_d64_plain"];
/// Rows of 192 bytes; Q is read again for every tile of keys, and some threads copy nothing.
const D96: &[&str] = &["attention_forward_sm80_bf16_d96_plain"];
/// Rows of any alignment, moved element by element.
const GENERAL: &[&str] = &["attention_forward_sm80_f16_d64_general"];

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
        tile::mutants(),
        mask::mutants(),
        online_softmax::mutants(),
        pack::mutants(),
        reduce::mutants(),
        row::mutants(),
        softmax::mutants(),
        layer_norm::mutants(),
    ]
    .concat()
}
