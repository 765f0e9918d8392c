//! Keys and values as the products of tiles take them: where they lie if that is possible, else in scratch memory.

use std::ops::Range;

use crate::cpu::attention::BLOCK_KV;
use crate::cpu::attention::inputs::{HeadRows, RowsAt};
use crate::cpu::floats::widen;
use crate::cpu::simd::{self, Elements, InstructionSet, Left, Right};
use crate::dtype::DType;
use crate::tensor::Float;

/// How a problem's elements are multiplied.
pub(super) fn elements(set: InstructionSet, dtype: DType) -> Elements {
    match dtype == DType::BF16 && set.multiplies_pairs() {
        true => Elements::Pairs,
        false => Elements::F32,
    }
}

/// The depth of a product over `count` elements.
pub(super) fn depth(elements: Elements, count: usize) -> usize {
    match elements {
        Elements::F32 => count,
        Elements::Pairs => count.div_ceil(2),
    }
}

/// Some rows, with those beside them that share their pairs: pairs start at even rows.
pub(super) fn whole_pairs(elements: Elements, rows: &Range<usize>) -> Range<usize> {
    match elements {
        Elements::F32 => rows.clone(),
        Elements::Pairs => rows.start / 2 * 2..rows.end.next_multiple_of(2),
    }
}

/// Copies a row of bf16, whose neighbours are pairs as they lie; the last one of an odd number is paired with 0.
pub(super) fn copy_pairs<T: Float>(row: &[T], out: &mut [f32]) {
    let row: &[u8] = bytemuck::cast_slice(row);
    let (out, padding) = bytemuck::cast_slice_mut(out).split_at_mut(row.len());
    out.copy_from_slice(row);
    padding.fill(0);
}

/// Joins two rows of bf16 into pairs; a row that is absent, and what is past the end, is 0.
fn join(low: Option<&[u16]>, high: Option<&[u16]>, out: &mut [f32]) {
    let columns = low.or(high).map_or(0, <[u16]>::len);
    let (out, padding) = out.split_at_mut(columns);
    padding.fill(0.0);
    let pair = |low: u16, high: u16| f32::from_bits(u32::from(low) | (u32::from(high) << 16));
    match (low, high) {
        (Some(low), Some(high)) => {
            out.iter_mut().zip(low.iter().zip(high)).for_each(|(out, (low, high))| *out = pair(*low, *high));
        }
        (Some(low), None) => out.iter_mut().zip(low).for_each(|(out, low)| *out = pair(*low, 0)),
        (None, Some(high)) => out.iter_mut().zip(high).for_each(|(out, high)| *out = pair(0, *high)),
        (None, None) => {}
    }
}

/// The rows of a tile that a product multiplies element by element, such as keys, whose depth is head_dim.
pub(super) struct LeftTile<'a> {
    values: &'a [f32],
    stride: usize,
}

impl<'a> LeftTile<'a> {
    /// Rows `rows` of `at`, and none outside of them; `scratch` has [`BLOCK_KV`] rows of at least the columns' number.
    pub fn new<T: Float>(
        set: InstructionSet,
        elements: Elements,
        tensor: &HeadRows<'a, T>,
        at: RowsAt,
        rows: &Range<usize>,
        scratch: &'a mut [f32],
    ) -> LeftTile<'a> {
        let in_place = match elements {
            Elements::F32 => tensor.as_f32(at),
            Elements::Pairs => tensor.as_pairs(at),
        };
        if let Some((values, stride)) = in_place {
            return LeftTile { values, stride };
        }
        let stride = depth(elements, tensor.columns());
        for row in rows.clone() {
            let out = &mut scratch[row * stride..][..stride];
            match elements {
                Elements::F32 => widen(set, tensor.row(at, row), out),
                Elements::Pairs => copy_pairs(tensor.row(at, row), out),
            }
        }
        LeftTile { values: scratch, stride }
    }

    /// From a row of the tile on.
    pub fn rows_from(&self, row: usize) -> Left<'_> {
        Left::of_rows(&self.values[row * self.stride..], self.stride)
    }
}

/// The distance of a right side's rows: an odd number of cache lines, so that a few columns of all rows lie in different sets of the
/// first cache. As they lie in memory, with a power of two between them, most of them would share some.
const fn right_stride(columns: usize) -> usize {
    (columns.div_ceil(simd::LANES) | 1) * simd::LANES
}

/// Scratch memory of a [`RightTile`] with so many rows.
pub(super) const fn right_elements(rows: usize, columns: usize) -> usize {
    rows * right_stride(columns)
}

/// The rows of a tile that a product multiplies by vectors, such as values, whose depth is the keys: always in scratch memory.
pub(super) struct RightTile<'a> {
    values: &'a [f32],
    stride: usize,
    elements: Elements,
    /// Columns, padded to whole vectors.
    pub columns: usize,
}

impl<'a> RightTile<'a> {
    /// As [`LeftTile::new`]; `scratch` has [`right_elements`]. The rows of a pair that is
    /// in `rows` in part are 0 outside of them.
    pub fn new<T: Float>(
        set: InstructionSet,
        elements: Elements,
        tensor: &HeadRows<'a, T>,
        at: RowsAt,
        rows: &Range<usize>,
        scratch: &'a mut [f32],
    ) -> RightTile<'a> {
        let (columns, stride) = (tensor.columns().next_multiple_of(set.lanes()), right_stride(tensor.columns()));
        match elements {
            Elements::F32 => {
                for row in rows.clone() {
                    let (values, padding) = scratch[row * stride..][..columns].split_at_mut(tensor.columns());
                    widen(set, tensor.row(at, row), values);
                    padding.fill(0.0);
                }
            }
            Elements::Pairs => {
                for first in whole_pairs(elements, rows).step_by(2) {
                    let of = |row| rows.contains(&row).then(|| bytemuck::cast_slice(tensor.row(at, row)));
                    join(of(first), of(first + 1), &mut scratch[first / 2 * stride..][..columns]);
                }
            }
        }
        RightTile { values: scratch, stride, elements, columns }
    }

    /// From a row of the tile on; of pairs, an even one.
    pub fn rows_from(&self, row: usize) -> Right<'_> {
        debug_assert!(self.elements == Elements::F32 || row.is_multiple_of(2));
        let first = depth(self.elements, row);
        Right { values: &self.values[first * self.stride..], stride: self.stride, first }
    }
}

/// Scratch memory of a tile with rows of so many columns.
pub(super) const fn tile_elements(columns: usize) -> usize {
    BLOCK_KV * columns
}
