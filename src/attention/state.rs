//! Partial results of attention, and how they merge.

use crate::attention::launches::merge_launch;
use crate::attention::problem::{check_contiguous, heads_layout};
use crate::attention::{AttentionForward, AttentionOutputs};
use crate::device::Stream;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::launch::{check_devices, launch};
use crate::params::AttentionMergeParams;
use crate::plan::{check_last_stride, check_output, check_planned_tensor};
use crate::target::Target;
use crate::tensor::{Dims, Layout, Tensor, TensorRef, TensorSpec};

/// Attention over some of the keys: a normalised f32 output, and the natural log of each row's sum of exponentials. States
/// over disjoint sets of keys merge into the state over all of them:
///
/// ```text
/// lse    = ln sum_n exp(lse_n)
/// output = sum_n exp(lse_n - lse) output_n
/// ```
///
/// A row whose lse is `-inf` saw no key and takes no part, whatever its output holds. Sinks are no keys: they are folded in
/// once, at the end, by [`AttentionState::finish`].
///
/// ```
/// use warpfold::{Attention, AttentionState, DType, Device, Qkv, Tensor};
/// let device = Device::cpu();
/// let values: Vec<f32> = (0..2 * 10 * 8).map(|i| (i % 7) as f32 * 0.25).collect();
/// let x = Tensor::from_slice(&device, &values, [1, 2, 10, 8])?;
/// let (attention, inputs) = (Attention::new(), Qkv::new(&x, &x, &x));
/// let first = attention.partial(&inputs.clone().key_range(0..4))?;
/// let second = attention.partial(&inputs.clone().key_range(4..10))?;
/// let merged = AttentionState::merge(&[&first, &second])?.finish(DType::F32, None)?;
/// let whole = attention.forward(&inputs)?;
/// for (a, b) in merged.output.to_vec::<f32>()?.iter().zip(whole.output.to_vec::<f32>()?) {
///     assert!((a - b).abs() < 1e-6);
/// }
/// # Ok::<(), warpfold::Error>(())
/// ```
#[derive(Debug)]
pub struct AttentionState {
    output: Tensor,
    lse: Tensor,
}

impl AttentionState {
    /// A state from an f32 output `[batch, heads, len, head_dim]` or `[total, heads, head_dim]` and the **natural** log of
    /// each row's sum of exponentials, f32 and contiguous, `[batch, heads, len]` or `[heads, total]`.
    ///
    /// # Errors
    /// [`Error::Rank`], [`Error::Shape`], [`Error::DTypeMismatch`], [`Error::DeviceMismatch`].
    pub fn from_natural_log(forward: AttentionForward) -> Result<AttentionState> {
        AttentionStateRef::from_natural_log(forward.output.view(), forward.lse.view())?;
        Ok(AttentionState { output: forward.output, lse: forward.lse })
    }

    /// The normalised output, f32.
    pub fn output(&self) -> &Tensor {
        &self.output
    }

    /// The natural log of each row's sum of exponentials, f32.
    pub fn natural_log(&self) -> &Tensor {
        &self.lse
    }

    /// The state as a borrowed one.
    pub fn view(&self) -> AttentionStateRef<'_> {
        AttentionStateRef { output: self.output.view(), lse: self.lse.view() }
    }

    /// The state over the keys of all of them.
    ///
    /// # Errors
    /// [`Error::Option`] for no state, or more than 16; [`Error::PlanMismatch`] where shapes or strides differ;
    /// [`Error::DeviceMismatch`].
    pub fn merge(states: &[&AttentionState]) -> Result<AttentionState> {
        let merged = AttentionState::allocate_and_merge(states, None, DType::F32)?;
        AttentionState::from_natural_log(merged)
    }

    /// The final result: folds the sinks in, f32 `[heads]`, and rounds to the element type.
    ///
    /// # Errors
    /// [`Error::Shape`] when there is not one sink a head; [`Error::DTypeMismatch`].
    pub fn finish(&self, dtype: DType, sinks: Option<TensorRef<'_>>) -> Result<AttentionForward> {
        AttentionState::allocate_and_merge(&[self], sinks, dtype)
    }

    fn allocate_and_merge(
        states: &[&AttentionState],
        sinks: Option<TensorRef<'_>>,
        dtype: DType,
    ) -> Result<AttentionForward> {
        let states: Vec<AttentionStateRef<'_>> = states.iter().map(|state| state.view()).collect();
        let first = first_of(&states)?;
        let device = first.output.device();
        let mut merged = AttentionForward {
            output: Tensor::with_layout(device, dtype, first.output.layout().compact())?,
            lse: Tensor::with_layout(device, DType::F32, Layout::contiguous(first.lse.shape())?)?,
        };
        let outputs = AttentionOutputs::new(&mut merged.output).lse(&mut merged.lse);
        AttentionState::merge_into(&device.stream(), &states, sinks, outputs)?;
        Ok(merged)
    }

    /// Merges states, folds sinks in if there are any, and writes to given tensors: f32, f16 or bf16. Allocates nothing.
    ///
    /// # Errors
    /// As [`AttentionState::merge`] and [`AttentionState::finish`].
    pub fn merge_into(
        stream: &Stream,
        states: &[AttentionStateRef<'_>],
        sinks: Option<TensorRef<'_>>,
        outputs: AttentionOutputs<'_>,
    ) -> Result<()> {
        let device = stream.device();
        let first = first_of(states)?;
        for state in states {
            check_planned_tensor("a state's output", &state.output.spec(), &first.output.spec())?;
            check_planned_tensor("a state's lse", &state.lse.spec(), &first.lse.spec())?;
        }
        let AttentionOutputs { output, mut lse } = outputs;
        let is_packed = first.output.shape().len() == 3;
        if output.shape() != first.output.shape() {
            return Err(Error::Shape {
                tensor: "the output",
                shape: output.layout().shape_dims(),
                expected: first.output.layout().shape_dims(),
                reason: "it has the shape of the states",
            });
        }
        if !matches!(output.dtype(), DType::F32 | DType::F16 | DType::BF16) {
            return Err(Error::UnsupportedDType {
                operation: "merging attention",
                dtype: output.dtype(),
                device: device.to_string(),
                available: "f32, f16, bf16".to_string(),
            });
        }
        check_output("the output", &output.spec())?;
        if let Some(lse) = &lse {
            check_planned_tensor("lse", &lse.spec(), &TensorSpec { alignment_bytes: 4, ..first.lse.spec() })?;
        }
        let heads_of = |layout: &Layout| if is_packed { heads_layout(layout) } else { Ok(*layout) };
        let output_heads = heads_of(output.layout())?;
        let mut output = output.with_layout(output_heads)?;
        let part = TensorSpec { layout: heads_of(first.output.layout())?, ..first.output.spec() };
        let heads = part.layout.shape()[1];
        if let Some(sinks) = &sinks {
            let expected = TensorSpec { alignment_bytes: 4, ..TensorSpec::contiguous(DType::F32, [heads])? };
            check_planned_tensor("the sinks", &sinks.spec(), &expected)?;
        }

        let merge = Merge { part, output: output.spec() };
        let mut reads = [None; 2 * Merge::PARTS_MAX + 1];
        for (index, state) in states.iter().enumerate() {
            reads[index] = Some(state.output.with_layout(heads_of(state.output.layout())?)?);
            reads[Merge::PARTS_MAX + index] = Some(state.lse);
        }
        reads[2 * Merge::PARTS_MAX] = sinks;
        let names = ["a state"; 2 * Merge::PARTS_MAX + 1];
        {
            let writes = [Some(&mut output), lse.as_mut()];
            check_devices(device, &names, &reads, &["the output", "lse"], &writes)?;
        }
        match device.target() {
            Target::Cpu => crate::cpu::merge::merge(&merge, &reads, output, lse),
            Target::Gpu(gpu) => {
                let plan = merge_launch(&merge, &gpu)?;
                launch(device, &plan, &reads, &mut [Some(&mut output), lse.as_mut()])
            }
        }
    }
}

/// A borrowed [`AttentionState`], for results that are somewhere already.
#[derive(Clone, Copy)]
pub struct AttentionStateRef<'a> {
    output: TensorRef<'a>,
    lse: TensorRef<'a>,
}

impl<'a> AttentionStateRef<'a> {
    /// As [`AttentionState::from_natural_log`].
    ///
    /// # Errors
    /// As [`AttentionState::from_natural_log`].
    pub fn from_natural_log(output: TensorRef<'a>, lse: TensorRef<'a>) -> Result<AttentionStateRef<'a>> {
        for (tensor, given) in [("the output", &output), ("lse", &lse)] {
            if given.dtype() != DType::F32 {
                return Err(Error::DTypeMismatch { tensor, dtype: given.dtype(), expected: DType::F32 });
            }
        }
        let expected = match *output.shape() {
            [batch, heads, len, _] => vec![batch, heads, len],
            [total, heads, _] => vec![heads, total],
            _ => {
                let shape = output.layout().shape_dims();
                return Err(Error::Rank { tensor: "the output", shape, expected: "[batch, heads, len, head_dim]" });
            }
        };
        if lse.shape() != expected {
            return Err(Error::Shape {
                tensor: "lse",
                shape: lse.layout().shape_dims(),
                expected: Dims::of(&expected),
                reason: "there is one a row of the output",
            });
        }
        check_last_stride("the output", &output.spec())?;
        check_contiguous("lse", &lse.spec())?;
        if lse.device() != output.device() {
            return Err(Error::DeviceMismatch {
                tensor: "lse",
                device: lse.device().to_string(),
                expected: output.device().to_string(),
            });
        }
        Ok(AttentionStateRef { output, lse })
    }
}

fn first_of<'a, 'b>(states: &'b [AttentionStateRef<'a>]) -> Result<&'b AttentionStateRef<'a>> {
    match states.first() {
        Some(first) if states.len() <= Merge::PARTS_MAX => Ok(first),
        _ => Err(Error::Option {
            name: "the number of states",
            value: states.len() as f64,
            allowed: "between 1 and 16; merge the rest into the result",
        }),
    }
}

/// A validated merge; tensors are seen as `[batch, heads, len, head_dim]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Merge {
    /// Each partial output.
    pub part: TensorSpec,
    pub output: TensorSpec,
}

impl Merge {
    /// Partial results that one call merges.
    pub const PARTS_MAX: usize = 16;
}

const _: () = assert!(
    std::mem::offset_of!(AttentionMergeParams, sinks) == 2 * Merge::PARTS_MAX * size_of::<u64>(),
    "kernels/lib/params.h has another number of parts"
);
