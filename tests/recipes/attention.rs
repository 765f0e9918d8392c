//! Random problems of attention.

use std::ops::Range;

use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use warpfold::DType;
use warpfold::reference::{Alignment, AttentionCase};

use super::words::{self, PerTensor, Tensors};
use super::{among, count_elements, gated, is_default, per_tensor, placement, rounded, rounded_probability};
use crate::common::attention::{Attempt, OPERANDS, drawn, dropout, sinks, slopes};
use crate::common::{DTYPES, Placement};

#[derive(Clone, Debug, PartialEq)]
pub enum OfAttention {}

impl Tensors for OfAttention {
    const NAMES: &'static [&'static str] =
        &["q", "k", "v", "bias", "mask", "output", "d_output", "d_q", "d_k", "d_v", "d_bias"];
}

/// Whether ALiBi has a slope for each head, or for each sequence and head.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Slopes {
    PerHead,
    PerSequence,
}

/// A problem of attention, as plain data; the values of its tensors follow from the seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttentionRecipe {
    #[serde(with = "words")]
    pub dtype: DType,
    pub batch: usize,
    pub heads_q: usize,
    pub heads_kv: usize,
    /// That of the longest sequence, where they are packed; `len_kv` too.
    pub len_q: usize,
    pub len_kv: usize,
    pub head_dim: usize,
    /// Where it is not `head_dim`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub head_dim_v: Option<usize>,
    /// Of packed sequences.
    #[serde(default, skip_serializing_if = "is_default")]
    pub query_lengths: Option<Vec<usize>>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub key_lengths: Option<Vec<usize>>,
    /// The first key that takes part, and the one after the last.
    #[serde(default, skip_serializing_if = "is_default")]
    pub key_range: Option<[usize; 2]>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub causal: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub window: [Option<usize>; 2],
    #[serde(default, skip_serializing_if = "is_default")]
    pub prefix: usize,
    /// Of the queries among the keys; else the last query is at the last key.
    #[serde(default, skip_serializing_if = "is_default")]
    pub offset: Option<i64>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub scale: Option<f32>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub softcap: Option<f32>,
    /// The shape of an additive bias.
    #[serde(default, skip_serializing_if = "is_default")]
    pub bias: Option<[usize; 4]>,
    /// The shape of a boolean mask.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mask: Option<[usize; 4]>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub alibi: Option<Slopes>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub sinks: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub dropout: Option<f32>,
    #[serde(default, skip_serializing_if = "PerTensor::is_default")]
    pub placements: PerTensor<OfAttention, Placement>,
    /// The backward pass is given a gradient of lse.
    #[serde(default, skip_serializing_if = "is_default")]
    pub d_lse: bool,
    /// Where split keys are cut.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cuts: Vec<usize>,
    pub seed: u64,
}

impl AttentionRecipe {
    /// What an attempt takes for granted.
    pub fn validate(&self) -> Result<(), String> {
        let AttentionRecipe { batch, heads_q, heads_kv, len_q, len_kv, head_dim, .. } = *self;
        let head_dim_v = self.head_dim_v.unwrap_or(head_dim);
        for (name, size) in [
            ("batch", batch),
            ("heads_q", heads_q),
            ("heads_kv", heads_kv),
            ("len_q", len_q),
            ("head_dim", head_dim),
            ("head_dim_v", head_dim_v),
        ] {
            if size == 0 {
                return Err(format!("{name} is 0; it must be 1 at least"));
            }
        }
        if heads_q % heads_kv != 0 {
            return Err(format!("heads_q is {heads_q}, which is no multiple of heads_kv, {heads_kv}"));
        }
        count_elements("q", &[batch, heads_q, len_q, head_dim])?;
        count_elements("k", &[batch, heads_kv, len_kv, head_dim])?;
        count_elements("v", &[batch, heads_kv, len_kv, head_dim_v])?;
        count_elements("the output", &[batch, heads_q, len_q, head_dim_v])?;
        count_elements("the scores", &[batch, heads_q, len_q, len_kv])?;

        let lengths = [("query_lengths", &self.query_lengths, len_q), ("key_lengths", &self.key_lengths, len_kv)];
        for (name, lengths, limit) in lengths {
            let Some(lengths) = lengths else { continue };
            if lengths.len() != batch {
                return Err(format!("{name} are {lengths:?}; there must be one for each of {batch} sequences"));
            }
            let longest = lengths.iter().copied().max().unwrap_or(0);
            if longest > limit || (self.query_lengths.is_some() && longest < limit) {
                let rule = if self.query_lengths.is_some() { "it must be" } else { "it must be at most" };
                return Err(format!("the longest of {name} {lengths:?} is {longest}; {rule} {limit}"));
            }
        }
        if self.query_lengths.is_some() && self.key_lengths.is_none() {
            return Err("query_lengths, of packed sequences, need key_lengths".to_string());
        }
        if let Some([start, end]) = self.key_range.filter(|[start, end]| start > end || *end > len_kv) {
            return Err(format!("key_range is [{start}, {end}], which is no range of {len_kv} keys"));
        }
        for (name, shape) in [("bias", self.bias), ("mask", self.mask)] {
            let sizes = [batch, heads_q, len_q, len_kv];
            let fits = |shape: [usize; 4]| shape.iter().zip(&sizes).all(|(own, size)| *own == 1 || own == size);
            if let Some(shape) = shape.filter(|shape| !fits(*shape)) {
                return Err(format!("{name} has shape {shape:?}; each dimension must be 1 or that of {sizes:?}"));
            }
        }
        if self.cuts.len() > 15 {
            return Err(format!("there are {} cuts; 16 parts can be merged at once", self.cuts.len()));
        }
        Ok(())
    }

    pub fn attempt(&self) -> Attempt {
        let heads = self.heads_q;
        let slopes = |per| slopes(if per == Slopes::PerSequence { self.batch * heads } else { heads });
        let case = AttentionCase {
            heads_kv: self.heads_kv,
            head_dim_v: self.head_dim_v.unwrap_or(self.head_dim),
            query_lengths: self.query_lengths.clone(),
            key_lengths: self.key_lengths.clone(),
            key_range: self.key_range.map(|[start, end]| start..end),
            causal: self.causal,
            window: self.window.into(),
            prefix: self.prefix,
            alignment: self.offset.map_or(Alignment::BottomRight, Alignment::Offset),
            scale: self.scale.map(f64::from),
            softcap: self.softcap.map(f64::from),
            bias: self.bias.and_then(drawn),
            mask: self.mask.and_then(drawn),
            slopes: self.alibi.and_then(slopes),
            sinks: sinks(heads).filter(|_| self.sinks),
            dropout: self.dropout.and_then(dropout),
            ..AttentionCase::new(self.batch, heads, self.len_q, self.len_kv, self.head_dim)
        };
        Attempt {
            case,
            dtype: self.dtype,
            placements: self.placements.array::<OPERANDS>(),
            seed: self.seed,
            kernel: None,
        }
    }
}

/// Which queries and keys there are: all, keys up to a length, or packed sequences. Lengths are shares of the whole.
#[derive(Clone, Debug)]
enum Lengths {
    Full,
    Keys([f64; 2]),
    Packed([[f64; 2]; 2]),
}

fn lengths() -> impl Strategy<Value = Lengths> {
    let share = || prop_oneof![6 => 0.0..=1.0f64, 1 => Just(0.0), 1 => Just(1.0)];
    let packed = prop::array::uniform2(prop::array::uniform2(share())).prop_map(Lengths::Packed);
    let keys = prop::array::uniform2(share()).prop_map(Lengths::Keys);
    // All of them first, so that shrinking tries that before it walks the shares.
    (prop::bool::weighted(0.5), prop_oneof![keys, packed])
        .prop_map(|(in_part, lengths)| if in_part { lengths } else { Lengths::Full })
}

/// A problem with any options, of as many sequences, two at most.
pub fn recipe(on_cpu: bool, batch: Range<usize>) -> impl Strategy<Value = AttentionRecipe> + use<> {
    let head_dims = match on_cpu {
        true => vec![[8, 8], [24, 24], [32, 32], [33, 7], [64, 64], [96, 96], [40, 72], [128, 128], [160, 160]],
        false => vec![[8, 8], [32, 32], [64, 64], [96, 96], [128, 128], [40, 72], [192, 128], [192, 192], [256, 256]],
    };
    let sizes = (batch, 1..3usize, 1..4usize, 1..120usize, 0..150usize);
    let reach = || gated(0.5, 0..100usize);
    let positions = (
        any::<bool>(),
        gated(0.3, (reach(), reach())),
        gated(0.2, 0..100usize),
        gated(0.3, -130..170i64),
        gated(0.2, prop::array::uniform2(0.0..=1.0f64)),
    );
    let scores = (
        gated(0.25, 0.05..3.0f32),
        gated(0.2, 0..8u8),
        gated(0.2, 0..16u8),
        gated(0.2, 0.5..20.0f32),
        gated(0.2, any::<bool>()),
        prop::bool::weighted(0.2),
        gated(0.2, 0.01..0.95f32),
    );
    let placements = per_tensor::<_, _, _, OPERANDS>(0.5, placement);
    let tensors = (among(&DTYPES), placements, 0..1000u64);
    (sizes, among(&head_dims), lengths(), positions, scores, tensors).prop_map(
        |((batch, heads_kv, group, len_q, len_kv), [head_dim, head_dim_v], lengths, positions, scores, tensors)| {
            let (causal, window, prefix, offset, key_range) = positions;
            let (scale, bias, mask, softcap, per_sequence, sinks, dropout) = scores;
            let (dtype, placements, seed) = tensors;
            let heads_q = heads_kv * group;
            let (mut len_q, mut len_kv, mut query_lengths, mut key_lengths) = (len_q, len_kv, None, None);
            let part = |share: f64, len: usize| (share * len as f64) as usize;
            match lengths {
                Lengths::Full => {}
                Lengths::Keys(shares) => {
                    key_lengths = Some(shares[..batch].iter().map(|share| part(*share, len_kv)).collect());
                }
                Lengths::Packed(shares) => {
                    let shares = &shares[..batch];
                    let mut queries: Vec<usize> = shares.iter().map(|[share, _]| part(*share, len_q)).collect();
                    // There is one query at least.
                    queries[0] = queries[0].max(1);
                    let keys: Vec<usize> = shares.iter().map(|[_, share]| part(*share, len_kv)).collect();
                    len_q = queries.iter().copied().max().unwrap_or(1);
                    len_kv = keys.iter().copied().max().unwrap_or(0);
                    (query_lengths, key_lengths) = (Some(queries), Some(keys));
                }
            }
            // Some of the dimensions broadcast.
            let score_shape = |broadcast: u8| {
                let sizes = [batch, heads_q, len_q, len_kv];
                std::array::from_fn(|axis| if broadcast >> axis & 1 == 1 { 1 } else { sizes[axis] })
            };
            AttentionRecipe {
                dtype,
                batch,
                heads_q,
                heads_kv,
                len_q,
                len_kv,
                head_dim,
                head_dim_v: Some(head_dim_v).filter(|size| *size != head_dim),
                query_lengths,
                key_lengths,
                key_range: key_range.map(|[a, b]| [part(a.min(b), len_kv), part(a.max(b), len_kv)]),
                causal,
                window: window.unwrap_or_default().into(),
                prefix: prefix.unwrap_or(0),
                offset,
                scale: scale.map(|scale| rounded(scale / (head_dim as f32).sqrt(), 1000.0)),
                softcap: softcap.map(|cap| rounded(cap, 10.0)),
                bias: bias.map(score_shape),
                mask: mask.map(score_shape),
                alibi: per_sequence.map(|per| if per { Slopes::PerSequence } else { Slopes::PerHead }),
                sinks,
                dropout: dropout.map(rounded_probability),
                placements,
                d_lse: false,
                cuts: Vec::new(),
                seed,
            }
        },
    )
}

/// A problem whose backward pass is given a gradient of lse, or not.
pub fn backward(on_cpu: bool) -> impl Strategy<Value = AttentionRecipe> + use<> {
    (recipe(on_cpu, 1..3), any::<bool>()).prop_map(|(recipe, d_lse)| AttentionRecipe { d_lse, ..recipe })
}

/// A problem with one to three cuts of its keys.
pub fn split(on_cpu: bool) -> impl Strategy<Value = AttentionRecipe> + use<> {
    (recipe(on_cpu, 1..3), prop::collection::vec(0..150usize, 1..4))
        .prop_map(|(recipe, cuts)| AttentionRecipe { cuts, ..recipe })
}
