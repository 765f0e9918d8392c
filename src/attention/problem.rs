//! Shapes, strides, types and options of one call, validated: plain data.

use crate::attention::mask::{Band, POSITION_MAX, Visibility};
use crate::attention::{Attention, QkvSpec};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::plan::{check_last_stride, check_output, to_i32};
use crate::tensor::{Dims, Layout, TensorSpec};

/// A validated attention problem. Tensors are seen as `[batch, heads, len, head_dim]`; packed ones have one batch entry
/// there, whose rows are those of all sequences.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Problem {
    /// Sequences.
    pub batch: usize,
    pub heads_q: usize,
    pub heads_kv: usize,
    /// Queries of a sequence; of the longest one where sequences are packed.
    pub len_q: usize,
    /// Keys of a sequence; of the longest one where sequences are packed.
    pub len_kv: usize,
    pub head_dim: usize,
    pub head_dim_v: usize,
    pub dtype: DType,
    pub q: TensorSpec,
    pub k: TensorSpec,
    pub v: TensorSpec,
    pub output: TensorSpec,
    pub is_packed: bool,
    pub has_key_lengths: bool,
    pub scale: f32,
    pub softcap: Option<f32>,
    pub visibility: Visibility,
    /// The probability of dropping a weight.
    pub dropout: Option<f32>,
    pub bias: Option<TensorSpec>,
    pub mask: Option<TensorSpec>,
    pub alibi_slopes: Option<TensorSpec>,
    pub has_sinks: bool,
}

impl Problem {
    /// Checks every rule of the contract that shapes, strides, types and options can break. A partial result is f32 and
    /// leaves the sinks out.
    pub fn new(attention: &Attention, spec: &QkvSpec, is_partial: bool) -> Result<Problem> {
        let is_packed = spec.query_lengths.is_some();
        let named = [("q", &spec.q), ("k", &spec.k), ("v", &spec.v)];
        for (tensor, spec) in named {
            check_rank(tensor, spec, is_packed)?;
            check_last_stride(tensor, spec)?;
        }
        for (tensor, named) in named {
            check_dtype(tensor, named, spec.q.dtype)?;
        }
        let [q, k, v] = [&spec.q, &spec.k, &spec.v].map(|spec| as_heads(spec, is_packed));
        let (q, k, v) = (q?, k?, v?);
        let &[q_batch, heads_q, q_rows, head_dim] = q.layout.shape() else { unreachable!("rank is checked") };
        let &[_, heads_kv, kv_rows, _] = k.layout.shape() else { unreachable!("rank is checked") };
        let &[_, _, _, head_dim_v] = v.layout.shape() else { unreachable!("rank is checked") };

        check_shape("k", &k, [q_batch, heads_kv, kv_rows, head_dim], is_packed, "k has q's batch and head_dim")?;
        check_shape("v", &v, [q_batch, heads_kv, kv_rows, head_dim_v], is_packed, "v has k's batch, heads and length")?;
        for (tensor, viewed, given) in [("q", &q, &spec.q), ("k", &k, &spec.k), ("v", &v, &spec.v)] {
            let shape = viewed.layout.shape();
            // Only the length of k and v may be zero: the result is then defined (output 0, lse -inf).
            let lengthless = tensor != "q" && shape[2] == 0;
            if shape[0] == 0 || shape[1] == 0 || shape[3] == 0 || (shape[2] == 0 && !lengthless) {
                return Err(Error::Empty { tensor, shape: given.layout.shape_dims() });
            }
        }
        if heads_q % heads_kv != 0 {
            return Err(Error::HeadsNotDivisible { heads_q, heads_kv });
        }
        let (batch, len_q, len_kv) = match &spec.query_lengths {
            None => (q_batch, q_rows, kv_rows),
            Some(lengths) => (lengths.count, lengths.max, spec.key_lengths.map_or(0, |lengths| lengths.max)),
        };
        to_i32("batch", batch)?;
        to_i32("heads_q", heads_q)?;
        for (what, length) in [("len_q", q_rows), ("len_kv", kv_rows)] {
            if length as i64 >= POSITION_MAX {
                return Err(Error::TooLarge { what, value: length, limit: POSITION_MAX as usize - 1 });
            }
        }
        check_lengths(spec, batch, [q_rows, kv_rows])?;
        if let Some(range) = &spec.key_range
            && (range.start > range.end || range.end > len_kv)
        {
            return Err(Error::KeyRange { start: range.start, end: range.end, len_kv });
        }

        let scale = attention.scale.unwrap_or_else(|| (1.0 / (head_dim as f64).sqrt()) as f32);
        check_option("scale", scale, scale > 0.0, "finite and above 0")?;
        if let Some(cap) = attention.softcap {
            check_option("softcap", cap, cap > 0.0, "finite and above 0")?;
        }
        let dropout = attention.dropout.filter(|probability| *probability != 0.0);
        if let Some(probability) = dropout {
            check_option("the dropout probability", probability, (0.0..1.0).contains(&probability), "in [0, 1)")?;
        }

        let broadcast = [batch, heads_q, len_q, len_kv];
        if let Some(bias) = &spec.bias {
            check_dtype("bias", bias, q.dtype)?;
            check_last_stride("bias", bias)?;
            check_broadcast("bias", bias, broadcast, false)?;
        }
        if let Some(mask) = &spec.mask {
            check_dtype("mask", mask, DType::U8)?;
            check_broadcast("mask", mask, broadcast, true)?;
        }
        if let Some(slopes) = &spec.alibi_slopes {
            let per_head: &[usize] = if slopes.layout.rank() == 2 { &[batch, heads_q] } else { &[heads_q] };
            check_vector("alibi_slopes", slopes, per_head, "there is one slope a head, or one a sequence and head")?;
        }
        if let Some(sinks) = &spec.sinks {
            check_vector("sinks", sinks, &[heads_q], "there is one sink a query head")?;
        }

        let output_dtype = if is_partial { DType::F32 } else { q.dtype };
        let output = match &spec.output {
            Some(output) => {
                check_rank("the output", output, is_packed)?;
                as_heads(output, is_packed)?
            }
            None => {
                TensorSpec { dtype: output_dtype, layout: output_layout(&q.layout, head_dim_v)?, alignment_bytes: 16 }
            }
        };
        let expected = [q_batch, heads_q, q_rows, head_dim_v];
        check_shape("the output", &output, expected, is_packed, "it has q's shape but for v's head_dim")?;
        check_dtype("the output", &output, output_dtype)?;
        check_output("the output", &output)?;
        Ok(Problem {
            batch,
            heads_q,
            heads_kv,
            len_q,
            len_kv,
            head_dim,
            head_dim_v,
            dtype: q.dtype,
            q,
            k,
            v,
            output,
            is_packed,
            has_key_lengths: spec.key_lengths.is_some(),
            scale,
            softcap: attention.softcap,
            visibility: attention.mask.visibility(spec.key_range.as_ref())?,
            dropout,
            bias: spec.bias,
            mask: spec.mask,
            alibi_slopes: spec.alibi_slopes,
            has_sinks: spec.sinks.is_some() && !is_partial,
        })
    }

    /// Query heads that share a key head.
    pub fn group(&self) -> usize {
        self.heads_q / self.heads_kv
    }

    /// Rows of q in memory: of one sequence, or of all packed ones.
    pub fn q_rows(&self) -> usize {
        self.q.layout.shape()[2]
    }

    /// Rows of k in memory: of one sequence, or of all packed ones.
    pub fn kv_rows(&self) -> usize {
        self.k.layout.shape()[2]
    }

    /// The shape of lse and of everything that has one value a row.
    pub fn lse_shape(&self) -> Dims {
        match self.is_packed {
            true => Dims::of(&[self.heads_q, self.q_rows()]),
            false => Dims::of(&[self.batch, self.heads_q, self.len_q]),
        }
    }

    /// What a sequence of `len_q` queries and `len_kv` keys sees, of which only the keys up to `limit` count.
    pub fn band(&self, len_q: usize, len_kv: usize, limit: usize) -> Band {
        self.visibility.band(len_q, len_kv, limit)
    }

    /// Visible (query, key) pairs of all heads. Lengths and boolean masks, which only the device knows, are not deducted;
    /// packed sequences count as equally long.
    pub fn visible_pairs(&self) -> u64 {
        let (len_q, len_kv) = match self.is_packed {
            true => (self.q_rows().div_ceil(self.batch), self.kv_rows().div_ceil(self.batch)),
            false => (self.len_q, self.len_kv),
        };
        self.band(len_q, len_kv, len_kv).visible_pairs(len_q) * (self.batch * self.heads_q) as u64
    }

    /// Multiplications and additions of the two matrix products: `2 * (head_dim + head_dim_v)` a visible pair.
    pub fn flops(&self) -> u64 {
        2 * (self.head_dim + self.head_dim_v) as u64 * self.visible_pairs()
    }

    /// Of the five matrix products that the gradients need, however often an implementation computes the scores:
    /// `2 * (3 * head_dim + 2 * head_dim_v)` a visible pair.
    pub fn backward_flops(&self) -> u64 {
        2 * (3 * self.head_dim + 2 * self.head_dim_v) as u64 * self.visible_pairs()
    }

    /// The problem in words: a line on shapes and one on options.
    pub fn describe(&self) -> String {
        let lengths = if self.is_packed { "packed sequences, at most" } else { "" };
        let shapes = format!(
            "{}: batch {}, heads {} over {}, {lengths} queries {}, keys {}, head_dim {}, v's head_dim {}",
            self.dtype,
            self.batch,
            self.heads_q,
            self.heads_kv,
            self.len_q,
            self.len_kv,
            self.head_dim,
            self.head_dim_v
        )
        .replace(",  ", ", ");
        let Visibility { left, right, prefix, offset, key_range } = self.visibility;
        let mut options = Vec::new();
        match (left, right) {
            (None, None) => options.push("no positional mask".to_string()),
            (None, Some(0)) => options.push("causal".to_string()),
            _ => {
                let reach = |reach: Option<i64>| reach.map_or("any number of".to_string(), |reach| reach.to_string());
                options.push(format!("window of {} keys before and {} after", reach(left), reach(right)));
            }
        }
        if left.is_some() || right.is_some() || self.alibi_slopes.is_some() {
            options.push(match offset {
                Some(offset) => format!("query i at position i + {offset}"),
                None => "the last query at the last key".to_string(),
            });
        }
        if prefix > 0 {
            options.push(format!("prefix of {prefix} keys"));
        }
        if let Some((start, end)) = key_range {
            options.push(format!("keys {start}..{end} only"));
        }
        options.push(format!("scale {}", self.scale));
        options.extend(self.softcap.map(|cap| format!("softcap {cap}")));
        options.extend(self.dropout.map(|probability| format!("dropout {probability}")));
        let given = [
            ("bias", self.bias.is_some()),
            ("boolean mask", self.mask.is_some()),
            ("ALiBi", self.alibi_slopes.is_some()),
            ("sinks", self.has_sinks),
            ("key lengths", self.has_key_lengths && !self.is_packed),
        ];
        options.extend(given.iter().filter(|(_, given)| *given).map(|(name, _)| (*name).to_string()));
        format!("{shapes}\n{}", options.join(", "))
    }
}

/// A packed tensor `[total, heads, head_dim]` as `[1, heads, total, head_dim]`; the other ones as they are.
pub(crate) fn as_heads(spec: &TensorSpec, is_packed: bool) -> Result<TensorSpec> {
    match is_packed {
        true => Ok(TensorSpec { layout: heads_layout(&spec.layout)?, ..*spec }),
        false => Ok(*spec),
    }
}

/// The layout of a packed tensor as one of a single sequence.
pub(crate) fn heads_layout(layout: &Layout) -> Result<Layout> {
    let &[total, heads, head_dim] = layout.shape() else { unreachable!("rank is checked") };
    let &[row, head, element] = layout.strides() else { unreachable!("rank is checked") };
    Layout::strided(&[1, heads, total, head_dim], &[0, head, row, element], layout.offset())
}

/// The layout of a single sequence's tensor as a packed one: the inverse of [`heads_layout`].
pub(crate) fn packed_layout(layout: &Layout) -> Result<Layout> {
    let &[_, heads, total, head_dim] = layout.shape() else { unreachable!("it was made by heads_layout") };
    let &[_, head, row, element] = layout.strides() else { unreachable!("it was made by heads_layout") };
    Layout::strided(&[total, heads, head_dim], &[row, head, element], layout.offset())
}

/// The layout of a result when none is given: q's order of dimensions in memory, without gaps.
pub(crate) fn output_layout(q: &Layout, head_dim: usize) -> Result<Layout> {
    let &[batch, heads, len_q, _] = q.shape() else { unreachable!("rank is checked") };
    // A repeated dimension (stride 0) goes around the rows, not into them.
    let strides = [0, 1, 2].map(|axis| q.strides()[axis].max(1));
    Ok(Layout::strided(&[batch, heads, len_q, head_dim], &[strides[0], strides[1], strides[2], 1], 0)
        // Only the order of q's strides counts here, but their products with other sizes may overflow.
        .or_else(|_| Layout::contiguous(&[batch, heads, len_q, head_dim]))?
        .compact())
}

/// There must be a length a sequence, and none may reach past the keys; packed ones must fit their tensors.
pub(crate) fn check_lengths(spec: &QkvSpec, batch: usize, rows: [usize; 2]) -> Result<()> {
    let named = [("query_lengths", spec.query_lengths, rows[0]), ("key_lengths", spec.key_lengths, rows[1])];
    for (tensor, lengths, rows) in named {
        let Some(lengths) = lengths else { continue };
        if lengths.count != batch {
            return Err(Error::Shape {
                tensor,
                shape: Dims::of(&[lengths.count]),
                expected: Dims::of(&[batch]),
                reason: "there is one length a sequence of the batch",
            });
        }
        match spec.query_lengths {
            Some(_) if lengths.total != rows => {
                return Err(Error::PackedLengths { tensor, total: lengths.total, rows });
            }
            None if lengths.max > rows => return Err(Error::KeyLength { length: lengths.max, len_kv: rows }),
            _ => {}
        }
    }
    Ok(())
}

fn check_option(name: &'static str, value: f32, is_allowed: bool, allowed: &'static str) -> Result<()> {
    match value.is_finite() && is_allowed {
        true => Ok(()),
        false => Err(Error::Option { name, value: f64::from(value), allowed }),
    }
}

pub(crate) fn check_dtype(tensor: &'static str, spec: &TensorSpec, expected: DType) -> Result<()> {
    match spec.dtype == expected {
        true => Ok(()),
        false => Err(Error::DTypeMismatch { tensor, dtype: spec.dtype, expected }),
    }
}

fn check_rank(tensor: &'static str, spec: &TensorSpec, is_packed: bool) -> Result<()> {
    let (rank, expected) = match is_packed {
        true => (3, "[total, heads, head_dim]"),
        false => (4, "[batch, heads, len, head_dim]"),
    };
    if spec.layout.rank() != rank {
        return Err(Error::Rank { tensor, shape: spec.layout.shape_dims(), expected });
    }
    Ok(())
}

/// Compares shapes as `[batch, heads, len, head_dim]`, and names them as they were given.
fn check_shape(
    tensor: &'static str,
    spec: &TensorSpec,
    expected: [usize; 4],
    is_packed: bool,
    reason: &'static str,
) -> Result<()> {
    if spec.layout.shape() == expected {
        return Ok(());
    }
    let given = |shape: &[usize]| match is_packed {
        true => Dims::of(&[shape[2], shape[1], shape[3]]),
        false => Dims::of(shape),
    };
    Err(Error::Shape { tensor, shape: given(spec.layout.shape()), expected: given(&expected), reason })
}

/// Every dimension must be 1 or that of the scores; the last one of a bias is that of the scores.
fn check_broadcast(tensor: &'static str, spec: &TensorSpec, scores: [usize; 4], last_too: bool) -> Result<()> {
    let shape = spec.layout.shape();
    if shape.len() != 4 {
        let expected = "[batch, heads_q, len_q, len_kv], with 1 where it is broadcast";
        return Err(Error::Rank { tensor, shape: spec.layout.shape_dims(), expected });
    }
    let fits = |axis: usize| shape[axis] == scores[axis] || (shape[axis] == 1 && (axis < 3 || last_too));
    if !(0..4).all(fits) {
        return Err(Error::Shape {
            tensor,
            shape: spec.layout.shape_dims(),
            expected: Dims::of(&scores),
            reason: match last_too {
                true => "it has the scores' shape, or 1 where it is broadcast",
                false => "it has the scores' shape, or 1 where batch, head or query are broadcast",
            },
        });
    }
    Ok(())
}

/// A small contiguous f32 tensor.
fn check_vector(tensor: &'static str, spec: &TensorSpec, shape: &[usize], reason: &'static str) -> Result<()> {
    check_dtype(tensor, spec, DType::F32)?;
    if spec.layout.shape() != shape {
        return Err(Error::Shape { tensor, shape: spec.layout.shape_dims(), expected: Dims::of(shape), reason });
    }
    check_contiguous(tensor, spec)
}

/// A tensor that is read by its index in memory.
pub(crate) fn check_contiguous(tensor: &'static str, spec: &TensorSpec) -> Result<()> {
    let contiguous = Layout::contiguous(spec.layout.shape())?;
    let differs =
        |axis: usize| spec.layout.shape()[axis] > 1 && spec.layout.strides()[axis] != contiguous.strides()[axis];
    if (0..contiguous.rank()).any(differs) {
        return Err(Error::NotContiguous {
            tensor,
            shape: spec.layout.shape_dims(),
            strides: spec.layout.stride_dims(),
        });
    }
    Ok(())
}
