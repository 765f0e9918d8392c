//! The backward pass: problem and plan.

use crate::device::Stream;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::launch::{check_devices, launch, workspace};
use crate::params::SoftmaxBackwardParams;
use crate::plan::{Execution, LaunchPlan, Params, check_output, check_planned, check_planned_tensor, check_target};
use crate::rows::{Rows, Rung, explain, if_any, workspace_with};
use crate::softmax::{Softmax, SoftmaxBackwardSpec};
use crate::target::{GpuTarget, Target};
use crate::tensor::{Layout, TensorMut, TensorRef, TensorSpec};
use crate::variants::Operation;
use crate::workspace::Workspace;

/// A validated problem.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct SoftmaxBackwardProblem {
    /// y, d_y and d_x.
    pub rows: Rows<3>,
    pub dtype: DType,
    pub scale: f32,
    pub is_log: bool,
    pub d_x: TensorSpec,
}

impl SoftmaxBackwardProblem {
    pub const Y: usize = 0;
    pub const D_Y: usize = 1;
    pub const D_X: usize = 2;

    pub fn new(softmax: &Softmax, spec: &SoftmaxBackwardSpec) -> Result<SoftmaxBackwardProblem> {
        softmax.check_scale()?;
        let SoftmaxBackwardSpec { y, d_y, d_x, in_place } = spec;
        let compact = TensorSpec { layout: d_y.layout.compact(), alignment_bytes: 16, ..*d_y };
        // What is replaced lies where d_y lies, whatever result was named.
        let d_x = if *in_place { *d_y } else { d_x.unwrap_or(compact) };
        for (tensor, spec) in [("d_y", d_y), ("d_x", &d_x)] {
            if spec.dtype != y.dtype {
                return Err(Error::DTypeMismatch { tensor, dtype: spec.dtype, expected: y.dtype });
            }
        }
        check_output("d_x", &d_x)?;
        let rows = Rows::new([("y", Some(*y)), ("d_y", Some(*d_y)), ("d_x", Some(d_x))], 0)?;
        Ok(SoftmaxBackwardProblem { rows, dtype: y.dtype, scale: softmax.scale, is_log: softmax.is_log, d_x })
    }

    fn rung(&self, target: &GpuTarget) -> Result<Rung> {
        let rows = (self.rows.columns, self.rows.features(true));
        Rung::new(Operation::SoftmaxBackward, self.dtype, rows, target)
    }

    fn launches(&self, rung: &Rung) -> Result<Vec<LaunchPlan>> {
        let rows = &self.rows;
        rung.launches(rows, rung.blocks(rows), |shape| {
            Params::SoftmaxBackward(SoftmaxBackwardParams {
                shape,
                y_rows: rows.params(Self::Y),
                d_y_rows: rows.params(Self::D_Y),
                d_x_rows: rows.params(Self::D_X),
                scale: self.scale,
                is_log: u32::from(self.is_log),
                ..SoftmaxBackwardParams::default()
            })
        })
    }
}

/// A reusable decision: how the backward pass of softmax of one shape runs on one kind of device.
#[derive(Clone, Debug)]
pub struct SoftmaxBackwardPlan {
    spec: SoftmaxBackwardSpec,
    problem: SoftmaxBackwardProblem,
    target: Target,
    rung: Option<Rung>,
    execution: Execution<Vec<LaunchPlan>>,
}

impl SoftmaxBackwardPlan {
    pub(crate) fn new(
        problem: SoftmaxBackwardProblem,
        spec: &SoftmaxBackwardSpec,
        target: &Target,
    ) -> Result<SoftmaxBackwardPlan> {
        let (rung, execution) = match target {
            Target::Cpu => (None, Execution::cpu("softmax", problem.dtype)?),
            Target::Gpu(gpu) => {
                let rung = problem.rung(gpu)?;
                (Some(rung), Execution::Launch(problem.launches(&rung)?))
            }
        };
        Ok(SoftmaxBackwardPlan { spec: *spec, problem, target: *target, rung, execution })
    }

    /// The kernel launches in their order: one, or two where several blocks share a row; none on the CPU device.
    pub fn launches(&self) -> Vec<&LaunchPlan> {
        self.execution.launch().into_iter().flatten().collect()
    }

    pub(crate) fn output_layout(&self) -> Layout {
        self.problem.d_x.layout
    }

    /// The plan in words.
    pub fn explain(&self) -> String {
        let SoftmaxBackwardProblem { rows, dtype, is_log, .. } = &self.problem;
        let what = if *is_log { "log-softmax" } else { "softmax" };
        let what =
            format!("{what} backward, {dtype}: {} rows of {}, {} bytes", rows.rows, rows.columns, rows.traffic_bytes());
        explain(what, self.rung.map(|rung| (rung, 2)), rows.columns, &self.target, &self.launches())
    }

    /// The scratch memory that one running call needs.
    ///
    /// # Errors
    /// [`Error::PlanMismatch`] when the stream's device is not of the plan's target; [`Error::Cuda`] when the GPU has no
    /// memory left.
    pub fn workspace(&self, stream: &Stream) -> Result<Workspace> {
        let launches = self.launches();
        check_target(launches.iter().copied(), &self.target, &stream.device().target())?;
        let partials = self.rung.map_or(0, |rung| rung.partials(self.problem.rows.rows, 1));
        let scratch = crate::cpu::softmax::scratch_elements(self.problem.rows.columns);
        let workspace = workspace(&launches, stream, scratch)?;
        workspace_with(workspace, stream.device(), &[partials])
    }

    /// Computes from y and d_y into a given tensor: allocates nothing and waits for nothing.
    ///
    /// # Errors
    /// [`Error::PlanMismatch`]; [`Error::DeviceMismatch`]; [`Error::Cuda`].
    pub fn backward_into<'a>(
        &self,
        stream: &Stream,
        [y, d_y]: [TensorRef<'a>; 2],
        d_x: impl Into<TensorMut<'a>>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        self.run(stream, y, Some(d_y), d_x.into(), workspace)
    }

    /// As [`SoftmaxBackwardPlan::backward_into`], for a plan whose result replaces d_y.
    ///
    /// # Errors
    /// As [`SoftmaxBackwardPlan::backward_into`].
    pub fn backward_in_place<'a>(
        &self,
        stream: &Stream,
        y: impl Into<TensorRef<'a>>,
        d_y: impl Into<TensorMut<'a>>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        self.run(stream, y.into(), None, d_y.into(), workspace)
    }

    fn run<'a>(
        &self,
        stream: &Stream,
        y: TensorRef<'a>,
        d_y: Option<TensorRef<'a>>,
        mut d_x: TensorMut<'a>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let device = stream.device();
        check_target(self.execution.launch().into_iter().flatten(), &self.target, &device.target())?;
        check_planned_tensor("y", &y.spec(), &self.spec.y)?;
        check_planned("a d_y that is not replaced", &d_y.is_some(), &!self.spec.in_place)?;
        if let Some(d_y) = d_y {
            check_planned_tensor("d_y", &d_y.spec(), &self.spec.d_y)?;
        }
        check_planned_tensor("d_x", &d_x.spec(), &self.problem.d_x)?;
        let reads = [Some(y), d_y];
        check_devices(device, &["y", "d_y"], &reads, &["d_x"], &[Some(&mut d_x)])?;
        let Execution::Launch(plans) = &self.execution else {
            return crate::cpu::softmax::backward(device.instruction_set(), &self.problem, y, d_y, &mut d_x, workspace);
        };
        let [partials] = workspace.device_tensors()?;
        let mut partials = if_any(partials);
        let mut d_x = d_x.reborrow();
        for plan in plans {
            launch(device, plan, &reads, &mut [Some(&mut d_x), partials.as_mut()])?;
        }
        Ok(())
    }
}
