//! What becomes of the products of queries and keys before the softmax, and of the weights after it.

use crate::attention::{Operands, Problem};
use crate::cpu::attention::BLOCK_KV;
use crate::cpu::attention::inputs::{Broadcast, Place};
use crate::cpu::floats::widen;
use crate::cpu::simd::{self, InstructionSet};
use crate::error::Result;
use crate::tensor::{Float, TensorRef};

/// The options that touch single scores and weights.
pub(super) struct Scoring<'a, T> {
    set: InstructionSet,
    softcap: Option<f32>,
    bias: Option<Broadcast<'a, T>>,
    mask: Option<Broadcast<'a, u8>>,
    alibi: Option<Alibi<'a>>,
    dropout: Option<Dropout>,
    heads_q: usize,
}

struct Alibi<'a> {
    slopes: &'a [f32],
    /// Distance of neighbouring sequences: 0 where all share the slopes.
    batch_stride: usize,
}

/// The mask of random numbers.
struct Dropout {
    key: [u32; 2],
    offset: u32,
    /// Smaller words drop their weight.
    threshold: u32,
    /// The factor of the kept weights.
    kept: f32,
}

impl<'a, T: Float> Scoring<'a, T> {
    pub fn new(set: InstructionSet, problem: &Problem, operands: &Operands<'a>) -> Result<Scoring<'a, T>> {
        let alibi = |slopes: TensorRef<'a>| -> Result<Alibi<'a>> {
            let batch_stride = if slopes.shape().len() == 2 { problem.heads_q } else { 0 };
            Ok(Alibi { slopes: slopes.host()?, batch_stride })
        };
        let dropout = |probability: f32| Dropout {
            key: [operands.dropout_seed as u32, (operands.dropout_seed >> 32) as u32],
            offset: operands.dropout_offset,
            threshold: (f64::from(probability) * f64::from(1u32 << 16).powi(2)).floor() as u32,
            kept: (1.0 / (1.0 - f64::from(probability))) as f32,
        };
        Ok(Scoring {
            set,
            softcap: problem.softcap,
            bias: operands.bias.as_ref().map(Broadcast::new).transpose()?,
            mask: operands.mask.as_ref().map(Broadcast::new).transpose()?,
            alibi: operands.alibi_slopes.map(alibi).transpose()?,
            dropout: problem.dropout.map(dropout),
            heads_q: problem.heads_q,
        })
    }

    /// Whether scores are more than scaled products.
    pub fn has_options(&self) -> bool {
        self.softcap.is_some() || self.bias.is_some() || self.mask.is_some() || self.alibi.is_some()
    }

    /// Turns the scaled products of a query with the keys from `first` on into what the softmax takes, but for the keys that
    /// its position hides. `derivatives` is as long as `scores`, for the derivatives of softcap, or empty.
    pub fn apply(&self, place: &Place, query: usize, first: usize, scores: &mut [f32], derivatives: &mut [f32]) {
        let (set, count) = (self.set, scores.len());
        if let Some(cap) = self.softcap {
            simd::softcap(set, scores, cap, derivatives);
        }
        if let Some(bias) = &self.bias {
            let mut values = [0.0; BLOCK_KV];
            match bias.row(place, query, first) {
                (bias, 0) => values[..count].fill(bias.first().map_or(0.0, |bias| bias.to_f32())),
                (bias, _) => widen(set, &bias[..count], &mut values[..count]),
            }
            simd::add(set, scores, &values);
        }
        if let Some(alibi) = &self.alibi {
            let slope = alibi.slopes[place.sequence * alibi.batch_stride + place.head];
            // Positions and keys stay below 2^30.
            simd::subtract_distances(set, scores, slope, (place.band.position(query) - first as i64) as i32);
        }
        if let Some(mask) = &self.mask {
            match mask.row(place, query, first) {
                ([0, ..], 0) => scores.fill(f32::NEG_INFINITY),
                (_, 0) => {}
                (mask, 1) => simd::hide(set, scores, mask),
                (mask, stride) => hide_unset(scores, mask, stride),
            }
        }
    }

    /// Whether weights are dropped.
    pub fn has_dropout(&self) -> bool {
        self.dropout.is_some()
    }

    /// Fills `factors` with those by which dropout multiplies the weights of a query, from a key on; with 1 if there is no
    /// dropout.
    pub fn dropout_factors(&self, place: &Place, query: usize, first_key: usize, factors: &mut [f32; BLOCK_KV]) {
        let Some(dropout) = &self.dropout else { return factors.fill(1.0) };
        let stream = (place.sequence * self.heads_q + place.head) as u32;
        let counter = [(first_key / simd::GROUP_KEYS) as u32, query as u32, stream, dropout.offset];
        let fill = |factors: &mut [f32]| {
            simd::keep_factors(self.set, dropout.key, counter, dropout.threshold, dropout.kept, factors);
        };
        match first_key % simd::GROUP_KEYS {
            0 => fill(factors),
            // A tile may start within a group of keys that share a counter.
            skipped => {
                let mut groups = [0.0; 2 * BLOCK_KV];
                fill(&mut groups);
                factors.copy_from_slice(&groups[skipped..][..BLOCK_KV]);
            }
        }
    }
}

/// Hides the scores whose element of a boolean mask is 0; its elements lie `stride` apart.
fn hide_unset(scores: &mut [f32], mask: &[u8], stride: usize) {
    for (score, visible) in scores.iter_mut().zip(mask.iter().step_by(stride)) {
        *score = if *visible == 0 { f32::NEG_INFINITY } else { *score };
    }
}
