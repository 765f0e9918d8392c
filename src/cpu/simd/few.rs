//! The two products of attention for few queries, which are bound by memory: keys and values are read once, as they lie, and
//! converted in registers. Element by element, the sums are those of [`super::product::product`], with the same bits.

use super::slices::{Cell, with_cells};
use super::vector::Simd;
use crate::cpu::floats::Floats;

/// Queries that are taken together, at most.
pub(crate) const FEW: usize = 4;
/// Elements, or pairs of them, of a key that are loaded at a time.
const STEP: usize = 8;
/// Rows of memory that are asked for before they are needed.
const ROWS_AHEAD: usize = 16;

/// Rows of elements of any float type.
#[derive(Clone, Copy)]
pub(crate) struct TypedRows<'a> {
    pub values: Floats<'a>,
    /// Distance of neighbouring rows.
    pub stride: usize,
}

/// Scores of `keys` keys of `depth` elements with `queries` queries: element (key, query) of `scores`, whose rows are `width`
/// apart. Element (depth, query) of q is `q[depth * width + query]`; of pairs, where `has_pairs`, depth counts them. Returns how many
/// keys were computed: whole vectors of them, and none of f16.
#[inline(always)]
pub(super) fn scores_of_few<S: Simd>(
    s: S,
    k: TypedRows<'_>,
    q: &[f32],
    has_pairs: bool,
    scores: &mut [f32],
    width: usize,
    [keys, queries, depth]: [usize; 3],
) -> usize {
    let keys = keys - keys % S::LANES;
    if keys == 0 || queries > FEW {
        return 0;
    }
    assert!(queries <= width && (keys - 1) * width + queries <= scores.len());
    // Loads are of 32 bits: a pair of bf16, or an f32.
    let (at, count, elements_each) = match k.values {
        Floats::F32(values) => (values.as_ptr(), values.len(), 1),
        Floats::BF16(values) if k.stride.is_multiple_of(2) && depth.is_multiple_of(2) => {
            (values.as_ptr().cast::<f32>(), values.len(), 2)
        }
        _ => return 0,
    };
    assert!((keys - 1) * k.stride + depth <= count);
    let loads = depth / elements_each;
    let (stride, q_rows) = (k.stride / elements_each, if has_pairs { loads } else { depth });
    if loads % STEP != 0 {
        return 0;
    }
    assert!(q_rows == 0 || (q_rows - 1) * width + queries <= q.len());
    let task = Keys { s, at, stride, loads, q, width };
    for key in (0..keys).step_by(S::LANES) {
        let out = &mut scores[key * width..];
        match (elements_each, has_pairs) {
            (1, _) => task.scores::<1, false>(key, queries, out),
            (_, false) => task.scores::<2, false>(key, queries, out),
            (_, true) => task.scores::<2, true>(key, queries, out),
        }
    }
    keys
}

struct Keys<'a, S> {
    s: S,
    at: *const f32,
    /// In loads of 32 bits.
    stride: usize,
    loads: usize,
    q: &'a [f32],
    width: usize,
}

impl<S: Simd> Keys<'_, S> {
    /// The scores of a vector of keys, from one on. A load is one element, or a pair that is multiplied as such or element by
    /// element.
    #[inline(always)]
    fn scores<const ELEMENTS: usize, const PAIRS: bool>(&self, key: usize, queries: usize, out: &mut [f32]) {
        match queries {
            1 => self.scores_of::<ELEMENTS, PAIRS, 1>(key, out),
            2 => self.scores_of::<ELEMENTS, PAIRS, 2>(key, out),
            3 => self.scores_of::<ELEMENTS, PAIRS, 3>(key, out),
            _ => self.scores_of::<ELEMENTS, PAIRS, 4>(key, out),
        }
    }

    #[inline(always)]
    fn scores_of<const ELEMENTS: usize, const PAIRS: bool, const M: usize>(&self, key: usize, out: &mut [f32]) {
        let Keys { s, stride, loads, width, .. } = *self;
        let mut sums = [s.splat(0.0); M];
        let lines = loads.div_ceil(16).max(1);
        // SAFETY: `scores_of_few` checked that `LANES` keys from this one on, `loads` loads each, and the queries lie within
        // their slices. What is asked for ahead is not read.
        unsafe {
            let first = self.at.add(key * stride);
            let mut q = self.q.as_ptr();
            for load in (0..loads).step_by(STEP) {
                let from = first.add(load);
                // As many lines as a step of all rows has, row by row.
                for index in 0..S::LANES / 2 {
                    let line = load / STEP * (S::LANES / 2) + index;
                    let (row, line) = (line / lines, line % lines);
                    s.prefetch(first.wrapping_add((ROWS_AHEAD + row) * stride + line * 16).cast());
                }
                for loaded in s.load_transposed(from, stride) {
                    if ELEMENTS == 1 {
                        multiply::<S, M>(s, loaded, q, &mut sums);
                        q = q.add(width);
                    } else if PAIRS {
                        for (query, sum) in sums.iter_mut().enumerate() {
                            *sum = s.dot_pairs(s.splat(*q.add(query)), loaded, *sum);
                        }
                        q = q.add(width);
                    } else {
                        let [low, high] = s.split_pairs(loaded);
                        multiply::<S, M>(s, low, q, &mut sums);
                        multiply::<S, M>(s, high, q.add(width), &mut sums);
                        q = q.add(2 * width);
                    }
                }
            }
        }
        for (query, sum) in sums.into_iter().enumerate() {
            let mut lanes = [0.0; 16];
            // SAFETY: no vector is longer than the array.
            unsafe { s.store::<false>(lanes.as_mut_ptr(), sum) };
            out.iter_mut().skip(query).step_by(width).zip(&lanes[..S::LANES]).for_each(|(out, lane)| *out = *lane);
        }
    }
}

/// `sums += q * keys` for M queries, whose elements lie side by side.
///
/// # Safety
/// M elements can be read from `q` on.
#[inline(always)]
unsafe fn multiply<S: Simd, const M: usize>(s: S, keys: S::F, q: *const f32, sums: &mut [S::F; M]) {
    for (query, sum) in sums.iter_mut().enumerate() {
        // SAFETY: as the caller promises.
        *sum = s.mul_add(s.splat(unsafe { *q.add(query) }), keys, *sum);
    }
}

/// `sums = rescale sums + weights^T v` for `queries` queries, at most [`FEW`]: element (key, query) of the weights is
/// `weights[key * width + query]`, and v has `columns` columns, whole vectors of them. Rows of sums are `stride` apart.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "two matrices, and where their product goes")]
pub(super) fn values_of_few<S: Simd>(
    s: S,
    weights: &[f32],
    width: usize,
    v: TypedRows<'_>,
    sums: &mut [f32],
    stride: usize,
    rescale: &[f32],
    [queries, columns, keys]: [usize; 3],
) {
    assert!((1..=FEW).contains(&queries) && columns.is_multiple_of(S::LANES) && rescale.len() >= queries);
    assert!((queries - 1) * stride + columns <= sums.len());
    assert!(keys == 0 || (keys - 1) * width + queries <= weights.len());
    with_cells!(Floats, v.values, values => {
        assert!(keys == 0 || (keys - 1) * v.stride + columns <= values.len());
        let task = Values { s, weights, width, v: values, v_stride: v.stride, sums, stride, rescale, keys };
        match queries {
            1 => task.columns::<1>(columns),
            2 => task.columns::<2>(columns),
            3 => task.columns::<3>(columns),
            _ => task.columns::<4>(columns),
        }
    });
}

struct Values<'a, S, T> {
    s: S,
    weights: &'a [f32],
    width: usize,
    v: &'a [T],
    v_stride: usize,
    sums: &'a mut [f32],
    stride: usize,
    rescale: &'a [f32],
    keys: usize,
}

/// Columns whose sums are kept together, and keys that are walked before the next columns: so that v is read nearly in the order in
/// which it lies.
const COLUMNS: usize = 256;
const KEYS: usize = 16;

impl<S: Simd, T: Cell> Values<'_, S, T> {
    #[inline(always)]
    fn columns<const M: usize>(self, columns: usize) {
        let Values { s, stride, .. } = self;
        for first in (0..columns).step_by(COLUMNS) {
            let count = COLUMNS.min(columns - first);
            let mut parts = [[0.0; COLUMNS]; M];
            for key in (0..self.keys).step_by(KEYS) {
                let mut column = 0;
                while column < count {
                    let at = [key, first + column];
                    let vectors = (count - column) / S::LANES;
                    column += S::LANES
                        * match (M, vectors) {
                            (1, 8..) => self.add::<M, 8>(at, &mut parts, column),
                            (_, 4..) => self.add::<M, 4>(at, &mut parts, column),
                            (_, 2..) => self.add::<M, 2>(at, &mut parts, column),
                            _ => self.add::<M, 1>(at, &mut parts, column),
                        };
                }
            }
            for (query, parts) in parts.iter().enumerate() {
                let factor = s.splat(self.rescale[query]);
                let sums = &mut self.sums[query * stride + first..][..count];
                for at in (0..count).step_by(S::LANES) {
                    // SAFETY: both have `count` elements, whole vectors.
                    unsafe {
                        let sum = s.mul_add(factor, s.load(sums.as_ptr().add(at)), s.load(parts.as_ptr().add(at)));
                        s.store::<false>(sums.as_mut_ptr().add(at), sum);
                    }
                }
            }
        }
    }

    /// Adds [`KEYS`] keys from one on, as far as there are, to C vectors of columns of the parts; returns C.
    #[inline(always)]
    fn add<const M: usize, const C: usize>(
        &self,
        [first_key, first_column]: [usize; 2],
        parts: &mut [[f32; COLUMNS]; M],
        column: usize,
    ) -> usize {
        let Values { s, width, v_stride, keys, .. } = *self;
        assert!(column + C * S::LANES <= COLUMNS);
        let mut sums = [[s.splat(0.0); C]; M];
        // SAFETY: `values_of_few` checked that the weights of M queries and C vectors of these columns of every key lie within
        // their slices, and the parts have them too. What is asked for ahead is not read.
        unsafe {
            for (sums, parts) in sums.iter_mut().zip(parts.iter()) {
                for (vector, sum) in sums.iter_mut().enumerate() {
                    *sum = s.load(parts.as_ptr().add(column + vector * S::LANES));
                }
            }
            for key in first_key..keys.min(first_key + KEYS) {
                let row = self.v.as_ptr().add(key * v_stride + first_column);
                for line in (0..C * S::LANES * size_of::<T>()).step_by(64) {
                    s.prefetch(row.wrapping_add(ROWS_AHEAD * v_stride).cast::<u8>().wrapping_add(line));
                }
                let mut vectors = [s.splat(0.0); C];
                for (vector, values) in vectors.iter_mut().enumerate() {
                    *values = T::load(s, row.add(vector * S::LANES));
                }
                for (query, sums) in sums.iter_mut().enumerate() {
                    let weight = s.splat(*self.weights.as_ptr().add(key * width + query));
                    for (sum, values) in sums.iter_mut().zip(vectors) {
                        *sum = s.mul_add(weight, values, *sum);
                    }
                }
            }
            for (sums, parts) in sums.into_iter().zip(parts) {
                for (vector, sum) in sums.into_iter().enumerate() {
                    s.store::<false>(parts.as_mut_ptr().add(column + vector * S::LANES), sum);
                }
            }
        }
        C
    }
}
