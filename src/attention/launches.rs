//! From a problem to kernel launches: which kernels, and what they are told.

use std::mem::offset_of;

use crate::attention::backward::BackwardProblem;
use crate::attention::problem::Problem;
use crate::attention::state::Merge;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::params::{
    AttentionBackwardParams, AttentionDeltaParams, AttentionForwardParams, AttentionMergeParams, AttentionShape,
    AttentionSinksParams, HeadStrides, ScoreStrides,
};
use crate::plan::{LaunchPlan, Params, choose, runs_on, stride_bytes, to_i32};
use crate::target::{GpuTarget, Target};
use crate::tensor::TensorSpec;
use crate::tensor_map::{Dim, STRIDE_BYTES_END, TensorMap, TensorMaps};
use crate::variants::{Arch, Features, Operation, Tile, VARIANTS, Variant, named, sweep};

/// Bytes of keys and values that blocks of neighbouring indices may share: a part of the L2 cache of every GPU since the
/// A100 (40 MB).
const SECTION_BYTES: usize = 16 << 20;

/// Columns of a box of a tensor map: as many 16-bit elements as the swizzle spans.
const BOX_COLUMNS: usize = 64;
/// Rows of a warpgroup: what it stores as one box.
const WARPGROUP_ROWS: usize = 64;

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
        let rows = Rows { are_aligned: true, fit_maps: backward_map_obstacle(problem).is_none() };
        let find = |operation| find(operation, forward, target, rows);
        let key_value = find(Operation::AttentionBackwardKeyValue)?;
        let query = find(Operation::AttentionBackwardQuery)?;
        let bias = |spec| bias_launch(problem, spec, find(Operation::AttentionBackwardBias)?);
        Ok(BackwardLaunches {
            delta: delta_launch(problem, target)?,
            key_value: key_launch(problem, key_value, target)?,
            query: query_launch(problem, query, target)?,
            bias: problem.d_bias.as_ref().map(bias).transpose()?,
            sinks: forward.has_sinks.then(|| sinks_launch(problem, target)).transpose()?,
        })
    }

    /// The same with the launch of the named kernel's operation by that kernel.
    pub fn with_kernel(
        mut self,
        problem: &BackwardProblem,
        target: &GpuTarget,
        name: &str,
    ) -> Result<BackwardLaunches> {
        let rows = Rows { are_aligned: true, fit_maps: backward_map_obstacle(problem).is_none() };
        let operations = [Operation::AttentionBackwardKeyValue, Operation::AttentionBackwardQuery];
        let variant = find_named(name, &operations, &problem.forward, target, rows)?;
        match variant.operation {
            Operation::AttentionBackwardQuery => self.query = query_launch(problem, variant, target)?,
            _ => self.key_value = key_launch(problem, variant, target)?,
        }
        Ok(self)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &LaunchPlan> {
        [&self.delta, &self.key_value, &self.query].into_iter().chain(&self.bias).chain(&self.sinks)
    }
}

/// What of the tensors' layout selects a kernel.
#[derive(Clone, Copy)]
struct Rows {
    /// Whether every row starts on a 16-byte boundary.
    are_aligned: bool,
    /// Whether tensor maps can describe the tensors.
    fit_maps: bool,
}

/// Whether a kernel takes a problem. What it reads of the problem are types, head dims, options and alignment: never
/// lengths, heads or the batch, so that these do not change a row's bits.
fn accepts(variant: &Variant, problem: &Problem, rows: Rows) -> bool {
    let (d, dv) = (problem.head_dim, problem.head_dim_v);
    let has_score_options = problem.softcap.is_some()
        || problem.bias.is_some()
        || problem.mask.is_some()
        || problem.alibi_slopes.is_some()
        || problem.dropout.is_some()
        || problem.visibility.prefix > 0;
    let is_large_enough = |tile_d: u32, tile_dv: u32| tile_d as usize >= d && tile_dv as usize >= dv;
    let fits = match variant.tile {
        Tile::Attention { head_dim, head_dim_v, features: Features::Plain, .. } => {
            !has_score_options && rows.are_aligned && head_dim as usize == d && head_dim_v as usize == dv
        }
        Tile::Attention { head_dim, head_dim_v, features: Features::General, .. } => {
            is_large_enough(head_dim, head_dim_v)
        }
        Tile::AttentionHopper { head_dim, head_dim_v, features, .. } => {
            let takes_options = features == Features::General || !has_score_options;
            takes_options && rows.fit_maps && is_large_enough(head_dim, head_dim_v)
        }
        Tile::WarpRows { .. } | Tile::Rows { .. } | Tile::Columns { .. } => false,
    };
    fits && variant.dtype == problem.dtype && d.is_multiple_of(8) && dv.is_multiple_of(8)
}

/// What keeps the forward pass from the kernels that copy by tensor maps; `None` where nothing does.
fn map_obstacle(problem: &Problem) -> Option<String> {
    let tensors = [("q", &problem.q), ("k", &problem.k), ("v", &problem.v), ("the output", &problem.output)];
    map_obstacle_of(problem.dtype, &tensors)
}

/// The same for the backward pass.
fn backward_map_obstacle(problem: &BackwardProblem) -> Option<String> {
    let BackwardProblem { forward, d_output, d_q, d_k, d_v, .. } = problem;
    let inputs = [("q", &forward.q), ("k", &forward.k), ("v", &forward.v), ("d_output", d_output)];
    map_obstacle_of(forward.dtype, &inputs).or_else(|| {
        let results = [("d_q", d_q), ("d_k", d_k), ("d_v", d_v)];
        map_obstacle_of(forward.dtype, &results)
    })
}

fn map_obstacle_of(dtype: DType, tensors: &[(&str, &TensorSpec)]) -> Option<String> {
    if dtype.size_bytes() != 2 {
        return Some(format!("{dtype} has no kernel there"));
    }
    for (name, spec) in tensors {
        if !spec.rows_aligned() {
            return Some(format!("rows of {name} are not 16-byte aligned"));
        }
        let strides = || (0..3).filter(|&axis| spec.layout.shape()[axis] > 1).map(|axis| stride_bytes(spec, axis));
        if strides().any(|stride| stride == 0) {
            return Some(format!("{name} repeats itself (a stride of 0)"));
        }
        if strides().any(|stride| stride as u64 >= STRIDE_BYTES_END) {
            return Some(format!("parts of {name} are 2^40 bytes apart or more"));
        }
    }
    None
}

/// Why a GPU with kernels of its own runs one of the baseline for the forward pass; `None` where it does not.
pub(crate) fn why_baseline(problem: &Problem, target: &Target, launch: &LaunchPlan) -> Option<String> {
    why_not_own(target, launch, map_obstacle(problem))
}

/// The same for a launch of the backward pass.
pub(crate) fn why_baseline_backward(problem: &BackwardProblem, target: &Target, launch: &LaunchPlan) -> Option<String> {
    let has_own =
        VARIANTS.iter().any(|variant| variant.operation == launch.variant.operation && variant.arch == Arch::Sm90a);
    has_own.then(|| why_not_own(target, launch, backward_map_obstacle(problem))).flatten()
}

fn why_not_own(target: &Target, launch: &LaunchPlan, obstacle: Option<String>) -> Option<String> {
    let Target::Gpu(GpuTarget { compute_capability, .. }) = target else { return None };
    let arch = Arch::Sm90a;
    if launch.variant.arch == arch || !arch.runs_on(compute_capability.major, compute_capability.minor) {
        return None;
    }
    let why = obstacle.unwrap_or_else(|| "none of its kernels fits".to_string());
    Some(format!("not on {}: {why}", arch.name()))
}

fn find(operation: Operation, problem: &Problem, target: &GpuTarget, rows: Rows) -> Result<&'static Variant> {
    let of_operation = || VARIANTS.iter().filter(move |variant| variant.operation == operation);
    if !of_operation().any(|variant| variant.dtype == problem.dtype) {
        return Err(Error::UnsupportedDType {
            operation: "attention",
            dtype: problem.dtype,
            device: Target::Gpu(*target).to_string(),
            available: "f32, f16, bf16".to_string(),
        });
    }
    choose(operation, target, |variant| accepts(variant, problem, rows)).ok_or_else(|| {
        let largest =
            of_operation().filter(|variant| variant.dtype == problem.dtype).filter_map(|variant| match variant.tile {
                Tile::Attention { head_dim, head_dim_v, .. } => Some(head_dim.min(head_dim_v)),
                _ => None,
            });
        Error::NoKernel {
            operation: "attention",
            wanted: format!("head_dim {} with v's head_dim {}", problem.head_dim, problem.head_dim_v),
            target: Target::Gpu(*target).to_string(),
            available: format!("multiples of 8 up to {}", largest.max().unwrap_or(0)),
        }
    })
}

/// The kernel of this name for one of these operations, in the table or among the candidates for it.
fn find_named(
    name: &str,
    operations: &[Operation],
    problem: &Problem,
    target: &GpuTarget,
    rows: Rows,
) -> Result<&'static Variant> {
    let takes = |variant: &&'static Variant| {
        operations.contains(&variant.operation) && runs_on(variant, target) && accepts(variant, problem, rows)
    };
    named(name).filter(takes).ok_or_else(|| {
        let names: Vec<String> = VARIANTS.iter().chain(sweep()).filter(takes).map(Variant::name).collect();
        Error::NoKernel {
            operation: "attention",
            wanted: format!("this problem under the name {name}"),
            target: Target::Gpu(*target).to_string(),
            available: format!("it under {}", names.join(", ")),
        }
    })
}

/// The tile of an attention kernel: query rows, keys.
fn tile(variant: &Variant) -> (usize, usize) {
    match variant.tile {
        Tile::Attention { block_q, block_kv, .. } | Tile::AttentionHopper { block_q, block_kv, .. } => {
            (block_q as usize, block_kv as usize)
        }
        _ => unreachable!("attention variants have attention tiles"),
    }
}

/// Whether a kernel copies by tensor maps.
fn has_maps(variant: &Variant) -> bool {
    matches!(variant.tile, Tile::AttentionHopper { .. })
}

/// The forward kernel: the one that the table has for the problem, or the one of a name.
pub(crate) fn forward_launch(problem: &Problem, target: &GpuTarget, name: Option<&str>) -> Result<LaunchPlan> {
    let are_aligned = [&problem.q, &problem.k, &problem.v, &problem.output].iter().all(|spec| spec.rows_aligned());
    let rows = Rows { are_aligned, fit_maps: map_obstacle(problem).is_none() };
    let variant = match name {
        None => find(Operation::AttentionForward, problem, target, rows)?,
        Some(name) => find_named(name, &[Operation::AttentionForward], problem, target, rows)?,
    };
    let group = problem.group();
    let packable = if has_maps(variant) { mapped_heads(group) } else { group };
    let (block_q, block_kv) = tile(variant);
    let shape = query_shape(problem, (block_q, packable), are_aligned, target)?;
    let params = Params::AttentionForward(AttentionForwardParams {
        shape,
        out_strides: head_strides(&problem.output)?,
        out_f32: u32::from(problem.output.dtype == DType::F32),
        ..AttentionForwardParams::default()
    });
    if !has_maps(variant) {
        return LaunchPlan::linear(variant, shape.work_blocks as usize, params);
    }
    let tensor_maps = forward_maps(problem, (block_q, block_kv), shape.packed_heads as usize)?;
    Ok(LaunchPlan::persistent(variant, shape.work_blocks, target, (params, tensor_maps)))
}

/// How many heads of a group can share a tile whose rows one box copies: `(queries, heads)` in a box of a whole number of
/// both, also where a warpgroup stores its part.
fn mapped_heads(group: usize) -> usize {
    (1 << group.trailing_zeros()).min(WARPGROUP_ROWS)
}

/// The maps of q, k, v and the output.
///
/// ```text
/// q, output   (column, head of those that share a tile, query, tile's heads, batch)    rows of a tile, or of a warpgroup
/// k, v        (column, key, head, batch)                                               keys of a tile
/// ```
fn forward_maps(problem: &Problem, (block_q, block_kv): (usize, usize), packed_heads: usize) -> Result<TensorMaps> {
    let q = queries_map("q", offset_of!(AttentionForwardParams, q), &problem.q, (block_q, packed_heads))?;
    // A partial result is f32 and not stored by its map: q's stands in.
    let output = match problem.output.dtype == problem.dtype {
        true => {
            let address_offset = offset_of!(AttentionForwardParams, out);
            queries_map("the output", address_offset, &problem.output, (WARPGROUP_ROWS, packed_heads))?
        }
        false => q,
    };
    Ok(TensorMaps::of([
        q,
        rows_map("k", offset_of!(AttentionForwardParams, k), &problem.k, block_kv)?,
        rows_map("v", offset_of!(AttentionForwardParams, v), &problem.v, block_kv)?,
        output,
    ]))
}

/// A map of (column, row, head, batch) in boxes of `box_rows` rows. The address stands at `address_offset` of the parameters.
fn rows_map(name: &'static str, address_offset: usize, spec: &TensorSpec, box_rows: usize) -> Result<TensorMap> {
    let &[batch, heads, len, head_dim] = spec.layout.shape() else { unreachable!("the rank is checked") };
    let HeadStrides { batch: batch_bytes, head: head_bytes, row: row_bytes } = head_strides(spec)?;
    let dims = [
        Dim { size: head_dim, stride_bytes: 0, box_size: BOX_COLUMNS },
        Dim { size: len, stride_bytes: row_bytes, box_size: box_rows },
        Dim { size: heads, stride_bytes: head_bytes, box_size: 1 },
        Dim { size: batch, stride_bytes: batch_bytes, box_size: 1 },
    ];
    TensorMap::new(name, (address_offset / size_of::<u64>(), spec.dtype), &dims)
}

/// A map of (column, head of those that share a tile, query, tile's heads, batch) in boxes of `box_rows` of a tile's rows.
fn queries_map(
    name: &'static str,
    address_offset: usize,
    spec: &TensorSpec,
    (box_rows, packed_heads): (usize, usize),
) -> Result<TensorMap> {
    let &[batch, heads, len, head_dim] = spec.layout.shape() else { unreachable!("the rank is checked") };
    let HeadStrides { batch: batch_bytes, head: head_bytes, row: row_bytes } = head_strides(spec)?;
    let tile_heads_bytes = head_bytes * packed_heads as i64;
    let dims = [
        Dim { size: head_dim, stride_bytes: 0, box_size: BOX_COLUMNS },
        Dim { size: packed_heads, stride_bytes: head_bytes, box_size: packed_heads },
        Dim { size: len, stride_bytes: row_bytes, box_size: box_rows / packed_heads },
        Dim { size: heads / packed_heads, stride_bytes: tile_heads_bytes, box_size: 1 },
        Dim { size: batch, stride_bytes: batch_bytes, box_size: 1 },
    ];
    TensorMap::new(name, (address_offset / size_of::<u64>(), spec.dtype), &dims)
}

/// The shape for a kernel whose blocks own query rows, of `packable` heads where that takes fewer blocks.
fn query_shape(
    problem: &Problem,
    (block_q, packable): (usize, usize),
    are_aligned: bool,
    target: &GpuTarget,
) -> Result<AttentionShape> {
    let group = problem.group();
    let blocks = |rows: usize, sequences: usize| match problem.is_packed {
        // Every sequence may end with a part of a block.
        true => rows / block_q + sequences,
        false => rows.div_ceil(block_q),
    };
    // Few queries leave most of a tile empty: then query heads of a key head share it. Where a row lies in a tile does not
    // change its bits.
    let apart = blocks(problem.q_rows(), problem.batch);
    let together = blocks(problem.q_rows() * packable, problem.batch);
    let is_better = together * (group / packable) < apart * group;
    let (packed_heads, blocks_each) = if is_better { (packable, together) } else { (1, apart) };
    let heads = problem.heads_q / packed_heads;
    let kv_bytes = problem.kv_rows() * (problem.head_dim + problem.head_dim_v) * problem.dtype.size_bytes();
    let section = (SECTION_BYTES / kv_bytes.max(1)).max(1).saturating_mul(group / packed_heads);
    let sequences = if problem.is_packed { 1 } else { problem.batch };
    Ok(AttentionShape {
        packed_heads: packed_heads as u32,
        blocks: to_i32("the number of row blocks", blocks_each)? as u32,
        section: section_of(section, heads * problem.batch, blocks_each, target) as u32,
        aligned: u32::from(are_aligned),
        work_blocks: work_blocks(&[blocks_each, heads, sequences])?,
        ..common_shape(problem)?
    })
}

/// How many of all (sequence, head) pairs are worked on together: about as many as share the cache, in sections of the same size, each
/// of which keeps the GPU busy for more than two rounds. Blocks of work that go to and fro then come to about as much for every
/// multiprocessor: a test says how evenly.
fn section_of(in_cache: usize, pairs: usize, blocks_each: usize, target: &GpuTarget) -> usize {
    let busy = (5 * target.num_sms as usize).div_ceil(2 * blocks_each.max(1));
    let wanted = in_cache.max(busy).min(pairs.max(1));
    pairs.max(1).div_ceil(pairs.max(1).div_ceil(wanted))
}

/// As many blocks as the factors multiply to, which one grid must be able to have.
fn work_blocks(factors: &[usize]) -> Result<u32> {
    let blocks = factors.iter().fold(1usize, |product, factor| product.saturating_mul(*factor));
    Ok(to_i32("the number of thread blocks", blocks)? as u32)
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

fn query_launch(problem: &BackwardProblem, variant: &'static Variant, target: &GpuTarget) -> Result<LaunchPlan> {
    let forward = &problem.forward;
    let (block_q, block_kv) = tile(variant);
    let group = forward.group();
    let packable = if has_maps(variant) { mapped_heads(group) } else { group };
    let shape = query_shape(forward, (block_q, packable), problem.is_aligned(), target)?;
    let params = Params::AttentionBackward(backward_params(problem, shape)?);
    if has_maps(variant) {
        let packed_heads = shape.packed_heads as usize;
        let queries = |name, address_offset, spec, rows| queries_map(name, address_offset, spec, (rows, packed_heads));
        let tensor_maps = TensorMaps::of([
            queries("q", offset_of!(AttentionBackwardParams, q), &forward.q, block_q)?,
            queries("d_output", offset_of!(AttentionBackwardParams, d_out), &problem.d_output, block_q)?,
            rows_map("k", offset_of!(AttentionBackwardParams, k), &forward.k, block_kv)?,
            rows_map("v", offset_of!(AttentionBackwardParams, v), &forward.v, block_kv)?,
            queries("d_q", offset_of!(AttentionBackwardParams, d_q), &problem.d_q, WARPGROUP_ROWS)?,
        ]);
        return Ok(LaunchPlan::persistent(variant, shape.work_blocks, target, (params, tensor_maps)));
    }
    LaunchPlan::linear(variant, shape.work_blocks as usize, params)
}

fn key_launch(problem: &BackwardProblem, variant: &'static Variant, target: &GpuTarget) -> Result<LaunchPlan> {
    let forward = &problem.forward;
    let (block_q, block_kv) = tile(variant);
    let blocks_each = match forward.is_packed {
        true => forward.kv_rows() / block_kv + forward.batch,
        false => forward.kv_rows().div_ceil(block_kv),
    };
    let q_bytes = forward.q_rows() * (forward.head_dim + forward.head_dim_v) * forward.dtype.size_bytes();
    let section = (SECTION_BYTES / q_bytes.saturating_mul(forward.group()).max(1)).max(1);
    let pairs = forward.heads_kv * forward.batch;
    let shape = AttentionShape {
        blocks: to_i32("the number of key blocks", blocks_each)? as u32,
        section: section_of(section, pairs, blocks_each, target) as u32,
        aligned: u32::from(problem.is_aligned()),
        work_blocks: work_blocks(&[blocks_each, forward.heads_kv, if forward.is_packed { 1 } else { forward.batch }])?,
        ..common_shape(forward)?
    };
    let params = Params::AttentionBackward(backward_params(problem, shape)?);
    if has_maps(variant) {
        let tensor_maps = TensorMaps::of([
            rows_map("q", offset_of!(AttentionBackwardParams, q), &forward.q, block_q)?,
            rows_map("d_output", offset_of!(AttentionBackwardParams, d_out), &problem.d_output, block_q)?,
            rows_map("k", offset_of!(AttentionBackwardParams, k), &forward.k, block_kv)?,
            rows_map("v", offset_of!(AttentionBackwardParams, v), &forward.v, block_kv)?,
            rows_map("d_k", offset_of!(AttentionBackwardParams, d_k), &problem.d_k, WARPGROUP_ROWS)?,
            rows_map("d_v", offset_of!(AttentionBackwardParams, d_v), &problem.d_v, WARPGROUP_ROWS)?,
        ]);
        return Ok(LaunchPlan::persistent(variant, shape.work_blocks, target, (params, tensor_maps)));
    }
    LaunchPlan::linear(variant, shape.work_blocks as usize, params)
}

/// A block owns a tile of the bias's gradient and walks everything that the bias was broadcast over.
fn bias_launch(problem: &BackwardProblem, d_bias: &TensorSpec, variant: &'static Variant) -> Result<LaunchPlan> {
    let forward = &problem.forward;
    let (block_q, block_kv) = tile(variant);
    let &[batch, heads, queries, keys] = d_bias.layout.shape() else { unreachable!("the rank is checked") };
    let tiles = queries.div_ceil(block_q).saturating_mul(keys.div_ceil(block_kv));
    let shape = AttentionShape {
        blocks: to_i32("the number of bias tiles", tiles)? as u32,
        work_blocks: work_blocks(&[tiles, heads, batch])?,
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
    LaunchPlan::linear(variant, shape.work_blocks as usize, Params::AttentionBackward(params))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The share of an even load that the busiest multiprocessor leaves under a causal mask: blocks of work in the order of
    /// kernels/lib/place.cuh, taken to and fro as kernels/lib/hopper/plan.cuh does.
    fn evenness(pairs: usize, blocks_each: usize, section: usize, num_sms: usize) -> f64 {
        // What a block of work takes beside its tiles, in tiles of 128 keys: 4.5 us of 1.3 us each on an H100.
        const FIXED: f64 = 3.5;
        let num_sections = pairs.div_ceil(section);
        let mut loads = vec![0.0; num_sms];
        let mut index = 0;
        for number in 0..num_sections {
            let in_section = section.min(pairs - number * section);
            for place in 0..blocks_each * in_section {
                let block = place / in_section;
                let is_reversed = (num_sections - 1 - number) % 2 == 1;
                let tiles = if is_reversed { block + 1 } else { blocks_each - block };
                let (round, sm) = (index / num_sms, index % num_sms);
                loads[if round % 2 == 0 { sm } else { num_sms - 1 - sm }] += FIXED + tiles as f64;
                index += 1;
            }
        }
        let busiest = loads.iter().copied().fold(0.0, f64::max);
        // No order makes it better than the mean, nor than a whole number of equal blocks of work.
        let rounds = (index as f64 / num_sms as f64).ceil() * (FIXED + 1.0);
        (loads.iter().sum::<f64>() / num_sms as f64).max(rounds) / busiest
    }

    #[test]
    fn sections_share_causal_work_out_evenly() {
        let mut shares = Vec::new();
        for (num_sms, head_dim) in [(132, 64), (132, 128), (132, 256), (114, 64), (114, 128), (114, 256)] {
            let target = GpuTarget { num_sms, ..GpuTarget::H100 };
            for (len, pairs) in [2048, 3000, 4096, 8192, 16384, 32768]
                .into_iter()
                .flat_map(|len| [8, 16, 24, 32, 40, 64, 128].map(|pairs| (len, pairs)))
            {
                let blocks_each = usize::div_ceil(len, 128);
                // Less work than four rounds is not even, whatever its order.
                if pairs * blocks_each < 4 * num_sms as usize {
                    continue;
                }
                let in_cache = (SECTION_BYTES / (len * 4 * head_dim)).max(1);
                let section = section_of(in_cache, pairs, blocks_each, &target);
                shares.push(evenness(pairs, blocks_each, section, num_sms as usize));
            }
        }
        let mean = shares.iter().sum::<f64>() / shares.len() as f64;
        let worst = shares.iter().copied().fold(1.0, f64::min);
        assert!(mean > 0.975 && worst > 0.91, "{mean:.3} in the mean of {}, {worst:.3} at worst", shares.len());
    }
}
