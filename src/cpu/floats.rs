//! Elements of whatever float type, as f32: so that an operation on rows is compiled once, not for every combination of
//! types.

use std::ops::Range;

use half::{bf16, f16};

use crate::cpu::simd::{self, InstructionSet};
use crate::dtype::DType;
use crate::error::Result;
use crate::rows::Rows;
use crate::tensor::{Float, TensorMut, TensorRef};

/// Elements that are read.
#[derive(Clone, Copy)]
pub(super) enum Floats<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    BF16(&'a [bf16]),
}

impl<'a> Floats<'a> {
    /// A tensor's memory, from its first element on.
    pub fn of(tensor: &TensorRef<'a>) -> Result<Floats<'a>> {
        Ok(match tensor.dtype() {
            DType::F32 => Floats::F32(tensor.host()?),
            DType::F16 => Floats::F16(tensor.host()?),
            DType::BF16 => Floats::BF16(tensor.host()?),
            DType::I32 | DType::U8 => unreachable!("plans for the CPU admit float types only"),
        })
    }

    pub fn len(self) -> usize {
        match self {
            Floats::F32(values) => values.len(),
            Floats::F16(values) => values.len(),
            Floats::BF16(values) => values.len(),
        }
    }

    /// Some of the elements.
    pub fn range(self, range: Range<usize>) -> Floats<'a> {
        match self {
            Floats::F32(values) => Floats::F32(&values[range]),
            Floats::F16(values) => Floats::F16(&values[range]),
            Floats::BF16(values) => Floats::BF16(&values[range]),
        }
    }

    /// Converts as many elements from `start` on as `out` has.
    pub fn read(self, set: InstructionSet, start: usize, out: &mut [f32]) {
        simd::widen(set, self.range(start..start + out.len()), out);
    }
}

/// Elements of a known type.
pub(super) fn of_slice<T: Float>(values: &[T]) -> Floats<'_> {
    match T::DTYPE {
        DType::F16 => Floats::F16(bytemuck::cast_slice(values)),
        DType::BF16 => Floats::BF16(bytemuck::cast_slice(values)),
        _ => Floats::F32(bytemuck::cast_slice(values)),
    }
}

/// Converts elements of a known type; both slices have one length.
pub(super) fn widen<T: Float>(set: InstructionSet, values: &[T], out: &mut [f32]) {
    simd::widen(set, of_slice(values), out);
}

/// Rounds to elements of a known type, to nearest, ties to even; both slices have one length.
pub(super) fn narrow<T: Float>(set: InstructionSet, values: &[f32], out: &mut [T]) {
    let out = match T::DTYPE {
        DType::F16 => FloatsMut::F16(bytemuck::cast_slice_mut(out)),
        DType::BF16 => FloatsMut::BF16(bytemuck::cast_slice_mut(out)),
        _ => FloatsMut::F32(bytemuck::cast_slice_mut(out)),
    };
    simd::narrow(set, values, out);
}

/// Elements that are written.
pub(super) enum FloatsMut<'a> {
    F32(&'a mut [f32]),
    F16(&'a mut [f16]),
    BF16(&'a mut [bf16]),
}

impl FloatsMut<'_> {
    /// The same elements, to be read.
    fn as_floats(&self) -> Floats<'_> {
        match self {
            FloatsMut::F32(values) => Floats::F32(values),
            FloatsMut::F16(values) => Floats::F16(values),
            FloatsMut::BF16(values) => Floats::BF16(values),
        }
    }

    /// Some of the elements.
    pub fn range(&mut self, range: Range<usize>) -> FloatsMut<'_> {
        match self {
            FloatsMut::F32(values) => FloatsMut::F32(&mut values[range]),
            FloatsMut::F16(values) => FloatsMut::F16(&mut values[range]),
            FloatsMut::BF16(values) => FloatsMut::BF16(&mut values[range]),
        }
    }

    /// Sets some of the elements to one value.
    pub fn fill(&mut self, range: Range<usize>, value: f32) {
        match self.range(range) {
            FloatsMut::F32(values) => values.fill(value),
            FloatsMut::F16(values) => values.fill(f16::from_f32(value)),
            FloatsMut::BF16(values) => values.fill(bf16::from_f32(value)),
        }
    }

    /// Converts all elements.
    pub fn read(&self, set: InstructionSet, out: &mut [f32]) {
        simd::widen(set, self.as_floats(), out);
    }

    /// Rounds `values` to nearest, ties to even, into all elements.
    pub fn write(&mut self, set: InstructionSet, values: &[f32]) {
        simd::narrow(set, values, self.range(0..values.len()));
    }

    /// Lets `compute` leave f32 values: here if this is f32, else in scratch memory of as many elements, to be rounded. It
    /// finds there what this holds if `is_read`, and anything if not.
    pub fn in_f32(
        &mut self,
        set: InstructionSet,
        scratch: &mut [f32],
        is_read: bool,
        compute: impl FnOnce(&mut [f32]),
    ) {
        if let FloatsMut::F32(values) = self {
            return compute(values);
        }
        if is_read {
            self.read(set, scratch);
        }
        compute(scratch);
        self.write(set, scratch);
    }
}

/// Rounds values to what a type holds.
pub(super) fn round(set: InstructionSet, values: &mut [f32], dtype: DType) {
    const CHUNK: usize = 64;
    let (mut f16s, mut bf16s) = ([f16::ZERO; CHUNK], [bf16::ZERO; CHUNK]);
    for chunk in values.chunks_mut(CHUNK) {
        let mut rounded = match dtype {
            DType::F16 => FloatsMut::F16(&mut f16s[..chunk.len()]),
            DType::BF16 => FloatsMut::BF16(&mut bf16s[..chunk.len()]),
            _ => return,
        };
        rounded.write(set, chunk);
        rounded.read(set, chunk);
    }
}

/// The rows of a tensor that is read.
#[derive(Clone, Copy)]
pub(super) struct InputRows<'a, const N: usize> {
    values: Floats<'a>,
    rows: &'a Rows<N>,
    /// Its number among those of `rows`.
    tensor: usize,
    is_repeated: bool,
}

impl<'a, const N: usize> InputRows<'a, N> {
    /// The rows of tensor number `tensor` of a problem.
    pub fn new(rows: &'a Rows<N>, tensor: usize, given: &TensorRef<'a>) -> Result<InputRows<'a, N>> {
        let is_repeated = rows.tensors[tensor].is_some_and(|of| of.column == 0);
        Ok(InputRows { values: Floats::of(given)?, rows, tensor, is_repeated })
    }

    /// Some columns of a row: as they are, or, if one element stands for all of them, in `scratch`, which has as many elements.
    pub fn typed<'s>(
        &self,
        set: InstructionSet,
        row: usize,
        columns: Range<usize>,
        scratch: &'s mut [f32],
    ) -> Floats<'s>
    where
        'a: 's,
    {
        let start = self.rows.start(self.tensor, row);
        if !self.is_repeated {
            return self.values.range(start + columns.start..start + columns.end);
        }
        let mut value = [0.0];
        self.values.read(set, start, &mut value);
        scratch.fill(value[0]);
        Floats::F32(scratch)
    }

    /// Converts some columns of a row.
    pub fn read(&self, set: InstructionSet, row: usize, columns: Range<usize>, out: &mut [f32]) {
        let start = self.rows.start(self.tensor, row);
        if !self.is_repeated {
            return self.values.read(set, start + columns.start, out);
        }
        let mut value = [0.0];
        self.values.read(set, start, &mut value);
        out.fill(value[0]);
    }

    /// Some columns of a row: as they are, or converted into `scratch`, which has as many elements.
    pub fn row<'s>(&self, set: InstructionSet, row: usize, columns: Range<usize>, scratch: &'s mut [f32]) -> &'s [f32]
    where
        'a: 's,
    {
        match self.values {
            Floats::F32(values) if !self.is_repeated => &values[self.rows.start(self.tensor, row)..][columns],
            _ => {
                self.read(set, row, columns, scratch);
                scratch
            }
        }
    }
}

/// How to write an output.
pub(super) fn store_of(output: &TensorMut<'_>) -> simd::Store {
    /// About half of a last-level cache: more would not stay there anyway.
    const CACHED_BYTES_MAX: usize = 16 << 20;
    let bytes = output.layout().num_elements() * output.dtype().size_bytes();
    if bytes > CACHED_BYTES_MAX && !output.is_fresh() { simd::Store::Streamed } else { simd::Store::Cached }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cpu::dispatch_float;
    use crate::device::Device;
    use crate::tensor::{Layout, Tensor};

    fn tensor_of<T: Float>(shape: &[usize], wide: &[f32]) -> Tensor {
        let mut values = vec![T::zeroed(); wide.len()];
        T::narrow(wide, &mut values);
        Tensor::from_slice(&Device::cpu(), &values, shape).unwrap()
    }

    #[test]
    fn large_results_go_past_the_caches_unless_their_pages_are_new() {
        let mut small = Tensor::zeros(&Device::cpu(), DType::BF16, [1 << 23]).unwrap();
        let mut large = Tensor::zeros(&Device::cpu(), DType::BF16, [(1 << 23) + 1]).unwrap();
        assert_eq!(store_of(&small.view_mut()), simd::Store::Cached);
        assert_eq!(store_of(&large.view_mut()), simd::Store::Streamed);
        assert_eq!(store_of(&large.view_mut().fresh()), simd::Store::Cached);
    }

    /// A tensor whose elements are a function of their index, rounded.
    pub fn tensor(dtype: DType, shape: &[usize], value: impl Fn(usize) -> f32) -> Tensor {
        let wide: Vec<f32> = (0..shape.iter().product()).map(value).collect();
        dispatch_float!(dtype, tensor_of(shape, &wide))
    }

    /// What a tensor holds, in row-major order.
    pub fn wide<'a>(tensor: impl Into<TensorRef<'a>>) -> Vec<f64> {
        tensor.into().to_vec_f32().unwrap().into_iter().map(f64::from).collect()
    }

    /// Equal to a relative tolerance, of numbers below 0.1 to a tenth of it; infinities and NaNs are in their places.
    pub fn assert_close(actual: &[f64], expected: &[f64], tolerance: f64) {
        assert_eq!(actual.len(), expected.len());
        for (index, (actual, expected)) in actual.iter().zip(expected).enumerate() {
            let is_close = (actual - expected).abs() <= tolerance * expected.abs().max(0.1);
            let is_same = actual == expected || (actual.is_nan() && expected.is_nan());
            assert!(is_close || is_same, "[{index}]: {actual} for {expected}");
        }
    }

    /// What `compute` returns, once with one thread and once with three, which must be the same.
    pub fn with_any_threads<R: PartialEq + std::fmt::Debug + Send>(compute: impl Fn() -> R + Sync) -> R {
        let [one, three] = [1, 3]
            .map(|threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(&compute));
        assert_eq!(one, three);
        one
    }

    /// What the slices' conversions of `half` give, for every kind of value.
    fn check_conversions<T: Float>(
        set: InstructionSet,
        write: fn(&mut [T]) -> FloatsMut<'_>,
        read: fn(&[T]) -> Floats<'_>,
    ) {
        let kinds = [0.0, -0.0, 1.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, 1e-40, 65520.0, 3e-8];
        let ties = (0..1000).map(|step| f32::from_bits(0x3f80_0000 + step * 0x800));
        let values: Vec<f32> = kinds.into_iter().chain(ties).flat_map(|value| [value, -value]).collect();
        let (mut expected, mut out) = (vec![T::zeroed(); values.len()], vec![T::zeroed(); values.len()]);
        T::narrow(&values, &mut expected);
        write(&mut out).write(set, &values);
        let bits = |values: &[T]| bytemuck::cast_slice::<T, u8>(values).to_vec();
        assert_eq!(bits(&out), bits(&expected));
        let mut wide = values.clone();
        let expected_wide: Vec<f32> = expected.iter().map(|value| value.to_f32()).collect();
        read(&out).read(set, 0, &mut wide);
        let mut rounded = values;
        round(set, &mut rounded, T::DTYPE);
        for ((wide, rounded), expected) in wide.iter().zip(&rounded).zip(&expected_wide) {
            assert_eq!((wide.to_bits(), rounded.to_bits()), (expected.to_bits(), expected.to_bits()));
        }
    }

    #[test]
    fn conversions_are_those_of_half() {
        for set in InstructionSet::all() {
            check_conversions::<f32>(set, |out| FloatsMut::F32(out), |values| Floats::F32(values));
            check_conversions::<f16>(set, |out| FloatsMut::F16(out), |values| Floats::F16(values));
            check_conversions::<bf16>(set, |out| FloatsMut::BF16(out), |values| Floats::BF16(values));
        }
    }

    fn check_rows<T: Float>() {
        let set = InstructionSet::best();
        let wide: Vec<f32> = (0..24).map(|index| index as f32).collect();
        let tensor = tensor_of::<T>(&[2, 3, 4], &wide);
        let view = tensor.view().transpose(0, 1).unwrap();
        let repeated = view.with_layout(Layout::strided(&[3, 2, 4], &[4, 12, 0], 1).unwrap()).unwrap();
        let rows = Rows::new([("x", Some(view.spec())), ("bias", Some(repeated.spec()))], 1).unwrap();
        let x = InputRows::new(&rows, 0, &view).unwrap();
        let bias = InputRows::new(&rows, 1, &repeated).unwrap();
        for row in 0..6 {
            let start = row / 2 * 4 + row % 2 * 12;
            assert_eq!(x.row(set, row, 1..3, &mut [f32::NAN; 2]), &wide[start + 1..start + 3]);
            assert_eq!(bias.row(set, row, 1..4, &mut [f32::NAN; 3]), [wide[start + 1]; 3]);
        }
    }

    #[test]
    fn rows_of_every_type_are_read_where_they_lie() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            dispatch_float!(dtype, check_rows());
        }
    }
}
