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
            let by_lse = scores.iter().enumerate().map(|(index, score)| (score - f64::from(trace.lse[index / len])).exp() as f32);
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

    /// How much a head links words by what they say. For every token, its strongest look at one at least two places
    /// away, less what can be said without either word: what the other tokens give to the same place (that many
    /// steps before or after them), or to the same token, whichever is more. The mean over the tokens.
    fn linking_score(&self, layer: usize, head: usize) -> f32 {
        let len = self.tokens.len();
        let share = |query: usize, key: usize| self.map(layer, head)[query * len + key];
        let mean = |shares: &[f32]| shares.iter().sum::<f32>() / shares.len().max(1) as f32;
        let others = |query: usize| (0..len).filter(move |other| *other != query);
        let surprise = |query: usize, key: usize| {
            let place = others(query).filter_map(|other| Some((other, (other + key).checked_sub(query)?)));
            let same_place: Vec<f32> =
                place.filter(|(_, key)| *key < len).map(|(other, key)| share(other, key)).collect();
            let same_token: Vec<f32> = others(query).filter(|other| *other != key).map(|other| share(other, key)).collect();
            share(query, key) - mean(&same_place).max(mean(&same_token))
        };
        let strongest = |query: usize| {
            (0..len).filter(|key| query.abs_diff(*key) >= 2).map(|key| surprise(query, key)).fold(0.0, f32::max)
        };
        (0..len).map(strongest).sum::<f32>() / len as f32
    }

    /// The layer and head that link words that are not neighbours most: the one worth enlarging.
    pub fn most_linking_head(&self) -> (usize, usize) {
        let all = (0..self.layers).flat_map(|layer| (0..self.heads).map(move |head| (layer, head)));
        if std::env::var("DBG").is_ok() { let mut v: Vec<_> = all.clone().collect(); v.sort_by(|a, b| self.linking_score(b.0, b.1).total_cmp(&self.linking_score(a.0, a.1))); for (l, h) in v.iter().take(10) { println!("L{} H{} {}", l+1, h+1, self.linking_score(*l,*h)); } }
        all.max_by(|a, b| self.linking_score(a.0, a.1).total_cmp(&self.linking_score(b.0, b.1))).unwrap_or((0, 0))
    }
}

/// `scale * q k^T`, `[heads, query, key]`, for a batch of one.
fn scores(trace: &Trace, heads: usize, len: usize) -> Vec<f64> {
    let head_dim = trace.q.len() / (heads * len);
    let scale = 1.0 / (head_dim as f64).sqrt();
    let mut scores = Vec::with_capacity(heads * len * len);
    for (q, k) in trace.q.chunks_exact(len * head_dim).zip(trace.k.chunks_exact(len * head_dim)) {
        for q in q.chunks_exact(head_dim) {
            scores.extend(k.chunks_exact(head_dim).map(|k| {
                scale * q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>()
            }));
        }
    }
    scores
}
