//! The steps of attention over a panel of scores: one row a key, one lane a query, so that what a softmax sums and compares
//! over keys stays in its lane.

use std::f32::consts::LOG2_E;

use super::math::{exp2, is_zero};
use super::vector::Simd;

/// What the softmax of each lane has seen so far.
pub(crate) struct Running<'a> {
    pub max: &'a mut [f32],
    pub sum: &'a mut [f32],
    /// What the results so far have to be multiplied by.
    pub rescale: &'a mut [f32],
}

/// The keys that each lane sees, in rows of the panel: those from `start` on and before `end`, and those before `prefix`.
#[derive(Clone, Copy)]
pub(crate) struct LaneKeys<'a> {
    pub start: &'a [f32],
    pub end: &'a [f32],
    pub prefix: &'a [f32],
}

/// Replaces scores by `2^(factor * (score - max))`, with each lane's new maximum, and updates what the lanes have seen. `scores` are
/// whole rows of `width` lanes. Where `joins`, rows 2i and 2i + 1 become row i, as [`pair_rows`] joins them.
#[inline(always)]
pub(super) fn softmax_panel<S: Simd>(
    s: S,
    scores: &mut [f32],
    width: usize,
    factor: f32,
    running: Running<'_>,
    joins: bool,
) {
    let Running { max, sum, rescale } = running;
    assert!(width.is_multiple_of(S::LANES) && scores.len().is_multiple_of(if joins { 2 * width } else { width }));
    assert!(max.len() >= width && sum.len() >= width && rescale.len() >= width);
    let mut column = 0;
    while column < width {
        let columns = Columns { s, scores, width, column, factor, max, sum, rescale };
        column += match ((width - column) / S::LANES, joins) {
            (2.., false) => columns.softmax::<2, 1>(),
            (2.., true) => columns.softmax::<2, 2>(),
            (_, false) => columns.softmax::<1, 1>(),
            (_, true) => columns.softmax::<1, 2>(),
        };
    }
}

struct Columns<'a, S> {
    s: S,
    scores: &'a mut [f32],
    width: usize,
    column: usize,
    factor: f32,
    max: &'a mut [f32],
    sum: &'a mut [f32],
    rescale: &'a mut [f32],
}

impl<S: Simd> Columns<'_, S> {
    /// C vectors of every row, of which J become one; returns their lanes.
    #[inline(always)]
    fn softmax<const C: usize, const J: usize>(self) -> usize {
        let Columns { s, scores, width, column, factor, max, sum, rescale } = self;
        let (rows, factor) = (scores.len() / width, s.splat(factor));
        let at = |vector: usize| column + vector * S::LANES;
        // SAFETY: `softmax_panel` checked that columns `column..column + C * LANES` are part of every row and of the lanes'
        // slices.
        unsafe {
            let scores = scores.as_mut_ptr();
            let mut largest = [s.splat(f32::NEG_INFINITY); C];
            for row in 0..rows {
                for (vector, largest) in largest.iter_mut().enumerate() {
                    // A NaN is not larger than anything.
                    *largest = s.max(s.load(scores.add(row * width + at(vector))), *largest);
                }
            }
            let mut base = [s.splat(0.0); C];
            let mut sums = [s.splat(0.0); C];
            for vector in 0..C {
                let (before, nothing) = (s.load(max.as_ptr().add(at(vector))), s.splat(f32::NEG_INFINITY));
                let larger = s.max(largest[vector], before);
                // A lane without a finite score so far must not compute -inf - -inf.
                base[vector] = s.select(s.is_less(nothing, larger), larger, s.splat(0.0));
                let change = exp2(s, s.mul(s.sub(before, base[vector]), factor));
                s.store::<false>(rescale.as_mut_ptr().add(at(vector)), change);
                s.store::<false>(max.as_mut_ptr().add(at(vector)), larger);
            }
            for row in 0..rows / J {
                for vector in 0..C {
                    let mut exponentials = [s.splat(0.0); J];
                    for (joined, exponential) in exponentials.iter_mut().enumerate() {
                        let score = s.load(scores.add((J * row + joined) * width + at(vector)));
                        *exponential = exp2(s, s.mul(s.sub(score, base[vector]), factor));
                        sums[vector] = s.add(sums[vector], *exponential);
                    }
                    let weights = match exponentials[..] {
                        [low, high] => s.pairs(low, high),
                        _ => exponentials[0],
                    };
                    // Rows of which one is made are behind it, or just read.
                    s.store::<false>(scores.add(row * width + at(vector)), weights);
                }
            }
            for (vector, sums) in sums.into_iter().enumerate() {
                let place = sum.as_mut_ptr().add(at(vector));
                s.store::<false>(place, s.mul_add(s.load(place), s.load(rescale.as_ptr().add(at(vector))), sums));
            }
        }
        C * S::LANES
    }
}

/// Whether `rows` rows of `width` lanes, `stride` apart, lie within `len` elements and are whole vectors.
fn is_panel<S: Simd>(len: usize, [width, stride, rows]: [usize; 3]) -> bool {
    width.is_multiple_of(S::LANES) && width <= stride && (rows == 0 || (rows - 1) * stride + width <= len)
}

/// Sets to `-inf` the scores of keys that their lane does not see. Sizes are the lanes, the distance of rows, and the rows.
#[inline(always)]
pub(super) fn hide_outside<S: Simd>(s: S, scores: &mut [f32], size: [usize; 3], keys: LaneKeys<'_>) {
    let ([width, stride, rows], LaneKeys { start, end, prefix }) = (size, keys);
    assert!(is_panel::<S>(scores.len(), size));
    assert!(start.len() >= width && end.len() >= width && prefix.len() >= width);
    for column in (0..width).step_by(S::LANES) {
        // SAFETY: `width` is whole vectors, and the slices above and every row of scores hold that many.
        unsafe {
            let [start, end, prefix] = [start, end, prefix].map(|lanes| s.load(lanes.as_ptr().add(column)));
            for row in 0..rows {
                let place = scores.as_mut_ptr().add(row * stride + column);
                let key = s.splat(row as f32);
                // Keys are whole numbers: not before the start is after the one before it.
                let from_start = s.is_less(s.sub(start, s.splat(1.0)), key);
                let in_window = s.and(from_start, s.is_less(key, end));
                let is_seen = s.or(in_window, s.is_less(key, prefix));
                s.store::<false>(place, s.select(is_seen, s.load(place), s.splat(f32::NEG_INFINITY)));
            }
        }
    }
}

/// Makes lanes of rows: element c of the i-th row, of as many as there are lanes and `stride` apart, becomes lane i of row c of a panel,
/// whose rows lie `width` apart.
#[inline(always)]
pub(super) fn transpose_rows<S: Simd>(
    s: S,
    rows: &[f32],
    stride: usize,
    panel: &mut [f32],
    width: usize,
    columns: usize,
) {
    const STEP: usize = 8;
    if columns == 0 {
        return;
    }
    assert!(columns <= stride && (S::LANES - 1) * stride + columns <= rows.len());
    assert!(S::LANES <= width && (columns - 1) * width + S::LANES <= panel.len());
    let whole = columns - columns % STEP;
    for column in (0..whole).step_by(STEP) {
        // SAFETY: `STEP` elements of every row from this column on, and as many rows of the panel, lie within their slices.
        unsafe {
            for (index, lanes) in s.load_transposed(rows.as_ptr().add(column), stride).into_iter().enumerate() {
                s.store::<false>(panel.as_mut_ptr().add((column + index) * width), lanes);
            }
        }
    }
    for column in whole..columns {
        for (lane, to) in panel[column * width..][..S::LANES].iter_mut().enumerate() {
            *to = rows[lane * stride + column];
        }
    }
}

/// Joins rows 2i and 2i + 1 of a panel into row i, as pairs of bf16.
#[inline(always)]
pub(super) fn pair_rows<S: Simd>(s: S, panel: &mut [f32], width: usize) {
    assert!(width.is_multiple_of(S::LANES) && panel.len().is_multiple_of(2 * width));
    let panel_at = panel.as_mut_ptr();
    for row in 0..panel.len() / (2 * width) {
        for column in (0..width).step_by(S::LANES) {
            // SAFETY: rows 2i and 2i + 1 are within the panel, whose rows are whole vectors; row i is not read after.
            unsafe {
                let low = s.load(panel_at.add(2 * row * width + column));
                let high = s.load(panel_at.add((2 * row + 1) * width + column));
                s.store::<false>(panel_at.add(row * width + column), s.pairs(low, high));
            }
        }
    }
}

/// From scores s and the gradients of the weights, lane by lane: with `p = exp(factor * s - base)`,
///
/// ```text
/// scores = p * kept        d_weights = p * (d_weights * kept - delta)
/// ```
///
/// where `kept`, as large as the panel or empty for 1, is what dropout multiplies weights by. A score of `-inf` gives 0 in both,
/// whatever the other operands hold; a base of `inf` gives 0 in its whole lane. Sizes are the lanes, the distance of rows, and the
/// rows.
#[inline(always)]
pub(super) fn gradient_panel<S: Simd>(
    s: S,
    [scores, d_weights]: [&mut [f32]; 2],
    kept: &[f32],
    size: [usize; 3],
    factor: f32,
    [base, delta]: [&[f32]; 2],
) {
    let [width, stride, rows] = size;
    assert!(base.len() >= width && delta.len() >= width);
    assert!(is_panel::<S>(scores.len(), size) && is_panel::<S>(d_weights.len(), size));
    assert!(kept.is_empty() || is_panel::<S>(kept.len(), size));
    let zero = s.splat(0.0);
    for column in (0..width).step_by(S::LANES) {
        // SAFETY: every row's vector at `column` lies within the panels, and the lanes' slices hold `width`.
        unsafe {
            let negated = s.sub(zero, s.load(base.as_ptr().add(column)));
            let delta = s.load(delta.as_ptr().add(column));
            for row in 0..rows {
                let at = row * stride + column;
                let score = s.load(scores.as_ptr().add(at));
                let exponent = s.mul(s.mul_add(score, s.splat(factor), negated), s.splat(LOG2_E));
                let exponential = exp2(s, exponent);
                // Only -inf is below the smallest number.
                let weight = s.select(s.is_less(score, s.splat(f32::MIN)), zero, exponential);
                let has_none = is_zero(s, weight);
                let (mut kept_weight, mut d_weight) = (weight, s.load(d_weights.as_ptr().add(at)));
                if !kept.is_empty() {
                    let kept = s.load(kept.as_ptr().add(at));
                    kept_weight = s.select(has_none, zero, s.mul(weight, kept));
                    d_weight = s.mul(d_weight, kept);
                }
                let d_score = s.mul(weight, s.sub(d_weight, delta));
                s.store::<false>(d_weights.as_mut_ptr().add(at), s.select(has_none, zero, d_score));
                s.store::<false>(scores.as_mut_ptr().add(at), kept_weight);
            }
        }
    }
}
