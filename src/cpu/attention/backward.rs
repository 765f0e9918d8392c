//! The backward pass. The scores are computed again from q and k, once by tasks that own blocks of keys (d_k and d_v) and once
//! by tasks that own blocks of query rows (d_q), so that every result is a sum of one task in a fixed order.
//!
//! ```text
//! delta = sum_c output d_output - d_lse        p = exp(s - lse)        m = dropout's factors
//! d_v = (m p)^T d_output        d_s = p (m (d_output v^T) - delta)        d_c = d_s (1 - tanh^2) where scores are capped
//! d_k = scale d_c^T q           d_q = scale d_c k           d_bias = d_s           d_sink = -sum exp(sink - lse) delta
//! ```

use std::ops::Range;

use crate::attention::{BackwardProblem, Gradients, Operands, Problem, Saved};
use crate::cpu::attention::bias_gradient;
use crate::cpu::attention::inputs::{HeadRows, Inputs, Place, RowsAt, Sequence, within};
use crate::cpu::attention::scores::Tile;
use crate::cpu::attention::{BLOCK_KV, BLOCK_Q, padded};
use crate::cpu::row_tasks::{RowOutputs, RowWriter};
use crate::cpu::scratch::{scratch_total, split};
use crate::cpu::{dispatch_float, simd};
use crate::error::{Error, Result};
use crate::tensor::{Float, Layout, TensorMut};

/// The areas of [`Scratch`], in its order.
fn areas(problem: &BackwardProblem) -> [usize; 12] {
    let Problem { head_dim, head_dim_v, softcap, .. } = problem.forward;
    let (d, dv) = (padded(head_dim), padded(head_dim_v));
    let tile = BLOCK_Q * BLOCK_KV;
    [
        BLOCK_Q * d,
        BLOCK_Q * dv,
        BLOCK_KV * d,
        head_dim * BLOCK_KV,
        head_dim_v * BLOCK_KV,
        tile,
        tile,
        if softcap.is_some() { tile } else { 0 },
        BLOCK_Q.max(BLOCK_KV) * d,
        BLOCK_KV * dv,
        if problem.d_bias.is_some() { tile } else { 0 },
        head_dim.max(head_dim_v),
    ]
}

/// Scratch memory of one thread in f32; independent of the lengths.
pub(crate) fn backward_scratch_elements(problem: &BackwardProblem) -> usize {
    scratch_total(areas(problem))
}

/// The scratch areas of a task.
pub(super) struct Scratch<'a> {
    /// Scaled queries, `[BLOCK_Q, padded head_dim]`.
    q: &'a mut [f32],
    /// `[BLOCK_Q, padded head_dim_v]`.
    d_output: &'a mut [f32],
    /// Keys as rows, for d_q: `[BLOCK_KV, padded head_dim]`.
    k: &'a mut [f32],
    /// `[head_dim, BLOCK_KV]`.
    k_transposed: &'a mut [f32],
    /// `[head_dim_v, BLOCK_KV]`.
    v_transposed: &'a mut [f32],
    /// Scores, then the weights that multiply v, `[BLOCK_Q, BLOCK_KV]`.
    weights: &'a mut [f32],
    /// The gradients of the weights, then of the scores, `[BLOCK_Q, BLOCK_KV]`.
    pub d_scores: &'a mut [f32],
    /// The derivatives of softcap, `[BLOCK_Q, BLOCK_KV]`; empty without.
    derivatives: &'a mut [f32],
    /// The sums of d_k or d_q, `[BLOCK_Q or BLOCK_KV, padded head_dim]`.
    d_sums: &'a mut [f32],
    /// The sums of d_v, `[BLOCK_KV, padded head_dim_v]`.
    d_v_sums: &'a mut [f32],
    /// The sums of d_bias, `[BLOCK_Q, BLOCK_KV]`; empty without a bias.
    pub d_bias_sums: &'a mut [f32],
    /// One row in f32.
    row: &'a mut [f32],
}

impl<'a> Scratch<'a> {
    pub fn new(slot: &'a mut [f32], problem: &BackwardProblem) -> Scratch<'a> {
        let [
            q,
            d_output,
            k,
            k_transposed,
            v_transposed,
            weights,
            d_scores,
            derivatives,
            d_sums,
            d_v_sums,
            d_bias_sums,
            row,
        ] = split(slot, areas(problem));
        Scratch {
            q,
            d_output,
            k,
            k_transposed,
            v_transposed,
            weights,
            d_scores,
            derivatives,
            d_sums,
            d_v_sums,
            d_bias_sums,
            row,
        }
    }
}

/// Computes the gradients that have a place to go, on rayon's current pool. `delta` holds `sum output d_output - d_lse` of
/// each row, of lse's shape, for this function to fill and use; `slots` are the scratch memory of the threads.
pub(crate) fn backward(
    problem: &BackwardProblem,
    operands: &Operands<'_>,
    saved: &Saved<'_>,
    gradients: Gradients<'_>,
    delta: TensorMut<'_>,
    slots: &mut [Vec<f32>],
) -> Result<()> {
    let needed = backward_scratch_elements(problem);
    if slots.is_empty() || slots.iter().any(|slot| slot.len() < needed) {
        return Err(Error::PlanMismatch {
            what: "the workspace",
            given: format!("{} areas of {} f32", slots.len(), slots.iter().map(Vec::len).min().unwrap_or(0)),
            planned: format!("one area a thread of {needed} f32"),
        });
    }
    dispatch_float!(problem.forward.dtype, backward_typed(problem, operands, saved, gradients, delta, slots))
}

fn backward_typed<T: Float>(
    problem: &BackwardProblem,
    operands: &Operands<'_>,
    saved: &Saved<'_>,
    gradients: Gradients<'_>,
    mut delta: TensorMut<'_>,
    slots: &mut [Vec<f32>],
) -> Result<()> {
    let forward = &problem.forward;
    let delta = delta.host_mut::<f32>()?;
    let d_output = HeadRows::new(&saved.d_output)?;
    fill_delta::<T>(forward, saved, &d_output, delta, slots)?;
    let backward =
        Backward::<T> { problem, inputs: Inputs::new(forward, operands)?, d_output, lse: saved.lse.host()?, delta };

    let Gradients { mut d_q, mut d_k, mut d_v, mut d_bias, mut d_sinks } = gradients;
    if d_k.is_some() || d_v.is_some() {
        let rows = RowOutputs::of_tensors([d_k.as_mut(), d_v.as_mut()], [None, None])?;
        rows.for_each_task(forward.kv_rows(), BLOCK_KV, slots, |slot, range, writer| {
            backward.key_value_rows(&mut Scratch::new(slot, problem), range, writer);
        });
    }
    if let Some(d_q) = &mut d_q {
        let layout = *d_q.layout();
        let rows = RowOutputs::new(d_q.host_mut::<T>()?, &layout, [None, None]);
        rows.for_each_task(forward.q_rows(), BLOCK_Q, slots, |slot, range, writer| {
            backward.query_rows(&mut Scratch::new(slot, problem), range, writer);
        });
    }
    if let Some(d_bias) = &mut d_bias {
        bias_gradient::compute(&backward, d_bias, slots)?;
    }
    if let (Some(d_sinks), Some(sinks)) = (&mut d_sinks, backward.inputs.sinks) {
        let layout = Layout::contiguous(&[forward.heads_q, 1])?;
        let rows = RowOutputs::new(d_sinks.host_mut::<f32>()?, &layout, [None, None]);
        rows.for_each_task(1, 1, slots, |_, range, writer| {
            writer.row(range.start)[0] = backward.d_sink(range.start, sinks[range.start]);
        });
    }
    Ok(())
}

/// `delta = sum_c output d_output - d_lse` of every row.
fn fill_delta<T: Float>(
    problem: &Problem,
    saved: &Saved<'_>,
    d_output: &HeadRows<'_, T>,
    delta: &mut [f32],
    slots: &mut [Vec<f32>],
) -> Result<()> {
    let output = HeadRows::<T>::new(&saved.output)?;
    let d_lse = saved.d_lse.map(|d_lse| d_lse.host::<f32>()).transpose()?;
    let dv = problem.head_dim_v;
    // One entry holds all packed sequences.
    let count = saved.output.shape()[..3].iter().product();
    let rows = RowOutputs::new(delta, &Layout::contiguous(&[count, 1])?, [None, None]);
    rows.for_each_task(count, 8 * BLOCK_Q, slots, |slot, range, writer| {
        let [output_row, d_output_row] = split(slot, [dv; 2]);
        for row in range {
            let at = RowsAt::of_lse_row(problem, row);
            T::widen(output.row(at, 0), output_row);
            T::widen(d_output.row(at, 0), d_output_row);
            writer.row(row)[0] = simd::dot(output_row, d_output_row) - d_lse.map_or(0.0, |d_lse| d_lse[row]);
        }
    });
    Ok(())
}

/// What the tasks of a backward pass share.
pub(super) struct Backward<'a, T> {
    pub problem: &'a BackwardProblem,
    pub inputs: Inputs<'a, T>,
    d_output: HeadRows<'a, T>,
    lse: &'a [f32],
    delta: &'a [f32],
}

impl<T: Float> Backward<'_, T> {
    /// Computes rows `range` of d_k and d_v, all of one key head; rows count over `[batch, heads_kv, kv_rows]`.
    fn key_value_rows(&self, scratch: &mut Scratch<'_>, range: Range<usize>, writer: &mut RowWriter<'_>) {
        let problem = self.inputs.problem;
        let (group, first) = (range.start / problem.kv_rows(), range.start % problem.kv_rows());
        let (entry, kv_head) = (group / problem.heads_kv, group % problem.heads_kv);
        if problem.is_packed {
            // Lengths that nobody checked may leave rows to no sequence.
            for (tensor, row) in range.clone().flat_map(|row| [(0, row), (1, row)]) {
                writer.row_of::<T>(tensor, row).into_iter().for_each(|row| row.fill(T::zeroed()));
            }
        }
        let rows = first..first + range.len();
        for sequence in self.inputs.sequences_of(entry) {
            let keys = within(&rows, &sequence.keys);
            if keys.is_empty() {
                continue;
            }
            let has = [0, 1].map(|tensor| writer.row_of::<T>(tensor, range.start).is_some());
            self.key_value_block(scratch, &sequence, kv_head, &keys, has);
            let (d, dv) = (padded(problem.head_dim), padded(problem.head_dim_v));
            for index in 0..keys.len() {
                let row = range.start - first + sequence.keys.start + keys.start + index;
                if let Some(d_k) = writer.row_of(0, row) {
                    T::narrow(&scratch.d_sums[index * d..][..problem.head_dim], d_k);
                }
                if let Some(d_v) = writer.row_of(1, row) {
                    T::narrow(&scratch.d_v_sums[index * dv..][..problem.head_dim_v], d_v);
                }
            }
        }
    }

    /// Leaves the sums of d_k and d_v, as far as they are wanted, in scratch memory.
    fn key_value_block(
        &self,
        scratch: &mut Scratch<'_>,
        sequence: &Sequence,
        kv_head: usize,
        keys: &Range<usize>,
        [has_d_k, has_d_v]: [bool; 2],
    ) {
        let problem = self.inputs.problem;
        let (d, dv) = (padded(problem.head_dim), padded(problem.head_dim_v));
        let keys_padded = keys.len().next_multiple_of(simd::TILE_ROWS);
        scratch.d_sums[..keys_padded * d].fill(0.0);
        scratch.d_v_sums[..keys_padded * dv].fill(0.0);
        if sequence.queries.is_empty() {
            return;
        }
        self.load_keys(scratch, sequence, kv_head, keys, &(0..sequence.queries.len()));
        for head in kv_head * problem.group()..(kv_head + 1) * problem.group() {
            let place = self.inputs.place(sequence, head);
            for queries in place.query_blocks(keys) {
                self.load_queries(scratch, sequence, head, &queries);
                let tile = Tile { queries: queries.clone(), keys: keys.clone() };
                self.compute_tile(scratch, sequence, &place, &tile, has_d_k);
                let rows = queries.len();
                if has_d_v {
                    let weights = simd::Matrix { values: scratch.weights, stride: BLOCK_KV };
                    let d_output = simd::Matrix { values: scratch.d_output, stride: dv };
                    let size = [keys_padded, dv, rows];
                    simd::multiply_transposed_accumulate(weights, d_output, scratch.d_v_sums, dv, size);
                }
                if has_d_k {
                    chain_softcap(scratch, rows);
                    let d_scores = simd::Matrix { values: scratch.d_scores, stride: BLOCK_KV };
                    let q = simd::Matrix { values: scratch.q, stride: d };
                    let size = [keys_padded, d, rows];
                    simd::multiply_transposed_accumulate(d_scores, q, scratch.d_sums, d, size);
                }
            }
        }
    }

    /// Computes rows `range` of d_q, all of one head; rows count over `[batch, heads_q, q_rows]`.
    fn query_rows(&self, scratch: &mut Scratch<'_>, range: Range<usize>, writer: &mut RowWriter<'_>) {
        let problem = self.inputs.problem;
        let d = padded(problem.head_dim);
        let (group, first) = (range.start / problem.q_rows(), range.start % problem.q_rows());
        let (entry, head) = (group / problem.heads_q, group % problem.heads_q);
        if problem.is_packed {
            range.clone().for_each(|row| writer.row(row).fill(T::zeroed()));
        }
        let rows = first..first + range.len();
        for sequence in self.inputs.sequences_of(entry) {
            let queries = within(&rows, &sequence.queries);
            if queries.is_empty() {
                continue;
            }
            self.query_block(scratch, &sequence, &self.inputs.place(&sequence, head), &queries);
            for index in 0..queries.len() {
                let row = range.start - first + sequence.queries.start + queries.start + index;
                let sums = &mut scratch.d_sums[index * d..][..problem.head_dim];
                simd::scale(sums, problem.scale);
                T::narrow(sums, writer.row(row));
            }
        }
    }

    /// Leaves the sums of d_q, without the factor of the scores, in scratch memory.
    fn query_block(&self, scratch: &mut Scratch<'_>, sequence: &Sequence, place: &Place, queries: &Range<usize>) {
        let d = padded(self.inputs.problem.head_dim);
        let kv_head = self.inputs.kv_head(place.head);
        let rows_padded = queries.len().next_multiple_of(simd::TILE_ROWS);
        scratch.d_sums[..rows_padded * d].fill(0.0);
        self.load_queries(scratch, sequence, place.head, queries);
        for first in place.key_tiles(queries) {
            let tile = Tile { queries: queries.clone(), keys: first..(first + BLOCK_KV).min(place.len_kv) };
            self.load_keys(scratch, sequence, kv_head, &tile.keys, queries);
            let visible = place.visible_columns(queries, first);
            self.inputs.k.load_visible(sequence.keys_at(kv_head, first), &visible, scratch.k, d);
            self.compute_tile(scratch, sequence, place, &tile, true);
            chain_softcap(scratch, queries.len());
            let d_scores = simd::Matrix { values: scratch.d_scores, stride: BLOCK_KV };
            let k = simd::Matrix { values: scratch.k, stride: d };
            simd::multiply_accumulate(d_scores, k, scratch.d_sums, d, [rows_padded, d, BLOCK_KV]);
        }
    }

    /// Loads keys and values, transposed. Those that none of the queries sees become 0, and so do the other columns.
    pub fn load_keys(
        &self,
        scratch: &mut Scratch<'_>,
        sequence: &Sequence,
        kv_head: usize,
        keys: &Range<usize>,
        queries: &Range<usize>,
    ) {
        let at = sequence.keys_at(kv_head, keys.start);
        let place = self.inputs.place(sequence, kv_head * self.inputs.problem.group());
        let visible = place.visible_columns(queries, keys.start);
        let visible = visible.map(|columns| columns.start.min(keys.len())..columns.end.min(keys.len()));
        self.inputs.k.load_transposed(at, &visible, scratch.k_transposed, scratch.row);
        self.inputs.v.load_transposed(at, &visible, scratch.v_transposed, scratch.row);
    }

    /// Loads a block of queries, scaled, and their gradients of the output.
    pub fn load_queries(&self, scratch: &mut Scratch<'_>, sequence: &Sequence, head: usize, queries: &Range<usize>) {
        let problem = self.inputs.problem;
        let (d, dv) = (padded(problem.head_dim), padded(problem.head_dim_v));
        let at = sequence.queries_at(head, queries.start);
        let rows_padded = queries.len().next_multiple_of(simd::TILE_ROWS);
        self.inputs.q.load(at, queries.len(), problem.scale, &mut scratch.q[..rows_padded * d], d);
        self.d_output.load(at, queries.len(), 1.0, &mut scratch.d_output[..rows_padded * dv], dv);
    }

    /// From the loaded queries and keys, computes the weights that multiply v and, if they are wanted, the gradients of the
    /// scores that the softmax takes.
    pub fn compute_tile(
        &self,
        scratch: &mut Scratch<'_>,
        sequence: &Sequence,
        place: &Place,
        tile: &Tile,
        has_d_scores: bool,
    ) {
        let problem = self.inputs.problem;
        let (d, dv) = (padded(problem.head_dim), padded(problem.head_dim_v));
        let rows_padded = tile.queries.len().next_multiple_of(simd::TILE_ROWS);
        scratch.weights[..rows_padded * BLOCK_KV].fill(0.0);
        let q = simd::Matrix { values: scratch.q, stride: d };
        let k = simd::Matrix { values: scratch.k_transposed, stride: BLOCK_KV };
        simd::multiply_accumulate(q, k, scratch.weights, BLOCK_KV, [rows_padded, BLOCK_KV, problem.head_dim]);
        self.inputs.scoring.apply(place, tile, scratch.weights, scratch.derivatives);

        scratch.d_scores[..rows_padded * BLOCK_KV].fill(0.0);
        if has_d_scores {
            let d_output = simd::Matrix { values: scratch.d_output, stride: dv };
            let v = simd::Matrix { values: scratch.v_transposed, stride: BLOCK_KV };
            let size = [rows_padded, BLOCK_KV, problem.head_dim_v];
            simd::multiply_accumulate(d_output, v, scratch.d_scores, BLOCK_KV, size);
        }
        let first_row = sequence.queries_at(place.head, tile.queries.start).lse_row(problem);
        let mut factors = [1.0; BLOCK_KV];
        for (r, query) in tile.queries.clone().enumerate() {
            let weights = &mut scratch.weights[r * BLOCK_KV..][..BLOCK_KV];
            let d_scores = &mut scratch.d_scores[r * BLOCK_KV..][..BLOCK_KV];
            let (lse, delta) = (self.lse[first_row + r], self.delta[first_row + r]);
            if lse == f32::NEG_INFINITY {
                // The row has no weights, and nothing to divide by.
                weights.fill(0.0);
                d_scores.fill(0.0);
                continue;
            }
            self.inputs.scoring.dropout_factors(place, query, tile.keys.start, &mut factors);
            simd::score_gradients(weights, d_scores, &factors, lse, delta);
        }
    }

    /// `-sum exp(sink - lse) delta` over the rows of a head.
    fn d_sink(&self, head: usize, sink: f32) -> f32 {
        let problem = self.inputs.problem;
        let mut sum = 0.0;
        for sequence in self.inputs.sequences() {
            let first_row = sequence.queries_at(head, 0).lse_row(problem);
            let rows = first_row..first_row + sequence.queries.len();
            // A row without anything in its sum has no gradient. Sums of blocks keep the digits of long sequences.
            let term = |(lse, delta): (&f32, &f32)| match *lse {
                f32::NEG_INFINITY => 0.0,
                lse => (sink - lse).exp() * delta,
            };
            let blocks = self.lse[rows.clone()].chunks(BLOCK_Q).zip(self.delta[rows].chunks(BLOCK_Q));
            sum -= blocks.map(|(lse, delta)| lse.iter().zip(delta).map(term).sum::<f32>()).sum::<f32>();
        }
        sum
    }
}

/// From the gradients of capped scores to those of the scores before.
fn chain_softcap(scratch: &mut Scratch<'_>, rows: usize) {
    if !scratch.derivatives.is_empty() {
        simd::multiply_nonzero(&mut scratch.d_scores[..rows * BLOCK_KV], &scratch.derivatives[..rows * BLOCK_KV]);
    }
}
