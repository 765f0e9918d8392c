//! From a problem to kernel launches: which kernels, and what they are told.

use crate::attention::backward::BackwardProblem;
use crate::attention::problem::Problem;
use crate::attention::state::Merge;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::params::{
    AttentionBackwardParams, AttentionDeltaParams, AttentionForwardParams, AttentionMergeParams, AttentionShape,
    AttentionSinksParams, HeadStrides, ScoreStrides,
};
use crate::plan::{LaunchPlan, Params, choose, stride_bytes, to_i32};
use crate::target::{GpuTarget, Target};
use crate::tensor::TensorSpec;
use crate::variants::{Features, Operation, Tile, VARIANTS, Variant};

/// Bytes of keys and values that blocks of neighbouring indices may share: a part of the L2 cache of every GPU since the
/// A100 (40 MB).
const SECTION_BYTES: usize = 16 << 20;

/// The launches of a backward pass, in their order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BackwardLaunches {
    pub delta: LaunchPlan,
    pub key_value: LaunchPlan,
    pub query: LaunchPlan,
    pub bias: Option<LaunchPlan>,
    pub sinks: Option<LaunchPlan>,
}

impl BackwardLaunches {
    pub fn new(problem: &BackwardProblem, target: &GpuTarget) -> Result<BackwardLaunches> {
        let forward = &problem.forward;
        let key_value = find(Operation::AttentionBackwardKeyValue, forward, target, true)?;
        let query = find(Operation::AttentionBackwardQuery, forward, target, true)?;
        let bias = |spec| bias_launch(problem, spec, find(Operation::AttentionBackwardBias, forward, target, true)?);
        Ok(BackwardLaunches {
            delta: delta_launch(problem, target)?,
            key_value: key_launch(problem, key_value)?,
            query: query_launch(problem, query)?,
            bias: problem.d_bias.as_ref().map(bias).transpose()?,
            sinks: forward.has_sinks.then(|| sinks_launch(problem, target)).transpose()?,
        })
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &LaunchPlan> {
        [&self.delta, &self.key_value, &self.query].into_iter().chain(&self.bias).chain(&self.sinks)
    }
}

/// Whether a kernel takes a problem. What it reads of the problem are types, head dims, options and alignment: never
/// lengths, heads or the batch, so that these do not change a row's bits.
fn accepts(variant: &Variant, problem: &Problem, is_aligned: bool) -> bool {
    let Tile::Attention { head_dim, head_dim_v, features, .. } = variant.tile else { return false };
    let (d, dv) = (problem.head_dim, problem.head_dim_v);
    let (tile_d, tile_dv) = (head_dim as usize, head_dim_v as usize);
    let needs_general = problem.softcap.is_some()
        || problem.bias.is_some()
        || problem.mask.is_some()
        || problem.alibi_slopes.is_some()
        || problem.dropout.is_some()
        || problem.visibility.prefix > 0
        || !is_aligned;
    variant.dtype == problem.dtype
        && d.is_multiple_of(8)
        && dv.is_multiple_of(8)
        && match features {
            Features::Plain => !needs_general && tile_d == d && tile_dv == dv,
            Features::General => tile_d >= d && tile_dv >= dv,
        }
}

fn find(operation: Operation, problem: &Problem, target: &GpuTarget, is_aligned: bool) -> Result<&'static Variant> {
    let of_operation = || VARIANTS.iter().filter(move |variant| variant.operation == operation);
    if !of_operation().any(|variant| variant.dtype == problem.dtype) {
        return Err(Error::UnsupportedDType {
            operation: "attention",
            dtype: problem.dtype,
            device: Target::Gpu(*target).to_string(),
            available: "f32, f16, bf16".to_string(),
        });
    }
    choose(operation, target, |variant| accepts(variant, problem, is_aligned)).ok_or_else(|| {
        let largest = of_operation().filter(|variant| variant.dtype == problem.dtype).filter_map(|variant| {
            let Tile::Attention { head_dim, head_dim_v, .. } = variant.tile else { return None };
            Some(head_dim.min(head_dim_v))
        });
        Error::NoKernel {
            operation: "attention",
            wanted: format!("head_dim {} with v's head_dim {}", problem.head_dim, problem.head_dim_v),
            target: Target::Gpu(*target).to_string(),
            available: format!("multiples of 8 up to {}", largest.max().unwrap_or(0)),
        }
    })
}

/// The tile of an attention kernel: query rows, keys.
fn tile(variant: &Variant) -> (usize, usize) {
    let Tile::Attention { block_q, block_kv, .. } = variant.tile else {
        unreachable!("attention variants have attention tiles")
    };
    (block_q as usize, block_kv as usize)
}

/// The forward kernel.
pub(crate) fn forward_launch(problem: &Problem, target: &GpuTarget) -> Result<LaunchPlan> {
    let is_aligned = [&problem.q, &problem.k, &problem.v, &problem.output].iter().all(|spec| spec.rows_aligned());
    let variant = find(Operation::AttentionForward, problem, target, is_aligned)?;
    let (shape, blocks) = query_shape(problem, tile(variant).0, is_aligned)?;
    let params = AttentionForwardParams {
        shape,
        out_strides: head_strides(&problem.output)?,
        out_f32: u32::from(problem.output.dtype == DType::F32),
        ..AttentionForwardParams::default()
    };
    LaunchPlan::linear(variant, blocks, Params::AttentionForward(params))
}

/// The shape for a kernel whose blocks own query rows, and the number of blocks.
fn query_shape(problem: &Problem, block_q: usize, is_aligned: bool) -> Result<(AttentionShape, usize)> {
    let group = problem.group();
    let blocks = |rows: usize, sequences: usize| match problem.is_packed {
        // Every sequence may end with a part of a block.
        true => rows / block_q + sequences,
        false => rows.div_ceil(block_q),
    };
    // Few queries leave most of a tile empty: then the query heads of a key head share it. Where a row lies in a tile does
    // not change its bits.
    let apart = blocks(problem.q_rows(), problem.batch) * group;
    let together = blocks(problem.q_rows() * group, problem.batch);
    let packed_heads = if together < apart { group } else { 1 };
    let heads = problem.heads_q / packed_heads;
    let blocks_each = if packed_heads == 1 { apart / group } else { together };
    let kv_bytes = problem.kv_rows() * (problem.head_dim + problem.head_dim_v) * problem.dtype.size_bytes();
    let section = (SECTION_BYTES / kv_bytes.max(1)).max(1).saturating_mul(group / packed_heads);
    let shape = AttentionShape {
        packed_heads: packed_heads as u32,
        blocks: to_i32("the number of row blocks", blocks_each)? as u32,
        section: section.min(heads * problem.batch) as u32,
        aligned: u32::from(is_aligned),
        ..common_shape(problem)?
    };
    let sequences = if problem.is_packed { 1 } else { problem.batch };
    Ok((shape, blocks_each.saturating_mul(heads).saturating_mul(sequences)))
}

/// What every attention kernel is told.
fn common_shape(problem: &Problem) -> Result<AttentionShape> {
    let visibility = &problem.visibility;
    let unbounded = |reach: Option<i64>| reach.map_or(i32::MAX, |reach| reach as i32);
    let (key_begin, key_end) = visibility.key_range.unwrap_or((0, i32::MAX as usize));
    let per_row = problem.q_rows() as i64;
    let probability = f64::from(problem.dropout.unwrap_or(0.0));
    Ok(AttentionShape {
        q_strides: head_strides(&problem.q)?,
        k_strides: head_strides(&problem.k)?,
        v_strides: head_strides(&problem.v)?,
        bias_strides: problem.bias.as_ref().map(score_strides).unwrap_or_default(),
        mask_strides: problem.mask.as_ref().map(score_strides).unwrap_or_default(),
        lse_batch: if problem.is_packed { 0 } else { per_row * problem.heads_q as i64 },
        lse_head: per_row,
        slopes_batch: match &problem.alibi_slopes {
            Some(slopes) if slopes.layout.rank() == 2 => problem.heads_q as i64,
            _ => 0,
        },
        batch: problem.batch as u32,
        heads_q: problem.heads_q as u32,
        heads_per_kv: problem.group() as u32,
        len_q: problem.q_rows() as i32,
        len_kv: problem.kv_rows() as i32,
        head_dim: problem.head_dim as i32,
        head_dim_v: problem.head_dim_v as i32,
        scale: problem.scale,
        scale_log2: (f64::from(problem.scale) * std::f64::consts::LOG2_E) as f32,
        softcap: problem.softcap.unwrap_or(0.0),
        bottom_right: u32::from(visibility.offset.is_none()),
        offset: visibility.offset.unwrap_or(0) as i32,
        window_left: unbounded(visibility.left),
        window_right: unbounded(visibility.right),
        prefix: visibility.prefix as i32,
        key_begin: key_begin as i32,
        key_end: key_end as i32,
        dropout_below: (probability * 2f64.powi(32)).floor() as u32,
        dropout_scale: if problem.dropout.is_some() { (1.0 / (1.0 - probability)) as f32 } else { 0.0 },
        packed_heads: 1,
        ..AttentionShape::default()
    })
}

fn backward_params(problem: &BackwardProblem, shape: AttentionShape) -> Result<AttentionBackwardParams> {
    Ok(AttentionBackwardParams {
        shape,
        d_out_strides: head_strides(&problem.d_output)?,
        d_q_strides: head_strides(&problem.d_q)?,
        d_k_strides: head_strides(&problem.d_k)?,
        d_v_strides: head_strides(&problem.d_v)?,
        ..AttentionBackwardParams::default()
    })
}

fn delta_launch(problem: &BackwardProblem, target: &GpuTarget) -> Result<LaunchPlan> {
    let forward = &problem.forward;
    let variant = find_rows(Operation::AttentionDelta, forward.dtype, target)?;
    let &[batch, heads_q, len_q, head_dim_v] = forward.output.layout.shape() else { unreachable!("it has four") };
    let shape = common_shape(forward)?;
    let params = AttentionDeltaParams {
        out_strides: head_strides(&forward.output)?,
        d_out_strides: head_strides(&problem.d_output)?,
        lse_batch: shape.lse_batch,
        lse_head: shape.lse_head,
        batch: batch as u32,
        heads_q: heads_q as u32,
        len_q: len_q as u32,
        head_dim_v: head_dim_v as u32,
        ..AttentionDeltaParams::default()
    };
    let rows = batch.saturating_mul(heads_q).saturating_mul(len_q);
    LaunchPlan::linear(variant, rows.div_ceil(variant.threads() as usize / 32), Params::AttentionDelta(params))
}

fn sinks_launch(problem: &BackwardProblem, target: &GpuTarget) -> Result<LaunchPlan> {
    let forward = &problem.forward;
    let variant = find_rows(Operation::AttentionBackwardSinks, DType::F32, target)?;
    let shape = common_shape(forward)?;
    let params = AttentionSinksParams {
        lse_batch: shape.lse_batch,
        lse_head: shape.lse_head,
        batch: if forward.is_packed { 1 } else { forward.batch as u32 },
        len_q: forward.q_rows() as u32,
        ..AttentionSinksParams::default()
    };
    LaunchPlan::linear(variant, forward.heads_q, Params::AttentionSinks(params))
}

fn query_launch(problem: &BackwardProblem, variant: &'static Variant) -> Result<LaunchPlan> {
    let (shape, blocks) = query_shape(&problem.forward, tile(variant).0, problem.is_aligned())?;
    LaunchPlan::linear(variant, blocks, Params::AttentionBackward(backward_params(problem, shape)?))
}

fn key_launch(problem: &BackwardProblem, variant: &'static Variant) -> Result<LaunchPlan> {
    let forward = &problem.forward;
    let block_kv = tile(variant).1;
    let blocks_each = match forward.is_packed {
        true => forward.kv_rows() / block_kv + forward.batch,
        false => forward.kv_rows().div_ceil(block_kv),
    };
    let q_bytes = forward.q_rows() * (forward.head_dim + forward.head_dim_v) * forward.dtype.size_bytes();
    let section = (SECTION_BYTES / q_bytes.saturating_mul(forward.group()).max(1)).max(1);
    let shape = AttentionShape {
        blocks: to_i32("the number of key blocks", blocks_each)? as u32,
        section: section.min(forward.heads_kv * forward.batch) as u32,
        aligned: u32::from(problem.is_aligned()),
        ..common_shape(forward)?
    };
    let sequences = if forward.is_packed { 1 } else { forward.batch };
    let blocks = blocks_each.saturating_mul(forward.heads_kv).saturating_mul(sequences);
    LaunchPlan::linear(variant, blocks, Params::AttentionBackward(backward_params(problem, shape)?))
}

/// A block owns a tile of the bias's gradient and walks everything that the bias was broadcast over.
fn bias_launch(problem: &BackwardProblem, d_bias: &TensorSpec, variant: &'static Variant) -> Result<LaunchPlan> {
    let forward = &problem.forward;
    let (block_q, block_kv) = tile(variant);
    let &[batch, heads, queries, keys] = d_bias.layout.shape() else { unreachable!("the rank is checked") };
    let tiles = queries.div_ceil(block_q).saturating_mul(keys.div_ceil(block_kv));
    let shape = AttentionShape {
        blocks: to_i32("the number of bias tiles", tiles)? as u32,
        aligned: u32::from(problem.is_aligned()),
        ..common_shape(forward)?
    };
    let params = AttentionBackwardParams {
        d_bias_strides: score_strides(d_bias),
        bias_batch: batch as u32,
        bias_heads: heads as u32,
        bias_queries: queries as u32,
        bias_keys: keys as i32,
        ..backward_params(problem, shape)?
    };
    let blocks = tiles.saturating_mul(heads).saturating_mul(batch);
    LaunchPlan::linear(variant, blocks, Params::AttentionBackward(params))
}

/// The kernel that merges partial results into one of an element type.
pub(crate) fn merge_launch(merge: &Merge, target: &GpuTarget) -> Result<LaunchPlan> {
    let variant = find_rows(Operation::AttentionMerge, merge.output.dtype, target)?;
    let &[batch, heads, len, head_dim_v] = merge.part.layout.shape() else { unreachable!("states have four") };
    let params = AttentionMergeParams {
        part_strides: head_strides(&merge.part)?,
        out_strides: head_strides(&merge.output)?,
        batch: batch as u32,
        heads: heads as u32,
        len: len as u32,
        head_dim_v: head_dim_v as u32,
        ..AttentionMergeParams::default()
    };
    let rows = batch.saturating_mul(heads).saturating_mul(len);
    LaunchPlan::linear(variant, rows.div_ceil(variant.threads() as usize / 32), Params::AttentionMerge(params))
}

fn find_rows(operation: Operation, dtype: DType, target: &GpuTarget) -> Result<&'static Variant> {
    choose(operation, target, |variant| variant.dtype == dtype).ok_or_else(|| Error::UnsupportedDType {
        operation: operation.name(),
        dtype,
        device: Target::Gpu(*target).to_string(),
        available: "f32, f16, bf16".to_string(),
    })
}

/// Strides in bytes. A tile's rows are addressed with 32-bit distances.
fn head_strides(spec: &TensorSpec) -> Result<HeadStrides> {
    let [batch, head, row] = [0, 1, 2].map(|axis| stride_bytes(spec, axis));
    if i32::try_from(row).is_err() {
        return Err(Error::TooLarge {
            what: "the distance of rows in bytes",
            value: row as usize,
            limit: i32::MAX as usize,
        });
    }
    Ok(HeadStrides { batch, head, row })
}

fn score_strides(spec: &TensorSpec) -> ScoreStrides {
    let [batch, head, query, key] = [0, 1, 2, 3].map(|axis| stride_bytes(spec, axis));
    ScoreStrides { batch, head, query, key }
}
