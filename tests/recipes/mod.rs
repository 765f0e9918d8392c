//! Random problems as plain data: drawn and shrunk by proptest, written and read as JSON by `warpfold check`, and run as the attempts of
//! the differential tests, on a device in memory that is NaN around every tensor, held to the float64 oracle.

#![allow(dead_code, reason = "the tests and the command line each use their part")]

pub mod attention;
pub mod rows;
mod words;

use std::fmt;

use proptest::prelude::*;
use warpfold::reference::compare::Mismatch;
use warpfold::reference::{AttentionGradients, NormGradients};
use warpfold::{DType, Device, Error, LaunchPlan, Target};

use self::attention::AttentionRecipe;
use self::rows::{NormRecipe, SoftmaxRecipe};
use self::words::{PerTensor, Tensors, Word};
use crate::common::attention::Outcome;
use crate::common::rows::NormOperand;
use crate::common::{PLACEMENTS, Placement};

/// What is checked at random. Softmax and norms are their forward and their backward pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operation {
    Attention,
    AttentionBackward,
    /// Attention over parts of the keys, merged.
    Split,
    Softmax,
    Norm,
}

impl Operation {
    pub const ALL: [Operation; 5] =
        [Operation::Attention, Operation::AttentionBackward, Operation::Split, Operation::Softmax, Operation::Norm];

    pub fn name(self) -> &'static str {
        match self {
            Operation::Attention => "attention",
            Operation::AttentionBackward => "attention-backward",
            Operation::Split => "split",
            Operation::Softmax => "softmax",
            Operation::Norm => "norm",
        }
    }

    /// Cases for the CPU, which takes every head_dim, or for the kernels too.
    pub fn cases(self, on_cpu: bool) -> BoxedStrategy<Case> {
        match self {
            Operation::Attention => attention::recipe(on_cpu, 1..3).prop_map(Case::Attention).boxed(),
            Operation::AttentionBackward => attention::backward(on_cpu).prop_map(Case::AttentionBackward).boxed(),
            Operation::Split => attention::split(on_cpu).prop_map(Case::Split).boxed(),
            Operation::Softmax => rows::softmax().prop_map(Case::Softmax).boxed(),
            Operation::Norm => rows::norm().prop_map(Case::Norm).boxed(),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An operation and its problem.
#[derive(Clone, Debug, PartialEq)]
pub enum Case {
    Attention(AttentionRecipe),
    AttentionBackward(AttentionRecipe),
    Split(AttentionRecipe),
    Softmax(SoftmaxRecipe),
    Norm(NormRecipe),
}

/// One result of a device: numbers of that type.
#[derive(Clone, Debug)]
pub struct Output {
    pub name: &'static str,
    pub dtype: DType,
    pub values: Vec<f64>,
}

/// What a device made of a case that it got right.
#[derive(Clone, Debug)]
pub struct Checked {
    pub outputs: Vec<Output>,
    /// The largest error as a share of what is allowed.
    pub error_share: f64,
}

/// Why a case failed.
#[derive(Clone, Debug)]
pub enum Failure {
    /// The library's error, the emulator's reports among them.
    Error(Error),
    /// The oracle's verdict.
    Wrong(Mismatch),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Error(error) => error.fmt(f),
            Failure::Wrong(mismatch) => mismatch.fmt(f),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Error(error)
    }
}

impl From<Mismatch> for Failure {
    fn from(mismatch: Mismatch) -> Failure {
        Failure::Wrong(mismatch)
    }
}

/// How a case runs.
#[derive(Clone, Debug)]
pub struct Planned {
    /// In the words of the plan.
    pub text: String,
    /// By name; none on the CPU.
    pub kernels: Vec<String>,
}

impl Planned {
    fn new(text: String, launches: &[&LaunchPlan]) -> Planned {
        Planned { text, kernels: launches.iter().map(|launch| launch.variant.name()).collect() }
    }

    /// What is computed, without how.
    pub fn problem(&self) -> String {
        let is_how = |line: &&str| line.starts_with("on ");
        self.text.lines().take_while(|line| !is_how(line)).collect::<Vec<_>>().join("\n")
    }
}

impl Case {
    pub fn operation(&self) -> Operation {
        match self {
            Case::Attention(_) => Operation::Attention,
            Case::AttentionBackward(_) => Operation::AttentionBackward,
            Case::Split(_) => Operation::Split,
            Case::Softmax(_) => Operation::Softmax,
            Case::Norm(_) => Operation::Norm,
        }
    }

    /// One line, without what has its default value.
    pub fn to_json(&self) -> String {
        let json = match self {
            Case::Attention(recipe) | Case::AttentionBackward(recipe) | Case::Split(recipe) => {
                serde_json::to_string(recipe)
            }
            Case::Softmax(recipe) => serde_json::to_string(recipe),
            Case::Norm(recipe) => serde_json::to_string(recipe),
        };
        json.expect("a recipe has string keys and finite numbers")
    }

    /// Reads a problem of the operation, and says what of it makes no sense.
    pub fn from_json(operation: Operation, json: &str) -> Result<Case, String> {
        let attention = || -> Result<AttentionRecipe, String> {
            let recipe: AttentionRecipe = serde_json::from_str(json).map_err(|error| error.to_string())?;
            if recipe.d_lse && operation != Operation::AttentionBackward {
                return Err(format!("d_lse belongs to attention-backward, not to {operation}"));
            }
            if !recipe.cuts.is_empty() && operation != Operation::Split {
                return Err(format!("cuts belong to split, not to {operation}"));
            }
            recipe.validate().map(|()| recipe)
        };
        match operation {
            Operation::Attention => attention().map(Case::Attention),
            Operation::AttentionBackward => attention().map(Case::AttentionBackward),
            Operation::Split => attention().map(Case::Split),
            Operation::Softmax => {
                let recipe: SoftmaxRecipe = serde_json::from_str(json).map_err(|error| error.to_string())?;
                recipe.validate().map(|()| Case::Softmax(recipe))
            }
            Operation::Norm => {
                let recipe: NormRecipe = serde_json::from_str(json).map_err(|error| error.to_string())?;
                recipe.validate().map(|()| Case::Norm(recipe))
            }
        }
    }

    /// Runs the case on a device and holds the results to the oracle.
    pub fn check(&self, device: &Device) -> Result<Checked, Failure> {
        match self {
            Case::Attention(recipe) => {
                let attempt = recipe.attempt();
                let numbers = attempt.numbers();
                let outcome = attempt.run_on(device, &numbers)?;
                let error_share = attempt.judge_on(&outcome, &numbers)?;
                Ok(Checked { outputs: outputs_of(recipe.dtype, outcome), error_share })
            }
            Case::AttentionBackward(recipe) => {
                let attempt = recipe.attempt();
                let numbers = attempt.numbers();
                let gradients = attempt.run_backward_on(device, recipe.d_lse, &numbers)?;
                let error_share = attempt.judge_backward_on(recipe.d_lse, &gradients, &numbers)?;
                let AttentionGradients { d_q, d_k, d_v, d_bias, d_sinks } = gradients;
                let mut outputs = outputs(recipe.dtype, [("d_q", d_q), ("d_k", d_k), ("d_v", d_v)]);
                outputs.extend(d_bias.map(|values| Output { name: "d_bias", dtype: recipe.dtype, values }));
                outputs.extend(d_sinks.map(|values| Output { name: "d_sinks", dtype: DType::F32, values }));
                Ok(Checked { outputs, error_share })
            }
            Case::Split(recipe) => {
                let attempt = recipe.attempt();
                let mut checked = Checked { outputs: Vec::new(), error_share: 0.0 };
                for outcome in attempt.run_split(device, &recipe.cuts)? {
                    checked.error_share = checked.error_share.max(attempt.judge(&outcome)?);
                    checked.outputs.extend(outputs_of(recipe.dtype, outcome));
                }
                Ok(checked)
            }
            Case::Softmax(recipe) => {
                let attempt = recipe.attempt();
                let numbers = attempt.numbers();
                let y = attempt.run_on(device, &numbers)?;
                let forward = attempt.judge_on(&y, &numbers)?;
                let d_x = attempt.run_backward_on(device, &numbers)?;
                let backward = attempt.judge_backward_on(&d_x, &numbers)?;
                let outputs = outputs(recipe.dtype, [("y", y), ("d_x", d_x)]);
                Ok(Checked { outputs, error_share: forward.max(backward) })
            }
            Case::Norm(recipe) => {
                let attempt = recipe.attempt();
                let numbers = attempt.numbers();
                let outcome = attempt.run_on(device, &numbers)?;
                let forward = attempt.judge_on(&outcome, &numbers)?;
                let gradients = attempt.run_backward_on(device, &numbers)?;
                let backward = attempt.judge_backward_on(&gradients, &numbers)?;
                let of = |operand| attempt.dtype(operand);
                let NormGradients { d_x, d_residual, d_weight, d_bias } = gradients;
                let results = [
                    ("y", of(NormOperand::Y), Some(outcome.y)),
                    ("the sum", of(NormOperand::Sum), outcome.sum),
                    ("mean", DType::F32, outcome.mean),
                    ("rstd", DType::F32, outcome.rstd),
                    ("d_x", of(NormOperand::DX), Some(d_x)),
                    ("d_residual", of(NormOperand::DResidual), Some(d_residual)),
                    ("d_weight", of(NormOperand::Weight), d_weight),
                    ("d_bias", of(NormOperand::Bias), d_bias),
                ];
                let outputs = results
                    .into_iter()
                    .filter_map(|(name, dtype, values)| Some(Output { name, dtype, values: values? }));
                Ok(Checked { outputs: outputs.collect(), error_share: forward.max(backward) })
            }
        }
    }

    /// The plans that the case runs by. Parts of split keys run by plans of their own, which are much like that of the whole.
    pub fn plans(&self, device: &Device) -> Result<Vec<Planned>, Error> {
        Ok(match self {
            Case::Attention(recipe) | Case::Split(recipe) => {
                let (forward, _) = recipe.attempt().plans(device)?;
                vec![Planned::new(forward.explain(), forward.launch().as_slice())]
            }
            Case::AttentionBackward(recipe) => {
                let (forward, backward) = recipe.attempt().plans(device)?;
                vec![
                    Planned::new(backward.explain(), &backward.launches()),
                    Planned::new(forward.explain(), forward.launch().as_slice()),
                ]
            }
            Case::Softmax(recipe) => {
                let (forward, backward) = recipe.attempt().plans(&device.target())?;
                vec![
                    Planned::new(forward.explain(), &forward.launches()),
                    Planned::new(backward.explain(), &backward.launches()),
                ]
            }
            Case::Norm(recipe) => {
                let (forward, backward) = recipe.attempt().plans(&device.target())?;
                vec![
                    Planned::new(forward.explain(), &forward.launches()),
                    Planned::new(backward.explain(), &backward.launches()),
                ]
            }
        })
    }
}

fn outputs<const N: usize>(dtype: DType, results: [(&'static str, Vec<f64>); N]) -> Vec<Output> {
    results.into_iter().map(|(name, values)| Output { name, dtype, values }).collect()
}

fn outputs_of(dtype: DType, outcome: Outcome) -> Vec<Output> {
    vec![
        Output { name: "output", dtype, values: outcome.output },
        Output { name: "lse", dtype: DType::F32, values: outcome.lse },
    ]
}

/// Whether cases may be what only the CPU takes.
pub fn is_cpu(device: &Device) -> bool {
    device.target() == Target::Cpu
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// One of a few values; shrinks towards the first.
fn among<T: Clone + fmt::Debug + 'static>(values: &[T]) -> impl Strategy<Value = T> + use<T> {
    prop::sample::select(values.to_vec())
}

fn placement() -> impl Strategy<Value = Placement> {
    among(&PLACEMENTS)
}

/// An option that is there with some probability. Shrinking first tries to do without, where proptest's own options first try
/// every smaller value.
fn gated<S: Strategy>(probability: f64, value: S) -> impl Strategy<Value = Option<S::Value>> {
    (prop::bool::weighted(probability), value).prop_map(|(is_there, value)| is_there.then_some(value))
}

/// One value for all tensors, or with some probability one for each; shrinking first tries one for all.
fn per_tensor<O, T, S, const N: usize>(
    probability: f64,
    value: impl Fn() -> S,
) -> impl Strategy<Value = PerTensor<O, T>>
where
    O: Tensors + fmt::Debug,
    T: Word + fmt::Debug,
    S: Strategy<Value = T>,
{
    let each = prop::array::UniformArrayStrategy::<S, [T; N]>::new(value());
    (prop::bool::weighted(probability), value(), each)
        .prop_map(|(is_mixed, one, each)| if is_mixed { each.into() } else { PerTensor::all(one) })
}

/// A number of few digits: for short JSON, and few steps of shrinking.
fn rounded(value: f32, parts: f32) -> f32 {
    // Not 0, which is no scale and no dropout.
    if value > 0.0 { ((value * parts).round() / parts).max(1.0 / parts) } else { (value * parts).round() / parts }
}

/// A probability with few binary digits. What is kept of 16 bits then never lies half-way between two numbers, where the rounding of
/// `1 / (1 - p)` alone would decide; with 0.2, which is not quite a fifth, it does.
fn rounded_probability(probability: f32) -> f32 {
    rounded(probability, 64.0)
}

/// Bounds what the oracle takes: one scalar after the other.
fn count_elements(what: &str, shape: &[usize]) -> Result<(), String> {
    const LIMIT: usize = 1 << 28;
    let count = shape.iter().try_fold(1usize, |count, size| count.checked_mul(*size));
    match count.filter(|count| *count <= LIMIT) {
        Some(_) => Ok(()),
        None => Err(format!("{what} would have the shape {shape:?}; a case may have {LIMIT} elements at most")),
    }
}
