//! Attention, ready to be timed.

use std::hint::black_box;
use std::ops::Range;

use anyhow::{Context, Result};
use warpfold::reference::{AttentionCase, attention_forward, compare, naive};
use warpfold::variants::{Operation, Tile, Variant};
use warpfold::{
    AttentionBackwardPlan, AttentionForward, AttentionGradients, AttentionOutputs, AttentionPlan, BackwardInputs,
    BackwardSpec, DType, Device, Qkv, SeqLens, Tensor, Workspace,
};

use super::shapes::AttentionShape;
use super::trial::{Trial, Workshop, check_near, check_written, nans, samples, upload, values, wide};

pub struct AttentionTrial {
    device: Device,
    shape: AttentionShape,
    dtype: DType,
    /// The lengths of packed sequences.
    lengths: Option<SeqLens>,
    forward: AttentionPlan,
    forward_workspace: Workspace,
    backward: Option<(AttentionBackwardPlan, Workspace)>,
    sets: Vec<Set>,
    next: usize,
}

struct Set {
    /// q, k, v, and backward the gradient of the output.
    inputs: Vec<Tensor>,
    forward: AttentionForward,
    gradients: Option<AttentionGradients>,
}

/// The call's tensors.
fn qkv<'a>(inputs: &'a [Tensor], lengths: Option<&'a SeqLens>) -> Qkv<'a> {
    match lengths {
        Some(lengths) => Qkv::packed(&inputs[0], &inputs[1], &inputs[2], lengths, lengths),
        None => Qkv::new(&inputs[0], &inputs[1], &inputs[2]),
    }
}

/// The head_dim that a kernel is for; 0 for one of another operation.
fn head_dim(kernel: &Variant) -> u32 {
    match kernel.tile {
        Tile::Attention { head_dim, .. } | Tile::AttentionHopper { head_dim, .. } => head_dim,
        _ => 0,
    }
}

impl AttentionTrial {
    pub fn new(
        workshop: &Workshop<'_>,
        shape: &AttentionShape,
        dtype: DType,
        is_backward: bool,
    ) -> Result<AttentionTrial> {
        let device = workshop.device;
        let [of_queries, of_keys] = shape.dims();
        let mut dims = vec![&of_queries, &of_keys, &of_keys];
        if is_backward {
            dims.push(&of_queries);
        }
        // Of non-zero mean, so that a lost or doubled key shows.
        let host: Vec<Vec<f32>> =
            (1..).zip(&dims).map(|(seed, dims)| values(seed, dims.iter().product(), dtype, 0.1, 1.5)).collect();
        let tensors = || -> Result<Vec<Tensor>> {
            host.iter().zip(&dims).map(|(values, dims)| upload(device, dtype, values, dims)).collect()
        };
        let lengths = match &shape.packed {
            Some(lengths) => {
                let lengths = lengths.iter().map(|len| i32::try_from(*len)).collect::<Result<Vec<_>, _>>()?;
                Some(SeqLens::new(device, &lengths)?)
            }
            None => None,
        };
        let (attention, stream, target) = (shape.attention(), device.stream(), device.target());
        let first = tensors()?;
        let spec = qkv(&first, lengths.as_ref()).spec();
        let mut first = Some(first);
        let mut forward = attention.plan(&spec, &target)?;
        let mut backward =
            is_backward.then(|| attention.plan_backward(&BackwardSpec::new(spec), &target)).transpose()?;
        let is_for_it = |kernel: &&&Variant| kernel.dtype == dtype && head_dim(kernel) as usize == shape.head_dim;
        for kernel in workshop.kernels.iter().filter(is_for_it) {
            match (kernel.operation == Operation::AttentionForward, backward.take()) {
                (true, plan) => {
                    forward = forward.with_kernel(&kernel.name())?;
                    backward = plan;
                }
                (false, plan) => backward = plan.map(|plan| plan.with_kernel(&kernel.name())).transpose()?,
            }
        }
        let backward = match backward {
            Some(plan) => {
                let workspace = plan.workspace(&stream)?;
                Some((plan, workspace))
            }
            None => None,
        };
        let forward_workspace = forward.workspace(&stream)?;
        let mut trial = AttentionTrial {
            device: device.clone(),
            shape: shape.clone(),
            dtype,
            lengths,
            forward,
            forward_workspace,
            backward,
            sets: Vec::new(),
            next: 0,
        };
        for _ in 0..workshop.num_sets(trial.bytes()) {
            let inputs = first.take().map_or_else(tensors, Ok)?;
            trial.add_set(inputs)?;
        }
        Ok(trial)
    }

    /// A set with the output that the backward pass needs.
    fn add_set(&mut self, inputs: Vec<Tensor>) -> Result<()> {
        let forward = AttentionForward::allocate(&self.forward, &self.device)?;
        let gradients = match &self.backward {
            Some((plan, _)) => Some(AttentionGradients::allocate(plan, &self.device)?),
            None => None,
        };
        self.sets.push(Set { inputs, forward, gradients });
        self.run_forward(self.sets.len() - 1)
    }

    fn run_forward(&mut self, number: usize) -> Result<()> {
        let Set { inputs, forward, .. } = &mut self.sets[number];
        let outputs = AttentionOutputs::new(&mut forward.output).lse(&mut forward.lse);
        let inputs = qkv(inputs, self.lengths.as_ref());
        Ok(self.forward.forward_into(&self.device.stream(), &inputs, outputs, &mut self.forward_workspace)?)
    }

    fn host(&self) -> Result<Host> {
        let set = &self.sets[0];
        let inputs = set.inputs.iter().map(Tensor::to_vec_f32).collect::<warpfold::Result<Vec<_>>>()?;
        let case = self.shape.case();
        let starts =
            (0..self.shape.batch).map(|sequence| (0..sequence).map(|before| case.query_len(before)).sum()).collect();
        let (output, lse) = (set.forward.output.to_vec_f32()?, set.forward.lse.to_vec_f32()?);
        check_written("the output", &output)?;
        Ok(Host { shape: self.shape.clone(), case, starts, inputs, output, lse })
    }

    /// Queries of the first head and of the last one.
    fn check_forward(&self, host: &Host) -> Result<f64> {
        let d = self.shape.head_dim;
        let mut worst = 0f64;
        for (sequence, head) in [(0, 0), (self.shape.batch - 1, self.shape.heads_q - 1)] {
            let (mut actual, mut oracle, mut unfused) = (Vec::new(), Vec::new(), Vec::new());
            for query in samples(host.case.query_len(sequence)) {
                // The oracle gets the keys that the query sees, one after the other.
                let seen = host.seen(sequence, query);
                let kv_head = head / (self.shape.heads_q / self.shape.heads_kv);
                let gathered = |tensor: usize| -> Vec<f64> {
                    let of_key = |key| wide(&host.inputs[tensor][host.key(sequence, kv_head, key)]);
                    seen.iter().copied().flat_map(of_key).collect()
                };
                let (k, v) = (gathered(1), gathered(2));
                let case = AttentionCase::new(1, 1, 1, seen.len(), d);
                let row = host.query(sequence, head, query);
                let q: Vec<f64> = wide(&host.inputs[0][row.clone()]).collect();
                let exact = attention_forward(&case, &q, &k, &v);
                let lse = host.lse_of(sequence, head, query);
                let place = || format!("sequence {sequence}, head {head}, query {query}");
                let found = compare::check_lse("lse", &[1], &[lse], &exact.lse, exact.score_max).with_context(place)?;
                worst = worst.max(found.max_difference / found.max_allowed);
                unfused.extend(naive::attention_forward(&case, self.dtype, &q, &k, &v));
                oracle.extend(exact.output);
                actual.extend(wide(&host.output[row]));
            }
            let shape = [actual.len() / d, d];
            let found = compare::check("sampled output", &shape, self.dtype, &actual, &oracle, &unfused, 2.0)
                .with_context(|| format!("sequence {sequence}, head {head}"))?;
            worst = worst.max(found.max_difference / found.max_allowed);
        }
        Ok(worst)
    }

    /// Some rows of the gradients by their definition, from the output and lse that the forward pass gave: of a query, all of
    /// its keys; of a key, all queries of its group.
    fn check_backward(&mut self, host: &Host) -> Result<f64> {
        let [of_queries, of_keys] = self.shape.dims();
        let poisoned = |dims: &[usize]| nans(&self.device, self.dtype, dims);
        self.sets[0].gradients = Some(AttentionGradients {
            d_q: poisoned(&of_queries)?,
            d_k: poisoned(&of_keys)?,
            d_v: poisoned(&of_keys)?,
            d_bias: None,
            d_sinks: None,
        });
        self.next = 0;
        self.call()?;
        let gradients = self.sets[0].gradients.as_ref().context("they were allocated")?;
        let [d_q, d_k, d_v] = [gradients.d_q.to_vec_f32()?, gradients.d_k.to_vec_f32()?, gradients.d_v.to_vec_f32()?];
        for (name, values) in [("d_q", &d_q), ("d_k", &d_k), ("d_v", &d_v)] {
            check_written(name, values)?;
        }
        let AttentionShape { batch, heads_q, heads_kv, head_dim: d, .. } = self.shape;
        let scale = 1.0 / (d as f64).sqrt();
        let dot = |a: &[f32], b: &[f32]| wide(a).zip(wide(b)).map(|(a, b)| a * b).sum::<f64>();
        let group = heads_q / heads_kv;
        // The last head: rows of its queries and of its keys.
        let (sequence, kv_head) = (batch - 1, heads_kv - 1);
        // The weight of a pair, and the gradient of its score times the scale.
        let pair = |head: usize, query: usize, key: usize| -> (f64, f64) {
            if !host.case.visible(sequence, query, key) {
                return (0.0, 0.0);
            }
            let (row, key) = (host.query(sequence, head, query), host.key(sequence, kv_head, key));
            let [q, d_out] = [0, 3].map(|tensor| &host.inputs[tensor][row.clone()]);
            let [k, v] = [1, 2].map(|tensor| &host.inputs[tensor][key.clone()]);
            let weight = (scale * dot(q, k) - host.lse_of(sequence, head, query)).exp();
            let delta = dot(d_out, &host.output[row]);
            (weight, weight * (dot(d_out, v) - delta) * scale)
        };
        let add = |sum: &mut [f64], factor: f64, row: &[f32]| {
            sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += factor * f64::from(*value));
        };
        let near = |name: &str, row: usize, values: &[f32], range: Range<usize>, expected: &[f64]| {
            check_near(name, row, self.dtype, &wide(&values[range]).collect::<Vec<_>>(), expected)
        };
        let mut worst = 0f64;
        for query in samples(host.case.query_len(sequence)) {
            let mut expected = vec![0.0; d];
            for key in host.seen(sequence, query) {
                let factor = pair(heads_q - 1, query, key).1;
                add(&mut expected, factor, &host.inputs[1][host.key(sequence, kv_head, key)]);
            }
            worst = worst.max(near("d_q", query, &d_q, host.query(sequence, heads_q - 1, query), &expected)?);
        }
        for key in samples(host.case.key_len(sequence)) {
            let (mut expected_k, mut expected_v) = (vec![0.0; d], vec![0.0; d]);
            let heads = heads_q - group..heads_q;
            let len_q = host.case.query_len(sequence);
            for (head, query) in heads.flat_map(|head| (0..len_q).map(move |query| (head, query))) {
                let (weight, gradient) = pair(head, query, key);
                let row = host.query(sequence, head, query);
                add(&mut expected_k, gradient, &host.inputs[0][row.clone()]);
                add(&mut expected_v, weight, &host.inputs[3][row]);
            }
            let range = host.key(sequence, kv_head, key);
            worst = worst.max(near("d_k", key, &d_k, range.clone(), &expected_k)?);
            worst = worst.max(near("d_v", key, &d_v, range, &expected_v)?);
        }
        Ok(worst)
    }
}

/// What a check reads, on the host.
struct Host {
    shape: AttentionShape,
    case: AttentionCase,
    /// Where packed sequences begin.
    starts: Vec<usize>,
    inputs: Vec<Vec<f32>>,
    output: Vec<f32>,
    lse: Vec<f32>,
}

impl Host {
    /// The elements of a row in a tensor with so many heads, which is packed or not.
    fn row(&self, [sequence, head, row]: [usize; 3], heads: usize, len: usize) -> Range<usize> {
        let number = match self.shape.packed {
            Some(_) => (self.starts[sequence] + row) * heads + head,
            None => (sequence * heads + head) * len + row,
        };
        number * self.shape.head_dim..(number + 1) * self.shape.head_dim
    }

    fn query(&self, sequence: usize, head: usize, query: usize) -> Range<usize> {
        self.row([sequence, head, query], self.shape.heads_q, self.shape.len_q)
    }

    fn key(&self, sequence: usize, head: usize, key: usize) -> Range<usize> {
        self.row([sequence, head, key], self.shape.heads_kv, self.shape.len_kv)
    }

    fn lse_of(&self, sequence: usize, head: usize, query: usize) -> f64 {
        let number = match &self.shape.packed {
            Some(lengths) => head * lengths.iter().sum::<usize>() + self.starts[sequence] + query,
            None => (sequence * self.shape.heads_q + head) * self.shape.len_q + query,
        };
        f64::from(self.lse[number])
    }

    /// The keys that a query sees.
    fn seen(&self, sequence: usize, query: usize) -> Vec<usize> {
        (0..self.case.key_len(sequence)).filter(|key| self.case.visible(sequence, query, *key)).collect()
    }
}

impl Trial for AttentionTrial {
    fn check(&mut self) -> Result<f64> {
        let [of_queries, _] = self.shape.dims();
        self.sets[0].forward.output = nans(&self.device, self.dtype, &of_queries)?;
        self.run_forward(0)?;
        let host = self.host()?;
        let of_forward = self.check_forward(&host)?;
        match self.backward {
            Some(_) => Ok(of_forward.max(self.check_backward(&host)?)),
            None => Ok(of_forward),
        }
    }

    fn call(&mut self) -> Result<()> {
        let number = self.next;
        self.next = (self.next + 1) % self.sets.len();
        let Some((plan, workspace)) = &mut self.backward else { return self.run_forward(number) };
        let Set { inputs, forward, gradients } = &mut self.sets[number];
        let saved = BackwardInputs::new(&forward.output, &forward.lse, &inputs[3]);
        let outputs = gradients.as_mut().context("a backward set has gradients")?.outputs();
        let inputs = qkv(inputs, self.lengths.as_ref());
        Ok(plan.backward_into(&self.device.stream(), &inputs, &saved, outputs, workspace)?)
    }

    fn plan(&self) -> Result<()> {
        let (attention, target) = (self.shape.attention(), self.device.target());
        let spec = qkv(&self.sets[0].inputs, self.lengths.as_ref()).spec();
        match self.backward {
            Some(_) => _ = black_box(attention.plan_backward(&BackwardSpec::new(spec), &target)?),
            None => _ = black_box(attention.plan(&spec, &target)?),
        }
        Ok(())
    }

    fn allocating_call(&self) -> Result<()> {
        let Set { inputs, forward, .. } = &self.sets[0];
        let (attention, call) = (self.shape.attention(), qkv(inputs, self.lengths.as_ref()));
        match self.backward {
            Some(_) => {
                drop(attention.backward(&call, &BackwardInputs::new(&forward.output, &forward.lse, &inputs[3]))?);
            }
            None => drop(attention.forward(&call)?),
        }
        Ok(())
    }

    fn flops(&self) -> Option<u64> {
        Some(self.backward.as_ref().map_or(self.forward.flops(), |(plan, _)| plan.flops()))
    }

    /// Forward q, k, v; output, lse. Backward q, k, v, output, lse, d_output; d_q, d_k, d_v.
    fn bytes(&self) -> usize {
        let [queries, keys] = self.shape.dims().map(|dims| dims.iter().product::<usize>());
        let tensors = match self.backward {
            None => 2 * queries + 2 * keys,
            Some(_) => 4 * queries + 4 * keys,
        };
        tensors * self.dtype.size_bytes() + queries / self.shape.head_dim * size_of::<f32>()
    }

    fn num_sets(&self) -> usize {
        self.sets.len()
    }
}
