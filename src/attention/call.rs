//! The tensors of a call, and what a plan reads of them.

use std::ops::Range;

use crate::tensor::{LengthsSpec, SeqLens, Tensor, TensorMut, TensorRef, TensorSpec};

/// The tensors of one call.
///
/// ```
/// use warpfold::{Attention, Device, Qkv, SeqLens, Tensor};
/// let device = Device::cpu();
/// // Two sequences of 3 and 5 tokens, packed without padding: [total, heads, head_dim].
/// let x = Tensor::from_slice(&device, &vec![0.5f32; 8 * 2 * 16], [8, 2, 16])?;
/// let lengths = SeqLens::new(&device, &[3, 5])?;
/// let forward = Attention::new().forward(&Qkv::packed(&x, &x, &x, &lengths, &lengths))?;
/// assert_eq!(forward.output.shape(), [8, 2, 16]);
/// assert_eq!(forward.lse.shape(), [2, 8]);
/// # Ok::<(), warpfold::Error>(())
/// ```
#[derive(Clone)]
pub struct Qkv<'a> {
    pub(crate) q: TensorRef<'a>,
    pub(crate) k: TensorRef<'a>,
    pub(crate) v: TensorRef<'a>,
    pub(crate) key_lengths: Option<&'a SeqLens>,
    pub(crate) query_lengths: Option<&'a SeqLens>,
    pub(crate) key_range: Option<Range<usize>>,
    pub(crate) bias: Option<TensorRef<'a>>,
    pub(crate) mask: Option<TensorRef<'a>>,
    pub(crate) alibi_slopes: Option<TensorRef<'a>>,
    pub(crate) sinks: Option<TensorRef<'a>>,
    pub(crate) dropout_seed: u64,
    pub(crate) dropout_offset: u32,
}

impl<'a> Qkv<'a> {
    /// Queries `[batch, heads_q, len_q, head_dim]`, keys `[batch, heads_kv, len_kv, head_dim]` and values `[batch,
    /// heads_kv, len_kv, head_dim_v]`.
    pub fn new(q: impl Into<TensorRef<'a>>, k: impl Into<TensorRef<'a>>, v: impl Into<TensorRef<'a>>) -> Qkv<'a> {
        Qkv {
            q: q.into(),
            k: k.into(),
            v: v.into(),
            key_lengths: None,
            query_lengths: None,
            key_range: None,
            bias: None,
            mask: None,
            alibi_slopes: None,
            sinks: None,
            dropout_seed: 0,
            dropout_offset: 0,
        }
    }

    /// Sequences of different lengths, packed one after the other: q `[total_q, heads_q, head_dim]`, k and v `[total_kv,
    /// heads_kv, head_dim]`. Every sequence attends to itself alone, and the mask aligns per sequence. The output is
    /// packed like q, lse is `[heads_q, total_q]`.
    pub fn packed(
        q: impl Into<TensorRef<'a>>,
        k: impl Into<TensorRef<'a>>,
        v: impl Into<TensorRef<'a>>,
        query_lengths: &'a SeqLens,
        key_lengths: &'a SeqLens,
    ) -> Qkv<'a> {
        Qkv { query_lengths: Some(query_lengths), key_lengths: Some(key_lengths), ..Qkv::new(q, k, v) }
    }

    /// Hides the keys from each sequence's length on. The mask's alignment does not move: it goes by `len_kv`. Not for
    /// [`Qkv::packed`] sequences, whose key lengths are given already.
    pub fn key_lengths(mut self, lengths: &'a SeqLens) -> Qkv<'a> {
        self.key_lengths = Some(lengths);
        self
    }

    /// Lets only these keys take part, for partial results to be merged ([`crate::AttentionState`]). Nothing else moves:
    /// the mask, bias and dropout go by the whole tensors.
    pub fn key_range(mut self, keys: Range<usize>) -> Qkv<'a> {
        self.key_range = Some(keys);
        self
    }

    /// Adds a tensor to the scores, after scale and softcap: of q's type, `[batch, heads_q, len_q, len_kv]`, each of the
    /// first three dimensions also 1 (broadcast). For packed sequences the lengths are the longest ones.
    pub fn bias(mut self, bias: impl Into<TensorRef<'a>>) -> Qkv<'a> {
        self.bias = Some(bias.into());
        self
    }

    /// Hides keys where a `u8` tensor is 0: broadcastable to `[batch, heads_q, len_q, len_kv]`.
    pub fn mask(mut self, mask: impl Into<TensorRef<'a>>) -> Qkv<'a> {
        self.mask = Some(mask.into());
        self
    }

    /// ALiBi: subtracts `slope * |position - j|` from the scores. f32 `[heads_q]` or `[batch, heads_q]`, contiguous.
    pub fn alibi_slopes(mut self, slopes: impl Into<TensorRef<'a>>) -> Qkv<'a> {
        self.alibi_slopes = Some(slopes.into());
        self
    }

    /// Attention sinks: a logit a query head, neither scaled nor capped, that joins each row's sum of exponentials and
    /// carries no value. f32 `[heads_q]`, contiguous.
    pub fn sinks(mut self, sinks: impl Into<TensorRef<'a>>) -> Qkv<'a> {
        self.sinks = Some(sinks.into());
        self
    }

    /// The state of the dropout mask's random numbers: give every training step another offset, or another seed, and the
    /// backward pass the same as the forward pass.
    pub fn dropout_state(mut self, seed: u64, offset: u32) -> Qkv<'a> {
        (self.dropout_seed, self.dropout_offset) = (seed, offset);
        self
    }

    /// What a plan reads of these tensors.
    pub fn spec(&self) -> QkvSpec {
        let of = |tensor: &Option<TensorRef<'_>>| tensor.as_ref().map(TensorRef::spec);
        QkvSpec {
            q: self.q.spec(),
            k: self.k.spec(),
            v: self.v.spec(),
            key_lengths: self.key_lengths.map(SeqLens::spec),
            query_lengths: self.query_lengths.map(SeqLens::spec),
            key_range: self.key_range.clone(),
            bias: of(&self.bias),
            mask: of(&self.mask),
            alibi_slopes: of(&self.alibi_slopes),
            sinks: of(&self.sinks),
            output: None,
        }
    }
}

/// What a plan reads of a call: no contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QkvSpec {
    pub(crate) q: TensorSpec,
    pub(crate) k: TensorSpec,
    pub(crate) v: TensorSpec,
    pub(crate) key_lengths: Option<LengthsSpec>,
    pub(crate) query_lengths: Option<LengthsSpec>,
    pub(crate) key_range: Option<Range<usize>>,
    pub(crate) bias: Option<TensorSpec>,
    pub(crate) mask: Option<TensorSpec>,
    pub(crate) alibi_slopes: Option<TensorSpec>,
    pub(crate) sinks: Option<TensorSpec>,
    pub(crate) output: Option<TensorSpec>,
}

impl QkvSpec {
    /// A call without tensors at hand.
    pub fn new(q: TensorSpec, k: TensorSpec, v: TensorSpec) -> QkvSpec {
        QkvSpec {
            q,
            k,
            v,
            key_lengths: None,
            query_lengths: None,
            key_range: None,
            bias: None,
            mask: None,
            alibi_slopes: None,
            sinks: None,
            output: None,
        }
    }

    /// Plans with key lengths.
    pub fn key_lengths(mut self, lengths: LengthsSpec) -> QkvSpec {
        self.key_lengths = Some(lengths);
        self
    }

    /// Plans for packed sequences: see [`Qkv::packed`].
    pub fn packed(mut self, query_lengths: LengthsSpec, key_lengths: LengthsSpec) -> QkvSpec {
        (self.query_lengths, self.key_lengths) = (Some(query_lengths), Some(key_lengths));
        self
    }

    /// Plans for a range of the keys.
    pub fn key_range(mut self, keys: Range<usize>) -> QkvSpec {
        self.key_range = Some(keys);
        self
    }

    /// Plans with a bias.
    pub fn bias(mut self, bias: TensorSpec) -> QkvSpec {
        self.bias = Some(bias);
        self
    }

    /// Plans with a boolean mask.
    pub fn mask(mut self, mask: TensorSpec) -> QkvSpec {
        self.mask = Some(mask);
        self
    }

    /// Plans with ALiBi slopes.
    pub fn alibi_slopes(mut self, slopes: TensorSpec) -> QkvSpec {
        self.alibi_slopes = Some(slopes);
        self
    }

    /// Plans with sinks.
    pub fn sinks(mut self, sinks: TensorSpec) -> QkvSpec {
        self.sinks = Some(sinks);
        self
    }

    /// Plans for an output other than the 16-byte aligned one, in q's order of dimensions, that the owning call makes.
    pub fn output(mut self, output: TensorSpec) -> QkvSpec {
        self.output = Some(output);
        self
    }
}

/// Where a planned call writes.
pub struct AttentionOutputs<'a> {
    pub(crate) output: TensorMut<'a>,
    pub(crate) lse: Option<TensorMut<'a>>,
}

impl<'a> AttentionOutputs<'a> {
    /// Writes the output only.
    pub fn new(output: impl Into<TensorMut<'a>>) -> AttentionOutputs<'a> {
        AttentionOutputs { output: output.into(), lse: None }
    }

    /// Writes lse too: f32 `[batch, heads_q, len_q]` (packed: `[heads_q, total_q]`), contiguous.
    pub fn lse(mut self, lse: impl Into<TensorMut<'a>>) -> AttentionOutputs<'a> {
        self.lse = Some(lse.into());
        self
    }
}

/// What the backward pass reads beside the inputs: the results of the forward pass and the gradients with respect to them.
#[derive(Clone, Copy)]
pub struct BackwardInputs<'a> {
    pub(crate) output: TensorRef<'a>,
    pub(crate) lse: TensorRef<'a>,
    pub(crate) d_output: TensorRef<'a>,
    pub(crate) d_lse: Option<TensorRef<'a>>,
}

impl<'a> BackwardInputs<'a> {
    /// `output` and `lse` of the forward pass, and the gradient with respect to the output, which has its shape and type.
    pub fn new(
        output: impl Into<TensorRef<'a>>,
        lse: impl Into<TensorRef<'a>>,
        d_output: impl Into<TensorRef<'a>>,
    ) -> BackwardInputs<'a> {
        BackwardInputs { output: output.into(), lse: lse.into(), d_output: d_output.into(), d_lse: None }
    }

    /// The gradient with respect to lse, f32 and of its shape: for losses that read lse, and for merged partial results.
    pub fn d_lse(mut self, d_lse: impl Into<TensorRef<'a>>) -> BackwardInputs<'a> {
        self.d_lse = Some(d_lse.into());
        self
    }
}

/// Where a planned backward pass writes. What is left out is not computed: `GradientOutputs::default().d_q(&mut d_q)` writes
/// one gradient alone.
#[derive(Default)]
pub struct GradientOutputs<'a> {
    pub(crate) d_q: Option<TensorMut<'a>>,
    pub(crate) d_k: Option<TensorMut<'a>>,
    pub(crate) d_v: Option<TensorMut<'a>>,
    pub(crate) d_bias: Option<TensorMut<'a>>,
    pub(crate) d_sinks: Option<TensorMut<'a>>,
}

impl<'a> GradientOutputs<'a> {
    /// Writes the gradients of the three inputs, each of its input's shape and type.
    pub fn new(
        d_q: impl Into<TensorMut<'a>>,
        d_k: impl Into<TensorMut<'a>>,
        d_v: impl Into<TensorMut<'a>>,
    ) -> GradientOutputs<'a> {
        GradientOutputs {
            d_q: Some(d_q.into()),
            d_k: Some(d_k.into()),
            d_v: Some(d_v.into()),
            ..GradientOutputs::default()
        }
    }

    /// Writes the gradient of q.
    pub fn d_q(mut self, d_q: impl Into<TensorMut<'a>>) -> GradientOutputs<'a> {
        self.d_q = Some(d_q.into());
        self
    }

    /// Writes the gradient of k.
    pub fn d_k(mut self, d_k: impl Into<TensorMut<'a>>) -> GradientOutputs<'a> {
        self.d_k = Some(d_k.into());
        self
    }

    /// Writes the gradient of v.
    pub fn d_v(mut self, d_v: impl Into<TensorMut<'a>>) -> GradientOutputs<'a> {
        self.d_v = Some(d_v.into());
        self
    }

    /// Writes the bias's gradient too: of its shape and type, summed over what was broadcast.
    pub fn d_bias(mut self, d_bias: impl Into<TensorMut<'a>>) -> GradientOutputs<'a> {
        self.d_bias = Some(d_bias.into());
        self
    }

    /// Writes the sinks' gradient too: f32 `[heads_q]`.
    pub fn d_sinks(mut self, d_sinks: impl Into<TensorMut<'a>>) -> GradientOutputs<'a> {
        self.d_sinks = Some(d_sinks.into());
        self
    }
}

/// The gradients of a backward pass.
#[derive(Debug)]
pub struct AttentionGradients {
    /// Of q's shape and type.
    pub d_q: Tensor,
    /// Of k's shape and type; summed over the query heads of a group.
    pub d_k: Tensor,
    /// Of v's shape and type.
    pub d_v: Tensor,
    /// Of the bias's shape and type, if there was one.
    pub d_bias: Option<Tensor>,
    /// f32 `[heads_q]`, if there were sinks.
    pub d_sinks: Option<Tensor>,
}
