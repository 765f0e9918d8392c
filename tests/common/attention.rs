//! One attempt of attention: inputs, a device's results, and the oracle's verdict.

mod given;
mod gradients;
pub mod merge;
mod numbers;

use warpfold::reference::compare::{self, Mismatch};
use warpfold::reference::{self, Alignment, AttentionCase, AttentionGradients, Broadcast, DropoutCase, naive};
use warpfold::{
    Attention, AttentionBackwardPlan, AttentionForward, AttentionOutputs, AttentionPlan, AttentionState,
    BackwardInputs, BackwardSpec, DType, Device, Error, LaunchPlan, Mask, Qkv, SeqLens, Tensor,
};

use given::{Given, PlacedGradients, lse_rows, place_f32, query_rows};
pub use numbers::Numbers;

use super::{Placed, Placement, mask_bytes, upload, values};

/// A tensor with a place in memory of its own.
#[derive(Clone, Copy, Debug)]
pub enum Operand {
    Q,
    K,
    V,
    Bias,
    Mask,
    Output,
    DOutput,
    DQ,
    DK,
    DV,
    DBias,
}

/// Operands that there are.
pub const OPERANDS: usize = Operand::DBias as usize + 1;

/// What one case computes, on what memory.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// A bias or mask without values gets some of the seed: [`drawn`].
    pub case: AttentionCase,
    pub dtype: DType,
    /// One for each [`Operand`].
    pub placements: [Placement; OPERANDS],
    pub seed: u64,
    /// The name of a kernel for its part of the forward or backward pass, where it is not to be the table's choice.
    pub kernel: Option<String>,
}

/// A device's result, padded as the oracle's.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub output: Vec<f64>,
    pub lse: Vec<f64>,
}

impl Outcome {
    fn new(case: &AttentionCase, output: &[f64], lse: &[f64]) -> Outcome {
        Outcome {
            output: query_rows(case).scatter(output, case.head_dim_v, 0.0),
            lse: lse_rows(case).scatter(lse, 1, f64::NEG_INFINITY),
        }
    }
}

/// A bias or mask whose values an attempt draws from its seed.
pub fn drawn<T>(shape: [usize; 4]) -> Option<Broadcast<T>> {
    Some(Broadcast { shape, values: Vec::new() })
}

/// ALiBi slopes, exact in f32: one a head, or one a sequence and head.
pub fn slopes(count: usize) -> Option<Vec<f64>> {
    Some((0..count).map(|index| f64::from(0.4f32 * 0.6f32.powi(index as i32))).collect())
}

/// A sink for each query head, exact in f32, below and above the usual scores.
pub fn sinks(heads: usize) -> Option<Vec<f64>> {
    Some((0..heads).map(|head| [0.75, -1.5, 4.0, 0.0][head % 4]).collect())
}

/// Dropout with a key and an offset of which every word counts.
pub fn dropout(probability: f32) -> Option<DropoutCase> {
    Some(DropoutCase { probability: f64::from(probability), seed: 0x9e37_79b9_7f4a_7c15, offset: 0x0123_4567 })
}

impl Attempt {
    pub fn new(case: AttentionCase, dtype: DType, placement: Placement) -> Attempt {
        Attempt { case, dtype, placements: [placement; OPERANDS], seed: 7, kernel: None }
    }

    /// Puts one tensor elsewhere.
    pub fn place(mut self, operand: Operand, placement: Placement) -> Attempt {
        self.placements[operand as usize] = placement;
        self
    }

    fn placement(&self, operand: Operand) -> Placement {
        self.placements[operand as usize]
    }

    /// The configuration of the layer.
    pub fn attention(&self) -> Attention {
        let case = &self.case;
        let mut mask = if case.causal { Mask::causal() } else { Mask::none() };
        if case.window != (None, None) {
            mask = mask.window(case.window.0, case.window.1);
        }
        if let Alignment::Offset(offset) = case.alignment {
            mask = mask.offset(offset);
        }
        let mut attention = Attention::new().mask(mask.prefix(case.prefix));
        if let Some(scale) = case.scale {
            attention = attention.scale(scale as f32);
        }
        if let Some(cap) = case.softcap {
            attention = attention.softcap(cap as f32);
        }
        if let Some(dropout) = case.dropout {
            attention = attention.dropout(dropout.probability as f32);
        }
        attention
    }

    /// The numbers of the seed, of non-zero mean.
    pub fn numbers(&self) -> Numbers {
        let mut case = self.case.clone();
        if let Some(bias) = case.bias.as_mut().filter(|bias| bias.values.is_empty()) {
            bias.values = values(self.seed + 3, bias.shape.iter().product(), 0.2, 1.0, self.dtype);
        }
        if let Some(mask) = case.mask.as_mut().filter(|mask| mask.values.is_empty()) {
            let bytes = mask_bytes(self.seed + 4, mask.shape.iter().product());
            mask.values = bytes.into_iter().map(|byte| byte != 0).collect();
        }
        Numbers {
            q: values(self.seed, case.q_elements(), 0.3, 1.0, self.dtype),
            k: values(self.seed + 1, case.k_elements(), 0.2, 1.0, self.dtype),
            v: values(self.seed + 2, case.v_elements(), 0.5, 1.0, self.dtype),
            d_output: values(self.seed + 5, case.rows() * case.head_dim_v, 0.1, 1.0, self.dtype),
            d_lse: values(self.seed + 6, case.rows(), 0.1, 1.0, DType::F32),
            case,
        }
        .hide()
    }

    /// Runs the forward pass through a plan, into NaN-filled memory.
    pub fn run(&self, device: &Device) -> Result<Outcome, Error> {
        self.run_on(device, &self.numbers())
    }

    /// Runs the forward pass on these numbers, whose case need not be the attempt's own.
    pub fn run_on(&self, device: &Device, numbers: &Numbers) -> Result<Outcome, Error> {
        let given = Given::upload(self, device, numbers)?;
        let inputs = given.inputs(&numbers.case);
        let [output, lse] = self.forward(device, &numbers.case, &inputs)?;
        Ok(Outcome::new(&numbers.case, &output.values()?, &lse.values()?))
    }

    /// Computes output and lse.
    fn forward(&self, device: &Device, case: &AttentionCase, inputs: &Qkv<'_>) -> Result<[Placed; 2], Error> {
        let [mut output, mut lse] = self.poisoned_outputs(device, case)?;
        let plan = self.plan(device, inputs, &output)?;
        let stream = device.stream();
        let mut workspace = plan.workspace(&stream)?;
        let outputs = AttentionOutputs::new(output.view_mut()).lse(lse.view_mut());
        plan.forward_into(&stream, inputs, outputs, &mut workspace)?;
        Ok([output, lse])
    }

    fn plan(&self, device: &Device, inputs: &Qkv<'_>, output: &Placed) -> Result<AttentionPlan, Error> {
        let plan = self.attention().plan(&inputs.spec().output(output.view().spec()), &device.target())?;
        match &self.kernel {
            Some(name) if name.starts_with("attention_forward") => plan.with_kernel(name),
            _ => Ok(plan),
        }
    }

    fn poisoned_outputs(&self, device: &Device, case: &AttentionCase) -> Result<[Placed; 2], Error> {
        let (rows, lse) = (query_rows(case), lse_rows(case));
        let output_shape = rows.shape(case.head_dim_v);
        Ok([
            Placed::poisoned(device, self.dtype, &output_shape, self.placement(Operand::Output))?,
            Placed::poisoned(device, DType::F32, &lse.leading, Placement::Contiguous)?,
        ])
    }

    /// Runs forward and backward pass through plans, into NaN-filled memory: the gradients follow from the device's own
    /// output and lse.
    pub fn run_backward(&self, device: &Device, with_d_lse: bool) -> Result<AttentionGradients, Error> {
        self.run_backward_on(device, with_d_lse, &self.numbers())
    }

    /// As [`Attempt::run_backward`], on these numbers.
    pub fn run_backward_on(
        &self,
        device: &Device,
        with_d_lse: bool,
        numbers: &Numbers,
    ) -> Result<AttentionGradients, Error> {
        let case = &numbers.case;
        let given = Given::upload(self, device, numbers)?;
        let inputs = given.inputs(case);
        let [output, lse] = self.forward(device, case, &inputs)?;
        let d_output = query_rows(case).place(self, device, Operand::DOutput, &numbers.d_output, case.head_dim_v)?;
        let d_lse = lse_rows(case).gather(&numbers.d_lse, 1);
        let d_lse = Placed::new(device, DType::F32, &d_lse, &lse_rows(case).leading, Placement::Contiguous)?;
        let mut backward = BackwardInputs::new(output.view(), lse.view(), d_output.view());
        if with_d_lse {
            backward = backward.d_lse(d_lse.view());
        }

        let mut gradients = PlacedGradients::poisoned(self, device, case)?;
        let plan = self.plan_backward(device, &inputs, &output, &d_output, &gradients)?;
        let stream = device.stream();
        let mut workspace = plan.workspace(&stream)?;
        plan.backward_into(&stream, &inputs, &backward, gradients.outputs(), &mut workspace)?;
        gradients.values(case)
    }

    fn plan_backward(
        &self,
        device: &Device,
        inputs: &Qkv<'_>,
        output: &Placed,
        d_output: &Placed,
        gradients: &PlacedGradients,
    ) -> Result<AttentionBackwardPlan, Error> {
        let PlacedGradients { d_q, d_k, d_v, d_bias, .. } = gradients;
        let mut spec = BackwardSpec::new(inputs.spec().output(output.view().spec()))
            .d_output(d_output.view().spec())
            .gradients(d_q.view().spec(), d_k.view().spec(), d_v.view().spec());
        if let Some(d_bias) = d_bias {
            spec = spec.d_bias(d_bias.view().spec());
        }
        let plan = self.attention().plan_backward(&spec, &device.target())?;
        match &self.kernel {
            Some(name) if name.starts_with("attention_backward") => plan.with_kernel(name),
            _ => Ok(plan),
        }
    }

    /// The plans of the forward and the backward pass.
    pub fn plans(&self, device: &Device) -> Result<(AttentionPlan, AttentionBackwardPlan), Error> {
        let numbers = self.numbers();
        let given = Given::upload(self, device, &numbers)?;
        let inputs = given.inputs(&numbers.case);
        let [output, _] = self.poisoned_outputs(device, &numbers.case)?;
        let rows = query_rows(&numbers.case);
        let d_output = rows.place(self, device, Operand::DOutput, &numbers.d_output, self.case.head_dim_v)?;
        let gradients = PlacedGradients::poisoned(self, device, &numbers.case)?;
        let forward = self.plan(device, &inputs, &output)?;
        let backward = self.plan_backward(device, &inputs, &output, &d_output, &gradients)?;
        Ok((forward, backward))
    }

    /// The names of the kernels that the forward and the backward pass are planned onto; none on the CPU.
    pub fn kernels(&self, device: &Device) -> Result<[Vec<String>; 2], Error> {
        let (forward, backward) = self.plans(device)?;
        let names = |launches: Vec<&LaunchPlan>| launches.iter().map(|plan| plan.variant.name()).collect();
        Ok([names(forward.launch().into_iter().collect()), names(backward.launches())])
    }

    /// Computes the keys in parts, which end at the cuts, and merges them: first by [`AttentionState::merge`] and
    /// [`AttentionState::finish`], then at once into NaN-filled memory. Each part's keys alone are no NaN when it is
    /// computed.
    pub fn run_split(&self, device: &Device, cuts: &[usize]) -> Result<[Outcome; 2], Error> {
        let numbers = self.numbers();
        let case = &numbers.case;
        let keys = case.key_range.clone().unwrap_or(0..case.len_kv);
        let mut ends: Vec<usize> = cuts.iter().map(|cut| (*cut).clamp(keys.start, keys.end)).collect();
        ends.sort_unstable();
        ends.push(keys.end);
        let mut start = keys.start;
        let mut states = Vec::new();
        for end in ends {
            let part = AttentionCase { key_range: Some(start..end), ..case.clone() };
            let part = Numbers { case: part, ..numbers.clone() }.hide();
            let given = Given::upload(self, device, &part)?;
            states.push(self.attention().partial(&given.inputs(&part.case))?);
            start = end;
        }
        let states: Vec<&AttentionState> = states.iter().collect();
        let sinks = place_f32(device, case.sinks.as_deref(), &[case.heads_q])?;
        let sinks = sinks.as_ref().map(Placed::view);

        let AttentionForward { output, lse } = AttentionState::merge(&states)?.finish(self.dtype, sinks)?;
        let merged = Outcome::new(case, &wide(&output)?, &wide(&lse)?);

        let [mut output, mut lse] = self.poisoned_outputs(device, case)?;
        let outputs = AttentionOutputs::new(output.view_mut()).lse(lse.view_mut());
        let states: Vec<_> = states.iter().map(|state| state.view()).collect();
        AttentionState::merge_into(&device.stream(), &states, sinks, outputs)?;
        Ok([merged, Outcome::new(case, &output.values()?, &lse.values()?)])
    }

    /// Computes the keys that take part as a partial result, which is f32 and leaves sinks out.
    pub fn run_partial(&self, device: &Device) -> Result<Outcome, Error> {
        let numbers = self.numbers();
        let given = Given::upload(self, device, &numbers)?;
        let state = self.attention().partial(&given.inputs(&numbers.case))?;
        Ok(Outcome::new(&numbers.case, &wide(state.output())?, &wide(state.natural_log())?))
    }

    /// Holds a result to the oracle. The largest error as a share of what is allowed.
    pub fn judge(&self, outcome: &Outcome) -> Result<f64, Mismatch> {
        self.judge_on(outcome, &self.numbers())
    }

    /// Holds a result on these numbers to the oracle.
    pub fn judge_on(&self, outcome: &Outcome, numbers: &Numbers) -> Result<f64, Mismatch> {
        let Numbers { case, q, k, v, .. } = numbers;
        let oracle = reference::attention_forward(case, q, k, v);
        let naive = naive::attention_forward(case, self.dtype, q, k, v);
        let shape = [case.batch, case.heads_q, case.len_q, case.head_dim_v];
        let lse = compare::check_lse("lse", &shape[..3], &outcome.lse, &oracle.lse, oracle.score_max)?;
        let seen = numbers.seen();
        let is_empty = |row: usize| oracle.lse[row] == f64::NEG_INFINITY || !seen.queries[row];
        check_zeros("output", &shape, &outcome.output, |index| is_empty(index / case.head_dim_v))?;
        let verdict = compare::check("output", &shape, self.dtype, &outcome.output, &oracle.output, &naive, 2.0);
        // In f32 the scores are rounded to no more digits than the result has, so that large ones cost weights some.
        let largest = oracle.output.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
        let of_scores = 2f64.powi(-22) * (1.0 + oracle.score_max) * largest;
        let near = |(actual, oracle): (&f64, &f64)| (actual - oracle).abs() <= of_scores;
        let output = match verdict {
            Ok(closeness) => closeness.share_of_allowed(),
            Err(_) if self.dtype == DType::F32 && outcome.output.iter().zip(&oracle.output).all(near) => {
                gradients::farthest(&outcome.output, &oracle.output) / of_scores
            }
            Err(mismatch) => return Err(mismatch),
        };
        Ok(lse.share_of_allowed().max(output))
    }

    /// Holds gradients to the oracle.
    pub fn judge_backward(&self, with_d_lse: bool, gradients: &AttentionGradients) -> Result<f64, Mismatch> {
        self.judge_backward_on(with_d_lse, gradients, &self.numbers())
    }

    /// Holds gradients on these numbers to the oracle.
    pub fn judge_backward_on(
        &self,
        with_d_lse: bool,
        gradients: &AttentionGradients,
        numbers: &Numbers,
    ) -> Result<f64, Mismatch> {
        gradients::judge(numbers, self.dtype, with_d_lse, gradients)
    }

    /// Runs forward and judges; panics with everything that a reader needs.
    pub fn check(&self, device: &Device, why: &str) {
        let outcome = self.run(device).unwrap_or_else(|error| panic!("{why} on {device}: {error}\n{self:?}"));
        self.judge(&outcome).unwrap_or_else(|mismatch| panic!("{why} on {device}: {mismatch}\n{self:?}"));
    }

    /// Runs forward and backward and judges the gradients; panics as [`Attempt::check`] does.
    pub fn check_backward(&self, device: &Device, with_d_lse: bool, why: &str) {
        let gradients = self.run_backward(device, with_d_lse);
        let gradients = gradients.unwrap_or_else(|error| panic!("{why}, backward on {device}: {error}\n{self:?}"));
        self.judge_backward(with_d_lse, &gradients)
            .unwrap_or_else(|mismatch| panic!("{why}, backward on {device}: {mismatch}\n{self:?}"));
    }

    /// Runs a partial result and judges it; panics as [`Attempt::check`] does.
    pub fn check_partial(&self, device: &Device, why: &str) {
        assert!(self.case.sinks.is_none(), "partial results leave sinks out");
        let outcome = self.run_partial(device);
        let outcome = outcome.unwrap_or_else(|error| panic!("{why}, a part on {device}: {error}\n{self:?}"));
        self.judge(&outcome).unwrap_or_else(|mismatch| panic!("{why}, a part on {device}: {mismatch}\n{self:?}"));
    }

    /// Runs the keys in parts, merges and judges; panics as [`Attempt::check`] does.
    pub fn check_split(&self, device: &Device, cuts: &[usize], why: &str) {
        let outcomes = self.run_split(device, cuts);
        let outcomes = outcomes.unwrap_or_else(|error| panic!("{why}, merged on {device}: {error}\n{self:?}"));
        for outcome in outcomes {
            self.judge(&outcome)
                .unwrap_or_else(|mismatch| panic!("{why}, merged on {device}: {mismatch}\n{cuts:?} {self:?}"));
        }
    }
}

/// Some elements must be 0, not just close to it.
fn check_zeros(what: &str, shape: &[usize], actual: &[f64], is_zero: impl Fn(usize) -> bool) -> Result<(), Mismatch> {
    let wrong = actual.iter().enumerate().find(|(index, value)| **value != 0.0 && is_zero(*index));
    let Some((index, value)) = wrong else { return Ok(()) };
    let mut rest = index;
    let mut coordinate: Vec<usize> = shape.iter().rev().map(|size| (rest % size, rest /= size).0).collect();
    coordinate.reverse();
    Err(Mismatch {
        what: what.to_string(),
        coordinate,
        actual: *value,
        oracle: 0.0,
        reason: "nothing visible belongs to it, so that it must be 0".to_string(),
    })
}

fn wide(tensor: &Tensor) -> Result<Vec<f64>, Error> {
    Ok(reference::from_f32(&tensor.to_vec_f32()?))
}

/// A negative length that nobody checked counts as 0.
pub fn check_negative_length(device: &Device, dtype: DType, head_dim: usize, why: &str) {
    let forward = |lengths: &SeqLens| -> Result<[Vec<f32>; 2], Error> {
        let tensor = |seed, len: usize| {
            let values = values(seed, 2 * len * head_dim, 0.3, 1.0, dtype);
            upload(device, dtype, &values, &[2, 1, len, head_dim])
        };
        let [q, k, v] = [tensor(1, 30)?, tensor(2, 70)?, tensor(3, 70)?];
        let forward = Attention::new().forward(&Qkv::new(&q, &k, &v).key_lengths(lengths))?;
        Ok([forward.output.to_vec_f32()?, forward.lse.to_vec_f32()?])
    };
    let unchecked = || -> Result<SeqLens, Error> {
        let lengths = Tensor::from_slice(device, &[-100i32, 20], [2])?;
        // SAFETY: 20 bounds both lengths, and the total is that of the lengths as they are used.
        unsafe { SeqLens::from_device_unchecked(lengths, 20, 20) }
    };
    let both = || Ok([forward(&unchecked()?)?, forward(&SeqLens::new(device, &[0, 20])?)?]);
    let [negative, zero] = both().unwrap_or_else(|error: Error| panic!("{why} on {device}: {error}"));
    assert!(negative == zero, "{why} on {device}: a length of -100 gives other results than 0");
}

/// Weights add up to 1: where all values are 1, so are the results, to the bit. A weight's rounding error is at most half
/// the distance of 1 from the next smaller number, and so is their mean.
pub fn check_weights_of_ones(device: &Device, dtype: DType, head_dim: usize, why: &str) {
    let output = || -> Result<Vec<f32>, Error> {
        let q = upload(device, dtype, &values(1, 2 * 50 * head_dim, 0.3, 1.0, dtype), &[1, 2, 50, head_dim])?;
        let k = upload(device, dtype, &values(2, 2 * 90 * head_dim, 0.3, 1.0, dtype), &[1, 2, 90, head_dim])?;
        let v = upload(device, dtype, &vec![1.0; 2 * 90 * head_dim], &[1, 2, 90, head_dim])?;
        Attention::new().forward(&Qkv::new(&q, &k, &v))?.output.to_vec_f32()
    };
    let output = output().unwrap_or_else(|error| panic!("{why} on {device}: {error}"));
    let wrong = output.iter().filter(|value| **value != 1.0).count();
    assert!(wrong == 0, "{why} on {device}: {wrong} of {} means of ones are not 1", output.len());
}

/// NaN in one packed sequence reaches no other one: not the outputs, and not the gradients, which multiply whole tiles of queries
/// and keys by weights of zero.
pub fn check_sequence_of_nans(device: &Device, dtype: DType, head_dim: usize, why: &str) {
    let case = AttentionCase {
        heads_kv: 1,
        causal: true,
        query_lengths: Some(vec![70, 33, 90]),
        key_lengths: Some(vec![40, 50, 90]),
        ..AttentionCase::new(3, 2, 90, 90, head_dim)
    };
    let attempt = Attempt::new(case, dtype, Placement::Contiguous);
    let clean = attempt.numbers();
    let mut spoilt = clean.clone();
    for values in [&mut spoilt.q, &mut spoilt.k, &mut spoilt.v, &mut spoilt.d_output] {
        let size = values.len() / 3;
        values[size..2 * size].fill(f64::NAN);
    }
    let results = |numbers: &Numbers| {
        let forward = attempt.run_on(device, numbers).unwrap_or_else(|error| panic!("{why} on {device}: {error}"));
        let backward = attempt.run_backward_on(device, false, numbers);
        let backward = backward.unwrap_or_else(|error| panic!("{why}, backward on {device}: {error}"));
        [forward.output, forward.lse, backward.d_q, backward.d_k, backward.d_v]
    };
    let names = ["output", "lse", "d_q", "d_k", "d_v"];
    for ((name, clean), spoilt) in names.iter().zip(results(&clean)).zip(results(&spoilt)) {
        let size = clean.len() / 3;
        for sequence in [0, 2] {
            let part = sequence * size..(sequence + 1) * size;
            assert!(
                clean[part.clone()] == spoilt[part],
                "{why} on {device}: NaN of sequence 1 in {name} of {sequence}"
            );
        }
    }
}

/// A NaN among the keys that a row sees shows in all of its results, whichever key it is.
pub fn check_nan_shows(device: &Device, dtype: DType, head_dim: usize, why: &str) {
    let (len_q, len_kv) = (20, 100);
    let results = |key: usize| -> Result<[Vec<f32>; 2], Error> {
        let mut keys = values(2, len_kv * head_dim, 0.3, 1.0, dtype);
        keys[key * head_dim..(key + 1) * head_dim].fill(f64::NAN);
        let q = upload(device, dtype, &values(1, len_q * head_dim, 0.3, 1.0, dtype), &[1, 1, len_q, head_dim])?;
        let k = upload(device, dtype, &keys, &[1, 1, len_kv, head_dim])?;
        let v = upload(device, dtype, &values(3, len_kv * head_dim, 0.3, 1.0, dtype), &[1, 1, len_kv, head_dim])?;
        let forward = Attention::new().forward(&Qkv::new(&q, &k, &v))?;
        Ok([forward.output.to_vec_f32()?, forward.lse.to_vec_f32()?])
    };
    for key in [0, 45, 99] {
        let [output, lse] = results(key).unwrap_or_else(|error| panic!("{why} on {device}: {error}"));
        let numbers = output.iter().chain(&lse).filter(|value| !value.is_nan()).count();
        assert!(numbers == 0, "{why} on {device}: {numbers} results are numbers though key {key} is NaN");
    }
}
