//! How close gradients have to be to the oracle's.

use warpfold::DType;
use warpfold::reference::compare::{self, Mismatch};
use warpfold::reference::{self, AttentionCase, AttentionGradients, naive};

use super::check_zeros;
use super::numbers::{Numbers, Seen};

/// Holds gradients to the oracle: three times as far from it as the unfused computation, and 0 where nothing is visible.
/// The largest error as a share of what is allowed.
pub fn judge(
    numbers: &Numbers,
    dtype: DType,
    with_d_lse: bool,
    gradients: &AttentionGradients,
) -> Result<f64, Mismatch> {
    let Numbers { case, q, k, v, d_output, d_lse } = numbers;
    let d_lse = with_d_lse.then_some(d_lse.as_slice());
    let oracle = reference::attention_backward(case, q, k, v, d_output, d_lse);
    let naive = naive::attention_backward(case, dtype, q, k, v, d_output, d_lse);
    assert_eq!(gradients.d_bias.is_some(), oracle.d_bias.is_some(), "d_bias belongs to a bias");
    assert_eq!(gradients.d_sinks.is_some(), oracle.d_sinks.is_some(), "d_sinks belongs to sinks");

    let seen = numbers.seen();
    let actual = parts(case, dtype, gradients);
    let mut inevitable = None;
    let mut error_share = 0.0f64;
    for (index, (oracle, naive)) in parts(case, dtype, &oracle).iter().zip(parts(case, dtype, &naive)).enumerate() {
        let Part { what, shape, dtype, values } = &actual[index];
        check_zeros(what, shape, values, |element| !is_seen(&seen, case, what, element))?;
        let mismatch = match compare::check(what, shape, *dtype, values, oracle.values, naive.values, 3.0) {
            Ok(closeness) => {
                error_share = error_share.max(closeness.share_of_allowed());
                continue;
            }
            Err(mismatch) => mismatch,
        };
        // Nobody computes this in more than a few cases.
        let inevitable = inevitable.get_or_insert_with(|| Inevitable::new(numbers, actual[0].dtype));
        let allowed = 3.0 * farthest(naive.values, oracle.values)
            + inevitable.of_sums(case, *dtype, index)
            + inevitable.of_weights * largest(oracle.values);
        // A NaN is not near anything.
        let is_near = |(value, oracle): (&f64, &f64)| (value - oracle).abs() <= allowed;
        if values.len() != oracle.values.len() || !values.iter().zip(oracle.values).all(is_near) {
            return Err(mismatch);
        }
        error_share = error_share.max(farthest(values, oracle.values) / allowed);
    }
    Ok(error_share)
}

/// One gradient.
struct Part<'a> {
    what: &'static str,
    shape: Vec<usize>,
    dtype: DType,
    values: &'a [f64],
}

/// All gradients that there are, in one order.
fn parts<'a>(case: &AttentionCase, dtype: DType, gradients: &'a AttentionGradients) -> Vec<Part<'a>> {
    let AttentionGradients { d_q, d_k, d_v, d_bias, d_sinks } = gradients;
    let of_keys = |columns| vec![case.batch, case.heads_kv, case.len_kv, columns];
    let of_queries = vec![case.batch, case.heads_q, case.len_q, case.head_dim];
    let mut parts = vec![
        Part { what: "d_q", shape: of_queries, dtype, values: d_q },
        Part { what: "d_k", shape: of_keys(case.head_dim), dtype, values: d_k },
        Part { what: "d_v", shape: of_keys(case.head_dim_v), dtype, values: d_v },
    ];
    if let (Some(bias), Some(values)) = (&case.bias, d_bias) {
        parts.push(Part { what: "d_bias", shape: bias.shape.to_vec(), dtype, values });
    }
    if let Some(values) = d_sinks {
        parts.push(Part { what: "d_sinks", shape: vec![case.heads_q], dtype: DType::F32, values });
    }
    parts
}

/// Whether an element of a gradient has to do with anything visible.
fn is_seen(seen: &Seen, case: &AttentionCase, what: &str, element: usize) -> bool {
    match what {
        "d_q" => seen.queries[element / case.head_dim],
        "d_k" => seen.keys[element / case.head_dim],
        "d_v" => seen.keys[element / case.head_dim_v],
        "d_bias" => seen.bias[element],
        _ => true,
    }
}

/// Roundings of a fused backward pass that the unfused computation does not have, or has by luck only.
struct Inevitable {
    /// The gradient of a score is `P (dP - D + d_lse)`. dP and D, the products of the output's gradient with v and with
    /// the output, are f32 sums, and the output was rounded to its type: an error of a row's D acts as one of its d_lse. Where rows are
    /// added up, such errors might cancel by luck, so there are several of them.
    of_sums: [AttentionGradients; 3],
    /// In f32 a weight comes from a score and an lse that were rounded to f32: its relative error.
    of_weights: f64,
}

impl Inevitable {
    fn new(numbers: &Numbers, dtype: DType) -> Inevitable {
        let Numbers { case, q, k, v, d_output, .. } = numbers;
        let forward = reference::attention_forward(case, q, k, v);
        let kept = 1.0 - case.dropout.map_or(0.0, |dropout| dropout.probability);
        let of_row = |row: usize, pattern: u32| {
            let output = &forward.output[row * case.head_dim_v..][..case.head_dim_v];
            let d_output = &d_output[row * case.head_dim_v..][..case.head_dim_v];
            let products = output.iter().zip(d_output).map(|(output, d_output)| (output * d_output).powi(2));
            let squares = d_output.iter().map(|value| value * value);
            let of_output = 2.0 * naive::unit_roundoff(dtype) * products.sum::<f64>().sqrt();
            let of_sums = 2f64.powi(-19) * squares.sum::<f64>().sqrt() * (1.0 + typical(v)) / kept;
            // The errors of rows have nothing to do with each other.
            let sign = if (row * 0x9e37_79b9) & (128 << pattern) == 0 { 1.0 } else { -1.0 };
            sign * (of_output + of_sums)
        };
        let nothing: Vec<f64> = d_output.iter().map(|value| 0.0 * value).collect();
        let of_sums = [0, 3, 5].map(|pattern| {
            let errors: Vec<f64> = (0..case.rows()).map(|row| of_row(row, pattern)).collect();
            let mut of_sums = reference::attention_backward(case, q, k, v, &nothing, Some(&errors));
            if let (Some(sinks), Some(d_sinks)) = (&case.sinks, &mut of_sums.d_sinks) {
                // One number for all rows of a head.
                d_sinks.fill(0.0);
                for (row, error) in errors.iter().enumerate().filter(|(row, _)| forward.lse[*row].is_finite()) {
                    let head = row / case.len_q % case.heads_q;
                    d_sinks[head] += ((sinks[head] - forward.lse[row]).exp() * error).powi(2);
                }
                d_sinks.iter_mut().for_each(|square| *square = square.sqrt());
            }
            of_sums
        });
        Inevitable {
            of_sums,
            of_weights: if dtype == DType::F32 { 2f64.powi(-21) * (1.0 + forward.score_max) } else { 0.0 },
        }
    }

    /// What sums make of one gradient at most.
    fn of_sums(&self, case: &AttentionCase, dtype: DType, index: usize) -> f64 {
        let sizes = self.of_sums.iter().map(|gradients| largest(parts(case, dtype, gradients)[index].values));
        sizes.fold(0.0, f64::max)
    }
}

/// The largest difference.
pub fn farthest(values: &[f64], oracle: &[f64]) -> f64 {
    values.iter().zip(oracle).fold(0.0f64, |farthest, (value, oracle)| farthest.max((value - oracle).abs()))
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0f64, |largest, value| largest.max(value.abs()))
}

/// The root mean square, without what is hidden.
fn typical(values: &[f64]) -> f64 {
    let valid = || values.iter().filter(|value| value.is_finite());
    (valid().map(|value| value * value).sum::<f64>() / valid().count().max(1) as f64).sqrt()
}
