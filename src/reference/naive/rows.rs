//! Softmax and norms, unfused.

use super::{round, softmax_row};
use crate::dtype::DType;
use crate::reference::rows::{NormCase, NormGradients, NormResult, SoftmaxCase};

/// A sum in f32, one value after the other.
fn sum(values: impl Iterator<Item = f32>) -> f32 {
    values.fold(0.0, |sum, value| sum + value)
}

/// Softmax or log-softmax as separate kernels would compute it: scale, bias, mask, and a softmax that is f32 inside.
pub fn softmax_forward(case: &SoftmaxCase, dtype: DType, x: &[f64]) -> Vec<f64> {
    let score = |element: usize| {
        let scaled = round(case.scale * x[element], dtype);
        let biased = if case.bias.is_some() { round(scaled + case.added(element), dtype) } else { scaled };
        if case.visible(element) { biased } else { f64::NEG_INFINITY }
    };
    let scores: Vec<f64> = (0..x.len()).map(score).collect();
    let rows = scores.chunks(case.columns());
    match case.is_log {
        false => rows.flat_map(|row| softmax_row(row, None, dtype).0).collect(),
        true => rows.flat_map(|row| log_softmax_row(row, dtype)).collect(),
    }
}

fn log_softmax_row(row: &[f64], dtype: DType) -> Vec<f64> {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max) as f32;
    if max == f32::NEG_INFINITY {
        return vec![f64::NEG_INFINITY; row.len()];
    }
    let distances = || row.iter().map(|value| *value as f32 - max);
    let log_sum = sum(distances().map(f32::exp)).ln();
    distances().map(|distance| round(f64::from(distance - log_sum), dtype)).collect()
}

/// The gradient of softmax or log-softmax as separate kernels would compute it: products, their f32 sum over the row,
/// difference and scale, each rounded.
pub fn softmax_backward(case: &SoftmaxCase, dtype: DType, y: &[f64], d_y: &[f64]) -> Vec<f64> {
    let columns = case.columns();
    let row = |(y, d_y): (&[f64], &[f64])| -> Vec<f64> {
        // What has no weight is left out, as the contract says.
        let d_y: Vec<f64> = y.iter().zip(d_y).map(|(y, d)| if *y == case.nothing() { 0.0 } else { *d }).collect();
        let pairs = || y.iter().zip(&d_y);
        match case.is_log {
            false => {
                let total = f64::from(sum(pairs().map(|(y, d)| round(y * d, dtype) as f32)));
                let d_score = |(y, d): (&f64, &f64)| round(y * round(d - total, dtype), dtype);
                pairs().map(|pair| round(case.scale * d_score(pair), dtype)).collect()
            }
            true => {
                let total = f64::from(sum(d_y.iter().map(|d| *d as f32)));
                let d_score = |(y, d): (&f64, &f64)| round(d - round(round(y.exp(), dtype) * total, dtype), dtype);
                pairs().map(|pair| round(case.scale * d_score(pair), dtype)).collect()
            }
        }
    };
    y.chunks(columns).zip(d_y.chunks(columns)).flat_map(row).collect()
}

/// What is normalised, as separate kernels would compute it: dropout in the type of x, then the sum in its own.
pub fn norm_sum(case: &NormCase, [x_dtype, sum_dtype]: [DType; 2], x: &[f64], residual: Option<&[f64]>) -> Vec<f64> {
    let dropped =
        |(element, x): (usize, &f64)| match case.dropout_factor(element / case.columns, element % case.columns) {
            0.0 => 0.0,
            1.0 => *x,
            factor => round(x * factor, x_dtype),
        };
    let added = |(element, x): (usize, f64)| round(x + residual.map_or(0.0, |residual| residual[element]), sum_dtype);
    x.iter().enumerate().map(dropped).enumerate().map(added).collect()
}

/// Mean and rstd in f32, by two passes over a row.
fn stats(case: &NormCase, row: &[f64]) -> (f32, f32) {
    let columns = case.columns as f32;
    let mean = if case.is_centered { sum(row.iter().map(|s| *s as f32)) / columns } else { 0.0 };
    let var = sum(row.iter().map(|s| (*s as f32 - mean) * (*s as f32 - mean))) / columns;
    (mean, 1.0 / (var + case.eps as f32).sqrt())
}

/// Each row's statistics: those that are given, in f32, or computed.
fn all_stats(case: &NormCase, sum: &[f64], given: Option<&NormResult>) -> Vec<(f32, f32)> {
    match given {
        None => sum.chunks(case.columns).map(|row| stats(case, row)).collect(),
        Some(given) => given.mean.iter().zip(&given.rstd).map(|(mean, rstd)| (*mean as f32, *rstd as f32)).collect(),
    }
}

/// A norm as frameworks compute it: f32 inside, results rounded once. With given statistics it has no error of its own
/// from these but their rounding to f32.
pub fn norm_forward(case: &NormCase, dtype: DType, sum: &[f64], given: Option<&NormResult>) -> Vec<f64> {
    let stats = all_stats(case, sum, given);
    let y = |(element, s): (usize, &f64)| {
        let ((mean, rstd), column) = (stats[element / case.columns], element % case.columns);
        let normalized = (*s as f32 - mean) * rstd;
        round(f64::from(normalized * case.factor(column) as f32 + case.added(column) as f32), dtype)
    };
    sum.iter().enumerate().map(y).collect()
}

/// The gradients of a norm as separate kernels would compute them: the norm's own is f32 inside, the gradient from other
/// uses is added to it, and dropout follows, each step rounded to the type of the gradients of x and of the residual.
///
/// The gradients of weight and bias are f32 sums, one row after the other, and rounded once to f32 or 16 bits. No order of
/// adding is less exact on average, so that a sum in parts meets it.
pub fn norm_backward(
    case: &NormCase,
    [x_dtype, residual_dtype, weight_dtype, bias_dtype]: [DType; 4],
    sum_of_inputs: &[f64],
    d_y: &[f64],
    d_sum: Option<&[f64]>,
    given: Option<&NormResult>,
) -> NormGradients {
    let columns = case.columns;
    let stats = all_stats(case, sum_of_inputs, given);
    let (mut d_x, mut d_residual) = (Vec::with_capacity(d_y.len()), Vec::with_capacity(d_y.len()));
    let (mut d_weight, mut d_bias) = (vec![0.0f32; columns], vec![0.0f32; columns]);
    for (row, (s, d_y)) in sum_of_inputs.chunks(columns).zip(d_y.chunks(columns)).enumerate() {
        let (mean, rstd) = stats[row];
        let normalized: Vec<f32> = s.iter().map(|s| (*s as f32 - mean) * rstd).collect();
        let g: Vec<f32> = (0..columns).map(|column| case.factor(column) as f32 * d_y[column] as f32).collect();
        let mean_g = if case.is_centered { sum(g.iter().copied()) / columns as f32 } else { 0.0 };
        let mean_gn = sum(g.iter().zip(&normalized).map(|(g, n)| g * n)) / columns as f32;
        for column in 0..columns {
            let own = f64::from(rstd * (g[column] - mean_g - normalized[column] * mean_gn));
            let of_sum = |dtype| match d_sum {
                None => round(own, dtype),
                Some(d_sum) => round(round(own, dtype) + d_sum[row * columns + column], dtype),
            };
            d_residual.push(of_sum(residual_dtype));
            d_x.push(round(of_sum(x_dtype) * case.dropout_factor(row, column), x_dtype));
            d_weight[column] += d_y[column] as f32 * normalized[column];
            d_bias[column] += d_y[column] as f32;
        }
    }
    let rounded = |sums: Vec<f32>, dtype| sums.into_iter().map(|sum| round(f64::from(sum), dtype)).collect();
    NormGradients {
        d_x,
        d_residual,
        d_weight: case.weight.is_some().then(|| rounded(d_weight, weight_dtype)),
        d_bias: case.bias.is_some().then(|| rounded(d_bias, bias_dtype)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::attention::{Alignment, DropoutCase};
    use crate::reference::naive::unit_roundoff;
    use crate::reference::rows::{self, RowBroadcast};

    /// Values of the type, in -0.4 ..= 0.6 times the step.
    fn ramp(elements: usize, step: f64, dtype: DType) -> Vec<f64> {
        let value = |i: usize| ((i * 7919 % 101) as f64 - 40.0) * 0.01 * step;
        (0..elements).map(|i| round(value(i), dtype)).collect()
    }

    /// Holds the largest error to some unit roundoffs of the largest value.
    #[track_caller]
    fn assert_near(what: &str, dtype: DType, naive: &[f64], oracle: &[f64]) {
        assert_eq!(naive.len(), oracle.len(), "{what}");
        let largest = oracle.iter().filter(|value| value.is_finite()).fold(0.0f64, |max, value| max.max(value.abs()));
        let allowed = 10.0 * unit_roundoff(dtype) * largest;
        for (index, (a, b)) in naive.iter().zip(oracle).enumerate() {
            assert!(a == b || (a - b).abs() <= allowed, "{what}[{index}] in {dtype} is {a}, not {b}");
        }
    }

    #[test]
    fn softmax_agrees_with_the_oracle_up_to_rounding() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for is_log in [false, true] {
                let plain = SoftmaxCase { is_log, ..SoftmaxCase::new(&[2, 5, 37]) };
                let mask = Some(RowBroadcast { shape: vec![37], values: (0..37).map(|i| i % 5).collect() });
                let bias = Some(RowBroadcast { shape: vec![5, 1], values: ramp(5, 3.0, dtype) });
                let alignment = Alignment::Offset(-1);
                let all = SoftmaxCase { scale: 0.75, causal: true, prefix: 7, alignment, mask, bias, ..plain.clone() };
                let hidden =
                    SoftmaxCase { mask: Some(RowBroadcast { shape: vec![1], values: vec![0] }), ..plain.clone() };
                for case in [plain, all, hidden] {
                    let x = ramp(case.elements(), 3.0, dtype);
                    let oracle = rows::softmax_forward(&case, &x);
                    assert_near("y", dtype, &softmax_forward(&case, dtype, &x), &oracle);
                    let y: Vec<f64> = oracle.into_iter().map(|y| round(y, dtype)).collect();
                    let mut d_y = ramp(case.elements() + 3, 2.0, dtype)[3..].to_vec();
                    for (d_y, _) in d_y.iter_mut().zip(&y).filter(|(_, y)| **y == case.nothing()) {
                        *d_y = f64::NAN;
                    }
                    let oracle = rows::softmax_backward(&case, &y, &d_y);
                    assert_near("d_x", dtype, &softmax_backward(&case, dtype, &y, &d_y), &oracle);
                }
            }
        }
    }

    #[test]
    fn norms_agree_with_the_oracle_up_to_rounding() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for plain in [NormCase::layer(37), NormCase::rms(37)] {
                let dropout = Some(DropoutCase { probability: 0.25, seed: 42, offset: 9 });
                let (weight, bias) = (Some(ramp(37, 2.0, dtype)), Some(ramp(40, 1.0, dtype)[3..].to_vec()));
                let all = NormCase { is_zero_centered: true, weight, bias, dropout, ..plain.clone() };
                for case in [plain, all] {
                    let [x, residual, d_y, d_sum] =
                        [0, 5, 2, 9].map(|skip| ramp(5 * 37 + skip, 3.0, dtype)[skip..].to_vec());
                    let sum = norm_sum(&case, [dtype; 2], &x, Some(&residual));
                    assert_near("sum", dtype, &sum, &rows::norm_sum(&case, &x, Some(&residual)));
                    let oracle = rows::norm_forward(&case, &sum);
                    let gradients = rows::norm_backward(&case, &sum, &d_y, Some(&d_sum));
                    for given in [None, Some(&oracle)] {
                        assert_near("y", dtype, &norm_forward(&case, dtype, &sum, given), &oracle.y);
                        let naive = norm_backward(&case, [dtype; 4], &sum, &d_y, Some(&d_sum), given);
                        assert_near("d_x", dtype, &naive.d_x, &gradients.d_x);
                        assert_near("d_residual", dtype, &naive.d_residual, &gradients.d_residual);
                        for (naive, oracle) in
                            [(&naive.d_weight, &gradients.d_weight), (&naive.d_bias, &gradients.d_bias)]
                        {
                            assert_eq!(naive.is_some(), oracle.is_some());
                            if let (Some(naive), Some(oracle)) = (naive, oracle) {
                                assert_near("a sum over rows", dtype, naive, oracle);
                            }
                        }
                    }
                }
            }
        }
    }
}
