//! Attention on the CPU, forward and backward. A task owns a block of rows of a result and walks the other side in tiles.
//!
//! Tiles start at multiples of their size within a sequence, every sum runs over whole tiles in their order, and what is
//! hidden adds zeros: so a row's bits depend neither on the rows beside it nor on who computes it.

mod backward;
mod bias_gradient;
mod forward;
pub(super) mod inputs;
mod scores;
#[cfg(test)]
mod tests;

pub(crate) use backward::{backward, backward_scratch_elements};
pub(crate) use forward::{forward, scratch_elements};

use crate::attention::{BackwardProblem, Problem};
use crate::cpu::simd;

/// Queries of a block.
const BLOCK_Q: usize = 64;
/// Keys of a tile.
const BLOCK_KV: usize = 64;

/// Row lengths in scratch memory are padded for the matrix product.
fn padded(columns: usize) -> usize {
    columns.next_multiple_of(simd::LANES)
}

/// The path in words.
pub(crate) fn describe(_problem: &Problem) -> String {
    format!("blocks of {BLOCK_Q} query rows in parallel, tiles of {BLOCK_KV} keys, online softmax in f32")
}

/// The path in words.
pub(crate) fn describe_backward(problem: &BackwardProblem) -> String {
    let bias = match problem.d_bias {
        Some(_) => format!("; tiles of {BLOCK_Q} by {BLOCK_KV} scores for d_bias"),
        None => String::new(),
    };
    format!(
        "scores computed again, in f32: blocks of {BLOCK_KV} keys in parallel for d_k and d_v, blocks of {BLOCK_Q} query \
         rows for d_q{bias}"
    )
}
