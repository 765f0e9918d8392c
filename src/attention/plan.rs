//! From a problem and a target to what will run.

use std::fmt::Write as _;

use crate::attention::launches::{forward_launch, why_baseline};
use crate::attention::problem::{Problem, as_heads, check_lengths, heads_layout, packed_layout};
use crate::attention::{AttentionForward, AttentionOutputs, Qkv, QkvSpec};
use crate::device::Stream;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::launch::{check_devices, launch, workspace};
use crate::plan::{Execution, LaunchPlan, check_planned, check_planned_tensor, check_target};
use crate::rows::workspace_with;
use crate::target::{GpuTarget, Target};
use crate::tensor::{Dims, Layout, SeqLens, TensorMut, TensorRef, TensorSpec};
use crate::variants::{Features, Tile};
use crate::workspace::Workspace;

/// A reusable decision: how one attention problem runs on one kind of device. Making it is pure; running it
/// allocates nothing.
#[derive(Clone, Debug)]
pub struct AttentionPlan {
    spec: QkvSpec,
    problem: Problem,
    target: Target,
    execution: Execution<LaunchPlan>,
}

impl AttentionPlan {
    pub(crate) fn new(problem: Problem, spec: &QkvSpec, target: &Target) -> Result<AttentionPlan> {
        let execution = match target {
            Target::Cpu => Execution::cpu("attention", problem.dtype)?,
            Target::Gpu(gpu) => Execution::Launch(forward_launch(&problem, gpu, None)?),
        };
        Ok(AttentionPlan { spec: spec.clone(), problem, target: *target, execution })
    }

    /// The same problem by the kernel of this name instead of the one that was chosen: for measurements. It is a row of
    /// [`crate::variants::VARIANTS`] or, in a build with `WARPFOLD_SWEEP` set, of [`crate::variants::sweep`], which has to take the
    /// problem. Which kernel runs may change the last bits of a result.
    ///
    /// ```
    /// use warpfold::{Attention, DType, GpuTarget, QkvSpec, Target, TensorSpec};
    /// let tensor = TensorSpec::contiguous(DType::BF16, [2, 8, 1024, 64])?;
    /// let target = Target::Gpu(GpuTarget::H100);
    /// let plan = Attention::new().plan(&QkvSpec::new(tensor, tensor, tensor), &target)?;
    /// let baseline = plan.clone().with_kernel("attention_forward_sm80_bf16_d64_plain")?;
    /// assert_ne!(plan.launch().unwrap().variant, baseline.launch().unwrap().variant);
    /// assert!(plan.with_kernel("attention_forward_sm80_bf16_d128_plain").is_err());
    /// # Ok::<(), warpfold::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`crate::Error::NoKernel`] where there is no such kernel or it does not take the problem, with the names of those that do;
    /// on the CPU, which has none.
    pub fn with_kernel(mut self, name: &str) -> Result<AttentionPlan> {
        let gpu = named_kernels_target(&self.target, name)?;
        self.execution = Execution::Launch(forward_launch(&self.problem, gpu, Some(name))?);
        Ok(self)
    }

    /// The kernel launch; `None` on the CPU device.
    pub fn launch(&self) -> Option<&LaunchPlan> {
        self.execution.launch()
    }

    /// The layout that the output has when the call allocates it.
    pub fn output_layout(&self) -> Layout {
        given_layout(&self.problem, &self.problem.output.layout)
    }

    /// The type of the output: q's, or f32 for a partial result.
    pub fn output_dtype(&self) -> DType {
        self.problem.output.dtype
    }

    /// The shape of lse.
    pub fn lse_shape(&self) -> Dims {
        self.problem.lse_shape()
    }

    /// The specification that the plan was made for.
    pub fn spec(&self) -> &QkvSpec {
        &self.spec
    }

    /// Floating-point operations of the visible (query, key) pairs: `2 * (head_dim + head_dim_v)` each.
    pub fn flops(&self) -> u64 {
        self.problem.flops()
    }

    /// The plan in words: the problem, the path, and why this kernel.
    pub fn explain(&self) -> String {
        let mut text = format!("attention forward, {}; {} FLOP\n", self.problem.describe(), self.flops());
        match &self.execution {
            Execution::Cpu => {
                let _ = write!(text, "on the CPU: {}", crate::cpu::attention::describe(&self.problem));
            }
            Execution::Launch(launch) => {
                let _ = writeln!(text, "on {}", self.target);
                let _ = writeln!(text, "{launch}");
                text.push_str(explain_features(&self.problem, launch));
                if let Some(why) = why_baseline(&self.problem, &self.target, launch) {
                    let _ = write!(text, "\n{why}");
                }
            }
        }
        text
    }

    /// The scratch memory that one running call needs.
    ///
    /// # Errors
    /// [`crate::Error::PlanMismatch`] when the stream's device is not of the plan's target.
    pub fn workspace(&self, stream: &Stream) -> Result<Workspace> {
        check_target(self.launch(), &self.target, &stream.device().target())?;
        let scratch = crate::cpu::attention::scratch_elements(&self.problem);
        let workspace = workspace(self.launch().as_slice(), stream, scratch)?;
        match self.launch() {
            None => {
                workspace_with(workspace, stream.device(), &[crate::cpu::attention::partial_elements(&self.problem)])
            }
            Some(_) => Ok(workspace),
        }
    }

    /// Computes the forward pass into given tensors: allocates nothing and waits for nothing, so that a CUDA graph
    /// can capture it.
    ///
    /// # Errors
    /// [`crate::Error::PlanMismatch`] when a tensor, the lengths, the stream or the workspace is not what the plan was made
    /// for; [`crate::Error::DeviceMismatch`]; [`crate::Error::Cuda`].
    pub fn forward_into(
        &self,
        stream: &Stream,
        inputs: &Qkv<'_>,
        outputs: AttentionOutputs<'_>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let device = stream.device();
        check_target(self.launch(), &self.target, &device.target())?;
        check_inputs(&self.spec, &self.problem, inputs)?;
        let planned = TensorSpec { layout: self.output_layout(), ..self.problem.output };
        check_planned_tensor("the output", &outputs.output.spec(), &planned)?;
        let output = heads_mut(&self.problem, outputs.output)?;
        if let Some(lse) = &outputs.lse {
            check_per_row("lse", &lse.spec(), &self.problem)?;
        }
        let operands = Operands::new(&self.problem, inputs)?;
        let (mut output, mut lse) = (output, outputs.lse);
        let [q, k, v, bias, mask, slopes, key_lengths, query_lengths] = operands.shared();
        let sinks = operands.sinks;
        let reads = [q, k, v, bias, mask, slopes, key_lengths, query_lengths, operands.key_order, sinks];
        let mut writes = [Some(&mut output), lse.as_mut()];
        check_devices(device, &FORWARD_READS, &reads, &["the output", "lse"], &writes)?;
        match &self.execution {
            Execution::Cpu => crate::cpu::attention::forward(
                device.instruction_set(),
                &self.problem,
                &operands,
                output,
                lse,
                workspace,
            ),
            Execution::Launch(plan) => launch(
                device,
                &plan.with_random_state(operands.dropout_seed, operands.dropout_offset),
                &reads,
                &mut writes,
            ),
        }
    }

    /// Runs into new tensors on the device of q.
    pub(crate) fn run(&self, inputs: &Qkv<'_>) -> Result<AttentionForward> {
        let device = inputs.q.device();
        let mut forward = AttentionForward::allocate(self, device)?;
        let stream = device.stream();
        let mut workspace = self.workspace(&stream)?;
        let outputs = AttentionOutputs::new(&mut forward.output).lse(&mut forward.lse);
        self.forward_into(&stream, inputs, outputs, &mut workspace)?;
        Ok(forward)
    }
}

const FORWARD_READS: [&str; 10] =
    ["q", "k", "v", "bias", "mask", "alibi_slopes", "key_lengths", "query_lengths", "key_lengths", "sinks"];

/// The tensors of a call, seen as `[batch, heads, len, head_dim]`.
pub(crate) struct Operands<'a> {
    pub q: TensorRef<'a>,
    pub k: TensorRef<'a>,
    pub v: TensorRef<'a>,
    pub bias: Option<TensorRef<'a>>,
    pub mask: Option<TensorRef<'a>>,
    pub alibi_slopes: Option<TensorRef<'a>>,
    pub key_lengths: Option<TensorRef<'a>>,
    pub query_lengths: Option<TensorRef<'a>>,
    pub key_order: Option<TensorRef<'a>>,
    pub query_order: Option<TensorRef<'a>>,
    /// Absent in partial results, which leave them out.
    pub sinks: Option<TensorRef<'a>>,
    pub dropout_seed: u64,
    pub dropout_offset: u32,
}

impl<'a> Operands<'a> {
    pub fn new(problem: &Problem, inputs: &Qkv<'a>) -> Result<Operands<'a>> {
        let order = |lengths: Option<&'a SeqLens>| lengths.and_then(SeqLens::order).filter(|_| problem.is_packed);
        Ok(Operands {
            q: heads(problem, inputs.q)?,
            k: heads(problem, inputs.k)?,
            v: heads(problem, inputs.v)?,
            bias: inputs.bias,
            mask: inputs.mask,
            alibi_slopes: inputs.alibi_slopes,
            key_lengths: inputs.key_lengths.map(SeqLens::view),
            query_lengths: inputs.query_lengths.map(SeqLens::view),
            key_order: order(inputs.key_lengths),
            query_order: order(inputs.query_lengths),
            sinks: inputs.sinks.filter(|_| problem.has_sinks),
            dropout_seed: inputs.dropout_seed,
            dropout_offset: inputs.dropout_offset,
        })
    }

    /// What forward and backward kernels read in common, in the order of their parameters.
    pub fn shared(&self) -> [Option<TensorRef<'a>>; 8] {
        let Operands { q, k, v, bias, mask, alibi_slopes, key_lengths, query_lengths, .. } = *self;
        [Some(q), Some(k), Some(v), bias, mask, alibi_slopes, key_lengths, query_lengths]
    }
}

/// A packed tensor as one of a single sequence.
pub(crate) fn heads<'a>(problem: &Problem, tensor: TensorRef<'a>) -> Result<TensorRef<'a>> {
    match problem.is_packed {
        true => tensor.with_layout(heads_layout(tensor.layout())?),
        false => Ok(tensor),
    }
}

/// As [`heads`], for a tensor that is written.
pub(crate) fn heads_mut<'a>(problem: &Problem, tensor: TensorMut<'a>) -> Result<TensorMut<'a>> {
    if !problem.is_packed || tensor.layout().rank() != 3 {
        return Ok(tensor);
    }
    let layout = heads_layout(tensor.layout())?;
    tensor.with_layout(layout)
}

/// A layout of the problem as the caller sees it.
pub(crate) fn given_layout(problem: &Problem, layout: &Layout) -> Layout {
    match problem.is_packed {
        true => packed_layout(layout).unwrap_or(*layout),
        false => *layout,
    }
}

/// The tensors of a call must be those that the plan was made for. Their contents, and lengths, may differ.
pub(crate) fn check_inputs(planned: &QkvSpec, problem: &Problem, inputs: &Qkv<'_>) -> Result<()> {
    let given = inputs.spec();
    check_planned_tensor("q", &given.q, &planned.q)?;
    check_planned_tensor("k", &given.k, &planned.k)?;
    check_planned_tensor("v", &given.v, &planned.v)?;
    let optional = [
        ("whether a bias is given", "the bias", &given.bias, &planned.bias),
        ("whether a mask is given", "the mask", &given.mask, &planned.mask),
        ("whether ALiBi slopes are given", "the ALiBi slopes", &given.alibi_slopes, &planned.alibi_slopes),
        ("whether sinks are given", "the sinks", &given.sinks, &planned.sinks),
    ];
    for (whether, what, given, planned) in optional {
        check_planned(whether, &given.is_some(), &planned.is_some())?;
        if let (Some(given), Some(planned)) = (given, planned) {
            check_planned_tensor(what, given, planned)?;
        }
    }
    check_planned("the range of keys", &given.key_range, &planned.key_range)?;
    let lengths = [
        ("whether key lengths are given", given.key_lengths, planned.key_lengths),
        ("whether query lengths are given", given.query_lengths, planned.query_lengths),
    ];
    for (whether, given, planned) in lengths {
        check_planned(whether, &given.is_some(), &planned.is_some())?;
        // A packed problem's lengths are its longest sequences': bias and mask have as many rows.
        if let (true, Some(given), Some(planned)) = (problem.is_packed, given, planned)
            && given.max > planned.max
        {
            return Err(Error::PlanMismatch {
                what: "the longest sequence",
                given: given.max.to_string(),
                planned: format!("at most {}", planned.max),
            });
        }
    }
    check_lengths(&given, problem.batch, [problem.q_rows(), problem.kv_rows()])
}

/// A tensor of one f32 a row.
pub(crate) fn check_per_row(what: &'static str, given: &TensorSpec, problem: &Problem) -> Result<()> {
    let expected = TensorSpec::contiguous(DType::F32, problem.lse_shape().as_slice())?;
    check_planned_tensor(what, given, &TensorSpec { alignment_bytes: 4, ..expected })
}

/// The specification of a tensor as the kernels see it.
pub(crate) fn heads_spec(problem: &Problem, spec: &TensorSpec) -> Result<TensorSpec> {
    as_heads(spec, problem.is_packed)
}

fn explain_features(problem: &Problem, launch: &LaunchPlan) -> &'static str {
    match launch.variant.tile {
        Tile::AttentionHopper { features: Features::Plain, .. } => {
            "tensor maps describe every tensor and no option touches single scores: the plain kernel"
        }
        Tile::AttentionHopper { features: Features::General, .. } => {
            "an option that touches single scores: the general kernel"
        }
        Tile::Attention { features: Features::Plain, .. } => {
            "every row starts on a 16-byte boundary and no option touches single scores: the plain kernel"
        }
        _ if problem.dtype == DType::F32 => "f32: multiplied and added in f32, without tensor cores",
        _ => {
            "an option that touches single scores, a head_dim between those of the plain kernels, or rows that do not \
             start on 16-byte boundaries: the general kernel"
        }
    }
}

/// The GPU of a plan that is to run a kernel by its name.
pub(super) fn named_kernels_target<'a>(target: &'a Target, name: &str) -> Result<&'a GpuTarget> {
    match target {
        Target::Gpu(gpu) => Ok(gpu),
        Target::Cpu => Err(Error::NoKernel {
            operation: "attention",
            wanted: format!("a problem under the name {name}"),
            target: target.to_string(),
            available: "GPUs".to_string(),
        }),
    }
}
