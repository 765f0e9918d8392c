//! The forward pass: a task owns a block of query rows that read one key head and walks the keys in tiles with an online softmax.

use std::f32::consts::LOG2_E;
use std::ops::Range;

use crate::attention::{Operands, Problem};
use crate::cpu::attention::block::{
    Block, Panel, apply_options, block_elements, drop_weights, hide_by_position, lane_elements,
};
use crate::cpu::attention::inputs::{Inputs, RowsAt, within};
use crate::cpu::attention::operand::{
    LeftTile, RightTile, depth, elements, right_elements, tile_elements, whole_pairs,
};
use crate::cpu::attention::{BLOCK_KV, BLOCK_Q, PANEL_LANES, RANGE_KV, padded};
use crate::cpu::dispatch_float;
use crate::cpu::floats::narrow;
use crate::cpu::row_tasks::{RowOutputs, RowWriter};
use crate::cpu::scratch::{scratch_total, split};
use crate::cpu::simd::{self, Elements, InstructionSet, Left, Running, Update};
use crate::dtype::DType;
use crate::error::Result;
use crate::tensor::{Float, Layout, TensorMut};
use crate::workspace::Workspace;

/// Heads that share keys are taken together up to so many queries each: more fill panels of their own.
const SHARED_QUERIES_MAX: usize = 8;
/// The memory for partial results, at most, in elements. More rows than fit keep every thread busy without parts.
const PARTIAL_ELEMENTS_MAX: usize = 1 << 22;

/// The areas of [`Scratch`], in its order.
fn areas(problem: &Problem) -> [usize; 11] {
    let (d, dv) = (padded(problem.head_dim), padded(problem.head_dim_v));
    [
        block_elements(d),
        tile_elements(d),
        right_elements(BLOCK_KV, dv),
        BLOCK_KV * BLOCK_Q,
        BLOCK_Q * dv,
        BLOCK_Q * dv,
        BLOCK_Q,
        BLOCK_Q,
        BLOCK_Q,
        BLOCK_Q,
        lane_elements(d.max(dv)),
    ]
}

/// Scratch memory of one thread in f32; independent of the lengths.
pub(crate) fn scratch_elements(problem: &Problem) -> usize {
    scratch_total(areas(problem))
}

/// Memory for partial results in f32, which few rows with many keys are computed by; 0 for other problems.
pub(crate) fn partial_elements(problem: &Problem) -> usize {
    let units = Units::new(problem);
    let elements = units.tasks(problem) * units.partial_elements(problem) * ranges(problem);
    if ranges(problem) > 1 && !problem.is_packed && elements <= PARTIAL_ELEMENTS_MAX { elements } else { 0 }
}

/// Ranges of keys whose results are added up apart.
fn ranges(problem: &Problem) -> usize {
    problem.len_kv.div_ceil(RANGE_KV)
}

/// The scratch areas of a task.
struct Scratch<'a> {
    /// Queries, transposed.
    q: &'a mut [f32],
    /// A tile of keys that could not be read where it lies.
    k: &'a mut [f32],
    /// A tile of values, but for few queries.
    v: &'a mut [f32],
    /// Scores, then weights, of panels: a row a key, a lane a query.
    panels: &'a mut [f32],
    /// The results of a range of keys, and those of the ranges so far.
    range: State<'a>,
    total: State<'a>,
    /// A row a lane.
    rows: &'a mut [f32],
}

/// The results of a block's rows for some keys.
struct State<'a> {
    /// The unnormalised output, `[BLOCK_Q, padded head_dim_v]`.
    sums: &'a mut [f32],
    /// The largest score.
    max: &'a mut [f32],
    /// The sum of exponentials.
    sum: &'a mut [f32],
}

impl State<'_> {
    fn clear(&mut self) {
        self.sums.fill(0.0);
        self.max.fill(f32::NEG_INFINITY);
        self.sum.fill(0.0);
    }

    /// Adds a row's results for other keys: its sums, largest score and sum of exponentials, `2^(factor * (score - max))`.
    fn add(&mut self, row: usize, sums: &[f32], [max, sum]: [f32; 2], factor: f32) {
        // A row whose scores are all NaN has a sum of NaN and no largest one.
        if max == f32::NEG_INFINITY && sum == 0.0 {
            return;
        }
        let base = self.max[row].max(max);
        let [own, other] = [self.max[row], max].map(|max| ((max - base) * factor).exp2());
        let stride = self.sums.len() / BLOCK_Q;
        for (own_sum, other_sum) in self.sums[row * stride..].iter_mut().zip(sums) {
            *own_sum = *own_sum * own + other_sum * other;
        }
        self.sum[row] = self.sum[row] * own + sum * other;
        self.max[row] = base;
    }
}

impl<'a> Scratch<'a> {
    fn new(slot: &'a mut [f32], problem: &Problem) -> Scratch<'a> {
        let [q, k, v, panels, sums, total_sums, max, sum, total_max, total_sum, rows] = split(slot, areas(problem));
        let range = State { sums, max, sum };
        Scratch { q, k, v, panels, range, total: State { sums: total_sums, max: total_max, sum: total_sum }, rows }
    }
}

/// How rows of q, counted over `[batch, heads_q, q_rows]`, are grouped: rows of a unit may be in one block.
#[derive(Clone, Copy)]
struct Units {
    rows: usize,
    heads: usize,
}

impl Units {
    fn new(problem: &Problem) -> Units {
        let is_shared = !problem.is_packed && problem.len_q <= SHARED_QUERIES_MAX;
        let heads = if is_shared { problem.group() } else { 1 };
        Units { rows: heads * problem.q_rows(), heads }
    }

    fn tasks(self, problem: &Problem) -> usize {
        let rows = problem.q.layout.shape()[0] * problem.heads_q * problem.q_rows();
        rows / self.rows * self.rows.div_ceil(BLOCK_Q)
    }

    /// Elements of a block's partial result.
    fn partial_elements(self, problem: &Problem) -> usize {
        self.rows.min(BLOCK_Q) * (problem.head_dim_v + 2)
    }
}

/// Runs the problem on rayon's current pool.
pub(crate) fn forward(
    set: InstructionSet,
    problem: &Problem,
    operands: &Operands<'_>,
    output: TensorMut<'_>,
    lse: Option<TensorMut<'_>>,
    workspace: &mut Workspace,
) -> Result<()> {
    workspace.check(scratch_elements(problem))?;
    dispatch_float!(problem.dtype, forward_from(set, problem, operands, output, lse, workspace))
}

/// The output is of q's type, or f32 for a partial result.
fn forward_from<T: Float>(
    set: InstructionSet,
    problem: &Problem,
    operands: &Operands<'_>,
    output: TensorMut<'_>,
    lse: Option<TensorMut<'_>>,
    workspace: &mut Workspace,
) -> Result<()> {
    match problem.output.dtype {
        DType::F32 => forward_typed::<T, f32>(set, problem, operands, output, lse, workspace),
        _ => forward_typed::<T, T>(set, problem, operands, output, lse, workspace),
    }
}

fn forward_typed<T: Float, O: Float>(
    set: InstructionSet,
    problem: &Problem,
    operands: &Operands<'_>,
    mut output: TensorMut<'_>,
    mut lse: Option<TensorMut<'_>>,
    workspace: &mut Workspace,
) -> Result<()> {
    let units = Units::new(problem);
    // Tiles are for many rows: a few are bound by memory, and read keys and values as they lie.
    let elements = match set.multiplies_tiles() && !problem.is_packed && units.rows <= simd::FEW {
        true => Elements::F32,
        false => elements(set, problem.dtype),
    };
    let forward = Forward { inputs: Inputs::<T>::new(set, problem, operands)?, units, elements };
    let layout = *output.layout();
    let lse = lse.as_mut().map(|lse| lse.host_mut::<f32>()).transpose()?;
    let rows = RowOutputs::new(output.host_mut::<O>()?, &layout, [lse, None]);
    let Workspace { slots, tensors } = workspace;

    let partial = tensors.first_mut().filter(|partial| {
        let elements = partial.layout().num_elements();
        elements > 0 && elements == partial_elements(problem) && units.tasks(problem) < 2 * slots.len()
    });
    let Some(partial) = partial else {
        rows.for_each_task(units.rows, BLOCK_Q, slots, |slot, range, writer| {
            let _tiles = set.hold_tiles();
            forward.compute_rows::<O>(&mut Scratch::new(slot, problem), range, writer);
        });
        return Ok(());
    };
    let mut partial = partial.view_mut();
    let partial = partial.host_mut::<f32>()?;
    let len = units.partial_elements(problem);
    let parts = Layout::contiguous(&[units.tasks(problem) * ranges(problem), len])?;
    let outputs = RowOutputs::new(partial, &parts, [None, None]);
    outputs.for_each_task(parts.shape()[0], 1, slots, |slot, task, writer| {
        let (block, range) = (task.start / ranges(problem), task.start % ranges(problem));
        let _tiles = set.hold_tiles();
        forward.compute_part(&mut Scratch::new(slot, problem), block, range, writer.row(task.start));
    });
    let partial = &*partial;
    rows.for_each_task(units.rows, BLOCK_Q, slots, |slot, range, writer| {
        let mut scratch = Scratch::new(slot, problem);
        let per_unit = units.rows.div_ceil(BLOCK_Q);
        let block = range.start / units.rows * per_unit + range.start % units.rows / BLOCK_Q;
        let parts = partial[block * ranges(problem) * len..].chunks(len).take(ranges(problem));
        forward.add_parts(&mut scratch, range.len(), parts);
        forward.write_rows::<O>(&mut scratch, &forward.block_of(range.clone()), range.start, writer);
    });
    Ok(())
}

struct Forward<'a, T> {
    inputs: Inputs<'a, T>,
    units: Units,
    elements: Elements,
}

impl<T: Float> Forward<'_, T> {
    /// What scores are multiplied by before exponentials to the base 2. Options need the scale before.
    fn factor(&self) -> f32 {
        if self.inputs.scoring.has_options() { LOG2_E } else { self.inputs.problem.scale * LOG2_E }
    }

    /// The rows `range` of sequences that are not packed; rows count over `[batch, heads_q, q_rows]`.
    fn block_of(&self, range: Range<usize>) -> Block {
        let problem = self.inputs.problem;
        let (unit, first) = (range.start / self.units.rows, range.start % self.units.rows);
        let (entry, unit_in_entry) =
            (unit * self.units.heads / problem.heads_q, unit * self.units.heads % problem.heads_q);
        let (head, query) = (unit_in_entry + first / problem.q_rows(), first % problem.q_rows());
        let sequence = self.inputs.sequences_of(entry).next().expect("an entry that is not packed is one sequence");
        Block { sequence, kv_head: self.inputs.kv_head(head), first: (head, query), count: range.len() }
    }

    /// Computes output rows `range`, all of one unit.
    fn compute_rows<O: Float>(&self, scratch: &mut Scratch<'_>, range: Range<usize>, writer: &mut RowWriter<'_>) {
        let problem = self.inputs.problem;
        if !problem.is_packed {
            let block = self.block_of(range.clone());
            self.compute_block(scratch, &block);
            return self.write_rows::<O>(scratch, &block, range.start, writer);
        }
        // Lengths that nobody checked may leave rows to no sequence.
        for row in range.clone() {
            writer.row::<O>(row).fill(O::zeroed());
            writer.set_stat(0, row, f32::NEG_INFINITY);
        }
        let (head, head_start) = (range.start / problem.q_rows(), range.start - range.start % problem.q_rows());
        let rows = range.start - head_start..range.end - head_start;
        for sequence in self.inputs.sequences_of(0) {
            let queries = within(&rows, &sequence.queries);
            if queries.is_empty() {
                continue;
            }
            let first_row = head_start + sequence.queries.start + queries.start;
            let kv_head = self.inputs.kv_head(head);
            let block = Block { sequence, kv_head, first: (head, queries.start), count: queries.len() };
            self.compute_block(scratch, &block);
            self.write_rows::<O>(scratch, &block, first_row, writer);
        }
    }

    /// Leaves the results of all keys in the total.
    fn compute_block(&self, scratch: &mut Scratch<'_>, block: &Block) {
        let dv = padded(self.inputs.problem.head_dim_v);
        self.load_queries(scratch, block);
        scratch.total.clear();
        for range in 0..block.sequence.keys.len().div_ceil(RANGE_KV) {
            if self.compute_range(scratch, block, range) {
                for row in 0..block.count {
                    let stats = [scratch.range.max[row], scratch.range.sum[row]];
                    scratch.total.add(row, &scratch.range.sums[row * dv..][..dv], stats, self.factor());
                }
            }
        }
    }

    /// Computes the partial result of a block for one range of keys: the rows' sums, then their largest scores, then their sums of
    /// exponentials.
    fn compute_part(&self, scratch: &mut Scratch<'_>, block: usize, range: usize, out: &mut [f32]) {
        let problem = self.inputs.problem;
        let per_unit = self.units.rows.div_ceil(BLOCK_Q);
        let start = block / per_unit * self.units.rows;
        let first = start + block % per_unit * BLOCK_Q;
        let block = self.block_of(first..(first + BLOCK_Q).min(start + self.units.rows));
        self.load_queries(scratch, &block);
        if !self.compute_range(scratch, &block, range) {
            scratch.range.clear();
        }
        let (dv, stride) = (problem.head_dim_v, padded(problem.head_dim_v));
        for (row, out) in out.chunks_mut(dv + 2).enumerate().take(block.count) {
            out[..dv].copy_from_slice(&scratch.range.sums[row * stride..][..dv]);
            (out[dv], out[dv + 1]) = (scratch.range.max[row], scratch.range.sum[row]);
        }
    }

    /// Adds up what [`Forward::compute_part`] left of a block with `count` rows.
    fn add_parts<'p>(&self, scratch: &mut Scratch<'_>, count: usize, parts: impl Iterator<Item = &'p [f32]>) {
        let dv = self.inputs.problem.head_dim_v;
        scratch.total.clear();
        for part in parts {
            for (row, part) in part.chunks(dv + 2).enumerate().take(count) {
                scratch.total.add(row, &part[..dv], [part[dv], part[dv + 1]], self.factor());
            }
        }
    }

    fn load_queries(&self, scratch: &mut Scratch<'_>, block: &Block) {
        let Inputs { set, q, .. } = &self.inputs;
        block.load_transposed(*set, self.elements, q, scratch.q, scratch.rows);
    }

    /// Leaves the results of a range of keys in scratch memory; returns whether any is seen.
    fn compute_range(&self, scratch: &mut Scratch<'_>, block: &Block, range: usize) -> bool {
        let Inputs { set, k, v, .. } = &self.inputs;
        let place = self.inputs.place(&block.sequence, block.first.0);
        let queries = block.queries(&(0..block.count));
        let Scratch { q, k: k_area, v: v_area, panels: scores, range: state, .. } = scratch;
        let mut is_empty = true;
        for first in place.key_tiles(&queries, &(range * RANGE_KV..(range + 1) * RANGE_KV)) {
            if std::mem::take(&mut is_empty) {
                state.clear();
            }
            let rows = place.rows_of_tile(&queries, first);
            let at = block.sequence.keys_at(block.kv_head, first);
            if block.count <= simd::FEW && !(set.multiplies_tiles() && self.elements == Elements::Pairs) {
                let panel = Panel { rows: 0..block.count, width: set.lanes() };
                let tile = Tile::new(first, at, rows.clone(), self.elements);
                self.scores_of_few(&panel, &tile, q, k_area, scores);
                let rescale = self.weigh(block, &panel, &tile, scores, state);
                self.add_values_of_few(&panel, &tile, &rescale, v_area, scores, state);
                continue;
            }
            let k = LeftTile::new(*set, self.elements, k, at, &rows, k_area);
            let v = RightTile::new(*set, self.elements, v, at, &rows, v_area);
            let with_tile = |panel: Panel| {
                let seen = place.rows_of_tile(&block.queries(&panel.rows), first);
                (!seen.is_empty()).then(|| (Tile::new(first, at, seen, self.elements), panel))
            };
            if !set.multiplies_tiles() {
                for (tile, panel) in block.panels(*set).filter_map(with_tile) {
                    self.scores(&panel, &tile, q, &k, 0, scores);
                    let rescale = self.weigh(block, &panel, &tile, scores, state);
                    self.add_values(&panel, &tile, &rescale, &v, scores, state);
                }
                continue;
            }
            // The unit for tiles takes some time from its last product to the next: it has those of all panels at once.
            let mut rescale = [0.0; BLOCK_Q];
            let lanes = |panel: &Panel| panel.rows.start..panel.rows.start + panel.width;
            let area = |panel: &Panel| panel.rows.start * BLOCK_KV..(panel.rows.start + panel.width) * BLOCK_KV;
            for (tile, panel) in block.panels(*set).filter_map(with_tile) {
                self.scores(&panel, &tile, q, &k, 0, &mut scores[area(&panel)]);
            }
            for (tile, panel) in block.panels(*set).filter_map(with_tile) {
                let of_panel = self.weigh(block, &panel, &tile, &mut scores[area(&panel)], state);
                rescale[lanes(&panel)].copy_from_slice(&of_panel[..panel.width]);
            }
            for (tile, panel) in block.panels(*set).filter_map(with_tile) {
                self.add_values(&panel, &tile, &rescale[lanes(&panel)], &v, &scores[area(&panel)], state);
            }
        }
        !is_empty
    }

    /// Sets the panel's rows from the tile's row `skipped` on to the products of queries and keys.
    fn scores(&self, panel: &Panel, tile: &Tile, q: &[f32], k: &LeftTile<'_>, skipped: usize, scores: &mut [f32]) {
        let d = self.inputs.problem.head_dim;
        let queries = panel.transposed(self.elements, q, d);
        let size = [tile.rows.len() - skipped, panel.width, depth(self.elements, d)];
        let scores = &mut scores[(tile.before + skipped) * panel.width..];
        let k = k.rows_from(tile.rows.start + skipped);
        simd::product(self.inputs.set, self.elements, k, queries, scores, panel.width, Update::Set, size);
    }

    /// As [`Forward::scores`], of few queries: most keys are read where they lie.
    fn scores_of_few(&self, panel: &Panel, tile: &Tile, q: &[f32], k_area: &mut [f32], scores: &mut [f32]) {
        let Inputs { set, problem, k, .. } = &self.inputs;
        let size = [tile.rows.len(), panel.rows.len(), problem.head_dim];
        let has_pairs = self.elements == Elements::Pairs;
        let few_scores = &mut scores[tile.before * panel.width..][..tile.rows.len() * panel.width];
        // Lanes without a query are computed too, and must be numbers.
        few_scores.fill(0.0);
        let k_rows = k.typed(tile.at, tile.rows.start);
        let done = simd::scores_of_few(*set, k_rows, q, has_pairs, few_scores, panel.width, size);
        if done < tile.rows.len() {
            let rest = tile.rows.start + done..tile.rows.end;
            let k = LeftTile::new(*set, self.elements, k, tile.at, &rest, k_area);
            self.scores(panel, tile, q, &k, done, scores);
        }
    }

    /// Turns the scores of a panel into weights; returns what each lane's results so far have to be multiplied by.
    fn weigh(
        &self,
        block: &Block,
        panel: &Panel,
        tile: &Tile,
        scores: &mut [f32],
        state: &mut State<'_>,
    ) -> [f32; PANEL_LANES] {
        let Inputs { set, problem, scoring, .. } = &self.inputs;
        let place = self.inputs.place(&block.sequence, block.first.0);
        let (set, width) = (*set, panel.width);
        let keys = tile.first + tile.rows.start..tile.first + tile.rows.end;
        let all_scores = &mut scores[..tile.keys() * width];
        let (unseen, rest) = all_scores.split_at_mut(tile.before * width);
        unseen.fill(f32::NEG_INFINITY);
        let (scores, unseen) = rest.split_at_mut(keys.len() * width);
        unseen.fill(f32::NEG_INFINITY);
        if scoring.has_options() {
            simd::scale(set, scores, problem.scale);
            apply_options(scoring, &place, block, panel, &keys, scores, width, &mut []);
        }
        hide_by_position(set, &place, block, panel, &keys, scores, width);

        let mut rescale = [0.0; PANEL_LANES];
        let lanes = panel.rows.start..panel.rows.start + width;
        let running = Running { max: &mut state.max[lanes.clone()], sum: &mut state.sum[lanes], rescale: &mut rescale };
        let (has_pairs, has_dropout) = (self.elements == Elements::Pairs, scoring.has_dropout());
        simd::softmax_panel(set, all_scores, width, self.factor(), running, has_pairs && !has_dropout);
        if has_dropout {
            let weights = &mut all_scores[tile.before * width..][..keys.len() * width];
            drop_weights(scoring, &place, block, panel, &keys, weights, width, |weight, factor| *weight *= factor);
            if has_pairs {
                simd::pair_rows(set, all_scores, width);
            }
        }
        rescale
    }

    /// Adds the values of a tile by the weights of a panel.
    fn add_values(
        &self,
        panel: &Panel,
        tile: &Tile,
        rescale: &[f32],
        v: &RightTile<'_>,
        weights: &[f32],
        state: &mut State<'_>,
    ) {
        let dv = padded(self.inputs.problem.head_dim_v);
        let weights = Left::of_columns(weights, panel.width);
        let size = [panel.rows.len(), v.columns, depth(self.elements, tile.keys())];
        let (sums, update) = (&mut state.sums[panel.rows.start * dv..], Update::ScaleAdd(rescale));
        let v = v.rows_from(tile.rows.start - tile.before);
        simd::product(self.inputs.set, self.elements, weights, v, sums, dv, update, size);
    }

    /// As [`Forward::add_values`], of few queries: values are read where they lie, unless it takes pairs of them, or padding.
    fn add_values_of_few(
        &self,
        panel: &Panel,
        tile: &Tile,
        rescale: &[f32],
        v_area: &mut [f32],
        weights: &[f32],
        state: &mut State<'_>,
    ) {
        let Inputs { set, problem, v, .. } = &self.inputs;
        let columns = problem.head_dim_v;
        if self.elements == Elements::F32 && columns.is_multiple_of(set.lanes()) {
            let size = [panel.rows.len(), columns, tile.keys()];
            let v = v.typed(tile.at, tile.rows.start);
            return simd::values_of_few(*set, weights, panel.width, v, state.sums, padded(columns), rescale, size);
        }
        let v = RightTile::new(*set, self.elements, v, tile.at, &tile.rows, v_area);
        self.add_values(panel, tile, rescale, &v, weights, state);
    }

    /// Folds the sinks in, normalises and rounds a block's total. The block's first row is row `first_row` of the output.
    fn write_rows<O: Float>(
        &self,
        scratch: &mut Scratch<'_>,
        block: &Block,
        first_row: usize,
        writer: &mut RowWriter<'_>,
    ) {
        let Inputs { set, problem, sinks, scoring, .. } = &self.inputs;
        let dv = padded(problem.head_dim_v);
        let State { sums, max, sum } = &mut scratch.total;
        for index in 0..block.count {
            let sink = sinks.map_or(f32::NEG_INFINITY, |sinks| sinks[block.row(index).0]);
            let natural = if scoring.has_options() { 1.0 } else { problem.scale };
            let (max, mut sum) = (max[index] * natural, sum[index]);
            let (mut base, mut factor) = (max, 1.0);
            if sink != f32::NEG_INFINITY {
                base = base.max(sink);
                factor = (max - base).exp();
                sum = sum * factor + (sink - base).exp();
            }
            let sums = &mut sums[index * dv..][..problem.head_dim_v];
            // A row without keys and sink has sum 0, and its output is 0.
            simd::scale(*set, sums, if sum == 0.0 { 0.0 } else { factor / sum });
            narrow(*set, sums, writer.row::<O>(first_row + index));
            writer.set_stat(0, first_row + index, if sum == 0.0 { f32::NEG_INFINITY } else { base + sum.ln() });
        }
    }
}

/// The part of a tile of keys that a panel sees.
struct Tile {
    /// The tile's first key, and where it lies.
    first: usize,
    at: RowsAt,
    rows: Range<usize>,
    /// Rows before and after that the panel has besides, without weight: those of [`whole_pairs`].
    before: usize,
    after: usize,
}

impl Tile {
    fn new(first: usize, at: RowsAt, rows: Range<usize>, elements: Elements) -> Tile {
        let whole = whole_pairs(elements, &rows);
        Tile { first, at, before: rows.start - whole.start, after: whole.end - rows.end, rows }
    }

    /// The rows of the panel.
    fn keys(&self) -> usize {
        self.before + self.rows.len() + self.after
    }
}
