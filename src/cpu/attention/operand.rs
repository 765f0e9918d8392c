//! Keys and values as the products of tiles take them: where they lie if that is possible, else in scratch memory.

use std::ops::Range;

use crate::cpu::attention::BLOCK_KV;
use crate::cpu::attention::inputs::{HeadRows, RowsAt};
use crate::cpu::floats::widen;
use crate::cpu::simd::{Elements, InstructionSet, Left, Right};
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

/// Two bf16 in the 32 bits of an f32.
fn pair(low: u16, high: u16) -> f32 {
    f32::from_bits(u32::from(low) | (u32::from(high) << 16))
}

/// A row's elements as bf16, and 0 where it has ended.
fn bits<T: Float>(row: &[T]) -> impl Fn(usize) -> u16 {
    let row: &[u16] = bytemuck::cast_slice(row);
    move |index| row.get(index).copied().unwrap_or(0)
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
        if let Some((values, stride)) = tensor.as_f32(at) {
            return LeftTile { values, stride };
        }
        let stride = depth(elements, tensor.columns());
        for row in rows.clone() {
            let out = &mut scratch[row * stride..][..stride];
            match elements {
                Elements::F32 => widen(set, tensor.row(at, row), out),
                Elements::Pairs => {
                    let bits = bits(tensor.row(at, row));
                    out.iter_mut().enumerate().for_each(|(i, out)| *out = pair(bits(2 * i), bits(2 * i + 1)));
                }
            }
        }
        LeftTile { values: scratch, stride }
    }

    /// From a row of the tile on.
    pub fn rows_from(&self, row: usize) -> Left<'_> {
        Left { values: &self.values[row * self.stride..], row_stride: self.stride, depth_stride: 1 }
    }
}

/// The rows of a tile that a product multiplies by vectors, such as values, whose depth is the keys.
pub(super) struct RightTile<'a> {
    values: &'a [f32],
    stride: usize,
    elements: Elements,
    /// Columns, padded to whole vectors.
    pub columns: usize,
}

impl<'a> RightTile<'a> {
    /// As [`LeftTile::new`]; `scratch` has [`BLOCK_KV`] rows of at least the padded columns' number. The rows of a pair that is
    /// in `rows` in part are 0 outside of them.
    pub fn new<T: Float>(
        set: InstructionSet,
        elements: Elements,
        tensor: &HeadRows<'a, T>,
        at: RowsAt,
        rows: &Range<usize>,
        scratch: &'a mut [f32],
    ) -> RightTile<'a> {
        let columns = tensor.columns().next_multiple_of(set.lanes());
        if columns == tensor.columns()
            && let Some((values, stride)) = tensor.as_f32(at)
        {
            return RightTile { values, stride, elements, columns };
        }
        match elements {
            Elements::F32 => {
                for row in rows.clone() {
                    let (values, padding) = scratch[row * columns..][..columns].split_at_mut(tensor.columns());
                    widen(set, tensor.row(at, row), values);
                    padding.fill(0.0);
                }
            }
            Elements::Pairs => {
                for first in (rows.start / 2 * 2..rows.end).step_by(2) {
                    let of = |row: usize| bits(if rows.contains(&row) { tensor.row(at, row) } else { &[] });
                    let (low, high) = (of(first), of(first + 1));
                    let out = &mut scratch[first / 2 * columns..][..columns];
                    out.iter_mut().enumerate().for_each(|(i, out)| *out = pair(low(i), high(i)));
                }
            }
        }
        RightTile { values: scratch, stride: columns, elements, columns }
    }

    /// From a row of the tile on; of pairs, an even one.
    pub fn rows_from(&self, row: usize) -> Right<'_> {
        debug_assert!(self.elements == Elements::F32 || row.is_multiple_of(2));
        Right { values: &self.values[depth(self.elements, row) * self.stride..], stride: self.stride }
    }
}

/// Scratch memory of a tile with rows of so many columns.
pub(super) const fn tile_elements(columns: usize) -> usize {
    BLOCK_KV * columns
}
