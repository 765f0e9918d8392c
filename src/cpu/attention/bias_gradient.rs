//! The gradient of the bias: a task owns a tile of it and sums the gradients of the scores over what was broadcast.

use std::ops::Range;

use crate::cpu::attention::backward::{Backward, Scratch};
use crate::cpu::attention::block::Block;
use crate::cpu::attention::inputs::Sequence;
use crate::cpu::attention::{BLOCK_KV, BLOCK_Q};
use crate::cpu::floats::narrow;
use crate::cpu::row_tasks::RowOutputs;
use crate::error::Result;
use crate::tensor::{Float, TensorMut};

/// Fills d_bias, `[batch, heads_q, len_q, len_kv]` in which the first three dimensions may be 1.
pub(super) fn compute<T: Float>(
    backward: &Backward<'_, T>,
    d_bias: &mut TensorMut<'_>,
    slots: &mut [Vec<f32>],
) -> Result<()> {
    let layout = *d_bias.layout();
    let &[_, heads, len_q, _] = layout.shape() else { unreachable!("a bias has 4 dimensions") };
    let outputs = RowOutputs::new(d_bias.host_mut::<T>()?, &layout, [None, None]);
    outputs.for_each_tile(len_q, [BLOCK_Q, BLOCK_KV], slots, |slot, rows, keys, writer| {
        let mut scratch = Scratch::new(slot, backward.problem);
        scratch.d_bias_sums.fill(0.0);
        let (first, head, sequence) = (rows.start % len_q, rows.start / len_q % heads, rows.start / len_q / heads);
        let task = Task {
            sequence: owned(layout.shape()[0], sequence),
            head: owned(heads, head),
            queries: owned(len_q, first).map(|first| first..first + rows.len()),
            keys,
        };
        task.sum(backward, &mut scratch);
        for (index, row) in rows.enumerate() {
            narrow(
                backward.inputs.set,
                &scratch.d_bias_sums[index * BLOCK_KV..][..task.keys.len()],
                writer.row::<T>(row),
            );
        }
    });
    Ok(())
}

/// An index in a dimension, or `None` for all of them where the dimension was broadcast.
fn owned(size: usize, index: usize) -> Option<usize> {
    (size > 1).then_some(index)
}

/// Which scores a task sums the gradients of; `None` is all of them.
struct Task {
    sequence: Option<usize>,
    head: Option<usize>,
    queries: Option<Range<usize>>,
    keys: Range<usize>,
}

impl Task {
    /// Sums into `d_bias_sums`: a row for each query, or all queries into the first.
    fn sum<T: Float>(&self, backward: &Backward<'_, T>, scratch: &mut Scratch<'_>) {
        let inputs = &backward.inputs;
        for sequence in inputs.sequences().filter(|sequence| self.sequence.is_none_or(|own| own == sequence.index)) {
            let keys = self.keys.start..self.keys.end.min(sequence.keys.len());
            if keys.is_empty() || sequence.queries.is_empty() {
                continue;
            }
            for head in self.head.map_or(0..inputs.problem.heads_q, |head| head..head + 1) {
                self.sum_head(backward, scratch, &sequence, head, &keys);
            }
        }
    }

    fn sum_head<T: Float>(
        &self,
        backward: &Backward<'_, T>,
        scratch: &mut Scratch<'_>,
        sequence: &Sequence,
        head: usize,
        keys: &Range<usize>,
    ) {
        let place = backward.inputs.place(sequence, head);
        for block in place.query_blocks(keys) {
            let queries = match &self.queries {
                None => block,
                Some(own) => block.start.max(own.start)..block.end.min(own.end),
            };
            if queries.is_empty() {
                continue;
            }
            let block = Block::of_head(sequence, backward.inputs.kv_head(head), head, &queries);
            let Some(rows) = backward.compute_tile(scratch, &block, keys, true) else { continue };
            for (lane, query) in queries.enumerate() {
                let row = self.queries.as_ref().map_or(0, |own| query - own.start);
                let sums = &mut scratch.d_bias_sums[row * BLOCK_KV..][..BLOCK_KV];
                let d_scores = scratch.d_scores[rows.start * BLOCK_Q + lane..].iter().step_by(BLOCK_Q);
                sums[rows.clone()].iter_mut().zip(d_scores).for_each(|(sum, d_score)| *sum += d_score);
            }
        }
    }
}
