//! The forward pass: problem and plan.

use crate::device::Stream;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::launch::{check_devices, launch, workspace};
use crate::norm::{Norm, NormInputs, NormOutputs, NormSpec, check_floats, check_vector, stats_spec};
use crate::params::NormForwardParams;
use crate::plan::{Execution, LaunchPlan, Params, check_output, check_planned, check_planned_tensor, check_target};
use crate::rows::{Dropout, Rows, RowsOf, Rung, element_type, explain, if_any, kernel_dtype, workspace_with};
use crate::target::{GpuTarget, Target};
use crate::tensor::{TensorMut, TensorSpec};
use crate::variants::Operation;
use crate::workspace::Workspace;

/// A validated problem.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct NormProblem {
    /// x, residual, y, and the sum of x and residual.
    pub rows: Rows<4>,
    pub is_centered: bool,
    /// Added to the weight.
    pub weight_offset: f32,
    pub eps: f32,
    pub dropout: Option<Dropout>,
    /// The type that the sum is rounded to, also where it is not written.
    pub sum_dtype: DType,
    pub weight_dtype: Option<DType>,
    pub bias_dtype: Option<DType>,
}

impl NormProblem {
    pub const X: usize = 0;
    pub const RESIDUAL: usize = 1;
    pub const Y: usize = 2;
    pub const SUM: usize = 3;

    pub fn new(norm: &Norm, spec: &NormSpec) -> Result<NormProblem> {
        norm.check_eps()?;
        let dropout = Dropout::new(norm.dropout)?;
        let NormSpec { x, residual, weight, bias, .. } = spec;
        let y = output(spec);
        check_output("the output", &y)?;
        let sum = sum(spec, dropout.is_some());
        if spec.sum.is_some() && sum.is_none() {
            return Err(Error::Missing { tensor: "residual" });
        }
        if let Some(sum) = &sum {
            check_output("the sum", sum)?;
        }
        let rows = Rows::new([("x", Some(*x)), ("residual", *residual), ("the output", Some(y)), ("the sum", sum)], 0)?;
        check_vector("weight", weight, rows.columns)?;
        check_vector("bias", bias, rows.columns)?;
        let dtype = |spec: &Option<TensorSpec>| spec.map(|spec| spec.dtype);
        Ok(NormProblem {
            rows,
            is_centered: norm.is_centered,
            weight_offset: norm.weight_offset(),
            eps: norm.eps,
            dropout,
            sum_dtype: sum.map_or(x.dtype, |sum| sum.dtype),
            weight_dtype: dtype(weight),
            bias_dtype: dtype(bias),
        })
    }

    pub fn rung(&self, target: &GpuTarget) -> Result<Rung> {
        let [x, residual, y, sum] = self.rows.tensors;
        let dtype_of = |tensor: Option<RowsOf>| tensor.map(|tensor| tensor.dtype);
        let others = [dtype_of(y), dtype_of(sum), self.weight_dtype, self.bias_dtype].into_iter().flatten();
        let dtype = kernel_dtype([x, residual].into_iter().filter_map(dtype_of), others.clone());
        let is_plain = self.dropout.is_none() && others.clone().all(|other| other == dtype);
        let rows = (self.rows.columns, self.rows.features(is_plain));
        Rung::new(Operation::NormForward, dtype, rows, target)
    }

    pub fn launches(&self, rung: &Rung) -> Result<Vec<LaunchPlan>> {
        let rows = &self.rows;
        rung.launches(rows, rung.blocks(rows), |shape| {
            Params::NormForward(NormForwardParams {
                shape,
                x_rows: rows.params(Self::X),
                residual_rows: rows.params(Self::RESIDUAL),
                y_rows: rows.params(Self::Y),
                sum_rows: rows.params(Self::SUM),
                dropout: Dropout::params(self.dropout),
                weight_type: self.weight_dtype.map_or(0, element_type),
                bias_type: self.bias_dtype.map_or(0, element_type),
                sum_type: element_type(self.sum_dtype),
                is_centered: u32::from(self.is_centered),
                weight_offset: self.weight_offset,
                eps: self.eps,
                ..NormForwardParams::default()
            })
        })
    }
}

/// The output that is planned for.
fn output(spec: &NormSpec) -> TensorSpec {
    spec.output.unwrap_or(TensorSpec { layout: spec.x.layout.compact(), alignment_bytes: 16, ..spec.x })
}

/// The sum that is planned for, where x is not what is normalised.
fn sum(spec: &NormSpec, has_dropout: bool) -> Option<TensorSpec> {
    let NormSpec { x, residual, sum, .. } = spec;
    let default = || TensorSpec { layout: x.layout.compact(), alignment_bytes: 16, ..residual.unwrap_or(*x) };
    (residual.is_some() || has_dropout).then(|| sum.unwrap_or_else(default))
}

/// A reusable decision: how a norm of one shape runs on one kind of device.
#[derive(Clone, Debug)]
pub struct NormPlan {
    norm: Norm,
    spec: NormSpec,
    problem: NormProblem,
    target: Target,
    rung: Option<Rung>,
    execution: Execution<Vec<LaunchPlan>>,
}

impl NormPlan {
    pub(crate) fn new(norm: &Norm, problem: NormProblem, spec: &NormSpec, target: &Target) -> Result<NormPlan> {
        let all = [Some(spec.x), spec.residual, spec.weight, spec.bias, Some(output(spec)), spec.sum];
        check_floats(all.iter().flatten(), norm.name(), target)?;
        let (rung, execution) = match target {
            Target::Cpu => (None, Execution::Cpu),
            Target::Gpu(gpu) => {
                let rung = problem.rung(gpu)?;
                (Some(rung), Execution::Launch(problem.launches(&rung)?))
            }
        };
        Ok(NormPlan { norm: *norm, spec: *spec, problem, target: *target, rung, execution })
    }

    /// The kernel launches in their order: one, or two where several blocks share a row; none on the CPU device.
    pub fn launches(&self) -> Vec<&LaunchPlan> {
        self.execution.launch().into_iter().flatten().collect()
    }

    pub(crate) fn output_spec(&self) -> TensorSpec {
        output(&self.spec)
    }

    pub(crate) fn sum_spec(&self) -> Option<TensorSpec> {
        sum(&self.spec, self.problem.dropout.is_some())
    }

    pub(crate) fn stats_spec(&self) -> Result<TensorSpec> {
        stats_spec(&self.spec.x)
    }

    /// The plan in words.
    pub fn explain(&self) -> String {
        let rows = &self.problem.rows;
        let mut what = format!("{} forward, {}", self.norm.name(), self.spec.x.dtype);
        if let Some(residual) = &self.spec.residual {
            what += &format!(" + residual {}", residual.dtype);
        }
        if self.problem.dropout.is_some() {
            what += &format!(", dropout {}", self.norm.dropout);
        }
        what += &format!(": {} rows of {}, {} bytes", rows.rows, rows.columns, rows.traffic_bytes());
        let reads = 1 + usize::from(self.spec.residual.is_some());
        explain(what, self.rung.map(|rung| (rung, reads)), rows.columns, &self.target, &self.launches())
    }

    /// The scratch memory that one running call needs.
    ///
    /// # Errors
    /// [`crate::Error::PlanMismatch`] when the stream's device is not of the plan's target; [`crate::Error::Cuda`] when the
    /// GPU has no memory left.
    pub fn workspace(&self, stream: &Stream) -> Result<Workspace> {
        let launches = self.launches();
        check_target(launches.iter().copied(), &self.target, &stream.device().target())?;
        let partials = self.rung.map_or(0, |rung| rung.partials(self.problem.rows.rows, 2));
        let workspace = workspace(&launches, stream, crate::cpu::norm::scratch_elements(self.problem.rows.columns))?;
        workspace_with(workspace, stream.device(), &[partials])
    }

    /// Computes into given tensors: allocates nothing and waits for nothing.
    ///
    /// # Errors
    /// [`crate::Error::PlanMismatch`]; [`crate::Error::DeviceMismatch`]; [`crate::Error::Cuda`].
    pub fn forward_into(
        &self,
        stream: &Stream,
        inputs: &NormInputs<'_>,
        outputs: NormOutputs<'_>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let mut outputs = outputs;
        let device = stream.device();
        check_target(self.execution.launch().into_iter().flatten(), &self.target, &device.target())?;
        let given = inputs.spec();
        check_planned_tensor("x", &given.x, &self.spec.x)?;
        for (what, given, planned) in [
            ("residual", given.residual, self.spec.residual),
            ("weight", given.weight, self.spec.weight),
            ("bias", given.bias, self.spec.bias),
        ] {
            check_planned(what, &given.is_some(), &planned.is_some())?;
            if let (Some(given), Some(planned)) = (given, planned) {
                check_planned_tensor(what, &given, &planned)?;
            }
        }
        check_planned_tensor("the output", &outputs.output.spec(), &self.output_spec())?;
        if let Some(sum) = &outputs.sum {
            let planned = self.sum_spec();
            check_planned("a sum", &true, &planned.is_some())?;
            planned.map_or(Ok(()), |planned| check_planned_tensor("the sum", &sum.spec(), &planned))?;
        }
        if outputs.mean.is_some() {
            check_planned("a mean", &true, &self.problem.is_centered)?;
        }
        let stats = self.stats_spec()?;
        for (what, given) in [("mean", &outputs.mean), ("rstd", &outputs.rstd)] {
            given.as_ref().map_or(Ok(()), |given| check_planned_tensor(what, &given.spec(), &stats))?;
        }
        let reads = [Some(inputs.x), inputs.residual, inputs.weight, inputs.bias];
        {
            let NormOutputs { output, sum, mean, rstd } = &mut outputs;
            let writes: [Option<&mut TensorMut<'_>>; 4] = [Some(output), sum.as_mut(), mean.as_mut(), rstd.as_mut()];
            let read_names = ["x", "residual", "weight", "bias"];
            check_devices(device, &read_names, &reads, &["the output", "the sum", "mean", "rstd"], &writes)?;
        }
        let Execution::Launch(plans) = &self.execution else {
            return crate::cpu::norm::forward(device.instruction_set(), &self.problem, inputs, &mut outputs, workspace);
        };
        let NormOutputs { mut output, mut sum, mut mean, mut rstd } = outputs.reborrow();
        let [partials] = workspace.device_tensors()?;
        let mut partials = if_any(partials);
        for plan in plans {
            let mut writes = [Some(&mut output), sum.as_mut(), mean.as_mut(), rstd.as_mut(), partials.as_mut()];
            let plan = plan.with_random_state(inputs.dropout_seed, inputs.dropout_offset);
            launch(device, &plan, &reads, &mut writes)?;
        }
        Ok(())
    }
}
