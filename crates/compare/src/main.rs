//! The CPU device as a process that another one asks to compute and to time, so that both sides of a comparison read the
//! same inputs and the same clock. `python/bench/cpu.py` is the other one.
//!
//! Requests are lines of JSON on standard input, each answered by a line of JSON on standard output: first a [`Request`] with
//! the files of the inputs; then `"run"`, answered by the times of some calls in nanoseconds, as often as wanted; then `"save"`, which
//! writes the results to their files and waits for the next request.

use std::fs;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use half::bf16;
use serde::Deserialize;
use warpfold::{
    Attention, AttentionOutputs, BackwardInputs, BackwardSpec, DType, Device, Mask, Norm, NormInputs, NormOutputs, Qkv,
    Softmax, SoftmaxSpec, Tensor,
};

/// Calls are repeated for so long before they are answered; one is enough if it takes longer.
const TURN: Duration = Duration::from_millis(20);

/// What to compute.
#[derive(Deserialize)]
struct Request {
    /// `attention forward`, `attention backward`, `softmax`, `layer_norm` or `rms_norm`.
    operation: String,
    /// `f32` or `bf16`.
    dtype: String,
    causal: bool,
    /// Whether each call makes its output.
    allocates: bool,
    /// Of each input.
    shapes: Vec<Vec<usize>>,
    inputs: Vec<PathBuf>,
    outputs: Vec<PathBuf>,
}

/// Computes once and returns the nanoseconds of the call.
type Call<'a> = dyn FnMut() -> Result<u64> + 'a;

fn main() -> ExitCode {
    let mut lines = std::io::stdin().lock().lines();
    while let Some(line) = lines.next() {
        let answered = line.context("standard input").and_then(|line| {
            let request: Request = serde_json::from_str(&line).with_context(|| format!("not a request: {line}"))?;
            serve(&request, &mut lines)
        });
        if let Err(error) = answered {
            eprintln!("error: {error:#}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn answer(what: impl std::fmt::Display) -> Result<()> {
    println!("{what}");
    Ok(std::io::stdout().flush()?)
}

/// Answers the lines that follow a request, up to `"save"`.
fn serve(request: &Request, lines: &mut impl Iterator<Item = std::io::Result<String>>) -> Result<()> {
    let inputs = request.inputs.iter().zip(&request.shapes).map(|(path, shape)| load(&request.dtype, path, shape));
    let inputs = inputs.collect::<Result<Vec<Tensor>>>()?;
    let mut results = Vec::new();
    let mut loop_of = |call: &mut Call<'_>| -> Result<()> {
        answer("\"ready\"")?;
        for line in lines.by_ref() {
            match line?.as_str() {
                "\"run\"" => {
                    let start = Instant::now();
                    let mut times = Vec::new();
                    while times.is_empty() || start.elapsed() < TURN {
                        times.push(call()?);
                    }
                    answer(serde_json::to_string(&times)?)?;
                }
                "\"save\"" => return Ok(()),
                other => bail!("neither run nor save: {other}"),
            }
        }
        bail!("standard input ended before save")
    };
    match request.operation.as_str() {
        "attention forward" => results.push(attention(request, &inputs, &mut loop_of)?),
        "attention backward" => results.extend(attention_backward(request, &inputs, &mut loop_of)?),
        _ => results.push(rows(request, &inputs, &mut loop_of)?),
    }
    for (path, result) in request.outputs.iter().zip(&results) {
        save(path, result)?;
    }
    answer("\"saved\"")
}

fn load(dtype: &str, path: &PathBuf, shape: &[usize]) -> Result<Tensor> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let device = Device::cpu();
    Ok(match dtype {
        "f32" => Tensor::from_slice(&device, &bytemuck::pod_collect_to_vec::<u8, f32>(&bytes), shape)?,
        "bf16" => Tensor::from_slice(&device, &bytemuck::pod_collect_to_vec::<u8, bf16>(&bytes), shape)?,
        _ => bail!("dtype is f32 or bf16, not {dtype}"),
    })
}

fn save(path: &PathBuf, tensor: &Tensor) -> Result<()> {
    let bytes = match tensor.dtype() {
        DType::BF16 => bytemuck::cast_slice(&tensor.to_vec::<bf16>()?).to_vec(),
        _ => bytemuck::cast_slice(&tensor.to_vec::<f32>()?).to_vec(),
    };
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

fn nanoseconds(call: impl FnOnce() -> warpfold::Result<()>) -> Result<u64> {
    let start = Instant::now();
    call()?;
    Ok(u64::try_from(start.elapsed().as_nanos())?)
}

fn operation(request: &Request) -> Attention {
    Attention::new().mask(if request.causal { Mask::causal() } else { Mask::none() })
}

fn attention(
    request: &Request,
    inputs: &[Tensor],
    serve: &mut dyn FnMut(&mut Call<'_>) -> Result<()>,
) -> Result<Tensor> {
    let [q, k, v] = inputs else { bail!("attention takes q, k and v") };
    let inputs = Qkv::new(q, k, v);
    let stream = Device::cpu().stream();
    let plan = operation(request).plan(&inputs.spec(), &Device::cpu().target())?;
    let mut workspace = plan.workspace(&stream)?;
    let mut output = Tensor::zeros(&Device::cpu(), q.dtype(), q.shape())?;
    serve(&mut || {
        nanoseconds(|| plan.forward_into(&stream, &inputs, AttentionOutputs::new(&mut output), &mut workspace))
    })?;
    Ok(output)
}

fn attention_backward(
    request: &Request,
    inputs: &[Tensor],
    serve: &mut dyn FnMut(&mut Call<'_>) -> Result<()>,
) -> Result<[Tensor; 3]> {
    let [q, k, v, d_output] = inputs else { bail!("attention's backward pass takes q, k, v and d_output") };
    let inputs = Qkv::new(q, k, v);
    let stream = Device::cpu().stream();
    let forward = operation(request).forward(&inputs)?;
    let backward = BackwardInputs::new(&forward.output, &forward.lse, d_output);
    let plan = operation(request).plan_backward(&BackwardSpec::new(inputs.spec()), &Device::cpu().target())?;
    let mut workspace = plan.workspace(&stream)?;
    let mut gradients = operation(request).backward(&inputs, &backward)?;
    serve(&mut || {
        nanoseconds(|| plan.backward_into(&stream, &inputs, &backward, gradients.outputs(), &mut workspace))
    })?;
    Ok([gradients.d_q, gradients.d_k, gradients.d_v])
}

fn rows(request: &Request, inputs: &[Tensor], serve: &mut dyn FnMut(&mut Call<'_>) -> Result<()>) -> Result<Tensor> {
    let (device, target) = (Device::cpu(), Device::cpu().target());
    let stream = device.stream();
    let x = inputs.first().context("there is an x")?;
    let mut output = Tensor::zeros(&device, x.dtype(), x.shape())?;
    if request.operation == "softmax" {
        if request.allocates {
            let mut output = Some(output);
            serve(&mut || {
                nanoseconds(|| {
                    drop(output.take());
                    Softmax::new().forward(x).map(|y| output = Some(y))
                })
            })?;
            let output = output.context("there was a call")?;
            return Ok(output);
        }
        let plan = Softmax::new().plan(&SoftmaxSpec::new(x.view().spec()), &target)?;
        let mut workspace = plan.workspace(&stream)?;
        serve(&mut || nanoseconds(|| plan.forward_into(&stream, x, &mut output, &mut workspace)))?;
        return Ok(output);
    }
    let norm = match request.operation.as_str() {
        "layer_norm" => Norm::layer(),
        "rms_norm" => Norm::rms(),
        other => bail!("no operation is called {other}"),
    };
    let mut inputs_of_norm = NormInputs::new(x);
    if let Some(weight) = inputs.get(1) {
        inputs_of_norm = inputs_of_norm.weight(weight);
    }
    if let Some(bias) = inputs.get(2) {
        inputs_of_norm = inputs_of_norm.bias(bias);
    }
    if request.allocates {
        let mut output = Some(output);
        serve(&mut || {
            nanoseconds(|| {
                drop(output.take());
                norm.forward(&inputs_of_norm).map(|forward| output = Some(forward.output))
            })
        })?;
        return output.context("there was a call");
    }
    let plan = norm.plan(&inputs_of_norm.spec(), &target)?;
    let mut workspace = plan.workspace(&stream)?;
    serve(&mut || {
        nanoseconds(|| plan.forward_into(&stream, &inputs_of_norm, NormOutputs::new(&mut output), &mut workspace))
    })?;
    Ok(output)
}
