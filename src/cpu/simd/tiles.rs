//! Matrix products of pairs of bf16 by tiles: 16 rows of 16 pairs times 16 pairs of 16 columns. An element's sum runs over groups of
//! 16 pairs in depth, each of which is summed by itself; groups begin where [`Right::first`] says, so that an element's bits depend
//! neither on the size of the product nor on its place in it.

use std::mem::MaybeUninit;

use super::product::{Left, Right, Update, check};
use super::vector::Simd;

/// Rows, columns, and pairs in depth of a tile.
pub(super) const SIDE: usize = 16;
/// Rows and columns of a product that tiles in registers hold: two tiles of each.
const BLOCK: usize = 2 * SIDE;
/// Groups in depth whose left sides are laid out together: those of 256 elements.
const GROUPS: usize = 8;

/// Rows that tiles are loaded from.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    /// The first tile, and the second one.
    pub at: [*const f32; 2],
    /// From row to row.
    pub stride: usize,
    /// From group to group.
    pub step: usize,
}

/// Products of tiles. A value of an implementing type exists only where the processor has the instructions.
pub(super) trait Tiles: Copy {
    type Vectors: Simd;

    /// What else the processor computes with; of 16 lanes.
    fn vectors(self) -> Self::Vectors;

    /// What [`Tiles::multiply`] needs, until it is dropped.
    type Held;

    /// Makes this thread's tiles ready.
    fn hold(self) -> Self::Held;

    /// `c = a b`, or `c += a b` where `adds`: R tiles of rows by C tiles of columns, over `groups` groups in depth.
    ///
    /// # Safety
    /// Tiles of a and b can be read, and those of c, whose rows are `stride` apart, read and written; and this thread holds what
    /// [`Tiles::hold`] returned.
    unsafe fn multiply<const R: usize, const C: usize>(
        self,
        a: Rows,
        b: Rows,
        groups: usize,
        c: *mut f32,
        stride: usize,
        adds: bool,
    );
}

/// As [`super::product::product`], of pairs.
#[inline(always)]
pub(super) fn product<'a, T: Tiles>(
    t: T,
    a: Left<'a>,
    b: Right<'a>,
    c: &mut [f32],
    c_stride: usize,
    update: Update<'a>,
    size: [usize; 3],
) {
    let [m, n, depth] = size;
    check(a, b, c, c_stride, update, size, SIDE);
    if m == 0 || n == 0 {
        return;
    }
    let _held = t.hold();
    let mut packed = MaybeUninit::<Packed>::uninit();
    let packed = packed.as_mut_ptr().cast::<f32>();
    for row in (0..m).step_by(BLOCK) {
        let task = Block { t, a, b, rows: row..m.min(row + BLOCK), depth, n, c_stride };
        // SAFETY: `check` found every row within c.
        let c = unsafe { c.as_mut_ptr().add(row * c_stride) };
        let mut adds = !matches!(update, Update::Set);
        if let Update::ScaleAdd(factors) = update {
            task.scale(factors, c);
        }
        let groups = (b.first % SIDE + depth).div_ceil(SIDE);
        for first in (0..groups).step_by(GROUPS) {
            task.add(first..groups.min(first + GROUPS), packed, c, adds);
            adds = true;
        }
        if groups == 0 && !adds {
            task.clear(c);
        }
    }
}

/// Left sides, tile after tile of a row of tiles, each row of a tile a cache line.
#[repr(align(64))]
struct Packed(#[allow(dead_code, reason = "written and read by address")] [f32; 2 * GROUPS * SIDE * SIDE]);

/// Rows of c, or of b, as long as two tiles.
#[repr(align(64))]
struct Copied<const ROWS: usize>([[f32; BLOCK]; ROWS]);

/// As many rows of c as tiles in registers hold.
struct Block<'a, T> {
    t: T,
    a: Left<'a>,
    b: Right<'a>,
    rows: std::ops::Range<usize>,
    depth: usize,
    n: usize,
    c_stride: usize,
}

impl<T: Tiles> Block<'_, T> {
    fn clear(&self, c: *mut f32) {
        for row in 0..self.rows.len() {
            // SAFETY: `product` checked the bounds of c.
            unsafe { c.add(row * self.c_stride).write_bytes(0, self.n) };
        }
    }

    #[inline(always)]
    fn scale(&self, factors: &[f32], c: *mut f32) {
        let s = self.t.vectors();
        for (row, factor) in factors[self.rows.clone()].iter().enumerate() {
            for column in (0..self.n).step_by(SIDE) {
                // SAFETY: as above; columns are whole vectors.
                unsafe {
                    let at = c.add(row * self.c_stride + column);
                    s.store::<false>(at, s.mul(s.splat(*factor), s.load(at)));
                }
            }
        }
    }

    /// The steps of depth of a group, which a group at either end has only a part of, and where in it they begin.
    fn steps(&self, group: usize) -> (std::ops::Range<usize>, usize) {
        let phase = self.b.first % SIDE;
        let start = (group * SIDE).saturating_sub(phase);
        let end = ((group + 1) * SIDE - phase).min(self.depth);
        (start..end, start + phase - group * SIDE)
    }

    /// The products of some groups in depth.
    #[inline(always)]
    fn add(&self, groups: std::ops::Range<usize>, packed: *mut f32, c: *mut f32, mut adds: bool) {
        let is_whole = |group: usize| self.steps(group).0.len() == SIDE;
        // Whole tiles are read where they lie.
        let lies_in_rows = self.a.depth_stride == 1 && self.rows.len().is_multiple_of(SIDE);
        for group in groups.clone() {
            if !(lies_in_rows && is_whole(group)) {
                self.pack(group, group - groups.start, packed);
            }
        }
        let mut group = groups.start;
        while group < groups.end {
            let whole = (group..groups.end).take_while(|group| is_whole(*group)).count();
            let a = match lies_in_rows && whole > 0 {
                true => {
                    let row = |tile: usize| (self.rows.start + tile * SIDE).min(self.rows.end - 1) * self.a.row_stride;
                    let at =
                        [0, 1].map(|tile| self.a.values.as_ptr().wrapping_add(row(tile) + self.steps(group).0.start));
                    Rows { at, stride: self.a.row_stride, step: SIDE }
                }
                false => {
                    let tile = |tile: usize| (tile * GROUPS + group - groups.start) * SIDE * SIDE;
                    Rows {
                        at: [0, 1].map(|index| packed.wrapping_add(tile(index)).cast_const()),
                        stride: SIDE,
                        step: SIDE * SIDE,
                    }
                }
            };
            self.columns(group, whole, a, c, adds);
            group += whole.max(1);
            adds = true;
        }
    }

    /// The products of `whole` whole groups from one on, or of one that is not.
    #[inline(always)]
    fn columns(&self, group: usize, whole: usize, a: Rows, c: *mut f32, adds: bool) {
        let s = self.t.vectors();
        for column in (0..self.n).step_by(BLOCK) {
            let tiles = ((self.n - column) / SIDE).min(2);
            let mut partial;
            let (from, stride) = match whole {
                0 => {
                    partial = Copied([[0.0; BLOCK]; SIDE]);
                    let (steps, skipped) = self.steps(group);
                    for (row, step) in steps.enumerate() {
                        for vector in (0..tiles * SIDE).step_by(SIDE) {
                            // SAFETY: `product` checked the bounds of b, and a group has at most `SIDE` rows.
                            unsafe {
                                let from = self.b.values.as_ptr().add(step * self.b.stride + column + vector);
                                s.store::<false>(partial.0[skipped + row].as_mut_ptr().add(vector), s.load(from));
                            }
                        }
                    }
                    (partial.0.as_ptr().cast::<f32>(), BLOCK)
                }
                _ => (
                    self.b.values.as_ptr().wrapping_add(self.steps(group).0.start * self.b.stride + column),
                    self.b.stride,
                ),
            };
            let b = Rows { at: [from, from.wrapping_add(SIDE)], stride, step: SIDE * stride };
            let (groups, c) = (whole.max(1), c.wrapping_add(column));
            // SAFETY: whole groups lie within a and b, the others in memory of their own; c's rows are there, or in `ragged`.
            unsafe {
                match (self.rows.len().is_multiple_of(SIDE), self.rows.len() > SIDE, tiles) {
                    (true, true, 2) => self.t.multiply::<2, 2>(a, b, groups, c, self.c_stride, adds),
                    (true, true, _) => self.t.multiply::<2, 1>(a, b, groups, c, self.c_stride, adds),
                    (true, false, 2) => self.t.multiply::<1, 2>(a, b, groups, c, self.c_stride, adds),
                    (true, false, _) => self.t.multiply::<1, 1>(a, b, groups, c, self.c_stride, adds),
                    (false, ..) => {
                        let mut ragged = Copied([[0.0; BLOCK]; BLOCK]);
                        let ragged = ragged.0.as_mut_ptr().cast::<f32>();
                        let count = tiles * SIDE;
                        for row in 0..self.rows.len() {
                            ragged.add(row * BLOCK).copy_from_nonoverlapping(c.add(row * self.c_stride), count);
                        }
                        match tiles {
                            2 => self.t.multiply::<2, 2>(a, b, groups, ragged, BLOCK, adds),
                            _ => self.t.multiply::<2, 1>(a, b, groups, ragged, BLOCK, adds),
                        }
                        for row in 0..self.rows.len() {
                            c.add(row * self.c_stride).copy_from_nonoverlapping(ragged.add(row * BLOCK), count);
                        }
                    }
                }
            }
        }
    }

    /// Lays out the rows of a group: 0 outside of rows and depth.
    #[inline(always)]
    fn pack(&self, group: usize, place: usize, packed: *mut f32) {
        let s = self.t.vectors();
        let (steps, skipped) = self.steps(group);
        for tile in 0..2 {
            let rows = self.rows.start + tile * SIDE..self.rows.end.min(self.rows.start + (tile + 1) * SIDE);
            // SAFETY: there is room for two rows of `GROUPS` tiles.
            let out = unsafe {
                &mut *packed.add((tile * GROUPS + place) * SIDE * SIDE).cast::<[MaybeUninit<f32>; SIDE * SIDE]>()
            };
            let element = |row: usize, step: usize| row * self.a.row_stride + step * self.a.depth_stride;
            if self.a.row_stride == 1 && rows.len() == SIDE && steps.len() == SIDE {
                for half in [0, SIDE / 2] {
                    // SAFETY: `product` checked the bounds of a; out has a vector a row.
                    unsafe {
                        let from = self.a.values.as_ptr().add(element(rows.start + half, steps.start));
                        for (row, vector) in s.load_transposed(from, self.a.depth_stride).into_iter().enumerate() {
                            s.store::<false>(out.as_mut_ptr().add((half + row) * SIDE).cast(), vector);
                        }
                    }
                }
                continue;
            }
            out.fill(MaybeUninit::new(0.0));
            for (out, row) in out.chunks_exact_mut(SIDE).zip(rows) {
                for (out, step) in out[skipped..].iter_mut().zip(steps.clone()) {
                    out.write(self.a.values[element(row, step)]);
                }
            }
        }
    }
}
