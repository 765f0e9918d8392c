//! Layer norm and RMS norm on the CPU: rows in parallel, one row in f32 scratch at a time.

use crate::cpu::floats::{Floats, FloatsMut, InputRows, round, store_of};
use crate::cpu::row_tasks::{RowOutputs, RowParts};
use crate::cpu::scratch::{scratch_total, split};
use crate::cpu::simd::{self, InstructionSet, Stats};
use crate::cpu::softmax::{task_rows, threads_for};
use crate::device::CPU;
use crate::error::{Error, Result};
use crate::norm::{NormBackwardInputs, NormBackwardProblem, NormGradientOutputs, NormInputs, NormOutputs, NormProblem};
use crate::rows::{Dropout, workspace_with};
use crate::tensor::{TensorMut, TensorRef};
use crate::workspace::Workspace;

/// Rows that are added up by one task come in parts of at least this many, so that adding up the parts costs little.
const PART_ROWS_MIN: usize = 32;
/// As many parts as a large machine has cores, at most.
const PARTS_MAX: usize = 128;
/// Columns of a task that adds up parts.
const SUM_COLUMNS: usize = 1024;

/// The scratch areas of a thread: a row that is computed, one that is read or has dropout's factors, weight, and bias or
/// the row that was normalised.
fn areas(columns: usize) -> [usize; 4] {
    [columns, columns.next_multiple_of(simd::GROUP_KEYS * simd::LANES), columns, columns]
}

/// What a pass needs of scratch memory, in f32 a thread.
pub(crate) fn scratch_elements(columns: usize) -> usize {
    scratch_total(areas(columns))
}

pub(crate) fn forward(
    set: InstructionSet,
    problem: &NormProblem,
    inputs: &NormInputs<'_>,
    outputs: &mut NormOutputs<'_>,
    workspace: &mut Workspace,
) -> Result<()> {
    let NormProblem { rows, is_centered, weight_offset, eps, .. } = problem;
    workspace.check(scratch_elements(rows.columns))?;
    let forward = Forward {
        set,
        problem,
        x: InputRows::new(rows, NormProblem::X, &inputs.x)?,
        residual: inputs.residual.map(|residual| InputRows::new(rows, NormProblem::RESIDUAL, &residual)).transpose()?,
        mask: DropoutMask::new(problem.dropout, inputs.dropout_seed, inputs.dropout_offset),
    };
    let weight = inputs.weight.as_ref().map(Floats::of).transpose()?;
    let bias = inputs.bias.as_ref().map(Floats::of).transpose()?;

    let NormOutputs { output, sum, mean, rstd } = outputs;
    let store = store_of(output);
    let stats = [host_stats_mut(mean)?, host_stats_mut(rstd)?];
    let areas = areas(rows.columns);
    RowOutputs::of_tensors([Some(output), sum.as_mut()], stats)?.for_each_prepared_task(
        rows.rows,
        task_rows(rows.columns),
        threads_for(&mut workspace.slots, rows.rows * rows.columns),
        |slot| {
            let [_, _, weight_area, bias_area] = split(slot, areas);
            prepare_weight(set, weight, *weight_offset, weight_area);
            match bias {
                Some(bias) => bias.read(set, 0, bias_area),
                None => bias_area.fill(0.0),
            }
        },
        |slot, range, writer| {
            let [values, scratch, weight, bias] = split(slot, areas);
            for row in range {
                let [y, sum] = writer.parts(row).tensors;
                let s = forward.add(row, values, scratch, sum);
                let stats = stats_of(set, s, *is_centered, *eps);
                simd::normalize(set, s, y.expect("there is an output"), &stats, weight, bias, store);
                writer.set_stat(0, row, stats.mean);
                writer.set_stat(1, row, stats.rstd);
            }
        },
    );
    Ok(())
}

/// What is normalised.
struct Forward<'a> {
    set: InstructionSet,
    problem: &'a NormProblem,
    x: InputRows<'a, 4>,
    residual: Option<InputRows<'a, 4>>,
    mask: Option<DropoutMask>,
}

impl Forward<'_> {
    /// A row of s, which also goes to the sum if there is one: x as it is, or what was added to it in `values`.
    fn add<'s>(
        &'s self,
        row: usize,
        values: &'s mut [f32],
        scratch: &mut [f32],
        sum: Option<FloatsMut<'_>>,
    ) -> Floats<'s> {
        let (set, columns) = (self.set, values.len());
        if self.mask.is_none() && self.residual.is_none() && sum.is_none() {
            return self.x.typed(set, row, 0..columns, values);
        }
        self.x.read(set, row, 0..columns, values);
        if let Some(mask) = &self.mask {
            mask.apply(set, row, values, scratch);
        }
        if let Some(residual) = &self.residual {
            simd::add(set, values, residual.row(set, row, 0..columns, &mut scratch[..columns]));
        }
        if self.mask.is_some() || self.residual.is_some() {
            round(set, values, self.problem.sum_dtype);
        }
        if let Some(mut sum) = sum {
            sum.write(set, values);
        }
        Floats::F32(values)
    }
}

/// The scratch memory of a backward pass: a row's areas for each thread, and for each part of the rows its sums.
pub(crate) fn backward_workspace(problem: &NormBackwardProblem) -> Result<Workspace> {
    let columns = problem.rows.columns;
    let kinds = usize::from(problem.weight_dtype.is_some()) + usize::from(problem.bias_dtype.is_some());
    let sums = problem.rows.rows.div_ceil(part_rows(problem.rows.rows)) * kinds * columns;
    workspace_with(Workspace::per_thread(scratch_elements(columns)), &CPU, &[sums])
}

/// Rows of a part: by their number only, so that every machine adds in the same order.
fn part_rows(rows: usize) -> usize {
    rows.div_ceil(PARTS_MAX).max(PART_ROWS_MIN)
}

pub(crate) fn backward(
    set: InstructionSet,
    problem: &NormBackwardProblem,
    inputs: &NormBackwardInputs<'_>,
    outputs: &mut NormGradientOutputs<'_>,
    workspace: &mut Workspace,
) -> Result<()> {
    let NormBackwardProblem { rows, weight_offset, .. } = problem;
    let columns = rows.columns;
    workspace.check(scratch_elements(columns))?;
    let NormGradientOutputs { d_x, d_residual, d_weight, d_bias } = outputs;
    let task = Backward {
        set,
        problem,
        d_y: InputRows::new(rows, NormBackwardProblem::D_Y, &inputs.d_y)?,
        s: InputRows::new(rows, NormBackwardProblem::SUM, &inputs.sum)?,
        d_sum: inputs.d_sum.map(|d_sum| InputRows::new(rows, NormBackwardProblem::D_SUM, &d_sum)).transpose()?,
        mean: host_stats(&inputs.mean)?,
        rstd: host_stats(&inputs.rstd)?,
        mask: DropoutMask::new(problem.dropout, inputs.dropout_seed, inputs.dropout_offset),
        has_d_weight: d_weight.is_some(),
    };
    let weight = inputs.weight.as_ref().map(Floats::of).transpose()?;

    // A part's sums: those of d_weight, then those of d_bias, as far as they are wanted.
    let kinds = usize::from(d_weight.is_some()) + usize::from(d_bias.is_some());
    let task_rows = if kinds > 0 { part_rows(rows.rows) } else { task_rows(columns) };
    let sums_len = kinds * columns;
    let needed = rows.rows.div_ceil(task_rows) * sums_len;
    let Workspace { slots, tensors } = workspace;
    let Some(sums) = tensors.first_mut().filter(|sums| sums.layout().num_elements() >= needed) else {
        return Err(Error::PlanMismatch {
            what: "the workspace",
            given: "one without the memory for sums over rows".to_string(),
            planned: "one made by this plan".to_string(),
        });
    };
    let mut sums = sums.view_mut();
    let sums = &mut sums.host_mut::<f32>()?[..needed];

    let areas = areas(columns);
    let outputs = RowOutputs::of_tensors([Some(d_x), d_residual.as_mut()], [None, None])?.areas(sums, sums_len);
    outputs.for_each_prepared_task(
        rows.rows,
        task_rows,
        threads_for(slots, rows.rows * columns),
        |slot| {
            let [_, _, weight_area, _] = split(slot, areas);
            prepare_weight(set, weight, *weight_offset, weight_area);
        },
        |slot, range, writer| {
            writer.parts(range.start).area.fill(0.0);
            for row in range {
                task.row(row, split(slot, areas), writer.parts(row));
            }
        },
    );
    for (kind, gradient) in [d_weight, d_bias].into_iter().flatten().enumerate() {
        add_parts(set, sums, sums_len, kind * columns, gradient, slots)?;
    }
    Ok(())
}

/// What the tasks of a backward pass share.
struct Backward<'a> {
    set: InstructionSet,
    problem: &'a NormBackwardProblem,
    d_y: InputRows<'a, 5>,
    /// What was normalised.
    s: InputRows<'a, 5>,
    d_sum: Option<InputRows<'a, 5>>,
    mean: Option<&'a [f32]>,
    rstd: Option<&'a [f32]>,
    mask: Option<DropoutMask>,
    has_d_weight: bool,
}

impl Backward<'_> {
    /// Computes a row of d_x and d_residual, and adds to the part's sums.
    fn row(&self, row: usize, [values, scratch, weight, s]: [&mut [f32]; 4], parts: RowParts<'_>) {
        let NormBackwardProblem { is_centered, eps, .. } = *self.problem;
        let (set, columns) = (self.set, values.len());
        let RowParts { tensors: [d_x, d_residual], area } = parts;
        let s = self.s.row(set, row, 0..columns, s);
        let stats = match self.rstd {
            Some(rstd) => {
                // Without centering, the mean is 0, whatever was given.
                let mean = self.mean.filter(|_| is_centered).map_or(0.0, |mean| mean[row]);
                Stats { mean, rstd: rstd[row] }
            }
            None => stats_of(set, Floats::F32(s), is_centered, eps),
        };
        d_x.expect("there is a gradient of x").in_f32(set, values, false, |values| {
            self.d_y.read(set, row, 0..columns, values);
            let (of_weight, of_bias) = area.split_at_mut(if self.has_d_weight { columns } else { 0 });
            simd::norm_gradients(set, s, values, weight, &stats, is_centered, [of_weight, of_bias]);
            if let Some(d_sum) = &self.d_sum {
                simd::add(set, values, d_sum.row(set, row, 0..columns, &mut scratch[..columns]));
            }
            if let Some(mut d_residual) = d_residual {
                d_residual.write(set, values);
            }
            if let Some(mask) = &self.mask {
                mask.apply(set, row, values, scratch);
            }
        });
    }
}

/// Adds up one kind of sums, in the order of the parts; in parallel over columns.
fn add_parts(
    set: InstructionSet,
    sums: &[f32],
    sums_len: usize,
    first: usize,
    gradient: &mut TensorMut<'_>,
    slots: &mut [Vec<f32>],
) -> Result<()> {
    let outputs = RowOutputs::of_tensors([Some(gradient), None], [None, None])?;
    outputs.for_each_tile(1, [1, SUM_COLUMNS], slots, |slot, rows, columns, writer| {
        let total = &mut slot[..columns.len()];
        total.fill(0.0);
        for part in sums.chunks(sums_len) {
            simd::add(set, total, &part[first..][columns.clone()]);
        }
        let [gradient, _] = writer.parts(rows.start).tensors;
        gradient.expect("there is a gradient").write(set, total);
    });
    Ok(())
}

/// Mean and rstd of a row.
///
/// The distances from a guess of the mean give both in one pass. As long as the guess is within a quarter of a standard deviation, the
/// difference of squares makes the variance's relative error larger by less than a fifth; if it is not, it is computed again.
fn stats_of(set: InstructionSet, s: Floats<'_>, is_centered: bool, eps: f32) -> Stats {
    let count = s.len() as f32;
    let rstd = |variance: f32| 1.0 / (variance + eps).sqrt();
    if !is_centered {
        return Stats { mean: 0.0, rstd: rstd(simd::sum_of_squares(set, s, 0.0) / count) };
    }
    let [guess, distance, square] = simd::moments(set, s);
    let (distance, square) = (distance / count, square / count);
    let (mean, variance) = (guess + distance, square - distance * distance);
    match 16.0 * distance * distance <= variance {
        true => Stats { mean, rstd: rstd(variance) },
        false => Stats { mean, rstd: rstd(simd::sum_of_squares(set, s, mean) / count) },
    }
}

/// What the columns are multiplied by; 1 without a weight.
fn prepare_weight(set: InstructionSet, weight: Option<Floats<'_>>, offset: f32, out: &mut [f32]) {
    let Some(weight) = weight else { return out.fill(1.0) };
    weight.read(set, 0, out);
    out.iter_mut().for_each(|weight| *weight += offset);
}

fn host_stats<'a>(stat: &Option<TensorRef<'a>>) -> Result<Option<&'a [f32]>> {
    stat.map(|stat| stat.host::<f32>()).transpose()
}

fn host_stats_mut<'a>(stat: &'a mut Option<TensorMut<'_>>) -> Result<Option<&'a mut [f32]>> {
    stat.as_mut().map(|stat| stat.host_mut::<f32>()).transpose()
}

/// Which elements dropout keeps.
struct DropoutMask {
    dropout: Dropout,
    key: [u32; 2],
    offset: u32,
}

impl DropoutMask {
    fn new(dropout: Option<Dropout>, seed: u64, offset: u32) -> Option<DropoutMask> {
        Some(DropoutMask { dropout: dropout?, key: [seed as u32, (seed >> 32) as u32], offset })
    }

    /// Drops or scales the values of a row. A dropped one becomes 0, whatever it was.
    fn apply(&self, set: InstructionSet, row: usize, values: &mut [f32], factors: &mut [f32]) {
        let Dropout { below, keep_scale } = self.dropout;
        simd::keep_factors(set, self.key, [0, row as u32, 0, self.offset], below, keep_scale, factors);
        let kept = &mut factors[..values.len()];
        simd::multiply_nonzero(set, kept, values);
        values.copy_from_slice(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::floats::tests::{assert_close, tensor, wide, with_any_threads};
    use crate::device::Device;
    use crate::dtype::DType;
    use crate::norm::{Norm, NormBackwardSpec, NormSpec};
    use crate::tensor::{Tensor, TensorSpec};

    const SEED: u64 = 0x1234_5678_9abc_def0;

    fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
        let count = values.len() as f64;
        values.sum::<f64>() / count
    }

    /// Mean and rstd of a row.
    fn stats(s: &[f64], is_centered: bool, eps: f64) -> [f64; 2] {
        let center = if is_centered { mean(s.iter().copied()) } else { 0.0 };
        [center, 1.0 / (mean(s.iter().map(|s| (s - center).powi(2))) + eps).sqrt()]
    }

    /// Dropout's factors for a row, a group of 64 columns at a time.
    fn factors(row: usize, columns: usize, probability: f64, offset: u32) -> Vec<f64> {
        let below = (probability * 2f64.powi(32)) as u32;
        let groups = (0..columns.div_ceil(64)).flat_map(|group| {
            let mut kept = [0.0; 64];
            let key = [SEED as u32, (SEED >> 32) as u32];
            simd::keep_factors(
                InstructionSet::best(),
                key,
                [16 * group as u32, row as u32, 0, offset],
                below,
                1.0,
                &mut kept,
            );
            kept.map(|kept| f64::from(kept) / (1.0 - probability))
        });
        groups.take(columns).collect()
    }

    /// A type for each tensor, and what results in it may be off by. Sums of 16 lanes were seen 3.5e-6 off in f32, where those of
    /// 4 and 8 stay below 3e-6.
    const DTYPES: [([DType; 6], f64); 3] = [
        ([DType::F32; 6], 6e-6),
        ([DType::BF16; 6], 1e-2),
        ([DType::F16, DType::F32, DType::BF16, DType::F16, DType::F32, DType::BF16], 1e-2),
    ];

    #[test]
    fn forward_is_the_formula() {
        InstructionSet::all().for_each(forward_is_the_formula_on);
    }

    fn forward_is_the_formula_on(set: InstructionSet) {
        const SHAPE: [usize; 3] = [3, 4, 131];
        let columns = SHAPE[2];
        for (([x, residual, weight, bias, y, sum], tolerance), is_centered) in
            DTYPES.into_iter().flat_map(|dtypes| [(dtypes, true), (dtypes, false)])
        {
            let x = tensor(x, &SHAPE, |index| ((index * 7) % 19) as f32 * 0.37 - 1.5);
            let residual = tensor(residual, &SHAPE, |index| ((index * 5) % 23) as f32 * 0.21 + 1.0);
            let weight = tensor(weight, &[columns], |index| (index % 5) as f32 * 0.25 - 0.75);
            let bias = tensor(bias, &[columns], |index| (index % 3) as f32 - 0.5);
            let norm = if is_centered { Norm::layer() } else { Norm::rms() };
            let norm = norm.eps(0.5).dropout(0.25).zero_centered(true);
            let inputs = NormInputs::new(x.view().transpose(0, 1).unwrap())
                .residual(residual.view().transpose(0, 1).unwrap())
                .weight(&weight)
                .bias(&bias)
                .dropout_state(SEED, 9);
            let output = |dtype| TensorSpec::contiguous(dtype, [4, 3, columns]).unwrap();
            let spec: NormSpec = inputs.spec().output(output(y)).sum(output(sum));
            let plan = norm.plan(&spec, &Device::cpu().target()).unwrap();
            let results = with_any_threads(|| {
                let stream = Device::cpu_limited_to(set).stream();
                let [mut y, mut sum] = [y, sum].map(|dtype| tensor(dtype, &[4, 3, columns], |_| f32::NAN));
                let [mut mean, mut rstd] = [0, 1].map(|_| tensor(DType::F32, &[4, 3], |_| f32::NAN));
                let outputs = NormOutputs::new(&mut y).sum(&mut sum).rstd(&mut rstd);
                let outputs = if is_centered { outputs.mean(&mut mean) } else { outputs };
                plan.forward_into(&stream, &inputs, outputs, &mut plan.workspace(&stream).unwrap()).unwrap();
                [&y, &sum, &mean, &rstd].map(|tensor| wide(tensor).into_iter().map(f64::to_bits).collect::<Vec<_>>())
            });
            let [y, sum, means, rstds] = results.map(|bits| bits.into_iter().map(f64::from_bits).collect::<Vec<_>>());
            let (x, residual) = (wide(inputs.x), wide(inputs.residual.unwrap()));
            for row in 0..12 {
                let at = row * columns..(row + 1) * columns;
                let kept = factors(row, columns, 0.25, 9);
                let s = x[at.clone()].iter().zip(kept).zip(&residual[at.clone()]).map(|((x, kept), r)| x * kept + r);
                assert_close(&sum[at.clone()], &s.collect::<Vec<_>>(), tolerance);
                // What is normalised is the sum as it was rounded.
                let [mean, rstd] = stats(&sum[at.clone()], is_centered, 0.5);
                let of_columns = wide(&weight).into_iter().zip(wide(&bias));
                let expected =
                    sum[at.clone()].iter().zip(of_columns).map(|(s, (w, b))| (s - mean) * rstd * (1.0 + w) + b);
                assert_close(&y[at], &expected.collect::<Vec<_>>(), tolerance);
                assert_close(&[rstds[row]], &[rstd], 1e-5);
                assert_close(&[means[row]], &[if is_centered { mean } else { f64::NAN }], 1e-5);
            }
        }
    }

    #[test]
    fn a_large_common_offset_costs_no_digits() {
        let x = tensor(DType::F32, &[2, 1000], |index| 1e6 + (index % 8) as f32 * 0.125);
        let forward = Norm::layer().eps(0.0).return_stats(true).forward(&NormInputs::new(&x)).unwrap();
        let (y, s) = (wide(&forward.output), wide(&x));
        let [mean, rstd] = stats(&s[..1000], true, 0.0);
        assert_close(&y[..1000], &s[..1000].iter().map(|s| (s - mean) * rstd).collect::<Vec<_>>(), 2e-1);
        assert_close(&[wide(forward.rstd.as_ref().unwrap())[0]], &[rstd], 1e-3);
    }

    #[test]
    fn backward_is_the_formula() {
        InstructionSet::all().for_each(backward_is_the_formula_on);
    }

    fn backward_is_the_formula_on(set: InstructionSet) {
        // Three parts of rows, the last of which is short.
        const ROWS: usize = 75;
        const COLUMNS: usize = 71;
        for (([d_y, s, weight, bias, d_x, d_residual], tolerance), is_centered) in
            DTYPES.into_iter().flat_map(|dtypes| [(dtypes, true), (dtypes, false)])
        {
            let shape = [ROWS, COLUMNS];
            let d_sum = tensor(d_y, &shape, |index| ((index * 3) % 7) as f32 * 0.5 - 1.0);
            let d_y = tensor(d_y, &shape, |index| ((index * 11) % 29) as f32 * 0.1 - 1.0);
            let s = tensor(s, &shape, |index| ((index * 13) % 31) as f32 * 0.2 + 2.0);
            let weight = tensor(weight, &[COLUMNS], |index| (index % 5) as f32 * 0.5 + 0.25);
            let bias = tensor(bias, &[COLUMNS], |_| f32::NAN);
            let norm = if is_centered { Norm::layer() } else { Norm::rms() };
            let norm = norm.eps(0.25).dropout(0.5);
            let inputs =
                NormBackwardInputs::new(&d_y, &s).weight(&weight).bias(&bias).d_sum(&d_sum).dropout_state(SEED, 3);
            let target = Device::cpu().target();
            let gradient = |dtype| TensorSpec::contiguous(dtype, shape).unwrap();
            let run = |inputs: &NormBackwardInputs<'_>| {
                let spec: NormBackwardSpec = inputs.spec().d_x(gradient(d_x)).d_residual(gradient(d_residual));
                let plan = norm.plan_backward(&spec, &target).unwrap();
                let stream = Device::cpu_limited_to(set).stream();
                let [mut d_x, mut d_residual] = [d_x, d_residual].map(|dtype| tensor(dtype, &shape, |_| f32::NAN));
                let [mut d_weight, mut d_bias] =
                    [&weight, &bias].map(|of| tensor(of.dtype(), &[COLUMNS], |_| f32::NAN));
                let outputs = NormGradientOutputs::new(&mut d_x).d_residual(&mut d_residual);
                let outputs = outputs.d_weight(&mut d_weight).d_bias(&mut d_bias);
                plan.backward_into(&stream, inputs, outputs, &mut plan.workspace(&stream).unwrap()).unwrap();
                [d_x, d_residual, d_weight, d_bias].map(|tensor| wide(&tensor))
            };
            let results = with_any_threads(|| run(&inputs));

            let (wide_s, wide_d_y, wide_weight) = (wide(&s), wide(&d_y), wide(&weight));
            let mut expected = [vec![], vec![], vec![0.0; COLUMNS], vec![0.0; COLUMNS]];
            let (mut means, mut rstds) = (vec![], vec![]);
            for row in 0..ROWS {
                let at = row * COLUMNS..(row + 1) * COLUMNS;
                let [center, rstd] = stats(&wide_s[at.clone()], is_centered, 0.25);
                means.push(center as f32);
                rstds.push(rstd as f32);
                let n: Vec<f64> = wide_s[at.clone()].iter().map(|s| (s - center) * rstd).collect();
                let g: Vec<f64> = wide_d_y[at.clone()].iter().zip(&wide_weight).map(|(d_y, w)| d_y * w).collect();
                let mean_g = if is_centered { mean(g.iter().copied()) } else { 0.0 };
                let mean_gn = mean(g.iter().zip(&n).map(|(g, n)| g * n));
                let kept = factors(row, COLUMNS, 0.5, 3);
                for column in 0..COLUMNS {
                    let index = row * COLUMNS + column;
                    let d_s = rstd * (g[column] - mean_g - n[column] * mean_gn) + wide(&d_sum)[index];
                    expected[0].push(d_s * kept[column]);
                    expected[1].push(d_s);
                    expected[2][column] += wide_d_y[index] * n[column];
                    expected[3][column] += wide_d_y[index];
                }
            }
            for (result, expected) in results.iter().zip(&expected) {
                assert_close(result, expected, 5.0 * tolerance);
            }

            // Given statistics are taken as they are.
            let mean = Tensor::from_slice(&Device::cpu(), &means, [ROWS]).unwrap();
            let rstd = Tensor::from_slice(&Device::cpu(), &rstds, [ROWS]).unwrap();
            let results = run(&inputs.mean(&mean).rstd(&rstd));
            for (result, expected) in results.iter().zip(&expected) {
                assert_close(result, expected, 5.0 * tolerance);
            }
            let doubled = tensor(DType::F32, &[ROWS], |row| 2.0 * rstds[row]);
            let [.., d_weight, _] = run(&inputs.mean(&mean).rstd(&doubled));
            let twice: Vec<f64> = expected[2].iter().map(|sum| 2.0 * sum).collect();
            assert_close(&d_weight, &twice, 5.0 * tolerance);
        }
    }

    #[test]
    fn what_is_not_wanted_is_not_needed() {
        let [x, d_y] = [1, 2].map(|seed| tensor(DType::F32, &[3, 5], |index| ((index * seed) % 4) as f32));
        let gradients = Norm::rms().backward(&NormBackwardInputs::new(&d_y, &x)).unwrap();
        assert!(gradients.d_residual.is_none() && gradients.d_weight.is_none() && gradients.d_bias.is_none());
        // Scaling a row does not change its norm, so that the gradient has no part along the row.
        let (d_x, x) = (wide(&gradients.d_x), wide(&x));
        for row in 0..3 {
            let along: f64 = (row * 5..row * 5 + 5).map(|index| d_x[index] * x[index]).sum();
            assert!(along.abs() < 1e-5, "{along}");
        }
        // Dropped elements become 0, whatever they were; without a weight, nothing is zero-centered.
        let nan = tensor(DType::F32, &[1, 4000], |index| if index % 2 == 0 { f32::NAN } else { 1.0 });
        let norm = Norm::rms().dropout(0.5).zero_centered(true);
        let sum = wide(norm.forward(&NormInputs::new(&nan).dropout_state(SEED, 1)).unwrap().sum.as_ref().unwrap());
        for (index, (sum, kept)) in sum.iter().zip(factors(0, 4000, 0.5, 1)).enumerate() {
            assert_eq!(sum.is_nan(), kept > 0.0 && index % 2 == 0);
            assert!(sum.is_nan() || *sum == kept * (index % 2) as f64);
        }
    }
}
