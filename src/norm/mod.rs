//! Layer norm and RMS norm over the last axis.

mod backward;
mod call;
mod forward;

pub use backward::NormBackwardPlan;
pub(crate) use backward::NormBackwardProblem;
pub use call::{
    NormBackwardInputs, NormBackwardSpec, NormForward, NormGradientOutputs, NormGradients, NormInputs, NormOutputs,
    NormSpec,
};
pub use forward::NormPlan;
pub(crate) use forward::NormProblem;

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::plan::check_last_stride;
use crate::target::Target;
use crate::tensor::{Dims, Layout, Tensor, TensorSpec};

/// Layer norm or RMS norm over the last axis, with what stands before it in a transformer: dropout and a residual.
///
/// ```text
/// s = dropout(x) + residual                     rounded to the residual's type; x where there is neither
/// y = (s - mean) * rstd * weight + bias         rstd = 1 / sqrt(mean((s - mean)^2) + eps); RMS norm: mean = 0
///
/// g   = weight * d_y,  n = (s - mean) * rstd
/// d_s = rstd * (g - mean(g) - n * mean(g n)) + d_sum      RMS norm: without mean(g)
/// d_residual = d_s,  d_x = d_s through dropout,  d_weight = sum over rows of d_y n,  d_bias = sum over rows of d_y
/// ```
///
/// # Shapes
/// x, residual, results and gradients `[..., columns]`, of any length and alignment; leading dimensions with any strides, the
/// last with stride 1. Weight and bias `[columns]`. mean and rstd f32 `[...]`, contiguous. Types may differ: of x, residual,
/// weight, bias and output, each is any float type.
///
/// # Numerics
/// Statistics and sums are f32, results are rounded once. Mean first, then the mean of the squared distances from it: never
/// `E[s^2] - E[s]^2`, which loses all digits when the mean is large. The variance is the biased one. A row's forward bits
/// depend on the row alone: its elements, its length and where its first element lies in a 16-byte vector. Sums over rows
/// have a fixed order, the same on every GPU.
///
/// Dropout is Philox 4x32-10: element c of row r is dropped iff word `c % 4` of counter `(c / 4, r, 0, offset)` with key `seed`
/// is below `floor(probability * 2^32)`; the others are multiplied by `1 / (1 - probability)`.
///
/// # Example
/// ```
/// use warpfold::{Device, Norm, NormInputs, Tensor};
/// let x = Tensor::from_slice(&Device::best(), &[1.0f32, 3.0], [1, 2])?;
/// let y = Norm::layer().eps(0.0).forward(&NormInputs::new(&x))?.output;
/// assert_eq!(y.to_vec::<f32>()?, [-1.0, 1.0]);
/// let y = Norm::rms().eps(0.0).forward(&NormInputs::new(&x))?.output.to_vec::<f32>()?;
/// assert!((y[0] - 1.0 / 5f32.sqrt()).abs() < 1e-6);
/// # Ok::<(), warpfold::Error>(())
/// ```
///
/// # Source
/// Ba, Kiros, Hinton: Layer Normalization (2016), section 3. Zhang, Sennrich: Root Mean Square Layer Normalization (2019),
/// section 4.
#[doc(alias = "LayerNorm")]
#[doc(alias = "RmsNorm")]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    is_centered: bool,
    eps: f32,
    is_zero_centered: bool,
    dropout: f32,
    return_stats: bool,
    output_dtype: Option<DType>,
}

impl Norm {
    /// Layer norm: `eps` 1e-5.
    pub fn layer() -> Norm {
        Norm {
            is_centered: true,
            eps: 1e-5,
            is_zero_centered: false,
            dropout: 0.0,
            return_stats: false,
            output_dtype: None,
        }
    }

    /// RMS norm: `eps` 1e-6, no mean.
    pub fn rms() -> Norm {
        Norm { is_centered: false, eps: 1e-6, ..Norm::layer() }
    }

    /// Sets what is added to the variance, or to the mean square; finite and not negative.
    pub fn eps(mut self, eps: f32) -> Norm {
        self.eps = eps;
        self
    }

    /// Multiplies by `1 + weight` instead of by the weight: a weight that is stored as its distance from 1. The sum is f32.
    pub fn zero_centered(mut self, is_zero_centered: bool) -> Norm {
        self.is_zero_centered = is_zero_centered;
        self
    }

    /// Drops elements of x with a probability, before the residual is added.
    pub fn dropout(mut self, probability: f32) -> Norm {
        self.dropout = probability;
        self
    }

    /// Returns rstd too, and of a layer norm the mean.
    pub fn return_stats(mut self, return_stats: bool) -> Norm {
        self.return_stats = return_stats;
        self
    }

    /// Sets the type of the output of [`Norm::forward`]; x's without it.
    pub fn output_dtype(mut self, dtype: DType) -> Norm {
        self.output_dtype = Some(dtype);
        self
    }

    /// Computes into new tensors on x's device, in x's order of dimensions in memory, without gaps.
    ///
    /// # Errors
    /// [`Error::Rank`], [`Error::Empty`], [`Error::Shape`], [`Error::LastStride`], [`Error::TooManyStrides`],
    /// [`Error::TooLarge`], [`Error::UnsupportedDType`] for integers, [`Error::Option`] for a bad `eps` or dropout,
    /// [`Error::DeviceMismatch`]; the device's own.
    pub fn forward(&self, inputs: &NormInputs<'_>) -> Result<NormForward> {
        let device = inputs.x.device();
        let mut spec = inputs.spec();
        if let Some(dtype) = self.output_dtype {
            spec = spec.output(TensorSpec { dtype, layout: spec.x.layout.compact(), alignment_bytes: 16 });
        }
        let plan = self.plan(&spec, &device.target())?;
        let new = |spec: TensorSpec| Tensor::with_layout(device, spec.dtype, spec.layout);
        let stats = |wanted: bool| (wanted && self.return_stats).then(|| new(plan.stats_spec()?)).transpose();
        let mut forward = NormForward {
            output: new(plan.output_spec())?,
            sum: plan.sum_spec().map(new).transpose()?,
            mean: stats(self.is_centered)?,
            rstd: stats(true)?,
        };
        let stream = device.stream();
        let mut workspace = plan.workspace(&stream)?;
        plan.forward_into(&stream, inputs, forward.outputs(), &mut workspace)?;
        Ok(forward)
    }

    /// Decides how the norm of such tensors runs on a target: pure, without touching a device.
    ///
    /// # Errors
    /// As [`Norm::forward`]; [`Error::Overlap`] of a given output; [`Error::Missing`] for a sum of x alone.
    pub fn plan(&self, spec: &NormSpec, target: &Target) -> Result<NormPlan> {
        NormPlan::new(self, NormProblem::new(self, spec)?, spec, target)
    }

    /// Computes the gradients into new tensors.
    ///
    /// ```
    /// use warpfold::{Device, Norm, NormBackwardInputs, NormInputs, Tensor};
    /// let device = Device::cpu();
    /// let x = Tensor::from_slice(&device, &[1.0f32, 3.0, 5.0, 11.0], [2, 2])?;
    /// let weight = Tensor::from_slice(&device, &[1.0f32, 2.0], [2])?;
    /// let d_y = Tensor::from_slice(&device, &[1.0f32, 0.0, 0.0, 1.0], [2, 2])?;
    /// let norm = Norm::layer().eps(0.0).return_stats(true);
    /// let forward = norm.forward(&NormInputs::new(&x).weight(&weight))?;
    /// let (mean, rstd) = (forward.mean.unwrap(), forward.rstd.unwrap());
    /// let inputs = NormBackwardInputs::new(&d_y, &x).weight(&weight).mean(&mean).rstd(&rstd);
    /// let gradients = norm.backward(&inputs)?;
    /// assert_eq!(gradients.d_weight.unwrap().to_vec::<f32>()?, [-1.0, 1.0]);
    /// # Ok::<(), warpfold::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Norm::forward`]; [`Error::Missing`] for a layer norm's rstd without its mean.
    pub fn backward(&self, inputs: &NormBackwardInputs<'_>) -> Result<NormGradients> {
        let device = inputs.d_y.device();
        let mut spec = inputs.spec();
        let sum = spec.sum;
        if self.dropout > 0.0 {
            spec = spec.d_residual(TensorSpec { layout: sum.layout.compact(), alignment_bytes: 16, ..sum });
        }
        let plan = self.plan_backward(&spec, &device.target())?;
        let new = |spec: TensorSpec| Tensor::with_layout(device, spec.dtype, spec.layout);
        let vector = |given: Option<TensorSpec>| {
            given
                .map(|given| Tensor::with_layout(device, given.dtype, Layout::contiguous(given.layout.shape())?))
                .transpose()
        };
        let mut gradients = NormGradients {
            d_x: new(plan.d_x_spec())?,
            d_residual: plan.d_residual_spec().map(new).transpose()?,
            d_weight: vector(spec.weight)?,
            d_bias: vector(spec.bias)?,
        };
        let stream = device.stream();
        let mut workspace = plan.workspace(&stream)?;
        plan.backward_into(&stream, inputs, gradients.outputs(), &mut workspace)?;
        Ok(gradients)
    }

    /// As [`Norm::plan`], for the backward pass.
    ///
    /// # Errors
    /// As [`Norm::backward`].
    pub fn plan_backward(&self, spec: &NormBackwardSpec, target: &Target) -> Result<NormBackwardPlan> {
        NormBackwardPlan::new(self, NormBackwardProblem::new(self, spec)?, spec, target)
    }

    fn check_eps(&self) -> Result<()> {
        match self.eps.is_finite() && self.eps >= 0.0 {
            true => Ok(()),
            false => Err(Error::Option { name: "eps", value: f64::from(self.eps), allowed: "finite and not negative" }),
        }
    }

    fn weight_offset(&self) -> f32 {
        if self.is_zero_centered { 1.0 } else { 0.0 }
    }

    /// The operation in words.
    fn name(&self) -> &'static str {
        if self.is_centered { "layer norm" } else { "RMS norm" }
    }
}

/// A weight or bias, or its gradient.
fn check_vector(tensor: &'static str, spec: &Option<TensorSpec>, columns: usize) -> Result<()> {
    let Some(spec) = spec else { return Ok(()) };
    if spec.layout.shape() != [columns] {
        return Err(Error::Shape {
            tensor,
            shape: spec.layout.shape_dims(),
            expected: Dims::of(&[columns]),
            reason: "it has one value a column",
        });
    }
    check_last_stride(tensor, spec)
}

/// Every tensor has a float type.
fn check_floats<'a>(
    specs: impl IntoIterator<Item = &'a TensorSpec>,
    operation: &'static str,
    target: &Target,
) -> Result<()> {
    match specs.into_iter().find(|spec| matches!(spec.dtype, DType::I32 | DType::U8)) {
        None => Ok(()),
        Some(spec) => Err(Error::UnsupportedDType {
            operation,
            dtype: spec.dtype,
            device: target.to_string(),
            available: "f32, f16, bf16".to_string(),
        }),
    }
}

/// One f32 a row.
fn stats_spec(x: &TensorSpec) -> Result<TensorSpec> {
    let shape = x.layout.shape();
    let layout = Layout::contiguous(&shape[..shape.len() - 1])?;
    Ok(TensorSpec { dtype: DType::F32, layout, alignment_bytes: 4 })
}
