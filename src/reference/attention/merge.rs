//! The merging of partial results over disjoint keys.

use super::forward::{add_scaled, softmax, vector, vector_mut};

/// The result of [`merge`].
#[derive(Clone, Debug, PartialEq)]
pub struct MergedRows {
    /// The merged rows of `columns` values.
    pub output: Vec<f64>,
    /// One for each row.
    pub lse: Vec<f64>,
}

/// Merges partial results over disjoint key ranges into that over all of them.
///
/// ```text
/// lse = ln(sum_n exp(lse_n) + exp(sink))        output = sum_n exp(lse_n - lse) * output_n
/// ```
///
/// Each part is its output, rows of `columns` values, and its lse, one a row, without sinks; `sinks` holds one logit
/// for each row of the result. A part whose lse is `-inf` takes no part, whatever its output holds.
///
/// # Panics
/// If the parts and sinks differ in their rows.
pub fn merge(parts: &[(&[f64], &[f64])], columns: usize, sinks: Option<&[f64]>) -> MergedRows {
    let lengths = || parts.iter().map(|(_, lse)| lse.len()).chain(sinks.map(<[f64]>::len));
    let rows = lengths().next().unwrap_or(0);
    assert!(lengths().all(|length| length == rows), "the parts and sinks have the same rows");
    let mut merged = MergedRows { output: vec![0.0; rows * columns], lse: vec![f64::NEG_INFINITY; rows] };
    for row in 0..rows {
        let lses: Vec<f64> = parts.iter().map(|(_, lse)| lse[row]).collect();
        // The scores of a row of which each part is one key.
        let Some(softmax) = softmax(&lses, sinks.map(|sinks| sinks[row])) else { continue };
        for (part, weight) in softmax.weights.iter().enumerate() {
            if lses[part] != f64::NEG_INFINITY {
                add_scaled(vector_mut(&mut merged.output, row, columns), *weight, vector(parts[part].0, row, columns));
            }
        }
        merged.lse[row] = softmax.lse;
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::super::{AttentionCase, AttentionResult, Broadcast, DropoutCase, attention_forward, ramp};
    use super::*;

    #[track_caller]
    fn assert_close(a: &[f64], b: &[f64]) {
        assert_eq!(a.len(), b.len());
        for (a, b) in a.iter().zip(b) {
            assert!(a == b || (a - b).abs() < 1e-12, "{a} is not {b}");
        }
    }

    #[test]
    fn the_parts_of_the_keys_merge_into_the_whole() {
        let whole = AttentionCase {
            heads_kv: 2,
            head_dim_v: 2,
            causal: true,
            prefix: 1,
            softcap: Some(2.0),
            bias: Some(Broadcast { shape: [1, 4, 1, 11], values: ramp(44, 2.0) }),
            slopes: Some(vec![0.1, 0.2, 0.3, 0.4]),
            dropout: Some(DropoutCase { probability: 0.2, seed: 1, offset: 0 }),
            key_lengths: Some(vec![10, 0]),
            ..AttentionCase::new(2, 4, 6, 11, 3)
        };
        let (q, k, v) =
            (ramp(whole.q_elements(), 10.0), ramp(whole.k_elements(), 10.0), ramp(whole.v_elements(), 10.0));
        let mut parts: Vec<AttentionResult> = [0..4, 4..5, 5..5, 5..11]
            .into_iter()
            .map(|range| attention_forward(&AttentionCase { key_range: Some(range), ..whole.clone() }, &q, &k, &v))
            .collect();
        // Nothing may read the output of a part without keys.
        for part in &mut parts {
            for row in (0..whole.rows()).filter(|row| part.lse[*row] == f64::NEG_INFINITY) {
                part.output[row * 2..][..2].fill(f64::NAN);
            }
        }
        let parts: Vec<(&[f64], &[f64])> = parts.iter().map(|part| (&part.output[..], &part.lse[..])).collect();
        let expected = attention_forward(&whole, &q, &k, &v);
        let merged = merge(&parts, 2, None);
        assert_close(&merged.output, &expected.output);
        assert_close(&merged.lse, &expected.lse);

        let sinks = vec![0.5, -1.0, 2.0, -3.0];
        let row_sinks: Vec<f64> = (0..whole.rows()).map(|row| sinks[row / 6 % 4]).collect();
        let expected = attention_forward(&AttentionCase { sinks: Some(sinks), ..whole }, &q, &k, &v);
        let merged = merge(&parts, 2, Some(&row_sinks));
        assert_close(&merged.output, &expected.output);
        assert_close(&merged.lse, &expected.lse);
    }

    #[test]
    fn merging_nothing_gives_nothing() {
        let empty: (&[f64], &[f64]) = (&[f64::NAN; 2], &[f64::NEG_INFINITY]);
        let nothing = MergedRows { output: vec![0.0; 2], lse: vec![f64::NEG_INFINITY] };
        assert_eq!(merge(&[empty, empty], 2, None), nothing);
        assert_eq!(merge(&[empty], 2, Some(&[f64::NEG_INFINITY])), nothing);
        assert_eq!(merge(&[empty], 2, Some(&[0.5])), MergedRows { lse: vec![0.5], ..nothing });
        assert_eq!(merge(&[], 2, None), MergedRows { output: vec![], lse: vec![] });
        let lone = merge(&[empty, (&[3.0, 4.0], &[700.0])], 2, None);
        assert_eq!((lone.output, lone.lse), (vec![3.0, 4.0], vec![700.0]));
    }

    #[test]
    fn weights_are_shares_of_the_exponentials() {
        let merged = merge(&[(&[1.0], &[0.0]), (&[5.0], &[3f64.ln()])], 1, Some(&[4f64.ln()]));
        assert_close(&merged.output, &[(1.0 + 5.0 * 3.0) / 8.0]);
        assert_close(&merged.lse, &[8f64.ln()]);
    }
}
