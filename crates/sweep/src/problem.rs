//! One attention problem: its tensors, and whether a kernel's result is right.

use std::fmt;

use anyhow::{Context, Result, bail};
use half::bf16;
use warpfold::reference::{AttentionCase, attention_forward, compare, naive};
use warpfold::variants::{Operation, Variant};
use warpfold::{
    Attention, AttentionBackwardPlan, AttentionForward, AttentionGradients, AttentionOutputs, AttentionPlan,
    BackwardInputs, BackwardSpec, DType, Device, Mask, Qkv, QkvSpec, Tensor, TensorSpec,
};

use crate::timing::Timer;

/// Queries of a head that are held to the oracle, and keys.
const SAMPLES: usize = 4;

/// Inputs and outputs of a kernel's calls together exceed the largest L2 (50 MB) threefold, so that none finds its own there.
const ROTATION_BYTES: usize = 150 << 20;

/// Different numbers in a problem's tensors: a prime.
const PERIOD: usize = 3_000_017;

/// Shapes, type bf16.
#[derive(Clone, Copy)]
pub struct Problem {
    /// Batch, query heads, key heads, queries, keys.
    pub shape: [usize; 5],
    pub head_dim: usize,
    pub is_causal: bool,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [batch, heads_q, heads_kv, len_q, len_kv] = self.shape;
        let mask = if self.is_causal { "causal" } else { "dense" };
        write!(f, "b{batch} h{heads_q}/{heads_kv} s{len_q}/{len_kv} d{} {mask}", self.head_dim)
    }
}

impl Problem {
    fn attention(&self) -> Attention {
        match self.is_causal {
            true => Attention::new().mask(Mask::causal()),
            false => Attention::new(),
        }
    }

    /// The shapes of q, k, v and the gradient of the output.
    fn dims(&self) -> [[usize; 4]; 4] {
        let [batch, heads_q, heads_kv, len_q, len_kv] = self.shape;
        let [queries, keys] = [[batch, heads_q, len_q, self.head_dim], [batch, heads_kv, len_kv, self.head_dim]];
        [queries, keys, keys, queries]
    }

    fn spec(&self) -> Result<QkvSpec> {
        let [q, k, v, _] = self.dims().map(|dims| TensorSpec::contiguous(DType::BF16, dims));
        Ok(QkvSpec::new(q?, k?, v?))
    }

    /// How many keys a query sees: the first ones.
    fn seen(&self, query: usize) -> usize {
        let [.., len_q, len_kv] = self.shape;
        if self.is_causal { (query + len_kv + 1).saturating_sub(len_q) } else { len_kv }
    }
}

/// A problem by one kernel, chosen by hand, with those that plans choose for its other parts.
pub struct Trial {
    forward: AttentionPlan,
    /// What is tried, where it is not the forward pass.
    backward: Option<AttentionBackwardPlan>,
}

impl Trial {
    /// The kernel's pass with this kernel for its part of it.
    pub fn of_kernel(problem: &Problem, device: &Device, kernel: &'static Variant) -> Result<Trial> {
        let target = device.target();
        let forward = problem.attention().plan(&problem.spec()?, &target)?;
        if kernel.operation == Operation::AttentionForward {
            return Ok(Trial { forward: forward.with_kernel(&kernel.name())?, backward: None });
        }
        let backward = problem.attention().plan_backward(&BackwardSpec::new(problem.spec()?), &target)?;
        Ok(Trial { forward, backward: Some(backward.with_kernel(&kernel.name())?) })
    }

    pub fn flops(&self) -> u64 {
        self.backward.as_ref().map_or(self.forward.flops(), AttentionBackwardPlan::flops)
    }
}

/// The tensors of a problem: several sets of the same numbers.
pub struct Inputs<'a> {
    problem: &'a Problem,
    device: &'a Device,
    /// q, k, v and the gradient of the output, on the host.
    values: [Vec<bf16>; 4],
    sets: Vec<[Tensor; 4]>,
}

impl<'a> Inputs<'a> {
    pub fn new(device: &'a Device, problem: &'a Problem) -> Result<Inputs<'a>> {
        let mut random = fastrand::Rng::with_seed(7);
        // Of non-zero mean, so that a lost or doubled key shows. Numbers come again after so many that no two rows are the same.
        let drawn: Vec<bf16> = (0..PERIOD).map(|_| bf16::from_f32(0.1 + 3.0 * (random.f32() - 0.5))).collect();
        let mut first = 0;
        let values = problem.dims().map(|dims| {
            let count = dims.iter().product();
            first = (first + PERIOD / 3) % PERIOD;
            let mut values = Vec::with_capacity(count + PERIOD);
            values.extend_from_slice(&drawn[first..]);
            while values.len() < count {
                values.extend_from_slice(&drawn);
            }
            values.truncate(count);
            values
        });
        let set_bytes: usize = values.iter().map(|values| 2 * values.len()).sum();
        let num_sets =
            if device.to_string().starts_with("cuda") { ROTATION_BYTES.div_ceil(set_bytes).max(2) } else { 1 };
        let set = || -> Result<[Tensor; 4]> {
            let upload = |(values, dims): (&Vec<bf16>, [usize; 4])| Tensor::from_slice(device, values, dims);
            let tensors: Vec<Tensor> = values.iter().zip(problem.dims()).map(upload).collect::<Result<_, _>>()?;
            tensors.try_into().ok().context("there are four")
        };
        let sets = (0..num_sets).map(|_| set()).collect::<Result<_>>()?;
        Ok(Inputs { problem, device, values, sets })
    }

    /// Runs the trial into memory of NaNs and holds some rows of the results to the oracle.
    pub fn check(&self, trial: &Trial) -> Result<()> {
        let mut forward = AttentionForward::allocate(&trial.forward, self.device)?;
        forward.output = self.nans(&forward.output)?;
        self.run_forward(trial, &self.sets[0], &mut forward)?;
        match &trial.backward {
            None => self.check_forward(&forward),
            Some(plan) => self.check_backward(plan, &forward),
        }
    }

    fn nans(&self, like: &Tensor) -> Result<Tensor> {
        let count: usize = like.shape().iter().product();
        Ok(Tensor::from_slice(self.device, &vec![bf16::NAN; count], like.shape())?)
    }

    fn run_forward(&self, trial: &Trial, [q, k, v, _]: &[Tensor; 4], forward: &mut AttentionForward) -> Result<()> {
        let stream = self.device.stream();
        let outputs = AttentionOutputs::new(&mut forward.output).lse(&mut forward.lse);
        let mut workspace = trial.forward.workspace(&stream)?;
        Ok(trial.forward.forward_into(&stream, &Qkv::new(q, k, v), outputs, &mut workspace)?)
    }

    /// The first and the last query of a head, and some between.
    fn check_forward(&self, forward: &AttentionForward) -> Result<()> {
        let [batch, heads_q, heads_kv, len_q, len_kv] = self.problem.shape;
        let d = self.problem.head_dim;
        let (output, lse) = (forward.output.to_vec_f32()?, forward.lse.to_vec_f32()?);
        check_written("the output", &output)?;
        for (batch_idx, head) in [(0, 0), (batch - 1, heads_q - 1)] {
            let wide = |values: &[bf16]| values.iter().map(|value| f64::from(value.to_f32())).collect::<Vec<f64>>();
            let first_query = (batch_idx * heads_q + head) * len_q;
            let first_key = (batch_idx * heads_kv + head / (heads_q / heads_kv)) * len_kv;
            for query in (0..SAMPLES).map(|sample| sample * (len_q - 1) / (SAMPLES - 1)) {
                // The last query sees all keys; the oracle gets those that this one sees.
                let seen = self.problem.seen(query);
                let row = first_query + query;
                let keys = first_key * d..(first_key + seen) * d;
                let case = AttentionCase::new(1, 1, 1, seen, d);
                let q = wide(&self.values[0][row * d..(row + 1) * d]);
                let [k, v] = [1, 2].map(|index| wide(&self.values[index][keys.clone()]));
                let oracle = attention_forward(&case, &q, &k, &v);
                let naive = naive::attention_forward(&case, DType::BF16, &q, &k, &v);
                let actual: Vec<f64> = output[row * d..(row + 1) * d].iter().map(|value| f64::from(*value)).collect();
                let place = format!("batch entry {batch_idx}, head {head}, query {query}");
                compare::check("output", &[1, d], DType::BF16, &actual, &oracle.output, &naive, 2.0)
                    .with_context(|| place.clone())?;
                compare::check_lse("lse", &[1], &[f64::from(lse[row])], &oracle.lse, oracle.score_max)
                    .context(place)?;
            }
        }
        Ok(())
    }

    /// Some rows of the gradients by their definition, from the output and lse that the forward pass gave: of a query, all of its
    /// keys; of a key, all queries of its group.
    fn check_backward(&self, plan: &AttentionBackwardPlan, forward: &AttentionForward) -> Result<()> {
        let [q, k, v, d_out] = &self.sets[0];
        let stream = self.device.stream();
        let mut gradients = AttentionGradients::allocate(plan, self.device)?;
        for gradient in [&mut gradients.d_q, &mut gradients.d_k, &mut gradients.d_v] {
            *gradient = self.nans(gradient)?;
        }
        let saved = BackwardInputs::new(&forward.output, &forward.lse, d_out);
        let mut workspace = plan.workspace(&stream)?;
        plan.backward_into(&stream, &Qkv::new(q, k, v), &saved, gradients.outputs(), &mut workspace)?;
        let [d_q, d_k, d_v] = [gradients.d_q.to_vec_f32()?, gradients.d_k.to_vec_f32()?, gradients.d_v.to_vec_f32()?];
        for (name, values) in [("d_q", &d_q), ("d_k", &d_k), ("d_v", &d_v)] {
            check_written(name, values)?;
        }
        let (output, lse) = (forward.output.to_vec_f32()?, forward.lse.to_vec_f32()?);

        let [batch, heads_q, heads_kv, len_q, len_kv] = self.problem.shape;
        let group = heads_q / heads_kv;
        let d = self.problem.head_dim;
        let scale = 1.0 / (d as f64).sqrt();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let given = |tensor: usize, row: usize| -> Vec<f64> {
            self.values[tensor][row * d..(row + 1) * d].iter().map(|value| f64::from(value.to_f32())).collect()
        };
        let computed = |values: &[f32], row: usize| -> Vec<f64> {
            values[row * d..(row + 1) * d].iter().map(|value| f64::from(*value)).collect()
        };
        // The last head: rows of its queries and of its keys.
        let kv_head = (batch - 1) * heads_kv + heads_kv - 1;
        let key_row = |key: usize| kv_head * len_kv + key;
        let query_row = |head: usize, query: usize| ((batch * heads_q - group + head) * len_q) + query;
        // The weight of a pair, and the gradient of its score times the scale.
        let pair = |head: usize, query: usize, key: usize| -> (f64, f64) {
            if key >= self.problem.seen(query) {
                return (0.0, 0.0);
            }
            let (row, key_row) = (query_row(head, query), key_row(key));
            let weight = (scale * dot(&given(0, row), &given(1, key_row)) - f64::from(lse[row])).exp();
            let d_out = given(3, row);
            let delta = dot(&d_out, &computed(&output, row));
            (weight, weight * (dot(&d_out, &given(2, key_row)) - delta) * scale)
        };
        let add = |sum: &mut [f64], factor: f64, row: &[f64]| {
            sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += factor * value);
        };
        let samples = |len: usize| (0..SAMPLES).map(move |sample| sample * (len - 1) / (SAMPLES - 1));
        for query in samples(len_q) {
            let mut expected = vec![0.0; d];
            for key in 0..self.problem.seen(query) {
                add(&mut expected, pair(group - 1, query, key).1, &given(1, key_row(key)));
            }
            check_near("d_q", query, &computed(&d_q, query_row(group - 1, query)), &expected)?;
        }
        for key in samples(len_kv) {
            let (mut expected_k, mut expected_v) = (vec![0.0; d], vec![0.0; d]);
            for (head, query) in (0..group).flat_map(|head| (0..len_q).map(move |query| (head, query))) {
                let (weight, gradient) = pair(head, query, key);
                add(&mut expected_k, gradient, &given(0, query_row(head, query)));
                add(&mut expected_v, weight, &given(3, query_row(head, query)));
            }
            check_near("d_k", key, &computed(&d_k, key_row(key)), &expected_k)?;
            check_near("d_v", key, &computed(&d_v, key_row(key)), &expected_v)?;
        }
        Ok(())
    }

    /// The times of single calls in milliseconds, for so long in all. Each call has the next set of tensors.
    pub fn time(&self, trial: &Trial, timer: &Timer, budget_ms: f64) -> Result<Vec<f64>> {
        let stream = self.device.stream();
        let mut results = Vec::new();
        for set in &self.sets {
            let mut forward = AttentionForward::allocate(&trial.forward, self.device)?;
            self.run_forward(trial, set, &mut forward)?;
            results.push(forward);
        }
        let mut number = 0;
        let mut next = || {
            number += 1;
            number % self.sets.len()
        };
        match &trial.backward {
            None => {
                let mut workspace = trial.forward.workspace(&stream)?;
                let mut call = || -> Result<()> {
                    let index = next();
                    let [q, k, v, _] = &self.sets[index];
                    let AttentionForward { output, lse } = &mut results[index];
                    let outputs = AttentionOutputs::new(output).lse(lse);
                    Ok(trial.forward.forward_into(&stream, &Qkv::new(q, k, v), outputs, &mut workspace)?)
                };
                timer.times_ms(&mut call, budget_ms)
            }
            Some(plan) => {
                let mut workspace = plan.workspace(&stream)?;
                let allocate = |_| AttentionGradients::allocate(plan, self.device);
                let mut gradients = (0..self.sets.len()).map(allocate).collect::<Result<Vec<_>, _>>()?;
                let mut call = || -> Result<()> {
                    let index = next();
                    let [q, k, v, d_out] = &self.sets[index];
                    let saved = BackwardInputs::new(&results[index].output, &results[index].lse, d_out);
                    let outputs = gradients[index].outputs();
                    Ok(plan.backward_into(&stream, &Qkv::new(q, k, v), &saved, outputs, &mut workspace)?)
                };
                timer.times_ms(&mut call, budget_ms)
            }
        }
    }
}

/// A result that is NaN anywhere was not written, or by the wrong numbers.
fn check_written(name: &str, values: &[f32]) -> Result<()> {
    match values.iter().position(|value| value.is_nan()) {
        Some(index) => bail!("element {index} of {name} is NaN"),
        None => Ok(()),
    }
}

/// A row within a few roundings of its operands.
fn check_near(name: &str, row: usize, actual: &[f64], expected: &[f64]) -> Result<()> {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let size = norm(&mut expected.iter().copied());
    let error = norm(&mut actual.iter().zip(expected).map(|(actual, expected)| actual - expected));
    if error > 0.02 * size + 1e-3 {
        bail!("row {row} of {name} is off by {error:.2e} of {size:.2e}");
    }
    Ok(())
}
