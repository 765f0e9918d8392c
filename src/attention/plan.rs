//! From a problem and a target to what will run.

use std::fmt::Write as _;

use crate::attention::problem::{Problem, check_lengths};
use crate::attention::{AttentionOutputs, Qkv, QkvSpec};
use crate::device::Stream;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::launch::{check_devices, launch, workspace};
use crate::params::{AttentionForwardParams, HeadStrides};
use crate::plan::{Execution, LaunchPlan, Params, check_planned, check_planned_tensor, choose, stride_bytes};
use crate::target::{GpuTarget, Target};
use crate::tensor::{Layout, SeqLens, TensorSpec};
use crate::variants::{Features, Operation, Tile, VARIANTS};
use crate::workspace::Workspace;

/// A reusable decision: how one attention problem runs on one kind of device. Making it is pure; running it
/// allocates nothing.
#[derive(Clone, Debug)]
pub struct AttentionPlan {
    spec: QkvSpec,
    problem: Problem,
    target: Target,
    execution: Execution,
}

impl AttentionPlan {
    pub(crate) fn new(problem: Problem, spec: &QkvSpec, target: &Target) -> Result<AttentionPlan> {
        let execution = match target {
            Target::Cpu => Execution::cpu("attention", problem.dtype)?,
            Target::Gpu(gpu) => Execution::Launch(plan_launch(&problem, gpu)?),
        };
        let spec = QkvSpec { output: Some(problem.output), ..*spec };
        Ok(AttentionPlan { spec, problem, target: *target, execution })
    }

    /// The kernel launch; `None` on the CPU device.
    pub fn launch(&self) -> Option<&LaunchPlan> {
        self.execution.launch()
    }

    /// The layout that the output has when the call allocates it.
    pub fn output_layout(&self) -> Layout {
        self.problem.output.layout
    }

    /// The specification that the plan was made for, with the output's.
    pub fn spec(&self) -> &QkvSpec {
        &self.spec
    }

    /// Floating-point operations of the visible (query, key) pairs: `2 * (head_dim + head_dim_v)` each.
    pub fn flops(&self) -> u64 {
        self.problem.flops()
    }

    /// The plan in words: the problem, the path, and why this kernel.
    pub fn explain(&self) -> String {
        let problem = &self.problem;
        let mut text = String::new();
        let _ = writeln!(
            text,
            "attention forward, {}: batch {}, heads {} over {}, queries {}, keys {}, head_dim {}, v's head_dim {}",
            problem.dtype,
            problem.batch,
            problem.heads_q,
            problem.heads_kv,
            problem.len_q,
            problem.len_kv,
            problem.head_dim,
            problem.head_dim_v
        );
        let mask = match problem.mask.causal {
            true => format!("causal, query i at position i + {}", problem.mask.offset),
            false => "none".to_string(),
        };
        let lengths = if problem.has_key_lengths { ", key lengths given" } else { "" };
        let _ = writeln!(text, "mask: {mask}{lengths}; scale {}; {} FLOP", problem.scale, problem.flops());
        match &self.execution {
            Execution::Cpu => {
                let _ = write!(text, "on the CPU: {}", crate::cpu::attention::describe(problem));
            }
            Execution::Launch(launch) => {
                let _ = writeln!(text, "on {}", self.target);
                let _ = writeln!(text, "{launch}");
                let reason = match launch.variant.tile {
                    Tile::Attention { features: Features::Plain, .. } => {
                        "every row starts on a 16-byte boundary: copied asynchronously, 16 bytes a thread"
                    }
                    _ => "a row does not start on a 16-byte boundary: rows are moved element by element",
                };
                let _ = write!(text, "{reason}");
            }
        }
        text
    }

    /// The scratch memory that one running call needs.
    ///
    /// # Errors
    /// [`Error::PlanMismatch`] when the stream's device is not of the plan's target.
    pub fn workspace(&self, stream: &Stream) -> Result<Workspace> {
        workspace(&self.execution, &self.target, stream, crate::cpu::attention::scratch_elements(&self.problem))
    }

    /// Computes the forward pass into given tensors: allocates nothing and waits for nothing, so that a CUDA graph
    /// can capture it.
    ///
    /// # Errors
    /// [`Error::PlanMismatch`] when a tensor, the lengths, the stream or the workspace is not what the plan was made
    /// for; [`Error::DeviceMismatch`]; [`Error::Cuda`].
    pub fn forward_into(
        &self,
        stream: &Stream,
        inputs: &Qkv<'_>,
        outputs: AttentionOutputs<'_>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let device = stream.device();
        self.execution.check_target(&self.target, &device.target())?;
        let Problem { batch, heads_q, len_q, len_kv, .. } = self.problem;
        check_planned_tensor("q", &inputs.q.spec(), &self.spec.q)?;
        check_planned_tensor("k", &inputs.k.spec(), &self.spec.k)?;
        check_planned_tensor("v", &inputs.v.spec(), &self.spec.v)?;
        check_planned_tensor("the output", &outputs.output.spec(), &self.problem.output)?;
        if let Some(lse) = &outputs.lse {
            let expected = TensorSpec::contiguous(DType::F32, [batch, heads_q, len_q])?;
            check_planned_tensor("lse", &lse.spec(), &TensorSpec { alignment_bytes: 4, ..expected })?;
        }
        // Other lengths may come with every call; whether there are any is the plan's.
        let lengths = inputs.key_lengths.map(|lengths| lengths.spec());
        check_planned("whether key lengths are given", &lengths.is_some(), &self.problem.has_key_lengths)?;
        check_lengths(lengths.as_ref(), batch, len_kv)?;

        let mut outputs = outputs;
        let reads = [Some(inputs.q), Some(inputs.k), Some(inputs.v), inputs.key_lengths.map(SeqLens::view)];
        let mut writes = [Some(&mut outputs.output), outputs.lse.as_mut()];
        check_devices(device, &["q", "k", "v", "key_lengths"], &reads, &["the output", "lse"], &writes)?;
        match &self.execution {
            Execution::Cpu => crate::cpu::attention::forward(&self.problem, inputs, &mut outputs, workspace),
            Execution::Launch(plan) => launch(device, plan, &reads, &mut writes),
        }
    }
}

fn plan_launch(problem: &Problem, target: &GpuTarget) -> Result<LaunchPlan> {
    let aligned = problem.rows_aligned();
    let available = || {
        let mut dims: Vec<u32> = VARIANTS
            .iter()
            .filter_map(|variant| match variant.tile {
                Tile::Attention { head_dim, .. } if variant.dtype == problem.dtype => Some(head_dim),
                _ => None,
            })
            .collect();
        dims.dedup();
        format!("head_dim {dims:?} (the same for v)")
    };
    let is_attention = |dtype| VARIANTS.iter().any(|v| v.operation == Operation::AttentionForward && v.dtype == dtype);
    if !is_attention(problem.dtype) {
        return Err(Error::UnsupportedDType {
            operation: "attention",
            dtype: problem.dtype,
            device: Target::Gpu(*target).to_string(),
            available: "f16, bf16".to_string(),
        });
    }
    let variant = choose(Operation::AttentionForward, target, |variant| match variant.tile {
        Tile::Attention { head_dim, features, .. } => {
            variant.dtype == problem.dtype
                && head_dim as usize == problem.head_dim
                && head_dim as usize == problem.head_dim_v
                && (aligned || features == Features::General)
        }
        Tile::Rows { .. } => false,
    })
    .ok_or_else(|| Error::NoKernel {
        operation: "attention",
        wanted: format!("head_dim {} with v's head_dim {}", problem.head_dim, problem.head_dim_v),
        target: Target::Gpu(*target).to_string(),
        available: available(),
    })?;
    let Tile::Attention { block_q, .. } = variant.tile else { unreachable!("attention variants have attention tiles") };
    let q_blocks = problem.len_q.div_ceil(block_q as usize);
    let blocks = q_blocks.saturating_mul(problem.heads_q).saturating_mul(problem.batch);
    let params = AttentionForwardParams {
        q_strides: head_strides(&problem.q)?,
        k_strides: head_strides(&problem.k)?,
        v_strides: head_strides(&problem.v)?,
        out_strides: head_strides(&problem.output)?,
        batch: problem.batch as u32,
        heads_q: problem.heads_q as u32,
        heads_per_kv: (problem.heads_q / problem.heads_kv) as u32,
        len_q: problem.len_q as i32,
        len_kv: problem.len_kv as i32,
        q_blocks: q_blocks as u32,
        scale_log2: (f64::from(problem.scale) * std::f64::consts::LOG2_E) as f32,
        causal: u32::from(problem.mask.causal),
        causal_offset: problem.mask.offset,
        aligned: u32::from(aligned),
        ..AttentionForwardParams::default()
    };
    LaunchPlan::linear(variant, blocks, Params::AttentionForward(params))
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
