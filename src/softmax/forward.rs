//! The forward pass: problem and plan.

use crate::attention::{Band, Mask, POSITION_MAX};
use crate::device::Stream;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::launch::{check_devices, launch, workspace};
use crate::params::SoftmaxForwardParams;
use crate::plan::{Execution, LaunchPlan, Params, check_output, check_planned, check_planned_tensor, check_target};
use crate::rows::{Rows, Rung, broadcast, explain, if_any, workspace_with};
use crate::softmax::{Softmax, SoftmaxInputs, SoftmaxSpec};
use crate::target::{GpuTarget, Target};
use crate::tensor::{Layout, TensorMut, TensorSpec};
use crate::variants::Operation;
use crate::workspace::Workspace;

/// A validated problem.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct SoftmaxProblem {
    /// x, y, bias and mask.
    pub rows: Rows<4>,
    pub dtype: DType,
    pub scale: f32,
    pub is_log: bool,
    /// Row r is query `r % len_q`, which sees the columns of the band.
    pub band: Option<(usize, Band)>,
    pub y: TensorSpec,
}

impl SoftmaxProblem {
    pub const X: usize = 0;
    pub const Y: usize = 1;
    pub const BIAS: usize = 2;
    pub const MASK: usize = 3;

    pub fn new(softmax: &Softmax, spec: &SoftmaxSpec) -> Result<SoftmaxProblem> {
        softmax.check_scale()?;
        let x = &spec.x;
        let compact = TensorSpec { layout: x.layout.compact(), alignment_bytes: 16, ..*x };
        // What is replaced lies where x lies, whatever output was named.
        let y = if spec.in_place { *x } else { spec.output.unwrap_or(compact) };
        if y.dtype != x.dtype {
            return Err(Error::DTypeMismatch { tensor: "the output", dtype: y.dtype, expected: x.dtype });
        }
        check_output("the output", &y)?;
        if let Some(mask) = spec.mask.filter(|mask| mask.dtype != DType::U8) {
            return Err(Error::DTypeMismatch { tensor: "mask", dtype: mask.dtype, expected: DType::U8 });
        }
        if let Some(bias) = spec.bias.filter(|bias| bias.dtype != x.dtype && bias.dtype != DType::F32) {
            return Err(Error::DTypeMismatch { tensor: "bias", dtype: bias.dtype, expected: x.dtype });
        }
        let shape = x.layout.shape();
        let over = |name, tensor: &Option<TensorSpec>| tensor.map(|spec| broadcast(name, &spec, shape)).transpose();
        let rows = Rows::new(
            [
                ("x", Some(*x)),
                ("the output", Some(y)),
                ("bias", over("bias", &spec.bias)?),
                ("mask", over("mask", &spec.mask)?),
            ],
            2,
        )?;
        let band = match softmax.mask == Mask::none() {
            true => None,
            false => {
                let [.., len_q, len_kv] = *shape else {
                    let expected = "[..., queries, keys] under a mask";
                    return Err(Error::Rank { tensor: "x", shape: x.layout.shape_dims(), expected });
                };
                to_position("the number of queries", len_q)?;
                to_position("the number of keys", len_kv)?;
                Some((len_q, softmax.mask.visibility(None)?.band(len_q, len_kv, len_kv)))
            }
        };
        Ok(SoftmaxProblem { rows, dtype: x.dtype, scale: softmax.scale, is_log: softmax.is_log, band, y })
    }

    fn rung(&self, target: &GpuTarget) -> Result<Rung> {
        let [.., bias, mask] = self.rows.tensors;
        let has_options = bias.is_some() || mask.is_some() || self.band.is_some();
        let rows = (self.rows.columns, self.rows.features(!has_options));
        Rung::new(Operation::SoftmaxForward, self.dtype, rows, target)
    }

    fn launches(&self, rung: &Rung) -> Result<Vec<LaunchPlan>> {
        let rows = &self.rows;
        rung.launches(rows, rung.blocks(rows), |shape| {
            let mut params = SoftmaxForwardParams {
                shape,
                x_rows: rows.params(Self::X),
                bias_rows: rows.params(Self::BIAS),
                mask_rows: rows.params(Self::MASK),
                y_rows: rows.params(Self::Y),
                scale: self.scale,
                is_log: u32::from(self.is_log),
                ..SoftmaxForwardParams::default()
            };
            if let Some((len_q, band)) = &self.band {
                let unbounded = |reach: Option<i64>| reach.map_or(i32::MAX, |reach| reach as i32);
                params.is_banded = 1;
                params.len_q = *len_q as u32;
                params.offset = band.position(0) as i32;
                params.window_left = unbounded(band.left());
                params.window_right = unbounded(band.right());
                params.prefix = band.prefix() as i32;
            }
            Params::SoftmaxForward(params)
        })
    }
}

/// Positions, lengths and windows stay below a limit, so that their sums fit 32 bits.
fn to_position(what: &'static str, value: usize) -> Result<()> {
    match value < POSITION_MAX as usize {
        true => Ok(()),
        false => Err(Error::TooLarge { what, value, limit: POSITION_MAX as usize - 1 }),
    }
}

/// A reusable decision: how softmax of one shape runs on one kind of device.
#[derive(Clone, Debug)]
pub struct SoftmaxPlan {
    spec: SoftmaxSpec,
    problem: SoftmaxProblem,
    target: Target,
    rung: Option<Rung>,
    execution: Execution<Vec<LaunchPlan>>,
}

impl SoftmaxPlan {
    pub(crate) fn new(problem: SoftmaxProblem, spec: &SoftmaxSpec, target: &Target) -> Result<SoftmaxPlan> {
        let (rung, execution) = match target {
            Target::Cpu => (None, Execution::cpu("softmax", problem.dtype)?),
            Target::Gpu(gpu) => {
                let rung = problem.rung(gpu)?;
                (Some(rung), Execution::Launch(problem.launches(&rung)?))
            }
        };
        Ok(SoftmaxPlan { spec: *spec, problem, target: *target, rung, execution })
    }

    /// The kernel launches in their order: one, or two where several blocks share a row; none on the CPU device.
    pub fn launches(&self) -> Vec<&LaunchPlan> {
        self.execution.launch().into_iter().flatten().collect()
    }

    pub(crate) fn output_layout(&self) -> Layout {
        self.problem.y.layout
    }

    /// The plan in words.
    pub fn explain(&self) -> String {
        let SoftmaxProblem { rows, dtype, is_log, .. } = &self.problem;
        let what = if *is_log { "log-softmax" } else { "softmax" };
        let what =
            format!("{what} forward, {dtype}: {} rows of {}, {} bytes", rows.rows, rows.columns, rows.traffic_bytes());
        explain(what, self.rung.map(|rung| (rung, 1)), rows.columns, &self.target, &self.launches())
    }

    /// The scratch memory that one running call needs.
    ///
    /// # Errors
    /// [`Error::PlanMismatch`] when the stream's device is not of the plan's target; [`Error::Cuda`] when the GPU has no
    /// memory left.
    pub fn workspace(&self, stream: &Stream) -> Result<Workspace> {
        let launches = self.launches();
        check_target(launches.iter().copied(), &self.target, &stream.device().target())?;
        let partials = self.rung.map_or(0, |rung| rung.partials(self.problem.rows.rows, 2));
        let scratch = crate::cpu::softmax::scratch_elements(self.problem.rows.columns);
        let workspace = workspace(&launches, stream, scratch)?;
        workspace_with(workspace, stream.device(), &[partials])
    }

    /// Computes into a given tensor: allocates nothing and waits for nothing. In place, the inputs have no x.
    ///
    /// # Errors
    /// [`Error::PlanMismatch`]; [`Error::DeviceMismatch`]; [`Error::Cuda`].
    pub fn forward_into<'a>(
        &self,
        stream: &Stream,
        inputs: impl Into<SoftmaxInputs<'a>>,
        y: impl Into<TensorMut<'a>>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let (inputs, mut y) = (inputs.into(), y.into());
        let device = stream.device();
        check_target(self.execution.launch().into_iter().flatten(), &self.target, &device.target())?;
        check_planned_tensor("the output", &y.spec(), &self.problem.y)?;
        let planned_x = (!self.spec.in_place).then_some(self.spec.x);
        for (what, given, planned) in
            [("x", inputs.x, planned_x), ("bias", inputs.bias, self.spec.bias), ("mask", inputs.mask, self.spec.mask)]
        {
            check_planned(what, &given.is_some(), &planned.is_some())?;
            if let (Some(given), Some(planned)) = (given, planned) {
                check_planned_tensor(what, &given.spec(), &planned)?;
            }
        }
        let reads = [inputs.x, inputs.bias, inputs.mask];
        check_devices(device, &["x", "bias", "mask"], &reads, &["the output"], &[Some(&mut y)])?;
        let Execution::Launch(plans) = &self.execution else {
            return crate::cpu::softmax::forward(device.instruction_set(), &self.problem, &inputs, &mut y, workspace);
        };
        let [partials] = workspace.device_tensors()?;
        let mut partials = if_any(partials);
        let mut y = y.reborrow();
        for plan in plans {
            launch(device, plan, &reads, &mut [Some(&mut y), partials.as_mut()])?;
        }
        Ok(())
    }
}
