//! Fused attention: `softmax(scale * q k^T + mask) v`, forward and backward.

mod backward;
mod call;
mod launches;
mod mask;
mod plan;
mod problem;
mod state;

pub use backward::{AttentionBackwardPlan, BackwardSpec};
pub use call::{AttentionGradients, AttentionOutputs, BackwardInputs, GradientOutputs, Qkv, QkvSpec};
pub use mask::Mask;
pub use plan::AttentionPlan;
pub use state::{AttentionState, AttentionStateRef};

pub(crate) use backward::{BackwardProblem, Gradients, Saved};
pub(crate) use mask::{Band, POSITION_MAX};
pub(crate) use plan::Operands;
pub(crate) use problem::Problem;
pub(crate) use state::Merge;

use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::target::Target;
use crate::tensor::{Layout, Tensor};

/// Attention as a layer is configured: the same for every call.
///
/// ```text
/// s[i, j]   = scale * sum_d q[i, d] k[j, d]
/// s[i, j]   = cap * tanh(s[i, j] / cap)                                      softcap
/// s[i, j]  += bias[i, j] - slope * |position(i) - j|                         bias, ALiBi
/// s[i, j]   = -inf where the mask hides key j from query i
/// lse[i]    = ln (exp(sink) + sum_j exp(s[i, j]))                            sinks
/// out[i, :] = sum_j dropout(exp(s[i, j] - lse[i])) v[j, :]
/// ```
///
/// # Shapes
/// q `[batch, heads_q, len_q, head_dim]`; k `[batch, heads_kv, len_kv, head_dim]`; v the same, with a head_dim of its
/// own; `heads_q % heads_kv == 0`, and query head `h` reads key head `h / (heads_q / heads_kv)` (GQA, MQA).
/// The first three dimensions have any strides; the last has stride 1. `len_kv` may be 0. Sequences of different lengths
/// may be packed instead of padded: [`Qkv::packed`].
///
/// A GPU takes every head_dim that is a multiple of 8 up to 256, q's and k's as well as v's.
///
/// # Numerics
/// Scores, softmax and accumulators are f32; probabilities are rounded to the tensors' type before the product
/// with v on a GPU, but for f32. `lse` is the natural log, f32, before dropout. A row that sees no key gives output 0 and
/// lse `-inf` (with a sink: the sink), and zero gradients. Keys past the key length never reach a result, whatever they
/// hold, NaN included. The same inputs give the same bits, forward and backward.
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
/// Dao, Fu, Ermon, Rudra, Ré: FlashAttention (2022), sections 3.1 and B; Dao: FlashAttention-2 (2023), section 3. Press,
/// Smith, Lewis: Train Short, Test Long (2022), section 3 (ALiBi). Salmon et al.: Parallel Random Numbers: As Easy as 1, 2,
/// 3 (2011) (Philox).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Attention {
    pub(crate) mask: Mask,
    pub(crate) scale: Option<f32>,
    pub(crate) softcap: Option<f32>,
    pub(crate) dropout: Option<f32>,
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

    /// Bounds the scores to `(-cap, cap)` by `cap * tanh(s / cap)`; finite and above 0.
    pub fn softcap(mut self, cap: f32) -> Attention {
        self.softcap = Some(cap);
        self
    }

    /// Drops each weight with this probability, in `[0, 1)`, and scales the kept ones by `1 / (1 - probability)`. Which ones
    /// follows from [`Qkv::dropout_state`] and the weight's indices, on every device alike.
    pub fn dropout(mut self, probability: f32) -> Attention {
        self.dropout = Some(probability);
        self
    }

    /// Computes output and lse into new tensors on the device of q. The output keeps q's order of dimensions in
    /// memory, without gaps.
    ///
    /// # Errors
    /// Every rule of "Shapes" above has its own [`crate::Error`]; so have a head_dim or type without a kernel, and
    /// tensors of two devices.
    pub fn forward(&self, inputs: &Qkv<'_>) -> Result<AttentionForward> {
        self.plan(&inputs.spec(), &inputs.q.device().target())?.run(inputs)
    }

    /// Attention over a part of the keys ([`Qkv::key_range`]), to be merged with others: f32, without the sinks.
    ///
    /// # Errors
    /// As [`Attention::forward`].
    pub fn partial(&self, inputs: &Qkv<'_>) -> Result<AttentionState> {
        let device = inputs.q.device();
        let plan = AttentionPlan::new(Problem::new(self, &inputs.spec(), true)?, &inputs.spec(), &device.target())?;
        AttentionState::from_natural_log(plan.run(inputs)?)
    }

    /// Computes the gradients with respect to the inputs into new tensors, from the results of [`Attention::forward`] on the
    /// same inputs and the gradients with respect to them ([`BackwardInputs`]).
    ///
    /// ```
    /// use warpfold::{Attention, BackwardInputs, Device, Qkv, Tensor};
    /// let device = Device::cpu();
    /// let x = Tensor::from_slice(&device, &vec![0.25f32; 2 * 8 * 16], [1, 2, 8, 16])?;
    /// let (attention, inputs) = (Attention::new(), Qkv::new(&x, &x, &x));
    /// let forward = attention.forward(&inputs)?;
    /// let d_output = &x;
    /// let gradients = attention.backward(&inputs, &BackwardInputs::new(&forward.output, &forward.lse, d_output))?;
    /// assert_eq!(gradients.d_v.shape(), [1, 2, 8, 16]);
    /// # Ok::<(), warpfold::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Attention::forward`].
    pub fn backward(&self, inputs: &Qkv<'_>, backward: &BackwardInputs<'_>) -> Result<AttentionGradients> {
        let device = inputs.q.device();
        let spec = BackwardSpec::new(inputs.spec().output(backward.output.spec())).d_output(backward.d_output.spec());
        let plan = self.plan_backward(&spec, &device.target())?;
        let mut gradients = AttentionGradients::allocate(&plan, device)?;
        let stream = device.stream();
        let mut workspace = plan.workspace(&stream)?;
        plan.backward_into(&stream, inputs, backward, gradients.outputs(), &mut workspace)?;
        Ok(gradients)
    }

    /// Decides how a problem runs on a target: pure, without touching a device.
    ///
    /// # Errors
    /// As [`Attention::forward`].
    pub fn plan(&self, spec: &QkvSpec, target: &Target) -> Result<AttentionPlan> {
        AttentionPlan::new(Problem::new(self, spec, false)?, spec, target)
    }

    /// As [`Attention::plan`], for the backward pass.
    ///
    /// # Errors
    /// As [`Attention::forward`].
    pub fn plan_backward(&self, spec: &BackwardSpec, target: &Target) -> Result<AttentionBackwardPlan> {
        AttentionBackwardPlan::new(BackwardProblem::new(self, spec)?, spec, target)
    }
}

/// The result of a forward pass.
#[derive(Debug)]
pub struct AttentionForward {
    /// Of q's shape and type, but for v's head_dim.
    pub output: Tensor,
    /// The natural log of each row's sum of exponentials, f32 `[batch, heads_q, len_q]`; packed: `[heads_q, total_q]`.
    pub lse: Tensor,
}

impl AttentionForward {
    /// Tensors of the shapes that a plan writes.
    ///
    /// # Errors
    /// [`crate::Error::Cuda`] when the GPU has no memory left.
    pub fn allocate(plan: &AttentionPlan, device: &Device) -> Result<AttentionForward> {
        Ok(AttentionForward {
            output: Tensor::with_layout(device, plan.output_dtype(), plan.output_layout())?,
            lse: Tensor::with_layout(device, DType::F32, Layout::contiguous(plan.lse_shape().as_slice())?)?,
        })
    }
}

impl AttentionGradients {
    /// Tensors of the shapes that a plan writes.
    ///
    /// # Errors
    /// [`crate::Error::Cuda`] when the GPU has no memory left.
    pub fn allocate(plan: &AttentionBackwardPlan, device: &Device) -> Result<AttentionGradients> {
        let tensor = |spec: crate::TensorSpec| Tensor::with_layout(device, spec.dtype, spec.layout);
        let specs = plan.gradient_specs();
        Ok(AttentionGradients {
            d_q: tensor(specs.d_q)?,
            d_k: tensor(specs.d_k)?,
            d_v: tensor(specs.d_v)?,
            d_bias: specs.d_bias.map(tensor).transpose()?,
            d_sinks: specs.d_sinks.map(tensor).transpose()?,
        })
    }

    /// All of them, to be written.
    pub fn outputs(&mut self) -> GradientOutputs<'_> {
        GradientOutputs {
            d_bias: self.d_bias.as_mut().map(Into::into),
            d_sinks: self.d_sinks.as_mut().map(Into::into),
            ..GradientOutputs::new(&mut self.d_q, &mut self.d_k, &mut self.d_v)
        }
    }
}
