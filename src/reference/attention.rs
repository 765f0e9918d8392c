//! Attention forward in float64, one scalar at a time.

/// Where the queries of a causal mask sit among the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alignment {
    /// The last query at the last key.
    BottomRight,
    /// Query i at position i + offset.
    Offset(i64),
}

/// Shapes and options of one attention problem.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionCase {
    /// Sequences.
    pub batch: usize,
    /// Query heads.
    pub heads_q: usize,
    /// Key and value heads; divides `heads_q`.
    pub heads_kv: usize,
    /// Queries of a sequence.
    pub len_q: usize,
    /// Keys of a sequence.
    pub len_kv: usize,
    /// Size of a query and of a key.
    pub head_dim: usize,
    /// Size of a value.
    pub head_dim_v: usize,
    /// Factor of the scores; `None` is `1 / sqrt(head_dim)`.
    pub scale: Option<f64>,
    /// Causal mask, if any.
    pub causal: Option<Alignment>,
    /// Valid keys of each sequence, if not all.
    pub key_lengths: Option<Vec<usize>>,
}

impl AttentionCase {
    /// A case without options, with equal head counts and head dims.
    pub fn new(batch: usize, heads: usize, len_q: usize, len_kv: usize, head_dim: usize) -> AttentionCase {
        AttentionCase {
            batch,
            heads_q: heads,
            heads_kv: heads,
            len_q,
            len_kv,
            head_dim,
            head_dim_v: head_dim,
            scale: None,
            causal: None,
            key_lengths: None,
        }
    }

    /// Whether query i of a sequence sees key j.
    pub fn visible(&self, sequence: usize, i: usize, j: usize) -> bool {
        if let Some(lengths) = &self.key_lengths
            && j >= lengths[sequence]
        {
            return false;
        }
        match self.causal {
            None => true,
            Some(Alignment::BottomRight) => j as i64 <= i as i64 + self.len_kv as i64 - self.len_q as i64,
            Some(Alignment::Offset(offset)) => j as i64 <= i as i64 + offset,
        }
    }

    /// The factor of the scores.
    pub fn scale(&self) -> f64 {
        self.scale.unwrap_or(1.0 / (self.head_dim as f64).sqrt())
    }

    /// Elements of q.
    pub fn q_elements(&self) -> usize {
        self.batch * self.heads_q * self.len_q * self.head_dim
    }

    /// Elements of k.
    pub fn k_elements(&self) -> usize {
        self.batch * self.heads_kv * self.len_kv * self.head_dim
    }

    /// Elements of v.
    pub fn v_elements(&self) -> usize {
        self.batch * self.heads_kv * self.len_kv * self.head_dim_v
    }

    /// Rows of the result: one a query and query head.
    pub fn rows(&self) -> usize {
        self.batch * self.heads_q * self.len_q
    }
}

/// The result of [`attention_forward`].
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionResult {
    /// `[batch, heads_q, len_q, head_dim_v]`.
    pub output: Vec<f64>,
    /// `[batch, heads_q, len_q]`.
    pub lse: Vec<f64>,
    /// The largest absolute visible score of the whole problem.
    pub score_max: f64,
}

/// `output = softmax(scale * q k^T + mask) v`, with the natural log of each row's sum of exponentials.
///
/// q `[batch, heads_q, len_q, head_dim]`, k `[batch, heads_kv, len_kv, head_dim]`, v `[batch, heads_kv, len_kv,
/// head_dim_v]`. A row that sees no key, or only scores of `-inf`, gives output 0 and lse `-inf`.
pub fn attention_forward(case: &AttentionCase, q: &[f64], k: &[f64], v: &[f64]) -> AttentionResult {
    let mut result = AttentionResult { output: Vec::new(), lse: Vec::new(), score_max: 0.0 };
    let group = case.heads_q / case.heads_kv;
    for sequence in 0..case.batch {
        for head in 0..case.heads_q {
            let kv_head = sequence * case.heads_kv + head / group;
            for i in 0..case.len_q {
                let row = (sequence * case.heads_q + head) * case.len_q + i;
                let query = &q[row * case.head_dim..][..case.head_dim];
                let mut scores = Vec::new();
                for j in (0..case.len_kv).filter(|j| case.visible(sequence, i, *j)) {
                    let key = &k[(kv_head * case.len_kv + j) * case.head_dim..][..case.head_dim];
                    let product: f64 = query.iter().zip(key).map(|(a, b)| a * b).sum();
                    scores.push((j, case.scale() * product));
                }
                let max = scores.iter().fold(f64::NEG_INFINITY, |max, (_, score)| max.max(*score));
                result.score_max = scores.iter().fold(result.score_max, |max, (_, score)| max.max(score.abs()));
                let has_nan = scores.iter().any(|(_, score)| score.is_nan());
                let mut output = vec![0.0; case.head_dim_v];
                if max == f64::NEG_INFINITY && !has_nan {
                    result.lse.push(f64::NEG_INFINITY);
                    result.output.extend(output);
                    continue;
                }
                let sum: f64 = scores.iter().map(|(_, score)| (score - max).exp()).sum();
                for (j, score) in &scores {
                    let weight = (score - max).exp() / sum;
                    let value = &v[(kv_head * case.len_kv + j) * case.head_dim_v..][..case.head_dim_v];
                    output.iter_mut().zip(value).for_each(|(out, value)| *out += weight * value);
                }
                result.lse.push(max + sum.ln());
                result.output.extend(output);
            }
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(elements: usize, step: f64) -> Vec<f64> {
        (0..elements).map(|i| ((i * 7919 % 101) as f64 - 40.0) * step).collect()
    }

    #[test]
    fn equal_scores_average_the_values() {
        let case = AttentionCase::new(1, 1, 2, 4, 3);
        let v = ramp(12, 0.5);
        let result = attention_forward(&case, &[0.0; 6], &ramp(12, 1.0), &v);
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
        assert!((result.output[0] - logistic).abs() < 1e-12);
        assert!((result.lse[0] - (0.75f64.exp() + (-1.5f64).exp()).ln()).abs() < 1e-12);
        assert_eq!(result.score_max, 1.5);
    }

    #[test]
    fn causal_rows_match_the_drawing() {
        let mut case = AttentionCase { causal: Some(Alignment::BottomRight), ..AttentionCase::new(1, 1, 3, 5, 1) };
        let draw = |case: &AttentionCase| -> Vec<Vec<u8>> {
            (0..3).map(|i| (0..5).map(|j| u8::from(case.visible(0, i, j))).collect()).collect()
        };
        assert_eq!(draw(&case), [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]);
        case.causal = Some(Alignment::Offset(0));
        assert_eq!(draw(&case), [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]);
        case.causal = Some(Alignment::Offset(-1));
        case.key_lengths = Some(vec![1]);
        assert_eq!(draw(&case), [[0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [1, 0, 0, 0, 0]]);
    }

    #[test]
    fn a_row_without_keys_is_zero() {
        let case = AttentionCase { key_lengths: Some(vec![0]), ..AttentionCase::new(1, 1, 1, 2, 2) };
        let result = attention_forward(&case, &[1.0, 2.0], &[f64::NAN; 4], &[f64::NAN; 4]);
        assert_eq!((result.output, result.lse), (vec![0.0, 0.0], vec![f64::NEG_INFINITY]));
        let none = attention_forward(&AttentionCase::new(1, 1, 1, 0, 2), &[1.0, 2.0], &[], &[]);
        assert_eq!((none.output, none.lse), (vec![0.0, 0.0], vec![f64::NEG_INFINITY]));
    }

    #[test]
    fn query_heads_of_a_group_read_one_key_head() {
        let grouped = AttentionCase { heads_kv: 2, ..AttentionCase::new(1, 4, 3, 5, 2) };
        let (q, k, v) = (ramp(24, 0.1), ramp(20, 0.1), ramp(20, 0.2));
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
        let (q, mut k, v) = (vec![1.0; 6], ramp(18, 0.05), ramp(18, 0.3));
        let before = attention_forward(&case, &q, &k, &v);
        k.iter_mut().for_each(|value| *value += 2.0);
        let after = attention_forward(&case, &q, &k, &v);
        for (a, b) in before.output.iter().zip(&after.output) {
            assert!((a - b).abs() < 1e-12);
        }
        for (a, b) in before.lse.iter().zip(&after.lse) {
            assert!((a + 6.0 - b).abs() < 1e-12);
        }
    }
}
