//! Where a tensor's elements lie in memory. Plain data, no allocation.

use std::fmt;

use crate::error::{Error, Result};

/// The most dimensions a tensor can have.
pub const MAX_RANK: usize = 6;

/// The most elements that a layout can reach: as many as have 63-bit byte offsets in the widest type.
const ELEMENTS_MAX: usize = isize::MAX as usize / 8;

/// A short list of sizes or strides, one a dimension.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Dims {
    rank: u8,
    values: [usize; MAX_RANK],
}

impl Dims {
    /// Copies a list of at most [`MAX_RANK`] values.
    ///
    /// # Errors
    /// [`Error::TooManyDimensions`].
    pub fn new(values: &[usize]) -> Result<Dims> {
        if values.len() > MAX_RANK {
            return Err(Error::TooManyDimensions { rank: values.len(), limit: MAX_RANK });
        }
        Ok(Dims::of(values))
    }

    /// `values` has at most `MAX_RANK` elements.
    pub(crate) fn of(values: &[usize]) -> Dims {
        let mut dims = Dims { rank: values.len() as u8, values: [0; MAX_RANK] };
        dims.values[..values.len()].copy_from_slice(values);
        dims
    }

    /// The number of dimensions.
    pub fn rank(&self) -> usize {
        self.rank as usize
    }

    /// The values as a slice.
    pub fn as_slice(&self) -> &[usize] {
        &self.values[..self.rank()]
    }
}

impl fmt::Display for Dims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.as_slice()).finish()
    }
}

impl fmt::Debug for Dims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Shape, strides and offset, all in elements. Strides are not negative; a stride of 0 repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    shape: Dims,
    strides: Dims,
    offset: usize,
}

impl Layout {
    /// The row-major layout without gaps.
    ///
    /// # Errors
    /// [`Error::TooManyDimensions`]; [`Error::TooLarge`] when the number of elements overflows.
    pub fn contiguous(shape: &[usize]) -> Result<Layout> {
        let dims = Dims::new(shape)?;
        let mut strides = dims;
        let mut stride = 1usize;
        for axis in (0..shape.len()).rev() {
            strides.values[axis] = stride;
            // Zero-sized dimensions must not hide an overflow of the others, nor give zero strides.
            stride = stride
                .checked_mul(shape[axis].max(1))
                .filter(|elements| *elements <= ELEMENTS_MAX)
                .ok_or(Error::TooLarge { what: "the number of elements", value: usize::MAX, limit: ELEMENTS_MAX })?;
        }
        Ok(Layout { shape: dims, strides, offset: 0 })
    }

    /// A layout with given strides and offset.
    ///
    /// # Errors
    /// [`Error::TooManyDimensions`]; [`Error::Shape`] when there are more or fewer strides than dimensions;
    /// [`Error::TooLarge`] when the last element's index overflows.
    pub fn strided(shape: &[usize], strides: &[usize], offset: usize) -> Result<Layout> {
        let layout = Layout { shape: Dims::new(shape)?, strides: Dims::new(strides)?, offset };
        if shape.len() != strides.len() {
            return Err(Error::Shape {
                tensor: "the list of strides",
                shape: layout.strides,
                expected: layout.shape,
                reason: "there is one stride a dimension",
            });
        }
        // The number of elements is bounded for every layout, and so is the last element's index.
        Layout::contiguous(shape)?;
        let last = shape.iter().zip(strides).try_fold(offset, |sum, (size, stride)| {
            size.saturating_sub(1).checked_mul(*stride).and_then(|reach| sum.checked_add(reach))
        });
        match last {
            Some(last) if last <= ELEMENTS_MAX => Ok(layout),
            _ => Err(Error::TooLarge { what: "the last element's index", value: usize::MAX, limit: ELEMENTS_MAX }),
        }
    }

    /// The size of each dimension.
    pub fn shape(&self) -> &[usize] {
        self.shape.as_slice()
    }

    /// The distance of neighbours in each dimension, in elements.
    pub fn strides(&self) -> &[usize] {
        self.strides.as_slice()
    }

    /// The first element's index.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.rank()
    }

    /// The shape, for messages.
    pub fn shape_dims(&self) -> Dims {
        self.shape
    }

    /// The strides, for messages.
    pub fn stride_dims(&self) -> Dims {
        self.strides
    }

    /// The number of elements.
    pub fn num_elements(&self) -> usize {
        self.shape().iter().product()
    }

    /// One past the last element's index; the offset when there are no elements.
    pub fn end(&self) -> usize {
        if self.num_elements() == 0 {
            return self.offset;
        }
        self.offset
            + self.shape().iter().zip(self.strides()).map(|(size, stride)| (size - 1) * stride).sum::<usize>()
            + 1
    }

    /// Whether the elements lie without gaps in row-major order.
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        for (size, stride) in self.shape().iter().zip(self.strides()).rev() {
            if *size != 1 && *stride != expected {
                return false;
            }
            expected *= size;
        }
        true
    }

    /// Whether two index tuples share an element, or might: strides must nest, each at least as large as the reach
    /// of the smaller ones. (Interleaved layouts without a shared element exist; no output needs them.)
    pub fn overlaps(&self) -> bool {
        if self.num_elements() <= 1 {
            return false;
        }
        let mut axes = [(0usize, 0usize); MAX_RANK];
        let mut count = 0;
        for (size, stride) in self.shape().iter().zip(self.strides()) {
            if *size > 1 {
                axes[count] = (*stride, *size);
                count += 1;
            }
        }
        axes[..count].sort_unstable();
        let mut reach = 0;
        for (stride, size) in &axes[..count] {
            if *stride <= reach {
                return true;
            }
            reach += stride * (size - 1);
        }
        false
    }

    /// Two dimensions exchanged.
    ///
    /// # Errors
    /// [`Error::NoSuchDimension`].
    pub fn transpose(mut self, a: usize, b: usize) -> Result<Layout> {
        if a.max(b) >= self.rank() {
            return Err(Error::NoSuchDimension { what: format!("dimension {}", a.max(b)), shape: self.shape });
        }
        self.shape.values.swap(a, b);
        self.strides.values.swap(a, b);
        Ok(self)
    }

    /// `length` entries of dimension `axis`, from `start` on.
    ///
    /// # Errors
    /// [`Error::NoSuchDimension`].
    pub fn narrow(mut self, axis: usize, start: usize, length: usize) -> Result<Layout> {
        let size = self.shape().get(axis).copied();
        match (size, start.checked_add(length)) {
            (Some(size), Some(end)) if end <= size => {
                // An empty range at the very end must not move the offset out of the memory.
                if length > 0 {
                    self.offset += start * self.strides.values[axis];
                }
                self.shape.values[axis] = length;
                Ok(self)
            }
            _ => Err(Error::NoSuchDimension {
                what: format!("range {start}..{} in dimension {axis}", start.saturating_add(length)),
                shape: self.shape,
            }),
        }
    }

    /// The same shape without gaps, with the dimensions in the same order in memory as here. A repeated dimension (stride 0) goes
    /// around the rows, not into them.
    pub fn compact(&self) -> Layout {
        let mut order: [usize; MAX_RANK] = std::array::from_fn(|axis| axis);
        let rank = self.rank();
        // The sort is stable, so equal strides (of size-1 dimensions, or of a repeated one and the last) keep the row-major order.
        order[..rank].sort_by_key(|axis| std::cmp::Reverse(self.strides.values[*axis].max(1)));
        let mut layout = *self;
        let mut stride = 1;
        for axis in order[..rank].iter().rev() {
            layout.strides.values[*axis] = stride;
            stride *= self.shape.values[*axis].max(1);
        }
        layout.offset = 0;
        layout
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contiguous_strides_are_row_major() {
        let layout = Layout::contiguous(&[2, 3, 4]).unwrap();
        assert_eq!(layout.strides(), [12, 4, 1]);
        assert_eq!(layout.end(), 24);
        assert!(layout.is_contiguous());
    }

    #[test]
    fn views_keep_their_elements() {
        let layout = Layout::contiguous(&[2, 3, 4]).unwrap().transpose(0, 1).unwrap().narrow(2, 1, 2).unwrap();
        assert_eq!((layout.shape(), layout.strides(), layout.offset()), (&[3, 2, 2][..], &[4, 12, 1][..], 1));
        assert!(!layout.is_contiguous());
        assert!(layout.narrow(0, 2, 2).is_err());
        assert!(layout.transpose(0, 3).is_err());
    }

    #[test]
    fn overlap_is_found() {
        assert!(Layout::strided(&[4, 4], &[3, 1], 0).unwrap().overlaps());
        assert!(Layout::strided(&[4, 4], &[0, 1], 0).unwrap().overlaps());
        assert!(!Layout::strided(&[4, 4], &[4, 1], 0).unwrap().overlaps());
        assert!(!Layout::strided(&[4, 1, 4], &[4, 0, 1], 0).unwrap().overlaps());
        assert!(!Layout::strided(&[4, 4], &[1, 4], 0).unwrap().overlaps());
    }

    #[test]
    fn sizes_that_overflow_are_refused() {
        assert!(Layout::contiguous(&[usize::MAX, 2]).is_err());
        assert!(Layout::contiguous(&[0, usize::MAX, 2]).is_err());
        assert!(Layout::strided(&[2, 2], &[usize::MAX, 1], 0).is_err());
        assert!(Layout::contiguous(&[1; 7]).is_err());
    }

    #[test]
    fn compact_keeps_the_order_of_dimensions() {
        let transposed = Layout::contiguous(&[2, 5, 3, 4]).unwrap().transpose(1, 2).unwrap();
        assert_eq!(transposed.compact().strides(), transposed.strides());
        let narrowed = transposed.narrow(3, 0, 2).unwrap();
        assert_eq!(narrowed.compact().strides(), [30, 2, 6, 1]);
        assert_eq!(Layout::strided(&[3, 16], &[0, 1], 0).unwrap().compact().strides(), [16, 1]);
    }
}
