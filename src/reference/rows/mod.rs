//! Softmax and norms in float64, one scalar at a time: forward and backward.

mod norm;
mod softmax;

pub use norm::{NormCase, NormGradients, NormResult, norm_backward, norm_forward, norm_sum};
pub use softmax::{RowBroadcast, SoftmaxCase, softmax_backward, softmax_forward};

/// The derivatives of a function by each value, by central differences.
#[cfg(test)]
fn differences(values: &[f64], function: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let step = 1e-5;
    let at = |index: usize, step: f64| {
        let mut moved = values.to_vec();
        moved[index] += step;
        function(&moved)
    };
    (0..values.len()).map(|index| (at(index, step) - at(index, -step)) / (2.0 * step)).collect()
}

#[cfg(test)]
#[track_caller]
fn assert_close(what: &str, actual: &[f64], expected: &[f64], allowed: f64) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    for (index, (a, b)) in actual.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= allowed, "{what}[{index}] is {a}, not {b}");
    }
}
