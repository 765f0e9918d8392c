//! The forward pass: a task owns a block of query rows of one head and walks the keys in tiles with an online softmax.

use std::f32::consts::LOG2_E;
use std::ops::Range;

use crate::attention::{Operands, Problem};
use crate::cpu::attention::inputs::{Inputs, Place, Sequence, within};
use crate::cpu::attention::scores::Tile;
use crate::cpu::attention::{BLOCK_KV, BLOCK_Q, padded};
use crate::cpu::row_tasks::{RowOutputs, RowWriter};
use crate::cpu::scratch::{scratch_total, split};
use crate::cpu::{dispatch_float, simd};
use crate::dtype::DType;
use crate::error::Result;
use crate::tensor::{Float, TensorMut};
use crate::workspace::Workspace;

/// The areas of [`Scratch`], in its order.
fn areas(problem: &Problem) -> [usize; 8] {
    let (d, dv) = (problem.head_dim, padded(problem.head_dim_v));
    [
        BLOCK_Q * d,
        d * BLOCK_KV,
        BLOCK_KV * dv,
        BLOCK_Q * BLOCK_KV,
        BLOCK_Q * dv,
        BLOCK_Q,
        BLOCK_Q,
        problem.head_dim.max(problem.head_dim_v),
    ]
}

/// Scratch memory of one thread in f32; independent of the lengths.
pub(crate) fn scratch_elements(problem: &Problem) -> usize {
    scratch_total(areas(problem))
}

/// The scratch areas of a task.
struct Scratch<'a> {
    /// Scaled queries, `[BLOCK_Q, head_dim]`.
    q: &'a mut [f32],
    /// Keys, transposed: `[head_dim, BLOCK_KV]`.
    k_transposed: &'a mut [f32],
    /// Values, `[BLOCK_KV, padded head_dim_v]`.
    v: &'a mut [f32],
    /// Scores, then weights, `[BLOCK_Q, BLOCK_KV]`.
    scores: &'a mut [f32],
    /// The unnormalised output, `[BLOCK_Q, padded head_dim_v]`.
    sums: &'a mut [f32],
    row_max: &'a mut [f32],
    row_sum: &'a mut [f32],
    /// One row in f32.
    row: &'a mut [f32],
}

impl<'a> Scratch<'a> {
    fn new(slot: &'a mut [f32], problem: &Problem) -> Scratch<'a> {
        let [q, k_transposed, v, scores, sums, row_max, row_sum, row] = split(slot, areas(problem));
        Scratch { q, k_transposed, v, scores, sums, row_max, row_sum, row }
    }
}

/// Runs the problem on rayon's current pool.
pub(crate) fn forward(
    problem: &Problem,
    operands: &Operands<'_>,
    output: TensorMut<'_>,
    lse: Option<TensorMut<'_>>,
    workspace: &mut Workspace,
) -> Result<()> {
    workspace.check(scratch_elements(problem))?;
    dispatch_float!(problem.dtype, forward_from(problem, operands, output, lse, workspace))
}

/// The output is of q's type, or f32 for a partial result.
fn forward_from<T: Float>(
    problem: &Problem,
    operands: &Operands<'_>,
    output: TensorMut<'_>,
    lse: Option<TensorMut<'_>>,
    workspace: &mut Workspace,
) -> Result<()> {
    match problem.output.dtype {
        DType::F32 => forward_typed::<T, f32>(problem, operands, output, lse, workspace),
        _ => forward_typed::<T, T>(problem, operands, output, lse, workspace),
    }
}

fn forward_typed<T: Float, O: Float>(
    problem: &Problem,
    operands: &Operands<'_>,
    mut output: TensorMut<'_>,
    mut lse: Option<TensorMut<'_>>,
    workspace: &mut Workspace,
) -> Result<()> {
    let forward = Forward { inputs: Inputs::<T>::new(problem, operands)? };
    let layout = *output.layout();
    let lse = lse.as_mut().map(|lse| lse.host_mut::<f32>()).transpose()?;
    let rows = RowOutputs::new(output.host_mut::<O>()?, &layout, [lse, None]);
    rows.for_each_task(problem.q_rows(), BLOCK_Q, &mut workspace.slots, |slot, range, writer| {
        forward.compute_rows::<O>(&mut Scratch::new(slot, problem), range, writer);
    });
    Ok(())
}

struct Forward<'a, T> {
    inputs: Inputs<'a, T>,
}

impl<T: Float> Forward<'_, T> {
    /// Computes output rows `range`, all of one head; rows count over `[batch, heads_q, q_rows]`.
    fn compute_rows<O: Float>(&self, scratch: &mut Scratch<'_>, range: Range<usize>, writer: &mut RowWriter<'_>) {
        let problem = self.inputs.problem;
        let head_start = range.start - range.start % problem.q_rows();
        let (entry, head) =
            (range.start / problem.q_rows() / problem.heads_q, range.start / problem.q_rows() % problem.heads_q);
        if problem.is_packed {
            // Lengths that nobody checked may leave rows to no sequence.
            for row in range.clone() {
                writer.row::<O>(row).fill(O::zeroed());
                writer.set_stat(0, row, f32::NEG_INFINITY);
            }
        }
        let rows = range.start - head_start..range.end - head_start;
        for sequence in self.inputs.sequences_of(entry) {
            let queries = within(&rows, &sequence.queries);
            if queries.is_empty() {
                continue;
            }
            self.compute_block(scratch, &sequence, &self.inputs.place(&sequence, head), queries.clone());
            let first_row = head_start + sequence.queries.start;
            self.write_block::<O>(scratch, head, first_row + queries.start..first_row + queries.end, writer);
        }
    }

    /// Leaves the unnormalised sums, and each row's maximum and sum of exponentials, in scratch memory.
    fn compute_block(&self, scratch: &mut Scratch<'_>, sequence: &Sequence, place: &Place, queries: Range<usize>) {
        let Inputs { problem, q, k, v, scoring, .. } = &self.inputs;
        let (d, dv) = (problem.head_dim, padded(problem.head_dim_v));
        let rows = queries.len();
        let rows_padded = rows.next_multiple_of(simd::TILE_ROWS);
        let kv_head = self.inputs.kv_head(place.head);

        q.load(
            sequence.queries_at(place.head, queries.start),
            rows,
            problem.scale,
            &mut scratch.q[..rows_padded * d],
            d,
        );
        scratch.sums[..rows_padded * dv].fill(0.0);
        scratch.row_max.fill(f32::NEG_INFINITY);
        scratch.row_sum.fill(0.0);
        let mut factors = [1.0; BLOCK_KV];

        for first in place.key_tiles(&queries) {
            let visible = place.visible_columns(&queries, first);
            let at = sequence.keys_at(kv_head, first);
            k.load_transposed(at, &visible, scratch.k_transposed, scratch.row);
            v.load_visible(at, &visible, scratch.v, dv);

            scratch.scores[..rows_padded * BLOCK_KV].fill(0.0);
            let q = simd::Matrix { values: scratch.q, stride: d };
            let k = simd::Matrix { values: scratch.k_transposed, stride: BLOCK_KV };
            simd::multiply_accumulate(q, k, scratch.scores, BLOCK_KV, [rows_padded, BLOCK_KV, d]);
            let tile = Tile { queries: queries.clone(), keys: first..(first + BLOCK_KV).min(place.len_kv) };
            scoring.apply(place, &tile, scratch.scores, &mut []);

            for (r, query) in queries.clone().enumerate() {
                let scores = &mut scratch.scores[r * BLOCK_KV..][..BLOCK_KV];
                let max = scratch.row_max[r].max(simd::max(scores));
                // A row without a finite score so far must not compute -inf - -inf.
                let base = if max == f32::NEG_INFINITY { 0.0 } else { max };
                let rescale = (scratch.row_max[r] - base).exp();
                scratch.row_sum[r] = scratch.row_sum[r] * rescale + simd::exp2_sum(scores, base, LOG2_E);
                scratch.row_max[r] = max;
                if rescale != 1.0 {
                    simd::scale(&mut scratch.sums[r * dv..][..dv], rescale);
                }
                if scoring.dropout_factors(place, query, first, &mut factors) {
                    simd::multiply(scores, &factors);
                }
            }
            let weights = simd::Matrix { values: scratch.scores, stride: BLOCK_KV };
            let v = simd::Matrix { values: scratch.v, stride: dv };
            simd::multiply_accumulate(weights, v, scratch.sums, dv, [rows_padded, dv, BLOCK_KV]);
        }
    }

    /// Folds the sink in, normalises and rounds the rows of one head that [`Forward::compute_block`] left.
    fn write_block<O: Float>(
        &self,
        scratch: &mut Scratch<'_>,
        head: usize,
        rows: Range<usize>,
        writer: &mut RowWriter<'_>,
    ) {
        let problem = self.inputs.problem;
        let dv = padded(problem.head_dim_v);
        let sink = self.inputs.sinks.map_or(f32::NEG_INFINITY, |sinks| sinks[head]);
        for (r, row) in rows.enumerate() {
            let (max, mut sum) = (scratch.row_max[r], scratch.row_sum[r]);
            let mut base = max;
            let mut factor = 1.0;
            if sink != f32::NEG_INFINITY {
                base = max.max(sink);
                factor = (max - base).exp();
                sum = sum * factor + (sink - base).exp();
            }
            let sums = &mut scratch.sums[r * dv..][..problem.head_dim_v];
            // A row without keys and sink has sum 0, and its output is 0.
            simd::scale(sums, if sum == 0.0 { 0.0 } else { factor / sum });
            O::narrow(sums, writer.row(row));
            writer.set_stat(0, row, if sum == 0.0 { f32::NEG_INFINITY } else { base + sum.ln() });
        }
    }
}
