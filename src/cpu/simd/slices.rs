//! Loops over slices, vector by vector; what is left at the end goes through a padded vector.

use half::{bf16, f16};

use super::vector::Simd;

/// Room for the longest vector.
const LANES_MAX: usize = 16;

/// A vector of the first elements of a slice, padded with zeros.
#[inline(always)]
fn load_part<S: Simd, T: Cell>(s: S, values: &[T]) -> S::F {
    let mut padded = [T::ZERO; LANES_MAX];
    padded[..values.len()].copy_from_slice(values);
    // SAFETY: no vector is longer than the array.
    unsafe { T::load(s, padded.as_ptr()) }
}

#[inline(always)]
fn lanes<S: Simd, T: Cell>(s: S, value: S::F) -> [T; LANES_MAX] {
    let mut lanes = [T::ZERO; LANES_MAX];
    // SAFETY: no vector is longer than the array.
    unsafe { T::store::<S, false>(s, lanes.as_mut_ptr(), value) };
    lanes
}

/// A place in a row: a whole vector, or the part of one that is left at the end.
pub(super) trait Place: Copy {
    /// The first element.
    fn start(self) -> usize;
    /// The vector there; a part is padded with zeros.
    fn load<S: Simd, T: Cell>(self, s: S, values: &[T]) -> S::F;
    /// Stores the vector, or the part of it that has room.
    fn store<S: Simd, T: Cell>(self, s: S, values: &mut [T], value: S::F);
}

/// A whole vector from an element on.
#[derive(Clone, Copy)]
pub(super) struct Whole(pub usize);

/// The elements from one on, fewer than a vector's, up to another.
#[derive(Clone, Copy)]
pub(super) struct Rest(pub usize, pub usize);

impl Place for Whole {
    #[inline(always)]
    fn start(self) -> usize {
        self.0
    }
    #[inline(always)]
    fn load<S: Simd, T: Cell>(self, s: S, values: &[T]) -> S::F {
        let values = &values[self.0..self.0 + S::LANES];
        // SAFETY: there are as many elements.
        unsafe { T::load(s, values.as_ptr()) }
    }
    #[inline(always)]
    fn store<S: Simd, T: Cell>(self, s: S, values: &mut [T], value: S::F) {
        let values = &mut values[self.0..self.0 + S::LANES];
        // SAFETY: there are as many elements.
        unsafe { T::store::<S, false>(s, values.as_mut_ptr(), value) }
    }
}

impl Place for Rest {
    #[inline(always)]
    fn start(self) -> usize {
        self.0
    }
    #[inline(always)]
    fn load<S: Simd, T: Cell>(self, s: S, values: &[T]) -> S::F {
        load_part(s, &values[self.0..self.1])
    }
    #[inline(always)]
    fn store<S: Simd, T: Cell>(self, s: S, values: &mut [T], value: S::F) {
        let rest = &mut values[self.0..self.1];
        rest.copy_from_slice(&lanes(s, value)[..rest.len()]);
    }
}

// What follows are macros and not functions that take closures: a closure is a function of its own, which the compiler may leave
// without the instruction set that the loop around it has.

/// `out[place] = value` for each place of a row, where the value is an expression in the place.
macro_rules! set_each {
    ($simd:ident: $type:ident, $out:expr, $place:ident => $value:expr) => {{
        let out = $out;
        let whole = out.len() - out.len() % $type::LANES;
        for at in (0..whole).step_by($type::LANES) {
            let $place = Whole(at);
            let value = $value;
            $place.store($simd, out, value);
        }
        if whole < out.len() {
            let $place = Rest(whole, out.len());
            let value = $value;
            $place.store($simd, out, value);
        }
    }};
}

/// As [`set_each`], of an expression in the place and the value that is there.
macro_rules! change_each {
    ($simd:ident: $type:ident, $values:expr, $value:ident, $place:ident => $new:expr) => {{
        let values: &mut [f32] = $values;
        let whole = values.len() - values.len() % $type::LANES;
        for at in (0..whole).step_by($type::LANES) {
            let $place = Whole(at);
            let $value = $place.load($simd, values);
            let new = $new;
            $place.store($simd, values, new);
        }
        if whole < values.len() {
            let $place = Rest(whole, values.len());
            let $value = $place.load($simd, values);
            let new = $new;
            $place.store($simd, values, new);
        }
    }};
}

/// As [`set_each`], past the caches if `streams`, as far as the memory is aligned.
macro_rules! write_each {
    ($simd:ident: $type:ident, $out:expr, $streams:expr, $place:ident => $value:expr) => {{
        let out = $out;
        if $streams && is_aligned::<$type, _>(out) {
            for at in (0..out.len()).step_by($type::LANES) {
                let $place = Whole(at);
                let value = $value;
                // SAFETY: `is_aligned` checked that the row is whole aligned vectors.
                unsafe { Cell::store::<$type, true>($simd, out.as_mut_ptr().add(at), value) };
            }
            $simd.fence();
        } else {
            set_each!($simd: $type, out, $place => $value);
        }
    }};
}

/// The sums over a row of `count` of the functions in an array: vectors, as an expression in the place.
macro_rules! sum_each {
    ($simd:ident: $type:ident, $count:expr, $place:ident => $terms:expr) => {{
        let count = $count;
        let mut totals = Totals::default();
        let whole = count - count % $type::LANES;
        for block in (0..whole).step_by(BLOCK * $type::LANES) {
            let end = whole.min(block + BLOCK * $type::LANES);
            let mut sums = [[$simd.splat(0.0); _]; SUMS];
            let mut at = block;
            while at + SUMS * $type::LANES <= end {
                for (index, sums) in sums.iter_mut().enumerate() {
                    let $place = Whole(at + index * $type::LANES);
                    add_each($simd, sums, $terms);
                }
                at += SUMS * $type::LANES;
            }
            while at < end {
                let $place = Whole(at);
                add_each($simd, &mut sums[0], $terms);
                at += $type::LANES;
            }
            totals.add_block($simd, sums);
        }
        if whole < count {
            let $place = Rest(whole, count);
            totals.add_rest($simd, $terms, count - whole);
        }
        totals.0
    }};
}

/// Sums that run side by side, so that one addition need not wait for the one before.
pub(super) const SUMS: usize = 2;
/// Vectors of a block. The sums of blocks are added in a second step, so that a long row of nearly equal terms keeps its digits.
pub(super) const BLOCK: usize = 32 * SUMS;

/// Sums of N functions.
pub(super) struct Totals<const N: usize>(pub [f32; N]);

impl<const N: usize> Default for Totals<N> {
    fn default() -> Totals<N> {
        Totals([0.0; N])
    }
}

impl<const N: usize> Totals<N> {
    /// Adds the sums of a block.
    #[inline(always)]
    pub fn add_block<S: Simd>(&mut self, s: S, sums: [[S::F; N]; SUMS]) {
        let [a, b] = sums;
        for n in 0..N {
            self.0[n] += across(s, s.add(a[n], b[n]), S::LANES);
        }
    }

    /// Adds the first lanes of terms.
    #[inline(always)]
    pub fn add_rest<S: Simd>(&mut self, s: S, terms: [S::F; N], count: usize) {
        for (total, term) in self.0.iter_mut().zip(terms) {
            *total += across(s, term, count);
        }
    }
}

/// `sums += terms`.
#[inline(always)]
pub(super) fn add_each<S: Simd, const N: usize>(s: S, sums: &mut [S::F; N], terms: [S::F; N]) {
    for n in 0..N {
        sums[n] = s.add(sums[n], terms[n]);
    }
}

/// Whether a row is whole vectors, each of which is a multiple of its size.
#[inline(always)]
pub(super) fn is_aligned<S: Simd, T: Cell>(row: &[T]) -> bool {
    row.len().is_multiple_of(S::LANES) && row.as_ptr().addr().is_multiple_of(S::LANES * size_of::<T>())
}

/// The sum of the first lanes of a vector.
#[inline(always)]
fn across<S: Simd>(s: S, value: S::F, count: usize) -> f32 {
    lanes::<S, f32>(s, value)[..count].iter().sum()
}

/// The largest value; `-inf` for none. NaN is ignored.
#[inline(always)]
pub(super) fn max<S: Simd, T: Cell>(s: S, values: &[T]) -> f32 {
    let mut largest = [s.splat(f32::NEG_INFINITY); SUMS];
    let step = SUMS * S::LANES;
    let whole = values.len() - values.len() % step;
    for at in (0..whole).step_by(step) {
        for (index, largest) in largest.iter_mut().enumerate() {
            *largest = s.max(Whole(at + index * S::LANES).load(s, values), *largest);
        }
    }
    let [a, b] = largest;
    let across = lanes::<S, f32>(s, s.max(a, b));
    let mut max = across[..S::LANES].iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for rest in values[whole..].chunks(S::LANES) {
        let rest_lanes = lanes::<S, f32>(s, load_part(s, rest));
        max = rest_lanes[..rest.len()].iter().copied().fold(max, f32::max);
    }
    max
}

/// The element types of rows.
pub(super) trait Cell: Copy {
    /// # Safety
    /// As [`Simd::load`].
    unsafe fn load<S: Simd>(s: S, from: *const Self) -> S::F;
    /// # Safety
    /// As [`Simd::store`].
    unsafe fn store<S: Simd, const STREAM: bool>(s: S, to: *mut Self, value: S::F);
    const ZERO: Self;
}

macro_rules! cell {
    ($type:ty, $zero:expr, $load:ident, $store:ident) => {
        impl Cell for $type {
            #[inline(always)]
            unsafe fn load<S: Simd>(s: S, from: *const Self) -> S::F {
                // SAFETY: as the caller promises.
                unsafe { s.$load(from) }
            }
            #[inline(always)]
            unsafe fn store<S: Simd, const STREAM: bool>(s: S, to: *mut Self, value: S::F) {
                // SAFETY: as the caller promises.
                unsafe { s.$store::<STREAM>(to, value) }
            }
            const ZERO: Self = $zero;
        }
    };
}
cell!(f32, 0.0, load, store);
cell!(f16, f16::ZERO, load_f16, store_f16);
cell!(bf16, bf16::ZERO, load_bf16, store_bf16);

/// Runs an expression with the slice that a [`Floats`] or [`FloatsMut`] holds, of whatever type.
macro_rules! with_cells {
    ($enum:ident, $floats:expr, $cells:ident => $body:expr) => {
        match $floats {
            $enum::F32($cells) => $body,
            $enum::F16($cells) => $body,
            $enum::BF16($cells) => $body,
        }
    };
}
pub(super) use {change_each, set_each, sum_each, with_cells, write_each};
