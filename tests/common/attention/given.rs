//! The tensors of a call: padded numbers as a device takes them, and its results padded again.

use warpfold::reference::{AttentionCase, AttentionGradients};
use warpfold::{DType, Device, Error, GradientOutputs, Qkv, SeqLens};

use super::numbers::{Numbers, element};
use super::{Attempt, Operand};
use crate::common::{Placed, Placement};

/// Which elements of a padded tensor a device's tensor holds, row by row.
pub struct Rows {
    /// The padded row of each row of the device's tensor.
    order: Vec<usize>,
    /// The shape of the device's tensor, without the columns.
    pub leading: Vec<usize>,
    /// Rows of the padded tensor.
    padded: usize,
}

impl Rows {
    pub fn shape(&self, width: usize) -> Vec<usize> {
        [&self.leading[..], &[width]].concat()
    }

    pub fn gather<T: Clone>(&self, padded: &[T], width: usize) -> Vec<T> {
        self.order.iter().flat_map(|row| padded[row * width..][..width].iter().cloned()).collect()
    }

    /// The inverse of [`Rows::gather`]; rows that the device does not hold are filled.
    pub fn scatter(&self, values: &[f64], width: usize, filler: f64) -> Vec<f64> {
        let mut padded = vec![filler; self.padded * width];
        for (row, values) in self.order.iter().zip(values.chunks(width)) {
            padded[row * width..][..width].copy_from_slice(values);
        }
        padded
    }

    /// Uploads a tensor of the attempt's type.
    pub fn place(
        &self,
        attempt: &Attempt,
        device: &Device,
        operand: Operand,
        padded: &[f64],
        width: usize,
    ) -> Result<Placed, Error> {
        let values = self.gather(padded, width);
        Placed::new(device, attempt.dtype, &values, &self.shape(width), attempt.placement(operand))
    }
}

/// Rows of q, the output and their gradients. Sequences of different lengths are packed.
pub fn query_rows(case: &AttentionCase) -> Rows {
    rows(case, case.heads_q, case.len_q, |sequence| case.query_len(sequence), false)
}

/// Rows of k, v and their gradients.
pub fn key_rows(case: &AttentionCase) -> Rows {
    rows(case, case.heads_kv, case.len_kv, |sequence| case.key_len(sequence), false)
}

/// Elements of lse and its gradient.
pub fn lse_rows(case: &AttentionCase) -> Rows {
    rows(case, case.heads_q, case.len_q, |sequence| case.query_len(sequence), true)
}

fn rows(case: &AttentionCase, heads: usize, len: usize, length: impl Fn(usize) -> usize, heads_first: bool) -> Rows {
    let padded = case.batch * heads * len;
    if case.query_lengths.is_none() {
        return Rows { order: (0..padded).collect(), leading: vec![case.batch, heads, len], padded };
    }
    let of_sequence = |sequence| (0..length(sequence)).map(move |i| (sequence, i));
    let tokens: Vec<(usize, usize)> = (0..case.batch).flat_map(of_sequence).collect();
    let row = |head: usize, (sequence, i): (usize, usize)| (sequence * heads + head) * len + i;
    let mut order = Vec::with_capacity(tokens.len() * heads);
    let mut leading = vec![tokens.len(), heads];
    if heads_first {
        (0..heads).for_each(|head| order.extend(tokens.iter().map(|token| row(head, *token))));
        leading.reverse();
    } else {
        tokens.iter().for_each(|token| order.extend((0..heads).map(|head| row(head, *token))));
    }
    Rows { order, leading, padded }
}

/// Elements of a bias or mask: those of packed sequences reach up to the longest one.
pub fn score_rows(case: &AttentionCase, shape: [usize; 4]) -> Rows {
    let [batch, heads, mut queries, mut keys] = shape;
    if case.query_lengths.is_some() {
        let longest = |length: &dyn Fn(usize) -> usize| (0..case.batch).map(length).max().unwrap_or(0);
        queries = if queries < case.len_q { 1 } else { longest(&|sequence| case.query_len(sequence)) };
        keys = if keys < case.len_kv { 1 } else { longest(&|sequence| case.key_len(sequence)) };
    }
    let mut order = Vec::with_capacity(batch * heads * queries * keys);
    for head in 0..batch * heads {
        for i in 0..queries {
            order.extend((0..keys).map(|j| element(shape, [head / heads, head % heads, i, j])));
        }
    }
    Rows { order, leading: vec![batch, heads, queries, keys], padded: shape.iter().product() }
}

/// A small f32 tensor, if there is one.
pub fn place_f32(device: &Device, values: Option<&[f64]>, shape: &[usize]) -> Result<Option<Placed>, Error> {
    values.map(|values| Placed::new(device, DType::F32, values, shape, Placement::Contiguous)).transpose()
}

/// The inputs of a call, on a device.
pub struct Given {
    q: Placed,
    k: Placed,
    v: Placed,
    bias: Option<Placed>,
    mask: Option<Placed>,
    slopes: Option<Placed>,
    sinks: Option<Placed>,
    query_lengths: Option<SeqLens>,
    key_lengths: Option<SeqLens>,
}

impl Given {
    pub fn upload(attempt: &Attempt, device: &Device, numbers: &Numbers) -> Result<Given, Error> {
        let case = &numbers.case;
        let (query_rows, key_rows) = (query_rows(case), key_rows(case));
        let bias = case.bias.as_ref().map(|bias| {
            let rows = score_rows(case, bias.shape);
            let values = rows.gather(&bias.values, 1);
            Placed::new(device, attempt.dtype, &values, &rows.leading, attempt.placement(Operand::Bias))
        });
        let mask = case.mask.as_ref().map(|mask| {
            let rows = score_rows(case, mask.shape);
            // Every number but 0 shows a key.
            let byte = |(index, visible)| if visible { (1 + index * 37 % 255) as f64 } else { 0.0 };
            let values: Vec<f64> = rows.gather(&mask.values, 1).into_iter().enumerate().map(byte).collect();
            Placed::new(device, DType::U8, &values, &rows.leading, attempt.placement(Operand::Mask))
        });
        let slopes_shape: &[usize] = match &case.slopes {
            Some(slopes) if slopes.len() != case.heads_q => &[case.batch, case.heads_q],
            _ => &[case.heads_q],
        };
        let upload_lengths = |length: &dyn Fn(usize) -> usize| {
            let lengths: Vec<i32> = (0..case.batch).map(|sequence| length(sequence) as i32).collect();
            SeqLens::new(device, &lengths)
        };
        let is_packed = case.query_lengths.is_some();
        let has_key_lengths = is_packed || case.key_lengths.is_some();
        Ok(Given {
            q: query_rows.place(attempt, device, Operand::Q, &numbers.q, case.head_dim)?,
            k: key_rows.place(attempt, device, Operand::K, &numbers.k, case.head_dim)?,
            v: key_rows.place(attempt, device, Operand::V, &numbers.v, case.head_dim_v)?,
            bias: bias.transpose()?,
            mask: mask.transpose()?,
            slopes: place_f32(device, case.slopes.as_deref(), slopes_shape)?,
            sinks: place_f32(device, case.sinks.as_deref(), &[case.heads_q])?,
            query_lengths: is_packed.then(|| upload_lengths(&|sequence| case.query_len(sequence))).transpose()?,
            key_lengths: has_key_lengths.then(|| upload_lengths(&|sequence| case.key_len(sequence))).transpose()?,
        })
    }

    pub fn inputs<'a>(&'a self, case: &AttentionCase) -> Qkv<'a> {
        let (q, k, v) = (self.q.view(), self.k.view(), self.v.view());
        let mut inputs = match (&self.query_lengths, &self.key_lengths) {
            (Some(query_lengths), Some(key_lengths)) => Qkv::packed(q, k, v, query_lengths, key_lengths),
            (None, Some(key_lengths)) => Qkv::new(q, k, v).key_lengths(key_lengths),
            _ => Qkv::new(q, k, v),
        };
        if let Some(keys) = &case.key_range {
            inputs = inputs.key_range(keys.clone());
        }
        if let Some(bias) = &self.bias {
            inputs = inputs.bias(bias.view());
        }
        if let Some(mask) = &self.mask {
            inputs = inputs.mask(mask.view());
        }
        if let Some(slopes) = &self.slopes {
            inputs = inputs.alibi_slopes(slopes.view());
        }
        if let Some(sinks) = &self.sinks {
            inputs = inputs.sinks(sinks.view());
        }
        if let Some(dropout) = case.dropout {
            inputs = inputs.dropout_state(dropout.seed, dropout.offset);
        }
        inputs
    }
}

/// Gradients in a device's memory.
pub struct PlacedGradients {
    pub d_q: Placed,
    pub d_k: Placed,
    pub d_v: Placed,
    pub d_bias: Option<Placed>,
    pub d_sinks: Option<Placed>,
}

impl PlacedGradients {
    pub fn poisoned(attempt: &Attempt, device: &Device, case: &AttentionCase) -> Result<PlacedGradients, Error> {
        let poisoned =
            |shape: &[usize], operand| Placed::poisoned(device, attempt.dtype, shape, attempt.placement(operand));
        let d_bias = case.bias.as_ref().map(|bias| poisoned(&score_rows(case, bias.shape).leading, Operand::DBias));
        let d_sinks = case
            .sinks
            .as_ref()
            .map(|sinks| Placed::poisoned(device, DType::F32, &[sinks.len()], Placement::Contiguous));
        Ok(PlacedGradients {
            d_q: poisoned(&query_rows(case).shape(case.head_dim), Operand::DQ)?,
            d_k: poisoned(&key_rows(case).shape(case.head_dim), Operand::DK)?,
            d_v: poisoned(&key_rows(case).shape(case.head_dim_v), Operand::DV)?,
            d_bias: d_bias.transpose()?,
            d_sinks: d_sinks.transpose()?,
        })
    }

    pub fn outputs(&mut self) -> GradientOutputs<'_> {
        let mut outputs = GradientOutputs::new(self.d_q.view_mut(), self.d_k.view_mut(), self.d_v.view_mut());
        if let Some(d_bias) = &mut self.d_bias {
            outputs = outputs.d_bias(d_bias.view_mut());
        }
        if let Some(d_sinks) = &mut self.d_sinks {
            outputs = outputs.d_sinks(d_sinks.view_mut());
        }
        outputs
    }

    /// The gradients as the oracle gives them.
    pub fn values(&self, case: &AttentionCase) -> Result<AttentionGradients, Error> {
        let scatter = |rows: Rows, placed: &Placed, width| Ok(rows.scatter(&placed.values()?, width, 0.0));
        let d_bias = case.bias.as_ref().zip(self.d_bias.as_ref());
        Ok(AttentionGradients {
            d_q: scatter(query_rows(case), &self.d_q, case.head_dim)?,
            d_k: scatter(key_rows(case), &self.d_k, case.head_dim)?,
            d_v: scatter(key_rows(case), &self.d_v, case.head_dim_v)?,
            d_bias: d_bias.map(|(bias, d_bias)| scatter(score_rows(case, bias.shape), d_bias, 1)).transpose()?,
            d_sinks: self.d_sinks.as_ref().map(Placed::values).transpose()?,
        })
    }
}
