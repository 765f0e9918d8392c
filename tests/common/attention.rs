//! One attempt of attention: inputs, a device's result, and the oracle's verdict.

use warpfold::reference::{self, Alignment, AttentionCase, compare, naive};
use warpfold::{Attention, AttentionOutputs, DType, Device, Error, Mask, Qkv, SeqLens, Tensor};

use super::{Placed, Placement, upload, values};

/// What one case computes, on what memory.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub case: AttentionCase,
    pub dtype: DType,
    pub placements: [Placement; 4],
    pub seed: u64,
}

/// A device's result.
pub struct Outcome {
    pub output: Vec<f64>,
    pub lse: Vec<f64>,
}

impl Attempt {
    pub fn new(case: AttentionCase, dtype: DType, placement: Placement) -> Attempt {
        Attempt { case, dtype, placements: [placement; 4], seed: 7 }
    }

    /// q, k and v of non-zero mean. Keys and values past a length are NaN: no result may see them.
    pub fn inputs(&self) -> [Vec<f64>; 3] {
        let case = &self.case;
        let q = values(self.seed, case.q_elements(), 0.3, 1.0, self.dtype);
        let mut k = values(self.seed + 1, case.k_elements(), 0.2, 1.0, self.dtype);
        let mut v = values(self.seed + 2, case.v_elements(), 0.5, 1.0, self.dtype);
        if let Some(lengths) = &case.key_lengths {
            for (tensor, width) in [(&mut k, case.head_dim), (&mut v, case.head_dim_v)] {
                let head = case.len_kv * width;
                for (index, values) in tensor.chunks_mut(head.max(1)).enumerate() {
                    values[lengths[index / case.heads_kv] * width..].fill(f64::NAN);
                }
            }
        }
        [q, k, v]
    }

    pub fn attention(&self) -> Attention {
        let mut attention = Attention::new();
        if let Some(scale) = self.case.scale {
            attention = attention.scale(scale as f32);
        }
        match self.case.causal {
            None => attention,
            Some(Alignment::BottomRight) => attention.mask(Mask::causal()),
            Some(Alignment::Offset(offset)) => attention.mask(Mask::causal().offset(offset)),
        }
    }

    /// Runs the case through a plan, into NaN-filled memory.
    pub fn run(&self, device: &Device) -> Result<Outcome, Error> {
        let AttentionCase { batch, heads_q, heads_kv, len_q, len_kv, head_dim, head_dim_v, .. } = self.case;
        let [q, k, v] = self.inputs();
        let place = |values: &[f64], shape: &[usize], index: usize| {
            Placed::new(device, self.dtype, values, shape, self.placements[index])
        };
        let q = place(&q, &[batch, heads_q, len_q, head_dim], 0)?;
        let k = place(&k, &[batch, heads_kv, len_kv, head_dim], 1)?;
        let v = place(&v, &[batch, heads_kv, len_kv, head_dim_v], 2)?;
        let mut output =
            Placed::poisoned(device, self.dtype, &[batch, heads_q, len_q, head_dim_v], self.placements[3])?;
        let mut lse = Placed::poisoned(device, DType::F32, &[batch, heads_q, len_q], Placement::Contiguous)?;
        let lengths = match &self.case.key_lengths {
            Some(lengths) => {
                let lengths: Vec<i32> = lengths.iter().map(|length| *length as i32).collect();
                Some(SeqLens::new(device, &lengths)?)
            }
            None => None,
        };
        let mut inputs = Qkv::new(q.view(), k.view(), v.view());
        if let Some(lengths) = &lengths {
            inputs = inputs.key_lengths(lengths);
        }
        let spec = inputs.spec().output(output.view().spec());
        let plan = self.attention().plan(&spec, &device.target())?;
        let stream = device.stream();
        let mut workspace = plan.workspace(&stream)?;
        let outputs = AttentionOutputs::new(output.view_mut()).lse(lse.view_mut());
        plan.forward_into(&stream, &inputs, outputs, &mut workspace)?;
        Ok(Outcome { output: output.values()?, lse: lse.values()? })
    }

    /// Holds a result to the oracle.
    pub fn judge(&self, outcome: &Outcome) -> Result<compare::Closeness, compare::Mismatch> {
        let case = &self.case;
        let [q, k, v] = self.inputs();
        let oracle = reference::attention_forward(case, &q, &k, &v);
        let naive = naive::attention_forward(case, self.dtype, &q, &k, &v);
        let shape = [case.batch, case.heads_q, case.len_q, case.head_dim_v];
        compare::check_lse("lse", &shape[..3], &outcome.lse, &oracle.lse, oracle.score_max)?;
        compare::check("output", &shape, self.dtype, &outcome.output, &oracle.output, &naive, 2.0)
    }

    /// Runs and judges; panics with everything that a reader needs.
    pub fn check(&self, device: &Device, why: &str) -> compare::Closeness {
        let outcome = self.run(device).unwrap_or_else(|error| panic!("{why} on {device}: {error}\n{self:?}"));
        self.judge(&outcome).unwrap_or_else(|mismatch| panic!("{why} on {device}: {mismatch}\n{self:?}"))
    }
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
