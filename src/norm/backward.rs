//! The backward pass: problem and plan.

use crate::device::{Device, Stream};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::launch::{check_devices, launch, workspace};
use crate::norm::{
    Norm, NormBackwardInputs, NormBackwardSpec, NormGradientOutputs, NormProblem, NormSpec, check_floats, check_vector,
    stats_spec,
};
use crate::params::{NormBackwardParams, NormWeightGradientsParams};
use crate::plan::{
    Execution, LaunchPlan, Params, check_output, check_planned, check_planned_tensor, check_target, choose,
};
use crate::rows::{Dropout, Rows, RowsOf, Rung, element_type, explain, if_any, kernel_dtype, workspace_with};
use crate::target::{GpuTarget, Target};
use crate::tensor::{TensorMut, TensorSpec};
use crate::variants::Operation;
use crate::workspace::Workspace;

/// A validated problem.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct NormBackwardProblem {
    /// d_y, the sum that was normalised, its gradient from other uses, d_x and d_residual.
    pub rows: Rows<5>,
    pub is_centered: bool,
    pub weight_offset: f32,
    pub eps: f32,
    pub dropout: Option<Dropout>,
    pub has_stats: bool,
    pub weight_dtype: Option<DType>,
    pub bias_dtype: Option<DType>,
}

impl NormBackwardProblem {
    pub const D_Y: usize = 0;
    pub const SUM: usize = 1;
    pub const D_SUM: usize = 2;
    pub const D_X: usize = 3;
    pub const D_RESIDUAL: usize = 4;

    pub fn new(norm: &Norm, spec: &NormBackwardSpec) -> Result<NormBackwardProblem> {
        norm.check_eps()?;
        let NormBackwardSpec { d_y, sum, weight, bias, has_stats, d_sum, d_residual, .. } = spec;
        let d_x = d_x(spec);
        check_output("d_x", &d_x)?;
        if let Some(d_residual) = d_residual {
            check_output("d_residual", d_residual)?;
        }
        let rows = Rows::new(
            [
                ("d_y", Some(*d_y)),
                ("the sum", Some(*sum)),
                ("d_sum", *d_sum),
                ("d_x", Some(d_x)),
                ("d_residual", *d_residual),
            ],
            0,
        )?;
        check_vector("weight", weight, rows.columns)?;
        check_vector("bias", bias, rows.columns)?;
        Ok(NormBackwardProblem {
            rows,
            is_centered: norm.is_centered,
            weight_offset: norm.weight_offset(),
            eps: norm.eps,
            dropout: Dropout::new(norm.dropout)?,
            has_stats: *has_stats,
            weight_dtype: weight.map(|weight| weight.dtype),
            bias_dtype: bias.map(|bias| bias.dtype),
        })
    }

    fn rung(&self, target: &GpuTarget) -> Result<Rung> {
        let [d_y, sum, d_sum, d_x, d_residual] = self.rows.tensors;
        let dtype_of = |tensor: Option<RowsOf>| tensor.map(|tensor| tensor.dtype);
        let others = [dtype_of(d_sum), dtype_of(d_x), dtype_of(d_residual), self.weight_dtype].into_iter().flatten();
        let dtype = kernel_dtype([d_y, sum].into_iter().filter_map(dtype_of), others.clone());
        let is_plain = self.dropout.is_none() && d_residual.is_none() && others.clone().all(|other| other == dtype);
        let rows = (self.rows.columns, self.rows.features_of_parts(is_plain));
        Rung::new(Operation::NormBackward, dtype, rows, target)
    }

    /// Into how many parts the sums over rows are cut, each of which a block adds up for itself: by the number of rows and their
    /// length only, so that every GPU adds in the same order.
    ///
    /// A part costs 16 bytes of traffic a column, a row 6 of 16-bit types: parts of 16 rows and more keep that small. Two
    /// waves of what an H100 runs at a time are enough.
    pub fn parts(rows: usize, rows_per_block: usize, threads: u32) -> usize {
        let waves = 2 * SMS * (THREADS_PER_SM / threads as usize).max(1);
        let parts = rows.div_ceil(16 * rows_per_block).min(if rows_per_block > 1 { waves / 2 } else { waves });
        // Rows whose distance is a multiple of 8 begin at the same place of a 16-byte vector.
        parts.next_multiple_of((8 / rows_per_block).max(1))
    }
}

/// Multiprocessors of an H100. Any number is right; this one fills that GPU evenly.
const SMS: usize = 132;
/// Threads with 128 registers that a multiprocessor holds.
const THREADS_PER_SM: usize = 512;
/// Columns of a block that adds up parts.
const COLUMNS_PER_BLOCK: usize = 32;

/// The gradient of x that is planned for.
fn d_x(spec: &NormBackwardSpec) -> TensorSpec {
    spec.d_x.unwrap_or(TensorSpec { layout: spec.sum.layout.compact(), alignment_bytes: 16, ..spec.sum })
}

/// The launches of a backward pass.
#[derive(Clone, Debug)]
struct Launches {
    /// The statistics, where they are not given and several blocks share a row: alone, a block finds them by itself.
    stats: Vec<LaunchPlan>,
    rows: Vec<LaunchPlan>,
    /// Adds up the gradients of weight and bias.
    sums: LaunchPlan,
}

impl Launches {
    fn new(
        norm: &Norm,
        problem: &NormBackwardProblem,
        spec: &NormBackwardSpec,
        rung: &Rung,
        gpu: &GpuTarget,
    ) -> Result<Launches> {
        let rows = &problem.rows;
        let parts = NormBackwardProblem::parts(rows.rows, rung.rows_per_block, rung.threads);
        let stats = match rung.segments > 1 && !problem.has_stats {
            false => Vec::new(),
            true => {
                let problem = NormProblem::new(&norm.dropout(0.0), &NormSpec::new(spec.sum))?;
                problem.launches(&problem.rung(gpu)?)?
            }
        };
        let of_rows = rung.launches(rows, parts, |shape| {
            Params::NormBackward(NormBackwardParams {
                shape,
                d_y_rows: rows.params(NormBackwardProblem::D_Y),
                r_rows: rows.params(NormBackwardProblem::SUM),
                d_sum_rows: rows.params(NormBackwardProblem::D_SUM),
                d_x_rows: rows.params(NormBackwardProblem::D_X),
                d_residual_rows: rows.params(NormBackwardProblem::D_RESIDUAL),
                dropout: Dropout::params(problem.dropout),
                parts: parts as u32,
                weight_type: problem.weight_dtype.map_or(0, element_type),
                is_centered: u32::from(problem.is_centered),
                weight_offset: problem.weight_offset,
                eps: problem.eps,
                ..NormBackwardParams::default()
            })
        })?;
        let variant = choose(Operation::NormWeightGradients, gpu, |_| true).ok_or_else(|| Error::NoKernel {
            operation: Operation::NormWeightGradients.name(),
            wanted: "f32 parts".to_string(),
            target: Target::Gpu(*gpu).to_string(),
            available: "sm_80 and later".to_string(),
        })?;
        let params = NormWeightGradientsParams {
            parts: parts as u32,
            columns: rows.columns as u32,
            d_weight_type: problem.weight_dtype.map_or(0, element_type),
            d_bias_type: problem.bias_dtype.map_or(0, element_type),
            ..NormWeightGradientsParams::default()
        };
        let blocks = rows.columns.div_ceil(COLUMNS_PER_BLOCK);
        let sums = LaunchPlan::linear(variant, blocks, Params::NormWeightGradients(params))?;
        Ok(Launches { stats, rows: of_rows, sums })
    }

    /// All of them, in their order.
    fn iter(&self) -> impl Iterator<Item = &LaunchPlan> {
        self.stats.iter().chain(&self.rows).chain([&self.sums])
    }

    fn parts(&self) -> usize {
        match &self.sums.params {
            Params::NormWeightGradients(params) => params.parts as usize,
            _ => unreachable!("it adds up parts"),
        }
    }
}

/// A reusable decision: how the backward pass of a norm of one shape runs on one kind of device.
#[derive(Clone, Debug)]
pub struct NormBackwardPlan {
    norm: Norm,
    spec: NormBackwardSpec,
    problem: NormBackwardProblem,
    target: Target,
    rung: Option<Rung>,
    execution: Execution<Launches>,
}

impl NormBackwardPlan {
    pub(crate) fn new(
        norm: &Norm,
        problem: NormBackwardProblem,
        spec: &NormBackwardSpec,
        target: &Target,
    ) -> Result<NormBackwardPlan> {
        let all =
            [Some(spec.d_y), Some(spec.sum), spec.weight, spec.bias, spec.d_sum, Some(d_x(spec)), spec.d_residual];
        check_floats(all.iter().flatten(), norm.name(), target)?;
        let (rung, execution) = match target {
            Target::Cpu => (None, Execution::Cpu),
            Target::Gpu(gpu) => {
                let rung = problem.rung(gpu)?;
                (Some(rung), Execution::Launch(Launches::new(norm, &problem, spec, &rung, gpu)?))
            }
        };
        Ok(NormBackwardPlan { norm: *norm, spec: *spec, problem, target: *target, rung, execution })
    }

    /// The kernel launches in their order, as far as all gradients are wanted; none on the CPU device.
    pub fn launches(&self) -> Vec<&LaunchPlan> {
        let has_sums = self.spec.weight.is_some() || self.spec.bias.is_some();
        let of_sums = |launch: &&LaunchPlan| launch.variant.operation == Operation::NormWeightGradients;
        let all = self.execution.launch().into_iter().flat_map(Launches::iter);
        all.filter(|launch| has_sums || !of_sums(launch)).collect()
    }

    pub(crate) fn d_x_spec(&self) -> TensorSpec {
        d_x(&self.spec)
    }

    pub(crate) fn d_residual_spec(&self) -> Option<TensorSpec> {
        self.spec.d_residual
    }

    /// The plan in words.
    pub fn explain(&self) -> String {
        let rows = &self.problem.rows;
        let mut what = format!("{} backward, {}", self.norm.name(), self.spec.sum.dtype);
        if !self.problem.has_stats {
            what += ", statistics computed again";
        }
        what += &format!(": {} rows of {}, {} bytes", rows.rows, rows.columns, rows.traffic_bytes());
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
        let Rows { rows, columns, .. } = self.problem.rows;
        let Some((rung, of_kernels)) = self.rung.zip(self.execution.launch()) else {
            return crate::cpu::norm::backward_workspace(&self.problem);
        };
        let has_sums = self.spec.weight.is_some() || self.spec.bias.is_some();
        let parts = if has_sums { of_kernels.parts() } else { 0 };
        let stats = if of_kernels.stats.is_empty() { 0 } else { rows };
        let sizes = [rung.partials(rows, 2), parts * 2 * columns, stats, stats];
        workspace_with(workspace(&launches, stream, 0)?, stream.device(), &sizes)
    }

    /// Computes into given tensors: allocates nothing and waits for nothing.
    ///
    /// # Errors
    /// [`Error::PlanMismatch`]; [`Error::Missing`]; [`Error::DeviceMismatch`]; [`Error::Cuda`].
    pub fn backward_into(
        &self,
        stream: &Stream,
        inputs: &NormBackwardInputs<'_>,
        outputs: NormGradientOutputs<'_>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let mut outputs = outputs;
        let device = stream.device();
        check_target(self.execution.launch().into_iter().flat_map(Launches::iter), &self.target, &device.target())?;
        self.check_inputs(inputs)?;
        self.check_outputs(&outputs)?;
        let reads = [Some(inputs.d_y), Some(inputs.sum), inputs.d_sum, inputs.weight, inputs.mean, inputs.rstd];
        {
            let NormGradientOutputs { d_x, d_residual, d_weight, d_bias } = &mut outputs;
            let writes: [Option<&mut TensorMut<'_>>; 4] =
                [Some(d_x), d_residual.as_mut(), d_weight.as_mut(), d_bias.as_mut()];
            let read_names = ["d_y", "the sum", "d_sum", "weight", "mean", "rstd"];
            let write_names = ["d_x", "d_residual", "d_weight", "d_bias"];
            check_devices(device, &read_names, &reads, &write_names, &writes)?;
        }
        match &self.execution {
            Execution::Cpu => {
                crate::cpu::norm::backward(device.instruction_set(), &self.problem, inputs, &mut outputs, workspace)
            }
            Execution::Launch(launches) => self.launch(device, launches, inputs, &mut outputs, workspace),
        }
    }

    fn check_inputs(&self, inputs: &NormBackwardInputs<'_>) -> Result<()> {
        let given = inputs.spec();
        check_planned_tensor("d_y", &given.d_y, &self.spec.d_y)?;
        check_planned_tensor("the sum", &given.sum, &self.spec.sum)?;
        for (what, given, planned) in [
            ("weight", given.weight, self.spec.weight),
            ("bias", given.bias, self.spec.bias),
            ("d_sum", given.d_sum, self.spec.d_sum),
        ] {
            check_planned(what, &given.is_some(), &planned.is_some())?;
            if let (Some(given), Some(planned)) = (given, planned) {
                check_planned_tensor(what, &given, &planned)?;
            }
        }
        check_planned("rstd", &given.has_stats, &self.spec.has_stats)?;
        if self.problem.is_centered && inputs.rstd.is_some() && inputs.mean.is_none() {
            return Err(Error::Missing { tensor: "mean" });
        }
        let stats = stats_spec(&self.spec.sum)?;
        for (what, given) in [("mean", inputs.mean), ("rstd", inputs.rstd)] {
            given.map_or(Ok(()), |given| check_planned_tensor(what, &given.spec(), &stats))?;
        }
        Ok(())
    }

    fn check_outputs(&self, outputs: &NormGradientOutputs<'_>) -> Result<()> {
        check_planned_tensor("d_x", &outputs.d_x.spec(), &self.d_x_spec())?;
        let vector = |spec: Option<TensorSpec>| {
            spec.map(|spec| TensorSpec::contiguous(spec.dtype, spec.layout.shape())).transpose()
        };
        for (what, given, planned) in [
            ("d_residual", &outputs.d_residual, self.spec.d_residual),
            ("d_weight", &outputs.d_weight, vector(self.spec.weight)?),
            ("d_bias", &outputs.d_bias, vector(self.spec.bias)?),
        ] {
            let Some(given) = given else { continue };
            check_planned(what, &true, &planned.is_some())?;
            let Some(planned) = planned else { continue };
            let planned = TensorSpec { alignment_bytes: given.spec().alignment_bytes, ..planned };
            check_planned_tensor(what, &given.spec(), &planned)?;
        }
        Ok(())
    }

    fn launch(
        &self,
        device: &Device,
        launches: &Launches,
        inputs: &NormBackwardInputs<'_>,
        outputs: &mut NormGradientOutputs<'_>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let NormGradientOutputs { mut d_x, mut d_residual, mut d_weight, mut d_bias } = outputs.reborrow();
        let [partials, sums, mean, rstd] = workspace.device_tensors()?;
        for plan in &launches.stats {
            let (mut partials, mut mean, mut rstd) = (if_any(partials), if_any(mean), if_any(rstd));
            let reads = [Some(inputs.sum), None, None, None];
            let mut writes = [None, None, mean.as_mut(), rstd.as_mut(), partials.as_mut()];
            launch(device, plan, &reads, &mut writes)?;
        }
        let has_stats = !launches.stats.is_empty();
        let mean = inputs.mean.or(has_stats.then(|| mean.view()));
        let rstd = inputs.rstd.or(has_stats.then(|| rstd.view()));
        let reads = [Some(inputs.d_y), Some(inputs.sum), inputs.d_sum, inputs.weight, mean, rstd];
        let has_sums = d_weight.is_some() || d_bias.is_some();
        for plan in &launches.rows {
            let (mut partials, mut sums) = (if_any(partials), if_any(sums).filter(|_| has_sums));
            let mut d_x = d_x.reborrow();
            let mut d_residual = d_residual.as_mut().map(TensorMut::reborrow);
            let mut writes = [Some(&mut d_x), d_residual.as_mut(), partials.as_mut(), sums.as_mut()];
            let plan = plan.with_random_state(inputs.dropout_seed, inputs.dropout_offset);
            launch(device, &plan, &reads, &mut writes)?;
        }
        match has_sums {
            false => Ok(()),
            true => launch(device, &launches.sums, &[Some(sums.view())], &mut [d_weight.as_mut(), d_bias.as_mut()]),
        }
    }
}
