//! One attempt of layer norm or RMS norm.

use warpfold::reference::compare::{self, Mismatch};
use warpfold::reference::{self, NormCase, NormGradients, NormResult, naive};
use warpfold::{
    DType, Device, Error, Norm, NormBackwardInputs, NormBackwardPlan, NormBackwardSpec, NormGradientOutputs,
    NormInputs, NormOutputs, NormPlan, NormSpec, Target,
};

use super::{check_rounding, kernel_names, placed_spec, select_rows};
use crate::common::{Placed, Placement, values};

/// A tensor with a type and a place in memory of its own.
#[derive(Clone, Copy, Debug)]
pub enum NormOperand {
    X,
    Residual,
    /// And its gradient.
    Weight,
    /// And its gradient.
    Bias,
    Y,
    /// What is normalised, where it is not x: a result forward, an input backward.
    Sum,
    DY,
    DSum,
    DX,
    DResidual,
}

/// Operands that there are.
pub const NORM_OPERANDS: usize = NormOperand::DResidual as usize + 1;

/// What one case computes, on what memory.
#[derive(Clone, Debug)]
pub struct NormAttempt {
    /// A weight or bias without values gets some of the seed: [`super::drawn_vector`].
    pub case: NormCase,
    /// All dimensions but the last.
    pub leading: Vec<usize>,
    /// One for each [`NormOperand`].
    pub dtypes: [DType; NORM_OPERANDS],
    /// One for each [`NormOperand`].
    pub placements: [Placement; NORM_OPERANDS],
    pub with_residual: bool,
    /// The sum is written, where there is one.
    pub with_sum: bool,
    /// The statistics are written forward, and given backward.
    pub with_stats: bool,
    pub with_d_sum: bool,
    pub with_d_residual: bool,
    pub mean: f64,
    pub spread: f64,
    pub seed: u64,
    /// The result may be off by what the rounding of exact statistics to f32 costs, however badly a sum in f32 does.
    pub is_tight: bool,
}

/// What goes in, in row-major order.
#[derive(Clone, Debug)]
pub struct NormNumbers {
    pub case: NormCase,
    pub x: Vec<f64>,
    pub residual: Option<Vec<f64>>,
    /// What is normalised, as the backward pass is given it.
    pub sum: Vec<f64>,
    pub d_y: Vec<f64>,
    pub d_sum: Option<Vec<f64>>,
}

impl NormNumbers {
    /// Some rows of a case without dropout.
    pub fn select(&self, rows: &[usize]) -> NormNumbers {
        let select = |values: &Vec<f64>| select_rows(values, self.case.columns, rows);
        NormNumbers {
            case: self.case.clone(),
            x: select(&self.x),
            residual: self.residual.as_ref().map(select),
            sum: select(&self.sum),
            d_y: select(&self.d_y),
            d_sum: self.d_sum.as_ref().map(select),
        }
    }
}

/// A device's result of the forward pass.
#[derive(Clone, Debug, PartialEq)]
pub struct NormOutcome {
    pub y: Vec<f64>,
    pub sum: Option<Vec<f64>>,
    pub mean: Option<Vec<f64>>,
    pub rstd: Option<Vec<f64>>,
}

impl NormAttempt {
    /// A norm whose statistics are written and given.
    pub fn new(case: NormCase, leading: &[usize], dtype: DType, placement: Placement) -> NormAttempt {
        NormAttempt {
            // In a row of a few elements the gradients of a norm cancel up to eps.
            case: NormCase { eps: if case.columns < 8 { 0.25 } else { case.eps }, ..case },
            leading: leading.to_vec(),
            dtypes: [dtype; NORM_OPERANDS],
            placements: [placement; NORM_OPERANDS],
            with_residual: false,
            with_sum: true,
            with_stats: true,
            with_d_sum: false,
            with_d_residual: false,
            mean: 0.5,
            spread: 1.0,
            seed: 11,
            is_tight: false,
        }
    }

    /// Puts one tensor elsewhere.
    pub fn place(mut self, operand: NormOperand, placement: Placement) -> NormAttempt {
        self.placements[operand as usize] = placement;
        self
    }

    /// Gives one tensor another type.
    pub fn retype(mut self, operand: NormOperand, dtype: DType) -> NormAttempt {
        self.dtypes[operand as usize] = dtype;
        self
    }

    fn placement(&self, operand: NormOperand) -> Placement {
        self.placements[operand as usize]
    }

    pub fn dtype(&self, operand: NormOperand) -> DType {
        self.dtypes[operand as usize]
    }

    fn shape(&self) -> Vec<usize> {
        [&self.leading[..], &[self.case.columns]].concat()
    }

    /// Whether what is normalised is not x itself.
    fn has_sum(&self) -> bool {
        self.with_residual || self.case.dropout.is_some()
    }

    /// The type of what is normalised.
    fn sum_dtype(&self) -> DType {
        self.dtype(if self.has_sum() { NormOperand::Sum } else { NormOperand::X })
    }

    /// The configuration of the layer.
    pub fn norm(&self) -> Norm {
        let case = &self.case;
        let norm = if case.is_centered { Norm::layer() } else { Norm::rms() };
        let dropout = case.dropout.map_or(0.0, |dropout| dropout.probability as f32);
        norm.eps(case.eps as f32).zero_centered(case.is_zero_centered).dropout(dropout)
    }

    /// The inputs of the seed.
    pub fn numbers(&self) -> NormNumbers {
        let mut case = NormCase { eps: f64::from(self.case.eps as f32), ..self.case.clone() };
        let count = self.leading.iter().product::<usize>() * case.columns;
        // The seeds are apart, so that no two tensors hold the same numbers.
        let draw = |number: u64, operand, count, mean, spread| {
            values(self.seed + number * 1000, count, mean, spread, self.dtype(operand))
        };
        let weight_mean = if case.is_zero_centered { 0.0 } else { 1.0 };
        let columns = case.columns;
        if let Some(weight) = case.weight.as_mut().filter(|weight| weight.is_empty()) {
            *weight = draw(1, NormOperand::Weight, columns, weight_mean, 0.2);
        }
        if let Some(bias) = case.bias.as_mut().filter(|bias| bias.is_empty()) {
            *bias = draw(2, NormOperand::Bias, columns, 0.1, 0.5);
        }
        let x = draw(0, NormOperand::X, count, self.mean, self.spread);
        let residual = self.with_residual.then(|| draw(3, NormOperand::Residual, count, -0.2, self.spread));
        let sum = reference::norm_sum(&case, &x, residual.as_deref());
        // An f32 sum that is rounded to its type, which is not always the number nearest to the exact sum.
        let sum = sum.into_iter().map(|sum| naive::round(naive::round(sum, DType::F32), self.sum_dtype())).collect();
        let d_y = draw(4, NormOperand::DY, count, 0.3, 1.0);
        let d_sum = self.with_d_sum.then(|| draw(5, NormOperand::DSum, count, 0.1, 1.0));
        NormNumbers { case, x, residual, sum, d_y, d_sum }
    }

    fn placed(&self, device: &Device, operand: NormOperand, values: &[f64], shape: &[usize]) -> Result<Placed, Error> {
        Placed::new(device, self.dtype(operand), values, shape, self.placement(operand))
    }

    /// A tensor that may be absent.
    fn placed_if(
        &self,
        device: &Device,
        operand: NormOperand,
        values: &Option<Vec<f64>>,
        shape: &[usize],
    ) -> Result<Option<Placed>, Error> {
        values.as_ref().map(|values| self.placed(device, operand, values, shape)).transpose()
    }

    /// Memory for a result that may not be wanted.
    fn poisoned_if(
        &self,
        device: &Device,
        operand: NormOperand,
        wanted: bool,
        shape: &[usize],
    ) -> Result<Option<Placed>, Error> {
        wanted.then(|| self.placed(device, operand, &[], shape)).transpose()
    }

    /// The forward pass.
    pub fn run_on(&self, device: &Device, numbers: &NormNumbers) -> Result<NormOutcome, Error> {
        let (shape, columns) = (self.shape(), [self.case.columns]);
        let x = self.placed(device, NormOperand::X, &numbers.x, &shape)?;
        let residual = self.placed_if(device, NormOperand::Residual, &numbers.residual, &shape)?;
        let weight = self.placed_if(device, NormOperand::Weight, &numbers.case.weight, &columns)?;
        let bias = self.placed_if(device, NormOperand::Bias, &numbers.case.bias, &columns)?;
        let mut y = self.placed(device, NormOperand::Y, &[], &shape)?;
        let mut sum = self.poisoned_if(device, NormOperand::Sum, self.has_sum(), &shape)?;
        let stats = |wanted: bool| -> Result<Option<Placed>, Error> {
            let stats = || Placed::poisoned(device, DType::F32, &self.leading, Placement::Contiguous);
            wanted.then(stats).transpose()
        };
        let mut mean = stats(self.with_stats && self.case.is_centered)?;
        let mut rstd = stats(self.with_stats)?;

        let mut inputs = NormInputs::new(x.view());
        if let Some(residual) = &residual {
            inputs = inputs.residual(residual.view());
        }
        if let Some(weight) = &weight {
            inputs = inputs.weight(weight.view());
        }
        if let Some(bias) = &bias {
            inputs = inputs.bias(bias.view());
        }
        if let Some(dropout) = self.case.dropout {
            inputs = inputs.dropout_state(dropout.seed, dropout.offset);
        }
        let mut spec = inputs.spec().output(y.view().spec());
        if let Some(sum) = &sum {
            spec = spec.sum(sum.view().spec());
        }
        let plan = self.norm().plan(&spec, &device.target())?;
        let stream = device.stream();
        let mut workspace = plan.workspace(&stream)?;
        let mut outputs = NormOutputs::new(y.view_mut());
        if let Some(sum) = sum.as_mut().filter(|_| self.with_sum) {
            outputs = outputs.sum(sum.view_mut());
        }
        if let Some(mean) = &mut mean {
            outputs = outputs.mean(mean.view_mut());
        }
        if let Some(rstd) = &mut rstd {
            outputs = outputs.rstd(rstd.view_mut());
        }
        plan.forward_into(&stream, &inputs, outputs, &mut workspace)?;
        let values = |placed: Option<Placed>| placed.map(|placed| placed.values()).transpose();
        Ok(NormOutcome {
            y: y.values()?,
            sum: values(sum.filter(|_| self.with_sum))?,
            mean: values(mean)?,
            rstd: values(rstd)?,
        })
    }

    pub fn run(&self, device: &Device) -> Result<NormOutcome, Error> {
        self.run_on(device, &self.numbers())
    }

    /// The backward pass. A gradient of the residual that is not asked for is left empty.
    pub fn run_backward_on(&self, device: &Device, numbers: &NormNumbers) -> Result<NormGradients, Error> {
        let (shape, columns) = (self.shape(), [self.case.columns]);
        let case = &numbers.case;
        let d_y = self.placed(device, NormOperand::DY, &numbers.d_y, &shape)?;
        let sum_operand = if self.has_sum() { NormOperand::Sum } else { NormOperand::X };
        let sum = self.placed(device, sum_operand, &numbers.sum, &shape)?;
        let d_sum = self.placed_if(device, NormOperand::DSum, &numbers.d_sum, &shape)?;
        let weight = self.placed_if(device, NormOperand::Weight, &case.weight, &columns)?;
        let bias = self.placed_if(device, NormOperand::Bias, &case.bias, &columns)?;
        let NormResult { mean, rstd, .. } = reference::norm_forward(case, &numbers.sum);
        let stats = |values: &[f64], wanted: bool| -> Result<Option<Placed>, Error> {
            let values: Vec<f64> = values.iter().map(|value| naive::round(*value, DType::F32)).collect();
            let stats = || Placed::new(device, DType::F32, &values, &self.leading, Placement::Contiguous);
            wanted.then(stats).transpose()
        };
        let mean = stats(&mean, self.with_stats && case.is_centered)?;
        let rstd = stats(&rstd, self.with_stats)?;
        let mut d_x = self.placed(device, NormOperand::DX, &[], &shape)?;
        let mut d_residual = self.poisoned_if(device, NormOperand::DResidual, self.with_d_residual, &shape)?;
        let mut d_weight = self.poisoned_if(device, NormOperand::Weight, weight.is_some(), &columns)?;
        let mut d_bias = self.poisoned_if(device, NormOperand::Bias, bias.is_some(), &columns)?;

        let mut inputs = NormBackwardInputs::new(d_y.view(), sum.view());
        if let Some(weight) = &weight {
            inputs = inputs.weight(weight.view());
        }
        if let Some(bias) = &bias {
            inputs = inputs.bias(bias.view());
        }
        if let Some(d_sum) = &d_sum {
            inputs = inputs.d_sum(d_sum.view());
        }
        if let Some(mean) = &mean {
            inputs = inputs.mean(mean.view());
        }
        if let Some(rstd) = &rstd {
            inputs = inputs.rstd(rstd.view());
        }
        if let Some(dropout) = case.dropout {
            inputs = inputs.dropout_state(dropout.seed, dropout.offset);
        }
        let mut spec = inputs.spec().d_x(d_x.view().spec());
        if let Some(d_residual) = &d_residual {
            spec = spec.d_residual(d_residual.view().spec());
        }
        let plan = self.norm().plan_backward(&spec, &device.target())?;
        let stream = device.stream();
        let mut workspace = plan.workspace(&stream)?;
        let mut outputs = NormGradientOutputs::new(d_x.view_mut());
        if let Some(d_residual) = &mut d_residual {
            outputs = outputs.d_residual(d_residual.view_mut());
        }
        if let Some(d_weight) = &mut d_weight {
            outputs = outputs.d_weight(d_weight.view_mut());
        }
        if let Some(d_bias) = &mut d_bias {
            outputs = outputs.d_bias(d_bias.view_mut());
        }
        plan.backward_into(&stream, &inputs, outputs, &mut workspace)?;
        let values = |placed: Option<Placed>| placed.map(|placed| placed.values()).transpose();
        Ok(NormGradients {
            d_x: d_x.values()?,
            d_residual: values(d_residual)?.unwrap_or_default(),
            d_weight: values(d_weight)?,
            d_bias: values(d_bias)?,
        })
    }

    pub fn run_backward(&self, device: &Device) -> Result<NormGradients, Error> {
        self.run_backward_on(device, &self.numbers())
    }

    fn name(&self) -> &'static str {
        if self.case.is_centered { "layer norm" } else { "RMS norm" }
    }

    /// The oracle's verdict on a forward pass: on the sum, and on what became of the device's own sum. The largest
    /// error as a share of what is allowed.
    pub fn judge_on(&self, outcome: &NormOutcome, numbers: &NormNumbers) -> Result<f64, Mismatch> {
        let NormNumbers { case, x, residual, .. } = numbers;
        let shape = self.shape();
        let mut error_share = 0.0f64;
        if let Some(sum) = &outcome.sum {
            let dtype = self.dtype(NormOperand::Sum);
            let oracle = reference::norm_sum(case, x, residual.as_deref());
            let naive = naive::norm_sum(case, [self.dtype(NormOperand::X), dtype], x, residual.as_deref());
            let closeness = compare::check("the sum", &shape, dtype, sum, &oracle, &naive, 2.0)?;
            error_share = error_share.max(closeness.share_of_allowed());
            check_rounding("the sum", dtype, sum, &oracle)?;
        }
        let sum = outcome.sum.as_ref().unwrap_or(&numbers.sum);
        let dtype = self.dtype(NormOperand::Y);
        let oracle = reference::norm_forward(case, sum);
        let naive = naive::norm_forward(case, dtype, sum, self.is_tight.then_some(&oracle));
        let closeness = compare::check(self.name(), &shape, dtype, &outcome.y, &oracle.y, &naive, 2.0)?;
        check_rounding(self.name(), dtype, &outcome.y, &oracle.y)?;
        self.judge_stats(outcome, sum, &oracle)?;
        Ok(error_share.max(closeness.share_of_allowed()))
    }

    /// Statistics are f32 whatever the types: the mean as exact as a sum of distances from a value of the row can be, rstd to
    /// some units of its last place.
    fn judge_stats(&self, outcome: &NormOutcome, sum: &[f64], oracle: &NormResult) -> Result<(), Mismatch> {
        let wrong = |what: &str, row: usize, actual: f64, oracle: f64, reason: String| {
            Err(Mismatch { what: what.to_string(), coordinate: vec![row], actual, oracle, reason })
        };
        for (row, s) in sum.chunks(self.case.columns).enumerate() {
            let (mean, rstd) = (oracle.mean[row], oracle.rstd[row]);
            if let Some(actual) = outcome.mean.as_ref().map(|mean| mean[row]) {
                let reach = s.iter().fold(0.0f64, |max, value| max.max((value - mean).abs()));
                // And then rounded once.
                let half_ulp = 2f64.powi(mean.abs().max(1e-30).log2().floor() as i32 - 24);
                let (error, allowed) = ((actual - mean).abs(), 2f64.powi(-20) * reach + half_ulp);
                if error.is_nan() || error > allowed {
                    let reason = format!("{error:e} off, over {allowed:e}, {} ulp of f32", error / (2.0 * half_ulp));
                    return wrong("mean", row, actual, mean, reason);
                }
            }
            if let Some(actual) = outcome.rstd.as_ref().map(|rstd| rstd[row]) {
                let error = (actual / rstd - 1.0).abs();
                if error.is_nan() || error > 2f64.powi(-18) {
                    return wrong("rstd", row, actual, rstd, format!("{error:e} of itself off, over 2^-18"));
                }
            }
        }
        Ok(())
    }

    /// The oracle's verdict on a backward pass: the largest error as a share of what is allowed.
    pub fn judge_backward_on(&self, gradients: &NormGradients, numbers: &NormNumbers) -> Result<f64, Mismatch> {
        let NormNumbers { case, sum, d_y, d_sum, .. } = numbers;
        let (shape, columns) = (self.shape(), [case.columns]);
        let oracle = reference::norm_backward(case, sum, d_y, d_sum.as_deref());
        let operands = [NormOperand::DX, NormOperand::DResidual, NormOperand::Weight, NormOperand::Bias];
        let dtypes = operands.map(|operand| self.dtype(operand));
        let exact = reference::norm_forward(case, sum);
        let given = (self.with_stats || self.is_tight).then_some(&exact);
        let naive = naive::norm_backward(case, dtypes, sum, d_y, d_sum.as_deref(), given);
        let mut error_share = 0.0f64;
        let mut check = |what: &str, shape: &[usize], dtype, actual: &[f64], oracle: &[f64], naive: &[f64]| {
            let what = format!("{what} of {}", self.name());
            let closeness = compare::check(&what, shape, dtype, actual, oracle, naive, 3.0)?;
            error_share = error_share.max(closeness.share_of_allowed());
            check_rounding(&what, dtype, actual, oracle)
        };
        check("d_x", &shape, dtypes[0], &gradients.d_x, &oracle.d_x, &naive.d_x)?;
        if self.with_d_residual {
            check("d_residual", &shape, dtypes[1], &gradients.d_residual, &oracle.d_residual, &naive.d_residual)?;
        }
        let vectors = [
            ("d_weight", dtypes[2], &gradients.d_weight, &oracle.d_weight, &naive.d_weight),
            ("d_bias", dtypes[3], &gradients.d_bias, &oracle.d_bias, &naive.d_bias),
        ];
        for (what, dtype, actual, oracle, naive) in vectors {
            if let (Some(oracle), Some(naive)) = (oracle, naive) {
                // One that is not there has no elements, which is a mismatch.
                check(what, &columns, dtype, actual.as_deref().unwrap_or_default(), oracle, naive)?;
            }
        }
        Ok(error_share)
    }

    /// Panics unless the forward pass agrees with the oracle.
    pub fn check(&self, device: &Device, why: &str) {
        let numbers = self.numbers();
        let outcome = self.run_on(device, &numbers);
        let outcome = outcome.unwrap_or_else(|error| panic!("{why} on {device}: {error}\n{self:?}"));
        let verdict = self.judge_on(&outcome, &numbers);
        verdict.unwrap_or_else(|mismatch| panic!("{why} on {device}: {mismatch}\n{self:?}"));
    }

    /// Panics unless the backward pass agrees with the oracle.
    pub fn check_backward(&self, device: &Device, why: &str) {
        let numbers = self.numbers();
        let gradients = self.run_backward_on(device, &numbers);
        let gradients = gradients.unwrap_or_else(|error| panic!("{why} on {device}: {error}\n{self:?}"));
        let verdict = self.judge_backward_on(&gradients, &numbers);
        verdict.unwrap_or_else(|mismatch| panic!("{why} on {device}: {mismatch}\n{self:?}"));
    }

    /// Panics unless both passes agree with the oracle.
    pub fn check_both(&self, device: &Device, why: &str) {
        self.check(device, why);
        self.check_backward(device, why);
    }

    /// The plans of the forward and the backward pass.
    pub fn plans(&self, target: &Target) -> Result<(NormPlan, NormBackwardPlan), Error> {
        let (shape, columns) = (self.shape(), [self.case.columns]);
        let spec = |operand, shape: &[usize]| placed_spec(self.dtype(operand), shape, self.placement(operand));
        let rows = |operand| spec(operand, &shape);
        let sum = rows(if self.has_sum() { NormOperand::Sum } else { NormOperand::X });
        let mut forward = NormSpec::new(rows(NormOperand::X)).output(rows(NormOperand::Y)).sum(sum);
        let mut backward = NormBackwardSpec::new(rows(NormOperand::DY), sum).d_x(rows(NormOperand::DX));
        if self.with_residual {
            forward = forward.residual(rows(NormOperand::Residual));
        }
        if self.case.weight.is_some() {
            let weight = spec(NormOperand::Weight, &columns);
            (forward, backward) = (forward.weight(weight), backward.weight(weight));
        }
        if self.case.bias.is_some() {
            let bias = spec(NormOperand::Bias, &columns);
            (forward, backward) = (forward.bias(bias), backward.bias(bias));
        }
        if self.with_d_sum {
            backward = backward.d_sum(rows(NormOperand::DSum));
        }
        if self.with_d_residual {
            backward = backward.d_residual(rows(NormOperand::DResidual));
        }
        if self.with_stats {
            backward = backward.stats();
        }
        Ok((self.norm().plan(&forward, target)?, self.norm().plan_backward(&backward, target)?))
    }

    /// The names of the kernels that the forward and the backward pass are planned onto.
    pub fn kernels(&self, target: &Target) -> Result<[Vec<String>; 2], Error> {
        let (forward, backward) = self.plans(target)?;
        Ok([kernel_names(&forward.launches()), kernel_names(&backward.launches())])
    }
}
