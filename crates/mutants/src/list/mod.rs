//! All mutants, one file each for the file of `kernels/` that they change.

mod access;
mod attention_backward_bias_sm80;
mod attention_backward_key_value_sm80;
mod attention_backward_query_sm80;
mod attention_backward_sinks;
mod attention_backward_sm90;
mod attention_delta;
mod attention_forward_sm80;
mod attention_forward_sm90;
mod attention_merge;
mod backward;
mod hopper_mask;
mod hopper_ring;
mod hopper_softmax;
mod hopper_tiles;
mod hopper_wgmma;
mod mask;
mod moments;
mod norm_backward;
mod norm_forward;
mod norm_weight_gradients;
mod online_softmax;
mod pack;
mod philox;
mod place;
mod product;
mod reduce;
mod row;
mod score;
mod softmax_backward;
mod softmax_forward;
mod tile;

use crate::mutant::Mutant;

/// Rows of 128 bytes; Q's fragments stay in registers.
const D64: &[&str] = &["attention_forward_sm80_f16_d64_plain"];
/// Rows of 192 bytes; Q is read again for every tile of keys, and some threads copy nothing.
const D96: &[&str] = &["attention_forward_sm80_bf16_d96_plain"];
/// The kernels for Hopper: two warpgroups that compute, output with a tile of its own.
const HOPPER: &[&str] = &["attention_forward_sm90a_bf16_d128_plain"];
/// Rows of one panel.
const HOPPER_D64: &[&str] = &["attention_forward_sm90a_f16_d64_plain"];
/// The output has Q's tile.
const HOPPER_WIDE: &[&str] = &["attention_forward_sm90a_f16_d256_plain"];
/// The gradients of k and v on Hopper.
const HOPPER_KEY_VALUE: &[&str] = &["attention_backward_key_value_sm90a_bf16_d128_plain"];
/// The gradient of q on Hopper.
const HOPPER_QUERY: &[&str] = &["attention_backward_query_sm90a_bf16_d128_plain"];
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

/// Whole rows, eight for each warp.
const SOFTMAX_WHOLE: &[&str] = &["softmax_forward_sm80_f32_lanes4_whole"];
/// Rows of any length that all lie alike, four for each warp.
const SOFTMAX_LANES: &[&str] = &["softmax_forward_sm80_f16_lanes8_plain"];
/// A row or a segment a block.
const SOFTMAX_BLOCK: &[&str] = &["softmax_forward_sm80_f32_block1024_plain"];
/// Every option, rows of any alignment.
const SOFTMAX_GENERAL: &[&str] = &["softmax_forward_sm80_f16_lanes8_general"];
/// The same, a row or a segment a block.
const SOFTMAX_GENERAL_BLOCK: &[&str] = &["softmax_forward_sm80_bf16_block512_general"];
/// The gradient.
const SOFTMAX_BACKWARD: &[&str] = &["softmax_backward_sm80_f16_lanes8_plain"];
/// The same, a row or a segment a block.
const SOFTMAX_BACKWARD_BLOCK: &[&str] = &["softmax_backward_sm80_f32_block1024_plain"];

/// Rows of any length that all lie alike, four for each warp.
const NORM_LANES: &[&str] = &["norm_forward_sm80_f16_lanes8_plain"];
/// A row or a segment a block.
const NORM_BLOCK: &[&str] = &["norm_forward_sm80_f32_block1024_plain"];
/// Every option, rows of any alignment.
const NORM_GENERAL: &[&str] = &["norm_forward_sm80_f16_lanes8_general"];
/// The same for tensors of any types.
const NORM_GENERAL_FLOAT: &[&str] = &["norm_forward_sm80_f32_lanes8_general"];
/// Every option, a row or a segment a block.
const NORM_GENERAL_BLOCK: &[&str] = &["norm_forward_sm80_f16_block512_general"];
/// The gradients, of whole rows.
const NORM_BACKWARD_WHOLE: &[&str] = &["norm_backward_sm80_f16_lanes4_whole"];
/// The gradients.
const NORM_BACKWARD: &[&str] = &["norm_backward_sm80_f16_lanes8_plain"];
/// The same, a row or a segment a block.
const NORM_BACKWARD_BLOCK: &[&str] = &["norm_backward_sm80_f32_block512_plain"];
/// The gradients under every option.
const NORM_BACKWARD_GENERAL: &[&str] = &["norm_backward_sm80_f16_lanes8_general"];
/// The same, a row or a segment a block.
const NORM_BACKWARD_GENERAL_BLOCK: &[&str] = &["norm_backward_sm80_f16_block256_general"];
/// The gradients of weight and bias.
const WEIGHT_GRADIENTS: &[&str] = &["norm_weight_gradients_sm80_f32"];

/// Kinds of hazards, as the emulator names them.
const ASYNC: &str = "asynchronous copy in flight";
const BARRIER: &str = "barrier divergence";
const COUNT: &str = "barrier count";
const BOUNDS: &str = "out of bounds";
const DEADLOCK: &str = "deadlock";
const GLOBAL_RACE: &str = "global memory race";
const INVALID: &str = "invalid participant";
const MBARRIER: &str = "mbarrier";
const MISALIGNED: &str = "misaligned";
const PARTICIPANTS: &str = "missing participants";
const POOL: &str = "register pool";
const PRODUCT: &str = "missing wgmma fence";
const PROXY: &str = "missing proxy fence";
const RACE: &str = "shared memory race";
const UNDEFINED: &str = "undefined register";
const UNFINISHED: &str = "unfinished copy";
const UNWRITTEN: &str = "uninitialized memory";
const WARPGROUP: &str = "warpgroup mismatch";
/// What a product in flight shows in: its registers, its operands, or a warp that ends before it does.
const REGISTERS: &[&str] = &["register in flight", "missing wgmma fence", ASYNC, RACE, "unfinished matrix product"];

/// The whole suite.
pub fn mutants() -> Vec<Mutant> {
    [
        attention_forward_sm80::mutants(),
        attention_backward_sm90::mutants(),
        attention_forward_sm90::mutants(),
        hopper_mask::mutants(),
        hopper_ring::mutants(),
        hopper_softmax::mutants(),
        hopper_tiles::mutants(),
        hopper_wgmma::mutants(),
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
        access::mutants(),
        row::mutants(),
        moments::mutants(),
        softmax_forward::mutants(),
        softmax_backward::mutants(),
        norm_forward::mutants(),
        norm_backward::mutants(),
        norm_weight_gradients::mutants(),
    ]
    .concat()
}
