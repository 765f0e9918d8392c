//! The backward pass. The scores are computed again from q and k, a block of queries by a tile of keys at a time.
//!
//! ```text
//! delta = sum_c output d_output - d_lse        p = exp(s - lse)        m = dropout's factors
//! d_v = (m p)^T d_output        d_s = p (m (d_output v^T) - delta)        d_c = d_s (1 - tanh^2) where scores are capped
//! d_k = scale d_c^T q           d_q = scale d_c k           d_bias = d_s           d_sink = -sum exp(sink - lse) delta
//! ```
//!
//! Where there are enough key heads for all threads, a task computes everything that belongs to one: five products a tile. Else
//! tasks own tiles of keys (d_k and d_v), and then blocks of queries (d_q), which takes seven. Every result is a sum of one task
//! in the same fixed order either way, with the same bits.
//!
//! Where bf16 is multiplied in pairs, `m p` and `d_c` are rounded to it as they become operands of a product; all else is f32.

use std::ops::Range;

use half::bf16;

use crate::attention::{BackwardProblem, Gradients, Operands, Problem, Saved};
use crate::cpu::attention::bias_gradient;
use crate::cpu::attention::block::{
    Block, apply_options, block_elements, drop_weights, hide_by_position, lane_elements,
};
use crate::cpu::attention::inputs::{HeadRows, Inputs, RowsAt, Sequence, within};
use crate::cpu::attention::operand::{
    LeftTile, RightTile, depth, elements, right_elements, tile_elements, whole_pairs,
};
use crate::cpu::attention::{BLOCK_KV, BLOCK_Q, PANEL_LANES, padded};
use crate::cpu::dispatch_float;
use crate::cpu::floats::{narrow, widen};
use crate::cpu::row_tasks::{RowOutputs, RowWriter};
use crate::cpu::scratch::{scratch_total, split};
use crate::cpu::simd::{self, Elements, InstructionSet, Left, Update};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::{Float, Layout, TensorMut};

/// The most elements of d_q that a thread sums up in scratch memory.
const D_Q_ELEMENTS_MAX: usize = 1 << 22;
/// Elements of a tile of scores, keys by queries.
const TILE: usize = BLOCK_KV * BLOCK_Q;

/// The areas of [`Scratch`], in its order.
fn areas(problem: &BackwardProblem) -> [usize; 16] {
    let Problem { head_dim, head_dim_v, dtype, softcap, dropout, .. } = problem.forward;
    let (d, dv) = (padded(head_dim), padded(head_dim_v));
    let if_any = |is_needed: bool, elements: usize| if is_needed { elements } else { 0 };
    [
        block_elements(d),
        block_elements(dv),
        right_elements(BLOCK_Q, d),
        right_elements(BLOCK_Q, dv),
        tile_elements(d),
        right_elements(BLOCK_KV, d),
        tile_elements(dv),
        TILE,
        TILE,
        if_any(softcap.is_some(), TILE),
        if_any(dropout.is_some(), TILE),
        if_any(dtype == DType::BF16, TILE / 2),
        tile_elements(d).max(block_elements(d)),
        tile_elements(dv),
        if_any(problem.d_bias.is_some(), TILE),
        lane_elements(d.max(dv)),
    ]
}

/// Elements of d_q that belong to one key head, if that is how they are summed up: `threads` are to be kept busy.
fn d_q_elements(problem: &Problem, threads: usize) -> Option<usize> {
    let elements = problem.group() * problem.q_rows() * padded(problem.head_dim);
    let tasks = problem.batch * problem.heads_kv;
    (!problem.is_packed && tasks >= threads && elements <= D_Q_ELEMENTS_MAX).then_some(elements)
}

/// Scratch memory of one of `threads` threads in f32.
pub(crate) fn backward_scratch_elements(problem: &BackwardProblem, threads: usize) -> usize {
    scratch_total(areas(problem)) + d_q_elements(&problem.forward, threads).unwrap_or(0)
}

/// The scratch areas of a task.
pub(super) struct Scratch<'a> {
    /// Queries and gradients of the output, transposed: `[head_dim, lanes]` a panel.
    q_transposed: &'a mut [f32],
    d_output_transposed: &'a mut [f32],
    /// As rows, where they could not be read as they lie.
    q: &'a mut [f32],
    d_output: &'a mut [f32],
    /// Keys, for products with queries and for d_q, and values, where they could not be read as they lie.
    k: &'a mut [f32],
    k_padded: &'a mut [f32],
    v: &'a mut [f32],
    /// Scores, then the weights that multiply v, `[BLOCK_KV, BLOCK_Q]`.
    weights: &'a mut [f32],
    /// The gradients of the weights, then of the scores, `[BLOCK_KV, BLOCK_Q]`.
    pub d_scores: &'a mut [f32],
    /// The derivatives of softcap, `[BLOCK_KV, BLOCK_Q]`; empty without.
    derivatives: &'a mut [f32],
    /// Dropout's factors, `[BLOCK_KV, BLOCK_Q]`; empty without.
    kept: &'a mut [f32],
    /// Weights or gradients of scores as pairs of queries, `[BLOCK_KV, BLOCK_Q / 2]`; empty but for bf16.
    pairs: &'a mut [f32],
    /// The sums of d_k or of a block of d_q.
    d_sums: &'a mut [f32],
    /// The sums of d_v, `[BLOCK_KV, padded head_dim_v]`.
    d_v_sums: &'a mut [f32],
    /// The sums of d_bias, `[BLOCK_Q, BLOCK_KV]`; empty without a bias.
    pub d_bias_sums: &'a mut [f32],
    /// A row a lane.
    rows: &'a mut [f32],
    /// The sums of d_q of all queries of a key head, `[heads, q_rows, padded head_dim]`; empty if blocks of them are summed up.
    d_q_sums: &'a mut [f32],
}

impl<'a> Scratch<'a> {
    pub fn new(slot: &'a mut [f32], problem: &BackwardProblem) -> Scratch<'a> {
        let (areas_slot, d_q_sums) = slot.split_at_mut(scratch_total(areas(problem)));
        let [
            q_transposed,
            d_output_transposed,
            q,
            d_output,
            k,
            k_padded,
            v,
            weights,
            d_scores,
            derivatives,
            kept,
            pairs,
            d_sums,
            d_v_sums,
            d_bias_sums,
            rows,
        ] = split(areas_slot, areas(problem));
        Scratch {
            q_transposed,
            d_output_transposed,
            q,
            d_output,
            k,
            k_padded,
            v,
            weights,
            d_scores,
            derivatives,
            kept,
            pairs,
            d_sums,
            d_v_sums,
            d_bias_sums,
            rows,
            d_q_sums,
        }
    }
}

/// Computes the gradients that have a place to go, on rayon's current pool. `delta` holds `sum output d_output - d_lse` of
/// each row, of lse's shape, for this function to fill and use; `slots` are the scratch memory of the threads.
pub(crate) fn backward(
    set: InstructionSet,
    problem: &BackwardProblem,
    operands: &Operands<'_>,
    saved: &Saved<'_>,
    gradients: Gradients<'_>,
    delta: TensorMut<'_>,
    slots: &mut [Vec<f32>],
) -> Result<()> {
    let needed = backward_scratch_elements(problem, slots.len());
    if slots.is_empty() || slots.iter().any(|slot| slot.len() < needed) {
        return Err(Error::PlanMismatch {
            what: "the workspace",
            given: format!("{} areas of {} f32", slots.len(), slots.iter().map(Vec::len).min().unwrap_or(0)),
            planned: format!("one area a thread of {needed} f32"),
        });
    }
    dispatch_float!(problem.forward.dtype, backward_typed(set, problem, operands, saved, gradients, delta, slots))
}

fn backward_typed<T: Float>(
    set: InstructionSet,
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
    fill_delta::<T>(set, forward, saved, &d_output, delta, slots)?;
    let inputs = Inputs::new(set, forward, operands)?;
    let elements = elements(set, forward.dtype);
    let backward = Backward::<T> { problem, inputs, elements, d_output, lse: saved.lse.host()?, delta };

    let Gradients { mut d_q, mut d_k, mut d_v, mut d_bias, mut d_sinks } = gradients;
    let has_keys = d_k.is_some() || d_v.is_some();
    if has_keys && d_q.is_some() && d_q_elements(forward, slots.len()).is_some() {
        let rows = RowOutputs::of_groups([d_k.as_mut(), d_v.as_mut(), d_q.as_mut()], forward.batch * forward.heads_kv)?;
        rows.for_each_group(slots, |slot, group, writer| {
            let _tiles = set.hold_tiles();
            backward.head(&mut Scratch::new(slot, problem), group, writer);
        });
    } else {
        if has_keys {
            let rows = RowOutputs::of_tensors([d_k.as_mut(), d_v.as_mut()], [None, None])?;
            rows.for_each_task(forward.kv_rows(), BLOCK_KV, slots, |slot, range, writer| {
                let _tiles = set.hold_tiles();
                backward.key_value_rows(&mut Scratch::new(slot, problem), range, writer);
            });
        }
        if let Some(d_q) = &mut d_q {
            let layout = *d_q.layout();
            let rows = RowOutputs::new(d_q.host_mut::<T>()?, &layout, [None, None]);
            rows.for_each_task(forward.q_rows(), BLOCK_Q, slots, |slot, range, writer| {
                let _tiles = set.hold_tiles();
                backward.query_rows(&mut Scratch::new(slot, problem), range, writer);
            });
        }
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
    set: InstructionSet,
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
            widen(set, output.row(at, 0), output_row);
            widen(set, d_output.row(at, 0), d_output_row);
            writer.row(row)[0] = simd::dot(set, output_row, d_output_row) - d_lse.map_or(0.0, |d_lse| d_lse[row]);
        }
    });
    Ok(())
}

/// What the tasks of a backward pass share.
pub(super) struct Backward<'a, T> {
    pub problem: &'a BackwardProblem,
    pub inputs: Inputs<'a, T>,
    elements: Elements,
    d_output: HeadRows<'a, T>,
    lse: &'a [f32],
    delta: &'a [f32],
}

/// Which of the gradients of keys, values and queries a task sums up.
#[derive(Clone, Copy)]
struct Wanted {
    d_k: bool,
    d_v: bool,
    d_q: bool,
}

impl<T: Float> Backward<'_, T> {
    /// Computes everything that belongs to a key head of an entry; groups count over `[batch, heads_kv]`.
    fn head(&self, scratch: &mut Scratch<'_>, group: usize, writer: &mut RowWriter<'_>) {
        let problem = self.inputs.problem;
        let (entry, kv_head) = (group / problem.heads_kv, group % problem.heads_kv);
        let sequence = self.inputs.sequences_of(entry).next().expect("an entry that is not packed is one sequence");
        let d = padded(problem.head_dim);
        scratch.d_q_sums[..problem.group() * problem.q_rows() * d].fill(0.0);
        for first in (0..problem.kv_rows()).step_by(BLOCK_KV) {
            let keys = first..(first + BLOCK_KV).min(problem.kv_rows());
            let wanted = Wanted { d_k: true, d_v: true, d_q: true };
            self.key_value_block(scratch, &sequence, kv_head, &keys, wanted);
            self.write_keys(scratch, group * problem.kv_rows() + first, keys.len(), writer);
        }
        let first_row = group * problem.group() * problem.q_rows();
        for (index, sums) in scratch.d_q_sums.chunks_mut(d).enumerate().take(problem.group() * problem.q_rows()) {
            let row = writer.row_of(2, first_row + index).expect("the task was made with d_q");
            self.write_scaled(&mut sums[..problem.head_dim], row);
        }
    }

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
            let [d_k, d_v] = [0, 1].map(|tensor| writer.row_of::<T>(tensor, range.start).is_some());
            self.key_value_block(scratch, &sequence, kv_head, &keys, Wanted { d_k, d_v, d_q: false });
            self.write_keys(scratch, range.start - first + sequence.keys.start + keys.start, keys.len(), writer);
        }
    }

    /// Writes the sums of d_k and d_v that are wanted.
    fn write_keys(&self, scratch: &mut Scratch<'_>, first_row: usize, count: usize, writer: &mut RowWriter<'_>) {
        let problem = self.inputs.problem;
        let (d, dv) = (padded(problem.head_dim), padded(problem.head_dim_v));
        for index in 0..count {
            if let Some(d_k) = writer.row_of(0, first_row + index) {
                self.write_scaled(&mut scratch.d_sums[index * d..][..problem.head_dim], d_k);
            }
            if let Some(d_v) = writer.row_of::<T>(1, first_row + index) {
                narrow(self.inputs.set, &scratch.d_v_sums[index * dv..][..problem.head_dim_v], d_v);
            }
        }
    }

    /// Multiplies a row of sums of d_k or d_q by the factor of the scores, and rounds it.
    fn write_scaled(&self, sums: &mut [f32], row: &mut [T]) {
        simd::scale(self.inputs.set, sums, self.inputs.problem.scale);
        narrow(self.inputs.set, sums, row);
    }

    /// Leaves the sums of d_k and d_v in scratch memory, and adds to those of d_q, as far as they are wanted; d_k and d_q without
    /// the factor of the scores.
    fn key_value_block(
        &self,
        scratch: &mut Scratch<'_>,
        sequence: &Sequence,
        kv_head: usize,
        keys: &Range<usize>,
        wanted: Wanted,
    ) {
        let problem = self.inputs.problem;
        let (d, dv) = (padded(problem.head_dim), padded(problem.head_dim_v));
        scratch.d_sums[..keys.len() * d].fill(0.0);
        scratch.d_v_sums[..keys.len() * dv].fill(0.0);
        if sequence.queries.is_empty() {
            return;
        }
        for head in kv_head * problem.group()..(kv_head + 1) * problem.group() {
            let place = self.inputs.place(sequence, head);
            for queries in place.query_blocks(keys) {
                let block = Block::of_head(sequence, kv_head, head, &queries);
                let Some(rows) = self.compute_tile(scratch, &block, keys, wanted.d_k || wanted.d_q) else { continue };
                let (set, elements, count) = (self.inputs.set, self.elements, block.count);
                let steps = depth(elements, count);
                let at = sequence.queries_at(head, queries.start);
                if wanted.d_v {
                    let d_output = RightTile::new(set, elements, &self.d_output, at, &(0..count), scratch.d_output);
                    let weights = self.tile_rows(scratch.weights, &rows, scratch.pairs);
                    let size = [rows.len(), d_output.columns, steps];
                    let sums = &mut scratch.d_v_sums[rows.start * dv..];
                    simd::product(set, elements, weights, d_output.rows_from(0), sums, dv, Update::Add, size);
                }
                if wanted.d_k || wanted.d_q {
                    chain_softcap(set, scratch, &rows);
                }
                if wanted.d_k {
                    let q = RightTile::new(set, elements, &self.inputs.q, at, &(0..count), scratch.q);
                    let d_scores = self.tile_rows(scratch.d_scores, &rows, scratch.pairs);
                    let size = [rows.len(), q.columns, steps];
                    let sums = &mut scratch.d_sums[rows.start * d..];
                    simd::product(set, elements, d_scores, q.rows_from(0), sums, d, Update::Add, size);
                }
                if wanted.d_q {
                    let first = (head - kv_head * problem.group()) * problem.q_rows() + queries.start;
                    let Scratch { d_scores, k_padded, d_q_sums, .. } = scratch;
                    self.add_d_q(&block, keys, &rows, d_scores, k_padded, &mut d_q_sums[first * d..]);
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
            self.query_block(scratch, &Block::of_head(&sequence, self.inputs.kv_head(head), head, &queries));
            for index in 0..queries.len() {
                let row = range.start - first + sequence.queries.start + queries.start + index;
                self.write_scaled(&mut scratch.d_sums[index * d..][..problem.head_dim], writer.row(row));
            }
        }
    }

    /// Leaves the sums of d_q, without the factor of the scores, in scratch memory.
    fn query_block(&self, scratch: &mut Scratch<'_>, block: &Block) {
        let place = self.inputs.place(&block.sequence, block.first.0);
        scratch.d_sums[..block.count * padded(self.inputs.problem.head_dim)].fill(0.0);
        for first in place.key_tiles(&block.queries(&(0..block.count)), &(0..place.len_kv)) {
            let keys = first..(first + BLOCK_KV).min(place.len_kv);
            let Some(rows) = self.compute_tile(scratch, block, &keys, true) else { continue };
            chain_softcap(self.inputs.set, scratch, &rows);
            let Scratch { d_scores, k_padded, d_sums, .. } = scratch;
            self.add_d_q(block, &keys, &rows, d_scores, k_padded, d_sums);
        }
    }

    /// Some rows of a tile of scores, a row a key, for sums over queries: as they are, or as pairs in scratch memory.
    fn tile_rows<'t>(&self, tile: &'t [f32], rows: &Range<usize>, pairs: &'t mut [f32]) -> Left<'t> {
        let tile = &tile[rows.start * BLOCK_Q..rows.end * BLOCK_Q];
        match self.elements {
            Elements::F32 => Left::of_rows(tile, BLOCK_Q),
            Elements::Pairs => {
                // Neighbours in a row are a pair as soon as they are bf16.
                narrow::<bf16>(self.inputs.set, tile, &mut bytemuck::cast_slice_mut(pairs)[..tile.len()]);
                Left::of_rows(pairs, BLOCK_Q / 2)
            }
        }
    }

    /// Adds the part of a tile of keys to a block's d_q. `rows` are those of the tile that the block sees. The gradients of the
    /// scores become pairs of keys where they lie.
    fn add_d_q(
        &self,
        block: &Block,
        keys: &Range<usize>,
        rows: &Range<usize>,
        d_scores: &mut [f32],
        k_padded: &mut [f32],
        sums: &mut [f32],
    ) {
        let Inputs { set, problem, k, .. } = &self.inputs;
        let at = block.sequence.keys_at(block.kv_head, keys.start);
        let k = RightTile::new(*set, self.elements, k, at, rows, k_padded);
        let rows = whole_pairs(self.elements, rows);
        let d_scores = &mut d_scores[rows.start * BLOCK_Q..rows.end * BLOCK_Q];
        if self.elements == Elements::Pairs {
            simd::pair_rows(*set, d_scores, BLOCK_Q);
        }
        let d_scores = Left::of_columns(d_scores, BLOCK_Q);
        let (d, size) = (padded(problem.head_dim), [block.count, k.columns, depth(self.elements, rows.len())]);
        simd::product(*set, self.elements, d_scores, k.rows_from(rows.start), sums, d, Update::Add, size);
    }

    /// Computes the weights that multiply v and, if they are wanted, the gradients of the scores that the softmax takes, of a
    /// block's queries and some keys. Returns the rows of the tile, a row a key, from the first to the last that any query
    /// sees: of the others, those in their pairs are 0, and the rest is not computed. So are lanes between the block's last query
    /// and the end of its panel 0.
    pub fn compute_tile(
        &self,
        scratch: &mut Scratch<'_>,
        block: &Block,
        keys: &Range<usize>,
        has_d_scores: bool,
    ) -> Option<Range<usize>> {
        let Inputs { set, problem, scoring, .. } = &self.inputs;
        let (set, elements) = (*set, self.elements);
        let place = self.inputs.place(&block.sequence, block.first.0);
        let seen = |queries: &Range<usize>| {
            let rows = place.rows_of_tile(queries, keys.start);
            rows.start.min(keys.len())..rows.end.min(keys.len())
        };
        let rows = seen(&block.queries(&(0..block.count)));
        if rows.is_empty() {
            return None;
        }
        let at = block.sequence.keys_at(block.kv_head, keys.start);
        block.load_transposed(set, elements, &self.inputs.q, scratch.q_transposed, scratch.rows);
        let k = LeftTile::new(set, elements, &self.inputs.k, at, &rows, scratch.k);
        let v = has_d_scores.then(|| {
            block.load_transposed(set, elements, &self.d_output, scratch.d_output_transposed, scratch.rows);
            LeftTile::new(set, elements, &self.inputs.v, at, &rows, scratch.v)
        });
        let first_row = block.sequence.queries_at(block.first.0, block.first.1).lse_row(problem);
        for panel in block.panels(set) {
            let seen = seen(&block.queries(&panel.rows));
            // What other panels of the block see, or only a pair holds, has no weight here.
            for row in whole_pairs(elements, &rows).filter(|row| !seen.contains(row)) {
                let first = row * BLOCK_Q + panel.rows.start;
                let lanes = first..first + panel.width;
                scratch.weights[lanes.clone()].fill(0.0);
                scratch.d_scores[lanes].fill(0.0);
            }
            if seen.is_empty() {
                continue;
            }
            let keys = keys.start + seen.start..keys.start + seen.end;
            let corner = seen.start * BLOCK_Q + panel.rows.start;
            let size = [seen.len(), panel.width];
            let weights = &mut scratch.weights[corner..];
            let d_scores = &mut scratch.d_scores[corner..];
            let products = |a: &LeftTile<'_>, b: &[f32], columns: usize, c: &mut [f32]| {
                let b = panel.transposed(elements, b, columns);
                let size = [size[0], size[1], depth(elements, columns)];
                simd::product(set, elements, a.rows_from(seen.start), b, c, BLOCK_Q, Update::Set, size);
            };
            products(&k, scratch.q_transposed, problem.head_dim, weights);
            match &v {
                Some(v) => products(v, scratch.d_output_transposed, problem.head_dim_v, d_scores),
                None => d_scores.chunks_mut(BLOCK_Q).take(seen.len()).for_each(|row| row[..panel.width].fill(0.0)),
            }
            let mut factor = problem.scale;
            if scoring.has_options() {
                factor = 1.0;
                for row in weights.chunks_mut(BLOCK_Q).take(seen.len()) {
                    simd::scale(set, &mut row[..panel.width], problem.scale);
                }
                let derivatives = match scratch.derivatives.is_empty() {
                    true => &mut [],
                    false => &mut scratch.derivatives[corner..],
                };
                apply_options(scoring, &place, block, &panel, &keys, weights, BLOCK_Q, derivatives);
            }
            hide_by_position(set, &place, block, &panel, &keys, weights, BLOCK_Q);
            let kept = match scoring.has_dropout() {
                true => {
                    let kept = &mut scratch.kept[corner..];
                    drop_weights(scoring, &place, block, &panel, &keys, kept, BLOCK_Q, |kept, factor| *kept = factor);
                    &*kept
                }
                false => &[],
            };
            let (mut base, mut delta) = ([f32::INFINITY; PANEL_LANES], [0.0; PANEL_LANES]);
            for (lane, row) in panel.rows.clone().enumerate() {
                let lse = self.lse[first_row + row];
                // A row without weights has no lse to subtract.
                base[lane] = if lse == f32::NEG_INFINITY { f32::INFINITY } else { lse };
                delta[lane] = self.delta[first_row + row];
            }
            let size = [panel.width, BLOCK_Q, seen.len()];
            simd::gradient_panel(set, [weights, d_scores], kept, size, factor, [&base, &delta]);
        }
        Some(rows)
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

/// From the gradients of capped scores to those of the scores before, in some rows of a tile.
fn chain_softcap(set: InstructionSet, scratch: &mut Scratch<'_>, rows: &Range<usize>) {
    if !scratch.derivatives.is_empty() {
        let all = rows.start * BLOCK_Q..rows.end * BLOCK_Q;
        simd::multiply_nonzero(set, &mut scratch.d_scores[all.clone()], &scratch.derivatives[all]);
    }
}
