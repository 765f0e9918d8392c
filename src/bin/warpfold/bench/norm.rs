//! Layer norm and RMS norm, ready to be timed: with weight (and bias), statistics returned forward and given backward, as a
//! layer trains.

use std::hint::black_box;

use anyhow::{Context, Result};
use rayon::prelude::*;
use warpfold::reference::{NormCase, NormResult, compare, naive, norm_backward, norm_forward};
use warpfold::{
    DType, Device, Norm, NormBackwardInputs, NormBackwardPlan, NormForward, NormGradients, NormInputs, NormPlan,
    Tensor, Workspace,
};

use super::problems::{Family, Operation};
use super::shapes::RowShape;
use super::trial::{Trial, Workshop, check_written, nans, samples, upload, values, wide};

/// Columns whose gradients of the weight are held to the oracle, out of a row.
const COLUMNS: usize = 16;

pub struct NormTrial {
    device: Device,
    norm: Norm,
    dtype: DType,
    shape: RowShape,
    is_layer: bool,
    weight: Tensor,
    bias: Tensor,
    plan: Plan,
    workspace: Workspace,
    sets: Vec<Set>,
    next: usize,
}

enum Plan {
    Forward(Box<NormPlan>),
    Backward(Box<NormBackwardPlan>),
}

struct Set {
    x: Tensor,
    d_y: Option<Tensor>,
    forward: NormForward,
    gradients: Option<NormGradients>,
}

impl NormTrial {
    pub fn new(workshop: &Workshop<'_>, operation: &Operation, shape: RowShape, dtype: DType) -> Result<NormTrial> {
        let device = workshop.device;
        let is_layer = operation.family == Family::LayerNorm;
        let norm = if is_layer { Norm::layer() } else { Norm::rms() }.return_stats(true);
        let dims = [shape.rows, shape.columns];
        let vector = |seed| upload(device, dtype, &values(seed, shape.columns, dtype, 0.8, 0.5), &dims[1..]);
        let (weight, bias) = (vector(3)?, vector(4)?);
        let host: Vec<Vec<f32>> = (1..=1 + u64::from(operation.is_backward))
            .map(|seed| values(seed, shape.elements(), dtype, 0.3, 1.0))
            .collect();
        let zeros = |dtype, dims: &[usize]| Tensor::zeros(device, dtype, dims);
        let set = || -> Result<Set> {
            let x = upload(device, dtype, &host[0], &dims)?;
            let mean = is_layer.then(|| zeros(DType::F32, &dims[..1])).transpose()?;
            let rstd = Some(zeros(DType::F32, &dims[..1])?);
            let mut forward = NormForward { output: zeros(dtype, &dims)?, sum: None, mean, rstd };
            let Some(d_y) = host.get(1) else { return Ok(Set { x, d_y: None, forward, gradients: None }) };
            // The statistics that a forward pass leaves.
            let computed = norm.forward(&inputs(&x, &weight, is_layer.then_some(&bias)))?;
            (forward.mean, forward.rstd) = (computed.mean, computed.rstd);
            let vector = |wanted: bool| wanted.then(|| zeros(dtype, &dims[1..])).transpose();
            let gradients = NormGradients {
                d_x: zeros(dtype, &dims)?,
                d_residual: None,
                d_weight: vector(true)?,
                d_bias: vector(is_layer)?,
            };
            Ok(Set { x, d_y: Some(upload(device, dtype, d_y, &dims)?), forward, gradients: Some(gradients) })
        };
        let set_bytes = (host.len() + 1) * shape.elements() * dtype.size_bytes();
        let sets = (0..workshop.num_sets(set_bytes)).map(|_| set()).collect::<Result<Vec<_>>>()?;
        let (stream, target) = (device.stream(), device.target());
        let bias_of_layer = is_layer.then_some(&bias);
        let (plan, workspace) = match &sets[0].d_y {
            None => {
                let plan = norm.plan(&inputs(&sets[0].x, &weight, bias_of_layer).spec(), &target)?;
                let workspace = plan.workspace(&stream)?;
                (Plan::Forward(Box::new(plan)), workspace)
            }
            Some(d_y) => {
                let inputs = backward_inputs(&sets[0], d_y, &weight, bias_of_layer);
                let plan = norm.plan_backward(&inputs.spec(), &target)?;
                let workspace = plan.workspace(&stream)?;
                (Plan::Backward(Box::new(plan)), workspace)
            }
        };
        let device = device.clone();
        Ok(NormTrial { device, norm, dtype, shape, is_layer, weight, bias, plan, workspace, sets, next: 0 })
    }

    fn bias(&self) -> Option<&Tensor> {
        self.is_layer.then_some(&self.bias)
    }

    fn case(&self) -> Result<NormCase> {
        let vector = |tensor: &Tensor| -> Result<Vec<f64>> { Ok(wide(&tensor.to_vec_f32()?).collect()) };
        let columns = self.shape.columns;
        let case = if self.is_layer { NormCase::layer(columns) } else { NormCase::rms(columns) };
        Ok(NormCase { weight: Some(vector(&self.weight)?), bias: self.bias().map(vector).transpose()?, ..case })
    }

    fn check_forward(&mut self) -> Result<f64> {
        let RowShape { rows, columns } = self.shape;
        self.sets[0].forward.output = nans(&self.device, self.dtype, &[rows, columns])?;
        self.next = 0;
        self.call()?;
        let actual = self.sets[0].forward.output.to_vec_f32()?;
        check_written("y", &actual)?;
        let case = self.case()?;
        let x = self.sampled(&self.sets[0].x.to_vec_f32()?);
        let naive = naive::norm_forward(&case, self.dtype, &x, None);
        let shape = [samples(rows).count(), columns];
        let oracle = norm_forward(&case, &x).y;
        let found = compare::check("y", &shape, self.dtype, &self.sampled(&actual), &oracle, &naive, 2.0)?;
        Ok(found.max_difference / found.max_allowed)
    }

    /// Some rows of d_x, and some columns of d_weight, which all rows add to.
    fn check_backward(&mut self) -> Result<f64> {
        let RowShape { rows, columns } = self.shape;
        let (device, dtype) = (self.device.clone(), self.dtype);
        let poisoned = |dims: &[usize]| nans(&device, dtype, dims);
        let is_layer = self.is_layer;
        self.sets[0].gradients = Some(NormGradients {
            d_x: poisoned(&[rows, columns])?,
            d_residual: None,
            d_weight: Some(poisoned(&[columns])?),
            d_bias: is_layer.then(|| poisoned(&[columns])).transpose()?,
        });
        self.next = 0;
        self.call()?;
        let set = &self.sets[0];
        let (Some(gradients), Some(d_y)) = (&set.gradients, &set.d_y) else { return Ok(0.0) };
        let (x, d_y) = (set.x.to_vec_f32()?, d_y.to_vec_f32()?);
        let d_x = gradients.d_x.to_vec_f32()?;
        check_written("d_x", &d_x)?;
        let case = self.case()?;
        let (sum, d_output) = (self.sampled(&x), self.sampled(&d_y));
        let oracle = norm_backward(&case, &sum, &d_output, None);
        let naive = naive::norm_backward(&case, [dtype; 4], &sum, &d_output, None, None);
        let shape = [samples(rows).count(), columns];
        let found = compare::check("d_x", &shape, dtype, &self.sampled(&d_x), &oracle.d_x, &naive.d_x, 3.0)?;
        let mut worst = found.max_difference / found.max_allowed;

        // A column by its definition, in a case of one column whose rows have the statistics of the whole ones.
        let stats = row_stats(&case, &x);
        let chosen: Vec<usize> =
            (0..COLUMNS.min(columns)).map(|index| index * columns / COLUMNS.min(columns)).collect();
        let (mut exact, mut unfused) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for column in chosen.iter().copied() {
            let (mut sums, mut sums_f32) = ([0.0f64; 2], [0.0f32; 2]);
            for row in 0..rows {
                let (x, d_y) = (x[row * columns + column], d_y[row * columns + column]);
                let (mean, rstd) = (stats.mean[row], stats.rstd[row]);
                sums[0] += f64::from(d_y) * (f64::from(x) - mean) * rstd;
                sums[1] += f64::from(d_y);
                sums_f32[0] += d_y * ((x - mean as f32) * rstd as f32);
                sums_f32[1] += d_y;
            }
            for index in 0..2 {
                exact[index].push(sums[index]);
                unfused[index].push(naive::round(f64::from(sums_f32[index]), dtype));
            }
        }
        let parts = [("d_weight", gradients.d_weight.as_ref()), ("d_bias", gradients.d_bias.as_ref())];
        for (index, (name, tensor)) in parts.into_iter().enumerate() {
            let Some(tensor) = tensor else { continue };
            let values = tensor.to_vec_f32()?;
            check_written(name, &values)?;
            let actual: Vec<f64> = chosen.iter().map(|column| f64::from(values[*column])).collect();
            let found = compare::check(name, &[actual.len()], dtype, &actual, &exact[index], &unfused[index], 3.0)?;
            worst = worst.max(found.max_difference / found.max_allowed);
        }
        Ok(worst)
    }

    fn sampled(&self, values: &[f32]) -> Vec<f64> {
        let columns = self.shape.columns;
        samples(self.shape.rows).flat_map(|row| wide(&values[row * columns..(row + 1) * columns])).collect()
    }
}

fn inputs<'a>(x: &'a Tensor, weight: &'a Tensor, bias: Option<&'a Tensor>) -> NormInputs<'a> {
    let inputs = NormInputs::new(x).weight(weight);
    match bias {
        Some(bias) => inputs.bias(bias),
        None => inputs,
    }
}

fn backward_inputs<'a>(
    set: &'a Set,
    d_y: &'a Tensor,
    weight: &'a Tensor,
    bias: Option<&'a Tensor>,
) -> NormBackwardInputs<'a> {
    let mut inputs = NormBackwardInputs::new(d_y, &set.x).weight(weight);
    if let Some(bias) = bias {
        inputs = inputs.bias(bias);
    }
    if let Some(mean) = &set.forward.mean {
        inputs = inputs.mean(mean);
    }
    match &set.forward.rstd {
        Some(rstd) => inputs.rstd(rstd),
        None => inputs,
    }
}

/// Mean and rstd of every row, by the oracle. It makes results of rows too, which are dropped row by row.
fn row_stats(case: &NormCase, x: &[f32]) -> NormResult {
    let case = NormCase { weight: None, bias: None, ..case.clone() };
    let of_row = |row: &[f32]| {
        let found = norm_forward(&case, &wide(row).collect::<Vec<f64>>());
        (found.mean[0], found.rstd[0])
    };
    let (mean, rstd) = x.par_chunks(case.columns).map(of_row).unzip();
    NormResult { y: Vec::new(), mean, rstd }
}

impl Trial for NormTrial {
    fn check(&mut self) -> Result<f64> {
        match self.plan {
            Plan::Forward(_) => self.check_forward(),
            Plan::Backward(_) => self.check_backward(),
        }
    }

    fn call(&mut self) -> Result<()> {
        let stream = self.device.stream();
        let bias = self.is_layer.then_some(&self.bias);
        let number = self.next;
        self.next = (self.next + 1) % self.sets.len();
        match &self.plan {
            Plan::Forward(plan) => {
                let Set { x, forward, .. } = &mut self.sets[number];
                let inputs = inputs(x, &self.weight, bias);
                plan.forward_into(&stream, &inputs, forward.outputs(), &mut self.workspace)?;
            }
            Plan::Backward(plan) => {
                let mut gradients = self.sets[number].gradients.take().context("a backward set has gradients")?;
                let set = &self.sets[number];
                let d_y = set.d_y.as_ref().context("a backward set has d_y")?;
                let inputs = backward_inputs(set, d_y, &self.weight, bias);
                let result = plan.backward_into(&stream, &inputs, gradients.outputs(), &mut self.workspace);
                self.sets[number].gradients = Some(gradients);
                result?;
            }
        }
        Ok(())
    }

    fn plan(&self) -> Result<()> {
        let (set, target) = (&self.sets[0], self.device.target());
        match &set.d_y {
            None => _ = black_box(self.norm.plan(&inputs(&set.x, &self.weight, self.bias()).spec(), &target)?),
            Some(d_y) => {
                let spec = backward_inputs(set, d_y, &self.weight, self.bias()).spec();
                _ = black_box(self.norm.plan_backward(&spec, &target)?);
            }
        }
        Ok(())
    }

    fn allocating_call(&self) -> Result<()> {
        let set = &self.sets[0];
        match &set.d_y {
            None => drop(self.norm.forward(&inputs(&set.x, &self.weight, self.bias()))?),
            Some(d_y) => drop(self.norm.backward(&backward_inputs(set, d_y, &self.weight, self.bias()))?),
        }
        Ok(())
    }

    fn flops(&self) -> Option<u64> {
        None
    }

    fn bytes(&self) -> usize {
        let RowShape { rows, columns } = self.shape;
        let vectors = 1 + usize::from(self.is_layer);
        // Statistics are written forward and read backward; backward, weight and bias have gradients. The values of the bias take
        // no part backward.
        let (tensors, of_columns) = match self.plan {
            Plan::Forward(_) => (2, vectors),
            Plan::Backward(_) => (3, 1 + vectors),
        };
        (tensors * rows * columns + of_columns * columns) * self.dtype.size_bytes() + vectors * rows * size_of::<f32>()
    }

    fn num_sets(&self) -> usize {
        self.sets.len()
    }
}
