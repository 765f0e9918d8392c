//! Sequence lengths as a type: validated once, on the device ever after.

use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::{Tensor, TensorRef};

/// The length of each sequence of a batch: i32 `[batch]` on a device, with the maximum and the total known on the host, so
/// that a call validates them without reading the device.
#[derive(Debug)]
pub struct SeqLens {
    tensor: Tensor,
    /// The sequences from the longest to the shortest, i32 `[batch]`: long ones start first, so that none is left alone at
    /// the end.
    order: Option<Tensor>,
    max: usize,
    total: usize,
}

impl SeqLens {
    /// Validates lengths and uploads them once.
    ///
    /// # Errors
    /// [`Error::NegativeLength`] for a negative length; [`Error::Empty`] for an empty list; [`Error::Cuda`].
    ///
    /// # Example
    /// ```
    /// use warpfold::{Device, SeqLens};
    /// let lengths = SeqLens::new(&Device::cpu(), &[3, 7])?;
    /// assert_eq!((lengths.max(), lengths.total()), (7, 10));
    /// # Ok::<(), warpfold::Error>(())
    /// ```
    pub fn new(device: &Device, lengths: &[i32]) -> Result<SeqLens> {
        let (max, total) = validate(lengths)?;
        let tensor = Tensor::from_slice(device, lengths, [lengths.len()])?;
        let order = longest_first(device, lengths)?;
        Ok(SeqLens { tensor, order: Some(order), max, total })
    }

    /// Lengths from the starts of packed sequences and the end of the last one, as other libraries give them: `[0, 3, 10]`
    /// are the lengths 3 and 7.
    ///
    /// # Errors
    /// As [`SeqLens::new`], also where a start lies before the one before it; [`Error::Option`] when the first is not 0.
    pub fn from_cumulative(device: &Device, starts: &[i32]) -> Result<SeqLens> {
        if let Some(first) = starts.first().filter(|first| **first != 0) {
            return Err(Error::Option { name: "the first start", value: f64::from(*first), allowed: "0" });
        }
        let lengths: Vec<i32> = starts.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect();
        SeqLens::new(device, &lengths)
    }

    /// Takes lengths that are on the device already, and waits once to validate them.
    ///
    /// # Errors
    /// As [`SeqLens::new`]; [`Error::DTypeMismatch`] and [`Error::Rank`] when the tensor is not i32 `[batch]`.
    pub fn from_device(lengths: Tensor) -> Result<SeqLens> {
        check_tensor(&lengths)?;
        let values = lengths.to_vec::<i32>()?;
        let (max, total) = validate(&values)?;
        let order = longest_first(lengths.device(), &values)?;
        Ok(SeqLens { tensor: lengths, order: Some(order), max, total })
    }

    /// Takes lengths whose contents nobody checks, for graphs that rewrite them between launches. The kernels clamp them to
    /// the rows that there are: wrong contents give wrong numbers and never a stray access.
    ///
    /// # Safety
    /// `max` must bound every length, now and in every later launch; `total` must be their sum.
    ///
    /// # Errors
    /// [`Error::DTypeMismatch`] and [`Error::Rank`] when the tensor is not i32 `[batch]`.
    #[allow(unsafe_code, reason = "the caller vouches for what a device-side value cannot be checked against")]
    pub unsafe fn from_device_unchecked(lengths: Tensor, max: usize, total: usize) -> Result<SeqLens> {
        check_tensor(&lengths)?;
        Ok(SeqLens { tensor: lengths, order: None, max, total })
    }

    /// The longest sequence.
    pub fn max(&self) -> usize {
        self.max
    }

    /// The sum of all lengths.
    pub fn total(&self) -> usize {
        self.total
    }

    /// The number of sequences.
    pub fn count(&self) -> usize {
        self.tensor.shape()[0]
    }

    /// What a plan reads of the lengths.
    pub fn spec(&self) -> LengthsSpec {
        LengthsSpec { count: self.count(), max: self.max, total: self.total }
    }

    /// The order in which sequences are worked on, if it is known.
    pub(crate) fn order(&self) -> Option<TensorRef<'_>> {
        self.order.as_ref().map(Tensor::view)
    }

    /// The lengths on the device, i32 `[batch]`.
    pub fn view(&self) -> TensorRef<'_> {
        self.tensor.view()
    }
}

/// What a plan reads of [`SeqLens`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LengthsSpec {
    /// The number of sequences.
    pub count: usize,
    /// The longest one.
    pub max: usize,
    /// The sum of all.
    pub total: usize,
}

fn longest_first(device: &Device, lengths: &[i32]) -> Result<Tensor> {
    let mut order: Vec<i32> = (0..lengths.len() as i32).collect();
    order.sort_by_key(|sequence| std::cmp::Reverse(lengths[*sequence as usize]));
    Tensor::from_slice(device, &order, [order.len()])
}

fn check_tensor(lengths: &Tensor) -> Result<()> {
    if lengths.dtype() != DType::I32 {
        return Err(Error::DTypeMismatch { tensor: "lengths", dtype: lengths.dtype(), expected: DType::I32 });
    }
    if lengths.shape().len() != 1 {
        return Err(Error::Rank { tensor: "lengths", shape: lengths.layout().shape_dims(), expected: "[batch]" });
    }
    if lengths.shape()[0] == 0 {
        return Err(Error::Empty { tensor: "lengths", shape: lengths.layout().shape_dims() });
    }
    Ok(())
}

fn validate(lengths: &[i32]) -> Result<(usize, usize)> {
    if lengths.is_empty() {
        return Err(Error::Empty { tensor: "lengths", shape: crate::tensor::Dims::of(&[0]) });
    }
    for (index, length) in lengths.iter().enumerate() {
        if *length < 0 {
            return Err(Error::NegativeLength { index, length: *length });
        }
    }
    let max = lengths.iter().copied().max().unwrap_or(0) as usize;
    Ok((max, lengths.iter().map(|length| *length as usize).sum()))
}
