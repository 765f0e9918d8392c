//! Fused attention: `softmax(scale * q k^T + mask) v`.

mod mask;
mod plan;
mod problem;

pub use mask::Mask;
pub use plan::AttentionPlan;
pub(crate) use problem::Problem;

use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::target::Target;
use crate::tensor::{Layout, LengthsSpec, SeqLens, Tensor, TensorMut, TensorRef, TensorSpec};

/// Attention as a layer is configured: the same for every call.
///
/// ```text
/// s[i, j]   = scale * sum_d q[i, d] k[j, d]         -inf where the mask hides key j from query i
/// lse[i]    = ln sum_j exp(s[i, j])
/// out[i, :] = sum_j exp(s[i, j] - lse[i]) v[j, :]
/// ```
///
/// # Shapes
/// q `[batch, heads_q, len_q, head_dim]`; k `[batch, heads_kv, len_kv, head_dim]`; v the same, with a head_dim of its
/// own on the CPU; `heads_q % heads_kv == 0`, and query head `h` reads key head `h / (heads_q / heads_kv)` (GQA, MQA).
/// The first three dimensions have any strides; the last has stride 1. `len_kv` may be 0.
///
/// # Numerics
/// Scores, softmax and accumulators are f32; probabilities are rounded to the tensors' type before the product
/// with v on a GPU. `lse` is the natural log, f32. A row that sees no key gives output 0 and lse `-inf`. Keys past
/// the key length never reach a result, whatever they hold, NaN included.
///
/// # Example
/// ```
/// use warpfold::{Attention, Device, Mask, Qkv, Tensor};
/// let device = Device::best();
/// let values: Vec<half::f16> = (0..2 * 4 * 64 * 32).map(|i| half::f16::from_f32((i % 13) as f32 * 0.1)).collect();
/// let q = Tensor::from_slice(&device, &values, [2, 4, 64, 32])?;
/// let attention = Attention::new().mask(Mask::causal());
/// let forward = attention.forward(&Qkv::new(&q, &q, &q))?;
/// assert_eq!(forward.output.shape(), [2, 4, 64, 32]);
/// assert_eq!(forward.lse.shape(), [2, 4, 64]);
/// # Ok::<(), warpfold::Error>(())
/// ```
///
/// # Source
/// Dao, Fu, Ermon, Rudra, Ré: FlashAttention (2022), section 3.1; Dao: FlashAttention-2 (2023), section 3.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Attention {
    pub(crate) mask: Mask,
    pub(crate) scale: Option<f32>,
}

impl Attention {
    /// No mask, scale `1 / sqrt(head_dim)`.
    pub fn new() -> Attention {
        Attention::default()
    }

    /// Sets which keys each query sees.
    pub fn mask(mut self, mask: Mask) -> Attention {
        self.mask = mask;
        self
    }

    /// Sets the factor of the scores; finite and above 0.
    pub fn scale(mut self, scale: f32) -> Attention {
        self.scale = Some(scale);
        self
    }

    /// Computes output and lse into new tensors on the device of q. The output keeps q's order of dimensions in
    /// memory, without gaps.
    ///
    /// # Errors
    /// Every rule of "Shapes" above has its own [`crate::Error`]; so have a head_dim or type without a kernel, and
    /// tensors of two devices.
    pub fn forward(&self, inputs: &Qkv<'_>) -> Result<AttentionForward> {
        let device = inputs.q.device();
        let plan = self.plan(&inputs.spec(), &device.target())?;
        let mut forward = AttentionForward::allocate(&plan, device)?;
        let stream = device.stream();
        let mut workspace = plan.workspace(&stream)?;
        let outputs = AttentionOutputs::new(&mut forward.output).lse(&mut forward.lse);
        plan.forward_into(&stream, inputs, outputs, &mut workspace)?;
        Ok(forward)
    }

    /// Decides how a problem runs on a target: pure, without touching a device.
    ///
    /// # Errors
    /// As [`Attention::forward`].
    pub fn plan(&self, spec: &QkvSpec, target: &Target) -> Result<AttentionPlan> {
        AttentionPlan::new(Problem::new(self, spec)?, spec, target)
    }
}

/// The tensors of one call.
#[derive(Clone, Copy)]
pub struct Qkv<'a> {
    pub(crate) q: TensorRef<'a>,
    pub(crate) k: TensorRef<'a>,
    pub(crate) v: TensorRef<'a>,
    pub(crate) key_lengths: Option<&'a SeqLens>,
}

impl<'a> Qkv<'a> {
    /// Queries, keys and values.
    pub fn new(q: impl Into<TensorRef<'a>>, k: impl Into<TensorRef<'a>>, v: impl Into<TensorRef<'a>>) -> Qkv<'a> {
        Qkv { q: q.into(), k: k.into(), v: v.into(), key_lengths: None }
    }

    /// Hides the keys from each sequence's length on. The mask's alignment does not move: it goes by `len_kv`.
    pub fn key_lengths(mut self, lengths: &'a SeqLens) -> Qkv<'a> {
        self.key_lengths = Some(lengths);
        self
    }

    /// What a plan reads of these tensors.
    pub fn spec(&self) -> QkvSpec {
        QkvSpec {
            q: self.q.spec(),
            k: self.k.spec(),
            v: self.v.spec(),
            key_lengths: self.key_lengths.map(SeqLens::spec),
            output: None,
        }
    }
}

/// What a plan reads of a call: no contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QkvSpec {
    pub(crate) q: TensorSpec,
    pub(crate) k: TensorSpec,
    pub(crate) v: TensorSpec,
    pub(crate) key_lengths: Option<LengthsSpec>,
    pub(crate) output: Option<TensorSpec>,
}

impl QkvSpec {
    /// A call without tensors at hand.
    pub fn new(q: TensorSpec, k: TensorSpec, v: TensorSpec) -> QkvSpec {
        QkvSpec { q, k, v, key_lengths: None, output: None }
    }

    /// Plans with key lengths.
    pub fn key_lengths(mut self, lengths: LengthsSpec) -> QkvSpec {
        self.key_lengths = Some(lengths);
        self
    }

    /// Plans for an output other than the 16-byte aligned one, in q's order of dimensions, that the owning call makes.
    pub fn output(mut self, output: TensorSpec) -> QkvSpec {
        self.output = Some(output);
        self
    }
}

/// The result of a forward pass.
#[derive(Debug)]
pub struct AttentionForward {
    /// `[batch, heads_q, len_q, head_dim of v]`, of q's type.
    pub output: Tensor,
    /// The natural log of each row's sum of exponentials, f32 `[batch, heads_q, len_q]`.
    pub lse: Tensor,
}

impl AttentionForward {
    /// Tensors of the shapes that a plan writes.
    ///
    /// # Errors
    /// [`crate::Error::Cuda`] when the GPU has no memory left.
    pub fn allocate(plan: &AttentionPlan, device: &Device) -> Result<AttentionForward> {
        let layout = plan.output_layout();
        let &[batch, heads, len_q, _] = layout.shape() else { unreachable!("an output has four dimensions") };
        Ok(AttentionForward {
            output: Tensor::with_layout(device, plan.spec().q.dtype, layout)?,
            lse: Tensor::with_layout(device, DType::F32, Layout::contiguous(&[batch, heads, len_q])?)?,
        })
    }
}

/// Where a planned call writes.
pub struct AttentionOutputs<'a> {
    pub(crate) output: TensorMut<'a>,
    pub(crate) lse: Option<TensorMut<'a>>,
}

impl<'a> AttentionOutputs<'a> {
    /// Writes the output only.
    pub fn new(output: impl Into<TensorMut<'a>>) -> AttentionOutputs<'a> {
        AttentionOutputs { output: output.into(), lse: None }
    }

    /// Writes lse too: f32 `[batch, heads_q, len_q]`, contiguous.
    pub fn lse(mut self, lse: impl Into<TensorMut<'a>>) -> AttentionOutputs<'a> {
        self.lse = Some(lse.into());
        self
    }
}
