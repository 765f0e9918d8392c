//! Softmax over the last axis.

use crate::device::Stream;
use crate::error::Result;
use crate::launch::{check_devices, launch, workspace};
use crate::params::SoftmaxForwardParams;
use crate::plan::{Execution, LaunchPlan, Params, check_planned_tensor, check_target};
use crate::rows::Rows;
use crate::target::Target;
use crate::tensor::{Tensor, TensorMut, TensorRef, TensorSpec};
use crate::variants::Operation;
use crate::workspace::Workspace;

/// Softmax over the last axis: `y[r, c] = exp(x[r, c] - max_r) / sum_c exp(x[r, c] - max_r)`.
///
/// # Shapes
/// `[..., columns]` of any length and alignment; leading dimensions with any strides, the last with stride 1.
///
/// # Numerics
/// Maximum and sum are f32. A row of `-inf` gives 0; a NaN or `+inf` makes its row NaN.
///
/// # Example
/// ```
/// use warpfold::{Device, Softmax, Tensor};
/// let x = Tensor::from_slice(&Device::best(), &[0.0f32, 2.0f32.ln()], [1, 2])?;
/// let y = Softmax::new().forward(&x)?.to_vec::<f32>()?;
/// assert!((y[0] - 1.0 / 3.0).abs() < 1e-6 && (y[1] - 2.0 / 3.0).abs() < 1e-6);
/// # Ok::<(), warpfold::Error>(())
/// ```
///
/// # Source
/// Milakov, Gimelshein: Online normalizer calculation for softmax (2018), for rows that are streamed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Softmax {}

impl Softmax {
    /// Plain softmax.
    pub fn new() -> Softmax {
        Softmax::default()
    }

    /// Computes into a new tensor on x's device, in x's order of dimensions in memory, without gaps.
    ///
    /// # Errors
    /// [`crate::Error::Rank`] for a scalar; [`crate::Error::Empty`]; [`crate::Error::LastStride`]; [`crate::Error::TooManyStrides`];
    /// [`crate::Error::TooLarge`]; [`crate::Error::UnsupportedDType`] for integers; the device's own.
    pub fn forward<'a>(&self, x: impl Into<TensorRef<'a>>) -> Result<Tensor> {
        let x = x.into();
        let device = x.device();
        let plan = self.plan(&x.spec(), None, &device.target())?;
        let mut y = Tensor::with_layout(device, x.dtype(), plan.y.layout)?;
        let stream = device.stream();
        let mut workspace = plan.workspace(&stream)?;
        plan.forward_into(&stream, x, &mut y, &mut workspace)?;
        Ok(y)
    }

    /// Decides how softmax of such a tensor runs on a target. `output` is the tensor to write to, when it is not the
    /// one that [`Softmax::forward`] makes.
    ///
    /// # Errors
    /// As [`Softmax::forward`]; [`crate::Error::Overlap`], [`crate::Error::Shape`] and [`crate::Error::DTypeMismatch`] of the output.
    pub fn plan(&self, x: &TensorSpec, output: Option<&TensorSpec>, target: &Target) -> Result<SoftmaxPlan> {
        let y = output.copied().unwrap_or(TensorSpec { layout: x.layout.compact(), alignment_bytes: 16, ..*x });
        let rows = Rows::new(x, &y)?;
        let execution = match target {
            Target::Cpu => Execution::cpu("softmax", rows.dtype)?,
            Target::Gpu(gpu) => {
                let variant = rows.variant(Operation::SoftmaxForward, gpu)?;
                let params = SoftmaxForwardParams {
                    x_strides: rows.x_params(),
                    y_strides: rows.y_params(),
                    n1: rows.sizes[1] as u32,
                    n2: rows.sizes[2] as u32,
                    rows: rows.rows as u32,
                    columns: rows.columns as u32,
                    ..SoftmaxForwardParams::default()
                };
                Execution::Launch(rows.launch(variant, Params::SoftmaxForward(params))?)
            }
        };
        Ok(SoftmaxPlan { x: *x, y, rows, target: *target, execution })
    }
}

/// A reusable decision: how softmax of one shape runs on one kind of device.
#[derive(Clone, Debug)]
pub struct SoftmaxPlan {
    x: TensorSpec,
    y: TensorSpec,
    rows: Rows,
    target: Target,
    execution: Execution<LaunchPlan>,
}

impl SoftmaxPlan {
    /// The kernel launch; `None` on the CPU device.
    pub fn launch(&self) -> Option<&LaunchPlan> {
        self.execution.launch()
    }

    /// The plan in words.
    pub fn explain(&self) -> String {
        let Rows { dtype, rows, columns, .. } = self.rows;
        let what = format!("softmax forward, {dtype}: {rows} rows of {columns}, {} bytes", self.rows.traffic_bytes());
        match &self.execution {
            Execution::Cpu => format!("{what}\non the CPU: rows in parallel, f32 inside"),
            Execution::Launch(launch) => format!("{what}\non {}\n{launch}", self.target),
        }
    }

    /// The scratch memory that one running call needs.
    ///
    /// # Errors
    /// [`crate::Error::PlanMismatch`] when the stream's device is not of the plan's target.
    pub fn workspace(&self, stream: &Stream) -> Result<Workspace> {
        check_target(self.launch().as_slice(), &self.target, &stream.device().target())?;
        workspace(self.launch().as_slice(), stream, self.rows.columns)
    }

    /// Computes into a given tensor: allocates nothing and waits for nothing.
    ///
    /// # Errors
    /// [`crate::Error::PlanMismatch`]; [`crate::Error::DeviceMismatch`]; [`crate::Error::Cuda`].
    pub fn forward_into<'a>(
        &self,
        stream: &Stream,
        x: impl Into<TensorRef<'a>>,
        y: impl Into<TensorMut<'a>>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let (x, mut y) = (x.into(), y.into());
        let device = stream.device();
        check_target(self.launch().as_slice(), &self.target, &device.target())?;
        check_planned_tensor("x", &x.spec(), &self.x)?;
        check_planned_tensor("the output", &y.spec(), &self.y)?;
        let reads = [Some(x)];
        let mut writes = [Some(&mut y)];
        check_devices(device, &["x"], &reads, &["the output"], &writes)?;
        match &self.execution {
            Execution::Cpu => crate::cpu::softmax::forward(&self.rows, &x, &mut y, workspace),
            Execution::Launch(plan) => launch(device, plan, &reads, &mut writes),
        }
    }
}
