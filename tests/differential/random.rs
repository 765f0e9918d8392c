//! Random problems: every device against the oracle, and the identities of attention and softmax.

use std::ops::Range;

use crate::common::attention::{Attempt, Numbers, OPERANDS, Outcome, drawn, dropout, sinks, slopes};
use crate::common::rows::norm::NORM_OPERANDS;
use crate::common::rows::softmax::SOFTMAX_OPERANDS;
use crate::common::rows::{NormAttempt, SoftmaxAttempt, drawn_rows, drawn_vector};
use crate::common::{DTYPES, PLACEMENTS, Placement, attention_devices, small, values};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use warpfold::reference::compare::{self, Mismatch};
use warpfold::reference::{
    self, Alignment, AttentionCase, AttentionGradients, Broadcast, NormCase, SoftmaxCase, naive,
};
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

fn placement() -> impl Strategy<Value = Placement> {
    prop::sample::select(PLACEMENTS.to_vec())
}

/// Which queries and keys there are: all, keys up to a length, or packed sequences. Lengths are shares of the whole.
#[derive(Clone, Debug)]
enum Lengths {
    Full,
    Keys([f64; 2]),
    Packed([[f64; 2]; 2]),
}

fn lengths() -> impl Strategy<Value = Lengths> {
    let share = || prop_oneof![6 => 0.0..=1.0f64, 1 => Just(0.0), 1 => Just(1.0)];
    prop_oneof![
        2 => Just(Lengths::Full),
        1 => prop::array::uniform2(share()).prop_map(Lengths::Keys),
        1 => prop::array::uniform2(prop::array::uniform2(share())).prop_map(Lengths::Packed),
    ]
}

/// Some of the dimensions broadcast.
fn score_shape(case: &AttentionCase, broadcast: u8) -> [usize; 4] {
    let sizes = [case.batch, case.heads_q, case.len_q, case.len_kv];
    std::array::from_fn(|axis| if broadcast >> axis & 1 == 1 { 1 } else { sizes[axis] })
}

/// A case with any options, of at most two sequences.
fn case(on_cpu: bool, batch: Range<usize>) -> impl Strategy<Value = AttentionCase> + use<> {
    let head_dims = match on_cpu {
        true => vec![[8, 8], [24, 24], [32, 32], [33, 7], [64, 64], [96, 96], [40, 72], [128, 128], [160, 160]],
        false => vec![[8, 8], [32, 32], [64, 64], [96, 96], [128, 128], [40, 72], [192, 128], [192, 192], [256, 256]],
    };
    let sizes = (batch, 1..3usize, 1..4usize, 1..120usize, 0..150usize);
    let reach = || prop::option::of(0..100usize);
    let positions = (
        any::<bool>(),
        prop::option::weighted(0.3, (reach(), reach())),
        prop::option::weighted(0.2, 0..100usize),
        prop::option::weighted(0.3, -130..170i64),
        prop::option::weighted(0.2, prop::array::uniform2(0.0..=1.0f64)),
    );
    let scores = (
        prop::option::weighted(0.25, 0.05..3.0f32),
        prop::option::weighted(0.2, 0..8u8),
        prop::option::weighted(0.2, 0..16u8),
        prop::option::weighted(0.2, 0.5..20.0f32),
        prop::option::weighted(0.2, any::<bool>()),
        prop::bool::weighted(0.2),
        prop::option::weighted(0.2, 0.01..0.95f32),
    );
    (sizes, prop::sample::select(head_dims), lengths(), positions, scores).prop_map(
        |(sizes, [head_dim, head_dim_v], lengths, positions, scores)| {
            let (batch, heads_kv, group, len_q, len_kv) = sizes;
            let (causal, window, prefix, offset, key_range) = positions;
            let (scale, bias, mask, softcap, per_sequence, with_sinks, probability) = scores;
            let mut case = AttentionCase {
                heads_kv,
                head_dim_v,
                causal,
                window: window.unwrap_or_default(),
                prefix: prefix.unwrap_or(0),
                alignment: offset.map_or(Alignment::BottomRight, Alignment::Offset),
                scale: scale.map(|scale| f64::from(scale / (head_dim as f32).sqrt())),
                softcap: softcap.map(f64::from),
                ..AttentionCase::new(batch, heads_kv * group, len_q, len_kv, head_dim)
            };
            let part = |share: f64, len: usize| (share * len as f64) as usize;
            match lengths {
                Lengths::Full => {}
                Lengths::Keys(shares) => {
                    case.key_lengths = Some(shares[..batch].iter().map(|share| part(*share, len_kv)).collect());
                }
                Lengths::Packed(shares) => {
                    let shares = &shares[..batch];
                    let mut queries: Vec<usize> = shares.iter().map(|[share, _]| part(*share, len_q)).collect();
                    // There is one query at least.
                    queries[0] = queries[0].max(1);
                    let keys: Vec<usize> = shares.iter().map(|[_, share]| part(*share, len_kv)).collect();
                    (case.len_q, case.len_kv) = (*queries.iter().max().unwrap(), *keys.iter().max().unwrap());
                    (case.query_lengths, case.key_lengths) = (Some(queries), Some(keys));
                }
            }
            case.key_range = key_range.map(|[a, b]| part(a.min(b), case.len_kv)..part(a.max(b), case.len_kv));
            case.bias = bias.and_then(|broadcast| drawn(score_shape(&case, broadcast)));
            case.mask = mask.and_then(|broadcast| drawn(score_shape(&case, broadcast)));
            case.slopes = per_sequence
                .and_then(|per_sequence| slopes(if per_sequence { batch * case.heads_q } else { case.heads_q }));
            case.sinks = sinks(case.heads_q).filter(|_| with_sinks);
            case.dropout = probability.and_then(dropout);
            case
        },
    )
}

fn attempt(device: &Device) -> impl Strategy<Value = Attempt> + use<> {
    attempt_of(device, 1..3)
}

fn attempt_of(device: &Device, batch: Range<usize>) -> impl Strategy<Value = Attempt> + use<> {
    let memory = prop_oneof![placement().prop_map(|one| [one; OPERANDS]), prop::array::uniform11(placement())];
    (case(device == &Device::cpu(), batch), prop::sample::select(DTYPES.to_vec()), memory, any::<u32>()).prop_map(
        |(case, dtype, placements, seed)| Attempt { case, dtype, placements, seed: u64::from(seed), kernel: None },
    )
}

#[test]
fn attention_agrees_with_the_oracle() {
    check_property([256, 16], attempt, |device, attempt| {
        let outcome = attempt.run(device).map_err(failed)?;
        attempt.judge(&outcome).map_err(wrong)?;
        Ok(())
    });
}

#[test]
fn gradients_agree_with_the_oracle() {
    let strategy = |device: &Device| (attempt(device), any::<bool>());
    check_property([192, 12], strategy, |device, (attempt, with_d_lse)| {
        let gradients = attempt.run_backward(device, with_d_lse).map_err(failed)?;
        attempt.judge_backward(with_d_lse, &gradients).map_err(wrong)
    });
}

#[test]
fn split_keys_merge_into_the_whole() {
    let strategy = |device: &Device| (attempt(device), prop::collection::vec(0..150usize, 1..4));
    check_property([128, 8], strategy, |device, (attempt, cuts)| {
        for outcome in attempt.run_split(device, &cuts).map_err(failed)? {
            attempt.judge(&outcome).map_err(wrong)?;
        }
        Ok(())
    });
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
        attempt.judge_backward(true, &explicit.1).map_err(wrong)
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

/// One to three leading dimensions and the columns: few rows where these are many.
fn rows_shape() -> impl Strategy<Value = Vec<usize>> {
    let columns = prop_oneof![6 => 1..40usize, 6 => 40..1200usize, 3 => 1200..9000usize, 1 => 9000..40_000usize];
    (prop::collection::vec(1..5usize, 1..4), columns).prop_map(|(mut shape, columns)| {
        if columns > 9000 {
            shape.iter_mut().for_each(|size| *size = 1);
        }
        shape.push(columns);
        shape
    })
}

/// The last dimensions of a shape, without the first few, some of them 1.
fn broadcast_shape(shape: &[usize], missing: usize, broadcast: u8) -> Vec<usize> {
    let kept = shape.iter().skip(missing.min(shape.len() - 1)).enumerate();
    kept.map(|(axis, size)| if broadcast >> axis & 1 == 1 { 1 } else { *size }).collect()
}

fn softmax(_: &Device) -> impl Strategy<Value = SoftmaxAttempt> + use<> {
    let shown = || prop::option::weighted(0.3, (0..4usize, 0..16u8));
    let reach = || prop::option::of(0..1000usize);
    let options = (any::<bool>(), prop::option::weighted(0.4, 0.05..3.0f32), shown(), shown(), any::<bool>());
    let positions = (
        prop::bool::weighted(0.3),
        prop::option::weighted(0.2, (reach(), reach())),
        prop::option::weighted(0.2, 0..1000usize),
        prop::option::weighted(0.2, -20..1000i64),
    );
    let memory = prop_oneof![placement().prop_map(|one| [one; SOFTMAX_OPERANDS]), prop::array::uniform6(placement())];
    let dtypes = (prop::sample::select(DTYPES.to_vec()), any::<bool>());
    (rows_shape(), options, positions, dtypes, memory, -2.0..2.0f64, any::<u32>()).prop_map(
        |(shape, options, positions, (dtype, with_f32_bias), placements, mean, seed)| {
            let (is_log, scale, bias, mask, in_place) = options;
            let (causal, window, prefix, offset) = positions;
            let case = SoftmaxCase {
                scale: scale.map_or(1.0, f64::from),
                is_log,
                bias: bias.and_then(|(missing, broadcast)| drawn_rows(&broadcast_shape(&shape, missing, broadcast))),
                mask: mask.and_then(|(missing, broadcast)| drawn_rows(&broadcast_shape(&shape, missing, broadcast))),
                causal,
                window: window.unwrap_or_default(),
                prefix: prefix.unwrap_or(0),
                alignment: offset.map_or(Alignment::BottomRight, Alignment::Offset),
                ..SoftmaxCase::new(&shape)
            };
            let bias_dtype = if with_f32_bias { DType::F32 } else { dtype };
            let attempt = SoftmaxAttempt::new(case, dtype, Placement::Contiguous);
            SoftmaxAttempt { bias_dtype, in_place, placements, mean, seed: u64::from(seed), ..attempt }
        },
    )
}

fn norm(_: &Device) -> impl Strategy<Value = NormAttempt> + use<> {
    let layer = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let options = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let numbers = (prop::option::weighted(0.3, 0.01..0.95f32), prop::option::weighted(0.3, 1e-6..1.0f32));
    let dtype = || prop::sample::select(DTYPES.to_vec());
    let dtypes = prop_oneof![2 => dtype().prop_map(|one| [one; NORM_OPERANDS]), 1 => prop::array::uniform10(dtype())];
    let memory = prop_oneof![placement().prop_map(|one| [one; NORM_OPERANDS]), prop::array::uniform10(placement())];
    (rows_shape(), layer, options, numbers, (dtypes, memory), -2.0..2.0f64, any::<u32>()).prop_map(
        |(shape, layer, options, (probability, eps), (dtypes, placements), mean, seed)| {
            let (is_centered, is_zero_centered, with_weight, with_bias) = layer;
            let (with_residual, with_sum, with_stats, with_d_sum, with_d_residual) = options;
            let (columns, leading) = shape.split_last().expect("there are columns");
            let case = if is_centered { NormCase::layer(*columns) } else { NormCase::rms(*columns) };
            let case = NormCase {
                eps: eps.map_or(case.eps, f64::from),
                is_zero_centered,
                weight: drawn_vector().filter(|_| with_weight),
                bias: drawn_vector().filter(|_| with_bias),
                dropout: probability.and_then(dropout),
                ..case
            };
            NormAttempt {
                dtypes,
                placements,
                with_residual,
                // What dropout left is known exactly from the device only.
                with_sum: with_sum || probability.is_some(),
                with_stats,
                with_d_sum,
                with_d_residual,
                mean,
                seed: u64::from(seed),
                ..NormAttempt::new(case, leading, DType::F32, Placement::Contiguous)
            }
        },
    )
}

#[test]
fn softmax_agrees_with_the_oracle() {
    check_property([192, 24], softmax, |device, attempt| {
        let numbers = attempt.numbers();
        attempt.judge_on(&attempt.run_on(device, &numbers).map_err(failed)?, &numbers).map_err(wrong)?;
        let d_x = attempt.run_backward_on(device, &numbers).map_err(failed)?;
        attempt.judge_backward_on(&d_x, &numbers).map_err(wrong)
    });
}

#[test]
fn norms_agree_with_the_oracle() {
    check_property([192, 24], norm, |device, attempt| {
        let numbers = attempt.numbers();
        attempt.judge_on(&attempt.run_on(device, &numbers).map_err(failed)?, &numbers).map_err(wrong)?;
        let gradients = attempt.run_backward_on(device, &numbers).map_err(failed)?;
        attempt.judge_backward_on(&gradients, &numbers).map_err(wrong)
    });
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
