//! Attention on the CPU, forward and backward. A task owns a block of rows of a result and walks the other side in tiles.
//!
//! Scores lie in panels, one row a key and one lane a query (`cpu::simd`): the softmax of a query stays in its lane, k and v are
//! read as they lie in memory, and the weights are already where the product with v wants them.
//!
//! Tiles and ranges of keys start at multiples of their size within a sequence, every sum runs over keys, or depths, in their
//! order, and what is hidden adds zeros: so a row's bits depend neither on the rows beside it nor on who computes it.

mod backward;
mod bias_gradient;
mod block;
mod forward;
pub(super) mod inputs;
mod operand;
mod scores;
#[cfg(test)]
mod tests;

pub(crate) use backward::{backward, backward_scratch_elements};
pub(crate) use forward::{forward, partial_elements, scratch_elements};

use crate::attention::{BackwardProblem, Problem};
use crate::cpu::simd;

/// Rows of q that a task takes at a time: three panels of the widest vectors, twelve of the narrowest.
const BLOCK_Q: usize = 96;
/// Keys of a tile.
const BLOCK_KV: usize = 128;
/// Keys whose results are summed up apart, before they are added to what came before: whole tiles. Decoding computes such ranges in
/// parallel.
const RANGE_KV: usize = 2048;
/// Vectors of a panel's row, at most: a product of 6 keys by 2 vectors of queries has its 12 sums in registers, of which there are
/// 16 at least.
const PANEL_VECTORS: usize = 2;
/// The lanes of the widest panel.
const PANEL_LANES: usize = PANEL_VECTORS * simd::LANES;

/// Row lengths in scratch memory are whole vectors.
fn padded(columns: usize) -> usize {
    columns.next_multiple_of(simd::LANES)
}

/// The path in words.
pub(crate) fn describe(_problem: &Problem) -> String {
    format!(
        "blocks of {BLOCK_Q} query rows in parallel, and ranges of {RANGE_KV} keys where the blocks are few; tiles of {BLOCK_KV} \
         keys, online softmax in f32"
    )
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
