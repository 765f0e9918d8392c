//! Random problems: every device against the oracle, and the identities of attention and softmax.

use std::ops::Range;

use crate::common::attention::{Attempt, Numbers, Outcome};
use crate::common::rows::SoftmaxAttempt;
use crate::common::{attention_devices, small, values};
use crate::recipes::{self, Case, Operation, is_cpu};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use warpfold::reference::compare::{self, Mismatch};
use warpfold::reference::{self, AttentionCase, AttentionGradients, Broadcast, SoftmaxCase, naive};
use warpfold::{DType, Device, Error};

/// Runs a property on every device: the first number of cases on the CPU, the second where each is slow.
fn check_property<S: Strategy>(
    [on_cpu, elsewhere]: [u32; 2],
    strategy: impl Fn(&Device) -> S,
    property: impl Fn(&Device, S::Value) -> Result<(), TestCaseError>,
) {
    for device in attention_devices() {
        let cases = match (small(), device == Device::cpu()) {
            (true, _) => 4,
            (false, true) => on_cpu,
            (false, false) => elsewhere,
        };
        let config = Config { cases, failure_persistence: None, ..Config::default() };
        // A fixed seed: a run can be repeated, and a failure prints its shrunk case.
        let mut runner = TestRunner::new_with_rng(
            config,
            proptest::test_runner::TestRng::from_seed(proptest::test_runner::RngAlgorithm::ChaCha, &[42; 32]),
        );
        runner
            .run(&strategy(&device), |value| property(&device, value))
            .unwrap_or_else(|error| panic!("{device}: {error}"));
    }
}

fn failed(error: Error) -> TestCaseError {
    TestCaseError::fail(error.to_string())
}

fn wrong(mismatch: Mismatch) -> TestCaseError {
    TestCaseError::fail(mismatch.to_string())
}

fn attempt(device: &Device) -> impl Strategy<Value = Attempt> + use<> {
    attempt_of(device, 1..3)
}

fn attempt_of(device: &Device, batch: Range<usize>) -> impl Strategy<Value = Attempt> + use<> {
    recipes::attention::recipe(is_cpu(device), batch).prop_map(|recipe| recipe.attempt())
}

fn softmax(_: &Device) -> impl Strategy<Value = SoftmaxAttempt> + use<> {
    recipes::rows::softmax().prop_map(|recipe| recipe.attempt())
}

/// The very cases of `warpfold check`.
fn check_operation(cases: [u32; 2], operation: Operation) {
    check_property(
        cases,
        |device| operation.cases(is_cpu(device)),
        |device, case| {
            case.check(device).map(drop).map_err(|failure| {
                TestCaseError::fail(format!("{failure}\n--op {operation} --case '{}'", case.to_json()))
            })
        },
    );
}

#[test]
fn attention_agrees_with_the_oracle() {
    check_operation([256, 16], Operation::Attention);
}

#[test]
fn gradients_agree_with_the_oracle() {
    check_operation([192, 12], Operation::AttentionBackward);
}

#[test]
fn split_keys_merge_into_the_whole() {
    check_operation([128, 8], Operation::Split);
}

/// What was found at random once.
#[test]
fn what_failed_once_does_not_fail_again() {
    let found = [(
        "pairs of bf16 that are aligned as one is, read one by one: cpu:portable",
        Operation::Attention,
        r#"{"dtype":"bf16","batch":1,"heads_q":2,"heads_kv":2,"len_q":1,"len_kv":9,"head_dim":32,"query_lengths":[1],"key_lengths":[9],"placements":{"k":"misaligned"},"seed":0}"#,
    )];
    for device in attention_devices() {
        for (what, operation, json) in found {
            let case = Case::from_json(operation, json).unwrap_or_else(|error| panic!("{what}: {error}"));
            case.check(&device).unwrap_or_else(|failure| panic!("{what}, on {device}: {failure}"));
        }
    }
}

/// The gradients of the inputs, without those that are summed over the batch.
fn of_inputs(gradients: AttentionGradients) -> [Vec<f64>; 3] {
    [gradients.d_q, gradients.d_k, gradients.d_v]
}

/// The two halves of values exchanged.
fn exchanged(values: &[f64]) -> Vec<f64> {
    let (first, second) = values.split_at(values.len() / 2);
    [second, first].concat()
}

#[test]
fn permuting_the_batch_permutes_the_bits() {
    let strategy = |device: &Device| {
        attempt_of(device, 2..3).prop_map(|mut attempt| {
            // What is dropped goes by a sequence's number.
            attempt.case.dropout = None;
            attempt
        })
    };
    check_property([192, 12], strategy, |device, attempt| {
        let numbers = attempt.numbers();
        let permuted = numbers.select(&[1, 0]);
        let (first, second) =
            (attempt.run_on(device, &numbers).map_err(failed)?, attempt.run_on(device, &permuted).map_err(failed)?);
        let expected = Outcome { output: exchanged(&first.output), lse: exchanged(&first.lse) };
        prop_assert!(second == expected, "the forward pass");
        let first = of_inputs(attempt.run_backward_on(device, true, &numbers).map_err(failed)?);
        let second = of_inputs(attempt.run_backward_on(device, true, &permuted).map_err(failed)?);
        prop_assert!(second == first.map(|gradient| exchanged(&gradient)), "the backward pass");
        Ok(())
    });
}

/// Forward and backward pass.
fn both_ways(attempt: &Attempt, device: &Device) -> Result<(Outcome, AttentionGradients), TestCaseError> {
    Ok((attempt.run(device).map_err(failed)?, attempt.run_backward(device, true).map_err(failed)?))
}

/// A causal mask, a window without keys after the query, and a tensor that says the same give one result: the first two from
/// one kernel, and so the last two, where the causal mask stands beside a tensor that hides nothing.
#[test]
fn causal_equals_the_window_and_the_explicit_mask() {
    let strategy = |device: &Device| {
        attempt(device).prop_map(|mut attempt| {
            (attempt.case.causal, attempt.case.window, attempt.case.prefix) = (true, (None, None), 0);
            attempt.case.mask = None;
            attempt
        })
    };
    check_property([128, 8], strategy, |device, attempt| {
        let with = |case| Attempt { case, ..attempt.clone() };
        let case = attempt.case.clone();
        let window = with(AttentionCase { causal: false, window: (None, Some(0)), ..case.clone() });
        let causal = both_ways(&attempt, device)?;
        prop_assert!(causal == both_ways(&window, device)?, "a window");

        let shape = [case.batch, 1, case.len_q, case.len_kv];
        let mut visible = Vec::with_capacity(shape.iter().product());
        for sequence in 0..case.batch {
            let row = |i| (0..case.len_kv).map(move |j| (i, j));
            let cells = (0..case.len_q).flat_map(row);
            visible.extend(cells.map(|(i, j)| case.position(sequence, i) >= j as i64));
        }
        let explicit =
            with(AttentionCase { causal: false, mask: Some(Broadcast { shape, values: visible }), ..case.clone() });
        let beside = with(AttentionCase { mask: Some(Broadcast { shape: [1; 4], values: vec![true] }), ..case });
        let (explicit, beside) = (both_ways(&explicit, device)?, both_ways(&beside, device)?);
        prop_assert!(explicit == beside, "a tensor");
        attempt.judge(&explicit.0).map_err(wrong)?;
        attempt.judge_backward(true, &explicit.1).map_err(wrong)?;
        Ok(())
    });
}

/// Packed sequences have the results of each by itself.
#[test]
fn packed_sequences_equal_padded_ones() {
    let strategy = |device: &Device| {
        attempt(device).prop_map(|mut attempt| {
            let case = &mut attempt.case;
            if case.query_lengths.is_none() {
                case.query_lengths = Some(vec![case.len_q; case.batch]);
                case.key_lengths.get_or_insert(vec![case.len_kv; case.batch]);
            }
            let longest = (0..case.batch).map(|sequence| case.key_len(sequence)).max().unwrap_or(0);
            case.key_range = case.key_range.take().map(|range| range.start.min(longest)..range.end.min(longest));
            // What is dropped goes by a sequence's number.
            case.dropout = None;
            attempt
        })
    };
    check_property([128, 8], strategy, |device, attempt| {
        let numbers = attempt.numbers();
        let packed = attempt.run(device).map_err(failed)?;
        for sequence in (0..attempt.case.batch).filter(|sequence| attempt.case.query_len(*sequence) > 0) {
            let alone = numbers.alone(sequence);
            let own = Attempt { case: alone.case.clone(), ..attempt.clone() };
            let unpacked = own.run_on(device, &alone).map_err(failed)?;
            own.judge_on(&unpacked, &alone).map_err(wrong)?;
            own.judge_on(&rows_of(&packed, &attempt.case, sequence), &alone).map_err(wrong)?;
        }
        Ok(())
    });
}

/// The results of one packed sequence.
fn rows_of(outcome: &Outcome, case: &AttentionCase, sequence: usize) -> Outcome {
    let mut own = Outcome { output: Vec::new(), lse: Vec::new() };
    for head in 0..case.heads_q {
        let first = (sequence * case.heads_q + head) * case.len_q;
        let rows = first..first + case.query_len(sequence);
        own.output.extend_from_slice(&outcome.output[rows.start * case.head_dim_v..rows.end * case.head_dim_v]);
        own.lse.extend_from_slice(&outcome.lse[rows]);
    }
    own
}

/// What is added to all scores changes lse alone, by as much.
#[test]
fn a_constant_bias_moves_lse_only() {
    let strategy = |device: &Device| {
        attempt(device).prop_map(|mut attempt| {
            // A sink does not move with the scores.
            attempt.case.sinks = None;
            attempt
        })
    };
    check_property([96, 6], strategy, |device, attempt| {
        let constant = |value: f64| {
            let shape = [1, 1, 1, attempt.case.len_kv];
            let bias = Some(Broadcast { shape, values: vec![value; attempt.case.len_kv] });
            Attempt { case: AttentionCase { bias, ..attempt.case.clone() }, ..attempt.clone() }
        };
        // Exact in every type.
        let moved = constant(2.5).run(device).map_err(failed)?;
        let Outcome { output, lse } = moved;
        let lse: Vec<f64> = lse.into_iter().map(|lse| lse - 2.5).collect();
        let Numbers { case, q, k, v, .. } = constant(0.0).numbers();
        let oracle = reference::attention_forward(&case, &q, &k, &v);
        let naive = naive::attention_forward(&case, attempt.dtype, &q, &k, &v);
        let shape = [case.batch, case.heads_q, case.len_q, case.head_dim_v];
        compare::check_lse("lse", &shape[..3], &lse, &oracle.lse, oracle.score_max + 2.5).map_err(wrong)?;
        compare::check("output", &shape, attempt.dtype, &output, &oracle.output, &naive, 2.0).map_err(wrong)?;
        Ok(())
    });
}

/// A problem in f32 with few numbers.
fn small_attempt(device: &Device) -> impl Strategy<Value = Attempt> + use<> {
    (attempt(device), prop::sample::select(vec![[8, 8], [16, 24], [24, 8]]), 1..20usize, 1..25usize).prop_map(
        |(mut attempt, [head_dim, head_dim_v], len_q, len_kv)| {
            attempt.dtype = DType::F32;
            let case = &mut attempt.case;
            (case.head_dim, case.head_dim_v) = (head_dim, head_dim_v);
            for (len, lengths, limit) in
                [(&mut case.len_q, &mut case.query_lengths, len_q), (&mut case.len_kv, &mut case.key_lengths, len_kv)]
            {
                *len = limit.min(*len);
                lengths.iter_mut().flatten().for_each(|length| *length = limit.min(*length));
            }
            case.key_range =
                case.key_range.take().map(|range| range.start.min(case.len_kv)..range.end.min(case.len_kv));
            for shape in
                [case.bias.as_mut().map(|bias| &mut bias.shape), case.mask.as_mut().map(|mask| &mut mask.shape)]
                    .into_iter()
                    .flatten()
            {
                (shape[2], shape[3]) = (shape[2].min(case.len_q), shape[3].min(case.len_kv));
            }
            attempt
        },
    )
}

/// What the gradients are gradients of.
fn loss(numbers: &Numbers) -> f64 {
    let Numbers { case, q, k, v, d_output, d_lse } = numbers;
    let result = reference::attention_forward(case, q, k, v);
    // A row without keys has lse -inf whatever the inputs, and what is hidden is NaN.
    let sum = |values: &[f64], weights: &[f64]| -> f64 {
        values.iter().zip(weights).map(|(value, weight)| value * weight).filter(|product| product.is_finite()).sum()
    };
    sum(&result.output, d_output) + sum(&result.lse, d_lse)
}

#[test]
fn gradients_agree_with_finite_differences() {
    const STEP: f64 = 1e-4;
    check_property([256, 24], small_attempt, |device, attempt| {
        let numbers = attempt.numbers();
        let gradients = attempt.run_backward(device, true).map_err(failed)?;
        let direction = |seed: u64, count: usize| values(attempt.seed + seed, count, 0.0, 1.0, DType::F32);
        let moved = |values: &[f64], seed: u64, step: f64| -> Vec<f64> {
            values.iter().zip(direction(seed, values.len())).map(|(value, u)| value + step * u).collect()
        };
        // Each input by itself.
        let case = &numbers.case;
        let mut inputs = vec![
            ("q", &numbers.q, &gradients.d_q),
            ("k", &numbers.k, &gradients.d_k),
            ("v", &numbers.v, &gradients.d_v),
        ];
        inputs.extend(case.bias.as_ref().zip(gradients.d_bias.as_ref()).map(|(bias, d)| ("bias", &bias.values, d)));
        inputs.extend(case.sinks.as_ref().zip(gradients.d_sinks.as_ref()).map(|(sinks, d)| ("sinks", sinks, d)));
        for (index, (name, input, gradient)) in inputs.into_iter().enumerate() {
            let seed = 100 + index as u64;
            let at = |step: f64| {
                let mut numbers = numbers.clone();
                let moved = moved(input, seed, step);
                match name {
                    "q" => numbers.q = moved,
                    "k" => numbers.k = moved,
                    "v" => numbers.v = moved,
                    "bias" => numbers.case.bias.as_mut().expect("there is one").values = moved,
                    _ => numbers.case.sinks = Some(moved),
                }
                loss(&numbers)
            };
            let difference = (at(STEP) - at(-STEP)) / (2.0 * STEP);
            let products = direction(seed, input.len()).into_iter().zip(gradient).map(|(u, gradient)| u * gradient);
            let (sum, size) = products.fold((0.0, 0.0), |(sum, size), product| (sum + product, size + product.abs()));
            let error = (sum - difference).abs();
            prop_assert!(
                error <= 2e-6 * size + 1e-5,
                "the derivative by {name} is {sum:e}, and {difference:e} by differences"
            );
        }
        Ok(())
    });
}

#[test]
fn softmax_agrees_with_the_oracle() {
    check_operation([192, 24], Operation::Softmax);
}

#[test]
fn norms_agree_with_the_oracle() {
    check_operation([192, 24], Operation::Norm);
}

/// Those that see anything.
#[test]
fn softmax_rows_sum_to_one() {
    check_property([96, 12], softmax, |device, mut attempt| {
        attempt.case.is_log = false;
        let y = attempt.run(device).map_err(failed)?;
        let columns = attempt.case.columns();
        let case = attempt.numbers().case;
        // Each value is rounded by half a unit, so the sum is off by at most that share of itself and a little more.
        let allowed = 1.1 * naive::unit_roundoff(attempt.dtype) + 1e-6;
        let subnormal = if attempt.dtype == DType::F16 { columns as f64 * 2f64.powi(-25) } else { 0.0 };
        for (row, y) in y.chunks(columns).enumerate() {
            let sees = (row * columns..(row + 1) * columns).any(|element| case.visible(element));
            let (sum, expected) = (y.iter().sum::<f64>(), f64::from(u8::from(sees)));
            prop_assert!((sum - expected).abs() <= allowed + subnormal, "row {row} of {columns} sums to {sum}");
        }
        Ok(())
    });
}

/// What is added to all of a row's elements changes nothing.
#[test]
fn softmax_does_not_see_a_shift() {
    check_property([96, 12], softmax, |device, attempt| {
        let attempt = SoftmaxAttempt { dtype: DType::F32, bias_dtype: DType::F32, ..attempt };
        let mut numbers = attempt.numbers();
        numbers.case.scale = 1.0;
        let attempt = SoftmaxAttempt { case: SoftmaxCase { scale: 1.0, ..attempt.case.clone() }, ..attempt };
        let y = attempt.run_on(device, &numbers).map_err(failed)?;
        let columns = numbers.case.columns();
        for (element, x) in numbers.x.iter_mut().enumerate() {
            *x = naive::round(*x + (element / columns) as f64, DType::F32);
        }
        let moved = attempt.run_on(device, &numbers).map_err(failed)?;
        for (a, b) in y.iter().zip(&moved).filter(|(a, _)| a.is_finite()) {
            prop_assert!((a - b).abs() <= 1e-5 * (1.0 + a.abs()), "{a:e} becomes {b:e}");
        }
        Ok(())
    });
}
