//! Softmax and layer norm in float64, one scalar at a time.

/// Softmax of each row of `columns` values; a row of `-inf` gives 0.
pub fn softmax_forward(x: &[f64], columns: usize) -> Vec<f64> {
    let mut y = Vec::with_capacity(x.len());
    for row in x.chunks(columns) {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if max == f64::NEG_INFINITY && !row.iter().any(|value| value.is_nan()) {
            y.extend(row.iter().map(|_| 0.0));
            continue;
        }
        let sum: f64 = row.iter().map(|value| (value - max).exp()).sum();
        y.extend(row.iter().map(|value| (value - max).exp() / sum));
    }
    y
}

/// The result of [`layer_norm_forward`].
#[derive(Clone, Debug, PartialEq)]
pub struct LayerNormResult {
    /// The normalised rows.
    pub y: Vec<f64>,
    /// Each row's mean.
    pub mean: Vec<f64>,
    /// Each row's `1 / sqrt(var + eps)`.
    pub rstd: Vec<f64>,
}

/// Layer norm of each row of `columns` values; an absent weight is 1, an absent bias 0.
pub fn layer_norm_forward(
    x: &[f64],
    columns: usize,
    weight: Option<&[f64]>,
    bias: Option<&[f64]>,
    eps: f64,
) -> LayerNormResult {
    let mut result = LayerNormResult { y: Vec::new(), mean: Vec::new(), rstd: Vec::new() };
    for row in x.chunks(columns) {
        let mean = row.iter().sum::<f64>() / columns as f64;
        let var = row.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>() / columns as f64;
        let rstd = 1.0 / (var + eps).sqrt();
        for (column, value) in row.iter().enumerate() {
            let scaled = (value - mean) * rstd * weight.map_or(1.0, |weight| weight[column]);
            result.y.push(scaled + bias.map_or(0.0, |bias| bias[column]));
        }
        result.mean.push(mean);
        result.rstd.push(rstd);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_of_logarithms_is_their_share() {
        let y = softmax_forward(&[1f64.ln(), 2f64.ln(), 5f64.ln(), f64::NEG_INFINITY], 4);
        for (value, share) in y.iter().zip([0.125, 0.25, 0.625, 0.0]) {
            assert!((value - share).abs() < 1e-15);
        }
        assert_eq!(softmax_forward(&[f64::NEG_INFINITY; 3], 3), [0.0; 3]);
        assert!(softmax_forward(&[f64::NAN, f64::NEG_INFINITY], 2)[0].is_nan());
    }

    #[test]
    fn layer_norm_of_two_values_is_minus_one_and_one() {
        let result = layer_norm_forward(&[3.0, 7.0], 2, Some(&[1.0, 10.0]), Some(&[0.5, 0.25]), 0.0);
        assert_eq!((result.y, result.mean, result.rstd), (vec![-0.5, 10.25], vec![5.0], vec![0.5]));
    }

    #[test]
    fn layer_norm_ignores_shift_and_scale() {
        let x: Vec<f64> = (0..37).map(|i| (i * i % 17) as f64).collect();
        let moved: Vec<f64> = x.iter().map(|value| 1000.0 + 3.0 * value).collect();
        let (a, b) = (layer_norm_forward(&x, 37, None, None, 0.0), layer_norm_forward(&moved, 37, None, None, 0.0));
        for (a, b) in a.y.iter().zip(&b.y) {
            assert!((a - b).abs() < 1e-10);
        }
    }
}
