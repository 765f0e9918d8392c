//! A problem of several whole tiles for each kernel, run on the emulator. tests/counters.rs holds kernels to what the
//! report shows, so it runs the same problems.

use half::{bf16, f16};
use warpfold::emulator::{Counters, EmulatorBuilder, last_counters};
use warpfold::variants::{Features, Operation, RowFeatures, Tile, Variant};
use warpfold::{
    Attention, AttentionForward, AttentionGradients, AttentionOutputs, AttentionState, BackwardInputs, BackwardSpec,
    DType, Device, GradientOutputs, LaunchPlan, Norm, NormBackwardInputs, NormGradientOutputs, NormInputs, NormOutputs,
    Qkv, Softmax, SoftmaxBackwardSpec, SoftmaxInputs, SoftmaxSpec, Tensor,
};

/// What a kernel did.
pub struct Run {
    /// The problem, in words.
    pub problem: String,
    pub counters: Counters,
    /// Elements of the rows, of a kernel that walks rows.
    #[allow(dead_code, reason = "the report alone reads it")]
    pub elements: Option<u64>,
}

/// Why a kernel did not run.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Heads of every attention problem.
const HEADS: usize = 2;

/// Runs the kernel's problem. All tensors are contiguous and 16-byte aligned, all tiles whole.
pub fn run(variant: &Variant) -> Result<Run, Failure> {
    match (variant.operation, variant.tile) {
        (
            Operation::AttentionForward,
            Tile::Attention { block_q, block_kv, .. } | Tile::AttentionHopper { block_q, block_kv, .. },
        ) => forward(variant, [2 * block_q as usize, 4 * block_kv as usize]),
        // Its blocks own keys and walk the queries.
        (
            Operation::AttentionBackwardKeyValue,
            Tile::Attention { block_q, block_kv, .. } | Tile::AttentionHopper { block_q, block_kv, .. },
        ) => backward(variant, [4 * block_q as usize, 2 * block_kv as usize]),
        (_, Tile::Attention { block_q, block_kv, .. } | Tile::AttentionHopper { block_q, block_kv, .. }) => {
            backward(variant, [2 * block_q as usize, 4 * block_kv as usize])
        }
        (Operation::AttentionMerge, _) => merge(variant),
        (_, Tile::WarpRows { .. }) => backward(variant, [256, 64]),
        (_, Tile::Rows { rows_per_block, features, .. }) => rows(variant, rows_per_block as usize, features),
        (_, Tile::Columns { .. }) => norm_backward(variant, [64, 1024], false),
    }
}

/// An A100, or an H100 for its own kernels. The order of blocks changes no count.
fn builder(variant: &Variant) -> EmulatorBuilder {
    EmulatorBuilder::new(variant.arch).threads(1)
}

/// Values from -1 to 1 without a pattern that an address could have.
pub fn tensor(device: &Device, dtype: DType, shape: &[usize]) -> Result<Tensor, warpfold::Error> {
    let count = shape.iter().product::<usize>() as u32;
    let values = (0..count).map(|index| (index.wrapping_mul(0x9e37_79b9) >> 16) as f32 / 32768.0 - 1.0);
    match dtype {
        DType::F16 => Tensor::from_slice(device, &values.map(f16::from_f32).collect::<Vec<_>>(), shape),
        DType::BF16 => Tensor::from_slice(device, &values.map(bf16::from_f32).collect::<Vec<_>>(), shape),
        _ => Tensor::from_slice(device, &values.collect::<Vec<_>>(), shape),
    }
}

/// The head dims of an attention kernel's problem.
fn head_dims(variant: &Variant) -> [usize; 2] {
    match variant.tile {
        Tile::Attention { head_dim, head_dim_v, .. } | Tile::AttentionHopper { head_dim, head_dim_v, .. } => {
            [head_dim as usize, head_dim_v as usize]
        }
        _ => [64, 128],
    }
}

/// Fails where a problem was planned onto other kernels.
fn check(variant: &Variant, launches: &[&LaunchPlan]) -> Result<(), Failure> {
    if launches.iter().any(|launch| launch.variant == variant) {
        return Ok(());
    }
    let planned: Vec<String> = launches.iter().map(|launch| launch.variant.name()).collect();
    Err(format!("the problem is planned onto {}", planned.join(", ")).into())
}

fn counted(device: &Device, problem: String) -> Result<Run, Failure> {
    let counters = last_counters(device).ok_or("the emulator counted nothing")?;
    Ok(Run { problem, counters, elements: None })
}

fn forward(variant: &Variant, [len_q, len_kv]: [usize; 2]) -> Result<Run, Failure> {
    let device = builder(variant).build()?;
    let [head_dim, head_dim_v] = head_dims(variant);
    let q = tensor(&device, variant.dtype, &[1, HEADS, len_q, head_dim])?;
    let k = tensor(&device, variant.dtype, &[1, HEADS, len_kv, head_dim])?;
    let v = tensor(&device, variant.dtype, &[1, HEADS, len_kv, head_dim_v])?;
    let inputs = Qkv::new(&q, &k, &v);
    let mut problem = format!("{HEADS} heads, {len_q} queries, {len_kv} keys");
    let mut attention = Attention::new();
    let is_general = matches!(
        variant.tile,
        Tile::Attention { features: Features::General, .. } | Tile::AttentionHopper { features: Features::General, .. }
    );
    // Without an option, a plain kernel would take the problem.
    if is_general && variant.dtype != DType::F32 {
        attention = attention.softcap(30.0);
        problem += ", softcap";
    }
    let plan = attention.plan(&inputs.spec(), &device.target())?;
    check(variant, plan.launch().as_slice())?;
    attention.forward(&inputs)?;
    counted(&device, problem)
}

/// The backward pass as far as the wanted kernel: the last one that ran is the one that is counted.
fn backward(variant: &Variant, [len_q, len_kv]: [usize; 2]) -> Result<Run, Failure> {
    let operation = variant.operation;
    let device = builder(variant).build()?;
    let [head_dim, head_dim_v] = head_dims(variant);
    let q = tensor(&device, variant.dtype, &[1, HEADS, len_q, head_dim])?;
    let k = tensor(&device, variant.dtype, &[1, HEADS, len_kv, head_dim])?;
    let v = tensor(&device, variant.dtype, &[1, HEADS, len_kv, head_dim_v])?;
    let d_output = tensor(&device, variant.dtype, &[1, HEADS, len_q, head_dim_v])?;
    let bias = tensor(&device, variant.dtype, &[1, 1, len_q, len_kv])?;
    let sinks = tensor(&device, DType::F32, &[HEADS])?;
    let mut inputs = Qkv::new(&q, &k, &v);
    let mut problem = format!("{HEADS} heads, {len_q} queries, {len_kv} keys");
    match operation {
        Operation::AttentionBackwardBias => {
            inputs = inputs.bias(&bias);
            problem += ", a bias for all heads";
        }
        Operation::AttentionBackwardSinks => {
            inputs = inputs.sinks(&sinks);
            problem += ", sinks";
        }
        _ => {}
    }
    let mut attention = Attention::new();
    // Without an option, Hopper's plain kernel would take the problem.
    if matches!(variant.tile, Tile::AttentionHopper { features: Features::General, .. }) {
        attention = attention.softcap(30.0);
        problem += ", softcap";
    }
    let AttentionForward { output, lse } = attention.forward(&inputs)?;
    let spec = BackwardSpec::new(inputs.spec().output(output.view().spec())).d_output(d_output.view().spec());
    let plan = attention.plan_backward(&spec, &device.target())?;
    check(variant, &plan.launches())?;
    let mut gradients = AttentionGradients::allocate(&plan, &device)?;
    // What is left out is not computed, and delta always is.
    let outputs = match operation {
        Operation::AttentionDelta => GradientOutputs::default(),
        Operation::AttentionBackwardBias => {
            GradientOutputs::default().d_bias(gradients.d_bias.as_mut().ok_or("the plan has no d_bias")?)
        }
        Operation::AttentionBackwardSinks => {
            GradientOutputs::default().d_sinks(gradients.d_sinks.as_mut().ok_or("the plan has no d_sinks")?)
        }
        Operation::AttentionBackwardKeyValue => {
            GradientOutputs::default().d_k(&mut gradients.d_k).d_v(&mut gradients.d_v)
        }
        _ => GradientOutputs::default().d_q(&mut gradients.d_q),
    };
    let stream = device.stream();
    let mut workspace = plan.workspace(&stream)?;
    let backward = BackwardInputs::new(&output, &lse, &d_output);
    plan.backward_into(&stream, &inputs, &backward, outputs, &mut workspace)?;
    counted(&device, problem)
}

fn merge(variant: &Variant) -> Result<Run, Failure> {
    let device = builder(variant).build()?;
    let (parts, len) = (3, 256);
    let [_, head_dim_v] = head_dims(variant);
    let mut states = Vec::new();
    for _ in 0..parts {
        let output = tensor(&device, DType::F32, &[1, HEADS, len, head_dim_v])?;
        let lse = tensor(&device, DType::F32, &[1, HEADS, len])?;
        states.push(AttentionState::from_natural_log(AttentionForward { output, lse })?);
    }
    let states: Vec<_> = states.iter().map(AttentionState::view).collect();
    // The kernel follows from the output's type; no plan names it.
    let mut output = Tensor::zeros(&device, variant.dtype, [1, HEADS, len, head_dim_v])?;
    let mut lse = Tensor::zeros(&device, DType::F32, [1, HEADS, len])?;
    let outputs = AttentionOutputs::new(&mut output).lse(&mut lse);
    AttentionState::merge_into(&device.stream(), &states, None, outputs)?;
    counted(&device, format!("{parts} parts, {HEADS} heads, {len} queries"))
}

/// Rows of whole 16-byte vectors, as many as two blocks take and as long as the kernel takes them; a block a row has 4096
/// columns.
fn rows(variant: &Variant, rows_per_block: usize, features: RowFeatures) -> Result<Run, Failure> {
    let slot = 16 / variant.dtype.size_bytes();
    let columns = variant.columns_max().map_or(4096, |columns| columns as usize / slot * slot);
    let shape = [(2 * rows_per_block).max(8), columns];
    // Without an option or misaligned rows, a plain kernel would take the problem.
    let is_general = features == RowFeatures::General;
    let run = match variant.operation {
        Operation::SoftmaxForward => softmax_forward(variant, shape, is_general),
        Operation::SoftmaxBackward => softmax_backward(variant, shape, is_general),
        Operation::NormForward => norm_forward(variant, shape, is_general),
        _ => norm_backward(variant, shape, is_general),
    };
    let elements = shape.iter().product::<usize>() as u64;
    run.map(|run| Run { elements: Some(elements), ..run })
}

/// A problem in words.
fn named([rows, columns]: [usize; 2], options: &str) -> String {
    format!("{rows} rows of {columns}{options}")
}

fn softmax_forward(variant: &Variant, shape: [usize; 2], is_general: bool) -> Result<Run, Failure> {
    let device = builder(variant).build()?;
    let (x, bias) = (tensor(&device, variant.dtype, &shape)?, tensor(&device, variant.dtype, &shape)?);
    let mut y = Tensor::zeros(&device, variant.dtype, shape)?;
    let (mut spec, mut inputs) = (SoftmaxSpec::new(x.view().spec()), SoftmaxInputs::new(&x));
    if is_general {
        (spec, inputs) = (spec.bias(bias.view().spec()), inputs.bias(&bias));
    }
    let plan = Softmax::new().plan(&spec, &device.target())?;
    check(variant, &plan.launches())?;
    let stream = device.stream();
    plan.forward_into(&stream, inputs, &mut y, &mut plan.workspace(&stream)?)?;
    counted(&device, named(shape, if is_general { ", a bias" } else { "" }))
}

fn softmax_backward(variant: &Variant, shape: [usize; 2], is_general: bool) -> Result<Run, Failure> {
    let device = builder(variant).build()?;
    // Rows that begin one element late.
    let [rows, columns] = shape;
    let wide = tensor(&device, variant.dtype, &[rows, columns + 16 / variant.dtype.size_bytes()])?;
    let whole = tensor(&device, variant.dtype, &shape)?;
    let y = if is_general { wide.view().narrow(1, 1, columns)? } else { whole.view() };
    let mut d_x = Tensor::zeros(&device, variant.dtype, shape)?;
    let spec = SoftmaxBackwardSpec::new(y.spec(), y.spec()).d_x(d_x.view().spec());
    let plan = Softmax::new().plan_backward(&spec, &device.target())?;
    check(variant, &plan.launches())?;
    let stream = device.stream();
    plan.backward_into(&stream, [y, y], &mut d_x, &mut plan.workspace(&stream)?)?;
    counted(&device, named(shape, if is_general { ", misaligned" } else { "" }))
}

/// A layer norm, with dropout where the kernel is the general one.
fn norm(is_general: bool) -> Norm {
    Norm::layer().dropout(if is_general { 0.1 } else { 0.0 })
}

fn norm_forward(variant: &Variant, shape: [usize; 2], is_general: bool) -> Result<Run, Failure> {
    let device = builder(variant).build()?;
    let (x, vector) = (tensor(&device, variant.dtype, &shape)?, tensor(&device, variant.dtype, &shape[1..])?);
    let mut y = Tensor::zeros(&device, variant.dtype, shape)?;
    let mut sum = Tensor::zeros(&device, variant.dtype, shape)?;
    let inputs = NormInputs::new(&x).residual(&x).weight(&vector).bias(&vector);
    let plan = norm(is_general).plan(&inputs.spec(), &device.target())?;
    check(variant, &plan.launches())?;
    let stream = device.stream();
    let outputs = NormOutputs::new(&mut y).sum(&mut sum);
    plan.forward_into(&stream, &inputs, outputs, &mut plan.workspace(&stream)?)?;
    counted(&device, named(shape, if is_general { ", a residual and dropout" } else { ", a residual" }))
}

/// The last kernel that ran is the one that is counted. So the kernel of the rows makes no sums over rows here, whose own
/// kernel would follow.
fn norm_backward(variant: &Variant, shape: [usize; 2], is_general: bool) -> Result<Run, Failure> {
    let with_sums = variant.operation == Operation::NormWeightGradients;
    let device = builder(variant).build()?;
    let rows = || tensor(&device, variant.dtype, &shape);
    let vector = || tensor(&device, variant.dtype, &shape[1..]);
    let (d_y, sum, weight) = (rows()?, rows()?, vector()?);
    let (mean, rstd) = (tensor(&device, DType::F32, &shape[..1])?, tensor(&device, DType::F32, &shape[..1])?);
    let (mut d_x, mut d_weight, mut d_bias) = (rows()?, vector()?, vector()?);
    let inputs = NormBackwardInputs::new(&d_y, &sum).weight(&weight).bias(&weight).mean(&mean).rstd(&rstd);
    let plan = norm(is_general).plan_backward(&inputs.spec(), &device.target())?;
    check(variant, &plan.launches())?;
    let mut outputs = NormGradientOutputs::new(&mut d_x);
    if with_sums {
        outputs = outputs.d_weight(&mut d_weight).d_bias(&mut d_bias);
    }
    let stream = device.stream();
    plan.backward_into(&stream, &inputs, outputs, &mut plan.workspace(&stream)?)?;
    let options = match (with_sums, is_general) {
        (true, _) => ", the gradients of weight and bias",
        (false, true) => ", dropout",
        (false, false) => "",
    };
    counted(&device, named(shape, options))
}
