//! The unfused computation in an element type: each step rounds its result to that type, as separate kernels would,
//! with sums in f32. Its distance from the oracle is the yardstick for a fused result.

mod rows;

use half::{bf16, f16};

use crate::dtype::DType;
use crate::reference::attention::{AttentionCase, AttentionGradients};

pub use rows::{norm_backward, norm_forward, norm_sum, softmax_backward, softmax_forward};

/// Rounds to an element type, to nearest, ties to even.
///
/// Integers have no rounding: their values return unchanged.
pub fn round(value: f64, dtype: DType) -> f64 {
    match dtype {
        DType::F32 => f64::from(value as f32),
        DType::F16 => f16::from_f32(odd_f32(value)).to_f64(),
        DType::BF16 => bf16::from_f32(odd_f32(value)).to_f64(),
        DType::I32 | DType::U8 => value,
    }
}

/// One of the two f32 numbers around a value: itself if it is one, else the one whose last bit is 1. Rounding that to 16 bits
/// rounds the value, as no tie and no exact number hides what was lost; the conversions of `half` from f64 lose it.
fn odd_f32(value: f64) -> f32 {
    let nearest = value as f32;
    if f64::from(nearest) == value || value.is_nan() {
        return nearest;
    }
    // The next number towards 0 has the bits of the number before.
    let is_past = f64::from(nearest).abs() > value.abs();
    f32::from_bits((nearest.to_bits() - u32::from(is_past)) | 1)
}

/// Half the distance of 1 from the next larger number of the type.
pub fn unit_roundoff(dtype: DType) -> f64 {
    match dtype {
        DType::F32 | DType::I32 | DType::U8 => 2f64.powi(-24),
        DType::F16 => 2f64.powi(-11),
        DType::BF16 => 2f64.powi(-8),
    }
}

/// A sum of products as a matrix-product kernel computes it: f32 accumulator.
fn dot(pairs: impl Iterator<Item = (f64, f64)>) -> f64 {
    f64::from(pairs.fold(0.0f32, |sum, (a, b)| sum + (a * b) as f32))
}

/// One query of a query head, as far as the forward pass has come: a value for each key, hidden ones included.
struct Row {
    sequence: usize,
    head: usize,
    i: usize,
    /// Which row of k and v the first key is.
    first_key_idx: usize,
    /// Which keys it sees.
    visible: Vec<bool>,
    /// Scaled and capped scores.
    capped: Vec<f64>,
    /// The probabilities before dropout.
    weights: Vec<f64>,
    /// The probability of the sink, in f32; 0 without one.
    sink_weight: f64,
}

impl Row {
    /// The scores and their softmax, each step rounded.
    fn new(case: &AttentionCase, dtype: DType, row_idx: usize, q: &[f64], k: &[f64]) -> Row {
        let (sequence, head) = (row_idx / case.len_q / case.heads_q, row_idx / case.len_q % case.heads_q);
        let i = row_idx % case.len_q;
        let kv_head = sequence * case.heads_kv + head / (case.heads_q / case.heads_kv);
        let first_key_idx = kv_head * case.len_kv;
        let query = &q[row_idx * case.head_dim..][..case.head_dim];
        let visible: Vec<bool> = (0..case.len_kv).map(|j| case.visible_to_head(sequence, head, i, j)).collect();
        let (mut capped, mut scores) = (vec![f64::NEG_INFINITY; case.len_kv], vec![f64::NEG_INFINITY; case.len_kv]);
        for j in (0..case.len_kv).filter(|j| visible[*j]) {
            let key = &k[(first_key_idx + j) * case.head_dim..][..case.head_dim];
            let product = round(dot(query.iter().copied().zip(key.iter().copied())), dtype);
            let scaled = round(product * case.scale(), dtype);
            capped[j] = match case.softcap {
                None => scaled,
                Some(cap) => round(f64::from(cap as f32 * (scaled as f32 / cap as f32).tanh()), dtype),
            };
            scores[j] = capped[j];
            if let Some(bias) = &case.bias {
                scores[j] = round(scores[j] + bias.get([sequence, head, i, j]), dtype);
            }
            if let Some(slope) = case.slope(sequence, head) {
                let distance = (case.position(sequence, i) - j as i64).abs() as f32;
                scores[j] = round(f64::from(scores[j] as f32 - slope as f32 * distance), dtype);
            }
        }
        let sink = case.sinks.as_ref().filter(|_| i < case.query_len(sequence)).map(|sinks| sinks[head]);
        let (weights, sink_weight) = softmax_row(&scores, sink, dtype);
        Row { sequence, head, i, first_key_idx, visible, capped, weights, sink_weight }
    }

    /// The keys that it sees.
    fn keys(&self) -> impl Iterator<Item = usize> {
        (0..self.visible.len()).filter(|j| self.visible[*j])
    }

    /// The probabilities after dropout.
    fn dropped_weights(&self, case: &AttentionCase, dtype: DType) -> Vec<f64> {
        let dropped = |(j, weight)| round(weight * case.dropout_factor(self.sequence, self.head, self.i, j), dtype);
        self.weights.iter().copied().enumerate().map(dropped).collect()
    }
}

/// Attention forward as separate kernels would compute it: scores, scale, softcap, bias, ALiBi, softmax, dropout and
/// the product with v.
pub fn attention_forward(case: &AttentionCase, dtype: DType, q: &[f64], k: &[f64], v: &[f64]) -> Vec<f64> {
    let mut output = Vec::with_capacity(case.rows() * case.head_dim_v);
    for row_idx in 0..case.rows() {
        let row = Row::new(case, dtype, row_idx, q, k);
        let weights = row.dropped_weights(case, dtype);
        for c in 0..case.head_dim_v {
            // A hidden key's value takes no part, whatever it holds.
            let sum = dot(row.keys().map(|j| (weights[j], v[(row.first_key_idx + j) * case.head_dim_v + c])));
            output.push(round(sum, dtype));
        }
    }
    output
}

/// Attention backward as separate kernels would compute it, from what they kept of the forward pass.
///
/// The gradients of the dropped probabilities, of the probabilities, of the scores before and after softcap and scale,
/// and the products are each rounded. Keys and values of several query heads, and what a bias was broadcast over, are
/// summed in f32 in a last step. The gradients of sinks are f32, as the sinks are.
pub fn attention_backward(
    case: &AttentionCase,
    dtype: DType,
    q: &[f64],
    k: &[f64],
    v: &[f64],
    d_output: &[f64],
    d_lse: Option<&[f64]>,
) -> AttentionGradients {
    let (head_dim, head_dim_v) = (case.head_dim, case.head_dim_v);
    let mut d_q = Vec::with_capacity(case.q_elements());
    let mut d_k = vec![0.0f32; case.k_elements()];
    let mut d_v = vec![0.0f32; case.v_elements()];
    let mut d_bias = case.bias.as_ref().map(|bias| vec![0.0f32; bias.values.len()]);
    let mut d_sinks = case.sinks.as_ref().map(|sinks| vec![0.0f32; sinks.len()]);
    for head_idx in 0..case.batch * case.heads_q {
        // The sums over the queries of one query head.
        let mut head_d_k = vec![0.0f32; case.len_kv * head_dim];
        let mut head_d_v = vec![0.0f32; case.len_kv * head_dim_v];
        let mut first_key_idx = 0;
        for row_idx in head_idx * case.len_q..(head_idx + 1) * case.len_q {
            let row = Row::new(case, dtype, row_idx, q, k);
            first_key_idx = row.first_key_idx;
            let query = &q[row_idx * head_dim..][..head_dim];
            let d_output = &d_output[row_idx * head_dim_v..][..head_dim_v];
            let d_lse = d_lse.map_or(0.0, |d_lse| d_lse[row_idx] as f32);

            let dropped_weights = row.dropped_weights(case, dtype);
            let mut d_weights = vec![0.0; case.len_kv];
            for j in row.keys() {
                add_scaled(&mut head_d_v[j * head_dim_v..][..head_dim_v], dropped_weights[j], d_output);
                let value = &v[(row.first_key_idx + j) * head_dim_v..][..head_dim_v];
                let d_dropped = round(dot(d_output.iter().copied().zip(value.iter().copied())), dtype);
                let factor = case.dropout_factor(row.sequence, row.head, row.i, j);
                d_weights[j] = round(d_dropped * factor, dtype);
            }
            let mean = dot(row.keys().map(|j| (row.weights[j], d_weights[j]))) as f32;

            let mut d_products = vec![0.0; case.len_kv];
            for j in row.keys() {
                let d_score = round(f64::from(row.weights[j] as f32 * (d_weights[j] as f32 - mean + d_lse)), dtype);
                if let (Some(bias), Some(d_bias)) = (&case.bias, &mut d_bias) {
                    d_bias[bias.index([row.sequence, row.head, row.i, j])] += d_score as f32;
                }
                let d_scaled = match case.softcap {
                    None => d_score,
                    Some(cap) => {
                        let tanh = row.capped[j] as f32 / cap as f32;
                        round(f64::from(d_score as f32 * (1.0 - tanh * tanh)), dtype)
                    }
                };
                d_products[j] = round(d_scaled * case.scale(), dtype);
                add_scaled(&mut head_d_k[j * head_dim..][..head_dim], d_products[j], query);
            }
            for c in 0..head_dim {
                let sum = dot(row.keys().map(|j| (d_products[j], k[(row.first_key_idx + j) * head_dim + c])));
                d_q.push(round(sum, dtype));
            }
            // A query past its sequence's length has no sink, and its d_lse may be anything.
            if let Some(d_sinks) = &mut d_sinks
                && row.i < case.query_len(row.sequence)
            {
                d_sinks[row.head] += row.sink_weight as f32 * (d_lse - mean);
            }
        }
        add_rounded(&mut d_k[first_key_idx * head_dim..][..head_d_k.len()], &head_d_k, dtype);
        add_rounded(&mut d_v[first_key_idx * head_dim_v..][..head_d_v.len()], &head_d_v, dtype);
    }
    let rounded = |sums: Vec<f32>| sums.into_iter().map(|sum| round(f64::from(sum), dtype)).collect();
    AttentionGradients {
        d_q,
        d_k: rounded(d_k),
        d_v: rounded(d_v),
        d_bias: d_bias.map(rounded),
        d_sinks: d_sinks.map(|sums| sums.into_iter().map(f64::from).collect()),
    }
}

/// Adds a multiple of a vector to f32 accumulators, as a matrix-product kernel does.
fn add_scaled(sums: &mut [f32], factor: f64, vector: &[f64]) {
    for (sum, value) in sums.iter_mut().zip(vector) {
        *sum += (factor * value) as f32;
    }
}

/// Adds what one query head gave, rounded to the type, to the f32 sum over heads.
fn add_rounded(sums: &mut [f32], head: &[f32], dtype: DType) {
    for (sum, value) in sums.iter_mut().zip(head) {
        *sum += round(f64::from(*value), dtype) as f32;
    }
}

/// The softmax of one row and perhaps a sink, whose own probability stays in f32.
fn softmax_row(row: &[f64], sink: Option<f64>, dtype: DType) -> (Vec<f64>, f64) {
    let max = row.iter().copied().chain(sink).fold(f64::NEG_INFINITY, f64::max) as f32;
    let base = if max == f32::NEG_INFINITY { 0.0 } else { max };
    let powers: Vec<f32> = row.iter().map(|value| (*value as f32 - base).exp()).collect();
    let sink_power = sink.map_or(0.0, |sink| (sink as f32 - base).exp());
    let sum = powers.iter().fold(0.0f32, |sum, power| sum + power) + sink_power;
    if sum == 0.0 {
        return (vec![0.0; row.len()], 0.0);
    }
    (powers.iter().map(|power| round(f64::from(power / sum), dtype)).collect(), f64::from(sink_power / sum))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::attention::{self, Alignment, Broadcast, DropoutCase};

    /// Values of the type, in -0.4 ..= 0.6 times the step.
    fn ramp(elements: usize, step: f64, dtype: DType) -> Vec<f64> {
        let value = |i: usize| ((i * 7919 % 101) as f64 - 40.0) * 0.01 * step;
        (0..elements).map(|i| round(value(i), dtype)).collect()
    }

    /// One case for each option, and all of them together.
    fn cases(dtype: DType) -> Vec<AttentionCase> {
        let plain = AttentionCase { heads_kv: 2, head_dim_v: 6, ..AttentionCase::new(2, 4, 7, 19, 8) };
        let bias = |shape: [usize; 4]| Some(Broadcast { shape, values: ramp(shape.iter().product(), 3.0, dtype) });
        let values = (0..133).map(|at| at % 5 != 2).collect();
        let mask = Some(Broadcast { shape: [1, 1, 7, 19], values });
        let dropout = Some(DropoutCase { probability: 0.25, seed: 42, offset: 9 });
        let slopes = Some(vec![0.03125, 0.0625, 0.125, 0.25]);
        let sinks = Some(vec![0.5, -0.5, 0.0, 1.0]);
        let with = |change: &dyn Fn(&mut AttentionCase)| {
            let mut case = plain.clone();
            change(&mut case);
            case
        };
        vec![
            plain.clone(),
            with(&|case| case.causal = true),
            with(&|case| (case.causal, case.alignment) = (true, Alignment::Offset(-2))),
            with(&|case| (case.window, case.prefix) = ((Some(3), Some(1)), 2)),
            with(&|case| case.key_lengths = Some(vec![11, 0])),
            with(&|case| (case.query_lengths, case.key_lengths) = (Some(vec![4, 7]), Some(vec![19, 5]))),
            with(&|case| case.key_range = Some(3..8)),
            with(&|case| case.mask = mask.clone()),
            with(&|case| case.bias = bias([2, 4, 7, 19])),
            with(&|case| case.bias = bias([1, 4, 1, 19])),
            with(&|case| case.softcap = Some(0.75)),
            with(&|case| case.slopes = slopes.clone()),
            with(&|case| case.sinks = sinks.clone()),
            with(&|case| case.dropout = dropout),
            AttentionCase {
                scale: Some(0.5),
                causal: true,
                window: (Some(9), None),
                prefix: 1,
                alignment: Alignment::Offset(10),
                key_lengths: Some(vec![19, 12]),
                query_lengths: Some(vec![5, 7]),
                key_range: Some(1..18),
                mask,
                bias: bias([2, 1, 7, 19]),
                softcap: Some(1.5),
                slopes,
                sinks,
                dropout,
                ..plain
            },
        ]
    }

    /// Holds the largest error to some unit roundoffs of the largest value.
    #[track_caller]
    fn assert_near(what: &str, case: &AttentionCase, dtype: DType, naive: &[f64], oracle: &[f64]) {
        assert_eq!(naive.len(), oracle.len(), "{what} of {case:?}");
        let largest = oracle.iter().fold(0.0f64, |max, value| max.max(value.abs()));
        for (index, (a, b)) in naive.iter().zip(oracle).enumerate() {
            let allowed = 10.0 * unit_roundoff(dtype) * largest;
            assert!((a - b).abs() <= allowed, "{what}[{index}] in {dtype} is {a}, not {b}: {case:?}");
        }
    }

    #[test]
    fn rounding_sees_every_bit_of_a_value() {
        for (dtype, half_ulp) in
            [(DType::F32, 2f64.powi(-24)), (DType::F16, 2f64.powi(-11)), (DType::BF16, 2f64.powi(-8))]
        {
            for sign in [1.0, -1.0] {
                let round = |value: f64| sign * round(sign * value, dtype);
                let next = 1.0 + 2.0 * half_ulp;
                // Ties go to the even neighbour, and the least that is over or below half decides.
                assert_eq!((round(1.0 + half_ulp), round(next + half_ulp)), (1.0, 1.0 + 4.0 * half_ulp));
                for little in [2f64.powi(-26), 2f64.powi(-30), 2f64.powi(-50)] {
                    assert_eq!((round(1.0 + half_ulp + little), round(1.0 + half_ulp - little)), (next, 1.0));
                    assert_eq!((round(next - little), round(1.0 + little)), (next, 1.0));
                }
                assert_eq!(round(1e300), f64::INFINITY);
                assert_eq!(round(f64::INFINITY), f64::INFINITY);
                assert_eq!((round(1e-300), round(0.0)), (0.0, 0.0));
            }
            assert!(round(f64::NAN, dtype).is_nan());
        }
        // Half of the smallest f16 number, and a little more.
        assert_eq!(round(2f64.powi(-25), DType::F16), 0.0);
        assert_eq!(round(2f64.powi(-25) * (1.0 + 2f64.powi(-40)), DType::F16), 2f64.powi(-24));
        assert_eq!((round(65519.9, DType::F16), round(65520.0, DType::F16)), (65504.0, f64::INFINITY));
    }

    #[test]
    fn every_option_agrees_with_the_oracle_up_to_rounding() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for case in cases(dtype) {
                let [q, k, v] = [(case.q_elements(), 3.0), (case.k_elements(), 2.0), (case.v_elements(), 4.0)]
                    .map(|(elements, step)| ramp(elements, step, dtype));
                let d_output = ramp(case.rows() * case.head_dim_v + 5, 2.0, dtype)[5..].to_vec();
                let d_lse = ramp(case.rows() + 3, 2.0, DType::F32)[3..].to_vec();
                let oracle = attention::attention_forward(&case, &q, &k, &v);
                assert_near("output", &case, dtype, &attention_forward(&case, dtype, &q, &k, &v), &oracle.output);
                for d_lse in [None, Some(&d_lse[..])] {
                    let oracle = attention::attention_backward(&case, &q, &k, &v, &d_output, d_lse);
                    let naive = attention_backward(&case, dtype, &q, &k, &v, &d_output, d_lse);
                    assert_near("d_q", &case, dtype, &naive.d_q, &oracle.d_q);
                    assert_near("d_k", &case, dtype, &naive.d_k, &oracle.d_k);
                    assert_near("d_v", &case, dtype, &naive.d_v, &oracle.d_v);
                    assert_eq!(naive.d_bias.is_some(), oracle.d_bias.is_some());
                    for (naive, oracle) in naive.d_bias.iter().zip(&oracle.d_bias) {
                        assert_near("d_bias", &case, dtype, naive, oracle);
                    }
                    assert_eq!(naive.d_sinks.is_some(), oracle.d_sinks.is_some());
                    for (naive, oracle) in naive.d_sinks.iter().zip(&oracle.d_sinks) {
                        assert_near("d_sinks", &case, dtype, naive, oracle);
                    }
                }
            }
        }
    }

    #[test]
    fn hidden_keys_and_queries_reach_no_result_even_as_nan() {
        let dtype = DType::F16;
        let case = AttentionCase {
            query_lengths: Some(vec![2]),
            key_lengths: Some(vec![3]),
            sinks: Some(vec![0.5]),
            ..AttentionCase::new(1, 1, 3, 4, 2)
        };
        let results = |hidden: f64| {
            let fill = |len: usize, valid: usize| {
                let mut values = ramp(len, 1.0, dtype);
                values[valid..].fill(hidden);
                values
            };
            let (q, k, v, d_output, d_lse) = (fill(6, 4), fill(8, 6), fill(8, 6), fill(6, 4), fill(3, 2));
            let output = attention_forward(&case, dtype, &q, &k, &v);
            (output, attention_backward(&case, dtype, &q, &k, &v, &d_output, Some(&d_lse)))
        };
        assert_eq!(results(f64::NAN), results(1.0));
        assert_eq!(results(f64::NAN).1.d_k[6..], [0.0; 2]);
    }

    #[test]
    fn softmax_leaves_room_for_a_sink() {
        let (weights, sink_weight) = softmax_row(&[0.0, f64::NEG_INFINITY], Some(3f64.ln()), DType::F32);
        assert!((weights[0] - 0.25).abs() < 1e-7 && weights[1] == 0.0 && (sink_weight - 0.75).abs() < 1e-7);
        assert_eq!(softmax_row(&[f64::NEG_INFINITY; 2], Some(f64::NEG_INFINITY), DType::F32), (vec![0.0; 2], 0.0));
    }
}
