//! Shapes, strides, types and mask of one call, validated: plain data.

use crate::attention::mask::CausalBounds;
use crate::attention::{Attention, QkvSpec};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::plan::{check_last_stride, check_output, to_i32};
use crate::tensor::{Dims, Layout, LengthsSpec, TensorSpec};

/// A validated attention problem.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Problem {
    pub batch: usize,
    pub heads_q: usize,
    pub heads_kv: usize,
    pub len_q: usize,
    pub len_kv: usize,
    pub head_dim: usize,
    pub head_dim_v: usize,
    pub dtype: DType,
    pub q: TensorSpec,
    pub k: TensorSpec,
    pub v: TensorSpec,
    pub output: TensorSpec,
    pub has_key_lengths: bool,
    pub scale: f32,
    pub mask: CausalBounds,
}

impl Problem {
    /// Checks every rule of the contract that shapes, strides, types and options can break.
    pub fn new(attention: &Attention, spec: &QkvSpec) -> Result<Problem> {
        let QkvSpec { q, k, v, .. } = spec;
        let named = [("q", q), ("k", k), ("v", v)];
        for (tensor, spec) in named {
            check_rank(tensor, spec)?;
            check_last_stride(tensor, spec)?;
        }
        for (tensor, spec) in named {
            if spec.dtype != q.dtype {
                return Err(Error::DTypeMismatch { tensor, dtype: spec.dtype, expected: q.dtype });
            }
        }
        let &[batch, heads_q, len_q, head_dim] = q.layout.shape() else { unreachable!("rank is checked") };
        let &[_, heads_kv, len_kv, _] = k.layout.shape() else { unreachable!("rank is checked") };
        let &[_, _, _, head_dim_v] = v.layout.shape() else { unreachable!("rank is checked") };

        check_shape("k", k, [batch, heads_kv, len_kv, head_dim], "k has q's batch and head_dim")?;
        check_shape("v", v, [batch, heads_kv, len_kv, head_dim_v], "v has k's batch, heads and length")?;
        for (tensor, spec) in named {
            let shape = spec.layout.shape();
            // Only the length of k and v may be zero: the result is then defined (output 0, lse -inf).
            let lengthless = tensor != "q" && shape[2] == 0;
            if shape[0] == 0 || shape[1] == 0 || shape[3] == 0 || (shape[2] == 0 && !lengthless) {
                return Err(Error::Empty { tensor, shape: spec.layout.shape_dims() });
            }
        }
        if heads_q % heads_kv != 0 {
            return Err(Error::HeadsNotDivisible { heads_q, heads_kv });
        }
        to_i32("batch", batch)?;
        to_i32("heads_q", heads_q)?;
        to_i32("len_q", len_q)?;
        to_i32("len_kv", len_kv)?;

        let scale = attention.scale.unwrap_or_else(|| (1.0 / (head_dim as f64).sqrt()) as f32);
        if !(scale.is_finite() && scale > 0.0) {
            return Err(Error::Option { name: "scale", value: f64::from(scale), allowed: "finite and above 0" });
        }
        let output_shape = [batch, heads_q, len_q, head_dim_v];
        let output = match spec.output {
            Some(output) => output,
            None => TensorSpec { dtype: q.dtype, layout: output_layout(&q.layout, head_dim_v)?, alignment_bytes: 16 },
        };
        check_rank("the output", &output)?;
        check_shape("the output", &output, output_shape, "it is [batch, heads_q, len_q, head_dim of v]")?;
        if output.dtype != q.dtype {
            return Err(Error::DTypeMismatch { tensor: "the output", dtype: output.dtype, expected: q.dtype });
        }
        check_output("the output", &output)?;
        check_lengths(spec.key_lengths.as_ref(), batch, len_kv)?;
        let mask = attention.mask.bounds(len_q, len_kv)?;
        Ok(Problem {
            batch,
            heads_q,
            heads_kv,
            len_q,
            len_kv,
            head_dim,
            head_dim_v,
            dtype: q.dtype,
            q: *q,
            k: *k,
            v: *v,
            output,
            has_key_lengths: spec.key_lengths.is_some(),
            scale,
            mask,
        })
    }

    /// Multiplications and additions of the two matrix products, counted for visible pairs only:
    /// `2 * (head_dim + head_dim_v)` a pair. Key lengths, which only the device knows, are not deducted.
    pub fn flops(&self) -> u64 {
        let pairs = self.mask.visible_pairs(self.len_q, self.len_kv);
        2 * (self.head_dim + self.head_dim_v) as u64 * pairs * (self.batch * self.heads_q) as u64
    }

    /// Whether every row of q, k, v and the output starts on a 16-byte boundary.
    pub fn rows_aligned(&self) -> bool {
        [&self.q, &self.k, &self.v, &self.output].iter().all(|spec| spec.rows_aligned())
    }
}

/// The output's layout when none is given: q's order of dimensions in memory, without gaps.
pub(crate) fn output_layout(q: &Layout, head_dim_v: usize) -> Result<Layout> {
    let &[batch, heads, len_q, _] = q.shape() else { unreachable!("rank is checked") };
    let strides = q.strides();
    Ok(Layout::strided(&[batch, heads, len_q, head_dim_v], &[strides[0], strides[1], strides[2], 1], 0)
        // Only the order of q's strides counts here, but their products with other sizes may overflow.
        .or_else(|_| Layout::contiguous(&[batch, heads, len_q, head_dim_v]))?
        .compact())
}

/// Key lengths must be one a sequence, and none longer than the keys.
pub(crate) fn check_lengths(lengths: Option<&LengthsSpec>, batch: usize, len_kv: usize) -> Result<()> {
    let Some(lengths) = lengths else { return Ok(()) };
    if lengths.count != batch {
        return Err(Error::Shape {
            tensor: "key_lengths",
            shape: Dims::of(&[lengths.count]),
            expected: Dims::of(&[batch]),
            reason: "there is one length a sequence of the batch",
        });
    }
    if lengths.max > len_kv {
        return Err(Error::KeyLength { length: lengths.max, len_kv });
    }
    Ok(())
}

fn check_rank(tensor: &'static str, spec: &TensorSpec) -> Result<()> {
    if spec.layout.rank() != 4 {
        return Err(Error::Rank { tensor, shape: spec.layout.shape_dims(), expected: "[batch, heads, len, head_dim]" });
    }
    Ok(())
}

fn check_shape(tensor: &'static str, spec: &TensorSpec, expected: [usize; 4], reason: &'static str) -> Result<()> {
    if spec.layout.shape() != expected {
        return Err(Error::Shape { tensor, shape: spec.layout.shape_dims(), expected: Dims::of(&expected), reason });
    }
    Ok(())
}
