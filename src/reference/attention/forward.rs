//! The forward pass, and what of a row the backward pass needs again.

use super::case::AttentionCase;

/// The result of [`attention_forward`].
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionResult {
    /// `[batch, heads_q, len_q, head_dim_v]`.
    pub output: Vec<f64>,
    /// `[batch, heads_q, len_q]`.
    pub lse: Vec<f64>,
    /// The largest finite absolute score of the whole problem: visible scores as the softmax takes them, and sinks.
    pub score_max: f64,
}

/// One query of a query head.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub sequence: usize,
    pub head: usize,
    pub i: usize,
}

/// What one query makes of one key that it sees.
pub(super) struct Score {
    /// The key.
    pub j: usize,
    /// Scaled and capped.
    pub capped: f64,
    /// Capped and biased: what the softmax takes.
    pub value: f64,
}

/// The softmax of one row.
pub(super) struct Softmax {
    /// A probability for each score.
    pub weights: Vec<f64>,
    /// The probability of the sink; 0 without one.
    pub sink_weight: f64,
    /// The natural log of the sum of exponentials, the sink's included.
    pub lse: f64,
}

impl AttentionCase {
    /// All rows, in the order of q.
    pub(super) fn all_rows(&self) -> Vec<Row> {
        let mut all = Vec::with_capacity(self.rows());
        for sequence in 0..self.batch {
            for head in 0..self.heads_q {
                all.extend((0..self.len_q).map(|i| Row { sequence, head, i }));
            }
        }
        all
    }

    /// Which row of the result a row is.
    pub(super) fn row_idx(&self, row: Row) -> usize {
        (row.sequence * self.heads_q + row.head) * self.len_q + row.i
    }

    /// Which row of k and v key j of a row is.
    pub(super) fn key_idx(&self, row: Row, j: usize) -> usize {
        let heads_per_kv_head = self.heads_q / self.heads_kv;
        (row.sequence * self.heads_kv + row.head / heads_per_kv_head) * self.len_kv + j
    }

    /// The sink of a row. A query past its sequence's length has none.
    pub(super) fn sink(&self, row: Row) -> Option<f64> {
        if row.i >= self.query_len(row.sequence) {
            return None;
        }
        self.sinks.as_ref().map(|sinks| sinks[row.head])
    }

    /// The scores of the keys that a row sees.
    pub(super) fn scores(&self, row: Row, q: &[f64], k: &[f64]) -> Vec<Score> {
        let Row { sequence, head, i } = row;
        let query = vector(q, self.row_idx(row), self.head_dim);
        let mut scores = Vec::new();
        for j in 0..self.len_kv {
            if !self.visible_to_head(sequence, head, i, j) {
                continue;
            }
            let scaled = self.scale() * dot(query, vector(k, self.key_idx(row, j), self.head_dim));
            let capped = match self.softcap {
                Some(cap) => cap * (scaled / cap).tanh(),
                None => scaled,
            };
            scores.push(Score { j, capped, value: capped + self.added(sequence, head, i, j) });
        }
        scores
    }
}

/// Row `row_idx` of a matrix.
pub(super) fn vector(matrix: &[f64], row_idx: usize, columns: usize) -> &[f64] {
    &matrix[row_idx * columns..][..columns]
}

/// Row `row_idx` of a matrix.
pub(super) fn vector_mut(matrix: &mut [f64], row_idx: usize, columns: usize) -> &mut [f64] {
    &mut matrix[row_idx * columns..][..columns]
}

/// The scalar product.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Adds a multiple of a vector to a sum.
pub(super) fn add_scaled(sum: &mut [f64], factor: f64, vector: &[f64]) {
    for (sum, value) in sum.iter_mut().zip(vector) {
        *sum += factor * value;
    }
}

/// The softmax of some scores and perhaps a sink; `None` if there is nothing but `-inf`.
pub(super) fn softmax(scores: &[f64], sink: Option<f64>) -> Option<Softmax> {
    let all: Vec<f64> = scores.iter().copied().chain(sink).collect();
    if all.iter().all(|score| *score == f64::NEG_INFINITY) {
        return None;
    }
    let max = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = all.iter().map(|score| (score - max).exp()).sum();
    Some(Softmax {
        weights: scores.iter().map(|score| (score - max).exp() / sum).collect(),
        sink_weight: sink.map_or(0.0, |sink| (sink - max).exp() / sum),
        lse: max + sum.ln(),
    })
}

/// `output = dropout(softmax(softcap(scale * q k^T) + bias + mask)) v`, with the natural log of each row's sum of
/// exponentials.
///
/// q `[batch, heads_q, len_q, head_dim]`, k `[batch, heads_kv, len_kv, head_dim]`, v `[batch, heads_kv, len_kv,
/// head_dim_v]`. A row that sees no key, or only scores of `-inf`, gives output 0 and lse `-inf`, or its sink if it has
/// one.
pub fn attention_forward(case: &AttentionCase, q: &[f64], k: &[f64], v: &[f64]) -> AttentionResult {
    let mut result = AttentionResult {
        output: vec![0.0; case.rows() * case.head_dim_v],
        lse: vec![f64::NEG_INFINITY; case.rows()],
        score_max: 0.0,
    };
    for row in case.all_rows() {
        let scores = case.scores(row, q, k);
        let values: Vec<f64> = scores.iter().map(|score| score.value).collect();
        let sink = case.sink(row);
        for value in values.iter().copied().chain(sink).filter(|value| value.is_finite()) {
            result.score_max = result.score_max.max(value.abs());
        }
        let Some(softmax) = softmax(&values, sink) else { continue };
        let output = vector_mut(&mut result.output, case.row_idx(row), case.head_dim_v);
        for (score, weight) in scores.iter().zip(&softmax.weights) {
            let weight = weight * case.dropout_factor(row.sequence, row.head, row.i, score.j);
            add_scaled(output, weight, vector(v, case.key_idx(row, score.j), case.head_dim_v));
        }
        result.lse[case.row_idx(row)] = softmax.lse;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::super::{Alignment, Broadcast, DropoutCase, ramp};
    use super::*;

    #[track_caller]
    fn assert_close(a: &[f64], b: &[f64]) {
        assert_eq!(a.len(), b.len());
        for (a, b) in a.iter().zip(b) {
            assert!(a == b || (a - b).abs() < 1e-12, "{a} is not {b}");
        }
    }

    #[test]
    fn equal_scores_average_the_values() {
        let case = AttentionCase::new(1, 1, 2, 4, 3);
        let v = ramp(12, 50.0);
        let result = attention_forward(&case, &[0.0; 6], &ramp(12, 100.0), &v);
        for i in 0..2 {
            for c in 0..3 {
                let mean = (0..4).map(|j| v[j * 3 + c]).sum::<f64>() / 4.0;
                assert!((result.output[i * 3 + c] - mean).abs() < 1e-12);
            }
            assert!((result.lse[i] - 4f64.ln()).abs() < 1e-12);
        }
    }

    #[test]
    fn two_keys_are_a_logistic_function() {
        let case = AttentionCase { scale: Some(2.0), ..AttentionCase::new(1, 1, 1, 2, 1) };
        let result = attention_forward(&case, &[1.5], &[0.25, -0.5], &[1.0, 0.0]);
        let logistic = 1.0 / (1.0 + (-2.0f64 * 1.5 * 0.75).exp());
        assert_close(&result.output, &[logistic]);
        assert_close(&result.lse, &[(0.75f64.exp() + (-1.5f64).exp()).ln()]);
        assert_eq!(result.score_max, 1.5);
    }

    #[test]
    fn a_row_without_keys_is_zero() {
        let case = AttentionCase { key_lengths: Some(vec![0]), ..AttentionCase::new(1, 1, 1, 2, 2) };
        let result = attention_forward(&case, &[1.0, 2.0], &[f64::NAN; 4], &[f64::NAN; 4]);
        assert_eq!((result.output, result.lse), (vec![0.0, 0.0], vec![f64::NEG_INFINITY]));
        let none = attention_forward(&AttentionCase::new(1, 1, 1, 0, 2), &[1.0, 2.0], &[], &[]);
        assert_eq!((none.output, none.lse), (vec![0.0, 0.0], vec![f64::NEG_INFINITY]));
        let bias = Some(Broadcast { shape: [1; 4], values: vec![f64::NEG_INFINITY] });
        let lowest = AttentionCase { bias, ..AttentionCase::new(1, 1, 1, 2, 1) };
        let result = attention_forward(&lowest, &[1.0], &[1.0, 2.0], &[3.0, 4.0]);
        assert_eq!((result.output, result.lse, result.score_max), (vec![0.0], vec![f64::NEG_INFINITY], 0.0));
    }

    #[test]
    fn query_heads_of_a_group_read_one_key_head() {
        let grouped = AttentionCase { heads_kv: 2, ..AttentionCase::new(1, 4, 3, 5, 2) };
        let (q, k, v) = (ramp(24, 10.0), ramp(20, 10.0), ramp(20, 20.0));
        // Repeating each key head for its group must change nothing.
        let repeat = |t: &[f64]| -> Vec<f64> { t.chunks(10).flat_map(|head| [head, head].concat()).collect() };
        let full = AttentionCase::new(1, 4, 3, 5, 2);
        assert_eq!(
            attention_forward(&grouped, &q, &k, &v).output,
            attention_forward(&full, &q, &repeat(&k), &repeat(&v)).output
        );
    }

    #[test]
    fn adding_a_constant_to_every_score_changes_lse_only() {
        let case = AttentionCase { scale: Some(1.0), ..AttentionCase::new(1, 1, 2, 6, 3) };
        let (q, mut k, v) = (vec![1.0; 6], ramp(18, 5.0), ramp(18, 30.0));
        let before = attention_forward(&case, &q, &k, &v);
        k.iter_mut().for_each(|value| *value += 2.0);
        let after = attention_forward(&case, &q, &k, &v);
        assert_close(&before.output, &after.output);
        assert_close(&before.lse.iter().map(|lse| lse + 6.0).collect::<Vec<_>>(), &after.lse);
    }

    /// The softmax of given scores times the values, as a formula.
    fn expected(scores: &[f64], v: &[f64]) -> (f64, f64) {
        let sum: f64 = scores.iter().map(|score| score.exp()).sum();
        (scores.iter().zip(v).map(|(score, value)| score.exp() * value / sum).sum(), sum.ln())
    }

    #[test]
    fn softcap_is_a_hyperbolic_tangent_of_the_scaled_score() {
        let case = AttentionCase { scale: Some(0.5), softcap: Some(2.0), ..AttentionCase::new(1, 1, 1, 3, 1) };
        let v = [1.0, -2.0, 0.5];
        let result = attention_forward(&case, &[2.0], &[8.0, -1.0, 0.25], &v);
        let (output, lse) = expected(&[2.0 * 4f64.tanh(), 2.0 * (-0.5f64).tanh(), 2.0 * 0.125f64.tanh()], &v);
        assert_close(&result.output, &[output]);
        assert_close(&result.lse, &[lse]);
        assert_close(&[result.score_max], &[2.0 * 4f64.tanh()]);
    }

    #[test]
    fn bias_is_added_after_the_cap_and_neither_scaled_nor_capped() {
        let bias = Some(Broadcast { shape: [1, 1, 1, 2], values: vec![7.0, 6.5] });
        let case = AttentionCase { scale: Some(0.5), softcap: Some(2.0), bias, ..AttentionCase::new(1, 1, 1, 2, 1) };
        let result = attention_forward(&case, &[2.0], &[8.0, -1.0], &[1.0, -2.0]);
        let (output, lse) = expected(&[2.0 * 4f64.tanh() + 7.0, 2.0 * (-0.5f64).tanh() + 6.5], &[1.0, -2.0]);
        assert_close(&result.output, &[output]);
        assert_close(&result.lse, &[lse]);
    }

    #[test]
    fn alibi_falls_with_the_distance_from_the_position() {
        // Two sequences and heads; q is 0, so that the scores are the added ones.
        let slopes = vec![0.5, 0.25, 2.0, 1.0];
        let per_head = AttentionCase { slopes: Some(slopes[..2].to_vec()), ..AttentionCase::new(2, 2, 2, 3, 1) };
        let per_sequence = AttentionCase { slopes: Some(slopes.clone()), ..per_head.clone() };
        let moved = AttentionCase { alignment: Alignment::Offset(0), ..per_sequence.clone() };
        let v = ramp(12, 10.0);
        let cases = [
            (per_head, [0.5, 0.25, 0.5, 0.25], 1),
            (per_sequence, [0.5, 0.25, 2.0, 1.0], 1),
            (moved, [0.5, 0.25, 2.0, 1.0], 0),
        ];
        for (case, slopes, offset) in cases {
            let result = attention_forward(&case, &[0.0; 8], &ramp(12, 10.0), &v);
            for (head, slope) in slopes.into_iter().enumerate() {
                for i in 0..2 {
                    let scores = [0, 1, 2].map(|j: i32| -slope * f64::from((i + offset - j).abs()));
                    let (output, lse) = expected(&scores, &v[head * 3..]);
                    let row = head * 2 + i as usize;
                    assert_close(&[result.output[row], result.lse[row]], &[output, lse]);
                }
            }
        }
    }

    #[test]
    fn a_sink_is_a_key_without_value() {
        let sinks = vec![0.75, -2.0];
        let case = AttentionCase { scale: Some(0.25), sinks: Some(sinks.clone()), ..AttentionCase::new(2, 2, 3, 4, 2) };
        let (mut q, k, v) = (ramp(24, 10.0), ramp(32, 10.0), ramp(32, 5.0));
        q.chunks_mut(2).for_each(|query| query[0] = 1.0);
        let result = attention_forward(&case, &q, &k, &v);
        // The extra key's product with every query is the sink over the scale.
        let mut extended = [Vec::new(), Vec::new()];
        for head in 0..4 {
            extended[0].extend(k[head * 8..][..8].iter().chain(&[sinks[head % 2] / 0.25, 0.0]));
            extended[1].extend(v[head * 8..][..8].iter().chain(&[0.0, 0.0]));
        }
        let plain = AttentionCase { len_kv: 5, sinks: None, ..case };
        let explicit = attention_forward(&plain, &q, &extended[0], &extended[1]);
        assert_close(&result.output, &explicit.output);
        assert_close(&result.lse, &explicit.lse);
        assert_close(&[result.score_max], &[explicit.score_max]);
    }

    #[test]
    fn a_sink_alone_is_the_lse_unless_the_query_is_past_its_sequence() {
        let case = AttentionCase {
            sinks: Some(vec![-1.5]),
            query_lengths: Some(vec![2]),
            key_lengths: Some(vec![0]),
            ..AttentionCase::new(1, 1, 3, 2, 1)
        };
        let result = attention_forward(&case, &[f64::NAN; 3], &[f64::NAN; 2], &[f64::NAN; 2]);
        assert_eq!((result.output, result.lse), (vec![0.0; 3], vec![-1.5, -1.5, f64::NEG_INFINITY]));
        assert_eq!(result.score_max, 1.5);
    }

    #[test]
    fn a_dropped_key_is_in_the_lse_and_not_in_the_output() {
        let dropout = DropoutCase { probability: 0.25, seed: 11, offset: 2 };
        let plain = AttentionCase::new(2, 2, 5, 7, 3);
        let case = AttentionCase { dropout: Some(dropout), ..plain.clone() };
        let (q, k, v) = (ramp(60, 10.0), ramp(84, 10.0), ramp(84, 10.0));
        let (result, undropped) = (attention_forward(&case, &q, &k, &v), attention_forward(&plain, &q, &k, &v));
        assert_eq!(result.lse, undropped.lse);
        for row in case.all_rows() {
            let mut output = [0.0; 3];
            for j in (0..7).filter(|j| case.keeps(row.sequence, row.head, row.i, *j)) {
                let key_idx = (row.sequence * 2 + row.head) * 7 + j;
                let score = dot(vector(&q, case.row_idx(row), 3), vector(&k, key_idx, 3)) / 3f64.sqrt();
                let weight = (score - result.lse[case.row_idx(row)]).exp();
                add_scaled(&mut output, weight / 0.75, vector(&v, key_idx, 3));
            }
            assert_close(vector(&result.output, case.row_idx(row), 3), &output);
        }
    }

    #[test]
    fn a_mask_with_holes_is_a_bias_of_minus_infinity() {
        for shape in [[2, 2, 3, 5], [1, 2, 1, 5], [2, 1, 3, 1], [1, 1, 3, 5], [1, 1, 1, 1]] {
            let seen: Vec<bool> = ramp(shape.iter().product(), 100.0).iter().map(|value| *value < 10.0).collect();
            let bias = seen.iter().map(|seen| if *seen { 0.0 } else { f64::NEG_INFINITY }).collect();
            let masked =
                AttentionCase { mask: Some(Broadcast { shape, values: seen }), ..AttentionCase::new(2, 2, 3, 5, 2) };
            let biased = AttentionCase { bias: Some(Broadcast { shape, values: bias }), mask: None, ..masked.clone() };
            let (q, k, v) = (ramp(24, 10.0), ramp(40, 10.0), ramp(40, 10.0));
            let (a, b) = (attention_forward(&masked, &q, &k, &v), attention_forward(&biased, &q, &k, &v));
            assert_close(&a.output, &b.output);
            assert_close(&a.lse, &b.lse);
        }
    }

    #[test]
    fn sequences_of_different_lengths_are_problems_of_their_own() {
        let (queries, keys) = ([3, 1, 0, 4], [5, 6, 2, 0]);
        let packed = AttentionCase {
            heads_kv: 1,
            head_dim_v: 3,
            causal: true,
            window: (Some(3), None),
            slopes: Some(vec![0.5, 0.25]),
            sinks: Some(vec![0.1, 0.2]),
            softcap: Some(3.0),
            query_lengths: Some(queries.to_vec()),
            key_lengths: Some(keys.to_vec()),
            ..AttentionCase::new(4, 2, 4, 6, 2)
        };
        let (q, k, v) =
            (ramp(packed.q_elements(), 10.0), ramp(packed.k_elements(), 10.0), ramp(packed.v_elements(), 10.0));
        let result = attention_forward(&packed, &q, &k, &v);
        for sequence in 0..4 {
            let (len_q, len_kv) = (queries[sequence], keys[sequence]);
            let alone =
                AttentionCase { batch: 1, len_q, len_kv, query_lengths: None, key_lengths: None, ..packed.clone() };
            let first_rows = |t: &[f64], padded: usize, len: usize, columns: usize, heads: usize| -> Vec<f64> {
                let heads = t.chunks(padded * columns).skip(sequence * heads).take(heads);
                heads.flat_map(|head| head[..len * columns].to_vec()).collect()
            };
            let own = attention_forward(
                &alone,
                &first_rows(&q, 4, len_q, 2, 2),
                &first_rows(&k, 6, len_kv, 2, 1),
                &first_rows(&v, 6, len_kv, 3, 1),
            );
            assert_eq!(first_rows(&result.output, 4, len_q, 3, 2), own.output);
            assert_eq!(first_rows(&result.lse, 4, len_q, 1, 2), own.lse);
        }
        for row in packed.all_rows().into_iter().filter(|row| row.i >= queries[row.sequence]) {
            assert_eq!(vector(&result.output, packed.row_idx(row), 3), [0.0; 3]);
            assert_eq!(result.lse[packed.row_idx(row)], f64::NEG_INFINITY);
        }
    }
}
