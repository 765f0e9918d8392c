//! The backward pass.

use super::case::AttentionCase;
use super::forward::{Row, add_scaled, dot, softmax, vector, vector_mut};

/// The result of [`attention_backward`].
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionGradients {
    /// `[batch, heads_q, len_q, head_dim]`.
    pub d_q: Vec<f64>,
    /// `[batch, heads_kv, len_kv, head_dim]`.
    pub d_k: Vec<f64>,
    /// `[batch, heads_kv, len_kv, head_dim_v]`.
    pub d_v: Vec<f64>,
    /// In the bias's own shape, summed over what was broadcast; `None` without a bias.
    pub d_bias: Option<Vec<f64>>,
    /// One for each query head; `None` without sinks.
    pub d_sinks: Option<Vec<f64>>,
}

/// The gradients of `sum(d_output * output) + sum(d_lse * lse)`.
///
/// With P the probabilities, M the factors of dropout and S the scores that the softmax takes:
///
/// ```text
/// dV = (M P)^T dO        dP = M (dO V^T)        D = rowsum(P dP)        dS = P (dP - D + d_lse) = d_bias
/// dQ = scale * (1 - (capped / cap)^2) dS K      dK = scale * (1 - (capped / cap)^2) dS^T Q
/// d_sink = sum over rows of P_sink (d_lse - D)
/// ```
///
/// The inputs and `d_output` (in the shape of the output) and `d_lse` are those of
/// [`attention_forward`](super::attention_forward). Rows that see no key give nothing but the gradient of their sink.
pub fn attention_backward(
    case: &AttentionCase,
    q: &[f64],
    k: &[f64],
    v: &[f64],
    d_output: &[f64],
    d_lse: Option<&[f64]>,
) -> AttentionGradients {
    let mut gradients = AttentionGradients {
        d_q: vec![0.0; case.q_elements()],
        d_k: vec![0.0; case.k_elements()],
        d_v: vec![0.0; case.v_elements()],
        d_bias: case.bias.as_ref().map(|bias| vec![0.0; bias.values.len()]),
        d_sinks: case.sinks.as_ref().map(|sinks| vec![0.0; sinks.len()]),
    };
    for row in case.all_rows() {
        let Row { sequence, head, i } = row;
        let row_idx = case.row_idx(row);
        let scores = case.scores(row, q, k);
        let values: Vec<f64> = scores.iter().map(|score| score.value).collect();
        let Some(softmax) = softmax(&values, case.sink(row)) else { continue };
        let d_lse = d_lse.map_or(0.0, |d_lse| d_lse[row_idx]);
        let query = vector(q, row_idx, case.head_dim);
        let d_output = vector(d_output, row_idx, case.head_dim_v);

        let mut d_weights = Vec::with_capacity(scores.len());
        for (score, weight) in scores.iter().zip(&softmax.weights) {
            let key_idx = case.key_idx(row, score.j);
            let factor = case.dropout_factor(sequence, head, i, score.j);
            d_weights.push(factor * dot(d_output, vector(v, key_idx, case.head_dim_v)));
            add_scaled(vector_mut(&mut gradients.d_v, key_idx, case.head_dim_v), factor * weight, d_output);
        }
        let mean = dot(&softmax.weights, &d_weights);

        for ((score, weight), d_weight) in scores.iter().zip(&softmax.weights).zip(&d_weights) {
            let key_idx = case.key_idx(row, score.j);
            let d_score = weight * (d_weight - mean + d_lse);
            if let (Some(bias), Some(d_bias)) = (&case.bias, &mut gradients.d_bias) {
                d_bias[bias.index([sequence, head, i, score.j])] += d_score;
            }
            let d_scaled = match case.softcap {
                Some(cap) => d_score * (1.0 - (score.capped / cap).powi(2)),
                None => d_score,
            };
            let d_product = case.scale() * d_scaled;
            add_scaled(
                vector_mut(&mut gradients.d_q, row_idx, case.head_dim),
                d_product,
                vector(k, key_idx, case.head_dim),
            );
            add_scaled(vector_mut(&mut gradients.d_k, key_idx, case.head_dim), d_product, query);
        }
        // A query past its sequence's length has no sink, and never comes here.
        if let Some(d_sinks) = &mut gradients.d_sinks {
            d_sinks[head] += softmax.sink_weight * (d_lse - mean);
        }
    }
    gradients
}

#[cfg(test)]
mod tests {
    use super::super::{Alignment, Broadcast, DropoutCase, attention_forward, ramp};
    use super::*;

    /// Two sequences of three queries and five keys, four query heads on two key heads.
    fn small() -> AttentionCase {
        AttentionCase { heads_kv: 2, head_dim_v: 3, ..AttentionCase::new(2, 4, 3, 5, 2) }
    }

    fn inputs(case: &AttentionCase) -> [Vec<f64>; 3] {
        [ramp(case.q_elements(), 4.0), ramp(case.k_elements(), 5.0), ramp(case.v_elements(), 3.0)]
    }

    /// The gradients that arrive at the output and the lse.
    fn arriving(case: &AttentionCase) -> [Vec<f64>; 2] {
        [ramp(case.rows() * case.head_dim_v + 5, 2.0)[5..].to_vec(), ramp(case.rows() + 3, 2.0)[3..].to_vec()]
    }

    /// Central differences of `loss` in each of the values.
    fn differences(values: &[f64], loss: impl Fn(&[f64]) -> f64) -> Vec<f64> {
        let step = 1e-5;
        let at = |index: usize, step: f64| {
            let mut moved = values.to_vec();
            moved[index] += step;
            loss(&moved)
        };
        (0..values.len()).map(|index| (at(index, step) - at(index, -step)) / (2.0 * step)).collect()
    }

    #[track_caller]
    fn assert_close(what: &str, actual: &[f64], expected: &[f64]) {
        assert_eq!(actual.len(), expected.len());
        for (index, (a, b)) in actual.iter().zip(expected).enumerate() {
            assert!((a - b).abs() < 1e-8, "{what}[{index}] is {a}, and {b} by differences");
        }
    }

    /// Holds every gradient of a case to central differences of the forward pass.
    #[track_caller]
    fn check(case: &AttentionCase) {
        let [q, k, v] = inputs(case);
        let [d_output, d_lse] = arriving(case);
        let loss = |case: &AttentionCase, q: &[f64], k: &[f64], v: &[f64], d_lse: Option<&[f64]>| -> f64 {
            let result = attention_forward(case, q, k, v);
            let lse_loss: f64 = match d_lse {
                None => 0.0,
                Some(d_lse) => {
                    // A row without keys has lse -inf whatever the inputs.
                    result.lse.iter().zip(d_lse).filter(|(lse, _)| lse.is_finite()).map(|(lse, d)| lse * d).sum()
                }
            };
            result.output.iter().zip(&d_output).map(|(output, d)| output * d).sum::<f64>() + lse_loss
        };
        for d_lse in [None, Some(&d_lse[..])] {
            let gradients = attention_backward(case, &q, &k, &v, &d_output, d_lse);
            assert_close("d_q", &gradients.d_q, &differences(&q, |q| loss(case, q, &k, &v, d_lse)));
            assert_close("d_k", &gradients.d_k, &differences(&k, |k| loss(case, &q, k, &v, d_lse)));
            assert_close("d_v", &gradients.d_v, &differences(&v, |v| loss(case, &q, &k, v, d_lse)));
            assert_eq!(gradients.d_bias.is_some(), case.bias.is_some());
            if let (Some(bias), Some(d_bias)) = (&case.bias, &gradients.d_bias) {
                let by_differences = differences(&bias.values, |values| {
                    let bias = Some(Broadcast { shape: bias.shape, values: values.to_vec() });
                    loss(&AttentionCase { bias, ..case.clone() }, &q, &k, &v, d_lse)
                });
                assert_close("d_bias", d_bias, &by_differences);
            }
            assert_eq!(gradients.d_sinks.is_some(), case.sinks.is_some());
            if let (Some(sinks), Some(d_sinks)) = (&case.sinks, &gradients.d_sinks) {
                let by_differences = differences(sinks, |sinks| {
                    loss(&AttentionCase { sinks: Some(sinks.to_vec()), ..case.clone() }, &q, &k, &v, d_lse)
                });
                assert_close("d_sinks", d_sinks, &by_differences);
            }
        }
    }

    /// Every way to broadcast over the dimensions of [`small`].
    fn broadcast_shapes() -> Vec<[usize; 4]> {
        let sizes = [2, 4, 3, 5];
        let broadcast = |bits: usize| std::array::from_fn(|dim| if bits >> dim & 1 == 1 { 1 } else { sizes[dim] });
        (0..16).map(broadcast).collect()
    }

    fn holes(shape: [usize; 4]) -> Broadcast<bool> {
        Broadcast { shape, values: ramp(shape.iter().product(), 100.0).iter().map(|value| *value < 20.0).collect() }
    }

    /// All options at once.
    fn everything() -> AttentionCase {
        AttentionCase {
            scale: Some(0.8),
            causal: true,
            window: (Some(2), Some(1)),
            prefix: 1,
            alignment: Alignment::Offset(1),
            key_lengths: Some(vec![5, 4]),
            query_lengths: Some(vec![2, 3]),
            key_range: Some(0..4),
            mask: Some(holes([1, 4, 3, 5])),
            bias: Some(Broadcast { shape: [2, 1, 3, 5], values: ramp(30, 3.0) }),
            softcap: Some(1.5),
            slopes: Some(ramp(8, 1.0)),
            sinks: Some(vec![0.5, -0.5, 0.0, 1.0]),
            dropout: Some(DropoutCase { probability: 0.3, seed: 42, offset: 9 }),
            ..small()
        }
    }

    #[test]
    fn gradients_without_options_agree_with_differences() {
        check(&AttentionCase::new(1, 1, 2, 3, 4));
        check(&small());
        check(&AttentionCase { scale: Some(-1.5), ..small() });
        check(&AttentionCase::new(1, 1, 2, 0, 4));
    }

    #[test]
    fn gradients_of_hidden_keys_agree_with_differences() {
        check(&AttentionCase { causal: true, ..small() });
        // The first two queries see nothing.
        check(&AttentionCase { causal: true, alignment: Alignment::Offset(-2), ..small() });
        check(&AttentionCase { window: (Some(1), Some(0)), ..small() });
        check(&AttentionCase { causal: true, prefix: 2, alignment: Alignment::Offset(0), ..small() });
        check(&AttentionCase { key_lengths: Some(vec![3, 0]), ..small() });
        check(&AttentionCase { key_range: Some(1..4), ..small() });
        let lengths = AttentionCase { query_lengths: Some(vec![1, 3]), key_lengths: Some(vec![5, 2]), ..small() };
        check(&lengths);
        check(&AttentionCase { causal: true, ..lengths });
        for shape in broadcast_shapes() {
            check(&AttentionCase { mask: Some(holes(shape)), ..small() });
        }
    }

    #[test]
    fn gradients_of_changed_scores_agree_with_differences() {
        check(&AttentionCase { softcap: Some(0.7), ..small() });
        check(&AttentionCase { slopes: Some(vec![0.1, 0.2, 0.4, 0.8]), ..small() });
        check(&AttentionCase { slopes: Some(ramp(8, 2.0)), ..small() });
        check(&AttentionCase { sinks: Some(vec![0.5, -0.5, 0.0, 1.0]), ..small() });
        for shape in broadcast_shapes() {
            let bias = Some(Broadcast { shape, values: ramp(shape.iter().product(), 3.0) });
            check(&AttentionCase { bias: bias.clone(), ..small() });
            check(&AttentionCase { bias, causal: true, softcap: Some(0.7), ..small() });
        }
    }

    #[test]
    fn gradients_of_rows_that_have_a_sink_only_agree_with_differences() {
        let sinks = Some(vec![0.5, -0.5, 0.0, 1.0]);
        check(&AttentionCase { key_lengths: Some(vec![3, 0]), sinks: sinks.clone(), ..small() });
        check(&AttentionCase { sinks, ..AttentionCase::new(1, 4, 2, 0, 1) });
    }

    #[test]
    fn gradients_through_dropout_agree_with_differences() {
        for probability in [0.0, 0.3, 0.9, 1.0] {
            let dropout = Some(DropoutCase { probability, seed: 1 << 35 | 5, offset: 3 });
            check(&AttentionCase { dropout, ..small() });
            check(&AttentionCase { dropout, sinks: Some(vec![0.5, -0.5, 0.0, 1.0]), causal: true, ..small() });
        }
    }

    #[test]
    fn gradients_of_all_options_together_agree_with_differences() {
        let case = everything();
        check(&case);
        check(&AttentionCase { alignment: Alignment::BottomRight, ..case.clone() });
        for shape in broadcast_shapes() {
            let bias = Some(Broadcast { shape, values: ramp(shape.iter().product(), 3.0) });
            check(&AttentionCase { bias, mask: Some(holes(shape)), ..case.clone() });
        }
    }

    #[test]
    fn what_is_hidden_reaches_no_result_even_as_nan() {
        // Keys 0 and 5 are out of range, key 4 past the length of the second sequence, and the mask hides key 2.
        let mask = Some(Broadcast { shape: [1, 1, 1, 6], values: vec![true, true, false, true, true, true] });
        let case = AttentionCase {
            heads_kv: 2,
            key_range: Some(1..5),
            key_lengths: Some(vec![6, 4]),
            query_lengths: Some(vec![2, 3]),
            mask,
            bias: Some(Broadcast { shape: [2, 1, 3, 6], values: ramp(36, 3.0) }),
            softcap: Some(2.0),
            sinks: Some(vec![0.5, -0.5, 0.0, 1.0]),
            dropout: Some(DropoutCase { probability: 0.3, seed: 42, offset: 9 }),
            ..AttentionCase::new(2, 4, 3, 6, 2)
        };
        let hidden_key = |sequence: usize, j: usize| [0, 2, 5].contains(&j) || (sequence == 1 && j == 4);
        let hidden_query = |sequence: usize, i: usize| sequence == 0 && i == 2;
        let [mut q, mut k, mut v] = inputs(&case);
        let [mut d_output, mut d_lse] = arriving(&case);
        let result = attention_forward(&case, &q, &k, &v);
        let gradients = attention_backward(&case, &q, &k, &v, &d_output, Some(&d_lse));

        let mut poisoned = case.clone();
        let bias = poisoned.bias.as_mut().unwrap();
        for at in 0..36 {
            let (sequence, i, j) = (at / 18, at / 6 % 3, at % 6);
            if hidden_key(sequence, j) || hidden_query(sequence, i) {
                bias.values[at] = f64::NAN;
                assert_eq!(gradients.d_bias.as_ref().unwrap()[at], 0.0);
            }
        }
        for row in 0..24 {
            let (sequence, key) = (row / 12, row % 6);
            if hidden_key(sequence, key) {
                vector_mut(&mut k, row, 2).fill(f64::NAN);
                vector_mut(&mut v, row, 2).fill(f64::NAN);
                assert_eq!([vector(&gradients.d_k, row, 2), vector(&gradients.d_v, row, 2)], [[0.0; 2]; 2]);
            }
        }
        for row in (0..24).filter(|row| hidden_query(row / 12, row % 3)) {
            vector_mut(&mut q, row, 2).fill(f64::NAN);
            vector_mut(&mut d_output, row, 2).fill(f64::NAN);
            d_lse[row] = f64::NAN;
            assert_eq!(vector(&gradients.d_q, row, 2), [0.0; 2]);
        }
        assert_eq!(attention_forward(&poisoned, &q, &k, &v), result);
        assert_eq!(attention_backward(&poisoned, &q, &k, &v, &d_output, Some(&d_lse)), gradients);
        assert!(result.output.iter().chain(&gradients.d_k).all(|value| value.is_finite()));
    }

    #[test]
    fn scores_of_minus_infinity_alone_give_no_gradients() {
        let bias = Some(Broadcast { shape: [1; 4], values: vec![f64::NEG_INFINITY] });
        let case = AttentionCase { bias, ..small() };
        let [q, k, v] = inputs(&case);
        let [d_output, d_lse] = arriving(&case);
        let gradients = attention_backward(&case, &q, &k, &v, &d_output, Some(&d_lse));
        for gradient in [&gradients.d_q, &gradients.d_k, &gradients.d_v, &gradients.d_bias.unwrap()] {
            assert!(gradient.iter().all(|value| *value == 0.0));
        }
    }

    #[test]
    fn one_key_alone_has_no_gradient_of_its_score() {
        let case = AttentionCase::new(1, 1, 1, 1, 1);
        let gradients = attention_backward(&case, &[2.0], &[3.0], &[5.0], &[7.0], None);
        assert_eq!((gradients.d_q, gradients.d_k, gradients.d_v), (vec![0.0], vec![0.0], vec![7.0]));
        // The lse is the score itself.
        let gradients = attention_backward(&case, &[2.0], &[3.0], &[5.0], &[0.0], Some(&[1.0]));
        assert_eq!((gradients.d_q, gradients.d_k, gradients.d_v), (vec![3.0], vec![2.0], vec![0.0]));
    }
}
