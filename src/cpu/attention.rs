//! Attention forward on the CPU: a task owns a block of query rows of one head and walks the keys in tiles.

use crate::attention::{AttentionOutputs, Problem, Qkv};
use crate::cpu::row_tasks::{RowOutputs, RowWriter};
use crate::cpu::{dispatch_float, simd};
use crate::error::Result;
use crate::tensor::Float;
use crate::workspace::Workspace;

/// Query rows of a task.
const BLOCK_Q: usize = 64;
/// Keys of a tile.
const BLOCK_KV: usize = 64;

/// Row lengths in scratch memory are padded for the matrix product.
fn padded(columns: usize) -> usize {
    columns.next_multiple_of(simd::LANES)
}

/// Scratch memory of one thread in f32; independent of the lengths.
pub(crate) fn scratch_elements(problem: &Problem) -> usize {
    let (d, dv) = (problem.head_dim, padded(problem.head_dim_v));
    BLOCK_Q * d + d * BLOCK_KV + BLOCK_KV * dv + BLOCK_Q * BLOCK_KV + BLOCK_Q * dv + 2 * BLOCK_Q + d.max(dv)
}

/// The path in words.
pub(crate) fn describe(_problem: &Problem) -> String {
    format!("blocks of {BLOCK_Q} query rows in parallel, tiles of {BLOCK_KV} keys, online softmax in f32")
}

/// Runs the problem on rayon's current pool.
pub(crate) fn forward(
    problem: &Problem,
    inputs: &Qkv<'_>,
    outputs: &mut AttentionOutputs<'_>,
    workspace: &mut Workspace,
) -> Result<()> {
    workspace.check(scratch_elements(problem))?;
    dispatch_float!(problem.dtype, forward_typed(problem, inputs, outputs, workspace))
}

fn forward_typed<T: Float>(
    problem: &Problem,
    inputs: &Qkv<'_>,
    outputs: &mut AttentionOutputs<'_>,
    workspace: &mut Workspace,
) -> Result<()> {
    let heads = Heads::<T> {
        problem,
        q: inputs.q.host()?,
        k: inputs.k.host()?,
        v: inputs.v.host()?,
        key_lengths: inputs.key_lengths.map(|lengths| lengths.view().host::<i32>()).transpose()?,
    };
    let layout = *outputs.output.layout();
    let lse = outputs.lse.as_mut().map(|lse| lse.host_mut::<f32>()).transpose()?;
    let rows = RowOutputs::new(outputs.output.host_mut::<T>()?, &layout, [lse, None]);
    rows.for_each_task(problem.len_q, BLOCK_Q, &mut workspace.slots, |slot, range, writer| {
        heads.compute_block(slot, range, writer);
    });
    Ok(())
}

struct Heads<'a, T> {
    problem: &'a Problem,
    q: &'a [T],
    k: &'a [T],
    v: &'a [T],
    key_lengths: Option<&'a [i32]>,
}

/// The scratch areas of a task.
struct Scratch<'a> {
    /// Scaled queries, `[BLOCK_Q, head_dim]`.
    q: &'a mut [f32],
    /// Keys, transposed: `[head_dim, BLOCK_KV]`.
    k_transposed: &'a mut [f32],
    /// Values, `[BLOCK_KV, padded head_dim_v]`.
    v: &'a mut [f32],
    /// Scores, then probabilities, `[BLOCK_Q, BLOCK_KV]`.
    scores: &'a mut [f32],
    /// The unnormalised output, `[BLOCK_Q, padded head_dim_v]`.
    sums: &'a mut [f32],
    row_max: &'a mut [f32],
    row_sum: &'a mut [f32],
    /// One row in f32.
    row: &'a mut [f32],
}

impl<'a> Scratch<'a> {
    fn new(mut slot: &'a mut [f32], problem: &Problem) -> Scratch<'a> {
        let (d, dv) = (problem.head_dim, padded(problem.head_dim_v));
        let mut take = |elements: usize| {
            let (part, rest) = std::mem::take(&mut slot).split_at_mut(elements);
            slot = rest;
            part
        };
        Scratch {
            q: take(BLOCK_Q * d),
            k_transposed: take(d * BLOCK_KV),
            v: take(BLOCK_KV * dv),
            scores: take(BLOCK_Q * BLOCK_KV),
            sums: take(BLOCK_Q * dv),
            row_max: take(BLOCK_Q),
            row_sum: take(BLOCK_Q),
            row: take(d.max(dv)),
        }
    }
}

impl<T: Float> Heads<'_, T> {
    /// Computes output rows `range`, all of one head; rows count over `[batch, heads_q, len_q]`.
    fn compute_block(&self, slot: &mut [f32], range: std::ops::Range<usize>, writer: &mut RowWriter<'_, T>) {
        let problem = self.problem;
        let (d, dv) = (problem.head_dim, padded(problem.head_dim_v));
        let (head, batch) =
            (range.start / problem.len_q % problem.heads_q, range.start / problem.len_q / problem.heads_q);
        let first_query = range.start % problem.len_q;
        let rows = range.len();
        let rows_padded = rows.next_multiple_of(simd::TILE_ROWS);
        let scratch = Scratch::new(slot, problem);

        // Scores are kept in base 2: exp(s - max) = 2^(s log2(e) - max log2(e)).
        let scale_log2 = problem.scale * std::f32::consts::LOG2_E;
        for r in 0..rows {
            let strides = problem.q.layout.strides();
            let start = batch * strides[0] + head * strides[1] + (first_query + r) * strides[2];
            let row = &mut scratch.q[r * d..][..d];
            T::widen(&self.q[start..start + d], row);
            simd::scale(row, scale_log2);
        }
        scratch.q[rows * d..rows_padded * d].fill(0.0);
        scratch.sums[..rows_padded * dv].fill(0.0);
        scratch.row_max.fill(f32::NEG_INFINITY);
        scratch.row_sum.fill(0.0);

        let limit =
            self.key_lengths.map_or(problem.len_kv, |lengths| (lengths[batch].max(0) as usize).min(problem.len_kv));
        let visible = |r: usize| problem.mask.visible_keys(first_query + r, problem.len_kv).min(limit);
        // The last row of a block sees the most keys.
        let keys = visible(rows - 1);
        for tile in (0..keys).step_by(BLOCK_KV) {
            let tile_keys = BLOCK_KV.min(keys - tile);
            self.load_keys(batch, head, tile, tile_keys, scratch.k_transposed, scratch.row);
            self.load_values(batch, head, tile, tile_keys, scratch.v);

            scratch.scores[..rows_padded * BLOCK_KV].fill(0.0);
            let q = simd::Matrix { values: scratch.q, stride: d };
            let k = simd::Matrix { values: scratch.k_transposed, stride: BLOCK_KV };
            simd::multiply_accumulate(q, k, scratch.scores, BLOCK_KV, [rows_padded, BLOCK_KV, d]);

            for r in 0..rows {
                let scores = &mut scratch.scores[r * BLOCK_KV..][..BLOCK_KV];
                scores[visible(r).saturating_sub(tile).min(BLOCK_KV)..].fill(f32::NEG_INFINITY);
                let max = scratch.row_max[r].max(simd::max(scores));
                // A row without a finite score so far must not compute -inf - -inf.
                let base = if max == f32::NEG_INFINITY { 0.0 } else { max };
                let rescale = (scratch.row_max[r] - base).exp2();
                scratch.row_sum[r] = scratch.row_sum[r] * rescale + simd::exp2_sum(scores, base, 1.0);
                scratch.row_max[r] = max;
                if rescale != 1.0 {
                    simd::scale(&mut scratch.sums[r * dv..][..dv], rescale);
                }
            }
            let probabilities = simd::Matrix { values: scratch.scores, stride: BLOCK_KV };
            let v = simd::Matrix { values: scratch.v, stride: dv };
            simd::multiply_accumulate(probabilities, v, scratch.sums, dv, [rows_padded, dv, BLOCK_KV]);
        }

        for (r, row) in range.enumerate() {
            let sum = scratch.row_sum[r];
            let sums = &mut scratch.sums[r * dv..][..problem.head_dim_v];
            // A row without keys has sum 0, and its output is 0.
            simd::scale(sums, if sum == 0.0 { 0.0 } else { 1.0 / sum });
            T::narrow(sums, writer.row(row));
            let lse = (scratch.row_max[r] + sum.log2()) * std::f32::consts::LN_2;
            writer.set_stat(0, row, if sum == 0.0 { f32::NEG_INFINITY } else { lse });
        }
    }

    /// Keys `tile..tile + count` into columns of the transposed tile; the other columns become 0.
    fn load_keys(&self, batch: usize, head: usize, tile: usize, count: usize, tile_out: &mut [f32], row: &mut [f32]) {
        let problem = self.problem;
        let d = problem.head_dim;
        let strides = problem.k.layout.strides();
        let base = batch * strides[0] + self.kv_head(head) * strides[1];
        for key in 0..count {
            let start = base + (tile + key) * strides[2];
            T::widen(&self.k[start..start + d], &mut row[..d]);
            for (depth, value) in row[..d].iter().enumerate() {
                tile_out[depth * BLOCK_KV + key] = *value;
            }
        }
        for depth in 0..d {
            tile_out[depth * BLOCK_KV + count..(depth + 1) * BLOCK_KV].fill(0.0);
        }
    }

    /// Values `tile..tile + count`; the other rows, and the padding of each, become 0.
    fn load_values(&self, batch: usize, head: usize, tile: usize, count: usize, tile_out: &mut [f32]) {
        let problem = self.problem;
        let (d, padded) = (problem.head_dim_v, padded(problem.head_dim_v));
        let strides = problem.v.layout.strides();
        let base = batch * strides[0] + self.kv_head(head) * strides[1];
        for key in 0..count {
            let start = base + (tile + key) * strides[2];
            let row = &mut tile_out[key * padded..][..padded];
            T::widen(&self.v[start..start + d], &mut row[..d]);
            row[d..].fill(0.0);
        }
        tile_out[count * padded..].fill(0.0);
    }

    fn kv_head(&self, head: usize) -> usize {
        head / (self.problem.heads_q / self.problem.heads_kv)
    }
}
