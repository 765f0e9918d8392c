//! What becomes of the products of queries and keys before the softmax, and of the weights after it.

use std::ops::Range;

use crate::attention::{Operands, Problem};
use crate::cpu::attention::BLOCK_KV;
use crate::cpu::attention::inputs::{Broadcast, Place, columns};
use crate::cpu::simd;
use crate::error::Result;
use crate::tensor::{Float, TensorRef};

/// The options that touch single scores and weights.
pub(super) struct Scoring<'a, T> {
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

/// Queries and keys of a tile of scores: row r is query `queries.start + r`, column c is key `keys.start + c`. Rows lie
/// [`BLOCK_KV`] apart.
#[derive(Clone)]
pub(super) struct Tile {
    pub queries: Range<usize>,
    pub keys: Range<usize>,
}

impl<'a, T: Float> Scoring<'a, T> {
    pub fn new(problem: &Problem, operands: &Operands<'a>) -> Result<Scoring<'a, T>> {
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
            softcap: problem.softcap,
            bias: operands.bias.as_ref().map(Broadcast::new).transpose()?,
            mask: operands.mask.as_ref().map(Broadcast::new).transpose()?,
            alibi: operands.alibi_slopes.map(alibi).transpose()?,
            dropout: problem.dropout.map(dropout),
            heads_q: problem.heads_q,
        })
    }

    /// Turns scaled products into what the softmax takes. `derivatives` is as large as `scores`, for the derivatives of
    /// softcap, or empty.
    pub fn apply(&self, place: &Place, tile: &Tile, scores: &mut [f32], derivatives: &mut [f32]) {
        let Tile { queries, keys } = tile;
        let count = keys.len();
        let is_full = count == BLOCK_KV && place.band.is_full(queries, keys);
        if is_full && self.softcap.is_none() && self.bias.is_none() && self.mask.is_none() && self.alibi.is_none() {
            return;
        }
        for (index, query) in queries.clone().enumerate() {
            let row = &mut scores[index * BLOCK_KV..][..BLOCK_KV];
            if let Some(cap) = self.softcap {
                let derivatives = match derivatives.is_empty() {
                    true => &mut [],
                    false => &mut derivatives[index * BLOCK_KV..][..BLOCK_KV],
                };
                simd::softcap(row, cap, derivatives);
            }
            if let Some(bias) = &self.bias {
                let mut values = [0.0; BLOCK_KV];
                match bias.row(place, query, keys.start) {
                    (bias, 0) => values[..count].fill(bias.first().map_or(0.0, |bias| bias.to_f32())),
                    (bias, _) => T::widen(&bias[..count], &mut values[..count]),
                }
                simd::add(row, &values);
            }
            if let Some(alibi) = &self.alibi {
                let slope = alibi.slopes[place.sequence * alibi.batch_stride + place.head];
                // Positions and keys stay below 2^30.
                simd::subtract_distances(row, slope, (place.band.position(query) - keys.start as i64) as i32);
            }
            if let Some(mask) = &self.mask {
                match mask.row(place, query, keys.start) {
                    ([0, ..], 0) => row.fill(f32::NEG_INFINITY),
                    (_, 0) => {}
                    (mask, stride) => hide_unset(&mut row[..count], mask, stride),
                }
            }
            if !is_full {
                let [prefix, window] = place.band.keys(query).map(|visible| columns(&visible, keys.start));
                row[..prefix.start].fill(f32::NEG_INFINITY);
                row[prefix.end..window.start].fill(f32::NEG_INFINITY);
                row[window.end.min(count)..].fill(f32::NEG_INFINITY);
            }
        }
    }

    /// Fills `factors` with those by which dropout multiplies the weights of a query, from a key on; returns whether there
    /// is dropout. Without it nothing is written.
    pub fn dropout_factors(
        &self,
        place: &Place,
        query: usize,
        first_key: usize,
        factors: &mut [f32; BLOCK_KV],
    ) -> bool {
        let Some(dropout) = &self.dropout else { return false };
        let stream = (place.sequence * self.heads_q + place.head) as u32;
        let counter = [(first_key / simd::GROUP_KEYS) as u32, query as u32, stream, dropout.offset];
        let fill = |factors: &mut [f32]| {
            simd::keep_factors(dropout.key, counter, dropout.threshold, dropout.kept, factors);
        };
        match first_key % simd::GROUP_KEYS {
            0 => fill(factors),
            // A tile of a packed sequence's gradients may start within a group of keys that share a counter.
            skipped => {
                let mut groups = [0.0; 2 * BLOCK_KV];
                fill(&mut groups);
                factors.copy_from_slice(&groups[skipped..][..BLOCK_KV]);
            }
        }
        true
    }
}

/// Hides the scores whose element of a boolean mask is 0; its elements lie `stride` apart.
fn hide_unset(scores: &mut [f32], mask: &[u8], stride: usize) {
    for (score, visible) in scores.iter_mut().zip(mask.iter().step_by(stride)) {
        *score = if *visible == 0 { f32::NEG_INFINITY } else { *score };
    }
}
