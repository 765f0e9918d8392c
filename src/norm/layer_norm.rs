//! Layer norm over the last axis.

use crate::device::Stream;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::launch::{check_devices, launch, workspace};
use crate::params::LayerNormForwardParams;
use crate::plan::{
    Execution, LaunchPlan, Params, check_last_stride, check_planned, check_planned_tensor, check_target,
};
use crate::rows::Rows;
use crate::target::Target;
use crate::tensor::{Dims, Layout, Tensor, TensorMut, TensorRef, TensorSpec};
use crate::variants::Operation;
use crate::workspace::Workspace;

/// Layer norm over the last axis: `y = (x - mean) * rstd * weight + bias`, `rstd = 1 / sqrt(var + eps)`.
///
/// # Shapes
/// x and y `[..., columns]`, any length and alignment; weight and bias `[columns]`, of x's type, each optional;
/// mean and rstd f32 `[...]`, contiguous.
///
/// # Numerics
/// Mean, then the mean of the squared distances from it, in f32: never `E[x^2] - E[x]^2`, which loses all digits
/// when the mean is large. The variance is the biased one, `sum / columns`.
///
/// # Example
/// ```
/// use warpfold::{Device, LayerNorm, LayerNormInputs, Tensor};
/// let x = Tensor::from_slice(&Device::best(), &[1.0f32, 3.0], [1, 2])?;
/// let y = LayerNorm::new().eps(0.0).forward(&LayerNormInputs::new(&x))?.output;
/// assert_eq!(y.to_vec::<f32>()?, [-1.0, 1.0]);
/// # Ok::<(), warpfold::Error>(())
/// ```
///
/// # Source
/// Ba, Kiros, Hinton: Layer Normalization (2016), section 3.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerNorm {
    eps: f32,
    return_stats: bool,
}

impl Default for LayerNorm {
    fn default() -> LayerNorm {
        LayerNorm { eps: 1e-5, return_stats: false }
    }
}

impl LayerNorm {
    /// `eps` 1e-5; mean and rstd are not returned.
    pub fn new() -> LayerNorm {
        LayerNorm::default()
    }

    /// Sets what is added to the variance; finite and not negative.
    pub fn eps(mut self, eps: f32) -> LayerNorm {
        self.eps = eps;
        self
    }

    /// Returns mean and rstd too.
    pub fn return_stats(mut self, return_stats: bool) -> LayerNorm {
        self.return_stats = return_stats;
        self
    }

    /// Computes into new tensors on x's device, in x's order of dimensions in memory, without gaps.
    ///
    /// # Errors
    /// [`Error::Rank`], [`Error::Empty`], [`Error::Shape`], [`Error::LastStride`], [`Error::TooManyStrides`],
    /// [`Error::TooLarge`], [`Error::DTypeMismatch`] of weight and bias, [`Error::UnsupportedDType`] for integers,
    /// [`Error::Option`] for a bad `eps`, [`Error::DeviceMismatch`]; the device's own.
    pub fn forward(&self, inputs: &LayerNormInputs<'_>) -> Result<LayerNormForward> {
        let device = inputs.x.device();
        let plan = self.plan(&inputs.spec(), &device.target())?;
        let leading = &inputs.x.shape()[..inputs.x.shape().len() - 1];
        let leading = Layout::contiguous(leading)?;
        let stats = || self.return_stats.then(|| Tensor::with_layout(device, DType::F32, leading)).transpose();
        let mut forward = LayerNormForward {
            output: Tensor::with_layout(device, inputs.x.dtype(), plan.y.layout)?,
            mean: stats()?,
            rstd: stats()?,
        };
        let stream = device.stream();
        let mut workspace = plan.workspace(&stream)?;
        let mut outputs = LayerNormOutputs::new(&mut forward.output);
        if let (Some(mean), Some(rstd)) = (&mut forward.mean, &mut forward.rstd) {
            outputs = outputs.stats(mean, rstd);
        }
        plan.forward_into(&stream, inputs, outputs, &mut workspace)?;
        Ok(forward)
    }

    /// Decides how layer norm of such tensors runs on a target.
    ///
    /// # Errors
    /// As [`LayerNorm::forward`]; [`Error::Overlap`] of a given output.
    pub fn plan(&self, spec: &LayerNormSpec, target: &Target) -> Result<LayerNormPlan> {
        let x = &spec.x;
        if !(self.eps.is_finite() && self.eps >= 0.0) {
            return Err(Error::Option { name: "eps", value: f64::from(self.eps), allowed: "finite and not negative" });
        }
        let y = spec.output.unwrap_or(TensorSpec { layout: x.layout.compact(), alignment_bytes: 16, ..*x });
        let rows = Rows::new(x, &y)?;
        for (tensor, vector) in [("weight", &spec.weight), ("bias", &spec.bias)] {
            let Some(vector) = vector else { continue };
            if vector.layout.shape() != [rows.columns] {
                return Err(Error::Shape {
                    tensor,
                    shape: vector.layout.shape_dims(),
                    expected: Dims::of(&[rows.columns]),
                    reason: "it has one value a column",
                });
            }
            if vector.dtype != x.dtype {
                return Err(Error::DTypeMismatch { tensor, dtype: vector.dtype, expected: x.dtype });
            }
            check_last_stride(tensor, vector)?;
        }
        let execution = match target {
            Target::Cpu => Execution::cpu("layer norm", rows.dtype)?,
            Target::Gpu(gpu) => {
                let variant = rows.variant(Operation::LayerNormForward, gpu)?;
                let params = LayerNormForwardParams {
                    x_strides: rows.x_params(),
                    y_strides: rows.y_params(),
                    n1: rows.sizes[1] as u32,
                    n2: rows.sizes[2] as u32,
                    rows: rows.rows as u32,
                    columns: rows.columns as u32,
                    eps: self.eps,
                    ..LayerNormForwardParams::default()
                };
                Execution::Launch(rows.launch(variant, Params::LayerNormForward(params))?)
            }
        };
        Ok(LayerNormPlan { eps: self.eps, spec: *spec, y, rows, target: *target, execution })
    }
}

/// The tensors of one call.
#[derive(Clone, Copy)]
pub struct LayerNormInputs<'a> {
    pub(crate) x: TensorRef<'a>,
    pub(crate) weight: Option<TensorRef<'a>>,
    pub(crate) bias: Option<TensorRef<'a>>,
}

impl<'a> LayerNormInputs<'a> {
    /// Normalises x; weight 1, bias 0.
    pub fn new(x: impl Into<TensorRef<'a>>) -> LayerNormInputs<'a> {
        LayerNormInputs { x: x.into(), weight: None, bias: None }
    }

    /// Multiplies each column by a weight, `[columns]`.
    pub fn weight(mut self, weight: impl Into<TensorRef<'a>>) -> LayerNormInputs<'a> {
        self.weight = Some(weight.into());
        self
    }

    /// Adds a bias to each column, `[columns]`.
    pub fn bias(mut self, bias: impl Into<TensorRef<'a>>) -> LayerNormInputs<'a> {
        self.bias = Some(bias.into());
        self
    }

    /// What a plan reads of these tensors.
    pub fn spec(&self) -> LayerNormSpec {
        LayerNormSpec {
            x: self.x.spec(),
            weight: self.weight.map(|weight| weight.spec()),
            bias: self.bias.map(|bias| bias.spec()),
            output: None,
        }
    }
}

/// What a plan reads of a call: no contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerNormSpec {
    pub(crate) x: TensorSpec,
    pub(crate) weight: Option<TensorSpec>,
    pub(crate) bias: Option<TensorSpec>,
    pub(crate) output: Option<TensorSpec>,
}

impl LayerNormSpec {
    /// A call without tensors at hand.
    pub fn new(x: TensorSpec) -> LayerNormSpec {
        LayerNormSpec { x, weight: None, bias: None, output: None }
    }

    /// With a weight.
    pub fn weight(mut self, weight: TensorSpec) -> LayerNormSpec {
        self.weight = Some(weight);
        self
    }

    /// With a bias.
    pub fn bias(mut self, bias: TensorSpec) -> LayerNormSpec {
        self.bias = Some(bias);
        self
    }

    /// Plans for an output other than the one that the owning call makes.
    pub fn output(mut self, output: TensorSpec) -> LayerNormSpec {
        self.output = Some(output);
        self
    }
}

/// The result of a forward pass.
#[derive(Debug)]
pub struct LayerNormForward {
    /// The normalised tensor, of x's shape and type.
    pub output: Tensor,
    /// Each row's mean, f32, when asked for.
    pub mean: Option<Tensor>,
    /// Each row's `1 / sqrt(var + eps)`, f32, when asked for.
    pub rstd: Option<Tensor>,
}

/// Where a planned call writes.
pub struct LayerNormOutputs<'a> {
    pub(crate) output: TensorMut<'a>,
    pub(crate) mean: Option<TensorMut<'a>>,
    pub(crate) rstd: Option<TensorMut<'a>>,
}

impl<'a> LayerNormOutputs<'a> {
    /// Writes the normalised tensor only.
    pub fn new(output: impl Into<TensorMut<'a>>) -> LayerNormOutputs<'a> {
        LayerNormOutputs { output: output.into(), mean: None, rstd: None }
    }

    /// Writes mean and rstd too: f32, of x's leading dimensions, contiguous.
    pub fn stats(mut self, mean: impl Into<TensorMut<'a>>, rstd: impl Into<TensorMut<'a>>) -> LayerNormOutputs<'a> {
        self.mean = Some(mean.into());
        self.rstd = Some(rstd.into());
        self
    }
}

/// A reusable decision: how layer norm of one shape runs on one kind of device.
#[derive(Clone, Debug)]
pub struct LayerNormPlan {
    eps: f32,
    spec: LayerNormSpec,
    y: TensorSpec,
    rows: Rows,
    target: Target,
    execution: Execution<LaunchPlan>,
}

impl LayerNormPlan {
    /// The kernel launch; `None` on the CPU device.
    pub fn launch(&self) -> Option<&LaunchPlan> {
        self.execution.launch()
    }

    /// The plan in words.
    pub fn explain(&self) -> String {
        let Rows { dtype, rows, columns, .. } = self.rows;
        let what =
            format!("layer norm forward, {dtype}: {rows} rows of {columns}, {} bytes", self.rows.traffic_bytes());
        match &self.execution {
            Execution::Cpu => format!("{what}\non the CPU: rows in parallel, f32 inside"),
            Execution::Launch(launch) => format!("{what}\non {}\n{launch}", self.target),
        }
    }

    /// The scratch memory that one running call needs.
    ///
    /// # Errors
    /// [`Error::PlanMismatch`] when the stream's device is not of the plan's target.
    pub fn workspace(&self, stream: &Stream) -> Result<Workspace> {
        check_target(self.launch().as_slice(), &self.target, &stream.device().target())?;
        workspace(self.launch().as_slice(), stream, self.rows.columns)
    }

    /// Computes into given tensors: allocates nothing and waits for nothing.
    ///
    /// # Errors
    /// [`Error::PlanMismatch`]; [`Error::DeviceMismatch`]; [`Error::Cuda`].
    pub fn forward_into(
        &self,
        stream: &Stream,
        inputs: &LayerNormInputs<'_>,
        outputs: LayerNormOutputs<'_>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let mut outputs = outputs;
        let device = stream.device();
        check_target(self.launch().as_slice(), &self.target, &device.target())?;
        check_planned_tensor("x", &inputs.x.spec(), &self.spec.x)?;
        check_planned_tensor("the output", &outputs.output.spec(), &self.y)?;
        for (what, given, planned) in
            [("weight", &inputs.weight, &self.spec.weight), ("bias", &inputs.bias, &self.spec.bias)]
        {
            check_planned(what, &given.is_some(), &planned.is_some())?;
            if let (Some(given), Some(planned)) = (given, planned) {
                check_planned_tensor(what, &given.spec(), planned)?;
            }
        }
        let leading = Layout::contiguous(&self.spec.x.layout.shape()[..self.spec.x.layout.rank() - 1])?;
        let stats = TensorSpec { dtype: DType::F32, layout: leading, alignment_bytes: 4 };
        for (what, given) in [("mean", &outputs.mean), ("rstd", &outputs.rstd)] {
            if let Some(given) = given {
                check_planned_tensor(what, &given.spec(), &stats)?;
            }
        }
        let reads = [Some(inputs.x), inputs.weight, inputs.bias];
        let LayerNormOutputs { output, mean, rstd } = &mut outputs;
        let mut writes = [Some(output), mean.as_mut(), rstd.as_mut()];
        check_devices(device, &["x", "weight", "bias"], &reads, &["the output", "mean", "rstd"], &writes)?;
        match &self.execution {
            Execution::Cpu => crate::cpu::layer_norm::forward(&self.rows, self.eps, inputs, &mut outputs, workspace),
            Execution::Launch(plan) => launch(device, plan, &reads, &mut writes),
        }
    }
}
