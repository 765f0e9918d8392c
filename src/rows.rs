//! What softmax and the norms share: an operation on the rows (the last axis) of two tensors of one shape.

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::params::RowStrides;
use crate::plan::{LaunchPlan, Params, check_last_stride, check_output, choose, to_i32};
use crate::target::{GpuTarget, Target};
use crate::tensor::{Layout, TensorSpec};
use crate::variants::{Operation, Tile, Variant};

/// Leading dimensions of input and output, merged into at most this many strided ones.
const GROUPS: usize = 3;

/// The rows of an input and of an output.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rows {
    pub dtype: DType,
    pub rows: usize,
    pub columns: usize,
    /// Sizes of the merged leading dimensions, outermost first; unused ones are 1.
    pub sizes: [usize; GROUPS],
    pub x_strides: [usize; GROUPS],
    pub y_strides: [usize; GROUPS],
}

impl Rows {
    /// Checks types, shapes and strides of input and output, and merges their leading dimensions.
    pub fn new(x: &TensorSpec, y: &TensorSpec) -> Result<Rows> {
        let shape = x.layout.shape();
        if shape.is_empty() {
            return Err(Error::Rank { tensor: "x", shape: x.layout.shape_dims(), expected: "[..., columns]" });
        }
        if x.layout.num_elements() == 0 {
            return Err(Error::Empty { tensor: "x", shape: x.layout.shape_dims() });
        }
        if y.layout.shape() != shape {
            return Err(Error::Shape {
                tensor: "the output",
                shape: y.layout.shape_dims(),
                expected: x.layout.shape_dims(),
                reason: "it has the input's shape",
            });
        }
        if y.dtype != x.dtype {
            return Err(Error::DTypeMismatch { tensor: "the output", dtype: y.dtype, expected: x.dtype });
        }
        check_last_stride("x", x)?;
        check_output("the output", y)?;
        let (columns, leading) = shape.split_last().expect("the rank is checked");
        let rows: usize = leading.iter().product();
        to_i32("the number of rows", rows)?;
        to_i32("the number of columns", *columns)?;
        let (sizes, x_strides, y_strides) = merge(&x.layout, &y.layout, leading)?;
        Ok(Rows { dtype: x.dtype, rows, columns: *columns, sizes, x_strides, y_strides })
    }

    /// The first element of row `row`, for the given strides.
    pub fn start(&self, row: usize, strides: &[usize; GROUPS]) -> usize {
        let [_, n1, n2] = self.sizes;
        row / (n1 * n2) * strides[0] + row / n2 % n1 * strides[1] + row % n2 * strides[2]
    }

    /// The rung of the ladder that takes rows of this length: by length and type only.
    pub fn variant(&self, operation: Operation, target: &GpuTarget) -> Result<&'static Variant> {
        choose(operation, target, |variant| {
            variant.dtype == self.dtype && variant.columns_max().is_none_or(|max| self.columns as u64 <= max)
        })
        .ok_or_else(|| Error::UnsupportedDType {
            operation: operation.name(),
            dtype: self.dtype,
            device: Target::Gpu(*target).to_string(),
            available: "f32, f16, bf16".to_string(),
        })
    }

    /// A launch with one block for each `rows_per_block` rows.
    pub fn launch(&self, variant: &'static Variant, params: Params) -> Result<LaunchPlan> {
        let Tile::Rows { rows_per_block, .. } = variant.tile else { unreachable!("row operations have row tiles") };
        LaunchPlan::linear(variant, self.rows.div_ceil(rows_per_block as usize), params)
    }

    /// The input's strides in bytes.
    pub fn x_params(&self) -> RowStrides {
        self.row_strides(&self.x_strides)
    }

    /// The output's strides in bytes.
    pub fn y_params(&self) -> RowStrides {
        self.row_strides(&self.y_strides)
    }

    fn row_strides(&self, strides: &[usize; GROUPS]) -> RowStrides {
        let [s0, s1, s2] = strides.map(|stride| (stride * self.dtype.size_bytes()) as i64);
        RowStrides { s0, s1, s2 }
    }

    /// Every input byte read once and every output byte written once.
    pub fn traffic_bytes(&self) -> usize {
        2 * self.rows * self.columns * self.dtype.size_bytes()
    }
}

/// Neighbouring dimensions that both tensors walk with one stride become one dimension.
fn merge(x: &Layout, y: &Layout, leading: &[usize]) -> Result<([usize; GROUPS], [usize; GROUPS], [usize; GROUPS])> {
    let mut groups: Vec<(usize, usize, usize)> = Vec::new();
    for (axis, size) in leading.iter().enumerate().filter(|(_, size)| **size != 1) {
        let (x_stride, y_stride) = (x.strides()[axis], y.strides()[axis]);
        match groups.last_mut() {
            Some((outer, x_outer, y_outer)) if *x_outer == size * x_stride && *y_outer == size * y_stride => {
                (*outer, *x_outer, *y_outer) = (*outer * size, x_stride, y_stride);
            }
            _ => groups.push((*size, x_stride, y_stride)),
        }
    }
    if groups.len() > GROUPS {
        let (tensor, layout) = if x.is_contiguous() { ("the output", y) } else { ("x", x) };
        return Err(Error::TooManyStrides { tensor, shape: layout.shape_dims(), strides: layout.stride_dims() });
    }
    let (mut sizes, mut x_strides, mut y_strides) = ([1; GROUPS], [0; GROUPS], [0; GROUPS]);
    let first = GROUPS - groups.len();
    for (index, (size, x_stride, y_stride)) in groups.into_iter().enumerate() {
        (sizes[first + index], x_strides[first + index], y_strides[first + index]) = (size, x_stride, y_stride);
    }
    Ok((sizes, x_strides, y_strides))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(layout: Layout) -> TensorSpec {
        TensorSpec { dtype: DType::F32, layout, alignment_bytes: 16 }
    }

    #[test]
    fn contiguous_dimensions_merge_into_one() {
        let x = spec(Layout::contiguous(&[2, 3, 1, 5, 7]).unwrap());
        let rows = Rows::new(&x, &x).unwrap();
        assert_eq!((rows.rows, rows.columns, rows.sizes, rows.x_strides), (30, 7, [1, 1, 30], [0, 0, 7]));
    }

    #[test]
    fn every_row_starts_where_the_layout_says() {
        let x = spec(Layout::contiguous(&[4, 3, 5, 7]).unwrap().transpose(0, 2).unwrap());
        let y = spec(Layout::contiguous(&[5, 3, 4, 7]).unwrap());
        let rows = Rows::new(&x, &y).unwrap();
        let mut row = 0;
        for a in 0..5 {
            for b in 0..3 {
                for c in 0..4 {
                    assert_eq!(rows.start(row, &rows.x_strides), a * 7 + b * 35 + c * 105);
                    assert_eq!(rows.start(row, &rows.y_strides), row * 7);
                    row += 1;
                }
            }
        }
    }

    #[test]
    fn four_separate_strides_are_refused() {
        let x = spec(Layout::contiguous(&[2, 2, 2, 2, 3]).unwrap().transpose(0, 3).unwrap().transpose(1, 2).unwrap());
        let y = spec(Layout::contiguous(&[2, 2, 2, 2, 3]).unwrap());
        assert!(matches!(Rows::new(&x, &y), Err(Error::TooManyStrides { tensor: "x", .. })));
    }
}
