//! What a GPU would be told, as plain data: pure functions, no driver, no I/O.

use std::fmt;

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::params::{
    AttentionBackwardParams, AttentionDeltaParams, AttentionForwardParams, AttentionMergeParams, AttentionSinksParams,
    NormBackwardParams, NormForwardParams, NormWeightGradientsParams, SoftmaxBackwardParams, SoftmaxForwardParams,
};
use crate::target::{GpuTarget, Target};
use crate::tensor::TensorSpec;
use crate::tensor_map::{TensorMap, TensorMaps};
use crate::variants::{Operation, Tile, VARIANTS, Variant};

/// One kernel launch. Its parameters are complete but for the tensors' addresses.
#[derive(Clone, Debug, PartialEq)]
pub struct LaunchPlan {
    /// The kernel.
    pub variant: &'static Variant,
    /// Blocks of the grid.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block in bytes.
    pub shared_bytes: u32,
    pub(crate) params: Params,
    /// The kernel's second parameter; none where it has one only.
    pub(crate) tensor_maps: TensorMaps,
}

impl LaunchPlan {
    /// A linear grid of the variant's blocks.
    ///
    /// # Errors
    /// [`Error::TooLarge`] over the 2^31 - 1 blocks that a grid can have.
    pub(crate) fn linear(variant: &'static Variant, blocks: usize, params: Params) -> Result<LaunchPlan> {
        let blocks = to_i32("the number of thread blocks", blocks)? as u32;
        let tensor_maps = TensorMaps::default();
        Ok(LaunchPlan {
            variant,
            grid: [blocks, 1, 1],
            block: [variant.threads(), 1, 1],
            shared_bytes: variant.shared_bytes(),
            params,
            tensor_maps,
        })
    }

    /// As many blocks as the GPU runs at a time, or as there is work for. `params` say how many pieces of work there are: each
    /// block takes one after the other.
    pub(crate) fn persistent(
        variant: &'static Variant,
        work_blocks: u32,
        target: &GpuTarget,
        (params, tensor_maps): (Params, TensorMaps),
    ) -> LaunchPlan {
        LaunchPlan {
            variant,
            // A block fills its multiprocessor.
            grid: [target.num_sms.min(work_blocks), 1, 1],
            block: [variant.threads(), 1, 1],
            shared_bytes: variant.shared_bytes(),
            params,
            tensor_maps,
        }
    }

    /// The tensor maps that the kernel copies by, in the order of its second parameter; none where it has no second one.
    pub fn tensor_maps(&self) -> &[TensorMap] {
        self.tensor_maps.as_slice()
    }

    /// The same launch with a call's random state.
    pub(crate) fn with_random_state(&self, seed: u64, offset: u32) -> LaunchPlan {
        let mut plan = self.clone();
        let (of_seed, of_offset) = match &mut plan.params {
            Params::AttentionForward(params) => (&mut params.shape.dropout_seed, &mut params.shape.dropout_offset),
            Params::AttentionBackward(params) => (&mut params.shape.dropout_seed, &mut params.shape.dropout_offset),
            Params::NormForward(params) => (&mut params.dropout.seed, &mut params.dropout.offset),
            Params::NormBackward(params) => (&mut params.dropout.seed, &mut params.dropout.offset),
            _ => return plan,
        };
        (*of_seed, *of_offset) = (seed, offset);
        plan
    }
}

impl fmt::Display for LaunchPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [grid, ..] = self.grid;
        let [block, ..] = self.block;
        write!(f, "kernel {}: {grid} blocks of {block} threads", self.variant.name())?;
        match self.variant.tile {
            Tile::Attention { block_q, block_kv, .. } => {
                write!(f, ", {block_q} query rows a block, tiles of {block_kv} keys")?;
            }
            Tile::AttentionHopper { block_q, block_kv, stages, consumers, .. } => {
                let (owned, walked) = match self.variant.operation {
                    Operation::AttentionBackwardKeyValue => ((block_kv, "keys"), (block_q, "queries")),
                    _ => ((block_q, "query rows"), (block_kv, "keys")),
                };
                write!(
                    f,
                    " that take one piece of work after the other, {} {} each in {consumers} warpgroups, {stages} tiles of \
                     {} {} under way",
                    owned.0, owned.1, walked.0, walked.1
                )?;
            }
            Tile::WarpRows { .. } => f.write_str(", a warp a row")?,
            Tile::Columns { .. } => f.write_str(", 32 columns a block")?,
            Tile::Rows { rows_per_block: 1, vectors, .. } => {
                write!(f, ", a row or a part of one for each, up to {vectors} vectors of 16 bytes a thread")?;
            }
            Tile::Rows { threads_per_row, rows_per_block, vectors, .. } => write!(
                f,
                ", {rows_per_block} rows for each, {threads_per_row} threads a row, up to {vectors} vectors of 16 bytes a thread"
            )?,
        }
        write!(f, ", {} bytes of shared memory", self.shared_bytes)?;
        match self.tensor_maps() {
            [] => Ok(()),
            maps => write!(f, ", {} tensor maps", maps.len()),
        }
    }
}

/// A kernel's parameter struct. Every struct begins with its tensors' addresses.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(clippy::enum_variant_names, reason = "each variant has the name of its struct")]
pub(crate) enum Params {
    AttentionForward(AttentionForwardParams),
    AttentionBackward(AttentionBackwardParams),
    AttentionDelta(AttentionDeltaParams),
    AttentionSinks(AttentionSinksParams),
    AttentionMerge(AttentionMergeParams),
    SoftmaxForward(SoftmaxForwardParams),
    SoftmaxBackward(SoftmaxBackwardParams),
    NormForward(NormForwardParams),
    NormBackward(NormBackwardParams),
    NormWeightGradients(NormWeightGradientsParams),
}

#[cfg(any(feature = "cuda", feature = "emulator"))]
impl Params {
    /// The struct as 8-byte words; the first of them are the addresses.
    pub(crate) fn words_mut(&mut self) -> &mut [u64] {
        match self {
            Params::AttentionForward(params) => bytemuck::cast_slice_mut(std::slice::from_mut(params)),
            Params::AttentionBackward(params) => bytemuck::cast_slice_mut(std::slice::from_mut(params)),
            Params::AttentionDelta(params) => bytemuck::cast_slice_mut(std::slice::from_mut(params)),
            Params::AttentionSinks(params) => bytemuck::cast_slice_mut(std::slice::from_mut(params)),
            Params::AttentionMerge(params) => bytemuck::cast_slice_mut(std::slice::from_mut(params)),
            Params::SoftmaxForward(params) => bytemuck::cast_slice_mut(std::slice::from_mut(params)),
            Params::SoftmaxBackward(params) => bytemuck::cast_slice_mut(std::slice::from_mut(params)),
            Params::NormForward(params) => bytemuck::cast_slice_mut(std::slice::from_mut(params)),
            Params::NormBackward(params) => bytemuck::cast_slice_mut(std::slice::from_mut(params)),
            Params::NormWeightGradients(params) => bytemuck::cast_slice_mut(std::slice::from_mut(params)),
        }
    }
}

/// How a plan runs.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "a plan is made once and holds one of these")]
pub(crate) enum Execution<L> {
    /// On the processor, from the problem itself.
    Cpu,
    /// By launching kernels: one, or several in their order.
    Launch(L),
}

impl<L> Execution<L> {
    /// On the processor, which computes every float type.
    pub(crate) fn cpu(operation: &'static str, dtype: DType) -> Result<Execution<L>> {
        match dtype {
            DType::F32 | DType::F16 | DType::BF16 => Ok(Execution::Cpu),
            DType::I32 | DType::U8 => Err(Error::UnsupportedDType {
                operation,
                dtype,
                device: Target::Cpu.to_string(),
                available: "f32, f16, bf16".to_string(),
            }),
        }
    }

    /// The kernel launches, if there are any.
    pub(crate) fn launch(&self) -> Option<&L> {
        match self {
            Execution::Cpu => None,
            Execution::Launch(launch) => Some(launch),
        }
    }
}

/// Whether a device can run what was planned for `planned`: these launches, or without any the processor.
pub(crate) fn check_target<'a>(
    launches: impl IntoIterator<Item = &'a LaunchPlan>,
    planned: &Target,
    given: &Target,
) -> Result<()> {
    let mut launches = launches.into_iter().peekable();
    let is_any = launches.peek().is_some();
    let fits = match given {
        Target::Cpu => !is_any,
        Target::Gpu(gpu) => is_any && launches.all(|launch| runs_on(launch.variant, gpu)),
    };
    if fits {
        return Ok(());
    }
    Err(Error::PlanMismatch { what: "the device", given: given.to_string(), planned: planned.to_string() })
}

/// The first row of the table that runs on the target and accepts the problem.
pub(crate) fn choose(
    operation: Operation,
    target: &GpuTarget,
    accepts: impl Fn(&Variant) -> bool,
) -> Option<&'static Variant> {
    VARIANTS.iter().find(|variant| variant.operation == operation && runs_on(variant, target) && accepts(variant))
}

pub(crate) fn runs_on(variant: &Variant, target: &GpuTarget) -> bool {
    let capability = target.compute_capability;
    variant.arch.runs_on(capability.major, capability.minor) && variant.shared_bytes() <= target.shared_bytes_max
}

/// `value` as the kernels' 32-bit index type.
pub(crate) fn to_i32(what: &'static str, value: usize) -> Result<i32> {
    i32::try_from(value).map_err(|_| Error::TooLarge { what, value, limit: i32::MAX as usize })
}

/// The last dimension must be contiguous: every kernel reads whole rows.
pub(crate) fn check_last_stride(tensor: &'static str, spec: &TensorSpec) -> Result<()> {
    let layout = &spec.layout;
    match (layout.shape().last(), layout.strides().last()) {
        (Some(size), Some(stride)) if *size > 1 && *stride != 1 => Err(Error::LastStride {
            tensor,
            stride: *stride,
            shape: layout.shape_dims(),
            strides: layout.stride_dims(),
        }),
        _ => Ok(()),
    }
}

/// An output's elements must not share memory.
pub(crate) fn check_output(tensor: &'static str, spec: &TensorSpec) -> Result<()> {
    check_last_stride(tensor, spec)?;
    if spec.layout.overlaps() {
        return Err(Error::Overlap { tensor, shape: spec.layout.shape_dims(), strides: spec.layout.stride_dims() });
    }
    Ok(())
}

/// A dimension's stride in bytes; 0 for a dimension of one entry, whose stride nothing reads.
pub(crate) fn stride_bytes(spec: &TensorSpec, axis: usize) -> i64 {
    if spec.layout.shape()[axis] <= 1 {
        return 0;
    }
    // The reach of a layout's dimensions was checked to stay below isize::MAX elements when it was made.
    (spec.layout.strides()[axis] * spec.dtype.size_bytes()) as i64
}

/// A call's property must be the one that the plan was made for.
pub(crate) fn check_planned<T: PartialEq + fmt::Debug>(what: &'static str, given: &T, planned: &T) -> Result<()> {
    if given == planned {
        return Ok(());
    }
    Err(Error::PlanMismatch { what, given: format!("{given:?}"), planned: format!("{planned:?}") })
}

/// A tensor must have the planned type, shape and strides, and be aligned no worse. Its offset may differ.
pub(crate) fn check_planned_tensor(what: &'static str, given: &TensorSpec, planned: &TensorSpec) -> Result<()> {
    let shape = planned.layout.shape();
    // Nothing reads the stride of a dimension of one entry.
    let strides = || given.layout.strides().iter().zip(planned.layout.strides()).zip(shape);
    let fits = given.dtype == planned.dtype
        && given.layout.shape() == shape
        && strides().all(|((given, planned), size)| given == planned || *size <= 1)
        && given.alignment_bytes >= planned.alignment_bytes;
    if fits {
        return Ok(());
    }
    let show = |spec: &TensorSpec| {
        format!(
            "{} of shape {}, strides {}, {}-byte aligned",
            spec.dtype,
            spec.layout.shape_dims(),
            spec.layout.stride_dims(),
            spec.alignment_bytes
        )
    };
    Err(Error::PlanMismatch { what, given: show(given), planned: show(planned) })
}
