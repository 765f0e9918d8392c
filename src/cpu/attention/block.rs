//! Query rows that a task takes together, in panels: who they are, and how their queries and the panels' scores lie in scratch
//! memory.

use std::ops::Range;

use crate::cpu::attention::inputs::{HeadRows, Place, Sequence};
use crate::cpu::attention::operand::{copy_pairs, depth};
use crate::cpu::attention::scores::Scoring;
use crate::cpu::attention::{BLOCK_KV, BLOCK_Q, PANEL_LANES, PANEL_VECTORS};
use crate::cpu::floats::widen;
use crate::cpu::simd::{self, Elements, InstructionSet, LaneKeys, Right};
use crate::tensor::Float;

/// Some query rows of one sequence that read the same key head: those of one head, one after the other, or of several heads that
/// follow each other, with all their queries.
pub(super) struct Block {
    pub sequence: Sequence,
    pub kv_head: usize,
    /// The head and the query of the first row.
    pub first: (usize, usize),
    pub count: usize,
}

/// The rows of a block whose scores are computed together: row `rows.start + lane` is in a lane.
#[derive(Clone)]
pub(super) struct Panel {
    pub rows: Range<usize>,
    /// Lanes: whole vectors.
    pub width: usize,
}

impl Block {
    /// Some queries of one head.
    pub fn of_head(sequence: &Sequence, kv_head: usize, head: usize, queries: &Range<usize>) -> Block {
        Block { sequence: sequence.clone(), kv_head, first: (head, queries.start), count: queries.len() }
    }

    /// The head and the query of a row.
    pub fn row(&self, index: usize) -> (usize, usize) {
        let (len_q, at) = (self.sequence.queries.len(), self.first.1 + index);
        match at < len_q {
            true => (self.first.0, at),
            false => (self.first.0 + at / len_q, at % len_q),
        }
    }

    /// Queries among which those of some rows are.
    pub fn queries(&self, rows: &Range<usize>) -> Range<usize> {
        let ((first_head, first), (last_head, last)) = (self.row(rows.start), self.row(rows.end - 1));
        match first_head == last_head {
            true => first..last + 1,
            false => 0..self.sequence.queries.len(),
        }
    }

    /// The panels, in order. All but the last have the set's largest width.
    pub fn panels(&self, set: InstructionSet) -> impl Iterator<Item = Panel> + use<> {
        let (count, lanes) = (self.count, PANEL_VECTORS * set.lanes());
        (0..count).step_by(lanes).map(move |start| {
            let rows = start..count.min(start + lanes);
            Panel { width: rows.len().next_multiple_of(set.lanes()), rows }
        })
    }

    /// The rows of `tensor`, which has q's shape but for its columns, as the right side of products: `[depth, width]` for each panel,
    /// one after the other, each as [`Panel::transposed`] finds it. `rows` takes a row a lane.
    pub fn load_transposed<T: Float>(
        &self,
        set: InstructionSet,
        elements: Elements,
        tensor: &HeadRows<'_, T>,
        out: &mut [f32],
        rows: &mut [f32],
    ) {
        let (columns, steps) = (tensor.columns(), depth(elements, tensor.columns()));
        if steps == 0 {
            return;
        }
        for panel in self.panels(set) {
            let out = &mut out[panel.rows.start * steps..][..panel.width * steps];
            for first in (0..panel.width).step_by(set.lanes()) {
                for (lane, row) in rows.chunks_exact_mut(steps).take(set.lanes()).enumerate() {
                    let index = panel.rows.start + first + lane;
                    if index >= panel.rows.end {
                        row.fill(0.0);
                        continue;
                    }
                    let (head, query) = self.row(index);
                    let values = tensor.row(self.sequence.queries_at(head, query), 0);
                    match elements {
                        Elements::F32 => widen(set, values, &mut row[..columns]),
                        Elements::Pairs => copy_pairs(values, row),
                    }
                }
                simd::transpose_rows(set, rows, steps, &mut out[first..], panel.width, steps);
            }
        }
    }
}

impl Panel {
    /// What [`Block::load_transposed`] left for this panel of a tensor with so many columns.
    pub fn transposed<'a>(&self, elements: Elements, values: &'a [f32], columns: usize) -> Right<'a> {
        Right { values: &values[self.rows.start * depth(elements, columns)..], stride: self.width, first: 0 }
    }
}

/// Hides the keys that are behind or before what a query sees. Row 0 of the panel's scores is key `keys.start`; rows lie `stride`
/// apart.
pub(super) fn hide_by_position(
    set: InstructionSet,
    place: &Place,
    block: &Block,
    panel: &Panel,
    keys: &Range<usize>,
    scores: &mut [f32],
    stride: usize,
) {
    if place.band.is_full(&block.queries(&panel.rows), keys) {
        return;
    }
    let [mut start, mut end, mut prefix] = [[0.0; PANEL_LANES]; 3];
    let row_of = |key: usize| (key as i64 - keys.start as i64).clamp(-1, BLOCK_KV as i64) as f32;
    for (lane, index) in panel.rows.clone().enumerate() {
        let [seen_prefix, window] = place.band.keys(block.row(index).1);
        // An empty range ends where it starts, which may be after the last row.
        prefix[lane] = if seen_prefix.is_empty() { -1.0 } else { row_of(seen_prefix.end) };
        (start[lane], end[lane]) = (row_of(window.start), if window.is_empty() { -1.0 } else { row_of(window.end) });
    }
    let lanes = LaneKeys { start: &start, end: &end, prefix: &prefix };
    simd::hide_outside(set, scores, [panel.width, stride, keys.len()], lanes);
}

/// Applies the options that touch single scores to a panel, whose rows lie `stride` apart. `derivatives`, as large as the scores or
/// empty, takes the derivatives of softcap.
#[allow(clippy::too_many_arguments, reason = "where the panel is, and what belongs to it")]
pub(super) fn apply_options<T: Float>(
    scoring: &Scoring<'_, T>,
    place: &Place,
    block: &Block,
    panel: &Panel,
    keys: &Range<usize>,
    scores: &mut [f32],
    stride: usize,
    derivatives: &mut [f32],
) {
    for (lane, index) in panel.rows.clone().enumerate() {
        let (head, query) = block.row(index);
        let (mut row, mut of_row) = ([0.0; BLOCK_KV], [0.0; BLOCK_KV]);
        let row = &mut row[..keys.len()];
        row.iter_mut().zip(scores[lane..].iter().step_by(stride)).for_each(|(to, from)| *to = *from);
        let of_row = if derivatives.is_empty() { &mut [] } else { &mut of_row[..keys.len()] };
        scoring.apply(&Place { head, ..*place }, query, keys.start, row, of_row);
        scores[lane..].iter_mut().step_by(stride).zip(row).for_each(|(to, from)| *to = *from);
        derivatives.iter_mut().skip(lane).step_by(stride).zip(of_row).for_each(|(to, from)| *to = *from);
    }
}

/// Calls `apply` with each element of a panel, whose rows lie `stride` apart, and what dropout multiplies its weight by.
#[allow(clippy::too_many_arguments, reason = "where the panel is, and what belongs to it")]
pub(super) fn drop_weights<T: Float>(
    scoring: &Scoring<'_, T>,
    place: &Place,
    block: &Block,
    panel: &Panel,
    keys: &Range<usize>,
    elements: &mut [f32],
    stride: usize,
    apply: impl Fn(&mut f32, f32),
) {
    let mut factors = [1.0; BLOCK_KV];
    for (lane, index) in panel.rows.clone().enumerate() {
        let (head, query) = block.row(index);
        scoring.dropout_factors(&Place { head, ..*place }, query, keys.start, &mut factors);
        let factors = &factors[..keys.len()];
        elements[lane..].iter_mut().step_by(stride).zip(factors).for_each(|(element, factor)| apply(element, *factor));
    }
}

/// Scratch memory for a row a lane.
pub(super) const fn lane_elements(columns: usize) -> usize {
    simd::LANES * columns
}

/// Elements of scratch memory for the rows of a block, transposed.
pub(super) const fn block_elements(columns: usize) -> usize {
    BLOCK_Q * columns
}
