//! Softmax over the last axis.

mod backward;
mod call;
mod forward;

pub use backward::SoftmaxBackwardPlan;
pub(crate) use backward::SoftmaxBackwardProblem;
pub use call::{SoftmaxBackwardSpec, SoftmaxInputs, SoftmaxSpec};
pub use forward::SoftmaxPlan;
pub(crate) use forward::SoftmaxProblem;

use crate::attention::Mask;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::target::Target;
use crate::tensor::{Tensor, TensorMut, TensorRef};

/// Softmax over the last axis, or its logarithm.
///
/// ```text
/// s[r, c] = scale * x[r, c] + bias[r, c]            -inf where a mask hides the element
/// y[r, c] = exp(s[r, c]) / sum_c exp(s[r, c])       log: s[r, c] - ln(sum_c exp(s[r, c]))
/// d_x     = scale * y * (d_y - sum_c y d_y)         log: scale * (d_y - exp(y) * sum_c d_y)
/// ```
///
/// # Shapes
/// x, y and gradients `[..., columns]`, of any length and alignment; leading dimensions with any strides, the last with
/// stride 1; bias and mask broadcast to that shape. Under [`Softmax::mask`] the last two dimensions are queries and keys.
///
/// # Numerics
/// Maximum and sums are f32, whatever the type; results are rounded once. A row that sees nothing, or only `-inf`, gives 0
/// (log: `-inf`). A visible NaN or `+inf` makes its whole row NaN; what is hidden is never looked at. Backward, an element
/// whose y is 0 (log: `-inf`) takes no part and has gradient 0. A row's bits depend on the row alone: its elements, its
/// length and where its first element lies in a 16-byte vector.
///
/// # Example
/// ```
/// use warpfold::{Device, Softmax, Tensor};
/// let x = Tensor::from_slice(&Device::best(), &[0.0f32, 2.0f32.ln()], [1, 2])?;
/// let y = Softmax::new().forward(&x)?.to_vec::<f32>()?;
/// assert!((y[0] - 1.0 / 3.0).abs() < 1e-6 && (y[1] - 2.0 / 3.0).abs() < 1e-6);
/// let sharper = Softmax::new().temperature(0.5).forward(&x)?.to_vec::<f32>()?;
/// assert!((sharper[0] - 1.0 / 5.0).abs() < 1e-6);
/// # Ok::<(), warpfold::Error>(())
/// ```
///
/// # Source
/// Milakov, Gimelshein: Online normalizer calculation for softmax (2018), for rows that several blocks share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Softmax {
    scale: f32,
    is_log: bool,
    mask: Mask,
}

impl Default for Softmax {
    fn default() -> Softmax {
        Softmax { scale: 1.0, is_log: false, mask: Mask::none() }
    }
}

impl Softmax {
    /// Plain softmax.
    pub fn new() -> Softmax {
        Softmax::default()
    }

    /// Multiplies x by a scale before anything else; finite and positive.
    pub fn scale(mut self, scale: f32) -> Softmax {
        self.scale = scale;
        self
    }

    /// Divides x by a temperature: [`Softmax::scale`] `1 / temperature`.
    pub fn temperature(self, temperature: f32) -> Softmax {
        self.scale(1.0 / temperature)
    }

    /// Computes the logarithm of the softmax.
    pub fn log(mut self, is_log: bool) -> Softmax {
        self.is_log = is_log;
        self
    }

    /// Shows only what a mask shows: the last two dimensions are queries and keys, whose positions it aligns as in attention.
    pub fn mask(mut self, mask: Mask) -> Softmax {
        self.mask = mask;
        self
    }

    /// Computes into a new tensor on x's device, in x's order of dimensions in memory, without gaps.
    ///
    /// # Errors
    /// [`Error::Rank`] for a scalar, or under a mask for one dimension; [`Error::Empty`]; [`Error::Shape`] of bias and mask;
    /// [`Error::LastStride`]; [`Error::TooManyStrides`]; [`Error::TooLarge`]; [`Error::UnsupportedDType`] for integers;
    /// [`Error::DTypeMismatch`] for a mask that is not u8; [`Error::Option`] for a bad scale; [`Error::DeviceMismatch`];
    /// [`Error::Missing`] without x; the device's own.
    pub fn forward<'a>(&self, inputs: impl Into<SoftmaxInputs<'a>>) -> Result<Tensor> {
        let inputs = inputs.into();
        let Some(x) = inputs.x else { return Err(Error::Missing { tensor: "x" }) };
        let device = x.device();
        let plan = self.plan(&SoftmaxSpec::of(&inputs, None), &device.target())?;
        let mut y = Tensor::with_layout(device, x.dtype(), plan.output_layout())?;
        self.run(device, &plan, inputs, &mut y)?;
        Ok(y)
    }

    /// Replaces a tensor by its softmax; `inputs` is [`SoftmaxInputs::in_place`] with what else there is.
    ///
    /// ```
    /// use warpfold::{Device, Softmax, SoftmaxInputs, Tensor};
    /// let mut x = Tensor::from_slice(&Device::cpu(), &[1.0f32, 1.0, f32::NAN], [1, 3])?;
    /// let mask = Tensor::from_slice(&Device::cpu(), &[1u8, 1, 0], [3])?;
    /// Softmax::new().forward_in_place(SoftmaxInputs::in_place().mask(&mask), &mut x)?;
    /// assert_eq!(x.to_vec::<f32>()?, [0.5, 0.5, 0.0]);
    /// # Ok::<(), warpfold::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Softmax::forward`]; [`Error::Overlap`]; [`Error::PlanMismatch`] when the inputs name another x.
    pub fn forward_in_place<'a>(&self, inputs: SoftmaxInputs<'a>, x: impl Into<TensorMut<'a>>) -> Result<()> {
        let x = x.into();
        let device = x.device();
        let plan =
            self.plan(&SoftmaxSpec::of(&SoftmaxInputs { x: None, ..inputs }, Some(x.spec())), &device.target())?;
        self.run(device, &plan, inputs, x)
    }

    fn run<'a>(
        &self,
        device: &Device,
        plan: &SoftmaxPlan,
        inputs: SoftmaxInputs<'a>,
        y: impl Into<TensorMut<'a>>,
    ) -> Result<()> {
        let stream = device.stream();
        let mut workspace = plan.workspace(&stream)?;
        plan.forward_into(&stream, inputs, y, &mut workspace)
    }

    /// Decides how softmax of such tensors runs on a target: pure, without touching a device.
    ///
    /// # Errors
    /// As [`Softmax::forward`]; [`Error::Overlap`] and [`Error::DTypeMismatch`] of the output.
    pub fn plan(&self, spec: &SoftmaxSpec, target: &Target) -> Result<SoftmaxPlan> {
        SoftmaxPlan::new(SoftmaxProblem::new(self, spec)?, spec, target)
    }

    /// Computes the gradient of x from the result y and the gradient of y, into a new tensor in d_y's order of dimensions in
    /// memory. Masks and biases show in y; the gradient of a bias is that of x divided by the scale.
    ///
    /// ```
    /// use warpfold::{Device, Softmax, Tensor};
    /// let y = Tensor::from_slice(&Device::cpu(), &[0.25f32, 0.75], [1, 2])?;
    /// let d_y = Tensor::from_slice(&Device::cpu(), &[4.0f32, 0.0], [1, 2])?;
    /// assert_eq!(Softmax::new().backward(&y, &d_y)?.to_vec::<f32>()?, [0.75, -0.75]);
    /// # Ok::<(), warpfold::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Softmax::forward`].
    pub fn backward<'a>(&self, y: impl Into<TensorRef<'a>>, d_y: impl Into<TensorRef<'a>>) -> Result<Tensor> {
        let (y, d_y) = (y.into(), d_y.into());
        let device = y.device();
        let plan = self.plan_backward(&SoftmaxBackwardSpec::new(y.spec(), d_y.spec()), &device.target())?;
        let mut d_x = Tensor::with_layout(device, y.dtype(), plan.output_layout())?;
        let stream = device.stream();
        let mut workspace = plan.workspace(&stream)?;
        plan.backward_into(&stream, [y, d_y], &mut d_x, &mut workspace)?;
        Ok(d_x)
    }

    /// As [`Softmax::backward`], with a result that replaces d_y.
    ///
    /// # Errors
    /// As [`Softmax::forward`].
    pub fn backward_in_place<'a>(&self, y: impl Into<TensorRef<'a>>, d_y: impl Into<TensorMut<'a>>) -> Result<()> {
        let (y, d_y) = (y.into(), d_y.into());
        let device = y.device();
        let spec = SoftmaxBackwardSpec::new(y.spec(), d_y.spec()).in_place();
        let plan = self.plan_backward(&spec, &device.target())?;
        let stream = device.stream();
        let mut workspace = plan.workspace(&stream)?;
        plan.backward_in_place(&stream, y, d_y, &mut workspace)
    }

    /// As [`Softmax::plan`], for the backward pass.
    ///
    /// # Errors
    /// As [`Softmax::plan`].
    pub fn plan_backward(&self, spec: &SoftmaxBackwardSpec, target: &Target) -> Result<SoftmaxBackwardPlan> {
        SoftmaxBackwardPlan::new(SoftmaxBackwardProblem::new(self, spec)?, spec, target)
    }

    fn check_scale(&self) -> Result<()> {
        match self.scale.is_finite() && self.scale > 0.0 {
            true => Ok(()),
            false => Err(Error::Option {
                name: "the softmax scale",
                value: f64::from(self.scale),
                allowed: "finite and positive",
            }),
        }
    }
}
