//! One attempt of softmax or log-softmax.

use warpfold::reference::compare::{self, Mismatch};
use warpfold::reference::{self, Alignment, SoftmaxCase, naive};
use warpfold::{
    DType, Device, Error, Mask, Softmax, SoftmaxBackwardPlan, SoftmaxBackwardSpec, SoftmaxInputs, SoftmaxPlan,
    SoftmaxSpec, Target,
};

use super::{check_rounding, drawn_rows, kernel_names, placed_spec, select_rows};
use crate::common::{Placed, Placement, mask_bytes, values};

/// A tensor with a place in memory of its own.
#[derive(Clone, Copy, Debug)]
pub enum SoftmaxOperand {
    X,
    Bias,
    Mask,
    /// The result forward, an input backward.
    Y,
    DY,
    DX,
}

/// Operands that there are.
pub const SOFTMAX_OPERANDS: usize = SoftmaxOperand::DX as usize + 1;

/// What one case computes, on what memory.
#[derive(Clone, Debug)]
pub struct SoftmaxAttempt {
    /// A bias or mask without values gets some of the seed: [`super::drawn_rows`].
    pub case: SoftmaxCase,
    pub dtype: DType,
    /// As x, or f32.
    pub bias_dtype: DType,
    /// The result replaces x, and the gradient of x that of y.
    pub in_place: bool,
    /// One for each [`SoftmaxOperand`].
    pub placements: [Placement; SOFTMAX_OPERANDS],
    pub mean: f64,
    pub spread: f64,
    pub seed: u64,
}

/// What goes in, in row-major order. Elements that take no part are NaN.
#[derive(Clone, Debug)]
pub struct SoftmaxNumbers {
    pub case: SoftmaxCase,
    pub x: Vec<f64>,
    /// The result that the backward pass is given.
    pub y: Vec<f64>,
    pub d_y: Vec<f64>,
}

impl SoftmaxNumbers {
    /// Some rows of a case in which a row's place does not matter.
    pub fn select(&self, rows: &[usize]) -> SoftmaxNumbers {
        let columns = self.case.columns();
        let select = |values: &[f64]| select_rows(values, columns, rows);
        let case = SoftmaxCase { shape: vec![rows.len(), columns], ..self.case.clone() };
        SoftmaxNumbers { case, x: select(&self.x), y: select(&self.y), d_y: select(&self.d_y) }
    }
}

impl SoftmaxAttempt {
    pub fn new(case: SoftmaxCase, dtype: DType, placement: Placement) -> SoftmaxAttempt {
        SoftmaxAttempt {
            case,
            dtype,
            bias_dtype: dtype,
            in_place: false,
            placements: [placement; SOFTMAX_OPERANDS],
            mean: 0.5,
            spread: 1.0,
            seed: 11,
        }
    }

    /// Puts one tensor elsewhere.
    pub fn place(mut self, operand: SoftmaxOperand, placement: Placement) -> SoftmaxAttempt {
        self.placements[operand as usize] = placement;
        self
    }

    fn placement(&self, operand: SoftmaxOperand) -> Placement {
        self.placements[operand as usize]
    }

    /// The configuration of the layer.
    pub fn softmax(&self) -> Softmax {
        let case = &self.case;
        let mut mask = if case.causal { Mask::causal() } else { Mask::none() };
        if case.window != (None, None) {
            mask = mask.window(case.window.0, case.window.1);
        }
        if let Alignment::Offset(offset) = case.alignment {
            mask = mask.offset(offset);
        }
        Softmax::new().scale(case.scale as f32).log(case.is_log).mask(mask.prefix(case.prefix))
    }

    /// The inputs of the seed.
    pub fn numbers(&self) -> SoftmaxNumbers {
        let mut case = self.case.clone();
        let count = case.elements();
        if let Some(mask) = case.mask.as_mut().filter(|mask| mask.values.is_empty()) {
            mask.values = mask_bytes(self.seed + 2, mask.shape.iter().product());
        }
        if let Some(bias) = case.bias.as_mut().filter(|bias| bias.values.is_empty()) {
            bias.values = values(self.seed + 1, bias.shape.iter().product(), 0.2, 1.0, self.bias_dtype);
        }
        let visible: Vec<bool> = (0..count).map(|element| case.visible(element)).collect();
        if let Some(bias) = &mut case.bias {
            let mut is_used = vec![false; bias.values.len()];
            for element in (0..count).filter(|element| visible[*element]) {
                is_used[bias.index(&case.shape, element)] = true;
            }
            let unused = bias.values.iter_mut().zip(is_used).filter(|(_, is_used)| !is_used);
            unused.for_each(|(value, _)| *value = f64::NAN);
        }
        let mut x = values(self.seed, count, self.mean, self.spread, self.dtype);
        x.iter_mut().zip(&visible).filter(|(_, visible)| !**visible).for_each(|(x, _)| *x = f64::NAN);
        let y = reference::softmax_forward(&case, &x).into_iter().map(|y| naive::round(y, self.dtype));
        let y: Vec<f64> = y.collect();
        let mut d_y = values(self.seed + 3, count, 0.3, 1.0, self.dtype);
        d_y.iter_mut().zip(&y).filter(|(_, y)| **y == case.nothing()).for_each(|(d_y, _)| *d_y = f64::NAN);
        SoftmaxNumbers { case, x, y, d_y }
    }

    /// The forward pass.
    pub fn run_on(&self, device: &Device, numbers: &SoftmaxNumbers) -> Result<Vec<f64>, Error> {
        let SoftmaxNumbers { case, x, .. } = numbers;
        let place = |operand, dtype, values: &[f64], shape: &[usize]| {
            Placed::new(device, dtype, values, shape, self.placement(operand))
        };
        let x = place(SoftmaxOperand::X, self.dtype, x, &case.shape)?;
        let y = Placed::poisoned(device, self.dtype, &case.shape, self.placement(SoftmaxOperand::Y))?;
        let (x, mut y) = if self.in_place { (None, x) } else { (Some(x), y) };
        let bias = case.bias.as_ref();
        let bias =
            bias.map(|bias| place(SoftmaxOperand::Bias, self.bias_dtype, &bias.values, &bias.shape)).transpose()?;
        let mask = case.mask.as_ref().map(|mask| {
            let bytes: Vec<f64> = mask.values.iter().map(|byte| f64::from(*byte)).collect();
            place(SoftmaxOperand::Mask, DType::U8, &bytes, &mask.shape)
        });
        let mask = mask.transpose()?;

        let mut spec = match &x {
            None => SoftmaxSpec::new(y.view().spec()).in_place(),
            Some(x) => SoftmaxSpec::new(x.view().spec()).output(y.view().spec()),
        };
        let mut inputs = x.as_ref().map_or(SoftmaxInputs::in_place(), |x| SoftmaxInputs::new(x.view()));
        if let Some(bias) = &bias {
            (spec, inputs) = (spec.bias(bias.view().spec()), inputs.bias(bias.view()));
        }
        if let Some(mask) = &mask {
            (spec, inputs) = (spec.mask(mask.view().spec()), inputs.mask(mask.view()));
        }
        let plan = self.softmax().plan(&spec, &device.target())?;
        let stream = device.stream();
        let mut workspace = plan.workspace(&stream)?;
        plan.forward_into(&stream, inputs, y.view_mut(), &mut workspace)?;
        y.values()
    }

    pub fn run(&self, device: &Device) -> Result<Vec<f64>, Error> {
        self.run_on(device, &self.numbers())
    }

    /// The backward pass.
    pub fn run_backward_on(&self, device: &Device, numbers: &SoftmaxNumbers) -> Result<Vec<f64>, Error> {
        let shape = &numbers.case.shape;
        let y = Placed::new(device, self.dtype, &numbers.y, shape, self.placement(SoftmaxOperand::Y))?;
        let mut d_y = Placed::new(device, self.dtype, &numbers.d_y, shape, self.placement(SoftmaxOperand::DY))?;
        let mut d_x = Placed::poisoned(device, self.dtype, shape, self.placement(SoftmaxOperand::DX))?;
        let spec = SoftmaxBackwardSpec::new(y.view().spec(), d_y.view().spec());
        let spec = if self.in_place { spec.in_place() } else { spec.d_x(d_x.view().spec()) };
        let plan = self.softmax().plan_backward(&spec, &device.target())?;
        let stream = device.stream();
        let mut workspace = plan.workspace(&stream)?;
        if self.in_place {
            plan.backward_in_place(&stream, y.view(), d_y.view_mut(), &mut workspace)?;
            return d_y.values();
        }
        plan.backward_into(&stream, [y.view(), d_y.view()], d_x.view_mut(), &mut workspace)?;
        d_x.values()
    }

    pub fn run_backward(&self, device: &Device) -> Result<Vec<f64>, Error> {
        self.run_backward_on(device, &self.numbers())
    }

    /// The oracle's verdict on a forward pass: the largest error as a share of what is allowed.
    pub fn judge_on(&self, y: &[f64], numbers: &SoftmaxNumbers) -> Result<f64, Mismatch> {
        let SoftmaxNumbers { case, x, .. } = numbers;
        let oracle = reference::softmax_forward(case, x);
        let naive = naive::softmax_forward(case, self.dtype, x);
        let what = if case.is_log { "log-softmax" } else { "softmax" };
        let closeness = compare::check(what, &case.shape, self.dtype, y, &oracle, &naive, 2.0)?;
        check_rounding(what, self.dtype, y, &oracle)?;
        Ok(closeness.share_of_allowed())
    }

    /// The oracle's verdict on a backward pass: the largest error as a share of what is allowed.
    pub fn judge_backward_on(&self, d_x: &[f64], numbers: &SoftmaxNumbers) -> Result<f64, Mismatch> {
        let SoftmaxNumbers { case, y, d_y, .. } = numbers;
        let oracle = reference::softmax_backward(case, y, d_y);
        let naive = naive::softmax_backward(case, self.dtype, y, d_y);
        let what = if case.is_log { "d_x of log-softmax" } else { "d_x of softmax" };
        let closeness = compare::check(what, &case.shape, self.dtype, d_x, &oracle, &naive, 3.0)?;
        check_rounding(what, self.dtype, d_x, &oracle)?;
        Ok(closeness.share_of_allowed())
    }

    /// Panics unless the forward pass agrees with the oracle.
    pub fn check(&self, device: &Device, why: &str) {
        self.check_on(device, &self.numbers(), why);
    }

    pub fn check_on(&self, device: &Device, numbers: &SoftmaxNumbers, why: &str) {
        let y = self.run_on(device, numbers).unwrap_or_else(|error| panic!("{why} on {device}: {error}\n{self:?}"));
        self.judge_on(&y, numbers).unwrap_or_else(|mismatch| panic!("{why} on {device}: {mismatch}\n{self:?}"));
    }

    /// Panics unless the backward pass agrees with the oracle.
    pub fn check_backward(&self, device: &Device, why: &str) {
        self.check_backward_on(device, &self.numbers(), why);
    }

    pub fn check_backward_on(&self, device: &Device, numbers: &SoftmaxNumbers, why: &str) {
        let d_x = self.run_backward_on(device, numbers);
        let d_x = d_x.unwrap_or_else(|error| panic!("{why} on {device}: {error}\n{self:?}"));
        let verdict = self.judge_backward_on(&d_x, numbers);
        verdict.unwrap_or_else(|mismatch| panic!("{why} on {device}: {mismatch}\n{self:?}"));
    }

    /// Panics unless both passes agree with the oracle.
    pub fn check_both(&self, device: &Device, why: &str) {
        let numbers = self.numbers();
        self.check_on(device, &numbers, why);
        self.check_backward_on(device, &numbers, why);
    }

    /// The plans of the forward and the backward pass.
    pub fn plans(&self, target: &Target) -> Result<(SoftmaxPlan, SoftmaxBackwardPlan), Error> {
        let shape = &self.case.shape;
        let spec = |operand, dtype, shape: &[usize]| placed_spec(dtype, shape, self.placement(operand));
        let rows = |operand| spec(operand, self.dtype, shape);
        let mut forward = SoftmaxSpec::new(rows(SoftmaxOperand::X));
        let mut backward = SoftmaxBackwardSpec::new(rows(SoftmaxOperand::Y), rows(SoftmaxOperand::DY));
        (forward, backward) = match self.in_place {
            true => (forward.in_place(), backward.in_place()),
            false => (forward.output(rows(SoftmaxOperand::Y)), backward.d_x(rows(SoftmaxOperand::DX))),
        };
        if let Some(bias) = &self.case.bias {
            forward = forward.bias(spec(SoftmaxOperand::Bias, self.bias_dtype, &bias.shape));
        }
        if let Some(mask) = &self.case.mask {
            forward = forward.mask(spec(SoftmaxOperand::Mask, DType::U8, &mask.shape));
        }
        Ok((self.softmax().plan(&forward, target)?, self.softmax().plan_backward(&backward, target)?))
    }

    /// The names of the kernels that the forward and the backward pass are planned onto.
    pub fn kernels(&self, target: &Target) -> Result<[Vec<String>; 2], Error> {
        let (forward, backward) = self.plans(target)?;
        Ok([kernel_names(&forward.launches()), kernel_names(&backward.launches())])
    }
}

/// Rows of infinities, NaNs, equal and large values, perhaps some of them hidden, and the gradients of such rows.
pub fn check_softmax_of_special_values(
    device: &Device,
    dtype: DType,
    columns: usize,
    is_log: bool,
    with_mask: bool,
    why: &str,
) {
    const ROWS: usize = 10;
    let mask = if with_mask { drawn_rows(&[ROWS, columns]) } else { None };
    let case = SoftmaxCase { is_log, mask, ..SoftmaxCase::new(&[ROWS, columns]) };
    let attempt = SoftmaxAttempt::new(case, dtype, Placement::Contiguous);
    let mut numbers = attempt.numbers();
    let none = f64::NEG_INFINITY;
    let last = columns - 1;
    let row = |index: usize| index * columns..(index + 1) * columns;
    // All of these elements but those of the last two rows are visible.
    if let Some(mask) = &mut numbers.case.mask {
        mask.values[..row(7).end].fill(1);
        mask.values[row(8)].fill(0);
        numbers.x[..row(7).end].fill(0.5);
    }
    let x = &mut numbers.x;
    x[row(0)].fill(none);
    // Far below 0, so that only its distance from the maximum gives it a weight.
    x[row(1)].fill(none);
    x[row(1).start + columns / 2] = -3000.0;
    x[row(2).start + last] = f64::NAN;
    x[row(3).start] = f64::INFINITY;
    x[row(4)].fill(0.25);
    x[row(5)].fill(none);
    x[row(5).start + last] = 1.0;
    x[row(6)].iter_mut().step_by(2).for_each(|x| *x = 20000.0);
    x[row(6)].iter_mut().skip(1).step_by(2).for_each(|x| *x = -20000.0);
    x[row(7)].fill(-20000.0);
    if with_mask {
        // What is hidden may be anything.
        let hidden = [f64::NAN, f64::INFINITY, none, 30000.0].into_iter().cycle();
        let visible = |element: usize| numbers.case.visible(element);
        (row(8).start..row(9).end)
            .zip(hidden)
            .filter(|(element, _)| !visible(*element))
            .for_each(|(element, value)| x[element] = value);
    }
    attempt.check_on(device, &numbers, why);

    let SoftmaxNumbers { case, x, y, d_y } = &mut numbers;
    *y = reference::softmax_forward(case, x).into_iter().map(|y| naive::round(y, dtype)).collect();
    *d_y = values(attempt.seed + 3, y.len(), 0.3, 1.0, dtype);
    d_y.iter_mut().zip(&*y).filter(|(_, y)| **y == case.nothing()).for_each(|(d_y, _)| *d_y = f64::INFINITY);
    // A gradient that is no number reaches its row only.
    d_y[row(4).start] = f64::NAN;
    attempt.check_backward_on(device, &numbers, why);
}

/// Rows that see a prefix and a few columns in their middle, with a NaN in either or in neither: it reaches what the row
/// does not see, before, between and after.
pub fn check_softmax_of_a_nan_beside_hidden_columns(
    device: &Device,
    dtype: DType,
    columns: usize,
    is_log: bool,
    why: &str,
) {
    let middle = columns / 2;
    let case = SoftmaxCase {
        is_log,
        window: (Some(3), Some(0)),
        prefix: 2,
        alignment: Alignment::Offset(middle as i64),
        ..SoftmaxCase::new(&[4, columns])
    };
    let attempt = SoftmaxAttempt::new(case, dtype, Placement::Contiguous);
    let mut numbers = attempt.numbers();
    numbers.x[0] = f64::NAN;
    numbers.x[columns + middle] = f64::INFINITY;
    attempt.check_on(device, &numbers, why);
    SoftmaxAttempt { in_place: true, ..attempt }.check_on(device, &numbers, why);
}
