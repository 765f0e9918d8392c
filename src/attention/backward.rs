//! The backward pass: problem and plan.

use std::fmt::Write as _;

use crate::attention::launches::{BackwardLaunches, why_baseline_backward};
use crate::attention::plan::{
    Operands, check_inputs, check_per_row, given_layout, heads, heads_mut, heads_spec, named_kernels_target,
};
use crate::attention::problem::{Problem, check_dtype, output_layout};
use crate::attention::{Attention, BackwardInputs, GradientOutputs, Qkv, QkvSpec};
use crate::device::Stream;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::launch::{check_devices, launch, workspace};
use crate::plan::{Execution, LaunchPlan, check_last_stride, check_output, check_planned_tensor, check_target};
use crate::target::Target;
use crate::tensor::{Layout, TensorMut, TensorRef, TensorSpec};
use crate::workspace::Workspace;

/// What a plan of the backward pass reads of a call. Tensors that are not described are taken to be 16-byte aligned, without
/// gaps and in their input's order of dimensions.
#[derive(Clone, Debug, PartialEq)]
pub struct BackwardSpec {
    qkv: QkvSpec,
    d_output: Option<TensorSpec>,
    d_q: Option<TensorSpec>,
    d_k: Option<TensorSpec>,
    d_v: Option<TensorSpec>,
    d_bias: Option<TensorSpec>,
}

impl BackwardSpec {
    /// The inputs, and the forward pass's output ([`QkvSpec::output`]).
    pub fn new(qkv: QkvSpec) -> BackwardSpec {
        BackwardSpec { qkv, d_output: None, d_q: None, d_k: None, d_v: None, d_bias: None }
    }

    /// Plans for this gradient with respect to the output.
    pub fn d_output(mut self, d_output: TensorSpec) -> BackwardSpec {
        self.d_output = Some(d_output);
        self
    }

    /// Plans for these results.
    pub fn gradients(mut self, d_q: TensorSpec, d_k: TensorSpec, d_v: TensorSpec) -> BackwardSpec {
        (self.d_q, self.d_k, self.d_v) = (Some(d_q), Some(d_k), Some(d_v));
        self
    }

    /// Plans for this gradient of the bias.
    pub fn d_bias(mut self, d_bias: TensorSpec) -> BackwardSpec {
        self.d_bias = Some(d_bias);
        self
    }
}

/// A validated backward problem; tensors are seen as in [`Problem`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BackwardProblem {
    pub forward: Problem,
    pub d_output: TensorSpec,
    pub d_q: TensorSpec,
    pub d_k: TensorSpec,
    pub d_v: TensorSpec,
    pub d_bias: Option<TensorSpec>,
}

impl BackwardProblem {
    pub fn new(attention: &Attention, spec: &BackwardSpec) -> Result<BackwardProblem> {
        let forward = Problem::new(attention, &spec.qkv, false)?;
        let compact = |like: &TensorSpec, head_dim: usize| -> Result<TensorSpec> {
            Ok(TensorSpec { layout: output_layout(&like.layout, head_dim)?, alignment_bytes: 16, ..*like })
        };
        let named = |name, given: &Option<TensorSpec>, like: &TensorSpec, head_dim: usize| -> Result<TensorSpec> {
            let Some(given) = given else { return compact(like, head_dim) };
            let spec = check_like(name, &forward, given, like)?;
            Ok(spec)
        };
        let d_output = named("d_output", &spec.d_output, &forward.output, forward.head_dim_v)?;
        check_last_stride("d_output", &d_output)?;
        let gradients = [
            named("d_q", &spec.d_q, &forward.q, forward.head_dim)?,
            named("d_k", &spec.d_k, &forward.k, forward.head_dim)?,
            named("d_v", &spec.d_v, &forward.v, forward.head_dim_v)?,
        ];
        for (name, gradient) in ["d_q", "d_k", "d_v"].into_iter().zip(&gradients) {
            check_output(name, gradient)?;
        }
        let d_bias = match (&forward.bias, spec.d_bias) {
            (None, None) => None,
            (Some(bias), None) => {
                Some(TensorSpec { layout: Layout::contiguous(bias.layout.shape())?, alignment_bytes: 16, ..*bias })
            }
            (None, Some(d_bias)) => {
                let shape = d_bias.layout.shape_dims();
                return Err(Error::Rank { tensor: "d_bias", shape, expected: "a bias among the inputs" });
            }
            (Some(bias), Some(d_bias)) => {
                check_dtype("d_bias", &d_bias, bias.dtype)?;
                if d_bias.layout.shape() != bias.layout.shape() {
                    return Err(Error::Shape {
                        tensor: "d_bias",
                        shape: d_bias.layout.shape_dims(),
                        expected: bias.layout.shape_dims(),
                        reason: "it has the bias's shape",
                    });
                }
                check_output("d_bias", &d_bias)?;
                Some(d_bias)
            }
        };
        let [d_q, d_k, d_v] = gradients;
        Ok(BackwardProblem { forward, d_output, d_q, d_k, d_v, d_bias })
    }

    /// Whether every row of every tensor that is moved in tiles starts on a 16-byte boundary.
    pub fn is_aligned(&self) -> bool {
        let Problem { q, k, v, .. } = &self.forward;
        [q, k, v, &self.d_output, &self.d_q, &self.d_k, &self.d_v].iter().all(|spec| spec.rows_aligned())
    }
}

/// A gradient has its tensor's type and shape; returns it as the kernels see it.
fn check_like(tensor: &'static str, problem: &Problem, given: &TensorSpec, like: &TensorSpec) -> Result<TensorSpec> {
    check_dtype(tensor, given, like.dtype)?;
    let expected = given_layout(problem, &like.layout);
    if given.layout.shape() != expected.shape() {
        return Err(Error::Shape {
            tensor,
            shape: given.layout.shape_dims(),
            expected: expected.shape_dims(),
            reason: "a gradient has the shape of what it belongs to",
        });
    }
    heads_spec(problem, given)
}

/// The tensors that a plan of the backward pass writes, as the caller sees them.
pub(crate) struct GradientSpecs {
    pub d_q: TensorSpec,
    pub d_k: TensorSpec,
    pub d_v: TensorSpec,
    pub d_bias: Option<TensorSpec>,
    pub d_sinks: Option<TensorSpec>,
}

/// A reusable decision: how one backward pass runs on one kind of device. Making it is pure; running it allocates nothing.
///
/// # Numerics
/// The scores are computed again from q and k, twice: once for d_k and d_v, once for d_q (7 matrix products, where a version
/// that adds to d_q in whatever order blocks finish has 5). So there is no order between blocks and the results have the
/// same bits every time; the memory beside the tensors is one f32 a row.
///
/// # Source
/// Dao et al.: FlashAttention (2022), section B.4.
#[derive(Clone, Debug)]
pub struct AttentionBackwardPlan {
    spec: BackwardSpec,
    problem: BackwardProblem,
    target: Target,
    execution: Execution<BackwardLaunches>,
}

impl AttentionBackwardPlan {
    pub(crate) fn new(problem: BackwardProblem, spec: &BackwardSpec, target: &Target) -> Result<AttentionBackwardPlan> {
        let execution = match target {
            Target::Cpu => Execution::cpu("attention", problem.forward.dtype)?,
            Target::Gpu(gpu) => Execution::Launch(BackwardLaunches::new(&problem, gpu)?),
        };
        Ok(AttentionBackwardPlan { spec: spec.clone(), problem, target: *target, execution })
    }

    /// The same problem with the kernel of this name for its part of it, as [`crate::AttentionPlan::with_kernel`].
    ///
    /// # Errors
    /// [`Error::NoKernel`] where there is no such kernel or it does not take the problem, with the names of those that do; on the
    /// CPU, which has none.
    pub fn with_kernel(mut self, name: &str) -> Result<AttentionBackwardPlan> {
        let gpu = named_kernels_target(&self.target, name)?;
        if let Execution::Launch(launches) = self.execution {
            self.execution = Execution::Launch(launches.with_kernel(&self.problem, gpu, name)?);
        }
        Ok(self)
    }

    /// The kernel launches in their order; none on the CPU device.
    pub fn launches(&self) -> Vec<&LaunchPlan> {
        self.execution.launch().map(|launches| launches.iter().collect()).unwrap_or_default()
    }

    /// Floating-point operations of the five matrix products of the visible (query, key) pairs:
    /// `2 * (3 * head_dim + 2 * head_dim_v)` each.
    pub fn flops(&self) -> u64 {
        self.problem.forward.backward_flops()
    }

    /// The plan in words.
    pub fn explain(&self) -> String {
        let mut text = format!("attention backward, {}; {} FLOP\n", self.problem.forward.describe(), self.flops());
        match &self.execution {
            Execution::Cpu => {
                let _ = write!(text, "on the CPU: {}", crate::cpu::attention::describe_backward(&self.problem));
            }
            Execution::Launch(launches) => {
                let _ = write!(text, "on {}", self.target);
                for launch in launches.iter() {
                    let _ = write!(text, "\n{launch}");
                    if let Some(why) = why_baseline_backward(&self.problem, &self.target, launch) {
                        let _ = write!(text, "\n{why}");
                    }
                }
            }
        }
        text
    }

    pub(crate) fn gradient_specs(&self) -> GradientSpecs {
        let BackwardProblem { forward, d_q, d_k, d_v, d_bias, .. } = &self.problem;
        let given = |spec: &TensorSpec| TensorSpec { layout: given_layout(forward, &spec.layout), ..*spec };
        GradientSpecs {
            d_q: given(d_q),
            d_k: given(d_k),
            d_v: given(d_v),
            d_bias: *d_bias,
            d_sinks: self.spec.qkv.sinks.filter(|_| forward.has_sinks),
        }
    }

    /// The scratch memory that one running call needs.
    ///
    /// # Errors
    /// [`Error::PlanMismatch`] when the stream's device is not of the plan's target; [`Error::Cuda`] when the GPU has no
    /// memory left.
    pub fn workspace(&self, stream: &Stream) -> Result<Workspace> {
        let device = stream.device();
        check_target(
            self.execution.launch().into_iter().flat_map(BackwardLaunches::iter),
            &self.target,
            &device.target(),
        )?;
        let scratch = crate::cpu::attention::backward_scratch_elements(&self.problem, rayon::current_num_threads());
        let delta = crate::Tensor::with_layout(
            device,
            DType::F32,
            Layout::contiguous(self.problem.forward.lse_shape().as_slice())?,
        )?;
        Ok(workspace(&self.launches(), stream, scratch)?.with_tensor(delta))
    }

    /// Computes the backward pass into given tensors: allocates nothing and waits for nothing, so that a CUDA graph
    /// can capture it.
    ///
    /// # Errors
    /// As [`crate::AttentionPlan::forward_into`].
    pub fn backward_into(
        &self,
        stream: &Stream,
        inputs: &Qkv<'_>,
        backward: &BackwardInputs<'_>,
        outputs: GradientOutputs<'_>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let device = stream.device();
        check_target(
            self.execution.launch().into_iter().flat_map(BackwardLaunches::iter),
            &self.target,
            &device.target(),
        )?;
        let BackwardProblem { forward: problem, .. } = &self.problem;
        check_inputs(&self.spec.qkv, problem, inputs)?;
        let operands = Operands::new(problem, inputs)?;
        let saved = Saved::new(&self.problem, backward)?;
        let mut gradients = Gradients::new(&self.problem, outputs)?;

        let delta_spec = TensorSpec::contiguous(DType::F32, problem.lse_shape().as_slice())?;
        let Workspace { slots, tensors } = workspace;
        let delta = tensors.first_mut().filter(|delta| delta.layout() == &delta_spec.layout);
        let delta = delta.ok_or_else(|| Error::PlanMismatch {
            what: "the workspace",
            given: "one without the memory for a number a row".to_string(),
            planned: "one made by this plan".to_string(),
        })?;
        gradients.check_devices(device, &operands, &saved)?;
        match &self.execution {
            Execution::Cpu => crate::cpu::attention::backward(
                device.instruction_set(),
                &self.problem,
                &operands,
                &saved,
                gradients,
                delta.view_mut(),
                slots,
            ),
            Execution::Launch(launches) => launches.run(device, &operands, &saved, &mut gradients, delta),
        }
    }
}

/// What the forward pass left, and the gradients with respect to it; seen as in [`Operands`].
pub(crate) struct Saved<'a> {
    pub output: TensorRef<'a>,
    pub lse: TensorRef<'a>,
    pub d_output: TensorRef<'a>,
    pub d_lse: Option<TensorRef<'a>>,
}

impl<'a> Saved<'a> {
    fn new(problem: &BackwardProblem, backward: &BackwardInputs<'a>) -> Result<Saved<'a>> {
        let forward = &problem.forward;
        // The rank is checked by comparing with the plan's, so a tensor of another rank must not be reinterpreted first.
        let viewed = |what, tensor: TensorRef<'a>, planned: &TensorSpec| -> Result<TensorRef<'a>> {
            let given = TensorSpec { layout: given_layout(forward, &planned.layout), ..*planned };
            check_planned_tensor(what, &tensor.spec(), &given)?;
            heads(forward, tensor)
        };
        check_per_row("lse", &backward.lse.spec(), forward)?;
        if let Some(d_lse) = &backward.d_lse {
            check_per_row("d_lse", &d_lse.spec(), forward)?;
        }
        Ok(Saved {
            output: viewed("the output", backward.output, &forward.output)?,
            lse: backward.lse,
            d_output: viewed("d_output", backward.d_output, &problem.d_output)?,
            d_lse: backward.d_lse,
        })
    }
}

/// Where to write; seen as in [`Operands`].
pub(crate) struct Gradients<'a> {
    pub d_q: Option<TensorMut<'a>>,
    pub d_k: Option<TensorMut<'a>>,
    pub d_v: Option<TensorMut<'a>>,
    pub d_bias: Option<TensorMut<'a>>,
    pub d_sinks: Option<TensorMut<'a>>,
}

impl<'a> Gradients<'a> {
    fn new(problem: &BackwardProblem, outputs: GradientOutputs<'a>) -> Result<Gradients<'a>> {
        let forward = &problem.forward;
        let viewed = |what, tensor: Option<TensorMut<'a>>, planned: &TensorSpec| -> Result<Option<TensorMut<'a>>> {
            let Some(tensor) = tensor else { return Ok(None) };
            let given = TensorSpec { layout: given_layout(forward, &planned.layout), ..*planned };
            check_planned_tensor(what, &tensor.spec(), &given)?;
            heads_mut(forward, tensor).map(Some)
        };
        if let Some(d_bias) = &outputs.d_bias {
            let none = || Error::PlanMismatch {
                what: "d_bias",
                given: "a tensor".to_string(),
                planned: "a call without a bias".to_string(),
            };
            check_planned_tensor("d_bias", &d_bias.spec(), problem.d_bias.as_ref().ok_or_else(none)?)?;
        }
        if let Some(d_sinks) = &outputs.d_sinks {
            crate::plan::check_planned("whether sinks are given", &true, &forward.has_sinks)?;
            let expected = TensorSpec::contiguous(DType::F32, [forward.heads_q])?;
            check_planned_tensor("d_sinks", &d_sinks.spec(), &TensorSpec { alignment_bytes: 4, ..expected })?;
        }
        Ok(Gradients {
            d_q: viewed("d_q", outputs.d_q, &problem.d_q)?,
            d_k: viewed("d_k", outputs.d_k, &problem.d_k)?,
            d_v: viewed("d_v", outputs.d_v, &problem.d_v)?,
            d_bias: outputs.d_bias,
            d_sinks: outputs.d_sinks,
        })
    }

    fn check_devices(&mut self, device: &crate::Device, operands: &Operands<'_>, saved: &Saved<'_>) -> Result<()> {
        let [q, k, v, bias, mask, slopes, key_lengths, query_lengths] = operands.shared();
        let Saved { output, lse, d_output, d_lse } = *saved;
        let reads = [
            q,
            k,
            v,
            bias,
            mask,
            slopes,
            key_lengths,
            query_lengths,
            operands.sinks,
            Some(output),
            Some(lse),
            Some(d_output),
            d_lse,
        ];
        let names = [
            "q",
            "k",
            "v",
            "bias",
            "mask",
            "alibi_slopes",
            "key_lengths",
            "query_lengths",
            "sinks",
            "the output",
            "lse",
            "d_output",
            "d_lse",
        ];
        let writes =
            [self.d_q.as_mut(), self.d_k.as_mut(), self.d_v.as_mut(), self.d_bias.as_mut(), self.d_sinks.as_mut()];
        check_devices(device, &names, &reads, &["d_q", "d_k", "d_v", "d_bias", "d_sinks"], &writes)
    }
}

impl BackwardLaunches {
    /// Queues all kernels whose results are wanted.
    fn run(
        &self,
        device: &crate::Device,
        operands: &Operands<'_>,
        saved: &Saved<'_>,
        gradients: &mut Gradients<'_>,
        delta: &mut crate::Tensor,
    ) -> Result<()> {
        let Saved { output, lse, d_output, d_lse } = *saved;
        {
            let mut delta = delta.view_mut();
            launch(device, &self.delta, &[Some(output), Some(d_output), d_lse], &mut [Some(&mut delta)])?;
        }
        let delta = delta.view();
        let [q, k, v, bias, mask, slopes, key_lengths, query_lengths] = operands.shared();
        let (seed, offset) = (operands.dropout_seed, operands.dropout_offset);
        let reads = |order| {
            let saved = [Some(d_output), Some(lse), Some(delta)];
            let [d_output, lse, delta] = saved;
            [q, k, v, bias, mask, slopes, key_lengths, query_lengths, order, d_output, lse, delta]
        };
        let Gradients { d_q, d_k, d_v, d_bias, d_sinks } = gradients;
        if d_k.is_some() || d_v.is_some() {
            let mut writes = [None, d_k.as_mut(), d_v.as_mut(), None];
            launch(device, &self.key_value.with_random_state(seed, offset), &reads(operands.query_order), &mut writes)?;
        }
        if d_q.is_some() {
            let mut writes = [d_q.as_mut(), None, None, None];
            launch(device, &self.query.with_random_state(seed, offset), &reads(operands.key_order), &mut writes)?;
        }
        if let (Some(plan), Some(d_bias)) = (&self.bias, d_bias) {
            let mut writes = [None, None, None, Some(d_bias)];
            launch(device, &plan.with_random_state(seed, offset), &reads(None), &mut writes)?;
        }
        if let (Some(plan), Some(d_sinks)) = (&self.sinks, d_sinks) {
            launch(device, plan, &[operands.sinks, Some(lse), Some(delta)], &mut [Some(d_sinks)])?;
        }
        Ok(())
    }
}
