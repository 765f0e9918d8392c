//! What softmax and the norms share: tensors of one shape whose last axis is the row, and the ladder of kernels by row
//! length.

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::params::{
    DropoutParams, ELEMENT_BF16, ELEMENT_F16, ELEMENT_F32, ELEMENT_U8, ElementType, RowShape, RowStage, RowTensor,
    STAGE_JOIN, STAGE_PARTIALS, STAGE_WHOLE,
};
use crate::plan::{LaunchPlan, Params, check_last_stride, choose, to_i32};
use crate::target::{GpuTarget, Target};
use crate::tensor::{Dims, Layout, Tensor, TensorMut, TensorSpec};
use crate::variants::{Operation, REGISTERS_PER_SM, RowFeatures, Tile, Variant};
use crate::workspace::Workspace;

/// Leading dimensions of all tensors, merged into at most this many strided ones.
const GROUPS: usize = 3;

/// The rows of N tensors of one shape, each of which may be absent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rows<const N: usize> {
    pub rows: usize,
    pub columns: usize,
    /// Sizes of the merged leading dimensions, outermost first; unused ones are 1.
    pub sizes: [usize; GROUPS],
    pub tensors: [Option<RowsOf>; N],
    /// Whether all tensors have one type and cross 16-byte boundaries at the same elements.
    is_alike: bool,
    /// Whether every row begins and ends on such a boundary.
    is_whole: bool,
    /// Whether all rows of a tensor lie at one distance from each other.
    is_even: bool,
}

/// Where the rows of one tensor lie, in elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RowsOf {
    pub dtype: DType,
    pub strides: [usize; GROUPS],
    /// The stride of the columns: 1, or 0 where a tensor is broadcast along its rows.
    pub column: usize,
}

impl<const N: usize> Rows<N> {
    /// Merges the leading dimensions of tensors of one shape, of which the first is always there. The last
    /// `broadcast_count` of them may be broadcast along their rows.
    ///
    /// # Errors
    /// [`Error::Rank`], [`Error::Empty`], [`Error::Shape`], [`Error::LastStride`], [`Error::TooLarge`],
    /// [`Error::TooManyStrides`].
    pub fn new(tensors: [(&'static str, Option<TensorSpec>); N], broadcast_count: usize) -> Result<Rows<N>> {
        let (first_name, first) = (tensors[0].0, tensors[0].1.expect("the first tensor is there"));
        let shape = first.layout.shape();
        let Some((&columns, leading)) = shape.split_last() else {
            return Err(Error::Rank {
                tensor: first_name,
                shape: first.layout.shape_dims(),
                expected: "[..., columns]",
            });
        };
        if first.layout.num_elements() == 0 {
            return Err(Error::Empty { tensor: first_name, shape: first.layout.shape_dims() });
        }
        for (index, (name, spec)) in tensors.iter().enumerate() {
            let Some(spec) = spec else { continue };
            if spec.layout.shape() != shape {
                return Err(Error::Shape {
                    tensor: name,
                    shape: spec.layout.shape_dims(),
                    expected: first.layout.shape_dims(),
                    reason: "all rows have one shape",
                });
            }
            let may_repeat = index + broadcast_count >= N;
            if !(may_repeat && spec.layout.strides().last() == Some(&0)) {
                check_last_stride(name, spec)?;
            }
        }
        let rows: usize = leading.iter().product();
        to_i32("the number of rows", rows)?;
        to_i32("the number of columns", columns)?;

        let (sizes, strides) = merge(leading, &tensors)?;
        let mut rows_of = [None; N];
        for (index, (_, spec)) in tensors.iter().enumerate() {
            rows_of[index] = spec.map(|spec| RowsOf {
                dtype: spec.dtype,
                strides: strides[index],
                column: usize::from(columns == 1 || spec.layout.strides().last() != Some(&0)),
            });
        }
        // The remainder of a stride is what moves a row against the boundaries. Those of dimensions of one entry count, too,
        // so that the number of rows does not choose the kernel.
        let slot = 16 / first.dtype.size_bytes();
        let remainders = |spec: &TensorSpec| -> Vec<usize> {
            spec.layout.strides()[..leading.len()].iter().map(|stride| stride % slot).collect()
        };
        let of_first = remainders(&first);
        let is_alike = tensors.iter().flat_map(|(_, spec)| spec).all(|spec| {
            let is_row = columns == 1 || spec.layout.strides().last() == Some(&1);
            is_row && spec.dtype == first.dtype && spec.alignment_bytes >= 16 && remainders(spec) == of_first
        });
        let is_whole = is_alike && of_first.iter().all(|rest| *rest == 0) && columns.is_multiple_of(slot);
        let is_even = tensors.iter().flat_map(|(_, spec)| spec).all(|spec| {
            let strides = &spec.layout.strides()[..leading.len()];
            strides.windows(2).zip(&leading[leading.len().min(1)..]).all(|(pair, size)| pair[0] == pair[1] * size)
        });
        Ok(Rows { rows, columns, sizes, tensors: rows_of, is_alike, is_whole, is_even })
    }

    /// Which rows these are, for kernels of the type of all tensors, if `is_plain`: if no option needs more.
    pub fn features(&self, is_plain: bool) -> RowFeatures {
        match (is_plain, self.is_alike, self.is_whole) {
            (true, true, true) => RowFeatures::Whole,
            (true, true, false) => RowFeatures::Plain,
            _ => RowFeatures::General,
        }
    }

    /// As [`Rows::features`], for a kernel that cuts all rows of a part where it cuts the first: rows a multiple of 8 apart,
    /// which are alike if all have one distance.
    pub fn features_of_parts(&self, is_plain: bool) -> RowFeatures {
        match self.features(is_plain) {
            RowFeatures::Plain if !self.is_even => RowFeatures::General,
            features => features,
        }
    }

    /// The element at which a row of a tensor that is there begins.
    pub fn start(&self, tensor: usize, row: usize) -> usize {
        let [n0, n1, n2] = self.sizes;
        let strides = self.tensors[tensor].expect("the tensor is there").strides;
        // Most rows have one dimension; divisions would take as long as a tenth of a short row.
        if n0 == 1 && n1 == 1 {
            return row * strides[2];
        }
        row / (n1 * n2) * strides[0] + row / n2 % n1 * strides[1] + row % n2 * strides[2]
    }

    /// A tensor as kernels see it; zeros for one that is absent.
    pub fn params(&self, tensor: usize) -> RowTensor {
        let Some(RowsOf { dtype, strides, column }) = self.tensors[tensor] else { return RowTensor::default() };
        let [s0, s1, s2] = strides.map(|stride| (stride * dtype.size_bytes()) as i64);
        RowTensor { s0, s1, s2, type_: element_type(dtype), column: column as u32 }
    }

    /// Every byte of the tensors moved once; a tensor that is broadcast counts as a whole one.
    pub fn traffic_bytes(&self) -> usize {
        let sizes = self.tensors.iter().flatten().map(|tensor| tensor.dtype.size_bytes());
        sizes.sum::<usize>() * self.rows * self.columns
    }
}

/// What a kernel calls a type.
pub(crate) fn element_type(dtype: DType) -> ElementType {
    match dtype {
        DType::F32 | DType::I32 => ELEMENT_F32,
        DType::F16 => ELEMENT_F16,
        DType::BF16 => ELEMENT_BF16,
        DType::U8 => ELEMENT_U8,
    }
}

/// A tensor repeated along leading dimensions that it lacks, and along those of size 1, to a shape.
///
/// # Errors
/// [`Error::Shape`] where neither fits.
pub(crate) fn broadcast(tensor: &'static str, spec: &TensorSpec, shape: &[usize]) -> Result<TensorSpec> {
    let given = spec.layout.shape();
    let fits = given.len() <= shape.len()
        && given.iter().rev().zip(shape.iter().rev()).all(|(given, wanted)| given == wanted || *given == 1);
    if !fits {
        return Err(Error::Shape {
            tensor,
            shape: spec.layout.shape_dims(),
            expected: Dims::of(shape),
            reason: "it has that shape, or 1 where it is broadcast",
        });
    }
    let mut strides = vec![0; shape.len()];
    let missing = shape.len() - given.len();
    for (axis, stride) in spec.layout.strides().iter().enumerate().filter(|(axis, _)| given[*axis] > 1) {
        strides[missing + axis] = *stride;
    }
    Ok(TensorSpec { layout: Layout::strided(shape, &strides, spec.layout.offset())?, ..*spec })
}

/// Sizes of merged dimensions, outermost first, and each tensor's strides along them.
type Merged<const N: usize> = ([usize; GROUPS], [[usize; GROUPS]; N]);

/// Neighbouring dimensions that every tensor walks with one stride become one dimension.
fn merge<const N: usize>(leading: &[usize], tensors: &[(&'static str, Option<TensorSpec>); N]) -> Result<Merged<N>> {
    let mut groups: Vec<(usize, [usize; N])> = Vec::new();
    for (axis, size) in leading.iter().enumerate().filter(|(_, size)| **size != 1) {
        let strides: [usize; N] = std::array::from_fn(|t| tensors[t].1.map_or(0, |spec| spec.layout.strides()[axis]));
        match groups.last_mut() {
            Some((outer, of_outer)) if (0..N).all(|t| of_outer[t] == size * strides[t]) => {
                (*outer, *of_outer) = (*outer * size, strides);
            }
            _ => groups.push((*size, strides)),
        }
    }
    if groups.len() > GROUPS {
        let present = || tensors.iter().filter_map(|(name, spec)| Some((*name, spec.as_ref()?.layout)));
        let (tensor, layout) = present()
            .find(|(_, layout)| !layout.is_contiguous())
            .or_else(|| present().next())
            .expect("the first tensor is there");
        return Err(Error::TooManyStrides { tensor, shape: layout.shape_dims(), strides: layout.stride_dims() });
    }
    let (mut sizes, mut merged) = ([1; GROUPS], [[0; GROUPS]; N]);
    let first = GROUPS - groups.len();
    for (index, (size, strides)) in groups.into_iter().enumerate() {
        sizes[first + index] = size;
        for (tensor, stride) in strides.into_iter().enumerate() {
            merged[tensor][first + index] = stride;
        }
    }
    Ok((sizes, merged))
}

/// How rows of one length are shared out among threads: by length and type only, so that neither the number of rows nor
/// the GPU shows in a result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rung {
    pub variant: &'static Variant,
    /// Threads of a block.
    pub threads: u32,
    /// Rows that a block works on side by side.
    pub rows_per_block: usize,
    /// Blocks that share a row.
    pub segments: usize,
    /// Columns of each segment but the last.
    pub segment_columns: usize,
}

impl Rung {
    /// The rung of the ladder that takes rows of a length. `dtype` is the type that the kernel is compiled for.
    ///
    /// # Errors
    /// [`Error::UnsupportedDType`].
    pub fn new(
        operation: Operation,
        dtype: DType,
        (columns, features): (usize, RowFeatures),
        target: &GpuTarget,
    ) -> Result<Rung> {
        let accepts = |variant: &Variant| match variant.tile {
            Tile::Rows { features: of_kernel, .. } => {
                let takes = of_kernel == features
                    || of_kernel == RowFeatures::General
                    || (of_kernel == RowFeatures::Plain && features == RowFeatures::Whole);
                takes && variant.dtype == dtype && variant.columns_max().is_none_or(|max| columns as u64 <= max)
            }
            _ => false,
        };
        let variant = choose(operation, target, accepts).ok_or_else(|| Error::UnsupportedDType {
            operation: operation.name(),
            dtype,
            device: Target::Gpu(*target).to_string(),
            available: "f32, f16, bf16".to_string(),
        })?;
        let Tile::Rows { threads_per_row, rows_per_block, vectors, .. } = variant.tile else {
            unreachable!("row operations have row tiles")
        };
        let rung = Rung {
            variant,
            threads: variant.threads(),
            rows_per_block: rows_per_block as usize,
            segments: 1,
            segment_columns: columns.next_multiple_of(SEGMENT_MULTIPLE),
        };
        if rows_per_block > 1 {
            return Ok(rung);
        }
        let slot = 16 / dtype.size_bytes();
        let capacity = threads_per_row as usize * vectors as usize * slot;
        // A row with less than a slot more has whole slots for one block, too.
        let segments = if columns < capacity + slot { 1 } else { columns.div_ceil(capacity) };
        let segment_columns = columns.div_ceil(segments).next_multiple_of(SEGMENT_MULTIPLE);
        // No more threads than have something to do.
        let slots = segment_columns.min(columns) / slot;
        let threads = slots.div_ceil(vectors as usize).next_multiple_of(32) as u32;
        Ok(Rung { threads: threads.clamp(32, threads_per_row), segments, segment_columns, ..rung })
    }

    /// What a kernel knows of the rows.
    fn shape<const N: usize>(&self, rows: &Rows<N>, stage: RowStage) -> RowShape {
        RowShape {
            n1: rows.sizes[1] as u32,
            n2: rows.sizes[2] as u32,
            rows: rows.rows as u32,
            columns: rows.columns as u32,
            segments: self.segments as u32,
            segment_columns: self.segment_columns as u32,
            stage,
            reserved: 0,
        }
    }

    /// One launch, or two where a row has several segments, of `blocks` blocks for each segment.
    ///
    /// # Errors
    /// [`Error::TooLarge`] over the blocks that a grid can have.
    pub fn launches<const N: usize>(
        &self,
        rows: &Rows<N>,
        blocks: usize,
        params: impl Fn(RowShape) -> Params,
    ) -> Result<Vec<LaunchPlan>> {
        let stages: &[RowStage] = if self.segments == 1 { &[STAGE_WHOLE] } else { &[STAGE_PARTIALS, STAGE_JOIN] };
        let launch = |stage: &RowStage| {
            let plan = LaunchPlan::linear(self.variant, blocks * self.segments, params(self.shape(rows, *stage)))?;
            Ok(LaunchPlan { block: [self.threads, 1, 1], ..plan })
        };
        stages.iter().map(launch).collect()
    }

    /// Blocks of one segment where each row belongs to one block.
    pub fn blocks<const N: usize>(&self, rows: &Rows<N>) -> usize {
        rows.rows.div_ceil(self.rows_per_block)
    }

    /// The f32 values that segments of rows leave for the second launch.
    pub fn partials(&self, rows: usize, values: usize) -> usize {
        if self.segments == 1 { 0 } else { rows * self.segments * values }
    }

    /// Bytes that the loads of `tensors` row tensors of the kernel's type keep under way on each multiprocessor, with as
    /// many blocks as its registers and threads take, if there are that many.
    pub fn bytes_in_flight(&self, columns: usize, tensors: usize) -> usize {
        let registers = (self.variant.budget.registers.next_multiple_of(8) * self.threads) as usize;
        let blocks = (REGISTERS_PER_SM as usize / registers).min(THREADS_PER_SM / self.threads as usize);
        let row = columns.min(self.segment_columns) * self.variant.dtype.size_bytes();
        blocks * self.rows_per_block * row * tensors
    }
}

/// Segments begin at the same place of a 16-byte vector as their row, in every type.
const SEGMENT_MULTIPLE: usize = 8;
/// Of the A100 and the H100; 1536 on smaller GPUs.
const THREADS_PER_SM: usize = 2048;

/// The dropout of a norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Dropout {
    /// An element is dropped iff its random word is below.
    pub below: u32,
    /// What kept elements are multiplied by.
    pub keep_scale: f32,
}

impl Dropout {
    /// None for probability 0.
    ///
    /// # Errors
    /// [`Error::Option`] for a probability outside of `[0, 1)`.
    pub fn new(probability: f32) -> Result<Option<Dropout>> {
        if !(0.0..1.0).contains(&probability) {
            return Err(Error::Option {
                name: "the dropout probability",
                value: f64::from(probability),
                allowed: "in [0, 1)",
            });
        }
        let probability = f64::from(probability);
        Ok((probability > 0.0).then(|| Dropout {
            below: (probability * 2f64.powi(32)).floor() as u32,
            keep_scale: (1.0 / (1.0 - probability)) as f32,
        }))
    }

    /// What kernels are told before a call's random state is known.
    pub fn params(dropout: Option<Dropout>) -> DropoutParams {
        let (below, keep_scale) = dropout.map_or((0, 1.0), |dropout| (dropout.below, dropout.keep_scale));
        DropoutParams { below, keep_scale, ..DropoutParams::default() }
    }
}

/// A tensor of the workspace, where the plan needs any of it.
pub(crate) fn if_any(tensor: &mut Tensor) -> Option<TensorMut<'_>> {
    (tensor.layout().num_elements() > 0).then(|| tensor.view_mut())
}

/// The workspace of some launches on a device, with f32 memory of these sizes.
pub(crate) fn workspace_with(workspace: Workspace, device: &crate::Device, sizes: &[usize]) -> Result<Workspace> {
    sizes.iter().try_fold(workspace, |workspace, size| {
        Ok(workspace.with_tensor(Tensor::with_layout(device, DType::F32, Layout::contiguous(&[*size])?)?))
    })
}

/// A plan in words: what it computes, where, and by which kernels. With the rung of the ladder comes the number of row
/// tensors that it reads.
pub(crate) fn explain(
    what: String,
    rung: Option<(Rung, usize)>,
    columns: usize,
    target: &Target,
    launches: &[&LaunchPlan],
) -> String {
    let Some((rung, tensors)) = rung else { return format!("{what}\non the CPU: rows in parallel, f32 inside") };
    let mut text = format!("{what}\non {target}");
    for launch in launches {
        text += &format!("\n{launch}");
    }
    if rung.segments > 1 {
        text += &format!("\n{} blocks share a row: it is read twice", rung.segments);
    }
    text + &format!("\nup to {} bytes in flight on each multiprocessor", rung.bytes_in_flight(columns, tensors))
}

/// The type of the kernel for some inputs that lie in rows and other tensors: a 16-bit type where all inputs have it and nothing
/// has the other one, else f32, whose general kernels take any.
pub(crate) fn kernel_dtype(inputs: impl IntoIterator<Item = DType>, others: impl IntoIterator<Item = DType>) -> DType {
    let dtype = inputs.into_iter().reduce(|a, b| if a == b { a } else { DType::F32 }).unwrap_or(DType::F32);
    match others.into_iter().all(|other| other == dtype || other == DType::F32) {
        true => dtype,
        false => DType::F32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(layout: Layout) -> TensorSpec {
        TensorSpec { dtype: DType::F32, layout, alignment_bytes: 16 }
    }

    fn pair(x: TensorSpec, y: TensorSpec) -> Result<Rows<2>> {
        Rows::new([("x", Some(x)), ("y", Some(y))], 0)
    }

    #[test]
    fn contiguous_dimensions_merge_into_one() {
        let x = spec(Layout::contiguous(&[2, 3, 1, 5, 7]).unwrap());
        let rows = pair(x, x).unwrap();
        assert_eq!((rows.rows, rows.columns, rows.sizes), (30, 7, [1, 1, 30]));
        assert_eq!(rows.tensors[0].unwrap().strides, [0, 0, 7]);
    }

    #[test]
    fn every_row_starts_where_the_layout_says() {
        let x = spec(Layout::contiguous(&[4, 3, 5, 7]).unwrap().transpose(0, 2).unwrap());
        let y = spec(Layout::contiguous(&[5, 3, 4, 7]).unwrap());
        let mask = broadcast("mask", &spec(Layout::contiguous(&[3, 1, 7]).unwrap()), &[5, 3, 4, 7]).unwrap();
        let rows = Rows::new([("x", Some(x)), ("y", Some(y)), ("mask", Some(mask)), ("none", None)], 2).unwrap();
        let mut row = 0;
        for a in 0..5 {
            for b in 0..3 {
                for c in 0..4 {
                    assert_eq!(rows.start(0, row), a * 7 + b * 35 + c * 105);
                    assert_eq!(rows.start(1, row), row * 7);
                    assert_eq!(rows.start(2, row), b * 7);
                    row += 1;
                }
            }
        }
    }

    #[test]
    fn four_separate_strides_are_refused() {
        let x = spec(Layout::contiguous(&[2, 2, 2, 2, 3]).unwrap().transpose(0, 3).unwrap().transpose(1, 2).unwrap());
        let y = spec(Layout::contiguous(&[2, 2, 2, 2, 3]).unwrap());
        assert!(matches!(pair(x, y), Err(Error::TooManyStrides { tensor: "x", .. })));
    }

    #[test]
    fn a_shape_that_does_not_broadcast_is_refused() {
        let mask = spec(Layout::contiguous(&[2, 7]).unwrap());
        assert!(matches!(broadcast("mask", &mask, &[3, 7]), Err(Error::Shape { tensor: "mask", .. })));
        assert!(broadcast("mask", &mask, &[2, 1]).is_err());
        assert_eq!(broadcast("mask", &mask, &[4, 2, 7]).unwrap().layout.strides(), [0, 7, 1]);
    }

    #[test]
    fn rows_of_odd_length_lie_alike_and_shifted_ones_do_not() {
        let x = spec(Layout::contiguous(&[4, 7]).unwrap());
        assert_eq!(pair(x, x).unwrap().features(true), RowFeatures::Plain);
        assert_eq!(pair(x, x).unwrap().features(false), RowFeatures::General);
        let shifted = TensorSpec { alignment_bytes: 4, ..x };
        assert_eq!(pair(x, shifted).unwrap().features(true), RowFeatures::General);
        let one = spec(Layout::strided(&[1, 8], &[9, 1], 0).unwrap());
        assert_eq!(pair(one, one).unwrap().features(true), RowFeatures::Plain);
        let padded = spec(Layout::strided(&[4, 7], &[8, 1], 0).unwrap());
        assert_eq!(pair(x, padded).unwrap().features(true), RowFeatures::General);
        assert_eq!(pair(padded, padded).unwrap().features(true), RowFeatures::Plain);
        let uneven = spec(Layout::strided(&[2, 2, 7], &[15, 7, 1], 0).unwrap());
        let uneven = pair(uneven, uneven).unwrap();
        assert_eq!(uneven.features(true), RowFeatures::Plain);
        assert_eq!(uneven.features_of_parts(true), RowFeatures::General);
        let even = spec(Layout::strided(&[2, 2, 7], &[18, 9, 1], 0).unwrap());
        assert_eq!(pair(even, even).unwrap().features_of_parts(true), RowFeatures::Plain);
        let whole = spec(Layout::contiguous(&[4, 8]).unwrap());
        assert_eq!(pair(whole, whole).unwrap().features(true), RowFeatures::Whole);
    }

    #[test]
    fn segments_cover_every_column_and_depend_on_length_only() {
        for operation in [Operation::SoftmaxForward, Operation::NormBackward] {
            for dtype in [DType::F32, DType::F16] {
                for features in [RowFeatures::Whole, RowFeatures::Plain, RowFeatures::General] {
                    for columns in [8, 128, 1024, 1032, 4096, 16_384, 32_768, 32_776, 65_536, 262_144, 262_152] {
                        let rung = Rung::new(operation, dtype, (columns, features), &GpuTarget::A100).unwrap();
                        assert!(rung.segments * rung.segment_columns >= columns);
                        assert!((rung.segments - 1) * rung.segment_columns < columns);
                        let Tile::Rows { threads_per_row, vectors, rows_per_block, .. } = rung.variant.tile else {
                            panic!("{rung:?}")
                        };
                        let slots = rung.segment_columns.min(columns) * dtype.size_bytes() / 16;
                        let threads = if rows_per_block > 1 { threads_per_row } else { rung.threads };
                        assert!(slots <= (threads * vectors) as usize, "{columns} columns: {rung:?}");
                    }
                }
            }
        }
    }

    /// Little's law: a multiprocessor of an H100 moves 25 GB/s in some 0.7 us, which is 18 KB under way at least. The backward
    /// pass of a norm keeps two sums a column in registers, so that fewer rows fit beside them.
    #[test]
    fn loads_keep_32_kb_in_flight() {
        const LEAST: [(Operation, usize, usize); 4] = [
            (Operation::SoftmaxForward, 1, 32 << 10),
            (Operation::SoftmaxBackward, 2, 32 << 10),
            (Operation::NormForward, 1, 32 << 10),
            (Operation::NormBackward, 2, 24 << 10),
        ];
        for (operation, tensors, least) in LEAST {
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                let slot = 16 / dtype.size_bytes();
                // A head of 64 elements is the shortest row that matters, and of odd lengths the first that fills its lanes.
                for columns in 64..40_000 {
                    let is_whole = columns % slot == 0;
                    let features = if is_whole { RowFeatures::Whole } else { RowFeatures::Plain };
                    let rung = Rung::new(operation, dtype, (columns, features), &GpuTarget::A100).unwrap();
                    let bytes = rung.bytes_in_flight(columns, tensors);
                    let matters = is_whole || columns >= 160;
                    assert!(
                        !matters || bytes >= least,
                        "{}: {bytes} bytes in flight, rows of {columns}",
                        rung.variant.name()
                    );
                }
            }
        }
    }
}
