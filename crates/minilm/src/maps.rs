//! Attention maps: which token looks at which.

use warpfold::{Device, Softmax, Tensor};

use crate::encoder::Trace;
use crate::error::Result;
use crate::text::Tokens;

/// The attention of every head, `p[i, j] = exp(scale * q_i . k_j - lse_i)`: fused attention never writes these
/// numbers to memory, but its lse gives them back.
#[derive(Clone, Debug)]
pub struct AttentionMaps {
    /// The tokens along both sides of a map.
    pub tokens: Tokens,
    /// The number of layers.
    pub layers: usize,
    /// The number of heads in a layer.
    pub heads: usize,
    /// `[layers, heads, query, key]`; each row sums to 1.
    probabilities: Vec<f32>,
    /// The largest difference from warpfold's softmax of the same scores.
    pub difference_from_softmax: f32,
}

impl AttentionMaps {
    /// From the traces of one sentence's layers.
    pub(crate) fn new(device: &Device, tokens: Tokens, heads: usize, traces: &[Trace]) -> Result<AttentionMaps> {
        let len = tokens.len();
        let mut maps = AttentionMaps {
            tokens,
            layers: traces.len(),
            heads,
            probabilities: Vec::with_capacity(traces.len() * heads * len * len),
            difference_from_softmax: 0.0,
        };
        for trace in traces {
            let scores = scores(trace, heads, len);
            let by_lse = scores
                .iter()
                .enumerate()
                .map(|(index, score)| (score - f64::from(trace.lse[index / len])).exp() as f32);
            let scores: Vec<f32> = scores.iter().map(|score| *score as f32).collect();
            let by_softmax = Softmax::new().forward(&Tensor::from_slice(device, &scores, [heads, len, len])?)?;
            for (by_lse, by_softmax) in by_lse.zip(by_softmax.to_vec::<f32>()?) {
                // NaN must not pass as a small difference.
                let difference = (by_lse - by_softmax).abs();
                if difference.is_nan() || difference > maps.difference_from_softmax {
                    maps.difference_from_softmax = difference;
                }
                maps.probabilities.push(by_lse);
            }
        }
        Ok(maps)
    }

    /// The map of one head, `[query, key]`.
    ///
    /// # Panics
    /// When there is no such layer or head.
    pub fn map(&self, layer: usize, head: usize) -> &[f32] {
        assert!(layer < self.layers && head < self.heads, "layer {layer}, head {head}");
        let size = self.tokens.len() * self.tokens.len();
        &self.probabilities[(layer * self.heads + head) * size..][..size]
    }

    /// The maps without `[CLS]` and `[SEP]`, each row rescaled to sum to 1 again. Many heads rest on the special
    /// tokens when they have nothing to say, which hides the rest in a picture.
    pub fn without_special_tokens(&self) -> AttentionMaps {
        let kept: Vec<usize> = (0..self.tokens.len()).filter(|index| !self.tokens.is_special[*index]).collect();
        let len = self.tokens.len();
        let mut probabilities = Vec::with_capacity(self.layers * self.heads * kept.len() * kept.len());
        for row in self.probabilities.chunks_exact(len).enumerate() {
            let (index, row) = row;
            if self.tokens.is_special[index % len] {
                continue;
            }
            let sum: f32 = kept.iter().map(|key| row[*key]).sum();
            // A row that gives all its attention to the special tokens stays empty.
            let scale = if sum > 0.0 { sum.recip() } else { 0.0 };
            probabilities.extend(kept.iter().map(|key| row[*key] * scale));
        }
        let tokens = Tokens {
            ids: kept.iter().map(|index| self.tokens.ids[*index]).collect(),
            texts: kept.iter().map(|index| self.tokens.texts[*index].clone()).collect(),
            is_special: vec![false; kept.len()],
            full_length: kept.len(),
        };
        AttentionMaps { tokens, probabilities, ..self.clone() }
    }
}

/// `scale * q k^T`, `[heads, query, key]`, for a batch of one.
fn scores(trace: &Trace, heads: usize, len: usize) -> Vec<f64> {
    let head_dim = trace.q.len() / (heads * len);
    let scale = 1.0 / (head_dim as f64).sqrt();
    let mut scores = Vec::with_capacity(heads * len * len);
    for (q, k) in trace.q.chunks_exact(len * head_dim).zip(trace.k.chunks_exact(len * head_dim)) {
        for q in q.chunks_exact(head_dim) {
            scores.extend(
                k.chunks_exact(head_dim)
                    .map(|k| scale * q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>()),
            );
        }
    }
    scores
}
