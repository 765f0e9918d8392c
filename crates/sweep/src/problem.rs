//! One attention problem: its tensors, and whether a kernel's result is right.

use std::fmt;

use anyhow::{Context, Result};
use half::bf16;
use warpfold::reference::{AttentionCase, attention_forward, compare, naive};
use warpfold::{
    Attention, AttentionForward, AttentionOutputs, AttentionPlan, DType, Device, Mask, Qkv, QkvSpec, Tensor, TensorSpec,
};

use crate::timing::Timer;

/// Queries of each sequence that are held to the oracle, at most.
const SAMPLES: usize = 7;

/// Inputs and outputs of a kernel's calls together exceed the largest L2 (50 MB) threefold, so that none finds its own there.
const ROTATION_BYTES: usize = 150 << 20;

/// Shapes, type bf16.
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

    /// How the table would have it run.
    pub fn plan(&self, device: &Device) -> Result<AttentionPlan> {
        let [batch, heads_q, heads_kv, len_q, len_kv] = self.shape;
        let tensor = |heads, len| TensorSpec::contiguous(DType::BF16, [batch, heads, len, self.head_dim]);
        let keys = tensor(heads_kv, len_kv)?;
        Ok(self.attention().plan(&QkvSpec::new(tensor(heads_q, len_q)?, keys, keys), &device.target())?)
    }
}

/// The tensors of a problem: several sets of the same numbers.
pub struct Inputs<'a> {
    problem: &'a Problem,
    device: &'a Device,
    /// q, k and v on the host.
    values: [Vec<bf16>; 3],
    sets: Vec<[Tensor; 3]>,
}

impl<'a> Inputs<'a> {
    pub fn new(device: &'a Device, problem: &'a Problem) -> Result<Inputs<'a>> {
        let [batch, heads_q, heads_kv, len_q, len_kv] = problem.shape;
        let mut random = fastrand::Rng::with_seed(7);
        // Of non-zero mean, so that a lost or doubled key shows.
        let mut values = |heads: usize, len: usize| -> Vec<bf16> {
            let count = batch * heads * len * problem.head_dim;
            (0..count).map(|_| bf16::from_f32(0.1 + 3.0 * (random.f32() - 0.5))).collect()
        };
        let values = [values(heads_q, len_q), values(heads_kv, len_kv), values(heads_kv, len_kv)];
        let set_bytes: usize = values.iter().map(|values| 2 * values.len()).sum::<usize>() + 2 * values[0].len();
        let num_sets =
            if device.to_string().starts_with("cuda") { ROTATION_BYTES.div_ceil(set_bytes).max(2) } else { 1 };
        let dims = [(heads_q, len_q), (heads_kv, len_kv), (heads_kv, len_kv)];
        let upload = |(values, (heads, len)): (&Vec<bf16>, (usize, usize))| {
            Tensor::from_slice(device, values, [batch, heads, len, problem.head_dim])
        };
        let set = || -> Result<[Tensor; 3]> {
            let tensors: Vec<Tensor> = values.iter().zip(dims).map(upload).collect::<Result<_, _>>()?;
            tensors.try_into().ok().context("there are three")
        };
        let sets = (0..num_sets).map(|_| set()).collect::<Result<_>>()?;
        Ok(Inputs { problem, device, values, sets })
    }

    /// Runs the plan into memory of NaNs and holds some of its rows to the oracle: the first and the last of a head, and some
    /// between.
    pub fn check(&self, plan: &AttentionPlan) -> Result<()> {
        let [q, k, v] = &self.sets[0];
        let mut forward = AttentionForward::allocate(plan, self.device)?;
        self.poison(&mut forward)?;
        let stream = self.device.stream();
        let outputs = AttentionOutputs::new(&mut forward.output).lse(&mut forward.lse);
        plan.forward_into(&stream, &Qkv::new(q, k, v), outputs, &mut plan.workspace(&stream)?)?;
        let (output, lse) = (forward.output.to_vec_f32()?, forward.lse.to_vec_f32()?);
        let [batch, heads_q, heads_kv, len_q, len_kv] = self.problem.shape;
        let d = self.problem.head_dim;
        // A result that is NaN anywhere was not written, or by the wrong numbers.
        if let Some(index) = output.iter().position(|value| value.is_nan()) {
            anyhow::bail!("element {index} is NaN");
        }
        for batch_idx in [0, batch - 1] {
            for head in [0, heads_q - 1] {
                let row_of = |heads: usize, head: usize, len: usize| (batch_idx * heads + head) * len;
                let wide = |values: &[bf16]| values.iter().map(|value| f64::from(value.to_f32())).collect::<Vec<f64>>();
                let first_key = row_of(heads_kv, head / (heads_q / heads_kv), len_kv);
                let queries = (0..SAMPLES).map(|sample| sample * (len_q - 1) / (SAMPLES - 1));
                for query in queries {
                    // The last query sees all keys; the oracle gets those that this one sees.
                    let seen = if self.problem.is_causal { (query + len_kv + 1).saturating_sub(len_q) } else { len_kv };
                    let row = row_of(heads_q, head, len_q) + query;
                    let keys = first_key * d..(first_key + seen) * d;
                    let case = AttentionCase::new(1, 1, 1, seen, d);
                    let q = wide(&self.values[0][row * d..(row + 1) * d]);
                    let [k, v] = [1, 2].map(|index| wide(&self.values[index][keys.clone()]));
                    let oracle = attention_forward(&case, &q, &k, &v);
                    let naive = naive::attention_forward(&case, DType::BF16, &q, &k, &v);
                    let actual: Vec<f64> =
                        output[row * d..(row + 1) * d].iter().map(|value| f64::from(*value)).collect();
                    let place = format!("batch entry {batch_idx}, head {head}, query {query}");
                    compare::check("output", &[1, d], DType::BF16, &actual, &oracle.output, &naive, 2.0)
                        .with_context(|| place.clone())?;
                    compare::check_lse("lse", &[1], &[f64::from(lse[row])], &oracle.lse, oracle.score_max)
                        .context(place)?;
                }
            }
        }
        Ok(())
    }

    fn poison(&self, forward: &mut AttentionForward) -> Result<()> {
        let count: usize = forward.output.shape().iter().product();
        forward.output = Tensor::from_slice(self.device, &vec![bf16::NAN; count], forward.output.shape())?;
        let rows: usize = forward.lse.shape().iter().product();
        forward.lse = Tensor::from_slice(self.device, &vec![f32::NAN; rows], forward.lse.shape())?;
        Ok(())
    }

    /// The times of single calls in milliseconds, for so long in all. Each call has the next set of tensors.
    pub fn time(&self, plan: &AttentionPlan, timer: &Timer, budget_ms: f64) -> Result<Vec<f64>> {
        let stream = self.device.stream();
        let mut workspace = plan.workspace(&stream)?;
        let allocate = || AttentionForward::allocate(plan, self.device);
        let mut results = self.sets.iter().map(|_| allocate()).collect::<Result<Vec<_>, _>>()?;
        let mut number = 0;
        let mut call = || -> Result<()> {
            let index = number % self.sets.len();
            number += 1;
            let [q, k, v] = &self.sets[index];
            let result = &mut results[index];
            let outputs = AttentionOutputs::new(&mut result.output).lse(&mut result.lse);
            Ok(plan.forward_into(&stream, &Qkv::new(q, k, v), outputs, &mut workspace)?)
        };
        timer.times_ms(&mut call, budget_ms)
    }
}
