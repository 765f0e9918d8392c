//! Matrix products of tiles: `c = update(a b)`, summed over the depth one step after the other, so that an element's bits depend
//! neither on the size of the tile nor on its place in it.

use super::vector::Simd;

/// A matrix that is read element by element: element (row, depth) is `values[row * row_stride + depth * depth_stride]`. One of the
/// strides is 1.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a> {
    pub(super) values: &'a [f32],
    pub(super) row_stride: usize,
    pub(super) depth_stride: usize,
}

impl<'a> Left<'a> {
    /// Rows, `stride` apart.
    pub fn of_rows(values: &'a [f32], stride: usize) -> Left<'a> {
        Left { values, row_stride: stride, depth_stride: 1 }
    }

    /// Columns, `stride` apart: a row for each step of depth.
    pub fn of_columns(values: &'a [f32], stride: usize) -> Left<'a> {
        Left { values, row_stride: 1, depth_stride: stride }
    }
}

/// A matrix that is read by vectors: element (depth, column) is `values[depth * stride + column]`.
#[derive(Clone, Copy)]
pub(crate) struct Right<'a> {
    pub values: &'a [f32],
    pub stride: usize,
    /// Which step of depth its first row is in the whole that it is a part of: sums that take steps in groups begin theirs alike,
    /// whatever part they are of.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only tiles sum in groups"))]
    pub first: usize,
}

/// What becomes of what c held.
#[derive(Clone, Copy)]
pub(crate) enum Update<'a> {
    /// `c = a b`.
    Set,
    /// `c += a b`.
    Add,
    /// `c = factor c + a b`, with a factor a row.
    ScaleAdd(&'a [f32]),
}

/// What a and b hold.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Elements {
    F32,
    /// Pairs of bf16 that are neighbours in depth; depth counts pairs.
    Pairs,
}

/// Panics unless every element of the product `[m, depth]` by `[depth, n]` lies within the slices, and rows are whole vectors.
#[inline(always)]
pub(super) fn check(
    a: Left<'_>,
    b: Right<'_>,
    c: &[f32],
    c_stride: usize,
    update: Update<'_>,
    [m, n, depth]: [usize; 3],
    lanes: usize,
) {
    assert!(n.is_multiple_of(lanes), "rows are padded to whole vectors");
    if m == 0 || n == 0 {
        return;
    }
    assert!((m - 1) * c_stride + n <= c.len());
    if depth > 0 {
        assert!((m - 1) * a.row_stride + (depth - 1) * a.depth_stride < a.values.len());
        assert!((depth - 1) * b.stride + n <= b.values.len());
    }
    if let Update::ScaleAdd(factors) = update {
        assert!(factors.len() >= m);
    }
}

/// The product of `[m, depth]` and `[depth, n]`; n is a multiple of the lanes. Rows of c are `c_stride` apart.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "two matrices, and where their product goes")]
pub(super) fn product<'a, S: Simd>(
    s: S,
    elements: Elements,
    a: Left<'a>,
    b: Right<'a>,
    c: &mut [f32],
    c_stride: usize,
    update: Update<'a>,
    size: [usize; 3],
) {
    let [m, n, depth] = size;
    check(a, b, c, c_stride, update, size, S::LANES);
    if m == 0 || n == 0 {
        return;
    }
    let task = Task { s, a, b, c: c.as_mut_ptr(), c_stride, update, m, depth };
    match elements {
        Elements::F32 => task.columns::<false>(n),
        Elements::Pairs => task.columns::<true>(n),
    }
}

/// Steps of depth that are written out one after the other, so that counting them and moving the addresses on takes few of the
/// instructions that a core starts each cycle.
const UNROLLED: usize = 4;

struct Task<'a, S> {
    s: S,
    a: Left<'a>,
    b: Right<'a>,
    c: *mut f32,
    c_stride: usize,
    update: Update<'a>,
    m: usize,
    depth: usize,
}

impl<S: Simd> Task<'_, S> {
    /// Tiles of R rows and C vectors: R * C sums, C vectors of b and one element of a fit the registers, and there are at least
    /// 8 sums, so that one multiply-add need not wait for the one before. More rows than 8 would need more addresses than there are
    /// registers.
    #[inline(always)]
    fn columns<const PAIRS: bool>(&self, n: usize) {
        let vectors = n / S::LANES;
        let mut column = 0;
        while column < vectors {
            let left = vectors - column;
            column += match (S::HAS_MANY_REGISTERS, self.m, left) {
                (_, ..=1, 8..) => self.rows::<PAIRS, 1, 8>(column),
                (_, ..=3, 4..) => self.rows::<PAIRS, 3, 4>(column),
                (true, _, 2..) => self.rows::<PAIRS, 8, 2>(column),
                (false, _, 2..) => self.rows::<PAIRS, 6, 2>(column),
                _ => self.rows::<PAIRS, 8, 1>(column),
            };
        }
    }

    /// All rows of C vectors; returns C.
    #[inline(always)]
    fn rows<const PAIRS: bool, const R: usize, const C: usize>(&self, column: usize) -> usize {
        let mut row = 0;
        // Eight rows as 6 + 2 would end in a tile of too few sums.
        while row + R <= self.m && (R != 6 || row + 8 != self.m) {
            self.tile::<PAIRS, R, C>(row, column * S::LANES);
            row += R;
        }
        while row + 4 <= self.m {
            self.tile::<PAIRS, 4, C>(row, column * S::LANES);
            row += 4;
        }
        while row + 2 <= self.m {
            self.tile::<PAIRS, 2, C>(row, column * S::LANES);
            row += 2;
        }
        if row < self.m {
            self.tile::<PAIRS, 1, C>(row, column * S::LANES);
        }
        C
    }

    #[inline(always)]
    fn tile<const PAIRS: bool, const R: usize, const C: usize>(&self, row: usize, column: usize) {
        let Task { s, a, c_stride, .. } = *self;
        // A distance of 1, if the compiler knows of it, becomes a part of the load instructions.
        let sums = match (a.row_stride, a.depth_stride) {
            (1, depth_stride) => self.sums::<PAIRS, R, C>(row, column, [1, depth_stride]),
            (row_stride, _) => self.sums::<PAIRS, R, C>(row, column, [row_stride, 1]),
        };
        // SAFETY: rows `row..row + R` and columns `column..column + C * LANES` are part of the product, whose bounds `check`
        // checked.
        unsafe {
            for (r, sums) in sums.into_iter().enumerate() {
                for (vector, sum) in sums.into_iter().enumerate() {
                    let to = self.c.add((row + r) * c_stride + column + vector * S::LANES);
                    let value = match self.update {
                        Update::Set => sum,
                        Update::Add => s.add(s.load(to), sum),
                        Update::ScaleAdd(factors) => {
                            s.mul_add(s.splat(*factors.get_unchecked(row + r)), s.load(to), sum)
                        }
                    };
                    s.store::<false>(to, value);
                }
            }
        }
    }

    /// The sums of a tile; strides are those of a.
    #[inline(always)]
    fn sums<const PAIRS: bool, const R: usize, const C: usize>(
        &self,
        row: usize,
        column: usize,
        strides: [usize; 2],
    ) -> [[S::F; C]; R] {
        let Task { s, a, b, depth, .. } = *self;
        let mut sums = [[s.splat(0.0); C]; R];
        // SAFETY: the tile is part of the product, whose bounds `check` checked.
        unsafe {
            let mut a_at = a.values.as_ptr().add(row * strides[0]);
            let mut b_at = b.values.as_ptr().add(column);
            for _ in 0..depth / UNROLLED {
                for _ in 0..UNROLLED {
                    self.step::<PAIRS, R, C>(&mut a_at, &mut b_at, strides, &mut sums);
                }
            }
            for _ in 0..depth % UNROLLED {
                self.step::<PAIRS, R, C>(&mut a_at, &mut b_at, strides, &mut sums);
            }
        }
        sums
    }

    /// One step of depth.
    ///
    /// # Safety
    /// R rows of a from `a_at` on, and C vectors of b from `b_at` on, lie within their slices.
    #[inline(always)]
    unsafe fn step<const PAIRS: bool, const R: usize, const C: usize>(
        &self,
        a_at: &mut *const f32,
        b_at: &mut *const f32,
        [row_stride, depth_stride]: [usize; 2],
        sums: &mut [[S::F; C]; R],
    ) {
        let Task { s, b, .. } = *self;
        // SAFETY: as the caller promises.
        let vectors: [S::F; C] = std::array::from_fn(|vector| unsafe { s.load(b_at.add(vector * S::LANES)) });
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: as the caller promises.
            let element = s.splat(unsafe { *a_at.add(r * row_stride) });
            for (sum, vector) in sums.iter_mut().zip(vectors) {
                *sum = match PAIRS {
                    true => s.dot_pairs(element, vector, *sum),
                    false => s.mul_add(element, vector, *sum),
                };
            }
        }
        *a_at = a_at.wrapping_add(depth_stride);
        *b_at = b_at.wrapping_add(b.stride);
    }
}
