//! Layer norm and RMS norm over the last axis, after dropout and a residual.

use crate::reference::attention::{DropoutCase, philox_4x32_10};

/// Options of one norm. Rows are counted over all leading dimensions.
#[derive(Clone, Debug, PartialEq)]
pub struct NormCase {
    /// The length of a row.
    pub columns: usize,
    /// Layer norm; otherwise RMS norm, whose mean is 0.
    pub is_centered: bool,
    /// Added to the variance.
    pub eps: f64,
    /// The factor of a column is 1 + its weight.
    pub is_zero_centered: bool,
    /// One value a column; without it the factors are 1.
    pub weight: Option<Vec<f64>>,
    /// One value a column; without it 0.
    pub bias: Option<Vec<f64>>,
    /// Dropout of x.
    pub dropout: Option<DropoutCase>,
}

/// The result of [`norm_forward`].
#[derive(Clone, Debug, PartialEq)]
pub struct NormResult {
    /// The normalised rows.
    pub y: Vec<f64>,
    /// Each row's mean; 0 for RMS norm.
    pub mean: Vec<f64>,
    /// Each row's `1 / sqrt(var + eps)`.
    pub rstd: Vec<f64>,
}

/// The result of [`norm_backward`].
#[derive(Clone, Debug, PartialEq)]
pub struct NormGradients {
    /// Of x.
    pub d_x: Vec<f64>,
    /// Of what is normalised, and so of the residual.
    pub d_residual: Vec<f64>,
    /// Of the weight, if there is one.
    pub d_weight: Option<Vec<f64>>,
    /// Of the bias, if there is one.
    pub d_bias: Option<Vec<f64>>,
}

impl NormCase {
    /// Layer norm without weight and bias.
    pub fn layer(columns: usize) -> NormCase {
        NormCase {
            columns,
            is_centered: true,
            eps: 1e-5,
            is_zero_centered: false,
            weight: None,
            bias: None,
            dropout: None,
        }
    }

    /// RMS norm without weight and bias.
    pub fn rms(columns: usize) -> NormCase {
        NormCase { is_centered: false, eps: 1e-6, ..NormCase::layer(columns) }
    }

    /// The factor that dropout puts on an element of x: 0, or what keeps the expectation.
    pub fn dropout_factor(&self, row: usize, column: usize) -> f64 {
        let Some(dropout) = self.dropout else { return 1.0 };
        let key = [dropout.seed as u32, (dropout.seed >> 32) as u32];
        let counter = [(column / 4) as u32, row as u32, (row as u64 >> 32) as u32, dropout.offset];
        let word = philox_4x32_10(counter, key)[column % 4];
        let is_dropped = u64::from(word) < (dropout.probability * 2f64.powi(32)).floor() as u64;
        if is_dropped { 0.0 } else { 1.0 / (1.0 - dropout.probability) }
    }

    /// What a normalised value of a column is multiplied by.
    pub(in crate::reference) fn factor(&self, column: usize) -> f64 {
        let offset = if self.is_zero_centered { 1.0 } else { 0.0 };
        self.weight.as_ref().map_or(1.0, |weight| weight[column] + offset)
    }

    /// What is added to a column.
    pub(in crate::reference) fn added(&self, column: usize) -> f64 {
        self.bias.as_ref().map_or(0.0, |bias| bias[column])
    }

    /// A row's mean and `1 / sqrt(var + eps)`.
    fn stats(&self, row: &[f64]) -> (f64, f64) {
        let columns = self.columns as f64;
        let mean = if self.is_centered { row.iter().sum::<f64>() / columns } else { 0.0 };
        let var = row.iter().map(|s| (s - mean) * (s - mean)).sum::<f64>() / columns;
        (mean, 1.0 / (var + self.eps).sqrt())
    }
}

/// What is normalised: `dropout(x) + residual`.
pub fn norm_sum(case: &NormCase, x: &[f64], residual: Option<&[f64]>) -> Vec<f64> {
    let factor = |element: usize| case.dropout_factor(element / case.columns, element % case.columns);
    // What is dropped is 0 even where it is no number.
    let dropped = |(element, x): (usize, &f64)| if factor(element) == 0.0 { 0.0 } else { factor(element) * x };
    let kept = x.iter().enumerate().map(dropped);
    match residual {
        None => kept.collect(),
        Some(residual) => kept.zip(residual).map(|(x, residual)| x + residual).collect(),
    }
}

/// The norm of each row of what [`norm_sum`] gives.
pub fn norm_forward(case: &NormCase, sum: &[f64]) -> NormResult {
    let mut result = NormResult { y: Vec::new(), mean: Vec::new(), rstd: Vec::new() };
    for row in sum.chunks(case.columns) {
        let (mean, rstd) = case.stats(row);
        let y = |(column, s): (usize, &f64)| (s - mean) * rstd * case.factor(column) + case.added(column);
        result.y.extend(row.iter().enumerate().map(y));
        result.mean.push(mean);
        result.rstd.push(rstd);
    }
    result
}

/// The gradients, from what was normalised, the gradient of y, and the gradient that the sum has from its other uses.
pub fn norm_backward(case: &NormCase, sum: &[f64], d_y: &[f64], d_sum: Option<&[f64]>) -> NormGradients {
    let columns = case.columns;
    let mut d_residual = Vec::with_capacity(sum.len());
    let (mut d_weight, mut d_bias) = (vec![0.0; columns], vec![0.0; columns]);
    for (row, (s, d_y)) in sum.chunks(columns).zip(d_y.chunks(columns)).enumerate() {
        let (mean, rstd) = case.stats(s);
        let normalized: Vec<f64> = s.iter().map(|s| (s - mean) * rstd).collect();
        let g: Vec<f64> = d_y.iter().enumerate().map(|(column, d_y)| case.factor(column) * d_y).collect();
        let mean_g = if case.is_centered { g.iter().sum::<f64>() / columns as f64 } else { 0.0 };
        let mean_gn = g.iter().zip(&normalized).map(|(g, n)| g * n).sum::<f64>() / columns as f64;
        for column in 0..columns {
            let other = d_sum.map_or(0.0, |d_sum| d_sum[row * columns + column]);
            d_residual.push(rstd * (g[column] - mean_g - normalized[column] * mean_gn) + other);
            d_weight[column] += d_y[column] * normalized[column];
            d_bias[column] += d_y[column];
        }
    }
    // What was dropped has no gradient, even where it would be no number.
    let through = |(element, d): (usize, &f64)| match case.dropout_factor(element / columns, element % columns) {
        0.0 => 0.0,
        factor => d * factor,
    };
    NormGradients {
        d_x: d_residual.iter().enumerate().map(through).collect(),
        d_residual,
        d_weight: case.weight.is_some().then_some(d_weight),
        d_bias: case.bias.is_some().then_some(d_bias),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::attention::ramp;
    use crate::reference::rows::{assert_close, differences};

    const ROWS: usize = 3;
    const COLUMNS: usize = 7;

    /// One case for each option, and all of them together.
    fn cases() -> Vec<NormCase> {
        let mut cases = Vec::new();
        for plain in [NormCase::layer(COLUMNS), NormCase::rms(COLUMNS)] {
            let (weight, bias) = (Some(ramp(COLUMNS, 2.0)), Some(ramp(COLUMNS + 1, 1.0)[1..].to_vec()));
            let dropout = Some(DropoutCase { probability: 0.3, seed: 7 << 40 | 3, offset: 5 });
            cases.extend([
                plain.clone(),
                NormCase { eps: 0.5, ..plain.clone() },
                NormCase { weight: weight.clone(), ..plain.clone() },
                NormCase { bias: bias.clone(), ..plain.clone() },
                NormCase { weight: weight.clone(), is_zero_centered: true, ..plain.clone() },
                NormCase { dropout, ..plain.clone() },
                NormCase { eps: 0.1, is_zero_centered: true, weight, bias, dropout, ..plain },
            ]);
        }
        cases
    }

    #[test]
    fn layer_norm_of_two_values_is_minus_one_and_one() {
        let (weight, bias) = (Some(vec![1.0, 10.0]), Some(vec![0.5, 0.25]));
        let case = NormCase { eps: 0.0, weight, bias, ..NormCase::layer(2) };
        let NormResult { y, mean, rstd } = norm_forward(&case, &[3.0, 7.0]);
        assert_eq!((y, mean, rstd), (vec![-0.5, 10.25], vec![5.0], vec![0.5]));
        let case = NormCase { is_zero_centered: true, ..case };
        assert_eq!(norm_forward(&case, &[3.0, 7.0]).y, [-1.5, 11.25]);
    }

    #[test]
    fn rms_norm_divides_by_the_root_of_the_mean_square() {
        let case = NormCase { eps: 0.0, ..NormCase::rms(2) };
        let NormResult { y, mean, rstd } = norm_forward(&case, &[1.0, 7.0]);
        assert_close("y", &y, &[0.2, 1.4], 1e-15);
        assert_eq!((mean, rstd), (vec![0.0], vec![0.2]));
        let case = NormCase { eps: 39.0, ..case };
        assert_eq!(norm_forward(&case, &[1.0, 7.0]).y, [0.125, 0.875]);
    }

    #[test]
    fn layer_norm_ignores_shift_and_scale_and_rms_norm_scale_only() {
        let x: Vec<f64> = (0..37).map(|i| (i * i % 17) as f64 - 5.0).collect();
        let with = |shift: f64| x.iter().map(|value| shift + 3.0 * value).collect::<Vec<f64>>();
        let layer = NormCase { eps: 0.0, ..NormCase::layer(37) };
        let rms = NormCase { eps: 0.0, ..NormCase::rms(37) };
        assert_close("layer", &norm_forward(&layer, &x).y, &norm_forward(&layer, &with(1000.0)).y, 1e-10);
        assert_close("rms", &norm_forward(&rms, &x).y, &norm_forward(&rms, &with(0.0)).y, 1e-14);
        // A row of mean 0 has the same norm both ways.
        let mean = x.iter().sum::<f64>() / 37.0;
        let centered: Vec<f64> = x.iter().map(|value| value - mean).collect();
        assert_close("both", &norm_forward(&layer, &centered).y, &norm_forward(&rms, &centered).y, 1e-14);
    }

    #[test]
    fn dropout_takes_the_words_in_the_order_of_columns() {
        let kept = |probability, seed, offset, row, columns: std::ops::Range<usize>| {
            let dropout = Some(DropoutCase { probability, seed, offset });
            let case = NormCase { dropout, ..NormCase::layer(4) };
            columns.map(|column| case.dropout_factor(row, column) != 0.0).collect::<Vec<_>>()
        };
        // Counter and key 0: the words' shares of 2^32 are 0.3990, 0.8815, 0.7357 and 0.6055.
        assert_eq!(kept(0.0, 0, 0, 0, 0..4), [true; 4]);
        assert_eq!(kept(0.4, 0, 0, 0, 0..4), [false, true, true, true]);
        assert_eq!(kept(0.7, 0, 0, 0, 0..4), [false, true, true, false]);
        // Digits of pi, which Random123 publishes the words of: which number goes into which word of counter and key.
        let (seed, offset) = (0x299f_31d0_a409_3822, 0x0370_7344);
        let row = 0x1319_8a2e_85a3_08d3;
        for (word_idx, word) in [0xd16c_fe09u32, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1].into_iter().enumerate() {
            let column = 4 * 0x243f_6a88 + word_idx;
            for (above, keeps) in [(0.0, true), (1.0, false)] {
                let probability = (f64::from(word) + above) / 2f64.powi(32);
                assert_eq!(kept(probability, seed, offset, row, column..column + 1), [keeps]);
            }
        }
    }

    #[test]
    fn kept_values_are_scaled_and_the_residual_is_added() {
        let dropout = Some(DropoutCase { probability: 0.7, seed: 0, offset: 0 });
        let case = NormCase { dropout, ..NormCase::layer(4) };
        let sum = norm_sum(&case, &[f64::NAN, 3.0, 6.0, 9.0], Some(&[1.0, 2.0, 3.0, 4.0]));
        assert_close("sum", &sum, &[1.0, 12.0, 23.0, 4.0], 1e-14);
        assert_eq!(norm_sum(&NormCase::layer(2), &[1.0, 2.0], None), [1.0, 2.0]);
    }

    #[test]
    fn gradients_agree_with_differences() {
        for case in cases() {
            let x = ramp(ROWS * COLUMNS, 5.0);
            let residual = ramp(ROWS * COLUMNS + 5, 3.0)[5..].to_vec();
            let d_y = ramp(ROWS * COLUMNS + 2, 2.0)[2..].to_vec();
            let d_sum = ramp(ROWS * COLUMNS + 9, 1.0)[9..].to_vec();
            for (residual, d_sum) in [(None, None), (Some(&residual), None), (Some(&residual), Some(&d_sum[..]))] {
                // The sum's other use is a product with the gradient that it has from there.
                let loss = |case: &NormCase, x: &[f64], residual: Option<&[f64]>| -> f64 {
                    let sum = norm_sum(case, x, residual);
                    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
                    dot(&norm_forward(case, &sum).y, &d_y) + d_sum.map_or(0.0, |d_sum| dot(&sum, d_sum))
                };
                let residual = residual.map(|residual| &residual[..]);
                let gradients = norm_backward(&case, &norm_sum(&case, &x, residual), &d_y, d_sum);
                assert_close("d_x", &gradients.d_x, &differences(&x, |x| loss(&case, x, residual)), 1e-7);
                if let Some(residual) = residual {
                    let by_differences = differences(residual, |residual| loss(&case, &x, Some(residual)));
                    assert_close("d_residual", &gradients.d_residual, &by_differences, 1e-7);
                }
                assert_eq!(gradients.d_weight.is_some(), case.weight.is_some());
                if let Some(weight) = &case.weight {
                    let by_differences = differences(weight, |weight| {
                        loss(&NormCase { weight: Some(weight.to_vec()), ..case.clone() }, &x, residual)
                    });
                    assert_close("d_weight", gradients.d_weight.as_ref().unwrap(), &by_differences, 1e-7);
                }
                assert_eq!(gradients.d_bias.is_some(), case.bias.is_some());
                if let Some(bias) = &case.bias {
                    let by_differences = differences(bias, |bias| {
                        loss(&NormCase { bias: Some(bias.to_vec()), ..case.clone() }, &x, residual)
                    });
                    assert_close("d_bias", gradients.d_bias.as_ref().unwrap(), &by_differences, 1e-7);
                }
            }
        }
    }

    /// Without eps, no gradient changes what the norm ignores: the scale of a row, and the shift of a layer norm.
    #[test]
    fn gradients_are_orthogonal_to_what_the_norm_ignores() {
        for case in [NormCase::layer(COLUMNS), NormCase::rms(COLUMNS)] {
            let case = NormCase { eps: 0.0, weight: Some(ramp(COLUMNS, 2.0)), ..case };
            let (x, d_y) = (ramp(COLUMNS, 5.0), ramp(COLUMNS + 2, 2.0)[2..].to_vec());
            let d_x = norm_backward(&case, &x, &d_y, None).d_x;
            let along_x: f64 = d_x.iter().zip(&x).map(|(d, x)| d * x).sum();
            assert!(along_x.abs() < 1e-13, "{along_x:e}");
            let along_shift: f64 = d_x.iter().sum();
            assert!(!case.is_centered || along_shift.abs() < 1e-13, "{along_shift:e}");
            assert!(d_x.iter().any(|d| d.abs() > 0.01));
        }
    }
}
