//! The loops of softmax and the norms, over one row. All slices of a call have one length.

use std::f32::consts::LOG2_E;

use super::math::{exp2, is_zero, tanh};
use super::slices::{
    BLOCK, Cell, Place, Rest, SUMS, Totals, Whole, add_each, change_each, is_aligned, max, set_each, sum_each,
    with_cells, write_each,
};
use super::vector::{Simd, vectorized};
use crate::cpu::floats::{Floats, FloatsMut};

vectorized! {
    /// Converts to f32.
    pub(crate) fn widen(values: Floats<'_>, out: &mut [f32]) = widen_on;

    /// Rounds to nearest, ties to even; a NaN stays one.
    pub(crate) fn narrow(values: &[f32], out: FloatsMut<'_>) = narrow_on;

    /// Sets to `-inf` the values whose element of a boolean mask is 0.
    pub(crate) fn hide(values: &mut [f32], mask: &[u8]) = hide_on;

    /// A row of the softmax of `scale * x`, or of its logarithm; returns the sum of exponentials. `scratch` is as long at least.
    pub(crate) fn softmax(
        x: Floats<'_>, y: FloatsMut<'_>, scratch: &mut [f32], scale: f32, is_log: bool, store: Store,
    ) -> f32 = softmax_on;

    /// `values *= factor`.
    pub(crate) fn scale(values: &mut [f32], factor: f32) = scale_on;

    /// `values += others`.
    pub(crate) fn add(values: &mut [f32], others: &[f32]) = add_on;

    /// `values *= others`, but for zeros, which stay 0 whatever the other is.
    pub(crate) fn multiply_nonzero(values: &mut [f32], others: &[f32]) = multiply_nonzero_on;

    /// The scalar product.
    pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 = dot_on;

    /// `value -= slope * |distance - index|` for each value and its index.
    pub(crate) fn subtract_distances(values: &mut [f32], slope: f32, distance: i32) = subtract_distances_on;

    /// Replaces each value by `cap * tanh(value / cap)`, and sets `derivatives`, of the same length or empty, to `1 - tanh^2`.
    pub(crate) fn softcap(values: &mut [f32], cap: f32, derivatives: &mut [f32]) = softcap_on;

    /// Replaces the gradients of a softmax's results y by `scale * y * (d_y - sum y d_y)`. Where y is 0, the gradient is 0 and
    /// d_y is not looked at.
    pub(crate) fn softmax_gradients(y: &[f32], d_y: &mut [f32], scale: f32) = softmax_gradients_on;

    /// As [`softmax_gradients`], for the logarithm of a softmax: `scale * (d_y - exp(y) * sum d_y)`, and 0 where y is `-inf`.
    pub(crate) fn log_softmax_gradients(y: &[f32], d_y: &mut [f32], scale: f32) = log_softmax_gradients_on;

    /// `y = n * weight + bias`.
    pub(crate) fn normalize(
        values: Floats<'_>, y: FloatsMut<'_>, stats: &Stats, weight: &[f32], bias: &[f32], store: Store,
    ) = normalize_on;

    /// Replaces the gradients of a norm's results by those of s: with `g = weight * d_y`,
    /// `rstd * (g - mean(g) - n * mean(g n))`, and without `mean(g)` if the norm does not center. Adds `d_y * n` to the first
    /// and `d_y` to the second of `sums`, each of a row's length or empty.
    pub(crate) fn norm_gradients(
        s: &[f32], d_y: &mut [f32], weight: &[f32], stats: &Stats, is_centered: bool, sums: [&mut [f32]; 2],
    ) = norm_gradients_on;

    /// A guess of the mean, the sum of what values are above it, and the sum of the squares of that.
    pub(crate) fn moments(values: Floats<'_>) -> [f32; 3] = moments_on;

    /// The sum of `(value - center)^2`.
    pub(crate) fn sum_of_squares(values: Floats<'_>, center: f32) -> f32 = sum_of_squares_on;
}

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    /// Through the caches: somebody may read them soon.
    Cached,
    /// Past the caches, which do not hold all of them, and without reading what they replace.
    Streamed,
}

/// What a row is multiplied by once it is centered: `n = (s - mean) * rstd`.
#[derive(Clone, Copy)]
pub(crate) struct Stats {
    pub mean: f32,
    pub rstd: f32,
}

impl Stats {
    /// Normalises a vector.
    #[inline(always)]
    fn normalize<S: Simd>(&self, s: S, value: S::F) -> S::F {
        s.mul(s.sub(value, s.splat(self.mean)), s.splat(self.rstd))
    }
}

#[inline(always)]
fn widen_on<S: Simd>(s: S, values: Floats<'_>, out: &mut [f32]) {
    with_cells!(Floats, values, values => set_each!(s: S, out, at => at.load(s, values)));
}

#[inline(always)]
fn narrow_on<S: Simd>(s: S, values: &[f32], out: FloatsMut<'_>) {
    with_cells!(FloatsMut, out, out => set_each!(s: S, out, at => at.load(s, values)));
}

#[inline(always)]
fn hide_on<S: Simd>(_: S, values: &mut [f32], mask: &[u8]) {
    for (value, visible) in values.iter_mut().zip(mask) {
        *value = if *visible == 0 { f32::NEG_INFINITY } else { *value };
    }
}

#[inline(always)]
fn softmax_on<S: Simd>(
    s: S,
    x: Floats<'_>,
    y: FloatsMut<'_>,
    scratch: &mut [f32],
    scale: f32,
    is_log: bool,
    store: Store,
) -> f32 {
    with_cells!(Floats, x, x => with_cells!(FloatsMut, y, y => {
        softmax_row(s, x, y, &mut scratch[..x.len()], scale, is_log, store == Store::Streamed)
    }))
}

#[inline(always)]
fn softmax_row<S: Simd, T: Cell, O: Cell>(
    s: S,
    x: &[T],
    y: &mut [O],
    exponentials: &mut [f32],
    scale: f32,
    is_log: bool,
    streams: bool,
) -> f32 {
    assert_eq!(x.len(), y.len());
    let max = max(s, x);
    // A row of -inf must not compute -inf - -inf.
    let base = if max == f32::NEG_INFINITY { 0.0 } else { max };
    if is_log {
        // Close to the base, the difference loses nothing.
        let (base, scale) = (s.splat(base * scale), s.splat(scale));
        let [sum] = sum_each!(s: S, x.len(), at => {
            [exp2(s, s.mul(s.sub(s.mul(at.load(s, x), scale), base), s.splat(LOG2_E)))]
        });
        let log_sum = s.splat(sum.ln());
        // Without any exponential, everything is -inf.
        match sum == 0.0 {
            true => set_each!(s: S, y, at => s.splat(f32::NEG_INFINITY)),
            false => write_each!(s: S, y, streams, at => {
                s.sub(s.sub(s.mul(at.load(s, x), scale), base), log_sum)
            }),
        }
        return sum;
    }
    let (base, factor) = (s.splat(base), s.splat(scale * LOG2_E));
    let [sum] = sum_each!(s: S, x.len(), at => {
        // The next row, most likely.
        s.prefetch(x.as_ptr().wrapping_add(x.len() + at.start()).cast::<u8>());
        let value = exp2(s, s.mul(s.sub(at.load(s, x), base), factor));
        at.store(s, exponentials, value);
        [value]
    });
    let share = s.splat(if sum == 0.0 { 0.0 } else { 1.0 / sum });
    write_each!(s: S, y, streams, at => s.mul(at.load(s, exponentials), share));
    sum
}

#[inline(always)]
fn scale_on<S: Simd>(s: S, values: &mut [f32], factor: f32) {
    let factor = s.splat(factor);
    change_each!(s: S, values, value, at => s.mul(value, factor));
}

#[inline(always)]
fn add_on<S: Simd>(s: S, values: &mut [f32], others: &[f32]) {
    change_each!(s: S, values, value, at => s.add(value, at.load(s, others)));
}

#[inline(always)]
fn multiply_nonzero_on<S: Simd>(s: S, values: &mut [f32], others: &[f32]) {
    change_each!(s: S, values, value, at => {
        s.select(is_zero(s, value), s.splat(0.0), s.mul(value, at.load(s, others)))
    });
}

#[inline(always)]
fn dot_on<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    let [sum] = sum_each!(s: S, a.len(), at => [s.mul(at.load(s, a), at.load(s, b))]);
    sum
}

#[inline(always)]
fn subtract_distances_on<S: Simd>(_: S, values: &mut [f32], slope: f32, distance: i32) {
    for (index, value) in values.iter_mut().enumerate() {
        *value -= slope * (distance - index as i32).abs() as f32;
    }
}

#[inline(always)]
fn softcap_on<S: Simd>(s: S, values: &mut [f32], cap: f32, derivatives: &mut [f32]) {
    let cap = s.splat(cap);
    if !derivatives.is_empty() {
        set_each!(s: S, derivatives, at => {
            let tanh = tanh(s, s.div(at.load(s, values), cap));
            s.sub(s.splat(1.0), s.mul(tanh, tanh))
        });
    }
    change_each!(s: S, values, value, at => s.mul(cap, tanh(s, s.div(value, cap))));
}

#[inline(always)]
fn softmax_gradients_on<S: Simd>(s: S, y: &[f32], d_y: &mut [f32], scale: f32) {
    let zero = s.splat(0.0);
    let [total] = sum_each!(s: S, y.len(), at => {
        let y = at.load(s, y);
        [s.select(is_zero(s, y), zero, s.mul(y, at.load(s, d_y)))]
    });
    let (total, scale) = (s.splat(total), s.splat(scale));
    change_each!(s: S, d_y, d_y, at => {
        let y = at.load(s, y);
        s.select(is_zero(s, y), zero, s.mul(scale, s.mul(y, s.sub(d_y, total))))
    });
}

/// Whether a value is `-inf`: only that is below the smallest number.
#[inline(always)]
fn is_nothing<S: Simd>(s: S, value: S::F) -> S::Mask {
    s.is_less(value, s.splat(f32::MIN))
}

#[inline(always)]
fn log_softmax_gradients_on<S: Simd>(s: S, y: &[f32], d_y: &mut [f32], scale: f32) {
    let zero = s.splat(0.0);
    let [total] = sum_each!(s: S, y.len(), at => [s.select(is_nothing(s, at.load(s, y)), zero, at.load(s, d_y))]);
    let (total, scale) = (s.splat(total), s.splat(scale));
    change_each!(s: S, d_y, d_y, at => {
        let y = at.load(s, y);
        let weight = exp2(s, s.mul(y, s.splat(LOG2_E)));
        s.select(is_nothing(s, y), zero, s.mul(scale, s.sub(d_y, s.mul(weight, total))))
    });
}

#[inline(always)]
fn normalize_on<S: Simd>(
    s: S,
    values: Floats<'_>,
    y: FloatsMut<'_>,
    stats: &Stats,
    weight: &[f32],
    bias: &[f32],
    store: Store,
) {
    with_cells!(Floats, values, values => with_cells!(FloatsMut, y, y => {
        write_each!(s: S, y, store == Store::Streamed, at => {
            s.mul_add(stats.normalize(s, at.load(s, values)), at.load(s, weight), at.load(s, bias))
        });
    }));
}

#[inline(always)]
fn norm_gradients_on<S: Simd>(
    s: S,
    values: &[f32],
    d_y: &mut [f32],
    weight: &[f32],
    stats: &Stats,
    is_centered: bool,
    [d_weight, d_bias]: [&mut [f32]; 2],
) {
    if !d_weight.is_empty() {
        change_each!(s: S, d_weight, sum, at => {
            s.mul_add(at.load(s, d_y), stats.normalize(s, at.load(s, values)), sum)
        });
    }
    if !d_bias.is_empty() {
        change_each!(s: S, d_bias, sum, at => s.add(sum, at.load(s, d_y)));
    }
    let totals = sum_each!(s: S, d_y.len(), at => {
        let g = s.mul(at.load(s, d_y), at.load(s, weight));
        [g, s.mul(g, stats.normalize(s, at.load(s, values)))]
    });
    let [mean_g, mean_gn] = totals.map(|total: f32| total / d_y.len() as f32);
    let (mean_g, mean_gn) = (s.splat(if is_centered { mean_g } else { 0.0 }), s.splat(-mean_gn));
    let rstd = s.splat(stats.rstd);
    change_each!(s: S, d_y, d_y, at => {
        let n = stats.normalize(s, at.load(s, values));
        s.mul(rstd, s.mul_add(n, mean_gn, s.sub(s.mul(d_y, at.load(s, weight)), mean_g)))
    });
}

/// The guess is the mean of so many elements at most.
const GUESS_ELEMENTS: usize = 64;

#[inline(always)]
fn moments_on<S: Simd>(s: S, values: Floats<'_>) -> [f32; 3] {
    with_cells!(Floats, values, values => {
        let first = values.len().min(GUESS_ELEMENTS);
        let [sum] = sum_each!(s: S, first, at => [at.load(s, values)]);
        let guess = sum / first as f32;
        let center = s.splat(guess);
        let [distance, square] = sum_each!(s: S, values.len(), at => {
            // The next row, most likely.
            s.prefetch(values.as_ptr().wrapping_add(values.len() + at.start()).cast::<u8>());
            let distance = s.sub(at.load(s, values), center);
            [distance, s.mul(distance, distance)]
        });
        [guess, distance, square]
    })
}

#[inline(always)]
fn sum_of_squares_on<S: Simd>(s: S, values: Floats<'_>, center: f32) -> f32 {
    let center = s.splat(center);
    let [sum] = with_cells!(Floats, values, values => sum_each!(s: S, values.len(), at => {
        let distance = s.sub(at.load(s, values), center);
        [s.mul(distance, distance)]
    }));
    sum
}
